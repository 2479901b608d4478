"""Solvers with noise have no exact map to be held to: the law of their samples is, the "noisy" part.

The energy distance, without bias, between samples at t_min and as many new draws of the data's law noised to
it; each solver at the best of three rho, chosen on other laws by the same judge. Draws of the law in the
place of samples say what the judge makes of nothing, and the deterministic UniPC is beside them.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.solver_peers import Peer, grid_of
from benchmarks.solver_tasks import LAWS, SCHEDULE

CALLS = (8, 16, 40)
RHOS = (3.0, 5.0, 7.0)
PEERS_UP_TO = 24  # calls
T_MAX, T_MIN = 20.0, 0.02
SOLVERS: dict[str, jd.Sampler] = {
    "ancestral": jd.ancestral(),
    "SDE-DPM-Solver++ 2": jd.sde_dpm_solver_pp(2),
    "SDE-DPM-Solver++ 3": jd.sde_dpm_solver_pp(3),
    "Adams 3, corrected, noise 1": jd.ExponentialAdams(3, corrector=True, stochasticity=1.0),
    "Adams 3, corrected, noise .5": jd.ExponentialAdams(3, corrector=True, stochasticity=0.5),
    "UniPC 3, without noise": jd.unipc(3),
}
NOTHING = "draws of the law"


def league(name: str, seeds: int, rows: int, peers: dict[str, Peer]) -> dict[str, dict[int, float]]:
    """Solver to calls to the mean energy distance over judged seeds, each at its own rho."""
    tuning = _measured(name, range(100, 100 + seeds), rows, peers)
    judged = _measured(name, range(seeds), rows, peers)
    return {
        solver: {
            calls: float(distances[:, tuning[solver][calls].mean(0).argmin()].mean())
            for calls, distances in by_calls.items()
        }
        for solver, by_calls in judged.items()
    }


def _measured(name: str, seeds: range, rows: int, peers: dict[str, Peer]) -> dict[str, dict[int, np.ndarray]]:
    """Energy distances, (seeds, rhos)."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for row, seed in enumerate(seeds):
        draw = np.random.default_rng([seed, *name.encode()])
        law = LAWS[name](draw)
        denoise = law.denoiser(SCHEDULE)
        start_key, end_key, fresh_key, key = jax.random.split(jax.random.key(seed), 4)
        x = law.perturbed(SCHEDULE, T_MAX).sample(start_key, rows)
        end = law.perturbed(SCHEDULE, T_MIN)
        reference = end.sample(end_key, rows)
        for calls, (column, rho) in itertools.product(CALLS, enumerate(RHOS)):
            times = jnp.asarray(grid_of(calls, rho, (T_MAX, T_MIN)))
            samples = {
                name: jd.integrate(key, denoise, x, times, sampler=sampler)
                for name, sampler in SOLVERS.items()
            }
            samples[NOTHING] = end.sample(fresh_key, rows)
            for solver, peer in peers.items() if calls <= PEERS_UP_TO else ():
                samples[solver] = jnp.asarray(peer(denoise, np.asarray(x), calls, rho, (T_MAX, T_MIN)))
            for solver, drawn in samples.items():
                of = found.setdefault(solver, {}).setdefault(calls, np.empty((len(seeds), len(RHOS))))
                of[row, column] = jd.metrics.energy_distance(drawn, reference).value
    return found
