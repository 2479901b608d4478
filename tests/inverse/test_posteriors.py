"""Posterior denoisers against exact posteriors of Gaussian and mixture priors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, few_of, interior

from jaxdiff import inverse
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.laws import metrics
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras, RectifiedFlow
from jaxdiff.sampling.driver import sample
from jaxdiff.typing import Denoised

RNG = np.random.default_rng(2)
A = RNG.standard_normal((2, 4))
Y = np.asarray([0.7, -0.4])
STD = 0.3
X = RNG.standard_normal((5, 4))
MEAN = RNG.standard_normal(4)
ROOT = RNG.standard_normal((4, 4))
COVARIANCES = {
    "full": ROOT @ ROOT.T / 4 + 0.1 * np.eye(4),
    "diagonal": np.diag([0.2, 1.0, 0.5, 2.0]),
    "isotropic": 0.7 * np.eye(4),
}


def conditioned(mean, covariance, a=A, y=Y, std=STD):
    """Mean and covariance of N(mean, covariance) given y = a x + std noise, by NumPy."""
    gain = covariance @ a.T @ np.linalg.inv(a @ covariance @ a.T + std**2 * np.eye(len(a)))
    posterior = covariance - gain @ a @ covariance
    return mean + gain @ (y - a @ mean), (posterior + posterior.T) / 2


def projection():
    return inverse.linear(lambda x: jnp.asarray(A, x.dtype) @ x, (4,))


METHODS = {
    "mmps": (inverse.mmps, "full"),
    "tmpd": (inverse.tmpd, "diagonal"),
    "pigdm": (inverse.pigdm, "isotropic"),
    "diffpir": (inverse.diffpir, "isotropic"),
}


@pytest.mark.parametrize(
    "name", few_of(["vp", "rectified_flow", "karras", "cosine"], few=("vp", "rectified_flow"))
)
@pytest.mark.parametrize(("method", "kind"), METHODS.values(), ids=METHODS)
def test_a_method_is_exact_for_its_gaussians(method, kind, name, float64):
    case = CASES[name]
    t = jnp.full(5, interior(case)[3])
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCES[kind])).denoiser(case.schedule)
    got = method(denoise, projection(), jnp.asarray(Y), STD)(jnp.asarray(X), t)
    mean, covariance = conditioned(MEAN, COVARIANCES[kind])
    wanted = Gaussian(jnp.asarray(mean), jnp.asarray(covariance)).denoiser(case.schedule)(jnp.asarray(X), t)
    np.testing.assert_allclose(got.data, wanted.data, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got.noise, wanted.noise, rtol=1e-6, atol=1e-8)


def test_dps_moves_by_the_gradient_of_the_distance(float64):
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCES["full"])).denoiser(Karras())
    x, t = jnp.asarray(X), 0.8

    def distance(x):
        return -jnp.sqrt(((Y[None] - denoise(x, t).data @ A.T) ** 2).sum(1)).sum()

    got = inverse.dps(denoise, projection(), jnp.asarray(Y), step=0.5)(x, t)
    np.testing.assert_allclose(got.noise, denoise(x, t).noise - t * 0.5 * jax.grad(distance)(x), rtol=1e-8)


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_an_adjoint_is_one(shape):
    size = int(np.prod(shape))
    matrix = RNG.standard_normal((3, size)).astype(np.float32)
    operator = inverse.linear(lambda x: jnp.asarray(matrix) @ x.reshape(-1), shape)
    x, y = jnp.asarray(RNG.standard_normal((2, *shape))), jnp.asarray(RNG.standard_normal((2, 3)))
    np.testing.assert_allclose(
        operator.apply(x), np.asarray(x).reshape(2, -1) @ matrix.T, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        operator.adjoint(y).reshape(2, -1), np.asarray(y) @ matrix, rtol=1e-4, atol=1e-5
    )


def test_a_mask_takes_what_is_kept():
    kept = np.asarray([[True, False, True], [False, False, True]])
    operator, x = inverse.mask(kept), jnp.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(operator.apply(x), np.asarray(x)[:, kept])
    assert operator.observed == (3,)
    back = np.zeros((1, 2, 3))
    back[0][kept] = [1, 2, 3]
    np.testing.assert_array_equal(operator.adjoint(jnp.asarray([[1.0, 2.0, 3.0]])), back)


@pytest.mark.parametrize("method", [inverse.mmps, inverse.tmpd])
def test_a_jacobian_that_no_denoiser_has_leaves_the_answer_finite(method):
    """Of a network whose estimates fall with x and turn: what moves the score is bounded by the noise."""
    turn = jnp.asarray([[-3.0, 5.0], [-5.0, -3.0]])

    def estimate(x, t):
        data = x @ turn.T
        return Denoised(data, (x - data) / t.reshape(-1, 1) if jnp.ndim(t) else (x - data) / t)

    denoise = as_denoiser(estimate, Karras(), shape=(2,))
    operator, x = inverse.linear(lambda x: x, (2,)), jnp.asarray(X[:, :2], jnp.float32)
    got = method(denoise, operator, jnp.asarray([0.5, -0.2]), 0.1, num_iterations=8)(x, jnp.full(5, 0.7))
    assert np.isfinite(got.data).all()
    residual = np.abs(np.asarray([[0.5, -0.2]]) - x @ turn.T).max()
    moved = np.abs(got.data - x @ turn.T).max()
    assert moved < 0.7**2 * 8 * residual / 0.1**2 * 8  # |turn| t^2 r / std^2 a step, of eight


def test_without_signal_it_is_the_prior():
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCES["full"])).denoiser(RectifiedFlow())
    got = inverse.mmps(denoise, projection(), jnp.asarray(Y), STD)(jnp.asarray(X), 1.0)
    np.testing.assert_array_equal(got.data, denoise(jnp.asarray(X), 1.0).data)


@pytest.mark.parametrize("method", ["mmps", "tmpd", "pigdm", "diffpir", "dps"])
def test_what_sees_nothing_is_the_prior_bit_for_bit(method):
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCES["full"])).denoiser(Karras())
    blind = inverse.linear(lambda x: 0 * x[:2], (4,))
    arguments = () if method == "dps" else (STD,)
    got = getattr(inverse, method)(denoise, blind, jnp.asarray(Y), *arguments)(jnp.asarray(X), 0.7)
    jax.tree.map(np.testing.assert_array_equal, got, denoise(jnp.asarray(X), 0.7))


def test_rows_do_not_see_each_other():
    denoise = Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCES["full"])).denoiser(Karras())
    posterior = inverse.mmps(denoise, projection(), jnp.asarray(Y), STD)
    whole = posterior(jnp.asarray(X), 0.5).data
    far = posterior(jnp.asarray(X).at[0].set(1e3), 0.5).data
    np.testing.assert_array_equal(whole[1:], far[1:])


MIXTURE = GaussianMixture(
    jnp.asarray([0.4, 0.6]), jnp.asarray([[1.0, 1.0], [-1.0, 0.5]]), jnp.asarray([0.15, 0.3])
)


def exact_draws(n, a, y, std, seed=5):
    """Of the mixture given y, in NumPy: each component conditioned, weighed by the density of y."""
    rng, parts = np.random.default_rng(seed), []
    for w, m, v in zip(MIXTURE.weights, np.asarray(MIXTURE.means), [0.15, 0.3], strict=True):
        spread = (a @ a.T).item() * v + std**2
        density = w * np.exp(-((y - a @ m)[0] ** 2) / (2 * spread)) / np.sqrt(spread)
        parts.append((float(density), *conditioned(m, v * np.eye(2), a, y, std)))
    weights = np.asarray([p[0] for p in parts]) / sum(p[0] for p in parts)
    counts = rng.multinomial(n, weights)
    return np.concatenate(
        [rng.multivariate_normal(m, c, k) for k, (_, m, c) in zip(counts, parts, strict=True)]
    )


def distances(num_steps=50, n=2000):
    """Sliced W2 to exact draws of every method, of the prior, and of exact draws themselves."""
    a, y = np.asarray([[1.0, 0.3]]), np.asarray([0.2])
    wanted = jnp.asarray(exact_draws(n, a, y, STD))
    denoise = MIXTURE.denoiser(Karras())
    seen = (inverse.linear(lambda x: jnp.asarray(a, x.dtype) @ x, (2,)), jnp.asarray(y), STD)
    made = {
        "prior": denoise,
        "dps": inverse.dps(denoise, *seen[:2]),
        **{name: method(denoise, *seen) for name, (method, _) in METHODS.items()},
    }
    draws = {name: sample(jax.random.key(3), d, n, num_steps=num_steps) for name, d in made.items()}
    draws["exact"] = jnp.asarray(exact_draws(n, a, y, STD, seed=6))
    far = lambda x: metrics.sliced_wasserstein(jax.random.key(0), x, wanted, num_projections=50)  # noqa: E731
    return {name: float(far(x)) for name, x in draws.items()}


@pytest.mark.slow
def test_mixtures_are_nearer_to_their_posterior_than_the_prior():
    got = distances()
    assert got["mmps"] < 0.25 * got["prior"], got
    assert got["mmps"] < got["pigdm"], got
    assert got["mmps"] < got["dps"], got
