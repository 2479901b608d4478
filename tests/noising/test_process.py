import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, interior

from jaxdiff._numerics.pytrees import pytree
from jaxdiff.noising import process

pytestmark = pytest.mark.parametrize("name", NAMES)


def test_transition_composes_to_the_marginal(name, float64):
    """x_t built through x_s has the variance of x_t built at once: a^2 sigma_s^2 + v = sigma_t^2."""
    case = CASES[name]
    t = interior(case)
    scale, std = jax.vmap(lambda s, t: process.transition(case.schedule, s, t))(t[:-1], t[1:])
    np.testing.assert_allclose(scale * case.alpha(t[:-1]), case.alpha(t[1:]), rtol=1e-6)
    total = np.asarray(scale) ** 2 * case.sigma(t[:-1]) ** 2 + np.asarray(std) ** 2
    np.testing.assert_allclose(total, case.sigma(t[1:]) ** 2, rtol=1e-6)


def test_transition_of_a_short_step_in_float32(name):
    """v is a small difference here: sigma_t^2 - a^2 sigma_s^2 in float32 would lose two to four digits more."""
    case = CASES[name]
    s = np.float32(interior(case)[4])
    t = np.float32(s * 1.01)
    a = case.alpha(np.float64(t)) / case.alpha(np.float64(s))
    wanted = np.sqrt(case.sigma(np.float64(t)) ** 2 - a**2 * case.sigma(np.float64(s)) ** 2)
    np.testing.assert_allclose(process.transition(case.schedule, s, t)[1], wanted, rtol=1e-4)


def test_transition_from_clean_data_is_the_marginal(name):
    case = CASES[name]
    clean, t = case.schedule.t_min, np.float32(case.t_max)
    assert float(case.schedule.sigma(clean)) == 0
    scale, std = process.transition(case.schedule, clean, t)
    np.testing.assert_allclose(scale, case.alpha(np.float64(t)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(std, case.sigma(np.float64(t)), rtol=1e-6)


def test_bridge_is_gaussian_conditioning(name, float64):
    """Against the conditional of the joint Gaussian of (x_s, x_t) given the data, by the Schur complement."""
    case = CASES[name]
    s, t = interior(case)[[2, 5]]
    data, x_t = 0.7, -1.3
    a = case.alpha(t) / case.alpha(s)
    covariance, variance = a * case.sigma(s) ** 2, case.sigma(t) ** 2
    mean = case.alpha(s) * data + covariance / variance * (x_t - case.alpha(t) * data)
    std = np.sqrt(case.sigma(s) ** 2 - covariance**2 / variance)
    got = process.bridge(case.schedule, jnp.asarray(data), jnp.asarray(x_t), s, t)
    np.testing.assert_allclose(got, (mean, std), rtol=1e-6)


def test_sde_is_the_named_one(name, float64):
    case = CASES[name]
    for t in interior(case, 4):
        f, g = process.sde(case.schedule, t)
        np.testing.assert_allclose(f, case.drift_rate(t), rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(g, case.diffusion(t), rtol=1e-6)


def test_log_snr_and_its_inverse(name, float64):
    case = CASES[name]
    t = interior(case)
    levels = jax.vmap(lambda t: process.log_snr(case.schedule, t))(t)
    np.testing.assert_allclose(levels, 2 * np.log(case.alpha(t) / case.sigma(t)), rtol=1e-6, atol=1e-6)

    def inverse(level):
        return process.inverse_log_snr(case.schedule, level, t_min=case.t_min, t_max=case.t_max)

    np.testing.assert_allclose(jax.vmap(inverse)(levels), t, rtol=1e-9)
    np.testing.assert_allclose(
        [inverse(1e9), inverse(-1e9)], [case.t_min, case.t_max], rtol=1e-12, atol=1e-25
    )


def test_the_inverse_has_the_derivatives_of_the_implicit_function(name, float64):
    case = CASES[name]

    def inverse(level):
        return process.inverse_log_snr(case.schedule, level, t_min=case.t_min, t_max=case.t_max)

    t, step = interior(case), 1e-6
    before, levels, after = (2 * np.log(case.alpha(u) / case.sigma(u)) for u in (t - step, t, t + step))
    found = jax.vmap(jax.grad(inverse))(levels)
    np.testing.assert_allclose(found, 2 * step / (after - before), rtol=1e-4)


def test_the_inverse_reaches_early_times_in_float32(name):
    """Every halving counts: a billionth of the range is found, of which 24 halvings know nothing."""
    schedule, t_max = CASES[name].schedule, CASES[name].t_max
    for t in (1e-9 * t_max, 1e-5 * t_max):
        level = process.log_snr(schedule, t)
        found = process.inverse_log_snr(schedule, level, t_min=0.0, t_max=t_max)
        np.testing.assert_allclose(process.log_snr(schedule, found), level, atol=1e-4)


def test_any_object_with_alpha_and_sigma_serves(name, float64):
    """The library asks for nothing else: a bare object gives what the schedule gives."""
    case = CASES[name]

    @pytree
    @dataclasses.dataclass(frozen=True)
    class Bare:
        alpha = staticmethod(case.schedule.alpha)
        sigma = staticmethod(case.schedule.sigma)

    s, t = interior(case)[[2, 5]]
    assert process.transition(Bare(), s, t) == process.transition(case.schedule, s, t)
    assert process.sde(Bare(), t) == process.sde(case.schedule, t)
