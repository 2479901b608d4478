"""The linear denoiser of a Gaussian, against its formula in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.laws import gaussian
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Cosine, Karras, RectifiedFlow

D = 16
RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=D)
BASIS = np.linalg.qr(RNG.normal(size=(D, D)))[0]
VALUES = np.geomspace(1e-4, 10, D)


def law(kind):
    mean, values = jnp.asarray(MEAN, float), jnp.asarray(VALUES, float)
    spectra = {
        "full": Spectrum(values, jnp.asarray(BASIS, float)),
        "diagonal": Spectrum(values),
        "isotropic": Spectrum(jnp.ones(1)),
    }
    return Gaussian(mean, spectra[kind])


def wanted(kind, x, alpha, sigma):
    """The conditional means of a joint Gaussian, by its covariance matrices; alpha and sigma one for each row."""
    covariance = {"full": (BASIS * VALUES) @ BASIS.T, "diagonal": np.diag(VALUES), "isotropic": np.eye(D)}[
        kind
    ]
    data, noise = [], []
    for row, a, s in zip(np.float64(x), alpha, sigma, strict=True):
        solved = np.linalg.solve(a**2 * covariance + s**2 * np.eye(D), row - a * MEAN)
        data.append(MEAN + a * covariance @ solved)
        noise.append(s * solved)
    return np.array(data), np.array(noise)


def relative(got, wanted):
    return (np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max()


# sigma / alpha from 1e-3 to 1e3, and where the two ways of finding the means meet, sigma^2 = 10 alpha^2.
RATIOS = np.concatenate([np.geomspace(1e-3, 1e3, 13), np.sqrt(10.0) * np.array([0.99, 1.01])])
TIMES = np.float32(RATIOS / (1 + RATIOS))
ALPHA, SIGMA = 1 - np.float64(TIMES), np.float64(TIMES)  # of RectifiedFlow


@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
def test_both_means_keep_their_digits_at_every_level(kind):
    """In float32: noise at sigma = 1e-3 and data at alpha = 1e-3, neither by a subtraction that loses them."""
    values = VALUES if kind != "isotropic" else np.ones(D)
    z = RNG.normal(size=(len(TIMES), D)) * np.sqrt(ALPHA[:, None] ** 2 * values + SIGMA[:, None] ** 2)
    x = jnp.asarray(ALPHA[:, None] * MEAN + (z @ BASIS.T if kind == "full" else z), jnp.float32)
    run = jax.jit(lambda law, x, t: law.denoiser(RectifiedFlow())(x, t))
    parts = [run(law(kind), x[i : i + 1], t) for i, t in enumerate(TIMES)]
    alone = jax.tree.map(lambda *parts: np.concatenate(parts), *parts)
    data, noise = wanted(kind, x, ALPHA, SIGMA)
    for got in (run(law(kind), x, TIMES), alone):
        # The rounding of x alone is 1e-5 of the noise at sigma = 1e-3; a subtraction would lose 1e-3 of it.
        assert relative(got.data, data) < 5e-5
        assert relative(got.noise, noise) < 5e-5


@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
def test_no_signal_and_no_noise(kind, float64):
    """At alpha = 0 data are the mean, at sigma = 0 data are x; and no derivative is lost there."""
    denoise = law(kind).denoiser(RectifiedFlow())
    x = jnp.asarray(RNG.normal(size=(3, D)))
    end, start = denoise(x, 1.0), denoise(x, 0.0)
    np.testing.assert_allclose(end.data, np.broadcast_to(MEAN, (3, D)), rtol=1e-12)
    np.testing.assert_allclose(end.noise, x, rtol=1e-12)
    np.testing.assert_allclose(start.data, x, rtol=1e-12)
    np.testing.assert_allclose(start.noise, 0, atol=1e-12)
    step = 1e-6
    for t, inside in ((1.0, 1 - step), (0.0, step)):
        slope = jax.jacfwd(lambda t: jnp.stack(denoise(x, t)))(t)
        difference = (jnp.stack(denoise(x, t)) - jnp.stack(denoise(x, inside))) / (t - inside)
        back = jax.grad(lambda t: jnp.sum(jnp.stack(denoise(x, t)) ** 2))(t)
        assert np.isfinite(back)
        # the covariance's smallest eigenvalue, 1e-4, curves it near t = 0
        np.testing.assert_allclose(slope, difference, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("t", [0.5, np.full(64, 0.5, np.float32)], ids=["scalar", "rows"])
def test_two_matrix_products_for_a_batch(t):
    for schedule in (Karras(), Cosine()):
        program = str(
            jax.make_jaxpr(lambda x, t, s=schedule: law("full").denoiser(s)(x, t))(jnp.zeros((64, D)), t)
        )
        assert program.count("dot_general") == 2


def test_a_second_call_compiles_nothing():
    x = jnp.ones((5, D))
    law("full").denoiser(Karras())(x, 0.5)
    before = gaussian._linear_means._cache_size()
    other = Gaussian(jnp.asarray(MEAN + 1, jnp.float32), law("full").covariance)
    other.denoiser(Karras())(2 * x, 0.7)
    assert gaussian._linear_means._cache_size() == before
