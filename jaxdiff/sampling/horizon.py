"""How late a sampler may start: the horizon where a start's error and the steps' are least together.

The shorter the horizon T, the less the steps cost and the more the start does (`jaxdiff.sampling.budget`):

    total(T) = E_init(T) + E_disc(T; num_steps)                                                     (1)

with E_init of a law of the family fitted at T, on rows held out of the fit, and E_disc of the best grid.

Another rule does not ask the score: the shortest T at which no projection of the noised data has two modes,
`dip_scores`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.process import inverse_log_snr, log_snr, perturb
from jaxdiff.noising.times import log_snr_grid
from jaxdiff.sampling.budget import (
    check_data,
    discretization_error,
    initialization_error,
    last_time,
    optimal_grid,
    score_curvature,
)
from jaxdiff.sampling.starts import Family, check_fit, sampling_error
from jaxdiff.typing import Array, Key, Schedule, StartLaw, Time

_CURVATURE_ROWS = 2048
_NUM_HORIZONS = 8
_LEAST, _MOST = 0.125, 64.0  # sigma over alpha in units of the data, on either side of those tried


class Candidates(NamedTuple):
    """What each horizon would cost, in nats; arrays of shape (horizons,)."""

    t_max: Array
    """Increasing."""
    initialization: Array
    standard_error: Array
    """Of initialization, the Monte Carlo part."""
    sampling_error: Array
    """d* / 2n of the family, which initialization holds already."""
    discretization: Array

    @property
    def total(self) -> Array:
        """Eq. (1)."""
        return self.initialization + self.discretization


class Horizon(NamedTuple):
    """A choice of `choose_horizon`, a pytree; printed, it says why."""

    t_max: Array
    start: StartLaw
    """Fitted to all data at t_max."""
    times: Array
    """num_steps + 1 decreasing times from t_max, the best for the steps of eq. (1)."""
    candidates: Candidates

    def table(self, dip_scores: ArrayLike | None = None) -> str:
        """All candidates in print, beside `dip_scores` of the same horizons where those are given.

        Raises ValueError for another number of scores, and where the choice is traced.
        """
        if self._traced():
            raise ValueError("a traced choice has no numbers to print: return it from jit first.")
        chosen, candidates = jax.device_get((self.t_max, self.candidates))
        head = ["t_max", "E_init", "+-", "d*/2n", "E_disc", "total"]
        columns = [*candidates, candidates.total]
        if dip_scores is not None:
            checks.shape("dip_scores", dip_scores, np.shape(candidates.t_max))
            head, columns = [*head, "dip"], [*columns, np.asarray(dip_scores)]
        lines = ["".join(f"{name:>11}" for name in head)]
        for row in zip(*columns, strict=True):
            mark = "  <- shortest within an error of the least" if row[0] == chosen else ""
            lines.append("".join(f"{value:11.3g}" for value in row) + mark)
        lines.append(f"nats, {len(self.times) - 1} steps")
        if dip_scores is not None:
            unimodal = candidates.t_max[np.asarray(dip_scores) < 0]
            rule = f"t_max = {unimodal.min():.3g}" if unimodal.size else "none of these"
            lines[-1] += f"; the first horizon without a second mode, by the dip, is {rule}"
        return "\n".join(lines)

    def __str__(self) -> str:
        return repr(self) if self._traced() else self.table()

    def _traced(self) -> bool:
        return any(isinstance(leaf, Tracer) for leaf in (self.t_max, *self.candidates))


def choose_horizon(
    key: Key,
    family: Family[Any],
    denoise: Denoiser,
    data: Array,
    *,
    num_steps: int,
    horizons: Sequence[float] | Array | None = None,
    held_out: float = 0.2,
    reference: Family[Any] | None = None,
) -> Horizon:
    """The shortest of horizons whose total (1) is the least to within its error, with start law and grid.

    Totals are those of `EulerMaruyama`, whose steps are judged by divergence; an integrator of the
    probability flow errs less in its steps, and passes all of the start's error on. A horizon is as good
    as the best where its total is within the Monte Carlo error of the least. Print the answer to see all.

    data: of shape (n, *shape), the denoiser's.
    horizons: times to try, any order, between the first of the denoiser's working range, where steps end, and
        its `last_time`; the family is fitted at each to all but a part held_out of the rows. By default 8, at
        which noise is from 1/4 to 32 times the data, each twice the one before, or as many closer ones
        where the denoiser knows less.
    reference: a family of laws with a denoiser. E_init is then the reference's, less the mean of
        log p_start - log p_reference on rows held out. Needed for laws that have no denoiser, as flows, and
        better with a learned denoiser, whose errors enter by the reference alone: `starts.gaussian()`.

    Under ``jit`` it is one program where the fits of the family are pure JAX, as all but flows' are.
    Raises TypeError for integer data, and ValueError for NaN, for data of another shape than the denoiser's,
    for horizons out of range, for a held_out that leaves fewer than 2 rows on either side, for a law without
    denoiser and no reference, and what the fits raise.
    """
    checks.key(key)
    data = check_data(denoise, data)
    checks.integer("num_steps", num_steps, 1)
    tried, t_min = _check_horizons(denoise, horizons)
    num_held_out = round(held_out * len(data))
    if not 2 <= num_held_out <= len(data) - 2:
        raise ValueError(
            f"held_out must leave at least 2 rows on either side, got {held_out} of {len(data)} rows, "
            f"which is {num_held_out}."
        )
    check_fit(key, family, data, denoise.schedule, tried)
    split_key, cost_key, fit_key = jax.random.split(key, 3)
    held, fitted = _split(split_key, data, num_held_out)
    laws = _fits(fit_key, family, fitted, denoise.schedule, tried, with_denoiser=reference is None)
    known = None
    if reference is not None:
        known = _fits(fit_key, reference, fitted, denoise.schedule, tried, with_denoiser=True)
    error = jnp.asarray(sampling_error(family, fitted))
    candidates, t_max, times = _costs(
        cost_key, denoise, data, held, laws, known, error, jnp.asarray(tried, float), t_min, num_steps
    )
    checks.finite("the total of each horizon", candidates.total)
    return Horizon(t_max, family.fit(fit_key, data, denoise.schedule, t_max), times, candidates)


def _fits(
    key: Key,
    family: Family[Any],
    data: Array,
    schedule: Schedule,
    horizons: Array | np.ndarray,
    *,
    with_denoiser: bool,
) -> StartLaw:
    """The laws of family at each horizon, stacked: one after another, or in one loop of a program's."""

    def fit(t: Time) -> StartLaw:
        law = family.fit(key, data, schedule, t)
        if with_denoiser and not hasattr(law, "denoiser"):
            raise ValueError(
                f"a start law of this family, {type(law).__name__}, has no denoiser, by which its error is "
                "measured; pass reference=, a family whose laws have one, such as starts.gaussian_mixture(8)."
            )
        return law

    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((key, data, schedule, horizons))):
        return jax.lax.map(fit, jnp.asarray(horizons, float))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(fit, horizons))


