"""Numbers that go with the rows of a batch of arrays of any shape."""

from __future__ import annotations

from jaxdiff.typing import Array


def to_rows(value: Array, x: Array) -> Array:
    """A scalar, or one value a row, (batch,), in a shape that goes with x, (batch, ...)."""
    return value.reshape(value.shape + (1,) * (x.ndim - 1) * value.ndim)


def inner(a: Array, b: Array) -> Array:
    """The products <a_i, b_i> of rows, (batch, ...) -> (batch,)."""
    return (a * b).reshape(len(a), -1).sum(1)


def squares(x: Array) -> Array:
    """|x_i|^2 of each row, (batch, ...) -> (batch,)."""
    return inner(x, x)
