import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, gaussian_denoiser, gaussian_flow, log_snr_times

from jaxdiff.noising.schedules import Karras, RectifiedFlow
from jaxdiff.noising.times import power_grid
from jaxdiff.sampling import samplers

MEAN, VARIANCE = 0.4, 0.7
ODE = {
    "ddim": (samplers.ddim, 1),
    "heun": (samplers.heun, 2),
    "dpm_solver_pp_1": (functools.partial(samplers.dpm_solver_pp, order=1), 1),
    "dpm_solver_pp_2": (functools.partial(samplers.dpm_solver_pp, order=2), 2),
    "dpm_solver_pp_3": (functools.partial(samplers.dpm_solver_pp, order=3), 3),
}
STOCHASTIC = {
    "ddim_eta": functools.partial(samplers.ddim, eta=0.5),
    "ancestral": samplers.ancestral,
    "heun_churn": functools.partial(samplers.heun, churn=0.05),
    "euler_maruyama": samplers.euler_maruyama,
    "predictor_corrector": samplers.predictor_corrector,
}
EVERY = {name: factory for name, (factory, _) in ODE.items()} | STOCHASTIC


@pytest.mark.parametrize("method", ODE)
@pytest.mark.parametrize("name", NAMES)
def test_order_of_convergence(name, method, float64):
    """The slope of the error against the exact flow of Gaussian data is the named order, on every schedule."""
    case, (factory, order) = CASES[name], ODE[method]
    sampler = factory(gaussian_denoiser(case.schedule, MEAN, VARIANCE), case.schedule)
    run = jax.jit(functools.partial(samplers.sample, jax.random.key(0), sampler))
    x = jnp.asarray([[1.7], [-0.6]]) * case.sigma(case.t_max)
    exact = gaussian_flow(case, np.asarray(x), case.t_max, case.t_min, MEAN, VARIANCE)
    steps = np.array([60, 120, 240])
    errors = [np.abs(run(x, jnp.asarray(log_snr_times(case, n))) - exact).max() for n in steps]
    slopes = -np.diff(np.log(errors)) / np.log(2)
    assert slopes[-1] > order - 0.2, (slopes, errors)
    assert errors[-1] < (0.1, 3e-3, 3e-4)[order - 1]


def affine_steps(sampler, monkeypatch, times):
    """Every step of the grid as x' = factor x + shift + sum_j stds[j] z_j, exactly.

    The draws are replaced by unit vectors: row 1 gets x = 1, row 0 x = 0, row 2 + j has its j-th draw one.
    """
    draws = 4
    calls = iter(range(draws))

    def draw(key, x):
        del key
        return jnp.zeros_like(x).at[2 + next(calls)].set(1.0)

    def step(t, s):
        state = sampler.init(jnp.zeros((2 + draws, 1)).at[1].set(1.0))
        if hasattr(state, "t_max"):
            state = state._replace(t_max=jnp.asarray(times[0]))
        return sampler.step(jax.random.key(0), state, t, s).x[:, 0]

    monkeypatch.setattr(samplers, "noise_like", draw)
    out = np.asarray(jax.jit(jax.vmap(step))(jnp.asarray(times[:-1]), jnp.asarray(times[1:])))
    monkeypatch.undo()
    return out[:, 1] - out[:, 0], out[:, 0], out[:, 2:] - out[:, :1]


def propagate(sampler, monkeypatch, times, mean, variance):
    """Mean and variance at the last time, from the exact affine law of every step."""
    for factor, shift, stds in zip(*affine_steps(sampler, monkeypatch, times), strict=True):
        mean, variance = factor * mean + shift, factor**2 * variance + (stds**2).sum()
    return mean, variance


# Final variance on N(0, 1) data from the exact start, last node .002: closed forms of the Gaussian chain,
# as products over the grid, evaluated in float64 NumPy apart from this library. Columns: sigma_max, number of
# nodes, rho, then Euler-Maruyama, DDPM, Euler (DDIM) and Heun.
TABLE = [
    (80.0, 40, 7, 1.287102, 0.766630, 0.876357, 1.016032),
    (80.0, 20, 7, 1.702993, 0.599422, 0.762702, 1.072156),
    (7.0, 20, 5, 1.333204, 0.725591, 0.854808, 1.021697),
    (7.0, 20, 7, 1.372565, 0.716036, 0.846641, 1.026030),
    (2.0, 20, 7, 1.185135, 0.780025, 0.898258, 1.010663),
    (2.0, 10, 7, 1.455222, 0.615560, 0.796993, 1.049292),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]:g}-{row[1]}-{row[2]}")
