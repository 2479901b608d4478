"""Frozen dataclasses as pytrees: arrays are data, Python numbers are part of the program.

A field that holds arrays is a child of the pytree: it may be traced, mapped over and differentiated. A Python
number, a string, a function, or a tuple of such is written into the compiled program: it is still known
inside ``jit``, where it can be checked and branched on, and another value is another program. So

    Karras(), VariancePreserving(0.1, 20.0)              two programs, whose numbers every check sees
    VariancePreserving(0.1, jnp.asarray(20.0))           one program for every last rate, which can be traced
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import numpy as np

_Class = TypeVar("_Class")
_CHILDREN = "_children"


def pytree(cls: type[_Class]) -> type[_Class]:
    """Register a frozen dataclass as a pytree that JAX rebuilds without __init__.

    Rebuilding is not construction: JAX puts placeholders, tracers, axis numbers or a stack of such objects
    into the fields, none of which the checks of a constructor should see. Which fields are children is
    decided when an object is first taken apart, by what they hold, and remembered by everything rebuilt from
    it.

    >>> point = jd.pytree(dataclasses.make_dataclass("Point", ["x"], frozen=True))
    >>> jax.tree.map(lambda x: 2 * x, point(jnp.array(3.0))).x.tolist()
    6.0
    """
    names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type] - a dataclass

    def split(self: Any) -> tuple[tuple[str, ...], tuple[tuple[str, Any], ...]]:
        children = self.__dict__.get(_CHILDREN)
        if children is None:
            children = tuple(name for name in names if not is_static(getattr(self, name)))
            set_fields(self, **{_CHILDREN: children})
        return children, tuple((name, getattr(self, name)) for name in names if name not in children)

    def flatten(self: Any) -> tuple[tuple[Any, ...], Any]:
        children, static = split(self)
        return tuple(getattr(self, name) for name in children), (children, static)

    def flatten_with_keys(self: Any) -> tuple[tuple[Any, ...], Any]:
        children, static = split(self)
        keyed = ((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in children)
        return tuple(keyed), (children, static)

    def unflatten(aux: Any, values: Any) -> Any:
        children, static = aux
        fields = {**dict(static), **dict(zip(children, values, strict=True)), _CHILDREN: children}
        return set_fields(object.__new__(cls), **fields)

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def is_static(value: Any) -> bool:
    """Whether a field is part of the program: a leaf that is no array, or a tuple of such."""
    if type(value) is tuple:
        return all(map(is_static, value))
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return False
    return jax.tree_util.all_leaves([value])


def set_fields(instance: Any, **fields: Any) -> Any:
    """Fill the fields of a frozen dataclass that is being built; returns it."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance
