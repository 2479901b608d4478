"""Mixtures of Gaussians at sizes of use: thousands of rows under jit, many components in bounded memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from oracles import Scales

from jaxdiff.laws import components
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras

ALPHA, SIGMA = 0.75, 0.5  # exact in float32


def random_law(num_components, d, kind):
    """A law, and its weights, means and covariance matrices."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(num_components, 5.0))
    means = 2 * rng.normal(size=(num_components, d))
    if kind == "full":
        factors = rng.normal(size=(num_components, d, d)) / np.sqrt(d)
        dense = factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(d)
        covariances = dense = (dense + dense.transpose(0, 2, 1)) / 2
    else:
        covariances = rng.uniform(0.5, 2, (num_components, d) if kind == "diagonal" else num_components)
        dense = [np.eye(d) * values for values in covariances]
    return GaussianMixture(weights, means, covariances), (weights, means, dense)


def brute_force(parts, x, alpha, sigma):
    """Log-density of the noised law, and the means of data and noise, in float64."""
    log_joint, data, noise = [], [], []
    for weight, mean, covariance in zip(*parts, strict=True):
        total = alpha**2 * covariance + sigma**2 * np.eye(len(mean))
        centered = np.float64(x) - alpha * mean
        solved = np.linalg.solve(total, centered.T).T
        log_det = np.linalg.slogdet(2 * np.pi * total)[1]
        log_joint.append(np.log(weight) - 0.5 * (np.sum(centered * solved, axis=1) + log_det))
        data.append(mean + alpha * solved @ covariance)
        noise.append(sigma * solved)
    shares = scipy.special.softmax(log_joint, axis=0)[..., None]
    return scipy.special.logsumexp(log_joint, axis=0), np.sum(shares * data, 0), np.sum(shares * noise, 0)


# Sums over a leading axis of (components, d, rows) under softmax weights are wrong by 7 under jit at the first
# size, XLA:CPU of jax 0.10.2, with the tests' flags and without.
@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
@pytest.mark.parametrize(("num_components", "d", "rows"), [(8, 16, 4096), (4, 16, 4096), (3, 2, 5000)])
def test_thousands_of_rows_under_jit(num_components, d, rows, kind):
    law, parts = random_law(num_components, d, kind)
    rng = np.random.default_rng(1)
    x = ALPHA * parts[1][rng.integers(0, num_components, rows)] + rng.normal(size=(rows, d))
    x = jnp.asarray(x, jnp.float32)

    @jax.jit
    def evaluate(law, x, t):
        denoise = law.denoiser(Scales(ALPHA, SIGMA))
        transposed = jax.vmap(lambda x: jax.tree.map(lambda y: y[0], denoise(x[None], 0.5)), 1, 1)(x.T)
        by_row = denoise(x, jnp.full(len(x), t))
        return law.log_prob(x), denoise(x, t), by_row, jax.tree.map(jnp.transpose, transposed)

    log_prob, *denoised = evaluate(law, x, 0.5)
    wanted = brute_force(parts, x, 1.0, 0.0)[0]
    np.testing.assert_allclose(log_prob, wanted, rtol=2e-5, atol=1e-4)
    _, data, noise = brute_force(parts, x, ALPHA, SIGMA)
    for got in denoised:
        np.testing.assert_allclose(got.data, data, rtol=0, atol=1e-4)
        np.testing.assert_allclose(got.noise, noise, rtol=0, atol=1e-4)


@pytest.mark.parametrize("times", ["scalar", "rows"])
@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_many_components_take_bounded_memory(kind, times):
    """A thousand components in 784 dimensions at 1,024 rows: 3 GiB for the offsets from all means at once."""
    shape = jax.ShapeDtypeStruct
    values = (1000, 1 if kind == "isotropic" else 784)

    def evaluate(weights, means, values, x, t):
        law = GaussianMixture(weights, means, components.Spectrum(values))
        return law.denoiser(Karras())(x, t), law.log_prob(x)

    arguments = [shape(s, jnp.float32) for s in ((1000,), (1000, 784), values, (1024, 784))]
    t = shape(() if times == "scalar" else (1024,), jnp.float32)
    compiled = jax.jit(evaluate).lower(*arguments, t).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**29


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_chunks_of_a_batch_are_the_batch(kind, monkeypatch, float64):
    law, parts = random_law(3, 2, kind)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(11, 2)))
    whole = law.denoiser(Karras())(x, 0.5), law.log_prob(x)
    monkeypatch.setattr(components, "CHUNK", 24)  # four rows, of which three are left over
    chunked = law.denoiser(Karras())(x, 0.5), law.log_prob(x)
    assert "scan" in str(jax.make_jaxpr(law.log_prob)(x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), chunked, whole)
    _, data, noise = brute_force(parts, x, 1.0, 0.5)
    np.testing.assert_allclose(chunked[0].data, data, rtol=1e-10)
    np.testing.assert_allclose(chunked[0].noise, noise, rtol=1e-10, atol=1e-12)


def test_a_small_law_is_not_cut():
    law, _ = random_law(4, 16, "full")
    for t in (0.5, jnp.full(4096, 0.5)):
        assert "scan" not in str(jax.make_jaxpr(law.denoiser(Karras()))(jnp.zeros((4096, 16)), t))


def test_a_second_call_compiles_nothing():
    law, _ = random_law(5, 3, "full")
    x = jnp.ones((7, 3))
    law.denoiser(Karras())(x, 0.5)
    before = components._posterior_means._cache_size()
    GaussianMixture(law.weights, law.means + 1, law.covariances).denoiser(Karras())(2 * x, 0.7)
    assert components._posterior_means._cache_size() == before
