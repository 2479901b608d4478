"""What do the accelerators' own compilers make of the library's programs? No device is needed.

    pip install -e '.[experiments,tpu-compile]'
    JAX_PLATFORMS=cpu python -m benchmarks.programs --quick                 # v5e-8, in minutes
    JAX_PLATFORMS=cpu python -m benchmarks.programs --topologies v5e-8 v5p-128 h100-8

Each program is compiled whole for each topology, in bfloat16 with float32 parameters, Adam and an average of
the parameters, 16 rows of 32 x 32 x 3 a device:

    transformer, ...       a train step of DiffusionTransformer, 4 blocks of 384: parameters replicated, by
                           jit and by pmap, fully sharded, rematerialized, with four microbatches, with
                           bootstrapped targets, and these with a field, a Gaussian's; and of 4 and 28
                           blocks in one loop
    billion, ...           the same of 24 blocks of 1,536, scanned and rematerialized, patches of 2 x 2: 1.03
                           billion parameters; "4 a row": four devices share a row's heads and hidden units
    U-Net, ...             a train step of UNet(64), replicated and fully sharded
    sampler                18 steps of Heun's method with the transformer
    exported sampler       the same as one device reads it from a file of `export_sampler`
    formula, flow          densities: the formula with 64 evaluations of it, 10 steps of the probability flow
    sweep                  its errors on 16 draws of a law at 16 levels a device, vmapped over levels

Reported are bytes a device, FLOP, collectives and the bounds that `jaxdiff.running.programs` derives from
them and the makers' figures: counts, not measurements. --scaling adds weak scaling on paper, from 8 devices
to 4,096 at equal rows a device, for replicated parameters: arithmetic or memory, whichever takes longer; the
gradients by rings, within a slice over its links and then, of a share each, between slices over the network;
and the rows, in float32, over the same. In turn and alongside are the speeds for each device without overlap
and with all of it.

MEASURED (two busy cores, jax 0.10.2 and its libtpu and CUDA plugin, 2026-11-29; a device and step, bounds in
ms; GFLOP are those asked for, all turns of loops):

                                          GB   GFLOP  compute  memory  links   collectives
    transformer, replicated     v5e-8    0.21    45.3     0.23    0.44   0.20   2 all-reduce 23.2 MB
                                v5e-256  0.21    45.3     0.23    0.44   0.23   2 all-reduce 23.2 MB
                                v5p-128  0.27    45.3     0.10    0.13   0.08   2 all-reduce 23.2 MB
                                h100-8   0.30    45.3     0.05    0.11   0.09   2 all-reduce 23.2 MB
    transformer, by pmap        v5e-8    0.21    45.3     0.23    0.44   0.39   1 all-reduce 44.5 MB
                                h100-8   0.30    45.3     0.05    0.11   0.17   2 all-reduce 44.5 MB
    transformer, fully sharded  v5e-8    0.07    45.3     0.23    0.06   0.30   41 all-gather 39.0 MB,
                                                                             5 reduce 9.0, 110 permute 9.6
                                v5e-256  0.06    45.3     0.23    0.10   0.56   5 all-reduce 56.2 MB
                                v5p-128  0.11    45.3     0.10    0.00   0.21   8 all-gather 1.8 MB,
                                                                             5 all-reduce 61.6
                                h100-8   0.14    45.3     0.05    0.01   0.10   1 all-gather 23.2 MB,
                                                                             2 scatter 2.5, 2 reduce 3.6
    transformer, rematerialized v5e-8    0.21    60.3     0.31    0.44   0.20   2 all-reduce 23.2 MB
                                h100-8   0.26    60.3     0.06    0.11   0.09   2 all-reduce 23.2 MB
    transformer, microbatches   v5e-8    0.21    45.3     0.23    0.44   0.39   2 all-reduce 44.5 MB
                                v5e-256  0.21    45.3     0.23    0.44   0.44   2 all-reduce 44.5 MB
                                v5p-128  0.32    45.3     0.10    0.13   0.15   2 all-reduce 44.5 MB
                                h100-8   0.28    45.3     0.05    0.11   0.09   3 all-reduce 23.2 MB
    transformer, bootstrapped   v5e-8    0.21    60.4     0.31    0.44   0.20   2 all-reduce 23.2 MB
                                v5e-256  0.21    60.4     0.31    0.44   0.23   2 all-reduce 23.2 MB
                                v5p-128  0.27    60.4     0.13    0.13   0.08   2 all-reduce 23.2 MB
                                h100-8   0.30    60.4     0.06    0.11   0.09   2 all-reduce 23.2 MB
    transformer, with a field   as bootstrapped, on all four
    billion, fully sharded      v5e-256  1.21 22928.5   116.39    0.16   2.45   8 all-gather 170 MB,
                                                                             8 reduce 161
                                v5p-128  1.49 22928.5    49.95    0.19   1.09   8 all-reduce 331 MB
                                h100-8   3.75 22928.5    23.18    1.23   0.63   9 all-gather 199 MB,
                                                                             3 reduce 14, 3 scatter 12
    billion, 4 a row            v5p-128  1.60 22928.5    49.95    0.19   2.21   33 all-gather 716 MB,
                                                                             21 reduce 118, 98 permute 386
    U-Net, replicated           v5e-8    0.14   126.8     0.64    0.15   0.07   2 all-reduce 7.4 MB
                                v5e-256  0.14   126.8     0.64    0.15   0.07   2 all-reduce 7.4 MB
                                v5p-128  0.25   126.8     0.28    0.05   0.02   2 all-reduce 7.4 MB
                                h100-8   0.25   126.8     0.13    0.03   0.03   7 all-reduce 7.4 MB
    U-Net, fully sharded        v5e-8    0.15   126.8     0.64    0.02   0.10   73 all-gather 9.2 MB,
                                                                             5 reduce 6.7, 60 permute 0.5
                                h100-8   0.19   126.8     0.13    0.00   0.04   21 all-gather 12.5 MB,
                                                                             21 scatter 0.9
    sampler                     v5e-8    0.08   573.9     2.91    0.06   0.00   none
                                v5e-256  0.08   573.9     2.91    0.06   0.00   1 all-reduce < 0.1 MB
                                v5p-128  0.09   573.9     1.25    0.02   0.00   1 all-reduce < 0.1 MB
                                h100-8   0.06   573.9     0.58    0.01   0.00   1 all-reduce < 0.1 MB
    formula                     v5e-8    0.12  1389.3     7.05    0.06   0.00   1 all-reduce < 0.1 MB
                                v5e-256  0.12   966.5     4.91    0.06   0.00   1 all-reduce < 0.1 MB
                                v5p-128  0.23   966.5     2.11    0.02   0.00   1 all-reduce < 0.1 MB
                                h100-8   0.14  1389.3     1.40    0.01   0.00   1 all-reduce < 0.1 MB
    flow                        v5e-8    0.08  1234.2     6.27    0.06   0.00   none
                                v5e-256  0.08  1234.2     6.27    0.06   0.00   none
                                v5p-128  0.11  1234.2     2.69    0.02   0.00   none
                                h100-8   0.06  1234.2     1.25    0.01   0.00   none
    sweep                       v5e-8    0.11   241.6     1.24    0.05   0.00   none
                                v5e-256  0.11   241.6     1.24    0.05   0.00   none
                                v5p-128  0.21   241.6     0.53    0.02   0.00   none
                                h100-8   0.14   241.6     0.24    0.01   0.00   none
    exported sampler            one device of v5e-8 and of h100-8, 0.01 GB

All fit. Of the billion's state, 16.4 GB, each of 64 chips has .26, as it should; its collectives are those of
one turn of the loops over blocks. At this width four chips to a row send more and save nothing. On v5e-256
and v5p-128 the compiler gathers weights that 256 and 64 devices divide by all-reduces. By pmap gradients are
reduced in float32, by jit the compiler does it as they leave their products, in bfloat16.

What the fully sharded step of v5e-8 sent before networks said how their activations lie: 37 all-gathers of
29.8 MB, 5 all-reduces of 8.6 MB, 5 all-to-alls of .3 MB, for the conditioning was spread by its features, and
one of the reductions was of the whole batch's, (rows of all devices, width). Now only weights and gradients
are sent: 8 MB more at these 128 rows, and no more at any number; that reduction would be 6 MB on 256 devices
and 100 MB on 4,096. On H100 the compiler joins them to what the textbook has, one gather and one scatter.

A fully sharded U-Net says that the kernels of its convolutions lie whole where they are used. Left to itself
the compiler works out their derivatives in parts, and sends parts of images around for it: on v5e-8 .62 GB
where copies take .14, and 381 small messages. To say that activations lie by rows instead changes nothing
there.

The density formula looks rows up by their numbers, and left to the compiler every device gathered x anew for
every block of evaluations, 1.6 MB for 128 rows. By `row_parallel`, as here, each looks at its own rows, and
what is sent is one flag. Its check asks less of each row where there are more devices.

Weak scaling of "transformer, replicated", in turn to alongside: v5e 62 to 100 % on 8 chips, 60 to 100 % on
256, 56 to 100 % on 4,096, sixteen slices; v5p 57, and 54 to 100 % on 4,096; h100 53 to 100 % on 8, 35 to 55 %
on 64, 34 to 52 % on 4,096: a small model, and little arithmetic for the bytes of its state.

--quick took 4 min 34 s, at 80 % of one core. The loop of 28 blocks compiled for v5e-8 in 53 s where that of 4
took 49 and 4 blocks apart 58, on busy cores; in 19 s of processor time each.

The largest batch of ``experiments.train patches-transformer --model.dtype bfloat16`` by --fit: on eight H100s
32,768 rows, the most that is tried, in 17.4 GB a device; on v5e-8 2,048 take 2.3 GB and 14,848 do not fit,
and that search was cut after ten minutes on a busy machine.

Tried for the fully sharded step and left: to gather every weight at its start, which sends as many bytes, and
holds a copy of the parameters (.27 GB of temporaries for .04, in blocks of 768).
"""

