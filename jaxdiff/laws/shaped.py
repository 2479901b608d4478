"""A law of vectors, seen as one of arrays of another shape: images, most of all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.laws.components import known_everywhere
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


@pytree
@dataclass(frozen=True, init=False, eq=False)
class Shaped:
    """The law of arrays of a shape whose entries, in C order, have a law of vectors: ``Shaped(law, shape)``.

    Entry for entry it is that law: the same draws for the same key, the same density, the same denoiser.

    Raises ValueError where the law is not of vectors of prod(shape) numbers.

    >>> law = jd.Shaped(jd.Gaussian(jnp.zeros(4), 1.0), (2, 2))
    >>> law.sample(jax.random.key(0), 3).shape, round(float(law.log_prob(jnp.zeros((1, 2, 2)))[0]), 4)
    ((3, 2, 2), -3.6758)
    """

    law: Distribution
    """Of vectors."""
    shape: tuple[int, ...]
    """Of one point."""

    def __init__(self, law: Distribution, shape: tuple[int, ...]) -> None:
        shape = checks.data_shape(shape)
        checks.a_law("law", law)
        if tuple(law.shape) != (math.prod(shape),):
            raise ValueError(
                f"law must be one of vectors of {math.prod(shape)} numbers to be seen as arrays of shape "
                f"{checks.shown_shape(shape)}, got one of points of shape {checks.shown_shape(law.shape)}."
            )
        set_fields(self, law=law, shape=shape)

    @property
    def scale(self) -> Array | float:
        return self.law.scale

    def sample(self, key: Key, n: int) -> Array:
        return self.law.sample(key, n).reshape(n, *self.shape)

    def log_prob(self, x: Array) -> Array:
        """Log-density in nats of x, shape (..., *shape) -> (...); ValueError for another shape."""
        x = jnp.asarray(x)
        lead = x.ndim - len(self.shape)
        if lead < 0 or x.shape[lead:] != self.shape:
            raise ValueError(f"x must have shape {checks.shown_shape(('...', *self.shape))}, got {x.shape}.")
        return self.law.log_prob(x.reshape(*x.shape[:lead], math.prod(self.shape)))

    def affine(self, scale: Array | float, std: Array | float) -> Shaped:
        return Shaped(self.law.affine(scale, std), self.shape)

    def perturbed(self, schedule: Schedule, t: Time) -> Shaped:
        return Shaped(self.law.perturbed(schedule, t), self.shape)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return known_everywhere(self, _Flat(self.law.denoiser(schedule)), schedule)


@pytree
@dataclass(frozen=True, eq=False)
class _Flat:
    """A denoiser of vectors that is asked about arrays."""

    denoise: Denoiser

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        answer = self.denoise(x.reshape(x.shape[0], math.prod(x.shape[1:])), t)
        return jax.tree.map(lambda part: part.reshape(x.shape), answer)
