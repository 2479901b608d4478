"""Mixtures of factor analyzers: covariances of low rank plus a diagonal, for vectors of thousands of numbers.

Given component k, data = m_k + F_k z + e with z ~ N(0, I_r) and e ~ N(0, D_k), D_k diagonal. At a time with
scales alpha and sigma, with u = x - alpha m_k,

    x | k ~ N(alpha m_k, alpha^2 F F' + Q),       Q = alpha^2 D + sigma^2 I                          (1)
    E[z | x, k] = M^-1 alpha F' Q^-1 u,           M = I + alpha^2 F' Q^-1 F,  r x r                  (2)
    rest = u - alpha F E[z | x, k]                                                                   (3)
    E[data | x, k] = m_k + F E[z | x, k] + alpha D Q^-1 rest,    E[noise | x, k] = sigma Q^-1 rest   (4)
    -2 log p(x | k) = rest' Q^-1 rest + |E[z | x, k]|^2 + log det M + log det Q + d log 2 pi         (5)

which is the formula of Woodbury: no matrix is d x d, and a row costs K d r. The quadratic form (5) is a sum
of squares, where the usual difference of two large ones loses all digits of a float32 in high dimension.
One component is the low-rank Gaussian of probabilistic PCA (D = s^2 I) or of factor analysis.
Ghahramani & Hinton 1996; Tipping & Bishop 1999.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws import components as machinery
from jaxdiff.laws.components import (
    PRECISION,
    at_level,
    check_affine,
    check_density,
    check_mixture,
    choose,
    floats,
    in_chunks,
    known_everywhere,
    mixture_scale,
)
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


@pytree
@dataclass(frozen=True, init=False, eq=False)
class FactorMixture:
    """sum_k weights_k N(means_k, factors_k factors_k' + diag(variances_k)) on vectors of length d.

    weights has shape (K,), positive with sum 1; means (K, d); factors (K, d, r); variances (K,) (multiples of
    the identity) or (K, d), positive.

    Raises ValueError for shapes that disagree, weights that are not a probability vector, values that are not
    finite or variances that are not positive.

    >>> law = jd.FactorMixture([1.0], [[0.0, 0.0]], [[[1.0], [1.0]]], [1.0])
    >>> round(float(law.log_prob(jnp.zeros((1, 2)))[0]), 4)  # -log(2 pi) - log(3) / 2
    -2.3872
    """

    weights: Array
    means: Array
    factors: Array
    variances: Array
    """Shape (K, 1) or (K, d)."""

    def __init__(
        self, weights: ArrayLike, means: ArrayLike, factors: ArrayLike, variances: ArrayLike
    ) -> None:
        weights, means = check_mixture(weights, means)
        factors, variances = floats(factors), floats(variances)
        checks.shape("factors", factors, (*means.shape, None))
        checks.finite("factors", factors)
        if variances.shape not in (weights.shape, (*weights.shape, 1), means.shape):
            raise ValueError(
                f"variances must have the shape {weights.shape} (isotropic) or {means.shape} (diagonal) to "
                f"go with means of shape {means.shape}, got {variances.shape}."
            )
        checks.positive("variances", variances)
        variances = variances[:, None] if variances.ndim == 1 else variances
        set_fields(self, weights=weights, means=means, factors=factors, variances=variances)

    def sample(self, key: Key, n: int) -> Array:
        checks.integer("n", n, 1)
        return self._sample(key, n)

    @compiled(static="n")
    def _sample(self, key: Key, n: int) -> Array:
        _, d, r = self.factors.shape

        def draw(key: Key) -> tuple[Array, Array]:
            which, normal = jax.random.split(key)
            return choose(which, self.weights), jax.random.normal(normal, (r + d,), self.means.dtype)

        k, normal = per_row(key, n, draw)
        # Zeros for the factors of the other components: to take each row's own would be n d r numbers.
        z = jax.nn.one_hot(k, len(self.weights), dtype=normal.dtype)[..., None] * normal[:, None, :r]
        low_rank = jnp.einsum("nkr,kdr->nd", z, self.factors, precision=PRECISION)
        return self.means[k] + low_rank + jnp.sqrt(self.variances)[k] * normal[:, r:]

    def log_prob(self, x: Array) -> Array:
        return _log_prob(self, check_density(x, self.means.shape[1], self.variances), machinery.CHUNK)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.means.shape[1:]

    @property
    @compiled
    def scale(self) -> Array:
        low_rank = jnp.sum(self.factors**2, axis=(1, 2)) / self.means.shape[1]
        return mixture_scale(self.weights, self.means, low_rank + self.variances.mean(-1))

    def affine(self, scale: Array | float, std: Array | float) -> FactorMixture:
        check_affine(scale, std)
        return self._affine(scale, std)

    @compiled
    def _affine(self, scale: Array | float, std: Array | float) -> FactorMixture:
        checks.shape("scale", scale, ())
        checks.shape("std", std, ())
        variances = scale**2 * self.variances + std**2
        return FactorMixture(self.weights, scale * self.means, scale * self.factors, variances)

    def perturbed(self, schedule: Schedule, t: Time) -> FactorMixture:
        return at_level(self, schedule, t)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return known_everywhere(self, _Posterior(self), schedule)


class Explained(NamedTuple):
    """What a point x tells of each component: eqs. (2), (3) and (5)."""

    factors: Array
    """E[z | x, k], shape (K, r)."""
    rest: Array
    """Shape (K, d)."""
    log_joint: Array
    """log P(k) p(x | k), shape (K,)."""


def explain(law: FactorMixture, x: Array, alpha: Array | float, sigma: Array | float) -> Explained:
    """Of one x, shape (d,); what x does not enter is computed once for all rows of a `vmap`."""
    d = x.shape[0]
    noise = alpha**2 * law.variances + sigma**2
    u = x[None] - alpha * law.means
    gain = alpha * law.factors / noise[..., None]
    root = jnp.linalg.cholesky(posterior_precision(law, gain, alpha))
    projected = jnp.einsum("kdr,kd->kr", gain, u, precision=PRECISION)
    z = jax.scipy.linalg.cho_solve((root, True), projected[..., None])[..., 0]
    rest = u - alpha * jnp.einsum("kdr,kr->kd", law.factors, z, precision=PRECISION)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), axis=1)
    log_det += (d // noise.shape[1]) * jnp.sum(jnp.log(noise), axis=1)
    squares = jnp.sum(rest**2 / noise, axis=1) + jnp.sum(z**2, axis=1)
    log_prob = -0.5 * (squares + log_det + d * math.log(2 * math.pi))
    return Explained(z, rest, jnp.log(law.weights) + log_prob)


def posterior_precision(law: FactorMixture, gain: Array, alpha: Array | float) -> Array:
    """M of (2), shape (K, r, r), the precision of z given x and k; gain is alpha Q^-1 F."""
    identity = jnp.eye(gain.shape[2], dtype=gain.dtype)
    return identity[None] + alpha * jnp.einsum("kdr,kds->krs", gain, law.factors, precision=PRECISION)


@functools.partial(jax.jit, static_argnames="chunk")
def _log_prob(law: FactorMixture, x: Array, chunk: int) -> Array:
    def one(x: Array, _: Time) -> Array:
        return jax.nn.logsumexp(explain(law, x, 1.0, 0.0).log_joint)

    rows = x.reshape(-1, x.shape[-1])
    return in_chunks(one, rows, jnp.zeros(()), law.means.size, chunk).reshape(x.shape[:-1])


@pytree
@dataclass(frozen=True, eq=False)
class _Posterior:
    """The denoiser, eq. (4)."""

    law: FactorMixture

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        return _posterior_means(self.law, denoiser.schedule, x, t, machinery.CHUNK)


@functools.partial(jax.jit, static_argnames="chunk")
def _posterior_means(law: FactorMixture, schedule: Schedule, x: Array, t: Array, chunk: int) -> Denoised:
    def one(x: Array, t: Time) -> Denoised:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        found = explain(law, x, alpha, sigma)
        posterior = jax.nn.softmax(found.log_joint)
        z = posterior[:, None] * found.factors
        scaled = posterior[:, None] * found.rest / (alpha**2 * law.variances + sigma**2)
        mean = jnp.matmul(posterior, law.means, precision=PRECISION)
        mean += jnp.einsum("kdr,kr->d", law.factors, z, precision=PRECISION)
        return Denoised(mean + alpha * jnp.sum(law.variances * scaled, axis=0), sigma * scaled.sum(0))

    # With times of their own, rows have factors of their own.
    return in_chunks(one, x, t, law.factors.size if jnp.ndim(t) else law.means.size, chunk)
