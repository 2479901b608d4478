"""Parts of the initialization experiment: closed forms to their digits, the surface and the horizon small."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.initialization import (
    closed_forms,
    conditional,
    horizon,
    shapes,
    short_networks,
    surface,
    trained,
)
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling import starts

pytestmark = pytest.mark.slow

# By an independent float64 NumPy program, to the digits printed there.
PRODUCT = {1.0: (0.9522345, 0.02409206), 2.0: (0.09890588, 0.001015526), 7.0: (8.434787e-4, 1.66606e-7)}
TILED = {2.0: (247.3, 44.74, 2.084), 7.0: (17.65, 11.10, 0.2850), 80.0: (0.01111, 0.01048, 2.43e-5)}
STUDENT = {
    1.0: (0.9108, 0.10396, 0.00135, 4.67, 1.443),
    2.0: (0.1331, 0.03792, 0.00220, 8.37, 2.258),
    7.0: (0.002305, 0.001404, 5.03e-4, 51.4, 7.065),
}
TAILS = {
    "the data": (1.638, 4.541, 10.215, 22.204, 47.928, 103.30),
    "N(0, 2^2)": (0.777, 0.624, 0.438, 0.271, 0.154, 0.082),
    "N(0, 2^2 + 3)": (1.102, 0.978, 0.679, 0.401, 0.219, 0.115),
    "N(0, 7^2)": (0.967, 0.935, 0.869, 0.726, 0.495, 0.282),
    "N(0, 7^2 + 3)": (1.006, 0.998, 0.952, 0.798, 0.528, 0.295),
    "N(0, 80^2)": (1.000, 1.000, 0.999, 0.999, 0.997, 0.989),
}
STEPS = {
    "80, 40, 7": (0.657047, 0.695302),
    "7, 20, 5": (0.327919, 0.382541),
    "2, 10, 7": (0.172400, 0.273203),
}


@pytest.fixture(scope="module")
def exact():
    return closed_forms.run(closed_forms.smoke())


@pytest.fixture(scope="module")
def costs():
    return surface.run(surface.smoke())


@pytest.fixture(scope="module")
def choices():
    return horizon.run(horizon.smoke())


def test_divergences_to_their_digits(exact):
    for row in exact["product"]:
        np.testing.assert_allclose(list(row.values())[1:], PRODUCT[row["s"]], rtol=2e-6)
    for row in exact["tiled"]:
        np.testing.assert_allclose(list(row.values())[2:], TILED[row["s"]], rtol=2e-3)
    for row in exact["t"]:
        np.testing.assert_allclose(list(row.values())[1:], STUDENT[row["s"]], rtol=3e-3)


def test_tails_and_steps_to_their_digits(exact):
    rows = {row.pop("start"): list(row.values()) for row in map(dict, exact["tails"])}
    for name, printed in TAILS.items():
        np.testing.assert_allclose(rows[name], printed, atol=1.1e-3 if name != "the data" else 6e-3)
    for row in exact["steps"]:
        if row["grid"] in STEPS:
            gaussian, modes = STEPS[row["grid"]]
            np.testing.assert_allclose(row["N(0, 1)"], gaussian, atol=6e-7)
            assert abs(row["five modes"] - modes) < 3 * row["+-"]


@pytest.mark.parametrize(
    ("module", "fixture"), [(closed_forms, "exact"), (surface, "costs"), (horizon, "choices")]
)
def test_the_figures_are_json_and_are_printed_and_drawn(module, fixture, request, axes):
    figures = request.getfixturevalue(fixture)
    assert json.loads(json.dumps(figures, allow_nan=False)) == json.loads(json.dumps(figures))
    assert len(module.table(figures).splitlines()) > 4
    module.draw(figures, axes)
    assert len(axes.lines) >= 3


def test_sampling_error_is_what_is_left(costs):
    """Sampling error falls as 1 / n, and is in proportion to the parameters fitted where noise hides the rest."""
    loss = {(r["family"], r["noise"], r["n"], r["s"]): r["loss"] for r in costs["rows"]}
    for family, s in (("gaussian", 7.0), ("mixture", 7.0), ("mixture", 1.24)):
        assert loss[family, "fixed", 400, s] < 0.6 * loss[family, "fixed", 100, s]
    for n in (100, 400):
        assert loss["gaussian", "fixed", n, 7.0] < loss["mixture", "fixed", n, 7.0]
    # d* / 2n = 5 / 800, of Gaussian data nearly, which noised ones are.
    assert 0.2 < loss["gaussian", "fixed", 400, 7.0] / (5 / 800) < 3


def test_the_choice_is_near_the_best_and_no_calls_are_not(choices):
    for row in choices["grids"]:
        assert row["pilot"] < min(row["truncated"], row["even"])
    (row,) = choices["rows"]
    assert row["ratio"] == pytest.approx(row["chosen"] / row["best"])
    assert row["ratio"] < 1.6  # of 500 rows, judged by 1,024 samples
    assert row["ideal"] < 1.2 * row["best"]
    assert row["chosen"] < 0.6 * row["no calls"]
    assert row["Gaussian"] <= row["long"]
    assert "of 1; median" in horizon.table(choices)


def test_the_rule_for_trained_models_by_an_exact_one(monkeypatch, axes):
    """Two steps from a short horizon beat two from the longest, and eight from there beat both."""
    law = GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [0.1, 0.1])
    data, held = law.sample(jax.random.key(0), 200), law.sample(jax.random.key(1), 64)
    mixture = starts.gaussian_mixture(2, num_restarts=2, num_iterations=30)
    families = {"Gaussian": starts.gaussian(), "mixture": mixture}
    model = trained.Model(law.denoiser(Karras()), data, held, 20.0, families)
    monkeypatch.setitem(trained.MODELS, "digits", lambda config: model)
    config = dataclasses.replace(trained.smoke(), num_samples=256, classifier_steps=20)
    figures = json.loads(json.dumps(trained.run(config), allow_nan=False))
    assert all(0.6 < row["chosen"] / row["best"] < 1.5 for row in figures["rows"])
    assert all(row["best"] == row["mixture"] < row["Gaussian"] for row in figures["rows"])
    names = ("chosen", "no calls", "long, 1 times", "long, 4 times")
    mean = {name: np.mean([row[name] for row in figures["rows"]]) for name in names}
    assert mean["chosen"] < 0.7 * min(mean["long, 1 times"], mean["no calls"])
    assert mean["long, 4 times"] < 0.5 * mean["long, 1 times"]
    told = {
        name: np.mean([row["told"][name]["mean"] for row in figures["rows"]])
        for name in figures["rows"][0]["told"]
    }
    assert told["start"] > told["chosen"] - 0.05
    assert "training images" in trained.table(figures)
    trained.draw(figures, axes)


@pytest.mark.parametrize("name", shapes.LAWS)
def test_laws_have_mean_zero_and_mean_variance_one(name):
    """By their parameters; and another seed gives another law."""
    law, other = (shapes.LAWS[name](seed) for seed in (3, 30))
    np.testing.assert_allclose(np.asarray(law.weights) @ np.asarray(law.means), 0, atol=1e-6)
    x = np.asarray(law.sample(jax.random.key(0), 20_000), np.float64)
    assert (x**2).mean() == pytest.approx(1, abs=0.1 if name.startswith("t ") else 0.03)
    assert float(law.scale) == pytest.approx(1, rel=1e-5)
    assert (
        np.abs(law.log_prob(x[:5].astype(np.float32)) - other.log_prob(x[:5].astype(np.float32))).max() > 0.01
    )


def test_networks_below_a_horizon(axes):
    """The first arm is what gains are over; laws that no network follows stand beside the arms."""
    config = dataclasses.replace(short_networks.smoke(), horizons=())
    figures = short_networks.run(config)
    assert json.loads(json.dumps(figures, allow_nan=False)) == json.loads(json.dumps(figures))
    rows = figures["rows"]
    assert [row["horizon"] for row in rows] == [short_networks.WHOLE, None, None]
    assert rows[0]["gain"]["mean"] == 0
    # Twenty steps have learnt the levels, which no Gaussian has.
    assert rows[0]["nats"]["mean"] > rows[1]["nats"]["mean"] + 5
    assert len(short_networks.table(figures).splitlines()) == 4
    short_networks.draw(figures, axes)


def test_the_density_of_a_short_run_is_that_of_its_start_and_denoiser():
    """A Gaussian's own denoiser below a horizon, from its own law there, has its log-density again."""
    problem = short_networks.PROBLEMS["digits"]()
    denoise = dataclasses.replace(problem.law.denoiser(short_networks.SCHEDULE), t_min=3e-4, t_max=0.35)
    x = problem.encode(jax.random.key(0), problem.test[:20])
    evaluations = Evaluations(40, reference=problem.law)
    start = problem.law.perturbed(short_networks.SCHEDULE, 0.35)
    got = short_networks._nats(jax.random.key(1), denoise, x, start, evaluations)
    np.testing.assert_allclose(got, problem.law.log_prob(x), rtol=2e-3, atol=0.1)
    other = problem.law.perturbed(short_networks.SCHEDULE, 0.7)
    assert short_networks._nats(jax.random.key(1), denoise, x, other, evaluations).mean() < got.mean() - 1


def test_digits_of_a_class_start_where_the_horizon_says(monkeypatch):
    """The one horizon is t = 1/2, where the noise is the data's; training images are no further than draws."""
    monkeypatch.setattr(conditional, "SOLVERS", {"DEIS 3": conditional.SOLVERS["DEIS 3"]})
    figures = conditional.run(conditional.smoke())
    assert figures["horizon"] == pytest.approx(0.38, rel=1e-3)
    energy = {row["name"]: row["energy"]["mean"] for row in figures["rows"]}
    assert abs(energy["training images"]) < 0.02
    assert set(energy) > {"5 calls from the starts", "5 calls from noise", "the starts' laws, no calls"}
    assert all(np.isfinite(list(energy.values())))
