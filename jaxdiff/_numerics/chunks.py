"""Many rows through a function that can only take some at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array

BYTES_PER_CALL = 2**28
"""For the arrays of one call, where nothing is said."""
_ALIVE = 4
"""So many arrays of the size of the largest are taken to be alive at once."""


def map_rows(function: Callable[[Any], Array], rows: Any, most: int) -> Array:
    """function of a pytree of rows (n, ...), each row's answer its own, on at most `most` rows at a time.

    Calls follow one another and are all of one length, so that function is traced once; the last repeats the
    last row as often as it must. Memory is that of one call, beside rows and answers, (n, ...).
    """
    n = len(jax.tree.leaves(rows)[0])
    calls = -(-n // most)
    which = jnp.minimum(jnp.arange(calls * -(-n // calls)), n - 1).reshape(calls, -1)
    answer = jax.lax.map(lambda which: function(jax.tree.map(lambda leaf: leaf[which], rows)), which)
    return answer.reshape(-1, *answer.shape[2:])[:n]


def map_within(function: Callable[[Any], Array], rows: Any, bytes_per_call: int) -> Array:
    """The same, on as many rows at a time as `rows_within` says."""
    return map_rows(function, rows, rows_within(function, rows, bytes_per_call))


def rows_within(function: Callable[[Any], Any], rows: Any, bytes_per_call: int) -> int:
    """How many of rows (n, ...), at least one, function takes at once within so many bytes, about.

    By the largest array that it makes of one row, which is found by tracing it; so a wide network or a
    reference of many components is given fewer rows than a small one.
    """
    one = jax.tree.map(lambda leaf: leaf[:1], rows)
    traced = jax.make_jaxpr(function)(one)
    return max(1, bytes_per_call // (_ALIVE * max(_sizes(traced.jaxpr), default=1)))


def _sizes(jaxpr: Any) -> Iterator[int]:
    """Bytes of every array that is made, also inside of loops and calls."""
    for equation in jaxpr.eqns:
        for made in equation.outvars:
            if hasattr(made.aval, "shape"):
                yield max(1, math.prod(made.aval.shape) * getattr(made.aval.dtype, "itemsize", 8))
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _sizes(inner)
