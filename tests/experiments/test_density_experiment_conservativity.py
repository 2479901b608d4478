"""The conservativity part at a reduced size: the penalty takes rotations out, at the cost of the fit."""

import json

import numpy as np
import pytest

from experiments.density import conservativity

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return conservativity.run(conservativity.smoke())


def test_a_strong_penalty_leaves_little_rotation(figures):
    rows = {row["way"]: row for row in figures["rows"]}
    plain, longer, held = (rows[name] for name in ("plain", "plain, equal time", "penalty 30"))
    assert held["rotations"][0] < 0.5 * plain["rotations"][0]
    assert tuple(plain["rotations, more than the first"]) == (0.0, 0.0)
    assert longer["steps"] == 2 * plain["steps"] == 2 * held["steps"]
    assert longer["bound"][0] > plain["bound"][0]


def test_an_energy_has_no_rotation(figures):
    rows = {row["way"]: row for row in figures["rows"]}
    assert rows["energy"]["rotations"][0] < 1e-5 < rows["plain"]["rotations"][0]
    assert rows["energy"]["bound"][0] > 60  # independent pixels have 73


def test_the_gap_is_the_difference_and_the_figures_are_printed(figures):
    shown = conservativity.table(figures)
    for row in figures["rows"]:
        assert row["gap"][0] == pytest.approx(row["flow"][0] - row["bound"][0])
        assert len(row["curve"]) == 9
        assert np.min(row["curve"]) >= 0
        assert f"{row['rotations'][0]:10.2f} +- {row['rotations'][1]:.2f}" in shown
    assert json.loads(json.dumps(figures, allow_nan=False))["config"]["probes"] == 2
