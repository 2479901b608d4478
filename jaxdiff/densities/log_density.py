"""log p(x) by the method that is best for its size.

In d dimensions the probability flow with the exact trace costs 2 d + 5 evaluations of the denoiser an
interval, five calls and d tangents of two of them, and errs as the inverse fourth power of its intervals; the
density formula errs as the inverse root of its evaluations, in every dimension. Root mean square errors in
nats at 1,024 evaluations a row, of mixtures of three Gaussians whose means are a unit and four units apart,
exact score, 200 points, the worse of Karras and VP:

    | d                | 2            | 8            | 16           | 24           | 32           |
    |------------------|--------------|--------------|--------------|--------------|--------------|
    | one flow         | .0001, .0004 | .0002, .0014 | .0020, .016  | .0093, .020  | .068, .12    |
    | two, for error   | .0001, .0004 | .0002, .0078 | .013, .062   | .074, .11    | .18, .40     |
    | density formula  | .028, .092   | .047, .11    | .089, .18    | .10, .20     | .12, .18     |

(MEASURED, jax 0.10.2, 2026-11-30.)

Data on a subspace or on points have no density, and both methods would answer a number. What tells is the
noise that the denoiser explains: with r = eps - N(X_t, t) and X_t = alpha x + sigma eps, the mean over eps of

    m(t) = |eps|^2 - |r|^2,    over x, too, sum_i sigma^2 / (v_i + sigma^2) for a Gaussian               (1)

grows fourfold from a noise to twice that noise where all variances v_i are large beside it, and stays, at the
number of directions that data do not have, where they are zero: that number is about (4 m(t) - m(t')) / 3.
"""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks, shards
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.ends import check_clean, check_no_data_left
from jaxdiff.densities.evaluations import Evaluations, check_evaluations
from jaxdiff.densities.flow import NUM_STEPS, default_times, probability_flow
from jaxdiff.densities.formula import density_formula
from jaxdiff.densities.inputs import LogDensity, check_data
from jaxdiff.densities.levels import TimeDensity
from jaxdiff.densities.tolerance import formula_to_tolerance, least_evaluations
from jaxdiff.noising.process import inverse_log_snr, log_snr, perturb
from jaxdiff.typing import Array, Key

_MOST_DIMENSIONS = 16
"""Of the probability flow: see the table above."""
_LEAST_STEPS = 16
"""Of the probability flow, on the finer of its two grids."""
_NUM_EVALUATIONS = 1024
"""Of the density formula."""
_MOST_EVALUATIONS = 16384
"""Of the same to a tolerance, unless another number is said."""
_ROWS = 64
"""At most so many rows are asked for missing directions."""


