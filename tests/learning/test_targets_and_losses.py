import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, gaussian_denoiser, interior

from jaxdiff.denoising import parameterizations
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning import losses, targets
from jaxdiff.typing import Denoised

MIXTURE = GaussianMixture(
    jnp.asarray([0.3, 0.7]), jnp.asarray([[1.0, 0.0], [-1.0, 0.5]]), jnp.asarray([0.1, 0.2])
)
N = 20_000


def mean_and_error(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std(ddof=1) / np.sqrt(values.size)


@pytest.mark.parametrize("target", [targets.denoising_target, targets.stable_target])
@pytest.mark.parametrize("name", NAMES)
def test_a_target_makes_up_its_x(name, target, float64):
    case = CASES[name]
    data = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)))
    for t in (jnp.asarray(interior(case, 6)), interior(case)[3]):
        x, got = target(jax.random.key(0), case.schedule, data, t)
        alpha, sigma = np.reshape(case.alpha(t), (-1, 1)), np.reshape(case.sigma(t), (-1, 1))
        np.testing.assert_allclose(alpha * got.data + sigma * got.noise, x, rtol=1e-6, atol=1e-9)


def test_the_denoising_target_has_the_exact_denoiser_as_its_conditional_mean():
    """E[(target - D) h(x)] = 0 for any h: checked for five of them, within standard errors."""
    schedule, t = CASES["karras"].schedule, 0.7
    data_key, key = jax.random.split(jax.random.key(1))
    x, target = targets.denoising_target(key, schedule, MIXTURE.sample(data_key, N), t)
    residual = target.data - MIXTURE.denoiser(schedule)(x, t).data
    for h in (jnp.ones_like, lambda x: x, jnp.sin, lambda x: x**2, lambda x: jnp.cos(3 * x)):
        mean, error = mean_and_error(residual * h(x))
        assert abs(mean) < 4 * error


@pytest.mark.parametrize("shape", [(3,), (2, 2, 1)], ids=["vectors", "images"])
def test_the_stable_target_is_the_posterior_mean_over_its_candidates(shape, float64):
    case = CASES["vp"]
    rng = np.random.default_rng(2)
    data, pool = rng.standard_normal((5, *shape)), rng.standard_normal((7, *shape))
    t = np.asarray([0.05, 0.2, 0.4, 0.7, 0.9])
    x, got = targets.stable_target(
        jax.random.key(0), case.schedule, jnp.asarray(data), jnp.asarray(t), pool=jnp.asarray(pool)
    )
    candidates = np.concatenate([data, pool]).reshape(12, -1)
    alpha, sigma = case.alpha(t)[:, None, None], case.sigma(t)[:, None, None]
    noise = (np.asarray(x).reshape(5, 1, -1) - alpha * candidates[None]) / sigma
    weight = np.exp(-0.5 * (noise**2).sum(2))
    weight /= weight.sum(1, keepdims=True)
    np.testing.assert_allclose(got.data, (weight @ candidates).reshape(x.shape), rtol=1e-8)
    wanted = (weight[..., None] * noise).sum(1).reshape(x.shape)
    np.testing.assert_allclose(got.noise, wanted, rtol=1e-8)


def test_the_stable_target_has_less_variance():
    schedule, t = CASES["karras"].schedule, 1.0
    data = MIXTURE.sample(jax.random.key(0), 2000)
    x, plain = targets.denoising_target(jax.random.key(1), schedule, data, t)
    _, stable = targets.stable_target(jax.random.key(1), schedule, data, t)
    exact = MIXTURE.denoiser(schedule)(x, t).data
    assert float(((stable.data - exact) ** 2).mean()) < 0.02 * float(((plain.data - exact) ** 2).mean())


