"""The rotation curve against closed forms, dense Jacobians, and the gap between flow and formula itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.densities.conservativity import RotationCurve, rotation_curve
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.flow import probability_flow
from jaxdiff.densities.formula import density_formula
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras, VariancePreserving
from jaxdiff.typing import Denoised

KEY = jax.random.key(0)
VP = VariancePreserving()


def with_error(law, error, schedule=VP, shape=None):
    """The law's denoiser with error(x, alpha, sigma) added to its noise, for one x and scalars."""
    exact = law.denoiser(schedule)

    def one(x, noise, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        noise = noise + error(x, alpha, sigma)
        return Denoised((x - sigma * noise) / alpha, noise)

    def answer(x, t):
        return jax.vmap(one, in_axes=(0, 0, 0 if jnp.ndim(t) else None))(x, exact(x, t).noise, t)

    return as_denoiser(answer, schedule, shape=law.shape if shape is None else shape, scale=float(law.scale))


def antisymmetric(d, seed=0):
    matrix = np.random.default_rng(seed).standard_normal((d, d))
    return (matrix - matrix.T) / 2


@functools.cache
def grid(schedule, n=48):
    return times.log_snr_grid(schedule, n)[::-1]


def test_a_turn_costs_the_formula_what_the_curve_says_and_the_flow_nothing(float64):
    """e alpha sigma R x, R a quarter turn in d = 8: e^2 d / 2 nats, 1.5 at e^2 = 3/8, at any x e^2 (|x|^2 + d) / 4."""
    turn = np.kron(np.eye(4), [[0.0, -1.0], [1.0, 0.0]])
    law, e = Gaussian(jnp.zeros(8), 1.0), np.sqrt(3 / 8)
    denoise = with_error(law, lambda x, alpha, sigma: e * alpha * sigma * (jnp.asarray(turn) @ x))
    x = law.sample(KEY, 40)
    curve = rotation_curve(KEY, denoise, x, grid(VP))
    np.testing.assert_allclose(curve.nats, 1.5, rtol=2e-3)  # signs see a turn without error
    np.testing.assert_allclose(
        curve.squared_rotation[0],
        3 * jax.nn.sigmoid(curve.log_snr) * jax.nn.sigmoid(-curve.log_snr),
        rtol=1e-6,
    )
    flow = probability_flow(KEY, denoise, x, grid(VP), num_probes=1).value
    np.testing.assert_allclose(flow, law.log_prob(x), atol=1e-3)
    got = density_formula(KEY, denoise, x, evaluations=Evaluations(400))
    wanted = law.log_prob(x) - e**2 * (jnp.sum(x**2, axis=1) + 8) / 4
    assert abs(np.mean(got.value - wanted)) < 4 * np.std(got.value - wanted) / 40**0.5
    assert np.std(got.value - wanted) < 0.5


VARIANCES = np.asarray([0.05, 0.3, 1.0, 2.0])


@pytest.mark.parametrize("turned", [False, True])
def test_unequal_variances(turned, float64):
    """f = e alpha sigma W Q^-1 x keeps N(0, Q): its length in closed form, in the axes and turned away from them."""
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0] if turned else np.eye(4)
    covariance, w, e = basis @ np.diag(VARIANCES) @ basis.T, antisymmetric(4), 0.4
    law = Gaussian(jnp.zeros(4), jnp.asarray(covariance))

    def error(x, alpha, sigma):
        return e * alpha * sigma * (w @ jnp.linalg.solve(alpha**2 * covariance + sigma**2 * jnp.eye(4), x))

    x = law.sample(KEY, 300)
    curve = rotation_curve(KEY, with_error(law, error), x, grid(VP), data_covariance=covariance, num_probes=2)
    levels = np.asarray(curve.log_snr)
    signal = 1 / (1 + np.exp(-levels))  # alpha^2, as the schedule preserves variances
    wanted = [
        e**2 * a * (1 - a) * np.trace(w @ np.linalg.inv(a * covariance + (1 - a) * np.eye(4)) @ w.T)
        for a in signal
    ]
    got = np.asarray(curve.squared_rotation)
    assert (np.abs(got.mean(0) - wanted) < 4.5 * got.std(0) / 300**0.5).all()
    nats = integrate.trapezoid(wanted[::-1], levels[::-1]) / 2
    assert abs(np.mean(curve.nats) - nats) < 4 * np.std(curve.nats) / 300**0.5 < 0.1 * nats


