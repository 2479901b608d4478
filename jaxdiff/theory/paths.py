"""Paths of data through increasing noise levels, made step by step."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.noising.process import transition
from jaxdiff.typing import Array, Key, Schedule


def forward_path(key: Key, schedule: Schedule, data: Array, times: Array) -> Array:
    """Paths of data, shape (n, ...), through increasing times (N,), made step by step; shape (N, n, ...).

    Path i depends on (key, i) only. Raises TypeError for what is no key or schedule and for integer data, and
    ValueError for times that do not increase or are out of the schedule's range.

    >>> data, times = jnp.zeros((10_000, 1)), jnp.array([1.0, 3.0])
    >>> path = jd.theory.forward_path(jax.random.key(0), jd.Karras(), data, times)
    >>> path.std((1, 2)).round(1).tolist()
    [1.0, 3.0]
    """
    checks.key(key)
    checks.schedule(schedule)
    checks.batch("data", data)
    checks.increasing("times", times)
    checks.in_range("times", schedule, times)
    return _forward_path(key, schedule, data, times)


@jax.jit
def _forward_path(key: Key, schedule: Schedule, data: Array, times: Array) -> Array:
    _, _, scale, std = steps(schedule, times)

    def step(x: Array, inputs: tuple[Key, Array, Array]) -> tuple[Array, Array]:
        key, scale, std = inputs
        x = (scale * x + std * noise_like(key, x)).astype(x.dtype)
        return x, x

    return jax.lax.scan(step, data, (jax.random.split(key, len(scale)), scale, std))[1]


def steps(schedule: Schedule, times: Array) -> tuple[Array, Array, Array, Array]:
    """alpha and sigma before each step, and its scale and std, each (N,); the first step is from the data."""
    times = jnp.asarray(times, float)
    alpha, sigma = jax.vmap(schedule.alpha)(times), jax.vmap(schedule.sigma)(times)
    scale, std = jax.vmap(lambda s, t: transition(schedule, s, t))(times[:-1], times[1:])
    firsts = jnp.ones(1), jnp.zeros(1), alpha[:1], sigma[:1]
    others = alpha[:-1], sigma[:-1], scale, std
    alpha, sigma, scale, std = map(jnp.concatenate, zip(firsts, others, strict=True))
    return alpha, sigma, scale, std


def scales(schedule: Schedule, times: Array) -> tuple[Array, Array]:
    """alpha and sigma as a path meets them, shape (N, 1, 1)."""
    times = jnp.asarray(times, float)
    alpha, sigma = jax.vmap(schedule.alpha)(times), jax.vmap(schedule.sigma)(times)
    return alpha[:, None, None], sigma[:, None, None]


def check_path(denoise: Denoiser, data: Array, path: Array, times: Array, weights: Array) -> None:
    """Raise unless data (n, d), path (N, n, d), times (N,) and weights (N,) agree, and denoise knows them."""
    check_denoiser("the estimate", denoise)
    checks.floating("data", data)
    checks.shape("data", data, (None, None))
    checks.increasing("times", times)
    checks.shape("path", path, (len(times), *data.shape))
    checks.shape("weights", weights, (len(times),))
    denoise.check_times("times", times)
