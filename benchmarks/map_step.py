"""What does a step of training a flow map cost beside a denoising step of the same network?

    python -m benchmarks.map_step
    python -m benchmarks.map_step --networks UNet --rounds 4 --block 1

Steps and networks are those of `benchmarks.bootstrapping_step`, on a batch that stays; the network has a
second time. Forward and backward a denoising step is about three passes. Beside it, in units of it:

    MeanFlow             one product in forward mode more, of about two passes
    improved MeanFlow    and a pass, for the velocity that it is taken along
    sCM                  as MeanFlow
    consistency          a pass more
    shortcut             two passes more, of the average
    moment matching      a pass more

The aim is 2.2 for those in forward mode. Blocks of steps of all kinds alternate, and the median of the
blocks' ratios is reported with its quartiles, so that a busy machine slows all.

MEASURED (AMD EPYC, busy cores, jax 0.10.2, 2026-11-29; the MLP 9 rounds of blocks of 2, the others 5 of 1),
with quartiles:

                          MLP                  transformer          U-Net
    MeanFlow              1.27 [1.24, 1.38]    1.24 [1.22, 1.27]    1.32 [1.31, 1.32]
    improved MeanFlow     1.90 [1.68, 2.04]    1.54 [1.54, 1.63]    1.62 [1.53, 1.63]
    sCM                   1.47 [1.20, 1.52]    1.13 [1.12, 1.45]    1.28 [1.22, 1.32]
    consistency           1.30 [1.19, 1.65]    1.04 [0.92, 1.40]    1.25 [1.20, 1.27]
    shortcut              1.78 [1.48, 2.24]    1.35 [1.16, 1.44]    1.59 [1.43, 1.64]
    moment matching       1.27 [1.20, 1.75]    1.19 [1.11, 1.32]    1.22 [1.20, 1.30]
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxdiff as jd
from benchmarks.bootstrapping_step import CASES, EMA_DECAY, SCHEDULE, Case, say, timed
from benchmarks.machine import machine
from experiments.networks import applied
from jaxdiff import maps
from jaxdiff.learning.training import StepFn
from jaxdiff.typing import Array, Key, Params

LOSSES = {
    "denoising": lambda key, m, old, x: jd.denoising_loss(key, m.denoiser, x),
    "MeanFlow": lambda key, m, old, x: maps.mean_flow_loss(key, m, x),
    "improved MeanFlow": lambda key, m, old, x: maps.mean_flow_loss(key, m, x, improved=True),
    "sCM": lambda key, m, old, x: maps.continuous_consistency_loss(key, m, x),
    "consistency": lambda key, m, old, x: maps.consistency_loss(key, m, x, ratio=0.9),
    "shortcut": lambda key, m, old, x: maps.shortcut_loss(key, m, x, average=old),
    "moment matching": lambda key, m, old, x: maps.moment_matching_loss(key, m, x),
}


def steps(case: Case, optimizer: optax.GradientTransformation) -> dict[str, StepFn]:
    """The train steps by name, the first being denoising's."""

    def model(params: Params) -> jd.FlowMap:
        return jd.make_flow_map(applied(case.network), params, SCHEDULE, shape=case.shape)

    def step(name: str) -> StepFn:
        def loss(params: Params, average: Params, step: Array, key: Key, x: Array) -> Array:
            return LOSSES[name](key, model(params), model(average), x).mean()

        return jd.bootstrap.make_joint_step(loss, optimizer, ema_decay=EMA_DECAY)

    return {name: step(name) for name in LOSSES}


def main(cases: dict[str, Case], block: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Measure every case, and print a line for each kind of step."""
    figures, optimizer = {}, optax.adam(1e-3)
    for name, case in cases.items():
        x = jax.random.normal(jax.random.key(1), (case.batch, *case.shape))
        t = jnp.zeros(1)
        params = jax.jit(lambda key, x, t, network=case.network: network.init(key, x, t, s=t))(
            jax.random.key(0), x[:1], t
        )
        state = jd.init_state(params, optimizer, ema_decay=EMA_DECAY)
        figures[name] = timed(steps(case, optimizer), state, x, block, rounds)
        say(name, figures[name])
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.map_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--block", type=int, default=3, help="steps timed together")
    parser.add_argument("--rounds", type=int, default=8)
    flags = parser.parse_args()
    print(machine())
    print(json.dumps(main({name: CASES[name] for name in flags.networks}, flags.block, flags.rounds)))
