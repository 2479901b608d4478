"""Every solver of one call a step that is linear in the denoiser's answers, as three small arrays.

In y = x / alpha with r = sigma / alpha for a clock the probability flow is dy/dr = N(y, r) on every schedule,
N the estimate of the noise. So a deterministic solver that calls it once a step, at y_k, and that moves with
data that are moved, is

    y_{k+1} = y_k + (r_{k+1} - r_k) sum_{j <= k} W_kj N_j,        sum_j W_kj = 1,                      (1)

whatever it is called and whether it is defined by the noise, by the data or by a corrector: K (K + 1) / 2
numbers, and its grid. The call at y_k may be made at another time than its own, r'_k for r_k: one more number
a step. The first step begins where alpha may be 0, and is y_1 = D_0 + r_1 N_0, which is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import number
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, as_denoiser
from jaxdiff.sampling.ddim import DDIM
from jaxdiff.sampling.driver import integrate_path
from jaxdiff.sampling.exponential_adams import ExponentialAdams
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


class LinearState(NamedTuple):
    """The sample, and all estimates of the noise so far, (steps, *x.shape), 0 for those to come."""

    x: Array
    values: Array
    steps_done: Array


@pytree
@dataclass(frozen=True)
class LinearMultistep:
    """Eq. (1) of `jaxdiff.sampling.linear`: a sampler that is arrays, so that another one compiles nothing.

    times: its own grid, (steps + 1,), on which `sample` runs it if nothing is said. On another its
    coefficients mean nothing: an error where it is known, and NaN where it is traced. calls: the times r' at
    which the denoiser is asked, (steps,), the first that of the grid. weights: W, (steps, steps), of which
    the lower triangle is read. All estimates of a run are kept, so memory is steps + 1 times a sample's.

    `linear_multistep` makes one of a solver, `tune_sampler` chooses one and `learn_sampler` fits one. It is a
    pytree: `save` and `restore` keep it. Raises ValueError for arrays of shapes that do not agree.
    """

    times: Array
    calls: Array
    weights: Array

    def __post_init__(self) -> None:
        checks.shape("times", self.times, (None,))
        steps = jnp.shape(self.times)[0] - 1
        checks.shape("calls", self.calls, (steps,))
        checks.shape("weights", self.weights, (steps, steps))

    def init(self, x: Array) -> LinearState:
        return LinearState(x, jnp.zeros((len(self.calls), *x.shape), x.dtype), jnp.zeros((), int))

    def step(self, key: Key, denoise: Denoiser, state: LinearState, t: Array, s: Array) -> LinearState:
        del key
        schedule, x, k = denoise.schedule, state.x, state.steps_done
        ends = jnp.stack([t, s])
        own = (k < len(self.calls)) & jnp.isclose(jax.lax.dynamic_slice(self.times, (k,), (2,)), ends, 1e-4)
        first, call = k == 0, self.calls[k].astype(t.dtype)
        alpha = jnp.where(first, 1.0, schedule.alpha(t))
        asked = jnp.where(first, x, schedule.alpha(call) / alpha * x).astype(x.dtype)
        here = denoise(asked, jnp.where(own.all(), call, jnp.nan))
        values = state.values.at[k].set(here.noise)
        before = jnp.where(first, 0.0, schedule.sigma(t) / alpha)
        origin = jnp.where(first, here.data, x / alpha)
        row = jnp.where(jnp.arange(len(self.calls)) <= k, self.weights[k], 0.0)
        slope = jnp.tensordot(row.astype(t.dtype), values, 1, precision=jax.lax.Precision.HIGHEST)
        new = schedule.alpha(s) * (origin - before * slope) + schedule.sigma(s) * slope
        return LinearState(new, values, k + 1)


def linear_multistep(sampler: ExponentialAdams | DDIM, schedule: Schedule, times: Array) -> LinearMultistep:
    """The arrays of a solver on decreasing times: the same samples, to rounding.

    The solver is run once, on answers that are the unit vectors: its path is its coefficients. So whatever is
    done in it, correctors and lower orders at the ends, is kept.

    Raises TypeError for what is not one deterministic call a step, ValueError for times that do not decrease.

    >>> times = jnp.geomspace(1, 0.01, 21)
    >>> sampler = jd.linear_multistep(jd.dpm_solver_pp(2), jd.Karras(), times)
    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> x = jd.integrate(jax.random.key(0), denoise, jnp.array([[2.0]]), times, sampler=sampler)
    >>> round(float(x[0, 0]), 2)  # as the solver's: 2^(1/2)
    1.41
    """
    if not isinstance(sampler, DDIM | ExponentialAdams):
        raise TypeError(
            f"sampler must be deterministic and of one call a step, an ExponentialAdams or DDIM, got "
            f"{checks.described(sampler)}."
        )
    strength = sampler.eta if isinstance(sampler, DDIM) else sampler.stochasticity
    if number(strength) != 0:
        raise TypeError(f"sampler must be deterministic, got noise of strength {strength}.")
    checks.times(schedule, times, increasing=False)
    return _coefficients(sampler, schedule, jnp.asarray(times, float))


@jax.jit
def _coefficients(sampler: ExponentialAdams | DDIM, schedule: Schedule, times: Array) -> LinearMultistep:
    steps = len(times) - 1
    calls = times[:-1]

    # Coordinates: D_0 and then N_0, N_1, ...; where alpha = 0, x is noise and D_0 could be anything.
    def answer(x: Array, t: Time) -> Denoised:
        noise = jnp.append(0.0, (calls == t).astype(x.dtype))[None]
        alpha = schedule.alpha(t)
        known = (x - schedule.sigma(t) * noise) / jnp.where(alpha == 0, 1.0, alpha)
        first = jnp.zeros_like(x).at[:, 0].set(1.0)
        return Denoised(jnp.where(t == calls[0], first, known), noise)

    low, high = schedule.t_min, schedule.t_max
    denoise = as_denoiser(answer, schedule, shape=(steps + 1,), t_min=low, t_max=high)
    start = jnp.zeros((1, steps + 1)).at[0, 0].set(schedule.alpha(times[0]))
    start = start.at[0, 1].set(schedule.sigma(times[0]))
    path = integrate_path(jax.random.key(0), denoise, start, times, sampler=sampler)[1:, 0, 1:]
    alpha, sigma = jax.vmap(lambda t: (schedule.alpha(t), schedule.sigma(t)))(times[1:])
    y, r = path / alpha[:, None], sigma / alpha
    weights = jnp.diff(y, axis=0) / jnp.diff(r)[:, None]
    return LinearMultistep(times, calls, jnp.concatenate([jnp.eye(1, steps), weights]))
