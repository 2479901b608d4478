"""Images from a short horizon, at a reduced size: a network of twenty steps, which knows next to nothing.

So whatever a sample has beyond the pixels' own histograms comes from the law that it starts from.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.initialization import image_runs, images
from jaxdiff import data
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling.driver import integrate
from jaxdiff.typing import Denoised

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return images.run(images.smoke())


@pytest.fixture(scope="module")
def case(figures):
    (found,) = figures["cases"]
    return found


def one(rows, *named, **wanted):
    if named:
        wanted |= dict(zip(("start", "horizon"), named, strict=True))
    (found,) = (row for row in rows if wanted.items() <= row.items())
    return found


def below(low, high, times=4):
    """By more than that many standard errors."""
    error = np.hypot(low["standard_error"], high["standard_error"])
    return low["mean"] < high["mean"] - times * error


ZERO = {"mean": 0.0, "standard_error": 0.0}


def test_the_figures_are_json_and_are_printed(figures, case):
    assert json.loads(json.dumps(figures, allow_nan=False))["cases"] == figures["cases"]
    shown = images.table(figures)
    for row in (*case["rows"], case["floor"]):
        for name in ("energy", "energy_less_long", "frechet", "frechet_less_long"):
            assert f"{row[name]['mean']:.4f} +- {row[name]['standard_error']:.4f}" in shown
    for row in case["starts"]:
        assert f"{row['gain']['mean']:.3f} +- {row['gain']['standard_error']:.3f}" in shown
    assert len(case["rows"]) == 2 + len(case["starts"])


def test_a_model_that_is_not_there_is_named(figures):
    assert [row["dataset"] for row in figures["cases"]] == ["digits"]
    (line,) = figures["missing"]
    assert "no-such-directory holds no trained model" in line
    assert images.table(figures).endswith(line)
    assert "python -m experiments.quickstart --dataset patches" in line


def test_the_calls_are_those_that_the_sampler_makes(case):
    """Counted, step by step."""
    for row in (case["rows"][0], case["rows"][-1]):
        made = []

        def denoise(x, t, made=made):
            made.append(t)
            return Denoised(0.5 * x, 0.5 * x / t)

        grid = jnp.append(jnp.linspace(1, 0.1, row["steps"] + 1), 0.0)
        counted = as_denoiser(denoise, Karras(), shape=(1,))
        sampler = image_runs.SAMPLERS[row["sampler"]]
        with jax.disable_jit():
            integrate(jax.random.key(0), counted, jnp.ones((1, 1)), grid, sampler=sampler)
        assert len(made) == row["calls"]


def test_a_fitted_start_is_as_good_as_the_long_run_in_a_third_of_its_calls(case):
    long, short = case["rows"][0], one(case["rows"], "gaussian", 0.5, sampler="heun")
    assert 3 * short["calls"] < long["calls"]
    assert short["energy_less_long"]["mean"] < 2 * short["energy_less_long"]["standard_error"]
    assert below(short["frechet_less_long"], ZERO)
    # As few calls over the long horizon, or from noise alone, will not do.
    for name, horizon in (("gaussian", 5.0), ("plain", 0.5)):
        other = one(case["rows"], name, horizon, sampler="heun", calls=short["calls"])
        for distance in ("energy", "frechet"):
            assert below(short[distance], other[distance])


def test_no_calls_are_draws_of_a_fit(case):
    """The Gaussian's moments are the data's, so that the Frechet distance of its own draws is near the floor's."""
    nothing, noised = one(case["rows"], calls=0), one(case["rows"], "plain", 0.5, sampler="heun")
    assert (nothing["start"], nothing["horizon"], nothing["seconds"]) == ("gaussian", 0.02, 0.0)
    assert below(nothing["frechet"], noised["frechet"])
    assert nothing["frechet"]["mean"] < 2 * case["floor"]["frechet"]["mean"]


def test_the_gain_is_that_of_closed_forms(case):
    """E log N(x; 0, s^2) - log N(x; m, C + s^2) over the noise, in NumPy, for the middles of the levels."""
    split = data.digits()
    train, test = ((part + 0.5) / 17 for part in (split.train, split.test[:96]))
    mean, variance = train.mean(0), 0.5**2
    values, basis = np.linalg.eigh(np.cov(train.T, bias=True) + (1 / (12 * 17**2) + variance) * np.eye(64))
    noise = variance + 1 / (12 * 17**2)
    plain = 64 * np.log(variance) + ((test**2).sum(1) + 64 * noise) / variance
    fitted = np.log(values).sum() + ((((test - mean) @ basis) ** 2 + noise) / values).sum(1)
    wanted = 0.5 * (fitted - plain)
    got = one(case["starts"], "plain", 0.5)["gain"]
    assert got["mean"] == pytest.approx(wanted.mean(), abs=2 * got["standard_error"])  # about 1, of 23


def test_the_estimate_by_the_score_ranks_the_starts(case):
    plain, fitted = (one(case["starts"], name, 0.5) for name in ("plain", "gaussian"))
    assert below(fitted["initialization"], plain["initialization"])
    assert below(plain["gain"], fitted["gain"])


def test_discretization_falls_with_the_horizon_and_with_steps(case):
    few, many = (one(case["discretization"], horizon=5.0, steps=steps)["nats"] for steps in (2, 8))
    near = one(case["discretization"], horizon=0.5, steps=2)["nats"]
    assert 0 < near < 0.6 * few
    assert many < 0.7 * few


def test_they_are_drawn(figures, axes):
    images.draw(figures, axes)
    starts = {(row["start"], row["horizon"]) for row in figures["cases"][0]["rows"] if row["calls"]}
    assert len(axes.get_legend().get_texts()) == len(starts) + 1
