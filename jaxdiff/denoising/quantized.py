"""Denoising of quantized data, with the part that is known in closed form left to the closed form.

Dequantized data are (k + u) / L with integer levels k = 0, ..., L - 1 and u uniform. In the coordinates
z = x / alpha, rho = sigma / alpha, and with the edges a_k = (k / L - z) / rho of the cells, one entry has

    P(z | k) = L M_k,    M_k = Phi(a_{k+1}) - Phi(a_k),                                         (1)
    E[noise | z, k] = S_k / M_k,    S_k = phi(a_{k+1}) - phi(a_k),                              (2)
    E[noise | z] = sum_k w_k S_k / sum_k w_k M_k    for level probabilities w_k before z is seen.  (3)

A network that predicts noise or data must learn these edges, at every noise level, from samples. One that
answers with the w_k of each entry, given all the others, has them for nothing: at rho << 1 / L eq. (3) is
right whatever the network says, and at large rho it is as free as any. The regression is unchanged: onto the
noise, or onto eq. (2), which takes the dequantization noise out of the target (Rao-Blackwell).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.data.batches import dequantize
from jaxdiff.denoising.potential import Potential
from jaxdiff.denoising.prediction import Reading, noise, noise_level
from jaxdiff.noising.process import marginals, perturb
from jaxdiff.typing import Array, Denoised, Key, Params, Predictor, Schedule, Time

LevelNetwork: TypeAlias = Callable[..., Any]
"""``network(params, features, t)``: features (batch, *shape, 1), t (batch,); the answer is log-weights of
shape (batch, *shape, L). With a condition it is given that too, as a `Predictor` is.
"""

_FARTHEST = 12.0  # of the ends, in noises: farther out exp(e^2 / 2) overflows in single precision
_TINY = 1e-12  # the share of the nearest edge, which takes over where every cell's mass underflows


def _inputs(schedule: Schedule, x: Array, t: Time) -> tuple[Array, Array]:
    return x / schedule.alpha(t), noise_level(schedule, t)


prediction = Reading("quantized", noise.row, _inputs)
"""What `predictor` predicts and is shown: noise, from (x / alpha, log(sigma / alpha) / 4); alpha > 0."""


def predictor(network: LevelNetwork, log_prior: Array) -> Predictor:
    """Eq. (3) with log w = log_prior + network, for `prediction`; x has shape (batch, *shape).

    log_prior: the logarithms of each entry's level probabilities over the data, shape (*shape, L), as
    `log_histogram` gives them; compiled functions take it as an argument. The network is shown each entry's
    mean level given z under the prior alone, centred and scaled: a feature that is sharp where z is and zero
    where z says nothing.

        predict = quantized.predictor(network.apply, log_prior)
        denoise = make_denoiser(predict, params, schedule, shape=shape, prediction=quantized.prediction)

    Raises ValueError for a log_prior of another shape or with infinities, for an x of another shape, or when
    the network answers in another shape than (batch, *shape, L).

    >>> silent = lambda params, features, t: jnp.zeros((*features.shape[:-1], 2))
    >>> predict = jd.quantized.predictor(silent, jnp.log(jnp.array([[0.2, 0.8]])))
    >>> kind = jd.quantized.prediction
    >>> denoise = jd.make_denoiser(predict, None, jd.Karras(), shape=(1,), prediction=kind)
    >>> round(float(denoise(jnp.array([[0.65]]), 10.0).data[0, 0]), 2)  # .2 / 4 + .8 * 3 / 4
    0.65
    """
    return _LevelPredictor(*_checked(network, log_prior))


def potential(network: LevelNetwork, log_prior: Array) -> Potential:
    """A potential whose gradient is eq. (3) plus what the w_k change with z, for `conservative`.

    -(sigma / alpha) sum log sum_k w_k M_k, over the entries; its gradient in z is the noise. Zero answers of
    the network leave independent entries, as in `predictor`, whose arguments and errors these are:

        predict = conservative(quantized.potential(network.apply, log_prior))
        denoise = make_denoiser(predict, params, schedule, shape=shape, prediction=quantized.prediction)

    Of a law with dependent entries w is not that of each entry given all others: what w changes with z
    counts as well.

    >>> silent = lambda params, features, t: jnp.zeros((*features.shape[:-1], 2))
    >>> prior = jnp.log(jnp.array([[0.2, 0.8]]))
    >>> predict = jd.conservative(jd.quantized.potential(silent, prior))
    >>> denoise = jd.make_denoiser(predict, None, jd.Karras(), shape=(1,), prediction=jd.quantized.prediction)
    >>> round(float(denoise(jnp.array([[0.65]]), 10.0).data[0, 0]), 2)  # .2 / 4 + .8 * 3 / 4
    0.65
    """
    return _LevelPotential(*_checked(network, log_prior))


def _checked(network: LevelNetwork, log_prior: Array) -> tuple[LevelNetwork, Array]:
    if jnp.ndim(log_prior) < 2:
        raise ValueError(
            f"log_prior must have shape (..., levels), as log_histogram gives it; got {jnp.shape(log_prior)}."
        )
    checks.finite("log_prior", log_prior)
    if hasattr(network, "apply") or not callable(network):
        raise TypeError(f"network must be a function of (params, features, t), got {type(network).__name__}.")
    return network, jnp.asarray(log_prior)


class _Levels(NamedTuple):
    """Of entries z: M_k, S_k and the nearest end's noise as `_cells` gives them, and the weights w_k."""

    mass: Array
    slope: Array
    edge: Array
    weights: Array


