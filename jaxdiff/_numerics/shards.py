"""A batch seen from one of the devices that hold it.

Inside a `jax.pmap` or `jax.shard_map` whose axis is named `DATA_AXIS`, device k of m holds rows k n, ...,
k n + n - 1 of a batch of m n rows. Random numbers that are counted by those rows, and means that are taken
over all of them, do not depend on m: this is how a loss that knows nothing of devices is the same on one and
on eight. Elsewhere, under a sharded `jax.jit` too, a batch is seen whole: there is one shard, and networks
say by `spread` how their activations lie, lest the compiler should spread them like the weights that they
meet.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxdiff.typing import Array

DATA_AXIS = "data"
"""The axis of devices over which the rows of a batch are spread, and parameters that are."""
SLICE_AXIS = "slice"
"""An axis before it, of slow links: rows are spread over it too, parameters are not."""
MODEL_AXIS = "model"
"""An axis after it, of fast links, over which one product of matrices is."""

_Tree = TypeVar("_Tree")


def _bound() -> tuple[str, ...]:
    """The axes of rows that this is inside of, as under pmap or shard_map."""
    found = []
    for axis in (SLICE_AXIS, DATA_AXIS):
        try:
            jax.lax.axis_size(axis)
        except NameError:
            continue
        found.append(axis)
    return tuple(found)


def count() -> int:
    """The number of shards of a batch, 1 where it is seen whole."""
    return math.prod(map(jax.lax.axis_size, _bound()))


def row_numbers(n: int) -> Array:
    """The places in the whole batch of the n rows that are here, shape (n,)."""
    rows = jnp.arange(n)
    return rows if count() == 1 else jax.lax.axis_index(_bound()) * n + rows


def mean(tree: _Tree) -> _Tree:
    """The mean of each leaf over the shards, which hold equal numbers of rows."""
    return tree if count() == 1 else jax.lax.pmean(tree, _bound())


def row_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The axes of a mesh over which rows are spread."""
    return tuple(axis for axis in (SLICE_AXIS, DATA_AXIS) if axis in mesh.axis_names)


def spread(x: Array, features: int | None = None) -> Array:
    """x, said to have its leading axis over the devices of a batch, and the axis features over MODEL_AXIS's.

    For activations while `jaxdiff.running.parallel.data_parallel` traces a step. Elsewhere, and where the
    devices do not divide its rows, x as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if DATA_AXIS not in mesh.auto_axes or not isinstance(x, Tracer):
        return x
    if x.shape[0] % math.prod(mesh.shape[axis] for axis in row_axes(mesh)):
        return x
    return jax.lax.with_sharding_constraint(x, placed(mesh, x.shape, features))


def whole(weight: Array) -> Array:
    """weight, said to lie whole on every device, and so its derivative; or as it is, where `spread` would.

    For kernels of convolutions: left to itself the compiler works out the derivative of one that lies in
    parts by sending parts of images around.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if DATA_AXIS not in mesh.auto_axes or not isinstance(weight, Tracer):
        return weight
    return jax.lax.with_sharding_constraint(weight, PartitionSpec())


def placed(mesh: AbstractMesh, shape: tuple[int, ...], features: int | None) -> PartitionSpec:
    """Where `spread` says that an array of this shape lies."""
    parts: list[Any] = [None] * len(shape)
    rows = row_axes(mesh)
    if shape[0] % math.prod(mesh.shape[axis] for axis in rows) == 0:
        parts[0] = rows
    if (
        features is not None
        and MODEL_AXIS in mesh.axis_names
        and shape[features] % mesh.shape[MODEL_AXIS] == 0
    ):
        parts[features] = MODEL_AXIS
    return PartitionSpec(*parts)
