"""Random arrays whose row i depends on (key, i) only.

So a sample, or a batch, does not change with the number of rows, nor with the devices they are spread over:
rows are counted over the whole batch (`shards.row_numbers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, shards
from jaxdiff.typing import Array, Key


def per_row(key: Key, n: int, draw: Callable[[Key], Any]) -> Any:
    """n draws stacked, row i made from (key, i).

    Raises TypeError for what is no key, and ValueError unless n is an integer of at least 1.
    """
    checks.key(key)
    checks.integer("n", n, 1)
    return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(shards.row_numbers(n))


def noise_like(key: Key, x: Array) -> Array:
    """Standard normal noise of x's shape (batch, ...) and dtype."""
    # Drawn flat: the numbers are the same, and XLA compiles a draw of many axes ten times more slowly on CPU.
    flat = per_row(key, x.shape[0], lambda k: jax.random.normal(k, (math.prod(x.shape[1:]),), x.dtype))
    return flat.reshape(x.shape)


def signs_like(key: Key, x: Array, num: int) -> Array:
    """Independent signs, +1 or -1, shape (num, *x.shape). Raises ValueError unless num >= 1."""
    checks.integer("num_probes", num, 1)
    keys = jax.random.split(key, num)
    return jax.vmap(lambda k: jnp.where(noise_like(k, x) < 0, -1, 1).astype(x.dtype))(keys)
