"""What do bootstrapped targets and a pool of training data cost beside a denoising step?

    python -m benchmarks.bootstrapping_step
    python -m benchmarks.bootstrapping_step --networks UNet --rounds 6

One step draws its batch from 100,000 data on the device, vectors of 64 bytes or images of 32 x 32 x 3,
and is `make_train_step` with Adam and an average of the parameters. Beside it, in units of it:

    pool                    `stable_target` with a pool drawn at each step: no pass of a network more
    bootstrapped            `half_noise_target`, taught by the average: one forward pass more, of about three
    bootstrapped, pool      the same with the pool in its target
    bootstrapped, Jacobian  the same with the gate of one Jacobian product: about two passes more

Blocks of steps of all kinds alternate, and the median of the blocks' ratios is reported with its quartiles,
so that a busy machine slows all. The aim is 1.35 for a pool, over the same step without one.

MEASURED (one busy core of an AMD EPYC, jax 0.10.2, 2026-11-28; 10 rounds, and 3 for the U-Net by single
steps): a pool of 1,024 1.25 [1.19, 1.44] with the MLP and 1.06 [1.04, 1.08] with the U-Net; bootstrapped
1.42 [1.28, 1.52] and 1.25 [1.23, 1.28]; both 1.59 [1.36, 1.80] and 1.38 [1.36, 1.40], 1.13 and 1.11 times
that; the Jacobian 1.74 [1.61, 1.87] with the MLP. On 2026-11-29, 3 rounds of single steps, very busy cores:
with the transformer a pool .96 [.94, 1.03], bootstrapped 1.25 [1.18, 3.2], both 1.25 [1.22, 1.45], the
Jacobian 2.09 [1.92, 2.17]; with the U-Net the Jacobian 1.81 [1.75, 8.2].
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from benchmarks.machine import machine
from experiments.networks import applied
from jaxdiff.learning.training import StepFn
from jaxdiff.models import DiffusionTransformer, ResidualMLP, UNet
from jaxdiff.typing import Array, Key, Params

SCHEDULE = jd.Karras()
EMA_DECAY = 0.999


class Case(NamedTuple):
    """A network, and what it is trained on."""

    network: nn.Module
    shape: tuple[int, ...]
    batch: int


KINDS = ("denoising", "pool", "bootstrapped", "bootstrapped, pool", "bootstrapped, Jacobian")

CASES = {
    "MLP": Case(ResidualMLP(width=256), (64,), 512),
    "UNet": Case(UNet(channels=24, channel_multipliers=(1, 2, 2), blocks_per_level=1), (32, 32, 3), 16),
    "transformer": Case(
        DiffusionTransformer(patch_size=4, width=192, num_blocks=6, num_heads=4), (32, 32, 3), 16
    ),
}


def steps(case: Case, optimizer: optax.GradientTransformation, pool_size: int) -> dict[str, StepFn]:
    """The train steps by name, the first being denoising's; they are given all of the training set, bytes."""

    def model(params: Params) -> jd.Denoiser:
        return jd.make_denoiser(applied(case.network), params, SCHEDULE, shape=case.shape)

    def drawn(key: Key, pixels: Array, size: int) -> Array:
        return jd.data.batch(key, pixels, size).astype(jnp.float32) / 74 - 1.72  # of variance one

    def step(name: str) -> StepFn:
        def loss(params: Params, average: Params, step: Array, key: Key, pixels: Array) -> Array:
            batch_key, pool_key, time_key, key = jax.random.split(key, 4)
            x_0, teacher = drawn(batch_key, pixels, case.batch), model(average)
            pool = drawn(pool_key, pixels, pool_size) if "pool" in name else None
            denoise = model(params)
            if "bootstrapped" in name:
                gate = teacher if "Jacobian" in name else None
                return jd.bootstrap.half_noise_loss(
                    key, denoise, teacher, x_0, mix=0.9, gate=gate, pool=pool
                ).mean()
            if pool is None:
                return jd.denoising_loss(key, denoise, x_0).mean()
            t = jd.times.log_normal(jd.times.stratified(time_key, case.batch), SCHEDULE, mean=-0.5).t
            x, y = jd.stable_target(key, SCHEDULE, x_0, t, pool=pool)
            return jd.regression_loss(denoise, x, y, t).mean()

        return jd.bootstrap.make_joint_step(loss, optimizer, ema_decay=EMA_DECAY)

    return {name: step(name) for name in KINDS}


def measure(case: Case, num_data: int, pool_size: int, block: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of every kind of step, and the ratios to the first with their quartiles."""
    key, optimizer = jax.random.key(0), optax.adam(1e-3)
    pixels = jnp.asarray(np.random.default_rng(0).integers(256, size=(num_data, *case.shape), dtype=np.uint8))
    params = jax.jit(case.network.init)(key, jnp.zeros((1, *case.shape)), jnp.zeros(1))
    state = jd.init_state(params, optimizer, ema_decay=EMA_DECAY)
    return timed(steps(case, optimizer, pool_size), state, pixels, block, rounds)


def timed(steps: dict[str, StepFn], state: Any, data: Array, block: int, rounds: int) -> dict[str, Any]:
    """The same of any steps of one state on one array of data."""
    key = jax.random.key(0)

    def seconds(step: Callable[..., Any]) -> float:
        own = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        began = time.perf_counter()
        for _ in range(block):
            own, _ = step(key, own, data)
        jax.block_until_ready(own)
        return (time.perf_counter() - began) / block

    kinds = {name: jax.jit(step, donate_argnums=1) for name, step in steps.items()}
    for step in kinds.values():
        seconds(step)  # compile
    times = np.array([[seconds(step) for step in kinds.values()] for _ in range(rounds)])
    low, middle, high = np.percentile(times / times[:, :1], [25, 50, 75], axis=0)
    return {
        name: {"milliseconds": 1e3 * ms, "ratio": ratio, "quartiles": [a, b]}
        for name, ms, ratio, a, b in zip(kinds, np.median(times, axis=0), middle, low, high, strict=True)
    }


def say(network: str, figures: dict[str, Any]) -> None:
    """A line for each kind of step."""
    for kind, row in figures.items():
        low, high = row["quartiles"]
        ratio = f"{row['ratio']:.3f}  [{low:.3f}, {high:.3f}]"
        print(f"{network:12} {kind:24} {row['milliseconds']:8.2f} ms   {ratio}", flush=True)


def main(
    cases: dict[str, Case], num_data: int, pool_size: int, block: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """`measure` every case, and print a line for each kind of step."""
    figures = {}
    for name, case in cases.items():
        figures[name] = measure(case, num_data, pool_size, block, rounds)
        say(name, figures[name])
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bootstrapping_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--data", type=int, default=100_000, help="of the training set")
    parser.add_argument("--pool", type=int, default=1024)
    parser.add_argument("--block", type=int, default=3, help="steps timed together")
    parser.add_argument("--rounds", type=int, default=12)
    flags = parser.parse_args()
    print(f"{machine()}, {flags.data} data, a pool of {flags.pool}")
    chosen = {name: CASES[name] for name in flags.networks}
    print(json.dumps(main(chosen, flags.data, flags.pool, flags.block, flags.rounds)))
