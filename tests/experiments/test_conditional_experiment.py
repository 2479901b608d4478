"""The conditional experiment: its exact posteriors, its judges, and both parts small."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.conditional import classes, digits, judges, methods, mixtures, patches, plane
from jaxdiff.laws.factors import FactorMixture


def test_exact_draws_are_of_the_posterior():
    """Their mean and variance against those of 200,000 draws of the prior, weighed by their likelihoods."""
    exact, rng = mixtures.Exact(3, 1, 0.4), np.random.default_rng(0)
    _, y = exact.observation(rng)
    prior = np.asarray(exact.law.sample(jax.random.key(0), 200_000), np.float64)
    logs = -((prior @ exact.matrix.T - y) ** 2).sum(1) / (2 * 0.4**2)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    got = exact.posterior(rng, y, 100_000)
    mean = weights @ prior
    spread = np.sqrt((weights**2) @ (prior - mean) ** 2 + got.var(0) / len(got))
    assert (np.abs(got.mean(0) - mean) < 4.5 * spread).all()
    square = weights @ prior**2
    spread = np.sqrt((weights**2) @ (prior**2 - square) ** 2 + (got**2).var(0) / len(got))
    assert (np.abs((got**2).mean(0) - square) < 4.5 * spread).all()


def test_the_likelihood_is_that_of_the_observation():
    exact = mixtures.Exact(3, 2, 0.4)
    problem = exact.problem(np.array([0.3, -0.2]))
    data = np.random.default_rng(1).standard_normal((5, 3))
    wanted = -((data @ exact.matrix.T - [0.3, -0.2]) ** 2).sum(1) / (2 * 0.16)
    got = methods.LogLikelihood(problem)(jnp.asarray(data, jnp.float32))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_a_ring_is_the_posterior_of_a_distance():
    """Moments of grid draws against those of 200,000 draws of the prior, weighed by their likelihoods."""
    ring, rng = plane.Ring(0.3), np.random.default_rng(0)
    _, y = ring.observation(rng)
    prior = np.asarray(ring.law.sample(jax.random.key(0), 200_000), np.float64)
    weights = np.exp(-((np.linalg.norm(prior, axis=1) - y) ** 2) / (2 * 0.3**2))
    weights /= weights.sum()
    got = ring.posterior(rng, y, 50_000)
    for power in (1, 2):
        wanted = weights @ prior**power
        error = np.sqrt((weights**2) @ (prior**power - wanted) ** 2 + (got**power).var(0) / len(got))
        assert (np.abs((got**power).mean(0) - wanted) < 4.5 * error).all()


def test_ranks_of_the_truth_are_uniform_for_the_right_law():
    assert np.isclose(mixtures._off(np.array([0.25, 0.75])), 0.25)
    assert np.isclose(mixtures._off(np.array([0.9, 0.9])), 0.9)


@pytest.mark.slow
def test_a_ring_is_found(axes):
    figures = plane.run(plane.smoke())
    distance = {row["method"]: row["distance"]["mean"] for row in figures["rows"]}
    assert distance[mixtures.FLOOR] < distance["DPS, any function"] < 0.85 * distance["prior"]
    assert json.loads(json.dumps(figures, allow_nan=False))
    assert "held by intervals" in plane.table(figures)
    plane.draw(figures, axes)


@pytest.mark.parametrize(("n", "share"), [(19, 0.9), (32, 0.9), (200, 0.5)])
def test_an_interval_of_exact_draws_holds_its_share(n, share):
    """Of uniform ones exactly."""
    low, high = judges.interval(np.random.default_rng(n).random((n, 20_000)), share)
    assert abs((high - low).mean() - share) < 4 * (high - low).std() / 20_000**0.5
    with pytest.raises(ValueError, match="needs 19 draws, got 18"):
        judges.interval(np.zeros((18, 1)), 0.9)


def test_judges_of_holes():
    """The energy score is least for the true law, and intervals of normal draws hold nine in ten."""
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((200, 3))
    exact = rng.standard_normal((200, 60, 3))
    right, wide, moved = (
        judges.images(s * rng.standard_normal((200, 60, 3)) + m, truth, exact)
        for s, m in ((1.0, 0.0), (2.0, 0.0), (1.0, 1.0))
    )
    assert abs(right["coverage"]["mean"] - 0.9) < 4 * right["coverage"]["standard_error"]
    assert wide["coverage"]["mean"] > 0.98
    less = right["less_control"]
    assert abs(less["mean"]) < 4 * less["standard_error"] < 0.1  # pairs: a score alone has .05
    for worse in (wide, moved):
        assert worse["energy_score"]["mean"] > right["energy_score"]["mean"] + 0.1
        assert worse["less_control"]["mean"] > 0.1


@pytest.mark.slow
def test_a_posterior_is_nearer_than_its_prior(axes):
    figures = mixtures.run(mixtures.smoke())
    distance = {row["method"]: row["distance"]["mean"] for row in figures["rows"]}
    assert distance[mixtures.FLOOR] < distance["MMPS, 4"] < 0.7 * distance["prior"]
    assert distance["split Gibbs"] < 0.8 * distance["prior"]
    assert json.loads(json.dumps(figures, allow_nan=False))
    assert "held by intervals" in mixtures.table(figures)
    mixtures.draw(figures, axes)


@pytest.mark.slow
def test_holes_are_filled(axes):
    figures = digits.run(digits.smoke())
    assert json.loads(json.dumps(figures, allow_nan=False))
    for task in digits.smoke().tasks:
        rows = {row["method"]: row for row in figures["rows"] if row["task"] == task}
        assert rows["Gaussian"]["error"]["mean"] < rows["each pixel alone"]["error"]["mean"]
        matrix, _ = digits.TASKS[task]
        truth = np.asarray(figures["shown"]["truth"]) @ matrix.T
        kept = np.asarray(figures["shown"]["draws"][task]["MMPS, 4"]) @ matrix.T
        assert np.abs(kept - truth[:, None]).mean() < 0.1  # what is seen is kept
    assert "small" in digits.table(figures)
    digits.draw(figures, axes)


@pytest.mark.slow
def test_guidance_makes_classes_surer(axes):
    figures = classes.run(classes.smoke())
    assert json.loads(json.dumps(figures, allow_nan=False))
    right = {row["name"]: row["right"]["mean"] for row in figures["rows"]}
    assert right["scale 3.0"] > right["the classes' Gaussians"] - 0.02
    assert right["training images"] == 1
    assert "told from test" in classes.table(figures)
    classes.draw(figures, axes)


def test_the_gaussian_of_patches_is_conditioned():
    """A line of numbers, of rank one: mean and covariance of what is drawn, by NumPy."""
    rng = np.random.default_rng(0)
    factors, matrix, y = rng.standard_normal((3, 1)), rng.standard_normal((2, 3)), np.array([0.4, -0.3])
    law = FactorMixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.asarray(factors)[None], jnp.full((1, 3), 0.3))
    got = patches.conditioned(law, matrix, y[None], 20_000, 0.5, rng)[0]
    covariance = factors @ factors.T + 0.3 * np.eye(3)
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T + 0.25 * np.eye(2))
    left = covariance - gain @ matrix @ covariance
    assert (np.abs(got.mean(0) - gain @ y) < 4.5 * np.sqrt(np.diag(left) / 20_000)).all()
    spread = np.sqrt((left**2 + np.outer(np.diag(left), np.diag(left))) / 20_000)
    assert (np.abs(np.cov(got.T) - left) < 4.5 * spread).all()
