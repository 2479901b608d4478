"""The directory of a run: of this machine, writable, and open for one writer at a time."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import tempfile
import warnings
from collections.abc import Iterator
from typing import TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

LOCK = "lock"
"""The file that names the writer; it lies there while the directory is open, and after a kill."""


def local(directory: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path. Raises ValueError for an address such as ``gs://``."""
    if "://" in os.fspath(directory):
        raise ValueError(f"{directory!r} is an address; wanted a directory of this machine, mount it first.")
    return pathlib.Path(directory).absolute()


def check_writable(directory: pathlib.Path) -> None:
    """Make the directory, and raise NotADirectoryError or OSError unless a file can be written there."""
    for path in (directory, *directory.parents):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path} is a file; checkpoints want a directory at {directory}.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"checkpoints go here")
    except OSError as error:
        raise OSError(
            f"Checkpoints cannot be written in {directory}: {error}. Choose another one."
        ) from error


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[None]:
    """Hold the directory's lock, which the system frees when the process dies, however it does.

    In a run of several processes the first one locks for all. Raises BlockingIOError, naming the holder's
    host and process, if another holds it, be it in this process. Where the file system knows no locks, as
    some of networks do not, a warning says so, and nothing is locked.
    """
    file, refusal = None, None
    if jax.process_index() == 0:
        try:
            file = _lock(directory / LOCK)
        except BlockingIOError as error:
            refusal = error
    if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.asarray(refusal is not None)):
        refusal = refusal or BlockingIOError(f"{directory} is held by another run, as process 0 says.")
    if refusal is not None:
        raise refusal
    try:
        yield
    finally:
        if file is not None:
            _unlock(file, directory / LOCK)


_held: set[TextIO] = set()


def _lock(path: pathlib.Path) -> TextIO | None:
    while True:
        file = path.open("a+", errors="replace")  # which keeps the holder's name
        try:
            import fcntl  # which Windows lacks

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                raise _refusal(path.parent, file.read()) from None
        except (OSError, ImportError) as error:
            file.close()
            warnings.warn(
                f"{path.parent} cannot be locked ({error}): see to it that no other process writes there.",
                stacklevel=6,
            )
            return None
        if _lies_at(file, path):
            break
        file.close()  # its holder has just removed it
    file.truncate(0)
    file.write(_name())
    file.flush()
    _held.add(file)
    return file


def _unlock(file: TextIO, path: pathlib.Path) -> None:
    if file in _held:  # or this is a child, to which the lock does not belong
        _held.remove(file)
        if _lies_at(file, path):
            path.unlink()  # before the lock is free, or it might be another's
        file.close()


def _lies_at(file: TextIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _name() -> str:
    return f"process {os.getpid()} on host {socket.gethostname()}"


def _refusal(directory: pathlib.Path, holder: str) -> BlockingIOError:
    if holder == _name():
        return BlockingIOError(f"{directory} is already open for writing in this process; close it first.")
    return BlockingIOError(
        f"{directory} is open for writing by {holder or 'another process'}: wait until it ends, stop it, or "
        "choose another directory. (Restoring needs no lock.)"
    )


def _let_go() -> None:
    """A forked child closes its copy, which would keep the lock when the parent is dead."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
