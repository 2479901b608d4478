import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, Chosen, few_of, log_snr_times
from scipy import stats

from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.densities.adaptive_flow import adaptive_probability_flow
from jaxdiff.densities.flow import default_times, probability_flow
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import RectifiedFlow
from jaxdiff.typing import Denoised


@pytree
@dataclasses.dataclass(frozen=True)
class Everywhere(RectifiedFlow):
    """Works between its very ends."""

    working_range = (0.0, 1.0)


def gaussian(d):
    rng = np.random.default_rng(0)
    root = rng.standard_normal((d, d)) / np.sqrt(d)
    covariance = root @ root.T + 0.2 * np.eye(d)
    return rng.standard_normal(d), covariance


def mixture(d):
    rng = np.random.default_rng(1)
    return np.array([0.5, 0.3, 0.2]), 1.5 * rng.standard_normal((3, d)), rng.uniform(0.1, 0.5, (3, d))


def laws(d):
    mean, covariance = gaussian(d)
    weights, means, variances = mixture(d)

    def mixture_log_prob(x):
        parts = [
            np.log(w) + stats.norm(m, np.sqrt(v)).logpdf(x).sum(1)
            for w, m, v in zip(weights, means, variances, strict=True)
        ]
        return np.logaddexp.reduce(parts, axis=0)

    return {
        "gaussian": (
            Gaussian(jnp.asarray(mean), jnp.asarray(covariance)),
            lambda x: stats.multivariate_normal(mean, covariance).logpdf(x),
        ),
        "mixture": (
            GaussianMixture(jnp.asarray(weights), jnp.asarray(means), jnp.asarray(variances)),
            mixture_log_prob,
        ),
    }


def grid(name, num_steps):
    """Increasing times with log-SNR from 14 down to -10, or as far as the schedule goes."""
    case = CASES[name]
    case = case._replace(t_min=0.0 if name == "ve" else 1e-7 * case.t_max)
    times = log_snr_times(case, 4000)
    level = 2 * np.log(case.alpha(times) / case.sigma(times))
    ends = np.interp([-10.0, 14.0], level, times)
    return log_snr_times(case._replace(t_min=ends[1], t_max=ends[0]), num_steps)[::-1].copy()


@pytest.mark.parametrize("law", ["gaussian", "mixture"])
@pytest.mark.parametrize("d", [2, 16])
def test_exact_trace_gives_the_log_density(d, law, float64):
    """Within 1e-3 nats of the truth, from the exact start, under every schedule."""
    distribution, log_prob = laws(d)[law]
    x = distribution.sample(jax.random.key(0), 6)
    options = tuple(CASES[name].schedule for name in NAMES)

    @jax.jit  # one call for all schedules: most of the time goes to compilation
    def run(numbers, grids):
        def one(case):
            number, times = case
            schedule = Chosen(number, options)
            start = distribution.perturbed(schedule, times[-1])
            denoise = distribution.denoiser(schedule)
            return probability_flow(jax.random.key(1), denoise, x, times, start=start)

        return jax.lax.map(one, (numbers, grids))

    got = run(jnp.arange(len(NAMES)), jnp.asarray(np.stack([grid(name, 80) for name in NAMES])))
    for name, value in zip(NAMES, got.value, strict=True):
        wanted = log_prob(np.asarray(x))
        if name == "ve":  # its process starts with noise, and so does the density that it can tell
            wanted = distribution.perturbed(CASES[name].schedule, 0.0).log_prob(x)
        np.testing.assert_allclose(value, wanted, atol=1e-3, err_msg=name)
    assert (got.standard_error == 0).all()


@pytest.mark.parametrize("num_probes", [None, 2])
def test_the_rule_is_of_order_four(num_probes, float64):
    """Between times at both of which there is divergence: where it vanishes trapezoids would do as well."""
    schedule, (distribution, _) = CASES["vp"].schedule, laws(2)["mixture"]
    x = distribution.sample(jax.random.key(0), 6)
    denoise, start = distribution.denoiser(schedule), distribution.perturbed(schedule, 0.7)
    values = [
        probability_flow(
            jax.random.key(1), denoise, x, jnp.linspace(0.05, 0.7, n + 1), num_probes=num_probes, start=start
        ).value
        for n in (15, 30, 240)
    ]
    slope = np.log2(np.abs(values[0] - values[2]).max() / np.abs(values[1] - values[2]).max())
    assert slope > 3.6


