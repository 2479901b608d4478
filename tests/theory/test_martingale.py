import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from oracles import CASES, NAMES, Chosen
from scipy.optimize import brentq

from jaxdiff import theory
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import OrnsteinUhlenbeck, VariancePreserving
from jaxdiff.typing import Denoised


def all_schedules():
    return tuple(case.schedule for case in CASES.values())


def time_of(case, ratio):
    """The time at which sigma / alpha is ratio, from the reference functions."""
    return brentq(lambda t: np.log(case.sigma(t) / case.alpha(t) / ratio), case.t_min, case.t_max, xtol=1e-14)


# --- the martingale ----------------------------------------------------------------------------------------

WEIGHTS, MEANS, VARIANCES = (
    np.asarray([0.3, 0.7]),
    np.asarray([[1.0, 0.0], [-1.0, 0.5]]),
    np.asarray([0.1, 0.2]),
)
RATIOS = np.geomspace(0.1, 4.0, 8)  # sigma / alpha of the levels
PATHS = 4000


def mixture(x, alpha, sigma):
    """Conditional mean and covariance of the data of the mixture, at x of shape (n, d), in NumPy."""
    total = alpha**2 * VARIANCES + sigma**2
    off = x[:, None] - alpha * MEANS[:, : x.shape[1]]
    log_weight = np.log(WEIGHTS) - 0.5 * (off**2).sum(2) / total - 0.5 * x.shape[1] * np.log(total)
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    means = MEANS[:, : x.shape[1]] + (alpha * VARIANCES / total)[:, None] * off
    mean = np.einsum("nk,nkd->nd", weight, means)
    own = weight @ (VARIANCES * sigma**2 / total)
    second = np.einsum("nk,nkd,nke->nde", weight, means, means) - mean[:, :, None] * mean[:, None]
    return mean, second + own[:, None, None] * np.eye(x.shape[1])


def law(d=2):
    return GaussianMixture(WEIGHTS, MEANS[:, :d], VARIANCES)


def changed(change, exact, x, t):
    known = exact(x, t)
    return Denoised(known.data, known.noise + change(exact.schedule, x, t))


def with_error(change, exact):
    """The exact denoiser, its noise changed by a function of (schedule, x, t)."""
    schedule = exact.schedule
    return as_denoiser(
        Partial(changed, Partial(change), exact),
        schedule,
        shape=exact.shape,
        t_min=schedule.t_min,
        t_max=schedule.t_max,
    )


def wave(schedule, x, t):
    return 0.3 * jnp.sin(2 * x + t)


def constant_score(schedule, x, t):
    return jnp.full_like(x, -0.7 * schedule.sigma(t))


def wrong(exact):
    return with_error(wave, exact)


@functools.cache
def paths():
    """Times, data, paths, the terms of a wrong score and two risks, for every schedule in one compiled call."""
    times = np.asarray([[time_of(case, r) for r in RATIOS] for case in CASES.values()])
    weights = np.linspace(0.5, 1.5, len(RATIOS)) * RATIOS**2
    with jax.enable_x64(True):
        options, distribution = all_schedules(), law()

        @jax.jit
        @jax.vmap
        def run(key, number, times):
            schedule = Chosen(number, options)
            data_key, key = jax.random.split(key)
            data = distribution.sample(data_key, PATHS)
            path = theory.forward_path(key, schedule, data, times)
            exact = distribution.denoiser(schedule)
            # v is in units of 1 / sigma, so these weights ask the same of every schedule
            scaled = jnp.asarray(weights) * jax.vmap(schedule.alpha)(times) ** 2
            given = data, path, times, scaled
            terms = theory.martingale_terms(wrong(exact), exact, *given)
            other = theory.martingale_terms(exact, Gaussian(jnp.zeros(2), 1.0).denoiser(schedule), *given)
            risks = [theory.empirical_risk(d, *given) for d in (wrong(exact), exact)]
            return data, path, scaled, terms, other, risks

        keys = jax.random.split(jax.random.key(0), len(NAMES))
        got = run(keys, jnp.arange(len(NAMES)), jnp.asarray(times))
    return times, jax.tree.map(np.asarray, got)


def mean_and_error(values, axis=-1):
    return values.mean(axis), values.std(axis, ddof=1) / np.sqrt(values.shape[axis])


