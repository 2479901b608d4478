"""Samplers that went through a file, against the same draw compiled here."""

import importlib.util
import json
import pathlib
import subprocess
import sys
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


@pytest.mark.parametrize("sampler", [jd.DPMSolverPP(3), jd.Heun(churn=2.0), jd.DDIM(jnp.float32(0.3))])
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


def damaged(whole):
    """The last byte of the parameters, which are stored as they are, is another."""
    with zipfile.ZipFile(whole) as archive:
        last = archive.read(archive.namelist()[-1])
    data = bytearray(pathlib.Path(whole).read_bytes())
    data[data.rindex(last) + len(last) - 1] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda whole: whole.read_bytes()[:-100], "not a sampler, or was cut short or damaged"),
        (lambda whole: whole.read_bytes()[:1000], "not a sampler, or was cut short or damaged"),
        (lambda whole: b"", "not a sampler, or was cut short or damaged"),
        (damaged, "cut short or damaged .*Bad CRC-32"),
    ],
)
def test_a_spoilt_file_is_refused(exported, tmp_path, spoil, says):
    (tmp_path / "a").write_bytes(spoil(exported))
    with pytest.raises(ValueError, match=says):
        load_sampler(tmp_path / "a")


def test_another_archive_and_a_program_of_another_version_are_refused(exported, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="wanted an archive of format 'jaxdiff sampler 1', got None"):
        load_sampler(tmp_path / "a.npz")
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(tmp_path / "b", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"another format" if name == "program" else old.read(name))
    with pytest.raises(ValueError, match=r"cannot read the program in .*, which jax .* wrote"):
        load_sampler(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
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
