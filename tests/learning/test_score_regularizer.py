"""The score regularizer against closed forms, and the generator that is best under it against a minimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, interior
from scipy.optimize import minimize

from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning.score_regularizer import regularized_generator, score_regularizer
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras

MEAN, VARIANCES, X = np.asarray([0.5, -1.0]), np.asarray([0.3, 2.0]), np.asarray([1.4, 0.2])
ROWS = 10_000


def gaussian_values(case):
    """Ends of the times, and values and gradients of weighted rows at times uniform in log-SNR."""
    ends, schedule = interior(case)[[0, -1]], case.schedule
    law, x = Gaussian(MEAN, VARIANCES), jnp.tile(X, (ROWS, 1))

    @jax.jit
    def run(x):
        u = times.stratified(jax.random.key(1), ROWS)
        drawn = times.log_snr_uniform(u, schedule, t_min=ends[0], t_max=ends[1])

        def paid(x):
            rows = score_regularizer(jax.random.key(0), law.denoiser(schedule), x, drawn.t)
            return drawn.weight * rows

        values, pull = jax.vjp(paid, x)
        return values, pull(jnp.ones_like(values))[0]

    return ends, *map(np.asarray, run(x))


def expected_log_density(case, t):
    """E log p_t(alpha x + sigma noise) for the Gaussian, and its gradient in x."""
    alpha, sigma = case.alpha(t), case.sigma(t)
    total = alpha**2 * VARIANCES + sigma**2
    squares = (alpha**2 * (X - MEAN) ** 2 + sigma**2) / total
    return -0.5 * np.sum(np.log(2 * np.pi * total) + squares), -(alpha**2) * (X - MEAN) / total


@pytest.mark.parametrize("name", ["vp", "karras", "rectified_flow"])
def test_with_the_likelihood_weight_it_is_a_log_density_and_its_gradient_a_score(name, float64):
    case = CASES[name]
    ends, values, gradients = gaussian_values(case)
    (clean, clean_slope), (noisy, noisy_slope) = (expected_log_density(case, t) for t in ends)
    wanted = 2 * np.log(case.sigma(ends[1]) / case.sigma(ends[0])) + noisy - clean
    assert abs(values.mean() - wanted) < 4 * values.std() / ROWS**0.5
    errors = gradients.std(axis=0) / ROWS**0.5
    assert (np.abs(gradients.mean(axis=0) - (noisy_slope - clean_slope)) < 4 * errors).all()
    assert (errors < 0.05 * np.abs(clean_slope)).all()  # so that a gradient of zero would be found out


def test_on_a_mixture_it_differs_between_points_as_the_log_density_does():
    """Whatever the law of times: uniform in log-SNR, or EDM's log-normal with its own weights."""
    law = GaussianMixture([0.3, 0.7], [[1.0, 0.0], [-1.0, 0.5]], [0.1, 0.2])
    points = jnp.asarray([[1.0, 0.2], [0.0, 1.5]])
    u, n = times.stratified(jax.random.key(1), 40_000), 40_000

    @jax.jit
    @jax.vmap
    def paid(t, weight):
        def at(x):  # with one noise for both points
            rows = jnp.tile(x[None], (n, 1))
            return weight * score_regularizer(jax.random.key(0), law.denoiser(Karras()), rows, t)

        return at(points[1]) - at(points[0])

    laws = (
        times.log_snr_uniform(u, Karras(), t_min=0.003, t_max=60.0),
        times.log_normal(u, Karras(), mean=-0.5, std=1.8),
    )
    differences = np.asarray(paid(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *laws)), np.float64)
    wanted = float(law.log_prob(points[0]) - law.log_prob(points[1]))
    assert wanted > 2
    for values in differences:
        assert abs(values.mean() - wanted) < 4 * values.std() / n**0.5
        assert values.std() / n**0.5 < 0.1 * wanted


