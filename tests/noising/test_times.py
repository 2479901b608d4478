import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, log_snr_times
from scipy import stats

from jaxdiff.learning import weights
from jaxdiff.noising import times
from jaxdiff.noising.process import log_snr
from jaxdiff.noising.schedules import Karras


def test_stratified_has_one_point_in_each_stratum_and_little_variance():
    u = times.stratified(jax.random.key(0), 64)
    np.testing.assert_array_equal(np.floor(np.sort(u) * 64), np.arange(64))
    # int u^2 = 1/3; the variance of a stratified mean is int (f')^2 / (12 n^3) = 1 / (9 n^3)
    keys = jax.random.split(jax.random.key(1), 2000)
    means = np.asarray(jax.vmap(lambda k: (times.stratified(k, 64) ** 2).mean())(keys), np.float64)
    std = np.sqrt(1 / (9 * 64**3))
    assert abs(means.mean() - 1 / 3) < 4 * std / np.sqrt(2000)
    assert abs(means.std() / std - 1) < 4 * np.sqrt(0.5 / 2000)


def test_log_normal_has_its_law():
    u = jax.random.uniform(jax.random.key(2), (5000,))
    drawn = times.log_normal(u, Karras(), mean=-1.0, std=0.7, t_min=1e-6, t_max=1e6)
    assert stats.kstest(drawn.t, stats.lognorm(s=0.7, scale=np.exp(-1.0)).cdf).pvalue > 1e-3
    density = stats.lognorm(s=0.7, scale=np.exp(-1.0)).pdf(np.asarray(drawn.t, np.float64))
    np.testing.assert_allclose(drawn.weight, 1 / density, rtol=1e-4)


