"""A solver learned for a denoiser and a number of calls: grid, weights and times of the calls by gradients.

For K calls the parameters are the gaps between log(sigma / alpha) of the grid, as a softmax, the weights W of
`jaxdiff.sampling.linear` below the diagonal, and by how much each call is asked earlier or later: K (K + 3) /
2 numbers less one. They begin as a classical solver's and fall by Adam along the gradient, through all of the
sampler, of

    log mean |sample - long run|^2                                                                    (1)

over draws of the pilot, the long run being the denoiser's own from the same start by 128 calls. The logarithm
makes steps of one size at any error. (The form is that of arXiv 2502.17423, S4S, without its relaxed starts.)
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff._numerics import checks
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.denoising.ends import check_no_data_left, no_data_left
from jaxdiff.noising.process import inverse_log_snr, log_snr
from jaxdiff.noising.times import noise_grid
from jaxdiff.sampling.driver import initial_noise, integrate
from jaxdiff.sampling.exponential_adams import unipc
from jaxdiff.sampling.linear import LinearMultistep
from jaxdiff.typing import Array, Key, Schedule, StartLaw, Time

LONG_RUN = 128
"""Calls of the run that samples are compared with."""
HELD_OUT = 0.25
"""Of the pilot's draws, to judge what is fitted to the others."""
_ROUNDS = 20  # after each of which it is judged
_MOST_NOISE = 100.0  # sigma over alpha in units of the data: beyond it a grid has its first time only
_TABLE = 512


class Learned(NamedTuple):
    """What `learn_sampler` returns, a pytree. Errors are root mean squares, of draws that were not fitted."""

    sampler: LinearMultistep
    error: Array
    error_before: Array
    """Of the solver that it began with."""


class Pilot(NamedTuple):
    """Starts at times[0], (n, *shape), and where the long run takes them."""

    x: Array
    target: Array


def learn_sampler(
    key: Key,
    denoise: Denoiser,
    sampler: LinearMultistep,
    *,
    start: StartLaw | None = None,
    num_samples: int = 2048,
    batch: int = 256,
    num_steps: int = 2000,
    learning_rate: float = 0.02,
) -> Learned:
    """The sampler, fitted to the denoiser from where it begins and to where it ends, for as many calls.

    sampler: what to begin with, `linear_multistep`'s or `tune_sampler`'s, which does all of this if told
        ``learned=True``.
    start: the law of x at its first time, by default noise, as in `sample`.
    num_samples: starts that are drawn and run down by 128 calls; a condition that is bound by row has as many
        rows. A quarter is held out: it judges 20 times in the course, and the best is what is returned,
        the sampler as given where that is it. Having chosen, these draws flatter a little.
    batch, num_steps, learning_rate: rows and number of steps of Adam, whose rate falls as a cosine to zero.
        Memory is that of the derivative of K calls on a batch, and of K^2 estimates for each of its rows.

    On new starts, at 8 calls, .0009 where the solver that `tune_sampler` chose has .023 (3 modes in the
    plane), .011 for .041 (25 modes), .020 for .046 (5 modes in 16 dimensions; MEASURED, two seeds, of which
    one of the last gained nothing, `benchmarks.solvers`). With many dimensions a few starts may have most of
    the error, and a larger pilot is needed to see them.

    One program for all denoisers alike, whatever their parameters, and pure JAX. What is learned is for this
    denoiser: another deserves its own. Raises TypeError for what is no `LinearMultistep`, and ValueError for
    times where noise does not dominate if no start is given, or that the denoiser does not know.

    >>> law = jd.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01]).denoiser(jd.Karras())
    >>> times = jd.times.to_clean(jd.Karras(), jd.times.noise_grid(jd.Karras(), 4, t_max=20.0))
    >>> sampler = jd.linear_multistep(jd.DDIM(), jd.Karras(), times)
    >>> options = {"num_samples": 64, "batch": 16, "num_steps": 40}
    >>> learned = jd.learn_sampler(jax.random.key(0), law, sampler, **options)
    >>> bool(learned.error < learned.error_before)
    True
    """
    checks.key(key)
    _check_learning(denoise, sampler, num_samples, batch, num_steps, learning_rate)
    pilot_key, fit_key = jax.random.split(key)
    pilot = make_pilot(pilot_key, denoise, sampler.times[0], sampler.times[-1], num_samples, start)
    return fit(fit_key, denoise, sampler, pilot, batch, num_steps, learning_rate)


