"""Solvers of diffusers, k-diffusion and diffrax for the league, with our denoiser, grid and calls."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff._numerics.randomness import noise_like

Peer = Callable[[jd.Denoiser, np.ndarray, int, float, tuple[float, float]], np.ndarray]
"""``peer(denoise, x, calls, rho, ends)``: x at the second of the ends, by so many calls from the first."""


def grid_of(calls: int, rho: float, ends: tuple[float, float]) -> np.ndarray:
    """calls + 1 times of the grid that all solvers have."""
    return np.array(jd.times.power_grid(calls, t_max=ends[0], t_min=ends[1], rho=rho))


@jax.jit
def noise(denoise: jd.Denoiser, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """What diffusers asks a network for."""
    return denoise(x, sigma).noise


@jax.jit
def data(denoise: jd.Denoiser, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """What k-diffusion asks a network for."""
    return denoise(x, sigma).data


def _found(names: Sequence[str], what: str) -> list[Any] | None:
    try:
        modules = [importlib.import_module(name) for name in names]
    except ImportError as error:
        print(f"{what} left out: {error}")
        return None
    print(f"{names[0]} {getattr(modules[0], '__version__', '')}")
    return modules


def _of_diffusers(diffusers: Any, torch: Any) -> tuple[Callable[..., Peer], Any]:
    """What makes a peer of a scheduler class, and the module that has these."""

    def solver(kind: Any, order: int, *, noisy: bool = False, **options: Any) -> Peer:
        def sample(
            denoise: jd.Denoiser, x: np.ndarray, calls: int, rho: float, ends: tuple[float, float]
        ) -> np.ndarray:
            scheduler = kind(solver_order=order, lower_order_final=False, **options)
            grid = grid_of(calls, rho, ends)
            scheduler.set_timesteps(calls)  # and the grid that is ours in its place
            scheduler.sigmas, scheduler.timesteps = torch.from_numpy(grid), torch.arange(calls)
            fresh = {"generator": torch.Generator().manual_seed(calls)} if noisy else {}
            # These classes hold x with alpha = 1 / sqrt(1 + sigma^2).
            y = torch.from_numpy(x / np.sqrt(1 + grid[0] ** 2))
            for i, sigma in enumerate(grid[:-1]):
                answer = noise(denoise, jnp.asarray(y.numpy() * np.sqrt(1 + sigma**2)), sigma)
                y = scheduler.step(torch.from_numpy(np.array(answer)), i, y, **fresh).prev_sample
            return y.numpy() * np.sqrt(1 + grid[-1] ** 2)

        return sample

    return solver, diffusers


_ENDS = {"final_sigmas_type": "sigma_min"}  # or the last step, to our last sigma, would be of order 1


def deterministic() -> tuple[dict[str, Peer], dict[str, tuple[Peer, jd.Sampler]]]:
    """Solvers of the probability flow, and those that are ours too; of what is not installed none."""
    peers: dict[str, Peer] = {}
    same: dict[str, tuple[Peer, jd.Sampler]] = {}
    if found := _found(["diffusers", "torch"], "diffusers"):
        solver, diffusers = _of_diffusers(*found)
        multistep = functools.partial(diffusers.DPMSolverMultistepScheduler, **_ENDS)
        unipc = functools.partial(diffusers.UniPCMultistepScheduler, **_ENDS)
        deis = diffusers.DEISMultistepScheduler
        peers |= {
            "diffusers DPM-Solver++ 2": solver(multistep, 2),
            "diffusers DPM-Solver++ 3": solver(multistep, 3),
            "diffusers DEIS 3": solver(deis, 3),
            "diffusers UniPC 2, data": solver(unipc, 2),
            "diffusers UniPC 3, data": solver(unipc, 3),
            "diffusers UniPC 2, noise": solver(unipc, 2, predict_x0=False),
            "diffusers UniPC 3, noise": solver(unipc, 3, predict_x0=False),
        }
        same |= {
            "DPM-Solver++ 1": (solver(multistep, 1), jd.dpm_solver_pp(1)),
            "DPM-Solver++ 2": (solver(multistep, 2), jd.dpm_solver_pp(2)),
            "DPM-Solver++ 2, integrated": (solver(multistep, 2, solver_type="heun"), jd.ExponentialAdams(2)),
            "DEIS 2": (solver(deis, 2), jd.deis(2)),
        }
    if found := _found(["diffrax"], "diffrax"):
        peers["diffrax Tsit5"] = functools.partial(_diffrax, found[0].Tsit5(), 6)
        peers["diffrax Dopri8"] = functools.partial(_diffrax, found[0].Dopri8(), 13)
    return peers, same


def _diffrax(
    solver: Any,
    per_step: int,
    denoise: jd.Denoiser,
    x: np.ndarray,
    calls: int,
    rho: float,
    ends: tuple[float, float],
) -> np.ndarray:
    """In log(sigma), where the flow is dx = sigma N d(log sigma); NaN where the calls make no step."""
    if calls < per_step:
        return np.full_like(x, np.nan)
    times = np.log(grid_of(calls // per_step, rho, ends))
    return np.asarray(_solved(denoise, jnp.asarray(x), jnp.asarray(times), solver))


@functools.partial(jax.jit, static_argnames="solver")
def _solved(denoise: jd.Denoiser, x: jax.Array, times: jax.Array, solver: Any) -> jax.Array:
    import diffrax

    def slope(log_sigma: Any, y: Any, denoise: Any) -> jax.Array:
        return denoise(y, jnp.exp(log_sigma)).noise * jnp.exp(log_sigma)

    term = diffrax.ODETerm(slope)  # type: ignore[arg-type] - a scalar time, whatever its name says
    steps = diffrax.StepTo(times)
    solution = diffrax.diffeqsolve(
        term, solver, times[0], times[-1], None, x, denoise, stepsize_controller=steps
    )
    assert solution.ys is not None
    return solution.ys[-1]


def noisy() -> tuple[dict[str, Peer], dict[str, tuple[Peer, jd.Sampler]]]:
    """Solvers of the reverse SDE, and those that are ours too where draws are; of what is not installed
    none."""
    peers: dict[str, Peer] = {}
    same: dict[str, tuple[Peer, jd.Sampler]] = {}
    if found := _found(["diffusers", "torch"], "diffusers"):
        solver, diffusers = _of_diffusers(*found)
        multistep = functools.partial(
            diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++", **_ENDS
        )
        peers["diffusers SDE-DPM-Solver++ 2"] = solver(multistep, 2, noisy=True)
    if found := _found(["k_diffusion.sampling", "torch"], "k-diffusion"):
        sampling, torch = found
        peers["k-diffusion DPM++ 2M SDE"] = functools.partial(_k, sampling.sample_dpmpp_2m_sde, torch, None)
        peers["k-diffusion DPM++ 3M SDE"] = functools.partial(_k, sampling.sample_dpmpp_3m_sde, torch, None)
        ours = functools.partial(_k, sampling.sample_dpmpp_2m_sde, torch, jax.random.key(0))
        same["SDE-DPM-Solver++ 2"] = (ours, jd.sde_dpm_solver_pp(2))
    return peers, same


def _k(
    sampler: Any,
    torch: Any,
    key: jax.Array | None,
    denoise: jd.Denoiser,
    x: np.ndarray,
    calls: int,
    rho: float,
    ends: tuple[float, float],
) -> np.ndarray:
    """key: of the draws that `jd.integrate` makes, in place of the generator's."""
    generator, steps = torch.Generator().manual_seed(calls), itertools.count()

    def model(y: Any, sigma: Any) -> Any:
        return torch.from_numpy(np.array(data(denoise, jnp.asarray(y.numpy()), float(sigma[0]))))

    def fresh(sigma: Any, next_sigma: Any) -> Any:
        del sigma, next_sigma
        if key is not None:
            ours = noise_like(jax.random.fold_in(key, next(steps)), jnp.asarray(x))
            return torch.from_numpy(np.array(ours))
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    sigmas = torch.from_numpy(grid_of(calls, rho, ends))
    y = torch.from_numpy(np.array(x))
    return sampler(model, y, sigmas, noise_sampler=fresh, disable=True).numpy()
