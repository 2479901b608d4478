"""The uniform law on finitely many points."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws import components
from jaxdiff.laws.components import (
    PRECISION,
    Spectrum,
    at_level,
    check_affine,
    floats,
    in_chunks,
    known_everywhere,
)
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


@pytree
@dataclass(frozen=True, init=False, eq=False)
class Empirical:
    """The uniform law on the rows of points, shape (n, d): what a network that memorizes would denoise to.

    E[data | x] is the mean of the points under weights softmax(-|x - alpha points|^2 / (2 sigma^2)). The
    squares come from a matrix product on centered points: a logit errs by about eps |x| |point| / sigma^2,
    which matters only where points lie within a few sigma of one another.

    Raises ValueError for a shape that is not (n, d), n >= 1, or values that are not finite.

    >>> law = jd.Empirical([[-1.0], [3.0]])
    >>> law.denoiser(jd.Karras())(jnp.array([[2.5]]), 0.1).data.tolist()  # the nearest point
    [[3.0]]
    """

    points: Array

    def __init__(self, points: ArrayLike) -> None:
        points = floats(points)
        checks.shape("points", points, (None, None))
        if points.shape[0] == 0:
            raise ValueError("points must hold at least one row, got none.")
        checks.finite("points", points)
        set_fields(self, points=points)

    def sample(self, key: Key, n: int) -> Array:
        checks.integer("n", n, 1)
        return self._sample(key, n)

    @compiled(static="n")
    def _sample(self, key: Key, n: int) -> Array:
        return self.points[per_row(key, n, lambda key: jax.random.randint(key, (), 0, self.points.shape[0]))]

    def log_prob(self, x: Array) -> Array:
        """Raise ValueError: a finite set has no density."""
        raise ValueError(
            "an Empirical law sits on finitely many points and has no density; noise it first, "
            "law.perturbed(schedule, t).log_prob(x)."
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.points.shape[1:]

    @property
    @compiled
    def scale(self) -> Array:
        return jnp.sqrt(jnp.mean(self.points.var(0)))

    def affine(self, scale: Array | float, std: Array | float) -> GaussianMixture:
        check_affine(scale, std)
        return self._affine(scale, std)

    @compiled
    def _affine(self, scale: Array | float, std: Array | float) -> GaussianMixture:
        n = self.points.shape[0]
        weights = jnp.full((n,), 1 / n, self.points.dtype)
        variances = jnp.broadcast_to(jnp.asarray(std, self.points.dtype) ** 2, (n, 1))
        return GaussianMixture(weights, scale * self.points, Spectrum(variances))

    def perturbed(self, schedule: Schedule, t: Time) -> GaussianMixture:
        return at_level(self, schedule, t)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return known_everywhere(self, _Nearest(self.points), schedule)


@pytree
@dataclass(frozen=True, eq=False)
class _Nearest:
    """The denoiser of an `Empirical` law."""

    points: Array

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        return _nearest_means(self.points, denoiser.schedule, x, t, components.CHUNK)


@functools.partial(jax.jit, static_argnames="chunk")
def _nearest_means(points: Array, schedule: Schedule, x: Array, t: Array, chunk: int) -> Denoised:
    center = points.mean(0)
    centered = points - center[None]
    halved_squares = 0.5 * jnp.sum(centered**2, axis=-1)

    def one(x: Array, t: Time) -> Denoised:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        inner = jnp.matmul(centered, x - alpha * center, precision=PRECISION)
        weights = jax.nn.softmax((alpha / sigma**2) * (inner - alpha * halved_squares))
        data = jnp.matmul(weights, points, precision=PRECISION)
        # The subtraction is no loss here: points are isolated at a small sigma, so noise answers to a
        # rounding of x or of alpha with just this error.
        return Denoised(data, (x - alpha * data) / sigma)

    return in_chunks(one, x, t, max(points.shape), chunk)
