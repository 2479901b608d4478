"""Conditions: what a denoiser is told beside x and t, row by row, and dropped in classifier-free training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.randomness import per_row
from jaxdiff.typing import Array, Condition, Key, Params, Predictor


def drop_condition(key: Key, condition: Condition, null_condition: Condition, rate: float) -> Condition:
    """The condition of a batch with rows put to the null condition, each at the given rate, for training.

    null_condition: as the condition, of one row or scalars. Row i depends on (key, i) only. Raises TypeError
    for what is no key, ValueError for a rate out of range and a null condition that is not like the others.

    >>> jd.drop_condition(jax.random.key(0), jnp.array([3, 7]), 10, rate=1.0).tolist()
    [10, 10]
    """
    checks.within("rate", rate, 0.0, 1.0)
    n = checks.num_rows(condition)
    if jax.tree.structure(condition) != jax.tree.structure(null_condition):
        raise ValueError(
            f"null_condition must be of the structure of condition, {jax.tree.structure(condition)}, got "
            f"{jax.tree.structure(null_condition)}."
        )
    for leaf, null in zip(jax.tree.leaves(condition), jax.tree.leaves(null_condition), strict=True):
        if jnp.shape(null) not in (leaf.shape[1:], (1, *leaf.shape[1:])):
            raise ValueError(
                f"null_condition must be one row of the condition, {leaf.shape[1:]}, got {jnp.shape(null)}."
            )
    return _drop_condition(key, condition, null_condition, rate, n)


@compiled(static="n")
def _drop_condition(
    key: Key, condition: Condition, null_condition: Condition, rate: float, n: int
) -> Condition:
    dropped = per_row(key, n, lambda key: jax.random.bernoulli(key, rate))

    def drop(leaf: Array, null: Array) -> Array:
        null = jnp.asarray(null, leaf.dtype)
        null = null if jnp.shape(null)[:1] in ((), (1,)) else null[None]
        return jnp.where(dropped.reshape(-1, *[1] * (leaf.ndim - 1)), null.reshape(1, *leaf.shape[1:]), leaf)

    return jax.tree.map(drop, condition, null_condition)


def as_condition(condition: Condition) -> Condition:
    """A condition whose leaves are arrays; a list, such as of labels, is one array."""
    return jax.tree.map(jnp.asarray, condition, is_leaf=lambda node: isinstance(node, list))


def told(predict: Predictor, params: Params, *shown: Array, condition: Condition, **later: Array) -> Any:
    """What predict answers to what it is shown, rows, and to a condition: a mapping is keyword arguments."""
    condition = rows_of(condition, shown[0].shape[0])
    if condition is None:
        return predict(params, *shown, **later)
    if isinstance(condition, Mapping):
        return predict(params, *shown, **later, **condition)
    return predict(params, *shown, condition, **later)


def rows_of(condition: Condition, n: int) -> Condition:
    """A condition with one row for each of n; ValueError where it has another number of rows."""

    def rows(leaf: Array) -> Array:
        leaf = leaf if jnp.ndim(leaf) else leaf[None]
        if leaf.shape[0] not in (1, n):
            raise ValueError(
                f"a condition must have one row for each of the {n} of x, or one for all; got "
                f"{leaf.shape[0]}."
            )
        return jnp.broadcast_to(leaf, (n, *leaf.shape[1:]))

    return jax.tree.map(rows, condition)
