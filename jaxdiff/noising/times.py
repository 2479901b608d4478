"""Training times and sampling grids.

Training: a point u in (0, 1) goes through the quantile function of a law of times. Times carry the
reciprocal of their density, so that ``mean(weight * f(t))`` estimates ``int f(t) dt`` whatever the law:

    times = log_snr_uniform(stratified(key, 512), VariancePreserving())

Sampling: decreasing grids, traced, so that another grid of the same length does not recompile. The last
entry decides the last step: end at sigma > 0 to keep x at that noise; with `to_clean` it returns the
denoiser's estimate of the data.

Where t_min and t_max are not given they are those of the schedule's working range. Where everything that a
grid depends on is known it is computed at once, inside ``jit`` too, so that what takes it can check it there.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jaxdiff._numerics import checks, shards
from jaxdiff._numerics.constants import compiled, folded
from jaxdiff.noising.process import inverse_log_snr, log_snr, log_snr_at_end
from jaxdiff.typing import Array, Key, Schedule, Time

_MOST_NOISE = 100.0  # sigma over alpha, in units of the data: beyond it a grid has its first entry only
# Log-SNR at the data's scale about which the flow turns most, and how far about. Of widths 7.7, 5.4, 4.0 and
# even steps, and middles 0 and 2, on two mixtures and a network of digits (`benchmarks.likelihood_time`).
_FORMING, _FINE = 2.0, 5.0


class TrainingTimes(NamedTuple):
    """Times t, shape (n,), and the reciprocal of their density, shape (n,)."""

    t: Array
    weight: Array


def stratified(key: Key, n: int) -> Array:
    """One uniform point in each of n equal strata of (0, 1), shape (n,); point i depends on (key, i, n) only.

    The variance of a mean over it is O(n^-3) for a smooth integrand, against O(n^-1) for
    independent points, `jax.random.uniform(key, (n,))`.

    Raises TypeError for what is no key, ValueError for n below 1.

    >>> jnp.floor(4 * jd.times.stratified(jax.random.key(0), 4)).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    checks.key(key)
    checks.integer("n", n, 1)
    return _stratified(key, n)


@compiled(static="n")
def _stratified(key: Key, n: int) -> Array:
    rows, whole = shards.row_numbers(n), n * shards.count()
    return (rows + jax.random.uniform(key, (whole,))[rows]) / whole


def uniform(u: Array, *, t_min: Time, t_max: Time) -> TrainingTimes:
    """Times uniform on [t_min, t_max]. Raises ValueError unless t_min < t_max.

    >>> t, weight = jd.times.uniform(jnp.array([0.0, 0.5, 1.0]), t_min=1.0, t_max=3.0)
    >>> t.tolist(), weight.tolist()  # the density is 1 / 2
    ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    """
    _in_unit_interval(u)
    checks.ordered("t_min", t_min, "t_max", t_max)
    return TrainingTimes(t_min + (t_max - t_min) * u, jnp.broadcast_to(t_max - t_min, u.shape))


def log_normal(
    u: Array,
    schedule: Schedule,
    *,
    mean: Array | float = -1.2,
    std: Array | float = 1.2,
    t_min: Time | None = None,
    t_max: Time | None = None,
) -> TrainingTimes:
    """log(sigma / alpha) ~ N(mean, std^2), cut off at t_min and t_max, under any schedule.

    Under `Karras` with the default mean and std EDM's law of sigma, for data of standard deviation 1/2
    (Karras et al. 2022, arXiv 2206.00364, table 1). Raises ValueError unless std > 0 and t_min < t_max are in
    the schedule's range.

    >>> u = jnp.array([0.5])  # the median
    >>> times = jd.times.log_normal(u, jd.Karras(), mean=0.0, std=1.2, t_min=0.01, t_max=100.0)
    >>> times.t.round(3).tolist()
    [1.0]
    """
    _in_unit_interval(u)
    checks.positive_number("std", std)
    checks.shape("mean", mean, ())
    t_min, t_max = _range(schedule, t_min, t_max)
    checks.finite("t_max", t_max)
    return _log_normal(u, schedule, mean, std, t_min, t_max)


