"""Samplers that went through a file, against the same draw compiled here."""

import contextlib
import importlib.util
import io
import json
import pathlib
import subprocess
import sys
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.laws.shaped import Shaped
from jaxdiff.models import ResidualMLP, SplineCoupling
from jaxdiff.sampling import serving
from jaxdiff.sampling.flows import Flow
from jaxdiff.sampling.serving import export_sampler, load_sampler

MODEL = ResidualMLP(4, 1)
X = jnp.zeros((2, 3))

# The module alone, as it would be copied beside a file; a finder refuses what must not be needed.
ELSEWHERE = """
import importlib.util, sys
import jax, numpy as np
spec = importlib.util.spec_from_file_location("serving", sys.argv[1])
serving = importlib.util.module_from_spec(spec)
sys.modules["serving"] = serving
spec.loader.exec_module(serving)
sampler = serving.load_sampler(sys.argv[2])
np.savez(sys.argv[3], **{str(n): sampler(jax.random.key(7), n) for n in (3, 5)})
found = [name for name in sys.modules if name.split(".")[0] in ("jaxdiff", "flax", "optax")]
assert not found, found
"""


def draw(denoise, key, n):
    times = jd.times.power_grid(4, t_min=0.002, t_max=80.0, rho=7)
    return jd.sample(key, denoise, n, sampler=jd.ancestral(), times=times)


@pytest.fixture(scope="module")
def denoise():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X, X[:, 0])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.5 * rng.standard_normal(s.shape), s.dtype), shapes)
    return jd.make_denoiser(MODEL.apply, params, jd.Karras(), shape=(3,))


@pytest.fixture(scope="module")
def exported(denoise, tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "a.sampler"
    export_sampler(path, jax.tree_util.Partial(draw, denoise), config={"run": "a", "steps": 4})
    return path


def test_samples_are_the_same_where_there_is_neither_the_models_code_nor_the_library(
    exported, denoise, tmp_path
):
    script, out = tmp_path / "elsewhere.py", tmp_path / "out.npz"
    script.write_text(ELSEWHERE)
    arguments = [sys.executable, "-I", script, serving.__file__, exported, out]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    samples = np.load(out)
    here = jax.jit(draw, static_argnums=2)
    for n in (3, 5):
        np.testing.assert_array_equal(samples[str(n)], here(denoise, jax.random.key(7), n))
    np.testing.assert_allclose(samples["5"][:3], samples["3"], rtol=0, atol=1e-6)
    assert np.abs(samples["3"]).max() > 0.1


def parameters(denoise):
    return sum(leaf.size for leaf in jax.tree.leaves(denoise.estimate))


LABELLED = ResidualMLP(4, 1, num_classes=3)


def labelled():
    shapes = jax.eval_shape(LABELLED.init, jax.random.key(0), X, X[:, 0], jnp.zeros(2, int))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: jnp.asarray(0.5 * rng.standard_normal(s.shape), s.dtype), shapes)
    return jd.make_denoiser(LABELLED.apply, params, jd.Karras(), shape=(3,), null_condition=jnp.array([3]))


STARTS = {
    "gaussian": lambda: jd.Gaussian(jnp.zeros(3), 2.0),
    "mixture": lambda: jd.GaussianMixture(
        jnp.full(2, 0.5), jnp.eye(3)[:2], jnp.ones((2, 3, 3)) + jnp.eye(3)[None]
    ),
    "image": lambda: Shaped(jd.Gaussian(jnp.zeros(6), 2.0), (2, 3)),
    "flow": lambda: flow_start(),
}


def flow_start():
    model = SplineCoupling(num_layers=1, width=4, num_blocks=1)
    params = model.init(jax.random.key(0), X)
    return Flow(jd.Gaussian(jnp.zeros(3), 2.0), params, model, (3,))


def sampled(denoise, start, times, key, n):
    return jd.sample(key, denoise, n, times=times, start=start)


def by_default(denoise, key, n):
    return jd.sample(key, denoise, n, num_steps=4)


