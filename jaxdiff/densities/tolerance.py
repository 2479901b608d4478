"""The density formula to a wanted standard error, row by row.

The integrand g of `jaxdiff.densities.levels` is taken over K strata of u, in *units*: two levels, as far
from the one end of a stratum as from the other, with two coupled noises, each with both signs, so four
evaluations.
What a row gets is decided by evaluations of its own that are not in its estimate:

1. **A control variate.** Where p around x is like a Gaussian of covariance S, N is linear in the noise at
   every level, with gain A(u) = u^2 (u^2 + (1 - u^2) S)^-1 (S in the unit of scale^2). So

       q = 2 [f(eps; A) - f(eps; A_ref)] / (u (1 - u^2)),     f(eps; A) = eps' (A - A^2 / 2) eps - its mean,

   has mean zero, whatever S, and goes as g. A(.4) is found from orthogonal noises, one a dimension but at
   most 128: it is compressed onto them, and the mean of its spectrum stands for the rest.
2. **A pilot**, two units a stratum: the coefficient c_k with which q is taken off; the curvature of
   the mean of g over u, from a stratum and its neighbours, with which (u - middle)^2 is, less its own mean;
   and the standard deviation s_k of what is left of a unit, smoothed over neighbours.
3. **Numbers** n_k in proportion to s_k (Neyman), so many that sum_k s_k^2 / (K^2 n_k) is what is wanted; at
   least three, and no more than the row may have. Where the numbers are large two units said little of s_k:
   a second pilot, for 2.5 times the error, says more.

Given all this the estimate is a mean over strata of independent units in fixed numbers: so it is unbiased. A
rule that stops once the error of the estimate itself is small is not: it stops where the terms seen so far
happen to be alike, and of skewed terms these are those without the tail (Stein 1945 needs normal terms). The
price is that the pilot's evaluations are not in the estimate, and that its error is known only at the end:
where the pilot has missed a tail it is more than was wanted, and says so.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import low_discrepancy
from jaxdiff._numerics.chunks import map_within, rows_within
from jaxdiff._numerics.low_discrepancy import Integrand, coupled, orthogonal_noise
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.ends import is_clean, no_data_left
from jaxdiff.densities.evaluations import KnownEvaluations
from jaxdiff.densities.inputs import LogDensity
from jaxdiff.densities.levels import level_integrand
from jaxdiff.noising.process import inverse_log_snr, perturb
from jaxdiff.typing import Array, Key

STRATA = 16
UNIT = 4
_PILOT_UNITS = 2
_LEAST_UNITS = 3
_MOST_DIRECTIONS = 128
_LEARNED_AT = 0.4
"""u of the level at which the gain is learned: there a variance of a twentieth to four times that of the data
has a gain of .05 to .8."""
_COARSE = 2.5
"""The second pilot is planned for so many times the error."""
_MARGIN = 1.15
"""The error is planned so much below what is wanted, for Student's factor and the noise of the pilot."""


class _Control(NamedTuple):
    """q for each row, in the axes of its gain."""

    directions: Array
    """(batch, d, m)."""
    variances: Array
    """S along them, (batch, m)."""
    rest: Array
    """S across them, (batch,)."""

    def of(self, rows: Array, noise: Array, u: Array) -> Array:
        """q of noise (k, d) at u, (k,), for rows (k,)."""
        along = jnp.einsum("kd,kdm->km", noise, self.directions[rows])
        square, d = jnp.sum(noise**2, axis=1), noise.shape[1]
        across = square - jnp.sum(along**2, axis=1) - (d - along.shape[1])

        def weight(variance: Array | float) -> Array:
            level = u**2 if jnp.ndim(variance) < 2 else u[:, None] ** 2
            gain = level / (level + (1 - level) * variance)
            return gain - gain**2 / 2

        own = jnp.sum(weight(self.variances[rows]) * (along**2 - 1), axis=1)
        own += weight(self.rest[rows]) * across
        return 2 * (own - weight(1.0) * (square - d)) / (u * (1 - u**2))


def least_evaluations(d: int) -> int:
    """What a row in d dimensions takes at least."""
    return 2 * min(d, _MOST_DIRECTIONS) + UNIT * STRATA * (_PILOT_UNITS + _LEAST_UNITS)


