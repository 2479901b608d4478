"""What the maps are trained on, and judged by: two laws in the plane, and images, some of them held out.

    | task    | data                                                               | network             |
    |---------|--------------------------------------------------------------------|---------------------|
    | modes   | 25 Gaussians in the plane; each seed has its own                   | ResidualMLP         |
    | rings   | a ring within another                                              | ResidualMLP         |
    | digits  | all 1,797 digits of 8 x 8, each seed split anew: 597 are held out  | ResidualMLP         |
    | patches | 32 x 32 in colour, of seven photographs; bands of each held out    | DiffusionTransformer |

Images are dequantized and of mean 0 and variance 1 over all of their pixels.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.initialization import laws, shapes
from jaxdiff import data
from jaxdiff.data import image_sets
from jaxdiff.denoising.denoiser import Distribution
from jaxdiff.laws.factor_fitting import fit_low_rank
from jaxdiff.laws.fitting import fit_mixture
from jaxdiff.models import DiffusionTransformer, ResidualMLP
from jaxdiff.typing import Array, Key, StartLaw

Draw = Callable[[Key, int], Array]


class Task(NamedTuple):
    """Rows to train on, rows to judge by, and the simplest law of the former."""

    shape: tuple[int, ...]
    draw: Draw
    """With replacement, where there are so many only."""
    fresh: Draw
    """Of the same each once, or new draws."""
    held: Draw
    """Each once, none of which is trained on."""
    fit: Callable[[Key], StartLaw]
    """What samples without any call: 12 Gaussians, or one of rank 64 for patches."""


_PLANE: dict[str, Callable[[int], Distribution]] = {"modes": laws.grid_mixture, "rings": shapes.two_rings}
NAMES = (*_PLANE, "digits", "patches")
_COMPONENTS, _RANK, _HELD_DIGITS = 12, 64, 597


def task(name: str, seed: int) -> Task:
    """By name."""
    if name in _PLANE:
        law = _PLANE[name](seed)
        return Task(
            (2,), law.sample, law.sample, law.sample, lambda key: _mixture(key, law.sample(key, 10_000))
        )
    if name == "digits":
        split = data.digits()
        pixels = np.random.default_rng(seed).permutation(np.concatenate([split.train, split.test]))
        return _images(pixels[_HELD_DIGITS:], pixels[:_HELD_DIGITS], 17, _mixture)
    patches = image_sets.natural_patches(size=32)
    return _images(patches.train, patches.test, 256, lambda key, x: fit_low_rank(x, _RANK))


def network(name: str, width: int, num_blocks: int) -> nn.Module:
    """Of two times."""
    if name == "patches":
        return DiffusionTransformer(patch_size=4, width=width, num_blocks=num_blocks, num_heads=4)
    return ResidualMLP(width=width, num_blocks=num_blocks)


def _mixture(key: Key, rows: Array) -> StartLaw:
    return fit_mixture(key, rows, _COMPONENTS, num_restarts=1, floor=1e-3)


def _images(train: np.ndarray, held: np.ndarray, levels: int, fit: Callable[[Key, Array], StartLaw]) -> Task:
    values = (train + 0.5) / levels
    mean, std = float(values.mean()), float(values.std())
    own = jnp.asarray(train, jnp.int32)

    def encode(key: Key, pixels: Array) -> Array:
        return (data.dequantize(key, pixels, levels=levels) - mean) / std

    def draw(key: Key, n: int) -> Array:
        row_key, key = jax.random.split(key)
        return encode(key, own[jax.random.randint(row_key, (n,), 0, len(own))])

    def each_once(pixels: Array, key: Key, n: int) -> Array:
        row_key, key = jax.random.split(key)
        return encode(key, jax.random.permutation(row_key, pixels)[:n])

    fresh, others = (functools.partial(each_once, jnp.asarray(part, jnp.int32)) for part in (train, held))
    return Task(train.shape[1:], draw, fresh, others, lambda key: fit(key, encode(key, own)))
