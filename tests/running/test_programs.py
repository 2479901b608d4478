"""Reports of programs, against what is counted by hand; the accelerators' own compilers where they are installed."""

import dataclasses
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdiff.learning.training import init_state, make_train_step
from jaxdiff.models import DiffusionTransformer
from jaxdiff.running import programs
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel
from jaxdiff.running.programs import Chip, Collective, Topology, collectives, largest, program, topology


def test_a_program_of_eight_devices_is_counted():
    """(64, 32) rows by (32, 16) weights, and the sum of all: 2 m n k operations, 16 numbers reduced."""
    devices = jax.devices()
    assert len(devices) == 8
    mesh = data_mesh(devices)
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (mesh.axis_names, ()))
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=rows)
    w = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=whole)
    traced = jax.jit(lambda x, w: (x @ w).sum(0), out_shardings=whole).trace(x, w)
    got = program(traced, Topology("cpu-8", Chip(1e6, 3000, 1e9, 1e3), devices))
    assert got.arguments == 4 * (8 * 32 + 32 * 16)
    assert (got.outputs, got.aliased) == (64, 0)
    assert got.asked == 2 * 8 * 32 * 16
    assert got.flops == pytest.approx(got.asked, rel=0.1)  # and the sums
    assert got.collectives == (Collective("all-reduce", 1, 64, 64, 8),)
    assert got.bytes == 3072 + 64 + got.temporaries
    assert dataclasses.replace(got, aliased=64).bytes == 3072 + got.temporaries
    assert not got.fits
    assert got.sent == 2 * 7 / 8 * 64
    assert got.bounds == {"compute": got.flops / 1e6, "memory": (3072 + 64) / 1e9, "links": 0.112}
    assert got.utilization == got.asked / 1e6 / 0.112
    few = dataclasses.replace(got, collectives=(Collective("all-reduce", 1, 64, 64, 2),))
    assert few.sent == 2 * 1 / 2 * 64
    silent = dataclasses.replace(got, flops=math.nan)  # as CUDA's compiler is
    assert silent.bounds["compute"] == got.asked / 1e6
    assert silent.utilization == got.utilization
    assert "IT DOES NOT FIT" in str(got)
    assert "all-reduce" in str(got)


@pytest.mark.parametrize(
    ("axes", "among"), [(("slice",), 2), (("data",), 2), (("slice", "data"), 4), (("data", "model"), 4)]
)
def test_a_collective_is_among_the_devices_of_its_axes(axes, among):
    """A sum over rows that lie along some axes of (2, 2, 2)."""
    mesh = data_mesh(slices=2, model=2)
    where = NamedSharding(mesh, PartitionSpec(axes))
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=where)
    out = NamedSharding(mesh, PartitionSpec())
    text = jax.jit(lambda x: x.sum(0), out_shardings=out).lower(x).compile().as_text()
    assert collectives(text) == (Collective("all-reduce", 1, 128, 128, among),)


def test_collectives_are_read_from_a_programs_text():
    text = """
      %a = f32[4,8]{1,0:T(8,128)} all-gather(%x), channel_id=1
      %b = (bf16[2,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%y), channel_id=2
      %c = bf16[16,8]{1,0} all-gather-done(%b)
      %d = (f32[10]{0}, pred[3]{0}) all-reduce(%p, %q), to_apply=%add
      %e = f32[7]{0} all-reduce-start(%r), to_apply=%add
      %f = f32[7]{0} fusion(%e), calls=%all-reduce-scatter
      %g = u8[5]{0} reduce-scatter(%s), dimensions={0}
      %h = (f32[16]{0:T(8)S(1)}, f32[16]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%t), channel_id=3
      %l = ((f32[16]{0}, f32[8]{0}), (f32[2]{0}, f32[1]{0})) reduce-scatter-start(%x, %y), channel_id=4
      %m = f32[9]{0} all-reduce(%n), channel_id=5, replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
      %o = f32[2]{0} all-reduce(%n), channel_id=6, replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
      %p = f32[1]{0} all-reduce(%n), channel_id=7, replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([2,2,2]T(1,0,2)) {'c'}, to_apply=%add
      %q = f32[1]{0} all-reduce(%n), channel_id=8, replica_groups=mesh['a'=2,'b'=8] {'a','b':(1)2}, to_apply=%add
      %i = bf16[6]{0} all-gather(%u), channel_id=9
      %j = bf16[6]{0:T(8)S(1)} all-gather(%v), channel_id=9
      %k = bf16[7]{0} all-gather(%w), channel_id=9
    """
    assert collectives(text) == (
        Collective("all-gather", 4, 128 + 256 + 12 + 14, 256),
        Collective("all-reduce", 2, 43 + 28, 43),
        Collective("all-reduce", 4, 36 + 8 + 4 + 4, 36, 4),
        Collective("collective-permute", 1, 64, 64),
        Collective("reduce-scatter", 2, 5 + 12, 12),
    )