def test_dense_jacobians(float64):
    """Any error, in 8 dimensions, two images of two rows: sum_ij h_ij A_ij^2 of the dense Jacobian, at the same points."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((8, 8)) / 3, rng.standard_normal((8, 8)) / 3
    basis = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    variances = np.linspace(0.1, 2, 8)
    covariance = basis @ np.diag(variances) @ basis.T
    law = Gaussian(jnp.zeros(8), jnp.asarray(covariance))
    denoise = with_error(law, lambda x, alpha, sigma: alpha * second @ jnp.tanh(first @ x))
    x = law.sample(KEY, 1)
    ts = jnp.asarray([0.1, 0.5])
    many = rotation_curve(
        KEY, denoise, jnp.tile(x, (4000, 1)), ts, data_covariance=covariance
    ).squared_rotation

    def dense(x, t):
        jacobian = jax.jacfwd(lambda x: denoise(x[None], t[None]).noise[0])(x)
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        c = alpha**2 * variances + sigma**2
        skew = basis.T @ (jacobian - jacobian.T) @ basis / 2
        return jnp.sum(2 * c[:, None] * c[None] / (c[:, None] + c[None]) * skew**2)

    noise, mean = jax.random.normal(jax.random.key(1), (4000, 8)), jax.jit(jax.vmap(dense, (0, None)))
    for i, t in enumerate(ts):
        wanted = mean(VP.alpha(t) * x + VP.sigma(t) * noise, t)
        error = np.hypot(np.std(many[:, i]), np.std(wanted)) / 4000**0.5
        assert abs(np.mean(many[:, i]) - np.mean(wanted)) < 4 * error < 0.2 * np.mean(wanted)


@pytest.mark.parametrize("schedule", [VP, Karras()])
def test_a_law_does_not_turn(schedule, float64):
    law = GaussianMixture(
        jnp.asarray([0.3, 0.7]), jnp.asarray([[1.0, 0.0, 2.0], [-1.0, 1.0, 0.0]]), jnp.asarray([0.1, 0.2])
    )
    curve = rotation_curve(KEY, law.denoiser(schedule), law.sample(KEY, 10), grid(schedule))
    assert np.max(curve.squared_rotation) < 1e-20


def test_rows_go_with_their_conditions_and_do_not_depend_on_others(float64):
    def answer(x, t, strength):
        noise = strength[:, None] * x @ jnp.asarray([[0.0, 1.0], [-1.0, 0.0]])
        return Denoised(x, noise)

    denoise = as_denoiser(answer, VP, shape=(2,), scale=1.0)
    strengths, x = jnp.asarray([0.0, 1.0, 2.0]), jax.random.normal(KEY, (3, 2))
    curve = rotation_curve(KEY, denoise.given(strengths), x, grid(VP, 4), rows_per_call=5)
    np.testing.assert_allclose(
        curve.squared_rotation, 2 * strengths[:, None] ** 2 * jnp.ones((1, 5)), rtol=1e-6
    )
    denoise = with_error(Gaussian(jnp.zeros(2), 1.0), lambda x, alpha, sigma: x[::-1] * jnp.sin(x))
    both, one = (rotation_curve(KEY, denoise, x[:n], grid(VP, 4)).squared_rotation for n in (3, 1))
    np.testing.assert_allclose(both[:1], one, rtol=1e-6)


def test_the_integral_is_half_of_the_curve():
    curve = RotationCurve(jnp.asarray([4.0, 2.0, -1.0]), jnp.asarray([[1.0, 3.0, 0.0]]))
    np.testing.assert_allclose(curve.nats, [0.5 * (2 * 2 + 3 * 1.5)])
