"""How near to the device's own speed is a train step of the image networks?

    python -m benchmarks.train_step                              # PyTorch beside it where installed
    python -m benchmarks.train_step --networks transformer --width 384 --heads 6 --batch 512

Sizes are of a GPU, in bfloat16; without an accelerator they are those of `ON_CPUS`, in float32, and PyTorch
runs without `torch.compile`.

A step is the library's: noise, forward and backward in bfloat16 or another type with float32 parameters, Adam
and an average of the parameters, on images that are on the device, with the state donated. Of each network
are reported

    images/s     the median over rounds of steps that are queued one after the other
    processor    seconds of all threads for a step, the same median: what a busy machine does not make longer
    model FLOP   XLA's count (`cost_analysis`) for the step before any optimization, without rematerialization
                 and with attention written out: products, convolutions, and a little for what is elementwise.
                 Nothing that is computed twice counts twice. `compiled` is the count for the program that
                 ran, in which the calls of vendors' libraries may be missing.
    of peak      model FLOP per second over those of one product of two square bfloat16 matrices, measured in
                 this run on this device
    memory       arguments and temporaries of the compiled program

and, in PyTorch with `torch.compile`, or without, --eager, the same network: copied parameters, whose number
is checked and whose answers are compared. Its figures are from the same count of model FLOP; rounds of both
alternate.

MEASURED (one core of two busy ones of an AMD EPYC, under ``OMP_NUM_THREADS=1 taskset -c 0``, PyTorch 2.14
eager, jax 0.10.2, 2026-11-29), processor time of a step in float32, ours over PyTorch's:

    transformer, width 256, 4 blocks, 256 places      .85, .94 (two runs)
    U-Net, 32 channels, (1, 2, 2)                     1.54

On two quiet cores (2026-11-30) .84 and 1.43, and by the clock .90 and 1.96: PyTorch's convolutions use both.

The transformer's was 1.9 before attention went through its heads in turn. Of the U-Net the forward
convolutions and the gradients of their inputs take PyTorch's time, 3 x 3 of 32 to 64 channels at 230 GFLOP/s;
what is left is the gradient of their kernels, 5.7 ms at 32 to 32 channels and 32 x 32 pixels where PyTorch
takes about 1.4, and 2.2 at 64 to 64 and 16 x 16 where it takes 1.5: XLA has no kernel for it on CPUs and
convolves with one of the image's size. Products in its place, for each offset, of rows of patches or with
these put side by side, in six forms, took .5 to 1 of that time at 32 to 32 channels only, and up to 8 times
as much at others. Norms and their activations take 1.2 to 1.3 times PyTorch's.
"""

import argparse
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from benchmarks.machine import machine
from experiments.networks import applied
from jaxdiff.learning.training import StepFn
from jaxdiff.models import DiffusionTransformer, UNet
from jaxdiff.typing import Array, Key, Params

EMA_DECAY = 0.9999
ON_CPUS: dict[str, Any] = {
    "dtype": "float32",
    "eager": True,
    "width": 256,
    "blocks": 4,
    "heads": 4,
    "channels": 32,
    "batch": 16,
    "steps": 2,
    "matmul": 1024,
}
Network = DiffusionTransformer | UNet


def train_step(network: Network, optimizer: optax.GradientTransformation) -> StepFn:
    """Denoising score matching as in EDM."""

    def loss(params: Params, key: Key, data: Array) -> Array:
        denoise = jd.make_denoiser(applied(network), params, jd.Karras(), shape=data.shape[1:])
        return jd.denoising_loss(key, denoise, data).mean() / data[0].size

    return jd.make_train_step(loss, optimizer, ema_decay=EMA_DECAY)


class Way(NamedTuple):
    """A step to be timed."""

    once: Callable[[], Any]
    wait: Callable[[Any], Any]
    figures: dict[str, Any]
    """What is known of it but for its time."""


