"""Laws tilted by a reward, exactly: twisted sequential Monte Carlo, Wu et al. 2023, arXiv 2306.17775.

With psi_t(x) a positive guess of E[e^r | x_t = x] and K(x_s | x_t) = N(m, v) the ancestral chain, particles
are moved and weighed by

    x_s ~ q = N(m + v grad log psi_s(m), v),    w <- w psi_s(x_s) K(x_s | x_t) / (psi_t(x_t) q(x_s)),     (1)

from m = 0, v = sigma^2 at the start, and at last by e^(r(D)) / psi(x) for data = D. Any psi is right as
particles grow many; if it is the chain's own expectation and log-linear the weights are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff._numerics.rows import inner, to_rows
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.guidance.tilted import Reward
from jaxdiff.particles.states import Held, State, ancestral_step
from jaxdiff.typing import Array, Key

Twist: TypeAlias = Callable[[Array, Array, Array], Array]
"""``log psi(x, t, data)``, (rows,), of rows x at a scalar t and the denoiser's data there."""


@pytree
@dataclass(frozen=True, eq=False)
class Twisted:
    """A `Process` for the law p e^reward / Z, and log Z = log E e^reward the evidence.

    reward: of data (rows, *shape) -> (rows,), in nats. twist: by default reward(data), which is reward
    steering (Singhal et al. 2025, arXiv 2501.06848). guide: whether steps are moved by the twist's gradient,
    at two calls and a vjp a step, or only weighed, at one call. Raises TypeError for what is no denoiser or
    function, ValueError for a reward or a twist that is not one number a row.
    """

    denoise: Denoiser
    reward: Reward
    twist: Twist | None = None
    guide: bool = True

    def __post_init__(self) -> None:
        check_denoiser("denoise", self.denoise)
        if not callable(self.reward):
            raise TypeError(f"reward must be a function of data, got {checks.described(self.reward)}.")

    @property
    def like(self) -> Denoiser:
        return self.denoise

    def init(self, key: Key, n: int, t: Array, held: Held | None = None) -> tuple[State, Array]:
        noise = jnp.zeros((n, *self.denoise.shape))
        state, increment = self._move(key, noise, self.denoise.schedule.sigma(t), t, held)
        return state, increment + state.value

    def step(
        self, key: Key, state: State, t: Array, s: Array, held: Held | None = None
    ) -> tuple[State, Array]:
        mean, std = ancestral_step(self.denoise.schedule, state, t, s)
        new, increment = self._move(key, mean.astype(state.x.dtype), std, s, held)
        return new, increment + new.value - state.value

    def _move(self, key: Key, mean: Array, std: Array, t: Array, held: Held | None) -> tuple[State, Array]:
        """Draws about moved means, with log N(x; mean, std^2) - log q(x)."""
        z, push = noise_like(key, mean), jnp.zeros_like(mean)
        if self.guide:
            push = std * jax.grad(lambda x: self._at(x, t).value.sum())(mean)
        if held is not None:  # the noise that would have put it there
            z = jnp.where(to_rows(held.rows, z), (held.x - mean) / std - push, z)
        return self._at((mean + std * (push + z)).astype(mean.dtype), t), -inner(push, 0.5 * push + z)

    def finish(self, state: State) -> tuple[State, Array]:
        return state._replace(x=state.data), self._reward(state.data) - state.value

    def _at(self, x: Array, t: Array) -> State:
        answer = self.denoise(x, t)
        if self.twist is None:
            return State(x, answer.data, answer.noise, self._reward(answer.data))
        value = self.twist(x, t, answer.data)
        checks.shape("twist(x, t, data)", value, x.shape[:1])
        return State(x, answer.data, answer.noise, value)

    def _reward(self, data: Array) -> Array:
        value = self.reward(data)
        checks.shape("reward(data)", value, data.shape[:1])
        return value
