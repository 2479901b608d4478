"""Student t laws against scipy and adaptive quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from oracles import Scales

from jaxdiff.laws.student import StudentTMixture


@pytest.mark.parametrize("d", [1, 2, 10, 100])
def test_student_t_is_scipys(d, float64):
    directions = np.random.default_rng(4).normal(size=(8, d))
    distances = np.array([0, 1e-3, 0.1, 1, 5, 30, 100, 200])[:, None]
    diagonal = np.geomspace(0.25, 4, d)
    mean = np.linspace(-1, 1, d)
    x = mean + np.sqrt(diagonal) * distances * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    degrees = np.array([0.5, 1.0, 3.0, 100.0, 1e5])
    got = jax.jit(jax.vmap(lambda nu: StudentTMixture([1.0], [mean], [diagonal], nu).log_prob(x)))(degrees)
    for nu, values in zip(degrees, got, strict=True):
        wanted = scipy.stats.multivariate_t(mean, np.diag(diagonal), nu).logpdf(x)
        np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-9)


def noised_student_integrals(u, scales, nu, variance):
    """(log p(x), E[e^y S Q^-1 u]) by adaptive quadrature; u in eigencoordinates."""

    def log_integrand(y):
        total = scales * np.exp(y) + variance
        prior = -0.5 * nu * (y + np.exp(-y)) + 0.5 * nu * np.log(0.5 * nu) - scipy.special.gammaln(0.5 * nu)
        return prior - 0.5 * np.sum(u**2 / total + np.log(2 * np.pi * total))

    grid = np.linspace(-8, 60, 3001)
    heights = np.array([log_integrand(y) for y in grid])
    top = heights.max()
    inside = grid[heights > top - 45]  # what is left out weighs e^-45
    edges = np.linspace(inside[0] - 0.1, inside[-1] + 0.1, 6)

    def integrate(f):
        parts = [
            scipy.integrate.quad(f, *ends, epsabs=1e-13, epsrel=1e-11, limit=200)[0]
            for ends in itertools.pairwise(edges)
        ]
        return sum(parts)

    mass = integrate(lambda y: np.exp(log_integrand(y) - top))
    gain = integrate(
        lambda y: np.exp(log_integrand(y) - top) * scales[0] * np.exp(y) / (scales[0] * np.exp(y) + variance)
    )
    return top + np.log(mass), gain / mass * u[0]


@pytest.mark.parametrize("d", [1, 10, 100])
def test_noised_student_t_is_quadrature(d, float64):
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    scales = np.geomspace(0.1, 2, d)[::-1]
    law = StudentTMixture([1.0], np.zeros((1, d)), [basis * scales @ basis.T], 3.0)
    distances = np.array([0.0, 1.0, 20.0, 200.0])[:, None]
    u = rng.normal(size=(4, d)) * np.sqrt(scales)
    u = distances * u / np.sqrt(np.sum(u**2 / scales, axis=1, keepdims=True) / d)
    x = jnp.asarray(u @ basis.T)

    @jax.jit
    def evaluate(sigma):
        schedule = Scales(jnp.ones_like(sigma), sigma)
        return law.perturbed(schedule, 0.0).log_prob(x), law.denoiser(schedule)(x, 0.0).data

    for sigma in (0.1, 7.0):
        log_density, data = evaluate(jnp.asarray(sigma))
        wanted = np.transpose([noised_student_integrals(row, scales, 3.0, sigma**2) for row in u])
        np.testing.assert_allclose(log_density, wanted[0], rtol=0, atol=1e-8)
        np.testing.assert_allclose(data @ basis[:, 0], wanted[1], rtol=1e-8, atol=1e-10)


MEAN = np.array([1.0, -0.5, 0.25])
MATRIX = np.array([[1.0, 0.3, -0.2], [0.3, 0.8, 0.1], [-0.2, 0.1, 1.5]])


def test_student_t_sample_quantiles():
    """Along any direction a t is a t, and with noise its characteristic function gains a factor."""
    n = 20_000
    law = StudentTMixture([1.0], [MEAN], [MATRIX], 2.5)
    direction = np.array([0.6, -0.8, 0.3])
    margin = scipy.stats.t(2.5, direction @ MEAN, np.sqrt(direction @ MATRIX @ direction))
    clean = np.asarray(law.sample(jax.random.key(1), n)) @ direction
    for level in (0.001, 0.05, 0.5, 0.9, 0.999):
        share = np.mean(clean < margin.ppf(level))
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / n)
    noisy = np.asarray(law.perturbed(Scales(1.0, 2.0), 0.0).sample(jax.random.key(2), n)) @ direction
    waves = np.cos(0.4 * (noisy - margin.mean()))
    wave = scipy.integrate.quad(lambda y: margin.pdf(y + margin.mean()), 0, np.inf, weight="cos", wvar=0.4)[0]
    noise_wave = np.exp(-0.5 * (0.4 * 2.0) ** 2 * direction @ direction)
    assert abs(waves.mean() - 2 * wave * noise_wave) < 4 * waves.std() / np.sqrt(n)
