"""The data sets, and the Gaussian beside the model: a start, a yardstick, and what the model may build on.

Images are integers p in {0, ..., L - 1}; what is learned is x = ((p + u) / L - mean) / std, u uniform. The
Gaussian has the mean and covariance of x,

    full          the sample covariance of the training rows
    stationary    of each pair of channels and difference of places the mean over all such pairs of pixels

In 3,072 dimensions the first is fitted to noise. Fitted to the training patches of five photographs, it has
5.37 bits per dimension on those of the two others where the second has 4.82 (flower and coffee left out), and
6.11 where that has 5.16 (astronaut and rocket; MEASURED, jax 0.12.0.1, 2026-11-22).
"""

import contextlib
import hashlib
import math
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.train.configs import Config
from jaxdiff import data
from jaxdiff._numerics.randomness import per_row
from jaxdiff.data import Split, image_sets
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.shaped import Shaped
from jaxdiff.typing import Array, Key

_CHUNK = 1000  # images transformed together


class Problem(NamedTuple):
    """A data set and how it is scaled."""

    train: np.ndarray
    """Pixels (n, height, width, channels), integers."""
    test: np.ndarray
    levels: int
    mean: float
    std: float
    law: Shaped
    """Of images x."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels."""
        return self.train.shape[1:]

    def encode(self, key: Key, pixels: Array) -> Array:
        """Images x, of the shape of pixels, dequantized; row i depends on (key, i) and the image only."""
        return (data.dequantize(key, pixels, levels=self.levels) - self.mean) / self.std

    def images(self, x: np.ndarray) -> np.ndarray:
        """Images x with values in [0, 1], to be looked at."""
        return np.clip(self.mean + self.std * x, 0, 1)


def load(config: Config, directory: pathlib.Path | None, *, kept: pathlib.Path | None = None) -> Problem:
    """The config's data set; directory is where the user has its files, for those that ship with nothing.

    kept: a file for the Gaussian, whose eigenvectors are most of a start (half a minute in 3,072 dimensions).
    It is read if it is of these pixels, and written if not.
    """
    split, levels = _read(config, directory)
    mean, std = _mean_and_std(split.train, levels)
    stationary = config.gaussian == "stationary"

    def fit() -> _Moments:
        images = ((split.train.astype(np.float32) + 0.5) / levels - mean) / std
        return _moments(images, 1 / (levels * std) ** 2 / 12, stationary=stationary)

    described = f"{split.train.shape} {split.train.dtype} {levels} {stationary}".encode()
    digest = hashlib.sha256(described + np.ascontiguousarray(split.train).tobytes()).hexdigest()
    center, values, basis = map(jnp.asarray, fit() if kept is None else _read_or_made(kept, digest, fit))
    law = Shaped(Gaussian(center, Spectrum(values, basis)), split.train.shape[1:])
    # A part of the test images may be evaluated: then of all of them.
    test = np.random.default_rng(0).permutation(split.test)
    return Problem(split.train, test, levels, mean, std, law)


def _mean_and_std(pixels: np.ndarray, levels: int) -> tuple[float, float]:
    """Of (pixels + 1/2) / levels, by sums of integers, which are exact."""
    total = squares = 0.0
    for first in range(0, len(pixels), _CHUNK):
        rows = pixels[first : first + _CHUNK].ravel().astype(np.float64)
        total, squares = total + float(rows.sum()), squares + float(rows @ rows)
    mean = total / pixels.size
    return (mean + 0.5) / levels, math.sqrt(squares / pixels.size - mean**2) / levels


class _Moments(NamedTuple):
    """Of a Gaussian."""

    mean: np.ndarray
    values: np.ndarray
    """Of the covariance, and its eigenvectors as columns."""
    basis: np.ndarray


def _read_or_made(file: pathlib.Path, digest: str, make: Callable[[], _Moments]) -> _Moments:
    """What a file holds, if it is there, whole, and of data of this digest; else made, and put there."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            if str(arrays["digest"]) == digest:
                return _Moments(*(arrays[name] for name in _Moments._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or not whole
    moments = make()
    new = file.with_name(f"{file.name}.{os.getpid()}")  # each process its own, and whole before it is seen
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as opened:
            np.savez(opened, digest=digest, **moments._asdict())
        new.replace(file)
    except OSError:  # a run that cannot write is refused by its checkpoints, which say so
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
    return moments


def flipped(key: Key, images: Array) -> Array:
    """Each image (n, height, width, channels) mirrored or not; which it is depends on (key, its row) only."""
    mirrored = per_row(key, len(images), jax.random.bernoulli)
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def _read(config: Config, directory: pathlib.Path | None) -> tuple[Split, int]:
    if config.dataset == "digits":
        split = data.digits()
        return split._replace(
            train=split.train.reshape(-1, 8, 8, 1), test=split.test.reshape(-1, 8, 8, 1)
        ), 17
    if config.dataset == "patches":
        return image_sets.natural_patches(size=32), 256
    if directory is None:
        raise FileNotFoundError(f"The data set {config.dataset} is read from your files; give --data DIR.")
    return {"cifar10": image_sets.cifar10, "mnist": image_sets.mnist}[config.dataset](directory), 256


def _moments(images: np.ndarray, noise_variance: float, *, stationary: bool) -> _Moments:
    """Fitted to images and the variance of their dequantization, which no direction has less than."""
    size = images[0].size
    mean = images.mean((0, 1, 2) if stationary else 0, dtype=np.float64)
    centered = (images - mean).astype(np.float32)
    if stationary:
        covariance = _stationary_covariance(centered)
    else:
        rows = centered.reshape(len(images), size)
        covariance = rows.T @ rows / len(images)
    values, basis = np.linalg.eigh(covariance.astype(np.float64))
    # The mean over unequal numbers of pairs may leave a direction with less than nothing.
    values = np.maximum(values, 0) + noise_variance
    mean = np.broadcast_to(mean, images.shape[1:]).ravel()
    return _Moments(*(array.astype(np.float32) for array in (mean, values, basis)))


def _stationary_covariance(images: np.ndarray) -> np.ndarray:
    """Of centered images and their mirror images: (d, d), equal for equal differences of places."""
    n, height, width, channels = images.shape
    padded = (2 * height, 2 * width)  # or the two ends of an image would meet
    spectrum = np.zeros((padded[0], width + 1, channels, channels), complex)
    for first in range(0, n, _CHUNK):
        transformed = np.fft.rfft2(images[first : first + _CHUNK], s=padded, axes=(1, 2))
        rows = np.moveaxis(transformed, 0, 2)
        spectrum += rows.swapaxes(2, 3) @ rows.conj()
    sums = np.fft.irfft2(spectrum, s=padded, axes=(0, 1))
    pairs = [size - np.minimum(np.arange(2 * size), np.arange(2 * size, 0, -1)) for size in (height, width)]
    by_difference = sums / (n * np.maximum(np.outer(*pairs), 1))[:, :, None, None]
    by_difference = (by_difference + by_difference[:, -np.arange(2 * width) % (2 * width)]) / 2
    down, across = (np.subtract.outer(np.arange(size), np.arange(size)) for size in (height, width))
    covariance = by_difference[down[:, None, :, None], across[None, :, None, :]]
    covariance = covariance.transpose(0, 1, 4, 2, 3, 5).reshape(images[0].size, images[0].size)
    return (covariance + covariance.T) / 2
