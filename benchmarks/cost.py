"""How time and memory grow with dimensions, rows and steps, and where the network is all of it.

    python -m benchmarks.cost                 # d from 2 to 4,096, rows from 100 to 1e6
    python -m benchmarks.cost --small

One thing is changed at a time about d = 64, 1,024 rows and 16 steps of DPM-Solver++: samples by a residual
network of width 256, beside as many bare calls of it in one compiled loop, which is the limit; their quotient
is what the sampler costs. Then the exact denoiser of a mixture of eight, about d = 2 and 1,024 rows, beside
reading its points and writing its answers once at the measured bandwidth. Memory is that of the compiled
program, arguments and answers left out, in units of the points': XLA's `memory_analysis`.
"""

from __future__ import annotations

import argparse
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.limits import bandwidth, interleaved
from benchmarks.machine import machine
from experiments.networks import applied

SCHEDULE = jd.Karras()
MIDDLE = {"d": 64, "rows": 1024, "steps": 16}
FULL = {"d": (2, 16, 256, 1024, 4096), "rows": (100, 10_000, 100_000), "steps": (4, 64, 256)}
SMALL = {"d": (2, 256), "rows": (100, 4096), "steps": (4, 32)}
LAW = {"d": (2, 64, 4096), "rows": (100, 10_000, 1_000_000)}
LAW_SMALL = {"d": (2, 64), "rows": (100, 10_000)}


def samples(d: int, rows: int, steps: int, rounds: int, width: int = 256) -> dict[str, float]:
    """Seconds of sampling and of the bare calls, their quotient, and the memory of a point, in points."""
    network = jd.models.ResidualMLP(width=width)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, d)), jnp.zeros(1))
    grid = jd.times.noise_grid(SCHEDULE, steps)
    x = jnp.ones((rows, d))

    def model(params: Any) -> jd.Denoiser:
        return jd.make_denoiser(applied(network), params, SCHEDULE, shape=(d,))

    @jax.jit
    def sampled(params: Any, x: jax.Array, grid: jax.Array) -> jax.Array:
        return jd.integrate(jax.random.key(0), model(params), x, grid, sampler=jd.dpm_solver_pp(2))

    @jax.jit
    def bare(params: Any, x: jax.Array, grid: jax.Array) -> jax.Array:
        def call(x: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
            return model(params)(x, t).data, None

        return jax.lax.scan(call, x, jnp.maximum(grid[:-1], 1e-3))[0]

    arguments = params, x, grid
    rows_of = interleaved({"sampled": lambda: sampled(*arguments), "bare": lambda: bare(*arguments)}, rounds)
    memory: Any = sampled.lower(*arguments).compile().memory_analysis()
    return {
        "seconds": rows_of["sampled"]["seconds"],
        "bare_seconds": rows_of["bare"]["seconds"],
        "over_bare": 1 / rows_of["bare"]["ratio"],
        "memory": memory.temp_size_in_bytes / x.nbytes,
    }


def exact(d: int, rows: int, rounds: int, bytes_a_second: float) -> dict[str, float]:
    """Seconds of an exact denoiser, their quotient to reading and writing its points, and its memory."""
    draw = np.random.default_rng(0)
    law = jd.GaussianMixture(np.full(8, 1 / 8), draw.normal(size=(8, d)), np.full(8, 0.1))
    x = jnp.ones((rows, d))
    function = jax.jit(lambda law, x, t: law.denoiser(SCHEDULE)(x, t))
    call = functools.partial(function, law, x, jnp.float32(0.5))
    spent = interleaved({"denoiser": call}, rounds)["denoiser"]["seconds"]
    memory: Any = function.lower(law, x, jnp.float32(0.5)).compile().memory_analysis()
    return {
        "seconds": spent,
        "over_bandwidth": spent / (3 * x.nbytes / bytes_a_second),  # points in; data and noise out
        "memory": memory.temp_size_in_bytes / x.nbytes,
    }


def main(small: bool, rounds: int) -> dict[str, Any]:
    """All of it, printed as it is found."""
    found: dict[str, Any] = {"samples": [], "exact": [], "bandwidth": bandwidth()}
    for name, values in (SMALL if small else FULL).items():
        for value in sorted({*values, MIDDLE[name]}):
            sizes = MIDDLE | {name: value}
            row = samples(**sizes, rounds=rounds)
            found["samples"].append(sizes | row)
            print(
                f"samples, {name:6} {value:8}: {1e3 * row['seconds']:10.2f} ms, "
                f"{row['over_bare']:.2f} of bare calls, memory of {row['memory']:.1f} points a point",
                flush=True,
            )
    for name, values in (LAW_SMALL if small else LAW).items():
        for value in values:
            sizes = {"d": 2, "rows": 1024} | {name: value}
            row = exact(**sizes, rounds=rounds, bytes_a_second=found["bandwidth"])
            found["exact"].append(sizes | row)
            print(
                f"exact denoiser, {name:6} {value:8}: {1e3 * row['seconds']:10.3f} ms, "
                f"{row['over_bandwidth']:.1f} of reading and writing, "
                f"memory of {row['memory']:.1f} points a point",
                flush=True,
            )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="fewer sizes, a minute")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    print(machine())
    print(json.dumps(main(flags.small, flags.rounds)))
