"""Frozen dataclasses of arrays as pytrees."""

import dataclasses
from typing import Any, TypeVar

import jax

_Class = TypeVar("_Class")


def pytree(cls: type[_Class]) -> type[_Class]:
    """Register a frozen dataclass of arrays as a pytree that JAX rebuilds without __init__.

    Rebuilding is not construction: JAX puts placeholders, tracers, axis numbers or a stack of such objects
    into the fields, none of which the checks of a constructor should see.
    """
    names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type] - a dataclass
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

    def flatten(self: Any) -> tuple[tuple[Any, ...], None]:
        return tuple(getattr(self, name) for name in names), None

    def flatten_with_keys(self: Any) -> tuple[tuple[Any, ...], None]:
        return tuple(zip(keys, flatten(self)[0], strict=True)), None

    def unflatten(_: None, values: Any) -> Any:
        return set_fields(object.__new__(cls), **dict(zip(names, values, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def set_fields(instance: Any, **fields: Any) -> Any:
    """Fill the fields of a frozen dataclass that is being built; returns it."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance
