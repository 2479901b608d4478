"""A batch seen from one of the devices that hold it.

Inside a `jax.pmap` whose axis is named `DATA_AXIS`, device k of m holds rows k n, ..., k n + n - 1 of a batch
of m n rows. Random numbers that are counted by those rows, and means that are taken over all of them, do not
depend on m: this is how a loss that knows nothing of devices is the same on one and on eight. Elsewhere,
under a sharded `jax.jit` too, a batch is seen whole: there is one shard.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array

DATA_AXIS = "data"
"""The axis of devices over which the rows of a batch are spread."""

_Tree = TypeVar("_Tree")


def count() -> int:
    """The number of shards of a batch, 1 where it is seen whole."""
    try:
        return jax.lax.axis_size(DATA_AXIS)
    except NameError:
        return 1


def row_numbers(n: int) -> Array:
    """The places in the whole batch of the n rows that are here, shape (n,)."""
    rows = jnp.arange(n)
    return rows if count() == 1 else jax.lax.axis_index(DATA_AXIS) * n + rows


def mean(tree: _Tree) -> _Tree:
    """The mean of each leaf over the shards, which hold equal numbers of rows."""
    return tree if count() == 1 else jax.lax.pmean(tree, DATA_AXIS)