@functools.partial(jax.jit, static_argnames="num_held_out")
def _split(key: Key, data: Array, num_held_out: int) -> tuple[Array, Array]:
    """The numbers of the rows held out, and the other rows."""
    order = jax.random.permutation(key, len(data))
    return order[:num_held_out], data[order[num_held_out:]]


@functools.partial(jax.jit, static_argnames="num_steps")
def _costs(
    key: Key,
    denoise: Denoiser,
    data: Array,
    held: Array,
    laws: StartLaw,
    references: StartLaw | None,
    sampling_error: Array,
    horizons: Array,
    t_min: Time,
    num_steps: int,
) -> tuple[Candidates, Array, Array]:
    """The candidates, and of the best of them the horizon and the grid, NaN where a total is."""
    schedule = denoise.schedule
    curvature_key, noise_key = jax.random.split(key)
    few = held[:_CURVATURE_ROWS]
    levels = log_snr_grid(schedule, 63, t_max=horizons[-1], t_min=t_min)
    curvature = score_curvature(curvature_key, denoise.at_rows(few), data[few], levels)
    denoise, data = denoise.at_rows(held), data[held]

    def cost(candidate: tuple[Any, Any, Array]) -> tuple[Array, Array, Array, Array]:
        law, reference, t = candidate
        value, error = initialization_error(
            noise_key, denoise, law if reference is None else reference, data, t
        )
        if reference is not None:
            x = perturb(schedule, data, noise_like(noise_key, data), t)
            gain = law.log_prob(x) - reference.log_prob(x)
            value, error = value - gain.mean(), jnp.hypot(error, gain.std(ddof=1) / len(gain) ** 0.5)
        times = optimal_grid(curvature, num_steps, t_max=t, t_min=t_min)
        return value, error, discretization_error(curvature, times), times

    value, error, discretization, grids = jax.lax.map(cost, (laws, references, horizons))
    candidates = Candidates(
        horizons, value, error, jnp.broadcast_to(sampling_error, horizons.shape), discretization
    )
    total = candidates.total
    least = jnp.argmin(total)
    best = jnp.argmax(total <= total[least] + error[least])
    t_max, times = (jnp.where(jnp.isfinite(total).all(), each[best], jnp.nan) for each in (horizons, grids))
    return candidates, t_max, times


def _check_horizons(
    denoise: Denoiser, horizons: Sequence[float] | Array | None
) -> tuple[Array | np.ndarray, Time]:
    """The horizons in order, and where steps end."""
    t_min, t_end = denoise.working_range[0], last_time(denoise)
    if horizons is None:
        horizons = _default_horizons(denoise.schedule, denoise.scale, t_min, t_end)
    checks.shape("horizons", horizons, (None,))
    known, low, high = (checks.known(t) for t in (horizons, t_min, t_end))
    if known is None:
        return jnp.sort(jnp.asarray(horizons, float)), t_min
    known = np.sort(known)
    if low is not None and high is not None and not (known.size and low < known[0] <= known[-1] < high):
        raise ValueError(
            f"horizons must lie between {float(low):g} and {float(high):g}, the times at which this denoiser "
            f"works and noise is not all there is; got {known.tolist()}."
        )
    return known, t_min


@folded
@jax.jit
def _default_horizons(schedule: Schedule, scale: Array | float, t_min: Time, t_end: Time) -> Array:
    ratios = (jnp.exp(-0.5 * log_snr(schedule, t)) for t in (t_min, t_end))
    low, high = jnp.maximum(next(ratios), _LEAST * scale), jnp.minimum(next(ratios), _MOST * scale)
    inner = jnp.linspace(jnp.log(low), jnp.log(high), _NUM_HORIZONS + 2)[1:-1]
    return jax.vmap(lambda level: inverse_log_snr(schedule, level, t_min=t_min, t_max=t_end))(-2 * inner)
