"""E6 of the bootstrapping experiments at a reduced size: joint learning does not cost more in 64 dimensions."""

import json

import numpy as np
import pytest

from experiments.bootstrapping import dimension


def test_the_bounds_are_over_quantiles_with_an_interval():
    """Of repetitions that are evenly spread over [0, 1] the .95 quantile is .95; its rank, +- 2 sqrt(.95 .05 / n)."""
    values = np.linspace(0.0, 1.0, 401)
    own = {"error": values, "on_the_paths": 2 * values, "hypercontractivity": np.array([3.0, 4.0])}
    config = dimension.Config()
    few, many = (dimension._bounds(config, size, own) for size in (100, 400))
    apart = 2 * (0.95 * 0.05 / 401) ** 0.5
    for on_paths in (few["bound_on_the_paths"], many["bound_on_the_paths"]):
        assert on_paths["least"] / on_paths["ratio"] == pytest.approx(0.95 / (0.95 + apart))
        assert on_paths["most"] / on_paths["ratio"] == pytest.approx(0.95 / (0.95 - apart))
    assert few["bound_on_the_paths"]["ratio"] == pytest.approx(4 * many["bound_on_the_paths"]["ratio"])
    # 8 kappa log(2 40 / .05) = 236 paths are needed, and 16 log(1600) / 8 log(800) more is bounded, of half.
    assert few["bound"] is None
    wanted = 2 * 2 * np.log(1600) / np.log(800)
    assert many["bound"]["ratio"] == pytest.approx(wanted * many["bound_on_the_paths"]["ratio"], rel=1e-5)


@pytest.fixture(scope="module")
def figures():
    return dimension.run(dimension.smoke())


def errors(figures, name, size):
    return [row["error"] for row in figures["errors"] if (row["class"], row["paths"]) == (name, size)]


@pytest.mark.slow
def test_the_figures_are_json_and_are_printed(figures):
    assert json.loads(json.dumps(figures, allow_nan=False))["errors"] == figures["errors"]
    assert figures["config"]["dimensions"] == (2, 64)
    shown = dimension.table(figures)
    for row in figures["errors"]:
        assert f"{row['error']['mean']:.5f} +- {row['error']['standard_error']:.5f}" in shown
    for row in figures["constants"]:
        assert f"{row['noise']['mean']:.2f} +- " in shown


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", dimension.CLASSES)
def test_the_error_falls_with_the_number_of_paths(figures, name):
    """As 1 / m: 16 times fewer paths, 16 times the error, with what the standard errors allow."""
    for few, many in zip(errors(figures, name, 25), errors(figures, name, 400), strict=True):
        spread = (few["standard_error"] / few["mean"]) ** 2 + (many["standard_error"] / many["mean"]) ** 2
        assert 16 / (1 + 4 * spread**0.5) < few["mean"] / many["mean"] < 16 * (1 + 4 * spread**0.5)


@pytest.mark.slow
def test_the_theorem_is_above_what_is_measured(figures):
    for row in figures["errors"]:
        on_paths = row["bound_on_the_paths"]
        assert 1 < on_paths["least"] <= on_paths["ratio"] <= on_paths["most"] < 1000
        # 8 kappa log(2 40 / .05) paths are needed, kappa being 3 at least for an error like a normal number.
        assert row["hypercontractivity"] > 2
        assert (row["bound"] is None) == (row["paths"] < 59 * row["hypercontractivity"])
        assert row["bound"] is None or 1 < row["bound"]["ratio"] < 2000


@pytest.mark.slow
def test_the_constant_falls_where_the_noise_grows(figures):
    low, high = figures["constants"]
    assert high["noise"]["mean"] > 15 * low["noise"]["mean"]  # of 32 times the dimension
    for name in ("one_direction", "all_coordinates"):
        error = low[name]["standard_error"] + high[name]["standard_error"]
        assert high[name]["mean"] < low[name]["mean"] - 3 * error
        assert 0.05 < high[name]["mean"] < low[name]["mean"] < 0.6


@pytest.mark.slow
def test_it_is_drawn(figures, axes):
    dimension.draw(figures, axes)
    assert len(axes.get_legend().get_texts()) == 6
