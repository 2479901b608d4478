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
import numpy as np

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


class AdaptiveLogDensity(NamedTuple):
    """A `LogDensity` by a number of denoiser calls that each row chose, each of shape (batch,)."""

    value: Array
    standard_error: Array
    num_evaluations: Array


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
    x = _check(key, denoise, x, num_probes, sketch_size, start)
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
    field, velocity = _fields(key, denoise, x, num_probes, sketch_size)

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
    z = _enter(denoise, x, times[0])
    gained = jnp.zeros((num_probes or 1, x.shape[0]), x.dtype)
    begin = _Fixed(z, gained, jnp.zeros_like(z), jnp.zeros_like(gained))
    (z, gained, *_), _ = jax.lax.scan(step, begin, (middles, times[1:], lengths))
    values = _leave(denoise, z, gained, times[0], times[-1], start)
    return LogDensity(values.mean(0), _standard_error(values, num_probes))


# Dormand & Prince 1980: row i weighs the slopes before stage i, of which the last is at the end of
# the step of order 5; then what that step has more than the one of order 4.
_STAGES = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [1 / 5, 0, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
    ]
)
_ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])


class _Adaptive(NamedTuple):
    """Where each row is; slope is the velocity and its divergence there, which the last stage had already."""

    z: Array
    gained: Array
    level: Array
    step: Array
    slope: tuple[Array, Array]
    num_evaluations: Array


def adaptive_probability_flow(
    key: Key,
    denoise: Denoiser,
    x: Array,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
    tolerance: Array | float = 1e-4,
    max_steps: int = 512,
    num_probes: int | None = None,
    sketch_size: int = 0,
    start: StartLaw | None = None,
) -> AdaptiveLogDensity:
    """log p(x) of data x, shape (batch, *denoise.shape), by eqs. (1) and (2) in steps that each row chooses.

    t_min, t_max: by default the ends of the default grid of `probability_flow`.
    tolerance: of a step's error, estimated by the embedded rule of order 4: of z, in the root mean square
        over its entries, and of the log-density, in nats an entry. The error of the whole is in proportion.
    max_steps: attempted ones, six denoiser calls each, until a row is given up, with NaN for an answer.
    Calls end with the last row's, and each takes t of shape (batch,). The other options, the start and the
    errors are those of `probability_flow`. The rule is that of Dormand & Prince 1980, order 5, in log-SNR.

    >>> denoise = jd.Gaussian([0.0, 0.0], 1.0).denoiser(jd.Karras())
    >>> answer = jd.adaptive_probability_flow(jax.random.key(0), denoise, jnp.zeros((1, 2)))
    >>> round(float(answer.value[0]), 2)  # -log(2 pi)
    -1.84
    """
    x = _check(key, denoise, x, num_probes, sketch_size, start)
    checks.positive_number("tolerance", tolerance)
    checks.integer("max_steps", max_steps, 1)
    for name, t in (("t_min", t_min), ("t_max", t_max)):
        checks.shape(name, 0.0 if t is None else t, ())
    ends = _ends(denoise, t_min, t_max)
    known = checks.known(ends)
    if known is not None:
        checks.ordered("t_min", known[0], "t_max", known[1])
    ends = check_times(denoise, ends, x.dtype, noise_at_the_end=start is None)
    return _adaptive_flow(
        key,
        denoise,
        x,
        ends,
        jnp.asarray(tolerance, x.dtype),
        start,
        max_steps=max_steps,
        num_probes=num_probes,
        sketch_size=sketch_size,
    )


