import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff.densities import tolerance
from jaxdiff.densities.evaluations import Evaluations, check_evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.densities.log_density import log_density
from jaxdiff.densities.tolerance import formula_to_tolerance, least_evaluations
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.shaped import Shaped
from jaxdiff.noising.schedules import Karras, LinearVariance

KEY, D = jax.random.key(0), 6
WEIGHTS, MEANS = np.array([0.6, 0.4]), np.array([[-1.0] * D, [1.0] * D])
VARIANCES = np.random.default_rng(0).uniform(0.05, 0.5, (2, D))
LAW = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in (WEIGHTS, MEANS, VARIANCES)))
# Points of the law, and one between its two parts, where what the noise chooses decides.
X = np.concatenate([LAW.sample(KEY, 5), np.zeros((1, D))]).astype(np.float32)


def log_prob(x):
    parts = stats.norm(MEANS, np.sqrt(VARIANCES)).logpdf(np.asarray(x, np.float64)[:, None]).sum(2)
    return np.logaddexp.reduce(parts + np.log(WEIGHTS), axis=1)


def answer(x=X, tolerance=0.1, most=16384, denoise=None, key=KEY):
    denoise = denoise or LAW.denoiser(LinearVariance())
    return formula_to_tolerance(key, denoise, x, tolerance, check_evaluations(denoise, Evaluations(most)))


@pytest.fixture(scope="module")
def repeated():
    """Values, errors and numbers over 60 keys, (60, 6)."""
    run = jax.jit(lambda keys: jax.lax.map(lambda key: answer(jnp.asarray(X), 0.2, key=key), keys))
    (value, error), spent = run(jax.random.split(KEY, 60))
    return np.asarray(value, np.float64), np.asarray(error), np.asarray(spent)


def test_estimates_are_unbiased_with_the_wanted_and_honest_error(repeated):
    value, error, _ = repeated
    off = value - log_prob(X)
    assert abs(off.mean()) < 4 * off.mean(1).std(ddof=1) / 60**0.5
    assert 0.9 < (np.abs(off) < 1.96 * error).mean() < 0.985
    assert (np.abs(off.mean(0)) < 4 * off.std(0) / 60**0.5).all()
    assert np.sqrt(np.mean(off**2)) < 0.22
    assert np.median(error) < 0.22


def test_the_hard_row_gets_more(repeated):
    _, _, spent = repeated
    assert spent[:, 5].mean() > 1.5 * spent[:, :5].mean()
    assert spent.min() >= least_evaluations(D)


@pytest.mark.slow
def test_a_row_is_its_own_and_the_most_is_kept():
    whole, few = answer(), answer(X[:2])
    np.testing.assert_allclose(few[0].value, whole[0].value[:2], rtol=1e-4)
    np.testing.assert_array_equal(few[1], whole[1][:2])
    images = Shaped(LAW, (2, 3)).denoiser(LinearVariance())
    np.testing.assert_allclose(
        answer(X.reshape(-1, 2, 3), denoise=images)[0].value, whole[0].value, rtol=1e-4
    )
    capped = answer(tolerance=1e-3, most=1000)
    assert np.asarray(capped[1]).max() <= 1000
    assert np.asarray(capped[0].standard_error).min() > 1e-3


@pytest.mark.slow
def test_of_a_gaussian_nothing_is_left():
    """Of any mean and covariance: the control variate is the integrand, and its mean the density's."""
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]
    law = Gaussian(jnp.arange(D) / 3.0, jnp.asarray((turn * np.geomspace(0.1, 3, D)) @ turn.T, jnp.float32))
    x, denoise = 2 * law.sample(KEY, 20), law.denoiser(LinearVariance())
    (value, error), spent = answer(x, tolerance=1.0, denoise=denoise)
    even = density_formula(KEY, denoise, x, Evaluations(int(spent.max()))).value
    off, plain = (np.abs(got - law.log_prob(x)).max() for got in (value, even))
    assert off < 0.01
    assert np.asarray(error).max() < 0.01
    assert plain > 0.1


@pytest.mark.slow
def test_the_control_s_mean_is_that_of_its_values():
    """In more dimensions than it has axes: orthogonal noises give quadratic forms their mean, Gauss that over u."""
    d, strata = 140, 4
    rng = np.random.default_rng(3)
    law = Gaussian(jnp.asarray(rng.standard_normal(d)), jnp.asarray(rng.uniform(0.1, 2, d)))
    denoise, x = law.denoiser(LinearVariance()), law.sample(KEY, 1)
    known = check_evaluations(denoise, Evaluations(1024))
    control = tolerance._learn(KEY, denoise, x, known)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    u = (np.arange(strata)[:, None] + (1 + nodes) / 2).reshape(-1) / strata
    noise = jnp.asarray(np.linalg.qr(rng.standard_normal((d, d)))[0] * d**0.5)
    rows = jnp.zeros(d, int)
    h = jax.lax.map(lambda u: control.of(rows, noise, jnp.full(d, u)).mean(), jnp.asarray(u))
    wanted = np.asarray(h, np.float64).reshape(strata, 40) @ weights / 2
    np.testing.assert_allclose(control.means(strata)[0], wanted, rtol=1e-3, atol=0.01)


def test_log_density_takes_a_tolerance():
    denoise = LAW.denoiser(LinearVariance())
    got = log_density(KEY, denoise, X, tolerance=0.1)
    np.testing.assert_array_equal(got.value, answer()[0].value)
    short = dataclasses.replace(denoise, t_max=0.5)
    assert np.isnan(jax.jit(lambda d: log_density(KEY, d, X, tolerance=0.1).value)(short)).all()
    with pytest.raises(ValueError, match="wanted less than -4"):
        log_density(KEY, short, X, tolerance=0.1)
    with pytest.raises(ValueError, match="num_evaluations must be an integer of at least 332"):
        log_density(KEY, denoise, X, tolerance=0.1, num_evaluations=331)
    with pytest.raises(ValueError, match="tolerance must be"):
        log_density(KEY, LAW.denoiser(Karras()), X, tolerance=0.0)
