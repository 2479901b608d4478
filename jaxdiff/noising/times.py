"""Training times and sampling grids.

Training: a point u in (0, 1) goes through the quantile function of a law of times. Times carry the
reciprocal of their density, so that ``mean(weight * f(t))`` estimates ``int f(t) dt`` whatever the law:

    times = log_snr_uniform(stratified(key, 512), schedule, t_min=1e-3, t_max=1.0)

Sampling: decreasing grids, traced, so that another grid of the same length does not recompile. The last
entry decides the last step: end at sigma > 0 to keep x at that noise, append the time of sigma = 0
(`jnp.append(grid, 0.0)`) to return the denoiser's estimate of the data.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, shards
from jaxdiff.noising.process import inverse_log_snr, log_snr
from jaxdiff.typing import Array, Key, Schedule


class TrainingTimes(NamedTuple):
    """Times t, shape (n,), and the reciprocal of their density, shape (n,)."""

    t: Array
    weight: Array


def stratified(key: Key, n: int) -> Array:
    """One uniform point in each of n equal strata of (0, 1), shape (n,); point i depends on (key, i, n) only.

    The variance of a mean over it is O(n^-3) for a smooth integrand, against O(n^-1) for
    independent points, `jax.random.uniform(key, (n,))`.
    """
    checks.integer("n", n, 1)
    rows, whole = shards.row_numbers(n), n * shards.count()
    return (rows + jax.random.uniform(key, (whole,))[rows]) / whole


def uniform(u: Array, *, t_min: Array | float = 0.0, t_max: Array | float = 1.0) -> TrainingTimes:
    """Times uniform on [t_min, t_max]. Raises ValueError unless t_min < t_max."""
    _in_unit_interval(u)
    checks.ordered("t_min", t_min, "t_max", t_max)
    return TrainingTimes(t_min + (t_max - t_min) * u, jnp.broadcast_to(t_max - t_min, u.shape))


def log_normal(u: Array, *, mean: Array | float = -1.2, std: Array | float = 1.2) -> TrainingTimes:
    """log t ~ N(mean, std^2), EDM's law of sigma (Karras et al. 2022, arXiv 2206.00364, table 1)."""
    _in_unit_interval(u)
    checks.positive("std", std)
    normal = jax.scipy.special.ndtri(jnp.clip(u, jnp.finfo(u.dtype).tiny, 1 - jnp.finfo(u.dtype).epsneg))
    t = jnp.exp(mean + std * normal)
    return TrainingTimes(t, t * std * jnp.sqrt(2 * jnp.pi) * jnp.exp(0.5 * normal**2))


def log_snr_uniform(
    u: Array, schedule: Schedule, *, t_min: Array | float, t_max: Array | float
) -> TrainingTimes:
    """Times whose log-SNR is uniform between those of t_min and t_max, under any schedule.

    The importance law of the likelihood weighting: `parameterizations.likelihood` times this weight is the
    constant (lambda_max - lambda_min) / 2. Both ends need sigma > 0 and alpha > 0.
    Raises ValueError unless t_min < t_max and both log-SNRs are finite.
    """
    _in_unit_interval(u)
    high, low = _log_snr_ends(schedule, t_min, t_max)
    value = high + (low - high) * u
    t = jax.vmap(lambda v: inverse_log_snr(schedule, v, t_min=t_min, t_max=t_max))(value)
    slope = jax.vmap(jax.grad(lambda s: log_snr(schedule, s)))(t)
    return TrainingTimes(t, (low - high) / slope)


