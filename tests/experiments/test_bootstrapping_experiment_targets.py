"""E1 and E2 of the bootstrapping experiment at a reduced size, and the laws they are held against."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from experiments.bootstrapping import hermite, target_variance
from experiments.bootstrapping.laws import random_law

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def variances():
    return target_variance.run(target_variance.smoke())


@pytest.fixture(scope="module")
def errors():
    return hermite.run(hermite.smoke())


@pytest.mark.parametrize("part", ["variances", "errors"])
def test_the_figures_can_be_written_printed_and_drawn(part, request, axes):
    module = {"variances": target_variance, "errors": hermite}[part]
    figures = json.loads(json.dumps(request.getfixturevalue(part), allow_nan=False))
    assert len(module.table(figures).splitlines()) > 6
    module.draw(figures, axes)
    assert axes.get_legend() is not None


# --- E1: variance of the targets ---------------------------------------------------------------------------


def test_every_target_has_the_variance_of_its_formula(variances):
    agreement = variances["agreement"]
    assert agreement["cells"] == 8 * 2 * 2 * 8
    assert agreement["largest_z"] < agreement["bound"]
    assert agreement["share_above_2"] < 0.12  # cells share their samples: far from independent


def test_the_targets_keep_their_order_on_every_law(variances):
    for row in variances["ordering"]:
        assert row["violations"] == 0
        assert row["smallest_z"] > 3


def test_the_stable_field_has_no_bias(variances):
    rows = [row for row in variances["rows"] if row["target"] == target_variance.STABLE]
    assert len(rows) == 4
    for row in rows:
        bias = row["squared_bias"]
        assert abs(bias["mean"]) < 5 * bias["standard_error"]  # Student t of 7 degrees of freedom
        assert bias["standard_error"] < 0.1 * row["measured"]["mean"]


def test_padding_leaves_the_denoiser_as_it_is():
    keys = jax.random.split(jax.random.key(0), 2)
    laws = target_variance.padded_laws(keys, (3, 5))
    law, small = jax.tree.map(lambda x: x[1, 0], laws), random_law(keys[1], 3)
    x = jax.random.normal(jax.random.key(1), (6, 5))
    denoise = jax.jit(lambda law, x: law.denoiser(target_variance.SCHEDULE)(x, 0.4))
    got, wanted = denoise(law, x), denoise(small, x[:, :3])
    np.testing.assert_allclose(got.data[:, :3], wanted.data, atol=1e-5)
    np.testing.assert_allclose(got.noise[:, :3], wanted.noise, atol=1e-5)


def test_data_are_redrawn_from_their_law_given_x():
    """Their mean is the exact denoiser, their variance follows from its derivative (second-order Tweedie)."""
    law, schedule, t, n = random_law(jax.random.key(3), 2), target_variance.SCHEDULE, 0.5, 40_000
    x = jnp.array([0.3, -0.2])

    def mean(x):
        return law.denoiser(schedule)(x[None], t).data[0]

    @jax.jit
    def drawn(key, x, rows):
        draws = target_variance._draw_data(key, law, rows, jnp.asarray(t))
        return draws, mean(x), jax.jacobian(mean)(x)

    # Under `jit`, sums over the last axis of what jnp.tile made are wrong: XLA:CPU in jax 0.10.2.
    rows = jnp.tile(x[None], (n, 1))
    draws, wanted, jacobian = (np.asarray(a, np.float64) for a in drawn(jax.random.key(4), x, rows))
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    covariance = sigma**2 / alpha * jacobian
    assert (abs(draws.mean(0) - wanted) < 4 * np.sqrt(np.diag(covariance) / n)).all()
    products = (draws - draws.mean(0))[:, :, None] * (draws - draws.mean(0))[:, None, :]
    assert (abs(products.mean(0) - covariance) < 4 * products.std(0) / n**0.5).all()


# --- E2: the exact law -------------------------------------------------------------------------------------


def test_the_learned_error_follows_its_law(errors):
    config, levels = errors["config"], np.asarray(errors["levels"])
    shown = np.isin(levels.round(6), config["shown"])
    assert shown.sum() == len(config["shown"])
    for row in errors["rows"]:
        measured, error, law = (np.asarray(row[k])[shown] for k in ("measured", "standard_error", "theory"))
        # the law leaves out what is smaller by E phi_3^4 / m, some hundredths at this size
        assert (abs(measured - law) < 4 * error + 0.05 * law).all(), row["design"]


def test_bootstrapping_along_one_path_beats_denoising(errors):
    baseline, *rows = errors["rows"]
    row = next(r for r in rows if r["design"] == hermite.PATH and r["mix"] == 1.0)
    assert row["measured"][-1] < 0.5 * baseline["measured"][-1]


LEVELS = 0.05 * np.arange(1, 61)
MMSE = -np.expm1(-2 * LEVELS)


def test_the_law_on_a_fine_grid_is_the_integral():
    t = 0.005 * np.arange(1, 201)

    def integral(h):
        return quad(lambda u: 2 * np.exp(-2 * u - 2 * h * (1.0 - u)), 0, 1.0)[0]

    wanted = sum(integral(h) for h in range(4))
    assert hermite.law(t, 1.0, hermite.PATH, 1)[-1] == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("design", [hermite.PATH, hermite.NEW])
def test_the_law_of_denoising_is_features_times_mmse(design):
    np.testing.assert_allclose(hermite.law(LEVELS, 0.0, design, 1), 4 * MMSE, rtol=1e-9)


@pytest.mark.parametrize(("design", "limit"), [(hermite.PATH, 1 / 4), (hermite.NEW, 1 / 2)])
def test_the_ratio_tends_to(design, limit):
    levels = 0.05 * np.arange(1, 121)
    law = hermite.law(levels, 1.0, design, 1)
    assert law[-1] / 4 == pytest.approx(limit, rel=0.03)  # of which the grid takes 0.025


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_many_noisings_leave_nothing_to_bootstrap(mix):
    wanted = sum((h + 1) * np.exp(-2 * h * LEVELS) * MMSE**2 for h in range(4))
    np.testing.assert_allclose(hermite.law(LEVELS, mix, hermite.NEW, np.inf), wanted, rtol=1e-9)