@pytest.mark.slow
def test_a_path_has_the_moments_of_the_process():
    """Each noise is standard normal, and two of one path have the ratio of their sigma / alpha as correlation."""
    times, (data, path, *_) = paths()
    wanted = np.minimum(RATIOS[:, None] / RATIOS, RATIOS / RATIOS[:, None])
    for case, t, x_0, x in zip(CASES.values(), times, data, path, strict=True):
        alpha, sigma = case.alpha(t)[:, None, None], case.sigma(t)[:, None, None]
        noise = ((x - alpha * x_0) / sigma).reshape(len(RATIOS), -1)
        n = noise.shape[1]
        assert (np.abs(noise.mean(1)) < 4.5 / np.sqrt(n)).all()
        assert (np.abs(noise @ noise.T / n - wanted) < 4.5 * np.sqrt((1 + wanted**2) / n)).all()
        assert (np.abs(noise @ (x_0 - x_0.mean(0)).ravel() / n) < 4.5 * x_0.std() / np.sqrt(n)).all()


def test_a_path_depends_on_its_own_row_only():
    schedule, data, times = OrnsteinUhlenbeck(), jnp.ones((5, 3)), jnp.asarray([0.1, 0.5])
    make = functools.partial(theory.forward_path, jax.random.key(0), schedule, times=times)
    few, many = jax.jit(lambda data: (make(data[:3]), make(data)))(data)
    np.testing.assert_allclose(few, many[:, :3], rtol=1e-6)
    assert (many[:, 3] != many[:, 4]).all()


def test_the_noise_is_the_sum_of_its_increments():
    """To 1e-12, by its definition in NumPy as well; for a wrong `exact` too, where it is no martingale."""
    times, (data, path, weights, terms, other, _) = paths()
    for own in (terms, other):
        scale = np.abs(own.increments).sum(1).max()
        assert np.abs(own.total - own.increments.sum(1)).max() < 1e-12 * scale
    for i, case in enumerate(CASES.values()):
        total, square = 0.0, 0.0
        for t, x, g in zip(times[i], path[i], weights[i], strict=True):
            alpha, sigma = case.alpha(t), case.sigma(t)
            mean = mixture(x, alpha, sigma)[0]
            zeta = -0.3 * np.sin(2 * x + t) / sigma
            v = ((x - alpha * mean) - (x - alpha * data[i])) / sigma**2
            total, square = total + g * (zeta * v).sum(1), square + g * (zeta**2).sum(1)
        np.testing.assert_allclose(terms.total[i], total, rtol=1e-5, atol=1e-6 * np.abs(total).max())
        np.testing.assert_allclose(terms.squared_error[i], square, rtol=1e-6)


def test_the_increments_are_a_martingale_in_reverse_time():
    """E[M_k h] = 0 and E[R_k h] = 0 for functions h of x_k and of x_N, and H^2 has the mean of sum_k R_k^2."""
    _, (_, path, _, terms, other, _) = paths()
    last = np.broadcast_to(path[:, -1:], path.shape)
    for h in (np.ones_like, np.tanh, lambda x: np.cos(3 * x)):
        for later in (path, last):
            for values in (terms.innovations * h(later), terms.increments * h(later)[..., 0]):
                values = np.moveaxis(values, 2, -1)
                mean, error = mean_and_error(values)
                assert (np.abs(mean) < 4.8 * error).all()
    mean, error = mean_and_error(terms.total**2 - (terms.increments**2).sum(1))
    assert (np.abs(mean) < 4 * error).all()
    assert (error < 0.05 * (terms.total**2).mean(1)).all()
    # which is not so for any decomposition: with a wrong denoiser as the exact one, it is not centered
    mean, error = mean_and_error(other.innovations.swapaxes(2, 3))
    assert (np.abs(mean) > 10 * error).any()


def test_a_loss_is_the_loss_of_the_truth_a_square_and_a_noise():
    """Eq. (1), path by path."""
    _, (*_, terms, _, (risk, least)) = paths()
    np.testing.assert_allclose(risk - least, terms.squared_error - 2 * terms.total, rtol=1e-7, atol=1e-7)


