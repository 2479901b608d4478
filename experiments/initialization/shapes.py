"""Laws of many shapes with exact scores, outside of what a few Gaussians can be: each a function of a seed.

Curves are 120 points with Gaussian dust about each, all of one size, so that programs are shared. Every law
has mean zero and mean variance one.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxdiff.denoising.denoiser import Distribution
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture

_POINTS = 120


def _dust(points: np.ndarray, std: float, weights: np.ndarray | None = None) -> GaussianMixture:
    """Points (k, d) with isotropic noise of so many standard deviations of the whole."""
    weights = np.full(len(points), 1 / len(points)) if weights is None else weights / weights.sum()
    points = points - weights @ points
    points = points / np.sqrt(weights @ (points**2).mean(1)) * (1 - std**2) ** 0.5
    return GaussianMixture(jnp.asarray(weights), jnp.asarray(points), jnp.full(len(points), std**2))


def _angles(n: int, turns: float = 1.0) -> np.ndarray:
    return 2 * np.pi * turns * np.arange(n) / n


def ring(seed: int) -> Distribution:
    """A ring whose weight varies once around."""
    a = _angles(_POINTS)
    shift = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    return _dust(np.stack([np.cos(a), np.sin(a)], 1), 0.06, 1 + 0.7 * np.cos(a + shift))


def moons(seed: int) -> Distribution:
    """Two half circles that reach into each other, turned at random."""
    a = _angles(_POINTS // 2, 0.5)
    points = np.concatenate(
        [np.stack([np.cos(a), np.sin(a)], 1), np.stack([1 - np.cos(a), 0.5 - np.sin(a)], 1)]
    )
    turn = np.random.default_rng(seed).uniform(0, np.pi)
    return _dust(points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]), 0.08)


def spiral(seed: int) -> Distribution:
    """One and a half turns."""
    a = _angles(_POINTS, 1.5) + 0.8
    shift = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    return _dust(a[:, None] * np.stack([np.cos(a + shift), np.sin(a + shift)], 1), 0.05)


def two_rings(seed: int) -> Distribution:
    """A ring within another."""
    a = _angles(_POINTS // 2)
    ratio = np.random.default_rng(seed).uniform(0.3, 0.5)
    circle = np.stack([np.cos(a), np.sin(a)], 1)
    return _dust(np.concatenate([circle, ratio * circle]), 0.05)


def clouds(seed: int) -> Distribution:
    """Points about seven centers at random, with random spreads: no two of a shape."""
    rng = np.random.default_rng(seed)
    centers, spreads = rng.uniform(-1, 1, (7, 2)), rng.uniform(0.02, 0.3, (7, 2))
    which = rng.integers(0, 7, _POINTS)
    points = centers[which] + spreads[which] * rng.standard_normal((_POINTS, 2))
    return _dust(points, rng.uniform(0.05, 0.15), rng.chisquare(2, _POINTS) + 0.1)


def linked_rings(seed: int) -> Distribution:
    """Two linked rings in R^4, one of them bent into the fourth coordinate."""
    a = _angles(_POINTS // 2)
    zero, bend = np.zeros_like(a), np.random.default_rng(seed).uniform(0.2, 0.4)
    first = np.stack([np.cos(a), np.sin(a), zero, zero], 1)
    second = np.stack([1 + np.cos(a), zero, np.sin(a), bend * np.sin(2 * a)], 1)
    return _dust(np.concatenate([first, second]), 0.07)


def mixture(seed: int, d: int = 8) -> Distribution:
    """Five Gaussians of random weights, means and covariances in d dimensions."""
    weights, means, covariances = _random(np.random.default_rng(seed), 5, d)
    total = weights @ (np.trace(covariances, axis1=1, axis2=2) + (means**2).sum(1)) / d
    return GaussianMixture(
        jnp.asarray(weights), jnp.asarray(means / total**0.5), jnp.asarray(covariances / total)
    )


def heavy(seed: int, d: int = 3) -> Distribution:
    """Three Student t laws of four degrees of freedom in d dimensions."""
    weights, means, scales = _random(np.random.default_rng(seed), 3, d)
    total = weights @ (2 * np.trace(scales, axis1=1, axis2=2) + (means**2).sum(1)) / d
    return StudentTMixture(
        jnp.asarray(weights), jnp.asarray(means / total**0.5), jnp.asarray(scales / total), 4.0
    )


def _random(rng: np.random.Generator, k: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights = rng.dirichlet(np.full(k, 3.0))
    means = rng.uniform(0.5, 2) * rng.standard_normal((k, d))
    roots = rng.standard_normal((k, d, d)) / d**0.5
    covariances = rng.uniform(0.05, 0.6, (k, 1, 1)) * (roots @ roots.swapaxes(1, 2)) + 0.02 * np.eye(d)
    return weights, means - weights @ means, covariances


LAWS: dict[str, Callable[[int], Distribution]] = {
    "ring": ring,
    "moons": moons,
    "spiral": spiral,
    "two rings": two_rings,
    **{f"clouds {i}": (lambda seed, i=i: clouds(seed + i)) for i in range(3)},
    **{f"mixture {i}, 8": (lambda seed, i=i: mixture(seed + i)) for i in range(2)},
    **{f"t {i}, 3": (lambda seed, i=i: heavy(seed + i)) for i in range(2)},
    "linked rings, 4": linked_rings,
}
