"""From forgotten tokens to data: the one scan that drives every sampler of jumps."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.jumps.denoiser import CategoricalDenoiser, check_denoiser
from jaxdiff.jumps.draws import check_tokens, drawn_start
from jaxdiff.jumps.samplers import ANCESTRAL, JumpSampler, check_sampler
from jaxdiff.jumps.times import grid
from jaxdiff.typing import Array, Key

NUM_STEPS = 64
"""Of the default grid."""


def sample(
    key: Key,
    denoise: CategoricalDenoiser,
    n: int,
    *,
    sampler: JumpSampler | None = None,
    num_steps: int | None = None,
    times: Array | None = None,
) -> Array:
    """n samples of the data, integers (n, *denoise.shape), by the reverse process of jumps.

    It begins with tokens of equal chances as they are at the first time, all masked or forgotten where that
    is the schedule's end. Point i depends on (key, i) only.
    sampler: by default `Ancestral`. The last step is ancestral with every sampler.
    num_steps: of the default grid, `jumps.grid` over the denoiser's times; 64 if nothing is said.
    times: another grid, decreasing. One that ends above the clean end has x there.

    Raises TypeError for what is no key, denoiser or sampler; ValueError for times that do not decrease or
    that the denoiser does not know.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> jd.jumps.sample(jax.random.key(0), alike, 5, num_steps=64).shape
    (5, 2)
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.integer("n", n, 1)
    if times is None:
        num_steps = NUM_STEPS if num_steps is None else num_steps
        times = grid(denoise.schedule, num_steps, t_min=denoise.t_min, t_max=denoise.t_max)
    elif num_steps is not None:
        raise ValueError("num_steps and times were both given; a grid has its own number of steps.")
    sampler = _check(denoise, sampler, times)
    return _sample(key, denoise, sampler, jnp.asarray(times, float), n=n)


def integrate(
    key: Key, denoise: CategoricalDenoiser, x: Array, times: Array, *, sampler: JumpSampler | None = None
) -> Array:
    """Tokens x at times[0], integers (batch, *denoise.shape), on to times[-1]; as `sample` in all else.

    Under masking x may have any tokens seen already: a prompt, or data with gaps.
    Errors are those of `sample`.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> prompt = jnp.array([[1, 2], [2, 0]])  # 2 is the mask
    >>> jd.jumps.integrate(jax.random.key(0), alike, prompt, jnp.array([0.5, 0.0])).tolist()
    [[1, 1], [0, 0]]
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    check_tokens("x", x, denoise.process.states)
    denoise.check_shape("x", x)
    sampler = _check(denoise, sampler, times)
    return _integrate(key, denoise, sampler, x, jnp.asarray(times, float))


@functools.partial(jax.jit, static_argnames="n")
def _sample(key: Key, denoise: CategoricalDenoiser, sampler: JumpSampler, times: Array, *, n: int) -> Array:
    start_key, key = jax.random.split(key)
    x = drawn_start(start_key, denoise.process, denoise.shape, n, times[0])
    return _integrate(key, denoise, sampler, x, times)


@jax.jit
def _integrate(key: Key, denoise: CategoricalDenoiser, sampler: JumpSampler, x: Array, times: Array) -> Array:
    # Of times that do not decrease, which are refused where they are known, nothing is asked but NaN.
    times = jnp.where(jnp.all(times[:-1] > times[1:]), times, jnp.nan)

    def body(x: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
        number, t, s = step
        return sampler.step(jax.random.fold_in(key, number), denoise, x, t, s).astype(x.dtype), None

    last = len(times) - 2
    x, _ = jax.lax.scan(body, x, (jnp.arange(last), times[:-2], times[1:-1]))
    return ANCESTRAL.step(jax.random.fold_in(key, last), denoise, x, times[-2], times[-1]).astype(x.dtype)


def _check(denoise: CategoricalDenoiser, sampler: JumpSampler | None, times: Array) -> JumpSampler:
    sampler = ANCESTRAL if sampler is None else sampler
    check_sampler("sampler", sampler)
    checks.times(denoise.schedule, times, increasing=False)
    denoise.check_times("times", times)
    return sampler
