"""Heavy tails at a reduced size: the exact quantiles, the weights of shared rows, and what starts keep."""

import json

import numpy as np
import pytest
from scipy import optimize, stats

from experiments.initialization import laws, tails

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return tails.run(tails.smoke())


@pytest.mark.parametrize("d", [2, 7])
def test_the_law_is_centered_of_mean_variance_one_and_of_three_degrees_of_freedom(d):
    law = laws.student_mixture(d, 5)
    weights, means = np.asarray(law.weights, np.float64), np.asarray(law.means, np.float64)
    np.testing.assert_array_equal(law.degrees_of_freedom, 3)
    np.testing.assert_allclose(weights @ means, 0, atol=1e-6)
    second = 3 * np.asarray(law.scales.values).sum(1) + (means**2).sum(1)
    np.testing.assert_allclose(weights @ second / d, 1, rtol=1e-5)


def test_quantiles_are_those_of_scipy():
    law = laws.student_mixture(3, 5)
    found = laws.student_quantiles(law, (0.1, 0.9, 0.999999))
    basis, values = np.asarray(law.scales.basis), np.asarray(law.scales.values)
    matrices = np.einsum("kde,ke,kfe->kdf", basis, values, basis)
    for tail in range(6):
        i, sign = tail % 3, 1 if tail < 3 else -1

        def beyond(x, i=i, sign=sign):
            scale = np.sqrt(matrices[:, i, i])
            return np.asarray(law.weights) @ stats.t.sf((x - sign * np.asarray(law.means)[:, i]) / scale, 3)

        for level, own in zip((0.1, 0.9, 0.999999), found[:, tail], strict=True):
            wanted = optimize.brentq(lambda x, level=level: beyond(x) - (1 - level), -1e3, 1e3)
            np.testing.assert_allclose(own, wanted, rtol=1e-4, atol=1e-5)


def test_only_a_start_with_heavy_tails_keeps_them(figures):
    """In the plane from a noise of 2: the ideal start's ratios are one to within errors and steps."""
    rows = {row["start"]: row["ratios"] for row in figures["rows"]}
    for level, cell in zip(tails.LEVELS, rows["ideal"], strict=True):
        # to 1e-6: beyond are wide rows, without which a thousand would say nothing
        assert abs(cell["mean"] - 1) < 0.03 + 4 * cell["standard_error"], level
        assert cell["standard_error"] < (0.15 if level < 0.99999 else 0.5), level
    at = tails.LEVELS.index(0.9999)
    assert rows["plain"][at]["mean"] < 0.6
    assert rows["plain"][at]["mean"] < rows["four t, early"][at]["mean"] < 1.5
    bulk = {row["start"]: row["bulk"]["mean"] for row in figures["rows"]}
    assert bulk["ideal"] < 0.02
    assert bulk["four t, early"] < 0.7 * bulk["plain"]


def test_weights_give_each_start_its_own_law(figures):
    """Quantiles that rows of all starts give to one are those of its own rows alone."""
    config = tails.smoke()
    alone = tails.Run(2.0, 20, 7.0, {"plain": 4000})
    only = tails.run(
        tails.Config(
            cases=(tails.Case(2, (0,), blocks=5, num_training=5000, num_iterations=1, runs=(alone,)),)
        )
    )
    own = only["rows"][0]["ratios"]
    shared = next(row for row in figures["rows"] if row["start"] == "plain")["ratios"]
    for level, a, b in zip(tails.LEVELS[:3], own, shared, strict=False):
        error = np.hypot(a["standard_error"], b["standard_error"])
        assert abs(a["mean"] - b["mean"]) < 5 * error, level
    assert own[-1] is None  # 4,000 rows say nothing of a millionth
    assert config.cases[0].runs[0].rows["plain"] < 4000


def test_the_rows_are_printed_and_are_json(figures):
    assert json.loads(json.dumps(figures, allow_nan=False))["rows"] == figures["rows"]
    text = tails.table(figures)
    for row in figures["rows"]:
        assert f"{row['ratios'][0]['mean']:.3f} ({row['ratios'][0]['standard_error']:.3f})" in text


def test_they_are_drawn(figures, axes):
    tails.draw(figures, axes)
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    assert any("ideal" in text for text in shown)
    assert any("plain" in text for text in shown)
