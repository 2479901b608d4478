"""Exponential Runge-Kutta rules: single steps of order 1 to 4."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.process import inverse_log_snr
from jaxdiff.sampling import exponential
from jaxdiff.sampling.exponential import ESTIMATES, Estimate
from jaxdiff.sampling.sampler import State
from jaxdiff.typing import Array, Key, Time


@pytree
@dataclass(frozen=True)
class ExponentialRungeKutta:
    """The probability flow by single steps of order 1 to 4, with as many denoiser calls each.

    Order 2 is the midpoint rule and order 3 Heun's, with stages at 1/3 and 2/3 of a step in log(alpha /
    sigma) (the rules of DPM-Solver, arXiv 2206.00927); order 4 is Krogstad's (J. Comput. Phys. 203, 2005).
    All coefficients are integrals of polynomials (`jaxdiff.sampling.exponential`) through the estimate,
    "data" or "noise". Nothing is carried from step to step, so any grid will do, and the order is there from
    the first step on; for the fewest calls take `ExponentialAdams`. A step to sigma_s = 0 is of order 1 and
    one call. The setting of arXiv 2506.13061. Raises ValueError for another order or estimate.

    >>> denoise, times = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.geomspace(1, 0.01, 11)
    >>> sampler = jd.ExponentialRungeKutta(order=3)
    >>> x = jd.integrate(jax.random.key(0), denoise, jnp.array([[2.0]]), times, sampler=sampler)
    >>> round(float(x[0, 0]), 3)  # 2 / 2^(1/2)
    1.414
    """

    order: int = 3
    estimate: Estimate = "data"

    def __post_init__(self) -> None:
        checks.integer("order", self.order, 1)
        checks.option("order", self.order, (1, 2, 3, 4))
        checks.option("estimate", self.estimate, ESTIMATES)

    def init(self, x: Array) -> State:
        return State(x)

    def step(self, key: Key, denoise: Denoiser, state: State, t: Array, s: Array) -> State:
        del key
        return State(_stepped(self.estimate, self.order, denoise, state.x, t, s))


def _stepped(estimate: Estimate, order: int, denoise: Denoiser, x: Array, t: Time, s: Time) -> Array:
    """x_s. One call where the step is far, as many as the order elsewhere."""
    schedule = denoise.schedule
    start, end = exponential.half_log_snr(schedule, t), exponential.half_log_snr(schedule, s)
    first = denoise(x, t)
    held = exponential.held_step(estimate, schedule, x, first, t, s)
    if order == 1:
        return held
    reach = functools.partial(exponential.reach, estimate, schedule, x, first, t)

    def stages() -> Array:
        def part(c: float) -> tuple[Array, Array]:
            time = inverse_log_snr(schedule, 2 * (start + c * (end - start)), t_min=s, t_max=t)
            return time, exponential.half_log_snr(schedule, time)

        def call(state: Array, time: Time) -> Array:
            return exponential.value(estimate, denoise(state.astype(x.dtype), time))

        if order == 3:
            (third, at_third), (later, at_later) = part(1 / 3), part(2 / 3)
            one = call(reach(third), third)
            two = call(reach(later, [(at_third, one)]), later)
            return reach(s, [(at_later, two)])
        half, middle = part(1 / 2)
        one = call(reach(half), half)
        if order == 2:
            return reach(s, [(middle, one)])
        two = call(reach(half, [(middle, one)], factor=2.0), half)
        three = call(reach(s, [(middle, two)]), s)
        return reach(s, [(middle, 0.5 * (one + two)), (end, three)])

    return jax.lax.cond(exponential.is_near(end - start), lambda: stages().astype(held.dtype), lambda: held)
