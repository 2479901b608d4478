"""The loss of four lines: denoising's gradient in the mean, with less variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES

from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.learning import bootstrap
from jaxdiff.learning.losses import denoising_loss

LAW = Gaussian(jnp.asarray([0.4, -0.2]), jnp.asarray([0.3, 0.6]))


def model(theta, schedule):
    return make_denoiser(lambda theta, x, t: theta * x, theta, schedule, shape=(2,), scale=0.7)


@pytest.mark.parametrize("name", ["karras", pytest.param("rectified_flow", marks=pytest.mark.slow)])
def test_an_exact_teacher_leaves_the_gradient_and_takes_variance(name):
    """By row, over 16,000 rows; with a mix of 0 the losses have one law. What teaches is not differentiated."""
    schedule, n = CASES[name].schedule, 16_000
    data, teacher, theta = LAW.sample(jax.random.key(0), n), LAW.denoiser(schedule), jnp.asarray(0.3)
    rows = LAW.sample(jax.random.key(4), 64)

    @jax.jit
    def gradients(theta):
        def losses(theta):
            denoise = model(theta, schedule)
            half = [
                bootstrap.half_noise_loss(jax.random.key(1), denoise, teacher, data, mix=mix, pool=pool)
                for mix, pool in ((0.0, None), (1.0, None), (1.0, rows))
            ]
            return jnp.stack([denoising_loss(jax.random.key(2), denoise, data), *half])

        return losses(theta), jax.jacfwd(losses)(theta)

    loss, slope = (np.asarray(part, np.float64) for part in gradients(theta))
    error = np.sqrt((slope.var(1) + slope[0].var()) / n)
    assert (abs(slope.mean(1) - slope[0].mean()) < 4 * error).all()
    assert abs(loss[1].mean() - loss[0].mean()) < 4 * np.sqrt((loss[0].var() + loss[1].var()) / n)
    assert slope[1].var() / slope[0].var() == pytest.approx(1, abs=0.1)
    assert (slope[2:].var(1) < 0.8 * slope[0].var()).all()
    assert slope[3].var() < slope[2].var()


def test_a_teacher_of_another_process_is_refused():
    schedule = CASES["karras"].schedule
    data, denoise = LAW.sample(jax.random.key(0), 4), LAW.denoiser(schedule)
    with pytest.raises(ValueError, match="teacher must have the schedule of denoise"):
        bootstrap.half_noise_loss(
            jax.random.key(1), denoise, LAW.denoiser(CASES["vp"].schedule), data, mix=0.5
        )
    with pytest.raises(ValueError, match="mix"):
        bootstrap.half_noise_loss(jax.random.key(1), denoise, denoise, data, mix=1.5)
