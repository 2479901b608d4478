"""E7 of the bootstrapping experiment: its law, its networks' sizes, and what it measures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bootstrapping import joint_or_levels as part
from jaxdiff import theory
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.typing import Denoised


def test_the_law_is_laid_out_with_its_exact_denoiser():
    """Against a float64 sum over the 256 corners, in R^12."""
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (12, 8)))[0]
    x, t = 1.5 * jax.random.normal(jax.random.key(1), (5, 12)), 0.4
    got = part.laid_out(part.latent_law(), basis)(x, t)
    alpha, sigma = np.exp(-0.4), np.sqrt(-np.expm1(-0.8))
    u, y = np.asarray(basis, np.float64), np.asarray(x, np.float64)
    corners = 2.0 * (np.arange(256)[:, None] >> np.arange(8) & 1) - 1
    # One datum is u (corner + std z): in the eight directions of variance alpha^2 std^2 + sigma^2.
    total = (alpha * part.STD) ** 2 + sigma**2
    away = y @ u - alpha * corners[:, None]
    weights = np.exp(-0.5 * (away**2).sum(-1) / total)
    means = corners[:, None] + alpha * part.STD**2 / total * away
    data = ((weights[..., None] * means).sum(0) / weights.sum(0)[:, None]) @ u.T
    np.testing.assert_allclose(got.data, data, atol=2e-5)
    np.testing.assert_allclose(got.noise, (y - alpha * data) / sigma, atol=5e-5)


@pytest.mark.parametrize("width", [5, 24])
def test_parameters_are_counted(width):
    params = jax.eval_shape(part.MLP(width).init, jax.random.key(0), jnp.zeros((1, 20)), jnp.zeros(1))
    assert part.num_parameters(width, 20) == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("d", part.Config().dimensions)
def test_the_ways_have_one_compute(d):
    """Rows times parameters, over all networks and levels; and equal parameters within a width's step."""
    config = part.Config()
    ways = {method: part.way(config, method, d) for method in part.METHODS}
    parameters = {m: way.networks * part.num_parameters(way.width, d) for m, way in ways.items()}
    assert parameters[part.WIDTH] == config.num_levels * parameters[part.JOINT]
    assert parameters[part.PARAMETERS] == pytest.approx(parameters[part.JOINT], rel=0.03)
    assert parameters[part.PARAMETERS] == config.num_levels * parameters[part.NARROW]
    work = [way.rows * config.num_levels * part.num_parameters(way.width, d) for way in ways.values()]
    np.testing.assert_allclose(work, work[0], rtol=0.03)


def test_what_is_measured_is_of_fresh_paths():
    """An estimate that is off by a constant c: zeta = c / sigma, whose square is known, and K by hand."""
    law, times = part.latent_law(), jnp.array([0.2, 1.0])
    exact = law.denoiser(part.SCHEDULE)
    off = as_denoiser(
        lambda x, t: Denoised(exact(x, t).data, exact(x, t).noise + 0.1), part.SCHEDULE, shape=law.shape
    )
    data = law.sample(jax.random.key(0), 600)
    path = theory.forward_path(jax.random.key(1), part.SCHEDULE, data, times)
    weights = jnp.diff(times, prepend=0.0)
    terms = theory.martingale_terms(off, exact, data, path, times, weights)
    got = part.summary(terms, 100)
    variance = -np.expm1(-2 * np.asarray(times, np.float64))
    assert float(got["error"]) == pytest.approx(float((weights * 8 * 0.01 / variance).sum()), rel=1e-3)
    total = np.asarray(terms.total, np.float64)
    assert float(got["constant"]) == pytest.approx((total[100:] ** 2).mean() / float(got["error"]), rel=1e-3)
    assert float(got["learnt"]) == pytest.approx(2 * total[:100].mean() / float(got["error"]), rel=1e-3)
    assert float(got["hypercontractivity"]) == pytest.approx(1.0, abs=1e-3)
    assert float(got["orthogonality"]) == pytest.approx(1.0, abs=0.3)


@pytest.mark.slow
def test_networks_learn_and_the_figures_are_printed_and_drawn(axes):
    figures = json.loads(json.dumps(part.run(part.smoke()), allow_nan=False))
    assert [row["dimension"] for row in figures["rows"]] == 2 * [8, 32]
    for row in figures["rows"]:
        assert row["constant"]["mean"] < figures["bound"]
        assert row["orthogonality"]["mean"] == pytest.approx(1.0, abs=0.2)
    # Untrained networks answer zero for the data, at an error of E|D|^2 alpha^2 / sigma^4 summed: about 30.
    assert max(row["error"]["mean"] for row in figures["rows"]) < 15
    assert "K <= " in part.table(figures)
    part.draw(figures, axes)
    assert len(axes.get_legend().get_texts()) == 3