@jax.jit
def formula_to_tolerance(
    key: Key, denoise: Denoiser, x: Array, tolerance: Array | float, evaluations: KnownEvaluations
) -> tuple[LogDensity, Array]:
    """log p of rows x by eq. (5) of `jaxdiff.densities.formula`, and the evaluations of each, (batch,).

    evaluations.number, at least `least_evaluations`, is the most for a row. Ends are open.
    """
    n, d = len(x), x[0].size
    reference = evaluations.reference_for(denoise, x)
    integrand = level_integrand(
        denoise,
        reference.denoiser(denoise.schedule),
        x,
        *denoise.working_range,
        (True, True),
        evaluations.time_density,
    )
    learn_key, pilot_key, again_key, key = jax.random.split(key, 4)
    control = _learn(learn_key, denoise, x, evaluations)
    units = functools.partial(_units, integrand=integrand, control=control, shape=x.shape[1:], dtype=x.dtype)

    items = jnp.arange(n * STRATA * _PILOT_UNITS)
    pilot = map_within(
        lambda numbers: units(pilot_key, numbers // _PILOT_UNITS, numbers % _PILOT_UNITS),
        items,
        evaluations.bytes_per_call,
    ).reshape(n, STRATA, _PILOT_UNITS, 5)
    plan = _planned(pilot)
    means = _controlled(pilot, plan[:, :, None])
    centre, variance = means.mean(-1), _over_neighbours(jnp.var(means, axis=-1, ddof=1))
    together = min(
        n * STRATA * _LEAST_UNITS,
        rows_within(lambda items: units(key, items, items), items, evaluations.bytes_per_call),
    )

    def spend(key: Key, numbers: Array) -> tuple[Array, Array]:
        """Means, from the centre, and variances of units in given numbers, (batch, strata)."""
        wanted, ends = numbers.reshape(-1), jnp.cumsum(numbers.reshape(-1))

        def more(state: tuple[Array, Array]) -> tuple[Array, Array]:
            done, sums = state
            at = done + jnp.arange(together)
            item = jnp.minimum(jnp.searchsorted(ends, at, side="right"), n * STRATA - 1)
            found = units(key, item, at - ends[item] + wanted[item])
            value = _controlled(found, plan.reshape(-1, 2)[item]) - centre.reshape(-1)[item]
            value = jnp.where(at < ends[-1], value, 0)
            return done + together, sums.at[item].add(jnp.stack([value, value**2], axis=1))

        start = jnp.zeros((), ends.dtype), jnp.zeros((n * STRATA, 2), x.dtype)
        sums = jax.lax.while_loop(lambda state: state[0] < ends[-1], more, start)[1].reshape(n, STRATA, 2)
        mean = sums[..., 0] / jnp.maximum(numbers, 1)
        return mean, jnp.maximum(sums[..., 1] - numbers * mean**2, 0) / jnp.maximum(numbers - 1, 1)

    error = jnp.asarray(tolerance, x.dtype) / _MARGIN
    left = (evaluations.number - least_evaluations(d)) // UNIT
    again = _numbers(variance, _COARSE * error, left // 4, 0)
    freedom = jnp.maximum(again - 1, 0)
    variance = (variance + freedom * spend(again_key, again)[1]) / (1 + freedom)
    numbers = _numbers(variance, error, left - left // 4, _LEAST_UNITS)
    mean, variance = spend(key, numbers)
    square = variance / numbers / STRATA**2
    value = reference.log_prob(x) + (centre + mean).mean(1)
    error = jnp.sqrt(square.sum(1)) * low_discrepancy.student_factor(_freedom(square, numbers))
    scale = evaluations.scale
    value = jnp.where(no_data_left(denoise, scale, denoise.working_range[1]), value, jnp.nan)
    value = jnp.where(is_clean(denoise, scale), value, jnp.nan)
    spent = least_evaluations(d) + UNIT * (again + numbers - _LEAST_UNITS).sum(1)
    return LogDensity(value, error), spent


def _units(
    key: Key,
    items: Array,
    which: Array,
    *,
    integrand: Integrand,
    control: _Control,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
) -> Array:
    """Units by the numbers of row and stratum, and their own: g and q of both noises, and a square; (k, 5).

    The square is that of the place in the stratum, from its middle and in its width, less the mean, 1 / 12.
    """
    d = control.directions.shape[1]

    def draw(item: Array, which: Array) -> tuple[Array, Array]:
        own = jax.random.fold_in(
            jax.random.fold_in(jax.random.fold_in(key, item // STRATA), item % STRATA), which
        )
        place_key, noise_key = jax.random.split(own)
        place = coupled(jax.random.uniform(place_key, (1,), dtype), 2)
        return (item % STRATA + place) / STRATA, orthogonal_noise(noise_key, 2, d, dtype)

    v, noise = jax.vmap(draw)(items, which)
    v, noise, rows = v.reshape(-1), noise.reshape(-1, d), jnp.repeat(items // STRATA, 2)
    signed = jnp.concatenate([noise, -noise]).reshape(-1, *shape)
    twice = [jnp.concatenate([part, part]) for part in (rows, v)]
    g = integrand(twice[0], signed, jnp.zeros_like(twice[0]), twice[1]).reshape(2, -1).mean(0)
    q = control.of(rows, noise, jnp.clip(v, 1e-3, 1 - 1e-3))
    square = (v[::2] * STRATA - items % STRATA - 0.5) ** 2 - 1 / 12
    return jnp.concatenate([g.reshape(-1, 2), q.reshape(-1, 2), square[:, None]], axis=1)


def _learn(key: Key, denoise: Denoiser, x: Array, evaluations: KnownEvaluations) -> _Control:
    """The control variates of rows x, each from 2 m evaluations at one level."""
    schedule, (t_min, t_max) = denoise.schedule, denoise.working_range
    d = x[0].size
    m = min(d, _MOST_DIRECTIONS)
    u2 = _LEARNED_AT**2
    level = jnp.log((1 - u2) / u2) - 2 * jnp.log(jnp.asarray(evaluations.scale, float))
    t = inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max)

    def gains(rows: Array) -> Array:
        """Orthonormal axes and, in the last line, the gains along them: (k, d + 1, m)."""

        def axes(row: Array) -> Array:
            return orthogonal_noise(jax.random.fold_in(key, row), m, d, x.dtype)

        noise = jax.vmap(axes)(rows)
        length = jnp.linalg.norm(noise, axis=2, keepdims=True)
        each = jnp.repeat(rows, 2 * m)
        signed = jnp.concatenate([noise, -noise], axis=1).reshape(-1, *x.shape[1:])
        x_t = jax.vmap(perturb, (None, 0, 0, None))(schedule, x[each], signed, t)
        found = denoise.at_rows(each)(x_t, t).noise.reshape(len(rows), 2, m, d)
        odd = (found[:, 0] - found[:, 1]) / (2 * length)
        matrix = jnp.einsum("kid,kjd->kij", noise / length, odd)
        values, vectors = jnp.linalg.eigh((matrix + jnp.swapaxes(matrix, 1, 2)) / 2)
        directions = jnp.einsum("kid,kim->kdm", noise / length, vectors)
        return jnp.concatenate([directions, values[:, None]], axis=1)

    found = map_within(gains, jnp.arange(len(x)), evaluations.bytes_per_call)
    gain = jnp.clip(found[:, -1], 0.02, 0.98)

    def variance(gain: Array) -> Array:
        return u2 / (1 - u2) * (1 / gain - 1)

    return _Control(found[:, :-1], variance(gain), variance(gain.mean(1)))


def _planned(pilot: Array) -> Array:
    """c_k and half of the curvature over a stratum, (batch, strata, 2), from units (batch, strata, n, 5)."""
    g, q = pilot[..., :2].reshape(*pilot.shape[:2], -1), pilot[..., 2:4].reshape(*pilot.shape[:2], -1)
    spread = q - q.mean(2, keepdims=True)
    product = _over_neighbours(jnp.sum(spread * g, axis=2))
    square = _over_neighbours(jnp.sum(spread**2, axis=2))
    c = jnp.clip(product / (square + jnp.finfo(pilot.dtype).tiny), 0, 1)
    means = (g - c[..., None] * q).mean(2)
    curvature = means[:, :-2] - 2 * means[:, 1:-1] + means[:, 2:]
    return jnp.stack([c, 0.5 * jnp.pad(curvature, ((0, 0), (1, 1)), mode="edge")], axis=2)


def _controlled(units: Array, plan: Array) -> Array:
    """What is left of units (..., 5) by a plan (..., 2); (...)."""
    return units[..., :2].mean(-1) - plan[..., 0] * units[..., 2:4].mean(-1) - plan[..., 1] * units[..., 4]


def _over_neighbours(values: Array) -> Array:
    """Means over strata with weights 1, 2, 1, (batch, strata); at the ends over two."""
    wide = jnp.concatenate([values[:, :1], values, values[:, -1:]], axis=1)
    return (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) / 4


def _numbers(variance: Array, error: Array, most: int, least: int) -> Array:
    """Units of each stratum, (batch, strata), at least so many, for an error of their mean.

    In all at most so many more than the least. No stratum is taken to have less than a tenth of the mean
    standard deviation: a pilot may have missed what it has.
    """
    std = jnp.sqrt(variance)
    std = std + 0.1 * std.mean(1, keepdims=True)
    more = jnp.maximum(std * std.sum(1, keepdims=True) / (STRATA * error) ** 2 - least, 0)
    more = more * jnp.minimum(1, most / jnp.maximum(more.sum(1, keepdims=True), 1))
    return least + jnp.floor(more).astype(int)


def _freedom(square: Array, numbers: Array) -> Array:
    """Degrees of freedom of a sum of squared errors, (batch, strata) -> (batch,) (Satterthwaite 1946)."""
    tiny = jnp.finfo(square.dtype).tiny
    share = square / jnp.maximum(square.sum(1, keepdims=True), tiny)
    return jnp.maximum(1 / jnp.maximum(jnp.sum(share**2 / (numbers - 1), axis=1), tiny), 3)
