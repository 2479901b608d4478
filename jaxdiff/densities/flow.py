"""Log-densities of the data under a denoiser by its probability flow, in nats.

In coordinates that are bounded for every schedule, and of unit variance for centred data at every time: with
s the scale of the data, c = sqrt(alpha^2 s^2 + sigma^2), z = x / c and tan(theta) = sigma / (alpha s),

    dz / d lambda = -(1/2) sin(theta) cos(theta) [cos(theta) N - sin(theta) D / s],               (1)

and the log-density of z changes along it by minus the divergence of the right side. Data enter at t_min
as x = alpha data, so that, up to O(sigma(t_min)^2),

    log p(data) = log p_T(c_T z_T) + d log(c_T alpha_min / c_min) + int div(1) d lambda.          (2)

For N(0, s^2 I) both sides of (1) are zero: nothing moves. With m the mean of the data, of which the denoiser
tells, and D(., T) its data,

    p_T ~ N(alpha m, c_T^2 I),          m = (c_T / sigma)^2 D(0, T),                              (3)

exactly for N(m, s^2 I). Pure noise N(0, sigma^2 I) in its place errs in the mean, to the order of alpha /
sigma, (3) in the covariance, to its square: over a mixture in 3 dimensions .027, .017 and .009 nats under
VE, Karras and VP, against less than .0003. N(0, c_T^2 I) errs as noise does unless the data are centred.
(Root mean square, 40 steps; MEASURED, jax 0.10.2, 2026-11-28.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, divergence
from jaxdiff._numerics.constants import compiled, folded
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import signs_like
from jaxdiff._numerics.rows import to_rows
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.ends import check_clean, is_clean, no_data_left
from jaxdiff.densities.inputs import (
    LogDensity,
    check_data,
    check_times,
    grid_log_snr,
    normal_log_prob,
)
from jaxdiff.noising.process import inverse_log_snr, log_snr
from jaxdiff.noising.times import log_snr_grid
from jaxdiff.typing import Array, Key, StartLaw, Time

Field: TypeAlias = Callable[[Array, Array], Array]
"""(z, t), t scalar or (batch,), to the right side of eq. (1)."""
_Slope: TypeAlias = tuple[Array, Array]
Velocity: TypeAlias = Callable[[Array, Array], _Slope]
"""The same with the divergence, shape (k, batch)."""

NUM_STEPS = 32
"""Of the default grid, five denoiser calls each."""
_LEVELS = -12.0, 16.0
"""The log-SNRs at the data's scale that the default range goes to at most."""


def probability_flow(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array | None = None,
    *,
    num_probes: int | None = None,
    sketch_size: int = 0,
    start: StartLaw | None = None,
) -> LogDensity:
    """log p(x) of data x, shape (batch, *denoise.shape), by eqs. (1) and (2); five calls an interval.

    times: increasing, both ends with sigma > 0 and alpha > 0; between each two, in log-SNR, the classical
        Runge-Kutta rule of order 4 for z, and Simpson's for the divergence, at both ends and halfway on the
        cubic through both: two traces an interval, where that rule would ask for four. By default 32
        intervals of `times.log_snr_grid` at the data's scale, over the denoiser's working range, cut to
        log-SNRs from 16 to -12 at that scale: a schedule may end where alpha = 0.
    num_probes: None for the exact trace, d tangents a call and standard error 0; or the number of random
        signs of Hutchinson's estimate, held along the path, with the standard error of their mean (NaN for
        one probe). The step error is in neither: compare two grids.
    sketch_size: above zero, Hutch++: so many directions more, of `divergence.hutchinson`'s sketch.
    start: the law of x at times[-1], of points like x. By default N(alpha m, c_T^2 I) of eq. (3), which needs
        a log-SNR under -4 at the data's scale; there it errs by its exponential, in nats, for each unit by
        which an eigenvalue of the data's covariance is off scale^2. With a law that was fitted to data noised
        there, ``fit_gaussian(data).perturbed(schedule, times[-1])``, that error goes too.

    In single precision or better, whatever x is in. Song et al. 2021, arXiv 2011.13456, section 4.3. Raises
    TypeError for integer x and ValueError for NaN, for times that do not increase, that the denoiser does not
    know or that reach an infinite log-SNR, for num_probes < 1, for a sketch_size of more than d or without
    probes, for data left at the last time, and for a start law of points of another shape. Where it is traced
    times that are refused and data that are left make NaN.

    >>> denoise = jd.Gaussian([0.0, 0.0], 1.0).denoiser(jd.Karras())
    >>> answer = jd.probability_flow(jax.random.key(0), denoise, jnp.zeros((1, 2)))
    >>> round(float(answer.value[0]), 3), answer.standard_error.tolist()  # -log(2 pi)
    (-1.838, [0.0])
    """
    x = check_flow(key, denoise, x, num_probes, sketch_size, start)
    if times is None:
        check_clean(denoise, denoise.scale)
    grid = default_times(denoise, NUM_STEPS) if times is None else times
    grid = check_times(denoise, grid, x.dtype, noise_at_the_end=start is None)
    return _flow(key, denoise, x, grid, start, num_probes=num_probes, sketch_size=sketch_size)


