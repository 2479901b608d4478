"""The table of all that was measured, `benchmarks/README.md`, written from `benchmarks/figures.json`.

    python -m benchmarks.table

A row says what was measured, what came out, with its controls and its date, and the command that measures it
again. Whoever runs that command edits the row in figures.json and writes the table; the README's headline
figures are rows of it, word for word, which a test holds them to.
"""

import json
import pathlib

FOLDER = pathlib.Path(__file__).parent
FIGURES, TABLE = FOLDER / "figures.json", FOLDER / "README.md"
HEAD = """# What was measured

Figures are of our own runs by the command beside them, none of them a paper's, on two cores of an AMD EPYC,
CPU only: with jax 0.12.0.1 on 2026-11-22, and with jax 0.10.2 where a later date is said. Written by
`python -m benchmarks.table`; each experiment's docstrings have its whole tables and what failed.

DPM-Solver++ 2 and its form with noise, the default sampler, took the slope at the middle of a step from
2026-11-29 on, as in the paper. Rows of them outside "Solvers" are of the form before, which integrates it
(now `ExponentialAdams(2)`) and leaves 1.1 to 1.8 times the error at 4 to 8 calls.
"""


def figures() -> dict[str, list[dict[str, str]]]:
    """Rows by subject."""
    return json.loads(FIGURES.read_text())


def line(row: dict[str, str]) -> str:
    """A row of a table in Markdown."""
    return f"| {row['what']} | {row['measured']} | {row['by']} |"


def table() -> str:
    """The page."""
    parts = [HEAD]
    for subject, rows in figures().items():
        parts.append(
            f"## {subject}\n\n| | measured | by |\n|---|---|---|\n" + "\n".join(map(line, rows)) + "\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    TABLE.write_text(table())
