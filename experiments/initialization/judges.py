"""How samples are judged: along directions of the plane, and as sets of images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.laws import metrics
from jaxdiff.typing import Array

DIRECTIONS = np.stack([np.cos(np.pi / 180 * np.arange(180)), np.sin(np.pi / 180 * np.arange(180))])


def along_even_directions(n: int) -> Callable[[Array], Callable[[Array], float]]:
    """max-W_2 over `DIRECTIONS` of n points from a multiple of n draws.

    By NumPy's sort, which is many times faster than XLA's on a CPU, and with the draws' part done once: of
    the draws that one of the n sorted points stands against, mean and variance suffice.
    """

    def project(x: Array) -> np.ndarray:
        return np.sort((np.asarray(x, np.float64) @ DIRECTIONS).T, axis=1)

    def judge(draws: Array) -> Callable[[Array], float]:
        cells = project(draws).reshape(DIRECTIONS.shape[1], n, -1)
        mean, within = cells.mean(2), cells.var(2).mean(1)
        return lambda x: float(np.sqrt((((project(x) - mean) ** 2).mean(1) + within).max()))

    return judge


class Judged(NamedTuple):
    """Sets of images against test images; for each set, shape (sets,)."""

    energy: np.ndarray
    frechet: np.ndarray
    copies: np.ndarray
    """The part that is nearer to an image of the data than to any test image."""


def judge_images(sets: Array, data: Array, test: Array) -> Judged:
    """Of sets, (sets, rows, d), with as many images of the data as of the test."""
    return Judged(*(np.asarray(part, np.float64) for part in _distances(data[: len(test)], test, sets)))


@jax.jit
def _distances(data: Array, test: Array, sets: Array) -> tuple[Array, Array, Array]:
    def nearest(x: Array, images: Array) -> Array:
        return jnp.min(jnp.sum((images - x[None]) ** 2, axis=1))

    def one(samples: Array) -> tuple[Array, Array, Array]:
        copied = jax.vmap(lambda x: nearest(x, data) < nearest(x, test))(samples)
        energy = metrics.energy_distance(samples, test).value
        return energy, metrics.frechet_distance(samples, test), copied.mean()

    return jax.lax.map(one, sets)
