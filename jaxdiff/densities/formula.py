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
With the isotropic Gaussian of that scale for a reference nothing depends on the unit of the data.

How the points are laid, and where the standard errors come from, is `jaxdiff._numerics.low_discrepancy`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, low_discrepancy
from jaxdiff._numerics.constants import folded
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.denoising.ends import check_clean, check_no_data_left, is_clean, no_data_left
from jaxdiff.densities.inputs import LogDensity, check_data
from jaxdiff.densities.levels import (
    KnownTimeDensity,
    TimeDensity,
    check_time_density,
    default_reference,
    level_integrand,
)
from jaxdiff.noising.process import log_snr, marginals, perturb
from jaxdiff.typing import Array, Key, Time

_CURVE_CELLS = 8  # at each level of a curve


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
    x: Array,
    *,
    num_evaluations: int,
    reference: Distribution | None = None,
    start: Distribution | None = None,
    extrapolate: bool = True,
    time_density: TimeDensity | None = None,
    rows_per_call: int = 4096,
) -> LogDensity:
    """log p(x) of data x, shape (batch, *denoise.shape), by eq. (5), from at most num_evaluations a row.

    Unbiased for the density that the denoiser's scores belong to; where they belong to none, at most the
    data's own log-density in the mean over data. The standard error is that of the Monte Carlo part, widened
    by Student's factor for the number of cells it comes from (1.5 at the fewest, 1.05 at 100), so that
    value +- 1.96 standard errors is a 95 % interval. In single precision or better, whatever x is in.

    The range of times [t_min, t_max] is the denoiser's working range; for a narrower one give
    ``dataclasses.replace(denoise, t_min=...)``.

    reference: a law of points like x, by default N(0, scale^2 I) of the denoiser's scale. The better it fits
        the data the fewer evaluations are needed: `fit_gaussian` of training data or, better, `fit_mixture`.
    start: the law at t_max if the model has one, as where it is sampled from; otherwise eq. (4) is taken to
        fall as alpha^2 / sigma^2 beyond t_max, where the log-SNR must be under -4 at the data's scale.
    extrapolate: take eq. (4) to fall as sigma^2 / alpha^2 below t_min, as it does for a density that is
        smooth there. Without, the value is L of eq. (1) at t_min, the expected log-density of noised data:
        all that the denoiser itself tells, and all there is if the data have no density. The integrand then
        grows as 1 / u towards clean data, and the masses of a time density should too.
    time_density: where the evaluations go, by default `TimeDensity()`; see `pilot_time_density`.
    rows_per_call: the most rows of a denoiser call, or num_evaluations / 10 if that is more. Calls follow
        one another, in a derivative too, so that memory is bounded.

    Row i depends on (key, i), x_i and the condition of row i only. Differentiable in x, with an unbiased
    estimate of the score, and in the parameters of the denoiser, of its schedule too if alpha > 0 at t_max.
    Raises TypeError for integer x and ValueError for NaN, num_evaluations below 20, data left at t_max or
    hidden at t_min, or a law of points of another shape; where data are left and the denoiser is traced the
    answer is NaN.
    """
    x, known_density = _check(key, denoise, x, time_density)
    if start is None:
        check_no_data_left(denoise, known_density.scale)
    else:
        checks.law("start", start, x)
    if extrapolate:
        check_clean(denoise, known_density.scale)
    _check_reference(denoise, reference, x, 0 if extrapolate else 1)
    return _formula(
        key,
        denoise,
        x,
        reference,
        start,
        known_density,
        extrapolate=bool(extrapolate),
        num_evaluations=num_evaluations,
        rows_per_call=rows_per_call,
    )


