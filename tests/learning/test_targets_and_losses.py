import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, compilations, few_of, gaussian_denoiser, interior
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning import losses, targets, weights
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras
from jaxdiff.typing import Denoised

MIXTURE = GaussianMixture(
    jnp.asarray([0.3, 0.7]), jnp.asarray([[1.0, 0.0], [-1.0, 0.5]]), jnp.asarray([0.1, 0.2])
)
N = 20_000


def mean_and_error(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std(ddof=1) / np.sqrt(values.size)


@pytest.mark.parametrize("target", [targets.denoising_target, targets.stable_target])
@pytest.mark.parametrize("name", few_of(NAMES))
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


def test_the_stable_target_of_half_precision_and_of_no_noise():
    """bfloat16 keeps its dtype and is the mean of float32 to its rounding; at sigma = 0 a datum is left alone."""
    schedule, t = Karras(), jnp.asarray([0.0, 0.3, 1.0, 5.0])
    images = jax.random.normal(jax.random.key(0), (4, 2, 2, 1)).astype(jnp.bfloat16)
    key = jax.random.key(1)
    x, got = targets.stable_target(key, schedule, images, t, pool=images + 1)
    assert x.dtype == got.data.dtype == got.noise.dtype == jnp.bfloat16
    plain_x, plain = targets.denoising_target(key, schedule, images, t)
    np.testing.assert_array_equal(x.astype(float), plain_x.astype(float))
    np.testing.assert_array_equal(got.data[0].astype(float), images[0].astype(float))
    np.testing.assert_array_equal(got.noise[0].astype(float), plain.noise[0].astype(float))
    candidates = np.concatenate([images, images + 1]).astype(np.float64).reshape(8, -1)
    noise = plain.noise.astype(jnp.float32)
    unrounded = np.asarray(images.astype(jnp.float32) + t.reshape(-1, 1, 1, 1) * noise, np.float64).reshape(
        4, -1
    )
    for row, u, mean in zip(
        unrounded[1:], np.asarray(t)[1:], np.asarray(got.data.astype(float))[1:], strict=True
    ):
        level = -0.5 * ((row - candidates) ** 2).sum(1) / u**2
        weight = np.exp(level - level.max())
        np.testing.assert_allclose(mean.ravel(), weight @ candidates / weight.sum(), atol=0.02)


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

    denoise = make_denoiser(predict, 0.7, schedule, shape=(3,), prediction=prediction.flow)
    got = losses.regression_loss(denoise, x, target, t)
    wanted = ((np.asarray(predict(0.7, x, t)) - np.asarray(target.noise - data)) ** 2).sum(1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def time_of(case, ratio):
    """The time at which sigma / alpha is ratio, from the reference functions."""
    return brentq(lambda t: np.log(case.sigma(t) / case.alpha(t) / ratio), case.t_min, case.t_max, xtol=1e-14)


def definitions(case, t, std=0.6):
    """alpha, sigma and the row of every prediction type at one time, from its definition, in NumPy."""
    alpha, sigma = float(case.alpha(t)), float(case.sigma(t))
    h = 1e-5 * t
    slopes = [(f(t + h) - f(t - h)) / (2 * h) for f in (case.alpha, case.sigma)]
    s = np.sqrt(alpha**2 * std**2 + sigma**2)
    # EDM's data = c_skip x + c_out F, solved for F (table 1 of the paper, with the schedule's scale)
    c_skip, c_out = std**2 * alpha / s**2, sigma * std / s
    return (alpha, sigma), {
        "data": (1.0, 0.0),
        "noise": (0.0, 1.0),
        "score": (0.0, -1 / sigma),
        "v": (-sigma, alpha),
        "flow": tuple(slopes),
        "edm": ((1 - c_skip * alpha) / c_out, -c_skip * sigma / c_out),
    }


TYPES = {name: getattr(prediction, name) for name in ("data", "noise", "score", "v", "flow")}
TYPES["edm"] = prediction.EDM(0.6)


@pytest.mark.parametrize("referenced", [False, True], ids=["own skip", "reference"])
@pytest.mark.parametrize("name", few_of(NAMES, ["vp", "rectified_flow"]))
def test_the_loss_is_the_squared_error_of_what_the_network_predicts(name, referenced, float64):
    """For each type and another weight (on the straight path every weight), in NumPy: at two times in one call.

    With its own weight it is |output - reading of what the skip leaves over|^2; with another, times the squared
    ratio of the determinants.
    """
    case, rng = CASES[name], np.random.default_rng(5)
    t = np.asarray([time_of(case, ratio) for ratio in (0.4, 1.7)])
    data, noise, output = rng.standard_normal((3, 2, 3))
    alpha, sigma = (np.asarray([f(u) for u in t]).reshape(-1, 1) for f in (case.alpha, case.sigma))
    x = alpha * data + sigma * noise
    mean, variance = np.asarray([0.2, -0.1, 0.5]), np.asarray([0.4, 0.9, 2.0])
    reference = Gaussian(mean, variance) if referenced else None
    total = alpha**2 * variance + sigma**2
    skip = (mean + alpha * variance / total * (x - alpha * mean), sigma / total * (x - alpha * mean))

    def predict(params, x, t):
        return params

    others = dict(zip(TYPES, [*TYPES][1:] + [*TYPES][:1], strict=True))
    for kind, chosen in TYPES.items():
        denoise = make_denoiser(
            predict,
            jnp.asarray(output),
            case.schedule,
            shape=(3,),
            prediction=chosen,
            reference=reference,
            t_max=case.t_max,
        )
        got = {
            weight: losses.regression_loss(
                denoise,
                jnp.asarray(x),
                Denoised(jnp.asarray(data), jnp.asarray(noise)),
                jnp.asarray(t),
                weight=None if weight == "own" else TYPES[weight].row,
            )
            for weight in ("own", *(TYPES if name == "rectified_flow" else [others[kind]]))
        }
        for i, u in enumerate(t):
            (a, s), rows = definitions(case, u)
            left = (data[i] - skip[0][i], noise[i] - skip[1][i]) if referenced else (data[i], noise[i])
            own = rows[kind]
            error = output[i] - own[0] * left[0] - own[1] * left[1]
            for weight, values in got.items():
                row = own if weight == "own" else rows[weight]
                ratio = (a * row[1] - s * row[0]) / (a * own[1] - s * own[0])
                assert values[i] == pytest.approx(ratio**2 * (error**2).sum(), rel=2e-6)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_denoising_loss_is_at_edms_times_in_the_networks_own_row(scale, float64):
    """Times and noise from the key alone: quantiles of the normal cut off at both ends, in NumPy."""
    n, low, high = 64, 0.01, 2.0
    schedule, key = Karras(), jax.random.key(3)
    data = scale * np.random.default_rng(0).standard_normal((n, 2))

    def predict(params, x, t):
        return params * x

    denoise = make_denoiser(
        predict, jnp.float64(0.7), schedule, shape=(2,), scale=scale, t_min=low, t_max=high
    )
    got = losses.denoising_loss(key, denoise, jnp.asarray(data))
    time_key, noise_key = jax.random.split(key)
    u = np.asarray(times.stratified(time_key, n))
    ends = [ndtr((np.log(end) - np.log(scale) + 0.5) / 1.2) for end in (low, high)]
    t = np.exp(np.log(scale) - 0.5 + 1.2 * ndtri(ends[0] + (ends[1] - ends[0]) * u))
    noise = np.asarray(
        targets.denoising_target(noise_key, schedule, jnp.asarray(data), jnp.asarray(t))[1].noise
    )
    x = data + t[:, None] * noise
    s = np.hypot(scale, t)[:, None]
    # F of EDM's table 1, from D = c_skip x + c_out F: the network's answer is 0.7 c_in x
    wanted = (data - scale**2 / s**2 * x) / (t[:, None] * scale / s)
    np.testing.assert_allclose(got, ((0.7 * x / s - wanted) ** 2).sum(1), rtol=1e-6)
    assert np.log(t).std() > 0.5


def test_gradients_reach_the_parameters():
    """Of all losses; for a linear network and one row that of the denoising loss is known."""
    schedule, data = Karras(), jax.random.normal(jax.random.key(0), (16, 2))

    def model(params):
        return make_denoiser(lambda p, x, t: x @ p["w"] + p["b"], params, schedule, shape=(2,))

    params = {"w": 0.1 * jnp.eye(2), "b": jnp.zeros((1, 2))}
    x, target = targets.denoising_target(jax.random.key(1), schedule, data, 0.7)
    key = jax.random.key(2)
    for loss in (
        lambda d: losses.denoising_loss(key, d, data),
        lambda d: losses.regression_loss(d, x, target, 0.7),
        lambda d: losses.implicit_loss(d, x, 0.7),
        lambda d: losses.sliced_loss(key, d, x, 0.7),
    ):
        values, pull = jax.vjp(lambda params, loss=loss: loss(model(params)), params)
        assert values.shape == (16,)
        (gradient,) = pull(jnp.ones(16))
        assert all((np.abs(leaf) > 1e-3).any() for leaf in jax.tree.leaves(gradient))
    s = np.hypot(1.0, 0.7)
    output = 0.1 * np.asarray(x) / s
    wanted = (np.asarray(target.data) - np.asarray(x) / s**2) / (0.7 / s)
    _, pull = jax.vjp(lambda params: losses.regression_loss(model(params), x, target, 0.7), params)
    np.testing.assert_allclose(pull(jnp.ones(16))[0]["b"][0], 2 * (output - wanted).sum(0), rtol=1e-3)


def test_a_law_s_own_scale_does_not_move_the_times_that_it_is_fitted_at():
    """At the truth the loss is level in a law's standard deviation, which shifting the times would hide."""
    data = 0.5 * jax.random.normal(jax.random.key(1), (N, 1))

    @jax.jit
    def slopes(std):
        def loss(std):
            law = Gaussian(jnp.zeros(1), std**2)
            return losses.denoising_loss(jax.random.key(0), law.denoiser(Karras()), data)

        return jax.jvp(loss, (std,), (jnp.ones(()),))[1]

    for std, sign in ((0.5, 0), (0.4, -1), (0.6, 1)):
        mean, error = mean_and_error(slopes(jnp.float32(std)))
        assert abs(mean) < 4 * error if sign == 0 else sign * mean > 4 * error


@pytest.mark.slow
def test_losses_of_half_precision_are_in_single_precision():
    schedule, data = CASES["vp"].schedule, jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
    denoise = make_denoiser(lambda p, x, t: p * jnp.tanh(x), 0.3, schedule, shape=(4, 4, 1))
    key = jax.random.key(2)
    for dtype in (jnp.bfloat16, jnp.float16):
        half = data.astype(dtype)
        x, target = targets.denoising_target(jax.random.key(1), schedule, half, 0.5)
        assert x.dtype == target.data.dtype == target.noise.dtype == dtype
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), (x, target))
        for loss in (
            lambda x: losses.implicit_loss(denoise, x, 0.5),
            lambda x: losses.sliced_loss(key, denoise, x, 0.5),
        ):
            got, wanted = loss(x), loss(wide[0])
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(got, wanted, rtol=1e-5)
        # What the denoiser answers is rounded as x is; the error is not.
        got = losses.regression_loss(denoise, x, target, 0.5, weight=prediction.noise.row)
        error = wide[1].noise - denoise(x, 0.5).noise.astype(jnp.float32)
        assert got.dtype == jnp.float32
        off = np.abs(np.asarray(got / (error**2).sum((1, 2, 3))) - 1)
        assert np.median(off) < 1e-6  # but for an entry that compiling rounds the other way
        assert off.max() < 2e-3
        own = losses.regression_loss(denoise, x, target, 0.5)
        np.testing.assert_allclose(own, losses.regression_loss(denoise, *wide, 0.5), rtol=0.03, atol=0.05)
        assert losses.denoising_loss(key, denoise, half).dtype == jnp.float32


