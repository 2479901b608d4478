"""How late a sampler may start: the horizon where a start's error and the steps' are least together.

The shorter the horizon T, the less the steps cost and the more the start does (`jaxdiff.sampling.budget`):

    total(T) = E_init(T) + E_disc(T; num_steps)                                                     (1)

with E_init of a law of the family fitted at T, on rows held out of the fit, and E_disc of the best grid.

Another rule does not ask the score: the shortest T at which no projection of the noised data has two modes.
The *dip* of n numbers is their distance from the nearest unimodal law,

    dip = min over unimodal G of sup |F_n - G|                                                      (2)

and is read against its law for uniform numbers, the least favourable of unimodal laws. Hartigan & Hartigan
1985.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.noising.process import perturb
from jaxdiff.noising.times import log_snr_grid
from jaxdiff.sampling.budget import discretization_error, initialization_error, optimal_grid, score_curvature
from jaxdiff.sampling.starts import Family, fit_start, sampling_error
from jaxdiff.typing import Array, Key, Schedule, StartLaw

_CURVATURE_ROWS = 2048
_DIP_ROWS, _DIP_DIRECTIONS, _DIP_DRAWS = 1000, 24, 200


class Candidate(NamedTuple):
    """What a horizon would cost, in nats."""

    t_max: float
    initialization: float
    standard_error: float
    """Of initialization, the Monte Carlo part."""
    sampling_error: float
    """d* / 2n of the family, which initialization holds already."""
    discretization: float
    dip_score: float
    """How far from one mode the data noised to t_max are, by the function of this name."""

    @property
    def total(self) -> float:
        """Eq. (1)."""
        return self.initialization + self.discretization


class Horizon(NamedTuple):
    """A choice of `choose_horizon`; printed, it says why."""

    t_max: float
    start: StartLaw
    """Fitted to all data at t_max."""
    times: Array
    """num_steps + 1 decreasing times from t_max, the best for the steps of eq. (1)."""
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        head = ("t_max", "E_init", "+-", "d*/2n", "E_disc", "total", "dip")
        lines = ["".join(f"{name:>11}" for name in head)]
        for c in self.candidates:
            row = (c.initialization, c.standard_error, c.sampling_error, c.discretization, c.total)
            chosen = "  <- shortest within an error of the least" if c.t_max == self.t_max else ""
            cells = "".join(f"{v:11.3g}" for v in (c.t_max, *row))
            lines.append(f"{cells}{c.dip_score:11.1f}{chosen}")
        unimodal = [c.t_max for c in self.candidates if c.dip_score < 0]
        rule = f"t_max = {min(unimodal):.3g}" if unimodal else "none of these"
        num = len(self.times) - 1
        lines.append(f"nats, {num} steps; the first horizon without a second mode, by the dip, is {rule}")
        return "\n".join(lines)


def choose_horizon(
    key: Key,
    family: Family[Any],
    denoise: Denoiser,
    data: Array,
    schedule: Schedule,
    *,
    num_steps: int,
    horizons: Sequence[float],
    t_min: float,
    t_end: float,
    held_out: float = 0.2,
    reference: Family[Any] | None = None,
) -> Horizon:
    """The shortest of horizons whose total (1) is the least to within its error, with start law and grid.

    Totals are those of `euler_maruyama`, whose steps are judged by divergence; an integrator of the
    probability flow errs less in its steps, and passes all of the start's error on. A horizon is as good
    as the best where its total is within the Monte Carlo error of the least. Print the answer to see all.

    data: of shape (n, d).
    horizons: times to try, in t_min < t < t_end, any order; the family is fitted at each to all but a part
        held_out of the rows.
    t_min, t_end: the range of times that denoise may be asked. Steps end at t_min.
    reference: a family of laws with a denoiser. E_init is then the reference's, less the mean of
        log p_start - log p_reference on rows held out. Needed for laws that have no denoiser, as flows, and
        better with a learned denoiser, whose errors enter by the reference alone: initialization.gaussian().

    Raises ValueError for data of another shape or not finite, horizons out of range (it says which range the
    model has), a held_out that leaves too few rows, and for a family without denoiser or reference.
    """
    checks.batch("data", data)
    checks.shape("data", data, (None, None))
    checks.finite("data", data)
    checks.integer("num_steps", num_steps, 1)
    checks.ordered("t_min", t_min, "t_end", t_end)
    horizons = sorted(map(float, horizons))
    if not horizons or not t_min < horizons[0] <= horizons[-1] < t_end:
        raise ValueError(
            f"horizons must lie between t_min = {t_min:g} and t_end = {t_end:g}, the times that the denoiser "
            f"knows; got {horizons}."
        )
    num_held_out = round(held_out * len(data))
    if not 2 <= num_held_out <= len(data) - 2:
        raise ValueError(
            f"held_out must leave at least 2 rows on either side, got {held_out} of {len(data)} rows, "
            f"which is {num_held_out}."
        )
    split_key, curvature_key, noise_key, dip_key, fit_key = jax.random.split(key, 5)
    order = jax.random.permutation(split_key, len(data))
    held, fitted = data[order[:num_held_out]], data[order[num_held_out:]]
    grid = log_snr_grid(schedule, 63, t_max=horizons[-1], t_min=t_min)
    curvature = score_curvature(curvature_key, denoise, schedule, held[:_CURVATURE_ROWS], grid)

    @jax.jit
    def start_error(law: Distribution, t_max: Array) -> tuple[Array, Array]:
        return initialization_error(noise_key, denoise, schedule, law, held, t_max, t_end=t_end)

    @jax.jit
    def steps(t_max: Array) -> tuple[Array, Array]:
        times = optimal_grid(curvature, schedule, num_steps, t_max=t_max, t_min=t_min)
        return times, discretization_error(curvature, schedule, times)

    def candidate(t_max: float) -> Candidate:
        law = fit_start(fit_key, family, fitted, schedule, t_max)
        x = perturb(schedule, held, noise_like(noise_key, held), t_max)
        if reference is None:
            if not hasattr(law, "denoiser"):
                raise ValueError(
                    "a start law of this family has no denoiser, by which its error is measured; pass "
                    "reference=, a family whose laws have one, such as initialization.gaussian_mixture(8)."
                )
            value, error = start_error(law, t_max)
        else:
            known = fit_start(fit_key, reference, fitted, schedule, t_max)
            value, error = start_error(known, t_max)
            gain = law.log_prob(x) - known.log_prob(x)
            value, error = value - gain.mean(), jnp.hypot(error, gain.std(ddof=1) / len(gain) ** 0.5)
        return Candidate(
            t_max=t_max,
            initialization=float(value),
            standard_error=float(error),
            sampling_error=sampling_error(family, fitted),
            discretization=float(steps(t_max)[1]),
            dip_score=dip_score(dip_key, x),
        )

    candidates = tuple(map(candidate, horizons))
    best = min(candidates, key=lambda c: c.total)
    chosen = next(c for c in candidates if c.total <= best.total + best.standard_error).t_max
    start = fit_start(fit_key, family, data, schedule, chosen)
    return Horizon(chosen, start, steps(chosen)[0], candidates)


def dip_score(key: Key, x: Array) -> float:
    """The worst dip of projections of x, (n, d), in standard deviations above the mean for uniform numbers.

    Below zero nothing speaks against one mode. There are 24 directions, of which up to 12 are principal axes
    and the others random; at most 1,000 rows are looked at.
    """
    checks.shape("x", x, (None, None))
    checks.finite("x", x)
    rows = np.asarray(x[:_DIP_ROWS], np.float64)
    d = rows.shape[1]
    random = jax.random.normal(key, (_DIP_DIRECTIONS, d))
    axes = np.linalg.eigh(np.cov(rows.T).reshape(d, d))[1][:, -(_DIP_DIRECTIONS // 2) :]
    directions = np.concatenate([axes, np.asarray(random, np.float64).T], axis=1)[:, :_DIP_DIRECTIONS]
    if d == 1:
        directions = np.ones((1, 1))
    mean, std = _uniform_dips(len(rows))
    return float((max(map(dip, (rows @ directions).T)) - mean) / std)


@functools.cache
def _uniform_dips(n: int) -> tuple[float, float]:
    """Mean and standard deviation of the dip of n uniform numbers."""
    rng = np.random.default_rng(0)
    dips = [dip(rng.uniform(size=n)) for _ in range(_DIP_DRAWS)]
    return float(np.mean(dips)), float(np.std(dips, ddof=1))


def dip(x: np.ndarray) -> float:
    """Eq. (2) for numbers x, shape (n,); from 1 / 2n to 1/4.

    The mode is sought in an interval, at first all of them. Where the greatest convex minorant of F_n there
    and its least concave majorant are farthest apart, the interval narrows to the corners around that place;
    what is cut off is convex on the left, and concave on the right, up to twice the dip. Raises ValueError
    for another shape, or no numbers.
    """
    checks.shape("x", x, (None,))
    x = np.sort(np.asarray(x, np.float64))
    n = len(x)
    if n == 0:
        raise ValueError("x must hold at least one number, got none.")
    low, high, largest = 0, n - 1, 1.0
    while True:
        places = np.arange(low, high + 1)
        below = _hull(x, places, lower=True)
        above = _hull(x, places, lower=False)
        # One touches F_n below its jumps and the other above, a jump of 1 in these units.
        minorant = np.interp(x[places], x[below], below)
        majorant = np.interp(x[places], x[above], above)
        corners = np.union1d(below, above)
        gaps = (majorant - minorant)[corners - low] + 1
        at = corners[np.argmax(gaps)]
        if gaps.max() <= largest or high == low:
            break
        new_low, new_high = below[below <= at].max(), above[above >= at].min()
        left, right = places <= new_low, places >= new_high
        largest = max(
            largest,
            (places - minorant + 1)[left].max(),
            (majorant - places + 1)[right].max(),
        )
        if (new_low, new_high) == (low, high):
            break
        low, high = int(new_low), int(new_high)
    return largest / (2 * n)


def _hull(x: np.ndarray, places: np.ndarray, *, lower: bool) -> np.ndarray:
    """The corners of the convex hull of (x, place) from below or above, places increasing."""
    corners: list[int] = []
    for place in map(int, places):
        while len(corners) > 1:
            a, b = corners[-2:]
            turn = (b - a) * (x[place] - x[a]) - (place - a) * (x[b] - x[a])
            if (turn >= 0) if lower else (turn <= 0):
                corners.pop()
            else:
                break
        corners.append(place)
    return np.asarray(corners)
