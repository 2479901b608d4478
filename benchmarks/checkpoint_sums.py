"""What do the SHA-256 sums of a checkpoint cost?

    python -m benchmarks.checkpoint_sums

Seconds until a checkpoint is whole on disk, with its sums and without, for how long `save` holds up the loop,
and seconds of a restore that compares the sums, beside one that does not: with the files in the page cache
and, where the system lets go of them, read from the disk. Rounds of both alternate; reported are the least
times, since a busy machine only adds to them, and their ratio.

MEASURED (1 GB, two cores of an AMD EPYC, busy with other work, jax 0.10.2, 2026-11-28): until a save is whole
3.60 s with sums, 2.61 s without, a ratio of 1.38; held up is the loop for .03 s either way. A restore takes
2.30 s and 1.75 s, 1.31; from the disk 2.51 s and 1.86 s, 1.35. SHA-256 takes .6 s of a core for a GB, and
Orbax's save and restore of one 1.6 s each: two cores that are busy cannot hide that. Sums are worth it by
default, since damage that nobody notices costs a run; ``sums=False`` is for those who disagree.
"""

import argparse
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.machine import machine
from jaxdiff.learning.training import TrainState
from jaxdiff.running.checkpoints import Checkpoints, restore


def main(megabytes: int, rounds: int) -> dict[str, Any]:
    """Measure; returns seconds and ratios of a save, a restore and a restore from the disk."""
    draw = np.random.default_rng(0).standard_normal  # which does not compress much, like parameters
    arrays = {f"{n}": jax.numpy.asarray(draw(2_500_000, np.float32)) for n in range(megabytes // 10)}
    state = jax.block_until_ready(TrainState(jax.numpy.int32(1), arrays, None, ()))
    like = jax.eval_shape(lambda: state)
    seconds: dict[str, list[list[float]]] = {name: [] for name in ("save", "held up", "restore", "from disk")}
    for number in range(rounds + 1):  # the first warms up
        with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as directory:
            out = pathlib.Path(directory)
            ways = (True, False) if number % 2 else (False, True)
            saves = {summed: save(out / str(summed), state, summed) for summed in ways}
            reads = {}
            for cold in (False, True):
                for summed in ways:
                    if cold:
                        forget(out / "True")
                    reads[cold, summed] = timed(lambda at=out / "True", s=summed: restore(at, like, sums=s))
        if number:
            for name, part in (("save", 0), ("held up", 1)):
                seconds[name].append([saves[summed][part] for summed in (True, False)])
            for name, cold in (("restore", False), ("from disk", True)):
                seconds[name].append([reads[cold, summed] for summed in (True, False)])
    figures = {}
    for name, pairs in seconds.items():
        summed, bare = np.min(pairs, 0)
        figures[name] = {"with": summed, "without": bare, "ratio": summed / bare}
        print(f"{name:10} {summed:7.3f} s with sums, {bare:7.3f} s without, a ratio of {summed / bare:.3f}")
    return figures


def save(directory: pathlib.Path, state: TrainState, summed: bool) -> tuple[float, float]:
    """Seconds until a checkpoint is whole, and those for which the call holds up its caller."""
    with Checkpoints(directory, config={}, sums=summed) as checkpoints:
        began = time.perf_counter()
        held_up = timed(lambda: checkpoints.save(state))
        checkpoints.close()
        return time.perf_counter() - began, held_up


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def forget(path: pathlib.Path) -> None:
    """Have the files of a directory leave the page cache."""
    for file in filter(pathlib.Path.is_file, path.rglob("*")):
        with file.open("rb") as data:
            os.fsync(data.fileno())
            os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint_sums",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    print(machine())
    print(json.dumps(main(flags.megabytes, flags.rounds)))