def test_a_second_call_compiles_nothing():
    """New keys, parameters, data, times and numbers of a weight."""
    schedule = CASES["vp"].schedule

    def predict(params, x, t):
        return params * x

    def call(seed):
        denoise = make_denoiser(predict, jnp.float32(seed), schedule, shape=(2,))
        key, data = jax.random.key(seed), jax.random.normal(jax.random.key(seed), (4, 2))
        t = 0.1 * seed + jnp.linspace(0.1, 0.5, 4)
        x, target = targets.denoising_target(key, schedule, data, t)
        targets.stable_target(key, schedule, data, t, pool=data)
        losses.denoising_loss(key, denoise, data)
        for weight in (None, weights.min_snr(1.0 + seed), weights.likelihood, prediction.EDM(0.5).row):
            losses.regression_loss(denoise, x, target, t, weight=weight)
        losses.implicit_loss(denoise, x, t)
        losses.sliced_loss(key, denoise, x, t)

    call(1)
    assert compilations(lambda: call(2)) == 0


@pytest.mark.parametrize("weight", [prediction.noise.row, prediction.data.row])
def test_implicit_and_sliced_losses_have_the_denoising_loss_as_their_mean(weight):
    """Stein's identity, for a denoiser that is far from right, in the weight's units; within standard errors."""
    schedule, t = CASES["karras"].schedule, 0.8
    denoise = gaussian_denoiser(schedule, 0.3, 2.0, (2,))
    wrong = as_denoiser(
        lambda x, t: Denoised(denoise(x, t).data, denoise(x, t).noise + 0.2 * jnp.sin(2 * x)),
        schedule,
        shape=(2,),
    )
    x, target = targets.denoising_target(jax.random.key(1), schedule, MIXTURE.sample(jax.random.key(0), N), t)
    scale = 1.0 if weight is prediction.noise.row else t**2
    direct = scale * ((wrong(x, t).noise - target.noise) ** 2).sum(1)
    implicit = losses.implicit_loss(wrong, x, t, weight=weight)
    sliced = losses.sliced_loss(jax.random.key(2), wrong, x, t, num_probes=2, weight=weight)
    mean, error = mean_and_error(implicit - direct)
    assert abs(mean) < 4 * error
    mean, error = mean_and_error(sliced - implicit)
    assert error < 1e-4 or abs(mean) < 4 * error
    assert abs(direct.mean()) > 100 * error or error == 0


