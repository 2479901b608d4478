"""Log-densities by the probability flow of `jaxdiff.densities.flow`, in steps that each row chooses."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff._numerics.rows import to_rows
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.ends import check_clean
from jaxdiff.densities.flow import check_flow, default_times, enter, fields, leave, probe_error
from jaxdiff.densities.inputs import check_times, grid_log_snr
from jaxdiff.noising.process import inverse_log_snr
from jaxdiff.typing import Array, Key, StartLaw, Time


class AdaptiveLogDensity(NamedTuple):
    """A `LogDensity` by a number of denoiser calls that each row chose, each of shape (batch,)."""

    value: Array
    standard_error: Array
    num_evaluations: Array


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
    """log p(x) of data x, shape (batch, *denoise.shape), by the flow in steps that each row chooses.

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
    x = check_flow(key, denoise, x, num_probes, sketch_size, start)
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
    _, velocity = fields(key, denoise, x, num_probes, sketch_size)
    rows, size = x.shape[0], x[0].size
    to_time = jax.vmap(lambda level: inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max))

    def attempt(state: _Adaptive) -> _Adaptive:
        last = state.step <= low - state.level  # both are negative: log-SNR falls
        h = jnp.where(last, low - state.level, state.step)
        nodes = jnp.asarray(_STAGES[1:].sum(1), x.dtype)
        times = jax.vmap(to_time)(jnp.maximum(state.level[None] + nodes[:, None] * h[None], low))

        def stage(slopes: tuple[Array, Array], row: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
            number, weights, t = row
            z = state.z + to_rows(h, x) * _combine(weights, slopes[0])
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
            z=jnp.where(to_rows(done, x), path[-1], state.z),
            gained=jnp.where(done[None], gained, state.gained),
            level=jnp.where(done, jnp.where(last, low, state.level + h), state.level),
            step=jnp.where(moving, factor * h, state.step),
            slope=(
                jnp.where(to_rows(done, x), slopes[0][-1], state.slope[0]),
                jnp.where(done[None], slopes[1][-1], state.slope[1]),
            ),
            num_evaluations=state.num_evaluations + 6 * moving,
        )

    def step(state: _Adaptive, _: None) -> tuple[_Adaptive, None]:
        unfinished = jnp.any(state.level > low)
        return jax.lax.cond(unfinished, jax.checkpoint(attempt), lambda state: state, state), None

    z = enter(denoise, x, t_min)
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
    values = leave(denoise, end.z, end.gained, t_min, t_max, start)
    values = jnp.where((end.level <= low)[None], values, jnp.nan)
    return AdaptiveLogDensity(values.mean(0), probe_error(values, num_probes), end.num_evaluations)


@folded
def _ends(denoise: Denoiser, t_min: Time | None, t_max: Time | None) -> Array:
    """The two times, by default those of the default grid."""
    if t_min is None:
        check_clean(denoise, denoise.scale)
    low, high = default_times(denoise, 1)
    ends = (low if t_min is None else t_min), (high if t_max is None else t_max)
    return jnp.stack([jnp.asarray(t, float) for t in ends])


def _combine(weights: Array, slopes: Array) -> Array:
    """Their weighted sum over the leading axis, in full precision."""
    return jnp.tensordot(weights, slopes, 1, precision=jax.lax.Precision.HIGHEST)