@pytest.mark.parametrize("sampler", [jd.dpm_solver_pp(3), jd.Heun(churn=2.0), jd.DDIM(jnp.float32(0.3))])
def test_a_sampler_and_a_denoiser_are_what_is_exported(denoise, sampler, tmp_path):
    """Any sampler, whose settings are part of the program or beside it; parameters are beside the program."""

    def draw(denoise, sampler, key, n):
        return jd.sample(key, denoise, n, sampler=sampler, num_steps=4)

    check(tmp_path, draw, denoise, sampler)
    header = load_sampler(tmp_path / "a").header
    assert sum(int(np.prod(leaf["shape"])) for leaf in header["leaves"]) >= parameters(denoise)


@pytest.mark.parametrize("name", STARTS)
def test_a_start_law_is_exported_with_it(name, tmp_path):
    start = STARTS[name]()
    law = jd.Gaussian(jnp.zeros(3), 1.0)
    law = Shaped(jd.Gaussian(jnp.zeros(6), 1.0), start.shape) if name == "image" else law
    check(tmp_path, sampled, law.denoiser(jd.Karras()), start, jnp.array([1.0, 0.5, 0.1]))


def test_conditions_and_guidance_are_exported_with_it(tmp_path):
    denoise = labelled().given(jnp.array([1]))
    check(tmp_path, by_default, denoise)
    check(tmp_path, by_default, jd.guided(denoise, jnp.float32(2.0)))


def check(tmp_path, draw, *values):
    """For any number of samples what is drawn from the file is what is drawn here."""
    export_sampler(tmp_path / "a", jax.tree_util.Partial(draw, *values), platforms=["cpu"])
    sampler = load_sampler(tmp_path / "a")
    for n in (2, 5):
        got = sampler(jax.random.key(3), n)
        want = draw(*values, jax.random.key(3), n)
        assert got.shape == want.shape == (n, *values[0].shape)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        assert np.isfinite(got).all()


def test_the_file_says_what_it_is(exported):
    with zipfile.ZipFile(exported) as archive:
        header = json.loads(archive.read("header.json"))
    assert header["samples"] == [{"shape": ["n", "3"], "dtype": "float32"}]
    assert header["platforms"] == ["cpu", "cuda", "tpu"]
    assert (header["jax"], header["config"]) == (jax.__version__, {"run": "a", "steps": 4})
    assert "jaxdiff" in header
    assert load_sampler(exported).header == header


def test_arrays_of_any_kind_reach_the_program(tmp_path):
    # Spread over devices, in bfloat16, closed over, and leaves that are no arrays: a number and a key.
    mesh = jax.sharding.Mesh(jax.devices(), "data")
    spread = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, jax.P("data")))
    table = jnp.linspace(0, 1, 3)

    def draw(leaves, key, n):
        del key
        rows = jnp.arange(n)[:, None] * leaves["bf16"][None] + jax.random.normal(leaves["key"], (n, 3))
        return {"x": rows * leaves["scale"] + table[None], "y": leaves["spread"][rows[:, 0].astype(int) % 8]}

    leaves = {"bf16": jnp.ones(3, jnp.bfloat16) / 3, "scale": 2.0, "key": jax.random.key(5), "spread": spread}
    export_sampler(tmp_path / "a", jax.tree_util.Partial(draw, leaves), platforms=["cpu"])
    got = load_sampler(tmp_path / "a")(jax.random.key(0), 4)
    leaves["spread"] = jnp.arange(8.0)
    want = jax.jit(draw, static_argnums=2)(leaves, jax.random.key(0), 4)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert got["x"].dtype == want["x"].dtype
    assert [p.name for p in tmp_path.iterdir()] == ["a"]  # and nothing half-written


def rewritten(exported, path, parts=(), **header):
    """The file with other parts (None for one less), each as (bytes, compression), and another header."""
    with zipfile.ZipFile(exported) as old:
        whole = {name: (old.read(name), zipfile.ZIP_STORED) for name in old.namelist()}
    known = json.loads(whole["header.json"][0]) | header
    whole["header.json"] = json.dumps(known).encode(), zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w") as new:
        for name, part in (whole | dict(parts)).items():
            if part is not None:
                new.writestr(name, part[0], compress_type=part[1])
    return path


