"""Networks that count steps, against DDPM's own chain in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoising import prediction
from jaxdiff.denoising.discrete_time import ddpm_denoiser
from jaxdiff.noising import times
from jaxdiff.sampling import ddim
from jaxdiff.sampling.ddim import DDIM, ancestral
from jaxdiff.sampling.driver import integrate_path

BETAS = np.linspace(0.02, 0.3, 12)
BARS = np.cumprod(1 - BETAS)


def eps(params, x, step):
    """Some network: it sees the step as it counts them, from 0."""
    return jnp.tanh(params * x) + 0.1 * jnp.sin(step)[:, None]


def eps_numpy(x, step):
    return np.tanh(0.7 * x) + 0.1 * np.sin(step)


DENOISE = ddpm_denoiser(eps, jnp.asarray(0.7), BETAS, shape=(3,))


def test_the_network_is_shown_its_own_steps(float64):
    denoise = ddpm_denoiser(eps, jnp.asarray(0.7), BETAS, shape=(3,))
    x = np.random.default_rng(0).standard_normal((4, 3))
    for step in range(12):
        got = denoise(jnp.asarray(x), step + 1)
        noise = eps_numpy(x, step)
        np.testing.assert_allclose(got.noise, noise, rtol=1e-10)
        wanted = (x - np.sqrt(1 - BARS[step]) * noise) / np.sqrt(BARS[step])
        np.testing.assert_allclose(got.data, wanted, rtol=1e-10)
    from_one = ddpm_denoiser(eps, jnp.asarray(0.7), BETAS, shape=(3,), first_step=1)(jnp.asarray(x), 5.0)
    np.testing.assert_allclose(from_one.noise, eps_numpy(x, 5), rtol=1e-10)


@pytest.mark.parametrize("sampler", [DDIM(), ancestral()], ids=["ddim", "ancestral"])
def test_sampling_is_ddpms_own_chain(sampler, monkeypatch, float64):
    """Every step T, T - 1, ..., 1 of arXiv 2006.11239, algorithm 2, and of arXiv 2010.02502, eq. 12, by hand."""
    draws = np.random.default_rng(1).standard_normal((12, 4, 3))
    x = 1.0 * draws[0]
    monkeypatch.setattr(ddim, "noise_like", lambda key, x: jnp.ones_like(x) * 0.3)
    denoise = ddpm_denoiser(eps, jnp.asarray(0.7), BETAS, shape=(3,))
    grid = jnp.arange(12.0, -1.0, -1.0)
    path = np.asarray(integrate_path(jax.random.key(0), denoise, jnp.asarray(x), grid, sampler=sampler))
    np.testing.assert_array_equal(path[0], x)
    for i, step in enumerate(range(11, -1, -1)):
        noise, beta, bar = eps_numpy(x, step), BETAS[step], BARS[step]
        before = BARS[step - 1] if step else 1.0
        if sampler == DDIM():
            clean = (x - np.sqrt(1 - bar) * noise) / np.sqrt(bar)
            x = np.sqrt(before) * clean + np.sqrt(1 - before) * noise
        else:
            std = np.sqrt(beta * (1 - before) / (1 - bar))
            x = (x - beta / np.sqrt(1 - bar) * noise) / np.sqrt(1 - beta) + std * 0.3
        np.testing.assert_allclose(path[i + 1], x, rtol=1e-8, atol=1e-10)


def test_whole_times_are_whole_and_fall():
    grid = times.whole(times.noise_grid(DENOISE.schedule, 7, t_min=1.0, t_max=12.0))
    assert (grid[0], grid[-1]) == (12, 1)
    np.testing.assert_array_equal(grid, np.round(grid))
    assert (np.diff(grid) < 0).all()
    np.testing.assert_array_equal(times.whole(jnp.asarray([5.2, 2.2, 2.1, 1.9])), [5, 4, 3, 2])
    np.testing.assert_array_equal(times.whole(jnp.asarray([5.0, 4.9, 4.8, 1.0])), [5, 4, 3, 1])
    with pytest.raises(ValueError, match="less the number of times"):
        times.whole(jnp.linspace(3.0, 1.0, 5))


def test_a_table_that_ends_in_pure_noise_wants_v():
    betas = np.append(BETAS, 1.0)
    with pytest.raises(ValueError, match="says nothing of the data at t_max = 13"):
        ddpm_denoiser(eps, jnp.asarray(0.7), betas, shape=(3,))
    v = ddpm_denoiser(eps, jnp.asarray(0.7), betas, shape=(3,), prediction=prediction.v)
    answer = v(jnp.ones((2, 3)), 13.0)
    np.testing.assert_allclose(answer.noise, 1.0, rtol=1e-6)
    assert np.isfinite(answer.data).all()
