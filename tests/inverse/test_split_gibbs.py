"""The law of data given a noised point, and chains that alternate between prior and observation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, interior

from jaxdiff import inverse
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras, VariancePreserving
from jaxdiff.sampling.driver import sample

RNG = np.random.default_rng(4)
WEIGHTS, MEANS = np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-0.8, 0.4]])
VARIANCES = np.array([0.2, 0.5])
LAW = GaussianMixture(jnp.asarray(WEIGHTS), jnp.asarray(MEANS), jnp.asarray(VARIANCES))


def posterior_law(x, alpha, sigma):
    """Weights, means and variances of the mixture given alpha data + sigma noise = x, in NumPy."""
    spread = alpha**2 * VARIANCES + sigma**2
    weights = WEIGHTS * np.exp(-((x[None] - alpha * MEANS) ** 2).sum(1) / (2 * spread)) / spread
    gain = alpha * VARIANCES / spread
    means = MEANS + gain[:, None] * (x[None] - alpha * MEANS)
    return weights / weights.sum(), means, VARIANCES * sigma**2 / spread


@pytest.mark.parametrize("name", ["vp", "karras", "rectified_flow"])
@pytest.mark.parametrize("by_row", [False, True])
def test_given_a_noised_point_it_is_the_law_of_the_data_there(name, by_row, float64):
    case = CASES[name]
    schedule, times = case.schedule, interior(case)
    x, z = jnp.asarray(RNG.standard_normal((3, 2))), jnp.asarray(RNG.standard_normal((3, 2)))
    t = jnp.asarray([times[2], times[3], times[3]]) if by_row else times[3]
    s = times[1]
    got = inverse.denoising_posterior(LAW.denoiser(schedule), x, t)(z, s)
    for i in range(3):
        own = float(t[i]) if by_row else float(t)
        weights, means, variances = posterior_law(
            np.asarray(x[i]), float(schedule.alpha(own)), float(schedule.sigma(own))
        )
        law = GaussianMixture(jnp.asarray(weights), jnp.asarray(means), jnp.asarray(variances))
        wanted = law.denoiser(schedule)(z[i : i + 1], s)
        np.testing.assert_allclose(got.data[i], wanted.data[0], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(got.noise[i], wanted.noise[0], rtol=1e-6, atol=1e-8)


def test_rows_keep_their_points():
    x, t = jnp.asarray(RNG.standard_normal((4, 2)), jnp.float32), jnp.asarray([0.4, 0.8, 0.6, 0.5])
    denoise = inverse.denoising_posterior(LAW.denoiser(VariancePreserving()), x, t)
    rows = jnp.asarray([2, 0, 3, 1])
    whole, some = denoise(x, 0.3).data, denoise.at_rows(rows)(x[rows], 0.3).data
    np.testing.assert_allclose(some, whole[rows], rtol=1e-6)
    with pytest.raises(ValueError, match="given 4 points, one a row, and was asked for 3"):
        denoise(x[:3], 0.3)


def test_a_posterior_is_sampled_from_a_denoised_point():
    """Many draws at one x: mean and variance of the exact mixture, within standard errors and the steps' own."""
    n, schedule, t = 4000, Karras(), 0.9
    x = np.array([0.3, 0.2])
    denoise = inverse.denoising_posterior(LAW.denoiser(schedule), jnp.tile(jnp.asarray(x)[None], (n, 1)), t)
    got = np.asarray(sample(jax.random.key(0), denoise, n, num_steps=40), np.float64)
    weights, means, variances = posterior_law(x, 1.0, t)
    mean = weights @ means
    second = weights @ (means**2 + variances[:, None])
    assert (np.abs(got.mean(0) - mean) < 4 * np.sqrt((second - mean**2) / n) + 0.005).all()
    assert (np.abs((got**2).mean(0) - second) < 4 * (got**2).std(0) / np.sqrt(n) + 0.01).all()


A = RNG.standard_normal((2, 3))
ROOT = RNG.standard_normal((3, 3))
MEAN, COVARIANCE = RNG.standard_normal(3), ROOT @ ROOT.T / 3 + 0.2 * np.eye(3)
Y, STD = np.array([0.6, -1.1]), 0.3


def test_a_chain_by_a_generator_has_the_same_law():
    """Of N(0, 0.64 I), whose posteriors are one call exactly: variances where it is seen and where not."""
    rho, n, schedule = 0.5, 6000, VariancePreserving()
    made = make_denoiser(lambda params, x, t, noise: noise, None, schedule, shape=(2,), scale=0.8)
    got = inverse.split_gibbs(
        jax.random.key(4), Gaussian(jnp.zeros(2), 0.64).denoiser(schedule), inverse.linear(lambda x: x[:1], (2,)),
        jnp.asarray([0.9]), STD, n, noises=jnp.full(20, rho), generator=inverse.PosteriorGenerator(made),
    )  # fmt: skip
    got = np.asarray(got, np.float64)
    total = 0.64 + STD**2 + rho**2
    variances = np.array([0.64 * (STD**2 + rho**2) / total, 0.64])
    assert (np.abs(got.mean(0) - [0.9 * 0.64 / total, 0.0]) < 4 * np.sqrt(variances / n)).all()
    np.testing.assert_allclose(got.var(0), variances, rtol=0.08)


@pytest.mark.parametrize("schedule", [VariancePreserving(), Karras()], ids=["vp", "karras"])
def test_a_chain_has_the_law_that_its_noise_leaves(schedule):
    """p(x) N(y; A x, std^2 + rho^2 A A'), Gaussian here: mean and covariance within standard errors.

    Not the posterior's: rho is large enough to tell them apart, so that a wrong rho in either half is seen.
    """
    rho, n = 0.5, 6000
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCE)).denoiser(schedule)
    operator = inverse.linear(lambda x: jnp.asarray(A, x.dtype) @ x, (3,))
    got = inverse.split_gibbs(
        jax.random.key(1), denoise, operator, jnp.asarray(Y), STD, n,
        noises=jnp.full(30, rho), num_steps=24,
    )  # fmt: skip
    got = np.asarray(got, np.float64)

    def conditioned(noise):
        gain = COVARIANCE @ A.T @ np.linalg.inv(A @ COVARIANCE @ A.T + noise)
        return MEAN + gain @ (Y - A @ MEAN), COVARIANCE - gain @ A @ COVARIANCE

    mean, covariance = conditioned(STD**2 * np.eye(2) + rho**2 * A @ A.T)
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(got.mean(0) - mean) < 4 * error + 0.01).all()
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
    assert (np.abs(np.cov(got.T) - covariance) < 4 * spread + 0.03 * np.abs(np.diag(covariance)).max()).all()
    exact, _ = conditioned(STD**2 * np.eye(2))
    assert (np.abs(exact - mean) > 8 * error + 0.02).any()


@pytest.mark.slow
def test_annealed_chains_reach_the_posterior():
    """Of a mixture, from far: means of the exact posterior within standard errors and what rho leaves."""
    n, std = 3000, 0.2
    operator = inverse.linear(lambda x: x[:1], (2,))
    denoise = LAW.denoiser(Karras())
    y = np.array([0.1])
    noises = jnp.concatenate([jnp.geomspace(1.5, 0.15, 15), jnp.full(10, 0.15)])
    got = inverse.split_gibbs(jax.random.key(2), denoise, operator, jnp.asarray(y), std, n, noises=noises)
    got = np.asarray(got, np.float64)
    spread = VARIANCES + std**2
    weights = WEIGHTS * np.exp(-((y[0] - MEANS[:, 0]) ** 2) / (2 * spread)) / np.sqrt(spread)
    weights /= weights.sum()
    first = weights @ (MEANS[:, 0] + VARIANCES / spread * (y[0] - MEANS[:, 0]))
    second = weights @ MEANS[:, 1]
    for values, wanted in zip(got.T, (first, second), strict=True):
        assert abs(values.mean() - wanted) < 4 * values.std() / np.sqrt(n) + 0.03


@pytest.mark.slow
def test_a_chain_does_not_see_its_neighbours():
    operator = inverse.linear(lambda x: x[:1], (2,))
    few, more = (
        inverse.split_gibbs(
            jax.random.key(3), LAW.denoiser(Karras()), operator, jnp.asarray([0.1]), 0.2, n,
            noises=jnp.asarray([1.0, 0.5]), num_steps=4,
        )
        for n in (2, 5)
    )  # fmt: skip
    np.testing.assert_allclose(few, more[:2], rtol=1e-5, atol=1e-6)


def test_what_an_observation_leaves_may_be_less_than_the_noise_of_a_sweep():
    """Of many rows, z given x and y then has not half of rho; at a constant rho the law is known exactly.

    p(data, z | y) of N(0, 1), N(z; data, rho^2) and N(y; z, std^2): data as if seen through rho^2 + std^2.
    """
    law, rho, std, n = Gaussian([0.0], 1.0).denoiser(Karras()), 5.0, 0.5, 4000
    seen = inverse.mask(np.array([True]))
    y = jnp.array([1.5])
    key = jax.random.key(0)
    x = inverse.split_gibbs(key, law, seen, y, std, n, noises=np.full(3, rho), num_steps=40)
    variance = 1 / (1 + 1 / (rho**2 + std**2))
    assert float(x.mean()) == pytest.approx(variance * 1.5 / (rho**2 + std**2), abs=4 * (variance / n) ** 0.5)
    assert float(x.var()) == pytest.approx(variance, abs=4 * variance * (2 / n) ** 0.5 + 0.02)
