"""FlowJAX's normalizing flows, behind the same interface as ours: a start, a loss and a log-density.

Coupling layers (Dinh et al. 2017) and masked autoregressive ones (Papamakarios et al. 2017), both of monotone
rational-quadratic splines (Durkan et al. 2019), and, for quantized data, both with a head that leaves to the
closed form what `jaxdiff.denoising.quantized` leaves to it: layers that map each entry x in [0, 1] by the
distribution function of a law that is uniform within each level,

    y = Phi^-1(F(x)),    F(x) = sum_{j<k} w_j + w_k (L x - k),    k = floor(L x)                        (1)

whose level probabilities w the layer's network reads off the other half, or the earlier entries; the biases
of its last layer begin at the logarithms of the levels' frequencies. A density of such a flow is a law of the
integers, times L for each entry, as far as the layers after it do not blur it.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.density_table.margins import to_normal
from jaxdiff.typing import Array, Key, Params

KINDS = ("coupling", "autoregressive")


class FlowModel(NamedTuple):
    """A flow of one shape."""

    start: Callable[[Key], Params]
    log_prob: Callable[[Params, Array], Array]
    """At rows x (n, d); (n,)."""


class Settings(NamedTuple):
    """Of a flow."""

    layers: int = 8
    width: int = 64
    depth: int = 2
    knots: int = 16
    interval: float = 4.0


def version() -> str | None:
    """FlowJAX's, or None where it is not installed."""
    return importlib.metadata.version("flowjax") if importlib.util.find_spec("flowjax") else None


def flow(kind: str, d: int, settings: Settings, *, log_prior: Array | None = None) -> FlowModel:
    """One of `KINDS` for rows of d entries, with the head (1) where log_prior (d, L) is given."""
    eqx, paramax, bijections, distributions, flows = map(
        importlib.import_module,
        ("equinox", "paramax", "flowjax.bijections", "flowjax.distributions", "flowjax.flows"),
    )

    def whole(key: Key) -> Any:
        make = flows.coupling_flow if kind == "coupling" else flows.masked_autoregressive_flow
        base = distributions.StandardNormal((d,))
        layers_key, head_key = jax.random.split(key)
        made = make(
            layers_key,
            base_dist=base,
            transformer=bijections.RationalQuadraticSpline(knots=settings.knots, interval=settings.interval),
            flow_layers=settings.layers,
            nn_width=settings.width,
            nn_depth=settings.depth,
        )
        if log_prior is None:
            return made
        head = _head(kind, head_key, d, settings, log_prior)
        return distributions.Transformed(
            base, bijections.Invert(bijections.Chain([*head, made.bijection.bijection]))
        )

    def is_leaf(node: Any) -> bool:
        return isinstance(node, paramax.NonTrainable)

    # What is no parameter is the same for every key but for the permutations, which are of this one.
    static = eqx.partition(whole(jax.random.key(0)), eqx.is_inexact_array, is_leaf=is_leaf)[1]

    @jax.jit
    def start(key: Key) -> Params:
        return eqx.partition(whole(key), eqx.is_inexact_array, is_leaf=is_leaf)[0]

    @jax.jit
    def log_prob(params: Params, x: Array) -> Array:
        return paramax.unwrap(eqx.combine(params, static)).log_prob(x)

    return FlowModel(start, log_prob)


def _head(kind: str, key: Key, d: int, settings: Settings, log_prior: Array) -> list[Any]:
    """Bijections from data in [0, 1]^d to noise: one autoregressive layer, or two couplings."""
    eqx, bijections = map(importlib.import_module, ("equinox", "flowjax.bijections"))

    levels = _levels_bijection(log_prior.shape[1])
    options = {"transformer": levels, "dim": d, "nn_width": 2 * settings.width, "nn_depth": settings.depth}
    if kind == "autoregressive":
        layer = bijections.MaskedAutoregressive(key, **options)
        return [
            eqx.tree_at(lambda one: one.masked_autoregressive_mlp.layers[-1].bias, layer, log_prior.ravel())
        ]
    first, second = jax.random.split(key)
    turn = bijections.Permute(jnp.roll(jnp.arange(d), d // 2))
    parts: list[Any] = []
    for own, prior in ((first, log_prior[d // 2 :]), (second, jnp.roll(log_prior, -(d // 2), 0)[d // 2 :])):
        layer = bijections.Coupling(own, untransformed_dim=d // 2, **options)
        parts += [eqx.tree_at(lambda one: one.conditioner.layers[-1].bias, layer, prior.ravel()), turn]
    return parts


@functools.cache
def _levels_bijection(num_levels: int) -> Any:
    """Eq. (1) of one entry, as a bijection that FlowJAX's layers fill in with their networks' answers."""
    bijection = importlib.import_module("flowjax.bijections").AbstractBijection

    class Levels(bijection):
        logits: Array
        shape: tuple[int, ...] = ()
        cond_shape: tuple[int, ...] | None = None

        def transform_and_log_det(self, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
            return to_normal(x, jax.nn.log_softmax(self.logits))

        def inverse_and_log_det(self, y: Array, condition: Array | None = None) -> tuple[Array, Array]:
            weights = jax.nn.softmax(self.logits)
            below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(weights)])
            share = jax.scipy.special.ndtr(y)
            number = jnp.clip(jnp.searchsorted(below, share) - 1, 0, num_levels - 1)
            x = (number + (share - below[number]) / weights[number]) / num_levels
            return x, -self.transform_and_log_det(x)[1]

    return Levels(jnp.zeros(num_levels))
