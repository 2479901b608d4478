"""The GAN part of the density experiment: closed forms in full, the GANs small, and what they are trained by."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.density import gan, gan_training
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.learning.score_regularizer import regularized_generator

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return gan.run(gan.smoke())


@slow
def test_the_figures_are_json_and_are_printed(figures):
    assert json.loads(json.dumps(figures, allow_nan=False))["modes"] == figures["modes"]
    shown = gan.table(figures)
    for row in figures["modes"] + figures["digits"]:
        for name in row.keys() - {"way"}:
            assert row[name]["least"] <= row[name]["mean"] * (1 + 1e-9) + 1e-9
            assert f"{row[name]['mean']:.4g} [" in shown

    names = [row["way"] for row in figures["modes"]]
    assert names == ["none", "l = 0.1", "no annealing", "none, longer", "none, repaired"]
    assert len({str(row) for row in figures["modes"]}) == len(names)
    off = {row["way"]: row["off_mode"]["mean"] for row in figures["modes"]}
    assert off["none, repaired"] < 0.15 < 0.5 < off["none"]


@slow
def test_mirror_descent_ends_at_the_closed_form(figures):
    distances = {row["strength"]: row for row in figures["optimum"]}
    assert max(row["descent"] for row in figures["optimum"]) < 1e-6
    assert distances[0.01]["data"] == pytest.approx(0.0073, abs=1e-4)
    assert distances[1.0]["data"] > 0.4
    for row in figures["optimum"]:
        assert row["power"] < 0.15 * row["data"]


@slow
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


@slow
def test_digits_are_judged_by_what_was_made():
    law = Gaussian(jnp.zeros(3), 1.0)
    keys = jax.random.split(jax.random.key(0), 3)
    real, test, samples = (law.sample(key, 300) for key in keys)
    like = gan.judge_digits(samples, test, real)
    shifted = gan.judge_digits(samples + 3, test, real)
    assert like["far"] < 0.12 < 0.5 < shifted["far"]
    assert like["missed"] < 0.12 < 0.5 < shifted["missed"]
    assert abs(like["energy"]) < 0.1 < 1 < shifted["energy"]
    assert like["frechet"] < 0.3 < 20 < shifted["frechet"]
    assert like["told"] < 0.62 < 0.95 < shifted["told"]


@slow
def test_it_is_drawn(figures, axes):
    gan.draw(figures, axes)
    assert len(axes.get_legend().get_texts()) == 2


@slow
def test_the_trained_generator_is_that_of_the_closed_form():
    """A Gaussian stays one: at a small strength the best generator is p^(1 + 2 l) / Z."""
    law, strength = Gaussian(jnp.zeros(1), jnp.asarray([1.0])), 0.25
    config = gan_training.Gan(
        t_min=0.05,
        t_max=20.0,
        clip=100.0,
        draws=2,
        num_samples=4000,
        steps=400,
        batch_size=128,
        width=16,
        penalty=0.01,
        fake_penalty=0.01,
        learning_rate=3e-3,
        seeds=(0, 1, 2),
    )
    problem = gan_training.Problem(law.sample, law, law.denoiser(gan_training.SCHEDULE))
    variants = [gan_training.Variant(0.0, 0.5), gan_training.Variant(strength, 0.5)]
    free, paying = np.asarray(gan_training.train(config, problem, variants)).var(axis=(2, 3)).mean(1)
    x = jnp.linspace(-6, 6, 2001)
    log_q = regularized_generator(law.log_prob(x[:, None]), x[1] - x[0], strength)
    best = float(jnp.sum(jax.nn.softmax(log_q) * x**2))
    print(free, paying, best)
    assert free == pytest.approx(1, abs=0.1)
    assert paying == pytest.approx(best, abs=0.1)
    assert best < 0.8
