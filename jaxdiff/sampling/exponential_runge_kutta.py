"""Exponential Runge-Kutta rules: single steps of order 1 to 4."""

from __future__ import annotations

from dataclasses import dataclass

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.sampling.exponential import ESTIMATES, Estimate, runge_kutta_step
from jaxdiff.sampling.sampler import State
from jaxdiff.typing import Array, Key


@pytree
@dataclass(frozen=True)
class ExponentialRungeKutta:
    """The probability flow by single steps of order 1 to 4, with as many denoiser calls each.

    Nothing is carried from step to step, so any grid will do, and the order is there from the first step on;
    for the fewest calls take `ExponentialAdams`. A step to sigma_s = 0 is of order 1 and one call. estimate:
    what the polynomials go through, "data" or "noise". See `jaxdiff.sampling.exponential.runge_kutta_step`;
    the setting of arXiv 2506.13061. Raises ValueError for another order or estimate.
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
        first = denoise(state.x, t)
        return State(runge_kutta_step(self.estimate, self.order, denoise, state.x, first, t, s))
