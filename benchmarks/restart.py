"""How long does a run that was stopped take until it steps again?

    python -m benchmarks.restart                                 # the U-Net on patches of photographs
    python -m benchmarks.restart --config patches-transformer

A trainer is started in a process of its own, stopped by SIGTERM after its first dispatches, which it saves,
and started again with --resume, as often as is said. Of each start are reported, from its own metrics.jsonl,
the seconds from the process's first line to its first step:

    start     imports, the data, what is kept beside them
    restore   the checkpoint
    compile   tracing, and compiling or reading the program that was kept

and the seconds of processor time that the process had used up to its first line of the log, which a busy
machine does not make longer; of these the steps of the first dispatch are a part.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

from benchmarks.machine import machine


class Start(NamedTuple):
    """Seconds of a start."""

    start: float
    restore: float
    compile: float
    processor: float

    @property
    def first_step(self) -> float:
        """From the process's first line to the first step."""
        return self.start + self.restore + self.compile


def started(config: str, out: pathlib.Path, options: list[str]) -> Start:
    """A start of the trainer, which is stopped once it has written a line of the log."""
    log = out / "metrics.jsonl"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    command = [sys.executable, "-m", "experiments.train", config, "--out", str(out), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as trainer:
        try:
            while not log.exists() or len(log.read_text().splitlines()) <= before:
                if trainer.poll() is not None:
                    raise RuntimeError(f"The trainer ended before its first step: {trainer.communicate()[1]}")
                time.sleep(0.1)
            ticks = pathlib.Path(f"/proc/{trainer.pid}/stat").read_text().rsplit(")", 1)[1].split()
            processor = sum(map(int, ticks[11:13])) / os.sysconf("SC_CLK_TCK")
            trainer.send_signal(signal.SIGTERM)
            trainer.communicate(timeout=300)
        finally:
            trainer.kill()
    line = json.loads(log.read_text().splitlines()[before])
    return Start(line["start_seconds"], line["restore_seconds"], line["compile_seconds"], processor)


def main(config: str, restarts: int, options: list[str]) -> list[Start]:
    """The first start and the restarts after it; returned and printed."""
    starts = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(restarts + 1):
            again = ["--resume"] if number else []
            found = started(config, pathlib.Path(directory), [*options, *again])
            parts = "   ".join(f"{name} {seconds:5.2f}" for name, seconds in found._asdict().items())
            name = "restart" if number else "first"
            print(f"{name:8} {found.first_step:6.2f} s to the first step:   {parts}", flush=True)
            starts.append(found)
    median = np.median([found.first_step for found in starts[1:]])
    print(f"median of {restarts} restarts: {median:.2f} s; {machine()}")
    return starts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.restart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="patches")
    parser.add_argument("--restarts", type=int, default=3)
    flags, others = parser.parse_known_args()
    main(flags.config, flags.restarts, others)
