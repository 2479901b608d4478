import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BETAS, CASES, NAMES, interior

from jaxdiff.noising import schedules
from jaxdiff.noising.process import log_snr


@pytest.mark.parametrize("name", NAMES)
def test_alpha_and_sigma_match_their_definitions(name, float64):
    case = CASES[name]
    t = np.concatenate([[case.t_min], interior(case), [case.t_max]])
    np.testing.assert_allclose(jax.vmap(case.schedule.alpha)(t), case.alpha(t), rtol=3e-7, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(case.schedule.sigma)(t), case.sigma(t), rtol=3e-7, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_log_snr_falls(name):
    case = CASES[name]
    t = jnp.linspace(case.t_min, case.t_max, 101)
    assert (np.diff(jax.vmap(lambda t: log_snr(case.schedule, t))(t)) < 0).all()


# sigma -> 0 and alpha -> 0 keep relative precision in float32: a form such as 1 - alpha^2 loses all digits here.
@pytest.mark.parametrize(
    ("schedule", "t", "sigma"),
    [
        (schedules.VariancePreserving(), 1e-7, np.sqrt(-np.expm1(-(1e-8 + 9.95e-14)))),
        (schedules.SubVariancePreserving(), 1e-7, -np.expm1(-(1e-8 + 9.95e-14))),
        (schedules.OrnsteinUhlenbeck(), 1e-9, np.sqrt(-np.expm1(-2e-9))),
        (schedules.Cosine(), 1e-8, np.sin(np.pi * 1e-8 / 2)),
        (schedules.LinearVariance(), 1e-12, 1e-6),
        (schedules.from_betas(jnp.asarray([1e-7, 0.5])), 1.0, np.sqrt(1e-7)),
    ],
    ids=lambda x: type(x).__name__ if hasattr(x, "alpha") else None,
)
def test_sigma_keeps_precision_near_zero(schedule, t, sigma):
    np.testing.assert_allclose(schedule.sigma(jnp.float32(t)), sigma, rtol=5e-7)


def test_alpha_keeps_precision_near_one():
    t = np.float32(1 - 2**-20)
    np.testing.assert_allclose(schedules.Cosine().alpha(t), np.sin(np.pi * 2.0**-20 / 2), rtol=5e-7)
    np.testing.assert_allclose(schedules.RectifiedFlow().alpha(t), 2.0**-20, rtol=1e-7)
    assert schedules.Cosine().alpha(1.0) == 0


def test_ddpm_table_is_exact_at_whole_times(float64):
    schedule = schedules.from_betas(jnp.asarray(BETAS))
    bars = np.cumprod(1 - BETAS)
    np.testing.assert_allclose(jax.vmap(schedule.alpha)(jnp.arange(1, 61)) ** 2, bars, rtol=1e-12)
    assert float(schedule.sigma(0)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_time_out_of_range_is_not_a_number(name):
    schedule = CASES[name].schedule
    outside = [t for t in (schedule.t_min - 0.1, schedule.t_max + 0.1) if np.isfinite(t)]
    assert outside
    for t in outside:
        for value in (schedule.alpha(t), schedule.sigma(t), jax.jit(schedule.sigma)(t)):
            assert np.isnan(value)


@pytest.mark.parametrize("name", NAMES)
def test_ranges_end_where_noise_or_signal_do(name):
    """No noise at t_min; at t_max no signal, or the end of the definition, beyond which there is no number."""
    schedule = CASES[name].schedule
    low, high = schedule.working_range
    assert schedule.t_min <= low < high <= schedule.t_max
    assert float(schedule.sigma(schedule.t_min)) == 0
    assert float(schedule.alpha(schedule.t_min)) == 1
    assert float(schedule.sigma(low)) > 0
    # For data of unit standard deviation: clean enough to look at, noisy enough to begin.
    assert float(schedule.sigma(low) / schedule.alpha(low)) < 0.04
    assert float(log_snr(schedule, high)) < -4


def test_a_table_may_end_in_pure_noise():
    """Zero terminal signal: the last beta is 1, and every time in between still has its number."""
    betas = np.array([0.1, 0.5, 1.0])
    schedule = schedules.from_betas(jnp.asarray(betas))
    products = np.array([1.0, 0.9, 0.45, 0.0])
    t = np.array([0.0, 0.5, 1.0, 2.0, 2.25, 2.999, 3.0])
    squared = np.interp(t, np.arange(4), products)
    np.testing.assert_allclose(jax.vmap(schedule.alpha)(t), np.sqrt(squared), rtol=5e-5)
    np.testing.assert_allclose(jax.vmap(schedule.sigma)(t), np.sqrt(1 - squared), rtol=1e-6)
    with pytest.raises(ValueError, match="strictly between 0 and 1, but for a last one of 1"):
        schedules.from_betas(jnp.asarray([0.1, 1.0, 0.1]))


def test_parameters_are_leaves():
    t = 0.3
    beta_max = jnp.asarray([5.0, 10.0, 20.0])
    batch = schedules.VariancePreserving(jnp.full(3, 0.1), beta_max)
    swept = jax.jit(jax.vmap(lambda s: s.sigma(t)))(batch)
    expected = np.sqrt(1 - np.exp(-(0.1 * t + (np.asarray(beta_max) - 0.1) * t**2 / 2)))
    np.testing.assert_allclose(swept, expected, rtol=1e-6)
    slope = jax.grad(lambda b: schedules.VariancePreserving(0.1, b).alpha(t))(20.0)
    np.testing.assert_allclose(slope, -(t**2) / 4 * np.exp(-(0.1 * t + 19.9 * t**2 / 2) / 2), rtol=1e-5)


def test_axes_are_given_as_a_schedule():
    """The usual way to say which parameters are mapped: JAX rebuilds the schedule around axis numbers."""
    batch = schedules.VariancePreserving(jnp.asarray(0.1), jnp.asarray([5.0, 20.0]))
    axes = jax.tree.unflatten(jax.tree.structure(batch), [None, 0])
    swept = jax.vmap(lambda s: s.alpha(0.5), in_axes=(axes,))(batch)
    np.testing.assert_allclose(swept, np.exp(-(0.05 + np.array([4.9, 19.9]) / 8) / 2), rtol=1e-6)


def test_schedules_print_their_parameters():
    assert repr(schedules.Cosine(0.5)) == "Cosine(shift=0.5)"
    assert "sigma_max=80.0" in repr(schedules.VarianceExploding(0.002, 80.0))


def test_schedules_are_frozen():
    with pytest.raises(AttributeError):
        schedules.Cosine().shift = 2.0
