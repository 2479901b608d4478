"""What does a public function cost where it is called as it is, beside a jitted call of it?

    python -m benchmarks.eager_calls                    # every function, about ten minutes of compilation
    python -m benchmarks.eager_calls --only sample density_formula

Every public function that computes (`benchmarks.public_calls`), called once to compile, and then again and
again with the same shapes and new values: new keys, data, times, parameters and laws. Beside it the same
under ``jax.jit``, in turn, so that a busy machine slows both sides. Reported are the least times of both,
their ratio, and how many programs the *second* eager call compiled, which should be none: all that may be
added is the checks, and the dispatch of a few operations. The bar is a ratio of 3.

Sizes are small, so that what is added shows: with more work in a call all ratios tend to one.

MEASURED (an AMD EPYC, 67 of the calls on two quiet cores, the others on a busy one in 3 rounds, jax 0.10.2,
2026-11-30): of 188 calls, all but `choose_horizon`, none compiles again, and 159 are within the bar. 27 of
the others are tens of microseconds of work, and take .03 to .5 ms with their checks; `maps.progressive_loss`
and `maps.shortcut_loss` take 11 ms, 3.7 and 3.4 times as long.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.machine import machine
from benchmarks.public_calls import SMOKE, Call, Inputs, Size, setting
from jaxdiff.typing import Key

BAR = 3.0
"""Eager over jitted."""


def measure(call: Call, fresh: Callable[[Key], Inputs], rounds: int) -> dict[str, Any]:
    """Least seconds of an eager and of a jitted call, and the programs that the second eager one compiled."""
    keys = jax.random.split(jax.random.key(0), rounds + 2)
    arguments = jax.block_until_ready([(key, fresh(key)) for key in keys])
    jitted, leaves_of = alone(call, *arguments[0])
    ways = [(call, arguments), (jitted, list(map(leaves_of, arguments)))]
    for way, given in ways:
        jax.block_until_ready(way(*given[0]))
    with compilations() as programs:
        jax.block_until_ready(call(*arguments[1]))

    def seconds(way: Callable[..., Any], given: Any) -> float:
        began = time.perf_counter()
        jax.block_until_ready(way(*given))
        return time.perf_counter() - began

    timed = [[seconds(way, given[k]) for way, given in ways] for k in range(2, rounds + 2)]
    eager, compiled = map(float, np.min(timed, axis=0))
    return {"eager": eager, "jitted": compiled, "ratio": eager / compiled, "programs": len(programs)}


def alone(call: Call, key: Key, inputs: Inputs) -> tuple[Callable[..., Any], Callable[[Any], list[Any]]]:
    """The call under jit as a function of those leaves of (key, inputs) that it uses, and how to take them.

    Passing the others to the program would cost more than the smallest functions do.
    """
    leaves, tree = jax.tree.flatten((key, inputs))
    program = jax.make_jaxpr(call)(key, inputs).jaxpr
    used = {id(v) for equation in program.eqns for v in equation.invars} | set(map(id, program.outvars))
    places = [place for place, v in enumerate(program.invars) if id(v) in used]

    @jax.jit
    def jitted(*some: Any) -> Any:
        everything = list(leaves)
        for place, leaf in zip(places, some, strict=True):
            everything[place] = leaf
        return call(*tree.unflatten(everything))

    def take(arguments: Any) -> list[Any]:
        everything = jax.tree.leaves(arguments)
        return [everything[place] for place in places]

    return jitted, take


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that a name is added to whenever a program is compiled."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        del duration_secs
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def main(size: Size, rounds: int, only: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Measure every call, or those whose name begins with one of only; prints a table, returns it."""
    fresh, calls = setting(size)
    if only:
        calls = {name: call for name, call in calls.items() if name.startswith(tuple(only))}
    print(f"{'':38}{'eager, ms':>12}{'jitted, ms':>12}{'ratio':>8}{'programs of a second call':>28}")
    figures = {}
    for name, call in calls.items():
        figures[name] = row = measure(call, fresh, rounds)
        mark = "  <- over the bar" if row["ratio"] > BAR or row["programs"] else ""
        print(
            f"{name:38}{1e3 * row['eager']:12.3f}{1e3 * row['jitted']:12.3f}{row['ratio']:8.2f}"
            f"{row['programs']:28}{mark}",
            flush=True,
        )
    over = [name for name, row in figures.items() if row["ratio"] > BAR or row["programs"]]
    names = ", ".join(over) or "none"
    print(f"{len(over)} of {len(figures)} over the bar of {BAR:g}, or compiled again: {names}")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.eager_calls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="functions whose names begin so")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="the least sizes")
    flags = parser.parse_args()
    print(f"{machine()}, {Size() if not flags.smoke else SMOKE}")
    print(json.dumps(main(SMOKE if flags.smoke else Size(), flags.rounds, flags.only)))