import argparse
import dataclasses
import json
import math
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxdiff as jd
from experiments.networks import applied
from jaxdiff.laws.shaped import Shaped
from jaxdiff.learning.training import TrainState
from jaxdiff.models import DiffusionTransformer, UNet
from jaxdiff.running import programs
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel, row_parallel
from jaxdiff.running.programs import Program, Topology
from jaxdiff.typing import Array, Key, Params

SHAPE, ROWS, EMA_DECAY = (32, 32, 3), 16, 0.9999
Network = DiffusionTransformer | UNet
TRANSFORMER = DiffusionTransformer(patch_size=4, width=384, num_blocks=4, num_heads=6, dtype="bfloat16")
UNET = UNet(channels=64, channel_multipliers=(1, 2), attention_levels=(1,), dtype="bfloat16")
BILLION = DiffusionTransformer(
    patch_size=2, width=1536, num_blocks=24, num_heads=16, dtype="bfloat16", remat="blocks", scan=True
)
LAW = Shaped(jd.Gaussian(jnp.zeros(math.prod(SHAPE)), 0.25), SHAPE)
"""Of images, for what asks for one."""


def model(network: Network, params: Params) -> jd.Denoiser:
    """Trained and sampled under EDM's schedule."""
    return jd.make_denoiser(applied(network), params, jd.Karras(), shape=SHAPE)


