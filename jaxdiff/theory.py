"""Diagnostics that need the truth: errors of a denoiser against a law in closed form, level by level.

Everything here is one compiled call over noise levels, and may be vmapped from outside over seeds, laws
and the schedule's own parameters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff import checks
from jaxdiff.process import perturb
from jaxdiff.randomness import noise_like
from jaxdiff.typing import Array, Denoiser, Distribution, Key, Schedule


class LevelError(NamedTuple):
    """A Monte Carlo mean at each noise level and its standard error, each of shape (len(times),)."""

    value: Array
    standard_error: Array


def score_error(
    key: Key,
    denoise: Denoiser,
    distribution: Distribution,
    schedule: Schedule,
    times: Array,
    *,
    num_samples: int = 1024,
) -> LevelError:
    """E || score_hat(x_t, t) - score(x_t, t) ||^2 over x_t ~ p_t at each of times, any order.

    The score is -noise / sigma; multiply by sigma^2 for noise units. The same data and noise serve at
    every level, so that the curve is smooth in t. Raises ValueError unless times is one-dimensional, in
    the schedule's range and above zero noise, and num_samples at least 2.
    """
    checks.integer("num_samples", num_samples, 2)
    checks.shape("times", times, (None,))
    checks.in_range("times", schedule, times)
    checks.positive("sigma at each of times", jax.vmap(schedule.sigma)(jnp.asarray(times, float)))
    data_key, noise_key = jax.random.split(key)
    data = distribution.sample(data_key, num_samples)
    noise = noise_like(noise_key, data)
    exact = distribution.denoiser(schedule)

    def at(t: Array) -> tuple[Array, Array]:
        x = perturb(schedule, data, noise, t)
        difference = (denoise(x, t).noise - exact(x, t).noise) / schedule.sigma(t)
        squared = jnp.sum(difference.reshape(num_samples, -1) ** 2, axis=1)
        return squared.mean(), squared.std(ddof=1) / num_samples**0.5

    return LevelError(*jax.vmap(at)(jnp.asarray(times, float)))
