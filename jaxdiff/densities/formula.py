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

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, low_discrepancy
from jaxdiff._numerics.constants import folded
from jaxdiff._numerics.rows import squares
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.denoising.ends import check_clean, check_no_data_left, is_clean, no_data_left
from jaxdiff.densities.evaluations import Evaluations, KnownEvaluations, check_evaluations
from jaxdiff.densities.inputs import LogDensity, check_data
from jaxdiff.densities.levels import KnownTimeDensity, TimeDensity, level_integrand
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
    evaluations: Evaluations = Evaluations(),  # noqa: B008 - frozen
    *,
    start: Distribution | None = None,
    extrapolate: bool = True,
) -> LogDensity:
    """log p(x) of data x, shape (batch, *denoise.shape), by eq. (5), from evaluations a row.

    Unbiased for the density that the denoiser's scores belong to; where they belong to none, at most the
    data's own log-density in the mean over data. The standard error is that of the Monte Carlo part, widened
    by Student's factor for the number of cells it comes from (1.31 at the fewest), so that
    value +- 1.96 standard errors is a 95 % interval. In single precision or better, whatever x is in.

    The range of times [t_min, t_max] is the denoiser's working range; for a narrower one give
    ``dataclasses.replace(denoise, t_min=...)``.

    start: the law at t_max if the model has one, as where it is sampled from; otherwise eq. (4) is taken to
        fall as alpha^2 / sigma^2 beyond t_max, where the log-SNR must be under -4 at the data's scale.
    extrapolate: take eq. (4) to fall as sigma^2 / alpha^2 below t_min, as it does for a density that is
        smooth there. Without, the value is L of eq. (1) at t_min, the expected log-density of noised data:
        all that the denoiser itself tells, and all there is if the data have no density. The integrand then
        grows as 1 / u towards clean data, and the masses of a time density should too.

    Row i depends on (key, i), x_i and the condition of row i only. Differentiable in x, with an unbiased
    estimate of the score, and in the parameters of the denoiser, of its schedule too if alpha > 0 at t_max.
    Raises TypeError for integer x and ValueError for NaN, fewer than 20 evaluations, data left at t_max or
    hidden at t_min, or a law of points of another shape; where data are left and the denoiser is traced the
    answer is NaN.

    >>> law = jd.Gaussian([0.0, 0.0], 1.0)
    >>> exact = jd.Evaluations(64, reference=law)  # which leaves nothing to chance
    >>> answer = jd.density_formula(jax.random.key(0), law.denoiser(jd.Karras()), jnp.zeros((1, 2)), exact)
    >>> round(float(answer.value[0]), 3)  # -log(2 pi)
    -1.838
    """
    x = check_data(key, denoise, x)
    known = check_evaluations(denoise, evaluations)
    scale = known.scale
    if start is None:
        check_no_data_left(denoise, scale)
    else:
        checks.law("start", start, x)
    if extrapolate:
        check_clean(denoise, scale)
    _check_reference(denoise, known.reference, x, 0 if extrapolate else 1)
    return _formula(key, denoise, x, known, start, extrapolate=bool(extrapolate))


