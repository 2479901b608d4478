"""What the machine itself can do, beside every figure of speed, and how ways are timed side by side."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def matmul_peak(size: int = 1024, rounds: int = 5) -> float:
    """Floating-point operations a second of a product of square float32 matrices, the best of rounds."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / _least(lambda: product(a, a), rounds)


def bandwidth(megabytes: int = 256, rounds: int = 5) -> float:
    """Bytes a second, read and written, of adding one to an array that no cache holds; the best of rounds."""
    a = jnp.ones(megabytes * 2**18, jnp.float32)
    add = jax.jit(lambda a: a + 1)
    return 2 * a.nbytes / _least(lambda: add(a), rounds)


def limits() -> dict[str, float]:
    """Both, in 1e9 a second."""
    return {"matmul_gflops": matmul_peak() / 1e9, "gigabytes": bandwidth() / 1e9}


def _least(call: Callable[[], Any], rounds: int) -> float:
    return min(seconds(call) for _ in range(rounds + 1))


def seconds(call: Callable[[], Any]) -> float:
    """Wall time to the end of the work, of JAX as of what computes at once."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def interleaved(
    ways: dict[str, Callable[[], Any]], rounds: int, *, over: str | None = None
) -> dict[str, dict[str, float]]:
    """Median seconds of each way, and of its ratios to `over`, by default the first, with quartiles.

    Rounds of all alternate, so that a busy machine slows all of them; the first round, which compiles, is not
    counted.
    """
    over = next(iter(ways)) if over is None else over
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            spent = seconds(way)
            if number:
                found[name].append(spent)
    rows = {}
    for name, times in found.items():
        low, ratio, high = np.percentile(np.divide(times, found[over]), [25, 50, 75])
        rows[name] = {"seconds": float(np.median(times)), "ratio": ratio, "low": low, "high": high}
    return rows


def shown(rows: dict[str, dict[str, float]]) -> str:
    """A line for each way."""
    return "\n".join(
        f"{name:34} {1e3 * row['seconds']:10.2f} ms  {row['ratio']:7.2f}"
        f"  [{row['low']:.2f}, {row['high']:.2f}]"
        for name, row in rows.items()
    )


def peers(names: Iterable[str]) -> dict[str, str]:
    """Versions of those of these packages that are installed; said of the others that they are left out."""
    found = {}
    for name in names:
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            print(f"{name} is not installed: its rows are left out.")
        else:
            found[name] = importlib.metadata.version(name)
    return found
