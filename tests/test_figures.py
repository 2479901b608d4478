"""What was measured stands once, in benchmarks/figures.json; the pages that show it say the same."""

import pathlib
import re

import pytest

from benchmarks import table

ROOT = pathlib.Path(table.__file__).parent.parent
ROWS = [row for rows in table.figures().values() for row in rows]


def test_the_table_is_that_of_the_figures():
    assert table.TABLE.read_text() == table.table(), "run python -m benchmarks.table"


@pytest.mark.parametrize("row", ROWS, ids=[row["what"][:60] for row in ROWS])
def test_a_figure_has_a_command_a_value_and_a_date_or_a_test(row):
    assert set(row) == {"what", "measured", "by"}
    assert not any("|" in cell or "\n" in cell for cell in row.values())
    assert re.search(r"\d", row["measured"]) or "pytest" in row["by"]
    commands = re.findall(r"`([^`]*)`", row["by"])
    for module in re.findall(r"python -m ([\w.]+)", row["by"]):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for test in re.findall(r"tests/[\w/]+\.py", row["by"]):
        assert (ROOT / test).exists(), test
    assert commands, row["by"]


def test_the_readme_s_figures_are_the_table_s():
    """Word for word: a row of the README's section of figures is a row of the table."""
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("## What was measured")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(lines) >= 5
    assert set(lines) <= {table.line(row) for row in ROWS}
