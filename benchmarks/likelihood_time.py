"""Error of log-densities against time: our probability flow and formula beside diffrax's solvers.

    python -m benchmarks.likelihood_time

The law is a mixture of eight Gaussians in the plane, or of five in 16 dimensions, whose log p is known; the
denoiser is exact, so that all error is the method's. Beside ours stands the continuous normalizing flow that
a careful user of diffrax writes for the same field: dx / d log(sigma) = sigma noise(x, sigma) with the exact
trace by d tangents, Tsit5 or Dopri5 with a PID controller for each row, between the same two levels.

Of each way and each setting: root mean square error in nats over the rows, and milliseconds a row; then the
least time of each kind to .01 nats, which is rough: settings are at most twofold in steps, and three- to
tenfold in tolerance.

MEASURED (two quiet cores of an AMD EPYC, jax 0.10.2, diffrax 0.7.2, 2026-11-30; 256 rows):

                                 d = 2: nats    ms a row     d = 16: nats    ms a row
    flow, 16 steps                      .015       .0125             .021         .107
    flow, 24 steps                     .0052       .0175            .0051         .157
    flow, 32 steps                     .0024       .0228            .0016         .206
    flow, 64 steps                     .0010       .0436           .00021         .399
    flow, adaptive, 1e-4               .0011       .0579            .0036         .434
    formula, 512 evaluations             .22        .151              .16         .291
    diffrax Tsit5, 1e-3                 .063       .0162              .11         .403
    diffrax Tsit5, 1e-4                .0037       .0199            .0052         .395

So to .01 nats diffrax's adaptive flow takes 1.14 and 2.5 times the time of our fixed grid, whose two traces
an interval are most of its arithmetic: with four, as of the classical rule, and even steps diffrax's took
.76 and .84 of its time. Between its tolerances, at 3e-4, it errs by .011 and .013 nats and is 3 and 5 %
faster than at 1e-4 (busy cores). The grid's two constants were chosen among eight pairs on these two laws
and on a network of digits, where 24 of its intervals err by .003 nats and 24 even ones by .010. The formula
is for more dimensions.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.limits import interleaved, peers
from benchmarks.machine import machine

SCHEDULE = jd.Karras()
T_MIN, T_MAX = 0.003, 30.0
ENOUGH = 0.01


def law_of(name: str) -> jd.GaussianMixture:
    """One of `LAWS`."""
    draw = np.random.default_rng(0)
    if name == "d = 2":
        angles = np.arange(8) * np.pi / 4
        means = 1.4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return jd.GaussianMixture(np.full(8, 1 / 8), means, np.full(8, 0.1**2))
    return jd.GaussianMixture(np.full(5, 0.2), draw.normal(size=(5, 16)), draw.uniform(0.05, 0.5, (5, 16)))


LAWS = ("d = 2", "d = 16")


def ours(law: jd.GaussianMixture) -> dict[str, Callable[[jax.Array, jax.Array], Any]]:
    """Ways of jaxdiff by name and setting: functions of a key and rows, that answer log-densities."""
    denoise = law.denoiser(SCHEDULE)
    start = law.perturbed(SCHEDULE, T_MAX)

    def fixed(steps: int) -> Callable[..., Any]:
        scale = denoise.scale
        grid = jd.times.log_snr_grid(SCHEDULE, steps, t_max=T_MAX, t_min=T_MIN, scale=scale)[::-1]
        return lambda key, x: jd.probability_flow(key, denoise, x, grid, start=start).value

    def adaptive(tolerance: float) -> Callable[..., Any]:
        return lambda key, x: (
            jd.adaptive_probability_flow(
                key, denoise, x, t_min=T_MIN, t_max=T_MAX, tolerance=tolerance, start=start
            ).value
        )

    def formula(number: int) -> Callable[..., Any]:
        return lambda key, x: (
            jd.density_formula(
                key,
                denoise,
                x,
                evaluations=jd.Evaluations(number, reference=jd.Gaussian(law.means.mean(0), 1.0)),
            ).value
        )

    ways = {f"flow, {n} steps": fixed(n) for n in (8, 16, 24, 32, 64)}
    ways |= {f"flow, adaptive {t:g}": adaptive(t) for t in (1e-2, 1e-3, 1e-4)}
    return ways | {f"formula, {n} evaluations": formula(n) for n in (64, 512)}


def by_diffrax(law: jd.GaussianMixture) -> dict[str, Callable[[jax.Array, jax.Array], Any]]:
    """The continuous normalizing flow, adaptive in each row."""
    import diffrax

    denoise, d = law.denoiser(SCHEDULE), law.means.shape[1]
    start = law.perturbed(SCHEDULE, T_MAX)

    def field(level: Any, state: tuple[jax.Array, jax.Array], _: Any) -> tuple[jax.Array, jax.Array]:
        sigma = jnp.exp(level)

        def velocity(x: jax.Array) -> jax.Array:
            return sigma * denoise(x[None], jnp.asarray(sigma)).noise[0]

        slope, pushed = jax.linearize(velocity, state[0])
        return slope, jnp.trace(jax.vmap(pushed)(jnp.eye(d)))

    def with_solver(solver: Any, tolerance: float) -> Callable[..., Any]:
        def one(x: jax.Array) -> jax.Array:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                solver,
                math.log(T_MIN),
                math.log(T_MAX),
                0.1,
                (x, jnp.zeros(())),
                stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
                max_steps=2000,
            )
            ended, gained = jax.tree.map(lambda leaf: leaf[0], solution.ys)
            return start.log_prob(ended) + gained

        return lambda key, x: jax.vmap(one)(x)

    ways = {f"diffrax Tsit5, {t:g}": with_solver(diffrax.Tsit5(), t) for t in (1e-2, 1e-3, 3e-4, 1e-4)}
    return ways | {"diffrax Dopri5, 0.001": with_solver(diffrax.Dopri5(), 1e-3)}


def main(rows: int, rounds: int, laws: tuple[str, ...] = LAWS) -> dict[str, Any]:
    """Errors and times of every way on every law."""
    versions, results = peers(["diffrax"]), {}
    for name in laws:
        law = law_of(name)
        x = law.sample(jax.random.key(1), rows)
        exact = np.asarray(law.log_prob(x), np.float64)
        ways = ours(law) | (by_diffrax(law) if versions else {})
        key = jax.random.key(0)
        compiled = {way: jax.jit(function) for way, function in ways.items()}
        errors = {
            way: float(np.sqrt(np.mean((np.asarray(f(key, x), np.float64) - exact) ** 2)))
            for way, f in compiled.items()
        }
        times = interleaved({way: functools.partial(f, key, x) for way, f in compiled.items()}, rounds)
        results[name] = {
            way: {"error": errors[way], "ms_a_row": 1e3 * row["seconds"] / rows, "ratio": row["ratio"]}
            for way, row in times.items()
        }
        print(name)
        for way, row in results[name].items():
            print(f"    {way:28} {row['error']:9.5f} nats  {row['ms_a_row']:9.4f} ms a row")
        for kind in ("flow", "formula", "diffrax"):
            enough = [
                row["ms_a_row"]
                for way, row in results[name].items()
                if way.startswith(kind) and row["error"] <= ENOUGH
            ]
            print(
                f"    {kind} to {ENOUGH} nats: {f'{min(enough):.4f} ms a row' if enough else 'not reached'}"
            )
    return {"results": results, "versions": versions}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.likelihood_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    print(machine())
    print(json.dumps(main(flags.rows, flags.rounds)))
