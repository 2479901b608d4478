"""Data as a function of (key, step): batches, pixels, and small laws and data sets to learn.

A data set is an array, or a pytree of arrays with one leading axis, that lies on the device. Pixels are
integers p in {0, ..., L - 1}; with u uniform on [0, 1), x = (p + u) / L has a density on [0, 1)^d, and a
model of density q(x) is a model P of the integers with

    bits per dimension  =  log2 L - E log q(x) / (d ln 2)  >=  -E log2 P(p) / d.                        (1)

The inequality is Jensen's: Theis et al. 2016, arXiv 1511.01844, section 3.1.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.randomness import per_row
from jaxdiff.typing import Array, Key


class Split(NamedTuple):
    """A data set in NumPy: integer pixels, rows first, and a label for each row."""

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


def batch(key: Key, data: Any, size: int) -> Any:
    """Rows of data, drawn uniformly with replacement; row i of the batch depends on (key, i) only.

    Data is an array (n, ...) or a pytree of such with one n; the answer is of the same structure with leading
    axes `size`. A training step's batch is ``batch(fold_in(key, step), data, size)``, so that a resumed run
    sees what the uninterrupted one would. Raises ValueError for unequal or empty leading axes, or size < 1.

    >>> sorted(set(jd.data.batch(jax.random.key(0), jnp.array([3, 7]), 20).tolist()))
    [3, 7]
    """
    n = checks.num_rows(data)
    checks.integer("size", size, 1)
    return _rows(data, _drawn(key, n, size))


def epoch_batch(key: Key, data: Any, size: int, step: Array | int) -> Any:
    """The batch of a step, 0, 1, ..., in a walk through the data that sees every row once per epoch.

    The walk is permutation 0 of the rows, then permutation 1, and so on, permutation e being drawn from
    ``fold_in(key, e)``; a step takes its entries from step size to (step + 1) size. So where size does not
    divide n a batch may end one epoch and begin the next, and no row is left out. A permutation is drawn anew
    at each step, which sorts n numbers, or two where size does not divide n; `batch` is cheaper.

    Data and the answer are as in `batch`. Raises ValueError for unequal or empty leading axes, or a size that
    is not in [1, n].

    >>> data, key = jnp.array([3, 5, 7, 9]), jax.random.key(0)
    >>> sorted(x for step in (0, 1) for x in jd.data.epoch_batch(key, data, 2, step).tolist())
    [3, 5, 7, 9]
    """
    n = checks.num_rows(data)
    checks.integer("size", size, 1)
    if size > n:
        raise ValueError(f"size must be at most the {n} rows of data, got {size}; use batch for larger ones.")
    checks.integers("step", jnp.asarray(step))
    checks.shape("step", step, ())
    checks.within("step", step, 0, 2**31 - 1)
    return _rows(data, _rows_of_walk(key, step, n=n, size=size))


@compiled
def _rows(data: Any, rows: Array) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], data)


@compiled(static=("n", "size"))
def _drawn(key: Key, n: int, size: int) -> Array:
    """Rows drawn uniformly, (size,)."""
    return per_row(key, size, lambda k: jax.random.randint(k, (), 0, n))


@functools.partial(jax.jit, static_argnames=("n", "size"))
def _rows_of_walk(key: Key, step: Array | int, *, n: int, size: int) -> Array:
    """The rows of a step, (size,)."""
    epoch, start = _divide_product(step, size, n)
    walk = jax.random.permutation(jax.random.fold_in(key, epoch), n)
    if n % size:
        walk = jnp.concatenate([walk, jax.random.permutation(jax.random.fold_in(key, epoch + 1), n)])
    return jax.lax.dynamic_slice_in_dim(walk, start, size)


def dequantize(key: Key, pixels: Array, *, levels: int) -> Array:
    """(pixels + u) / levels in [0, 1), with u uniform on [0, 1); row i of u depends on (key, i) only.

    Pixels are integers (n, ...) in [0, levels - 1]. u stays a few rounding errors away from 0 and 1 (6e-5 for
    256 levels in float32), so that `quantize` returns the very pixels. Raises TypeError for other than
    integers and ValueError for a pixel out of range.

    >>> x = jd.data.dequantize(jax.random.key(0), jnp.array([0, 3]), levels=4)
    >>> bool(0 <= x[0] < 0.25 <= 0.75 <= x[1] < 1)
    True
    """
    checks.integer("levels", levels, 1)
    checks.integers("pixels", pixels)
    checks.rows("pixels", pixels)
    checks.within("pixels", pixels, 0, levels - 1)
    return _dequantize(key, pixels, levels)


@compiled(static="levels")
def _dequantize(key: Key, pixels: Array, levels: int) -> Array:
    pixels = jnp.asarray(pixels, float)
    margin = 2 * levels * jnp.finfo(pixels.dtype).eps
    u = per_row(key, len(pixels), lambda k: jax.random.uniform(k, pixels.shape[1:], pixels.dtype))
    return (pixels + jnp.clip(u, margin, 1 - margin)) / levels


def quantize(x: Array, *, levels: int) -> Array:
    """The integers floor(levels x), of x's shape; the nearest level for an x, say a sample, out of [0, 1).

    Raises ValueError for NaN and infinities, whose pixels a judge would take for good ones; where x is traced
    they become -1, which is no pixel.

    >>> jd.data.quantize(jnp.array([0.1, 0.9]), levels=4).tolist()
    [0, 3]
    """
    checks.integer("levels", levels, 1)
    checks.finite("x", x)
    return _quantize(jnp.asarray(x), levels)


@compiled(static="levels")
def _quantize(x: Array, levels: int) -> Array:
    pixels = jnp.clip(jnp.floor(x * levels), 0, levels - 1)
    return jnp.where(jnp.isfinite(x), pixels, -1).astype(jnp.int32)


def bits_per_dimension(nats: Array | float, num_dimensions: int, *, levels: int) -> Array:
    """Eq. (1): -nats / (d ln 2) + log2(levels), of nats' shape.

    nats is the log-density at the output of `dequantize`; if that was scaled to s x before the model saw it,
    add d log s to the model's nats first. The uniform density has log2(levels).
    Raises ValueError for num_dimensions or levels below 1.

    >>> float(jd.data.bits_per_dimension(0.0, 64, levels=256))  # the uniform density
    8.0
    """
    checks.integer("num_dimensions", num_dimensions, 1)
    checks.integer("levels", levels, 1)
    return -jnp.asarray(nats, float) / (num_dimensions * math.log(2)) + math.log2(levels)


def two_moons(key: Key, n: int, *, noise: Array | float = 0.05) -> Array:
    """Two interleaved half circles of radius 1 plus N(0, noise^2 I), shape (n, 2).

    The means, covariance and orientation of `sklearn.datasets.make_moons`, with each moon drawn with
    probability 1/2; row i depends on (key, i) only. Raises ValueError for a negative noise.

    >>> x = jd.data.two_moons(jax.random.key(0), 1000, noise=0.0)
    >>> outer, inner = jnp.linalg.norm(x, axis=1), jnp.linalg.norm(x - jnp.array([1.0, 0.5]), axis=1)
    >>> bool(jnp.allclose(jnp.minimum(abs(outer - 1), abs(inner - 1)), 0, atol=1e-5))  # of radius 1
    True
    """
    checks.integer("n", n, 1)
    checks.within("noise", noise, 0.0, math.inf)
    return _two_moons(key, n, noise)


@compiled(static="n")
def _two_moons(key: Key, n: int, noise: Array | float) -> Array:
    def draw(key: Key) -> Array:
        which, where, blur = jax.random.split(key, 3)
        angle = jax.random.uniform(where, maxval=jnp.pi)
        upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        moon = jnp.where(jax.random.bernoulli(which), upper, jnp.array([1.0, 0.5]) - upper)
        return moon + noise * jax.random.normal(blur, (2,))

    return per_row(key, n, draw)


@compiled(static="n")
def checkerboard(key: Key, n: int) -> Array:
    """Uniform on 8 of the 16 squares of side 2 that tile [-4, 4)^2, the lower left one among them; (n, 2).

    Its entropy is log 32 = 3.4657 nats. Row i depends on (key, i) only.

    >>> squares = jnp.floor(jd.data.checkerboard(jax.random.key(0), 1000) / 2).sum(1) % 2
    >>> bool(squares.max() == squares.min())
    True
    """

    def draw(key: Key) -> Array:
        which, where = jax.random.split(key)
        column, half = jnp.divmod(jax.random.randint(which, (), 0, 8), 2)
        corner = jnp.stack([column, 2 * half + column % 2])
        return 2 * (corner + jax.random.uniform(where, (2,))) - 4

    return per_row(key, n, draw)


def eight_gaussians(key: Key, n: int, *, std: Array | float = 0.3) -> Array:
    """Eight Gaussians N(c, std^2 I) of equal weight, c at angles k pi / 4 on a circle of radius 4; (n, 2).

    For std <= 0.3 they hardly overlap and the entropy is log 8 + log(2 pi e std^2), 2.5094 nats at 0.3, less
    under 1e-5. Row i depends on (key, i) only. Raises ValueError for a negative std.

    >>> centers = jd.data.eight_gaussians(jax.random.key(0), 1000, std=0.0)
    >>> bool(jnp.allclose(jnp.linalg.norm(centers, axis=1), 4.0))
    True
    """
    checks.integer("n", n, 1)
    checks.within("std", std, 0.0, math.inf)
    return _eight_gaussians(key, n, std)


@compiled(static="n")
def _eight_gaussians(key: Key, n: int, std: Array | float) -> Array:
    def draw(key: Key) -> Array:
        which, where = jax.random.split(key)
        angle = jax.random.randint(which, (), 0, 8) * (jnp.pi / 4)
        return 4 * jnp.stack([jnp.cos(angle), jnp.sin(angle)]) + std * jax.random.normal(where, (2,))

    return per_row(key, n, draw)


def digits() -> Split:
    """scikit-learn's handwritten digits: 1437 training and 360 test rows of 64 pixels in 0..16 (17 levels).

    An image of 8 x 8 is read row by row; labels are the digits. Split by `train_test_split` with
    test_size=0.2 and random_state=0. Raises ImportError if scikit-learn is missing.

    >>> split = jd.data.digits()
    >>> len(split.train), len(split.test), int(split.train.max())
    (1437, 360, 16)
    """
    pixels, labels = checks.extra("sklearn.datasets", "experiments").load_digits(return_X_y=True)
    split = checks.extra("sklearn.model_selection", "experiments").train_test_split
    train, test, train_labels, test_labels = split(pixels, labels, test_size=0.2, random_state=0)
    return Split(train.astype(np.uint8), test.astype(np.uint8), train_labels, test_labels)


def photograph_patches(*, size: int = 8, gray: bool = True) -> Split:
    """Patches of scikit-learn's two photographs, (n, size, size, 1 or 3) pixels in 0..255 (256 levels).

    Each photograph, 427 x 640, is cut into ten vertical bands of 64 columns, and each band into patches side
    by side from its upper left corner, the incomplete ones left out. Bands 2 and 7 (from 0) are the test
    part and the others the training part, so no pixel is in two patches. At size 8 there are 6784 training
    and 1696 test patches. Labels are 0 for china.jpg and 1 for flower.jpg.

    Gray is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded. Raises ValueError for a size that is not in
    [1, 64], and ImportError if scikit-learn is missing.

    >>> split = jd.data.photograph_patches(size=8)
    >>> len(split.train), len(split.test), split.train[0].shape
    (6784, 1696, (8, 8, 1))
    """
    checks.integer("size", size, 1)
    if size > 64:
        raise ValueError(f"size must be at most 64, the width of a band, got {size}.")
    images = np.stack(checks.extra("sklearn.datasets", "experiments").load_sample_images().images)
    if gray:
        images = np.rint(images @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
    bands = [_patches(band, size) for band in np.split(images, 10, axis=2)]
    test = np.concatenate([bands[2], bands[7]], axis=1)
    train = np.concatenate([band for i, band in enumerate(bands) if i not in (2, 7)], axis=1)
    return Split(
        train=np.concatenate(train),
        test=np.concatenate(test),
        train_labels=np.repeat([0, 1], train.shape[1]),
        test_labels=np.repeat([0, 1], test.shape[1]),
    )


def _patches(images: np.ndarray, size: int) -> np.ndarray:
    """Whole patches of images (k, height, width, c), shape (k, number, size, size, c)."""
    k, height, width, channels = images.shape
    down, across = height // size, width // size
    tiles = images[:, : down * size, : across * size].reshape(k, down, size, across, size, channels)
    return tiles.swapaxes(2, 3).reshape(k, down * across, size, size, channels)


def _divide_product(a: Array | int, b: int, n: int) -> tuple[Array, Array]:
    """Quotient and remainder of a b by n, for b <= n, bit by bit of a since the product may exceed int32."""
    a = jnp.asarray(a, jnp.int32)

    def double(i: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, remainder = carry
        total = 2 * remainder + b * ((a >> (30 - i)) & 1)
        return 2 * quotient + total // n, total % n

    return jax.lax.fori_loop(0, 31, double, (jnp.zeros_like(a), jnp.zeros_like(a)))