def timed(ways: dict[str, Way], steps: int, rounds: int) -> None:
    """Put into each way's figures the medians over rounds, which alternate, of a step among several queued.

    The first call, which compiles, and a second come before.
    """
    for way in ways.values():
        for _ in range(2):
            way.wait(way.once())
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began, worked = time.perf_counter(), time.process_time()
            way.wait([way.once() for _ in range(steps)])
            spent[name].append((time.perf_counter() - began, time.process_time() - worked))
    for name, way in ways.items():
        seconds, processor = np.median(spent[name], axis=0) / steps
        way.figures.update(seconds=float(seconds), processor=float(processor))


def matmul_peak(n: int, rounds: int) -> float:
    """FLOP per second of n x n bfloat16 products with float32 sums, at best: ten in a row, in one program."""
    x, w = (jax.random.normal(jax.random.key(i), (n, n)).astype(jnp.bfloat16) for i in range(2))
    w = w / math.sqrt(n)

    @jax.jit
    def ten(x: Array) -> Array:
        return jax.lax.fori_loop(0, 10, lambda _, x: x @ w, x)

    way = Way(lambda: ten(x), jax.block_until_ready, {})
    found = []
    for _ in range(rounds):
        timed({"": way}, steps=2, rounds=1)
        found.append(way.figures["seconds"])
    return 10 * 2 * n**3 / min(found)


def ours(network: Network, images: np.ndarray) -> tuple[Way, Params]:
    """The library's step, and the parameters that it begins with."""
    optimizer, key, data = optax.adam(1e-4), jax.random.key(0), jnp.asarray(images)
    params = jax.jit(network.init)(key, data[:1], jnp.zeros(1))
    state = jd.init_state(params, optimizer, ema_decay=EMA_DECAY)
    plain = network.clone(remat="none")
    plain = plain.clone(attention=None) if isinstance(plain, DiffusionTransformer) else plain
    counted = jax.jit(train_step(plain, optimizer)).lower(key, state, data).cost_analysis()
    step = jax.jit(train_step(network, optimizer), donate_argnums=1).lower(key, state, data).compile()

    def once() -> Any:
        nonlocal state
        state, metrics = step(key, state, data)
        return metrics

    memory, compiled = step.memory_analysis(), step.cost_analysis()
    figures = {
        "parameters": sum(p.size for p in jax.tree.leaves(params)),
        "model_flop": _flop(counted),
        "compiled_flop": _flop(compiled),
        "memory": None if memory is None else memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }
    return Way(once, jax.block_until_ready, figures), jax.device_get(params)


def torchs(network: Network, params: Params, images: np.ndarray, *, compiled: bool) -> Way:
    """The same step and network in PyTorch, and how far apart the answers are in float32."""
    from benchmarks import torch_networks

    # A last layer of zeros would make all networks equal.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.02 * rng.standard_normal(p.shape, np.float32), params)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    module = torch_networks.build(network, images.shape[1], params, device)
    x, t = images[:2], np.linspace(-1, 1, 2, dtype=np.float32)
    exact = network.clone(dtype=None)
    exact = exact.clone(attention=None) if isinstance(exact, DiffusionTransformer) else exact
    with jax.default_matmul_precision("highest"):
        wanted = np.asarray(jax.jit(exact.apply)(params, x, t))
    apart = np.linalg.norm(torch_networks.answer(module, x, t) - wanted) / np.linalg.norm(wanted)
    dtype = jnp.dtype(network.dtype or jnp.float32).name
    step = torch_networks.make_step(module, images, dtype, compiled=compiled)
    figures = {"parameters": sum(p.numel() for p in module.parameters()), "apart": float(apart)}
    return Way(step, lambda _: torch_networks.wait(), figures)