def test_log_normal_is_finite_at_the_ends():
    drawn = times.log_normal(jnp.asarray([0.0, 1.0]), Karras())
    np.testing.assert_allclose(drawn.t, [0.002, 80.0], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weights_make_means_into_integrals(name, float64):
    """mean(weight f(t)) is int f dt for uniform and for log-SNR-uniform times, f = t^(1/3)."""
    case = CASES[name]
    low, high = max(case.t_min, 1e-3 * case.t_max), case.t_max
    wanted = 0.75 * (high ** (4 / 3) - low ** (4 / 3))
    u = (jnp.arange(4000) + 0.5) / 4000
    drawn = times.log_snr_uniform(u, case.schedule, t_min=low, t_max=high)
    np.testing.assert_allclose((drawn.weight * drawn.t ** (1 / 3)).mean(), wanted, rtol=5e-3)
    drawn = times.uniform(u, t_min=low, t_max=high)
    np.testing.assert_allclose((drawn.weight * drawn.t ** (1 / 3)).mean(), wanted, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_likelihood_weight_is_constant_under_its_own_times(name, float64):
    case = CASES[name]
    low, high = max(case.t_min, 1e-3 * case.t_max), case.t_max
    drawn = times.log_snr_uniform(jnp.linspace(0.01, 0.99, 9), case.schedule, t_min=low, t_max=high)
    row = jax.vmap(lambda t: weights.likelihood(case.schedule, t)[1])(drawn.t)
    half_range = np.log(case.alpha(low) / case.sigma(low)) - np.log(case.alpha(high) / case.sigma(high))
    np.testing.assert_allclose(drawn.weight * row**2, half_range, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_log_snr_grid_is_uniform_in_log_snr(name, float64):
    case = CASES[name]
    grid = times.log_snr_grid(case.schedule, 8, t_max=case.t_max, t_min=case.t_min)
    np.testing.assert_allclose(grid, log_snr_times(case, 8), rtol=1e-6, atol=1e-9)
    steps = np.diff(jax.vmap(lambda t: log_snr(case.schedule, t))(grid))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_log_snr_grid_at_a_scale_is_finest_where_data_take_form(name, float64):
    """As dense as 1 / hypot(5, log-SNR - 2) at the data's scale, to the square of a step; both ends exactly."""
    case, scale = CASES[name], 0.3
    grid = times.log_snr_grid(case.schedule, 400, t_max=case.t_max, t_min=case.t_min, scale=scale)
    assert (grid[0], grid[-1]) == (case.t_max, case.t_min)
    levels = np.asarray(jax.vmap(lambda t: log_snr(case.schedule, t))(grid)) + 2 * np.log(scale)
    middles = 0.5 * (levels[1:] + levels[:-1])
    steps = np.diff(levels) / np.hypot(5, middles - 2)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)


def test_power_grid_is_edms():
    """Equation 5 of the EDM paper, and its two ends exactly."""
    i = np.arange(40)
    wanted = (80 ** (1 / 7) + i / 39 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    grid = times.power_grid(39, t_max=80.0, t_min=0.002, rho=7)
    np.testing.assert_allclose(grid, wanted, rtol=2e-5)
    assert (grid[0], grid[-1]) == (jnp.float32(80.0), jnp.float32(0.002))


def test_grids_are_traced():
    grid = jax.jit(lambda t_max: times.power_grid(4, t_max=t_max, t_min=0.1, rho=2))(4.0)
    np.testing.assert_allclose(grid, np.linspace(2.0, np.sqrt(0.1), 5) ** 2, rtol=1e-6)


def test_log_normal_is_cut_off_at_the_ends(float64):
    """The law of log t given that t lies in the range, and the reciprocal of its density, under two schedules."""
    for name in ("karras", "vp"):
        case = CASES[name]
        low, high = (0.2, 3.0) if name == "karras" else (0.2, 0.9)
        drawn = times.log_normal(
            (jnp.arange(2000) + 0.5) / 2000, case.schedule, mean=0.3, std=1.1, t_min=low, t_max=high
        )
        t = np.asarray(drawn.t)
        law = stats.norm(0.3, 1.1)
        ends = [law.cdf(np.log(case.sigma(e) / case.alpha(e))) for e in (low, high)]
        wanted = law.ppf(ends[0] + (ends[1] - ends[0]) * (np.arange(2000) + 0.5) / 2000)
        np.testing.assert_allclose(np.log(case.sigma(t) / case.alpha(t)), wanted, atol=1e-8)
        np.testing.assert_allclose((drawn.weight * drawn.t).mean(), (high**2 - low**2) / 2, rtol=5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_grid_is_edms_in_noise_over_signal(name, float64):
    case = CASES[name]
    low, high = case.schedule.working_range
    grid = np.asarray(times.noise_grid(case.schedule, 30))
    assert (grid[0], grid[-1]) == (high, low)
    assert (np.diff(grid) < 0).all()
    with np.errstate(divide="ignore"):
        ratios = case.sigma(grid) / case.alpha(grid)
    most = min(ratios[0], 100.0)
    i = np.arange(31)
    wanted = (most ** (1 / 7) + i / 30 * (ratios[-1] ** (1 / 7) - most ** (1 / 7))) ** 7
    np.testing.assert_allclose(ratios[1:], wanted[1:], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_gaussian_grid_has_equal_ratios(name, float64):
    """Of variance + sigma^2 / alpha^2, with much noise at its end."""
    case = CASES[name]
    late, early = log_snr_times(case, 3)[1:3]
    grid = np.asarray(times.gaussian_grid(case.schedule, 6, variance=0.3, t_min=early, t_max=late))
    levels = np.log(0.3 + (case.sigma(grid) / case.alpha(grid)) ** 2)
    np.testing.assert_allclose(levels, np.linspace(levels[0], levels[-1], 7), rtol=1e-5, atol=1e-9)


def test_a_grid_of_known_numbers_is_known_inside_jit():
    """So that what takes it can check it there, and no run computes it again."""

    @jax.jit
    def run(x):
        for grid in (
            times.noise_grid(Karras(), 4),
            times.power_grid(4, t_min=0.1, t_max=2.0),
            times.log_snr_grid(Karras(), 4),
            times.gaussian_grid(Karras(), 4, variance=1.0),
            times.to_clean(Karras(), times.noise_grid(Karras(), 4)),
        ):
            assert not isinstance(grid, jax.core.Tracer)
        assert isinstance(times.noise_grid(Karras(), 4, t_max=x), jax.core.Tracer)
        return x

    run(3.0)


def test_to_clean_appends_the_time_of_no_noise():
    from jaxdiff.noising.schedules import VarianceExploding

    grid = jnp.asarray([1.0, 0.5])
    np.testing.assert_array_equal(times.to_clean(Karras(), grid), [1.0, 0.5, 0.0])
    assert float(VarianceExploding().sigma(times.to_clean(VarianceExploding(), grid)[-1])) == 0
    with pytest.raises(ValueError, match="must be below"):
        times.to_clean(Karras(), jnp.asarray([1.0, 0.0]))
