"""The GAN part of the density experiment: closed forms in full, the GANs at a size that only shows they run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.density import gan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return gan.run(gan.smoke())


def test_the_figures_are_json_and_are_printed(figures):
    assert json.loads(json.dumps(figures, allow_nan=False))["modes"] == figures["modes"]
    shown = gan.table(figures)
    for row in figures["modes"] + figures["digits"]:
        for name in row.keys() - {"strength"}:
            assert row[name]["least"] <= row[name]["mean"] * (1 + 1e-9) + 1e-9
            assert f"{row[name]['mean']:.4g} [" in shown


def test_mirror_descent_ends_at_the_closed_form(figures):
    distances = {row["strength"]: row for row in figures["optimum"]}
    assert max(row["descent"] for row in figures["optimum"]) < 1e-6
    assert distances[0.01]["data"] == pytest.approx(0.0073, abs=1e-4)
    assert distances[1.0]["data"] > 0.4
    for row in figures["optimum"]:
        assert row["power"] < 0.15 * row["data"]


def test_formula_weights_alone_make_a_log_density(figures):
    formula, *others = figures["weights"]
    assert formula["slope"] == pytest.approx(1, abs=1e-3)
    assert formula["correlation"] > 1 - 1e-5
    assert len(others) == 2
    assert all(other["correlation"] < 0.99 for other in others)


def test_modes_are_judged_by_what_was_made():
    """Samples made by hand: a tenth off every mode, one mode missing, twice the variance."""
    law, rng = gan.mode_law(0.1), np.random.default_rng(0)
    on = np.asarray(law.means)[1:][rng.integers(0, 24, 9000)] + 0.1 * 2**0.5 * rng.standard_normal((9000, 2))
    off = np.full((1000, 2), 1.0)
    got = gan.judge_modes(jnp.asarray(np.concatenate([on, off])), law)
    tail = np.exp(-8 / 2)  # beyond 4 standard deviations at twice the variance
    assert got["off_mode"] == pytest.approx(0.1 + 0.9 * tail, abs=4 * (0.9 * tail / 9000) ** 0.5)
    assert (got["modes"], got["least_share"]) == (24, 0.0)
    assert got["variance_ratio"] == pytest.approx(2 - 2 * 4 * tail / (1 - tail), rel=0.05)  # cut at 4


def test_digits_are_judged_by_what_was_made():
    law = gan.Gaussian(jnp.zeros(3), 1.0)
    keys = jax.random.split(jax.random.key(0), 3)
    real, test, samples = (law.sample(key, 300) for key in keys)
    like = gan.judge_digits(samples, test, real, law)
    shifted = gan.judge_digits(samples + 3, test, real, law)
    assert like["far"] < 0.12 < 0.5 < shifted["far"]
    assert like["missed"] < 0.12 < 0.5 < shifted["missed"]
    assert abs(like["energy"]) < 0.1 < 1 < shifted["energy"]
    assert like["frechet"] < 0.3 < 20 < shifted["frechet"]
    assert like["model_nats"] > shifted["model_nats"] + 5


def test_it_is_drawn(figures, axes):
    gan.draw(figures, axes)
    assert len(axes.get_legend().get_texts()) == 2
