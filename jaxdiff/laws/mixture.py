"""Finite mixtures of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.components import (
    Components,
    Posterior,
    Spectrum,
    at_level,
    check_affine,
    check_mixture,
    choose,
    color,
    diagonalized,
    known_everywhere,
    mixture_scale,
    rescaled,
)
from jaxdiff.typing import Array, Key, Schedule, Time


@pytree
@dataclass(frozen=True, init=False, eq=False)
class GaussianMixture:
    """sum_k weights_k N(means_k, covariances_k) on vectors of length d.

    weights has shape (K,), positive with sum 1; means (K, d); covariances (K,) (multiples of the identity),
    (K, d) (diagonals), (K, d, d) or a `Spectrum` of K. Singular covariances are allowed; `log_prob` alone
    needs them definite.

    Raises ValueError for shapes that disagree, weights that are not a probability vector, values that are
    not finite, matrices that are not symmetric or negative eigenvalues.

    >>> law = jd.GaussianMixture([0.5, 0.5], [[-2.0], [2.0]], [1.0, 1.0])
    >>> law.denoiser(jd.Karras())(jnp.zeros((1, 1)), 1.0).data.tolist()  # between two modes of equal weight
    [[0.0]]
    >>> round(float(law.scale), 4)  # 5^(1/2)
    2.2361
    """

    weights: Array
    means: Array
    covariances: Spectrum

    def __init__(self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike | Spectrum) -> None:
        weights, means = check_mixture(weights, means)
        set_fields(
            self,
            weights=weights,
            means=means,
            covariances=diagonalized("covariances", covariances, means.shape),
        )

    def sample(self, key: Key, n: int) -> Array:
        checks.integer("n", n, 1)
        return self._sample(key, n)

    @compiled(static="n")
    def _sample(self, key: Key, n: int) -> Array:
        def draw(key: Key) -> tuple[Array, Array]:
            which, normal = jax.random.split(key)
            return (
                choose(which, self.weights),
                jax.random.normal(normal, self.means.shape[1:], self.means.dtype),
            )

        k, z = per_row(key, n, draw)
        return self.means[k] + color(self.covariances, k, z)

    def log_prob(self, x: Array) -> Array:
        return self._components().log_prob(x)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.means.shape[1:]

    @property
    @compiled
    def scale(self) -> Array:
        return mixture_scale(self.weights, self.means, self.covariances.values.mean(-1))

    def affine(self, scale: Array | float, std: Array | float) -> GaussianMixture:
        check_affine(scale, std)
        return self._affine(scale, std)

    @compiled
    def _affine(self, scale: Array | float, std: Array | float) -> GaussianMixture:
        return GaussianMixture(self.weights, scale * self.means, rescaled(self.covariances, scale**2, std**2))

    def perturbed(self, schedule: Schedule, t: Time) -> GaussianMixture:
        return at_level(self, schedule, t)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return known_everywhere(self, Posterior(self._components()), schedule)

    @compiled
    def _components(self) -> Components:
        return Components(
            log_weights=jnp.log(self.weights)[:, None],
            means=self.means,
            values=self.covariances.values[:, None],
            basis=self.covariances.basis,
        )
