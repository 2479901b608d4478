"""The best of several continuations, against orders of normal draws and tilts of Gaussians."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import particles
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras

MEAN, VARIANCE, N = 0.4, 0.8, 6000
TIMES = np.array([4.0, 2.0, 1.1, 0.6, 0.3])
LARGEST = {1: (0.0, 1.0), 2: (np.pi**-0.5, 1 - 1 / np.pi), 3: (1.5 * np.pi**-0.5, 0.5595)}
"""Mean and variance of the largest of so many standard normal draws (Teichroew 1956)."""


def base():
    return Gaussian(jnp.asarray([MEAN]), jnp.asarray([VARIANCE])).denoiser(Karras())


@pytest.mark.parametrize("m", LARGEST)
def test_a_large_reward_takes_the_largest(m):
    """Under Karras x_s = D + (s / t)^2 (x - D) + s (1 - (s / t)^2)^(1/2) z, z the largest of m: a recursion."""
    rise, spread = LARGEST[m]
    mean, variance = TIMES[0] * rise, TIMES[0] ** 2 * spread
    for t, s in itertools.pairwise(TIMES):
        gain, kept = VARIANCE / (VARIANCE + t**2), (s / t) ** 2
        slope, std = gain + kept * (1 - gain), s * np.sqrt(1 - kept)
        mean = slope * mean + (1 - kept) * (1 - gain) * MEAN + std * rise
        variance = slope**2 * variance + std**2 * spread
    gain = VARIANCE / (VARIANCE + TIMES[-1] ** 2)
    mean, variance = gain * mean + (1 - gain) * MEAN, gain**2 * variance
    process = particles.Twisted(base(), lambda data: 1e6 * data[:, 0], guide=False)
    got = np.asarray(
        particles.best_of(jax.random.key(m), process, N, m, times=jnp.asarray(TIMES)), np.float64
    )
    assert abs(got.mean() - mean) < 4.5 * np.sqrt(variance / N)
    assert abs(got.var() - variance) < 4.5 * variance * np.sqrt(2 / N)


@pytest.mark.parametrize("m", [2, 8])
def test_a_weak_reward_has_all_but_one_part_in_m_of_its_tilt(m):
    """Of two draws weighed by e^(c z) the one chosen has mean c (1 - 1 / m), to the second order in c."""
    process = particles.Twisted(base(), lambda data: 0.8 * data[:, 0], guide=False)
    got = particles.best_of(jax.random.key(m), process, N, m, num_steps=100)
    wanted = MEAN + (1 - 1 / m) * 0.8 * VARIANCE
    assert abs(float(got.mean()) - wanted) < 4.5 * np.sqrt(VARIANCE / N) + 0.01


def test_rows_do_not_see_each_other():
    process = particles.Twisted(base(), lambda data: data[:, 0])
    few, more = (
        particles.best_of(jax.random.key(3), process, n, 3, times=jnp.asarray(TIMES)) for n in (2, 5)
    )
    np.testing.assert_allclose(few, more[:2], rtol=1e-5, atol=1e-6)