def power_grid(
    num_steps: int, *, t_max: Array | float = 1.0, t_min: Array | float = 0.0, rho: Array | float = 1.0
) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min, uniform in t^(1/rho).

    rho = 1 is uniform, 2 quadratic; 7, with the Karras schedule, is EDM's grid (arXiv 2206.00364, eq. 5).
    Raises ValueError unless 0 <= t_min < t_max < infinity and rho > 0.
    """
    checks.integer("num_steps", num_steps, 1)
    checks.positive("rho", rho)
    checks.ordered("t_min", t_min, "t_max", t_max)
    checks.within("t_min", t_min, 0.0, float("inf"))
    checks.finite("t_max", t_max)
    high, low = jnp.asarray(t_max, float) ** (1 / rho), jnp.asarray(t_min, float) ** (1 / rho)
    grid = jnp.linspace(high, low, num_steps + 1) ** rho
    return grid.at[0].set(t_max).at[-1].set(t_min)  # roots and powers do not round back to the ends


def log_snr_grid(
    schedule: Schedule, num_steps: int, *, t_max: Array | float = 1.0, t_min: Array | float
) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min, uniform in log-SNR, under any schedule.

    Raises ValueError unless t_min < t_max and both log-SNRs are finite.
    """
    checks.integer("num_steps", num_steps, 1)
    high, low = _log_snr_ends(schedule, t_min, t_max)
    values = jnp.linspace(low, high, num_steps + 1)
    grid = jax.vmap(lambda v: inverse_log_snr(schedule, v, t_min=t_min, t_max=t_max))(values)
    return grid.at[0].set(t_max).at[-1].set(t_min)


def gaussian_grid(
    schedule: Schedule,
    num_steps: int,
    *,
    variance: Array | float,
    t_max: Array | float = 1.0,
    t_min: Array | float,
) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min, equal ratios of variance + sigma^2 / alpha^2.

    Of all grids of as many steps this has the least discretization error (`jaxdiff.sampling.budget`) for
    Gaussian data of that variance in every direction: d K (L / K - 1 + e^(-L / K)) / 2 nats for K steps, with
    L the log of the ratio of the ends. Derived here. Raises ValueError unless variance > 0, t_min < t_max and
    both log-SNRs are finite.
    """
    checks.integer("num_steps", num_steps, 1)
    checks.positive("variance", variance)
    ends = [jnp.exp(-level) for level in _log_snr_ends(schedule, t_min, t_max)]
    low, high = (jnp.log(variance + end) for end in ends)
    # v = e^l - variance, by expm1 from v at the clean end, where nearly all of e^l is the variance.
    rise = jnp.linspace(high - low, 0.0, num_steps + 1)
    v = ends[0] + (variance + ends[0]) * jnp.expm1(rise)
    grid = jax.vmap(lambda v: inverse_log_snr(schedule, -jnp.log(v), t_min=t_min, t_max=t_max))(v)
    return grid.at[0].set(t_max).at[-1].set(t_min)


def truncate(times: Array, t_max: float) -> Array:
    """The part of decreasing times at and below t_max, which is its first entry: a long grid, cut short.

    An entry within a rounding error of t_max gives way to it, on whatever side it is. times must be known,
    not traced, since the length depends on them. Raises ValueError unless they decrease, with
    times[0] >= t_max > times[-1].
    """
    checks.shape("times", times, (None,))
    known = checks.known(times)
    if known is None:
        raise ValueError("times must be known, but are traced: truncate them outside of jit and vmap.")
    checks.increasing("times[::-1]", times[::-1])
    slack = 1e-5 * t_max
    if not known[-1] + slack < t_max <= known[0] + slack:
        raise ValueError(
            f"t_max must lie within times, which run from {known[0]:g} to {known[-1]:g}; got {t_max:g}."
        )
    below = jnp.asarray(known[known < t_max - slack], float)
    return jnp.concatenate([jnp.full(1, t_max, below.dtype), below])


def _in_unit_interval(u: Array) -> None:
    checks.floating("u", u)
    checks.within("u", u, 0.0, 1.0)


def _log_snr_ends(schedule: Schedule, t_min: Array | float, t_max: Array | float) -> tuple[Array, Array]:
    checks.ordered("t_min", t_min, "t_max", t_max)
    ends = log_snr(schedule, t_min), log_snr(schedule, t_max)
    for name, t, value in (("t_min", t_min, ends[0]), ("t_max", t_max, ends[1])):
        known = checks.known(value)
        if known is not None and not jnp.isfinite(known).all():
            raise ValueError(
                f"the log-SNR at {name} = {t} is {known}, wanted a finite one: take a {name} inside the "
                f"range of {schedule}, where both alpha and sigma are above zero."
            )
        checks.in_range(name, schedule, t)
    return ends
