"""All benchmarks as one, ours and those beside other libraries, each in a process of its own.

    python -m benchmarks.all --quick                 # a quarter of an hour
    python -m benchmarks.all --full                  # hours
    python -m benchmarks.all --full --resume         # what an interrupted run left, or what failed in it
    python -m benchmarks.all --quick --only cost     # some

Peers are used as they are installed and left out with a word where they are not: pip install
'jaxdiff[peers]' has diffrax and FlowJAX, 'jaxdiff[torch-peers]' those that need PyTorch. What each benchmark
asks, its settings and what it was seen to answer are in its module's docstring.

Printed is what the benchmarks print; written to --out a JSON file with the machine, the date, every command
with its seconds and status, the end of its output and, where it answers in JSON, its figures. Of a benchmark
that fails or takes longer than its time it is said so at the end; the others run all the same, and the status
is 1. With --resume those that all.json has as done, of the same kind, stay; what they were run on and when is
written beside each.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

from benchmarks.machine import machine

_KEPT = 4000  # characters of an output


class Task(NamedTuple):
    """A module, and its arguments when there is little time and when there is much; None leaves it out."""

    module: str
    quick: tuple[str, ...] | None
    full: tuple[str, ...]
    minutes: float = 5.0
    """Of the quick run, after which it is stopped; the full one has thirty times as many."""


TASKS: dict[str, Task] = {
    "training loop": Task("training_loop", ("--steps", "50", "--save-every", "50", "--rounds", "3"), ()),
    "restart": Task("restart", ("--config", "digits", "--restarts", "1"), (), 2.0),
    "bootstrapped step": Task("bootstrapping_step", None, ()),
    "map step": Task("map_step", None, ()),
    "train step": Task("train_step", None, ()),
    "vector step": Task("vector_step", ("--rounds", "3"), ("--compiled",)),
    "eager calls": Task("eager_calls", None, ()),
    "sampler overhead": Task("sampler_overhead", ("--batch", "1024", "--rounds", "3"), ()),
    "sampling time": Task("sampling_time", ("--batch", "1024", "--rounds", "3"), ("--compiled",)),
    "sampling time, small": Task(
        "sampling_time", ("--batch", "64", "--rounds", "3"), ("--batch", "64", "--compiled")
    ),
    "solvers": Task(
        "solvers",
        ("--peers", "--parts", "classical", "--laws", "3 modes, d = 2", "--rows", "50", "--seeds", "1"),
        ("--peers", "--parts", "classical", "noisy"),
    ),
    "solvers, learned": Task("solvers", None, ("--parts", "learned")),
    "solver orders": Task("solver_orders", None, ()),
    "posteriors": Task("posteriors", None, ()),
    "likelihood time": Task("likelihood_time", ("--rows", "64", "--rounds", "2"), ()),
    "theory sweep": Task("theory_sweep", ("--rounds", "3"), ()),
    "bootstrapping sweep": Task("bootstrapping_sweep", None, ()),
    "compile time": Task("compile_time", (), ()),
    "cost": Task("cost", ("--small", "--rounds", "2"), ()),
    "densities": Task(
        "experiments.density_table",
        ("--smoke", "--parts", "two moons", "--resume", "--out"),
        ("--resume", "--out"),
        8.0,
    ),
}


def command(task: Task, *, full: bool, out: pathlib.Path) -> list[str] | None:
    """What is run, or None where the quick run leaves it out."""
    arguments = task.full if full else task.quick
    if arguments is None:
        return None
    module = task.module if "." in task.module else f"benchmarks.{task.module}"
    own = [str(out / module)] if arguments[-1:] == ("--out",) else []
    return [sys.executable, "-m", module, *arguments, *own]


def run(arguments: list[str], seconds: float) -> dict[str, Any]:
    """Its output, printed as it comes and kept, its status, None if it was stopped, and its figures."""
    began, lines = time.monotonic(), []
    stopped = threading.Event()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        timer = threading.Timer(seconds, lambda: (stopped.set(), process.kill()))
        timer.start()
        for line in process.stdout or ():
            lines.append(line)
            if _figures(line) is None:
                print("   ", line, end="", flush=True)
        status = process.wait()
        timer.cancel()
    figures = next((found for line in reversed(lines) if (found := _figures(line)) is not None), None)
    return {
        "command": " ".join(["python", *arguments[1:]]),
        "machine": machine(),
        "seconds": time.monotonic() - began,
        "status": None if stopped.is_set() else status,
        "output": "".join(line for line in lines if _figures(line) is None)[-_KEPT:],
        "figures": figures,
    }


def _figures(line: str) -> Any:
    """What a line holds that is an object of JSON."""
    if not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def main(names: list[str], out: pathlib.Path, *, full: bool, resume: bool = False) -> dict[str, Any]:
    """Run those of TASKS, one after another; returns what all.json holds, which is written after each."""
    out.mkdir(parents=True, exist_ok=True)
    kind = "full" if full else "quick"
    found: dict[str, Any] = {"machine": machine(), "kind": kind, "benchmarks": {}}
    if resume and (out / "all.json").is_file():
        before = json.loads((out / "all.json").read_text())
        if before["kind"] != kind:
            raise ValueError(
                f"{out / 'all.json'} is of a {before['kind']} run: go on with --{before['kind']}, "
                "or write to another --out."
            )
        found["benchmarks"] = {name: row for name, row in before["benchmarks"].items() if row["status"] == 0}
    for name in names:
        if name in found["benchmarks"]:
            print(f"{name}: done before.", flush=True)
            continue
        arguments = command(TASKS[name], full=full, out=out)
        if arguments is None:
            print(f"{name}: left out of the quick run.", flush=True)
            continue
        print(f"{name}: python {' '.join(arguments[1:])}", flush=True)
        found["benchmarks"][name] = run(arguments, 60 * TASKS[name].minutes * (30 if full else 1))
        (out / "all.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def failed(found: dict[str, Any]) -> list[str]:
    """A line for each that did not end well."""
    return [
        f"{name}: {'stopped, out of time' if row['status'] is None else 'status ' + str(row['status'])}"
        for name, row in found["benchmarks"].items()
        if row["status"] != 0
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--quick", action="store_true")
    kind.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/benchmarks"))
    parser.add_argument("--resume", action="store_true")
    flags = parser.parse_args()
    try:
        results = main(flags.only, flags.out, full=flags.full, resume=flags.resume)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"\n{results['machine']}; written to {flags.out / 'all.json'}")
    for line in failed(results):
        print(line)
    sys.exit(bool(failed(results)))
