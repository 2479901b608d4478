"""Classifier-free guidance that no denoiser can do: of a step, or with a memory from step to step.

With c and u the answers under the condition and under none, both are DDIM's step with other estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.guidance.classifier_free import without_condition
from jaxdiff.guidance.tilted import noise_after
from jaxdiff.sampling.sampler import State
from jaxdiff.typing import Array, Key


@pytree
@dataclass(frozen=True)
class CFGPlusPlus:
    """x_s = alpha_s (u.data + scale (c.data - u.data)) + sigma_s u.noise: the noise is not guided.

    Two denoiser calls a step. The same step as DDIM's with `guided(denoise, w)` where w = scale /
    (1 - e^((lambda_t - lambda_s) / 2)), lambda the log-SNR: w is near scale in a long step, and grows without
    bound as steps shrink, so that a scale, in [0, 1] by habit, belongs to a number of steps. 0 is the
    unconditional DDIM. Chung et al. 2024, arXiv 2406.08070.

    unconditional: by default the denoiser itself, bound to its null condition. Raises as `guided`.

    >>> one, none = (jd.Gaussian([m], 1.0).denoiser(jd.Karras()) for m in (2.0, 0.0))
    >>> sampler = jd.CFGPlusPlus(0.5, unconditional=none)
    >>> x, times = jnp.array([[0.0]]), jnp.array([1.0, 0.0])
    >>> jd.integrate(jax.random.key(0), one, x, times, sampler=sampler).tolist()  # half-way from 0 to 1
    [[0.5]]
    """

    scale: Array | float
    unconditional: Denoiser | None = None

    def init(self, x: Array) -> State:
        return State(x)

    def step(self, key: Key, denoise: Denoiser, state: State, t: Array, s: Array) -> State:
        checks.shape("scale", self.scale, ())
        c, u = denoise(state.x, t), without_condition(denoise, self.unconditional)(state.x, t)
        alpha, sigma = denoise.schedule.alpha(s), denoise.schedule.sigma(s)
        return State(alpha * (u.data + self.scale * (c.data - u.data)) + sigma * u.noise)


class Remembered(NamedTuple):
    """The state of `APG`: the sample, and the change that its last step made of c."""

    x: Array
    change: Array


@pytree
@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance: data = c + (scale - 1) (across + parallel along), of a bounded change.

        change = c.data - u.data + momentum * the change of the step before,    at most radius long,    (1)

    along its part along c.data, across the rest; the noise follows, so that x is kept. Two denoiser calls a
    step, DDIM's. momentum = 0, no radius and parallel = 1 are DDIM with `guided(denoise, scale)`. radius is
    in the data's unit, the length of a datum. It saturates less at large scales, and samples no law of a
    name. Sadat et al. 2024, arXiv 2410.02416.

    unconditional: by default the denoiser itself, bound to its null condition. Raises as `guided`, and
    ValueError for a radius that is not positive.

    >>> one, none = (jd.Gaussian(m, 1.0).denoiser(jd.Karras()) for m in ([2.0, 0.0], [0.0, -2.0]))
    >>> sampler = jd.APG(3.0, unconditional=none)
    >>> x, times = jnp.zeros((1, 2)), jnp.array([1.0, 0.0])
    >>> jd.integrate(jax.random.key(0), one, x, times, sampler=sampler).tolist()  # (1, 0) + 2 (0, 1), across
    [[1.0, 2.0]]
    """

    scale: Array | float
    momentum: Array | float = -0.5
    radius: Array | float = float("inf")
    parallel: Array | float = 0.0
    unconditional: Denoiser | None = None

    def __post_init__(self) -> None:
        known = checks.known(self.radius)
        if known is not None and not (known > 0).all():
            raise ValueError(f"radius must be positive, got {self.radius}.")

    def init(self, x: Array) -> Remembered:
        return Remembered(x, jnp.zeros_like(x))

    def step(self, key: Key, denoise: Denoiser, state: Remembered, t: Array, s: Array) -> Remembered:
        for name in ("scale", "momentum", "radius", "parallel"):
            checks.shape(name, getattr(self, name), ())
        x, schedule = state.x, denoise.schedule
        c, u = denoise(x, t), without_condition(denoise, self.unconditional)(x, t)
        change = c.data - u.data + self.momentum * state.change
        axes = tuple(range(1, x.ndim))
        length = jnp.sqrt(jnp.sum(change**2, axes, keepdims=True))
        change = change * jnp.minimum(1.0, self.radius / jnp.where(length > 0, length, 1.0))
        square = jnp.sum(c.data**2, axes, keepdims=True)
        share = jnp.sum(change * c.data, axes, keepdims=True) / jnp.where(square > 0, square, 1.0)
        more = (self.scale - 1) * (change + (self.parallel - 1) * share * c.data)
        noise = noise_after(schedule, x, t, c.noise, more)
        x = schedule.alpha(s) * (c.data + more) + schedule.sigma(s) * noise
        return Remembered(x, change)
