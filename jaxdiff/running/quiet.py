"""Orbax without its logs: what goes wrong is raised as an error of ours."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Orbax's own log off the screen; what goes wrong is raised as an error.

    With it those of its reads and writes that it drops when one of them fails, and that go on in threads.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook

    def wanted(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    def unless_dropped(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logger.addFilter(wanted)
    sys.unraisablehook = unless_dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        logger.removeFilter(wanted)


@contextlib.contextmanager
def no_unraisable() -> Iterator[None]:
    """Keep the reads that Orbax drops when one of them fails from complaining as they are freed, in here."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
