"""Generators of p(data | x_t): exact ones have the laws that they should, and training ends at an exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff import inverse

KEY, KARRAS = jax.random.key(0), jd.Karras()
VARIANCES = np.array([0.3, 1.7])
LAW = jd.Gaussian(jnp.zeros(2), jnp.asarray(VARIANCES, jnp.float32))


def exact(schedule, scale=0.8, shape=(2,)):
    """Of N(0, scale^2 I), to whose posterior EDM's row leads from the noise itself."""
    denoise = jd.make_denoiser(lambda params, x, t, noise: noise, None, schedule, shape=shape, scale=scale)
    return inverse.PosteriorGenerator(denoise)


def test_a_draw_is_of_the_posterior_of_its_own_row():
    """N(alpha v x / c^2, v sigma^2 / c^2) with c^2 = alpha^2 v + sigma^2, at a time for each row."""
    schedule, v, n = jd.VariancePreserving(), 0.64, 40_000
    t = jnp.tile(jnp.array([0.2, 0.6]), n // 2)
    x = jnp.tile(jnp.array([[0.5, -1.0], [2.0, 0.3]]), (n // 2, 1))
    draws = np.asarray(exact(schedule)(KEY, x, t), np.float64).reshape(n // 2, 2, 2)
    for row, time in enumerate((0.2, 0.6)):
        alpha, sigma = float(schedule.alpha(time)), float(schedule.sigma(time))
        total = alpha**2 * v + sigma**2
        std = np.sqrt(v * sigma**2 / total)
        mean = alpha * v * np.asarray(x[row]) / total
        np.testing.assert_allclose(draws[:, row].mean(0), mean, atol=5 * std / (n / 2) ** 0.5)
        np.testing.assert_allclose(draws[:, row].std(0), std, rtol=0.03)


def test_samples_by_any_number_of_calls_have_the_law_of_the_data_and_are_their_own():
    generator = exact(jd.RectifiedFlow())
    for calls in (1, 3):
        x = np.asarray(inverse.sample_generator(KEY, generator, 20_000, num_calls=calls))
        np.testing.assert_allclose(x.std(0), 0.8, rtol=0.03)
        few = inverse.sample_generator(KEY, generator, 5, num_calls=calls)
        np.testing.assert_allclose(few, x[:5], rtol=1e-5)
    # The noise between is new, and as much as the time says: what ends at t = 0.5 is 0.5 data + 0.5 noise.
    half = np.asarray(inverse.sample_generator(KEY, generator, 20_000, times=jnp.array([1.0, 0.9, 0.5])))
    np.testing.assert_allclose(half.std(0), np.hypot(0.4, 0.5), rtol=0.03)


TIME, VARIANCE = 0.7, 0.64
POSTERIOR = 1 / (1 / VARIANCE + 1 / TIME**2)


@jax.jit
def losses_and_slopes(shift, told):
    """Of a generator whose draws are `shift` posterior deviations too large, and of a fake that tells `told`.

    Exactly told, D_fake - D_teacher = s^2 / (s^2 + posterior variance) of the shift: by EDM's network of the
    combined point, the same in units of the deviation that is left, which it is shown as log(u) / 4.
    """
    teacher = jd.Gaussian(jnp.zeros(1), jnp.asarray(VARIANCE)).denoiser(KARRAS)
    data = jax.random.normal(jax.random.key(1), (6_000, 1)) * VARIANCE**0.5

    def predict(told, x, level, seen):
        left = 1 / jnp.sqrt(1 / VARIANCE + jnp.exp(-8 * level))
        # Of where x_t was it hears too, but for which it answers to the noise alone.
        return told * (left / POSTERIOR**0.5)[:, None] + 0 * seen[0]

    def losses(shift, told):
        made = jd.make_denoiser(lambda p, x, t, noise: noise + p, shift, KARRAS, shape=(1,), scale=0.8)
        fake = jd.make_denoiser(predict, told, KARRAS, shape=(1,), scale=0.8)
        return inverse.posterior_distillation_losses(
            KEY, inverse.PosteriorGenerator(made), teacher, fake, data, TIME
        )

    one, zero = jnp.ones(()), jnp.zeros(())
    by_shift, by_told = (jax.jvp(losses, (shift, told), way)[1] for way in ((one, zero), (zero, one)))
    return losses(shift, told), by_shift, by_told


def test_the_losses_are_those_of_shifted_gaussians_in_closed_form():
    shift = 0.5
    (own, _), (own_slope, error_by_shift), (own_by_told, error_slope) = (
        [np.asarray(rows, np.float64) for rows in pair]
        for pair in losses_and_slopes(jnp.float32(shift), jnp.float32(shift))
    )
    deviation = POSTERIOR**0.5
    s = deviation * np.exp(-0.5 + 1.2 * np.linspace(-8, 8, 4001))
    share = np.exp(-0.5 * np.linspace(-8, 8, 4001) ** 2)
    share /= share.sum()
    apart = s**2 / (s**2 + POSTERIOR) * shift * deviation
    np.testing.assert_allclose(own.mean(), share @ apart**2 / POSTERIOR, rtol=0.05)
    np.testing.assert_allclose(own_slope.mean(), share @ apart * deviation / POSTERIOR, rtol=0.05)
    assert abs(error_slope.mean()) < 4 * error_slope.std() / len(error_slope) ** 0.5  # told exactly
    assert not own_by_told.any()  # the generator's loss teaches no fake
    assert not error_by_shift.any()  # nor the fake's a generator
    # Told too little, it learns; of an exact generator there is nothing to tell.
    less = np.asarray(losses_and_slopes(jnp.float32(shift), jnp.float32(0.3))[2][1])
    assert less.mean() < -4 * less.std() / len(less) ** 0.5
    (own, _), (own_slope, _), _ = losses_and_slopes(jnp.float32(0.0), jnp.float32(0.0))
    assert max(np.abs(own).max(), np.abs(own_slope).max()) < 1e-6


def linear(params, x, t, noise):
    return params["gain"][None] * x + params["spread"][None] * noise


def of_both_points(params, x, t, seen):
    """Linear in the combined point and in x_t, by factors that are sums of bumps over the level of noise."""
    bumps = jnp.exp(-(((t[:, None] - jnp.linspace(-0.9, 0.1, 6)[None]) / 0.2) ** 2))
    return bumps @ params["own"] * x + bumps @ params["seen"] * seen[0]


@pytest.mark.slow
def test_training_ends_at_the_exact_posterior():
    """Of a law of unequal variances at one noised time: the gain of the mean and the standard deviation."""
    teacher = LAW.denoiser(KARRAS)

    def generator(params):
        denoise = jd.make_denoiser(linear, params, KARRAS, shape=(2,))
        return inverse.PosteriorGenerator(denoise)

    rates = {"generator": 0.01, "fake": 0.05}
    optimizer = optax.multi_transform(
        {name: optax.adam(optax.cosine_decay_schedule(rate, 1200)) for name, rate in rates.items()},
        {name: name for name in rates},
    )
    params = {
        "generator": {"gain": jnp.zeros(2), "spread": jnp.full(2, 0.5)},
        "fake": {"own": jnp.zeros((6, 2)), "seen": jnp.zeros((6, 2))},
    }

    def loss(params, key, data):
        fake = jd.make_denoiser(of_both_points, params["fake"], KARRAS, shape=(2,))
        own, error = inverse.posterior_distillation_losses(
            key, generator(params["generator"]), teacher, fake, data, TIME
        )
        return (own + error).mean()

    state = jd.train(
        KEY,
        jd.init_state(params, optimizer, ema_decay=0.98),
        jd.make_train_step(loss, optimizer, ema_decay=0.98),
        lambda key: LAW.sample(key, 256),
        num_steps=1200,
        steps_per_dispatch=600,
    )
    trained = generator(jd.averaged(state)["generator"])
    x = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    draws = np.asarray(trained(KEY, jnp.repeat(x, 20_000, 0), TIME)).reshape(2, -1, 2)
    total = VARIANCES + TIME**2
    np.testing.assert_allclose(draws[0].mean(0) - draws[1].mean(0), VARIANCES / total, atol=0.04)
    np.testing.assert_allclose(draws[0].std(0), np.sqrt(VARIANCES * TIME**2 / total), rtol=0.07)
