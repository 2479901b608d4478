"""Maximum-likelihood fits against closed forms, scikit-learn and the law that made the data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Reference

from jaxdiff.laws import fitting
from jaxdiff.laws.fitting import fit_gaussian, fit_mixture, fit_student_mixture
from jaxdiff.laws.mixture import GaussianMixture

COVARIANCES = ("full", "diagonal", "isotropic")


PLAIN = {"num_restarts": 1, "annealed_from": 1.0, "tolerance": 0.0}
"""Expectation-maximization alone."""


def dense(spectrum, d):
    """Covariance matrices of a spectrum or a stack of them."""
    values = np.broadcast_to(np.asarray(spectrum.values), (*spectrum.values.shape[:-1], d))
    basis = np.broadcast_to(np.eye(d), (*values.shape, d)) if spectrum.basis is None else spectrum.basis
    return np.einsum("...ij,...j,...kj->...ik", basis, values, basis)


def overlapping(n=300):
    """Two long clusters that touch."""
    rng = np.random.default_rng(0)
    long = rng.normal(size=(n, 2)) @ np.array([[1.0, 0.8], [0.0, 0.4]])
    return np.where((np.arange(n) % 3 == 0)[:, None], long[:, ::-1] + np.array([[2.0, 0.0]]), long)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_gaussian_has_the_moments_of_the_data(covariance, float64):
    data = overlapping()
    law = fit_gaussian(data, covariance=covariance)
    full = np.cov(data.T, bias=True)
    wanted = {"full": full, "diagonal": np.diag(np.diag(full)), "isotropic": np.trace(full) / 2 * np.eye(2)}
    np.testing.assert_allclose(law.mean, data.mean(0), rtol=1e-12)
    np.testing.assert_allclose(dense(law.covariance, 2), wanted[covariance], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_likelihood_never_falls(covariance, float64):
    data = overlapping()
    likelihood = jax.jit(lambda law: law.log_prob(data).mean())
    path = [
        float(
            likelihood(
                fit_mixture(jax.random.key(1), data, 3, covariance=covariance, num_iterations=k, **PLAIN)
            )
        )
        for k in range(1, 40)
    ]
    assert np.diff(path).min() > -1e-12
    assert path[-1] > path[0] + 0.01


def test_likelihood_never_falls_on_the_floor(float64):
    """A floor that binds: the update stays a maximizer, where a floor that is added would not be one."""
    data = overlapping()
    fits = [
        fit_mixture(jax.random.key(1), data, 3, num_iterations=k, floor=0.2, **PLAIN) for k in range(1, 30)
    ]
    assert fits[-1].covariances.values.min() == pytest.approx(0.2 * data.var(0).mean(), rel=1e-12)
    path = [float(fit.log_prob(data).mean()) for fit in fits]
    assert np.diff(path).min() > -1e-12


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_likelihood_is_scikit_learns(covariance, float64):
    data = overlapping()
    kind = {"full": "full", "diagonal": "diag", "isotropic": "spherical"}[covariance]
    reference = Reference(2, covariance_type=kind, n_init=5, tol=1e-9, max_iter=1000, random_state=0).fit(
        data
    )
    ours = fit_mixture(jax.random.key(0), data, 2, covariance=covariance, num_iterations=500, tolerance=1e-9)
    assert float(ours.log_prob(data).mean()) == pytest.approx(reference.score(data), abs=1e-3)
    theirs = GaussianMixture(reference.weights_, reference.means_, reference.covariances_)
    np.testing.assert_allclose(theirs.log_prob(data), reference.score_samples(data), rtol=1e-9)


def test_separated_components_are_found():
    n, weights = 3000, np.array([0.2, 0.3, 0.5])
    means = np.array([[-10.0, 0.0], [10.0, 0.0], [0.0, 12.0]])
    covariances = np.array([[[1.0, 0.6], [0.6, 1.0]], [[2.0, 0.0], [0.0, 0.5]], [[1.0, -0.3], [-0.3, 0.4]]])
    data = GaussianMixture(weights, means, covariances).sample(jax.random.key(4), n)
    fit = fit_mixture(jax.random.key(5), data, 3)
    order = [int(np.argmin(((np.asarray(fit.means) - m) ** 2).sum(1))) for m in means]
    assert sorted(order) == [0, 1, 2]
    counts = n * weights
    assert (np.abs(np.asarray(fit.weights)[order] - weights) < 4 * np.sqrt(weights * (1 - weights) / n)).all()
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    assert (np.abs(np.asarray(fit.means)[order] - means) < 4 * np.sqrt(variances / counts[:, None])).all()
    # Var of a Gaussian's sample covariance: (c_ii c_jj + c_ij^2) / n.
    spread = np.sqrt((variances[:, :, None] * variances[:, None, :] + covariances**2) / counts[:, None, None])
    assert (np.abs(dense(fit.covariances, 2)[order] - covariances) < 4.5 * spread).all()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_duplicated_points_stay_finite(covariance):
    """More components than distinct points: clusters of no width, and some of no points."""
    data = np.repeat(np.array([[0.0, 0.0], [1.0, 3.0]], np.float32), 10, axis=0)
    fit = fit_mixture(jax.random.key(0), data, 4, covariance=covariance, floor=1e-4)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(fit))
    assert np.isfinite(fit.log_prob(data)).all()
    assert fit.covariances.values.min() == pytest.approx(1e-4 * data.var(0).mean(), rel=1e-4)
    np.testing.assert_allclose(float(fit.weights.sum()), 1, rtol=1e-5)


def test_the_likeliest_restart_is_returned():
    """Of nine clusters, which no restart finds all of every time."""
    rng = np.random.default_rng(3)
    centers = 2.0 * np.stack(np.meshgrid(np.arange(3), np.arange(3)), -1).reshape(9, 2)
    data = np.float32(centers[np.arange(90) % 9] + 0.2 * rng.standard_normal((90, 2)))

    def likelihood(num_restarts):
        fit = lambda key: fit_mixture(  # noqa: E731
            key,
            data,
            9,
            covariance="isotropic",
            num_restarts=num_restarts,
            annealed_from=1.0,
            num_iterations=8,
        )
        return np.mean([fit(jax.random.key(seed)).log_prob(data).mean() for seed in range(6)])

    assert likelihood(8) > likelihood(1) + 0.1


def hidden(seed, k=8, d=16):
    """A mixture whose components touch, in d dimensions."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((k, d, d)))[0]
    covariances = (basis * np.exp(rng.uniform(-1, 1, (k, 1, d)))) @ basis.transpose(0, 2, 1)
    means = 1.2 * rng.standard_normal((k, d))
    weights = rng.dirichlet(np.full(k, 5.0))
    return GaussianMixture(weights, means, (covariances + covariances.transpose(0, 2, 1)) / 2)


