"""The autoregressive part at a reduced size: minimizers against the likelihood's, and the chain rule."""

import json

import numpy as np
import pytest
from scipy import optimize

from experiments.density import autoregressive, autoregressive_training, minimizers
from jaxdiff import data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return autoregressive.run(autoregressive.smoke())


def test_the_figures_are_json_and_are_printed(figures):
    assert json.loads(json.dumps(figures, allow_nan=False))["digits"] == figures["digits"]
    shown = autoregressive.table(figures)
    for row in figures["minimizers"]:
        assert f"{row['criterion']:20} {row['m']:.5f}  {row['s2']:9.6f}" in shown
    for row in figures["digits"]["rows"]:
        assert f"{row['mean']:.2f} +- {row['standard_error']:.2f}" in shown


def test_the_formula_weights_have_the_minimizer_of_the_likelihood_and_the_uniform_ones_have_not(figures):
    """The maximum of the likelihood by SciPy, on a grid of its own."""
    x = np.linspace(-7, 7, 4001)

    def normal(mean, variance):
        return np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)

    law = sum(normal(mean, 0.05) for mean in (-1.6, -0.8, 0.8, 1.6)) / 4

    def loss(theta):
        family = (normal(theta[0], theta[1]) + normal(-theta[0], theta[1])) / 2
        return 1000 * np.trapezoid(law * np.log(law / family), x)

    best = optimize.minimize(loss, [1.0, 0.3], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    rows = {row["criterion"]: row for row in figures["minimizers"]}
    for name in ("likelihood", "formula"):
        np.testing.assert_allclose([rows[name]["m"], rows[name]["s2"]], best.x, rtol=0, atol=1e-5)
    np.testing.assert_allclose(rows["formula"]["integral"], best.fun / 1000, rtol=0, atol=1e-7)
    for name in minimizers.SCHEDULES:
        assert abs(rows[name]["s2"] - best.x[1]) > 2e-3
        assert rows[name]["divergence"] > best.fun / 1000 + 5e-5


def test_before_training_the_chain_rule_gives_the_histogram_of_each_pixel(figures):
    """Networks that answer zero leave independent pixels, whose log-density is a sum of logarithms."""
    found, split = figures["digits"]["untrained"], data.digits()
    counts = np.stack([np.bincount(column, minlength=17) for column in split.train.T]).astype(float)
    token = np.arange(64) // 16 * 4 + np.arange(64) % 8 // 2  # of each pixel
    for k in range(16):  # smoothed by the frequencies in a token
        pooled = counts[token == k].sum(0) / counts[token == k].sum()
        counts[token == k] += 0.5 * 17 * np.maximum(pooled, 3e-3)
    frequencies = counts / counts.sum(1, keepdims=True)
    exact = 64 * np.log(17) + np.log(frequencies[np.arange(64), split.test[:16]]).sum(1).mean()
    assert found["exact"] == pytest.approx(exact, abs=1e-3)
    assert 0 < found["standard_error"] < 2
    assert abs(found["formula"] - exact) < 4 * found["standard_error"]


def test_learning_is_seen(figures):
    """Of all ways and seeds: more than a Gaussian, on the same images."""
    found = figures["digits"]
    assert [(row["images"], row["weights"]) for row in found["rows"]] == [
        (images, way) for images in autoregressive.JUDGED for way in autoregressive_training.WAYS
    ]
    for row in found["rows"]:
        assert len(row["seeds"]) == 2
        assert row["mean"] > found["gaussian_nats"] + 5
    nats = {(row["images"], row["weights"]): row for row in found["rows"]}
    assert len(found["differences"]) == 2 * (len(autoregressive_training.WAYS) - 1)
    for row in found["differences"]:
        own, first = nats[row["images"], row["weights"]], nats[row["images"], "uniform"]
        assert row["mean"] == pytest.approx(own["mean"] - first["mean"], abs=1e-6)
        assert row["standard_error"] < own["standard_error"]  # pairing pays
        assert row["mean"] != 0
        # The nats that each level loses are those of the density, but for other draws of noise.
        assert sum(row["by_level"]) == pytest.approx(row["mean"], abs=4 * row["standard_error"] + 0.5)
