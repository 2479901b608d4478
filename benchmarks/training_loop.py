"""What does the training loop cost beyond the train steps that it makes?

    python -m benchmarks.training_loop

The ratio (time of `train` for n steps: fed by the host, with an average of the parameters, a log and
checkpoints) / (time of n calls of the bare jitted step, gradient and Adam, on one batch that lies on the
device), in one run: rounds of both alternate, so that a busy machine slows both sides, and the median of the
rounds' ratios is reported with its quartiles. Checkpoints are waited for. Expect at most 1.05.

MEASURED (two quiet cores of an AMD EPYC, jax 0.12.0.1, 2026-11-22): a step of 32 ms, ratio 1.000 with
quartiles .999 and 1.076, saving 56 MB every 200 steps. On one busy core, saving them every 50 steps of 100 ms
cost a tenth: a save competes for the cores that train, where there is no accelerator.
"""

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

import jaxdiff as jd
from benchmarks.machine import machine
from experiments.networks import applied
from jaxdiff.data import feeds
from jaxdiff.learning.training import TrainState
from jaxdiff.models import ResidualMLP
from jaxdiff.running.checkpoints import Checkpoints
from jaxdiff.running.parallel import Layout, data_mesh
from jaxdiff.running.progress import Progress
from jaxdiff.typing import Params


def main(
    network: nn.Module,
    batch: int,
    *,
    dimension: int,
    steps: int,
    save_every: int,
    steps_per_dispatch: int,
    rounds: int,
) -> dict[str, Any]:
    """Measure; returns the ratio, its quartiles and the milliseconds of a bare step."""
    optimizer, key, layout = optax.adam(1e-3), jax.random.key(0), Layout(data_mesh(jax.devices()[:1]))
    data = np.random.default_rng(0).normal(size=(16 * batch, dimension)).astype(np.float32)
    rows = feeds.from_arrays(data, batch, seed=0)

    def loss(params: Params, key: jax.Array, x: jax.Array) -> jax.Array:
        denoise = jd.make_denoiser(applied(network), params, jd.Karras(), shape=(dimension,))
        return jd.denoising_loss(key, denoise, x).mean()

    def start() -> tuple[TrainState, TrainState]:
        """Without an average and with one."""
        params = network.init(key, data[:1], data[:1, 0])
        without, averaged = (jd.init_state(params, optimizer, ema_decay=decay) for decay in (None, 0.999))
        return without, averaged

    bare = jax.jit(jd.make_train_step(loss, optimizer, ema_decay=None), donate_argnums=1)
    step = jd.make_train_step(loss, optimizer, ema_decay=0.999)
    alone, state = layout.create(start)
    on_device, ratios, milliseconds = layout.place(rows(0)), [], []

    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory)
        for number in range(rounds + 1):  # the first compiles
            began = time.perf_counter()
            for _ in range(steps):
                alone, _ = bare(key, alone, on_device)
            jax.block_until_ready(alone)
            middle = time.perf_counter()
            first = int(state.step)
            with (
                Checkpoints(out / "checkpoints", config={}) as checkpoints,
                Progress(first + steps, first_step=first, log=out / "metrics.jsonl") as progress,
            ):
                opened = time.perf_counter()
                state = jd.train(
                    key,
                    state,
                    step,
                    _fed,
                    num_steps=first + steps,
                    feed=layout.feed(rows),
                    steps_per_dispatch=steps_per_dispatch,
                    report=progress,
                    save=checkpoints.save,
                    save_every=save_every,
                )
                checkpoints.close()
            ended = time.perf_counter()
            if number:
                ratios.append((ended - opened) / (middle - began))
                milliseconds.append(1e3 * (middle - began) / steps)
    low, ratio, high = np.percentile(ratios, [25, 50, 75])
    figures = {"step_ms": float(np.median(milliseconds)), "ratio": ratio, "quartiles": [low, high]}
    print(f"a step {figures['step_ms']:.2f} ms, in the loop {ratio:.3f} times that  [{low:.3f}, {high:.3f}]")
    return figures


def _fed(key: jax.Array, rows: jax.Array) -> jax.Array:
    """The batch is the rows fed."""
    del key
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--steps", type=int, default=200, help="of a round")
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--steps-per-dispatch", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    print(f"{machine()}, batch {flags.batch} x {flags.dimension}")
    options = dict(vars(flags))
    print(json.dumps(main(ResidualMLP(width=options.pop("width")), options.pop("batch"), **options)))
