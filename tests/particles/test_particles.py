"""Particles against laws whose products, powers and tilts are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, few_of

from jaxdiff import particles
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras
from jaxdiff.particles.driver import systematic

KEY = jax.random.key(7)
GRID = np.linspace(-12.0, 12.0, 40_001)
ONE = ([0.4, 0.6], [-1.5, 1.0], [0.5, 0.3])
OTHER = ([0.7, 0.3], [0.5, 2.0], [1.0, 0.6])


def law(weights, means, variances):
    return GaussianMixture(jnp.asarray(weights), jnp.asarray(means)[:, None], jnp.asarray(variances))


def log_density(weights, means, variances):
    w, m, v = (np.asarray(a)[:, None] for a in (weights, means, variances))
    return np.log((w * np.exp(-((GRID - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)).sum(0))


def exact(log_target):
    """log Z, mean and second moment of e^log_target, by a sum over a fine grid."""
    mass = np.exp(log_target) * (GRID[1] - GRID[0])
    return np.log(mass.sum()), (mass * GRID).sum() / mass.sum(), (mass * GRID**2).sum() / mass.sum()


def check(got, wanted, slack):
    """Within three standard errors, and what the chain's own steps may be off."""
    estimates = (got.log_evidence, *(got.expectation(lambda x, p=p: x[:, 0] ** p) for p in (1, 2)))
    for estimate, value in zip(estimates, wanted, strict=True):
        assert 0 < estimate.standard_error < 0.15
        assert abs(estimate.value - value) < 3 * estimate.standard_error + slack, (estimate, value)


POWERS = {"guidance": [2.0, -1.0], "annealing": [2.0, 0.0], "product": [1.0, 1.0]}


@pytest.mark.parametrize("name", few_of(["karras", "vp", "cosine", "ou"], few=("karras",)))
@pytest.mark.parametrize("powers", POWERS.values(), ids=POWERS)
def test_powers_of_mixtures(powers, name):
    case = CASES[name]
    parts = [law(*parameters).denoiser(case.schedule) for parameters in (ONE, OTHER)]
    # Weights of heavy tails: eight groups as a rule tell too small an error, which is what is tested with.
    got = particles.run(KEY, particles.Composed(parts, powers), 500, groups=32, num_steps=100)
    target = sum(p * log_density(*parameters) for p, parameters in zip(powers, (ONE, OTHER), strict=True))
    check(got, exact(target), 0.02)


def test_the_exact_twist_has_equal_weights(float64):
    """Of Gaussian data and a linear reward b x the chain's log E e^r is linear in x, by b E[data | x]."""
    covariance, b = jnp.asarray([[1.0, 0.4], [0.4, 0.5]]), jnp.asarray([0.7, -1.2])
    base = Gaussian(jnp.asarray([0.3, -0.2]), covariance)
    process = particles.Twisted(base.denoiser(Karras()), lambda data: data @ b)
    got = particles.run(KEY, process, 64, groups=4, num_steps=200, threshold=0.0)
    np.testing.assert_allclose(got.log_weights, -np.log(64), atol=1e-9)
    np.testing.assert_allclose(got.log_evidences, got.log_evidences[0], atol=1e-9)
    np.testing.assert_allclose(got.log_evidence.value, base.mean @ b + 0.5 * b @ covariance @ b, atol=0.02)
    mean = base.mean + covariance @ b
    for i in range(2):
        estimate = got.expectation(lambda x, i=i: x[:, i])
        assert abs(estimate.value - mean[i]) < 4 * estimate.standard_error + 0.01