def log_density(
    key: Key,
    denoise: Denoiser,
    x: Array,
    *,
    num_evaluations: int | None = None,
    tolerance: Array | float | None = None,
) -> LogDensity:
    """log p(x) in nats of data x, shape (batch, *denoise.shape), with its standard error; each (batch,).

    For d <= 16 entries by `probability_flow` with the exact trace, on its default grids of n and n / 2
    intervals: the value is that of the finer, and its error how far the two are apart, which is what the
    coarser errs by. That takes (2 d + 5) (3 n / 2 + 2) evaluations of the denoiser a row; n is 32 if nothing
    is said. For more entries, or too few evaluations for n = 16, by `density_formula`, with the Gaussian
    reference of the denoiser's scale: value +- 1.96 standard errors is a 95 % interval. Which is better
    where, measured, is in `jaxdiff.densities.log_density`.

    num_evaluations: at most so many of the denoiser for each row, at least 20; by default 50 (2 d + 5) for
        d <= 16 and 1,024 beyond.
    tolerance: the standard error that is wanted of every row, in nats, for any d by the formula: each row
        gets what a pilot of its own says that it takes, up to num_evaluations, by default 16,384, and at
        least 320 + 2 min(d, 128). The estimate is unbiased (`jaxdiff.densities.tolerance`) and its error is
        told as it is found, so it may be above what was wanted. No reverse-mode derivative.

    Neither error is told of what the denoiser itself errs by, nor that of the flow of the noise that is in
    x at its first time, about sigma^2 over the least variance of the data in nats. For another reference,
    start or range call the method itself; raises as it does.

    Rows of x around which directions are missing by eq. (1) of `jaxdiff.densities.log_density`, .4 of one or
    more, and a quarter of m or more, seem to have no density, or one with detail that the first noise hides.
    Where of 64 rows, evenly among them, more than a tenth are such that warns, and the answer is the expected
    log-density of data noised at that time, which they have; where it is traced, NaN.

    >>> denoise = jd.Gaussian([0.0, 0.0], 1.0).denoiser(jd.Karras())
    >>> answer = jd.log_density(jax.random.key(0), denoise, jnp.zeros((1, 2)))
    >>> round(float(answer.value[0]), 3)  # -log(2 pi)
    -1.838
    """
    x = check_data(key, denoise, x)
    check_clean(denoise, denoise.scale)
    d = x.size // len(x)
    if tolerance is not None:
        checks.positive_number("tolerance", tolerance)
    least = 20 if tolerance is None else least_evaluations(d)
    if num_evaluations is not None:
        checks.integer("num_evaluations", num_evaluations, least)
    num_steps = NUM_STEPS
    if num_evaluations is not None:
        intervals = num_evaluations // (2 * d + 5)  # of both grids, with one before each, of no length
        num_steps = (intervals - 2) // 3 * 2
    evaluations = Evaluations(num_evaluations or _NUM_EVALUATIONS)
    missing = _missing_directions(key, denoise, x)
    known = checks.known(missing)
    if known is not None and not _has_density(known):
        found = known[known > 0]
        warnings.warn(
            f"the data seem to have no density: around {len(found)} of {len(known)} rows {found.mean():.3g} "
            f"of {d} directions are missing at t_min = {float(denoise.working_range[0]):g}. The answer is of "
            "data noised there: density_formula(..., extrapolate=False). For a density of the data "
            "dequantize them, or take a denoiser that knows cleaner times.",
            stacklevel=2,
        )
        # Towards the first time the integrand grows as 1 / u, and so go the evaluations.
        masses = 1 / (jnp.arange(256) + 0.5)
        evaluations = dataclasses.replace(evaluations, time_density=TimeDensity(masses=masses))
        return density_formula(key, denoise, x, evaluations, extrapolate=False)
    if tolerance is not None:
        check_no_data_left(denoise, denoise.scale)
        most = check_evaluations(denoise, Evaluations(num_evaluations or _MOST_EVALUATIONS))
        value, error = formula_to_tolerance(key, denoise, x, tolerance, most)[0]
    elif d > _MOST_DIMENSIONS or num_steps < _LEAST_STEPS:
        value, error = density_formula(key, denoise, x, evaluations)
    else:
        fine, coarse = (
            probability_flow(key, denoise, x, default_times(denoise, steps)).value
            for steps in (num_steps, num_steps // 2)
        )
        value, error = fine, jnp.abs(fine - coarse)
    return LogDensity(value if known is not None else jnp.where(_has_density(missing), value, jnp.nan), error)


@jax.jit
def _missing_directions(key: Key, denoise: Denoiser, x: Array) -> Array:
    """How many directions are missing around each of some rows, by eq. (1); 0 where none seem to be."""
    t_min, t_max = (jnp.asarray(t, float) for t in denoise.working_range)
    level = log_snr(denoise.schedule, t_min) - 2 * jnp.log(2.0)
    later = inverse_log_snr(denoise.schedule, level, t_min=t_min, t_max=t_max)
    n = min(len(x), max(1, _ROWS // shards.count()))
    each, apart = max(16, 256 // (n * shards.count())), len(x) // n
    asked = denoise.at_rows(jnp.repeat(apart * jnp.arange(n), 2 * each))
    # Evenly among them and by their places: each device then has its share of them where rows are spread.
    data = x[: n * apart].reshape(n, apart, *x.shape[1:])[:, :1]
    data = jnp.broadcast_to(data, (n, 2 * each, *x.shape[1:])).reshape(-1, *x.shape[1:])
    # With both signs of each noise what is odd in it cancels, most of the variance.
    noise = noise_like(key, data[::2]).reshape(n, each, *x.shape[1:])
    noise = jnp.concatenate([noise, -noise], axis=1).reshape(data.shape)

    def explained(t: Array) -> Array:
        found = asked(jax.vmap(perturb, (None, 0, 0, None))(denoise.schedule, data, noise, t), t).noise
        return (found * (2 * noise - found)).reshape(n, -1).sum(1) / (2 * each)

    first, second = jax.lax.map(explained, jnp.stack([t_min, later]))
    missing = (4 * first - second) / 3
    return jnp.where(missing > jnp.maximum(0.4, first / 4), missing, 0.0)


def _has_density(missing: Array | np.ndarray) -> Array | np.bool_:
    return shards.mean((missing > 0).mean()) <= 0.1