def test_annealing_leaves_local_optima():
    """In 16 dimensions, where the best of eight starts still has a cluster in two parts and two in one."""
    data = hidden(0).sample(jax.random.key(0), 2000)
    plain, annealed = (
        float(
            fit_mixture(jax.random.key(1), data, 8, num_restarts=8, annealed_from=beta).log_prob(data).mean()
        )
        for beta in (1.0, 0.2)
    )
    assert annealed > plain + 0.03


def test_a_fit_stops_where_it_gains_no_more():
    """Far from its most iterations, at a likelihood within the tolerance's sum of the last."""
    data = overlapping()
    fit = functools.partial(fit_mixture, jax.random.key(1), data, 2, num_restarts=1, annealed_from=1.0)
    likelihood = [
        float(fit(num_iterations=most, tolerance=tolerance).log_prob(data).mean())
        for most, tolerance in ((100_000_000, 1e-4), (500, 0.0), (2, 0.0))
    ]
    assert likelihood[2] + 0.01 < likelihood[0] < likelihood[1] + 1e-6
    assert likelihood[0] > likelihood[1] - 0.01


def test_the_last_quarter_of_a_student_fit_is_averaged(monkeypatch):
    """Statistics that are noise: what is fitted is the mean of ten of forty."""

    def noise(key, law, x):
        normal, one = jax.random.normal(key, (1, 1)), jnp.ones(1)
        return fitting._Student(one, one, normal, jnp.full((1, 1, 1), 100.0), 0.35 * one)

    monkeypatch.setattr(fitting, "_student_statistics", noise)
    data = jnp.linspace(-1, 1, 23)[:, None]
    fit = lambda key: fit_student_mixture(key, data, 1, num_restarts=1, num_iterations=40)  # noqa: E731
    means = jax.vmap(fit)(jax.random.split(jax.random.key(0), 500)).means
    assert np.std(means) == pytest.approx(10**-0.5, rel=0.1)


