"""The noising process that a schedule defines; everything follows from alpha and sigma.

With s < t on one path, scale a = alpha_t / alpha_s and lambda = log(alpha^2 / sigma^2):

    x_t = alpha_t data + sigma_t noise                                                          (1)
    x_t | x_s        ~ N(a x_s, v I),            v = sigma_t^2 (1 - e^(lambda_t - lambda_s))    (2)
    x_s | x_t, data  ~ N(alpha_s data + a r^2 (x_t - alpha_t data), v r^2 I),   r = sigma_s / sigma_t  (3)
    dx = f x dt + g dB,   f = alpha'/alpha,   g^2 = 2 sigma sigma' - 2 f sigma^2                (4)

Times are scalars and x has any shape; `jax.vmap` gives each example its own time.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled, folded, number
from jaxdiff._numerics.precision import single
from jaxdiff.typing import Array, Schedule, Time


def perturb(schedule: Schedule, data: Array, noise: Array, t: Time) -> Array:
    """x_t of eq. (1), of data's shape and dtype; the noise is standard normal.

    Raises TypeError for integer data and what is no schedule, ValueError for noise of another shape and for
    several times.

    >>> jd.perturb(jd.RectifiedFlow(), jnp.array([4.0]), jnp.array([1.0]), 0.25).tolist()
    [3.25]
    """
    if jnp.shape(data) != jnp.shape(noise):
        raise ValueError(f"data and noise must have one shape, got {jnp.shape(data)} and {jnp.shape(noise)}.")
    checks.floating("data", data)
    checks.schedule(schedule)
    checks.shape("t", t, ())  # one of shape (d,) would broadcast along the wrong axis; vmap over examples
    return _perturb(schedule, data, noise, t)


@compiled
def _perturb(schedule: Schedule, data: Array, noise: Array, t: Time) -> Array:
    return (schedule.alpha(t) * data + schedule.sigma(t) * noise).astype(jnp.result_type(data))


@compiled
def transition(schedule: Schedule, s: Time, t: Time) -> tuple[Array, Array]:
    """Scale a and standard deviation sqrt(v) of x_t given x_s, eq. (2), for s < t; two scalars.

    The difference of log-SNRs keeps v exact when sigma_t is nearly a sigma_s.

    >>> [round(float(x), 4) for x in jd.transition(jd.Karras(), 3.0, 5.0)]  # 3^2 + 4^2 = 5^2
    [1.0, 4.0]
    """
    std = schedule.sigma(t) * jnp.sqrt(-jnp.expm1(log_snr(schedule, t) - log_snr(schedule, s)))
    return schedule.alpha(t) / schedule.alpha(s), std


@compiled
def bridge(schedule: Schedule, data: Array, x_t: Array, s: Time, t: Time) -> tuple[Array, Array]:
    """Mean (x's shape) and standard deviation (scalar) of x_s given data and x_t, eq. (3), for s < t.

    Raises ValueError for an x_t of another shape than the data.

    >>> mean, std = jd.bridge(jd.Karras(), jnp.array([0.0]), jnp.array([4.0]), 1.0, 2.0)
    >>> mean.tolist(), round(float(std), 4)
    ([1.0], 0.866)
    """
    checks.shape("x_t", x_t, jnp.shape(data))
    scale, std = transition(schedule, s, t)
    ratio = schedule.sigma(s) / schedule.sigma(t)
    mean = schedule.alpha(s) * data + scale * ratio**2 * (x_t - schedule.alpha(t) * data)
    return mean, std * ratio


@compiled
def sde(schedule: Schedule, t: Time) -> tuple[Array, Array]:
    """Drift rate f and diffusion g of eq. (4), from one forward derivative of (alpha, sigma); two scalars.

    At a time where sigma = 0 with an infinite slope (VP at t = 0) g is not a number.

    >>> [float(x) for x in jd.sde(jd.Karras(), 2.0)]  # g^2 = 2 t
    [0.0, 2.0]
    """
    (alpha, sigma), (alpha_dot, sigma_dot) = with_derivative(schedule, t)
    drift_rate = alpha_dot / alpha
    return drift_rate, jnp.sqrt(2 * sigma * (sigma_dot - drift_rate * sigma))


@compiled
def with_derivative(schedule: Schedule, t: Time) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """((alpha, sigma), (alpha', sigma')) at a scalar time."""
    t = single(t)
    return jax.jvp(
        lambda u: (single(schedule.alpha(u)), single(schedule.sigma(u))), (t,), (jnp.ones_like(t),)
    )


@folded
@jax.jit
def marginals(schedule: Schedule, times: ArrayLike) -> tuple[Array, Array]:
    """alpha and sigma at times of any shape, each of that shape; known where times are, inside jit too."""
    times = single(times)
    return jnp.vectorize(schedule.alpha)(times), jnp.vectorize(schedule.sigma)(times)


@compiled
def log_snr(schedule: Schedule, t: Time) -> Array:
    """lambda = log(alpha^2 / sigma^2), a scalar; infinite where sigma or alpha vanishes.

    >>> float(jd.log_snr(jd.Karras(), 1.0))
    0.0
    """
    return 2 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))


def log_snr_at_end(schedule: Schedule, t: Time, inside: Time) -> Array:
    """lambda at an end of a range of times; where it is infinite no parameter moves it: derivatives are 0.

    inside: a time at which it is finite, on which nothing depends.
    """
    level = jax.lax.stop_gradient(log_snr(schedule, t))
    infinite = jnp.isinf(level)
    return jnp.where(infinite, level, log_snr(schedule, jnp.where(infinite, inside, t)))


@jax.jit
def inverse_log_snr(schedule: Schedule, value: Array | float, *, t_min: Time, t_max: Time) -> Array:
    """The time in [t_min, t_max] whose log-SNR is value, a scalar; an end of the interval if none is.

    Bisection, since it needs nothing but alpha and sigma and cannot leave the interval. Log-SNR falls with t;
    the halvings reach the spacing of floats at every t > 1e-12 t_max in float32, 1e-14 t_max in float64.
    Differentiable in all that it is given, the schedule's parameters too, by the implicit function theorem.

    >>> round(float(jd.inverse_log_snr(jd.Karras(), 0.0, t_min=0.01, t_max=80.0)), 4)
    1.0
    """
    value, t_min, t_max = (jnp.asarray(x, float) for x in (value, t_min, t_max))
    return _bisected(schedule, value, t_min, t_max)


@jax.custom_jvp
def _bisected(schedule: Schedule, value: Array, t_min: Array, t_max: Array) -> Array:
    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        too_clean = log_snr(schedule, middle) > value
        return jnp.where(too_clean, middle, low), jnp.where(too_clean, high, middle)

    halvings = 64 if t_min.dtype == jnp.float32 else 100
    low, high = jax.lax.fori_loop(0, halvings, halve, (t_min, t_max))
    return 0.5 * (low + high)


@_bisected.defjvp
def _implicit_function(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    """With lambda(schedule, t) = value, dt = (dvalue - dlambda/dschedule dschedule) / (dlambda/dt)."""
    schedule, value, t_min, t_max = primals
    schedule_dot, value_dot, t_min_dot, t_max_dot = tangents
    t = _bisected(*primals)
    before = (value >= log_snr(schedule, t_min)) | (t <= t_min)
    after = (value <= log_snr(schedule, t_max)) | (t >= t_max)
    # At an end the answer is the end, and the log-SNR may be infinite.
    inside = jnp.where(before | after, 0.5 * (t_min + t_max), t)
    _, level_dot = jax.jvp(lambda schedule: log_snr(schedule, inside), (schedule,), (schedule_dot,))
    t_dot = (value_dot - level_dot) / jax.grad(log_snr, argnums=1)(schedule, inside)
    return t, jnp.where(before, t_min_dot, jnp.where(after, t_max_dot, t_dot))


def working_range(schedule: Schedule, scale: Array | float = 1.0) -> tuple[Time, Time]:
    """The times whose log-SNRs at the data's scale are those of the schedule's working range at scale 1.

    Two Python numbers at scale 1, and else two scalars, within the schedule's range: under `Karras` from
    0.002 to 80 standard deviations of the data.
    """
    if number(scale) == 1:
        return schedule.working_range
    return _scaled_range(schedule, scale)


@folded
@jax.jit
def _scaled_range(schedule: Schedule, scale: Array | float) -> tuple[Array, Array]:
    ends = tuple(jnp.asarray(t, float) for t in schedule.working_range)
    shift = 2 * jnp.log(jnp.asarray(scale, float))
    middle = 0.5 * (ends[0] + ends[1])
    least, most = (log_snr_at_end(schedule, end, middle) - shift for end in ends[::-1])
    # Brackets for the bisection, where the schedule's own range has an infinite end.
    low, high = (jnp.asarray(t, float) for t in (schedule.t_min, schedule.t_max))
    if math.isinf(schedule.t_max):
        high = jax.lax.while_loop(lambda t: log_snr(schedule, t) > least, lambda t: 2 * t, ends[1])
    if math.isinf(schedule.t_min):
        low = jax.lax.while_loop(lambda t: log_snr(schedule, t) < most, lambda t: 2 * t - 1, ends[0])
    first, last = (inverse_log_snr(schedule, level, t_min=low, t_max=high) for level in (most, least))
    return first, last
