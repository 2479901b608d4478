"""Tuning by rewards: targets and losses that have exact tilts, of Gaussians and mixtures, as their minimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import CASES, few_of

from jaxdiff.guidance.tilted import tilted
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning import rewards
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.noising.schedules import Karras
from jaxdiff.noising.times import log_snr_uniform, stratified

KEY, KARRAS = jax.random.key(0), Karras()
B = np.array([0.7, -1.2])
COVARIANCE = np.array([[1.0, 0.4], [0.4, 0.5]])
TIMES = np.array([30.0, 6.0, 2.0, 0.8, 0.3, 0.1])


def reward(data):
    return data @ jnp.asarray(B, data.dtype)


@pytest.mark.parametrize("name", few_of(["karras", "vp", "rectified_flow"], few=("karras",)))
def test_of_a_gaussian_and_a_linear_reward_every_adjoint_is_exact(name, float64):
    """Wherever the model is, and however long the steps: the target is the denoiser of N(m + S b, S)."""
    case = CASES[name]
    schedule, mean = case.schedule, np.array([0.3, -0.2])
    base = Gaussian(jnp.asarray(mean), jnp.asarray(COVARIANCE)).denoiser(schedule)
    other = Gaussian(jnp.asarray([2.0, 2.0]), jnp.asarray([0.1, 0.2])).denoiser(schedule)
    wanted = Gaussian(jnp.asarray(mean + COVARIANCE @ B), jnp.asarray(COVARIANCE)).denoiser(schedule)
    times = TIMES if name == "karras" else np.array([case.t_max, 0.7, 0.3, 0.05])
    x, t, target = rewards.adjoint_matching_target(KEY, other, base, reward, 3, times=jnp.asarray(times))
    answer = wanted(x, t)
    np.testing.assert_array_equal(t, np.repeat(times, 3))
    np.testing.assert_allclose(target.data, answer.data, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(target.noise, answer.noise, rtol=1e-8, atol=1e-9)


ONE = (np.array([0.4, 0.6]), np.array([-1.5, 1.0]), np.array([0.5, 0.3]))
SLOPE = 0.8


def mixture(weights, means, variances):
    return GaussianMixture(jnp.asarray(weights), jnp.asarray(means)[:, None], jnp.asarray(variances))


def tilt():
    """Of the mixture by e^(SLOPE x): each component moved by its variance, and weighed by its mean of that."""
    weights, means, variances = ONE
    heavier = weights * np.exp(SLOPE * means + SLOPE**2 * variances / 2)
    return heavier / heavier.sum(), means + SLOPE * variances, variances


def linear(data):
    return SLOPE * data[:, 0]


FUNCTIONS = (jnp.ones_like, lambda x: x, jnp.sin, lambda x: jnp.cos(3 * x))


@pytest.mark.slow
def test_the_adjoints_of_a_tilted_mixture_have_its_denoiser_as_their_mean():
    """E[(target - D) h(x)] = 0 at each time but for the chain's own steps; with the base's chain it is not."""
    base, wanted = (mixture(*law).denoiser(KARRAS) for law in (ONE, tilt()))
    n, times = 3000, np.geomspace(30.0, 0.05, 60)
    off = {}
    for name, chain in (("tilt", wanted), ("base", base)):
        x, t, target = rewards.adjoint_matching_target(KEY, chain, base, linear, n, times=jnp.asarray(times))
        residual = np.asarray((target.noise - wanted(x, t).noise)[:, 0], np.float64).reshape(60, n)
        h = np.asarray(jnp.stack([f(x[:, 0] / jnp.hypot(1.0, t)) for f in FUNCTIONS]), np.float64)
        product = residual[None] * h.reshape(len(h), 60, n)
        off[name] = product[:, 10:].mean((1, 2)), product[:, 10:].mean(1).std(1) / n**0.5
    mean, error = off["tilt"]
    assert (np.abs(mean) < 4 * error + 0.004).all(), off
    assert (np.abs(off["base"][0]) > 4 * off["base"][1] + 0.02).any(), off


def test_the_renoised_target_moves_a_gaussian_to_its_tilt_at_once():
    """Model and base N(m, s^2): the mean of the target given x_t is the tilt's denoiser, a line."""
    mean, variance, t = 0.3, 0.64, 0.7
    base = Gaussian(jnp.asarray([mean]), jnp.asarray([variance])).denoiser(KARRAS)
    data = mean + variance**0.5 * jax.random.normal(jax.random.key(1), (40_000, 1))
    x, target = rewards.renoised_reward_target(KEY, base, base, linear, data, t, at=0.05)
    np.testing.assert_allclose(target.data + t * target.noise, x, rtol=1e-5, atol=1e-5)
    moved = Gaussian(jnp.asarray([mean + SLOPE * variance]), jnp.asarray([variance])).denoiser(KARRAS)
    off = np.asarray(target.data - moved(x, t).data, np.float64)[:, 0]
    for h in (np.ones_like(off), np.asarray(x[:, 0])):
        assert abs((off * h).mean()) < 4 * (off * h).std() / len(off) ** 0.5 + 0.003


