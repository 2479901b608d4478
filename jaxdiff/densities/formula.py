"""The score-based density formula: log-densities from score-matching errors, without an ODE.

With X_t = alpha_t x + sigma_t eps, N(., t) the denoiser's noise and lambda = log(alpha^2 / sigma^2), let

    r = eps - N(X_t, t),      L_t = E[log p_t(X_t) | x]                                          (1)

where p_t is the law that the denoiser denoises. For times s < t, and a reference law (r_ref, R_t) under the
same noise, of which everything is known,

    L_t - L_s = d log(alpha_s / alpha_t) + (1/2) int_t^s (E|r|^2 - d) dlambda                    (2)
    L_s - R_s = L_t - R_t + (1/2) int_t^s E[|r_ref|^2 - |r|^2] dlambda                           (3)
    |r_ref|^2 - |r|^2 = (N - N_ref) . (2 eps - N - N_ref)                                        (4)

(2) is the theorem of Li & Yan 2024, arXiv 2408.16765, for every schedule; (3) is its difference for two laws.
The reference is the control variate: (4) is small wherever it is like the data, and at both ends, where any
two smooth laws are alike, it falls as sigma^2 / alpha^2 and alpha^2 / sigma^2. So the integral converges over
the whole line without a cut, and

    log p(x) = log p_ref(x) + (1/2) int E[|r_ref|^2 - |r|^2] dlambda.                            (5)

No form without a reference is needed: for N(0, I) its part of (5) is a closed form, which gives
log p(x) = -(d/2) log(2 pi e) - (1/2) int (E|r|^2 - d sigmoid(lambda)) dlambda (Kong, Brekelmans & Ver Steeg
2023, arXiv 2302.10330), while (4) has a finite variance and that integrand has not.

Noise levels are drawn through u = sqrt(sigmoid(-lambda - 2 log scale)) in (0, 1), with scale the standard
deviation of the data, so that dlambda = -2 du / (u (1 - u^2)): the integrand in u is bounded at both ends.

How the points are laid, and where the standard errors come from, is `low_discrepancy`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, low_discrepancy
from jaxdiff._numerics.low_discrepancy import Integrand
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.densities.flow import LogDensity
from jaxdiff.laws.distributions import Gaussian
from jaxdiff.noising.process import inverse_log_snr, log_snr, perturb
from jaxdiff.typing import Array, Key, Schedule, Time

_CURVE_CELLS = 8  # at each level of a curve


class TimeDensity(NamedTuple):
    """Where the evaluations go: a law of u, piecewise constant on equal bins of (0, 1)."""

    scale: Array | float = 1.0
    """Standard deviation of the data: at u^2 = 1/2 the noise is as large as they are."""
    masses: Array | tuple[float, ...] = (1.0,)
    """Positive, one a bin, in proportion to the evaluations there."""


class NoiseLevelCurve(NamedTuple):
    """E|r|^2 at each noise level, and its standard error."""

    log_snr: Array
    """Shape (levels,)."""
    squared_error: Array
    """Shape (batch, levels)."""
    standard_error: Array
    """Shape (batch, levels)."""

    @property
    def local_dimension(self) -> Array:
        """E|r|^2 at the cleanest level, (batch,): in the limit, the dimension of the data around x."""
        return self.squared_error[:, jnp.argmax(self.log_snr)]


def density_formula(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    *,
    num_evaluations: int,
    reference: Distribution | None = None,
    start: Distribution | None = None,
    t_min: Time = 0.0,
    t_max: Time = 1.0,
    extrapolate: bool = True,
    time_density: TimeDensity | None = None,
    rows_per_call: int = 4096,
) -> LogDensity:
    """log p(x) of data x, shape (batch, ...), by eq. (5), from at most num_evaluations of the denoiser a row.

    Unbiased for the density that the denoiser's scores belong to; where they belong to none, at most the
    data's own log-density in the mean over data. The standard error is that of the Monte Carlo part, widened
    by Student's factor for the number of cells it comes from (1.5 at the fewest, 1.05 at 100), so that
    value +- 1.96 standard errors is a 95 % interval.

    reference: any law of vectors of x's d entries, by default N(0, I). The better it fits the data the fewer
        evaluations are needed: `fit_gaussian` of training data or, better, `fit_mixture`.
    t_min, t_max: the range of times that denoise may be asked.
    start: the law at t_max if the model has one, as where it is sampled from; otherwise eq. (4) is taken to
        fall as alpha^2 / sigma^2 beyond t_max, where the log-SNR must be under -4 at the data's scale.
    extrapolate: take eq. (4) to fall as sigma^2 / alpha^2 below t_min, as it does for a density that is
        smooth there. Without, the value is L of eq. (1) at t_min, the expected log-density of noised data:
        all that the denoiser itself tells, and all there is if the data have no density. The integrand then
        grows as 1 / u towards clean data, and the masses of a time density should too.
    time_density: where the evaluations go, by default `TimeDensity()`; see `pilot_time_density`.
    rows_per_call: the most rows of a denoiser call, or num_evaluations / 10 if that is more. Calls follow
        one another, in a derivative too, so that memory is bounded.

    Row i depends on (key, i) and x_i only. Differentiable in x, with an unbiased estimate of the score, and
    in what denoise closes over. Raises TypeError for integer x and ValueError for NaN, num_evaluations
    below 20, times out of the schedule's range, data left at t_max, or a law of another dimension.
    """
    time_density = time_density or TimeDensity()
    x, reference = check_input(schedule, x, reference, t_min, t_max, time_density)
    if start is None:
        check_no_data_left(schedule, t_max, time_density)
    else:
        checks.law("start", start, _flat(x))
    base = reference.log_prob(_flat(x)) if extrapolate else 0.0

    def ends(x: Array, noise: Array) -> Array:
        value = jnp.zeros_like(x[:, 0])
        if not extrapolate:
            value += reference.perturbed(schedule, t_min).log_prob(perturb(schedule, x, noise, t_min))
        if start is not None:
            x_t = perturb(schedule, x, noise, t_max)
            value += start.log_prob(x_t) - reference.perturbed(schedule, t_max).log_prob(x_t)
        return value

    open_ends = (extrapolate, start is None)
    integrand = level_integrand(denoise, schedule, reference, t_min, t_max, open_ends, time_density, ends)
    value, error = low_discrepancy.mean(key, x, integrand, num_evaluations, rows_per_call)
    return LogDensity(base + value, error)


def log_density_increment(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    s: Time,
    t: Time,
    *,
    num_evaluations: int,
    reference: Distribution | None = None,
    time_density: TimeDensity | None = None,
    rows_per_call: int = 4096,
) -> LogDensity:
    """L_t - L_s = E[log p_t(X_t) - log p_s(X_s) | x] for scalar times s < t by eq. (3), shape (batch,).

    Options and errors are those of `density_formula`.
    """
    time_density = time_density or TimeDensity()
    x, reference = check_input(schedule, x, reference, s, t, time_density)

    def ends(x: Array, noise: Array) -> Array:
        x_s, x_t = (perturb(schedule, x, noise, time) for time in (s, t))
        return reference.perturbed(schedule, s).log_prob(x_s) - reference.perturbed(schedule, t).log_prob(x_t)

    integrand = level_integrand(denoise, schedule, reference, s, t, (False, False), time_density, ends)
    value, error = low_discrepancy.mean(key, x, integrand, num_evaluations, rows_per_call)
    return LogDensity(-value, error)


def pilot_time_density(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    *,
    num_evaluations: int,
    num_bins: int = 8,
    scale: Array | float = 1.0,
    reference: Distribution | None = None,
    t_min: Time = 0.0,
    t_max: Time = 1.0,
    rows_per_call: int = 4096,
) -> TimeDensity:
    """The time density of least variance, from a pilot on a few dozen rows x of data, shape (batch, ...).

    The masses are the standard deviations over noise of the integral over each bin of u, plus a tenth of
    their mean, so that no bin starves. num_evaluations, at least 4 num_bins, is for each row; the other
    options and the errors are those of `density_formula`.
    """
    x, reference = check_input(schedule, x, reference, t_min, t_max, TimeDensity(scale))
    check_no_data_left(schedule, t_max, TimeDensity(scale))
    checks.integer("num_bins", num_bins, 1)
    checks.integer("num_evaluations", num_evaluations, 4 * num_bins)

    integrand = level_integrand(denoise, schedule, reference, t_min, t_max, (True, True), TimeDensity(scale))
    pairs = num_evaluations // (4 * num_bins)
    cells = low_discrepancy.cell_means(
        key, x, integrand, strata=num_bins, replicates=2, pairs=pairs, rows_per_call=rows_per_call
    )
    std = jnp.sqrt(jnp.mean((cells[..., 0] - cells[..., 1]) ** 2, axis=0))
    return TimeDensity(scale, std + 0.1 * std.mean() + jnp.finfo(std.dtype).tiny)


def noise_level_curve(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    times: Array,
    *,
    num_evaluations: int,
    rows_per_call: int = 4096,
) -> NoiseLevelCurve:
    """E|r|^2 of rows x, shape (batch, ...), at each of times: minus twice the integrand of eq. (2), plus d.

    One key gives one noise, whatever the denoiser: the difference of two curves, of a network's and of a
    reference's, say, is much more precise than either. num_evaluations, at least 16 len(times), is for each
    row and all times together. Raises as `density_formula`, and ValueError unless sigma > 0 at every time.
    """
    checks.batch("x", x)
    checks.finite("x", x)
    checks.shape("times", times, (None,))
    checks.in_range("times", schedule, times)
    n, times = len(times), jnp.asarray(times, float)
    checks.integer("num_evaluations", num_evaluations, 2 * _CURVE_CELLS * n)
    checks.positive("sigma at each of times", jax.vmap(schedule.sigma)(times))
    x = jnp.asarray(x)

    def squared_error(x: Array, noise: Array, stratum: Array, v: Array) -> Array:
        t = times[stratum]
        x_t = jax.vmap(lambda x, noise, t: perturb(schedule, x, noise, t))(x, noise, t)
        return jnp.sum(_flat(noise - denoise(x_t, t).noise) ** 2, axis=1)

    pairs = num_evaluations // (2 * _CURVE_CELLS * n)
    cells = low_discrepancy.cell_means(
        key, x, squared_error, strata=n, replicates=_CURVE_CELLS, pairs=pairs, rows_per_call=rows_per_call
    )
    error = cells.std(-1, ddof=1) / _CURVE_CELLS**0.5
    return NoiseLevelCurve(
        log_snr=jax.vmap(lambda t: log_snr(schedule, t))(times),
        squared_error=cells.mean(-1),
        standard_error=error * low_discrepancy.student_factor(_CURVE_CELLS - 1),
    )


def level_integrand(
    denoise: Denoiser,
    schedule: Schedule,
    reference: Distribution,
    t_min: Time,
    t_max: Time,
    open_ends: tuple[bool, bool],
    time_density: TimeDensity,
    ends: Callable[[Array, Array], Array] | None = None,
) -> Integrand:
    """A function of v in (0, 1) and noise whose mean is the integral of (3), from t_max to t_min.

    ends, of x and noise in flat rows, is added. Where an end (t_min, t_max) is open the integral goes on to
    clean data or to pure noise, with the value of (4) at the end decaying at the rates that it has in the
    limits.
    """
    log_scale = 2 * jnp.log(jnp.asarray(time_density.scale, float))
    high, low = log_snr(schedule, t_min), log_snr(schedule, t_max)
    masses = jnp.asarray(time_density.masses, float)
    bins = len(masses)
    cumulative = jnp.concatenate([jnp.zeros_like(masses[:1]), jnp.cumsum(masses / masses.sum())])
    edges = jnp.linspace(0, 1, bins + 1)

    def share_below(level: Array) -> Array:
        return jnp.interp(jnp.sqrt(jax.nn.sigmoid(-level - log_scale)), edges, cumulative)

    first = 0.0 if open_ends[0] else share_below(high)
    last = 1.0 if open_ends[1] else share_below(low)

    def integrand(x: Array, noise: Array, stratum: Array, v: Array) -> Array:
        share = first + (last - first) * v
        bin_of = jnp.clip(jnp.searchsorted(cumulative, share, side="right") - 1, 0, bins - 1)
        slope = (last - first) / (bins * jnp.diff(cumulative)[bin_of])  # du / dv
        # At the rounded ends the integrand has its limits already, to the square of this distance.
        eps = jnp.finfo(v.dtype).eps
        u = jnp.clip(jnp.interp(share, cumulative, edges), eps**0.5, 1 - 4 * eps)
        remaining = (1 - u) * (1 + u)
        level = jnp.log(remaining) - 2 * jnp.log(u) - log_scale
        t = jax.vmap(lambda level: inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max))(level)
        decay = jnp.exp(-jnp.maximum(level - high, 0) - jnp.maximum(low - level, 0))
        weight = slope * 2 / (u * remaining) * decay
        difference = _half_difference(denoise, schedule, reference, x, noise, t)
        value = weight * difference
        return value if ends is None else value + ends(_flat(x), _flat(noise))

    return integrand


def _half_difference(
    denoise: Denoiser, schedule: Schedule, reference: Distribution, x: Array, noise: Array, t: Array
) -> Array:
    """Half of eq. (4) for rows x and noise at times t, shape (k,)."""
    x_t = jax.vmap(lambda x, noise, t: perturb(schedule, x, noise, t))(x, noise, t)
    own = _flat(denoise(x_t, t).noise)
    other = reference.denoiser(schedule)(_flat(x_t), t).noise
    return 0.5 * jnp.sum((own - other) * (2 * _flat(noise) - own - other), axis=1)


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def check_input(
    schedule: Schedule,
    x: Array,
    reference: Distribution | None,
    t_min: Time,
    t_max: Time,
    time_density: TimeDensity,
) -> tuple[Array, Distribution]:
    """x in at least single precision, and the reference."""
    checks.batch("x", x)
    checks.finite("x", x)
    checks.shape("t_min", t_min, ())
    checks.shape("t_max", t_max, ())
    checks.ordered("t_min", t_min, "t_max", t_max)
    checks.in_range("t_min", schedule, t_min)
    checks.in_range("t_max", schedule, t_max)
    checks.positive("scale", time_density.scale)
    checks.shape("masses", time_density.masses, (None,))
    checks.positive("masses", time_density.masses)
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if reference is None:
        return x, Gaussian(jnp.zeros_like(x[0]).reshape(-1), jnp.ones((), x.dtype))
    checks.law("reference", reference.perturbed(schedule, t_max), _flat(x))
    return x, reference


def check_no_data_left(schedule: Schedule, t_max: Time, time_density: TimeDensity) -> None:
    """Raise ValueError where noise does not dominate at t_max, from where the integrand is extrapolated."""
    level = checks.known(log_snr(schedule, t_max) + 2 * jnp.log(jnp.asarray(time_density.scale, float)))
    if level is not None and level > -4:
        raise ValueError(
            f"the log-SNR at t_max = {t_max} is {level:.3g} at the data's scale, wanted less than -4: give a "
            "larger t_max, or the law at t_max as start."
        )