class _Fixed(NamedTuple):
    """At a time of the grid: z, the log-density gained, and the slopes of both there."""

    z: Array
    gained: Array
    slope: Array
    trace: Array


@functools.partial(jax.jit, static_argnames=("num_probes", "sketch_size"))
def _flow(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array,
    start: StartLaw | None,
    *,
    num_probes: int | None,
    sketch_size: int,
) -> LogDensity:
    schedule = denoise.schedule
    levels = grid_log_snr(schedule, times)
    field, velocity = fields(key, denoise, x, num_probes, sketch_size)

    def step(carry: _Fixed, ends: tuple[Array, ...]) -> tuple[_Fixed, None]:
        (z, gained, slope, trace), (middle, t_next, h) = carry, ends

        def stage(slopes: tuple[Array, Array], row: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
            (last, mean), (share, weight, t) = slopes, row
            new = field(z + share * h * last, t)
            return (new, mean + weight * new), None

        shares, weights = jnp.array([0.5, 0.5, 1], z.dtype), jnp.array([2, 2, 1], z.dtype) / 6
        stages = (shares, weights, jnp.stack([middle, middle, t_next]))
        (_, mean), _ = jax.lax.scan(stage, (slope, slope / 6), stages)  # one trace of the denoiser, not three
        ended = z + h * mean

        def reach(new: _Slope, where: tuple[Array, Array]) -> tuple[_Slope, _Slope]:
            """At the end, and then halfway, by the cubic through both ends and their slopes."""
            between, t = where
            cubic = 0.5 * (z + ended) + 0.125 * h * (slope - new[0])
            new = velocity(jnp.where(between, cubic, ended), t)
            return new, new

        places = (jnp.array([False, True]), jnp.stack([t_next, middle]))
        _, (slopes, traces) = jax.lax.scan(reach, (slope, trace), places)
        gained = gained + h * (trace + 4 * traces[1] + traces[0]) / 6
        return _Fixed(ended, gained, slopes[0], traces[0]), None

    def halfway(level: Array, h: Array, t: Array, t_next: Array) -> Array:
        return inverse_log_snr(schedule, level + 0.5 * h, t_min=t, t_max=t_next).astype(t.dtype)

    # The slopes at the beginning are those at the end of a first interval of no length: no trace more.
    times, levels = (jnp.concatenate([grid[:1], grid]) for grid in (times, levels))
    lengths = jnp.diff(levels)
    middles = jax.vmap(halfway)(levels[:-1], lengths, times[:-1], times[1:])
    z = enter(denoise, x, times[0])
    gained = jnp.zeros((num_probes or 1, x.shape[0]), x.dtype)
    begin = _Fixed(z, gained, jnp.zeros_like(z), jnp.zeros_like(gained))
    (z, gained, *_), _ = jax.lax.scan(step, begin, (middles, times[1:], lengths))
    values = leave(denoise, z, gained, times[0], times[-1], start)
    return LogDensity(values.mean(0), probe_error(values, num_probes))


def check_flow(
    key: Key,
    denoise: Denoiser,
    x: Array,
    num_probes: int | None,
    sketch_size: int,
    start: StartLaw | None,
) -> Array:
    """x, in single precision or better, after the checks that can be made before any work."""
    x = check_data(key, denoise, x)
    if start is not None:
        checks.law("start", start, x)
    if num_probes is not None:
        checks.integer("num_probes", num_probes, 1)
    size = x.size // len(x)
    checks.integer("sketch_size", sketch_size, 0)
    if sketch_size > size or (sketch_size and num_probes is None):
        raise ValueError(
            f"sketch_size must be at most the {size} entries of a row, and go with num_probes; got "
            f"{sketch_size} and num_probes = {num_probes}. The exact trace needs neither."
        )
    return x


@folded
def default_times(denoise: Denoiser, num_steps: int) -> Array:
    """num_steps + 1 increasing times of `log_snr_grid` at the data's scale, over the working range, cut."""
    t_min, t_max = _default_ends(denoise)
    times = log_snr_grid(denoise.schedule, num_steps, t_min=t_min, t_max=t_max, scale=denoise.scale)[::-1]
    return times.at[0].set(jnp.where(is_clean(denoise, denoise.scale), times[0], jnp.nan))


@compiled
def _default_ends(denoise: Denoiser) -> tuple[Array, Array]:
    """The ends of the working range, cut to `_LEVELS`."""
    schedule, (t_min, t_max) = denoise.schedule, denoise.working_range
    shift = 2 * jnp.log(jnp.asarray(denoise.scale, float))

    def cut(t: Time) -> Array:
        level = jnp.clip(log_snr(schedule, t) + shift, *_LEVELS) - shift
        return inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max)

    return cut(t_min), cut(t_max)


