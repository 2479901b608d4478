"""Arrays by name in the safetensors format, which needs no trust: a file holds numbers, and no code.

    8 bytes     the length n of the header, little-endian
    n bytes     JSON: {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
    the rest    the arrays in row-major order, each at its offsets, without a gap

Beside the names `__metadata__` may hold strings by name.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
    "U32": np.uint32, "I32": np.int32, "U64": np.uint64, "I64": np.int64,
    "F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64, "C64": np.complex64,
    "F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2,
}  # fmt: skip
"""The format's names of types."""
LONGEST = 100_000_000
"""Bytes of a header at most, as other readers have it."""


class Tensors(dict[str, np.ndarray]):
    """The arrays of a file by name, with its metadata, strings by name."""

    metadata: dict[str, str]

    def __init__(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]):
        super().__init__(arrays)
        self.metadata = dict(metadata)

    def nested(self) -> dict[str, Any]:
        """Dicts in dicts by the parts of the names between dots: what `save_safetensors` was given.

        Raises ValueError where a name is an array's and also the beginning of another's.
        """
        tree: dict[str, Any] = {}
        for name, array in self.items():
            *path, last = name.split(".")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
                if not isinstance(node, dict):
                    break
            if not isinstance(node, dict) or last in node:
                raise ValueError(
                    f"The names do not nest: one is {name!r}, and another one begins or ends there; take the "
                    "arrays by their names."
                )
            node[last] = array
        return tree


def save_safetensors(
    path: str | os.PathLike[str], tree: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays, in dicts in dicts of any depth, under the dicts' keys joined by dots.

    So are the parameters of Flax networks. metadata: strings by name, such as a config in JSON; PyTorch's
    programs want {"format": "pt"}. The file appears when it is complete.

    Raises TypeError for a tree that is not of dicts with string keys, or for arrays of a type that the format
    has no name for, and ValueError for a name that occurs twice.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> jd.save_safetensors(path, {"params": {"in": {"bias": jnp.arange(3.0)}}})
    >>> jd.load_safetensors(path)
    {'params.in.bias': array([0., 1., 2.], dtype=float32)}
    """
    arrays = _flat(tree)
    # The widest first: then each lies at a multiple of its width, as other readers like it.
    ordered = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": _strings(metadata)} if metadata else {}
    end = 0
    for name in ordered:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _name(name, array.dtype), "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            file.write(arrays[name].tobytes())
    unfinished.replace(path)


def load_safetensors(path: str | os.PathLike[str]) -> Tensors:
    """The arrays of a file by name, in NumPy and their own types, bfloat16 too; `nested` makes dicts of them.

    They are views of one copy of the file in memory, and can be read only.

    Raises ValueError, saying what is wrong, for a file that is not of the format: cut, with a header that is
    no JSON or too long, of types that are not known, with offsets that leave the file, overlap, leave gaps or
    do not hold what the shape says, or with a name twice.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> jd.save_safetensors(path, {"dense": {"bias": jnp.arange(2.0)}}, metadata={"format": "pt"})
    >>> tensors = jd.load_safetensors(path)
    >>> tensors["dense.bias"].tolist(), tensors.nested()["dense"]["bias"].tolist(), tensors.metadata["format"]
    ([0.0, 1.0], [0.0, 1.0], 'pt')
    """
    try:
        buffer = np.fromfile(path, np.uint8)
        buffer.flags.writeable = False
        header, data = _header(buffer)
        metadata = _strings(header.pop("__metadata__", {}))
        entries = {name: _entry(name, said, len(data)) for name, said in header.items()}
        _check_whole(entries, len(data))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)} is not a safetensors file: {error}") from None
    return Tensors(
        {name: data[e.begin : e.end].view(e.dtype).reshape(e.shape) for name, e in entries.items()}, metadata
    )


class _Entry(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def _header(buffer: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The header, and the bytes after it."""
    if len(buffer) < 8:
        raise ValueError(f"it has {len(buffer)} bytes, and 8 say how long the header is.")
    length = int.from_bytes(buffer[:8].tobytes(), "little")
    if length > LONGEST:
        raise ValueError(f"its header would have {length:,} bytes, and {LONGEST:,} are the most.")
    if length > len(buffer) - 8:
        raise ValueError(f"its header would have {length} bytes, and {len(buffer) - 8} are there.")
    text = buffer[8 : 8 + length].tobytes()
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"its header is no JSON: {error}.") from None
    if not isinstance(header, dict):
        raise ValueError(f"its header is a {type(header).__name__}, wanted names with their places.")
    return header, buffer[8 + length :]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    together = dict(pairs)
    if len(together) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} occurs twice in the header.")
    return together


def _entry(name: str, said: Any, size: int) -> _Entry:
    """One array's place, checked alone."""
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has {said!r}, wanted a dtype, a shape and data_offsets.")
    if not isinstance(said["dtype"], str) or said["dtype"] not in DTYPES:
        raise ValueError(f"{name!r} is of type {said['dtype']!r}, wanted one of {', '.join(DTYPES)}.")
    dtype, shape, offsets = np.dtype(DTYPES[said["dtype"]]), said["shape"], said["data_offsets"]
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError(f"{name!r} has the {what} {numbers!r}, wanted integers from zero on.")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise ValueError(
            f"{name!r} lies at {offsets}, wanted a begin and an end within {size} bytes of data."
        )
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{name!r} has {offsets[1] - offsets[0]} bytes, and {said['dtype']} of shape {shape} takes "
            f"{math.prod(shape) * dtype.itemsize}."
        )
    return _Entry(dtype, tuple(shape), *offsets)


def _check_whole(entries: dict[str, _Entry], size: int) -> None:
    """Raise ValueError unless the arrays lie one after another over all bytes."""
    at, before = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            what = "overlaps with" if entry.begin < at else f"leaves {entry.begin - at} bytes after"
            raise ValueError(f"{name!r} {what} {before}.")
        at, before = entry.end, repr(name)
    if at != size:
        raise ValueError(f"{size - at} bytes after {before} are no array's.")


def _flat(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays by their names."""
    if not isinstance(tree, Mapping):
        return {prefix.removesuffix("."): _array(prefix.removesuffix("."), tree)}
    arrays: dict[str, np.ndarray] = {}
    for key, part in tree.items():
        if not isinstance(key, str):
            raise TypeError(f"Names are strings, got {key!r} in {prefix or 'the tree'!r}.")
        for name, array in _flat(part, f"{prefix}{key}.").items():
            if name in arrays or name == "__metadata__":
                raise ValueError(f"The name {name!r} occurs twice; rename one of the arrays.")
            arrays[name] = array
    return arrays


def _array(name: str, leaf: Any) -> np.ndarray:
    if not name or not isinstance(leaf, np.ndarray | np.generic | jax.Array):
        raise TypeError(
            f"{name or 'The tree'} is a {type(leaf).__name__}, wanted arrays in dicts; save the parameters."
        )
    array = np.asarray(leaf)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _name(name: str, dtype: np.dtype) -> str:
    for known, own in DTYPES.items():
        if np.dtype(own) == dtype:
            return known
    raise TypeError(f"{name!r} is of type {dtype}, wanted one of {', '.join(DTYPES)}.")


def _strings(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, Mapping) or any(
        not isinstance(word, str) for pair in metadata.items() for word in pair
    ):
        raise TypeError(f"metadata must be strings by name, got {metadata!r}.")
    return dict(metadata)
