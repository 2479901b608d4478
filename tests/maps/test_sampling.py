"""Samples of an exact map have the exact law, however many calls there are and however much noise is new."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compilations, few_of

import jaxdiff as jd
from jaxdiff import maps

SCHEDULES = {
    "karras": jd.Karras(),
    "vp": jd.VariancePreserving(),
    "rectified_flow": jd.RectifiedFlow(),
    "ve": jd.VarianceExploding(),
}
VARIANCES = np.array([0.3, 1.5])
PLANS = [(1, 1.0), (3, 1.0), (3, 0.6), (4, 0.0)]


@pytest.mark.parametrize("name", few_of(SCHEDULES, ("rectified_flow",)))
def test_the_law_of_samples_is_the_data(name):
    law = jd.Gaussian(jnp.zeros(2), jnp.asarray(VARIANCES, jnp.float32))
    flow_map = maps.gaussian_map(law, SCHEDULES[name])
    for calls, renoise in PLANS:
        x = np.asarray(maps.sample_map(jax.random.key(1), flow_map, 20_000, num_calls=calls, renoise=renoise))
        np.testing.assert_allclose(x.mean(0) / VARIANCES**0.5, 0, atol=0.03)
        np.testing.assert_allclose(x.var(0) / VARIANCES, 1, atol=0.04)


def test_new_noise_is_new():
    """The correlation of samples with what they began from: all of it, a part, and none."""
    flow_map = maps.gaussian_map(jd.Gaussian(jnp.zeros(1), 1.0), jd.Karras())
    times = jnp.array([80.0, 2.0, 0.0])
    alone = maps.sample_map(jax.random.key(1), flow_map, 20_000, times=jnp.array([80.0, 0.0]))
    for renoise, wanted in ((0.0, 1.0), (0.6, 0.0), (1.0, 0.0)):
        x = maps.sample_map(jax.random.key(1), flow_map, 20_000, times=times, renoise=renoise)
        if renoise == 0.6:
            # x_2 = x_(1.6) + 1.2 noise, of variances 1 + 1.6^2 and 1 + 2^2.
            wanted = np.sqrt((1 + 1.6**2) / (1 + 2.0**2))
        elif renoise == 1.0:
            wanted = np.sqrt(1 / (1 + 2.0**2))
        got = np.corrcoef(x[:, 0], alone[:, 0])[0, 1]
        np.testing.assert_allclose(got, wanted, atol=0.015)


def test_rows_are_their_own_in_one_program():
    flow_map = maps.gaussian_map(jd.Gaussian(jnp.zeros(2), 1.0), jd.Karras())
    many = maps.sample_map(jax.random.key(2), flow_map, 6, num_calls=2)
    few = maps.sample_map(jax.random.key(2), flow_map, 3, num_calls=2)
    np.testing.assert_allclose(few, many[:3], rtol=1e-6)
    other = maps.gaussian_map(jd.Gaussian(jnp.ones(2), 2.0), jd.Karras())
    again = lambda: maps.sample_map(jax.random.key(3), other, 6, times=jnp.array([80.0, 1.5, 0.0]))  # noqa: E731
    again()
    assert compilations(again) == 0


def test_a_start_and_an_end_of_ones_own():
    """From a law at t = 2 down to the noise level 0.5, through one in between."""
    law = jd.Gaussian(jnp.array([5.0, -3.0]), 0.5)
    flow_map = maps.gaussian_map(law, jd.Karras())
    start, times = law.perturbed(jd.Karras(), 2.0), jnp.array([2.0, 1.0, 0.5])
    for renoise in (0.0, 1.0):
        x = np.asarray(
            maps.sample_map(jax.random.key(4), flow_map, 20_000, times=times, start=start, renoise=renoise)
        )
        np.testing.assert_allclose(x.mean(0), [5.0, -3.0], atol=0.03)
        np.testing.assert_allclose(x.var(0), 0.5 + 0.25, rtol=0.04)