def test_the_constant_of_a_constant_error_is_its_closed_form():
    """zeta = c for data N(0, I / 2): E v_j v_k is the lesser mean square error; over seeds and weights at once."""
    case, n, times = CASES["vp"], 4000, np.asarray([0.1, 0.2, 0.4, 0.7])
    truth = Gaussian(jnp.zeros(2), 0.5)
    weights, traces = np.asarray([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.1, 0.5, 1.0, 3.0]]), []

    def constant(key, weights):
        traces.append(None)
        schedule = case.schedule
        exact = truth.denoiser(schedule)
        estimate = with_error(constant_score, exact)
        data_key, key = jax.random.split(key)
        data = truth.sample(data_key, n)
        path = theory.forward_path(key, schedule, data, jnp.asarray(times))
        terms = theory.martingale_terms(estimate, exact, data, path, jnp.asarray(times), weights)
        return theory.martingale_constant(terms)

    keys = jax.random.split(jax.random.key(1), 6)
    got = jax.jit(jax.vmap(jax.vmap(constant, (0, None)), (None, 0)))(keys, jnp.asarray(weights))
    assert len(traces) == 1
    alpha, sigma = case.alpha(times), case.sigma(times)
    rate, left = alpha / sigma**2, 0.5 * sigma**2 / (0.5 * alpha**2 + sigma**2)
    covariance = np.minimum(left[:, None], left) * rate[:, None] * rate
    for own, g in zip(
        got, weights, strict=True
    ):  # |zeta|^2 = 2 c^2, and H is c times a sum of two coordinates
        assert own.mean() == pytest.approx(g @ covariance @ g / g.sum(), rel=4.5 * np.sqrt(2 / (6 * n)))


# --- covariances -------------------------------------------------------------------------------------------


def draws_of_the_earlier_state(rng, x_t, scales, num):
    """num draws of x_s given x_t for the mixture: of the data, by their posterior, then of the bridge."""
    a_s, s_s, a_t, s_t = scales
    total = a_t**2 * VARIANCES + s_t**2
    weight = WEIGHTS * np.exp(-0.5 * ((x_t - a_t * MEANS) ** 2).sum(1) / total) / total
    k = rng.choice(2, num, p=weight / weight.sum())
    mean = MEANS + (a_t * VARIANCES / total)[:, None] * (x_t - a_t * MEANS)
    std = np.sqrt(VARIANCES * s_t**2 / total)
    data = mean[k] + std[k, None] * rng.standard_normal((num, 2))
    rho = s_s * a_t / (a_s * s_t)
    noise = rho * (x_t - a_t * data) / s_t + np.sqrt(1 - rho**2) * rng.standard_normal((num, 2))
    return a_s * data + s_s * noise


def test_covariances_are_those_of_the_posterior(float64):
    """Of the data in closed form; of an increment by the scatter of D(x_s) over draws of x_s given x_t."""
    rng, num, x_t = np.random.default_rng(2), 20_000, np.asarray([[0.1, 0.2], [-0.8, 0.6], [2.0, -1.0]])
    options, distribution = all_schedules(), law()
    cells = [
        (NAMES.index(name), time_of(CASES[name], 0.6), time_of(CASES[name], 1.1))
        for name in ("ou", "ve", "sub_vp")
    ]
    all_scales = [
        (
            *(f(u) for u in (s,) for f in (CASES[NAMES[i]].alpha, CASES[NAMES[i]].sigma)),
            CASES[NAMES[i]].alpha(t),
            CASES[NAMES[i]].sigma(t),
        )
        for i, s, t in cells
    ]
    x_t = [a_t * x_t for _, _, a_t, _ in all_scales]
    x_s = [
        np.stack([draws_of_the_earlier_state(rng, x, scales, num) for x in rows], 1)
        for rows, scales in zip(x_t, all_scales, strict=True)
    ]

    @jax.jit
    @jax.vmap
    def run(number, s, t, x_s, x_t):
        schedule = Chosen(number, options)
        exact = distribution.denoiser(schedule)
        return theory.posterior_covariance(exact, x_t, t), theory.increment_covariance(exact, x_s, x_t, s, t)

    columns = (jnp.asarray(c) for c in zip(*cells, strict=True))
    posterior, increment = run(*columns, jnp.asarray(np.stack(x_s)), jnp.asarray(np.stack(x_t)))
    for i, (a_s, s_s, a_t, s_t) in enumerate(all_scales):
        mean_t, wanted = mixture(x_t[i], a_t, s_t)
        np.testing.assert_allclose(posterior[i], wanted, rtol=1e-6, atol=1e-9)
        for j in range(3):
            mean_s, inner = mixture(x_s[i][:, j], a_s, s_s)
            np.testing.assert_allclose(increment[i, j], wanted[j] - inner.mean(0), rtol=1e-6, atol=1e-8)
            off = mean_s - mean_t[j]
            difference = off[:, :, None] * off[:, None] - (wanted[j] - inner)
            mean, error = mean_and_error(np.moveaxis(difference, 0, -1))
            assert (np.abs(mean) < 4 * error).all()
            assert (error < 0.05 * np.trace(wanted[j])).all()


