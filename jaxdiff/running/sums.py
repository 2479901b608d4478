"""SHA-256 sums of the files of a checkpoint, by which damage is noticed that can be read without an error.

They lie beside the files in the format of the command ``sha256sum --check SHA256SUMS``, which knows them too.
A last line, a comment to that command, holds the sum of the lines above it.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

NAME = "SHA256SUMS"


def write(path: pathlib.Path) -> None:
    """Sum every file in the directory path, and write the sums there, at once whole and on disk.

    Raises OSError, which leaves no sums, if a file cannot be read or written.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / NAME)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashlib lets others run
        sums = threads.map(_sum, files)
        lines = "".join(
            f"{own}  {f.relative_to(path).as_posix()}\n" for own, f in zip(sums, files, strict=True)
        )
    part = path / f"{NAME}.part"
    with part.open("w") as out:
        out.write(f"{lines}# {_sum_of(lines)}\n")
        out.flush()
        os.fsync(out.fileno())
    part.replace(path / NAME)
    _sync(path)


def read(path: pathlib.Path) -> dict[str, str]:
    """The sums by the files' names; none where none were written.

    Raises ValueError if the sums are damaged themselves.
    """
    try:
        text = (path / NAME).read_bytes().decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{NAME}: {error}") from None
    lines, _, own = text.rpartition("# ")
    if own != f"{_sum_of(lines)}\n":
        raise ValueError(f"{NAME} is not what was written")
    return {name: known for known, name in (line.split("  ", 1) for line in lines.splitlines())}


def damage(path: pathlib.Path, sums: dict[str, str]) -> str | None:
    """What is wrong with the files of which sums are given, or None; the first to be named is named.

    They are read on all cores, several at once.
    """

    def wrong(name: str) -> str | None:
        try:
            return None if _sum(path / name) == sums[name] else f"{name} is not what was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return next(filter(None, threads.map(wrong, sums)), None)


def _sum(file: pathlib.Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _sum_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: pathlib.Path) -> None:
    """Have the names in a directory reach the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
