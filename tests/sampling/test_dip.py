"""The dip against its definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxdiff as jd
from jaxdiff.sampling.dip import dip, dip_score, dip_scores

KARRAS = jd.Karras()


def least_dip(x):
    """The least D for which a unimodal G with |F_n - G| <= D exists, by linear programming over every mode."""
    x, n = np.unique(x), len(x)
    assert len(x) == n

    def with_mode(m):
        # G at the points left of the mode and up to it (the limit from the left), from it on to the right, D.
        rows, bounds = [], []

        def at_most(coefficients, bound):
            row = np.zeros(n + 2)
            for place, value in coefficients:
                row[place] += value
            rows.append(row)
            bounds.append(bound)

        left, right = list(range(m + 1)), [n, *range(m + 1, n)]
        places = np.append(x, x[m])
        for i in range(n):
            after, before = (n, m) if i == m else (i, i)
            at_most([(after, -1), (n + 1, -1)], -(i + 1) / n)
            at_most([(before, 1), (n + 1, -1)], i / n)
        at_most([(n, 1), (n + 1, -1)], (m + 1) / n)
        at_most([(m, -1), (n + 1, -1)], -m / n)
        at_most([(m, 1), (n, -1)], 0)
        for points, sign in ((left, 1), (right, -1)):
            for i, j in itertools.pairwise(points):
                at_most([(i, 1), (j, -1)], 0)
            for i, j, k in zip(points[:-2], points[1:-1], points[2:], strict=True):
                first, second = 1 / (places[j] - places[i]), 1 / (places[k] - places[j])
                at_most([(j, sign * (first + second)), (i, -sign * first), (k, -sign * second)], 0)
        cost = np.append(np.zeros(n + 1), 1)
        found = linprog(cost, A_ub=np.array(rows), b_ub=bounds, bounds=[(0, 1)] * (n + 2))
        return found.fun if found.status == 0 else np.inf

    return min(map(with_mode, range(n)))


def test_the_dip_is_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = rng.integers(4, 22)
        x = rng.standard_normal(n) + rng.integers(0, 2, n) * rng.choice([0, 3, 6])
        np.testing.assert_allclose(dip(x), least_dip(x), atol=1e-9)


def test_the_dip_of_extreme_cases():
    assert dip(np.arange(10.0)) == pytest.approx(1 / 20)
    assert dip(np.repeat([0.0, 1.0], 50) + 1e-6 * np.arange(100)) == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="x must have shape"):
        dip(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="at least one number"):
        dip(np.zeros(0))


def test_two_modes_are_seen_until_noise_hides_them():
    """Two Gaussians of equal weight, 4 apart, stay bimodal exactly while their standard deviation is below 2."""
    law = jd.GaussianMixture(jnp.full(2, 0.5), jnp.array([[-2.0, 0, 0], [2.0, 0, 0]]), jnp.full(2, 0.25))
    scores = [
        dip_score(jax.random.key(1), law.perturbed(KARRAS, t).sample(jax.random.key(0), 1000))
        for t in (0.1, 1.0, 4.0)
    ]
    assert scores[0] > 20 > scores[1] > 3 > 1 > scores[2]


def test_scores_of_noised_data_of_any_shape():
    """One for each time, and images are seen as the rows of their entries."""
    law = jd.GaussianMixture(
        jnp.full(2, 0.5), jnp.array([[-2.0, 0, 0, 0], [2.0, 0, 0, 0]]), jnp.full(2, 0.25)
    )
    data = law.sample(jax.random.key(0), 400)
    scores = dip_scores(jax.random.key(1), data, KARRAS, [0.1, 4.0])
    assert scores[0] > 10 > 3 > scores[1]
    images = dip_scores(jax.random.key(1), data.reshape(400, 2, 2), KARRAS, jnp.array([0.1, 4.0]))
    np.testing.assert_allclose(images, scores, atol=1e-3)


def test_bad_input():
    data, key = jnp.ones((5, 2)), jax.random.key(0)
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda x: dip_score(key, x))(data)
    with pytest.raises(TypeError, match="floating-point"):
        dip_score(key, data.astype(int))
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        dip_score(key, data[:1])
    with pytest.raises(ValueError, match="non-finite"):
        dip_score(key, data.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="outside of the range"):
        dip_scores(key, data, KARRAS, [-1.0])
