"""Tokens with weights: laws tilted by a reward, and steps whose tokens are drawn together.

`steered`: particles of the ancestral chain are weighed by psi_s(x_s) / psi_t(x_t), psi_t(x) being e^reward of
the likeliest data given x, which at the clean end are x. Any psi is right as particles grow many. Through the
driver of `jaxdiff.particles`.

`Resampled`: a step draws K data for each row, each token on its own, and takes one of them by the weights

    p(data) P_0t(data, x_t) / prod_i p(data_i | x_t),                                                    (1)

and then x_s by the bridge. As K grows the data are of the joint law, and the error of steps is gone. Xu et
al. 2024, arXiv 2410.21357 (EDLM), where log p is minus an energy, or of an autoregressive model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.jumps.denoiser import CategoricalDenoiser, check_denoiser
from jaxdiff.jumps.draws import categorical, drawn_start
from jaxdiff.jumps.processes import bridge, likelihood
from jaxdiff.jumps.samplers import ANCESTRAL
from jaxdiff.jumps.times import grid
from jaxdiff.particles import driver
from jaxdiff.particles.states import Held
from jaxdiff.typing import Array, Key

TokenReward: TypeAlias = Callable[[Array], Array]
"""Of data, integers (batch, *shape), -> (batch,) in nats, each row's its own."""


class _State(NamedTuple):
    x: Array
    value: Array


@pytree
@dataclass(frozen=True, eq=False)
class Steered:
    """A `particles.Process` of tokens, whose rows may be held."""

    like: Any
    reward: TokenReward

    def init(self, key: Key, n: int, t: Array, held: Held | None = None) -> tuple[_State, Array]:
        state = self._at(drawn_start(key, self.like.process, self.like.shape, n, t), t, held)
        return state, state.value

    def step(
        self, key: Key, state: _State, t: Array, s: Array, held: Held | None = None
    ) -> tuple[_State, Array]:
        new = self._at(ANCESTRAL.step(key, self.like, state.x, t, s), s, held)
        return new, new.value - state.value

    def finish(self, state: _State) -> tuple[_State, Array]:
        """At the clean end the likeliest data are x itself: nothing is left to be weighed."""
        return state, jnp.zeros_like(state.value)

    def _at(self, x: Array, t: Array, held: Held | None) -> _State:
        x = x if held is None else held.put(x)
        value = self.reward(jnp.argmax(self.like(x, t), axis=-1))
        checks.shape("reward(data)", value, x.shape[:1])
        return _State(x, value)


def steered(
    key: Key,
    denoise: CategoricalDenoiser,
    reward: TokenReward,
    n: int,
    *,
    groups: int = 8,
    num_steps: int = 64,
    threshold: float = 0.5,
) -> driver.Particles:
    """Weighted samples of p e^reward / Z in groups of n particles, and log Z; see `jaxdiff.particles.run`.

    num_steps: of `jumps.grid` over the denoiser's times, which must reach the clean end. Raises TypeError for
    what is no key, denoiser or function; ValueError for a reward that is not one number a row and for a
    denoiser that does not know the clean end, and as `jaxdiff.particles.run`.

    >>> pairs = jd.jumps.Enumerated(jnp.array([[0.4, 0.1], [0.1, 0.4]])).denoiser(jd.jumps.Masking(2))
    >>> ones = lambda data: math.log(3) * data[:, 0]
    >>> got = jd.jumps.steered(jax.random.key(0), pairs, ones, 100, num_steps=16)
    >>> bool(abs(got.log_evidence.value - math.log(2)) < 0.2)  # of (1 + 3) / 2
    True
    """
    check_denoiser("denoise", denoise)
    check_reward(reward)
    if denoise.t_min > denoise.schedule.t_min:
        raise ValueError(
            f"steered ends in data, got a denoiser of t_min = {denoise.t_min:g}; make it with t_min at "
            f"{denoise.schedule.t_min:g}, the clean end."
        )
    times = grid(denoise.schedule, num_steps, t_min=denoise.t_min, t_max=denoise.t_max)
    return driver.run(key, Steered(denoise, reward), n, groups=groups, times=times, threshold=threshold)


def check_reward(reward: Any) -> None:
    """Raise TypeError unless reward is a function."""
    if not callable(reward):
        raise TypeError(f"reward must be a function of data, got {checks.described(reward)}.")


@pytree
@dataclass(frozen=True, eq=False)
class Resampled:
    """A sampler whose steps draw num_candidates data for each row and keep one, eq. (1).

    log_prob: of data, integers (rows, *shape) -> (rows,), up to a constant: minus an energy. It is called on
    num_candidates rows for each. Raises TypeError for what is no function, ValueError for no candidates.

    >>> denoise = jd.jumps.Enumerated(jnp.array([0.5, 0.5])).denoiser(jd.jumps.Masking(2))
    >>> sampler = jd.jumps.Resampled(lambda data: math.log(9) * data[:, 0], num_candidates=64)
    >>> x = sampler.step(jax.random.key(0), denoise, jnp.full((4000, 1), 2), 1.0, 0.0)
    >>> round(float(x.mean()), 1)  # weights of 1 and 9
    0.9
    """

    log_prob: TokenReward
    num_candidates: int = 8

    def __post_init__(self) -> None:
        if not callable(self.log_prob):
            raise TypeError(f"log_prob must be a function of data, got {checks.described(self.log_prob)}.")
        checks.integer("num_candidates", self.num_candidates, 1)

    def step(self, key: Key, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        draw_key, choose_key, bridge_key = jax.random.split(key, 3)
        k, log_probs = self.num_candidates, denoise(x, t)
        own = jnp.log(likelihood(denoise.process, x, t))
        probs = jnp.exp(log_probs)

        def candidate(number: Array) -> tuple[Array, Array]:
            data = categorical(jax.random.fold_in(draw_key, number), probs)
            of = lambda table: jnp.take_along_axis(table, data[..., None], axis=-1)  # noqa: E731
            gain = (of(own) - of(log_probs)).reshape(len(x), -1).sum(1)
            return data, self.log_prob(data) + gain

        data, log_weights = jax.vmap(candidate)(jnp.arange(k))
        checks.shape("log_prob(data)", log_weights, (k, len(x)))
        weights = jax.nn.softmax(log_weights, axis=0).T
        chosen = categorical(choose_key, weights)
        data = jax.vmap(lambda candidates, i: candidates[i], in_axes=(1, 0))(data, chosen)
        return categorical(bridge_key, bridge(denoise.process, data, x, s, t))
