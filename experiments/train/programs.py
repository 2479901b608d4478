"""The training step of a config, compiled for devices that are not there."""

import dataclasses
import math
import sys

import jax
import jax.numpy as jnp

from experiments.train import trainer
from experiments.train.configs import Config
from experiments.train.problems import Problem
from jaxdiff.running import programs
from jaxdiff.running.programs import Program
from jaxdiff.typing import Array, Key


def compiled_for(config: Config, problem: Problem, name: str) -> Program:
    """One step of `trainer.fit`, from rows of pixels on, for the devices of a topology, see `programs`.

    Raises as `programs.topology` and `programs.program`.
    """
    where = programs.topology(name)
    run = trainer.prepare(config, problem, where.devices)
    init, step, draw = trainer.functions(run)

    def whole(given: tuple[object, object], key: Key, state: trainer.TrainState, rows: Array) -> object:
        draw_key, step_key = jax.random.split(key)
        return step(*given, step_key, state, draw(draw_key, rows))

    def like(leaf: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=run.layout.replicated)

    images = problem.train
    given, key = jax.tree.map(
        like, ((problem.law, jnp.asarray(images) if config.pool else None), jax.random.key(0))
    )
    rows = jax.ShapeDtypeStruct(
        (config.batch_size, *images.shape[1:]), images.dtype, sharding=run.layout.by_rows
    )
    traced = jax.jit(whole, donate_argnums=2).trace(given, key, run.layout.like(init), rows)
    return programs.program(traced, where)


def fitted_to(config: Config, problem: Problem, name: str) -> tuple[int, Program]:
    """The largest batch, of equal parts on all devices, that fits, and its program; a line for each tried.

    To within a sixteenth, and at most 4,096 rows a device (of a microbatch). Raises MemoryError where not
    even one row a device does.
    """
    found: dict[int, Program] = {}

    def needed(rows: int) -> float:
        try:
            found[rows] = compiled_for(dataclasses.replace(config, batch_size=rows), problem, name)
        except MemoryError:
            print(f"{rows:7} rows do not fit", file=sys.stderr, flush=True)
            return math.inf
        print(f"{rows:7} rows take {found[rows].bytes / 1e9:.2f} GB a device", file=sys.stderr, flush=True)
        return found[rows].bytes

    where = programs.topology(name)
    unit = len(where.devices) * config.num_microbatches
    rows = programs.largest(needed, where.chip.memory, unit=unit, limit=2**12 * unit)
    if not rows:
        raise MemoryError(f"Not one row a device fits {name}: rematerialize, or spread the parameters.")
    return rows, found[rows]
