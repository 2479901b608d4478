"""The laws that the bootstrapping experiments learn; all are mixtures of four Gaussians of equal weight."""

import jax
import jax.numpy as jnp

from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.typing import Array, Key


def random_law(key: Key, d: int) -> GaussianMixture:
    """Means 2 sqrt(2 / d) N(0, I), component variance 0.05: as far apart in every dimension."""
    return _equal_mixture(2 * jnp.sqrt(2 / d) * jax.random.normal(key, (4, d)), 0.05)


def sphere_law(key: Key, d: int, *, variance: float = 0.05) -> GaussianMixture:
    """Means uniform on the sphere of radius 2."""
    direction = jax.random.normal(key, (4, d))
    return _equal_mixture(2 * direction / jnp.linalg.norm(direction, axis=1, keepdims=True), variance)


def _equal_mixture(means: Array, variance: float) -> GaussianMixture:
    return GaussianMixture(jnp.full(4, 0.25), means, jnp.full(4, variance))
