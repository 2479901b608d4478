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

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.data.batches import dequantize
from jaxdiff.denoising.prediction import Parameterization, noise, noise_level
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Denoised, Key, Params, Predictor, Schedule, Time

LevelNetwork: TypeAlias = Callable[[Params, Array, Array], Any]
"""``network(params, features, t)``: features (batch, d, 1), t (batch,); answers log-weights (batch, d, L)."""

_TINY = 1e-12  # the share of the nearest edge, which takes over where every cell's mass underflows


def _inputs(schedule: Schedule, x: Array, t: Time) -> tuple[Array, Array]:
    return x / schedule.alpha(t), noise_level(schedule, t)


parameterization = Parameterization(noise.row, _inputs)
"""What `predictor` predicts and is shown: noise, from (x / alpha, log(sigma / alpha) / 4); alpha > 0."""


def predictor(network: LevelNetwork, log_prior: Array) -> Predictor:
    """Eq. (3) with log w = log_prior + network, for `parameterization`; x has shape (batch, d).

    log_prior: the logarithms of each entry's level probabilities over the data, shape (d, L), as
    `log_histogram` gives them. The network is shown each entry's mean level given z under the prior alone,
    centred and scaled: a feature that is sharp where z is and zero where z says nothing.
    Raises ValueError for a log_prior of another shape or with infinities, for an x of another d, or when the
    network answers in another shape than (batch, d, L).
    """
    checks.shape("log_prior", log_prior, (None, None))
    checks.finite("log_prior", log_prior)
    d, num_levels = log_prior.shape
    levels = jnp.linspace(0.0, 1.0, num_levels)
    prior_mean = jnp.exp(log_prior) @ levels

    def predict(params: Params, z: Array, t: Array) -> Array:
        checks.shape("x", z, (None, d))
        mass, slope, edge = jax.vmap(lambda z, t: _cells(z, jnp.exp(4 * t), num_levels))(z, t)
        posterior = jnp.exp(log_prior)[None] * mass
        mean_level = (posterior @ levels + _TINY * prior_mean[None]) / (posterior.sum(-1) + _TINY)
        features = 3 * (mean_level - prior_mean[None])
        correction = network(params, features[..., None], t)
        checks.shape("the network's answer", correction, (z.shape[0], d, num_levels))
        weights = jax.nn.softmax(log_prior[None] + correction)
        return ((weights * slope).sum(-1) + _TINY * edge) / ((weights * mass).sum(-1) + _TINY)

    return predict


def quantized_target(
    key: Key, schedule: Schedule, pixels: Array, t: Array, *, levels: int
) -> tuple[Array, Denoised]:
    """x_t from dequantized pixels, and the target of eq. (2), which knows the level but not u.

    pixels: integers in [0, levels - 1], shape (batch, d); t: shape (batch,); x_t is on the scale of
    (pixels + u) / levels. Its conditional mean given x_t is that of the plain target, with less variance.
    Raises TypeError for other than integers and ValueError for another shape, or a pixel or t out of range.
    """
    checks.shape("pixels", pixels, (None, None))
    checks.shape("t", t, pixels.shape[:1])
    checks.in_range("t", schedule, t)
    uniform_key, noise_key = jax.random.split(key)
    data = dequantize(uniform_key, pixels, levels=levels)

    def one(data: Array, noise: Array, k: Array, t: Array) -> tuple[Array, Denoised]:
        x = perturb(schedule, data, noise, t)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        mass, slope, edge = _cells(x / alpha, sigma / alpha, levels)
        own = jax.nn.one_hot(k, levels)
        mean = ((own * slope).sum(-1) + _TINY * edge) / ((own * mass).sum(-1) + _TINY)
        return x, Denoised((x - sigma * mean) / alpha, mean)

    return jax.vmap(one)(data, noise_like(noise_key, data), pixels, t)


def log_histogram(pixels: Array, *, levels: int, smoothing: float = 0.5) -> Array:
    """Logarithms of the level frequencies of each column of pixels (n, d), shape (d, levels).

    smoothing * levels rows with the frequencies of all columns together (at least .3 % for a level) are added
    to each column, so that no level is impossible. Raises TypeError for other than integers, and ValueError
    for another shape, no rows, a pixel out of [0, levels - 1] or a smoothing that is not positive.
    """
    checks.integer("levels", levels, 1)
    checks.integers("pixels", pixels)
    checks.shape("pixels", pixels, (None, None))
    checks.within("pixels", pixels, 0, levels - 1)
    checks.positive("smoothing", smoothing)
    if not pixels.size:
        raise ValueError(f"pixels must hold at least one number, got shape {pixels.shape}.")
    counts = jnp.stack([(pixels == k).sum(0) for k in range(levels)], axis=1).astype(float)
    overall = jnp.maximum(counts.sum(0) / counts.sum(), 3e-3)
    counts = counts + smoothing * levels * overall[None]
    return jnp.log(counts / counts.sum(1, keepdims=True))


def _cells(z: Array, rho: Array, levels: int) -> tuple[Array, Array, Array]:
    """M_k and S_k, shape (d, levels), of z (d,), and the noise that leads to the nearest end of [0, 1]."""
    edges = (jnp.arange(levels + 1)[None] / levels - z[:, None]) / rho
    # Differences of the smaller tail, which keep their digits far from the centre.
    tail = jax.scipy.special.ndtr(-jnp.abs(edges))
    low, high, tail_low, tail_high = edges[:, :-1], edges[:, 1:], tail[:, :-1], tail[:, 1:]
    outside = jnp.where(low > 0, tail_low - tail_high, tail_high - tail_low)
    mass = jnp.where((low <= 0) & (high >= 0), 1 - tail_low - tail_high, outside)
    density = jnp.exp(-0.5 * edges**2) / jnp.sqrt(2 * jnp.pi)
    return jnp.maximum(mass, 0.0), density[:, 1:] - density[:, :-1], (z - jnp.clip(z, 0.0, 1.0)) / rho
