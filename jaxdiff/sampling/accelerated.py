"""The accelerated samplers of Li, Huang, Efimov, Wei, Chi and Chen: Euler's rules with a probe or a split.

In y = x / alpha with V = sigma^2 / alpha^2 for a clock and the score s(y, V) every schedule's probability
flow is dy/dV = -s / 2, and its reverse SDE dy = s dV + dB for V that falls. A step from V to V - D is

    flow:  y + (D / 2) s(y, V) + (D^2 / (4 D')) (s(y, V) - s(y', V + D')),    y' = y - (D' / 2) s(y, V)    (1)
    SDE:   u + D s(u, V) + (D / 2)^(1/2) z_2,                                 u = y + (D / 2)^(1/2) z_1    (2)

with D' the step before. (1) is Adams and Bashforth's rule of order 2 of which the earlier slope is asked for
again, where the flow came from; (2) is Euler and Maruyama's with half of the noise before the score. For
variance-preserving steps, a^2 = alpha_t^2 / alpha_s^2, D = (1 - a^2) / alpha_t^2 and these are the papers'
own (arXiv 2306.09251, 2403.03852), but that those have a D' of (1 - a'^2) / alpha_t^2, which differs in the
next order of the step. Here they are derived for every schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.process import transition
from jaxdiff.sampling.sampler import State
from jaxdiff.typing import Array, Key


class ProbedState(NamedTuple):
    """The sample, and the time before its own, infinite at first."""

    x: Array
    t_before: Array


@pytree
@dataclass(frozen=True)
class AcceleratedDDIM:
    """Eq. (1) of `jaxdiff.sampling.accelerated`: the probability flow at order 2, two denoiser calls a step.

    The first step is Euler's in sigma^2, one call, as is a last one to sigma_s = 0. It needs alpha_t > 0. It
    is here for its theory, total variation of order 1 / steps^2 without smoothness of the data; for few calls
    `ExponentialAdams` has the same order and more at half the calls.

    >>> denoise, times = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.linspace(1, 0, 21)
    >>> x = jd.integrate(jax.random.key(0), denoise, jnp.array([[2.0]]), times, sampler=jd.AcceleratedDDIM())
    >>> round(float(x[0, 0]), 2)  # 2 / 2^(1/2)
    1.41
    """

    needs_signal: ClassVar[bool] = True

    def init(self, x: Array) -> ProbedState:
        return ProbedState(x, jnp.asarray(jnp.inf, jnp.promote_types(x.dtype, jnp.float32)))

    def step(self, key: Key, denoise: Denoiser, state: ProbedState, t: Array, s: Array) -> ProbedState:
        del key
        schedule, x = denoise.schedule, state.x
        here, sigma = denoise(x, t), schedule.sigma(s)
        ratio, ratio_s = schedule.sigma(t) / schedule.alpha(t), sigma / schedule.alpha(s)
        kept = jnp.where(sigma > 0, (ratio**2 + ratio_s**2) / (2 * ratio), 0.0)
        euler = schedule.alpha(s) * (here.data + kept * here.noise)

        def probed() -> Array:
            before = state.t_before
            ratio_b = schedule.sigma(before) / schedule.alpha(before)
            fall, fall_b = ratio**2 - ratio_s**2, ratio_b**2 - ratio**2
            back = schedule.alpha(before) * (x / schedule.alpha(t) + fall_b / (2 * ratio) * here.noise)
            there = denoise(back.astype(x.dtype), before)
            return euler + schedule.alpha(s) * fall**2 / (4 * fall_b) * (
                there.noise / ratio_b - here.noise / ratio
            )

        new = jax.lax.cond(jnp.isfinite(state.t_before) & (sigma > 0), probed, lambda: euler)
        return ProbedState(new, t)


@pytree
@dataclass(frozen=True)
class AcceleratedDDPM:
    """Eq. (2) of `jaxdiff.sampling.accelerated`: the reverse SDE, half of its noise before the score.

    One denoiser call a step. The law of Gaussian data is of order 2, where that of `EulerMaruyama` and
    `ancestral` is of order 1; for other data it is of order 1 here too (a step's mean is off by D^2 s'' / 4),
    with a constant that may be smaller or not: on two modes in d = 1, with 80 steps, E tanh 3y is off by
    .0003 for the others' .004, and E cos y by .0023 for .0017 and .0057 (MEASURED, by quadrature, as
    tests/sampling/test_accelerated.py). The papers' 1 / steps is a bound for all data. It needs alpha_t > 0;
    a step to sigma_s = 0 has no noise.

    >>> denoise, times = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.geomspace(20, 0.01, 41)
    >>> x = jd.sample(jax.random.key(0), denoise, 4000, sampler=jd.AcceleratedDDPM(), times=times)
    >>> round(float(x.std()), 1)
    1.0
    """

    needs_signal: ClassVar[bool] = True

    def init(self, x: Array) -> State:
        return State(x)

    def step(self, key: Key, denoise: Denoiser, state: State, t: Array, s: Array) -> State:
        schedule, (before, after) = denoise.schedule, jax.random.split(key)
        scale, std = transition(schedule, s, t)
        sigma = schedule.sigma(s)
        half = jnp.where(sigma > 0, std * math.sqrt(0.5), 0.0)
        x = state.x + half * noise_like(before, state.x)
        here = denoise(x.astype(state.x.dtype), t)
        mean = schedule.alpha(s) * here.data + scale * sigma**2 / schedule.sigma(t) * here.noise
        return State(mean + half / scale * noise_like(after, state.x))
