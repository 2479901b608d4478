"""The multilevel part at a reduced size: unbiased, and what its figures say of each other."""

import json

import numpy as np
import pytest

from experiments.density import multilevel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return multilevel.run(multilevel.smoke())


def test_every_way_answers_the_same_mean(figures):
    """Of a model of twenty steps: what the small network takes over changes the error and not the value."""
    rows = {row["method"]: row for row in figures["rows"]}
    for name, row in rows.items():
        if name != "truth":
            assert abs(row["in_standard_errors"]) < 4
            assert row["in_standard_errors"] == pytest.approx(
                row["less_truth"] / np.hypot(row["standard_error"], rows["truth"]["standard_error"])
            )
    assert rows["multilevel"]["large_evaluations"] == 40
    assert rows["multilevel"]["cost"] == pytest.approx(40 + 80 * figures["relative_cost"])
    assert rows["multilevel"]["standard_error"] < rows["large alone"]["standard_error"]


def test_the_small_network_is_small_and_the_figures_are_printed(figures):
    assert 0 < figures["relative_cost"] < 2
    assert figures["parameters"]["small"] < figures["parameters"]["large"]
    assert json.loads(json.dumps(figures, allow_nan=False)) == json.loads(json.dumps(figures))
    shown = multilevel.table(figures)
    assert all(f"{row['nats']:10.3f} +- {row['standard_error']:.3f}" in shown for row in figures["rows"])