@pytest.mark.parametrize("guide", [True, False])
def test_any_twist_leads_to_the_posterior(guide):
    """Of a mixture seen with noise of standard deviation .5: evidence and moments."""
    y, variance = 0.4, 0.25

    def reward(data):
        return -0.5 * (data[:, 0] - y) ** 2 / variance - 0.5 * jnp.log(2 * jnp.pi * variance)

    def twist(x, t, data):
        spread = variance + t**2 / (1 + t**2)
        return -0.5 * (data[:, 0] - y) ** 2 / spread - 0.5 * jnp.log(2 * jnp.pi * spread)

    process = particles.Twisted(law(*ONE).denoiser(Karras()), reward, twist if guide else None, guide)
    got = particles.run(KEY, process, 2000, num_steps=200)
    likelihood = -0.5 * (GRID - y) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
    check(got, exact(log_density(*ONE) + likelihood), 0.02)


@pytest.mark.slow
def test_evidence_is_within_three_errors_in_all_but_one_run_of_twenty():
    """At 400 steps: the chain's own bias, .036 nats at 100 of them, falls as one over their number."""
    y, variance = 0.4, 0.25

    def log_normal(data, spread):
        return -0.5 * (data[:, 0] - y) ** 2 / spread - 0.5 * jnp.log(2 * jnp.pi * spread)

    process = particles.Twisted(
        law(*ONE).denoiser(Karras()),
        lambda data: log_normal(data, variance),
        lambda x, t, data: log_normal(data, variance + t**2 / (1 + t**2)),
    )

    def off(key):
        estimate = particles.run(key, process, 50, groups=16, num_steps=400).log_evidence
        return (estimate.value - exact_evidence) / estimate.standard_error

    weights, means, variances = (np.asarray(part) for part in ONE)
    total = variances + variance
    exact_evidence = np.log(
        (weights * np.exp(-0.5 * (y - means) ** 2 / total) / np.sqrt(2 * np.pi * total)).sum()
    )
    off_by = np.asarray(jax.vmap(off)(jax.random.split(KEY, 40)))
    assert (np.abs(off_by) < 3).mean() >= 0.95
    assert off_by.std() < 1.6  # errors are told about right


def test_a_reward_of_nothing_is_sampling():
    process = particles.Twisted(law(*ONE).denoiser(Karras()), lambda data: jnp.zeros(len(data)))
    got = particles.run(KEY, process, 500, num_steps=20)
    np.testing.assert_array_equal(got.log_evidences, 0.0)
    np.testing.assert_allclose(got.log_weights, -np.log(500), rtol=1e-6)


def test_copies_are_counted_up_or_down():
    weights = np.random.default_rng(0).dirichlet(np.ones(50))
    total = np.zeros(50)
    for seed in range(50):
        counts = np.bincount(systematic(jax.random.key(seed), jnp.log(jnp.asarray(weights))), minlength=50)
        assert (np.abs(counts - 50 * weights) < 1 + 1e-4).all()
        assert counts.sum() == 50
        total += counts
    assert np.abs(total / 50 - 50 * weights).max() < 0.25  # unbiased: .07 is a standard error


def test_equal_draws_are_of_all_groups():
    got = particles.Particles(
        jnp.asarray([[[0.0], [1.0]], [[2.0], [3.0]]]),
        jnp.log(jnp.asarray([[0.5, 0.5], [0.25, 0.75]])),
        jnp.log(jnp.asarray([1.0, 3.0])),
    )
    assert np.isclose(got.log_evidence.value, np.log(2))
    assert np.isclose(got.expectation(lambda x: x[:, 0]).value, (0.5 + 3 * 2.75) / 4)
    draws = np.concatenate([got.draw(jax.random.key(seed))[:, 0] for seed in range(200)])
    np.testing.assert_allclose(draws.mean(), (0.5 + 3 * 2.75) / 4, atol=0.1)


def test_a_twist_of_nothing_weighs_at_the_end():
    process = particles.Twisted(
        law(*ONE).denoiser(Karras()), lambda data: data[:, 0], lambda x, t, data: 0 * data[:, 0], guide=False
    )
    got = particles.run(KEY, process, 500, num_steps=20)
    np.testing.assert_allclose(
        got.log_evidences, jnp.log(jnp.exp(got.x[..., 0]).mean(1)), rtol=1e-4, atol=1e-5
    )