@functools.partial(jax.jit, static_argnames="extrapolate")
def _formula(
    key: Key,
    denoise: Denoiser,
    x: Array,
    evaluations: KnownEvaluations,
    start: Distribution | None,
    *,
    extrapolate: bool,
) -> LogDensity:
    schedule, (t_min, t_max) = denoise.schedule, denoise.working_range
    reference = evaluations.reference_for(denoise, x)
    scale, open_ends = evaluations.scale, (extrapolate, start is None)
    levels = level_integrand(
        denoise, reference.denoiser(schedule), x, t_min, t_max, open_ends, evaluations.time_density
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

    value, error = low_discrepancy.mean(key, x, integrand, evaluations.number, evaluations.bytes_per_call)
    if extrapolate:
        value += reference.log_prob(x)
        value = jnp.where(is_clean(denoise, scale), value, jnp.nan)
    if start is None:
        value = jnp.where(no_data_left(denoise, scale, t_max), value, jnp.nan)
    return LogDensity(value, error)


def log_density_increment(
    key: Key,
    denoise: Denoiser,
    x: Array,
    s: Time,
    t: Time,
    evaluations: Evaluations = Evaluations(),  # noqa: B008 - frozen
) -> LogDensity:
    """L_t - L_s = E[log p_t(X_t) - log p_s(X_s) | x] for scalar times s < t by eq. (3), shape (batch,).

    Errors are those of `density_formula`; s and t are times that the denoiser knows.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> answer = jd.log_density_increment(jax.random.key(0), law, jnp.zeros((1, 1)), 0.01, 2.0)
    >>> exact = -math.log(5) / 2 - 4 / 10  # of N(0, 5) at draws of N(0, 4), less N(0, 1) at 0
    >>> bool(abs(answer.value[0] - exact) < 4 * answer.standard_error[0] + 1e-3)
    True
    """
    x = check_data(key, denoise, x)
    known = check_evaluations(denoise, evaluations)
    for name, time in (("s", s), ("t", t)):
        checks.shape(name, time, ())
        denoise.check_times(name, time)
    checks.ordered("s", s, "t", t)
    _check_reference(denoise, known.reference, x, 1)
    s, t = (jnp.asarray(time, float) for time in (s, t))
    return _increment(key, denoise, x, s, t, known)


@jax.jit
def _increment(
    key: Key, denoise: Denoiser, x: Array, s: Array, t: Array, evaluations: KnownEvaluations
) -> LogDensity:
    schedule = denoise.schedule
    reference = evaluations.reference_for(denoise, x)
    s, t = (jnp.where(s < t, time, jnp.nan) for time in (s, t))
    levels = level_integrand(
        denoise, reference.denoiser(schedule), x, s, t, (False, False), evaluations.time_density
    )

    def integrand(rows: Array, noise: Array, stratum: Array, v: Array) -> Array:
        x_s, x_t = (perturb(schedule, x[rows], noise, time) for time in (s, t))
        ends = reference.perturbed(schedule, s).log_prob(x_s) - reference.perturbed(schedule, t).log_prob(x_t)
        return levels(rows, noise, stratum, v) + ends

    value, error = low_discrepancy.mean(key, x, integrand, evaluations.number, evaluations.bytes_per_call)
    return LogDensity(-value, error)


def pilot_time_density(
    key: Key,
    denoise: Denoiser,
    x: Array,
    evaluations: Evaluations = Evaluations(),  # noqa: B008 - frozen
    *,
    num_bins: int = 8,
) -> TimeDensity:
    """The time density of least variance, from a pilot on a few dozen rows x of data, shape (batch, ...).

    The masses are the standard deviations over noise of the integral over each bin of u, plus a tenth of
    their mean, so that no bin starves. evaluations, at least 4 num_bins, are for each row; of their time
    density only the scale matters. Raises as `density_formula`.

    >>> denoise, x = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.linspace(-2, 2, 16)[:, None]
    >>> density = jd.pilot_time_density(jax.random.key(0), denoise, x)
    >>> evaluations = jd.Evaluations(256, time_density=density)  # for `log_density` of all the others
    >>> bool(density.masses.min() > density.masses.mean() / 12)  # no bin starves
    True
    """
    x = check_data(key, denoise, x)
    checks.integer("num_bins", num_bins, 1)
    known = check_evaluations(denoise, evaluations, 4 * num_bins)
    scale = known.scale
    check_no_data_left(denoise, scale)
    _check_reference(denoise, known.reference, x, 1)
    even = dataclasses.replace(known, time_density=KnownTimeDensity(scale))
    return TimeDensity(scale, _pilot(key, denoise, x, even, num_bins=num_bins))


@functools.partial(jax.jit, static_argnames="num_bins")
def _pilot(key: Key, denoise: Denoiser, x: Array, evaluations: KnownEvaluations, *, num_bins: int) -> Array:
    t_min, t_max = denoise.working_range
    reference = evaluations.reference_for(denoise, x).denoiser(denoise.schedule)
    integrand = level_integrand(denoise, reference, x, t_min, t_max, (True, True), evaluations.time_density)
    layout = low_discrepancy.Layout(num_bins, 2, evaluations.number // (4 * num_bins))
    cells = low_discrepancy.cell_means(key, x, integrand, layout, evaluations.bytes_per_call)
    std = jnp.sqrt(jnp.mean((cells[..., 0] - cells[..., 1]) ** 2, axis=0))
    masses = std + 0.1 * std.mean() + jnp.finfo(std.dtype).tiny
    return jnp.where(no_data_left(denoise, evaluations.scale, t_max), masses, jnp.nan)


def noise_level_curve(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array,
    evaluations: Evaluations = Evaluations(),  # noqa: B008 - frozen
) -> NoiseLevelCurve:
    """E|r|^2 of rows x, shape (batch, ...), at each of times: minus twice the integrand of eq. (2), plus d.

    One key gives one noise, whatever the denoiser: the difference of two curves, of a network's and of a
    reference's, say, is much more precise than either. evaluations, at least 16 len(times), are for each row
    and all times together. Raises as `density_formula`, and ValueError unless the denoiser knows the times
    and sigma > 0 at every one.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> x, times, evaluations = jnp.zeros((1, 1)), jnp.array([1.0]), jd.Evaluations(512)
    >>> curve = jd.noise_level_curve(jax.random.key(0), law, x, times, evaluations)
    >>> error = curve.squared_error[0, 0] - 1 / (1 + 1) ** 2  # r = noise / (1 + t^2)
    >>> bool(abs(error) < 4 * curve.standard_error[0, 0] + 1e-3)
    True
    """
    x = check_data(key, denoise, x)
    checks.shape("times", times, (None,))
    denoise.check_times("times", times)
    known = check_evaluations(
        denoise, evaluations, 2 * _CURVE_CELLS * len(times), without=("reference", "time_density")
    )
    times = jnp.asarray(times, float)
    checks.positive("sigma at each of times", marginals(denoise.schedule, times)[1])
    return _curve(key, denoise, x, times, known)


@jax.jit
def _curve(
    key: Key, denoise: Denoiser, x: Array, times: Array, evaluations: KnownEvaluations
) -> NoiseLevelCurve:
    schedule = denoise.schedule
    times = jnp.where(marginals(schedule, times)[1] > 0, times, jnp.nan)

    def squared_error(rows: Array, noise: Array, stratum: Array, v: Array) -> Array:
        t = times[stratum]
        x_t = jax.vmap(lambda x, noise, t: perturb(schedule, x, noise, t))(x[rows], noise, t)
        return squares(noise - denoise.at_rows(rows)(x_t, t).noise)

    pairs = evaluations.number // (2 * _CURVE_CELLS * len(times))
    layout = low_discrepancy.Layout(len(times), _CURVE_CELLS, pairs)
    cells = low_discrepancy.cell_means(key, x, squared_error, layout, evaluations.bytes_per_call)
    error = cells.std(-1, ddof=1) / _CURVE_CELLS**0.5
    return NoiseLevelCurve(
        log_snr=jax.vmap(lambda t: log_snr(schedule, t))(times),
        squared_error=cells.mean(-1),
        standard_error=error * low_discrepancy.student_factor(_CURVE_CELLS - 1),
    )


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
