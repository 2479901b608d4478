"""Pairs of noise levels; the equations are those of `jaxdiff.learning.bootstrap`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff.noising.process import inverse_log_snr, log_snr
from jaxdiff.typing import Array, Schedule, Time


@compiled
def noise_correlation(schedule: Schedule, s: Time, t: Time) -> Array:
    """rho of eq. (2) for scalar times s <= t: the correlation of the noises of one path at s and t.

    >>> round(float(jd.bootstrap.noise_correlation(jd.Karras(), 1.0, 2.0)), 4)
    0.5
    """
    return correlation(schedule, s, t)[0]


def earlier_time(schedule: Schedule, t: Time, correlation: Array | float, *, t_min: Time) -> Array:
    """The time s < t whose noise has the given correlation with that of t, at least t_min; of t's shape.

    A fixed correlation is a fixed ratio of sigma / alpha: the same step of the same difficulty everywhere.
    Where no time from t_min to t has it, s is t_min, or t itself where t <= t_min, where alpha_t = 0 and for
    a correlation of 1. Raises ValueError for a correlation outside [0, 1] and for times out of the schedule's
    range.

    >>> s = jd.bootstrap.earlier_time(jd.Karras(), jnp.array([2.0, 8.0]), 0.5, t_min=0.01)
    >>> s.round(3).tolist()  # half the noise
    [1.0, 4.0]
    """
    checks.schedule(schedule)
    checks.shape("correlation", correlation, ())
    checks.within("correlation", correlation, 0.0, 1.0)
    checks.shape("t_min", t_min, ())
    for name, value in (("t", t), ("t_min", t_min)):
        checks.in_range(name, schedule, value)
    return _earlier_time(schedule, t, correlation, t_min)


@jax.jit
def _earlier_time(schedule: Schedule, t: Array, correlation: Array, t_min: Array) -> Array:
    t, t_min = jnp.asarray(t, float), jnp.asarray(t_min, float)

    def one(t: Array) -> Array:
        level = log_snr(schedule, t) - 2 * jnp.log(correlation)
        # Where t <= t_min the interval is t alone, and so is the answer.
        return inverse_log_snr(schedule, level, t_min=jnp.minimum(t_min, t), t_max=t)

    return jax.vmap(one)(jnp.ravel(t)).reshape(t.shape)


def correlation(schedule: Schedule, s: Time, t: Time) -> tuple[Array, Array]:
    """rho and 1 - rho^2, which keeps its digits as s -> t."""
    # One time twice has rho = 1 where the log-SNR is infinite, too.
    difference = jnp.where(s == t, 0.0, log_snr(schedule, t) - log_snr(schedule, s))
    return jnp.exp(0.5 * difference), -jnp.expm1(difference)
