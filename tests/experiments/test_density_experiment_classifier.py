"""The classifier part of the density experiment at a reduced size: what the weights and the noise are worth."""

import json

import pytest

from experiments.density import classifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return classifier.run(classifier.smoke())


def test_the_figures_are_json_and_are_printed(figures):
    assert json.loads(json.dumps(figures, allow_nan=False))["digits"] == figures["digits"]
    shown = classifier.table(figures)
    for row in figures["mixtures"]:
        assert f"{row['accuracy']:10.4f}" in shown
    for row in figures["digits"]:
        assert row["method"] in shown
        assert f"{row['cross_entropy']:.4f} +- {row['cross_entropy_standard_error']:.4f}" in shown


def test_the_right_weights_give_the_posterior(figures):
    """At 100 evaluations: the goals of the part; uniform weights reach them at no scale."""
    rows = {row["estimator"]: row for row in figures["mixtures"]}
    formula, own, uniform = (rows[name] for name in ("formula", "own noise", "uniform"))
    assert formula["agreement"] > 0.98  # .99 over more points; three of 240 are left to chance
    assert formula["divergence"] < 0.01
    assert formula["error"] < 1.1 * own["error"]  # .9 is expected
    assert uniform["divergence"] > 10 * formula["divergence"]
    assert uniform["scaled_error"] > 2 * formula["error"]


def test_digits_are_classified(figures):
    """The network has hardly learnt: it is the Gaussians of the classes that classify."""
    rows = {row["method"]: row for row in figures["digits"]}
    assert rows["Gaussians of the classes"]["accuracy"] > 0.9
    for name in ("formula", "formula, race"):
        assert abs(rows[name]["accuracy"] - rows["Gaussians of the classes"]["accuracy"]) < 0.06
    assert rows["formula, race"]["evaluations"] < rows["formula"]["evaluations"]
    assert rows["uniform weights"]["cross_entropy"] > 2 * rows["formula"]["cross_entropy"]
