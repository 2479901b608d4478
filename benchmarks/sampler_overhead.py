"""What does a sampler cost beyond the denoiser calls that it makes?

    python -m benchmarks.sampler_overhead

The ratio (time of a jitted `sample`) / (number of denoiser calls x time of one jitted denoiser call), for
every sampler, in one run: rounds of one sampling run and of as many single calls alternate, and the median
of the rounds' ratios is reported with its quartiles, so that a busy machine slows both sides. Expect at most
1.05, and less where the scan saves dispatches. Stochastic samplers draw noise, which is in their ratio.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.models import ResidualMLP

# Sampler, denoiser calls for each step, and calls beyond that.
SAMPLERS: dict[str, tuple[Callable[..., jd.Sampler], int, int]] = {
    "ddim": (jd.ddim, 1, 0),
    "heun": (jd.heun, 2, 0),
    "dpm_solver_pp, order 2": (jd.dpm_solver_pp, 1, 0),
    "dpm_solver_pp, order 3": (functools.partial(jd.dpm_solver_pp, order=3), 1, 1),
    "ancestral": (jd.ancestral, 1, 0),
    "euler_maruyama": (jd.euler_maruyama, 1, 0),
    "predictor_corrector": (jd.predictor_corrector, 2, 0),
}


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call, to the end of its work on the device."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def main(batch: int, dimension: int, width: int, num_steps: int, rounds: int) -> dict[str, Any]:
    """Measure every sampler; returns the ratios, each with its quartiles."""
    schedule, network = jd.Karras(), ResidualMLP(width=width)
    key = jax.random.key(0)
    x = jd.initial_noise(key, schedule, (batch, dimension), 80.0)
    params = jax.jit(network.init)(key, x, jnp.zeros(batch))
    grid = jd.times.power_grid(num_steps, t_max=80.0, t_min=0.002, rho=7)

    def predict(params: Any, x: jax.Array, t: jax.Array) -> Any:
        return network.apply(params, x, t)

    def denoiser(params: Any) -> jd.Denoiser:
        return jd.make_denoiser(predict, params, schedule)

    one_call = jax.jit(lambda params, x, t: denoiser(params)(x, t))
    results = {}
    for name, (factory, per_step, extra) in SAMPLERS.items():
        run = jax.jit(lambda p, x, g, make=factory: jd.sample(key, make(denoiser(p), schedule), x, g))
        calls = per_step * num_steps + extra
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
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, batch {flags.batch} x {flags.dimension}")
    print(json.dumps(main(flags.batch, flags.dimension, flags.width, flags.steps, flags.rounds)))
