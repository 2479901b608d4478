"""Particle Gibbs for tokens: a whole path of the reverse chain is drawn anew around the one that is there.

The law of paths p(x_T, ..., x_0) e^reward(x_0) / Z of the ancestral chain on a grid, with the process of
`jaxdiff.jumps.particles` and the sweeps of `jaxdiff.particles.gibbs`, which leave that law as it is for two
particles or more. PG-DLM is this for language models of masks.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.jumps.denoiser import CategoricalDenoiser, check_denoiser
from jaxdiff.jumps.draws import check_tokens, drawn_start
from jaxdiff.jumps.particles import Steered, TokenReward, check_reward
from jaxdiff.jumps.samplers import ANCESTRAL
from jaxdiff.jumps.times import grid
from jaxdiff.particles.gibbs import sweeps
from jaxdiff.typing import Array, Key


def draw_paths(key: Key, denoise: CategoricalDenoiser, n: int, *, num_steps: int) -> Array:
    """n paths of the ancestral chain on `jumps.grid`, (n, num_steps + 1, *shape), the data last.

    Row i depends on (key, i) only. Raises TypeError for what is no key or denoiser.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> paths = jd.jumps.draw_paths(jax.random.key(0), alike, 3, num_steps=8)
    >>> paths.shape, paths[:, 0].tolist()  # from masks
    ((3, 9, 2), [[2, 2], [2, 2], [2, 2]])
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.integer("n", n, 1)
    checks.integer("num_steps", num_steps, 1)
    return _draw_paths(key, denoise, n, num_steps)


@functools.partial(jax.jit, static_argnames=("n", "num_steps"))
def _draw_paths(key: Key, denoise: CategoricalDenoiser, n: int, num_steps: int) -> Array:
    times = grid(denoise.schedule, num_steps, t_min=denoise.t_min, t_max=denoise.t_max)
    start_key = jax.random.fold_in(key, num_steps)
    start = drawn_start(start_key, denoise.process, denoise.shape, n, times[0])

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

    >>> pairs = jd.jumps.Enumerated(jnp.array([[0.4, 0.1], [0.1, 0.4]])).denoiser(jd.jumps.Masking(2))
    >>> paths = jd.jumps.draw_paths(jax.random.key(0), pairs, 100, num_steps=8)
    >>> ones = lambda data: 3.0 * data[:, 0]  # a reward
    >>> for seed in range(8):
    ...     paths = jd.jumps.particle_gibbs(jax.random.key(seed), pairs, ones, paths, num_particles=8)
    >>> bool(paths[:, -1, 0].mean() > 0.8)  # 1 / (1 + e^-3) = .95 in the end
    True
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    check_reward(reward)
    checks.integer("num_particles", num_particles, 2)
    check_tokens("paths", paths, denoise.process.states)
    checks.shape("paths", paths, (None, None, *denoise.shape))
    times = grid(denoise.schedule, paths.shape[1] - 1, t_min=denoise.t_min, t_max=denoise.t_max)
    path, process = jnp.moveaxis(paths, 1, 0), Steered(denoise, reward)
    swept = sweeps(key, process, path, times, n=num_particles, num_sweeps=1)
    return jnp.moveaxis(swept.path, 0, 1)
