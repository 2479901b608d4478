"""Particle Gibbs leaves its law of paths as it is, with two particles."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import particles
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling.driver import initial_noise

TIMES = np.array([4.0, 2.0, 1.1, 0.6, 0.3])
MEAN, VARIANCE = 0.4, 0.8
Y, NOISE = 1.3, 0.35
CHAINS = 6000


def reward(data):
    return -((data[:, 0] - Y) ** 2) / (2 * NOISE)


def law_of_paths():
    """Mean and covariance of (x at TIMES, data) under the ancestral chain times e^reward, in NumPy.

    Under Karras the chain is x_s = D + (s / t)^2 (x_t - D) + s (1 - (s / t)^2)^(1/2) z, with D linear in x_t:
    a path is Gaussian, and so is the reward of its last estimate.
    """

    def estimate(t):  # D = gain x + rest
        gain = VARIANCE / (VARIANCE + t**2)
        return gain, (1 - gain) * MEAN

    mean, covariance = np.zeros(1), np.array([[TIMES[0] ** 2]])
    for t, s in itertools.pairwise(TIMES):
        gain, rest = estimate(t)
        kept = (s / t) ** 2
        slope = gain + kept * (1 - gain)
        cross = slope * covariance[-1]
        corner = slope * cross[-1] + s**2 * (1 - kept)
        covariance = np.block([[covariance, cross[:, None]], [cross[None], np.array([[corner]])]])
        mean = np.append(mean, slope * mean[-1] + (1 - kept) * rest)
    gain, rest = estimate(TIMES[-1])
    seen = gain * covariance[-1]
    weight = seen / (gain * seen[-1] + NOISE)
    mean = mean + weight * (Y - gain * mean[-1] - rest)
    return mean, covariance - np.outer(weight, seen)


@pytest.mark.parametrize("guide", [False, True])
def test_two_particles_leave_the_law_of_paths(guide):
    denoise = Gaussian(jnp.asarray([MEAN]), jnp.asarray([VARIANCE])).denoiser(Karras())
    mean, covariance = law_of_paths()
    drawn = np.random.default_rng(0).multivariate_normal(mean, covariance, CHAINS)
    path = jnp.asarray(drawn.T[:, :, None], jnp.float32)
    process = particles.Twisted(denoise, reward, guide=guide)
    swept = particles.gibbs(jax.random.key(1), process, path, jnp.asarray(TIMES), n=2, num_sweeps=4)
    got = np.asarray(swept.path[:, :, 0], np.float64).T
    assert (np.abs(got.mean(0) - mean) < 4.5 * np.sqrt(np.diag(covariance) / CHAINS)).all()
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / CHAINS)
    assert (np.abs(np.cov(got.T) - covariance) < 4.5 * spread).all()
    gain = VARIANCE / (VARIANCE + TIMES[-1] ** 2)
    np.testing.assert_allclose(swept.data[:, 0], gain * got[:, -1] + (1 - gain) * MEAN, rtol=1e-4, atol=1e-5)
    moved = np.corrcoef(got[:, -1], drawn[:, -1])[0, 1]
    assert moved < 0.9  # it stays where nothing else is heavier, but not for ever


@pytest.mark.slow
def test_sweeps_reach_the_law_from_any_path():
    """From paths to one point: after sweeps of sixteen particles mean and variance are the law's."""
    denoise = Gaussian(jnp.asarray([MEAN]), jnp.asarray([VARIANCE])).denoiser(Karras())
    mean, covariance = law_of_paths()
    times, process = jnp.asarray(TIMES), particles.Twisted(denoise, reward)
    path = particles.noised_path(jax.random.key(2), denoise, jnp.full((3000, 1), MEAN), times)
    swept = particles.gibbs(jax.random.key(3), process, path, times, n=16, num_sweeps=30)
    got = np.asarray(swept.path[-1, :, 0], np.float64)
    assert abs(got.mean() - mean[-1]) < 4.5 * np.sqrt(covariance[-1, -1] / 3000)
    assert abs(got.var() - covariance[-1, -1]) < 4.5 * covariance[-1, -1] * np.sqrt(2 / 3000)


def test_a_noised_path_is_the_forward_process():
    """At two times its covariance is data's and the noise's that they share."""
    data = jnp.full((20_000, 1), 0.7)
    denoise = Gaussian(jnp.asarray([MEAN]), jnp.asarray([VARIANCE])).denoiser(Karras())
    path = np.asarray(particles.noised_path(jax.random.key(4), denoise, data, jnp.asarray([2.0, 0.5])))
    got = np.cov(path[:, :, 0])
    wanted = np.array([[4.0, 0.25], [0.25, 0.25]])
    np.testing.assert_allclose(path.mean(1)[:, 0], 0.7, atol=4.5 * 2 / 20_000**0.5)
    spread = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / 20_000)
    assert (np.abs(got - wanted) < 4.5 * spread).all()


def test_a_chain_does_not_see_its_neighbours():
    denoise = Gaussian(jnp.asarray([MEAN]), jnp.asarray([VARIANCE])).denoiser(Karras())
    times, process = jnp.asarray(TIMES), particles.Twisted(denoise, reward)
    x = initial_noise(jax.random.key(5), denoise, 5, 4.0)
    path = particles.noised_path(jax.random.key(6), denoise, x, times)
    few, more = (
        particles.gibbs(jax.random.key(7), process, path[:, :k], times, n=3, num_sweeps=2) for k in (2, 5)
    )
    np.testing.assert_allclose(few.path, more.path[:, :2], rtol=1e-5, atol=1e-6)
