"""The dip: how far numbers are from one mode.

The *dip* of n numbers is their distance from the nearest unimodal law,

    dip = min over unimodal G of sup |F_n - G|                                                      (1)

and is read against its law for uniform numbers, the least favourable of unimodal laws. Hartigan & Hartigan
1985. Of a horizon (`jaxdiff.sampling.horizon`) it makes a rule that does not ask the score: the shortest at
which no projection of the noised data has two modes,

    dip_score(key, perturb(schedule, data, noise, t)) < 0.                                          (2)
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Key, Schedule

_ROWS, _DIRECTIONS, _DRAWS = 1000, 24, 200


def dip_score(key: Key, x: Array) -> float:
    """The worst dip of projections of x, (n, ...), in standard deviations above the mean for uniform numbers.

    Below zero nothing speaks against one mode. There are 24 directions, of which up to 12 are principal axes
    and the others random; at most 1,000 rows are looked at. It is NumPy's on the host, about a tenth of a
    second: x must be known. Raises TypeError for a traced or integer x, and ValueError for NaN or for fewer
    than two rows.

    >>> modes = jnp.linspace(0, 1, 200)[:, None] + jnp.arange(200)[:, None] % 2 * 5.0
    >>> jd.dip_score(jax.random.key(0), modes) > 0
    True
    """
    checks.key(key)
    checks.batch("x", x)
    if isinstance(x, Tracer):
        raise TypeError("x must be known, but is traced: ask for a dip outside of jit and vmap.")
    checks.finite("x", x)
    if len(x) < 2:
        raise ValueError(f"x must hold at least 2 rows, got {len(x)}.")
    rows = np.asarray(x[:_ROWS], np.float64)
    rows = rows.reshape(len(rows), -1)
    d = rows.shape[1]
    random = jax.random.normal(key, (_DIRECTIONS, d))
    axes = np.linalg.eigh(np.cov(rows.T).reshape(d, d))[1][:, -(_DIRECTIONS // 2) :]
    directions = np.concatenate([axes, np.asarray(random, np.float64).T], axis=1)[:, :_DIRECTIONS]
    if d == 1:
        directions = np.ones((1, 1))
    mean, std = _uniform_dips(len(rows))
    return float((max(map(dip, (rows @ directions).T)) - mean) / std)


def dip_scores(key: Key, data: Array, schedule: Schedule, times: ArrayLike) -> np.ndarray:
    """`dip_score` of data, (n, ...), noised to each of times, (m,), such as `choose_horizon`'s; shape (m,).

    Raises as `dip_score`, and ValueError for times out of range.

    >>> modes = jnp.linspace(0, 1, 200)[:, None] + jnp.arange(200)[:, None] % 2 * 5.0
    >>> scores = jd.dip_scores(jax.random.key(0), modes, jd.Karras(), [0.1, 20.0])
    >>> (scores > 0).tolist()  # two modes, and under much noise one
    [True, False]
    """
    checks.shape("times", times, (None,))
    checks.in_range("times", schedule, times)
    checks.batch("data", data)
    noise_key, dip_key = jax.random.split(key)
    data = data[:_ROWS]
    noise = noise_like(noise_key, data)
    return np.array([dip_score(dip_key, perturb(schedule, data, noise, t)) for t in np.asarray(times)])


@functools.cache
def _uniform_dips(n: int) -> tuple[float, float]:
    """Mean and standard deviation of the dip of n uniform numbers."""
    rng = np.random.default_rng(0)
    dips = [dip(rng.uniform(size=n)) for _ in range(_DRAWS)]
    return float(np.mean(dips)), float(np.std(dips, ddof=1))


def dip(x: np.ndarray) -> float:
    """Eq. (1) for numbers x, shape (n,); from 1 / 2n to 1/4.

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
