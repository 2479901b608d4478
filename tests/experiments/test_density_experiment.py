"""Parts of the density experiment that judge the estimators themselves: identity, accuracy and digits."""

import json

import numpy as np
import pytest

from experiments.density import accuracy, digits, identity
from experiments.density.laws import mixture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judged():
    return accuracy.run(accuracy.smoke())


def test_the_identities_hold_under_every_schedule():
    figures = identity.run(identity.smoke())
    assert [row["law"] for row in figures["rows"]] == ["Gaussian", "mixture"]
    for row in figures["rows"]:
        assert row["log_density"] < 1e-8
        assert set(row["increments"]) == set(identity.SCHEDULES)
        assert max(row["increments"].values()) < 1e-8
    assert "mixture in 1 dimensions" in identity.table(figures)


def test_the_formula_beats_the_flow_at_equal_evaluations(judged):
    """Three dimensions, 64 evaluations against 200; and no method is biased beyond its error or its steps'."""
    rows = {row["method"]: row for row in judged["rows"] if row["points"] == "data"}
    best = max(rows[f"formula, {name}"]["rmse"] for name in ("isotropic", "Gaussian", "mixture"))
    assert best < 1.5 * rows["flow, Hutchinson"]["rmse"]
    assert rows["formula, mixture"]["rmse"] < 0.7 * rows["flow, Hutchinson"]["rmse"]
    for name, row in rows.items():
        if name.startswith("formula"):
            assert abs(row["bias"]) < 4 * row["bias_standard_error"]
    assert abs(rows["flow, adaptive"]["rmse"] - rows["diffrax, adaptive"]["rmse"]) < 2.0


def test_the_rows_are_printed_and_are_json(judged):
    assert json.loads(json.dumps(judged, allow_nan=False)) == json.loads(json.dumps(judged))
    text = accuracy.table(judged)
    assert text.count("d = 3, points") == 1
    assert all(row["method"] in text for row in judged["rows"])


def test_the_law_is_turned():
    """No coordinate axis is an eigenvector, or random signs would see the trace without error."""
    law = mixture(10)
    assert law.covariances.basis is not None
    basis = np.asarray(law.covariances.basis[0])
    np.testing.assert_allclose(basis.T @ basis, np.eye(10), atol=1e-5)
    assert np.abs(basis).max() < 0.99


def test_the_formula_and_the_bound_of_a_model_agree():
    """An untrained model is nearly a closed-form law: the formula, many paths of a fine chain, and the flow."""
    figures = digits.run(digits.smoke())
    rows = {row["method"]: row for row in figures["rows"]}
    for name, row in rows.items():
        assert np.isfinite(row["nats"])
        assert len(figures["values"][name]) == 6
    both = np.hypot(rows["formula"]["standard_error"], rows["elbo"]["standard_error"])
    # the chain's steps lose something: the bound is below, and by a little of some seventy nats
    assert -3 - 4 * both < rows["elbo"]["less_formula"] < 4 * both
    assert both < 1
    assert "over images" in digits.table(figures)
