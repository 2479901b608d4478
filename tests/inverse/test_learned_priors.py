"""A prior from observations alone: a round is that of exact expectation maximization, and rounds find the law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import inverse
from jaxdiff.laws.fitting import fit_gaussian
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras

MEAN = np.array([0.5, -1.0])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.7]])
STD, N = 0.3, 2000


def observations():
    """Data of which a third of the entries is hidden, and the others seen through noise; hidden ones are 0."""
    rng = np.random.default_rng(0)
    data = rng.multivariate_normal(MEAN, COVARIANCE, N)
    kept = rng.random((N, 2)) > 1 / 3
    y = kept * (data + STD * rng.standard_normal((N, 2)))
    return {"kept": jnp.asarray(kept, jnp.float32), "y": jnp.asarray(y, jnp.float32)}


def posterior(prior, seen):
    operator = inverse.linear(lambda x: seen["kept"] * x, (2,))
    return inverse.mmps(prior, operator, seen["y"], STD, num_iterations=2)


def fit(key, data):
    return fit_gaussian(data).denoiser(Karras())


def exact_round(mean, covariance, seen):
    """Expectation maximization's own, in NumPy: mean and covariance that fit all posteriors best."""
    means, spreads = [], []
    for kept, y in zip(np.asarray(seen["kept"], np.float64), np.asarray(seen["y"], np.float64), strict=True):
        a = np.diag(kept)
        gain = covariance @ a @ np.linalg.inv(a @ covariance @ a + STD**2 * np.eye(2))
        means.append(mean + gain @ (y - a @ mean))
        spreads.append(covariance - gain @ a @ covariance)
    means = np.array(means)
    return means.mean(0), np.cov(means.T, bias=True) + np.mean(spreads, 0)


def test_a_round_is_that_of_exact_expectation_maximization():
    seen, mean, covariance = observations(), np.array([0.2, -0.5]), np.diag([1.5, 1.2])
    prior = Gaussian(jnp.asarray(mean), jnp.asarray(covariance)).denoiser(Karras())
    data = np.asarray(inverse.draw_each(jax.random.key(1), prior, seen, posterior, num_steps=24), np.float64)
    wanted_mean, wanted = exact_round(mean, covariance, seen)
    np.testing.assert_allclose(data.mean(0), wanted_mean, atol=4 * 1.2 / N**0.5)
    np.testing.assert_allclose(np.cov(data.T), wanted, atol=4 * 1.5 * (2 / N) ** 0.5)
    few = jax.tree.map(lambda leaf: leaf[:7], seen)
    again = inverse.draw_each(jax.random.key(1), prior, few, posterior, num_steps=24)
    np.testing.assert_allclose(again, data[:7], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rounds_find_the_law_of_what_was_never_seen():
    """From the observations' own moments, holes and noise and all, which are the control."""
    seen = observations()
    start = np.cov(np.asarray(seen["y"]).T)
    first = Gaussian(jnp.asarray(np.asarray(seen["y"]).mean(0)), jnp.asarray(start)).denoiser(Karras())
    fitted = []

    def kept_fit(key, data):
        fitted.append((np.asarray(data).mean(0), np.cov(np.asarray(data).T)))
        return fit(key, data)

    inverse.learn_prior(jax.random.key(2), first, seen, posterior, kept_fit, num_rounds=20, num_steps=24)
    mean, covariance = (np.mean([pair[k] for pair in fitted[-8:]], 0) for k in (0, 1))
    likeliest = MEAN, COVARIANCE
    for _ in range(50):
        likeliest = exact_round(*likeliest, seen)
    np.testing.assert_allclose(mean, likeliest[0], atol=0.04)
    np.testing.assert_allclose(covariance, likeliest[1], atol=0.06)
    assert np.abs(start - COVARIANCE).max() > 0.3