@compiled
def _log_normal(
    u: Array, schedule: Schedule, mean: Array | float, std: Array | float, t_min: Time, t_max: Time
) -> TrainingTimes:
    inside = 0.5 * (t_min + t_max)
    ends = (jnp.clip(log_snr_at_end(schedule, t, inside), -1e9, 1e9) for t in (t_min, t_max))
    low, high = ((-0.5 * end - mean) / std for end in ends)
    # Probabilities from either side: each keeps its digits in its own tail.
    below = ndtr(low) + (ndtr(high) - ndtr(low)) * u
    above = ndtr(-high) + (ndtr(-low) - ndtr(-high)) * (1 - u)
    tiny = jnp.finfo(u.dtype).tiny
    normal = jnp.where(u < 0.5, ndtri(jnp.maximum(below, tiny)), -ndtri(jnp.maximum(above, tiny)))
    t = _to_times(schedule, -2 * (mean + std * normal), t_min, t_max)
    density = jnp.exp(-0.5 * normal**2) / (std * jnp.sqrt(2 * jnp.pi)) * -0.5 * _slope(schedule, t)
    return TrainingTimes(t, (ndtr(high) - ndtr(low)) / density)


def log_snr_uniform(
    u: Array, schedule: Schedule, *, t_min: Time | None = None, t_max: Time | None = None
) -> TrainingTimes:
    """Times whose log-SNR is uniform between those of t_min and t_max, under any schedule.

    The importance law of the likelihood weighting: `weights.likelihood` times this weight is the
    constant (lambda_max - lambda_min) / 2. Both ends need sigma > 0 and alpha > 0.
    Raises ValueError unless t_min < t_max and both log-SNRs are finite.

    >>> u = jnp.array([0.25, 0.5, 0.75])
    >>> jd.times.log_snr_uniform(u, jd.Karras(), t_min=0.25, t_max=4.0).t.round(3).tolist()
    [0.5, 1.0, 2.0]
    """
    _in_unit_interval(u)
    t_min, t_max = _range(schedule, t_min, t_max)
    high, low = _log_snr_ends(schedule, t_min, t_max)
    return _between_levels(u, schedule, high, low, t_min, t_max)


@compiled
def _between_levels(
    u: Array, schedule: Schedule, high: Array, low: Array, t_min: Time, t_max: Time
) -> TrainingTimes:
    t = _to_times(schedule, high + (low - high) * u, t_min, t_max)
    return TrainingTimes(t, (low - high) / _slope(schedule, t))


@folded
def power_grid(num_steps: int, *, t_min: Time, t_max: Time, rho: Array | float = 1.0) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min, uniform in t^(1/rho).

    rho = 1 is uniform, 2 quadratic; 7, with the Karras schedule, is EDM's grid (arXiv 2206.00364, eq. 5).
    Raises ValueError unless 0 <= t_min < t_max < infinity and rho > 0.

    >>> jd.times.power_grid(2, t_min=1.0, t_max=3.0).tolist()
    [3.0, 2.0, 1.0]
    """
    checks.integer("num_steps", num_steps, 1)
    checks.positive_number("rho", rho)
    checks.ordered("t_min", t_min, "t_max", t_max)
    checks.within("t_min", t_min, 0.0, float("inf"))
    checks.finite("t_max", t_max)
    return _power_grid(t_min, t_max, rho, num_steps)


@compiled(static="num_steps")
def _power_grid(t_min: Time, t_max: Time, rho: Array | float, num_steps: int) -> Array:
    high, low = jnp.asarray(t_max, float) ** (1 / rho), jnp.asarray(t_min, float) ** (1 / rho)
    grid = jnp.linspace(high, low, num_steps + 1) ** rho
    return grid.at[0].set(t_max).at[-1].set(t_min)  # roots and powers do not round back to the ends


@folded
def noise_grid(
    schedule: Schedule,
    num_steps: int,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
    scale: Array | float = 1.0,
    rho: Array | float = 7.0,
) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min, uniform in (sigma / alpha)^(1/rho): EDM's, of any
    schedule.

    Where sigma / alpha at t_max is more than 100 times the data's standard deviation, scale, or infinite, the
    first entry is t_max and the others are those of a grid from there. A good grid for every sampler here.
    Raises ValueError unless t_min < t_max are in the schedule's range, sigma(t_min) > 0 and rho > 0.

    >>> [round(float(t), 3) for t in jd.times.noise_grid(jd.Karras(), 2, t_min=0.25, t_max=4.0)][::2]
    [4.0, 0.25]
    """
    checks.integer("num_steps", num_steps, 1)
    checks.positive_number("rho", rho)
    checks.positive_number("scale", scale)
    t_min, t_max = _range(schedule, t_min, t_max)
    checks.finite("t_max", t_max)
    grid, least = _noise_grid(schedule, t_min, t_max, scale, rho, num_steps)
    checks.positive("sigma / alpha at t_min", least)
    return grid