def test_more_probes_have_less_variance():
    """Of n probes an n-th, where directions mix; along the axes signs are exact."""
    denoise = Gaussian(jnp.zeros(2), jnp.asarray([[1.0, 0.6], [0.6, 0.5]])).denoiser(Karras())
    x = jnp.ones((1, 2))

    def spread(num_probes):
        one = lambda key: losses.sliced_loss(key, denoise, x, 0.8, num_probes=num_probes)  # noqa: E731
        return np.std(jax.vmap(one)(jax.random.split(jax.random.key(3), 1000)))

    assert spread(16) / spread(1) == pytest.approx(1 / 4, rel=0.2)


@functools.partial(jax.jit, static_argnames="loss")
def fitted(loss):
    """The minimizer over (a, b) of the loss of the linear noise estimate a x + b, by Newton's method."""
    schedule, t = CASES["karras"].schedule, 0.9
    data = 0.5 + 1.3 * jax.random.normal(jax.random.key(0), (N, 1))
    x, target = targets.denoising_target(jax.random.key(1), schedule, data, t)

    def objective(theta):
        predict = lambda theta, x, t: theta[0] * x + theta[1]  # noqa: E731
        denoise = make_denoiser(predict, theta, schedule, shape=(1,), prediction=prediction.noise)
        if loss == "regression":
            values = losses.regression_loss(denoise, x, target, t)
        elif loss == "implicit":
            values = losses.implicit_loss(denoise, x, t)
        else:
            values = losses.sliced_loss(jax.random.key(2), denoise, x, t)
        return values.mean()

    theta = jnp.zeros(2)  # the objective is quadratic: one step
    return theta - jnp.linalg.solve(jax.hessian(objective)(theta), jax.grad(objective)(theta))


