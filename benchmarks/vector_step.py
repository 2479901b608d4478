"""How long is a train step of vectors, beside PyTorch's and torchcfm's of the same network?

    python -m benchmarks.vector_step                 # 256 vectors of 64 numbers
    python -m benchmarks.vector_step --batch 4096

The network of `benchmarks.sampling_time`, with its weights; flow matching on the straight path and Adam, on
rows that are on the device. Ways, left out with a word where they are not installed:

    jaxdiff, 20 steps a call     `make_train_step` in a scan, as `train` calls it
    jaxdiff, a step a call       the same, dispatched one by one
    a loss written out           the same scan of a loss of four lines in JAX without the library, and Adam
    PyTorch, eager               the loss written out, Adam with foreach
    PyTorch, compiled            the same by torch.compile (--compiled; minutes)
    torchcfm                     ConditionalFlowMatcher's locations and flows, in the same loop

Times are of 20 steps; ratios are over jaxdiff's. The limit is the third, and that of it the products of
matrices, three times those of a call, at the speed of one large product.

MEASURED (two quiet cores of an AMD EPYC; jax 0.10.2, torch 2.14.1, 2026-11-30), medians with quartiles over
jaxdiff's 20 steps a call, at 256 rows of 64 and width 256, and at 64 rows of 2 and width 64:

    jaxdiff, a step a call    .87  [.83, .96]         1.71 [1.21, 2.22]
    a loss written out        .84  [.77, .92]          .93  [.69, .98]
    PyTorch, eager           1.67 [1.48, 1.75]        4.33 [4.00, 5.12]
    PyTorch, compiled        1.66 [1.45, 1.81]
    torchcfm                 1.59 [1.43, 1.92]        3.89 [3.22, 4.22]
    the products alone        .49                      .15

On one busy core, a thread each, the day before, PyTorch's wide step took .98 [.98, 1.10] of ours: products of
matrices, in which the two are equal; of narrow ones PyTorch's calls are most.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from benchmarks.limits import interleaved, limits, peers, shown
from benchmarks.machine import machine
from benchmarks.sampling_time import Weights, network, weights_of
from jaxdiff.denoising import prediction

STEPS = 20


def main(batch: int, d: int, width: int, blocks: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Time all ways; returns their rows, the limits and the versions."""
    weights = weights_of(d, width, blocks)
    rows = np.random.default_rng(1).standard_normal((batch, d)).astype(np.float32)
    ways = _ours(weights, rows)
    versions = peers(["torch", "torchcfm"])
    if "torch" in versions:
        ways |= _torch_ways(weights, rows, versions, compiled)
    found, measured = interleaved(ways, rounds), limits()
    flops = 6 * STEPS * batch * sum(value.size for value in weights.values())
    measured["products_ms"] = flops / measured["matmul_gflops"] / 1e6
    print(shown(found))
    print(f"the products at the speed of a large one {measured['products_ms']:.2f} ms", flush=True)
    return {"rows": found, "limits": measured, "versions": versions}


def _ours(weights: Weights, rows: np.ndarray) -> dict[str, Callable[[], Any]]:
    params, key, data = jax.tree.map(jnp.asarray, weights), jax.random.key(0), jnp.asarray(rows)
    optimizer, schedule = optax.adam(1e-4), jd.RectifiedFlow()

    def loss(params: Any, key: jax.Array, batch: jax.Array) -> jax.Array:
        time_key, noise_key = jax.random.split(key)
        t = jax.random.uniform(time_key, (len(batch),))
        denoise = jd.make_denoiser(
            network, params, schedule, shape=batch.shape[1:], prediction=prediction.flow, t_min=0.0, t_max=1.0
        )
        x, target = jd.denoising_target(noise_key, schedule, batch, t)
        return jd.regression_loss(denoise, x, target, t).mean()

    def written_out(params: Any, key: jax.Array, batch: jax.Array) -> jax.Array:
        time_key, noise_key = jax.random.split(key)
        t, noise = jax.random.uniform(time_key, (len(batch),)), jax.random.normal(noise_key, batch.shape)
        x = (1 - t[:, None]) * batch + t[:, None] * noise
        return jnp.sum((network(params, x, t) - (noise - batch)) ** 2, axis=1).mean()

    step = jd.make_train_step(loss, optimizer, ema_decay=None)
    one = jax.jit(lambda state: step(key, state, data)[0])
    several = jax.jit(lambda state: jax.lax.fori_loop(0, STEPS, lambda _, s: step(key, s, data)[0], state))
    state = jd.init_state(params, optimizer, ema_decay=None)

    def bare(carry: Any, number: jax.Array) -> tuple[Any, None]:
        params, moments = carry
        gradient = jax.grad(written_out)(params, jax.random.fold_in(key, number), data)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), None

    alone = jax.jit(lambda carry: jax.lax.scan(bare, carry, jnp.arange(STEPS))[0])
    carry = params, optimizer.init(params)

    def one_by_one() -> Any:
        now = state
        for _ in range(STEPS):
            now = one(now)
        return now

    return {
        "jaxdiff, 20 steps a call": lambda: several(state),
        "jaxdiff, a step a call": one_by_one,
        "a loss written out": lambda: alone(carry),
    }


def _torch_ways(
    weights: Weights, rows: np.ndarray, versions: dict[str, str], compiled: bool
) -> dict[str, Callable[[], Any]]:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    data, blocks = torch.tensor(rows), (len(weights) - 2) // 2

    def predict(params: dict[str, Any], x: Any, t: Any) -> Any:
        h = torch.cat([x, t[:, None]], 1) @ params["in"]
        for i in range(blocks):
            h = h + torch.nn.functional.silu(h @ params[f"up_{i}"]) @ params[f"down_{i}"]
        return h @ params["out"]

    def drawn() -> tuple[Any, Any, Any]:
        t, noise = torch.rand(len(data)), torch.randn_like(data)
        return t, (1 - t[:, None]) * data + t[:, None] * noise, noise - data

    def loop(draw: Callable[[], tuple[Any, Any, Any]], forward: Callable[..., Any]) -> Callable[[], Any]:
        params = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
        optimizer = torch.optim.Adam(params.values(), lr=1e-4, foreach=True)

        def run() -> None:
            for _ in range(STEPS):
                t, x, flow = draw()
                optimizer.zero_grad()
                ((forward(params, x, t) - flow) ** 2).sum(1).mean().backward()
                optimizer.step()

        return run

    ways = {"PyTorch, eager": loop(drawn, predict)}
    if compiled:
        ways["PyTorch, compiled"] = loop(drawn, torch.compile(predict))
    if "torchcfm" not in versions:
        return ways
    try:
        from torchcfm import ConditionalFlowMatcher  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"torchcfm cannot be imported ({error}): its row is left out.")
        return ways
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def located() -> tuple[Any, Any, Any]:
        return matcher.sample_location_and_conditional_flow(torch.randn_like(data), data)

    return ways | {"torchcfm": loop(located, predict)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vector_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="torch.compile too")
    flags = parser.parse_args()
    print(f"{machine()}, batch {flags.batch} x {flags.dimension}")
    print(
        json.dumps(
            main(flags.batch, flags.dimension, flags.width, flags.blocks, flags.rounds, flags.compiled)
        )
    )
