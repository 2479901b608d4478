"""Batches, pixels, data sets and synthetic laws against closed forms, scipy and scikit-learn."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiff import data
from jaxdiff.data import batches

KEY = jax.random.key(0)


# --- batches ---


def test_batch_rows_go_together_and_depend_on_their_index_only():
    rows = {"x": jnp.arange(20.0).reshape(10, 2), "label": np.arange(10)}
    drawn = data.batch(KEY, rows, 64)
    np.testing.assert_array_equal(drawn["x"], np.asarray(rows["x"])[drawn["label"]])
    np.testing.assert_array_equal(data.batch(KEY, rows, 16)["label"], drawn["label"][:16])
    other = data.batch(jax.random.fold_in(KEY, 1), rows, 64)["label"]
    assert np.mean(np.asarray(other) == drawn["label"]) < 0.5


def test_batch_is_uniform_with_replacement():
    # Over 200 steps of 50 from 7 rows: chi-square with 6 degrees of freedom. Independent draws repeat the
    # row of their neighbour with probability 1/7.
    draw = jax.jit(jax.vmap(lambda i: data.batch(jax.random.fold_in(KEY, i), jnp.arange(7), 50)))
    rows = np.asarray(draw(jnp.arange(200)))
    assert scipy.stats.chisquare(np.bincount(rows.ravel(), minlength=7)).pvalue > 1e-3
    repeats = np.mean(rows[:, 1:] == rows[:, :-1])
    assert abs(repeats - 1 / 7) < 3 * np.sqrt(1 / 7 * 6 / 7 / (200 * 49))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 12])
def test_epoch_batch_sees_every_row_once_per_epoch(size):
    n, epochs = 12, 5
    steps = -(-n * epochs // size)
    walk = jax.jit(jax.vmap(lambda step: data.epoch_batch(KEY, jnp.arange(n), size, step)))(jnp.arange(steps))
    walk = np.asarray(walk).ravel()[: n * epochs].reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(walk, axis=1), np.tile(np.arange(n), (epochs, 1)))
    assert len({tuple(epoch) for epoch in walk}) == epochs
    # The walk is of the key alone, in whatever steps it is taken.
    whole = [data.epoch_batch(KEY, jnp.arange(n), n, epoch) for epoch in range(epochs)]
    np.testing.assert_array_equal(walk, whole)


@pytest.mark.parametrize(
    ("step", "size", "n"), [(2**31 - 1, 4096, 1_281_167), (1_000_003, 999, 1437), (5, 3, 4)]
)
def test_epochs_are_counted_beyond_int32(step, size, n):
    quotient, remainder = batches._divide_product(step, size, n)
    assert (int(quotient), int(remainder)) == divmod(step * size, n)


# --- pixels ---


@pytest.mark.parametrize("levels", [2, 17, 49, 256, 65536])
def test_quantize_returns_the_very_pixels(monkeypatch, levels):
    pixels = np.arange(levels)[:, None] * np.ones((1, 3), int)
    x = data.dequantize(KEY, pixels, levels=levels)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(data.quantize(x, levels=levels), pixels)
    # And at the ends of the uniform's range, where rounding would move it into the next level.
    for extreme in (0.0, 1 - 2**-24):
        monkeypatch.setattr(
            jax.random, "uniform", lambda k, shape, dtype, u=extreme: jnp.full(shape, u, dtype)
        )
        x = data.dequantize(KEY, pixels, levels=levels)
        assert float(x.min()) >= 0
        assert float(x.max()) < 1
        np.testing.assert_array_equal(data.quantize(x, levels=levels), pixels)
        np.testing.assert_array_equal(jax.jit(lambda x: data.quantize(x, levels=levels))(x), pixels)


def test_quantize_clips_samples():
    np.testing.assert_array_equal(
        data.quantize(jnp.array([-0.3, 0.0, 0.5, 1.0, 7.0]), levels=17), [0, 0, 8, 16, 16]
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_pixel(bad):
    x = jnp.array([[0.1, bad], [0.9, 0.5]])
    with pytest.raises(ValueError, match=r"x has 1 non-finite of 4 values, the first at index \(0, 1\)"):
        data.quantize(x, levels=4)
    traced = jax.jit(lambda x: data.quantize(x, levels=4))(x)
    np.testing.assert_array_equal(traced, [[0, -1], [3, 2]])
    with pytest.raises(ValueError, match="pixels must lie in"):
        data.dequantize(KEY, traced, levels=4)


def test_dequantized_pixels_are_uniform_in_their_cells():
    pixels = np.random.default_rng(0).integers(0, 17, (400, 25))
    u = np.asarray(data.dequantize(KEY, pixels, levels=17), float) * 17 - pixels
    assert scipy.stats.kstest(u.ravel(), "uniform").pvalue > 1e-2
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 3 / np.sqrt(400 * 24)
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 3 / np.sqrt(399 * 25)
    # A row's noise is its own.
    np.testing.assert_array_equal(
        data.dequantize(KEY, pixels[:7], levels=17), data.dequantize(KEY, pixels, levels=17)[:7]
    )


def test_bits_per_dimension():
    # The uniform density on the cube codes every pixel by log2(17) bits; one bit less where it is doubled.
    np.testing.assert_allclose(data.bits_per_dimension(0.0, 64, levels=17), 4.087462841, rtol=1e-6)
    doubled = data.bits_per_dimension(jnp.array([64 * np.log(2), 0.0]), 64, levels=256)
    np.testing.assert_allclose(doubled, [7, 8], rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_bits_per_dimension_of_the_true_law_is_its_entropy():
    # A density that is constant on cells loses nothing by dequantization: eq. (1) is then an equality.
    law = np.array([0.1, 0.5, 0.15, 0.25])
    pixels = np.repeat(np.arange(4), (1000 * law).astype(int))[:, None]
    x = data.dequantize(KEY, pixels, levels=4)
    nats = np.log(4 * law[np.floor(4 * np.asarray(x[:, 0])).astype(int)]).mean()
    np.testing.assert_allclose(
        data.bits_per_dimension(nats, 1, levels=4), scipy.stats.entropy(law, base=2), rtol=1e-12
    )


# --- synthetic laws ---

N = 20_000


def _check_moments(x, mean, covariance):
    """First and second moments within four standard errors."""
    x = np.asarray(x, float)
    products = x[:, :, None] * x[:, None, :]
    for values, wanted in ((x, mean), (products, covariance + np.multiply.outer(mean, mean))):
        errors = values.std(axis=0) / np.sqrt(len(x))
        assert (np.abs(values.mean(axis=0) - wanted) < 4 * errors).all()


def test_two_moons():
    # x = (c, s) or (1 - c, 1/2 - s) with (c, s) on the upper half circle: E s = 2 / pi, E s^2 = 1/2.
    moment = 1 / 8 - 1 / np.pi
    covariance = np.array([[3 / 4, moment], [moment, 9 / 16 - 1 / np.pi]]) + 0.1**2 * np.eye(2)
    _check_moments(data.two_moons(KEY, N, noise=0.1), np.array([0.5, 0.25]), covariance)
    x = np.asarray(data.two_moons(KEY, N, noise=0.0))
    upper = (np.abs(np.hypot(x[:, 0], x[:, 1]) - 1) < 1e-6) & (x[:, 1] > -1e-6)
    lower = (np.abs(np.hypot(x[:, 0] - 1, x[:, 1] - 0.5) - 1) < 1e-6) & (x[:, 1] < 0.5 + 1e-6)
    assert (upper | lower).all()


def test_checkerboard_is_uniform_on_its_eight_squares():
    # The area is 32: a uniform law has entropy log 32.
    x = np.asarray(data.checkerboard(KEY, N))
    cell = np.floor((x + 4) / 2).astype(int)
    assert ((cell >= 0) & (cell < 4)).all()
    assert (cell.sum(axis=1) % 2 == 0).all()
    counts = np.unique(cell, axis=0, return_counts=True)[1]
    assert len(counts) == 8
    assert scipy.stats.chisquare(counts).pvalue > 1e-2
    within = (x + 4) / 2 - cell
    assert all(scipy.stats.kstest(within[:, i], "uniform").pvalue > 1e-2 for i in range(2))
    assert abs(np.corrcoef(within.T)[0, 1]) < 3 / np.sqrt(N)


def test_eight_gaussians():
    x = np.asarray(data.eight_gaussians(KEY, N), float)
    # Radius 4: covariance (16 / 2 + std^2) I. Its entropy is the mean of -log of the mixture density.
    _check_moments(x, np.zeros(2), (8 + 0.09) * np.eye(2))
    angles = np.arange(8) * np.pi / 4
    centres = 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    squared = np.sum((x[:, None] - centres[None]) ** 2, axis=2)
    surprise = -np.log(np.exp(-squared / 0.18).mean(axis=1) / (2 * np.pi * 0.09))
    assert abs(surprise.mean() - 2.5094) < 3 * surprise.std() / np.sqrt(N)
    assert scipy.stats.chisquare(np.bincount(squared.argmin(axis=1))).pvalue > 1e-2


@pytest.mark.parametrize("law", [data.two_moons, data.checkerboard, data.eight_gaussians])
def test_rows_of_the_laws_are_their_own(law):
    law = jax.jit(law, static_argnums=1)
    x = law(KEY, 50)
    assert x.shape == (50, 2)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(law(KEY, 9), x[:9], atol=1e-6)
    assert not np.allclose(law(jax.random.key(1), 50), x)


# --- data sets ---


def test_digits_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    split = data.digits()
    assert split.train.shape == (1437, 64)
    assert split.test.shape == (360, 64)
    assert split.train.dtype == np.uint8
    assert (split.train.min(), split.train.max()) == (0, 16)
    # Every image once, with its label, and the published totals of the two parts.
    bunch = datasets.load_digits()
    labels = {
        row.tobytes(): label for row, label in zip(bunch.data.astype(np.uint8), bunch.target, strict=True)
    }
    assert len(labels) == 1797
    rows = np.concatenate([split.train, split.test])
    assert {row.tobytes() for row in rows} == set(labels)
    np.testing.assert_array_equal(
        [labels[row.tobytes()] for row in rows], np.concatenate([split.train_labels, split.test_labels])
    )
    assert int(rows.sum()) == 561718
    np.testing.assert_array_equal(split.test_labels[:10], [2, 8, 2, 6, 6, 7, 1, 9, 8, 5])


@pytest.mark.parametrize("size", [8, 24])
def test_photograph_patches_are_disjoint(monkeypatch, size):
    # Photographs whose pixels are their own coordinates show where every pixel of every patch came from.
    datasets = pytest.importorskip("sklearn.datasets")
    row, column = np.indices((427, 640))
    images = [np.stack([np.full_like(row, k), row, column], axis=-1) for k in range(2)]
    monkeypatch.setattr(datasets, "load_sample_images", lambda: SimpleNamespace(images=images))
    split = data.photograph_patches(size=size, gray=False)

    per_band = (427 // size) * (64 // size)
    assert split.train.shape == (2 * 8 * per_band, size, size, 3)
    assert split.test.shape == (2 * 2 * per_band, size, size, 3)
    pixels = np.concatenate([split.train, split.test]).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) == len(pixels)
    assert set(np.unique(split.test[..., 2] // 64)) == {2, 7}
    assert set(np.unique(split.train[..., 2] // 64)) == {0, 1, 3, 4, 5, 6, 8, 9}
    for part, labels in ((split.train, split.train_labels), (split.test, split.test_labels)):
        assert (part[..., 0] == labels[:, None, None]).all()
        # Each patch is a window: rows and columns step by one from its corner.
        steps = part[..., 1:] - part[:, :1, :1, 1:]
        assert (steps == np.indices((size, size)).transpose(1, 2, 0)[None]).all()


def test_gray_photograph_patches_are_the_luma_of_the_colours():
    pytest.importorskip("sklearn.datasets")
    gray, colour = data.photograph_patches(), data.photograph_patches(gray=False)
    assert gray.train.shape == (6784, 8, 8, 1)
    assert gray.test.shape == (1696, 8, 8, 1)
    assert gray.train.dtype == colour.train.dtype == np.uint8
    for got, rgb in ((gray.train, colour.train), (gray.test, colour.test)):
        assert np.abs(1000 * got[..., 0].astype(int) - rgb.astype(int) @ [299, 587, 114]).max() <= 500


@pytest.mark.parametrize("load", [data.digits, data.photograph_patches])
def test_a_missing_package_is_named(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"jaxdiff\[experiments\]"):
        load()


# --- bad input ---


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (
            ValueError,
            lambda: data.batch(KEY, {"a": np.ones(3), "b": np.ones(4)}, 2),
            r"got shapes \(3,\), \(4,\)",
        ),
        (ValueError, lambda: data.batch(KEY, np.ones((0, 2)), 2), "at least one row"),
        (ValueError, lambda: data.batch(KEY, {}, 2), "got shapes none"),
        (ValueError, lambda: data.batch(KEY, np.float32(1), 2), "one leading axis"),
        (ValueError, lambda: data.batch(KEY, np.ones(3), 0), "size must be an integer of at least 1"),
        (ValueError, lambda: data.epoch_batch(KEY, np.ones(3), 4, 0), "at most the 3 rows of data, got 4"),
        (ValueError, lambda: data.epoch_batch(KEY, np.ones(3), 2, -1), "step must lie in"),
        (
            TypeError,
            lambda: data.dequantize(KEY, np.ones((2, 3)), levels=17),
            "integers, got float64",
        ),
        (
            ValueError,
            lambda: data.dequantize(KEY, np.full((2, 3), 17), levels=17),
            r"pixels must lie in \[0, 16\]",
        ),
        (
            ValueError,
            lambda: data.dequantize(KEY, np.int32(3), levels=17),
            r"pixels must have shape \(batch, ...\), got a scalar",
        ),
        (ValueError, lambda: data.quantize(jnp.ones(2), levels=0), "levels must be an integer"),
        (ValueError, lambda: data.bits_per_dimension(0.0, 0, levels=17), "num_dimensions must be an integer"),
        (ValueError, lambda: data.checkerboard(KEY, 0), "n must be an integer"),
        (ValueError, lambda: data.photograph_patches(size=65), "at most 64"),
    ],
)
def test_bad_input_is_refused(error, call, words):
    with pytest.raises(error, match=words):
        call()
