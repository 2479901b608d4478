"""Orbax's errors of a checkpoint that could not be written, in a line that says what to do."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import pathlib
import sys
import time
import traceback
from collections.abc import Iterator

from jaxdiff.running.quiet import no_unraisable
from jaxdiff.running.stored import first_line, steps_in


@contextlib.contextmanager
def writing(directory: pathlib.Path) -> Iterator[None]:
    """Raise OSError, with what to do, for what Orbax says of a write in directory that failed."""
    try:
        yield
    except (OSError, ValueError) as error:  # the first from Python, the second from TensorStore
        # What Orbax says when files that it has just written are not there.
        removed = not directory.is_dir() or "No ArrayMetadata found" in str(error)
        if isinstance(error, ValueError) and not removed and "writing" not in str(error):
            raise
        time.sleep(0.5)  # for the other writes, which end in threads, to complain where nobody listens
        # Some do whenever they are freed, at the end of Python where the error's traceback keeps them.
        logging.getLogger("asyncio").addFilter(_unless_dropped)
        atexit.register(_free)
        with no_unraisable():
            cause: BaseException | None = error
            while cause is not None:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__cause__ or cause.__context__
            gc.collect()
        steps = steps_in(directory) if directory.is_dir() else []
        whole = f"Step {steps[-1]} is whole" if steps else "None is there"
        removed |= isinstance(error, FileNotFoundError)
        reason, wanted = ("was it removed?", "keep it") if removed else ("is the disk full?", "make room")
        raise OSError(
            f"A checkpoint could not be written in {directory}: {reason} {whole}; {wanted}, and go "
            f"on. ({_last_words(error)})"
        ) from None


def _free() -> None:
    with no_unraisable():
        sys.last_value = sys.last_traceback = None
        gc.collect()


def _unless_dropped(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()


def _last_words(error: BaseException) -> str:
    """The reason, which TensorStore gives after the names of what it was doing, and before its settings."""
    return first_line(error) if isinstance(error, OSError) else str(error).split(" [")[0].rsplit(": ")[-1]
