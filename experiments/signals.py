"""SIGTERM and Ctrl-C over a whole command, from before its imports to the end of the interpreter.

Where there is nothing to save, at the start and in an evaluation, the command ends at once, with the status
that asks for another run. While it trains `jaxdiff.learning.signals.interruption` stands over this. Python
runs handlers between two lines of Python only, for which XLA may let wait minutes: a thread hears meanwhile.
"""

import atexit
import os
import signal
import threading
import time
from types import FrameType

BEGAN = time.monotonic()
"""When a command began that imports this first."""

EXIT_INTERRUPTED = os.EX_TEMPFAIL
"""`jaxdiff.learning.signals.EXIT_INTERRUPTED`, without its imports."""


def listen() -> None:
    """End this process with `EXIT_INTERRUPTED` on either signal, and on a second SIGINT even amid a save."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
        atexit.register(signal.signal, number, signal.SIG_IGN)  # at the very end Python puts the default back
    threading.Thread(target=_hear, args=(reader,), name="signals", daemon=True).start()


def _leave(number: int, _: FrameType | None = None) -> None:
    os.write(2, f"Stopped by {signal.Signals(number).name}; go on with --resume.\n".encode())
    # Not by an exception, which may be caught, or wait for threads: a feed's, or XLA's.
    os._exit(EXIT_INTERRUPTED)


def _hear(reader: int) -> None:
    interrupts = 0
    while True:
        number = os.read(reader, 1)[0]
        interrupts += number == signal.SIGINT
        if interrupts == 2 or signal.getsignal(number) is _leave:
            _leave(number)