FITS = {
    "gaussian": fit_gaussian,
    "mixture": lambda data: fit_mixture(jax.random.key(0), data, 2, num_iterations=5),
    "student": lambda data: fit_student_mixture(jax.random.key(0), data, 2, num_iterations=5),
}


@pytest.mark.parametrize("name", FITS)
def test_images_are_fitted_as_vectors(name):
    data = np.float32(np.random.default_rng(2).normal(size=(60, 2, 3, 1)))
    images, vectors = FITS[name](data), FITS[name](data.reshape(60, 6))
    assert images.shape == (2, 3, 1)
    assert vectors.shape == (6,)
    assert type(images.law) is type(vectors)
    jax.tree.map(np.testing.assert_array_equal, images.law, vectors)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", FITS)
def test_half_precision_is_fitted_in_single(name, dtype):
    """Sums of squares of float16 overflow at a few hundred."""
    data = jnp.asarray(300 * np.random.default_rng(2).normal(size=(60, 3)), dtype)
    got, wanted = FITS[name](data), FITS[name](data.astype(jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert all(leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    with pytest.raises(ValueError, match="data has 1 non-finite"):
        FITS[name](data.at[3, 1].set(jnp.nan))


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("shape", [(0, 2), (0, 2, 2), (3, 0)])
def test_no_data(name, shape):
    with pytest.raises(ValueError, match="data must hold at least one row of at least one number, got shape"):
        FITS[name](np.zeros(shape))


def test_a_second_fit_compiles_nothing():
    data = overlapping()
    fit_gaussian(data)
    before = fitting._fit_gaussian._cache_size()
    fit_gaussian(2 * data)
    assert fitting._fit_gaussian._cache_size() == before


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros(5), {}, "data must have shape"),
        (np.zeros((0, 2)), {}, "at least one row"),
        (np.array([[0.0, np.nan], [1.0, 1.0]]), {}, "data has 1 non-finite"),
        (np.eye(4), {"covariance": "diag"}, "covariance must be one of 'full'"),
        (np.eye(4), {"num_components": 5}, "as many rows as there are components"),
        (np.eye(4), {"num_components": 0}, "num_components must be an integer"),
        (np.eye(4), {"num_restarts": 0}, "num_restarts must be an integer"),
        (np.eye(4), {"annealed_from": 1.5}, "annealed_from must lie in"),
        (np.eye(4), {"tolerance": -1.0}, "tolerance must lie in"),
        (np.eye(4), {"num_iterations": 1.5}, "num_iterations must be an integer"),
        (np.eye(4), {"floor": 0.0}, "floor must be positive"),
        (np.ones((4, 2)), {}, "the variance of data must be positive"),
    ],
)
def test_bad_input(data, options, message):
    with pytest.raises(ValueError, match=message):
        fit_mixture(jax.random.key(0), data, **{"num_components": 2, **options})
    if options.keys() <= {"covariance"} and "variance of data" not in message:
        with pytest.raises(ValueError, match=message):
            fit_gaussian(data, **options)