def make_pilot(
    key: Key, denoise: Denoiser, first: Time, last: Time, num_samples: int, start: StartLaw | None
) -> Pilot:
    """Draws and long runs of them; NaN where noise must dominate and does not."""
    if start is None:
        check_no_data_left(denoise, denoise.scale, first)
        x = initial_noise(key, denoise, num_samples, first)
        x = jnp.where(no_data_left(denoise, denoise.scale, first), x, jnp.nan)
    else:
        checks.law_shape("start", start, denoise.shape)
        x = start.sample(key, num_samples)
    return Pilot(x, integrate(key, denoise, x, long_grid(denoise, first, last), sampler=unipc()))


@functools.partial(jax.jit, static_argnames=("batch", "num_steps"))
def fit(
    key: Key,
    denoise: Denoiser,
    sampler: LinearMultistep,
    pilot: Pilot,
    batch: int,
    num_steps: int,
    learning_rate: Array | float,
) -> Learned:
    """The best of the course on the rows held out, `split`; the sampler itself included."""
    fitted, held_out = split(len(pilot.x))
    build = _Form.of(denoise, sampler)
    per_round = -(-num_steps // _ROUNDS)
    rate = optax.cosine_decay_schedule(learning_rate, _ROUNDS * per_round)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))

    def loss(params: Any, rows: Array) -> Array:
        return 2 * jnp.log(error(denoise, build.sampler(params), pilot, rows))

    def step(carry: Any, step_key: Key) -> tuple[Any, None]:
        params, state = carry
        rows = fitted[jax.random.randint(step_key, (min(batch, len(fitted)),), 0, len(fitted))]
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    def one_round(carry: Any, round_key: Key) -> tuple[Any, None]:
        training, best = carry
        training, _ = jax.lax.scan(step, training, jax.random.split(round_key, per_round))
        tried = build.sampler(training[0])
        got = error(denoise, tried, pilot, held_out)
        better = got < best.error  # and not where it is no number
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), tried, best.sampler)
        return (training, Learned(kept, jnp.where(better, got, best.error), before)), None

    before = error(denoise, sampler, pilot, held_out)
    params = build.params(sampler)
    first = ((params, optimizer.init(params)), Learned(sampler, before, before))
    return jax.lax.scan(one_round, first, jax.random.split(key, _ROUNDS))[0][1]


def error(denoise: Denoiser, sampler: LinearMultistep, pilot: Pilot, rows: Array) -> Array:
    """Root mean square a coordinate of what the sampler leaves, over these rows of the pilot."""
    x, denoise = pilot.x[rows], denoise.at_rows(rows)
    got = integrate(jax.random.key(0), denoise, x, sampler.times, sampler=sampler)
    return jnp.sqrt(jnp.mean((got - pilot.target[rows]) ** 2))


def split(n: int) -> tuple[Array, Array]:
    """Rows that are fitted, and rows held out: every fourth, so that sorted conditions are in both."""
    rows = np.arange(n)
    held_out = rows % round(1 / HELD_OUT) == 0
    return jnp.asarray(rows[~held_out]), jnp.asarray(rows[held_out])


def long_grid(denoise: Denoiser, first: Time, last: Time) -> Array:
    """From the first to the last time by `LONG_RUN` steps."""
    end = level(denoise.schedule, last)
    least = level(denoise.schedule, denoise.working_range[0])
    is_clean = jnp.isinf(end)
    low = jnp.where(is_clean, denoise.working_range[0], last)
    near = _time(denoise, jnp.where(is_clean, least, end + 0.05), low, first)
    grid = noise_grid(denoise.schedule, LONG_RUN - 1, t_min=near, t_max=first, scale=denoise.scale)
    return jnp.append(grid, jnp.asarray(last, grid.dtype))


