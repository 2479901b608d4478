import jax
import numpy as np
import pytest
from oracles import few_of

from jaxdiff.noising import process, times
from jaxdiff.noising.schedules import Cosine, VariancePreserving


def test_the_inverse_moves_with_the_parameters_and_the_ends(float64):
    """VP: b t + (B - b) t^2 / 2 = log(1 + e^-lambda), so that dt / dB = -t^2 / 2 / (b + (B - b) t)."""

    def inverse(beta_max, level=1.0, t_min=1e-4, t_max=1.0):
        schedule = VariancePreserving(0.1, beta_max)
        return process.inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max)

    t = inverse(20.0)
    np.testing.assert_allclose(0.1 * t + 9.95 * t**2, np.logaddexp(0, -1), rtol=1e-9)
    np.testing.assert_allclose(jax.grad(inverse)(20.0), -0.5 * t**2 / (0.1 + 19.9 * t), rtol=1e-9)
    every = jax.grad(inverse, argnums=(0, 1, 2, 3))
    assert every(20.0, 1.0, 1e-4, 1.0)[2:] == (0, 0)
    assert every(20.0, 99.0, 1e-4, 1.0) == (0, 0, 1, 0)
    # Where the log-SNR at an end is infinite, too.
    assert every(20.0, 99.0, 0.0, 1.0)[:2] == pytest.approx((0, 0), abs=1e-12)
    assert every(20.0, -99.0, 1e-4, 1.0) == (0, 0, 0, 1)


def test_grids_move_with_the_parameters_of_their_schedule(float64):
    def grid(beta_max):
        return times.noise_grid(VariancePreserving(0.1, beta_max), 5)

    step = 1e-3
    expected = (grid(20.0 + step) - grid(20.0 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jacrev(grid)(20.0), expected, rtol=1e-6, atol=1e-12)
    assert np.abs(expected[1:-1]).min() > 1e-4


@pytest.mark.parametrize(
    "grid",
    few_of(
        [times.noise_grid, lambda s, n: times.log_normal(np.linspace(0.1, 0.9, n), s).t], [times.noise_grid]
    ),
)
def test_grids_from_pure_noise_move_too(grid, float64):
    """At t_max the signal is zero, the log-SNR minus infinity, and no parameter moves it."""
    step = 1e-4
    expected = (grid(Cosine(0.7 + step), 6) - grid(Cosine(0.7 - step), 6)) / (2 * step)
    np.testing.assert_allclose(jax.jacfwd(lambda b: grid(Cosine(b), 6))(0.7), expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(jax.jacrev(lambda b: grid(Cosine(b), 6))(0.7), expected, rtol=1e-5, atol=1e-9)
    assert np.abs(expected).max() > 0.1


def test_levels_that_round_to_pure_noise_do_not_move():
    def inverse(value, shift):
        return process.inverse_log_snr(Cosine(shift), value, t_min=1e-4, t_max=1.0)

    assert jax.grad(inverse, argnums=(0, 1))(-100.0, 0.7) == (0, 0)
