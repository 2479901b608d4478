"""What does one compiled call gain over a Python loop, for a sweep of the theory of bootstrapping?

    python -m benchmarks.bootstrapping_sweep

The cells are those of E1 (`bootstrapped` of `experiments.bootstrapping.target_variance`): seven targets and
their formulas for one law at one pair of neighbouring levels. 32 laws x 16 pairs x 5 dimensions, three ways:

    one call            `sweep`, all dimensions padded to the largest
    loop, padded        a Python loop over one jitted cell, padded alike
    loop, own size      the same over five jitted cells, one for each dimension, which spares the padding

Arguments of the loops are made beforehand, and nothing waits for the device until the loop's end. Rounds of
the three alternate, so that a busy machine slows all of them; times are medians, and so are the ratios to one
call. Compilation is timed apart.

MEASURED (two cores of an AMD EPYC, CPU, jax 0.12.0.1, 2026-11-22): 2,560 cells in 4.4 s in one call, which is
1.00 of the padded loop's time, with the same results to the bit; five own sizes take 0.60 of it and 30 s to
compile against 12.5. On a CPU a cell of 64 samples fills the machine: one call gains simplicity, not time.
What a cell is made of (one busy core, jax 0.10.2, 2026-11-29, 80 cells): 2.7 ms, and 2.1 with a denoiser that
answers two multiples of x, so that the exact one was a fifth, and less since its sums are products: 2.2 ms.
The rest is draws and comparisons. The denoiser alone beside NumPy and PyTorch: `benchmarks.theory_sweep`.
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

from benchmarks.machine import machine
from experiments.bootstrapping.laws import random_law
from experiments.bootstrapping.target_variance import bootstrapped, padded_laws, sweep


def main(
    cell: Callable[..., Any], num_laws: int, num_pairs: int, dimensions: tuple[int, ...], rounds: int
) -> dict[str, Any]:
    """Time ``cell(key, law, dimension, s, t)`` the three ways; returns seconds and ratios to one call.

    And how far the results of the first two, which work on the same arrays, lie apart.
    """
    keys = jax.random.split(jax.random.key(0), num_laws)
    laws, levels = padded_laws(keys, dimensions), jnp.geomspace(0.05, 3.0, num_pairs + 1)
    s, t, sizes = levels[:-1], levels[1:], jnp.asarray(dimensions)

    padded: list[Any] = []
    own: list[Any] = []
    for number, (i, j, k) in enumerate(np.ndindex(num_laws, num_pairs, len(dimensions))):
        key, at = jax.random.fold_in(keys[i], number), (sizes[k], s[j], t[j])
        padded.append((key, jax.tree.map(lambda x, i=i, k=k: x[i, k], laws), *at))
        own.append((k, (key, random_law(keys[i], dimensions[k]), *at)))

    compile_seconds = {}

    def compiled(name: str, function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        began = time.perf_counter()
        executable = jax.jit(function).lower(*arguments).compile()
        compile_seconds[name] = compile_seconds.get(name, 0.0) + time.perf_counter() - began
        return executable

    everything = (keys, laws, sizes, s, t)
    one_call = compiled("one call", functools.partial(sweep, cell), *everything)
    one_cell = compiled("loop, padded", cell, *padded[0])
    by_size = [compiled("loop, own size", cell, *own[k][1]) for k in range(len(dimensions))]
    ways: dict[str, Callable[[], Any]] = {
        "one call": lambda: one_call(*everything),
        "loop, padded": lambda: [one_cell(*arguments) for arguments in padded],
        "loop, own size": lambda: [by_size[k](*arguments) for k, arguments in own],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            results[name] = jax.block_until_ready(way())
            seconds[name].append(time.perf_counter() - began)

    swept = jax.tree.map(lambda x: x.reshape(len(padded), *x.shape[3:]), results["one call"])
    looped = jax.tree.map(lambda *cells: jnp.stack(cells), *results["loop, padded"])
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max() / abs(b).max()), swept, looped)
    figures: dict[str, Any] = {"cells": len(padded), "apart": max(jax.tree.leaves(apart)), "ways": {}}
    for name, times in seconds.items():
        ratio = float(np.median(np.divide(times, seconds["one call"])))
        row = {"seconds": float(np.median(times)), "ratio": ratio, "compile_seconds": compile_seconds[name]}
        figures["ways"][name] = row
        print(
            f"{name:16} {row['seconds']:8.2f} s  {row['ratio']:6.2f} times one call  "
            f"(compilation {row['compile_seconds']:.1f} s)"
        )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bootstrapping_sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--samples", type=int, default=64, help="for each cell (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    print(f"{machine()}, {flags.samples} samples a cell")
    one = functools.partial(bootstrapped, num_samples=flags.samples)
    print(json.dumps(main(one, 32, 16, (1, 2, 5, 10, 50), flags.rounds)))
