"""Two parts of the density experiment at a reduced size: how rules err, and whose minimizer the bound has."""

import json

import numpy as np
import pytest

from experiments.density import discretization, elbo_validity

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def errors():
    return discretization.run(discretization.smoke())


@pytest.fixture(scope="module")
def validity():
    return elbo_validity.run(elbo_validity.smoke())


def row(figures, **wanted):
    (found,) = (row for row in figures["rows"] if wanted.items() <= row.items())
    return found


@pytest.mark.parametrize(("module", "fixture"), [(discretization, "errors"), (elbo_validity, "validity")])
def test_the_figures_are_json_and_are_printed_and_drawn(module, fixture, request, axes):
    figures = request.getfixturevalue(fixture)
    assert json.loads(json.dumps(figures, allow_nan=False))["rows"] == figures["rows"]
    shown = module.table(figures)
    for name, digits in (("mixture", 5), ("excess_kl", 6)):
        for found in figures["rows"]:
            assert name not in found or f"{found[name]:.{digits}f}" in shown
    module.draw(figures, axes)
    assert len(axes.get_legend().get_texts()) == (12 if fixture == "errors" else 4)


@pytest.mark.parametrize("rule", ["left", "ddpm"])
@pytest.mark.parametrize("law", ["gaussian", "mixture"])
def test_the_laws_of_the_first_order_rules(errors, rule, law):
    """Within 10 % of -gamma / 2 and of -c0 c1 log(T)^2 / (4 T) at ten thousand steps."""
    steps = 10_000
    for table in ("linear", "cosine"):
        assert row(errors, table=table, num_steps=steps, rule=rule)[law] == pytest.approx(
            -np.euler_gamma / 2, rel=0.1
        )
    got = row(errors, table="(c0, c1)", num_steps=steps, rule=rule)[law]
    wanted = -10 * np.log(steps) ** 2 / (4 * steps)
    assert got == pytest.approx(wanted, rel=0.1)


def test_two_rules_have_no_such_error(errors):
    for found in errors["rows"]:
        if found["rule"] == "trapezoid":
            assert found["mixture_rms"] < 5e-3
            assert abs(found["gaussian"]) < 1e-9
        if found["rule"] == "ddpm, larger variance":
            assert abs(found["mixture"]) < 0.01
            assert abs(found["gaussian"]) < 1e-6
    assert errors["series_remainder"] < 1e-3


@pytest.mark.parametrize("variance", elbo_validity.VARIANCES)
def test_the_bounds_minimizer_nears_that_of_kl(validity, variance):
    """The excess at least halves from 25 to 50 steps; the bound itself stays far above KL."""
    coarse, fine = (row(validity, variance=variance, num_steps=steps) for steps in (25, 50))
    assert 0 < fine["excess_kl"] < 0.5 * coarse["excess_kl"]
    assert abs(fine["kl_minimizer"] - 1) < abs(coarse["kl_minimizer"] - 1)
    for found in (coarse, fine):
        assert found["bound_minimizer"] == pytest.approx(1, abs=2e-4)  # the truth
        assert found["least_gap"] > 10 * found["excess_kl"]
        assert found["largest_gap"] < 1.25 * found["least_gap"]
        assert found["lost_mass"] < 1e-5
