"""What a reverse-time chain costs, in nats: where it starts, what it learned, how long its steps are.

In y = x / alpha with v = sigma^2 / alpha^2 for a clock every schedule is y_v = data + v^(1/2) noise, with the
score s(y, v), and `EulerMaruyama` with a learned score s' is, from v_0 down through v_1 > ... > v_K,

    y_{k+1} = y_k + D_k s'(y_k, v_k) + D_k^(1/2) z,      D_k = v_k - v_{k+1},      y_0 ~ start         (1)

Along the exact reverse process Y the score is a martingale, d s(Y_v, v) = ds/dy dB, so what frozen and
learned scores add to the drift is orthogonal, and by Girsanov's theorem, exactly,

    KL(path of Y || path of (1)) = E_init + E_train + E_disc >= KL(p_K || law of y_K)                 (2)
    E_init  = KL(p_0 || start)
    E_train = (1/2) sum_k D_k E|s' - s|^2                                   at y ~ p_k
    E_disc  = (1/2) sum_k int_{v_{k+1}}^{v_k} E|s(Y_v) - s(Y_{v_k})|^2 dv                             (3)
            = (1/2) sum_k int_{v_{k+1}}^{v_k} (1 - v_{k+1} / v) c(v) dlog v
    c(v)    = v^2 E|ds/dy|^2 = E|sigma dN/dx|^2                             (Frobenius norms)         (4)

with N the denoiser's noise: c, the *curvature*, rises from 0, where noise is small beside smooth data, to d.
A short step of length h in log v costs c h^2 / 4, and steps of equal int c^(1/2) dlog v cost least, which is
int (-J')^(1/2) dv with J = E|s|^2 the Fisher information; for Gaussian data of variance l it is log(l + v).

If noise goes on to be added to both, with q_v the law that the start then has, de Bruijn's identity gives

    E_init = (1/2) int_{v_0}^inf E|s(y, v) - s_q(y, v)|^2 dv                at y ~ p_v                 (5)

in which no density of the data is asked for.

The decomposition into three errors is that of Fassina, Cardoso, Le Corff & Romary 2026, arXiv 2603.00772;
(3), its exactness, (4) and (5) are derived here.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import noise_like, signs_like
from jaxdiff._numerics.rows import squares
from jaxdiff.denoising.denoiser import Denoiser, Distribution, check_denoiser
from jaxdiff.laws.metrics import Estimate
from jaxdiff.noising.process import inverse_log_snr, log_snr, perturb
from jaxdiff.noising.schedules import Karras
from jaxdiff.noising.times import log_snr_grid
from jaxdiff.typing import Array, Key, Schedule, StartLaw, Time

_NODES = 6  # Gauss and Legendre's, in each step; a step's noise variance falls by less than e^6 in any use
_LONG_NODES = 24  # over all noise above a start
_LEVELS = 64  # of a pilot run, which resolve any law
_MOST_NOISE = 1000.0  # sigma over alpha, in units of the data: beyond it there is nothing left to see
_SLACK = 1e-4  # on log v: what rounding makes of equal ends


class KLBudget(NamedTuple):
    """The terms of eq. (2) in nats, with the standard errors of their Monte Carlo means."""

    initialization: Estimate
    training: Estimate
    discretization: Estimate
    total: Estimate


class ScoreCurvature(NamedTuple):
    """c of eq. (4) at noise variances v of a schedule, from a pilot run; arrays of shape (levels,)."""

    schedule: Schedule
    log_variance: Array
    """log v, increasing."""
    value: Array
    standard_error: Array


def kl_budget(
    key: Key,
    denoise: Denoiser,
    distribution: Distribution,
    start: StartLaw,
    times: Array,
    *,
    num_samples: int = 1024,
) -> KLBudget:
    """Eq. (2) for `EulerMaruyama` with denoise along decreasing times from start, the law of x at times[0].

    distribution: the law of the data, which knows its exact denoiser and density. The same num_samples draws
    of data and noise serve at every level. (4) is by one random sign vector for each draw, so E_disc has no
    Monte Carlo error for isotropic Gaussian data.

    May be vmapped over grids, schedules' parameters and start laws: to vmap over numbers of steps, pad times
    by repeating the last. Raises ValueError for times that do not decrease, that the denoiser does not know
    or that end without noise (the last step then has no density), and for laws of points of another shape
    than the denoiser's. Traced times that increase or are out of range answer NaN.

    >>> law, times = jd.Gaussian([0.0], 1.0), jnp.geomspace(10, 0.1, 20)
    >>> start = jd.Gaussian([0.0], 101.0)
    >>> budget = jd.kl_budget(jax.random.key(0), law.denoiser(jd.Karras()), law, start, times)
    >>> float(budget.training.value) < 1e-6 < float(budget.discretization.value)
    True
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.integer("num_samples", num_samples, 2)
    for name, law in (("distribution", distribution), ("start", start)):
        checks.law_shape(name, law, denoise.shape)
    denoise.check_times("times", times)
    levels = _levels(denoise.schedule, times)
    return _kl_budget(key, denoise, distribution, start, jnp.asarray(times, float), levels, num_samples)