# --- the sub-Gaussian proxy --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_for_isotropic_gaussian_data_the_proxy_is_the_variance(name, float64):
    """There the curvature is known, L = -1 / (alpha^2 c + sigma^2), and every inequality of the bound is one."""
    case, own = CASES[name], 0.6
    times = np.asarray([time_of(case, r) for r in RATIOS])
    alpha, sigma = case.alpha(times), case.sigma(times)
    left = own * sigma**2 / (alpha**2 * own + sigma**2)
    total = np.concatenate([[own], alpha**2 * own + sigma**2])[:-1]
    got = theory.increment_constants(case.schedule, jnp.asarray(times), jnp.asarray(-1 / total))
    np.testing.assert_allclose(got, left - np.concatenate([[0], left[:-1]]), rtol=1e-6)


def test_the_proxy_bounds_the_moments_of_a_mixture(float64):
    """In one dimension, by quadrature over x_{k-1} given x_k: log E exp(l M) <= l^2 c / 2 for every l and x_k."""
    case, x = CASES["ou"], np.linspace(-6, 6, 6001)
    ratios = np.geomspace(0.7, 1.2, 6)
    times = np.asarray([time_of(case, r) for r in ratios])
    alpha, sigma = case.alpha(times), case.sigma(times)
    density, mean, curvature = [], [], []
    for a, s in zip(alpha, sigma, strict=True):
        total = a**2 * VARIANCES + s**2
        parts = WEIGHTS * np.exp(-0.5 * (x[:, None] - a * MEANS[:, 0]) ** 2 / total) / np.sqrt(total)
        density.append(parts.sum(1))
        conditional, left = mixture(x[:, None], a, s)
        mean.append(conditional[:, 0])
        # log p has the second derivative (alpha^2 Cov(x_0 | x) / sigma^2 - 1) / sigma^2
        curvature.append(((a**2 * left[:, 0, 0] / s**2 - 1) / s**2).max())
    assert max(curvature) > 0.1
    bound = theory.increment_constants(case.schedule, jnp.asarray(times), jnp.asarray([0.0, *curvature[:-1]]))
    tightest = np.inf
    for k in range(1, len(times)):
        scale = alpha[k] / alpha[k - 1]
        v = sigma[k] ** 2 - scale**2 * sigma[k - 1] ** 2
        for at in (-2.0, -0.5, 0.0, 0.1, 0.4, 3.0):
            weight = density[k - 1] * np.exp(-0.5 * (at - scale * x) ** 2 / v)
            weight /= weight.sum()
            innovation = mean[k - 1] - np.interp(at, x, mean[k])
            assert abs(weight @ innovation) < 1e-4
            assert np.isfinite(bound[k])
            assert weight @ innovation**2 <= bound[k]
            for rate in (-8.0, -2.0, 0.5, 2.0, 8.0):
                log_moment = np.log(weight @ np.exp(rate * innovation))
                assert log_moment <= rate**2 * bound[k] / 2 + 1e-9 + 1e-4 * abs(rate)
                tightest = min(tightest, rate**2 * bound[k] / 2 / log_moment)
    assert tightest < 3  # so a bound three times smaller would be found wrong


