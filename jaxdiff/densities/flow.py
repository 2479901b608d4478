"""Log-densities of the data under a denoiser by its probability flow, in nats.

In coordinates that are bounded for every schedule: with c = sqrt(alpha^2 + sigma^2), z = x / c and
tan(theta) = sigma / alpha = exp(-lambda / 2),

    dz / d lambda = -(1/2) sin(theta) cos(theta) [cos(theta) N - sin(theta) D],                  (1)

and the log-density of z changes along it by minus the divergence of the right side. Data enter at t_min
as x = alpha data, so that, up to O(sigma(t_min)^2),

    log p(data) = log p_T(c_T z_T) + d log(c_T alpha_min / c_min) + int div(1) d lambda.          (2)
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks, divergence
from jaxdiff._numerics.randomness import signs_like
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.noising.process import inverse_log_snr, log_snr
from jaxdiff.typing import Array, Key, Schedule, Time

Velocity: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
"""(z, t), t scalar or (batch,), to the right side of eq. (1) and its divergence, shape (k, batch)."""


class LogDensity(NamedTuple):
    """Log-densities in nats and the standard errors of their Monte Carlo part, each of shape (batch,)."""

    value: Array
    standard_error: Array


class AdaptiveLogDensity(NamedTuple):
    """A `LogDensity` by a number of denoiser calls that each row chose, each of shape (batch,)."""

    value: Array
    standard_error: Array
    num_evaluations: Array


def probability_flow(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    times: Array,
    *,
    num_probes: int | None = None,
    sketch_size: int = 0,
    start: Distribution | None = None,
) -> LogDensity:
    """log p(x) of data x, shape (batch, ...), by eqs. (1) and (2); four denoiser calls for each interval.

    times: increasing, both ends with sigma > 0 and alpha > 0; the classical Runge-Kutta rule of order 4 in
    log-SNR between each two. `times.log_snr_grid` reversed is a good grid.
    num_probes: None for the exact trace, d tangents a call and standard error 0; or the number of random
    signs of Hutchinson's estimate, held along the path, with the standard error of their mean (NaN for
    one probe). The step error is in neither: compare two grids.
    sketch_size: above zero, Hutch++: so many directions more, of `divergence.hutchinson`'s sketch.
    start: the law of x at times[-1], by default N(0, sigma^2 I).
    Song et al. 2021, arXiv 2011.13456, section 4.3. Raises TypeError for integer x and ValueError for NaN,
    for times that do not increase, are out of range or reach an infinite log-SNR, for num_probes < 1, for
    a sketch_size of more than d or without probes, and for a start law of another dimension.
    """
    checks.batch("x", x)
    checks.finite("x", x)
    checks.times(schedule, times, increasing=True)
    x = jnp.asarray(x)
    times = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))
    levels = _levels("times", schedule, times)
    velocity = _velocity(key, denoise, schedule, x, num_probes, sketch_size, start)

    def step(carry: tuple[Array, Array], ends: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        (z, gained), (t, t_next, level, level_next) = carry, ends
        h = level_next - level
        middle = inverse_log_snr(schedule, level + 0.5 * h, t_min=t, t_max=t_next)

        def stage(slopes: tuple[Array, ...], row: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
            (slope, mean, mean_trace), (share, weight, t) = slopes, row
            slope, trace = velocity(z + share * h * slope, t)
            return (slope, mean + weight * slope, mean_trace + weight * trace), None

        shares, weights = jnp.array([0, 0.5, 0.5, 1], z.dtype), jnp.array([1, 2, 2, 1], z.dtype) / 6
        still = (jnp.zeros_like(z), jnp.zeros_like(z), jnp.zeros_like(gained))
        stages = (shares, weights, jnp.stack([t, middle, middle, t_next]))
        (_, mean, mean_trace), _ = jax.lax.scan(stage, still, stages)  # one trace of the denoiser, not four
        return (z + h * mean, gained + h * mean_trace), None

    intervals = (times[:-1], times[1:], levels[:-1], levels[1:])
    begin = (_enter(schedule, x, times[0]), jnp.zeros((num_probes or 1, x.shape[0]), x.dtype))
    (z, gained), _ = jax.lax.scan(step, begin, intervals)
    values = _leave(schedule, z, gained, times[0], times[-1], start)
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
    schedule: Schedule,
    x: Array,
    *,
    t_min: Time,
    t_max: Time,
    tolerance: Array | float = 1e-4,
    max_steps: int = 512,
    num_probes: int | None = None,
    sketch_size: int = 0,
    start: Distribution | None = None,
) -> AdaptiveLogDensity:
    """log p(x) of data x, shape (batch, ...), by eqs. (1) and (2) in steps that each row chooses for itself.

    tolerance: of a step's error, estimated by the embedded rule of order 4: of z, in the root mean square
    over its entries, and of the log-density, in nats an entry. The error of the whole is in proportion.
    max_steps: attempted ones, six denoiser calls each, until a row is given up, with NaN for an answer.
    Calls end with the last row's, and each takes t of shape (batch,). The other options, the start and the
    errors are those of `probability_flow`. The rule is that of Dormand & Prince 1980, order 5, in log-SNR.
    """
    checks.batch("x", x)
    checks.finite("x", x)
    checks.ordered("t_min", t_min, "t_max", t_max)
    checks.positive("tolerance", tolerance)
    checks.integer("max_steps", max_steps, 1)
    x = jnp.asarray(x)
    t_min, t_max = (jnp.asarray(t, jnp.promote_types(x.dtype, jnp.float32)) for t in (t_min, t_max))
    checks.times(schedule, jnp.stack([t_min, t_max]), increasing=True)
    high, low = _levels("(t_min, t_max)", schedule, jnp.stack([t_min, t_max]))
    velocity = _velocity(key, denoise, schedule, x, num_probes, sketch_size, start)
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

    z = _enter(schedule, x, t_min)
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
    values = _leave(schedule, end.z, end.gained, t_min, t_max, start)
    values = jnp.where((end.level > low)[None], jnp.nan, values)
    return AdaptiveLogDensity(values.mean(0), _standard_error(values, num_probes), end.num_evaluations)


def _velocity(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    num_probes: int | None,
    sketch_size: int,
    start: Distribution | None,
) -> Velocity:
    """Eq. (1) for rows like x, after the checks that can be made before any work."""
    if start is not None:  # found here rather than after the integration
        checks.law("start", start, x)
    size = x[0].size
    checks.integer("sketch_size", sketch_size, 0)
    if sketch_size > size or (sketch_size and num_probes is None):
        raise ValueError(
            f"sketch_size must be at most the {size} entries of a row, and go with num_probes; got "
            f"{sketch_size} and num_probes = {num_probes}. The exact trace needs neither."
        )
    signs = None if num_probes is None else signs_like(key, x, num_probes)
    sketch = signs_like(jax.random.fold_in(key, 1), x, sketch_size) if sketch_size else None

    def velocity(z: Array, t: Array) -> tuple[Array, Array]:
        def per_row(value: Array) -> Array:
            return value.reshape(-1, *[1] * (z.ndim - 1)) if t.ndim else value

        alpha, sigma = (jnp.vectorize(f)(t).astype(z.dtype) for f in (schedule.alpha, schedule.sigma))
        c = per_row(jnp.hypot(alpha, sigma))
        cos, sin = per_row(alpha) / c, per_row(sigma) / c

        def f(z: Array) -> Array:
            estimate = denoise(c * z, t)
            return -0.5 * sin * cos * (cos * estimate.noise - sin * estimate.data)

        if signs is None:
            value, trace = divergence.exact(f, z)
            return value, trace[None]
        return divergence.hutchinson(f, z, signs, sketch)

    return velocity


def _combine(weights: Array, slopes: Array) -> Array:
    """Their weighted sum over the leading axis, in full precision."""
    return jnp.tensordot(weights, slopes, 1, precision=jax.lax.Precision.HIGHEST)


def _levels(name: str, schedule: Schedule, times: Array) -> Array:
    """Log-SNRs at times, of which none may be infinite."""
    levels = jax.vmap(lambda t: log_snr(schedule, t))(times)
    known = checks.known(levels)
    if known is not None and not jnp.isfinite(known).all():
        at = int(jnp.argmin(jnp.isfinite(known)))
        raise ValueError(
            f"the log-SNR at {name}[{at}] = {times[at]:g} is {known[at]:g}, wanted a finite one: keep times "
            f"inside the range of {schedule}, where both alpha and sigma are above zero."
        )
    return levels


def _enter(schedule: Schedule, x: Array, t_min: Array) -> Array:
    alpha = schedule.alpha(t_min)
    return alpha / jnp.hypot(alpha, schedule.sigma(t_min)) * x


def _leave(
    schedule: Schedule, z: Array, gained: Array, t_min: Array, t_max: Array, start: Distribution | None
) -> Array:
    """Eq. (2) for each probe, shape (k, batch)."""
    (alpha, _), (_, sigma) = ends = [(schedule.alpha(t), schedule.sigma(t)) for t in (t_min, t_max)]
    first, last = (jnp.hypot(*end) for end in ends)
    prior = _normal_log_prob(last * z, sigma) if start is None else start.log_prob(last * z)
    return (prior + z[0].size * (jnp.log(last) + jnp.log(alpha) - jnp.log(first)))[None] + gained


def _standard_error(values: Array, num_probes: int | None) -> Array:
    if num_probes is None:
        return jnp.zeros_like(values[0])
    return values.std(0, ddof=1) / num_probes**0.5


def _normal_log_prob(x: Array, std: Array) -> Array:
    rows = x.reshape(x.shape[0], -1) / std
    return -0.5 * jnp.sum(rows**2, axis=1) - rows.shape[1] * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi))