@pytest.mark.slow
def test_the_tilt_is_left_alone_by_renoised_targets():
    base, model = (mixture(*law).denoiser(KARRAS) for law in (ONE, tilt()))
    data = mixture(*tilt()).sample(jax.random.key(1), 500)
    _, target = rewards.renoised_reward_target(KEY, model, base, linear, data, 1.0, at=0.02)
    np.testing.assert_allclose(target.data, data, atol=0.01)


def test_weights_are_of_mean_one_and_tilt_the_base():
    data = mixture(*ONE).sample(KEY, 20_000)
    got = np.asarray(rewards.reward_weights(linear(data)), np.float64)
    np.testing.assert_allclose(got.mean(), 1.0, rtol=1e-5)
    weights, means, variances = tilt()
    for power, wanted in ((1, weights @ means), (2, weights @ (means**2 + variances))):
        off = got * (np.asarray(data[:, 0], np.float64) ** power - wanted)
        assert abs(off.mean()) < 4 * off.std() / len(off) ** 0.5
    np.testing.assert_allclose(rewards.reward_weights(linear(data) + 1000.0), got, rtol=1e-2)


def test_the_log_mean_is_where_the_loss_is_least():
    log_weight = jnp.log(jnp.asarray([0.2, 1.0, 4.0]))
    for value, slope in ((np.log(5.2 / 3), 0.0), (0.0, 1 - 5.2 / 3)):  # e^value - w

        def loss(value):
            return rewards.log_mean_loss(jnp.full(3, value), log_weight).mean()

        np.testing.assert_allclose(jax.grad(loss)(value), slope, atol=1e-6)


@pytest.mark.slow
def test_the_learnt_log_mean_leads_to_another_law(float64):
    """w = q / p of two mixtures: E[w | x_t] is q_t / p_t, whose gradient takes p's denoiser to q's."""
    one, other, t = mixture(*ONE), mixture([0.7, 0.3], [0.5, 1.2], [0.4, 0.2]), 0.6
    data = one.sample(jax.random.key(1), 20_000)
    log_weight = other.log_prob(data) - one.log_prob(data)
    x, _ = denoising_target(KEY, KARRAS, data, t)

    def value(x, t):
        return other.perturbed(KARRAS, t).log_prob(x) - one.perturbed(KARRAS, t).log_prob(x)

    for h in FUNCTIONS:  # no step along h lessens the loss

        def moved(step, h=h):
            return rewards.log_mean_loss(value(x, t) + step * h(x[:, 0]), log_weight)

        slope = np.asarray(jax.jvp(moved, (0.0,), (1.0,))[1])
        assert abs(slope.mean()) < 4 * slope.std() / len(slope) ** 0.5
    led = tilted(one.denoiser(KARRAS), lambda x, t: jax.grad(lambda x: value(x, t).sum())(x))
    few = x[:10]
    np.testing.assert_allclose(led(few, t).data, other.denoiser(KARRAS)(few, t).data, rtol=1e-7)


def batch(method, key, model, base):
    """Points, times, targets and weights of one training step."""
    data_key, time_key, key = jax.random.split(key, 3)
    t = log_snr_uniform(stratified(time_key, 512), KARRAS, t_min=0.1, t_max=20.0).t
    if method == "adjoints":
        times = jnp.geomspace(40.0, 0.05, 25)
        x, t, target = rewards.adjoint_matching_target(
            key, model.denoiser(KARRAS), base, linear, 64, times=times
        )
        return x, t, target, jnp.ones(len(x))
    if method == "renoised":
        data = jax.lax.stop_gradient(model).sample(data_key, 512)
        pair = (model.denoiser(KARRAS), base)
        x, target = rewards.renoised_reward_target(key, *pair, linear, data, t, at=0.05)
        return x, t, target, jnp.ones(512)
    data = mixture(*ONE).sample(data_key, 512)
    x, target = denoising_target(key, KARRAS, data, t)
    return x, t, target, rewards.reward_weights(linear(data))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["weights", "adjoints", "renoised"])
def test_tuning_reaches_the_tilt_of_a_mixture(method):
    """In the family of the tilt, from the base: weights and means are the tilt's at the end."""
    base = mixture(*ONE).denoiser(KARRAS)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.04, 200))

    def law(params):
        return mixture(jax.nn.softmax(params["logits"]), params["means"], ONE[2])

    def loss(params, key):
        x, t, target, weight = batch(method, key, law(params), base)
        return (weight * regression_loss(law(params).denoiser(KARRAS), x, target, t)).mean()

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            change, state = optimizer.update(jax.grad(loss)(params, key), state)
            return (optax.apply_updates(params, change), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(KEY, 200))[0][0]

    got = train({"logits": jnp.log(jnp.asarray(ONE[0])), "means": jnp.asarray(ONE[1])})
    weights, means, _ = tilt()
    np.testing.assert_allclose(jax.nn.softmax(got["logits"]), weights, atol=0.03)
    np.testing.assert_allclose(got["means"], means, atol=0.04)
    assert abs(weights[0] - ONE[0][0]) > 0.3
