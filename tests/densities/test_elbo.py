"""The evidence lower bound against chains that are Gaussian, where it and the density are closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, log_snr_times
from scipy import stats

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.densities import discretized
from jaxdiff.densities.elbo import _without_one, elbo
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Cosine, VariancePreserving
from jaxdiff.typing import Denoised

X = np.array([[0.4, -1.1], [1.3, 0.8], [-0.6, 0.1]])
MEAN = np.array([0.5, -0.3])
COVARIANCE = np.array([[0.6, 0.3], [0.3, 0.5]])


def grid(name, num_steps):
    """Increasing times and the scales there, with log-SNR from 5 or less down to -6 or more."""
    case = CASES[name]
    times = log_snr_times(case, 4000)
    level = 2 * np.log(case.alpha(times) / case.sigma(times))
    ends = np.interp([-6.0, 5.0], level, times)
    times = log_snr_times(case._replace(t_min=ends[1], t_max=ends[0]), num_steps)[::-1].copy()
    return times, case.alpha(times), case.sigma(times)


class Chain:
    """The chain of a denoiser of N(m, S), which may not be the data's law, written from its definition.

    Every kernel is a conditional of Gaussians: the mean is that of x_s given x_t and data, at the data that
    the denoiser names, and the covariance that of x_s given x_t for data of covariance V.
    """

    def __init__(self, times, alpha, sigma, m, S, V):
        self.times, self.alpha, self.sigma, d = times, alpha, sigma, len(m)
        self.kernels, one = [], np.eye(d)  # of x_{k-1} | x_k: mean A x_k + b, covariance Q; the data first
        for k in range(len(times)):
            at, st = alpha[k], sigma[k]
            gain = at * S @ np.linalg.inv(at**2 * S + st**2 * one)
            named = gain, m - at * gain @ m  # the data that the denoiser names
            left = V - at**2 * V @ np.linalg.inv(at**2 * V + st**2 * one) @ V  # and how far off, for V
            if k == 0:
                Q = left if np.linalg.det(V) > 0 else (st / at) ** 2 * one
                self.kernels.append((*named, Q))
                continue
            a_s, ss = alpha[k - 1], sigma[k - 1]
            covariance = ss**2 * at / a_s  # of x_s and x_t given the data
            to_x = covariance / st**2
            to_data = a_s - to_x * at
            Q = (ss**2 - covariance * to_x) * one + to_data**2 * left
            self.kernels.append((to_x * one + to_data * named[0], to_data * named[1], Q))

    def log_prob(self, x):
        """Of what the chain makes of N(0, sigma_n^2)."""
        d = x.shape[1]
        mean, covariance = np.zeros(d), self.sigma[-1] ** 2 * np.eye(d)
        for A, b, Q in reversed(self.kernels):
            mean, covariance = A @ mean + b, A @ covariance @ A.T + Q
        return stats.multivariate_normal(mean, covariance).logpdf(x)

    def elbo(self, x):
        """E log p(x, x_1, ..., x_n) + the entropy of the path given x, for one x."""
        n, d = len(self.times), len(x)
        i, j = np.minimum.outer(range(n), range(n)), np.maximum.outer(range(n), range(n))
        path = self.alpha[j] / self.alpha[i] * self.sigma[i] ** 2  # covariances of x_i, x_j given x
        total = 0.5 * d * (n * np.log(2 * np.pi * np.e) + np.linalg.slogdet(path)[1])
        for k, (A, b, Q) in enumerate(self.kernels):
            mean = (x if k == 0 else self.alpha[k - 1] * x) - A @ (self.alpha[k] * x) - b
            spread = path[k, k] * A @ A.T
            if k > 0:
                spread = spread + path[k - 1, k - 1] * np.eye(d) - path[k - 1, k] * (A + A.T)
            total += stats.multivariate_normal(np.zeros(d), Q).logpdf(mean)
            total -= 0.5 * np.trace(np.linalg.solve(Q, spread))
        start = stats.norm(0, self.sigma[-1]).logpdf(self.alpha[-1] * x).sum()
        return total + start - 0.5 * d * path[-1, -1] / self.sigma[-1] ** 2


def test_one_path_is_enough_where_the_chain_is_the_reverse_of_the_process(float64):
    """Gaussian data, their covariance and their law at the last time: log p(x) on every path."""
    schedule, (times, _, _) = CASES["karras"].schedule, grid("karras", 6)
    law = Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))
    options = {"data_covariance": law.covariance, "start": law.perturbed(schedule, times[-1])}
    run = functools.partial(elbo, denoise=law.denoiser(schedule), num_paths=1, **options)
    got = jax.jit(lambda key: run(key, x=jnp.asarray(X), times=jnp.asarray(times)))(jax.random.key(0))
    np.testing.assert_allclose(got.value, stats.multivariate_normal(MEAN, COVARIANCE).logpdf(X), atol=1e-8)
    assert np.isnan(got.standard_error).all()


def test_the_bounds_of_a_wrong_denoiser(float64):
    """The mean over paths is the exact bound, that of e^B the chain's density, and K paths are in between.

    For three covariances of the steps: of the posterior, of data of unit variance, and of these data.
    """
    schedule, (times, alpha, sigma) = CASES["vp"].schedule, grid("vp", 5)
    wrong = MEAN + 0.4, 1.3 * COVARIANCE
    denoise = Gaussian(*map(jnp.asarray, wrong)).denoiser(schedule)
    covariances = np.stack([np.zeros((2, 2)), np.eye(2), COVARIANCE])
    call = functools.partial(elbo, denoise=denoise, x=jnp.asarray(X), times=jnp.asarray(times), num_paths=40)

    @jax.jit
    def run(keys):
        def one(case):
            key, covariance = case
            plain = call(key, data_covariance=covariance)
            return plain, call(key, data_covariance=covariance, importance_weighted=True)

        return jax.lax.map(lambda key: jax.lax.map(lambda c: one((key, c)), jnp.asarray(covariances)), keys)

    plain, weighted = jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(1), 300)))
    chains = [Chain(times, alpha, sigma, *wrong, covariance) for covariance in covariances]
    exact = np.array([[chain.elbo(x) for x in X] for chain in chains])
    truth = np.array([chain.log_prob(X) for chain in chains])
    assert (exact < truth - 0.005).all()  # there is something between

    def z(values, wanted):
        return (values.mean(0) - wanted) / (values.std(0, ddof=1) / len(values) ** 0.5)

    assert (abs(z(plain.value, exact)) < 4).all()
    assert (abs(z(np.exp(weighted.value - truth), 1.0)) < 4).all()
    assert (z(weighted.value, truth) < 2).all()
    assert (z(weighted.value, exact) > 4).all()
    for got, wanted in ((plain, exact), (weighted, weighted.value.mean(0))):
        covered = abs(got.value - wanted) < stats.t(39).ppf(0.975) * got.standard_error
        assert 0.88 < covered.mean() < 0.99  # of 2700 intervals; B is skewed


@jax.jit
def closed_form(levels, variance, x, errors):
    return discretized.ddpm(levels, variance).log_density(x, errors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variance", [0.0, 0.7])
def test_the_closed_form_is_the_exact_bound(name, variance, float64):
    """`discretized.ddpm` with exact squared errors."""
    times, alpha, sigma = grid(name, 5)
    m, S = MEAN + 0.4, 1.3 * COVARIANCE
    chain = Chain(times, alpha, sigma, m, S, variance * np.eye(2))
    errors = []
    for a, s in zip(alpha, sigma, strict=True):  # r = eps - s Q^-1 (a x + s eps - a m)
        inverse = np.linalg.inv(a**2 * S + s**2 * np.eye(2))
        mean, root = a * s * (X - m) @ inverse, np.eye(2) - s**2 * inverse
        errors.append((mean**2).sum(1) + np.trace(root @ root.T))
    got = closed_form(2 * np.log(alpha / sigma), variance, X, np.array(errors).T)
    np.testing.assert_allclose(got, [chain.elbo(x) for x in X], rtol=1e-9)


def test_the_bound_closes_with_more_steps():
    """In the mean over a mixture's data it is below their log-density, at least as fast as one over the steps.

    Both grids have 48 times, to be compiled once; those of the coarse one lie in twelve tight bunches.
    """
    schedule, step = Cosine(), 0.1
    law = GaussianMixture(jnp.array([0.4, 0.6]), jnp.array([[-1.0], [1.1]]), jnp.array([0.1, 0.2]))
    x = jnp.arange(-2.2, 2.8, step)[:, None]

    @jax.jit
    def gap(levels):
        truth = law.log_prob(x)
        weights = step * jnp.exp(truth)
        times = 2 / jnp.pi * jnp.arctan(jnp.exp(-levels / 2))
        got = elbo(jax.random.key(0), law.denoiser(schedule), x, times, num_paths=64, data_covariance=0.0)
        return weights @ (truth - got.value), jnp.sqrt(weights**2 @ got.standard_error**2)

    bunches = (np.linspace(9.0, -9.0, 12)[:, None] - np.arange(4) * 1e-3).ravel()
    (coarse, coarse_error), (fine, fine_error) = (
        gap(np.float32(bunches)),
        gap(np.linspace(9, -9, 48, dtype="f")),
    )
    assert 4 * fine_error < fine < 0.25 * coarse + 4 * float(np.hypot(coarse_error, fine_error))


def linear(schedule, variance, shape, count=None):
    def denoise(x, t):
        if count is not None:
            count.append(x.shape)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        total = alpha**2 * variance + sigma**2
        return Denoised(alpha * variance / total * x, sigma / total * x)

    return as_denoiser(denoise, schedule, shape=shape)


TIMES = jnp.linspace(0.02, 1.0, 9)


def test_a_row_depends_neither_on_its_batch_nor_on_the_calls_nor_on_its_shape():
    """And the denoiser is traced twice; and the start is by default N(0, sigma^2 I), here with sigma = 1."""
    schedule, shapes = VariancePreserving(), []
    x = jax.random.normal(jax.random.key(0), (5, 2, 3, 1))
    run = functools.partial(elbo, jax.random.key(1), times=TIMES, num_paths=3)

    @jax.jit
    def both():
        images = run(
            denoise=linear(schedule, 0.5, (2, 3, 1), shapes),
            x=x,
            data_covariance=np.full(6, 0.5),
            bytes_per_call=1000,
        )
        start, flat = Gaussian(jnp.zeros(6), 1.0), x[:2].reshape(2, 6)
        return images, run(denoise=linear(schedule, 0.5, (6,)), x=flat, data_covariance=0.5, start=start)

    for got, wanted in zip(*both(), strict=True):
        np.testing.assert_allclose(got[:2], wanted, atol=1e-3)
    # Once for the bytes of one path, and once for a call of as many as fit.
    assert shapes == [(1, 2, 3, 1), (5, 2, 3, 1)]


def test_derivatives(float64):
    """In x, the score where B is log p(x) on every path; in a parameter, what differences give."""
    schedule, (times, alpha, sigma) = CASES["vp"].schedule, grid("vp", 6)
    start = Gaussian(jnp.zeros(2), 0.5 * alpha[-1] ** 2 + sigma[-1] ** 2)

    def bound(x, variance):
        got = elbo(
            jax.random.key(0),
            linear(schedule, variance, (2,)),
            x,
            jnp.asarray(times),
            num_paths=3,
            data_covariance=0.5,
            importance_weighted=True,
            start=start,
        )
        return got.value.sum()

    h = 1e-5
    variances = jnp.array([0.5, 0.9, 0.9 - h, 0.9 + h])
    run = jax.vmap(jax.value_and_grad(bound, argnums=(0, 1)), in_axes=(None, 0))
    values, (scores, slopes) = jax.jit(run)(jnp.asarray(X), variances)
    np.testing.assert_allclose(scores[0], -X / 0.5, atol=1e-7)
    np.testing.assert_allclose(slopes[1], (values[3] - values[2]) / (2 * h), rtol=1e-6)


def test_the_jackknife_leaves_out_the_largest_weight_too():
    """Weights e^B with B ~ N(0, 900): nearly all of their sum is in one."""
    values = np.float32(30 * np.random.default_rng(0).standard_normal((400, 8)))
    others = np.asarray(jax.jit(_without_one)(values))
    wanted = np.logaddexp.reduce(
        np.where(np.eye(8, dtype=bool), -np.inf, np.asarray(values)[:, None]), axis=2
    )
    np.testing.assert_allclose(others, wanted, rtol=1e-5, atol=1e-5)


GOOD = {"x": X.copy(), "times": TIMES[:-1], "num_paths": 2}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": np.ones((2, 2), int)}, TypeError, "x must be an array of floating-point"),
        ({"x": X * np.nan}, ValueError, "x has 6 non-finite"),
        ({"times": TIMES[1::-1]}, ValueError, "low to high noise"),
        ({"times": jnp.linspace(0.0, 1.0, 5)}, ValueError, r"the log-SNR at times\[0\] = 0 is inf"),
        ({"times": jnp.array([0.5, 1.5])}, ValueError, "is outside of the range"),
        ({"num_paths": 0}, ValueError, "num_paths must be an integer of at least 1"),
        ({"bytes_per_call": 0}, ValueError, "bytes_per_call must be an integer"),
        ({"data_covariance": np.ones(3)}, ValueError, "covariance must have the shape"),
        ({"data_covariance": -1.0}, ValueError, "no negative eigenvalue"),
        (
            {"start": Gaussian(jnp.zeros(3), 1.0)},
            ValueError,
            r"start must be a law of points of shape \(2,\)",
        ),
    ],
)
def test_bad_input_is_refused(change, error, words):
    def denoise(x, t):
        pytest.fail("the denoiser was called, or traced, on bad input")

    with pytest.raises(error, match=words):
        elbo(jax.random.key(0), as_denoiser(denoise, Cosine(), shape=(2,), t_min=0.0), **{**GOOD, **change})
