"""Models of one interface: a start, a loss of raw rows, and a log-density.

Raw rows are what the data set holds: points, or integer pixels; ``encode(key, rows)`` makes of them what the
models see, and log-densities are of that. Beside the parameters every model is given what is fitted before
the descent and not trained in it: the law of the denoiser's start, which is its reference too.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments import quickstart
from experiments.density_table import flows
from experiments.image_problems import Problem
from experiments.networks import applied
from jaxdiff import pytree
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities.flow import probability_flow
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target, stable_target
from jaxdiff.models import Mixer
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras
from jaxdiff.typing import Array, Denoised, Key, Params

SCHEDULE = Karras()
Encode = Callable[[Key, Array], Array]
_GRID = 32
"""Intervals of the probability flow's Runge-Kutta rule."""
_PROBES = 2
_EXACT = 16
"""Dimensions up to which the trace is exact, and not by so many probes."""


class Model(NamedTuple):
    """What the table compares."""

    start: Callable[[Key], Params]
    loss: Callable[[Params, Any, Key, Array], Array]
    log_prob: Callable[[Params, Any, Key, Array], Array]
    """Of parameters, the law, a key and encoded rows (n, d); (n,)."""


class Range(NamedTuple):
    """Of the noise: between the first two it is trained, from t_flow on the flow's density is read off."""

    t_min: float = 0.01
    t_max: float = 10.0
    t_flow: float = 0.003


def denoiser(
    network: nn.Module, d: int, noise: Range, encode: Encode, *, reference: bool = False, stable: bool = False
) -> Model:
    """Ours, of encoded rows of about unit scale, by EDM's prediction and the likelihood's weight.

    reference: the network learns what the law's own denoiser leaves over, and is shown its noise beside x.
    stable: targets are posterior means over the batch.
    """

    def model(params: Params, law: Any, dropout: Key | None = None) -> Denoiser:
        predict = applied(network, dropout)
        if reference:
            predict = _Beside(predict, law.denoiser(SCHEDULE))
        return make_denoiser(
            predict,
            params,
            SCHEDULE,
            shape=(d,),
            reference=law if reference else None,
            t_min=noise.t_flow,
            t_max=noise.t_max,
        )

    def target(key: Key, rows: Array, t: Array) -> tuple[Array, Denoised]:
        encode_key, noise_key = jax.random.split(key)
        make = stable_target if stable else denoising_target
        return make(noise_key, SCHEDULE, encode(encode_key, rows), t)

    shown = jnp.zeros((1, d, 2)) if reference else jnp.zeros((1, d))
    return _trained(model, network, shown, target, noise)


def levels_denoiser(network: Mixer, problem: Problem) -> Model:
    """Ours with the quantization head: that of `experiments.quickstart`, of integer pixels."""

    def model(params: Params, law: Any, dropout: Key | None = None) -> Denoiser:
        del law
        return quickstart.model(problem, network, params, dropout=dropout)

    shown = jnp.zeros((1, problem.train.shape[1], problem.num_features))
    return _trained(
        model, network, shown, problem.target, Range(problem.t_min, problem.t_max, problem.flow_t_min)
    )


def flow(made: flows.FlowModel, encode: Encode) -> Model:
    """FlowJAX's, by maximum likelihood."""

    def loss(params: Params, law: Any, key: Key, rows: Array) -> Array:
        return -made.log_prob(params, encode(key, rows)).mean()

    return Model(made.start, loss, lambda params, law, key, x: made.log_prob(params, x))


def _trained(
    model: Callable[..., Denoiser],
    network: nn.Module,
    shown: Array,
    target: Callable[[Key, Array, Array], tuple[Array, Denoised]],
    noise: Range,
) -> Model:
    drops = bool(getattr(network, "dropout", 0))

    def loss(params: Params, law: Any, key: Key, rows: Array) -> Array:
        time_key, target_key, dropout_key = jax.random.split(key, 3)
        u = times.stratified(time_key, len(rows))
        t = times.log_snr_uniform(u, SCHEDULE, t_min=noise.t_min, t_max=noise.t_max).t
        x, wanted = target(target_key, rows, t)
        denoise = model(params, law, dropout_key if drops else None)
        return regression_loss(denoise, x, wanted, t, weight=prediction.noise.row).mean()

    @jax.jit
    def log_prob(params: Params, law: Any, key: Key, x: Array) -> Array:
        grid = times.log_snr_grid(SCHEDULE, _GRID, t_max=noise.t_max, t_min=noise.t_flow, scale=1.0)[::-1]
        start = law.perturbed(SCHEDULE, noise.t_max)
        probes = None if x.shape[1] <= _EXACT else _PROBES
        return probability_flow(key, model(params, law), x, grid, num_probes=probes, start=start).value

    start = jax.jit(lambda key: network.init(key, shown, jnp.zeros(1)))
    return Model(start, loss, log_prob)


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class _Beside:
    """A `Predictor` whose network is shown x and the noise that the reference makes out in it, as tokens."""

    network: Callable[..., Any]
    denoise: Denoiser

    def __call__(self, params: Params, x: Array, t: Array) -> Array:
        sigma = jnp.exp(4 * t)  # `EDM` shows x / hypot(1, sigma) and log(sigma) / 4
        noise = self.denoise(x * jnp.hypot(1.0, sigma)[:, None], sigma).noise
        return self.network(params, jnp.stack([x, noise], axis=-1), t)[..., 0]


class Vectors(nn.Module):
    """A network of vectors behind that of tokens with two features: (batch, d, 2), t -> (batch, d, 1)."""

    network: nn.Module

    @nn.compact
    def __call__(self, x: Array, t: Array, *, train: bool = False) -> Array:
        answer = self.network(x.reshape(len(x), -1), t, train=train)
        return answer[:, : x.shape[1], None]


identity: Encode = functools.partial(lambda key, rows: rows)
