"""Samples by a flow map: a call or a few, with noise put back between them or without."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.ends import check_no_data_left, no_data_left
from jaxdiff.maps.flow_map import FlowMap, check_map
from jaxdiff.noising import times as grids
from jaxdiff.noising.process import inverse_log_snr, log_snr, transition
from jaxdiff.sampling.driver import initial_noise
from jaxdiff.typing import Array, Key, Schedule, StartLaw


def sample_map(
    key: Key,
    flow_map: FlowMap,
    n: int,
    *,
    num_calls: int | None = None,
    times: Array | None = None,
    renoise: Array | float = 1.0,
    start: StartLaw | None = None,
) -> Array:
    """n samples of the data, shape (n, *shape), by as many calls of the map as there are times less one.

    Point i depends on (key, i) only.
    num_calls: 1 by default, from the end of the working range to the schedule's time of no noise; more are
        on the grid of `times.noise_grid`.
    times: another grid, decreasing, whose last entry is where samples are wanted.
    renoise: g in [0, 1], how much of the noise is new after each call but the last: the map goes to the time
        at which sigma / alpha is (1 - g^2)^(1/2) of that wanted, and noise is put back. 1 is the multistep
        sampling of consistency models, 0 composes the map (arXiv 2303.01469, 2310.02279). An exact map gives
        the same law by all; of a learned one, noise hides what it did wrong, and little of it adds little.
    start: the law at the first time, by default N(0, sigma^2 I), for which noise must dominate there.

    One program, and memory is constant in the calls. Raises TypeError for what is no key or map, ValueError
    for times that do not decrease or that the map does not know, a renoise out of range and a start of
    another shape; where values are traced the answer is NaN instead.

    >>> flow_map = jd.maps.gaussian_map(jd.Gaussian([0.0], 1.0), jd.Karras())
    >>> round(float(jd.sample_map(jax.random.key(0), flow_map, 10_000, num_calls=2).std()), 1)
    1.0
    """
    checks.key(key)
    check_map("flow_map", flow_map)
    checks.within("renoise", renoise, 0.0, 1.0)
    checks.shape("renoise", renoise, ())
    start_key, key = jax.random.split(key)
    x, times = begun(start_key, flow_map.denoiser, n, num_calls=num_calls, times=times, start=start)
    return _sample(key, flow_map, x, times, renoise)


def begun(
    key: Key,
    denoise: Denoiser,
    n: int,
    *,
    num_calls: int | None,
    times: Array | None,
    start: StartLaw | None,
) -> tuple[Array, Array]:
    """n points at the first of a chain's times, (n, *shape), and these, as `sample_map` says."""
    checks.integer("n", n, 1)
    if times is None:
        times = _default_times(denoise, 1 if num_calls is None else num_calls)
    elif num_calls is not None:
        raise ValueError("num_calls and times were both given; a grid has its own number of calls.")
    checks.times(denoise.schedule, times, increasing=False)
    known = checks.known(times)
    denoise.check_times("times", (times if known is None else known)[:-1])
    first = jnp.asarray(times)[0] if known is None else float(known[0])
    if start is None:
        check_no_data_left(denoise, denoise.scale, first)
        x = initial_noise(key, denoise, n, first)
        x = jnp.where(no_data_left(denoise, denoise.scale, first), x, jnp.nan)
    else:
        checks.law_shape("start", start, denoise.shape)
        x = start.sample(key, n)
    return x, jnp.asarray(times, float)


@folded
def _default_times(denoise: Denoiser, num_calls: int) -> Array:
    """num_calls + 1 times over the working range, the last of which gives way to that of no noise."""
    checks.integer("num_calls", num_calls, 1)
    t_min, t_max = denoise.working_range
    grid = grids.noise_grid(denoise.schedule, num_calls, t_min=t_min, t_max=t_max, scale=denoise.scale)
    return grids.to_clean(denoise.schedule, grid[:-1])


@jax.jit
def _sample(key: Key, flow_map: FlowMap, x: Array, times: Array, renoise: Array | float) -> Array:
    times = jnp.where(jnp.all(times[:-1] > times[1:]), times, jnp.nan)
    last = len(times) - 2

    def call(x: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
        k, t, s = step
        ended = k == last
        reached, scale, std = _renoised(flow_map, s, jnp.where(ended, 0.0, renoise))
        fresh = noise_like(jax.random.fold_in(key, k), x)
        return scale * flow_map(x, t, reached) + std * fresh, None

    return jax.lax.scan(call, x, (jnp.arange(last + 1), times[:-1], times[1:]))[0]


def _renoised(flow_map: FlowMap, s: Array, renoise: Array) -> tuple[Array, Array, Array]:
    """The time that the map goes to, and the scale and standard deviation of the way back to s."""
    schedule: Schedule = flow_map.schedule
    level = log_snr(schedule, s) - jnp.log1p(-(renoise**2))
    inside = inverse_log_snr(
        schedule, level, t_min=jnp.minimum(flow_map.denoiser.working_range[0], s), t_max=s
    )
    # No bisection reaches an end: none of the noise is new, or all of it.
    reached = jnp.where(renoise == 0, s, jnp.where(renoise == 1, schedule.t_min, inside))
    scale, std = transition(schedule, reached, s)
    same = renoise == 0
    return reached, jnp.where(same, 1.0, scale), jnp.where(same, 0.0, std)
