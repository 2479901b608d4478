"""``python -m tests.mutants``: patch the library, one mistake at a time, and see whether a test notices.

Each patch is made in a copy of the tree, in a temporary directory, so that the tree may be edited meanwhile. All of
the tests named are run there as things are, and then each under its patch. A mutant is

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
from collections.abc import Iterable

from . import ROOT, Mutant, StaleError, read

SHARE = 0.95
SECONDS = 1200
"""Longer than any test takes, or all of them: what goes on after that has noticed nothing."""


class Copy:
    """A tree of its own, with a compile cache of its own."""

    def __init__(self, root: pathlib.Path, of: pathlib.Path = ROOT) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("__pycache__", *[".cache"] * (of == ROOT))
        for part in ("jaxdiff", "tests", "experiments", "benchmarks"):
            shutil.copytree(of / part, root / part, ignore=ignored)
        for part in ("pyproject.toml", "README.md"):
            shutil.copy(of / part, root)
        # Bytecode is known by the second of its source and by its length: a patch would be missed.
        self.environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment["PYTEST_XDIST_WORKER"] = "mutants"
        where = self._python("-c", "import jaxdiff; print(jaxdiff.__file__)").stdout.strip()
        if pathlib.Path(where).parent != root / "jaxdiff":
            raise SystemExit(f"The tests would run {where or 'nothing'}, not the copy in {root}.")

    def passing(self, mutants: Iterable[Mutant]) -> set[str]:
        """The tests of the mutants that pass as things are, with all of their cases."""
        tests = {mutant.test for mutant in mutants if not self.stale(mutant)}
        run = self._pytest("-rpfE", "--continue-on-collection-errors", *sorted(tests))
        if run.returncode > 1:
            raise SystemExit(f"{run.stdout[-2000:]}{run.stderr[-2000:]}\nThe tests named could not be run.")

        def named(status: str) -> set[str]:
            lines = [line for line in run.stdout.splitlines() if line.startswith(f"{status} tests/")]
            found = {line.removeprefix(f"{status} tests/").partition(" - ")[0] for line in lines}
            return found | {test.partition("[")[0] for test in found}

        return tests & named("PASSED") - named("FAILED") - named("ERROR")

    def stale(self, mutant: Mutant) -> str:
        """Why a patch does not apply, or nothing."""
        try:
            mutant.check(self.root)
        except StaleError as error:
            return str(error)
        return ""

    def judge(self, mutant: Mutant, passing: set[str]) -> tuple[str, str]:
        """The verdict and, of a stale one, why."""
        if why := self.stale(mutant):
            return "stale", why
        if mutant.test not in passing:
            return "stale", "its test does not pass without it"
        path = self.root / "jaxdiff" / mutant.file
        before = path.read_text()
        path.write_text(mutant.patched(self.root))
        try:
            run = self._pytest("-x", mutant.test)
        except subprocess.TimeoutExpired:
            return "survived", f"no answer in {SECONDS} s"
        finally:
            path.write_text(before)
        if run.returncode > 1:  # not a test that failed, but none that ran
            return "stale", f"pytest ended with status {run.returncode}: the patch breaks more than a test"
        if run.returncode == 0:
            return "survived", mutant.breaks
        said = " ".join(line[1:] for line in run.stdout.splitlines() if line.startswith("E  "))
        return "killed", " ".join(said.split())[:60]

    def _pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        tests = [f"tests/{argument}" if "::" in argument else argument for argument in arguments]
        return self._python(
            "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers", *tests
        )  # fmt: skip

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
    parser = argparse.ArgumentParser(
        "python -m tests.mutants", description="See whether tests notice mistakes."
    )
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="parts of names, files or tests"
    )
    options = parser.parse_args()
    mutants = [m for m in read() if any(part in f"{m.name} {m.file} {m.test}" for part in options.only)]
    if not mutants:
        parser.error(f"no mutant is called {' or '.join(options.only)}")
    began, verdicts = time.monotonic(), collections.Counter[str]()
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        place = pathlib.Path(directory).resolve()
        trees = queue.Queue[Copy]()
        trees.put(first := Copy(place / "0"))
        passing = first.passing(mutants)
        for number in range(1, options.jobs):
            trees.put(Copy(place / str(number), of=first.root))

        def judge(mutant: Mutant) -> tuple[str, str, float]:
            tree, began = trees.get(), time.monotonic()
            try:
                return *tree.judge(mutant, passing), time.monotonic() - began
            finally:
                trees.put(tree)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for mutant, (verdict, why, seconds) in zip(mutants, pool.map(judge, mutants), strict=True):
                verdicts[verdict] += 1
                print(
                    f"{verdict:9}{seconds:6.1f} s  {mutant.name:33} {mutant.test}  {why}".rstrip(), flush=True
                )
    share = verdicts["killed"] / len(mutants)
    print(
        f"{share:.1%} of {len(mutants)} killed; {verdicts['survived']} survived, {verdicts['stale']} stale; "
        f"{time.monotonic() - began:.0f} s"
    )
    sys.exit(share < SHARE)


if __name__ == "__main__":
    main()