def test_gaussian_chain_has_its_closed_form_variance(row, monkeypatch, float64):
    sigma_max, nodes, rho, *wanted = row
    schedule, times = Karras(), power_grid(nodes - 1, t_max=sigma_max, t_min=0.002, rho=rho)
    denoise = gaussian_denoiser(schedule, 0.0, 1.0)
    factories = (samplers.euler_maruyama, samplers.ancestral, samplers.ddim, samplers.heun)
    for factory, value in zip(factories, wanted, strict=True):
        _, got = propagate(factory(denoise, schedule), monkeypatch, times, 0.0, 1 + sigma_max**2)
        assert abs(got - value) < 1e-6


def test_start_error_is_damped_as_in_closed_form(monkeypatch, float64):
    """From N(0, 80^2) on data of mean 1: (variance, mean error) of the same closed forms."""
    schedule, times = Karras(), power_grid(39, t_max=80.0, t_min=0.002, rho=7)
    denoise = gaussian_denoiser(schedule, 1.0, 1.0)
    wanted = {samplers.ancestral: (0.766630, -0.000156), samplers.heun: (1.015873, -0.012599)}
    for factory, value in wanted.items():
        mean, variance = propagate(factory(denoise, schedule), monkeypatch, times, 0.0, 80.0**2)
        np.testing.assert_allclose((variance, mean - 1), value, atol=1e-6)


@pytest.mark.parametrize("method", STOCHASTIC)
@pytest.mark.parametrize("name", NAMES)
def test_stochastic_samplers_converge_at_order_one(name, method, monkeypatch, float64):
    """Mean and variance, propagated exactly, tend to those of the data's law at t_min like 1 / steps."""
    case = CASES[name]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    times = {n: log_snr_times(case, n) for n in (40, 80)}
    if method == "predictor_corrector":
        # Its Langevin steps have a bias of their own at any number of steps; it falls with their size.
        samplers_by_steps = {
            n: samplers.predictor_corrector(denoise, case.schedule, signal_to_noise=0.16 * (40 / n) ** 0.5)
            for n in times
        }
    elif method == "heun_churn":
        samplers_by_steps = {n: samplers.heun(denoise, case.schedule, churn=2.0 / n) for n in times}
    else:
        samplers_by_steps = dict.fromkeys(times, STOCHASTIC[method](denoise, case.schedule))
    errors = []
    for n, grid in times.items():
        start = (
            case.alpha(case.t_max) * MEAN,
            case.alpha(case.t_max) ** 2 * VARIANCE + case.sigma(case.t_max) ** 2,
        )
        mean, variance = propagate(samplers_by_steps[n], monkeypatch, grid, *start)
        wanted = case.alpha(case.t_min) ** 2 * VARIANCE + case.sigma(case.t_min) ** 2
        errors.append([abs(mean - case.alpha(case.t_min) * MEAN), abs(variance - wanted)])
    errors = np.array(errors)
    assert (errors[1] < np.maximum(0.62 * errors[0], 1e-9)).all(), errors  # 1/2, and room for higher orders


def test_ancestral_is_the_draw_from_the_bridge(monkeypatch, float64):
    from jaxdiff.noising.process import bridge

    case = CASES["vp"]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    t, s = 0.6, 0.5
    steps = affine_steps(samplers.ancestral(denoise, case.schedule), monkeypatch, np.array([t, s]))
    (factor,), (shift,), (stds,) = steps
    for x in (0.0, 1.0):
        x = jnp.full((1, 1), x)
        mean, std = bridge(case.schedule, denoise(x, t).data, x, s, t)
        np.testing.assert_allclose(factor * x + shift, mean, rtol=1e-9)
        np.testing.assert_allclose(stds.sum(), std, rtol=1e-9)


@pytest.mark.parametrize("method", EVERY)
def test_samples_have_the_law_they_should(method):
    """End to end with real noise: mean and variance of 20,000 samples within standard errors of the exact ones."""
    case = CASES["karras"]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    sampler = EVERY[method](denoise, case.schedule)
    start_key, key = jax.random.split(jax.random.key(1))
    start = MEAN + np.sqrt(VARIANCE + 80.0**2) / 80.0 * samplers.initial_noise(
        start_key, case.schedule, (20_000, 1), 80.0
    )
    times = power_grid(300, t_max=80.0, t_min=0.002, rho=7)
    x = np.asarray(jax.jit(functools.partial(samplers.sample, key, sampler))(start, times))
    bias = 0.06 * VARIANCE  # 300 steps of an order-one method, or of Langevin steps of the usual size
    assert abs(x.mean() - MEAN) < 4 * np.sqrt(VARIANCE / x.size) + 1e-2
    assert abs(x.var() - VARIANCE) < 4 * VARIANCE * np.sqrt(2 / x.size) + bias


@pytest.mark.parametrize("method", EVERY)
def test_a_sample_does_not_depend_on_its_batch(method):
    case = CASES["vp"]
    sampler = EVERY[method](gaussian_denoiser(case.schedule, MEAN, VARIANCE), case.schedule)
    times = power_grid(8, t_max=1.0, t_min=0.01)
    run = jax.jit(functools.partial(samplers.sample, jax.random.key(3), sampler))
    many = run(samplers.initial_noise(jax.random.key(2), case.schedule, (256, 2), 1.0), times)
    few = run(samplers.initial_noise(jax.random.key(2), case.schedule, (64, 2), 1.0), times)
    np.testing.assert_array_equal(few, many[:64])
    assert len(np.unique(np.asarray(many)[:, 0])) == 256