def test_the_proxy_is_below_the_bound_of_the_uniform_grid(float64):
    """For D <= min(1 / 2, 1 / (8 L)): c_k <= 8 D e^(2 t_{k-1}) (1 + L)^2 under the Ornstein-Uhlenbeck process."""
    rng = np.random.default_rng(4)
    for curvature, part in rng.uniform([0.0, 0.2], [20.0, 1.0], (20, 2)):
        step = part * min(0.5, 1 / (8 * max(curvature, 0.1)))
        times = step * np.arange(1, 9)
        got = theory.increment_constants(OrnsteinUhlenbeck(), jnp.asarray(times), curvature)
        assert (got <= 8 * step * np.exp(2 * (times - step)) * (1 + curvature) ** 2).all()
    # and where the step is too long there is no bound: a^2 / v = 1 / (e^(2 D) - 1) against L
    got = theory.increment_constants(OrnsteinUhlenbeck(), jnp.asarray([0.1, 0.2]), jnp.asarray([4.0, 5.0]))
    assert list(np.isinf(got)) == [False, True]


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": jnp.ones(4)}, r"data must have shape \(any, any\), got \(4,\)"),
        ({"path": jnp.ones((3, 4, 2))}, r"path must have shape \(2, 4, 2\), got \(3, 4, 2\)"),
        ({"times": jnp.asarray([0.5, 0.1])}, "times must increase strictly"),
        ({"weights": jnp.ones(3)}, r"weights must have shape \(2,\), got \(3,\)"),
        ({"times": jnp.asarray([-0.5, 0.1])}, r"times\[0\] = -0.5 is outside of the times"),
    ],
)
def test_a_path_that_does_not_fit_is_refused(changes, message):
    schedule = OrnsteinUhlenbeck()
    given = {
        "data": jnp.ones((4, 2)),
        "path": jnp.ones((2, 4, 2)),
        "times": jnp.asarray([0.1, 0.5]),
        "weights": jnp.ones(2),
        **changes,
    }
    exact = Gaussian(jnp.zeros(2), 1.0).denoiser(schedule)
    with pytest.raises(ValueError, match=message):
        theory.martingale_terms(exact, exact, *given.values())
    with pytest.raises(ValueError, match=message):
        theory.empirical_risk(exact, *given.values())
    with pytest.raises(ValueError, match=message):
        theory.minimize_risk(
            lambda mean: Gaussian(mean, 1.0).denoiser(schedule),
            jnp.zeros((3, 2)),
            *given.values(),
            sizes=jnp.ones(1, int),
        )


def test_bad_paths():
    schedule, data = OrnsteinUhlenbeck(), jnp.ones((4, 2))
    with pytest.raises(TypeError, match="data must be an array of floating-point numbers, got int32"):
        theory.forward_path(jax.random.key(0), schedule, jnp.ones((4, 2), jnp.int32), jnp.asarray([0.1, 0.2]))
    with pytest.raises(ValueError, match="times must increase strictly"):
        theory.forward_path(jax.random.key(0), schedule, data, jnp.asarray([0.2, 0.2]))
    with pytest.raises(ValueError, match=r"times\[0\] = -1 is outside of the range"):
        theory.forward_path(jax.random.key(0), schedule, data, jnp.asarray([-1.0, 0.2]))


def test_denoisers_of_two_schedules_are_refused():
    law = Gaussian(jnp.zeros(2), 1.0)
    given = jnp.ones((4, 2)), jnp.ones((2, 4, 2)), jnp.asarray([0.1, 0.5]), jnp.ones(2)
    with pytest.raises(ValueError, match=r"exact must have the schedule of estimate, OrnsteinUhlenbeck\(\)"):
        theory.martingale_terms(law.denoiser(OrnsteinUhlenbeck()), law.denoiser(VariancePreserving()), *given)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda d, x: theory.posterior_covariance(d, x, -0.5), ValueError, "t = -0.5 is outside"),
        (lambda d, x: theory.posterior_covariance(d, x, jnp.ones(4)), ValueError, r"t must have shape \(\)"),
        (lambda d, x: theory.posterior_covariance(d, x[0], 0.5), ValueError, r"x must have shape \(any, 2\)"),
        (lambda d, x: theory.posterior_covariance(x, x, 0.5), TypeError, "denoise must be a Denoiser"),
        (
            lambda d, x: theory.increment_covariance(d, x, x, 0.1, 0.5),
            ValueError,
            r"x_s must have shape \(any, 4, 2\)",
        ),
        (lambda d, x: theory.increment_covariance(d, x[None], x, 0.5, 0.1), ValueError, "s must be below t"),
        (
            lambda d, x: theory.increment_constants(OrnsteinUhlenbeck(), jnp.asarray([-1.0, 0.2]), 1.0),
            ValueError,
            r"times\[0\] = -1 is outside of the range",
        ),
        (
            lambda d, x: theory.increment_constants(
                OrnsteinUhlenbeck(), jnp.asarray([0.1, 0.2]), jnp.ones(3)
            ),
            ValueError,
            r"curvature must have shape \(2,\), got \(3,\)",
        ),
        (
            lambda d, x: theory.increment_constants(OrnsteinUhlenbeck, jnp.asarray([0.1, 0.2]), 1.0),
            TypeError,
            "got the class OrnsteinUhlenbeck; call it",
        ),
    ],
)
def test_bad_covariances_and_constants(call, error, match):
    with pytest.raises(error, match=match):
        call(Gaussian(jnp.zeros(2), 1.0).denoiser(OrnsteinUhlenbeck()), jnp.ones((4, 2)))
