"""E6 of the bootstrapping experiments at a reduced size: joint learning does not cost more in 64 dimensions."""

import json

import pytest

from experiments.bootstrapping import dimension

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return dimension.run(dimension.smoke())


def errors(figures, name, size):
    return [row["error"] for row in figures["errors"] if (row["class"], row["paths"]) == (name, size)]


def test_the_figures_are_json_and_are_printed(figures):
    assert json.loads(json.dumps(figures, allow_nan=False))["errors"] == figures["errors"]
    assert figures["config"]["dimensions"] == (2, 64)
    shown = dimension.table(figures)
    for row in figures["errors"]:
        assert f"{row['error']['mean']:.5f} +- {row['error']['standard_error']:.5f}" in shown
    for row in figures["constants"]:
        assert f"{row['noise']['mean']:.2f} +- " in shown


@pytest.mark.parametrize("name", dimension.CLASSES)
def test_the_error_does_not_follow_the_dimension(figures, name):
    """At most 2.5 times from d = 2 to 64, where one that is proportional to d would be 32 times."""
    for row in figures["trends"]:
        if row["class"] == name:
            assert row["ratio"]["mean"] < 2.5
            assert row["power"]["mean"] + 4 * row["power"]["standard_error"] < 0.7
    if name == "one plane":  # the same class in every dimension
        for row in figures["trends"]:
            if row["class"] == name:
                assert abs(row["power"]["mean"]) < 3 * row["power"]["standard_error"]


@pytest.mark.parametrize("name", dimension.CLASSES)
def test_the_error_falls_with_the_number_of_paths(figures, name):
    """As 1 / m: 16 times fewer paths, 16 times the error, with what the standard errors allow."""
    for few, many in zip(errors(figures, name, 25), errors(figures, name, 400), strict=True):
        spread = (few["standard_error"] / few["mean"]) ** 2 + (many["standard_error"] / many["mean"]) ** 2
        assert 16 / (1 + 4 * spread**0.5) < few["mean"] / many["mean"] < 16 * (1 + 4 * spread**0.5)


def test_the_theorem_is_above_what_is_measured(figures):
    for row in figures["errors"]:
        assert 1 < row["bound_on_the_paths"] < 1000
        # 8 kappa log(2 40 / .05) paths are needed, kappa being 3 at least for an error like a normal number.
        assert row["hypercontractivity"] > 2
        assert (row["bound"] is None) == (row["paths"] < 59 * row["hypercontractivity"])
        assert row["bound"] is None or 1 < row["bound"] < 2000


def test_the_constant_falls_where_the_noise_grows(figures):
    low, high = figures["constants"]
    assert high["noise"]["mean"] > 15 * low["noise"]["mean"]  # of 32 times the dimension
    for name in ("one_direction", "all_coordinates"):
        error = low[name]["standard_error"] + high[name]["standard_error"]
        assert high[name]["mean"] < low[name]["mean"] - 3 * error
        assert 0.05 < high[name]["mean"] < low[name]["mean"] < 0.6


def test_it_is_drawn(figures, axes):
    dimension.draw(figures, axes)
    assert len(axes.get_legend().get_texts()) == 6
