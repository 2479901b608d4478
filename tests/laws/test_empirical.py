"""The law of finitely many points against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from oracles import Scales

from jaxdiff.laws.empirical import Empirical

POINTS = np.random.default_rng(1).normal(size=(12, 3))


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.01), (0.7, 0.5), (1e-3, 1.0), (1.0, 80.0)])
def test_empirical_is_brute_force(alpha, sigma, float64):
    offset = 100.0  # far from the origin, where a careless expansion of the square would lose digits
    law = Empirical(POINTS + offset)
    x = alpha * (POINTS + offset) + sigma * np.random.default_rng(3).normal(size=POINTS.shape)
    got = law.denoiser(Scales(alpha, sigma))(jnp.asarray(x), 0.0)
    residuals = x[:, None] - alpha * (POINTS + offset)[None]
    weights = scipy.special.softmax(-0.5 * (residuals**2).sum(-1) / sigma**2, axis=1)
    np.testing.assert_allclose(got.data, weights @ (POINTS + offset), rtol=1e-11)
    np.testing.assert_allclose(got.noise, np.einsum("ij,ijd->id", weights, residuals / sigma), rtol=1e-6)


def test_empirical_samples_are_its_points():
    n = 6000
    x = np.asarray(Empirical(POINTS).sample(jax.random.key(0), n))
    which = np.argmin(((x[:, None] - POINTS[None]) ** 2).sum(-1), axis=1)
    np.testing.assert_array_equal(x, np.float32(POINTS)[which])
    rate = 1 / len(POINTS)
    assert (np.abs(np.bincount(which, minlength=12) / n - rate) < 4 * np.sqrt(rate * (1 - rate) / n)).all()
