"""Weights against their formulas, and the laws of times that they go with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from oracles import CASES, NAMES, interior

from jaxdiff.denoising import prediction
from jaxdiff.learning import weights
from jaxdiff.noising import times


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_named_ones(name, float64):
    """At four times of each schedule, from clean to noisy; each is on the error that it is said to be on."""
    case = CASES[name]

    def level(t):
        return 2 * np.log(case.alpha(t) / case.sigma(t))

    for t in interior(case)[::2]:
        snr, h = np.exp(level(t)), 1e-5 * t
        slope = (level(t + h) - level(t - h)) / (2 * h)
        a, b = weights.likelihood(case.schedule, t)
        assert a == 0
        np.testing.assert_allclose(b**2, -slope / 2, rtol=1e-5)
        for gamma in (5.0, 0.01):
            a, b = weights.min_snr(gamma)(case.schedule, t)
            assert b == 0
            np.testing.assert_allclose(a**2, min(snr, gamma), rtol=1e-6)
        for bias in (-1.0, 2.0):
            a, b = weights.sigmoid(bias)(case.schedule, t)
            assert a == 0
            np.testing.assert_allclose(b**2, 1 / (1 + np.exp(level(t) - bias)), rtol=1e-6)
        a, b = weights.min_snr()(case.schedule, t)
        np.testing.assert_allclose(a**2, min(snr, 5.0), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_likelihood_weight_is_constant_at_times_uniform_in_log_snr(name, float64):
    """Weight and reciprocal density of the times: half of the range of log-SNR."""
    case = CASES[name]
    low, high = interior(case)[[0, -1]]
    drawn = times.log_snr_uniform(jnp.linspace(0.05, 0.95, 7), case.schedule, t_min=low, t_max=high)
    noise = jax.vmap(lambda t: weights.likelihood(case.schedule, t)[1])(drawn.t)
    levels = [2 * np.log(case.alpha(t) / case.sigma(t)) for t in (low, high)]
    np.testing.assert_allclose(noise**2 * drawn.weight, 0.5 * (levels[0] - levels[1]), rtol=1e-6)


def test_the_sigmoid_weight_does_not_underflow():
    assert float(weights.sigmoid()(CASES["karras"].schedule, jnp.float32(1e-30))[1]) > 0


def test_numbers_of_a_weight_may_be_traced():
    schedule, numbers = CASES["vp"].schedule, jnp.asarray([0.5, 2.0, 9.0])
    for make in (weights.min_snr, weights.sigmoid):
        swept = jax.jit(jax.vmap(lambda number, make=make: jnp.stack(make(number)(schedule, 0.3))))(numbers)
        alone = jnp.stack([jnp.stack(make(float(number))(schedule, 0.3)) for number in numbers])
        np.testing.assert_allclose(swept, alone, rtol=1e-6)


def test_a_weight_is_an_argument_of_compiled_functions():
    """Its numbers are leaves, whatever they are in: so is the standard deviation of EDM's row."""
    assert jax.tree.leaves(weights.as_argument(weights.min_snr(3.0))) == [3.0]
    assert jax.tree.leaves(weights.as_argument(weights.likelihood)) == []
    (std,) = jax.tree.leaves(weights.as_argument(prediction.EDM(jnp.float32(0.4)).row))
    assert std == jnp.float32(0.4)
    same = weights.as_argument(weights.as_argument(prediction.EDM(0.4).row))
    assert isinstance(same, Partial)
    got = same(CASES["vp"].schedule, 0.3)
    np.testing.assert_array_equal(got, prediction.EDM(0.4).row(CASES["vp"].schedule, 0.3))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: weights.min_snr(0.0), ValueError, "gamma must be positive"),
        (lambda: weights.sigmoid(jnp.nan), ValueError, "bias has 1 non-finite"),
        (lambda: weights.as_argument(prediction.noise), TypeError, "give its row, prediction.noise.row"),
        (lambda: weights.as_argument(1.0), TypeError, "weight must be a function"),
    ],
)
def test_bad_weights(call, error, match):
    with pytest.raises(error, match=match):
        call()