@pytest.mark.parametrize("loss", ["regression", "implicit", "sliced"])
def test_minimizers_are_the_true_noise_estimate(loss):
    slope = 0.9 / (1.3**2 + 0.9**2)  # E[noise | x] = sigma (x - mean) / (variance + sigma^2)
    np.testing.assert_allclose(fitted(loss), [slope, -0.5 * slope], atol=6 / np.sqrt(N))


DENOISE = gaussian_denoiser(CASES["vp"].schedule, 0.0, 1.0, (2,))
X, KEY = jnp.ones((4, 2)), jax.random.key(0)
PAIR = Denoised(X, X)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: losses.regression_loss(DENOISE, X, Denoised(X, jnp.ones((4, 3))), 0.5),
            ValueError,
            r"target.noise must have the shape of x, \(4, 2\), got \(4, 3\)",
        ),
        (
            lambda: losses.regression_loss(lambda x, t: PAIR, X, PAIR, 0.5),
            TypeError,
            "denoise must be a Denoiser, got function",
        ),
        (
            lambda: losses.regression_loss(DENOISE, X, PAIR, 1.5),
            ValueError,
            "t = 1.5 is outside of the times",
        ),
        (
            lambda: losses.regression_loss(DENOISE, X, PAIR, jnp.ones(3)),
            ValueError,
            r"t must be a scalar or .*\(4,\)",
        ),
        (
            lambda: losses.regression_loss(DENOISE, X, PAIR, 0.5, weight=prediction.v),
            TypeError,
            r"weight must be a row, got prediction.v; give its row, prediction.v.row",
        ),
        (
            lambda: losses.regression_loss(DENOISE, X, PAIR, 0.5, weight=2.0),
            TypeError,
            r"weight must be a function \(schedule, t\) -> \(a, b\), got float",
        ),
        (lambda: losses.denoising_loss(0, DENOISE, X), TypeError, "key must be a key such as"),
        (
            lambda: losses.denoising_loss(KEY, DENOISE, X[:, :1]),
            ValueError,
            r"data must have shape \(batch, 2\)",
        ),
        (
            lambda: losses.denoising_loss(KEY, DENOISE, X.at[0].set(jnp.nan)),
            ValueError,
            "data has 2 non-finite",
        ),
        (
            lambda: losses.denoising_loss(KEY, DENOISE, X.astype(int)),
            TypeError,
            "data must be an array of floating",
        ),
        (
            lambda: losses.denoising_loss(KEY, DENOISE, X[:0]),
            ValueError,
            "data must have at least one row",
        ),
        (lambda: losses.implicit_loss(DENOISE, X, -0.5), ValueError, "t = -0.5 is outside"),
        (lambda: losses.implicit_loss(DENOISE, X[:, :1], 0.5), ValueError, r"x must have shape \(batch, 2\)"),
        (
            lambda: losses.sliced_loss(KEY, DENOISE, X, 0.5, num_probes=0),
            ValueError,
            "num_probes must be an integer",
        ),
        (lambda: losses.sliced_loss(KEY, lambda x, t: PAIR, X, 0.5), TypeError, "denoise must be a Denoiser"),
        (
            lambda: targets.stable_target(KEY, CASES["vp"].schedule, X, 0.5, pool=jnp.ones((4, 3))),
            ValueError,
            r"pool must hold rows of shape \(2,\), got \(3,\)",
        ),
        (
            lambda: targets.stable_target(KEY, CASES["vp"].schedule, X, 0.5, pool=X.at[1, 1].set(jnp.inf)),
            ValueError,
            "pool has 1 non-finite",
        ),
        (
            lambda: targets.stable_target(KEY, CASES["vp"].schedule, X, 1.5),
            ValueError,
            "t = 1.5 is outside of the range",
        ),
        (lambda: targets.stable_target(KEY, Karras, X, 1.5), TypeError, "got the class Karras; call it"),
        (
            lambda: targets.denoising_target(KEY, Karras(), X, -1.0),
            ValueError,
            "t = -1 is outside of the range of Karras",
        ),
        (lambda: targets.denoising_target(KEY, DENOISE, X, 0.5), TypeError, "schedule must be a schedule"),
        (lambda: targets.denoising_target(3, Karras(), X, 0.5), TypeError, "key must be a key"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_traced_times_out_of_range_are_nan():
    t = jnp.asarray([0.5, 1.5])
    x, _ = jax.jit(targets.denoising_target)(KEY, CASES["vp"].schedule, X[:2], t)
    np.testing.assert_array_equal(np.isnan(x).all(1), [False, True])
    got = jax.jit(lambda t: losses.regression_loss(DENOISE, X[:2], Denoised(X[:2], X[:2]), t))(t)
    np.testing.assert_array_equal(np.isnan(got), [False, True])
