"""Rules and their error laws, against loops and quadrature in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.densities import discretized
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.levels import TimeDensity
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.shaped import Shaped
from jaxdiff.noising.schedules import Cosine
from jaxdiff.noising.tables import logarithmic_betas


def levels_of(betas):
    log_alpha_bar = np.cumsum(np.log1p(-np.asarray(betas)))
    return log_alpha_bar - np.log(-np.expm1(log_alpha_bar))


RULES = {
    "left": discretized.left,
    "ddpm": discretized.ddpm,
    "larger variance": functools.partial(discretized.ddpm, data_variance=1.0),
    "trapezoid": discretized.trapezoid,
}


# --- rules -------------------------------------------------------------------------------------------------


def test_the_weights_are_those_of_the_texts(float64):
    betas = np.asarray(logarithmic_betas(40, 2.0, 4.0))
    alphas, kept = 1 - betas, np.cumprod(1 - betas)
    left, ddpm, large, _ = jax.jit(lambda levels: [rule(levels) for rule in RULES.values()])(levels_of(betas))
    np.testing.assert_allclose(left.weights[:-1], betas[1:] / (1 - kept[:-1]), rtol=1e-9)
    np.testing.assert_allclose(left.weights[-1], 1 / (1 - kept[-1]), rtol=1e-9)
    np.testing.assert_allclose(left.constant, -0.5 * (1 + np.log(2 * np.pi * betas[0])), rtol=1e-9)
    np.testing.assert_allclose(ddpm.weights[1:], betas[1:] / (alphas[1:] * (1 - kept[:-1])), rtol=1e-9)
    assert ddpm.weights[0] == 1
    np.testing.assert_allclose(ddpm.constant, -0.5 * np.log(2 * np.pi * betas[0] / alphas[0]), rtol=1e-9)
    # the larger variance, in Ho et al.'s beta_t: beta / (2 beta alpha (1 - abar)) beta of each step
    np.testing.assert_allclose(large.weights[1:], betas[1:] / (alphas[1:] * (1 - kept[1:])), rtol=1e-9)


def test_single_precision_is_enough():
    """A thousand levels in float32 against float64: within 5e-5 nats a dimension."""
    exact = levels_of(np.linspace(1e-4, 0.02, 1000))
    errors = np.random.default_rng(0).uniform(0, 1, 1000) / (1 + np.exp(-exact))

    @jax.jit
    def value(levels, errors):
        rules = [rule(levels) for rule in RULES.values()]
        return [made.log_density(jnp.full((1, 1), 0.7), errors[None])[0] for made in rules]

    single = value(np.float32(exact), np.float32(errors))
    with jax.enable_x64(True):
        np.testing.assert_allclose(single, value(exact, errors), atol=5e-5)


def test_the_trapezoid_integrates_a_gaussian(float64):
    """N(0.3, 1/4) at x = 1.1 from 40 levels, in steps of a half: what is left is e^-2|lambda| at the ends."""
    levels = jnp.linspace(10.0, -10.0, 41)
    alpha2, sigma2 = np.array(jax.nn.sigmoid(levels)), np.array(jax.nn.sigmoid(-levels))
    total = 0.25 * alpha2 + sigma2
    errors = (0.25 * alpha2 / total) ** 2 + alpha2 * sigma2 * 0.8**2 / total**2
    run = jax.jit(lambda errors: discretized.trapezoid(levels).log_density(jnp.array([[1.1]]), errors[None]))
    np.testing.assert_allclose(run(errors), stats.norm(0.3, 0.5).logpdf(1.1), atol=2e-6)


def test_the_left_rule_does_not_converge_on_a_linear_table(float64):
    """On N(0, I), where E|r|^2 is d sigmoid(lambda) in the mean: -gamma / 2 a dimension, at 1e5 steps."""
    levels = levels_of(np.linspace(1e-6, 2e-4, 100_000))
    made = jax.jit(discretized.left)(jnp.asarray(levels))
    value = made.constant - 0.5 * np.sum(made.weights / (1 + np.exp(-levels)))
    assert abs(value + 0.5 * np.log(2 * np.pi * np.e) + np.euler_gamma / 2) < 0.01


# --- the estimator -----------------------------------------------------------------------------------------

LAW = [[0.4, 0.6], [[-1.0, 0.3], [1.1, -0.2]], [0.1, 0.2]]
X = np.array([[0.2, 0.1], [1.4, -0.9]])


def test_the_estimate_is_unbiased_with_honest_errors(float64):
    """Against quadrature, over 300 keys and two rows."""
    schedule, law = Cosine(), GaussianMixture(*map(jnp.asarray, LAW))
    times = jnp.linspace(0.02, 0.98, 12)
    alpha, sigma = (np.asarray(jax.vmap(f)(times)) for f in (schedule.alpha, schedule.sigma))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    noise = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    weights = np.multiply.outer(weights, weights).ravel() / weights.sum() ** 2
    errors = np.empty((2, 12))
    for k, (a, s) in enumerate(zip(alpha, sigma, strict=True)):
        x_t = a * X[:, None] + s * noise
        variances = a**2 * np.array(LAW[2]) + s**2
        u = x_t[..., None, :] - a * np.array(LAW[1])
        logits = np.log(LAW[0]) - 0.5 * (u**2).sum(-1) / variances - np.log(variances)
        chance = np.exp(logits - logits.max(-1, keepdims=True))
        chance /= chance.sum(-1, keepdims=True)
        r = noise - ((chance / variances)[..., None] * u).sum(-2) * s
        errors[:, k] = (r**2).sum(-1) @ weights

    rule = RULES["larger variance"]
    wanted = rule(2 * jnp.log(alpha / sigma)).log_density(jnp.asarray(X), jnp.asarray(errors))

    denoise = Shaped(law, (1, 2, 1)).denoiser(schedule)

    @jax.jit
    def run(key):
        x = jnp.asarray(X).reshape(2, 1, 2, 1)
        return discretized.discretized_formula(
            key, denoise, x, times, evaluations=Evaluations(12 * 24), rule=rule
        )

    got = jax.jit(lambda keys: jax.lax.map(run, keys))(jax.random.split(jax.random.key(0), 300))
    value = np.asarray(got.value)
    assert (abs(value.mean(0) - wanted) < 4 * value.std(0) / 300**0.5).all()
    covered = (abs(value - wanted[None]) < 1.96 * got.standard_error).mean()
    assert 0.91 < covered < 0.98  # a standard error of 0.9 % on 600 intervals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluations": Evaluations(7)}, "evaluations.number must be an integer of at least 24"),
        ({"times": jnp.array([0.5, 0.2])}, "low to high noise"),
        ({"rule": lambda levels: discretized.left(levels[1:])}, r"weights must have shape \(2,\)"),
        ({"evaluations": Evaluations(time_density=TimeDensity())}, "time_density has no use"),
    ],
)
def test_bad_input_is_refused(change, words):
    def denoise(x, t):
        pytest.fail("the denoiser was called, or traced, on bad input")

    good = {"x": X, "times": jnp.array([0.2, 0.5]), "evaluations": Evaluations(24)}
    with pytest.raises(ValueError, match=words):
        discretized.discretized_formula(
            jax.random.key(0), as_denoiser(denoise, Cosine(), shape=(2,)), **{**good, **change}
        )