def arguments(layout: Layout, *parts: Any) -> tuple[Any, ...]:
    """A key that all devices have, the parts, and rows of images."""
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=layout.replicated)
    rows = jax.ShapeDtypeStruct((ROWS * layout.mesh.size, *SHAPE), jnp.float32, sharding=layout.by_rows)
    return key, *parts, rows


def initial(network: Network) -> Params:
    """The parameters."""
    return network.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.zeros(1))


def train_step(
    where: Topology,
    network: Network = TRANSFORMER,
    *,
    fully_sharded: bool = False,
    bootstrapped: bool = False,
    field: bool = False,
    num_microbatches: int = 1,
    tensor_parallel: int = 1,
    engine: str = "jit",
) -> Any:
    """A training step, traced."""
    mesh = data_mesh(where.devices, model=tensor_parallel)
    layout, optimizer = Layout(mesh, fully_sharded=fully_sharded), optax.adam(1e-4)

    def init() -> TrainState:
        return jd.init_state(initial(network), optimizer, ema_decay=EMA_DECAY)

    def joint(params: Params, average: Params, step: Array, key: Key, data: Array) -> Array:
        denoise, teacher = model(network, params), model(network, average)
        known = LAW.denoiser(jd.Karras()) if field else None
        return jd.bootstrap.half_noise_loss(key, denoise, teacher, data, mix=0.9, field=known).mean()

    def plain(params: Params, key: Key, data: Array) -> Array:
        return jd.denoising_loss(key, model(network, params), data).mean()

    options = {"ema_decay": EMA_DECAY, "num_microbatches": num_microbatches}
    if bootstrapped or field:
        step = jd.bootstrap.make_joint_step(joint, optimizer, **options)
    else:
        step = jd.make_train_step(plain, optimizer, **options)
    spread = data_parallel(step, layout, engine=engine)
    return jax.jit(spread, donate_argnums=1).trace(*arguments(layout, layout.like(init)))


