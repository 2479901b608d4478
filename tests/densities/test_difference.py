import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff.densities.difference import log_density_difference, telescoped_log_density
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras, VariancePreserving

KEY = jax.random.key(0)
WEIGHTS, STDS = np.asarray([0.4, 0.6]), np.asarray([[0.5, 0.8, 0.6], [0.7, 0.4, 0.9]])
MEANS = np.asarray([[1.0, 0.0, -0.5], [-1.0, 0.6, 0.2]])


def law(shift):
    return GaussianMixture(jnp.asarray(WEIGHTS), jnp.asarray(MEANS + shift), jnp.asarray(STDS**2))


def log_prob(x, shift):
    x = np.asarray(x, np.float64)[:, None]
    parts = np.log(WEIGHTS) + stats.norm(MEANS + shift, STDS).logpdf(x).sum(2)
    return np.logaddexp.reduce(parts, axis=1)


@pytest.fixture(scope="module")
def x():
    return law(0.0).sample(jax.random.key(1), 300)


def within(got, truth):
    off = np.asarray(got.value, np.float64) - truth
    error = np.asarray(got.standard_error)
    assert (np.abs(off) < 1.96 * error).mean() > 0.9
    assert abs(off.mean()) < 4 * off.std() / len(off) ** 0.5
    return np.sqrt(np.mean(off**2))


@pytest.mark.parametrize("schedule", [Karras(), pytest.param(VariancePreserving(), marks=pytest.mark.slow)])
def test_the_difference_of_two_laws_and_what_it_spares(schedule, x):
    one, other = (law(shift).denoiser(schedule) for shift in (0.0, 0.1))
    truth = log_prob(x, 0.0) - log_prob(x, 0.1)
    assert np.std(truth) > 0.2
    rmse = within(log_density_difference(KEY, one, other, x, evaluations=Evaluations(240)), truth)
    apart = [
        density_formula(key, denoise, x, evaluations=Evaluations(240)).value
        for key, denoise in zip(jax.random.split(KEY), (one, other), strict=True)
    ]
    assert rmse < 0.25 * np.sqrt(np.mean((apart[0] - apart[1] - truth) ** 2))


def test_the_other_way_round_it_has_the_other_sign(x):
    one, other = (law(shift).denoiser(Karras()) for shift in (0.0, 0.5))
    there = log_density_difference(KEY, one, other, x, evaluations=Evaluations(40))
    # Both are shown the same times only where their scales agree.
    back = log_density_difference(
        KEY, dataclasses.replace(other, scale=one.scale), one, x, evaluations=Evaluations(40)
    )
    np.testing.assert_allclose(there.value, -back.value, rtol=1e-4, atol=1e-4)
    nothing = log_density_difference(KEY, one, one, x, evaluations=Evaluations(40))
    assert not np.any(nothing.value)
    assert not np.any(nothing.standard_error)


@pytest.mark.slow
def test_a_telescope_gives_the_dear_one_little_to_do(x):
    cheap, middle, dear = (law(shift).denoiser(Karras()) for shift in (0.3, 0.05, 0.0))
    truth = log_prob(x, 0.0)
    got = telescoped_log_density(
        KEY, [cheap, middle, dear], x, [Evaluations(number) for number in (4000, 400, 40)]
    )
    rmse = within(got, truth)
    alone = density_formula(KEY, dear, x, evaluations=Evaluations(400))
    assert rmse < 0.7 * np.sqrt(np.mean((alone.value - truth) ** 2))
    one = telescoped_log_density(KEY, [dear], x, [Evaluations(400)])
    alone = density_formula(jax.random.split(KEY, 1)[0], dear, x, evaluations=Evaluations(400))
    np.testing.assert_array_equal(one.value, alone.value)
    np.testing.assert_allclose(one.standard_error, alone.standard_error, rtol=1e-6)


def test_each_row_has_its_own_condition_in_both(float64):
    means = np.asarray([[0.0, 1.0], [-1.0, 0.5]])
    laws = Labelled([Gaussian(mean, jnp.ones(2)) for mean in means])
    labels = np.arange(40) % 2
    x = jax.random.normal(KEY, (40, 2))
    plain = Gaussian(jnp.zeros(2), jnp.asarray(1.0)).denoiser(Karras())
    bound = laws.denoiser(Karras()).given(labels)
    truth = stats.norm(means[labels]).logpdf(x).sum(1) - stats.norm.logpdf(x).sum(1)
    for one, other, sign in ((bound, plain, 1), (plain, bound, -1)):
        got = log_density_difference(KEY, one, other, x, evaluations=Evaluations(400))
        np.testing.assert_allclose(got.value, sign * truth, atol=0.05)
    assert np.std(truth) > 0.5


@pytest.mark.slow
def test_jitted_as_eager(x):
    one, other = (law(shift).denoiser(Karras()) for shift in (0.0, 0.1))

    def value(denoise):
        return log_density_difference(KEY, denoise, other, x, evaluations=Evaluations(20)).value

    np.testing.assert_allclose(jax.jit(value)(one), value(one), rtol=1e-4, atol=1e-5)
    for range_ in ({"t_max": 1.0}, {"t_min": 0.5}):
        assert np.isnan(jax.jit(lambda d, r=range_: value(dataclasses.replace(d, **r)))(one)).all()


DENOISE = law(0.0).denoiser(Karras())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (law(0.0).denoiser(VariancePreserving()), "other must have the schedule of denoise"),
        (Gaussian(jnp.zeros(2), 1.0).denoiser(Karras()), "other must have the shape of denoise"),
        (dataclasses.replace(DENOISE, t_min=0.1), "the t_min of denoise = .* is outside"),
        (dataclasses.replace(DENOISE, t_max=10.0), "the t_max of denoise = .* is outside"),
    ],
)
def test_denoisers_that_do_not_go_together(other, words):
    with pytest.raises(ValueError, match=words):
        log_density_difference(KEY, DENOISE, other, jnp.zeros((2, 3)), evaluations=Evaluations(20))


@pytest.mark.parametrize(
    ("denoisers", "numbers", "error", "words"),
    [
        ([], [], ValueError, "at least one"),
        ([DENOISE], [20, 20], ValueError, "2 for 1"),
        ([DENOISE, DENOISE], [20, 19], ValueError, "evaluations.number must be an integer of at least 20"),
        ([lambda x, t: x, DENOISE], [20, 20], TypeError, r"denoisers\[0\] must be a Denoiser"),
        (
            [law(0.0).denoiser(VariancePreserving()), DENOISE],
            [20, 20],
            ValueError,
            r"denoisers\[0\] must have the schedule of the last",
        ),
    ],
)
def test_bad_telescopes(denoisers, numbers, error, words):
    with pytest.raises(error, match=words):
        telescoped_log_density(KEY, denoisers, jnp.zeros((2, 3)), [Evaluations(number) for number in numbers])