def leaf(exported, **changes):
    """A header's list of leaves, the first of them changed."""
    with zipfile.ZipFile(exported) as archive:
        first, *rest = json.loads(archive.read("header.json"))["leaves"]
    return [{name: value for name, value in (first | changes).items() if value is not None}, *rest]


def stored(data):
    return data, zipfile.ZIP_STORED


ZEROS = bytes(2**24), zipfile.ZIP_DEFLATED

# What was done to the file, and what is said of it.
SPOILT = {
    "cut": (lambda e, p: p.write_bytes(e.read_bytes()[:-100]), "File is not a zip file"),
    "cut early": (lambda e, p: p.write_bytes(e.read_bytes()[:1000]), "File is not a zip file"),
    "empty": (lambda e, p: p.write_bytes(b""), "File is not a zip file"),
    "text": (lambda e, p: p.write_text("a sampler"), "File is not a zip file"),
    "a byte of the parameters": (lambda e, p: p.write_bytes(damaged(e)), "Bad CRC-32"),
    "no header": (lambda e, p: rewritten(e, p, {"header.json": None}), "it has no header.json"),
    "no program": (lambda e, p: rewritten(e, p, {"program": None}), "it has no program"),
    "no leaf": (lambda e, p: rewritten(e, p, {"leaves/0": None}), "it has no leaves/0"),
    "a header of text": (lambda e, p: rewritten(e, p, {"header.json": stored(b"x")}), "Expecting value"),
    "a header of bytes": (lambda e, p: rewritten(e, p, {"header.json": stored(b"\xff\xff")}), "decode"),
    "a header that nests": (lambda e, p: rewritten(e, p, {"header.json": stored(b"[" * 10**5)}), "recursion"),
    "a list for a header": (lambda e, p: rewritten(e, p, {"header.json": stored(b"[1]")}), "got None"),
    "another format": (lambda e, p: rewritten(e, p, format="jaxdiff sampler 2"), "got 'jaxdiff sampler 2'"),
    "no jax": (lambda e, p: rewritten(e, p, jax=None), "its header has no jax of type str"),
    "a key of numbers": (lambda e, p: rewritten(e, p, key=3), "its header has no key of type str"),
    "platforms": (lambda e, p: rewritten(e, p, platforms="cpu"), "no platforms of type list"),
    "samples": (lambda e, p: rewritten(e, p, samples={}), "no samples of type list"),
    "leaves": (lambda e, p: rewritten(e, p, leaves=None), "no leaves of type list"),
    "a leaf of text": (lambda e, p: rewritten(e, p, leaves=["x"]), "lists leaves/0 without a shape"),
    "no dtype": (lambda e, p: rewritten(e, p, leaves=leaf(e, dtype=None)), "lists leaves/0 without a shape"),
    "no shape": (lambda e, p: rewritten(e, p, leaves=leaf(e, shape=None)), "lists leaves/0 without a shape"),
    "a negative shape": (lambda e, p: rewritten(e, p, leaves=leaf(e, shape=[-1])), "without a shape"),
    "a shape of floats": (lambda e, p: rewritten(e, p, leaves=leaf(e, shape=[1.0])), "without a shape"),
    "a huge shape": (lambda e, p: rewritten(e, p, leaves=leaf(e, shape=[2**40, 2**40])), "leaves/0 has .* bytes"),
    "objects": (lambda e, p: rewritten(e, p, leaves=leaf(e, dtype="object")), "no dtype of numbers"),
    "a record": (lambda e, p: rewritten(e, p, leaves=leaf(e, dtype="f4,f4")), "no dtype of numbers"),
    "no dtype at all": (lambda e, p: rewritten(e, p, leaves=leaf(e, dtype="float99")), "no dtype of numbers"),
    "another dtype": (lambda e, p: rewritten(e, p, leaves=leaf(e, dtype="int32")), "takes other arrays"),
    "fewer leaves": (lambda e, p: rewritten(e, p, leaves=leaf(e)[:1]), "takes other arrays"),
    "a compressed leaf": (lambda e, p: rewritten(e, p, {"leaves/0": ZEROS}), "parts are larger than the file"),
    "a small compressed leaf": (
        lambda e, p: rewritten(e, p, {"leaves/0": (b"a", zipfile.ZIP_DEFLATED)}),
        "its leaves/0 is compressed",
    ),
    "a compressed header": (lambda e, p: rewritten(e, p, {"header.json": ZEROS}), "larger than the file"),
    "a bomb nobody asks for": (lambda e, p: rewritten(e, p, {"more": ZEROS}), "larger than the file"),
    "an array": (lambda e, p: rewritten_by_numpy(p), "it has no header.json"),
    "another program": (
        lambda e, p: rewritten(e, p, {"program": stored(b"another format")}),
        r"cannot read the program in .*, which jax .* wrote",
    ),
}  # fmt: skip


