"""The law of finitely many points against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from oracles import Scales

from jaxdiff.laws import components
from jaxdiff.laws.empirical import Empirical
from jaxdiff.noising.schedules import Cosine

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


@pytest.mark.parametrize("t", [0.5, np.linspace(0.1, 0.9, 11)], ids=["scalar", "rows"])
def test_chunks_of_a_batch_are_the_batch(t, monkeypatch, float64):
    denoise = Empirical(POINTS).denoiser(Cosine())
    x = jnp.asarray(np.random.default_rng(4).normal(size=(11, 3)))
    whole = denoise(x, t)
    monkeypatch.setattr(components, "CHUNK", 4 * len(POINTS))  # four rows, of which three are left over
    assert "scan" in str(jax.make_jaxpr(lambda x: denoise(x, t))(x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), denoise(x, t), whole)


def test_many_points_take_bounded_memory():
    """60,000 points at 4,096 rows: 1 GB for the weights of all at once."""

    def evaluate(points, x):
        return Empirical(points).denoiser(Cosine())(x, 0.5)

    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((60_000, 16), (4096, 16))]
    compiled = jax.jit(evaluate).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**29
