"""Real mistakes, each a small patch of the library with the test that must fail under it.

The lists beside this file, one for each part of the library, hold tables of

    name    what ``--only`` asks for
    breaks  what the patch does, in words
    file    that is patched, in jaxdiff/
    old     text that occurs there exactly once: lines of mathematics, which are seldom rewritten
    new     what stands in its place
    test    that must fail then, in tests/, the quickest that does

``python -m tests.mutants`` runs them; tests/test_mutants.py checks in every run of the tests that they still apply.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[2]


class StaleError(Exception):
    """A patch that no longer applies."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One patch."""

    name: str
    breaks: str
    file: str
    old: str
    new: str
    test: str

    def patched(self, root: pathlib.Path = ROOT) -> str:
        """The text of the patched file; raises StaleError unless old occurs exactly once and new parses."""
        path = root / "jaxdiff" / self.file
        if not path.exists():
            raise StaleError(f"jaxdiff/{self.file} is gone")
        text = path.read_text()
        if (times := text.count(self.old)) != 1:
            raise StaleError(f"its old text occurs {times} times in jaxdiff/{self.file}, wanted once")
        text = text.replace(self.old, self.new)
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise StaleError(f"jaxdiff/{self.file} does not parse: {error}") from None
        return text

    def check(self, root: pathlib.Path = ROOT) -> None:
        """Raise StaleError where the patch does not apply, or where there is no such test."""
        self.patched(root)
        file, _, function = self.test.partition("::")
        path = root / "tests" / file
        if not path.exists() or f"def {function.partition('[')[0]}(" not in path.read_text():
            raise StaleError(f"there is no test tests/{self.test}")


def read() -> list[Mutant]:
    """All of the lists, in order."""
    return [
        Mutant(**table)
        for path in sorted(pathlib.Path(__file__).parent.glob("*.toml"))
        for table in tomllib.loads(path.read_text())["mutant"]
    ]
