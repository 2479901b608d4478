"""A solver of few calls whose coefficients were fitted once, on random laws, for denoisers at large.

Eq. (1) of `jaxdiff.sampling.linear` in units of the data's scale s: times at sigma / alpha = s r_k, calls at
s r'_k, and weights W, which are what a classical solver's would be had it the best polynomial rather than one
that is right in the limit of short steps. Nothing is learned of the denoiser that is sampled from: beyond its
scale it is not looked at, as with any classical solver. `benchmarks.solver_coefficients` fitted them by the
recipe of `jaxdiff.sampling.learned`: the table "near" on mixtures of Gaussians and of t laws in 1 to 32
dimensions, guided and not; "far" on mixtures in 64 to 256, whose modes are more of their widths apart and
part at higher noise. The steps begin in noise and end without any, or in noise of sigma / alpha = e s
for e up to `MOST_LEFT` of the time where the last step begins.

The table has K + 1 rows of weights for K calls: the last but one leads to e = `LEFT`, and the last carries on
from there to 0 by the calls that there were. Another e has the parabola through these two and the place where
the last step begins, at r = r_{K-1}: weights W with

    (e - r) W = (LEFT - r) W_{K-1} e (e - r) / (LEFT (LEFT - r))
                + ((LEFT - r) W_{K-1} - LEFT W_K) (e - LEFT) (e - r) / (LEFT r).                           (1)
"""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.denoising.ends import check_no_data_left, no_data_left
from jaxdiff.noising.process import inverse_log_snr, log_snr, working_range
from jaxdiff.sampling.linear import LinearMultistep
from jaxdiff.typing import Array, Schedule, Time

LEFT = 0.02
"""sigma / alpha in units of the data's scale at the end that was fitted beside 0."""
MOST_LEFT = 0.8
"""The most that may be left at the end, of what there is where the last step begins."""
Modes = Literal["near", "far"]
CALLS: dict[Modes, tuple[int, ...]] = {"near": (4, 5, 6, 8, 10, 12), "far": (5, 8)}
TABLES = pathlib.Path(__file__).with_name("fitted.json")


class Coefficients(NamedTuple):
    """In units of the data's scale, for K calls."""

    ratios: Array | np.ndarray
    """Of the inner times, falling, (K - 1,)."""
    calls: Array | np.ndarray
    """At which the denoiser is asked there, (K - 1,)."""
    weights: Array | np.ndarray
    """(K + 1, K): row k of W up to column k, and the last row."""


