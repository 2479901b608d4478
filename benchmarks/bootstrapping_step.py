"""What does a bootstrapped train step cost beside a denoising one?

    python -m benchmarks.bootstrapping_step

One step is `make_train_step` with a `ResidualMLP`, Adam and an average of the parameters; the bootstrapped
step, `make_joint_step`, takes that average as its teacher: one forward pass more. A step without it is about
three passes (a forward pass, and a backward one of twice its cost), so 4/3 is to be expected, and noise for
x_s besides. Blocks of steps of the two kinds alternate, and the median of the blocks' ratios is reported
with its quartiles, so that a busy machine slows both sides. The goal is at most 1.6.

MEASURED on one busy core of an AMD EPYC (jax 0.12.0.1, 2026-11-22, --rounds 12): 1.20 at batch 256, 1.31 at
512, 1.24 at 1,024.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from benchmarks.machine import machine
from experiments.networks import applied
from jaxdiff.learning.training import StepFn, TrainState
from jaxdiff.models import ResidualMLP
from jaxdiff.typing import Array, Denoised, Key, Params

SCHEDULE = jd.Karras()
EMA_DECAY = 0.999


def steps(network: ResidualMLP, optimizer: optax.GradientTransformation, dimension: int) -> dict[str, StepFn]:
    """Both train steps, by name."""

    def model(params: Params) -> jd.Denoiser:
        return jd.make_denoiser(applied(network), params, SCHEDULE, shape=(dimension,))

    def regress(params: Params, x: Array, target: Denoised, t: Array) -> Array:
        return jd.regression_loss(model(params), x, target, t).mean()

    def training_times(key: Key, data: Array) -> Array:
        # From where the teacher, at t / 1.4, knows its times too.
        u, first = jd.times.stratified(key, len(data)), 1.5 * SCHEDULE.working_range[0]
        return jd.times.log_normal(u, SCHEDULE, t_min=first).t

    def denoising(params: Params, key: Key, data: Array) -> Array:
        time_key, target_key = jax.random.split(key)
        t = training_times(time_key, data)
        return regress(params, *jd.denoising_target(target_key, SCHEDULE, data, t), t)

    def bootstrapping(params: Params, average: Params, step: Array, key: Key, data: Array) -> Array:
        time_key, target_key = jax.random.split(key)
        t = training_times(time_key, data)
        target = jd.bootstrapped_target(target_key, model(average), data, t / 1.4, t, mix=0.9)
        return regress(params, *target, t)

    return {
        "denoising": jd.make_train_step(denoising, optimizer, ema_decay=EMA_DECAY),
        "bootstrapped": jd.bootstrap.make_joint_step(bootstrapping, optimizer, ema_decay=EMA_DECAY),
    }


def main(
    network: ResidualMLP, batches: tuple[int, ...], dimension: int, block: int, rounds: int
) -> dict[str, Any]:
    """Measure at every batch size; returns the ratios, each with its quartiles."""
    key, optimizer, figures = jax.random.key(0), optax.adam(1e-3), {}
    for batch in batches:
        data = jax.random.normal(key, (batch, dimension))
        params = jax.jit(network.init)(key, data, jnp.zeros(batch))
        state = jd.init_state(params, optimizer, ema_decay=EMA_DECAY)

        def seconds(step: Callable[..., Any], state: TrainState = state, data: Array = data) -> float:
            state = jax.block_until_ready(jax.tree.map(jnp.copy, state))
            began = time.perf_counter()
            for _ in range(block):
                state, _ = step(key, state, data)
            jax.block_until_ready(state)
            return (time.perf_counter() - began) / block

        both = {
            name: jax.jit(step, donate_argnums=1)
            for name, step in steps(network, optimizer, dimension).items()
        }
        for step in both.values():
            seconds(step)  # compile
        times = np.array([[seconds(step) for step in both.values()] for _ in range(rounds)])
        low, middle, high = np.percentile(times[:, 1] / times[:, 0], [25, 50, 75])
        milliseconds = dict(zip(both, 1e3 * np.median(times, axis=0), strict=True))
        figures[batch] = {"ratio": middle, "quartiles": [low, high], "milliseconds": milliseconds}
        print(
            f"batch {batch:5}   {milliseconds['denoising']:7.2f} ms denoising   "
            f"{milliseconds['bootstrapped']:7.2f} ms bootstrapped   {middle:.3f}  [{low:.3f}, {high:.3f}]",
            flush=True,
        )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bootstrapping_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--block", type=int, default=10, help="steps timed together")
    parser.add_argument("--rounds", type=int, default=40)
    flags = parser.parse_args()
    print(f"{machine()}, dimension {flags.dimension}, width {flags.width}")
    network = ResidualMLP(width=flags.width)
    print(json.dumps(main(network, tuple(flags.batches), flags.dimension, flags.block, flags.rounds)))
