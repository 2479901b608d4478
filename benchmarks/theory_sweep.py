"""A sweep of theory over laws and noise levels: one call, a loop of calls, NumPy and PyTorch.

    python -m benchmarks.theory_sweep

Of each of 32 mixtures and 16 levels the mean noise that its exact denoiser makes out, E|N(x_t, t)|^2 / d,
over 64 points. All ways get the same points and the same noise, and their answers are compared. NumPy's and
PyTorch's loops are what a careful reader would write: float32, no array of points x components x coordinates,
two products of matrices for each cell; PyTorch has one thread, since two wait for each other at this size.

    one call             `jax.lax.map` over the cells, one compiled program
    one call, vmapped    the same with all levels of a law at once
    loop of calls        a Python loop over one jitted cell

MEASURED (two busy cores of an AMD EPYC, jax 0.10.2, torch 2.14.1, 2026-11-29): one call .40 [.34, .48] of
NumPy's time, vmapped .13 [.09, .13], a loop of calls .36 [.27, .61]. The limit printed beside, which is .02:
all operations, by XLA's count, at the speed of one large product.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.limits import interleaved, matmul_peak, peers, shown
from benchmarks.machine import machine

SCHEDULE = jd.OrnsteinUhlenbeck()


def main(num_laws: int, num_levels: int, rows: int, components: int, d: int, rounds: int) -> dict[str, Any]:
    """Time all ways; returns their rows, the limit, and how far their answers are apart."""
    draw = np.random.default_rng(0)
    means = draw.normal(size=(num_laws, components, d)).astype(np.float32)
    variances = draw.uniform(0.05, 0.5, (num_laws, components)).astype(np.float32)
    weights = draw.dirichlet(np.full(components, 4.0), num_laws).astype(np.float32)
    which = np.stack([draw.choice(components, rows, p=own / own.sum()) for own in weights.astype(float)])
    normal = draw.standard_normal((2, num_laws, rows, d)).astype(np.float32)
    every = np.arange(num_laws)[:, None]
    data = means[every, which] + np.sqrt(variances[every, which])[..., None] * normal[0]
    noise, levels = normal[1], np.geomspace(0.05, 3.0, num_levels).astype(np.float32)

    laws = jax.vmap(jd.GaussianMixture)(*(jnp.asarray(part) for part in (weights, means, variances)))
    arguments = laws, jnp.asarray(data), jnp.asarray(noise), jnp.asarray(levels)

    def cell(law: jd.GaussianMixture, data: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        x = SCHEDULE.alpha(t) * data + SCHEDULE.sigma(t) * noise
        return jnp.mean(law.denoiser(SCHEDULE)(x, t).noise ** 2)

    def of_law(levels: jax.Array, each: Callable[..., Any]) -> Callable[..., jax.Array]:
        return lambda own: each(functools.partial(cell, *own), levels)

    @jax.jit
    def mapped(laws: Any, data: jax.Array, noise: jax.Array, levels: jax.Array) -> jax.Array:
        return jax.lax.map(of_law(levels, jax.lax.map), (laws, data, noise))

    @jax.jit
    def vmapped(laws: Any, data: jax.Array, noise: jax.Array, levels: jax.Array) -> jax.Array:
        return jax.lax.map(of_law(levels, lambda f, t: jax.vmap(f)(t)), (laws, data, noise))

    one = jax.jit(cell)
    cells = [
        (*jax.tree.map(lambda leaf, i=i: leaf[i], arguments[:3]), arguments[3][j])
        for i in range(num_laws)
        for j in range(num_levels)
    ]
    ways: dict[str, Callable[[], Any]] = {
        "one call": lambda: mapped(*arguments),
        "one call, vmapped": lambda: vmapped(*arguments),
        "loop of calls": lambda: [one(*own) for own in cells],
        "NumPy": lambda: _numpy(weights, means, variances, data, noise, levels),
    }
    versions = peers(["torch"])
    if versions:
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(1)
        tensors = [torch.from_numpy(part) for part in (weights, means, variances, data, noise, levels)]
        ways["PyTorch"] = lambda: _torch(torch, *tensors)
    answers = {name: np.asarray(way(), np.float32).ravel() for name, way in ways.items()}
    apart = {name: float(abs(answer - answers["NumPy"]).max()) for name, answer in answers.items()}
    rows_of = interleaved(ways, rounds, over="NumPy")
    cost: Any = vmapped.lower(*arguments).compile().cost_analysis()
    limit = cost["flops"] * num_laws / matmul_peak()  # a loop's body counts once
    print(shown(rows_of), f"\nat the speed of one large product {1e3 * limit:.2f} ms", flush=True)
    return {"rows": rows_of, "limit_seconds": limit, "apart": apart, "versions": versions}


def _numpy(*arrays: np.ndarray) -> np.ndarray:
    weights, means, variances, data, noise, levels = arrays
    found = np.empty((len(weights), len(levels)), np.float32)
    for i in range(len(weights)):
        for j, t in enumerate(levels):
            alpha, sigma = np.exp(-t), np.sqrt(-np.expm1(-2 * t))
            x, centers = alpha * data[i] + sigma * noise[i], alpha * means[i]
            total = alpha**2 * variances[i] + sigma**2
            squares = (x * x).sum(1, keepdims=True) - 2 * x @ centers.T + (centers * centers).sum(1)
            logits = np.log(weights[i]) - 0.5 * (squares / total + x.shape[1] * np.log(total))
            share = np.exp(logits - logits.max(1, keepdims=True))
            gain = share / share.sum(1, keepdims=True) * (sigma / total)
            found[i, j] = np.mean((gain.sum(1, keepdims=True) * x - gain @ centers) ** 2)
    return found


def _torch(torch: Any, *tensors: Any) -> Any:
    weights, means, variances, data, noise, levels = tensors
    found = torch.empty((len(weights), len(levels)))
    for i in range(len(weights)):
        for j, t in enumerate(levels):
            alpha, sigma = torch.exp(-t), torch.sqrt(-torch.expm1(-2 * t))
            x, centers = alpha * data[i] + sigma * noise[i], alpha * means[i]
            total = alpha**2 * variances[i] + sigma**2
            squares = (x * x).sum(1, keepdim=True) - 2 * x @ centers.T + (centers * centers).sum(1)
            logits = torch.log(weights[i]) - 0.5 * (squares / total + x.shape[1] * torch.log(total))
            gain = torch.softmax(logits, 1) * (sigma / total)
            found[i, j] = ((gain.sum(1, keepdim=True) * x - gain @ centers) ** 2).mean()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.theory_sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--laws", type=int, default=32)
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--rows", type=int, default=64, help="points of a cell")
    parser.add_argument("--components", type=int, default=4)
    parser.add_argument("--dimension", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    print(f"{machine()}, ratios over NumPy's loop")
    print(
        json.dumps(
            main(flags.laws, flags.levels, flags.rows, flags.components, flags.dimension, flags.rounds)
        )
    )
