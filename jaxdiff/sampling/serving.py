"""A trained sampler as one file, which runs where neither the model's code nor this package is.

    def draw(denoise, key, n):
        return jd.sample(key, denoise, n, num_steps=20)

    export_sampler("digits.sampler", jax.tree_util.Partial(draw, denoise), config={"run": "digits-3"})
    sampler = load_sampler("digits.sampler")
    images = sampler(jax.random.key(0), 64)

The file is a zip archive of three things: header.json, which says what it is; program, the sampler as
StableHLO by `jax.export`, for any number of samples and for each of its platforms; and leaves/0, 1, ..., the
raw bytes of the arrays that it takes. So it can be looked into by any tool, and its parts are checked against
their sums when read. Nothing in it is compressed, so what is read is no larger than the file. JAX runs such a
program for at least six months of its own releases, and 21 days before.

To load it, this module needs jax alone: copied beside the file, it serves where jaxdiff is not installed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_FORMAT = "jaxdiff sampler 1"


@dataclasses.dataclass(frozen=True)
class ExportedSampler:
    """``sampler(key, n)``: what the exported draw(key, n) answers, compiled once for each n."""

    header: Mapping[str, Any]
    """Versions of jaxdiff and jax, platforms, shape and dtype of what is drawn, config."""
    _run: Callable[[jax.Array, jax.Array], Any]

    def __call__(self, key: jax.Array, n: int) -> Any:
        wanted, got = self.header["key"], getattr(key, "dtype", type(key).__name__)
        if str(got) != wanted:
            raise TypeError(f"key must be a typed key, {wanted}, as jax.random.key makes it; got {got}.")
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be an integer of at least 1, got {n!r}.")
        return self._run(key, jnp.zeros(int(n), jnp.int8))


def export_sampler(
    path: str | os.PathLike[str],
    draw: Callable[[jax.Array, int], Any],
    *,
    config: Mapping[str, Any] | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> None:
    """Write draw(key, n), an array (n, ...) or a tree of them, to one file that `load_sampler` reads.

    draw is traced once, with a symbol for n: its shapes may depend on n, but nothing else. Arrays that it
    closes over become constants of the program, which makes a large network slow to compile; give what holds
    them, a denoiser, a start law, as ``jax.tree_util.Partial(draw, denoise)`` (or any callable pytree), whose
    arrays are kept beside the program and passed to it. config, which JSON can hold, is for the reader. The
    file is there whole or not at all.

    Raises ImportError without flatbuffers (the extra "export"), ValueError for an unknown platform, or if the
    answer has not n rows, TypeError if config is not for JSON, and an error of jax if draw needs n to be a
    number.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/sampler"
    >>> denoise = jd.Gaussian([3.0], 1e-8).denoiser(jd.Karras())
    >>> draw = jax.tree_util.Partial(lambda denoise, key, n: jd.sample(key, denoise, n, num_steps=4), denoise)
    >>> jd.export_sampler(path, draw, platforms=["cpu"])
    >>> jd.load_sampler(path)(jax.random.key(0), 2).round().tolist()  # here or in another process
    [[3.0], [3.0]]
    """
    _need_flatbuffers()
    unknown = [platform for platform in platforms if platform not in ("cpu", "cuda", "rocm", "tpu")]
    if unknown or not platforms:
        raise ValueError(f"platforms must be some of cpu, cuda, rocm and tpu, got {tuple(platforms)}.")
    leaves, tree = jax.tree.flatten(draw if not jax.tree_util.all_leaves([draw]) else ())
    passed = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
    arrays = [_on_host(leaves[i]) for i in passed]

    def program(arrays: list[jax.Array], key: jax.Array, rows: jax.Array) -> Any:
        whole = [*leaves]
        for i, array in zip(passed, arrays, strict=True):
            whole[i] = array
        return (jax.tree.unflatten(tree, whole) if leaves else draw)(key, rows.shape[0])

    # What is exported must have an array argument that carries the number of samples.
    (n,) = jax.export.symbolic_shape("n")
    key = jax.eval_shape(lambda: jax.random.key(0))
    like = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    rows = jax.ShapeDtypeStruct((n,), jnp.int8)
    exported = jax.export.export(jax.jit(program), platforms=platforms)(like, key, rows)
    if any(not out.shape or out.shape[0] != n for out in exported.out_avals):
        raise ValueError(f"draw(key, n) must answer arrays of n rows, got {exported.out_avals}.")
    header = {
        "format": _FORMAT,
        "jaxdiff": _version(),
        "jax": jax.__version__,
        "platforms": list(platforms),
        "key": str(key.dtype),
        "samples": [{"shape": [str(s) for s in a.shape], "dtype": str(a.dtype)} for a in exported.out_avals],
        "leaves": [{"shape": list(a.shape), "dtype": str(a.dtype)} for a in arrays],
        "config": config,
    }
    parts = {"header.json": json.dumps(header, indent=2).encode(), "program": bytes(exported.serialize())}
    parts |= {f"leaves/{i}": array.tobytes() for i, array in enumerate(arrays)}
    _write(pathlib.Path(path), parts)


def load_sampler(path: str | os.PathLike[str]) -> ExportedSampler:
    """The sampler of a file that `export_sampler` wrote.

    It answers as ``jax.jit(draw, static_argnums=1)`` does on the same device, up to the order in which the
    compiler takes the same operations: bit for bit for small networks, to rounding for large ones.

    Load only what you would also run: the program is handed to XLA, which trusts it. It may ask for any
    memory and time and, by custom calls, for native functions of this process, and XLA's reader of it is not
    made for hostile bytes. All else in the file is data, and read as such: only the parts that the header
    lists are read, none is compressed, and all together are no larger than the file.

    Raises FileNotFoundError, ImportError without flatbuffers, and ValueError if the file is something else,
    cut short or damaged, or if this jax cannot read its program.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/sampler"
    >>> jd.export_sampler(path, lambda key, n: jnp.full(n, 2.0), config={"data": "twos"}, platforms=["cpu"])
    >>> sampler = jd.load_sampler(path)
    >>> sampler(jax.random.key(0), 3).tolist(), sampler.header["config"]
    ([2.0, 2.0, 2.0], {'data': 'twos'})
    """
    _need_flatbuffers()
    header, program, arrays = _read(pathlib.Path(path))
    try:
        exported = jax.export.deserialize(bytearray(program))
        taken = [(a.shape, a.dtype) for a in exported.in_avals[:-2]]
    except Exception as error:  # what jax raises for a program of another version differs between versions
        raise ValueError(
            f"jax {jax.__version__} cannot read the program in {path}, which jax {header['jax']} wrote "
            f"({error}); use that version, or export the sampler anew."
        ) from error
    if taken != [(a.shape, a.dtype) for a in arrays]:
        raise ValueError(f"the program in {path} takes other arrays than are beside it; export it anew.")
    run = jax.jit(exported.call)
    on_device = jax.device_put(arrays)
    return ExportedSampler(header, lambda key, rows: run(on_device, key, rows))


def _need_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("jax.export needs flatbuffers; install it: pip install 'jaxdiff[export]'.")


def _version() -> str:
    try:
        return importlib.metadata.version("jaxdiff")
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return "unknown"


def _is_array(leaf: Any) -> bool:
    """Whether a leaf of draw is passed to the program; weakly typed ones and keys are written in."""
    if not isinstance(leaf, jax.Array | np.ndarray) or getattr(leaf, "weak_type", False):
        return False
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _on_host(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """As NumPy, in the precision that jax computes in."""
    return np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _write(path: pathlib.Path, parts: Mapping[str, bytes]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            with zipfile.ZipFile(file, "w") as archive:  # not compressed: parameters hardly shrink
                for name, data in parts.items():
                    archive.writestr(name, data)
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _read(path: pathlib.Path) -> tuple[dict[str, Any], bytes, list[np.ndarray]]:
    """Header, program and arrays of a file, with their sums checked and none missing."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                # Parts of a hostile archive may lie inside of each other, and so be read many times.
                if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                    raise ValueError("its parts are larger than the file")
                header = _header(json.loads(_part(archive, "header.json")))
                arrays = [_array(archive, f"leaves/{i}", leaf) for i, leaf in enumerate(header["leaves"])]
                return header, _part(archive, "program"), arrays
        except Exception as error:  # zipfile and json raise nearly anything for hostile bytes
            raise ValueError(
                f"{path} is not a sampler of export_sampler, or was cut short or damaged ({error}); export "
                "or copy it anew."
            ) from error


