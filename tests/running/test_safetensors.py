"""The bytes of the format, what is refused, and the way there and back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.running.safetensors import load_safetensors, save_safetensors

TREE = {
    "params": {"in": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": np.asarray([True, False])}},
    "step": np.asarray(7, np.int64),
    "half": jnp.asarray([1.5, -2.0, 3.0], jnp.bfloat16),
    "eighth": jnp.asarray([0.5], jnp.float8_e4m3fn),
    "none": np.zeros((0, 4), np.float16),
    "big": np.arange(3, dtype=">f4"),
    "across": np.arange(4, dtype=np.int16).reshape(2, 2).T,
}


def written(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, *, dtype="F32", shape=None):
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def test_a_tree_comes_back(tmp_path):
    save_safetensors(tmp_path / "a", TREE, metadata={"format": "pt"})
    tensors = load_safetensors(tmp_path / "a")
    assert tensors.metadata == {"format": "pt"}
    got = tensors.nested()
    assert jax.tree.structure(got) == jax.tree.structure(TREE)
    for back, leaf in zip(jax.tree.leaves(got), jax.tree.leaves(TREE), strict=True):
        assert back.dtype == np.asarray(leaf).dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, np.asarray(leaf))
        assert not back.flags.writeable
        assert back.flags.aligned


def test_the_bytes(tmp_path):
    """Wide ones first, and a header whose end is a multiple of eight."""
    save_safetensors(tmp_path / "a", {"b": {"c": np.asarray([1, 2], np.uint8)}, "d": np.float32(1.0)})
    text = (
        b'{"d":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        b'"b.c":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}'
    )
    text += b" " * (-len(text) % 8)
    expected = len(text).to_bytes(8, "little") + text + b"\x00\x00\x80\x3f\x01\x02"
    assert (tmp_path / "a").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_bfloat16_as_others_write_it(tmp_path):
    path = written(tmp_path / "a", {"x": entry(0, 4, dtype="BF16", shape=[2])}, b"\x80\x3f\x20\xc0")
    np.testing.assert_array_equal(load_safetensors(path)["x"].astype(np.float32), [1.0, -2.5])


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ({"x": entry(0, 8), "y": entry(4, 12)}, 12, "'y' overlaps with 'x'"),
        ({"x": entry(0, 8), "y": entry(0, 8)}, 8, "'y' overlaps with 'x'"),
        ({"x": entry(0, 4), "y": entry(8, 12)}, 12, "'y' leaves 4 bytes after 'x'"),
        ({"x": entry(4, 8)}, 8, "'x' leaves 4 bytes after the header"),
        ({"x": entry(0, 4)}, 8, "4 bytes after 'x' are no array's"),
        ({"x": entry(0, 8)}, 4, r"'x' lies at \[0, 8\], wanted a begin and an end within 4 bytes of data"),
        ({"x": entry(4, 0, shape=[0])}, 4, r"'x' lies at \[4, 0\]"),
        ({"x": entry(0, 4) | {"data_offsets": [0, 2, 4]}}, 4, r"'x' lies at \[0, 2, 4\]"),
        ({"x": entry(-4, 0)}, 4, r"has the data_offsets \[-4, 0\], wanted integers from zero on"),
        ({"x": entry(0, 4, shape=[-1, -1])}, 4, r"has the shape \[-1, -1\]"),
        ({"x": entry(0, 4, shape=[1.0])}, 4, r"has the shape \[1.0\]"),
        ({"x": entry(0, 4, shape=[True])}, 4, r"has the shape \[True\]"),
        ({"x": entry(0, 8, shape=[3])}, 8, r"'x' has 8 bytes, and F32 of shape \[3\] takes 12"),
        ({"x": entry(0, 4, dtype="F4")}, 4, "'x' is of type 'F4', wanted one of BOOL"),
        ({"x": entry(0, 4, dtype=["F32"])}, 4, r"'x' is of type \['F32'\]"),
        ({"x": {"dtype": "F32", "shape": [1]}}, 4, "wanted a dtype, a shape and data_offsets"),
        ({"x": 3}, 4, "'x' has 3, wanted a dtype"),
        ({"__metadata__": {"a": 1}}, 0, "metadata must be strings by name"),
        (b'{"x": 1, "x": 2}', 0, "'x' occurs twice in the header"),
        (b"[]", 0, "its header is a list"),
        (b"{", 0, "its header is no JSON"),
        (b"\xff\xff", 0, "its header is no JSON"),
        (b"[" * 100_000, 0, "its header is no JSON"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused(tmp_path, header, data, says):
    path = written(tmp_path / "model", header, bytes(data))
    with pytest.raises(ValueError, match=f"model is not a safetensors file: .*{says}"):
        load_safetensors(path)


@pytest.mark.parametrize(
    ("length", "says"),
    [(100_000_001, "100,000,001 bytes, and 100,000,000 are the most"), (3, "would have 3 bytes, and 2 are")],
)
def test_a_header_too_long(tmp_path, length, says):
    with pytest.raises(ValueError, match=says):
        load_safetensors(written(tmp_path / "model", {}, length=length))
    (tmp_path / "short").write_bytes(b"1234567")
    with pytest.raises(ValueError, match="it has 7 bytes"):
        load_safetensors(tmp_path / "short")


def test_what_cannot_be_written(tmp_path):
    x = np.zeros(2)
    for tree, error, says in [
        ({"a": {"b": x}, "a.b": x}, ValueError, "'a.b' occurs twice"),
        ({"__metadata__": x}, ValueError, "'__metadata__' occurs twice"),
        ({0: x}, TypeError, "Names are strings, got 0"),
        ({"a": [x]}, TypeError, "a is a list, wanted arrays in dicts"),
        (x, TypeError, "The tree is a ndarray, wanted arrays in dicts"),
        ({"a": np.zeros(2, np.complex128)}, TypeError, "'a' is of type complex128, wanted one of BOOL"),
        ({"a": np.asarray(["b"])}, TypeError, "'a' is of type <U1"),
    ]:
        with pytest.raises(error, match=says):
            save_safetensors(tmp_path / "a", tree)
    with pytest.raises(TypeError, match="metadata must be strings by name, got"):
        save_safetensors(tmp_path / "a", {}, metadata={"a": 1})
    assert not list(tmp_path.iterdir())


def test_names_that_do_not_nest(tmp_path):
    for names in (["a", "a.b"], ["a.b", "a"], ["a.b", "a.b.c.d"]):
        save_safetensors(tmp_path / "a", {name: np.zeros(1) for name in names})
        with pytest.raises(ValueError, match="names do not nest: one is 'a"):
            load_safetensors(tmp_path / "a").nested()


def test_the_format_as_its_own_library_reads_and_writes_it(tmp_path):
    peer = pytest.importorskip("safetensors.numpy")
    tree = {name: leaf for name, leaf in TREE.items() if name != "eighth"}  # of a type that it cannot give
    save_safetensors(tmp_path / "ours", tree, metadata={"format": "pt"})
    ours, theirs = load_safetensors(tmp_path / "ours"), peer.load_file(tmp_path / "ours")
    peer.save_file(theirs, tmp_path / "theirs")
    back = load_safetensors(tmp_path / "theirs")
    assert ours.keys() == theirs.keys() == back.keys()
    for name, array in ours.items():
        for other in (theirs[name], back[name]):
            np.testing.assert_array_equal(other, array)
            assert other.dtype == array.dtype
