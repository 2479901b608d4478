"""Euler and Maruyama's method on the reverse SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.process import transition
from jaxdiff.sampling.sampler import State
from jaxdiff.typing import Array, Key


@pytree
@dataclass(frozen=True)
class EulerMaruyama:
    """Euler-Maruyama on the reverse SDE, its coefficients integrated exactly over the step. Weak order 1.

    With (a, v) of x_t | x_s and the score held at its value at (x_t, t),

        x_s = (x_t + v score + sqrt(v) z) / a = alpha_s D + (a sigma_s^2 / sigma_t) N + (sqrt(v) / a) z.

    It over-disperses where `ancestral` under-disperses. It needs alpha_t > 0: the drift is singular where
    there is no signal. Noise is left out of a step to sigma_s = 0.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.RectifiedFlow())
    >>> times = jnp.linspace(0.99, 0.01, 200)
    >>> x = jd.sample(jax.random.key(0), denoise, 4000, sampler=jd.EulerMaruyama(), times=times)
    >>> round(float(x.std()), 1)
    1.0
    """

    needs_signal: ClassVar[bool] = True

    def init(self, x: Array) -> State:
        return State(x)

    def step(self, key: Key, denoise: Denoiser, state: State, t: Array, s: Array) -> State:
        schedule = denoise.schedule
        estimate = denoise(state.x, t)
        scale, std = transition(schedule, s, t)
        sigma = schedule.sigma(s)
        mean = schedule.alpha(s) * estimate.data + scale * sigma**2 / schedule.sigma(t) * estimate.noise
        return State(mean + jnp.where(sigma > 0, std / scale, 0.0) * noise_like(key, state.x))
