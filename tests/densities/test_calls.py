"""What every density promises of its calls: conditions by row, precision, one compilation, no missed data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compilations, few_of

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.densities.adaptive_flow import adaptive_probability_flow
from jaxdiff.densities.discretized import discretized_formula
from jaxdiff.densities.elbo import elbo
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.flow import probability_flow
from jaxdiff.densities.formula import density_formula, log_density_increment, noise_level_curve
from jaxdiff.densities.log_density import log_density
from jaxdiff.guidance.classifier_free import guided
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import LinearVariance
from jaxdiff.typing import Denoised

SCHEDULE, KEY = LinearVariance(), jax.random.key(0)
LAW = jnp.asarray([0.4, 0.6]), jnp.asarray([[0.3, -0.5], [0.8, 0.6]])
MIXTURE = GaussianMixture(*LAW, jnp.asarray([0.2, 0.5]))
X = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2)), jnp.float32)


def by_label(x, t, label):
    """N(label, 1/4 + label / 4), row by row."""

    def one(x, t, label):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        variance = 0.25 + label / 4
        off = (x - alpha * label) / (alpha**2 * variance + sigma**2)
        return Denoised(label + alpha * variance * off, sigma * off)

    return jax.vmap(one)(x, jnp.broadcast_to(t, x.shape[:1]), label)


LABELS = np.array([0.0, 1.0, 2.0, 0.0, 2.0], np.float32)
CALLS = {
    "formula": lambda denoise, x: density_formula(
        KEY,
        denoise,
        x,
        evaluations=Evaluations(
            40,
            bytes_per_call=2000,
        ),
    ),
    "increment": lambda denoise, x: log_density_increment(
        KEY,
        denoise,
        x,
        0.1,
        0.7,
        evaluations=Evaluations(
            40,
            bytes_per_call=2000,
        ),
    ),
    "curve": lambda denoise, x: noise_level_curve(
        KEY,
        denoise,
        x,
        jnp.asarray([0.1, 0.5]),
        evaluations=Evaluations(
            64,
            bytes_per_call=2000,
        ),
    )[1:],
    "elbo": lambda denoise, x: elbo(
        KEY, denoise, x, jnp.linspace(0.1, 0.9, 4), num_paths=3, bytes_per_call=1000, data_covariance=0.5
    ),
    "discretized": lambda denoise, x: discretized_formula(
        KEY,
        denoise,
        x,
        jnp.linspace(0.1, 0.9, 3),
        evaluations=Evaluations(
            72,
            bytes_per_call=2000,
        ),
    ),
    "flow": lambda denoise, x: probability_flow(KEY, denoise, x, num_probes=2),
    "log_density": lambda denoise, x: log_density(KEY, denoise, x),
    "adaptive": lambda denoise, x: adaptive_probability_flow(KEY, denoise, x, max_steps=40),
}


@pytest.mark.parametrize("name", few_of(CALLS, ["formula", "flow"]))
def test_conditions_by_row(name):
    """A label for each row, bound also inside of guidance: what each label alone gives to its rows."""
    denoise = as_denoiser(by_label, SCHEDULE, shape=(2,), scale=1.0)
    x, call = X, CALLS[name]
    got = call(denoise.given(LABELS), x)
    inside = call(guided(denoise.given(LABELS), 1.0, unconditional=denoise.given(LABELS[::-1])), x)
    for label in (0.0, 1.0, 2.0):
        wanted, rows = call(denoise.given(label), x), label == LABELS
        for part, nested, alone in zip(got, inside, wanted, strict=True):
            np.testing.assert_allclose(part[rows], alone[rows], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(nested[rows], alone[rows], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="a condition must have one row for each of the 5 of x"):
        call(denoise.given(LABELS[:4]), x)
    with pytest.raises(ValueError, match="a condition must have one row for each of the 5 of x"):
        call(guided(denoise.given(LABELS[:4]), 1.0, unconditional=denoise), x)


@pytest.mark.parametrize("name", few_of(CALLS, ["formula", "flow"]))
def test_low_precision_data(name):
    """The answer for bfloat16 data is that of the same numbers in float32."""
    denoise = MIXTURE.denoiser(SCHEDULE)
    x = X[:3].astype(jnp.bfloat16)
    for got, wanted in zip(CALLS[name](denoise, x), CALLS[name](denoise, x.astype(jnp.float32)), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_compiles_nothing(name):
    """With new data and new parameters, eagerly."""

    def call(seed):
        law = GaussianMixture(*LAW, jnp.asarray([0.2, 0.5 + seed]))
        return lambda: CALLS[name](law.denoiser(SCHEDULE), X[:3] + seed)

    call(0.0)()
    assert compilations(call(1.0)) == 0


@pytest.mark.parametrize("name", ["formula", "flow", "adaptive"])
def test_data_that_are_left_are_never_missed(name):
    """Refused where they are known, inside of jit too; NaN where the denoiser is traced."""
    x, short = X[:3], dataclasses.replace(MIXTURE.denoiser(SCHEDULE), t_max=0.9)
    with pytest.raises(ValueError, match="wanted less than -4"):
        CALLS[name](short, x)
    with pytest.raises(ValueError, match="wanted less than -4"):
        jax.jit(lambda x: CALLS[name](short, x))(x)
    # The scale is traced: in its unit little is left of data of a tenth of the size.
    run = jax.jit(lambda denoise, x: CALLS[name](denoise, x))
    assert np.isnan(run(short, x).value).all()
    small = dataclasses.replace(MIXTURE.affine(0.05, 0.0).denoiser(SCHEDULE), t_max=0.9)
    assert np.isfinite(run(small, 0.05 * x).value).all()
