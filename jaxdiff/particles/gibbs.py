"""Particle Gibbs: a path is drawn again among particles of which one is that path.

A sweep runs n particles with the first pinned to the path (conditional sequential Monte Carlo, Andrieu,
Doucet & Holenstein 2010): the others move as ever, ancestors are drawn anew at every step but for the pinned
one's, and a particle is drawn by its weight at the end and traced back. The law of paths that the process is
for stays as it is, for any number of particles from two on; one run of particles has a bias of the order of
1 / n. A path that is far out is left slowly, by few particles. For diffusions of language Dang et al. 2025,
arXiv 2507.08390.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.particles.states import Held
from jaxdiff.particles.twisted import Twisted
from jaxdiff.theory.paths import forward_path
from jaxdiff.typing import Array, Key


class Swept(NamedTuple):
    """What a chain of sweeps leaves."""

    data: Array
    """(chains, *shape)."""
    path: Array
    """(len(times), chains, *shape), from noise down."""


def gibbs(key: Key, process: Twisted, path: Array, times: Array, *, n: int = 8, num_sweeps: int = 1) -> Swept:
    """num_sweeps of particle Gibbs for every chain; chain i sees no other.

    path: (len(times), chains, *shape), of `noised_path` or of the sweeps before; times: decreasing, the grid
    that it is on, which ends where the denoiser knows its times. n: particles of a chain, the pinned one
    among them. Memory is len(times) times n times a chain's.

    Raises TypeError for what is no key or `Twisted`; ValueError for fewer than 2 particles, a path of another
    shape or times that the denoiser does not know.
    """
    checks.key(key)
    if not isinstance(process, Twisted):
        raise TypeError(f"process must be Twisted(...), got {checks.described(process)}.")
    checks.integer("n", n, 2)
    checks.integer("num_sweeps", num_sweeps, 1)
    _check_path(process.denoise, path, times)
    return sweeps(key, process, path, jnp.asarray(times, float), n=n, num_sweeps=num_sweeps)


def noised_path(key: Key, denoise: Denoiser, data: Array, times: Array) -> Array:
    """Paths that lead to data, (chains, *shape), at decreasing times: (len(times), chains, *shape).

    Draws of the forward process, in the order of sampling. Raises ValueError for data of another shape and
    times that the denoiser does not know.

    >>> law, times = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.array([3.0, 1.0, 0.01])
    >>> path = jd.particles.noised_path(jax.random.key(0), law, jnp.zeros((10_000, 1)), times)
    >>> [round(float(std), 1) for std in path.std((1, 2))]
    [3.0, 1.0, 0.0]
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.batch("data", data)
    denoise.check_shape("data", data)
    checks.times(denoise.schedule, times, increasing=False)
    denoise.check_times("times", times)
    path = forward_path(key, denoise.schedule, data, jnp.asarray(times, float)[::-1])
    return path[::-1]


@functools.partial(jax.jit, static_argnames=("n", "num_sweeps"))
def sweeps(key: Key, process: Any, path: Array, times: Array, *, n: int, num_sweeps: int) -> Swept:
    """`gibbs` of any process whose `init` and `step` take rows that are held."""
    chains = path.shape[1]
    rows = n * jnp.arange(chains)  # of the pinned particles
    pinned = jnp.zeros(n * chains, bool).at[rows].set(True)

    def held(x: Array) -> Held:
        return Held(pinned, jnp.repeat(x, n, axis=0))

    def drawn(key: Key, log_weights: Array) -> Array:
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(chains))
        return jax.vmap(lambda key, w: jax.random.categorical(key, w, shape=(n,)))(keys, log_weights)

    def sweep(path: Array, key: Key) -> tuple[Array, Array]:
        start_key, move_key, last_key = jax.random.split(key, 3)

        def body(carry: tuple[Any, Array], step: tuple[Any, ...]) -> tuple[tuple[Any, Array], Any]:
            (state, log_weights), (number, t, s, x) = carry, step
            draw_key, own_key = jax.random.split(jax.random.fold_in(move_key, number))
            ancestors = drawn(draw_key, log_weights).at[:, 0].set(0)
            state = jax.tree.map(lambda leaf: leaf[(rows[:, None] + ancestors).reshape(-1)], state)
            new, increment = process.step(own_key, state, t, s, held(x))
            new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, state)
            return (new, increment.reshape(chains, n)), (new.x, ancestors)

        state, first = process.init(start_key, n * chains, times[0], held(path[0]))
        steps = (jnp.arange(len(times) - 1), times[:-1], times[1:], path[1:])
        began = state.x
        (state, log_weights), (moved, ancestors) = jax.lax.scan(
            body, (state, first.reshape(chains, n)), steps
        )
        state, last = process.finish(state)
        chosen = drawn(last_key, log_weights + last.reshape(chains, n))[:, 0]

        def back(chosen: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            x, ancestors = step
            before = jnp.take_along_axis(ancestors, chosen[:, None], axis=1)[:, 0]
            return before, x[rows + chosen]

        oldest, traced = jax.lax.scan(back, chosen, (moved, ancestors), reverse=True)
        path = jnp.concatenate([began[rows + oldest][None], traced])
        return path, state.x[rows + chosen]

    path, data = jax.lax.scan(sweep, path, jax.random.split(key, num_sweeps))
    return Swept(data[-1], path)


def _check_path(denoise: Denoiser, path: Array, times: Array) -> None:
    """Errors of `gibbs` in its path and times."""
    checks.times(denoise.schedule, times, increasing=False)
    denoise.check_times("times", times)
    checks.shape("path", path, (len(times), None, *denoise.shape))
    checks.finite("path", path)
