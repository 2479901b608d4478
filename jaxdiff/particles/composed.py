"""Products and powers of laws, exactly: Feynman-Kac correctors, Skreta et al. 2025, arXiv 2503.02819.

With S = sum_i c_i score_i and C = sum_i c_i, particles that follow the reverse SDE of S have the law
prod_i p_i^c_i at every time t, if they have it at the start and are weighed by

    d log w = g^2 / 2 (|S|^2 - sum_i c_i |score_i|^2) dt + (C - 1) dim f dt                       (1)
            = 1/2 (|N|^2 - sum_i c_i |N_i|^2) dlambda,  and (C - 1) dim log(alpha_t / alpha_s),    (2)

lambda the log-SNR, in terms of noise N: one formula for every schedule. The SDE is integrated by Heun's
method and the weights by trapezoids, both of order 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff._numerics.randomness import noise_like
from jaxdiff._numerics.rows import inner
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.guidance.composed import check_composition, combine
from jaxdiff.noising.process import log_snr
from jaxdiff.particles.states import State, ancestral_step
from jaxdiff.typing import Array, Denoised, Key


@pytree
@dataclass(frozen=True, init=False, eq=False)
class Composed:
    """A `Process` for the law prod_i p_i^powers_i / Z, and log Z the evidence. Two calls of each a step.

    (1, 1) is the product of two models, (2,) anneals one, (w, 1 - w) is what classifier-free guidance is
    meant to sample. A power above 1 alone, annealing, has weights of heavy tails: there few groups tell too
    small a standard error, the more so the noisier the first time. At the first time noise must dominate, and
    alpha > 0 unless the powers sum to 1. Errors as of `composed`, and ValueError for powers whose sum is not
    positive: their product has no law.
    """

    denoisers: list[Denoiser]
    powers: Array

    def __init__(self, denoisers: Sequence[Denoiser], powers: Array | Sequence[float]) -> None:
        denoisers, powers = check_composition(denoisers, powers)
        checks.positive("the sum of powers", powers.sum())
        set_fields(self, denoisers=denoisers, powers=powers)

    @property
    def like(self) -> Denoiser:
        return self.denoisers[0]

    def init(self, key: Key, n: int, t: Array) -> tuple[State, Array]:
        """Draws of N(0, sigma^2)^C, and its integral."""
        shape, total, sigma = self.like.shape, self.powers.sum(), self.like.schedule.sigma(t)
        x = sigma / jnp.sqrt(total) * noise_like(key, jnp.zeros((n, *shape)))
        integral = (1 - total) * jnp.log(2 * jnp.pi * sigma**2) - jnp.log(total)
        return self._at(x, t), jnp.full(n, 0.5 * math.prod(shape) * integral)

    def step(self, key: Key, state: State, t: Array, s: Array) -> tuple[State, Array]:
        schedule, noise = self.like.schedule, noise_like(key, state.x)

        def move(data: Array) -> State:
            # Its noise is the one that goes with x and other data.
            rest = state.noise + schedule.alpha(t) / schedule.sigma(t) * (state.data - data)
            mean, std = ancestral_step(schedule, Denoised(data, rest), t, s)
            return self._at((mean + std * noise).astype(state.x.dtype), s)

        new = move(0.5 * (state.data + move(state.data).data))
        rise = log_snr(schedule, s) - log_snr(schedule, t)
        more = self.powers.sum() - 1
        fall = jnp.log(schedule.alpha(t) / schedule.alpha(s)) * math.prod(self.like.shape)
        constant = jnp.where(more == 0, 0.0, more * fall)
        return new, 0.25 * rise * (state.value + new.value) + constant

    def finish(self, state: State) -> tuple[State, Array]:
        """The rows as they are: a law's power has no estimate of its data."""
        return state, jnp.zeros(state.x.shape[0])

    def _at(self, x: Array, t: Array) -> State:
        answers = [part(x, t) for part in self.denoisers]
        data, noise = combine(self.like, self.powers, x, t, answers)
        parts = sum(c * inner(a.noise, a.noise) for c, a in zip(self.powers, answers, strict=True))
        return State(x, data, noise, inner(noise, noise) - parts)