@functools.partial(jax.jit, static_argnames="num_samples")
def _kl_budget(
    key: Key,
    denoise: Denoiser,
    distribution: Distribution,
    start: StartLaw,
    times: Array,
    levels: Array,
    num_samples: int,
) -> KLBudget:
    schedule, levels = denoise.schedule, _decreasing(levels)
    data_key, noise_key, sign_key = jax.random.split(key, 3)
    data = single(distribution.sample(data_key, num_samples))
    checks.law("start", start, data)
    noise, exact = noise_like(noise_key, data), distribution.denoiser(schedule)

    def train(total: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        t, share = step
        x = perturb(schedule, data, noise, t)
        return total + share * squares(denoise(x, t).noise - exact(x, t).noise), None

    def disc(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        t, weight = node
        return total + weight * _curvature(exact, data, noise, signs, t), None

    signs = signs_like(sign_key, data, 1)[0]
    nodes, weights = _quadrature(levels)
    ends = (jnp.repeat(end, _NODES) for end in (times[1:], times[:-1]))
    at_nodes = jax.vmap(lambda level, low, high: inverse_log_snr(schedule, -level, t_min=low, t_max=high))(
        nodes.reshape(-1), *ends
    )
    x_0 = perturb(schedule, data, noise, times[0])
    none = jnp.zeros(num_samples, levels.dtype)
    terms = (
        none + distribution.perturbed(schedule, times[0]).log_prob(x_0) - start.log_prob(x_0),
        0.5 * jax.lax.scan(train, none, (times[:-1], -jnp.expm1(jnp.diff(levels))))[0],
        0.5 * jax.lax.scan(disc, none, (at_nodes, weights.reshape(-1)))[0],
    )
    return KLBudget(*map(_mean, (*terms, sum(terms, start=none))))


def score_curvature(key: Key, denoise: Denoiser, data: Array, times: Array | None = None) -> ScoreCurvature:
    """c of eq. (4) of any denoiser, learned or exact, by Monte Carlo over data, (n, *shape), at times.

    times: of shape (levels,), decreasing; by default 64, which resolve any law, even in log-SNR from
        `last_time` of the denoiser down to the end of its working range.

    One derivative of the denoiser along a random vector is taken at each level, on all data. Raises TypeError
    for integer data, and ValueError for NaN, data of another shape, or times that do not decrease, that the
    denoiser does not know or that end without noise. Traced times that increase or are out of range answer
    NaN.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> times = jnp.array([3.0, 1.0])
    >>> curvature = jd.score_curvature(jax.random.key(0), denoise, jnp.zeros((8, 1)), times)
    >>> [round(float(c), 4) for c in curvature.value]  # (v / (1 + v))^2 at v = 1 and 9
    [0.25, 0.81]
    """
    checks.key(key)
    data = check_data(denoise, data)
    if times is None:
        t_min, t_max = denoise.working_range[0], last_time(denoise)
        times = log_snr_grid(denoise.schedule, _LEVELS - 1, t_min=t_min, t_max=t_max)
    denoise.check_times("times", times)
    levels = _levels(denoise.schedule, times)
    return ScoreCurvature(
        denoise.schedule, *_score_curvature(key, denoise, data, jnp.asarray(times, float), levels)
    )


@jax.jit
def _score_curvature(
    key: Key, denoise: Denoiser, data: Array, times: Array, levels: Array
) -> tuple[Array, Array, Array]:
    noise_key, sign_key = jax.random.split(key)
    noise, signs = noise_like(noise_key, data), signs_like(sign_key, data, 1)[0]
    means = jax.lax.map(lambda t: _mean(_curvature(denoise, data, noise, signs, t)), times[::-1])
    return _decreasing(levels)[::-1], *means


def initialization_error(
    key: Key, denoise: Denoiser, start: Distribution, data: Array, t_max: Time
) -> Estimate:
    """E_init = KL(law of x at t_max || start) by eq. (5), in nats, for any denoiser, learned or exact.

    data: shape (n, *shape), best held out from the fit of start: one noise for each, at every level.
    t_max: of the start; it should be well below `last_time` of the denoiser, from where on the integrand is
        taken to fall as v^-2, as it does for laws of different means and faster for others.

    Raises TypeError for integer data, and ValueError for NaN, for a t_max beyond `last_time` or without
    noise, and for data or a start of another shape than the denoiser's. A traced t_max beyond it answers NaN.

    >>> law = jd.Gaussian([0.0], 1.0)
    >>> data = law.sample(jax.random.key(0), 500)
    >>> wrong = jd.Gaussian([3.0], 10.0)  # at t = 3 the law is N(0, 10): 3^2 / (2 10) nats away
    >>> error = jd.initialization_error(jax.random.key(1), law.denoiser(jd.Karras()), wrong, data, 3.0)
    >>> round(float(error.value), 1)
    0.4
    """
    checks.key(key)
    data = check_data(denoise, data)
    checks.law_shape("start", start, denoise.shape)
    checks.shape("t_max", t_max, ())
    denoise.check_times("t_max", t_max)
    t_end = last_time(denoise)
    if (known := checks.known(t_end)) is not None:
        what = "the working range of this denoiser, where starts can be measured"
        checks.between("t_max", t_max, denoise.t_min, float(known), what)
    checks.finite("the log-SNR at t_max", _log_variance(denoise.schedule, t_max))
    return _initialization_error(key, denoise, start, data, t_max, t_end)


@jax.jit
def _initialization_error(
    key: Key, denoise: Denoiser, start: Distribution, data: Array, t_max: Time, t_end: Time
) -> Estimate:
    schedule = denoise.schedule
    first, last = -log_snr(schedule, t_max), -log_snr(schedule, t_end)
    span = jnp.where(last > first - _SLACK, jnp.maximum(last - first, 0), jnp.nan)
    sigma, continued, noise = schedule.sigma(t_max), start.denoiser(Karras()), noise_like(key, data)

    def at(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        rise, weight = node  # log v - log v_0
        t = inverse_log_snr(schedule, -(first + rise), t_min=t_max, t_max=t_end)
        x = perturb(schedule, data, noise, t)
        # In the units that x has at t_max, where the start is at home, noise has gone from sigma to std.
        std = sigma * jnp.exp(0.5 * rise)
        added = sigma * jnp.sqrt(jnp.expm1(jnp.maximum(rise, 1e-6)))
        other = continued(schedule.alpha(t_max) / schedule.alpha(t) * x, added).noise * (std / added)
        return total + weight * squares(denoise(x, t).noise - other), None

    u, w = _unit_rule(_LONG_NODES, float)
    # The last node stands for all of the integral beyond.
    rises, weights = jnp.append(span * u, span), jnp.append(span * w, 1.0)
    return _mean(0.5 * jax.lax.scan(at, jnp.zeros(len(data), weights.dtype), (rises, weights))[0])


def discretization_error(curvature: ScoreCurvature, times: Array) -> Array:
    """E_disc of eq. (3), in nats, of decreasing times, from a pilot run; a scalar. May be vmapped over times.

    Raises ValueError for times beyond those of the pilot, and for times that do not decrease or that end
    without noise; traced ones answer NaN.

    >>> v = jnp.geomspace(1e-3, 1e3, 200)  # by `score_curvature`, but of N(0, 1) it is a formula
    >>> curvature = jd.ScoreCurvature(jd.Karras(), jnp.log(v), (v / (1 + v)) ** 2, jnp.zeros(200))
    >>> times = jd.times.gaussian_grid(jd.Karras(), 4, variance=1.0, t_min=0.1, t_max=10.0)
    >>> error, step = jd.discretization_error(curvature, times), math.log(101 / 1.01) / 4
    >>> round(float(error), 2), round(4 * (step - 1 + math.exp(-step)) / 2, 2)
    (0.94, 0.94)
    """
    _check_curvature(curvature)
    levels = _levels(curvature.schedule, times)
    _check_covered(curvature, levels)
    return _discretization_error(curvature, levels)


@jax.jit
def _discretization_error(curvature: ScoreCurvature, levels: Array) -> Array:
    nodes, weights = _quadrature(_covered(curvature, _decreasing(levels)))
    return 0.5 * jnp.sum(weights * jnp.interp(nodes, curvature.log_variance, curvature.value))


@folded
def optimal_grid(curvature: ScoreCurvature, num_steps: int, *, t_max: Time, t_min: Time) -> Array:
    """num_steps + 1 decreasing times from t_max to t_min of steps of equal int c^(1/2) dlog v.

    To the leading order in the length of steps no grid of as many has a smaller E_disc of eq. (3), and none
    at all for isotropic Gaussian data; on a mixture of five modes 5 steps cost 4 % more than the least, 20
    steps under 1 % (MEASURED). It is for `EulerMaruyama`; another sampler's errors lie elsewhere, and
    `choose_horizon` tries grids with the sampler itself.

    Raises ValueError for times beyond those of the pilot; traced ones answer NaN.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> curvature = jd.score_curvature(jax.random.key(0), denoise, jnp.zeros((64, 1)) + 1.0)
    >>> times = jd.optimal_grid(curvature, 4, t_max=20.0, t_min=0.1)
    >>> [round(float(t), 2) for t in times[jnp.array([0, -1])]]
    [20.0, 0.1]
    """
    checks.integer("num_steps", num_steps, 1)
    for name, t in (("t_max", t_max), ("t_min", t_min)):
        checks.shape(name, t, ())
    checks.ordered("t_min", t_min, "t_max", t_max)
    _check_curvature(curvature)
    times = jnp.stack([jnp.asarray(t, float) for t in (t_max, t_min)])
    _check_covered(curvature, _levels(curvature.schedule, times))
    return _optimal_grid(curvature, times, num_steps)


@functools.partial(jax.jit, static_argnames="num_steps")
def _optimal_grid(curvature: ScoreCurvature, times: Array, num_steps: int) -> Array:
    schedule, (t_max, t_min) = curvature.schedule, times
    ends = _covered(curvature, _decreasing(_log_variances(schedule, times)))
    levels = jnp.linspace(ends[1], ends[0], 1024)
    speed = jnp.sqrt(jnp.interp(levels, curvature.log_variance, curvature.value))
    # A floor, so that steps where nothing happens are long rather than without end.
    speed = jnp.maximum(speed, 1e-3 * speed.max())
    length = jnp.concatenate([jnp.zeros(1), jnp.cumsum(0.5 * (speed[1:] + speed[:-1]))])
    wanted = jnp.interp(jnp.linspace(length[-1], 0, num_steps + 1), length, levels)
    grid = jax.vmap(lambda level: inverse_log_snr(schedule, -level, t_min=t_min, t_max=t_max))(wanted)
    grid = grid.at[0].set(t_max).at[-1].set(t_min)
    return jnp.where(
        jnp.isfinite(ends).all(), grid, jnp.nan
    )  # a bisection ends somewhere whatever it is told


def last_time(denoise: Denoiser) -> Time:
    """The end of a denoiser's working range, or where sigma / alpha is 1000 times the data's scale if sooner.

    Where alpha goes to zero, the range of log-SNRs has no end, and later noise tells nothing.
    """
    return _last_time(denoise.schedule, denoise.scale, *denoise.working_range)


@folded
@jax.jit
def _last_time(schedule: Schedule, scale: Array | float, t_min: Time, t_max: Time) -> Array:
    least = -2 * jnp.log(_MOST_NOISE * jnp.asarray(scale, float))
    sooner = inverse_log_snr(schedule, least, t_min=t_min, t_max=t_max)
    return jnp.where(log_snr(schedule, t_max) < least, sooner, jnp.asarray(t_max, float))


def check_data(denoise: Denoiser, data: Array) -> Array:
    """The data in single precision or better: half of it would be noise in differences of near denoisers.

    Raises TypeError for no denoiser or for integers, ValueError for data of another shape or with NaN.
    """
    check_denoiser("denoise", denoise)
    checks.batch("data", data)
    if data.shape[1:] != denoise.shape:
        wanted = checks.shown_shape(("n", *denoise.shape))
        raise ValueError(f"data must have shape {wanted}, as the denoiser's; got {data.shape}.")
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 rows, got {len(data)}.")
    checks.finite("data", data)
    return single(data)


def _curvature(denoise: Denoiser, data: Array, noise: Array, signs: Array, t: Array) -> Array:
    """|sigma dN/dx signs|^2 for each row, an estimate of (4) without bias, shape (n,)."""
    x = perturb(denoise.schedule, data, noise, t)
    _, push = jax.jvp(lambda x: denoise(x, t).noise, (x,), (signs,))
    return denoise.schedule.sigma(t) ** 2 * squares(push)


def _quadrature(levels: Array) -> tuple[Array, Array]:
    """Levels log v inside the steps between decreasing levels, and weights: (3) is their sum over c / 2."""
    u, w = _unit_rule(_NODES, levels.dtype)
    lengths = -jnp.diff(levels)[:, None]
    up = lengths * u[None]
    return levels[1:, None] + up, lengths * w[None] * -jnp.expm1(-up)


def _unit_rule(n: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Nodes and weights of Gauss and Legendre's rule on [0, 1], each (n,)."""
    u, w = np.polynomial.legendre.leggauss(n)
    return jnp.asarray((u + 1) / 2, dtype), jnp.asarray(w / 2, dtype)


def _levels(schedule: Schedule, times: Array) -> Array:
    """log v at times, after all checks of values that are known."""
    checks.times(schedule, times, increasing=False)
    levels = _log_variances(schedule, times)
    checks.finite("the log-SNR at times", levels)
    return levels


@folded
@jax.jit
def _log_variances(schedule: Schedule, times: Array) -> Array:
    return jax.vmap(lambda t: -log_snr(schedule, t))(jnp.asarray(times, float)).astype(float)


@folded
@jax.jit
def _log_variance(schedule: Schedule, t: Time) -> Array:
    return -log_snr(schedule, t)


def _decreasing(levels: Array) -> Array:
    """The levels, NaN if one is above that before it or infinite: where known, a check has refused them."""
    fit = jnp.isfinite(levels).all() & (levels[1:] <= levels[:-1]).all()
    return jnp.where(fit, levels, jnp.nan)


def _covered(curvature: ScoreCurvature, levels: Array) -> Array:
    """The levels, NaN beyond those of the pilot."""
    low, high = curvature.log_variance[0] - _SLACK, curvature.log_variance[-1] + _SLACK
    return jnp.where((levels >= low) & (levels <= high), levels, jnp.nan)


def _check_curvature(value: Any) -> None:
    if not isinstance(value, ScoreCurvature):
        raise TypeError(
            f"curvature must be that of a pilot, score_curvature(...), got {checks.described(value)}."
        )


def _check_covered(curvature: ScoreCurvature, levels: Array) -> None:
    known, wanted = checks.known(curvature.log_variance), checks.known(levels)
    if known is None or wanted is None:
        return
    if wanted.max() > known[-1] + _SLACK or wanted.min() < known[0] - _SLACK:
        raise ValueError(
            f"times must lie within those of the pilot run: log(sigma^2 / alpha^2) from {known[0]:g} to "
            f"{known[-1]:g}, got {wanted.min():g} to {wanted.max():g}; run score_curvature on a wider range."
        )


def _mean(values: Array) -> Estimate:
    return Estimate(values.mean(), values.std(ddof=1) / len(values) ** 0.5)
