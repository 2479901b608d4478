"""The constants against numerical integration over the exact law of an increment, on the line, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES
from scipy.integrate import trapezoid

from jaxdiff import theory
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import OrnsteinUhlenbeck

SCHEDULE = OrnsteinUhlenbeck()
CENTRES = np.asarray([-1.0, 0.3, 1.0])
WEIGHTS = np.asarray([0.3, 0.2, 0.5])


def alpha_sigma(t):
    return np.exp(-t), np.sqrt(-np.expm1(-2 * t))


def posterior_mean(x, alpha, sigma, std):
    """E[x_0 | x] of clusters at CENTRES, x of any shape."""
    total = alpha**2 * std**2 + sigma**2
    log_weight = np.log(WEIGHTS) - 0.5 * (x[..., None] - alpha * CENTRES) ** 2 / total
    weight = np.exp(log_weight - log_weight.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    own = CENTRES + alpha * std**2 / total * (x[..., None] - alpha * CENTRES)
    return (weight * own).sum(-1)


def worst_proxy(s, t, std):
    """The largest (2 / l^2) log E[exp(l M) | x_t], M = D(x_s, s) - D(x_t, t), over l and x_t."""
    (alpha_s, sigma_s), (alpha, sigma) = alpha_sigma(s), alpha_sigma(t)
    scale, v = alpha / alpha_s, sigma**2 - (alpha / alpha_s * sigma_s) ** 2
    total = alpha_s**2 * std**2 + sigma_s**2
    x_s = np.linspace(-9, 9, 20001)
    before = posterior_mean(x_s, alpha_s, sigma_s, std)
    density = (WEIGHTS * np.exp(-0.5 * (x_s[:, None] - alpha_s * CENTRES) ** 2 / total)).sum(1)
    worst = 0.0
    for x in np.linspace(-2.5, 2.5, 101):
        weight = density * np.exp(-0.5 * (x - scale * x_s) ** 2 / v)
        weight /= trapezoid(weight, x_s)
        increment = before - trapezoid(weight * before, x_s)
        for l in (-8.0, -3, -1, -0.1, 0.1, 1, 3, 8):  # noqa: E741
            moment = trapezoid(weight * np.exp(l * increment), x_s)
            worst = max(worst, 2 * np.log(moment) / l**2)
    return worst


@pytest.mark.parametrize("std", [0.0, 0.2, 0.6])
@pytest.mark.parametrize(("s", "t"), [(0.05, 0.07), (0.1, 0.4), (0.4, 1.5), (1.0, 1.1)])
def test_no_increment_is_above_its_proxy(s, t, std, float64):
    constant = theory.cluster_constants(SCHEDULE, jnp.asarray([s, t]), radius=1.0, std=std)[1]
    worst = worst_proxy(s, t, std)
    assert worst <= float(constant) * (1 + 1e-6)
    assert worst > 0.1 * float(constant)  # nor is it empty


def test_the_first_increment_is_that_of_the_data(float64):
    """Points in a ball: Hoeffding's lemma, which two of them at its ends attain; a Gaussian: its posterior."""
    times = jnp.asarray([0.3, 0.9])
    assert float(theory.cluster_constants(SCHEDULE, times, radius=2.0, std=0.0)[0]) == pytest.approx(4.0)
    alpha, sigma = alpha_sigma(0.3)
    found = theory.cluster_constants(SCHEDULE, times, radius=0.0, std=0.7)[0]
    assert float(found) == pytest.approx(1 / (0.7**-2 + (alpha / sigma) ** 2))


@pytest.mark.parametrize("name", ["vp", "ve", "rectified_flow"])
def test_a_gaussian_has_the_variance_of_its_increments(name, float64):
    """M_k of N(m, s^2) is normal, of variance posterior(t) - posterior(s), so its proxy is that variance."""
    case, std = CASES[name], 0.7
    times = np.geomspace(max(case.t_min, 0.02 * case.t_max), 0.7 * case.t_max, 5)
    found = theory.cluster_constants(case.schedule, jnp.asarray(times), radius=0.0, std=std)
    left = [1 / (std**-2 + (case.alpha(t) / case.sigma(t)) ** 2) for t in times]
    np.testing.assert_allclose(found, np.diff([0.0, *left]), rtol=1e-7)


def test_the_norm_bounds_the_noise_of_every_error(float64):
    """K is the largest of sum_k c_k |G_k|^2 / sum_j g_j |zeta_j|^2 over all zeta, which power iteration finds."""
    times, rng = np.asarray([0.1, 0.3, 0.8, 1.5]), np.random.default_rng(0)
    weights, constants = np.asarray([0.1, 0.2, 0.5, 0.7]), np.asarray([2.0, 0.5, 1.0, 3.0])
    alpha, sigma = alpha_sigma(times)

    def ratio(zeta):
        accumulated = np.cumsum((weights * alpha / sigma**2 * zeta)[::-1])[::-1]
        return (constants * accumulated**2).sum() / (weights * zeta**2).sum()

    given = jnp.asarray(times), jnp.asarray(weights), jnp.asarray(constants)
    found = float(theory.martingale_bound(SCHEDULE, *given))
    assert max(ratio(zeta) for zeta in rng.standard_normal((2000, 4))) <= found
    matrix = np.triu(np.sqrt(constants)[:, None] * np.sqrt(weights) * alpha / sigma**2)
    zeta = np.linalg.matrix_power(matrix.T @ matrix, 50)[:, 0] / np.sqrt(weights)
    assert ratio(zeta) == pytest.approx(found, rel=1e-9)
    assert theory.martingale_bound(SCHEDULE, *given[:2], jnp.asarray([1.0, np.inf, 1, 1])) == np.inf


