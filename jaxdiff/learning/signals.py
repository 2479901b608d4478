"""SIGTERM and Ctrl-C as a question that the training loop asks, in one process or in several."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

EXIT_INTERRUPTED = 75
"""The exit status for a command that stopped on a signal with its state saved: run it again to go on.

It is EX_TEMPFAIL of sysexits.h, which job schedulers can be told to restart on.
"""


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[int], bool]]:
    """Turn SIGTERM and SIGINT into a question, around the checkpoints, so that the last save is waited for::

        with interruption() as stop, Checkpoints(...) as checkpoints:
            state = train(..., save=checkpoints.save, stop=stop)
        if int(state.step) < num_steps or stop(num_steps + 1):
            sys.exit(EXIT_INTERRUPTED)

    On a first signal stop(step) becomes true, and stays so after the block; train then ends its dispatch,
    saves and returns. Further ones change nothing, but for a second SIGINT (Ctrl-C), which goes to the
    handler found: as a rule it interrupts at once. The handlers found are put back at exit. Python runs
    signal handlers in the main thread only, and between two lines of Python: not while XLA compiles.

    In a run of several processes (`jax.distributed.initialize`) all must ask at the same steps, with growing
    numbers. A signal to any of them then stops all at one step, which JAX's preemption service settles.

    >>> import signal
    >>> with jd.interruption() as stop:
    ...     before = stop(0)
    ...     signal.raise_signal(signal.SIGTERM)  # as a scheduler does
    ...     before, stop(1)
    (False, True)
    """
    several = jax.distributed.is_initialized()
    received = False
    asked = -1

    def note(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, previous[signal.SIGINT])
        if several:
            os.kill(os.getpid(), signal.SIGTERM)  # which the service listens to

    def stop(step: int) -> bool:
        nonlocal asked
        if not several:
            return received
        # The service settles on the first number after the last that any process has asked with, Orbax's
        # saves being among those who ask: so each number has its turn.
        numbers = range(step if asked < 0 else asked + 1, step + 1)
        asked = step
        answers = [multihost_utils.reached_preemption_sync_point(number) for number in numbers]
        return any(answers)

    # SIGTERM is the service's own where there is one.
    numbers = [signal.SIGINT] if several else [signal.SIGTERM, signal.SIGINT]
    previous = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in previous:
            signal.signal(number, note)
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
