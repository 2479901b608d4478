"""Decoupled annealing and its corrections, against exact posteriors of Gaussians and on a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import few_of

from jaxdiff import inverse
from jaxdiff.guidance import projections
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras, VariancePreserving

RNG = np.random.default_rng(3)
A = RNG.standard_normal((2, 3))
ROOT = RNG.standard_normal((3, 3))
MEAN, COVARIANCE = RNG.standard_normal(3), ROOT @ ROOT.T / 3 + 0.2 * np.eye(3)
Y, STD, N = np.array([0.6, -1.1]), 0.3, 4000


def seen(x):
    return x @ jnp.asarray(A, x.dtype).T


def conditioned(covariance):
    gain = covariance @ A.T @ np.linalg.inv(A @ covariance @ A.T + STD**2 * np.eye(2))
    return MEAN + gain @ (Y - A @ MEAN), covariance - gain @ A @ covariance


def check(got, mean, covariance, slack):
    """Within standard errors, and what steps and corrections may be off."""
    got = np.asarray(got, np.float64)
    scale = np.sqrt(np.diag(covariance))
    assert (np.abs(got.mean(0) - mean) < (4.5 / len(got) ** 0.5 + slack) * scale).all()
    spread = np.sqrt((covariance**2 + np.outer(scale, scale) ** 2) / len(got))
    assert (np.abs(np.cov(got.T) - covariance) < 4.5 * spread + slack * np.outer(scale, scale)).all()


CORRECTIONS = {
    "linear": (
        inverse.linear_gaussian(
            inverse.linear(lambda x: jnp.asarray(A, x.dtype) @ x, (3,)), jnp.asarray(Y), STD
        ),
        0,
    ),
    "langevin": (
        inverse.langevin(lambda x: -((seen(x) - Y[None]) ** 2).sum(1) / (2 * STD**2), num_moves=100),
        1,
    ),
    "ensemble": (inverse.ensemble_kalman(seen, jnp.asarray(Y), STD), 0),
}


@pytest.mark.parametrize("name", few_of(CORRECTIONS, few=("linear", "ensemble")))
def test_a_correction_alone_is_exact_for_its_gaussians(name):
    """Given draws of p(data | x_t) at two points: the law given x_t and y, for any covariance or an isotropic one."""
    correction, isotropic = CORRECTIONS[name]
    schedule, t = VariancePreserving(), 0.4
    prior = 0.6 * np.eye(3) if isotropic else COVARIANCE
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(prior)).denoiser(schedule)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    x = np.repeat([[0.5, -0.2, 0.4], [2.5, 1.8, -1.6]], N // 2, axis=0)
    precision = np.linalg.inv(prior) + (alpha / sigma) ** 2 * np.eye(3)
    middle = np.linalg.solve(precision, (np.linalg.solve(prior, MEAN) + alpha / sigma**2 * x).T).T
    draws = middle + RNG.multivariate_normal(np.zeros(3), np.linalg.inv(precision), N)
    got = jax.jit(correction)(
        jax.random.key(0), denoise, jnp.asarray(x, jnp.float32), t, jnp.asarray(draws, jnp.float32)
    )
    both = precision + A.T @ A / STD**2
    for rows in (slice(0, N // 2), slice(N // 2, N)):
        mean = np.linalg.solve(both, precision @ middle[rows][0] + A.T @ Y / STD**2)
        check(got[rows], mean, np.linalg.inv(both), 0.03)


def test_a_projected_draw_is_exact_for_isotropic_gaussians():
    """Given A data = Y without noise: the Gaussian's own law there, and A data = Y in every draw."""
    denoise = Gaussian(jnp.asarray(MEAN), 0.7).denoiser(Karras())
    correction = inverse.projection(projections.equality(A, Y))
    noises = jnp.asarray([30.0, 1.0, 0.4])
    got = inverse.daps(jax.random.key(4), denoise, correction, N, noises=noises, num_steps=12)
    np.testing.assert_allclose(seen(got), np.broadcast_to(Y, (N, 2)), atol=1e-5)
    gain = np.linalg.pinv(A)
    mean, covariance = MEAN + gain @ (Y - A @ MEAN), 0.7 * (np.eye(3) - gain @ A)
    free = np.linalg.svd(A)[2][2]
    left = (np.asarray(got, np.float64) - mean) @ free
    assert abs(left.mean()) < 4.5 * np.sqrt(0.7 / N)
    assert abs(left.var() - free @ covariance @ free) < 4.5 * 0.7 * np.sqrt(2 / N) + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "ensemble"])
def test_annealing_ends_at_the_posterior(name):
    correction, isotropic = CORRECTIONS[name]
    prior = 0.6 * np.eye(3) if isotropic else COVARIANCE
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(prior)).denoiser(Karras())
    got = inverse.daps(
        jax.random.key(1), denoise, correction, N, noises=jnp.geomspace(20.0, 0.1, 6), num_steps=16
    )
    check(got, *conditioned(prior), 0.05)


@pytest.mark.slow
def test_rings_are_found():
    """A mixture whose distance from the origin is seen: moments of the posterior, summed over a grid."""
    law = GaussianMixture(
        jnp.asarray([0.4, 0.6]), jnp.asarray([[1.0, 0.5], [-1.0, 0.0]]), jnp.asarray([0.5, 0.4])
    )
    y, std = 1.5, 0.2
    line = np.linspace(-5, 5, 401)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    logs = np.asarray(law.log_prob(jnp.asarray(grid)), np.float64)
    weights = np.exp(logs - ((grid**2).sum(1) ** 0.5 - y) ** 2 / (2 * std**2))
    weights /= weights.sum()

    def log_likelihood(x):
        return -((jnp.sqrt((x**2).sum(1) + 1e-12) - y) ** 2) / (2 * std**2)

    got = inverse.daps(
        jax.random.key(2), law.denoiser(Karras()), inverse.langevin(log_likelihood), N,
        noises=jnp.geomspace(10.0, 0.05, 24),
    )  # fmt: skip
    got = np.asarray(got, np.float64)
    # Annealing is too fast for the law itself: second moments are .12, .06, .03 off by 12, 24, 48 noises,
    # whatever solver draws the data and in however many steps.
    for power in (1, 2):
        wanted = weights @ grid**power
        assert np.abs((got**power).mean(0) - wanted).max() < 0.1, power
    prior = np.asarray(law.sample(jax.random.key(3), N), np.float64)
    radius = np.linalg.norm(got, axis=1)
    assert radius.std() < 0.5 * np.linalg.norm(prior, axis=1).std()
    assert abs(radius.mean() - weights @ np.linalg.norm(grid, axis=1)) < 0.03


@pytest.mark.slow
def test_rows_are_corrected_by_themselves():
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCE)).denoiser(Karras())
    x = jnp.asarray(RNG.standard_normal((5, 3)), jnp.float32)
    whole, few = (
        jax.jit(CORRECTIONS["langevin"][0])(jax.random.key(4), denoise, x[:n], jnp.asarray(0.5), x[:n])
        for n in (5, 2)
    )
    np.testing.assert_allclose(whole[:2], few, rtol=1e-4, atol=1e-5)