def test_the_default_start_has_the_mean_and_the_scale():
    """Wide data under the Karras schedule: the default differs from the exact start by their log-ratio."""
    case, mean, variances = CASES["karras"], np.array([3.0, -5.0, 1.0]), np.array([0.5, 2.5, 9.0])
    distribution = Gaussian(jnp.asarray(mean), jnp.asarray(variances))
    x = distribution.sample(jax.random.key(0), 5)
    times = jnp.asarray(grid("karras", 40), jnp.float32)
    run = functools.partial(
        probability_flow, jax.random.key(1), distribution.denoiser(case.schedule), x, times
    )
    exact = run(start=distribution.perturbed(case.schedule, times[-1])).value
    # the flow of a Gaussian is linear: x_T = m + (x - m) sqrt((v + sigma^2) / v), up to sigma(t_min)
    sigma2 = float(times[-1]) ** 2
    end = mean + (np.asarray(x) - mean) * np.sqrt((variances + sigma2) / variances)
    named = mean / (variances + sigma2) * (4 + sigma2)  # by D(0, T) = m sigma^2 / (v + sigma^2)
    start = stats.norm(named, np.sqrt(4 + sigma2))
    ratio = start.logpdf(end).sum(1) - stats.norm(mean, np.sqrt(variances + sigma2)).logpdf(end).sum(1)
    assert np.abs(ratio).max() > 2e-3  # or it would say little
    np.testing.assert_allclose(run().value - exact, ratio, atol=5e-4)


@pytest.mark.parametrize("name", few_of(NAMES))
def test_the_default_grid_and_start(name):
    """Data that are neither centred nor of unit scale, in float32, within .02 nats: the grid's ends are there."""
    schedule, unit = CASES[name].schedule, 0.3
    distribution = Gaussian(jnp.asarray([0.4, -0.3]), jnp.asarray([0.5, 1.5]) * unit**2)
    denoise, x = distribution.denoiser(schedule), distribution.sample(jax.random.key(0), 6)
    wanted = stats.norm([0.4, -0.3], unit * np.sqrt([0.5, 1.5])).logpdf(np.asarray(x)).sum(1)
    for got in (
        probability_flow(jax.random.key(1), denoise, x),
        adaptive_probability_flow(jax.random.key(1), denoise, x),
    ):
        np.testing.assert_allclose(got.value, wanted, atol=0.02)


def test_data_enter_scaled_by_alpha(float64):
    """At a first time with noise, log p(x) is the noised law's at alpha x, in the volume of x."""
    schedule, law = CASES["vp"].schedule, laws(2)["mixture"][0]
    x, times = law.sample(jax.random.key(0), 5), jnp.linspace(0.3, 0.9, 61)
    alpha = float(schedule.alpha(0.3))
    assert alpha < 0.7
    start = law.perturbed(schedule, 0.9)
    got = probability_flow(jax.random.key(1), law.denoiser(schedule), x, times, start=start)
    wanted = law.perturbed(schedule, 0.3).log_prob(alpha * x) + 2 * np.log(alpha)
    np.testing.assert_allclose(got.value, wanted, atol=1e-4)


def test_the_default_grid_stops_where_there_is_neither_signal_nor_noise():
    """Log-SNRs of RectifiedFlow, infinite at both ends of [0, 1]: cut to 16 and -12 at the data's scale."""
    law = Gaussian(jnp.zeros(2), 0.09)
    denoise = dataclasses.replace(law.denoiser(Everywhere()), t_min=0.0, t_max=1.0)
    times = np.asarray(default_times(denoise, 40), np.float64)
    levels = 2 * np.log((1 - times) / times * 0.3)
    wanted = 2 + 5 * np.sinh(np.linspace(np.arcsinh(14 / 5), -np.arcsinh(14 / 5), 41))
    np.testing.assert_allclose(levels, wanted, atol=1e-3)


