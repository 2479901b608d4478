"""Do solvers have the order that they name, on every schedule, and how much does single precision cost?

    python -m benchmarks.solver_orders [--steps N] [--schedules SCHEDULE ...]

On a mixture of three Gaussians in the plane, whose flow is not linear, from sigma / alpha = 20 to .05 by N
and 2 N steps uniform in its logarithm. In y = x / alpha and r = sigma / alpha the flow is one on all
schedules, so that one exact map is that of all: 4,000 steps of order 4 in doubles. The order is the base-2
logarithm of the ratio of the root mean square errors. Rounding is the largest difference of a run of 32 steps
in single precision, denoiser and all, from that in doubles, over the largest |x| of its end.

MEASURED (a share of a core of an AMD EPYC, jax 0.10.2, 2026-11-29): all within .04 of what they name,
`unipc(2)` 2.96, `ExponentialAdams(4)` 3.97, the third Runge-Kutta 2.98; rounding 8e-8 to 1e-6, and 5e-6 where
the variance is linear in time.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.machine import machine
from jaxdiff.noising.process import inverse_log_snr
from jaxdiff.typing import Schedule

SCHEDULES: dict[str, Schedule] = {
    "Karras": jd.Karras(),
    "VE": jd.VarianceExploding(),
    "VP": jd.VariancePreserving(),
    "sub-VP": jd.SubVariancePreserving(),
    "cosine": jd.Cosine(),
    "flow": jd.RectifiedFlow(),
    "OU": jd.OrnsteinUhlenbeck(),
    "linear variance": jd.LinearVariance(),
    "DDPM table": jd.from_betas(jnp.linspace(1e-4, 0.02, 1000)),
}
SOLVERS: dict[str, tuple[jd.Sampler, int]] = {
    "DDIM": (jd.DDIM(), 1),
    "Heun": (jd.Heun(), 2),
    "dpm_solver_pp(2)": (jd.dpm_solver_pp(2), 2),
    "dpm_solver_pp(3)": (jd.dpm_solver_pp(3), 3),
    "deis(3)": (jd.deis(3), 3),
    "unipc(2)": (jd.unipc(2), 3),
    "ExponentialAdams(4)": (jd.ExponentialAdams(4), 4),
    "ExponentialRungeKutta(3)": (jd.ExponentialRungeKutta(3), 3),
    "ExponentialRungeKutta(4)": (jd.ExponentialRungeKutta(4), 4),
}
FIRST, LAST, ROUNDING_STEPS = 20.0, 0.05, 32


def grid(schedule: Schedule, steps: int) -> jax.Array:
    """Times uniform in log(sigma / alpha) between the ends."""
    low, high = schedule.working_range
    levels = jnp.linspace(jnp.log(FIRST), jnp.log(LAST), steps + 1)
    return jax.vmap(lambda at: inverse_log_snr(schedule, -2 * at, t_min=low, t_max=high))(levels)


def law(dtype: jax.typing.DTypeLike = float) -> jd.GaussianMixture:
    """Three modes in the plane."""
    means, weights, variances = [[-1.0, 0.2], [1.0, 0.5], [0.1, -1.2]], [0.3, 0.5, 0.2], [0.1, 0.15, 0.2]
    return jd.GaussianMixture(*(jnp.asarray(a, dtype) for a in (weights, means, variances)))


def main(
    steps: int,
    solvers: Mapping[str, tuple[jd.Sampler, int]] = SOLVERS,
    schedules: Mapping[str, Schedule] = SCHEDULES,
) -> dict[str, dict[str, tuple[float, float]]]:
    """Print and return, by solver and schedule, the order and the rounding."""
    print(machine())
    y = jnp.asarray(np.random.default_rng(0).standard_normal((16, 2))) * np.hypot(FIRST, 1.0)
    fine, key = jnp.geomspace(FIRST, LAST, 4001), jax.random.key(0)
    exact = jd.integrate(key, law().denoiser(jd.Karras()), y, fine, sampler=jd.ExponentialRungeKutta(4))
    found: dict[str, dict[str, tuple[float, float]]] = {}
    print(f"{'':<26}{'named':>6}" + "".join(f"{name:>17}" for name in schedules))
    for solver, (sampler, order) in solvers.items():
        for name, schedule in schedules.items():
            # A table made before doubles were on is one of single precision, whose rounding would be seen.
            schedule = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), schedule)

            @jax.jit
            def step(state, denoise, t, s, sampler=sampler):  # type: ignore[no-untyped-def]
                return sampler.step(jax.random.key(0), denoise, state, t, s)

            def run(n: int, dtype: jax.typing.DTypeLike, schedule=schedule, step=step, sampler=sampler):  # type: ignore[no-untyped-def]
                denoise, times = law(dtype).denoiser(schedule), grid(schedule, n).astype(dtype)
                state = sampler.init((schedule.alpha(times[0]) * y).astype(dtype))
                for t, s in itertools.pairwise(times):
                    state = step(state, denoise, t, s)
                return np.asarray(state.x, float) / float(schedule.alpha(times[-1]))

            errors = [np.sqrt(np.mean((run(n, float) - exact) ** 2)) for n in (steps, 2 * steps)]
            in_doubles = run(ROUNDING_STEPS, float)
            rounding = np.abs(run(ROUNDING_STEPS, jnp.float32) - in_doubles).max() / np.abs(in_doubles).max()
            found.setdefault(solver, {})[name] = float(np.log2(errors[0] / errors[1])), float(rounding)
        shown = (f"{p:8.2f} {rounding:8.0e}" for p, rounding in found[solver].values())
        print(f"{solver:<26}{order:>6}" + "".join(shown), flush=True)
    furthest = max(abs(p - solvers[s][1]) for s, by in found.items() for p, _ in by.values())
    largest = max(rounding for by in found.values() for _, rounding in by.values())
    print(f"orders within {furthest:.2f} of the named ones; rounding at most {largest:.0e}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--schedules", nargs="+", choices=tuple(SCHEDULES), default=tuple(SCHEDULES))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    main(arguments.steps, schedules={name: SCHEDULES[name] for name in arguments.schedules})