def test_a_weight_is_the_error_in_its_row_and_rows_are_independent():
    """v of a perfect guess of zero noise: |alpha n + sigma (alpha/sigma) n|^2 = (n / alpha)^2 at unit variance."""
    from jaxdiff.typing import Denoised

    schedule, t = CASES["cosine"].schedule, jnp.linspace(0.1, 0.8, 6)
    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 1))

    nothing = as_denoiser(lambda x, t: Denoised(x, jnp.zeros_like(x)), schedule, shape=(4, 4, 1))

    def rows(weight, x, t):
        return np.asarray(score_regularizer(jax.random.key(1), nothing, x, t, weight=weight))

    noise = rows(prediction.noise.row, x, t)
    np.testing.assert_allclose(rows(prediction.v.row, x, t), noise / np.cos(np.pi * t / 2) ** 2, rtol=1e-4)
    np.testing.assert_allclose(rows(prediction.noise.row, x[:2], t[:2]), noise[:2], rtol=1e-6)
    np.testing.assert_allclose(rows(prediction.noise.row, x, 0.3), noise, rtol=1e-6)  # N is zero
    assert abs(noise.mean() - 16) < 4 * (32 / 6) ** 0.5


def test_around_a_mode_the_gradient_is_free_of_the_noise(float64):
    """There N is linear: with a noise and its negative the gradient is that of the squared mean, whatever the key."""
    case, t = CASES["vp"], 0.3
    denoise, x = Gaussian(MEAN, VARIANCES).denoiser(case.schedule), jnp.asarray(X)[None]

    def gradient(seed):
        return jax.grad(
            lambda x: score_regularizer(
                jax.random.key(seed), denoise, x, t, weight=prediction.noise.row
            ).sum()
        )(x)[0]

    alpha, sigma = case.alpha(t), case.sigma(t)
    slope = sigma / (
        alpha**2 * VARIANCES + sigma**2
    )  # of N, whose mean over the noise is slope alpha (x - mean)
    for seed in range(3):
        np.testing.assert_allclose(gradient(seed), 2 * (slope * alpha) ** 2 * (X - MEAN), rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "t", "error", "match"),
    [
        (jnp.zeros((3, 2), int), 0.5, TypeError, "floating-point"),
        (jnp.zeros((3, 2)), jnp.full(2, 0.5), ValueError, "t"),
        (jnp.zeros(()), 0.5, ValueError, "batch"),
        (jnp.zeros((3, 1)), 0.5, ValueError, r"x must have shape \(batch, 2\)"),
        (jnp.zeros((3, 2)), -0.5, ValueError, "t = -0.5 is outside"),
    ],
)
def test_bad_input_to_the_regularizer(x, t, error, match):
    law = Gaussian(jnp.zeros(2), 1.0)
    with pytest.raises(error, match=match):
        score_regularizer(jax.random.key(0), law.denoiser(Karras()), x, t)