def test_flow_matching_is_the_regression_in_the_flow_row():
    """On the straight path the loss is || prediction - (noise - data) ||^2 (arXiv 2210.02747, eq. 23)."""
    schedule = CASES["rectified_flow"].schedule
    data, t = jax.random.normal(jax.random.key(0), (8, 3)), jnp.linspace(0.1, 0.9, 8)
    x, target = targets.denoising_target(jax.random.key(1), schedule, data, t)

    def predict(params, x, t):
        return params * jnp.sin(x) + t[:, None]

    got = losses.regression_loss(
        predict, 0.7, schedule, x, target, t, parameterization=parameterizations.flow
    )
    wanted = ((np.asarray(predict(0.7, x, t)) - np.asarray(target.noise - data)) ** 2).sum(1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize("reference", [None, MIXTURE], ids=["own skip", "reference"])
@pytest.mark.parametrize("row", ["noise", "v", "edm"])
def test_the_loss_is_that_of_the_denoiser_made_of_the_same_parts(row, reference):
    """Training and use agree: the loss is the denoiser's squared noise error, under every row and skip."""
    from jaxdiff.denoising.denoisers import make_denoiser

    chosen = parameterizations.edm(0.6) if row == "edm" else getattr(parameterizations, row)
    schedule, t = CASES["vp"].schedule, jnp.linspace(0.1, 0.9, 16)
    data = MIXTURE.sample(jax.random.key(0), 16)
    x, target = targets.denoising_target(jax.random.key(1), schedule, data, t)

    def predict(params, x, t):
        return jnp.tanh(x @ params) + t[:, None]

    params = jax.random.normal(jax.random.key(2), (2, 2))
    got = losses.regression_loss(
        predict,
        params,
        schedule,
        x,
        target,
        t,
        parameterization=chosen,
        weight=parameterizations.noise.row,
        reference=reference,
    )
    denoise = make_denoiser(predict, params, schedule, parameterization=chosen, reference=reference)
    np.testing.assert_allclose(got, ((denoise(x, t).noise - target.noise) ** 2).sum(1), rtol=2e-3)


@pytest.mark.parametrize("weight", [parameterizations.noise.row, parameterizations.data.row])
def test_implicit_and_sliced_losses_have_the_denoising_loss_as_their_mean(weight):
    """Stein's identity, for a denoiser that is far from right, in the weight's units; within standard errors."""
    schedule, t = CASES["karras"].schedule, 0.8
    denoise = gaussian_denoiser(schedule, 0.3, 2.0)
    wrong = lambda x, t: Denoised(denoise(x, t).data, denoise(x, t).noise + 0.2 * jnp.sin(2 * x))  # noqa: E731
    x, target = targets.denoising_target(jax.random.key(1), schedule, MIXTURE.sample(jax.random.key(0), N), t)
    scale = 1.0 if weight is parameterizations.noise.row else t**2
    direct = scale * ((wrong(x, t).noise - target.noise) ** 2).sum(1)
    implicit = losses.implicit_loss(wrong, schedule, x, t, weight=weight)
    sliced = losses.sliced_loss(jax.random.key(2), wrong, schedule, x, t, num_probes=2, weight=weight)
    mean, error = mean_and_error(implicit - direct)
    assert abs(mean) < 4 * error
    mean, error = mean_and_error(sliced - implicit)
    assert error < 1e-4 or abs(mean) < 4 * error
    assert abs(direct.mean()) > 100 * error or error == 0


@functools.partial(jax.jit, static_argnames="loss")
def fitted(loss):
    """The minimizer over (a, b) of the loss of the linear noise estimate a x + b, by Newton's method."""
    schedule, t = CASES["karras"].schedule, 0.9
    data = 0.5 + 1.3 * jax.random.normal(jax.random.key(0), (N, 1))
    x, target = targets.denoising_target(jax.random.key(1), schedule, data, t)

    def objective(theta):
        predict = lambda theta, x, t: theta[0] * x + theta[1]  # noqa: E731
        estimate = lambda x, t: Denoised(x, predict(theta, x, t))  # noqa: E731
        if loss == "regression":
            values = losses.regression_loss(
                predict, theta, schedule, x, target, t, parameterization=parameterizations.noise
            )
        elif loss == "implicit":
            values = losses.implicit_loss(estimate, schedule, x, t)
        else:
            values = losses.sliced_loss(jax.random.key(2), estimate, schedule, x, t)
        return values.mean()

    theta = jnp.zeros(2)  # the objective is quadratic: one step
    return theta - jnp.linalg.solve(jax.hessian(objective)(theta), jax.grad(objective)(theta))


@pytest.mark.parametrize("loss", ["regression", "implicit", "sliced"])
def test_minimizers_are_the_true_noise_estimate(loss):
    slope = 0.9 / (1.3**2 + 0.9**2)  # E[noise | x] = sigma (x - mean) / (variance + sigma^2)
    np.testing.assert_allclose(fitted(loss), [slope, -0.5 * slope], atol=6 / np.sqrt(N))


def test_a_target_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"target.noise must have the shape of x, \(4, 2\), got \(4, 3\)"):
        losses.regression_loss(
            lambda p, x, t: x,
            None,
            CASES["vp"].schedule,
            jnp.ones((4, 2)),
            Denoised(jnp.ones((4, 2)), jnp.ones((4, 3))),
            0.5,
        )


def test_a_pool_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"pool must hold rows of shape \(2,\), got \(3,\)"):
        targets.stable_target(
            jax.random.key(0), CASES["vp"].schedule, jnp.ones((4, 2)), 0.5, pool=jnp.ones((4, 3))
        )
