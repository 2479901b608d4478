"""The Gaussian law, whose denoiser is linear: two products of matrices for a whole batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.components import (
    PRECISION,
    Spectrum,
    at_level,
    check_affine,
    check_density,
    diagonalized,
    floats,
    known_everywhere,
    rescaled,
)
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


@pytree
@dataclass(frozen=True, init=False, eq=False)
class Gaussian:
    """N(mean, covariance) on vectors of length d.

    mean has shape (d,); covariance is a scalar (times the identity), (d,) (a diagonal), (d, d) or a
    `Spectrum`. It may be singular, which is data on a subspace: then everything but `log_prob` works.

    Raises ValueError for shapes that disagree, values that are not finite, a matrix that is not symmetric
    or a negative eigenvalue.

    >>> law = jd.Gaussian([0.0, 1.0], [1.0, 4.0])
    >>> round(float(law.log_prob(jnp.array([[0.0, 1.0]]))[0]), 4)  # -log(4 pi)
    -2.531
    """

    mean: Array
    covariance: Spectrum

    def __init__(self, mean: ArrayLike, covariance: ArrayLike | Spectrum) -> None:
        mean = floats(mean)
        checks.shape("mean", mean, (None,))
        checks.finite("mean", mean)
        set_fields(self, mean=mean, covariance=diagonalized("covariance", covariance, mean.shape))

    def sample(self, key: Key, n: int) -> Array:
        checks.integer("n", n, 1)
        return self._sample(key, n)

    @compiled(static="n")
    def _sample(self, key: Key, n: int) -> Array:
        z = per_row(key, n, lambda key: jax.random.normal(key, self.mean.shape, self.mean.dtype))
        z = jnp.sqrt(self.covariance.values)[None] * z
        return self.mean[None] + _turned(self.covariance, z, back=True)

    def log_prob(self, x: Array) -> Array:
        return _log_prob(self, check_density(x, self.mean.shape[0], self.covariance.values))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mean.shape

    @property
    @compiled
    def scale(self) -> Array:
        return jnp.sqrt(jnp.mean(self.covariance.values))

    def affine(self, scale: Array | float, std: Array | float) -> Gaussian:
        check_affine(scale, std)
        return self._affine(scale, std)

    @compiled
    def _affine(self, scale: Array | float, std: Array | float) -> Gaussian:
        return Gaussian(scale * self.mean, rescaled(self.covariance, scale**2, std**2))

    def perturbed(self, schedule: Schedule, t: Time) -> Gaussian:
        return at_level(self, schedule, t)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return known_everywhere(self, _Linear(self.mean, self.covariance), schedule)


@compiled
def _log_prob(law: Gaussian, x: Array) -> Array:
    values, d = law.covariance.values, x.shape[-1]
    u = _turned(law.covariance, x.reshape(-1, d) - law.mean[None])
    log_det = (d // values.shape[0]) * jnp.sum(jnp.log(values))
    squares = jnp.sum(u**2 / values[None], axis=1) + log_det
    return -0.5 * (squares + d * math.log(2 * math.pi)).reshape(x.shape[:-1])


@pytree
@dataclass(frozen=True, eq=False)
class _Linear:
    """The denoiser of a Gaussian."""

    mean: Array
    covariance: Spectrum

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        return _linear_means(self.mean, self.covariance, denoiser.schedule, x, t)


@jax.jit
def _linear_means(mean: Array, covariance: Spectrum, schedule: Schedule, x: Array, t: Array) -> Denoised:
    """With u = B' (x - alpha mean) and Q = alpha^2 Lambda + sigma^2, two products of matrices for the batch:

        data = mean + B alpha Lambda Q^-1 u,        noise = B sigma Q^-1 u.

    One of the two is computed so and the other from x = alpha data + sigma noise, without loss if it is the
    right one. An error of eps |x| in u, which rounding makes along every eigenvector, is one of sigma Q^-1
    eps |x| in the noise: where sigma^2 > alpha^2 max Lambda that is of the order of eps |x| / sigma along
    all, as after the subtraction. Else it is one of the order of eps |x| / alpha in the data along the first.
    """
    x = single(x)
    alpha, sigma = (
        jnp.broadcast_to(jax.vmap(scale)(jnp.atleast_1d(t)), x.shape[:1])[:, None]
        for scale in (schedule.alpha, schedule.sigma)
    )
    values = covariance.values[None]
    noise_first = sigma**2 <= alpha**2 * values.max()
    gain = jnp.where(noise_first, sigma, alpha * values) / (alpha**2 * values + sigma**2)
    found = _turned(covariance, gain * _turned(covariance, x - alpha * mean[None]), back=True)
    found = jnp.where(noise_first, found, mean[None] + found)
    other = (x - jnp.where(noise_first, sigma, alpha) * found) / jnp.where(noise_first, alpha, sigma)
    return Denoised(jnp.where(noise_first, other, found), jnp.where(noise_first, found, other))


def _turned(covariance: Spectrum, x: Array, *, back: bool = False) -> Array:
    """Rows x, shape (n, d), in the eigenbasis, or back from it."""
    basis = covariance.basis
    if basis is None:
        return x
    return jnp.matmul(x, basis.T if back else basis, precision=PRECISION)
