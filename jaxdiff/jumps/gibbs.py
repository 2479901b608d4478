"""Particle Gibbs for tokens: a whole path of the reverse chain is drawn anew around the one that is there.

The law of paths p(x_T, ..., x_0) e^reward(x_0) / Z of the ancestral chain on a grid, psi_t as in
`jaxdiff.jumps.particles`: n particles, of which one keeps the old path, are moved, weighed by psi_s / psi_t
and drawn again at every step, the kept one for good; at last one is taken by its weight. For every n >= 2
this leaves that law as it is, so that repeating it leads there however few the particles are. Andrieu, Doucet
& Holenstein 2010; PG-DLM is this for language models of masks.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.jumps.denoiser import CategoricalDenoiser, check_denoiser
from jaxdiff.jumps.draws import categorical, check_tokens
from jaxdiff.jumps.particles import TokenReward
from jaxdiff.jumps.processes import start_law
from jaxdiff.jumps.samplers import ANCESTRAL
from jaxdiff.jumps.times import grid
from jaxdiff.typing import Array, Key


def draw_paths(key: Key, denoise: CategoricalDenoiser, n: int, *, num_steps: int) -> Array:
    """n paths of the ancestral chain on `jumps.grid`, (n, num_steps + 1, *shape), the data last.

    Row i depends on (key, i) only. Raises TypeError for what is no key or denoiser.
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.integer("n", n, 1)
    checks.integer("num_steps", num_steps, 1)
    return _draw_paths(key, denoise, n, num_steps)


@functools.partial(jax.jit, static_argnames=("n", "num_steps"))
def _draw_paths(key: Key, denoise: CategoricalDenoiser, n: int, num_steps: int) -> Array:
    times = grid(denoise.schedule, num_steps, t_min=denoise.t_min, t_max=denoise.t_max)
    start = _start(jax.random.fold_in(key, num_steps), denoise, n, times[0])

    def move(x: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        number, t, s = step
        x = ANCESTRAL.step(jax.random.fold_in(key, number), denoise, x, t, s)
        return x, x

    _, path = jax.lax.scan(move, start, (jnp.arange(num_steps), times[:-1], times[1:]))
    return jnp.moveaxis(jnp.concatenate([start[None], path]), 0, 1)


def particle_gibbs(
    key: Key, denoise: CategoricalDenoiser, reward: TokenReward, paths: Array, *, num_particles: int = 2
) -> Array:
    """Paths of p e^reward / Z from paths of it, integers (batch, num_steps + 1, *denoise.shape).

    The first are those of `draw_paths`; the data are ``paths[:, -1]``. num_particles, the kept one among
    them: more mix faster. Row i depends on (key, i) and itself only. Give the same function again as reward:
    another one is another program. Raises TypeError for what is no key, denoiser or function, ValueError for
    paths of another shape and fewer than two particles.
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    if not callable(reward):
        raise TypeError(f"reward must be a function of data, got {checks.described(reward)}.")
    checks.integer("num_particles", num_particles, 2)
    check_tokens("paths", paths, denoise.process.states)
    checks.shape("paths", paths, (None, None, *denoise.shape))
    return _particle_gibbs(key, denoise, reward, paths, num_particles)


@functools.partial(jax.jit, static_argnames=("reward", "num_particles"))
def _particle_gibbs(
    key: Key, denoise: CategoricalDenoiser, reward: TokenReward, paths: Array, num_particles: int
) -> Array:
    batch, length = paths.shape[:2]
    times = grid(denoise.schedule, length - 1, t_min=denoise.t_min, t_max=denoise.t_max)
    rows = jnp.arange(batch)[:, None]

    def flat(x: Array) -> Array:
        return x.reshape(batch * num_particles, *denoise.shape)

    def guess(x: Array, t: Array) -> Array:
        value = reward(jnp.argmax(denoise(flat(x), t), axis=-1))
        checks.shape("reward(data)", value, (batch * num_particles,))
        return value.reshape(batch, num_particles)

    def chosen(key: Key, log_weights: Array, n: int) -> Array:
        """n places of particles by their weights, (batch, n)."""
        law = jax.nn.softmax(log_weights)[:, None]
        return categorical(key, jnp.broadcast_to(law, (batch, n, num_particles)))

    def move(carry: tuple[Array, ...], step: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        history, value, log_weights = carry
        number, t, s, kept = step
        draw_key, move_key = jax.random.split(jax.random.fold_in(key, number))
        others = chosen(draw_key, log_weights, num_particles - 1)
        parents = jnp.concatenate([jnp.zeros_like(rows), others], axis=1)
        history, value = history[rows, parents], value[rows, parents]
        x = ANCESTRAL.step(move_key, denoise, flat(history[:, :, number]), t, s)
        x = x.reshape(batch, num_particles, *denoise.shape).at[:, 0].set(kept)
        new = guess(x, s)
        return (history.at[:, :, number + 1].set(x), new, new - value), None

    start = _start(jax.random.fold_in(key, length), denoise, batch * num_particles, times[0])
    start = start.reshape(batch, num_particles, *denoise.shape).at[:, 0].set(paths[:, 0])
    history = jnp.zeros((batch, num_particles, length, *denoise.shape), paths.dtype).at[:, :, 0].set(start)
    value = guess(start, times[0])
    steps = jnp.arange(length - 1), times[:-1], times[1:], jnp.moveaxis(paths[:, 1:], 1, 0)
    (history, _, log_weights), _ = jax.lax.scan(move, (history, value, value), steps)
    last = chosen(jax.random.fold_in(key, length + 1), log_weights, 1)
    return history[rows, last][:, 0]


def _start(key: Key, denoise: CategoricalDenoiser, n: int, t: Array) -> Array:
    law = start_law(denoise.process, t)
    return categorical(key, jnp.broadcast_to(law, (n, *denoise.shape, *law.shape)))