@compiled(static="num_steps")
def _noise_grid(
    schedule: Schedule, t_min: Time, t_max: Time, scale: Array | float, rho: Array | float, num_steps: int
) -> tuple[Array, Array]:
    """The grid, and sigma / alpha at its end."""
    low = jnp.exp(-0.5 * log_snr(schedule, t_min))
    most = jnp.maximum(_MOST_NOISE * scale, 2 * low)
    end = log_snr_at_end(schedule, t_max, 0.5 * (t_min + t_max))
    high = jnp.where(jnp.isinf(end), most, jnp.minimum(jnp.exp(-0.5 * end), most))
    ratios = jnp.linspace(high ** (1 / rho), low ** (1 / rho), num_steps + 1) ** rho
    # The bisection ends below t_max wherever there is signal left.
    return _grid(schedule, -2 * jnp.log(ratios), t_min, t_max), low


@folded
def to_clean(schedule: Schedule, times: Array) -> Array:
    """Decreasing times and, after them, that of no noise: a sampler's last step is then the denoiser's
    estimate.

    Raises ValueError where times reach it already.

    >>> jd.times.to_clean(jd.Karras(), jnp.array([2.0, 1.0])).tolist()
    [2.0, 1.0, 0.0]
    """
    checks.shape("times", times, (None,))
    times, known = jnp.asarray(times), checks.known(times)
    if known is not None:
        checks.ordered("the schedule's first time", schedule.t_min, "times[-1]", known[-1])
    return _append(times, schedule.t_min)


@folded
def whole(times: Array) -> Array:
    """Decreasing times rounded to whole ones, as a network of whole steps wants; of the same number, and
    strict.

    Where two would meet, the earlier in the grid is moved up. Raises ValueError where there is no room for as
    many.

    >>> jd.times.whole(jnp.array([7.2, 3.9, 1.0])).tolist()
    [7.0, 4.0, 1.0]
    """
    checks.shape("times", times, (None,))
    known = checks.known(times)
    if known is not None:
        room = known[0] - known[-1] - len(known) + 1
        checks.within("the whole times between the ends, less the number of times,", room, 0, jnp.inf)
    return _whole(jnp.asarray(times))


@compiled
def _whole(times: Array) -> Array:
    places = jnp.arange(len(times))
    # A grid that falls by one at least is one that does not rise once that is taken off.
    lifted = jax.lax.cummax(jnp.round(times) + places, reverse=True) - places
    return jnp.minimum(lifted, jnp.round(times[0]) - places)


@folded
def log_snr_grid(
    schedule: Schedule,
    num_steps: int,
    *,
    t_min: Time | None = None,
    t_max: Time | None = None,
    scale: Array | float | None = None,
) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min, uniform in log-SNR, under any schedule.

    scale: the data's standard deviation. With it uniform in arcsinh((log-SNR - l) / 5), l = 2 - 2 log(scale):
        in log-SNR steps are least about sigma / alpha = scale / e, where data take form, and three times as
        long at 14 from there. It is the grid of `probability_flow`. Raises ValueError unless it is positive.

    Raises ValueError unless t_min < t_max and both log-SNRs are finite.

    >>> [round(float(t), 3) for t in jd.times.log_snr_grid(jd.Karras(), 2, t_min=0.25, t_max=4.0)]
    [4.0, 1.0, 0.25]
    """
    checks.integer("num_steps", num_steps, 1)
    if scale is not None:
        checks.positive_number("scale", scale)
    t_min, t_max = _range(schedule, t_min, t_max)
    return _log_snr_grid(schedule, *_log_snr_ends(schedule, t_min, t_max), t_min, t_max, scale, num_steps)


@compiled(static="num_steps")
def _log_snr_grid(
    schedule: Schedule,
    high: Array,
    low: Array,
    t_min: Time,
    t_max: Time,
    scale: Array | float | None,
    num_steps: int,
) -> Array:
    if scale is None:
        return _grid(schedule, jnp.linspace(low, high, num_steps + 1), t_min, t_max)
    middle = _FORMING - 2 * jnp.log(scale)
    low, high = (jnp.arcsinh((end - middle) / _FINE) for end in (low, high))
    levels = middle + _FINE * jnp.sinh(jnp.linspace(low, high, num_steps + 1))
    return _grid(schedule, levels, t_min, t_max)


@folded
def gaussian_grid(
    schedule: Schedule,
    num_steps: int,
    *,
    variance: Array | float,
    t_min: Time | None = None,
    t_max: Time | None = None,
) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min, equal ratios of variance + sigma^2 / alpha^2.

    Of all grids of as many steps this has the least discretization error (`jaxdiff.sampling.budget`) for
    Gaussian data of that variance in every direction: d K (L / K - 1 + e^(-L / K)) / 2 nats for K steps, with
    L the log of the ratio of the ends. Derived here. Raises ValueError unless variance > 0, t_min < t_max and
    both log-SNRs are finite.

    >>> times = jd.times.gaussian_grid(jd.Karras(), 2, variance=1.0, t_min=1.0, t_max=31**0.5)
    >>> (1 + times**2).round(2).tolist()
    [32.0, 8.0, 2.0]
    """
    checks.integer("num_steps", num_steps, 1)
    checks.positive_number("variance", variance)
    t_min, t_max = _range(schedule, t_min, t_max)
    return _gaussian_grid(schedule, *_log_snr_ends(schedule, t_min, t_max), variance, t_min, t_max, num_steps)


