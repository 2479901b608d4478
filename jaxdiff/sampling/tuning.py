"""Which solver, of which order and form, on which grid, for a number of calls: all are tried by the denoiser.

    error = root mean square of (sample - long run) a coordinate, from the same starts                  (1)

The long run is the denoiser's own, so what it has learned wrongly counts for nothing, and no data are asked
for. The solvers are those of `SOLVERS`, and the tables of `fitted_multistep` on their own grids, where they
have so many calls and steps begin in noise. The grids of the former are `times.noise_grid` with each rho of
`RHOS`, and two that follow the denoiser's estimate D of the data down the long run, with steps of equal

    int |dD| (constant rate, arXiv 2411.12188)    or    int |dD / du|^(1/2) du,    u = log(sigma / alpha)  (2)

Grids by dynamic programming over the errors of Euler's steps down the long run (as in GITS) were tried beside
these and left out: with 3 modes in the plane, three draws of these and 5, 8 and 12 calls, the best of six
such had 2.1 times the error of the best here in the median of eight cases and .9 at best (MEASURED).

Where steps end without noise all but the last run down to the end of the denoiser's working range, or to 1/50
of the data's scale, whichever serves better.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff._numerics import checks
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.noising.process import inverse_log_snr
from jaxdiff.noising.times import noise_grid
from jaxdiff.sampling import fitted
from jaxdiff.sampling import learned as learning
from jaxdiff.sampling.driver import integrate_path
from jaxdiff.sampling.exponential_adams import ExponentialAdams, deis, dpm_solver_pp, unipc
from jaxdiff.sampling.learned import Learned, Pilot, level
from jaxdiff.sampling.linear import LinearMultistep, linear_multistep
from jaxdiff.typing import Array, Key, StartLaw, Time

SOLVERS: dict[str, ExponentialAdams] = {
    "dpm_solver_pp(2)": dpm_solver_pp(2),
    "deis(3)": deis(3),
    'unipc(2, "data")': unipc(2, "data"),
    'unipc(3, "data")': unipc(3, "data"),
    "unipc(2)": unipc(2),
    "unipc(3)": unipc(3),
}
RHOS = (2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 40.0)
_LAST = 0.02  # sigma over alpha in units of the data, where a last step to no noise may begin
_FEW = 64  # rows by which (2) is measured
_FLOOR = 0.02  # of the greatest rate: where nothing happens steps are long, but not without end


class Tuned(NamedTuple):
    """A choice of `tune_sampler`, a pytree; printed, it says why."""

    sampler: LinearMultistep
    """Run it by ``sample(key, denoise, n, sampler=tuned.sampler)``."""
    times: Array
    """Its grid, for `integrate`."""
    error: Array
    """Eq. (1) of the choice on draws that took no part in it, but where it is learned: see `Learned`."""
    errors: Array
    """Eq. (1) of every solver on every grid, (solvers, grids), on the draws that choose."""
    fitted_errors: Array
    """Eq. (1) on these of the tables of `fitted_multistep` that have so many calls, in their order; infinite
    where the ends are none of theirs."""
    learned: Learned | None = None

    def table(self) -> str:
        """The best grid of every solver in print. Raises ValueError where the choice is traced."""
        if self._traced():
            raise ValueError("a traced choice has no numbers to print: return it from jit first.")
        errors, calls = np.asarray(self.errors), len(self.times) - 1
        names = _grid_names(errors.shape[1])
        lines = [f"{'solver':<20}{'error':>10}  its best grid"]
        rows = [(name, row.min(), names[row.argmin()]) for name, row in zip(SOLVERS, errors, strict=True)]
        for modes, error in zip(_tables(calls), self.fitted_errors, strict=True):
            if np.isfinite(error):
                rows.append((f"fitted, {modes} modes", float(error), "its own"))
        least = min(error for _, error, _ in rows)
        for name, error, grid in rows:
            mark = "  <- the least" if error == least else ""
            lines.append(f"{name:<20}{error:10.3g}  {grid:<32}{mark}".rstrip())
        best = self.error if self.learned is None else self.learned.error_before
        lines.append(f"RMSE to the long run, {calls} calls; {float(best):.3g} on draws that did not choose")
        if self.learned is not None:
            lines[-1] += f"; learned from there {float(self.learned.error):.3g}"
        return "\n".join(lines)

    def __str__(self) -> str:
        return repr(self) if self._traced() else self.table()

    def _traced(self) -> bool:
        return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tuple(self)))


def tune_sampler(
    key: Key,
    denoise: Denoiser,
    num_calls: int,
    *,
    t_max: Time | None = None,
    t_min: Time | None = None,
    start: StartLaw | None = None,
    num_samples: int = 2048,
    learned: bool = False,
    batch: int = 256,
    num_steps: int = 2000,
    learning_rate: float = 0.02,
) -> Tuned:
    """The deterministic sampler of so many calls of the denoiser whose samples are nearest to a long run's.

    t_max: where steps begin, by default the end of the denoiser's working range, and start the law there, by
        default noise. t_min: where they end, with the noise of that time left in; by default they end without
        noise, in the estimate of the data.
    num_samples: starts, all run down by 128 calls; three quarters choose, the rest judge the choice. A
        condition that is bound by row has as many rows.
    learned: the best is then where `learn_sampler` begins, with batch, num_steps and learning_rate: for 3 to
        12 calls by far the best, at some minutes' cost once.

    Print the answer to see the table. Under ``jit`` it is one program. Raises ValueError for fewer calls than
    3, a t_min not below t_max or unknown to the denoiser, a start of another shape, and as `learn_sampler`.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> tuned = jd.tune_sampler(jax.random.key(0), denoise, 4, num_samples=64)
    >>> float(tuned.errors.min()) <= float(tuned.errors[0, 0])
    True
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.integer("num_calls", num_calls, 3)
    checks.option("learned", learned, (False, True))
    learning.check_sizes(num_samples, batch, num_steps, learning_rate)
    low, high = denoise.working_range
    first, last = high if t_max is None else t_max, denoise.schedule.t_min if t_min is None else t_min
    for name, t in (("t_max", first), ("t_min", last)):
        checks.shape(name, t, ())
    checks.ordered("t_min", low if t_min is None else last, "t_max", first)
    denoise.check_times("t_max", first)
    if t_min is not None:
        denoise.check_times("t_min", last)
    pilot_key, fit_key = jax.random.split(key)
    pilot = learning.make_pilot(pilot_key, denoise, first, last, num_samples, start)
    ends = (jnp.asarray(first, float), jnp.asarray(last, float), jnp.asarray(low, float))
    tuned = _choose(denoise, pilot, *ends, num_calls, t_min is None)
    checks.finite("the error of each solver and grid", tuned.errors)
    if not learned:
        return tuned
    better = learning.fit(fit_key, denoise, tuned.sampler, pilot, batch, num_steps, learning_rate)
    return tuned._replace(
        sampler=better.sampler, times=better.sampler.times, error=better.error, learned=better
    )


