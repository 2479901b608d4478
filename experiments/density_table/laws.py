"""Three laws of the plane blurred by noise: draws, log-densities in closed form, entropies by quadrature.

With s the noise, Phi and phi_s the normal distribution function and density,

    checkerboard       p(x, y) = 1/32 sum_c F_c(x) sum_{r = c mod 2} F_r(y),
                       F_c(x) = Phi((x - a_c) / s) - Phi((x - a_c - 2) / s),    a_c = 2 c - 4           (1)
    eight Gaussians    p(x) = 1/8 sum_k phi_s(x - c_k)                                                  (2)
    two moons          p(x) = 1/2 sum_m 1/pi int_0^pi phi_s(x - c_m(a)) da,  by Gauss-Legendre's rule   (3)

The entropy, -int p log p, by the trapezoidal rule: for what is smooth and ends in Gaussian tails its error
falls faster than any power of the spacing.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import data
from jaxdiff.typing import Array, Key

_NODES = 256  # of (3): the angle between two is a quarter of a noise of .05
_ROWS = 4096


class Law(NamedTuple):
    """Points of the plane before noise, shape (n, 2) of (key, n), and log p with it, at rows x (n, 2)."""

    draw: Callable[[Key, int], Array]
    log_prob: Callable[[Array, Array | float], Array]
    box: tuple[tuple[float, float], tuple[float, float]]
    """Around all points without noise."""


def sample(law: Law, key: Key, n: int, noise: float) -> Array:
    """Points of the law with noise, (n, 2)."""
    draw_key, noise_key = jax.random.split(key)
    return law.draw(draw_key, n) + noise * jax.random.normal(noise_key, (n, 2))


def entropy(law: Law, noise: float, spacing: float = 0.25) -> float:
    """In nats, of the law with noise; the spacing of the rule is in units of the noise.

    Raises ArithmeticError where the density does not sum to one within 1e-4: the rule is then too coarse.
    """
    axes = [np.arange(low - 7 * noise, high + 7 * noise, spacing * noise) for low, high in law.box]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    log_p = np.asarray(log_density(law, grid, noise), np.float64)
    mass = np.exp(log_p) * (spacing * noise) ** 2
    if abs(mass.sum() - 1) > 1e-4:
        raise ArithmeticError(f"The density of noise {noise} sums to {mass.sum()}; give a finer spacing.")
    return float(-np.sum(mass * np.where(mass > 0, log_p, 0)))


def log_density(law: Law, x: Array | np.ndarray, noise: float) -> Array:
    """Of rows x (n, 2), as many at once as memory bears; (n,)."""
    return _in_turns(law.log_prob, jnp.asarray(x), noise)


@functools.partial(jax.jit, static_argnums=0)
def _in_turns(log_prob: Callable[..., Array], x: Array, noise: Array | float) -> Array:
    return jax.lax.map(lambda row: log_prob(row[None], noise)[0], x, batch_size=_ROWS)


def _checkerboard(x: Array, noise: Array | float) -> Array:
    edges = jnp.arange(-4.0, 5.0, 2.0)
    tails = jax.scipy.special.ndtr((x[:, :, None] - edges[None, None]) / noise)
    cells = jnp.maximum(tails[..., :-1] - tails[..., 1:], jnp.finfo(x.dtype).tiny)  # (n, 2, 4)
    across, up = cells[:, 0], cells[:, 1]
    even = across[:, ::2].sum(1) * up[:, ::2].sum(1)
    odd = across[:, 1::2].sum(1) * up[:, 1::2].sum(1)
    return jnp.log(even + odd) - jnp.log(32.0)


def _of_centers(x: Array, noise: Array | float, centers: Array, weights: Array) -> Array:
    """Of a mixture of N(center, noise^2 I)."""
    squares = jnp.sum((x[:, None] - centers[None]) ** 2, axis=2) / noise**2
    return jax.nn.logsumexp(-0.5 * squares, axis=1, b=weights[None]) - jnp.log(2 * jnp.pi * noise**2)


def _eight_gaussians(x: Array, noise: Array | float) -> Array:
    angles = jnp.arange(8) * (jnp.pi / 4)
    centers = 4 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return _of_centers(x, noise, centers, jnp.full(8, 1 / 8))


def _two_moons(x: Array, noise: Array | float) -> Array:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    angles = np.pi / 2 * (nodes + 1)
    upper = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centers = np.concatenate([upper, np.array([1.0, 0.5]) - upper])
    weights = np.tile(weights, 2) / 4
    return _of_centers(x, noise, jnp.asarray(centers, x.dtype), jnp.asarray(weights, x.dtype))


LAWS = {
    "checkerboard": Law(data.checkerboard, _checkerboard, ((-4.0, 4.0), (-4.0, 4.0))),
    "eight Gaussians": Law(
        functools.partial(data.eight_gaussians, std=0.0), _eight_gaussians, ((-4.0, 4.0), (-4.0, 4.0))
    ),
    "two moons": Law(functools.partial(data.two_moons, noise=0.0), _two_moons, ((-1.0, 2.0), (-0.5, 1.0))),
}
