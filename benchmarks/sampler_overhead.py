"""What does a sampler cost beyond the denoiser calls that it makes?

    python -m benchmarks.sampler_overhead

The ratio (time of a jitted `integrate`) / (number of denoiser calls x time of one jitted denoiser call), for
every sampler, in one run: rounds of one sampling run and of as many single calls alternate, and the median
of the rounds' ratios is reported with its quartiles, so that a busy machine slows both sides. Expect at most
1.0, and less where the scan saves dispatches. Stochastic samplers draw noise, which is in their ratio.

MEASURED (two quiet cores of an AMD EPYC, jax 0.10.2, 2026-11-28), medians with their quartiles:

    DDIM                     .78 [.75, .80]      ancestral             .75 [.73, .75]
    Heun                     .73 [.73, .75]      EulerMaruyama         .77 [.75, .77]
    DPM-Solver++, order 2    .76 [.73, .76]      PredictorCorrector    .79 [.74, .80]
    DPM-Solver++, order 3    .77 [.76, .78]      UniPC, order 3        .78 [.76, .78]
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.machine import machine
from experiments.networks import applied
from jaxdiff.models import ResidualMLP
from jaxdiff.typing import Params

# Sampler and denoiser calls for each step.
SAMPLERS: dict[str, tuple[jd.Sampler, int]] = {
    "DDIM": (jd.DDIM(), 1),
    "Heun": (jd.Heun(), 2),
    "DPM-Solver++, order 2": (jd.dpm_solver_pp(), 1),
    "DPM-Solver++, order 3": (jd.dpm_solver_pp(order=3), 1),
    "UniPC, order 3": (jd.unipc(), 1),
    "ancestral": (jd.ancestral(), 1),
    "EulerMaruyama": (jd.EulerMaruyama(), 1),
    "PredictorCorrector": (jd.PredictorCorrector(), 2),
}


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call, to the end of its work on the device."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def main(batch: int, dimension: int, width: int, num_steps: int, rounds: int) -> dict[str, Any]:
    """Measure every sampler; returns the ratios, each with its quartiles."""
    schedule, network, key = jd.Karras(), ResidualMLP(width=width), jax.random.key(0)
    params = jax.jit(network.init)(key, jnp.zeros((1, dimension)), jnp.zeros(1))
    grid = jd.times.noise_grid(schedule, num_steps)

    def model(params: Params) -> jd.Denoiser:
        return jd.make_denoiser(applied(network), params, schedule, shape=(dimension,))

    x = jd.initial_noise(key, model(params), batch)
    one_call = jax.jit(lambda params, x, t: model(params)(x, t))
    results = {}
    arrays = jd.linear_multistep(jd.deis(3), schedule, grid)  # which has a grid of its own
    for name, (sampler, per_step) in {**SAMPLERS, "LinearMultistep": (arrays, 1)}.items():
        run = jax.jit(lambda p, x, g, s=sampler: jd.integrate(key, model(p), x, g, sampler=s))
        calls = per_step * num_steps
        times = [grid[0]] * calls

        def single_calls(times: list[Any] = times) -> list[Any]:
            return [jax.block_until_ready(one_call(params, x, t)) for t in times]

        def sampling(run: Callable[..., Any] = run) -> Any:
            return run(params, x, grid)

        jax.block_until_ready((sampling(), single_calls()))  # compile
        ratios = [seconds(sampling) / seconds(single_calls) for _ in range(rounds)]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        results[name] = {"calls": calls, "ratio": middle, "quartiles": [low, high]}
        print(f"{name:24} {calls:4} calls   {middle:.3f}  [{low:.3f}, {high:.3f}]", flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sampler_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    print(f"{machine()}, batch {flags.batch} x {flags.dimension}")
    print(json.dumps(main(flags.batch, flags.dimension, flags.width, flags.steps, flags.rounds)))
