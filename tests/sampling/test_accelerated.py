"""The samplers of Li et al., held to recursions of their own in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, few_of, gaussian_denoiser, log_snr_times
from scipy.interpolate import CubicSpline

from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling import accelerated, euler_maruyama
from jaxdiff.sampling.accelerated import AcceleratedDDIM, AcceleratedDDPM
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.euler_maruyama import EulerMaruyama

MEAN, VARIANCE = 0.4, 0.7


def score(y, v):
    return -(y - MEAN) / (VARIANCE + v)


@pytest.mark.parametrize("name", few_of(["vp", "karras", "rectified_flow"], ["vp", "karras"]))
def test_the_flow_is_the_papers_rule_in_the_noise_variance(name, float64):
    """Eq. (1) on an uneven grid, and a last step to no noise."""
    case = CASES[name]
    grid = np.array([0.9, 0.7, 0.55, 0.3, 0.12, 0.05, case.t_min])
    clock = [(case.sigma(t) / case.alpha(t)) ** 2 for t in grid]
    x = np.array([[1.7], [-0.6]]) * case.sigma(grid[0])
    y, before = x / case.alpha(grid[0]), None
    for v, end in itertools.pairwise(clock):
        d, s = v - end, score(y, v)
        new = y + d / 2 * s
        if before is not None:
            e = before - v
            new = new + d**2 / (4 * e) * (s - score(y - e / 2 * s, before))
        y, before = new, v
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    got = integrate(jax.random.key(0), denoise, jnp.asarray(x), jnp.asarray(grid), sampler=AcceleratedDDIM())
    np.testing.assert_allclose(got, y * case.alpha(grid[-1]), rtol=1e-9)


def test_the_reverse_process_is_the_papers_algorithm_on_vp_steps(monkeypatch, float64):
    """Y+ = Y + ((1 - a) / 2)^(1/2) Z, then (Y+ + (1 - a) s(Y+) + ((1 - a) / 2)^(1/2) Z') / a^(1/2)."""
    case, draws = CASES["vp"], np.random.default_rng(0).standard_normal((2, 5, 1))
    t, s = 0.6, 0.5
    a = (case.alpha(t) / case.alpha(s)) ** 2
    x = np.linspace(-2, 2, 5)[:, None]
    plus = x + np.sqrt((1 - a) / 2) * draws[0]
    slope = -(plus - case.alpha(t) * MEAN) / (case.alpha(t) ** 2 * VARIANCE + case.sigma(t) ** 2)
    wanted = (plus + (1 - a) * slope + np.sqrt((1 - a) / 2) * draws[1]) / np.sqrt(a)
    given = iter(draws)
    monkeypatch.setattr(accelerated, "noise_like", lambda key, x: jnp.asarray(next(given)))
    sampler, denoise = AcceleratedDDPM(), gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    got = sampler.step(jax.random.key(0), denoise, sampler.init(jnp.asarray(x)), t, s).x
    np.testing.assert_allclose(got, wanted, rtol=1e-7)


@pytest.mark.parametrize("name", few_of(["vp", "ve", "karras", "cosine"], ["vp", "karras"]))
def test_the_law_of_gaussian_data_is_of_order_two(name, float64):
    """Mean and variance by the recursion of the moments; Euler and Maruyama's, the control, is of order one."""
    case = CASES[name]
    wanted, errors = case.alpha(case.t_min) ** 2 * VARIANCE + case.sigma(case.t_min) ** 2, {}
    for sampler, order in ((AcceleratedDDPM(), 2), (EulerMaruyama(), 1)):
        for n in (40, 80):
            errors[order, n] = abs(_variance(sampler, case, log_snr_times(case, n)) - wanted)
        assert abs(np.log2(errors[order, 40] / errors[order, 80]) - order) < 0.2, errors
    assert errors[2, 80] < 0.1 * errors[1, 80]


def _variance(sampler, case, times):
    """At the last time, from the exact law at the first: each step is x' = a x + b z_1 + c z_2."""
    denoise, variance = gaussian_denoiser(case.schedule, MEAN, VARIANCE), None
    rows = np.eye(4)[:, 1:]  # nothing, x, the first draw, the second

    @jax.jit
    def step(t, s):
        draws = iter(rows.T[1:])
        with pytest.MonkeyPatch.context() as patch:
            for module in (accelerated, euler_maruyama):
                patch.setattr(module, "noise_like", lambda key, x: jnp.asarray(next(draws))[:, None])
            return sampler.step(jax.random.key(0), denoise, sampler.init(jnp.asarray(rows[:, :1])), t, s).x

    variance = case.alpha(times[0]) ** 2 * VARIANCE + case.sigma(times[0]) ** 2
    for t, s in itertools.pairwise(times):
        nothing, *moves = np.asarray(step(t, s))[:, 0]
        variance = sum((np.array(moves) - nothing) ** 2 * [variance, 1, 1])
    return variance


WEIGHTS, MEANS, VARIANCES = [0.4, 0.6], [-0.8, 1.0], [0.05, 0.1]
NODES, SHARES = np.polynomial.hermite_e.hermegauss(9)
SHARES = SHARES / SHARES.sum()
LINE = np.concatenate([np.linspace(-30, -4, 60)[:-1], np.linspace(-4, 4, 241), np.linspace(4, 30, 60)[1:]])


def _expectation(f, std):
    x, w = np.polynomial.hermite_e.hermegauss(60)
    parts = zip(WEIGHTS, MEANS, VARIANCES, strict=True)
    return sum(share * np.dot(w / w.sum(), f(m + np.sqrt(v + std**2) * x)) for share, m, v in parts)


@pytest.mark.slow
def test_the_law_of_other_data_is_of_order_one(float64):
    """E f at the end, for two modes, by quadrature back through the steps: what the docstring says was measured."""
    law = GaussianMixture(jnp.asarray(WEIGHTS), jnp.asarray(MEANS)[:, None], jnp.asarray(VARIANCES))
    denoise = law.denoiser(Karras())
    first, second = (np.tile(z.ravel(), len(LINE))[:, None] for z in np.meshgrid(NODES, NODES))
    at, weights = np.repeat(LINE, 81)[:, None], np.outer(SHARES, SHARES).ravel()

    def error(sampler, n, f):
        @jax.jit
        def step(t, s):
            draws = itertools.cycle((first, second))
            with pytest.MonkeyPatch.context() as patch:
                for module in (accelerated, euler_maruyama):
                    patch.setattr(module, "noise_like", lambda key, x: jnp.asarray(next(draws)))
                return sampler.step(jax.random.key(0), denoise, sampler.init(jnp.asarray(at)), t, s).x[:, 0]

        exact, value = _expectation(f, 0.2), f
        for t, s in list(itertools.pairwise(np.geomspace(5, 0.2, n + 1)))[::-1]:
            reached = value(np.clip(step(t, s), -30, 30)).reshape(-1, 81)
            value = CubicSpline(LINE, (reached * weights).sum(1))
        return abs(_expectation(value, 5.0) - exact)

    def tanh(y):
        return np.tanh(3 * y)

    errors = {n: error(AcceleratedDDPM(), n, np.cos) for n in (40, 80)}
    assert 0.8 < np.log2(errors[40] / errors[80]) < 1.2, errors
    assert errors[80] == pytest.approx(0.0023, abs=1e-4)
    assert error(EulerMaruyama(), 80, np.cos) == pytest.approx(0.0017, abs=1e-4)
    assert error(AcceleratedDDPM(), 80, tanh) == pytest.approx(0.00028, abs=3e-5)
    assert error(EulerMaruyama(), 80, tanh) == pytest.approx(0.0038, abs=1e-4)
