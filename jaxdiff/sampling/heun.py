"""EDM's sampler, deterministic and with churn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import number
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.process import transition
from jaxdiff.typing import Array, Key


class ChurnState(NamedTuple):
    """The sample, and the first time of the run, above which churn may not go."""

    x: Array
    t_max: Array


@pytree
@dataclass(frozen=True)
class Heun:
    """The trapezoid rule in (alpha, sigma). Two denoiser calls a step, order 2.

    A step to sigma_s = 0 is Euler's, one call. With churn > 0, each step at a time in churn_range first
    noises x up to the time t (1 + churn), though never above the first time of the grid, with noise
    inflated by churn_noise. Under the `Karras` schedule churn is EDM's S_churn / steps, at most 0.414
    there; arrays may be traced. Karras et al. 2022, arXiv 2206.00364, alg. 2.
    Raises ValueError for negative churn or churn_noise, or a churn_range that is not in order.

    >>> denoise, times = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.geomspace(1, 0.01, 21)
    >>> x = jd.integrate(jax.random.key(0), denoise, jnp.array([[2.0]]), times, sampler=jd.Heun())
    >>> round(float(x[0, 0]), 2)  # 2 / 2^(1/2)
    1.42
    """

    churn: Array | float = 0.0
    churn_range: tuple[Array | float, Array | float] = (0.0, math.inf)
    churn_noise: Array | float = 1.0

    def __post_init__(self) -> None:
        checks.within("churn", self.churn, 0.0, math.inf)
        checks.within("churn_noise", self.churn_noise, 0.0, math.inf)
        ends = self.churn_range if isinstance(self.churn_range, tuple) else ()
        known = [checks.known(end) for end in ends]
        if len(ends) != 2 or (known[0] is not None and known[1] is not None and not known[0] <= known[1]):
            raise ValueError(f"churn_range must be (low, high) with low <= high, got {self.churn_range}.")

    def init(self, x: Array) -> ChurnState:
        return ChurnState(x, jnp.asarray(-jnp.inf, jnp.promote_types(x.dtype, jnp.float32)))

    def step(self, key: Key, denoise: Denoiser, state: ChurnState, t: Array, s: Array) -> ChurnState:
        for name in ("churn", "churn_noise"):
            checks.shape(name, getattr(self, name), ())
        schedule = denoise.schedule
        state = ChurnState(state.x, jnp.maximum(state.t_max, t))
        x, t = (state.x, t) if number(self.churn) == 0 else self._noise_up(key, denoise, state, t)
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        first = denoise(x, t)
        euler = (alpha * first.data + sigma * first.noise).astype(x.dtype)

        def trapezoid(euler: Array) -> Array:
            second = denoise(euler, s)
            data, noise = (0.5 * (a + b) for a, b in zip(first, second, strict=True))
            move = (alpha - schedule.alpha(t)) * data + (sigma - schedule.sigma(t)) * noise
            return (x + move).astype(x.dtype)

        return ChurnState(jax.lax.cond(sigma > 0, trapezoid, lambda euler: euler, euler), state.t_max)

    def _noise_up(self, key: Key, denoise: Denoiser, state: ChurnState, t: Array) -> tuple[Array, Array]:
        inside = (t >= self.churn_range[0]) & (t <= self.churn_range[1])
        raised = jnp.minimum(t * (1 + jnp.where(inside, self.churn, 0.0)), state.t_max)
        up = raised > t
        # Without a rise the transition is 0 / 0: a place-holder that is a step.
        scale, std = transition(denoise.schedule, jnp.where(up, t, 0.5 * t), jnp.where(up, raised, t))
        noised = scale * state.x + self.churn_noise * std * noise_like(key, state.x)
        return jnp.where(up, noised, state.x).astype(state.x.dtype), jnp.where(up, raised, t)
