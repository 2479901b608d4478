"""Low-rank fits against dense eigenvalues in NumPy; mixtures against the law that made the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxdiff.laws import factor_fitting
from jaxdiff.laws.factor_fitting import fit_factor_mixture, fit_low_rank
from jaxdiff.laws.factors import FactorMixture

RNG = np.random.default_rng(0)
D, RANK = 12, 2
TRUTH = FactorMixture(
    [0.3, 0.7],
    2 * RNG.standard_normal((2, D)),
    RNG.standard_normal((2, D, RANK)),
    np.exp(RNG.uniform(-1, 1, (2, D))),
)
STEPS = {"num_steps": 400, "batch_size": 128}


def test_low_rank_is_the_closed_form(float64):
    """More rows than entries, and fewer: eq. (1) by a dense covariance and all of its eigenvalues."""
    for n, d in ((200, 40), (30, 60)):
        data = 3 + RNG.standard_normal((n, d)) * 1.3 ** -np.arange(d)
        law = fit_low_rank(data, 5)
        values, basis = np.linalg.eigh(np.cov(data.T, bias=True))
        rest = values[:-5].mean()
        np.testing.assert_allclose(law.variances, [[rest]], rtol=1e-8)
        factors = basis[:, -5:] * np.sqrt(values[-5:] - rest)
        np.testing.assert_allclose(law.factors[0] @ law.factors[0].T, factors @ factors.T, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def data():
    return TRUTH.sample(jax.random.key(0), 3000)


@pytest.mark.slow
def test_the_likelihood_of_whole_batches_never_falls(data, float64):
    """Eqs. (2) and (3) without running means are expectation-maximization."""
    x = jnp.asarray(data[:300], jnp.float64)
    start = factor_fitting._start(jax.random.key(3), x, jnp.zeros(()), jnp.asarray(1e-6), 2, RANK)

    @jax.jit
    def update(law):
        none = jax.tree.map(jnp.zeros_like, start)
        return factor_fitting._law(factor_fitting._statistics(law, x), none, jnp.asarray(1e-6))

    law, path = factor_fitting._law(start, start, jnp.asarray(1e-6)), []
    for _ in range(40):
        path.append(float(law.log_prob(x).mean()))
        law = update(law)
    assert np.diff(path).min() > -1e-12
    assert path[-1] > path[0] + 0.5


def test_the_statistics_are_those_of_the_joint_law_of_factors_and_data(data, float64):
    """Eq. (2) by conditioning the joint Gaussian of (z, x), with dense covariances."""
    x = np.asarray(data[:50], np.float64)
    law = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), TRUTH)
    got = factor_fitting._statistics(law, jnp.asarray(x))
    weights, means, factors, variances = map(np.asarray, (law.weights, law.means, law.factors, law.variances))
    covariances = [f @ f.T + np.diag(v) for f, v in zip(factors, variances, strict=True)]
    densities = [multivariate_normal(m, c).pdf(x) for m, c in zip(means, covariances, strict=True)]
    share = weights[:, None] * densities
    share = share / share.sum(0) / len(x)
    for k, (f, c) in enumerate(zip(factors, covariances, strict=True)):
        z = (x - means[k]) @ np.linalg.solve(c, f)
        y = np.c_[z, np.ones(len(x))]
        hidden = np.pad(np.eye(RANK) - f.T @ np.linalg.solve(c, f), ((0, 1), (0, 1)))
        np.testing.assert_allclose(got.xx[k], share[k] @ x**2, rtol=1e-9)
        np.testing.assert_allclose(got.xy[k], (share[k, :, None] * x).T @ y, rtol=1e-8, atol=1e-12)
        wanted = (share[k, :, None] * y).T @ y + share[k].sum() * hidden
        np.testing.assert_allclose(got.yy[k], wanted, rtol=1e-8, atol=1e-12)


def test_a_mixture_under_noise_is_the_law_without_it(data):
    """Fitted through noise that is as large as most of what is fitted; far likelier than one component."""
    noise = 0.5
    fit = fit_factor_mixture(jax.random.key(1), data, 2, RANK, noise_variance=noise, **STEPS)
    unseen = TRUTH.affine(1.0, noise**0.5).sample(jax.random.key(2), 3000)
    best = float(TRUTH.affine(1.0, noise**0.5).log_prob(unseen).mean())
    got = float(fit.affine(1.0, noise**0.5).log_prob(unseen).mean())
    one = fit_factor_mixture(jax.random.key(1), data, 1, RANK, noise_variance=noise, **STEPS)
    assert best - 0.15 < got < best + 0.05
    assert float(one.affine(1.0, noise**0.5).log_prob(unseen).mean()) < best - 0.5
    order = np.argsort(fit.weights)
    np.testing.assert_allclose(np.asarray(fit.weights)[order], TRUTH.weights, atol=0.05)
    np.testing.assert_allclose(np.asarray(fit.variances)[order].mean(1), TRUTH.variances.mean(1), rtol=0.15)


@pytest.mark.slow
def test_no_matrix_is_square_in_the_dimension():
    """At d = 3000 neither fit, density nor denoiser holds d^2 numbers, nor rows times factors."""
    data = jnp.zeros((64, 3000))

    def everything(data):
        low_rank = factor_fitting._fit_low_rank(data, jnp.asarray(1e-3), 4)
        counts = (jnp.asarray(0.0), jnp.asarray(1e-3), 3, 2, 4, 32)
        law = factor_fitting._fit(jax.random.key(0), data, *counts)
        return low_rank.log_prob(data), law.log_prob(data), law.sample(jax.random.key(1), 8)

    memory = jax.jit(everything).lower(data).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 3000**2


def test_components_without_points_stay_finite():
    data = np.repeat(np.array([[0.0, 0.0, 1.0], [1.0, 3.0, 0.0]], np.float32), 10, axis=0)
    fit = fit_factor_mixture(jax.random.key(0), data, 4, 1, floor=1e-3, num_steps=300, batch_size=8)
    assert np.isfinite(fit.log_prob(data)).all()
    np.testing.assert_allclose(fit.weights.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("fit", [fit_low_rank, lambda x, r: fit_factor_mixture(jax.random.key(0), x, 2, r)])
def test_bad_input(fit):
    for rows, rank, message in (
        (np.eye(4), 4, "rank must be less than the 4 entries"),
        (np.eye(4)[:3], 3, "and the 3 rows, got 3"),
        (np.eye(4), 0, "rank must be an integer"),
        (np.ones((5, 4)), 2, "the variance of data must be positive"),
        (np.full((5, 4), np.nan), 2, "data has 20 non-finite"),
        (np.zeros(5), 2, "data must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(rows, rank)