@functools.partial(jax.jit, static_argnames=("extrapolate", "num_evaluations", "rows_per_call"))
def _formula(
    key: Key,
    denoise: Denoiser,
    x: Array,
    reference: Distribution | None,
    start: Distribution | None,
    time_density: KnownTimeDensity,
    *,
    extrapolate: bool,
    num_evaluations: int,
    rows_per_call: int,
) -> LogDensity:
    schedule, (t_min, t_max) = denoise.schedule, denoise.working_range
    reference = default_reference(denoise, x) if reference is None else reference
    levels = level_integrand(
        denoise, reference.denoiser(schedule), x, t_min, t_max, (extrapolate, start is None), time_density
    )

    def integrand(rows: Array, noise: Array, stratum: Array, v: Array) -> Array:
        value = levels(rows, noise, stratum, v)
        if not extrapolate:
            x_t = perturb(schedule, x[rows], noise, t_min)
            value += reference.perturbed(schedule, t_min).log_prob(x_t)
        if start is not None:
            x_t = perturb(schedule, x[rows], noise, t_max)
            value += start.log_prob(x_t) - reference.perturbed(schedule, t_max).log_prob(x_t)
        return value

    value, error = low_discrepancy.mean(key, x, integrand, num_evaluations, rows_per_call)
    if extrapolate:
        value += reference.log_prob(x)
        value = jnp.where(is_clean(denoise, time_density.scale), value, jnp.nan)
    if start is None:
        value = jnp.where(no_data_left(denoise, time_density.scale, t_max), value, jnp.nan)
    return LogDensity(value, error)


