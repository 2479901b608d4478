"""What is asked for beside what a checkpoint holds: differences are named before anything is read."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


def check_tree(path: pathlib.Path, metadata: Any, target: Any) -> None:
    """Raise ValueError unless the arrays of a checkpoint are those of the tree that is asked for."""
    got, wanted = _leaves(metadata), _leaves(target)
    _raise_differences(
        f"Checkpoint {path} is of another model",
        got,
        wanted,
        "Build the model, the optimizer and the average as they were then; the config beside it says how.",
    )


def _leaves(tree: Any) -> dict[str, str]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): _describe(leaf) for path, leaf in flat}


def _describe(leaf: Any) -> str:
    shape, dtype = leaf.shape, leaf.dtype
    if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):  # Orbax stores a typed key as its data
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
        shape, dtype = data.shape, data.dtype
    return f"{np.dtype(dtype).name}{list(shape)}"


def check_config(path: pathlib.Path, got: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError unless two configs agree."""
    _raise_differences(
        f"Checkpoint {path} is of another config",
        {name: json.dumps(value) for name, value in _fields(got)},
        {name: json.dumps(value) for name, value in _fields(wanted)},
        "Use the config that it was made with, or another directory.",
    )


def _fields(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _raise_differences(what: str, got: dict[str, str], wanted: dict[str, str], advice: str) -> None:
    names = [name for name in {**wanted, **got} if got.get(name) != wanted.get(name)]
    if not names:
        return
    shown = [f"  {n}: got {got.get(n, 'nothing')}, wanted {wanted.get(n, 'nothing')}" for n in names[:10]]
    if len(names) > 10:
        shown.append(f"  and {len(names) - 10} more")
    raise ValueError("\n".join([f"{what}; they differ in {len(names)} places:", *shown, advice]))
