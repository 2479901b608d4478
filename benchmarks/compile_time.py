"""How long do the first calls take: with nothing compiled, and with JAX's cache of compiled programs warm?

    python -m benchmarks.compile_time

Each task runs in a process of its own, twice: with an empty cache directory, and with the one that the first
run filled. Reported are seconds of the first call, of the second, which is the work alone, and of starting
Python with the imports. Beside them stands a jitted product of matrices, the least that any program takes.

MEASURED (one core of an AMD EPYC that four others used, so three to four times what a quiet one takes; jax
0.10.2, 2026-11-29), seconds of a first call, cold and warm, and of a second:

    a product           .07     .04     .0004
    a train step       25.8     4.9     .032
    samples            13.9     8.2     .022
    log-densities      44.7    10.0     .082
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxdiff as jd
from benchmarks.machine import machine
from experiments.networks import applied


def _product() -> Callable[[], Any]:
    function, a = jax.jit(lambda a: a @ a), jnp.ones((256, 256))
    return lambda: function(a)


def _model() -> tuple[Any, Callable[[Any], jd.Denoiser]]:
    network = jd.models.ResidualMLP(width=64)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    return params, lambda params: jd.make_denoiser(applied(network), params, jd.Karras(), shape=(2,))


def _train() -> Callable[[], Any]:
    params, model = _model()
    optimizer = optax.adam(1e-3)

    def loss(params: Any, key: jax.Array, batch: jax.Array) -> jax.Array:
        return jd.denoising_loss(key, model(params), batch).mean()

    state = jax.jit(lambda p: jd.init_state(p, optimizer, ema_decay=0.99))(params)
    step = jax.jit(jd.make_train_step(loss, optimizer, ema_decay=0.99))
    x = jnp.ones((64, 2))
    return lambda: step(jax.random.key(0), state, x)


def _sample() -> Callable[[], Any]:
    params, model = _model()
    return lambda: jd.sample(jax.random.key(0), model(params), 16)


def _density() -> Callable[[], Any]:
    params, model = _model()
    return lambda: jd.log_density(jax.random.key(0), model(params), jnp.ones((4, 2)))


TASKS = {"a product": _product, "a train step": _train, "samples": _sample, "log-densities": _density}


def run_task(name: str) -> dict[str, float]:
    """Seconds of the first and of the second call of a task, in this process."""
    call, found = TASKS[name](), {}
    for which in ("first", "second"):
        began = time.perf_counter()
        jax.block_until_ready(call())
        found[which] = time.perf_counter() - began
    return found


def main(tasks: tuple[str, ...] = tuple(TASKS)) -> dict[str, dict[str, dict[str, float]]]:
    """Task to "cold" and "warm" to seconds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in tasks:
        with tempfile.TemporaryDirectory() as cache:
            options = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            options["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
            found[name] = {which: _in_a_process(name, os.environ | options) for which in ("cold", "warm")}
        cold, warm = found[name]["cold"], found[name]["warm"]
        print(
            f"{name:16} first call {cold['first']:6.2f} s cold, {warm['first']:6.2f} s warm; second "
            f"{warm['second']:.4f} s; start of the process {warm['start']:.2f} s",
            flush=True,
        )
    return found


def _in_a_process(name: str, environment: dict[str, str]) -> dict[str, float]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.compile_time", "--task", name]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"The task {name} ended with status {finished.returncode}: {finished.stderr}")
    seconds = json.loads(finished.stdout.splitlines()[-1])
    return seconds | {"start": time.perf_counter() - began - seconds["first"] - seconds["second"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=TASKS, help="in this process, once; its seconds in JSON")
    flags = parser.parse_args()
    if flags.task:
        print(json.dumps(run_task(flags.task)))
    else:
        print(machine())
        print(json.dumps(main()))
