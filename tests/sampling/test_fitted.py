import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.sampling import fitted

KEY = jax.random.key(0)
SCHEDULES = {"karras": jd.Karras(), "vp": jd.VariancePreserving(), "rectified_flow": jd.RectifiedFlow()}


def law(seed):
    """A ring of modes, which no law of the fit is like, of scale 3."""
    draw, angle = np.random.default_rng(seed), np.arange(7) / 7 * 2 * np.pi
    means = 4 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return jd.GaussianMixture(draw.dirichlet(np.full(7, 5.0)), means, draw.uniform(0.05, 0.5, 7))


def error(denoise, x, exact, sampler, times):
    got = jd.integrate(KEY, denoise, x, times, sampler=sampler)
    return float(jnp.sqrt(jnp.mean((got - exact) ** 2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_on_a_law_of_another_kind_it_leaves_less_than_classical_solvers_on_every_grid(name):
    """Against the exact flow to no noise, from noise, at 8 calls."""
    denoise = law(1).denoiser(SCHEDULES[name])
    x = jd.initial_noise(KEY, denoise, 256)
    low, high = denoise.working_range

    def grid(n, rho, end):
        made = jd.times.noise_grid(
            denoise.schedule, n - 1, t_min=end, t_max=high, scale=denoise.scale, rho=rho
        )
        return jd.times.to_clean(denoise.schedule, made)

    exact = jd.integrate(KEY, denoise, x, grid(200, 7.0, low), sampler=jd.ExponentialRungeKutta(4))
    own = jd.fitted_multistep(denoise, 8)
    classical = [
        error(denoise, x, exact, sampler, grid(8, rho, end))
        for sampler in (jd.deis(3), jd.unipc(3), jd.dpm_solver_pp(2))
        for rho in (2.0, 3.0, 5.0, 7.0)
        for end in (low, own.times[-2])
    ]
    assert error(denoise, x, exact, own, own.times) < 0.75 * min(classical)


@pytest.mark.slow
def test_far_modes_have_a_table_of_their_own():
    """Six modes at corners of a cube of 100 dimensions, which no law of the fit is like, at 5 and 8 calls.

    By the median row: a few that begin between two modes and end in the other have most of a mean.
    """
    draw = np.random.default_rng(3)
    means = draw.choice([-1.0, 1.0], (6, 100))
    denoise = jd.GaussianMixture(draw.dirichlet(np.full(6, 5.0)), means, np.full(6, 0.2)).denoiser(
        jd.Karras()
    )
    x = jd.initial_noise(KEY, denoise, 128)

    def grid(n, rho):
        made = jd.times.noise_grid(jd.Karras(), n - 1, t_min=0.02, t_max=80.0, scale=denoise.scale, rho=rho)
        return jd.times.to_clean(jd.Karras(), made)

    exact = jd.integrate(KEY, denoise, x, grid(200, 7.0), sampler=jd.ExponentialRungeKutta(4))

    def median(sampler, times):
        got = jd.integrate(KEY, denoise, x, times, sampler=sampler)
        return float(np.median(np.sqrt(np.mean((got - exact) ** 2, axis=1))))

    for calls in fitted.CALLS["far"]:
        made = {modes: jd.fitted_multistep(denoise, calls, modes=modes) for modes in ("near", "far")}
        near, far = (median(sampler, sampler.times) for sampler in made.values())
        best = min(median(jd.deis(3), grid(calls, rho)) for rho in (3.0, 5.0, 7.0, 10.0))
        assert far < 0.6 * min(near, best), (calls, far, near, best)


@pytest.mark.parametrize("calls", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 6, 8, 10, 12))])
def test_what_is_left_in_may_be_any_noise_below_the_limit(calls):
    """A parabola in where the last step ends, through where it begins; the other steps are the same."""
    denoise = law(2).denoiser(jd.Karras())
    scale, ends = float(denoise.scale), np.array([0.0, 0.3, 1.0, 1.7]) * fitted.LEFT
    steps = []
    for end in ends:
        sampler = jd.fitted_multistep(denoise, calls, t_min=None if end == 0 else end * scale)
        assert (np.diff(sampler.times) < 0).all()
        assert float(sampler.times[-1]) == pytest.approx(end * scale)
        np.testing.assert_allclose(sampler.weights.sum(1), 1.0, atol=1e-5)
        steps.append((end - float(sampler.times[-2]) / scale) * np.asarray(sampler.weights[-1]))
    begin = float(sampler.times[-2]) / scale
    through = np.polyfit([0.0, fitted.LEFT, begin], np.stack([steps[0], steps[2], 0 * steps[0]]), 2)
    for end, step in zip(ends, steps, strict=True):
        np.testing.assert_allclose(np.polyval(through, end), step, atol=1e-4)
    made = fitted.coefficients("near", calls)
    np.testing.assert_allclose(steps[2], (fitted.LEFT - begin) * made.weights[-2], atol=1e-5)
    np.testing.assert_allclose(steps[0] - steps[2], -fitted.LEFT * made.weights[-1], atol=1e-5)


def test_data_in_other_units_are_sampled_in_these_units():
    plain = jd.GaussianMixture(np.ones(2) / 2, np.array([[-1.0], [1.5]]), np.array([0.1, 0.3]))
    large = jd.GaussianMixture(np.ones(2) / 2, np.array([[-10.0], [15.0]]), np.array([10.0, 30.0]))
    got = []
    for of, unit in ((plain, 1.0), (large, 10.0)):
        denoise = of.denoiser(jd.Karras())
        sampler = jd.fitted_multistep(denoise, 6, t_max=20.0 * unit)
        x = 20.0 * unit * jax.random.normal(KEY, (32, 1))
        got.append(jd.integrate(KEY, denoise, x, sampler.times, sampler=sampler) / unit)
    np.testing.assert_allclose(got[0], got[1], rtol=1e-4, atol=1e-4)


def test_a_traced_start_in_which_data_are_left_has_no_answer():
    denoise = law(1).denoiser(jd.Karras())
    made = jax.jit(lambda t: jd.fitted_multistep(denoise, 5, t_max=t).weights)
    assert np.isfinite(made(80.0)).all()
    assert np.isnan(made(5.0)).all()
