"""Learning from noisy data only: targets and losses whose minimizers are the clean data's, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, few_of, interior

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning.noisy_data import noisy_data_target, sure_loss
from jaxdiff.noising.schedules import Karras, VariancePreserving
from jaxdiff.typing import Denoised

KEY, STD = jax.random.key(0), 0.4
MIXTURE = GaussianMixture(
    jnp.asarray([0.3, 0.7]), jnp.asarray([[1.0, 0.0], [-1.0, 0.5]]), jnp.asarray([0.1, 0.2])
)
FUNCTIONS = (jnp.ones_like, lambda x: x, jnp.sin, lambda x: x**2, lambda x: jnp.cos(3 * x))


def noisy(n):
    clean = MIXTURE.sample(jax.random.key(1), n)
    return clean, clean + STD * jax.random.normal(jax.random.key(2), clean.shape)


@pytest.mark.parametrize("name", few_of(["vp", "rectified_flow", "karras"], few=("vp",)))
def test_the_target_of_noisy_data_has_the_clean_denoiser_as_its_conditional_mean(name):
    """E[(target - D) h(x)] = 0 for five h, D of the clean law: for the data, and for the noise."""
    case = CASES[name]
    t = next(t for t in interior(case, 40) if case.sigma(t) > 2 * STD * case.alpha(t))
    _, y = noisy(20_000)
    x, target = noisy_data_target(KEY, case.schedule, y, t, STD)
    np.testing.assert_allclose(case.alpha(t) * target.data + case.sigma(t) * target.noise, x, atol=1e-4)
    answer = MIXTURE.denoiser(case.schedule)(x, t)
    for got, wanted in zip(target, answer, strict=True):
        for h in FUNCTIONS:
            off = np.asarray((got - wanted) * h(x), np.float64)
            assert abs(off.mean()) < 4 * off.std() / off.size**0.5


def linear(matrix, schedule):
    """D = matrix y, of y = x / alpha."""

    def answer(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        data = (x / alpha) @ matrix.T
        return Denoised(data, (x - alpha * data) / sigma)

    return as_denoiser(answer, schedule, shape=(2,))


@pytest.mark.parametrize(
    "schedule",
    [pytest.param(Karras(), id="ve"), pytest.param(VariancePreserving(), id="vp", marks=pytest.mark.slow)],
)
def test_the_linear_minimizer_of_sure_is_wieners(schedule, float64):
    """Of second moments S of the noisy data the least loss is at I - std^2 S^-1: S - std^2 I is learnt."""
    _, y = noisy(50)
    second = np.asarray(y.T @ y) / len(y)
    best = np.eye(2) - STD**2 * np.linalg.inv(second)

    def loss(matrix):
        return sure_loss(linear(matrix, schedule), y, STD).mean()

    value, slope = jax.value_and_grad(loss)(jnp.asarray(best))
    np.testing.assert_allclose(slope, 0.0, atol=1e-9)
    wanted = STD**2 * np.trace(np.eye(2) - STD**2 * np.linalg.inv(second))  # the clean error left
    np.testing.assert_allclose(value, wanted, rtol=1e-8)
    moved = np.array([[0.1, -0.2], [0.05, 0.3]])
    more = np.trace(moved @ second @ moved.T)
    np.testing.assert_allclose(loss(jnp.asarray(best + moved)) - value, more, rtol=1e-7)


@pytest.mark.parametrize("schedule", [Karras(), VariancePreserving()], ids=["ve", "vp"])
def test_sure_is_the_same_and_as_careful_under_jit(schedule):
    """As in a training step: the levels that the denoiser knows are no part of what is traced."""
    _, y = noisy(5)
    matrix = jnp.array([[0.5, 0.1], [0.0, 0.7]])
    jitted = jax.jit(lambda matrix, y: sure_loss(linear(matrix, schedule), y, STD))
    np.testing.assert_allclose(
        jitted(matrix, y), sure_loss(linear(matrix, schedule), y, STD), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"std = 1e\+09 is outside of sigma / alpha"):
        jax.jit(lambda y: sure_loss(linear(matrix, schedule), y, 1e9))(y)


@pytest.mark.slow
def test_sure_estimates_the_error_of_clean_data():
    clean, y = noisy(20_000)
    model = MIXTURE.denoiser(Karras())
    for key in (None, KEY):
        off = sure_loss(model, y, STD, key=key) - ((model(y, STD).data - clean) ** 2).sum(1)
        off = np.asarray(off, np.float64)
        assert abs(off.mean()) < 4 * off.std() / len(off) ** 0.5