def test_half_precision_is_paid_for_in_single_precision():
    denoise = Gaussian(MEAN, VARIANCES).denoiser(Karras())
    x, t = jnp.tile(jnp.asarray(X, jnp.bfloat16), (50, 1)), jnp.geomspace(0.1, 10, 50)

    def paid(x):
        return score_regularizer(jax.random.key(0), denoise, x, t)

    got, wanted = paid(x), paid(x.astype(jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert jax.grad(lambda x: paid(x).sum())(x).dtype == jnp.bfloat16


# --- the generator that is best under it --------------------------------------------------------------------


def grid_law():
    """An uneven grid of the plane, flattened: log p up to a constant, and volumes."""
    edges = np.cumsum(np.linspace(0.3, 0.6, 9)) - 2.0
    centers, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    x, y = np.meshgrid(centers, centers)
    log_p = np.logaddexp(-2 * ((x - 1) ** 2 + y**2), -((x + 1) ** 2) - (y - 0.5) ** 2)
    return log_p.ravel(), np.outer(widths, widths).ravel()


@pytest.mark.parametrize("strength", [0.05, 0.5, 2.0])
def test_no_minimizer_finds_a_better_generator(strength, float64):
    log_p, volumes = grid_law()
    p = np.exp(log_p) / np.sum(volumes * np.exp(log_p))

    def objective(logits):
        q = np.exp(logits - logits.max())
        q /= np.sum(volumes * q)
        slope = np.log(q / (p + q)) - strength * np.log(p)  # dJ / dq over the volume
        value = np.sum(volumes * (p * np.log(p / (p + q)) + q * slope))
        return value, volumes * q * (slope - np.sum(volumes * q * slope))

    found = minimize(
        objective, np.log(p), jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 1e-16}
    )
    got = regularized_generator(jnp.asarray(log_p), jnp.asarray(volumes), strength)
    q = np.exp(found.x) / np.sum(volumes * np.exp(found.x))
    assert 0.5 * np.sum(volumes * np.abs(np.exp(got) - q)) < 1e-5
    assert np.sum(volumes * np.exp(got)) == pytest.approx(1, abs=1e-12)
    assert objective(np.asarray(got))[0] < found.fun + 1e-12
    assert 0.5 * np.sum(volumes * np.abs(p - q)) > 0.02  # it is not p


def test_a_small_strength_is_a_power(float64):
    """TV to p^(1 + 2 l) falls as l^2, that to p as l; at l = 0 it is p."""
    log_p, volumes = map(jnp.asarray, grid_law())
    strengths = jnp.asarray([0.0, 0.01, 0.02])
    got = jax.vmap(regularized_generator, in_axes=(None, None, 0))(log_p, volumes, strengths)
    log_p = log_p - jax.nn.logsumexp(log_p + jnp.log(volumes))
    power = (1 + 2 * strengths[:, None]) * log_p[None]
    power = power - jax.nn.logsumexp(power + jnp.log(volumes)[None], axis=1, keepdims=True)
    to_p, to_power = (
        np.asarray(0.5 * jnp.sum(volumes[None] * jnp.abs(jnp.exp(got) - jnp.exp(other)), axis=1))
        for other in (jnp.broadcast_to(log_p, power.shape), power)
    )
    assert to_p[0] < 1e-12
    assert to_p[2] / to_p[1] == pytest.approx(2, rel=0.05)
    assert to_power[2] / to_power[1] == pytest.approx(4, rel=0.05)
    assert to_power[2] < 0.05 * to_p[2]


def test_in_three_dimensions_a_strong_regularizer_condenses_at_the_maximum(float64):
    """N(0, I), l = 10: at u = 1 the rest has the mass sum_k (1 + k l)^(-3/2), however fine the shells."""
    bulk = np.sum((1 + 10 * np.arange(1, 200_000)) ** -1.5) + 2 * 10**-1.5 * 200_000**-0.5
    for n in (2000, 8000):
        edges = np.linspace(0, 8, n + 1)
        radii, volumes = (edges[1:] + edges[:-1]) / 2, 4 / 3 * np.pi * np.diff(edges**3)
        got = regularized_generator(jnp.asarray(-0.5 * radii**2), jnp.asarray(volumes), 10.0)
        masses = volumes * np.exp(np.asarray(got))
        assert masses.sum() == pytest.approx(1, abs=1e-9)
        assert masses[1:].sum() == pytest.approx(bulk, rel=0.05)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"log_prob": jnp.asarray([0.0, -jnp.inf])}, "log_prob"),
        ({"volumes": 0.0}, "volumes"),
        ({"strength": -0.1}, "strength"),
        ({"strength": jnp.ones(2)}, "strength"),
        ({"volumes": jnp.ones(3)}, r"volumes must have shape \(2,\), got \(3,\)"),
    ],
)
def test_bad_input_to_the_generator(changed, match):
    with pytest.raises(ValueError, match=match):
        regularized_generator(**{"log_prob": jnp.zeros(2), "volumes": 1.0, "strength": 0.1, **changed})