@functools.partial(jax.jit, static_argnames=("num_calls", "to_clean"))
def _choose(
    denoise: Denoiser, pilot: Pilot, first: Array, last: Array, low: Array, num_calls: int, to_clean: bool
) -> Tuned:
    grids = _grids(denoise, pilot, first, last, low, num_calls, to_clean)
    made = [
        jax.vmap(lambda times, solver=solver: linear_multistep(solver, denoise.schedule, times))(grids)
        for solver in SOLVERS.values()
    ]
    for modes in _tables(num_calls):
        other = fitted.built(denoise, modes, num_calls, first, last)
        made.append(jax.tree.map(lambda leaf: leaf[None], other))
    tried = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)
    choosing, judging = learning.split(len(pilot.x))
    errors = jax.lax.map(lambda sampler: learning.error(denoise, sampler, pilot, choosing), tried)
    classical = errors[: len(SOLVERS) * len(grids)].reshape(len(SOLVERS), -1)
    by_fitted = errors[classical.size :]
    by_fitted = jnp.where(jnp.isfinite(by_fitted), by_fitted, jnp.inf)
    best = jax.tree.map(lambda leaf: leaf[jnp.argmin(jnp.append(classical, by_fitted))], tried)
    left = learning.error(denoise, best, pilot, judging)
    return Tuned(best, best.times, left, classical, by_fitted)