def log_density_increment(
    key: Key,
    denoise: Denoiser,
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

    Options and errors are those of `density_formula`; s and t are times that the denoiser knows.
    """
    x, known_density = _check(key, denoise, x, time_density)
    for name, time in (("s", s), ("t", t)):
        checks.shape(name, time, ())
        denoise.check_times(name, time)
    checks.ordered("s", s, "t", t)
    _check_reference(denoise, reference, x, 1)
    s, t = (jnp.asarray(time, float) for time in (s, t))
    return _increment(
        key,
        denoise,
        x,
        s,
        t,
        reference,
        known_density,
        num_evaluations=num_evaluations,
        rows_per_call=rows_per_call,
    )


@functools.partial(jax.jit, static_argnames=("num_evaluations", "rows_per_call"))
def _increment(
    key: Key,
    denoise: Denoiser,
    x: Array,
    s: Array,
    t: Array,
    reference: Distribution | None,
    time_density: KnownTimeDensity,
    *,
    num_evaluations: int,
    rows_per_call: int,
) -> LogDensity:
    schedule = denoise.schedule
    reference = default_reference(denoise, x) if reference is None else reference
    s, t = (jnp.where(s < t, time, jnp.nan) for time in (s, t))
    levels = level_integrand(denoise, reference.denoiser(schedule), x, s, t, (False, False), time_density)

    def integrand(rows: Array, noise: Array, stratum: Array, v: Array) -> Array:
        x_s, x_t = (perturb(schedule, x[rows], noise, time) for time in (s, t))
        ends = reference.perturbed(schedule, s).log_prob(x_s) - reference.perturbed(schedule, t).log_prob(x_t)
        return levels(rows, noise, stratum, v) + ends

    value, error = low_discrepancy.mean(key, x, integrand, num_evaluations, rows_per_call)
    return LogDensity(-value, error)


def pilot_time_density(
    key: Key,
    denoise: Denoiser,
    x: Array,
    *,
    num_evaluations: int,
    num_bins: int = 8,
    scale: Array | float | None = None,
    reference: Distribution | None = None,
    rows_per_call: int = 4096,
) -> TimeDensity:
    """The time density of least variance, from a pilot on a few dozen rows x of data, shape (batch, ...).

    The masses are the standard deviations over noise of the integral over each bin of u, plus a tenth of
    their mean, so that no bin starves. num_evaluations, at least 4 num_bins, is for each row; scale is that
    of `TimeDensity`; the other options and the errors are those of `density_formula`.
    """
    x, known_density = _check(key, denoise, x, TimeDensity(scale))
    check_no_data_left(denoise, known_density.scale)
    checks.integer("num_bins", num_bins, 1)
    checks.integer("num_evaluations", num_evaluations, 4 * num_bins)
    _check_reference(denoise, reference, x, 1)
    pairs = num_evaluations // (4 * num_bins)
    masses = _pilot(
        key,
        denoise,
        x,
        reference,
        known_density,
        num_bins=num_bins,
        pairs=pairs,
        rows_per_call=rows_per_call,
    )
    return TimeDensity(scale, masses)


@functools.partial(jax.jit, static_argnames=("num_bins", "pairs", "rows_per_call"))
def _pilot(
    key: Key,
    denoise: Denoiser,
    x: Array,
    reference: Distribution | None,
    time_density: KnownTimeDensity,
    *,
    num_bins: int,
    pairs: int,
    rows_per_call: int,
) -> Array:
    t_min, t_max = denoise.working_range
    reference = default_reference(denoise, x) if reference is None else reference
    integrand = level_integrand(
        denoise, reference.denoiser(denoise.schedule), x, t_min, t_max, (True, True), time_density
    )
    cells = low_discrepancy.cell_means(
        key, x, integrand, strata=num_bins, replicates=2, pairs=pairs, rows_per_call=rows_per_call
    )
    std = jnp.sqrt(jnp.mean((cells[..., 0] - cells[..., 1]) ** 2, axis=0))
    masses = std + 0.1 * std.mean() + jnp.finfo(std.dtype).tiny
    return jnp.where(no_data_left(denoise, time_density.scale, t_max), masses, jnp.nan)


def noise_level_curve(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array,
    *,
    num_evaluations: int,
    rows_per_call: int = 4096,
) -> NoiseLevelCurve:
    """E|r|^2 of rows x, shape (batch, ...), at each of times: minus twice the integrand of eq. (2), plus d.

    One key gives one noise, whatever the denoiser: the difference of two curves, of a network's and of a
    reference's, say, is much more precise than either. num_evaluations, at least 16 len(times), is for each
    row and all times together. Raises as `density_formula`, and ValueError unless the denoiser knows the
    times and sigma > 0 at every one.
    """
    x = check_data(key, denoise, x)
    checks.shape("times", times, (None,))
    denoise.check_times("times", times)
    checks.integer("num_evaluations", num_evaluations, 2 * _CURVE_CELLS * len(times))
    times = jnp.asarray(times, float)
    checks.positive("sigma at each of times", marginals(denoise.schedule, times)[1])
    pairs = num_evaluations // (2 * _CURVE_CELLS * len(times))
    return _curve(key, denoise, x, times, pairs=pairs, rows_per_call=rows_per_call)


@functools.partial(jax.jit, static_argnames=("pairs", "rows_per_call"))
def _curve(
    key: Key, denoise: Denoiser, x: Array, times: Array, *, pairs: int, rows_per_call: int
) -> NoiseLevelCurve:
    schedule = denoise.schedule
    times = jnp.where(marginals(schedule, times)[1] > 0, times, jnp.nan)

    def squared_error(rows: Array, noise: Array, stratum: Array, v: Array) -> Array:
        t = times[stratum]
        x_t = jax.vmap(lambda x, noise, t: perturb(schedule, x, noise, t))(x[rows], noise, t)
        return _squares(noise - denoise.at_rows(rows)(x_t, t).noise)

    cells = low_discrepancy.cell_means(
        key,
        x,
        squared_error,
        strata=len(times),
        replicates=_CURVE_CELLS,
        pairs=pairs,
        rows_per_call=rows_per_call,
    )
    error = cells.std(-1, ddof=1) / _CURVE_CELLS**0.5
    return NoiseLevelCurve(
        log_snr=jax.vmap(lambda t: log_snr(schedule, t))(times),
        squared_error=cells.mean(-1),
        standard_error=error * low_discrepancy.student_factor(_CURVE_CELLS - 1),
    )


def _squares(x: Array) -> Array:
    return jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1)


def _check(
    key: Key, denoise: Denoiser, x: Array, time_density: TimeDensity | None
) -> tuple[Array, KnownTimeDensity]:
    """x in at least single precision, and the time density at the denoiser's scale if it says none."""
    return check_data(key, denoise, x), check_time_density(denoise, time_density)


def _check_reference(denoise: Denoiser, reference: Distribution | None, x: Array, end: int) -> None:
    """Raise ValueError unless the reference is a law of points like x, with a density: noised, if end = 1."""
    if reference is None:
        return
    if end:
        reference = reference.perturbed(denoise.schedule, denoise.working_range[end])
    checks.law("reference", reference, x)
    _density_of(reference, x[:1])


@folded
def _density_of(law: Distribution, x: Array) -> Array:
    """At few rows: a law without a density says so where its values are known, not inside of ``jit``."""
    return law.log_prob(x)
