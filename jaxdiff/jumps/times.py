"""Training times and sampling grids of jump processes: by the share sigma(t) of tokens that have jumped."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled, folded
from jaxdiff.noising.process import inverse_log_snr
from jaxdiff.noising.times import TrainingTimes
from jaxdiff.typing import Array, Schedule, Time


def share_uniform(u: Array, schedule: Schedule, *, t_min: Time, t_max: Time) -> TrainingTimes:
    """Times whose share of jumped tokens is uniform between those of t_min and t_max, for u in [0, 1].

    Under masking the loss is the same under every schedule then. The very ends, where a rate is infinite or
    its logarithm, are left out by a few roundings. Raises ValueError unless t_min < t_max.

    >>> times = jd.jumps.share_uniform(jnp.array([0.5]), jd.jumps.Cosine(), t_min=0.0, t_max=1.0)
    >>> times.t.round(4)  # half of the tokens have jumped at a third of the time
    Array([0.3333], dtype=float32)
    """
    checks.floating("u", u)
    checks.within("u", u, 0.0, 1.0)
    checks.ordered("t_min", t_min, "t_max", t_max)
    return _share_uniform(u, schedule, jnp.asarray(t_min, u.dtype), jnp.asarray(t_max, u.dtype))


@compiled
def _share_uniform(u: Array, schedule: Schedule, t_min: Array, t_max: Array) -> TrainingTimes:
    low, high = schedule.sigma(t_min), schedule.sigma(t_max)
    slack = 4 * jnp.finfo(u.dtype).eps
    share = jnp.clip(low + (high - low) * u, slack, 1 - slack)
    t = jax.vmap(lambda share: time_of_share(schedule, share, t_min, t_max))(share)
    slopes = jax.vmap(jax.grad(schedule.sigma))(t)
    return TrainingTimes(t, (high - low) / slopes)


@folded
def grid(
    schedule: Schedule, num_steps: int, *, t_min: Time | None = None, t_max: Time | None = None
) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min in equal steps of the share of jumped tokens.

    By default from end to end of the schedule's working range. Raises ValueError unless t_min < t_max.

    >>> jd.jumps.grid(jd.jumps.Cosine(), 2).round(4)
    Array([1.    , 0.3333, 0.    ], dtype=float32)
    """
    checks.integer("num_steps", num_steps, 1)
    low, high = schedule.working_range
    t_min, t_max = low if t_min is None else t_min, high if t_max is None else t_max
    checks.ordered("t_min", t_min, "t_max", t_max)
    return _grid(schedule, jnp.asarray(t_min, float), jnp.asarray(t_max, float), num_steps)


@compiled(static="num_steps")
def _grid(schedule: Schedule, t_min: Array, t_max: Array, num_steps: int) -> Array:
    shares = jnp.linspace(schedule.sigma(t_max), schedule.sigma(t_min), num_steps + 1)
    times = jax.vmap(lambda share: time_of_share(schedule, share, t_min, t_max))(shares)
    return times.at[0].set(t_max).at[-1].set(t_min)


def time_of_share(schedule: Schedule, share: Array, t_min: Array, t_max: Array) -> Array:
    """The time at which sigma is a scalar share, between t_min and t_max."""
    level = 2 * (jnp.log1p(-share) - jnp.log(share))  # since alpha + sigma = 1
    return inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max)