@functools.partial(jax.jit, static_argnames=("max_steps", "num_probes", "sketch_size"))
def _adaptive_flow(
    key: Key,
    denoise: Denoiser,
    x: Array,
    ends: Array,
    tolerance: Array,
    start: StartLaw | None,
    *,
    max_steps: int,
    num_probes: int | None,
    sketch_size: int,
) -> AdaptiveLogDensity:
    schedule = denoise.schedule
    (t_min, t_max), (high, low) = ends, grid_log_snr(schedule, ends)
    _, velocity = _fields(key, denoise, x, num_probes, sketch_size)
    rows, size = x.shape[0], x[0].size
    to_time = jax.vmap(lambda level: inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max))

    def by_row(factor: Array) -> Array:
        return factor.reshape(rows, *[1] * (x.ndim - 1))

    def attempt(state: _Adaptive) -> _Adaptive:
        last = state.step <= low - state.level  # both are negative: log-SNR falls
        h = jnp.where(last, low - state.level, state.step)
        nodes = jnp.asarray(_STAGES[1:].sum(1), x.dtype)
        times = jax.vmap(to_time)(jnp.maximum(state.level[None] + nodes[:, None] * h[None], low))

        def stage(slopes: tuple[Array, Array], row: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
            number, weights, t = row
            z = state.z + by_row(h) * _combine(weights, slopes[0])
            new = velocity(z, t)
            return jax.tree.map(lambda all_, one: all_.at[number].set(one), slopes, new), z

        slopes = jax.tree.map(lambda one: jnp.zeros((7, *one.shape), one.dtype).at[0].set(one), state.slope)
        stages = (jnp.arange(1, 7), jnp.asarray(_STAGES[1:], x.dtype), times)
        slopes, path = jax.lax.scan(stage, slopes, stages)
        off, off_gained = (_combine(jnp.asarray(_ERROR, x.dtype), part) for part in slopes)
        off = jnp.sqrt(jnp.mean(off.reshape(rows, -1) ** 2, axis=1))
        off = jnp.abs(h) * jnp.maximum(off, jnp.abs(off_gained.mean(0)) / size) / tolerance
        moving = state.level > low
        done = moving & (off <= 1)
        gained = state.gained + h[None] * _combine(jnp.asarray(_STAGES[-1], x.dtype), slopes[1])
        # A derivative of the answer is that of the rule on the steps that were taken.
        factor = jax.lax.stop_gradient(jnp.clip(0.9 * (off + 1e-10) ** -0.2, 0.2, 5.0))
        return _Adaptive(
            z=jnp.where(by_row(done), path[-1], state.z),
            gained=jnp.where(done[None], gained, state.gained),
            level=jnp.where(done, jnp.where(last, low, state.level + h), state.level),
            step=jnp.where(moving, factor * h, state.step),
            slope=(
                jnp.where(by_row(done), slopes[0][-1], state.slope[0]),
                jnp.where(done[None], slopes[1][-1], state.slope[1]),
            ),
            num_evaluations=state.num_evaluations + 6 * moving,
        )

    def step(state: _Adaptive, _: None) -> tuple[_Adaptive, None]:
        unfinished = jnp.any(state.level > low)
        return jax.lax.cond(unfinished, jax.checkpoint(attempt), lambda state: state, state), None

    z = _enter(denoise, x, t_min)
    begin = _Adaptive(
        z=z,
        gained=jnp.zeros((num_probes or 1, rows), x.dtype),
        level=jnp.broadcast_to(high, rows),
        step=jnp.broadcast_to((low - high) / 32, rows),
        slope=velocity(z, jnp.broadcast_to(t_min, rows)),
        num_evaluations=jnp.ones(rows, int),
    )
    # A scan rather than a while loop, which has no derivative in reverse; steps after the last cost nothing.
    end, _ = jax.lax.scan(step, begin, None, length=max_steps)
    values = _leave(denoise, end.z, end.gained, t_min, t_max, start)
    values = jnp.where((end.level <= low)[None], values, jnp.nan)
    return AdaptiveLogDensity(values.mean(0), _standard_error(values, num_probes), end.num_evaluations)


def _check(
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


@folded
def _ends(denoise: Denoiser, t_min: Time | None, t_max: Time | None) -> Array:
    """The two times, by default those of the default grid."""
    if t_min is None:
        check_clean(denoise, denoise.scale)
    low, high = default_times(denoise, 1)
    ends = (low if t_min is None else t_min), (high if t_max is None else t_max)
    return jnp.stack([jnp.asarray(t, float) for t in ends])


def _fields(
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


def _combine(weights: Array, slopes: Array) -> Array:
    """Their weighted sum over the leading axis, in full precision."""
    return jnp.tensordot(weights, slopes, 1, precision=jax.lax.Precision.HIGHEST)


def _enter(denoise: Denoiser, x: Array, t_min: Array) -> Array:
    alpha, _, c = _scales(denoise, t_min)
    return (alpha / c * x).astype(x.dtype)


def _leave(
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


def _standard_error(values: Array, num_probes: int | None) -> Array:
    if num_probes is None:
        return jnp.zeros_like(values[0])
    return values.std(0, ddof=1) / num_probes**0.5