def _levels(
    network: LevelNetwork,
    log_prior: Array,
    params: Params,
    z: Array,
    t: Array,
    *condition: Any,
    **conditions: Any,
) -> _Levels:
    *shape, num_levels = log_prior.shape
    checks.floating("x", z)
    checks.shape("x", z, (None, *shape))
    checks.shape("t", t, z.shape[:1])
    log_prior = log_prior[None]
    levels = jnp.linspace(0.0, 1.0, num_levels)
    prior_mean = jnp.exp(log_prior) @ levels
    mass, slope, edge = jax.vmap(lambda z, t: _cells(z, jnp.exp(4 * t), num_levels))(z, t)
    posterior = jnp.exp(log_prior) * mass
    mean_level = (posterior @ levels + _TINY * prior_mean) / (posterior.sum(-1) + _TINY)
    features = 3 * (mean_level - prior_mean)
    correction = network(params, features[..., None], t, *condition, **conditions)
    checks.shape("the network's answer", correction, (*z.shape, num_levels))
    return _Levels(mass, slope, edge, jax.nn.softmax(log_prior + correction))


@pytree
@dataclass(frozen=True, eq=False)
class _LevelPredictor:
    """A `Predictor`."""

    network: LevelNetwork
    log_prior: Array

    def __call__(self, params: Params, z: Array, t: Array, *condition: Any, **conditions: Any) -> Array:
        mass, slope, edge, weights = _levels(
            self.network, self.log_prior, params, z, t, *condition, **conditions
        )
        return ((weights * slope).sum(-1) + _TINY * edge) / ((weights * mass).sum(-1) + _TINY)


@pytree
@dataclass(frozen=True, eq=False)
class _LevelPotential:
    """A `Potential`."""

    network: LevelNetwork
    log_prior: Array

    def __call__(self, params: Params, z: Array, t: Array, *condition: Any, **conditions: Any) -> Array:
        mass, _, edge, weights = _levels(self.network, self.log_prior, params, z, t, *condition, **conditions)
        # Outside the nearest end's own potential, e^2 / 2, is taken out, as masses underflow, and far outside
        # it is all that there is.
        near = jnp.abs(edge) < _FARTHEST
        lift = jnp.exp(0.5 * jnp.where(near, edge, 0.0) ** 2)
        mass = jnp.where(near, (weights * mass).sum(-1) * lift, 0.0)
        log_mass = jnp.log(mass + _TINY) - 0.5 * edge**2
        return -jnp.exp(4 * t) * log_mass.reshape(len(z), -1).sum(1)


def quantized_target(
    key: Key, schedule: Schedule, pixels: Array, t: Array, *, levels: int
) -> tuple[Array, Denoised]:
    """x_t from dequantized pixels, and the target of eq. (2), which knows the level but not u.

    pixels: integers in [0, levels - 1], shape (batch, ...); t: shape (batch,); x_t is on the scale of
    (pixels + u) / levels. Its conditional mean given x_t is that of the plain target, with less variance.
    Raises TypeError for what is no key or schedule and for other than integers, ValueError for another shape
    and for a pixel out of range or a t that is, or that has no noise or no signal; where such a t is traced
    the target is NaN.

    >>> pixels, t = jnp.array([[3]]), jnp.array([10.0])
    >>> x, target = jd.quantized.quantized_target(jax.random.key(0), jd.Karras(), pixels, t, levels=5)
    >>> round(float(target.data[0, 0]), 2)  # under much noise the middle of [3 / 5, 4 / 5]
    0.7
    """
    checks.key(key)
    checks.schedule(schedule)
    checks.integer("levels", levels, 1)
    checks.integers("pixels", pixels)
    checks.within("pixels", pixels, 0, levels - 1)
    if jnp.ndim(pixels) < 2:
        raise ValueError(f"pixels must have shape (batch, ...), got {jnp.shape(pixels)}.")
    checks.shape("t", t, pixels.shape[:1])
    checks.in_range("t", schedule, t)
    for name, values in zip(("alpha", "sigma"), marginals(schedule, t), strict=True):
        checks.positive(f"{name} at t", values)
    return _quantized_target(key, schedule, pixels, t, levels=levels)


