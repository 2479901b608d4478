"""Orbax without its logs: what goes wrong is raised as an error of ours."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Orbax's own log off the screen; what goes wrong is raised as an error."""
    logger = logging.getLogger("absl")

    def wanted(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


@contextlib.contextmanager
def no_unraisable() -> Iterator[None]:
    """Keep the reads that Orbax drops when one of them fails from complaining as they are freed."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook
