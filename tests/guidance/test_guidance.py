"""Transforms of denoisers, against laws whose scores and flows are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, few_of, gaussian_denoiser, interior

from jaxdiff.guidance.classifier_free import guided
from jaxdiff.guidance.composed import composed
from jaxdiff.guidance.tilted import rewarded, tilted
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras, RectifiedFlow
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.heun import Heun

X = jnp.asarray(np.random.default_rng(3).standard_normal((6, 2)))
SOURCE = GaussianMixture(jnp.asarray([0.3, 0.7]), jnp.asarray([[1.0, 0.0], [-1.0, 1.0]]), jnp.full(2, 0.3))
TARGET = GaussianMixture(jnp.asarray([0.8, 0.2]), jnp.asarray([[1.0, 0.5], [0.0, -1.0]]), jnp.full(2, 0.5))


@pytest.mark.parametrize("name", few_of(NAMES, few=("vp", "karras", "rectified_flow")))
def test_the_difference_of_scores_leads_to_the_other_law(name, float64):
    case = CASES[name]
    schedule, t = case.schedule, interior(case)[3]
    laws = [jax.tree.map(lambda leaf: leaf.astype(float), law) for law in (SOURCE, TARGET)]
    source, target = (law.denoiser(schedule) for law in laws)

    def h(x, t):
        return (source(x, t).noise - target(x, t).noise) / jax.vmap(schedule.sigma)(t)[:, None]

    x, times = jnp.asarray(X, float), jnp.full(6, t)
    got, wanted = tilted(source, h)(x, times), target(x, times)
    np.testing.assert_allclose(got.noise, wanted.noise, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(got.data, wanted.data, rtol=1e-8, atol=1e-9)


def test_without_signal_the_data_are_left():
    denoise = Gaussian(jnp.ones(2), 0.5).denoiser(RectifiedFlow())
    got = tilted(denoise, lambda x, t: jnp.ones_like(x))(X, 1.0)
    np.testing.assert_array_equal(got.data, denoise(X, 1.0).data)


def test_a_linear_reward_of_a_gaussian_is_its_exact_tilt():
    """p e^(scale b x) of N(m, C) is N(m + scale C b, C)."""
    covariance, b = jnp.asarray([[1.0, 0.4], [0.4, 0.5]]), jnp.asarray([0.7, -1.2])
    law = Gaussian(jnp.asarray([0.2, 0.1]), covariance)
    got = rewarded(law.denoiser(Karras()), lambda data: data @ b, 1.5)(X, jnp.linspace(0.3, 2, 6))
    wanted = Gaussian(law.mean + 1.5 * covariance @ b, covariance).denoiser(Karras())
    for one, other in zip(got, wanted(X, jnp.linspace(0.3, 2, 6)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def pair(schedule=None):
    schedule = Karras() if schedule is None else schedule
    return SOURCE.denoiser(schedule), TARGET.denoiser(schedule)


@pytest.mark.parametrize("options", [{}, {"rescale": 0.7}, {"interval": (0.1, 0.9)}])
def test_a_scale_of_one_is_the_denoiser_bit_for_bit(options):
    one, other = pair()
    for scale in (1.0, jnp.ones(())):
        got = guided(one, scale, unconditional=other, **options)(X, 0.5)
        for a, b in zip(got, one(X, 0.5), strict=True):
            np.testing.assert_array_equal(a, b)


def test_guidance_holds_within_its_interval_alone():
    one, other = pair()
    t = jnp.asarray([0.1, 0.3, 0.5, 0.7, 0.9, 2.0])
    got = guided(one, 3.0, unconditional=other, interval=(0.3, 0.7))(X, t)
    always, never = guided(one, 3.0, unconditional=other)(X, t), one(X, t)
    inside = np.asarray([0, 1, 1, 1, 0, 0], bool)
    np.testing.assert_array_equal(got.data[inside], always.data[inside])
    np.testing.assert_array_equal(got.data[~inside], never.data[~inside])


def test_rescaled_guidance_has_the_spread_of_the_conditional():
    one, other = pair()
    got = guided(one, 4.0, unconditional=other, rescale=1.0)(X, 0.8)
    np.testing.assert_allclose(got.data.std(1), one(X, 0.8).data.std(1), rtol=1e-5)
    np.testing.assert_allclose(got.data + 0.8 * got.noise, X, atol=1e-5)
    assert np.abs(got.data - one(X, 0.8).data).max() > 1e-3


def end_of_flow(denoise, schedule, t, s):
    """x at s for x = 1 at t, by many steps of the second order."""
    times = jnp.geomspace(t, s, 200)
    x = jnp.full((1, 1), 1.0) * schedule.sigma(t)
    return (integrate(jax.random.key(0), denoise, x, times, sampler=Heun()) / schedule.sigma(t))[0, 0]


@pytest.mark.parametrize("w", [0.0, 2.5])
def test_guidance_between_gaussians_ends_where_its_docstring_says(w, float64):
    """Standard deviations sqrt(s^2 + sigma^2)^w sqrt(u^2 + sigma^2)^(1 - w) along the flow, not the tilt's."""
    schedule, s, u = Karras(), 0.5, 1.2
    one, other = (gaussian_denoiser(schedule, 0.0, v**2) for v in (s, u))

    def std(sigma):
        return np.hypot(s, sigma) ** w * np.hypot(u, sigma) ** (1 - w)

    wanted = std(2e-3) / std(80.0)
    both = composed([one, other], [w, 1 - w])
    for denoise in (guided(one, w, unconditional=other), both):
        np.testing.assert_allclose(end_of_flow(denoise, schedule, 80.0, 2e-3), wanted, rtol=2e-3)
    np.testing.assert_allclose(80 * wanted, s**w * u ** (1 - w), rtol=1e-3)
    tilt = (w / s**2 + (1 - w) / u**2) ** -0.5
    assert w == 0 or abs(80 * wanted - tilt) > 0.1


def test_annealing_by_the_flow_ends_where_its_docstring_says(float64):
    schedule, s, power = Karras(), 0.5, 2.0
    got = end_of_flow(composed([gaussian_denoiser(schedule, 0.0, s**2)], [power]), schedule, 80.0, 2e-3)
    np.testing.assert_allclose(80 * got, s**power * 80 ** (1 - power), rtol=0.02)


def test_powers_that_sum_to_one_need_no_signal():
    one, other = pair(RectifiedFlow())
    got = composed([one, other], [2.0, -1.0])(X, 1.0)
    np.testing.assert_allclose(got.data, 2 * one(X, 1.0).data - other(X, 1.0).data, rtol=1e-5)


def test_conditions_bound_after_a_transform_reach_the_denoiser():
    from jaxdiff.laws.labelled import Labelled

    classes = Labelled([Gaussian(jnp.zeros(2), 0.5), Gaussian(jnp.ones(2), 0.5)]).denoiser(Karras())
    labels, zero = jnp.asarray([0, 1, 1, 0, 1, 0]), lambda x, t: jnp.zeros_like(x)
    wanted = classes.given(labels)(X, 0.5)
    for denoise in (tilted(classes, zero), rewarded(classes, lambda data: 0 * data.sum(1))):
        for got in (denoise.given(labels)(X, 0.5), denoise.given(labels).at_rows(jnp.arange(6))(X, 0.5)):
            np.testing.assert_allclose(got.data, wanted.data, rtol=1e-6)