def _part(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"it has no {name}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"its {name} is compressed, which export_sampler never does")
    return archive.read(info)


def _header(header: Any) -> dict[str, Any]:
    """The header; ValueError unless it has all that is asked of it later."""
    got = header.get("format") if isinstance(header, dict) else None
    if got != _FORMAT:
        raise ValueError(f"wanted an archive of format {_FORMAT!r}, got {got!r}")
    for name, kind in (("jax", str), ("key", str), ("platforms", list), ("samples", list), ("leaves", list)):
        if not isinstance(header.get(name), kind):
            raise ValueError(f"its header has no {name} of type {kind.__name__}")
    return header


def _array(archive: zipfile.ZipFile, name: str, leaf: Any) -> np.ndarray:
    """An array of the shape and dtype that the header lists."""
    match leaf:
        case {"shape": [*shape], "dtype": str(dtype)} if all(type(n) is int and n >= 0 for n in shape):
            pass
        case _:
            raise ValueError(f"its header lists {name} without a shape and a dtype")
    try:
        kind = jnp.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if not any(jnp.issubdtype(kind, wanted) for wanted in (jnp.number, np.bool_)):
        raise ValueError(f"its header lists {name} as of {dtype!r}, which is no dtype of numbers")
    data = _part(archive, name)
    if len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"its {name} has {len(data)} bytes, and its header lists shape {shape} of {dtype}")
    return np.frombuffer(data, kind).reshape(shape)