def level(schedule: Schedule, t: Time) -> Array:
    """log(sigma / alpha), a scalar."""
    return -0.5 * log_snr(schedule, t)


def _time(denoise: Denoiser, at: Array, low: Array, high: Time) -> Array:
    return inverse_log_snr(denoise.schedule, -2 * at, t_min=low, t_max=high)


class _Form(NamedTuple):
    """From parameters to a sampler between two fixed times, differentiably."""

    times: Array
    """Of the sampler that it began as; the ends stay."""
    top: Array
    """The log(sigma / alpha) that the gaps begin at, and that of their end."""
    bottom: Array
    levels: Array
    """A table of log(sigma / alpha), rising, with its times: a bisection in every step would cost more."""
    at_levels: Array
    is_clean: Array

    @classmethod
    def of(cls, denoise: Denoiser, sampler: LinearMultistep) -> _Form:
        schedule, times = denoise.schedule, sampler.times
        own = jax.vmap(lambda t: level(schedule, t))(times)
        least = jnp.minimum(level(schedule, denoise.working_range[0]), own[-2])
        top = jnp.minimum(own[0], jnp.maximum(jnp.log(_MOST_NOISE * denoise.scale), own[1] + 0.1))
        is_clean = jnp.isinf(own[-1])
        bottom = jnp.where(is_clean, least, own[-1])
        levels = jnp.linspace(jnp.minimum(bottom, least), top, _TABLE)
        low = jnp.minimum(denoise.working_range[0], times[-2])
        low = jnp.where(is_clean, low, jnp.minimum(low, times[-1]))
        at_levels = jax.vmap(lambda at: _time(denoise, at, low, times[0]))(levels)
        return cls(times, top, bottom, levels, at_levels, is_clean)

    def params(self, sampler: LinearMultistep) -> dict[str, Array]:
        own = self._level(sampler.times[1:-1])
        ends = jnp.where(self.is_clean, self.bottom, self._level(sampler.times[-1:])[0])
        gaps = -jnp.diff(jnp.concatenate([self.top[None], own, ends[None]]))
        gaps = jnp.maximum(gaps, 1e-3 * (self.top - self.bottom))
        shifts = self._level(sampler.calls[1:]) - own
        return {"gaps": jnp.log(gaps), "shifts": shifts, "weights": sampler.weights}

    def sampler(self, params: dict[str, Array]) -> LinearMultistep:
        parts = jnp.cumsum(jax.nn.softmax(params["gaps"]))[:-1]
        inner = self.top + (self.bottom - self.top) * parts
        times = jnp.concatenate([self.times[:1], self._time(inner), self.times[-1:]])
        calls = jnp.append(self.times[:1], self._time(inner + params["shifts"]))
        below = jnp.tril(params["weights"], -1)
        return LinearMultistep(times, calls, below + jnp.diag(1 - below.sum(1)))

    def _time(self, at: Array) -> Array:
        return jnp.interp(at, self.levels, self.at_levels)

    def _level(self, times: Array) -> Array:
        return jnp.interp(times, self.at_levels, self.levels)


def _check_learning(
    denoise: Denoiser, sampler: Any, num_samples: int, batch: int, num_steps: int, learning_rate: float
) -> None:
    check_denoiser("denoise", denoise)
    if not isinstance(sampler, LinearMultistep):
        raise TypeError(
            f"sampler must be a LinearMultistep, got {checks.described(sampler)}; linear_multistep(sampler, "
            "schedule, times) makes one of a classical solver, and tune_sampler chooses one."
        )
    known = checks.known(sampler.times)
    if known is not None:
        denoise.check_times("the sampler's times", known[:-1])
    check_sizes(num_samples, batch, num_steps, learning_rate)


def check_sizes(num_samples: int, batch: int, num_steps: int, learning_rate: float) -> None:
    """Raise ValueError for too few samples to hold some out, or what is no size."""
    checks.integer("num_samples", num_samples, 8)
    checks.integer("batch", batch, 1)
    checks.integer("num_steps", num_steps, 1)
    checks.positive_number("learning_rate", learning_rate)
