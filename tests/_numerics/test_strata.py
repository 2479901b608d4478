"""Stratified rows against what is known of them: chances, cells, and the errors of means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff._numerics.strata import one_of_each


@pytest.mark.parametrize(("m", "n"), [(256, 32), (256, 50), (64, 64), (16, 1)])
def test_every_row_has_the_same_chance_and_every_stretch_gives_one(m, n):
    """In one dimension the stretches are those of the sorted rows."""
    x = np.random.default_rng(0).standard_normal((m, 1))
    picks = jax.vmap(lambda key: one_of_each(key, jnp.asarray(x), n))(
        jax.random.split(jax.random.key(0), 2000)
    )
    counts = np.bincount(np.ravel(picks), minlength=m)
    # Rows that a border cuts are in two stretches: their counts vary a little more than binomially.
    expected = 2000 * n / m
    assert np.abs(counts - expected).max() < 5 * np.sqrt(2000 * n / m * (1 - n / m)) + 1e-3
    rank = np.argsort(np.argsort(x[:, 0]))
    stretch = np.sort(rank[np.asarray(picks)], axis=1)
    assert (np.abs(stretch - (np.arange(n) + 0.5) * m / n) <= m / n + 1).all()


def test_the_order_is_random():
    """Row i of the answer is no more of one cell than of another: it goes beside others' rows."""
    x = jnp.arange(64.0)[:, None]
    picks = jax.vmap(lambda key: one_of_each(key, x, 16))(jax.random.split(jax.random.key(1), 4000))
    first = np.bincount(np.asarray(picks[:, 0]) // 4, minlength=16)
    assert stats.chisquare(first).pvalue > 1e-3


@pytest.mark.parametrize(("d", "most"), [(1, 0.3), (2, 0.32), (8, 0.75)])
def test_means_err_less_than_those_of_independent_draws(d, most):
    """Of 16 times as many draws one each: the error of these, 1/4, and what the cells leave.

    200 repeats know a deviation to 5 %, less by the dimensions.
    """

    def error(key):
        draw_key, pick_key = jax.random.split(key)
        x = jax.random.normal(draw_key, (16 * 512, d))
        return x[one_of_each(pick_key, x, 512)].mean(0)

    errors = np.asarray(jax.lax.map(error, jax.random.split(jax.random.key(2), 200))) * 512**0.5
    assert 0.2 < errors.std() < most
    assert np.abs(errors.mean(0)).max() < 4 * errors.std() / 200**0.5
