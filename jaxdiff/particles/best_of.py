"""The best of several continuations at every step: no weights are left, and rows do not see each other."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.particles.driver import check_run
from jaxdiff.particles.twisted import Twisted
from jaxdiff.typing import Array, Key


def best_of(
    key: Key, process: Twisted, n: int, m: int, *, num_steps: int | None = None, times: Array | None = None
) -> Array:
    """n draws of about p e^reward / Z, (n, *shape): at every step one of m continuations of each row goes on.

    One is drawn by its weight, e^(twist) if ``guide=False``, and no gradient is asked for; Li et al. 2024
    (SVDD, arXiv 2408.08252). m = 1 is the ancestral chain. With many the law is that of the chain tilted by
    the twist at each step, which is the reward's tilt if the twist is log E[e^r | x_t]; a weak linear reward
    of Gaussian data has 1 - 1 / m of its tilt. What the twist, by default the reward of the mean, gets wrong
    is not mended, as it is by `run`, whose particles of a group are weighed together. A large multiple of a
    reward takes the largest each time.

    m calls a row and step, without guidance. Other arguments and errors are those of `run`, and ValueError
    for m < 1, TypeError for a process that is not `Twisted`.
    """
    if not isinstance(process, Twisted):
        raise TypeError(f"process must be Twisted(...), got {checks.described(process)}.")
    checks.integer("n", n, 1)
    checks.integer("m", m, 1)
    return _best_of(key, process, check_run(key, process, num_steps, times), n=n, m=m)


@functools.partial(jax.jit, static_argnames=("n", "m"))
def _best_of(key: Key, process: Twisted, times: Array, *, n: int, m: int) -> Array:
    def chosen(key: Key, state: Any, log_weights: Array) -> Any:
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(n))
        best = jax.vmap(jax.random.categorical)(keys, log_weights.reshape(n, m))
        return jax.tree.map(lambda leaf: leaf[m * jnp.arange(n) + best], state)

    def body(state: Any, step: tuple[Array, Array, Array]) -> tuple[Any, None]:
        number, t, s = step
        move_key, key_of_choice = jax.random.split(jax.random.fold_in(key, number))
        copies = jax.tree.map(lambda leaf: jnp.repeat(leaf, m, axis=0), state)
        new, increments = process.step(move_key, copies, t, s)
        new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, state)
        return chosen(key_of_choice, new, increments), None

    start_key, choice_key, key = jax.random.split(key, 3)
    state = chosen(choice_key, *process.init(start_key, n * m, times[0]))
    state, _ = jax.lax.scan(body, state, (jnp.arange(len(times) - 1), times[:-1], times[1:]))
    return process.finish(state)[0].x
