"""DPM-Solver++, multistep: exponential Adams and Bashforth's rule in the estimate of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.process import log_snr
from jaxdiff.typing import Array, Key


class MultistepState(NamedTuple):
    """The sample, and the latest estimates of the data with their log-SNRs."""

    x: Array
    data: tuple[Array, ...]
    half_log_snr: tuple[Array, ...]
    steps_done: Array


@pytree
@dataclass(frozen=True)
class DPMSolverPP:
    """DPM-Solver++, multistep, of order 1, 2 or 3. One denoiser call a step, and at order 3 one more in all.

    With l = log(alpha / sigma) and h = l_s - l_t the flow has the exact solution

        x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^(u - h) D(l_t + u) du,

    here with D the polynomial through its last `order` values, integrated exactly (an exponential
    Adams-Bashforth rule; order 1 is DDIM, and order 2 agrees with the paper's 2M to the order of its
    error). Early steps use the values there are; at order 3 the first takes its slope from a second call,
    without which the whole would be of order 2. A step to sigma_s = 0 is of order 1.
    Lu et al. 2022, arXiv 2211.01095. Raises ValueError for another order.
    """

    order: int = 2

    def __post_init__(self) -> None:
        checks.integer("order", self.order, 1)
        checks.option("order", self.order, (1, 2, 3))

    def init(self, x: Array) -> MultistepState:
        past = self.order - 1
        zero = jnp.zeros((), jnp.promote_types(x.dtype, jnp.float32))
        return MultistepState(x, (jnp.zeros_like(x),) * past, (zero,) * past, jnp.zeros((), int))

    def step(self, key: Key, denoise: Denoiser, state: MultistepState, t: Array, s: Array) -> MultistepState:
        del key
        schedule, order = denoise.schedule, self.order
        data = (denoise(state.x, t).data, *state.data)
        logs = (0.5 * log_snr(schedule, t), *state.half_log_snr)
        h = 0.5 * log_snr(schedule, s) - logs[0]
        ratio, alpha = schedule.sigma(s) / schedule.sigma(t), schedule.alpha(s)
        x = ratio * state.x - alpha * jnp.expm1(-h) * data[0]
        # An infinite h (sigma_s = 0, or alpha_t = 0) leaves no room for a polynomial: order 1 there.
        finite = jnp.isfinite(h)
        h = jnp.where(finite, h, 1.0)
        first = h + jnp.expm1(-h)  # int_0^h e^(u-h) u du
        second = h**2 - 2 * first  # int_0^h e^(u-h) u^2 du
        if order > 1:
            # Nor does a slope from a value at alpha = 0, which is infinitely far.
            ready = finite & (state.steps_done >= 1) & jnp.isfinite(logs[1])
            slope = _difference(data[0] - data[1], logs[0] - logs[1], ready)
            if order > 2:
                starting, predicted = finite & (state.steps_done == 0), x.astype(state.x.dtype)
                ahead = jax.lax.cond(starting, lambda: denoise(predicted, s).data, lambda: data[0])
                slope = slope + _difference(ahead - data[0], h, starting)
            x = x + alpha * first * slope
            if order > 2:
                ready = finite & (state.steps_done >= 2) & jnp.isfinite(logs[2])
                older_slope = _difference(data[1] - data[2], logs[1] - logs[2], ready)
                curvature = _difference(slope - older_slope, logs[0] - logs[2], ready)
                x = x + alpha * (second + jnp.where(ready, logs[0] - logs[1], 0.0) * first) * curvature
        return MultistepState(x, data[: order - 1], logs[: order - 1], state.steps_done + 1)


def _difference(rise: Array, run: Array, ready: Array) -> Array:
    """rise / run, or zero where there is no history yet."""
    return jnp.where(ready, rise / jnp.where(ready, run, 1.0), 0.0)