def fields(
    key: Key, denoise: Denoiser, x: Array, num_probes: int | None, sketch_size: int
) -> tuple[Field, Velocity]:
    """Eq. (1) for rows like x, without its divergence and with it."""
    signs = None if num_probes is None else signs_like(key, x, num_probes)
    sketch = signs_like(jax.random.fold_in(key, 1), x, sketch_size) if sketch_size else None

    def field(z: Array, t: Array) -> Array:
        alpha, sigma, c = (
            to_rows(part.astype(z.dtype), z) for part in jnp.vectorize(functools.partial(_scales, denoise))(t)
        )
        scale = jnp.asarray(denoise.scale, z.dtype)
        cos, sin = alpha * scale / c, sigma / c
        estimate = denoise(c * z, t)
        return -0.5 * sin * cos * (cos * estimate.noise - sin / scale * estimate.data)

    def velocity(z: Array, t: Array) -> _Slope:
        if signs is None:
            value, trace = divergence.exact(lambda z: field(z, t), z)
            return value, trace[None]
        return divergence.hutchinson(lambda z: field(z, t), z, signs, sketch)

    return field, velocity


def enter(denoise: Denoiser, x: Array, t_min: Array) -> Array:
    """z of data x at the first time."""
    alpha, _, c = _scales(denoise, t_min)
    return (alpha / c * x).astype(x.dtype)


def leave(
    denoise: Denoiser, z: Array, gained: Array, t_min: Array, t_max: Array, start: StartLaw | None
) -> Array:
    """Eq. (2) for each probe, shape (k, batch)."""
    (alpha, _, first), (last_alpha, sigma, last) = (_scales(denoise, t) for t in (t_min, t_max))
    x_t = (last * z).astype(z.dtype)
    if start is None:
        mean = (last / sigma) ** 2 * denoise(jnp.zeros_like(x_t), t_max).data
        prior = normal_log_prob(x_t - (last_alpha * mean).astype(z.dtype), last)
        prior = jnp.where(no_data_left(denoise, denoise.scale, t_max), prior, jnp.nan)
    else:
        prior = start.log_prob(x_t)
    volume = z[0].size * (jnp.log(last) + jnp.log(alpha) - jnp.log(first))
    return (prior + volume)[None] + gained


def _scales(denoise: Denoiser, t: Array) -> tuple[Array, Array, Array]:
    """alpha, sigma and c at a scalar time."""
    alpha, sigma = single(denoise.schedule.alpha(t)), single(denoise.schedule.sigma(t))
    return alpha, sigma, jnp.hypot(alpha * denoise.scale, sigma)


def probe_error(values: Array, num_probes: int | None) -> Array:
    """The standard error of the mean over probes, (k, batch) -> (batch,); 0 of the exact trace."""
    if num_probes is None:
        return jnp.zeros_like(values[0])
    return values.std(0, ddof=1) / num_probes**0.5