def of_rows(where: Topology, call: Callable[[Key, jd.Denoiser, Array], Any]) -> Any:
    """A call of the transformer as a denoiser on rows, each device's own, traced."""
    layout = Layout(data_mesh(where.devices))
    params = layout.like(lambda: initial(TRANSFORMER))

    def run(key: Key, params: Params, rows: Array) -> Any:
        return call(key, model(TRANSFORMER, params), rows)

    return jax.jit(row_parallel(run, layout)).trace(*arguments(layout, params))


def swept(where: Topology) -> Any:
    """Errors at levels that are spread over the devices, traced."""
    layout = Layout(data_mesh(where.devices))

    def run(key: Key, params: Params, times: Array) -> Array:
        denoise = model(TRANSFORMER, params)
        return jax.vmap(lambda t: jd.score_error(key, denoise, LAW, t[None], num_samples=16).value[0])(times)

    key, params, _ = arguments(layout, layout.like(lambda: initial(TRANSFORMER)))
    times = jax.ShapeDtypeStruct((ROWS * layout.mesh.size,), jnp.float32, sharding=layout.by_rows)
    return jax.jit(row_parallel(run, layout)).trace(key, params, times)


def exported(where: Topology) -> Any:
    """A sampler's file, read for the first of the devices, traced."""
    denoise = model(TRANSFORMER, jax.jit(lambda: initial(TRANSFORMER))())

    def draw(denoise: jd.Denoiser, key: Key, n: int) -> Array:
        return sampled(key, denoise, jd.initial_noise(key, denoise, n, 80.0))

    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "sampler"
        jd.export_sampler(path, jax.tree_util.Partial(draw, denoise))
        sampler = jd.load_sampler(path)
    key, *_ = arguments(Layout(data_mesh(where.devices[:1])))
    return jax.jit(lambda key: sampler(key, ROWS)).trace(key)


def sampled(key: Key, denoise: jd.Denoiser, x: Array) -> Array:
    """Images from noise x."""
    times = jd.times.to_clean(denoise.schedule, jd.times.power_grid(18, t_min=0.002, t_max=80.0, rho=7))
    return jd.integrate(key, denoise, x, times, sampler=jd.Heun())


PROGRAMS: dict[str, Callable[[Topology], Any]] = {
    "transformer, replicated": train_step,
    "transformer, fully sharded": lambda where: train_step(where, fully_sharded=True),
    "transformer, rematerialized": lambda where: train_step(where, TRANSFORMER.clone(remat="blocks")),
    "transformer, 4 in a loop": lambda where: train_step(where, TRANSFORMER.clone(scan=True)),
    "transformer, 28 in a loop": lambda where: train_step(where, TRANSFORMER.clone(scan=True, num_blocks=28)),
    "transformer, microbatches": lambda where: train_step(where, num_microbatches=4),
    "transformer, bootstrapped": lambda where: train_step(where, bootstrapped=True),
    "transformer, by pmap": lambda where: train_step(where, engine="pmap"),
    "transformer, with a field": lambda where: train_step(where, field=True),
    "billion, replicated": lambda where: train_step(where, BILLION),
    "billion, fully sharded": lambda where: train_step(where, BILLION, fully_sharded=True),
    "billion, 4 a row": lambda where: train_step(where, BILLION, fully_sharded=True, tensor_parallel=4),
    "U-Net, replicated": lambda where: train_step(where, UNET),
    "U-Net, fully sharded": lambda where: train_step(where, UNET, fully_sharded=True),
    "sampler": lambda where: of_rows(where, sampled),
    "formula": lambda where: of_rows(
        where, lambda key, denoise, x: jd.log_density(key, denoise, x, num_evaluations=64)
    ),
    "flow": lambda where: of_rows(
        where,
        lambda key, denoise, x: jd.probability_flow(
            key, denoise, x, jd.times.power_grid(10, t_min=0.002, t_max=80.0, rho=7)[::-1], num_probes=1
        ),
    ),
    "sweep": swept,
    "exported sampler": exported,
}
SLOW = "transformer, rematerialized", "transformer, 4", "transformer, 28", "billion", "U-Net"
QUICK = tuple(name for name in PROGRAMS if not name.startswith(SLOW))

