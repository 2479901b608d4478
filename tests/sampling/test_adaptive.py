"""Steps chosen by row: the flow against closed forms, the SDE's path against its covariance and its law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, few_of, gaussian_denoiser, gaussian_flow

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras, RectifiedFlow
from jaxdiff.sampling import adaptive
from jaxdiff.sampling.adaptive import integrate_adaptively
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.exponential_runge_kutta import ExponentialRungeKutta
from jaxdiff.typing import Denoised

MEAN, VARIANCE = 0.4, 0.7
KEY = jax.random.key(0)


def mixture_denoiser():
    means = jnp.asarray([[-1.0, 0.2], [1.0, 0.5], [0.1, -1.2]])
    return GaussianMixture(jnp.asarray([0.3, 0.5, 0.2]), means, jnp.asarray([0.01, 0.1, 0.2])).denoiser(
        Karras()
    )


def starts(rows, std=20.0):
    return std * jax.random.normal(jax.random.key(1), (rows, 2))


@pytest.mark.parametrize("name", few_of(["vp", "karras", "cosine"], ["vp", "karras"]))
def test_the_flow_of_gaussian_data_is_met_to_the_tolerance(name, float64):
    case = CASES[name]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    x = jnp.asarray([[1.7], [-0.6]]) * case.sigma(case.t_max)
    exact = gaussian_flow(case, np.asarray(x), case.t_max, case.t_min, MEAN, VARIANCE)
    run = functools.partial(integrate_adaptively, KEY, denoise, x, t_max=case.t_max, t_min=case.t_min)
    coarse, fine = run(tolerance=1e-3), run(tolerance=1e-6)
    assert np.abs(coarse.x - exact).max() < 3e-3
    assert np.abs(fine.x - exact).max() < 3e-6
    # Order two of the difference, so the steps are ten times as many, and no more.
    assert 4 < (fine.num_evaluations / coarse.num_evaluations).mean() < 11


def test_where_alpha_vanishes_one_step_leads_to_where_steps_begin(float64):
    schedule = RectifiedFlow()
    x = jnp.asarray([[1.7], [-0.6]])
    got = integrate_adaptively(
        KEY, gaussian_denoiser(schedule, MEAN, VARIANCE), x, t_max=1.0, t_min=0.01, tolerance=1e-5
    )
    exact = gaussian_flow(CASES["rectified_flow"], np.asarray(x), 1.0, 0.01, MEAN, VARIANCE)
    np.testing.assert_allclose(got.x, exact, atol=2e-5)
    assert (got.num_evaluations % 3 == 1).all()


def test_a_flow_that_is_not_linear_is_that_of_a_fine_grid(float64):
    """And by default the end is the estimate of the data at the end of the working range, one call more."""
    denoise, x = mixture_denoiser(), starts(64)
    grid = np.geomspace(20.0, denoise.working_range[0], 401)
    noised = integrate(KEY, denoise, x, grid, sampler=ExponentialRungeKutta(4))
    got = integrate_adaptively(KEY, denoise, x, t_max=20.0, tolerance=1e-4)
    np.testing.assert_allclose(got.x, denoise(noised, grid[-1]).data, atol=5e-4)
    assert (got.num_evaluations % 3 == 1).all()
    assert len(set(got.num_evaluations.tolist())) > 1


@pytest.mark.parametrize("stochastic", [False, True])
def test_no_row_knows_of_another(stochastic):
    run = functools.partial(
        integrate_adaptively, KEY, mixture_denoiser(), t_max=20.0, stochastic=stochastic, tolerance=0.05
    )
    many, few = run(starts(64)), run(starts(64)[:8])
    np.testing.assert_allclose(few.x, many.x[:8], atol=1e-5)
    np.testing.assert_array_equal(few.num_evaluations, many.num_evaluations[:8])
    assert np.isfinite(many.x).all()


def test_a_row_that_does_not_arrive_is_nan():
    """Two rows need more steps than the others, which are not lost with them."""
    run = functools.partial(integrate_adaptively, KEY, mixture_denoiser(), starts(64), t_max=20.0, t_min=0.02)
    free = run(tolerance=1e-3)
    steps = int(np.median(free.num_evaluations)) // 3
    got = run(tolerance=1e-3, max_steps=steps)
    np.testing.assert_array_equal(np.isnan(got.x).all(1), free.num_evaluations > 3 * steps)
    assert 0 < np.isnan(got.x).all(1).sum() < 64
    assert got.num_evaluations.max() == 3 * steps
    hidden = jax.jit(lambda t: run(t_max=t))(0.01)  # below t_min: refused where it is known
    assert np.isnan(hidden.x).all()


def test_the_path_has_its_covariance(float64):
    """e^(-|l - l'|) between any cells, near and far, over the keys of 20,000 rows."""
    cells, cell = np.array([0, 1, 2, 1024, 2048, 2049, 3072, 4095, 4096]), 1e-3
    draw = jax.vmap(lambda key: jax.vmap(lambda at: adaptive._path(key, (2,), at, jnp.asarray(cell)))(cells))
    x = np.asarray(draw(jax.random.split(KEY, 20_000)))[..., 0]
    wanted = np.exp(-cell * np.abs(cells[:, None] - cells[None]))
    np.testing.assert_allclose(x.T @ x / len(x), wanted, atol=4 * np.sqrt(2 / len(x)))
    moves = np.diff(x, axis=1).var(0)
    near = np.diff(cells) == 1
    np.testing.assert_allclose(moves[near], 2 * -np.expm1(-cell), rtol=0.05)
    both = np.asarray(draw(jax.random.split(KEY, 2)))
    assert not np.allclose(both[0, ..., 0], both[0, ..., 1])


def test_rejections_do_not_bias_the_noise():
    """Where the data hardly matter but steps are rejected for them, x_s / sigma_s is normal whatever happens.

    Drawn again at every rejection its variance is .80 (MEASURED).
    """

    def answer(x, t):
        sigma = jnp.broadcast_to(t, len(x))[:, None]
        data = 1e-3 * x / sigma
        return Denoised(data, (x - data) / sigma)

    denoise = as_denoiser(answer, Karras(), shape=(1,), t_min=1e-3, t_max=80.0)
    x = 20 * jax.random.normal(jax.random.key(3), (8000, 1))
    got = integrate_adaptively(KEY, denoise, x, t_max=20.0, t_min=1.0, stochastic=True, tolerance=2e-4)
    assert got.num_evaluations.mean() > 12  # 6 without rejections
    assert abs(np.mean(got.x**2) - 1) < 4 * np.sqrt(2 / 8000)


@pytest.mark.slow
def test_one_path_for_every_tolerance(float64):
    """The SDE's samples come together as the tolerance falls, and their law is that of the data."""
    denoise = gaussian_denoiser(Karras(), MEAN, VARIANCE)
    x = MEAN + np.sqrt(VARIANCE + 400.0) * jax.random.normal(jax.random.key(4), (1000, 1))
    run = functools.partial(integrate_adaptively, KEY, denoise, x, t_max=20.0, t_min=0.02, stochastic=True)
    coarse, middle, fine = (run(tolerance=tolerance).x for tolerance in (0.1, 0.02, 0.005))
    apart = [float(jnp.sqrt(jnp.mean((got - fine) ** 2))) for got in (coarse, middle)]
    assert apart[1] < 0.5 * apart[0], apart
    assert apart[1] < 0.12
    assert abs(fine.mean() - MEAN) < 4 * np.sqrt(VARIANCE / 1000)
    assert abs(fine.var() - VARIANCE) < 4 * VARIANCE * np.sqrt(2 / 1000)