@pytest.mark.parametrize("times", [[0.5, 0.2, 0.9], [0.1, 0.1], [0.0, 0.9], [0.1, 1.0], [0.1, 0.5]])
def test_bad_times_are_refused_or_not_a_number(times):
    """Out of order, equal, of infinite log-SNR at either end, with data left at the last."""
    denoise = Gaussian(jnp.zeros(2), 1.0).denoiser(CASES["rectified_flow"].schedule)
    x, times = jnp.ones((3, 2)), jnp.asarray(times)
    with pytest.raises(ValueError, match=r"strictly increasing|the log-SNR at t"):
        probability_flow(jax.random.key(0), denoise, x, times)
    traced = jax.jit(lambda times: probability_flow(jax.random.key(0), denoise, x, times).value)
    assert np.isnan(traced(times)).all()
    if len(times) == 2:
        with pytest.raises(ValueError, match=r"must be below|the log-SNR at t"):
            adaptive_probability_flow(jax.random.key(0), denoise, x, t_min=times[0], t_max=times[1])
        ends = jax.jit(
            lambda a, b: adaptive_probability_flow(jax.random.key(0), denoise, x, t_min=a, t_max=b).value
        )
        assert np.isnan(ends(*times)).all()


def test_probes_are_unbiased_with_honest_standard_errors():
    """Over 200 keys: mean within 4 standard errors, and 95 % intervals that cover 88 to 99 %."""
    case = CASES["vp"]
    distribution, _ = laws(16)["gaussian"]
    x = distribution.sample(jax.random.key(0), 1)
    denoise = distribution.denoiser(case.schedule)
    times = jnp.asarray(grid("vp", 20), jnp.float32)
    exact = probability_flow(jax.random.key(1), denoise, x, times).value[0]

    @jax.jit
    def estimate(key):
        return probability_flow(key, denoise, x, times, num_probes=16)

    value, error = jax.lax.map(estimate, jax.random.split(jax.random.key(2), 200))
    value, error = np.asarray(value)[:, 0], np.asarray(error)[:, 0]
    assert abs(value.mean() - exact) < 4 * value.std() / np.sqrt(200)
    covered = (np.abs(value - exact) < stats.t(15).ppf(0.975) * error).mean()
    assert 0.88 < covered < 0.99


def test_a_row_does_not_depend_on_its_batch():
    case = CASES["vp"]
    distribution, _ = laws(2)["mixture"]
    x = distribution.sample(jax.random.key(0), 7)
    run = functools.partial(probability_flow, jax.random.key(1), distribution.denoiser(case.schedule))
    times = jnp.asarray(grid("vp", 8), jnp.float32)
    np.testing.assert_allclose(
        run(x, times, num_probes=2).value[:3], run(x[:3], times, num_probes=2).value, rtol=1e-6
    )


def test_images_go_through_as_they_are(float64):
    """An event of any shape, by its d = H W C entries."""
    case = CASES["karras"]

    def denoise(x, t):
        total = 0.5 + t**2
        return Denoised(0.5 / total * x, t / total * x)

    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 2)) * np.sqrt(0.5)
    denoise = as_denoiser(denoise, case.schedule, shape=(2, 2, 2), scale=np.sqrt(0.5), t_min=0, t_max=1e4)
    got = probability_flow(jax.random.key(1), denoise, x, jnp.asarray(grid("karras", 60)))
    wanted = stats.norm(0, np.sqrt(0.5)).logpdf(np.asarray(x)).sum((1, 2, 3))
    np.testing.assert_allclose(got.value, wanted, atol=5e-3)


