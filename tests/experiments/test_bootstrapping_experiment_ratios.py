"""What the bootstrapping experiment's tables share: seeds, and ratios to denoising."""

import jax
import numpy as np
import pytest

from experiments.bootstrapping import random_features, ratios

ERROR = np.array([[[1.0, 2.0, 4.0], [0.5, 1.0, 4.0]], [[2.0, 2.0, 2.0], [2.0, 1.0, 0.5]]])
RANGES = {"all": np.array([True, True, True]), "late": np.array([False, True, True])}


def rows():
    return ratios.compare(["denoising", "other"], ERROR, RANGES)


def test_ratios_are_compared_seed_by_seed():
    base, row = rows()
    assert base["ratio"] == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(row["ratio"], [0.5**0.5, 0.5, 0.5], rtol=1e-12)
    # the log ratios at the last level are 0 and -log 4: standard deviation log(4) / sqrt(2), over sqrt(2) seeds
    assert row["ratio_standard_error"][2] == pytest.approx(0.5 * np.log(4) / 2)


def test_a_range_is_averaged_in_each_seed_before_seeds_are():
    late = rows()[1]["ranges"]["late"]
    # the seeds' means of log ratios: -log(2) / 2 and -(log 2 + log 4) / 2
    assert late["mean"] == pytest.approx(0.5)
    assert late["standard_error"] == pytest.approx(0.5 * np.log(2) / 2)
    assert late["worst_level"] == pytest.approx(0.5)
    assert rows()[1]["ranges"]["all"]["worst_level"] == pytest.approx(0.5**0.5)


def test_the_table_shows_every_range_and_level():
    shown = ratios.table("a title", [0.1, 0.5, 3.0], rows()).splitlines()
    assert shown[0].split()[:6] == ["a", "title", "all", "worst", "late", "worst"]
    other = next(line for line in shown if line.startswith("other"))
    assert other.split()[1:] == [
        "0.561",
        "+-",
        "0.065",
        "0.71",
        "0.500",
        "+-",
        "0.173",
        "0.50",
        "0.707",
        "0.500",
        "0.500",
    ]


def test_what_is_reported_was_not_chosen_on():
    keys = [ratios.keys(part, 3, choosing=choosing) for part in ("E4", "E7") for choosing in (False, True)]
    assert len(np.unique(np.concatenate([jax.random.key_data(k) for k in keys]), axis=0)) == 12
    again = ratios.keys("E4", 3)
    assert (jax.random.key_data(again) == jax.random.key_data(keys[0])).all()


def test_levels_are_judged_above_their_thresholds():
    assert [list(mask) for mask in random_features.ranges(np.array([0.1, 0.2, 1.0, 2.5])).values()] == [
        [False, False, True, True],
        [False, False, False, True],
    ]


def test_they_are_drawn(axes):
    ratios.draw(axes, [0.1, 0.5, 3.0], rows()[1:], label=", here")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["other, here"]