@pytest.mark.parametrize("method", EVERY)
def test_a_grid_to_zero_noise_ends_in_the_denoised_estimate(method):
    """The last step returns D(x_t, t): no noise is left in, and nothing is evaluated at sigma = 0."""
    schedule = RectifiedFlow()

    def denoise(x, t):
        # NaN where a sampler should not look
        return jax.tree.map(
            lambda y: jnp.where(t > 0, y, jnp.nan), gaussian_denoiser(schedule, MEAN, VARIANCE)(x, t)
        )

    sampler = EVERY[method](denoise, schedule)
    x = jax.random.normal(jax.random.key(4), (5, 2))
    times = jnp.asarray([0.9, 0.5, 0.2, 0.0])
    path = samplers.sample_path(jax.random.key(5), sampler, x, times)
    if method != "heun_churn":  # which first noises x up
        np.testing.assert_allclose(path[-1], denoise(path[-2], 0.2).data, rtol=1e-5, atol=1e-6)
    assert np.isfinite(path).all()


def test_path_begins_at_the_start_and_ends_at_the_sample():
    schedule = Karras()
    sampler = samplers.ancestral(gaussian_denoiser(schedule, MEAN, VARIANCE), schedule)
    x, times = 80 * jax.random.normal(jax.random.key(0), (4, 2)), power_grid(5, t_max=80.0, t_min=0.1, rho=7)
    path = samplers.sample_path(jax.random.key(1), sampler, x, times)
    assert path.shape == (6, 4, 2)
    np.testing.assert_array_equal(path[0], x)
    np.testing.assert_array_equal(path[-1], samplers.sample(jax.random.key(1), sampler, x, times))


def test_churn_stays_inside_the_grid_and_its_range():
    schedule, seen = Karras(), []

    def denoise(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return gaussian_denoiser(schedule, MEAN, VARIANCE)(x, t)

    sampler = samplers.heun(denoise, schedule, churn=0.3, churn_range=(0.0, 1.5))
    samplers.sample(jax.random.key(0), sampler, jnp.ones((1, 1)), jnp.asarray([2.0, 1.6, 1.4, 1.0]))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen, reverse=True), [2.0, 1.82, 1.6, 1.6, 1.4, 1.0], rtol=1e-6)


@pytest.mark.parametrize("method", EVERY)
def test_one_trace_for_every_grid_of_a_length(method):
    schedule, traces = Karras(), []

    def denoise(x, t):
        traces.append(None)
        return gaussian_denoiser(schedule, MEAN, VARIANCE)(x, t)

    @jax.jit
    def run(key, x, times):
        return samplers.sample(key, EVERY[method](denoise, schedule), x, times)

    x = jnp.ones((3, 2))
    run(jax.random.key(0), x, power_grid(6, t_max=80.0, t_min=0.1, rho=7))
    first = len(traces)
    assert first <= 3  # one for each call that a step writes down, whatever the number of steps
    run(jax.random.key(1), x, power_grid(6, t_max=40.0, t_min=0.2, rho=3))
    assert len(traces) == first


def test_memory_is_constant_in_the_steps():
    schedule = Karras()
    sampler = samplers.heun(gaussian_denoiser(schedule, MEAN, VARIANCE), schedule)

    def temporaries(function, num_steps):
        x, times = jnp.zeros((1000, 10)), power_grid(num_steps, t_max=80.0, t_min=0.1, rho=7)
        compiled = jax.jit(functools.partial(function, jax.random.key(0), sampler)).lower(x, times).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    bytes_per_sample = 1000 * 10 * 4
    assert temporaries(samplers.sample, 1000) - temporaries(samplers.sample, 10) < bytes_per_sample
    assert temporaries(samplers.sample_path, 1000) > 500 * bytes_per_sample  # the measure does see a path


def test_samplers_map_over_the_schedule(float64):
    """Schedules, and so whole sampling runs, are vmapped over their own parameters."""
    from jaxdiff.noising.schedules import VariancePreserving

    x, times = jnp.ones((2, 1)), power_grid(10, t_max=1.0, t_min=0.05)

    def run(beta_max):
        schedule = VariancePreserving(0.1, beta_max)
        sampler = samplers.ddim(gaussian_denoiser(schedule, MEAN, VARIANCE), schedule)
        return samplers.sample(jax.random.key(0), sampler, x, times)

    rates = jnp.asarray([5.0, 20.0])
    np.testing.assert_allclose(jax.vmap(run)(rates), jnp.stack([run(b) for b in rates]), rtol=1e-12)
