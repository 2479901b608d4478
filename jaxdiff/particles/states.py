"""What processes share: their state, and a step of the ancestral chain."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxdiff._numerics.rows import to_rows
from jaxdiff.noising.process import log_snr
from jaxdiff.typing import Array, Denoised, Schedule


class State(NamedTuple):
    """Rows at a time, with the denoiser's answer there: no step asks for it again."""

    x: Array
    data: Array
    noise: Array
    value: Array
    """(rows,), of which weights are made."""


class Held(NamedTuple):
    """Rows that a step does not draw: `gibbs`."""

    rows: Array
    """(rows,), of booleans."""
    x: Array
    """Where they are put, (rows, *shape); what is said of other rows is not heard."""

    def put(self, x: Array) -> Array:
        """x with these rows in their places."""
        return jnp.where(to_rows(self.rows, x), self.x, x)


def ancestral_step(schedule: Schedule, answer: Denoised | State, t: Array, s: Array) -> tuple[Array, Array]:
    """Mean and standard deviation (a scalar) of the bridge x_s | x_t, data at data = answer.data."""
    fall = log_snr(schedule, t) - log_snr(schedule, s)
    mean = schedule.alpha(s) * answer.data + schedule.sigma(s) * jnp.exp(0.5 * fall) * answer.noise
    return mean, schedule.sigma(s) * jnp.sqrt(-jnp.expm1(fall))
