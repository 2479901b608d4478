"""Guided steps, against DDIM with a guided denoiser."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, interior

from jaxdiff.guidance.classifier_free import guided
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.process import log_snr
from jaxdiff.sampling.classifier_free import APG, CFGPlusPlus
from jaxdiff.sampling.ddim import DDIM
from jaxdiff.sampling.driver import integrate

X = jnp.asarray(np.random.default_rng(6).standard_normal((5, 2)))
ONE = Gaussian(jnp.asarray([1.0, 0.3]), jnp.asarray([0.4, 0.2]))
ALL = GaussianMixture(jnp.asarray([0.4, 0.6]), jnp.asarray([[1.0, 0.3], [-1.0, 0.0]]), jnp.full(2, 0.5))
KEY = jax.random.key(0)


def stepped(sampler, denoise, x, t, s):
    x = jnp.asarray(x, float)
    return sampler.step(KEY, denoise, sampler.init(x), jnp.asarray(t), jnp.asarray(s))


@pytest.mark.parametrize("name", ["vp", "karras", "rectified_flow"])
def test_a_step_of_cfg_plus_plus_is_one_of_ddim_with_a_scale_of_its_own(name, float64):
    case = CASES[name]
    s, t = interior(case)[2], interior(case)[3]
    c, u = (jax.tree.map(lambda leaf: leaf.astype(float), law).denoiser(case.schedule) for law in (ONE, ALL))
    got = stepped(CFGPlusPlus(0.4, u), c, X, t, s)
    fall = float(log_snr(case.schedule, t) - log_snr(case.schedule, s))
    wanted = stepped(DDIM(), guided(c, 0.4 / (1 - np.exp(fall / 2)), unconditional=u), X, t, s)
    np.testing.assert_allclose(got.x, wanted.x, rtol=1e-8, atol=1e-9)


def test_without_scale_it_is_unconditional(float64):
    schedule = CASES["vp"].schedule
    c, u = ONE.denoiser(schedule), ALL.denoiser(schedule)
    got, wanted = stepped(CFGPlusPlus(0.0, u), c, X, 0.6, 0.5), stepped(DDIM(), u, X, 0.6, 0.5)
    np.testing.assert_allclose(got.x, wanted.x, rtol=1e-12)


@pytest.mark.parametrize("name", ["vp", "rectified_flow"])
def test_apg_without_its_three_parts_is_ddim_guided(name, float64):
    case = CASES[name]
    times = jnp.asarray(interior(case)[1:4][::-1])
    c, u = (jax.tree.map(lambda leaf: leaf.astype(float), law).denoiser(case.schedule) for law in (ONE, ALL))
    x = case.schedule.sigma(times[0]) * jnp.asarray(X, float)
    got = integrate(KEY, c, x, times, sampler=APG(2.5, momentum=0.0, parallel=1.0, unconditional=u))
    wanted = integrate(KEY, guided(c, 2.5, unconditional=u), x, times, sampler=DDIM())
    np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-9)


def test_the_parts_of_apg(float64):
    """The change's momentum and length, and that none of it is along the estimate."""
    schedule, t, s = CASES["vp"].schedule, 0.6, 0.4
    c, u = ONE.denoiser(schedule), ALL.denoiser(schedule)
    sampler = APG(3.0, momentum=-0.5, radius=1.3, unconditional=u)
    before = jnp.asarray(np.random.default_rng(7).standard_normal((5, 2)))
    start = sampler.init(jnp.asarray(X, float))._replace(change=before)
    got = sampler.step(KEY, c, start, jnp.asarray(t), jnp.asarray(s))
    data, other = (np.asarray(d(jnp.asarray(X, float), t).data) for d in (c, u))
    change = data - other - 0.5 * np.asarray(before)
    length = np.linalg.norm(change, axis=1, keepdims=True)
    change = np.where(length > 1.3, 1.3 * change / length, change)
    assert (length > 1.3).any()
    assert (length < 1.3).any()
    np.testing.assert_allclose(got.change, change, rtol=1e-9)
    # What DDIM adds for a change of the estimate: (alpha_s - sigma_s alpha_t / sigma_t) times it.
    alpha, sigma = (float(f(s)) for f in (schedule.alpha, schedule.sigma))
    gain = alpha - sigma * float(schedule.alpha(t) / schedule.sigma(t))
    plain = np.asarray(stepped(DDIM(), c, X, t, s).x)
    added = (np.asarray(got.x) - plain) / gain
    np.testing.assert_allclose((added * data).sum(1), 0, atol=1e-9)
    across = change - (change * data).sum(1, keepdims=True) / (data**2).sum(1, keepdims=True) * data
    np.testing.assert_allclose(added, 2 * across, rtol=1e-6, atol=1e-9)


def test_the_null_condition_is_the_default():
    law = Labelled([ONE, Gaussian(jnp.asarray([-1.0, 0.0]), jnp.asarray([0.4, 0.2]))])
    denoise = dataclasses.replace(law.denoiser(CASES["karras"].schedule), null_condition=0)
    denoise = denoise.given(jnp.asarray([1, 1, 0, 1, 1]))
    for sampler in (CFGPlusPlus, APG):
        own = stepped(sampler(0.7), denoise, X, 0.8, 0.5)
        given = stepped(sampler(0.7, unconditional=denoise.given(0)), denoise, X, 0.8, 0.5)
        np.testing.assert_array_equal(own.x, given.x)
