"""Noise drawn anew: laws of Gaussians by a recursion, and what is projected."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, few_of

from jaxdiff.guidance import projections
from jaxdiff.guidance.projected import projected
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling.driver import integrate, sample
from jaxdiff.sampling.renoising import Renoising

MEAN, VARIANCE, N = 0.4, 0.7, 20_000


@pytest.mark.parametrize("name", few_of(["karras", "vp", "cosine"], few=("vp",)))
@pytest.mark.parametrize("repeats", [1, 3])
def test_gaussians_follow_the_recursion(name, repeats):
    """x_s has mean alpha D(mean) and variance alpha^2 gain^2 var + sigma^2, gain the slope of D in x."""
    case = CASES[name]
    times = np.asarray([0.9, 0.6, 0.35, 0.2, 0.15])
    alphas, sigmas = (
        np.asarray(jax.vmap(f)(jnp.asarray(times))) for f in (case.schedule.alpha, case.schedule.sigma)
    )
    mean, variance = 1.5, 0.25
    start = jnp.asarray(1.5 + 0.5 * np.random.default_rng(0).standard_normal((N, 1)), jnp.float32)
    for i, j in itertools.pairwise(range(len(times))):
        gain = alphas[i] * VARIANCE / (alphas[i] ** 2 * VARIANCE + sigmas[i] ** 2)
        for to in [i] * (repeats - 1) + [j]:
            data = MEAN + gain * (mean - alphas[i] * MEAN)
            mean, variance = alphas[to] * data, alphas[to] ** 2 * gain**2 * variance + sigmas[to] ** 2
    denoise = Gaussian(jnp.asarray([MEAN]), jnp.asarray([VARIANCE])).denoiser(case.schedule)
    got = integrate(jax.random.key(1), denoise, start, jnp.asarray(times), sampler=Renoising(repeats))
    got = np.asarray(got, np.float64)
    assert abs(got.mean() - mean) < 4.5 * np.sqrt(variance / N)
    assert abs(got.var() - variance) < 4.5 * variance * np.sqrt(2 / N)


def test_repeats_end_where_the_docstring_says():
    denoise = Gaussian(jnp.asarray([MEAN]), jnp.asarray([VARIANCE])).denoiser(Karras())
    x = 0.8 * jax.random.normal(jax.random.key(0), (N, 1))
    got = integrate(jax.random.key(1), denoise, x, jnp.asarray([0.8, 0.7999]), sampler=Renoising(40))
    wanted = (VARIANCE + 0.64) ** 2 / (2 * VARIANCE + 0.64)
    assert abs(float(got.var()) - wanted) < 4.5 * wanted * np.sqrt(2 / N)


def test_projected_data_lie_in_the_set():
    denoise = projected(
        Gaussian(jnp.zeros(2), jnp.ones(2)).denoiser(Karras()), projections.box(-0.5, jnp.asarray([0.2, 9.0]))
    )
    got = np.asarray(sample(jax.random.key(0), denoise, 200, num_steps=20, sampler=Renoising(2)))
    assert got.min() >= -0.5
    assert got[:, 0].max() <= np.float32(0.2)
    assert got[:, 1].max() > 0.2
