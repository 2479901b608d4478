"""The 25 modes at a reduced size: the laws, the distance, and what learned starts save."""

import json

import jax
import numpy as np
import pytest

from experiments.initialization import judges, laws, mixture
from jaxdiff.laws.metrics import wasserstein_1d

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return mixture.run(mixture.smoke())


def rows_of(study):
    return {(row["start"], row["sampler"], row["nodes"]): row for row in study["rows"]}


def test_the_grid_mixture_has_25_modes_of_mean_variance_one():
    law = laws.grid_mixture(3)
    weights, means = np.asarray(law.weights, np.float64), np.asarray(law.means, np.float64)
    mean = weights @ means
    total = weights @ (np.asarray(law.covariances.values).sum(1) + ((means - mean) ** 2).sum(1))
    np.testing.assert_allclose(total / 2, 1, rtol=1e-5)
    spacing = np.diff(np.unique(np.round(means[:, 0], 5)))
    np.testing.assert_allclose(spacing, np.full(4, spacing[0]), rtol=1e-4)
    assert len(np.unique(np.round(means, 5), axis=0)) == 25


def test_the_tiled_mixture_is_a_plane_of_modes():
    """Of its covariance two eigenvalues are 1 + 50 d / 2, and all others one."""
    means = np.asarray(laws.tiled_mixture(6).means)
    values = np.linalg.eigvalsh(means.T @ means / 25 + np.eye(6))
    np.testing.assert_allclose(values, [1, 1, 1, 1, 151, 151], rtol=1e-4)
    with pytest.raises(ValueError, match="even number"):
        laws.tiled_mixture(3)


def test_the_distance_is_the_greatest_of_the_library_s_along_the_directions():
    draws, x = (np.asarray(jax.random.normal(jax.random.key(i), (n, 2))) for i, n in enumerate((60, 20)))
    x = x + np.array([0.5, 0.2], np.float32)
    angles = np.arange(0, 180, 20)
    directions = np.stack([np.cos(np.pi / 180 * angles), np.sin(np.pi / 180 * angles)]).astype(np.float32)
    np.testing.assert_allclose(judges.DIRECTIONS[:, ::20], directions, atol=1e-6)
    wanted = [float(wasserstein_1d(x @ v, draws @ v)) for v in directions.T]
    found = judges.along_even_directions(20)(draws)(x)
    assert max(wanted) - 1e-5 <= found < 1.05 * max(wanted)  # directions between these change little


def test_a_learned_start_is_as_good_as_the_long_run_and_a_plain_one_is_not(figures):
    study = figures["studies"][0]
    rows = rows_of(study)
    floor = study["floor"]["mean"]
    learned = rows["mixture", "Heun", 26]["distance"]
    assert learned["mean"] < 1.5 * floor + 3 * learned["standard_error"]
    assert rows["plain", "Heun", 26]["distance"]["mean"] > 3 * learned["mean"]
    ancestral = rows["mixture", "ancestral", 26]["over_long"]
    assert ancestral["mean"] + 2 * ancestral["standard_error"] < 0.8
    fits = {fit["start"]: fit["divergence"] for fit in study["fits"] if fit["t_max"] == 1.244}
    assert fits["plain"]["mean"] > fits["isotropic"]["mean"] > fits["Gaussian"]["mean"]
    assert 0 < fits["mixture"]["mean"] < 0.03


def test_a_tenth_of_the_calls_is_enough_from_a_learned_start_alone(figures):
    study = figures["studies"][0]
    rows = rows_of(study)
    few = rows["mixture", "Heun", 7]
    assert (few["calls"], rows["noise", "Heun", 40]["calls"]) == (12, 78)
    assert few["distance"]["mean"] < 1.5 * study["floor"]["mean"] + 3 * few["distance"]["standard_error"]
    for start in ("noise", "plain"):
        assert rows[start, "Heun", 7]["distance"]["mean"] > 4 * few["distance"]["mean"]
    saving = next(saving for saving in study["savings"] if saving["calls"] == 12)
    assert saving["saved"] == 66
    np.testing.assert_allclose(saving["samples"] * saving["saved"], saving["fit_in_calls"])


def test_the_rivals_of_few_calls_stand_beside_them(figures):
    """As many calls of a better solver over all noise are worse than a learned start; no calls are counted as none."""
    study = figures["studies"][0]
    rows = rows_of(study)
    few = rows["mixture", "Heun", 7]
    rivals = [row for row in study["rows"] if row["sampler"] == "DPM-Solver++"]
    assert [(row["start"], row["calls"]) for row in rivals] == [("noise", 12)] * 2 + [("Gaussian", 12)] * 2
    long = min(row["distance"]["mean"] for row in rivals if row["start"] == "noise")
    assert few["distance"]["mean"] < long < 0.5 * rows["noise", "Heun", 7]["distance"]["mean"]
    nothing = rows["mixture", "no calls", 1]
    assert nothing["calls"] == 0
    np.testing.assert_allclose(nothing["distance"]["mean"], np.mean(nothing["distances"]))


def test_many_dimensions_need_a_start_that_knows_the_modes(figures):
    study = figures["studies"][1]
    rows = rows_of(study)
    divergences = {fit["start"]: fit["divergence"]["mean"] for fit in study["fits"]}
    assert divergences["plain"] > divergences["isotropic"] > 10 * divergences["Gaussian"]
    assert rows["plain", "Heun", 20]["distance"]["mean"] > 2 * rows["noise", "Heun", 40]["distance"]["mean"]
    assert rows["mixture", "Heun", 20]["over_long"]["mean"] < 1.3
    assert rows["Gaussian", "Heun", 20]["distance"]["mean"] > rows["mixture", "Heun", 20]["distance"]["mean"]


def test_the_rows_are_printed_and_are_json(figures):
    assert json.loads(json.dumps(figures, allow_nan=False))["studies"] == figures["studies"]
    text = mixture.table(figures)
    for study in figures["studies"]:
        for row in study["rows"]:
            assert f"{row['distance']['mean']:.4f} +- {row['distance']['standard_error']:.4f}" in text


def test_they_are_drawn(figures, axes):
    mixture.draw(figures, axes)
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    assert any("ideal" in text for text in shown)
    assert any("plain" in text for text in shown)