def fitted_multistep(
    denoise: Denoiser,
    num_calls: int,
    *,
    modes: Modes = "near",
    t_max: Time | None = None,
    t_min: Time | None = None,
) -> LinearMultistep:
    """The sampler of so many calls, one of `CALLS`, from t_max to t_min on the denoiser's schedule.

    modes: "far" for laws whose modes part at much more noise than the data's scale, as those of independent
    entries do in a hundred dimensions; digits of 64 pixels are better off with "near". `tune_sampler` tries
    both. t_max: where noise dominates, by default the end of the denoiser's working range. t_min: where steps
    end, with the noise of that time left in, at most .8 of what the last call sees; by default they end
    without noise. Run it by ``sample(key, denoise, n, sampler=sampler)``; `learn_sampler` may go on from it.

    Over the best of diffusers on its best grid "near" leaves, at 4 and 8 calls, .4 to .8 and .19 to .96 of
    the error in the plane, in 16 dimensions, with heavy tails and with guidance, but 1.2 and **3.2 times as
    much with five far modes in 128 dimensions**. There "far" leaves 1.1 at 8 calls, elsewhere 1.4 to 2.2. On
    32 x 32 patches both lose, 6.6 and 3.4 times. From 10 on classical solvers are as good or better but in
    the plane (MEASURED, `benchmarks.solvers`). There is no order: another number of calls is another table.

    Raises ValueError for a number of calls without one, other modes, a t_max where noise does not dominate,
    a t_min with more noise, or times that the denoiser does not know, or its schedule does not tell apart;
    where they are traced the answer is NaN.

    >>> law = jd.GaussianMixture(jnp.ones(2) / 2, jnp.array([[-1.0], [1.0]]), jnp.full(2, 0.1))
    >>> denoise = law.denoiser(jd.Karras())
    >>> sampler = jd.fitted_multistep(denoise, 8)
    >>> x = jd.initial_noise(jax.random.key(0), denoise, 100)
    >>> times = jd.times.to_clean(jd.Karras(), jd.times.noise_grid(jd.Karras(), 200))
    >>> exact = jd.integrate(jax.random.key(0), denoise, x, times, sampler=jd.Heun())
    >>> got = jd.integrate(jax.random.key(0), denoise, x, sampler.times, sampler=sampler)
    >>> float(jnp.sqrt(jnp.mean((got - exact) ** 2))) < 0.03
    True
    """
    check_denoiser("denoise", denoise)
    checks.integer("num_calls", num_calls, 1)
    checks.option("modes", modes, tuple(CALLS))
    checks.option("num_calls", num_calls, CALLS[modes])
    schedule, scale = denoise.schedule, denoise.scale
    first = denoise.working_range[1] if t_max is None else t_max
    last = schedule.t_min if t_min is None else t_min
    for name, t in (("t_max", first), ("t_min", last)):
        checks.shape(name, t, ())
    checks.ordered("t_min", last, "t_max", first)
    denoise.check_times("t_max", first)
    check_no_data_left(denoise, scale, first)
    if t_min is not None:
        denoise.check_times("t_min", last)
        near = coefficients(modes, num_calls).ratios[-1]
        left = _ratio(schedule, last) / (scale * near)
        checks.within("sigma / alpha at t_min over that at the last call", left, 0.0, MOST_LEFT)
    sampler = built(denoise, modes, num_calls, jnp.asarray(first, float), last)
    checks.times(schedule, sampler.times, increasing=False)
    denoise.check_times("the sampler's calls", sampler.calls)
    return sampler


@functools.cache
def coefficients(modes: Modes, num_calls: int) -> Coefficients:
    """Of the file."""
    table = json.loads(TABLES.read_text())[modes][str(num_calls)]
    return Coefficients(*(np.asarray(table[name]) for name in Coefficients._fields))


def built(denoise: Denoiser, modes: Modes, num_calls: int, first: Array, last: Time) -> LinearMultistep:
    """Eq. (1) on the denoiser's schedule, unchecked; NaN where data are left at first or noise at last."""
    made = coefficients(modes, num_calls)
    low = working_range(denoise.schedule, denoise.scale)[0]
    sampler = _on(made, denoise.schedule, denoise.scale, low, first, last)
    in_noise = no_data_left(denoise, denoise.scale, first)
    return LinearMultistep(sampler.times, sampler.calls, jnp.where(in_noise, sampler.weights, jnp.nan))


@jax.jit
def _on(
    made: Coefficients, schedule: Schedule, scale: Array | float, low: Time, first: Array, last: Time
) -> LinearMultistep:
    def time(ratio: Array) -> Array:
        return inverse_log_snr(schedule, -2 * jnp.log(scale * ratio), t_min=low, t_max=first)

    inner, calls = jax.vmap(time)(jnp.asarray(made.ratios)), jax.vmap(time)(jnp.asarray(made.calls))
    end, near, weights = _ratio(schedule, last) / scale, made.ratios[-1], jnp.asarray(made.weights)
    to_left = (LEFT - near) * weights[-2]
    to_clean = to_left - LEFT * weights[-1]
    last_row = to_left * end / (LEFT * (LEFT - near)) + to_clean * (end - LEFT) / (LEFT * near)
    weights = weights[:-1].at[-1].set(jnp.where(end <= MOST_LEFT * near, last_row, jnp.nan))
    times = jnp.concatenate([first[None], inner, jnp.asarray(last, first.dtype)[None]])
    return LinearMultistep(times, jnp.append(first, calls), weights)


def _ratio(schedule: Schedule, t: Time) -> Array:
    """sigma / alpha, 0 where it is clean."""
    return jnp.exp(-0.5 * log_snr(schedule, t))