@compiled(static="num_steps")
def _gaussian_grid(
    schedule: Schedule,
    high: Array,
    low: Array,
    variance: Array | float,
    t_min: Time,
    t_max: Time,
    num_steps: int,
) -> Array:
    ends = jnp.exp(-high), jnp.exp(-low)
    low, high = (jnp.log(variance + end) for end in ends)
    # v = e^l - variance, by expm1 from v at the clean end, where nearly all of e^l is the variance.
    rise = jnp.linspace(high - low, 0.0, num_steps + 1)
    v = ends[0] + (variance + ends[0]) * jnp.expm1(rise)
    return _grid(schedule, -jnp.log(v), t_min, t_max)


def truncate(times: Array, t_max: float) -> Array:
    """The part of decreasing times at and below t_max, which is its first entry: a long grid, cut short.

    An entry within a rounding error of t_max gives way to it, on whatever side it is. times must be known,
    not traced, since the length depends on them. Raises ValueError unless they decrease, with
    times[0] >= t_max > times[-1].

    >>> jd.times.truncate(jnp.array([4.0, 2.0, 1.0]), 3.0).tolist()
    [3.0, 2.0, 1.0]
    """
    checks.shape("times", times, (None,))
    known = checks.known(times)
    if known is None:
        raise ValueError("times must be known, but are traced: truncate them outside of jit and vmap.")
    checks.increasing("times[::-1]", times[::-1])
    checks.positive_number("t_max", t_max)
    slack = 1e-5 * t_max
    if not known[-1] + slack < t_max <= known[0] + slack:
        raise ValueError(
            f"t_max must lie within times, which run from {known[0]:g} to {known[-1]:g}; got {t_max:g}."
        )
    below = jnp.asarray(known[known < t_max - slack], float)
    return jnp.concatenate([jnp.full(1, t_max, below.dtype), below])


def _grid(schedule: Schedule, levels: Array, t_min: Time, t_max: Time) -> Array:
    """The times of rising log-SNRs, (n,), between ends that are exact."""
    return _to_times(schedule, levels, t_min, t_max).at[0].set(t_max).at[-1].set(t_min)


@compiled
def _append(times: Array, last: Time) -> Array:
    return jnp.append(times, jnp.asarray(last, times.dtype))


def _to_times(schedule: Schedule, levels: Array, t_min: Time, t_max: Time) -> Array:
    """The times of log-SNRs, (n,)."""
    return jax.vmap(lambda level: inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max))(levels)


def _slope(schedule: Schedule, t: Array) -> Array:
    """d lambda / dt at times (n,)."""
    return jax.vmap(jax.grad(lambda s: log_snr(schedule, s)))(t)


def _in_unit_interval(u: Array) -> None:
    checks.floating("u", u)
    checks.within("u", u, 0.0, 1.0)


def _range(schedule: Schedule, t_min: Time | None, t_max: Time | None) -> tuple[Time, Time]:
    """t_min and t_max, by default the schedule's working range, in order and in the schedule's range."""
    checks.schedule(schedule)
    low, high = schedule.working_range
    t_min, t_max = low if t_min is None else t_min, high if t_max is None else t_max
    for name, t in (("t_min", t_min), ("t_max", t_max)):
        checks.shape(name, t, ())
        checks.in_range(name, schedule, t)
    checks.ordered("t_min", t_min, "t_max", t_max)
    return t_min, t_max


def _log_snr_ends(schedule: Schedule, t_min: Time, t_max: Time) -> tuple[Array, Array]:
    ends = log_snr(schedule, t_min), log_snr(schedule, t_max)
    for name, t, value in (("t_min", t_min, ends[0]), ("t_max", t_max, ends[1])):
        known = checks.known(value)
        if known is not None and not np.isfinite(known).all():
            raise ValueError(
                f"the log-SNR at {name} = {t} is {known}, wanted a finite one: take a {name} inside the "
                f"range of {schedule}, where both alpha and sigma are above zero."
            )
    return ends