@pytest.mark.parametrize("unit", [1, 8])
@pytest.mark.parametrize("needed", [
    lambda n: n, lambda n: 400 + max(5, n / 2), lambda n: n**1.5, lambda n: n if n <= 300 else float("inf"),
    lambda n: n // 64 * 64, lambda n: 0.0,
])  # fmt: skip
@pytest.mark.parametrize("room", [7, 13, 1000])
def test_the_largest_that_fits_is_found_in_few_calls(needed, room, unit):
    asked = []
    found = largest(lambda n: asked.append(n) or needed(n), room, unit=unit, limit=5000)
    fitting = [n for n in range(unit, 5001, unit) if needed(n) <= room]
    assert found in [0, *fitting]
    assert max(fitting, default=0) - found < max(unit, found // 16 + unit)
    assert len(asked) == len(set(asked)) <= 12


def test_where_memory_is_a_line_in_the_rows_five_calls_find_the_last():
    asked = []
    assert largest(lambda n: asked.append(n) or 3e8 + 1e6 * n, 16e9, unit=8) == 15_696
    assert len(asked) <= 5


def test_a_topology_that_is_none_is_refused(monkeypatch):
    for name, words in (("v5e", "device and a number"), ("v7-8", "device and a number"), ("v5e-7", "v5e-8")):
        with pytest.raises(ValueError, match=words):
            topology(name)

    def missing(**options):
        raise RuntimeError("no such plugin")

    monkeypatch.setattr(programs.topologies, "get_topology_desc", missing)
    for name, extra in (("v5e-8", "tpu-compile"), ("h100-8", "gpu-compile")):
        with pytest.raises(ImportError, match=extra):
            topology(name)


def test_a_slice_has_its_chips(monkeypatch):
    """Of v4 and v5p, named after cores, half as many; what does not fit is the compiler's word for it."""
    asked = []

    class Described:
        devices = ()

    def describe(**options):
        asked.append(options)
        return Described

    monkeypatch.setattr(programs.topologies, "get_topology_desc", describe)
    for name, wanted in (("v5e-256", "v5e:16x16"), ("v5p-128", "v5p:4x4x4"), ("v4-8", "v4:2x2x1")):
        topology(name)
        assert asked[-1]["topology_name"] == wanted
    assert "num_slices" not in asked[-1]
    topology("v5e-256x2")
    assert asked[-1] == {"platform": "tpu", "topology_name": "v5e:16x16", "num_slices": 2}
    topology("h100-8")
    assert asked[-1]["topology"] == "1x1x8"
    topology("h100-8x4")
    assert asked[-1]["topology"] == "4x1x8"

    class Traced:
        def lower(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: used 20G of 16G hbm")

    with pytest.raises(MemoryError, match=r"does not fit cpu-1: .*20G of 16G"):
        program(Traced(), Topology("cpu-1", Chip(1.0, 1.0, 1.0, 1.0), ()))


def test_a_program_for_other_devices_is_not_put_into_the_cache(tmp_path, monkeypatch):
    """From where it could not be read."""
    kept = []
    monkeypatch.setattr(jax._src.compilation_cache, "put_executable_and_time", lambda *_: kept.append(_))
    where = Topology("cpu-8", Chip(1.0, 1.0, 1.0, 1.0), jax.devices())
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    assert program(jax.jit(lambda x: x * 3.25 - 7).trace(jnp.ones(3)), where).outputs == 12
    assert not kept
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before


@pytest.mark.slow
def test_a_mesh_follows_the_links_of_a_topology():
    """As TPU's own plugin describes it: a slice's devices together, neighbours sharing rows."""
    pytest.importorskip("libtpu")
    mesh = data_mesh(topology("v5e-8x2").devices, slices=2, model=2)
    assert dict(mesh.shape) == {"slice": 2, "data": 4, "model": 2}
    assert [{d.slice_index for d in part.ravel()} for part in mesh.devices] == [{0}, {1}]
    mesh = data_mesh(topology("v5e-256").devices, model=8)
    pairs = zip(mesh.devices[:, :-1].ravel(), mesh.devices[:, 1:].ravel(), strict=True)
    assert all(
        sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)) == 1 for one, other in pairs
    )


def compiled_elsewhere(plugin, *words):
    """What a command prints where the compiler of a plugin is installed."""
    pytest.importorskip(plugin)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["jit", "pmap"])
def test_the_trainers_step_compiles_for_eight_tpus(engine):
    """By TPU's own compiler, of the extra tpu-compile: one reduction of the gradients, and it fits."""
    flags = ["--compile-for", "v5e-8", "--batch_size", "64", "--engine", engine]
    said = compiled_elsewhere("libtpu", "experiments.train", "digits", *flags)
    assert said.startswith("v5e-8: 8 devices")
    assert "NOT FIT" not in said
    assert "all-reduce" in said
    assert "all-gather" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "name", "kernel"),
    [("libtpu", "v5e-8", "tpu_custom_call"), ("jax_cuda13_plugin", "h100-8", "__cudnn")],
)
def test_a_step_by_each_platforms_own_attention_compiles(plugin, name, kernel):
    """In every block, forward and backward, on the devices that share the rows; no scores are kept."""
    pytest.importorskip(plugin)
    where = topology(name)
    layout = Layout(data_mesh(where.devices))
    found = {}
    for attention in ("best", "xla"):
        network = DiffusionTransformer(
            patch_size=2, width=128, num_blocks=1, num_heads=2, dtype="bfloat16", attention=attention
        )

        def loss(params, key, x, network=network):
            return (network.apply(params, x, jnp.zeros(len(x))) ** 2).mean()

        def init(network=network):
            params = network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros(1))
            return init_state(params, optax.sgd(0.1), ema_decay=None)

        step = data_parallel(make_train_step(loss, optax.sgd(0.1), ema_decay=None), layout)
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=layout.replicated)
        rows = jax.ShapeDtypeStruct((16 * 8, 32, 32, 3), jnp.float32, sharding=layout.by_rows)
        with programs._not_kept():
            found[attention] = jax.jit(step).lower(key, layout.like(init), rows).compile().as_text()
    best, plain = found["best"], found["xla"]
    scores = ",256,256]"
    assert best.count(kernel) >= 2
    assert scores not in best
    assert kernel not in plain
    assert scores in plain