def main(
    networks: dict[str, Network],
    *,
    batch: int,
    size: int,
    matmul: int,
    steps: int,
    rounds: int,
    with_torch: bool,
    eager: bool = False,
) -> dict[str, Any]:
    """Measure every network on images (batch, size, size, 3); returns and prints the figures."""
    images = np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32)
    peak = matmul_peak(matmul, rounds)
    print(f"{peak / 1e12:.4g} TFLOP/s of bfloat16 products, {matmul} x {matmul}", flush=True)
    figures: dict[str, Any] = {"peak": peak}
    for name, network in networks.items():
        way, params = ours(network, images)
        ways, flop = {"jaxdiff": way}, way.figures["model_flop"]
        if with_torch:
            ways["torch"] = torchs(network, params, images, compiled=not eager)
            if ways["torch"].figures["parameters"] != way.figures["parameters"]:
                raise RuntimeError(f"Parameters of the two networks differ in number: {ways}.")
        timed(ways, steps, rounds)
        if with_torch:
            ways["torch"].figures["memory"] = _torch_memory()
        for called, (_, _, figure) in ways.items():
            figure["images_per_second"] = len(images) / figure["seconds"]
            figure["of_peak"] = flop / figure["seconds"] / peak
            memory = "" if figure["memory"] is None else f"   {figure['memory'] / 2**30:6.2f} GiB"
            apart = f"   answers {figure['apart']:.1e} apart" if "apart" in figure else ""
            print(
                f"{name:12} {called:8} {figure['parameters'] / 1e6:7.2f} M parameters   "
                f"{figure['images_per_second']:9.4g} images/s   processor {figure['processor']:.4g} s   "
                f"{flop / figure['seconds'] / 1e12:7.4g} TFLOP/s   "
                f"{figure['of_peak']:5.1%} of peak{memory}{apart}",
                flush=True,
            )
        figures[name] = {called: way.figures for called, way in ways.items()}
    return figures


def _torch_memory() -> int | None:
    """Bytes on PyTorch's GPU at most."""
    from benchmarks import torch_networks

    return torch_networks.peak_memory()


def _flop(analysis: Any) -> float | None:
    # Some backends answer with a list of one, or not at all.
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return (analysis or {}).get("flops")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--networks", nargs="+", choices=["transformer", "unet"], default=["transformer", "unet"]
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    eager = argparse.BooleanOptionalAction
    parser.add_argument("--eager", action=eager, default=False, help="PyTorch without torch.compile")
    parser.add_argument("--size", type=int, default=32, help="pixels along each side")
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    kernels = ["xla", "cudnn", "flash", "chunked", "best"]
    parser.add_argument("--attention", choices=kernels, default="best")
    parser.add_argument("--channels", type=int, default=128, help="of the U-Net")
    parser.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 2])
    parser.add_argument("--attention-levels", type=int, nargs="*", default=[1])
    parser.add_argument("--remat", choices=["none", "blocks", "dots", "offloaded"], default="none")
    parser.add_argument("--matmul", type=int, default=8192, help="size of the product that is the measure")
    parser.add_argument("--steps", type=int, default=20, help="timed together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-torch", action="store_true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")  # of a GPU; the rest is for PyTorch
    if jax.default_backend() == "cpu":
        parser.set_defaults(**ON_CPUS)
    flags = parser.parse_args()
    shared: dict[str, Any] = {"dtype": jnp.dtype(flags.dtype), "remat": flags.remat}
    built: dict[str, Network] = {
        "transformer": DiffusionTransformer(
            flags.patch,
            flags.width,
            flags.blocks,
            flags.heads,
            attention=flags.attention,
            **shared,
        ),
        "unet": UNet(
            flags.channels,
            tuple(flags.multipliers),
            attention_levels=tuple(flags.attention_levels),
            **shared,
        ),
    }
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        print("PyTorch is not installed: nothing to compare with.")
    print(f"{machine()}, batch {flags.batch} x {flags.size} x {flags.size} x 3")
    results = main(
        {name: built[name] for name in flags.networks},
        batch=flags.batch,
        size=flags.size,
        matmul=flags.matmul,
        steps=flags.steps,
        rounds=flags.rounds,
        with_torch=has_torch and not flags.no_torch,
        eager=flags.eager,
    )
    print(json.dumps(results))
