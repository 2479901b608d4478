"""Draws of tokens that keep their temperature, and of noised data.

The largest of log p + Gumbel noise is a draw of p only as far as the noise goes: in float32 it is cut off
above, at 16 or so, as if by a lower temperature, where there are many tokens or many draws. Zheng et al.
2024, arXiv 2409.02908. Here a uniform number is looked up among the cumulated chances: each is off by at most
the rounding of a number near one, and a token without a chance is never drawn.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.randomness import per_row
from jaxdiff.jumps.processes import JumpProcess, check_process, one_hot, start_law
from jaxdiff.typing import Array, Key, Time


def categorical(key: Key, probs: Array) -> Array:
    """A token for each law of probs, (batch, ..., n) -> (batch, ...) int32; row i depends on (key, i) only.

    probs need not sum to one. Raises TypeError for what is no key or no floats.

    >>> draws = jd.jumps.categorical(jax.random.key(0), jnp.tile(jnp.array([0.0, 3.0, 1.0]), (10_000, 1)))
    >>> (jnp.bincount(draws, length=3) / 10_000).round(1)
    Array([0. , 0.8, 0.2], dtype=float32)
    """
    checks.key(key)
    checks.batch("probs", probs)
    return _categorical(key, probs)


@compiled
def _categorical(key: Key, probs: Array) -> Array:
    size = math.prod(probs.shape[1:-1])
    u = per_row(key, probs.shape[0], lambda key: jax.random.uniform(key, (size,), probs.dtype))
    return looked_up(u.reshape(probs.shape[:-1]), probs)


def looked_up(u: Array, probs: Array) -> Array:
    """The token at which the cumulated chances, (..., n), pass the share u, (...), in [0, 1)."""
    heaped = jnp.cumsum(probs, axis=-1)
    below = heaped <= u[..., None] * heaped[..., -1:]
    # Of the last sum, only rounding could be heard.
    return below[..., :-1].sum(-1).astype(jnp.int32)


def perturb(key: Key, process: JumpProcess, data: Array, t: Time) -> Array:
    """Tokens x_t of data, (batch, ...), at t, a scalar or (batch,); row i depends on (key, i) and itself.

    Raises TypeError for what is no key, process or integers; ValueError for no rows, tokens that are not of
    the data, and a t that goes with other rows or is out of the schedule's range.

    >>> x = jd.jumps.perturb(jax.random.key(0), jd.jumps.Masking(5), jnp.full((10_000, 2), 3), 0.4)
    >>> (x == 5).mean().round(1)  # masked
    Array(0.4, dtype=float32)
    """
    checks.key(key)
    check_process("process", process)
    check_tokens("data", data, process.vocabulary)
    check_row_times(data, t)
    checks.in_range("t", process.schedule, t)
    return _perturb(key, process, data, jnp.asarray(t, float))


@compiled
def _perturb(key: Key, process: JumpProcess, data: Array, t: Array) -> Array:
    return perturb_on(key, process, data, process.schedule.t_min, t)


def perturb_on(key: Key, process: JumpProcess, x: Array, s: Time, t: Time) -> Array:
    """Tokens x_t of tokens x_s, (batch, ...), for s <= t, scalars or (batch,)."""
    s, t = (jnp.broadcast_to(jnp.asarray(time, float), x.shape[:1]) for time in (s, t))
    laws = jax.vmap(lambda x, s, t: process.push(one_hot(x, process.states), s, t))(x, s, t)
    return categorical(key, laws)


def drawn_start(key: Key, process: JumpProcess, shape: tuple[int, ...], n: int, t: Array) -> Array:
    """n rows of tokens of `start_law` at t, (n, *shape): what the reverse process begins from."""
    law = start_law(process, t)
    return categorical(key, jnp.broadcast_to(law, (n, *shape, *law.shape)))


def check_tokens(name: str, x: Array, n: int) -> None:
    """Raise TypeError unless x is of integers, ValueError unless in rows and, if known, in 0, ..., n - 1."""
    checks.integers(name, x)
    checks.rows(name, x)
    values = checks.known(x)
    if values is not None and ((values < 0) | (values >= n)).any():
        raise ValueError(
            f"{name} must be tokens in 0, ..., {n - 1}, got values from {values.min()} to {values.max()}."
        )


def check_row_times(x: Array, t: Time) -> None:
    """Raise ValueError unless t is a scalar or has one time for each row of x."""
    if jnp.shape(t) not in ((), x.shape[:1]):
        raise ValueError(
            f"t must be a scalar or have shape ({x.shape[0]},), one per row; got {jnp.shape(t)}."
        )