# Bytes a second and device between slices, one way: 200 Gbit/s a host of 4 or 8 chips, or a GPU's own card.
NETWORK = {
    "v4": 6.25e9,
    "v5e": 3.125e9,
    "v5p": 6.25e9,
    "v6e": 3.125e9,
    "a100": 25e9,
    "h100": 50e9,
    "h200": 50e9,
}
SLICE = {"v4": 4096, "v5e": 256, "v5p": 4096, "v6e": 256, "a100": 8, "h100": 8, "h200": 8}
COUNTS = 8, 64, 256, 1024, 4096


class Scaled(NamedTuple):
    """A step on so many devices, seconds at least; and its speed for each beside one that only computes."""

    devices: int
    compute: float
    gradients: float
    input: float

    @property
    def alongside(self) -> float:
        """If all is done at the same time."""
        return self.compute / max(self[1:])

    @property
    def in_turn(self) -> float:
        """If nothing is."""
        return self.compute / sum(self[1:])


def weak_scaling(found: Program) -> list[Scaled]:
    """Of a step with replicated parameters, at ROWS rows a device: by rings within a slice, then between."""
    kind = found.where.name.partition("-")[0]
    reduced = sum(c.bytes for c in found.collectives if c.kind == "all-reduce")
    each, chip = NETWORK[kind], found.where.chip
    rows = 4 * ROWS * math.prod(SHAPE) / each

    def gradients(n: int) -> float:
        within = min(n, SLICE[kind])
        slices = n // within
        between = 2 * (slices - 1) / slices * reduced / within / each
        return 2 * (within - 1) / within * reduced / chip.link + between

    compute = max(found.bounds["compute"], found.bounds["memory"])
    return [Scaled(n, compute, gradients(n), rows) for n in COUNTS]


def row(name: str, found: Program) -> str:
    """One line of the table."""
    bounds = [f"{1e3 * bound:8.2f}" for bound in found.bounds.values()]
    parts = []
    for c in found.collectives:
        some = c.among not in (len(found.where.devices), None)
        parts.append(f"{c.number} {c.kind} {c.bytes / 1e6:.1f} MB" + some * f" among {c.among}")
    sent = ", ".join(parts) or "none"
    return (
        f"{name:28} {found.where.name:9} {found.seconds:5.0f} {found.bytes / 1e9:6.2f} "
        f"{found.asked / 1e9:9.1f} {' '.join(bounds)} {found.utilization:5.0%}  {sent}"
    )


HEAD = f"{'program':28} {'topology':9} {'s':>5} {'GB':>6} {'GFLOP':>9}" + "".join(
    f" {part:>8}" for part in ("compute", "memory", "links")
)


def main(
    names: list[str], topologies: list[str], out: pathlib.Path | None, *, scaling: bool = False
) -> dict[str, dict[str, Any]]:
    """Compile each for each, and print a line of it as soon as it is; written to out after each."""
    figures: dict[str, dict[str, Any]] = {}
    print(f"{HEAD}  peak  collectives; a device and step, bounds in ms", flush=True)
    for topology in topologies:
        where = programs.topology(topology)
        for name in names:
            found = programs.program(PROGRAMS[name](where), where)
            print(row(name, found), flush=True)
            values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name != "where"}
            values["collectives"] = [c._asdict() for c in found.collectives]
            figures[f"{name}, {topology}"] = values | {"bounds": found.bounds, "fits": found.fits}
            if out is not None:
                out.write_text(json.dumps(figures, indent=2) + "\n")
            for scaled in weak_scaling(found) if scaling else ():
                _, *seconds = scaled
                parts = " ".join(f"{1e3 * part:8.3f}" for part in seconds)
                print(
                    f"{scaled.devices:6} devices {parts} ms, {scaled.in_turn:.0%} to {scaled.alongside:.0%}"
                )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.programs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--topologies", nargs="+", default=["v5e-8"])
    parser.add_argument("--quick", action="store_true", help="those that compile fast")
    parser.add_argument("--scaling", action="store_true", help="of each to 4,096 devices, on paper")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file")
    flags = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    main(list(QUICK) if flags.quick else flags.programs, flags.topologies, flags.out, scaling=flags.scaling)
