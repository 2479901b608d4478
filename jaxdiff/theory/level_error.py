"""How far a denoiser is from the truth, noise level by noise level."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, Distribution, check_denoiser
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Key


class LevelError(NamedTuple):
    """A Monte Carlo mean at each noise level and its standard error, each of shape (len(times),)."""

    value: Array
    standard_error: Array


def score_error(
    key: Key, denoise: Denoiser, distribution: Distribution, times: Array, *, num_samples: int = 1024
) -> LevelError:
    """E || score_hat(x_t, t) - score(x_t, t) ||^2 over x_t ~ p_t at each of times, any order.

    distribution: the law that denoise should know. The score is -noise / sigma; multiply by sigma^2 for noise
    units. The same data and noise serve at every level, so that the curve is smooth in t. One compiled call,
    which may be vmapped over keys, parameters, laws and schedules' own parameters.

    Raises TypeError for what is no key or denoiser, ValueError unless times is one-dimensional, known to the
    denoiser and above zero noise, the distribution of the denoiser's shape and num_samples at least 2.

    >>> p, q = jd.Gaussian([0.0], 1.0), jd.Gaussian([2.0], 1.0)
    >>> error = jd.score_error(jax.random.key(0), q.denoiser(jd.Karras()), p, jnp.array([1.0]))
    >>> error.value.tolist()  # (2 / 2)^2
    [1.0]
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.a_law("distribution", distribution, ("sample", "denoiser"))
    checks.integer("num_samples", num_samples, 2)
    checks.shape("times", times, (None,))
    denoise.check_times("times", times)
    if tuple(distribution.shape) != denoise.shape:
        raise ValueError(
            f"distribution must be a law of points of shape {denoise.shape}, got one of {distribution.shape}."
        )
    times = jnp.asarray(times, float)
    checks.positive("sigma at each of times", jax.vmap(denoise.schedule.sigma)(times))
    return _score_error(key, denoise, distribution, times, num_samples=num_samples)


@functools.partial(jax.jit, static_argnames="num_samples")
def _score_error(
    key: Key, denoise: Denoiser, distribution: Distribution, times: Array, *, num_samples: int
) -> LevelError:
    schedule = denoise.schedule
    data_key, noise_key = jax.random.split(key)
    data = distribution.sample(data_key, num_samples)
    noise = noise_like(noise_key, data)
    exact = distribution.denoiser(schedule)

    def at(t: Array) -> tuple[Array, Array]:
        x = perturb(schedule, data, noise, t)
        difference = (denoise(x, t).noise - exact(x, t).noise) / schedule.sigma(t)
        squared = jnp.sum(difference.reshape(num_samples, -1) ** 2, axis=1)
        return squared.mean(), squared.std(ddof=1) / num_samples**0.5

    return LevelError(*jax.vmap(at)(times))
