"""Many rows through a function that can only take some at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array


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