def test_the_sketch_is_independent_of_the_probes():
    """Of two dimensions one sketched direction leaves a bias where the probe is the sketch itself."""
    schedule = CASES["vp"].schedule
    law = Gaussian(jnp.zeros(2), jnp.asarray([[1.0, 0.6], [0.6, 0.4]]))
    x, times = jnp.zeros((1, 2)), jnp.asarray(grid("vp", 4), jnp.float32)
    exact = probability_flow(jax.random.key(0), law.denoiser(schedule), x, times).value[0]

    @jax.jit
    @jax.vmap
    def estimate(key):
        return probability_flow(key, law.denoiser(schedule), x, times, num_probes=1, sketch_size=1).value[0]

    off = np.asarray(estimate(jax.random.split(jax.random.key(1), 4000)) - exact, np.float64)
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(4000)
    assert off.std() < 1


# --- adaptive steps ----------------------------------------------------------------------------------------


def adaptive(name, x, law, **options):
    case = CASES[name]
    t_min, t_max = grid(name, 1)
    start = law.perturbed(case.schedule, t_max)
    run = functools.partial(adaptive_probability_flow, t_min=t_min, t_max=t_max, start=start, **options)
    return run(jax.random.key(1), law.denoiser(case.schedule), x)


@pytest.mark.parametrize("name", ["vp", "karras", "rectified_flow"])
def test_the_error_follows_the_tolerance(name, float64):
    """Points of the law and points far from it, where the flow is stiff; fewer calls at a looser tolerance."""
    law, log_prob = laws(4)["mixture"]
    x = law.sample(jax.random.key(0), 8) * jnp.repeat(jnp.asarray([1.0, 3.0]), 4)[:, None]
    error, calls = {}, {}
    for tolerance in (1e-3, 1e-6):
        got = adaptive(name, x, law, tolerance=tolerance)
        error[tolerance] = np.abs(got.value - log_prob(np.asarray(x))).max()
        calls[tolerance] = np.asarray(got.num_evaluations)
    assert error[1e-6] < 1e-3
    assert error[1e-3] < 1.0
    assert error[1e-6] < 0.1 * error[1e-3]
    assert (calls[1e-3] < calls[1e-6]).all()
    assert calls[1e-6].max() < 1200


def test_each_row_steps_alone(float64):
    law, _ = laws(3)["mixture"]
    x = law.sample(jax.random.key(0), 5) * jnp.asarray([1.0, 1, 1, 1, 9])[:, None]
    together, alone = (adaptive("vp", rows, law, num_probes=2, sketch_size=1) for rows in (x, x[:2]))
    np.testing.assert_allclose(together.value[:2], alone.value, rtol=1e-9)
    np.testing.assert_array_equal(together.num_evaluations[:2], alone.num_evaluations)


def test_rows_that_run_out_of_steps_have_no_answer(float64):
    law, _ = laws(2)["mixture"]
    x = law.sample(jax.random.key(0), 3)
    got = adaptive("vp", x, law, tolerance=1e-7, max_steps=5)
    assert np.isnan(got.value).all()
    np.testing.assert_array_equal(got.num_evaluations, 31)


def test_the_derivative_is_the_score(float64):
    law, _ = laws(2)["mixture"]
    x = law.sample(jax.random.key(0), 4)
    gradient = jax.grad(lambda x: adaptive("vp", x, law, tolerance=1e-7, max_steps=200).value.sum())(x)
    np.testing.assert_allclose(gradient, jax.vmap(jax.grad(law.log_prob))(x), rtol=1e-3, atol=1e-3)


def test_steps_are_short_where_only_the_density_is_hard(float64):
    """At the mean of a Gaussian nothing moves, while each direction's volume changes at a time of its own."""
    law = Gaussian(jnp.zeros(2), jnp.asarray([1e-3, 1.0]))
    got = adaptive("vp", jnp.zeros((1, 2)), law, tolerance=1e-6)
    np.testing.assert_allclose(got.value, law.log_prob(jnp.zeros((1, 2))), atol=1e-3)


def test_a_sketch_needs_probes_and_room():
    law, _ = laws(2)["gaussian"]
    x = law.sample(jax.random.key(0), 2)
    for options in ({"sketch_size": 1}, {"sketch_size": 3, "num_probes": 1}):
        with pytest.raises(ValueError, match="sketch_size must be at most the 2 entries"):
            adaptive("vp", x, law, **options)