def _grids(
    denoise: Denoiser, pilot: Pilot, first: Array, last: Array, low: Array, num_calls: int, to_clean: bool
) -> Array:
    """All that are tried, (grids, num_calls + 1), in the order of `_grid_names`."""
    schedule, steps = denoise.schedule, num_calls - to_clean

    def down_to(end: Array) -> Array:
        by_power = jax.vmap(
            lambda rho: noise_grid(schedule, steps, t_min=end, t_max=first, scale=denoise.scale, rho=rho)
        )(jnp.asarray(RHOS))
        return jnp.concatenate([by_power, _by_rate(denoise, pilot, first, last, end, steps)])

    if not to_clean:
        return down_to(last)
    # Never above half way down, whatever the denoiser's range is.
    below = jnp.minimum(jnp.log(_LAST * denoise.scale), 0.5 * (level(schedule, first) + level(schedule, low)))
    later = inverse_log_snr(schedule, -2 * below, t_min=low, t_max=first)
    both = jnp.concatenate([down_to(low), down_to(later)])
    return jnp.pad(both, ((0, 0), (0, 1)), constant_values=schedule.t_min)


def _by_rate(denoise: Denoiser, pilot: Pilot, first: Array, last: Array, end: Array, steps: int) -> Array:
    """The two grids of eq. (2) from the first time to the end, (2, steps + 1)."""
    schedule, rows = denoise.schedule, jnp.arange(min(_FEW, len(pilot.x)))
    denoise, times = denoise.at_rows(rows), learning.long_grid(denoise, first, last)
    path = integrate_path(jax.random.key(0), denoise, pilot.x[rows], times, sampler=unipc())
    data = jax.lax.map(lambda at: denoise(*at).data, (path[:-1], times[:-1]))
    rest = (data[1:] - data[:-1]).reshape(len(times) - 2, -1)
    u = jax.vmap(lambda t: level(schedule, t))(times[:-1])
    u = u.at[0].set(jnp.minimum(u[0], u[1] + 1.0))  # alpha may be 0 there
    lengths = -jnp.diff(u)
    rate = jnp.sqrt(jnp.mean(rest**2, axis=1)) / lengths
    rate = jnp.maximum(rate, _FLOOR * rate.max())

    def grid(power: float) -> Array:
        passed = jnp.concatenate([jnp.zeros(1), jnp.cumsum(rate**power * lengths)])
        whole = jnp.interp(-level(schedule, end), -u, passed)
        inner = jnp.interp(jnp.linspace(0.0, whole, steps + 1), passed, u)
        found = jax.vmap(lambda at: inverse_log_snr(schedule, -2 * at, t_min=end, t_max=first))(inner)
        return found.at[0].set(first).at[-1].set(end)

    return jnp.stack([grid(1.0), grid(0.5)])


def _tables(num_calls: int) -> list[fitted.Modes]:
    """Of `fitted_multistep`, those with so many calls."""
    return [modes for modes, calls in fitted.CALLS.items() if num_calls in calls]


def _grid_names(count: int) -> list[str]:
    names = [*(f"rho = {rho:g}" for rho in RHOS), "constant rate", "constant root of the rate"]
    return names if count == len(names) else [*names, *(f"{name}, last step early" for name in names)]