def test_the_measured_constant_is_below_the_bound():
    """An error along one direction, on paths of a law of clusters."""
    centres = jnp.asarray(CENTRES)[:, None] * jnp.asarray([[1.0, 0.0]])
    law = GaussianMixture(jnp.asarray(WEIGHTS), centres, Spectrum(jnp.full((3, 1), 0.04)))
    times = jnp.asarray([0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
    weights = jnp.diff(times, prepend=0.0)
    data = law.sample(jax.random.key(0), 4000)
    path = theory.forward_path(jax.random.key(1), SCHEDULE, data, times)
    moved = GaussianMixture(law.weights, law.means + jnp.asarray([[0.2, 0.0]]), law.covariances)
    exact, estimate = (each.denoiser(SCHEDULE) for each in (law, moved))
    terms = theory.martingale_terms(estimate, exact, data, path, times, weights)
    constants = theory.cluster_constants(SCHEDULE, times, radius=1.0, std=0.2)
    bound = float(theory.martingale_bound(SCHEDULE, times, weights, constants))
    measured = float(theory.martingale_constant(terms))
    assert 0.01 * bound < measured < bound


def test_the_bound_is_that_of_the_theorem():
    bound = theory.risk_bound(2.0, num_candidates=40, num_paths=500, delta=0.1, hypercontractivity=3.0)
    assert float(bound.empirical) == pytest.approx(8 * 2 * np.log(400) / 500)
    assert float(bound.population) == pytest.approx(16 * 2 * np.log(800) / 500)
    assert float(bound.least_paths) == pytest.approx(24 * np.log(800))
    few = theory.risk_bound(2.0, num_candidates=40, num_paths=160, delta=0.1, hypercontractivity=3.0)
    assert np.isinf(few.population)
    assert np.isfinite(few.empirical)


def test_of_a_thousand_minimizers_hardly_one_is_above_the_bound():
    """Shifted Gaussians N(c, 1): the minimizer of the risk and its W are closed forms, drawn in NumPy.

    For shifts the score's error is zeta_j = alpha_j c at every level, so that W = c^2 sum_j g_j alpha_j^2, and
    H is normal with the variance that the increments add up to.
    """
    times, rng = np.asarray([0.1, 0.3, 0.8, 1.5]), np.random.default_rng(1)
    alpha, sigma = alpha_sigma(times)
    weights = np.diff(times, prepend=0)
    constants = np.diff([0.0, *(sigma**2 / (alpha**2 + sigma**2))])
    accumulated = np.cumsum((weights * alpha / sigma**2 * alpha)[::-1])[::-1]
    variance, square = (constants * accumulated**2).sum(), (weights * alpha**2).sum()
    found = theory.cluster_constants(SCHEDULE, jnp.asarray(times), radius=0.0, std=1.0)
    constant = theory.martingale_bound(SCHEDULE, jnp.asarray(times), jnp.asarray(weights), found)
    assert variance / square <= float(constant) * (1 + 1e-5)
    shifts, m = np.linspace(-1, 1, 41), 400
    noise = np.sqrt(variance * m) * rng.standard_normal(1000)  # the sum of H over m paths is c times this
    risk = m * square * shifts**2 - 2 * shifts * noise[:, None]
    error = square * shifts[risk.argmin(1)] ** 2
    bound = theory.risk_bound(constant, num_candidates=41, num_paths=m, delta=0.05)
    assert (error > float(bound.empirical)).mean() <= 0.05
    assert np.quantile(error, 0.95) > float(bound.empirical) / 100


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: theory.cluster_constants(SCHEDULE, t, radius=-1.0, std=1.0), "radius must lie in"),
        (
            lambda t: theory.cluster_constants(SCHEDULE, t, radius=jnp.ones(2), std=1.0),
            "radius must have shape",
        ),
        (lambda t: theory.cluster_constants(SCHEDULE, t[::-1], radius=1.0, std=1.0), "increase strictly"),
        (lambda t: theory.martingale_bound(SCHEDULE, t, -t, t), "weights must be positive"),
        (lambda t: theory.martingale_bound(SCHEDULE, t, t, t[:1]), "constants must have shape"),
        (lambda t: theory.risk_bound(1.0, num_candidates=0, num_paths=1), "num_candidates must be"),
        (lambda t: theory.risk_bound(1.0, num_candidates=1, num_paths=1, delta=1.0), "delta must lie"),
        (
            lambda t: theory.risk_bound(1.0, num_candidates=1, num_paths=1, hypercontractivity=0.5),
            "hypercontractivity must lie",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.asarray([0.1, 0.5]))