@functools.partial(jax.jit, static_argnames="levels")
def _quantized_target(
    key: Key, schedule: Schedule, pixels: Array, t: Array, *, levels: int
) -> tuple[Array, Denoised]:
    uniform_key, noise_key = jax.random.split(key)
    data = dequantize(uniform_key, pixels, levels=levels)

    def one(data: Array, noise: Array, k: Array, t: Array) -> tuple[Array, Denoised]:
        x = perturb(schedule, data, noise, t)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        mass, slope, edge = _cells(x / alpha, sigma / alpha, levels)
        own = jax.nn.one_hot(k, levels)
        mean = ((own * slope).sum(-1) + _TINY * edge) / ((own * mass).sum(-1) + _TINY)
        return x, Denoised((x - sigma * mean) / alpha, mean)

    return jax.vmap(one)(data, noise_like(noise_key, data), pixels, jnp.asarray(t, float))


def log_histogram(pixels: Array, *, levels: int, smoothing: float = 0.5) -> Array:
    """Logarithms of the level frequencies of each entry of pixels (n, *shape), shape (*shape, levels).

    smoothing * levels rows with the frequencies of all entries together (at least .3 % for a level) are added
    to each entry, so that no level is impossible. Raises TypeError for other than integers, and ValueError
    for a scalar, no rows, a pixel out of [0, levels - 1] or a smoothing that is not positive.

    >>> log_prior = jd.quantized.log_histogram(jnp.array([[0], [0], [0], [1]]), levels=2)
    >>> jnp.exp(log_prior).round(4).tolist()
    [[0.75, 0.25]]
    """
    checks.integer("levels", levels, 1)
    checks.integers("pixels", pixels)
    checks.within("pixels", pixels, 0, levels - 1)
    checks.positive("smoothing", smoothing)
    if pixels.ndim < 2 or not pixels.size:
        raise ValueError(
            f"pixels must hold at least one number and have shape (n, ...), got shape {pixels.shape}."
        )
    return _log_histogram(pixels, smoothing, levels=levels)


@functools.partial(jax.jit, static_argnames="levels")
def _log_histogram(pixels: Array, smoothing: Array, *, levels: int) -> Array:
    flat = pixels.reshape(len(pixels), -1)
    counts = jax.lax.map(lambda k: (flat == k).sum(0), jnp.arange(levels, dtype=flat.dtype)).T.astype(float)
    overall = jnp.maximum(counts.sum(0) / counts.sum(), 3e-3)
    counts = counts + smoothing * levels * overall[None]
    return jnp.log(counts / counts.sum(1, keepdims=True)).reshape(*pixels.shape[1:], levels)


def _cells(z: Array, rho: Array, levels: int) -> tuple[Array, Array, Array]:
    """M_k and S_k, shape (*shape, levels), of z (*shape,), and the noise that leads to the nearest end of
    [0, 1].
    """
    edges = jnp.expand_dims(jnp.arange(levels + 1) / levels, range(z.ndim)) - z[..., None]
    edges = edges / rho
    density = _density(edges)
    return _masses(edges), density[..., 1:] - density[..., :-1], (z - jnp.clip(z, 0.0, 1.0)) / rho


@jax.custom_jvp
def _masses(edges: Array) -> Array:
    """Phi between neighbouring edges, (..., L + 1) -> (..., L), with its derivative on the edges too."""
    # Differences of the smaller tail, which keep their digits far from the centre.
    tail = jax.scipy.special.ndtr(-jnp.abs(edges))
    low, high, tail_low, tail_high = edges[..., :-1], edges[..., 1:], tail[..., :-1], tail[..., 1:]
    outside = jnp.where(low > 0, tail_low - tail_high, tail_high - tail_low)
    mass = jnp.where((low <= 0) & (high >= 0), 1 - tail_low - tail_high, outside)
    return jnp.maximum(mass, 0.0)


@_masses.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    moved = _density(primals[0]) * tangents[0]
    return _masses(*primals), moved[..., 1:] - moved[..., :-1]


def _density(edges: Array) -> Array:
    return jnp.exp(-0.5 * edges**2) / jnp.sqrt(2 * jnp.pi)