def rewritten_by_numpy(path):
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))


def damaged(whole):
    """The last byte of the parameters, which are stored as they are, is another."""
    with zipfile.ZipFile(whole) as archive:
        last = archive.read(archive.namelist()[-1])
    data = bytearray(pathlib.Path(whole).read_bytes())
    data[data.rindex(last) + len(last) - 1] ^= 1
    return bytes(data)


@pytest.mark.parametrize(("spoil", "says"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_file_is_refused_without_being_expanded(exported, tmp_path, spoil, says):
    spoil(exported, tmp_path / "a")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=says):
            load_sampler(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_parts_that_lie_inside_of_each_other_are_refused(tmp_path):
    """Each of 40 entries points at what holds all that follow it: together far more than the file."""
    inner, infos = b"", []
    for i in reversed(range(10, 50)):
        with zipfile.ZipFile(io.BytesIO(), "w") as one:
            one.writestr(f"leaves/{i}", inner + bytes(1000))
            infos += one.infolist()
            one.fp.seek(0)
            inner = one.fp.read(one.start_dir)
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.fp.write(inner)
        archive.start_dir, archive._didModify = len(inner), True
        for i, info in enumerate(reversed(infos)):
            info.header_offset = 39 * i  # the length of a local header
            archive.filelist.append(info)
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert len(archive.read("leaves/30")) > 20_000
    with pytest.raises(ValueError, match="its parts are larger than the file"):
        load_sampler(tmp_path / "a")


def test_any_changed_bit_is_refused_or_changes_nothing(exported, tmp_path):
    """Anywhere in the file, and in the directory of the archive at its end."""
    whole, rng = exported.read_bytes(), np.random.default_rng(0)
    want = load_sampler(exported).header
    for least in (0, len(whole) - 800):
        for at in rng.integers(least, len(whole), 200):
            changed = bytearray(whole)
            changed[at] ^= 1 << rng.integers(8)
            (tmp_path / "a").write_bytes(changed)
            with contextlib.suppress(ValueError):
                assert load_sampler(tmp_path / "a").header == want


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_sampler(tmp_path / "nothing")


def test_a_wrong_call_is_refused(exported):
    sampler = load_sampler(exported)
    with pytest.raises(TypeError, match=r"key must be a typed key, key<fry>.*got uint32"):
        sampler(jax.random.key_data(jax.random.key(0)), 3)
    with pytest.raises(TypeError, match="got key<rbg>"):
        sampler(jax.random.key(0, impl="rbg"), 3)
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        sampler(jax.random.key(0), 0)


@pytest.mark.parametrize(
    ("draw", "options", "error", "says"),
    [
        (lambda key, n: jnp.zeros((3, n)), {}, ValueError, "must answer arrays of n rows"),
        (lambda key, n: jnp.zeros(n), {"platforms": ["gpu"]}, ValueError, "some of cpu, cuda, rocm and tpu"),
        (lambda key, n: jnp.zeros(n), {"platforms": []}, ValueError, "some of cpu, cuda, rocm and tpu"),
        (lambda key, n: jnp.zeros(n), {"config": {"a": jnp.ones(2)}}, TypeError, "JSON"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, draw, options, error, says):
    with pytest.raises(error, match=says):
        export_sampler(tmp_path / "a", draw, **options)
    assert not list(tmp_path.iterdir())


def test_without_flatbuffers_one_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for door in (lambda: export_sampler(tmp_path / "a", draw), lambda: load_sampler(tmp_path / "a")):
        with pytest.raises(ImportError, match=r"pip install 'jaxdiff\[export\]'"):
            door()
