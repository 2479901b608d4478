"""``python -m tests.mutants``: patch the library, one mistake at a time, and see whether a test notices.

Each patch is made in a copy of the tree, in a temporary directory, so the tree may be edited meanwhile; its test is
run there, first as things are, then under the patch. A mutant is

    killed    where its test fails
    survived  where its test passes all the same
    stale     where the patch does not apply, or the test does not pass without it

and the exit status is 1 where less than 95 % are killed.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time

from . import ROOT, Mutant, StaleError, read

SHARE = 0.95
SECONDS = 600
"""Longer than any test takes: what goes on after that has noticed nothing."""


class Copy:
    """A tree of its own, with a compile cache of its own."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("__pycache__", ".cache")
        for part in ("jaxdiff", "tests", "experiments", "benchmarks"):
            shutil.copytree(ROOT / part, root / part, ignore=ignored)
        for part in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / part, root)
        # Bytecode is known by the second of its source and by its length: a patch would be missed.
        self.environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment["PYTEST_XDIST_WORKER"] = "mutants"
        where = self._python("-c", "import jaxdiff; print(jaxdiff.__file__)").stdout.strip()
        if pathlib.Path(where).parent != (root / "jaxdiff").resolve():
            raise SystemExit(f"The tests would run {where}, not the copy in {root}.")

    def status(self, test: str) -> int | None:
        """pytest's exit status for a test; None where it does not end."""
        try:
            run = self._python(
                "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers", f"tests/{test}"
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        if run.returncode > 1:  # not a test that failed, but none that ran
            sys.stderr.write(run.stdout + run.stderr)
        return run.returncode

    def judge(self, mutant: Mutant, passes: dict[str, bool]) -> tuple[str, str]:
        """The verdict and, of a stale one, why; passes remembers what is known of tests without a patch."""
        try:
            mutant.check(self.root)
        except StaleError as error:
            return "stale", str(error)
        if mutant.test not in passes:
            passes[mutant.test] = self.status(mutant.test) == 0
        if not passes[mutant.test]:
            return "stale", "its test does not pass without it"
        path = self.root / "jaxdiff" / mutant.file
        before = path.read_text()
        path.write_text(mutant.patched(self.root))
        try:
            status = self.status(mutant.test)
        finally:
            path.write_text(before)
        if status is not None and status > 1:
            return "stale", f"pytest ended with status {status}: the patch breaks more than a test"
        return ("killed" if status == 1 else "survived"), ""

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument(
        "--only", default="", metavar="NAME", help="those whose name, file or test holds this"
    )
    options = parser.parse_args()
    mutants = [m for m in read() if any(options.only in part for part in (m.name, m.file, m.test))]
    if not mutants:
        parser.error(f"no mutant is called {options.only!r}")
    began, trees, verdicts = time.monotonic(), queue.Queue[Copy](), collections.Counter[str]()
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        for number in range(options.jobs):
            trees.put(Copy(pathlib.Path(directory).resolve() / str(number)))
        passes: dict[str, bool] = {}

        def judge(mutant: Mutant) -> tuple[str, str, float]:
            tree, began = trees.get(), time.monotonic()
            try:
                return *tree.judge(mutant, passes), time.monotonic() - began
            finally:
                trees.put(tree)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for mutant, (verdict, why, seconds) in zip(mutants, pool.map(judge, mutants), strict=True):
                verdicts[verdict] += 1
                note = f"  ({why})" if why else f"  {mutant.breaks}" if verdict == "survived" else ""
                print(f"{verdict:9}{seconds:6.1f} s  {mutant.name:34}  {mutant.test}{note}", flush=True)
    share = verdicts["killed"] / len(mutants)
    print(
        f"{share:.1%} of {len(mutants)} killed; {verdicts['survived']} survived, {verdicts['stale']} stale; "
        f"{time.monotonic() - began:.0f} s"
    )
    sys.exit(share < SHARE)


if __name__ == "__main__":
    main()
