"""How long do samples take, at equal weights and equal calls, beside the samplers of others?

    python -m benchmarks.sampling_time                    # vectors of 64 numbers, 4,096 at once
    python -m benchmarks.sampling_time --batch 64         # where what is not the network shows

A residual network is written in JAX and in PyTorch with the same weights; each library's sampler runs it for
the same number of calls on the same grid, from the same noise. Where the methods are one, the samples are
compared. Ways, each behind an adapter of a few lines, and left out with a word where it is not installed:

    jaxdiff, DPM-Solver++ 2      `integrate`, one compiled program
    jaxdiff, bare calls          as many compiled calls of the network, which is the limit of any loop
    PyTorch, bare calls          the same of PyTorch's
    k-diffusion                  sample_dpmpp_2m
    diffusers                    DPMSolverMultistepScheduler, solver type "heun", which is ours, in a loop
    azula                        DDIMSampler
    PyTorch, compiled            k-diffusion's with the network by torch.compile (--compiled; minutes)
    diffrax                      Euler of the probability flow, constant steps

Ratios are times over jaxdiff's. The measured speed of one large product stands beside.

MEASURED (two quiet cores of an AMD EPYC; jax 0.10.2, torch 2.14.1, k-diffusion 0.1.1.post1, diffusers 0.42.1,
azula 0.11.1, diffrax 0.7.2; 2026-11-30), medians and quartiles over jaxdiff's DPM-Solver++:

                                batch 1,024                batch 64
    jaxdiff, DDIM             .99  [.99, 1.01]       1.02 [1.02, 1.03]
    jaxdiff, bare calls      1.05 [1.03, 1.05]       1.07 [1.05, 1.07]
    PyTorch, bare calls      2.02 [1.99, 2.02]       1.47 [1.40, 2.41]
    k-diffusion              2.02 [2.00, 2.03]       1.42 [1.41, 1.43]
    diffusers                2.10 [2.10, 2.12]       1.75 [1.74, 1.77]
    azula                    2.07 [2.06, 2.10]       1.40 [1.40, 1.42]
    diffrax                  1.20 [1.16, 1.25]       1.03 [1.01, 1.44]
    the products alone        .78                     .37

Samples of equal methods differ by at most 3e-6 of their spread. On one busy core, a thread each, the day
before: PyTorch's 1.20 to 1.30 and 1.20 to 1.70, diffrax .99 and .90. With other work on both cores PyTorch
took 12 to 30 times as long.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from benchmarks.limits import interleaved, limits, peers, shown
from benchmarks.machine import machine
from jaxdiff.denoising import prediction

SCHEDULE = jd.Karras()
T_MIN, T_MAX = 0.02, 20.0
Weights = dict[str, np.ndarray]


def weights_of(d: int, width: int, blocks: int) -> Weights:
    """Of a residual network of x and the noise level, scaled so that samples stay of about unit size."""
    draw = np.random.default_rng(0)
    shapes = {"in": (d + 1, width), "out": (width, d)}
    shapes |= {f"{end}_{i}": (width, width) for i in range(blocks) for end in ("up", "down")}
    return {
        name: (draw.standard_normal(shape) * 0.5 / shape[0] ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }


def network(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
    """As EDM shows x and t."""
    h = jnp.concatenate([x, t[:, None]], axis=1) @ params["in"]
    for i in range((len(params) - 2) // 2):
        h = h + jax.nn.silu(h @ params[f"up_{i}"]) @ params[f"down_{i}"]
    return h @ params["out"]


def denoiser(params: Any, d: int) -> jd.Denoiser:
    """By EDM's prediction, of data of unit scale."""
    return jd.make_denoiser(
        network, params, SCHEDULE, shape=(d,), prediction=prediction.EDM(), t_min=T_MIN, t_max=T_MAX
    )


def torch_denoiser(torch: Any, weights: Weights) -> Callable[[Any, Any], Any]:
    """D(x, sigma) of rows and their levels, the same in PyTorch."""
    own = {name: torch.from_numpy(value) for name, value in weights.items()}
    blocks = (len(own) - 2) // 2

    def denoise(x: Any, sigma: Any, **_: Any) -> Any:
        sigma = sigma.reshape(-1, 1)
        total = sigma**2 + 1
        shown = x / torch.sqrt(total)
        h = torch.cat([shown, (torch.log(sigma) / 4).expand(len(x), 1)], 1) @ own["in"]
        for i in range(blocks):
            h = h + torch.nn.functional.silu(h @ own[f"up_{i}"]) @ own[f"down_{i}"]
        return x / total + sigma / torch.sqrt(total) * (h @ own["out"])

    return denoise


def main(
    batch: int, d: int, width: int, blocks: int, calls: int, rounds: int, compiled: bool
) -> dict[str, Any]:
    """Time every way that is there; returns rows, limits, versions and differences of equal methods."""
    weights = weights_of(d, width, blocks)
    params = jax.tree.map(jnp.asarray, weights)
    grid = np.asarray(jd.times.power_grid(calls, t_max=T_MAX, t_min=T_MIN, rho=7.0))
    x = T_MAX * np.random.default_rng(1).standard_normal((batch, d)).astype(np.float32)
    start, times = jnp.asarray(x), jnp.asarray(grid)

    @functools.partial(jax.jit, static_argnums=3)
    def ours(params: Any, x: jax.Array, times: jax.Array, sampler: jd.Sampler) -> jax.Array:
        return jd.integrate(jax.random.key(0), denoiser(params, d), x, times, sampler=sampler)

    call = jax.jit(lambda params, x, t: denoiser(params, d)(x, t).data)
    ways: dict[str, Callable[[], Any]] = {
        "jaxdiff, DPM-Solver++ 2": lambda: ours(params, start, times, jd.dpm_solver_pp(2)),
        "jaxdiff, DDIM": lambda: ours(params, start, times, jd.DDIM()),
        "jaxdiff, bare calls": lambda: [call(params, start, t) for t in times[:-1]],
    }
    same = {"diffusers": "jaxdiff, DPM-Solver++ 2", "azula": "jaxdiff, DDIM", "diffrax": "jaxdiff, DDIM"}
    versions = peers(["torch", "k-diffusion", "diffusers", "azula", "diffrax"])
    if "torch" in versions:
        ways |= _torch_ways(versions, weights, x, grid, compiled)
    if "diffrax" in versions:
        ways["diffrax"] = _diffrax(params, d, start, times)
    answers = {name: np.asarray(ways[name]()) for name in (*same, *same.values()) if name in ways}
    apart = {
        name: float(abs(answers[name] - answers[own]).max() / answers[own].std())
        for name, own in same.items()
        if name in answers
    }
    rows, measured = interleaved(ways, rounds), limits()
    flops = 2 * batch * calls * sum(value.size for value in weights.values())
    measured["products_ms"] = flops / measured["matmul_gflops"] / 1e6
    print(shown(rows))
    print(f"the network's products at the speed of a large one {measured['products_ms']:.2f} ms", flush=True)
    return {"rows": rows, "limits": measured, "versions": versions, "apart": apart}


def _torch_ways(
    versions: dict[str, str], weights: Weights, x: np.ndarray, grid: np.ndarray, compiled: bool
) -> dict[str, Callable[[], Any]]:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    denoise = torch_denoiser(torch, weights)
    start, sigmas = torch.tensor(x), torch.tensor(grid)
    ones = torch.ones(len(x))

    def bare() -> Any:
        with torch.no_grad():
            return [denoise(start, sigma * ones) for sigma in sigmas[:-1]]

    ways: dict[str, Callable[[], Any]] = {"PyTorch, bare calls": bare}
    if "k-diffusion" in versions:
        from k_diffusion import sampling  # pyright: ignore[reportMissingImports]

        ways["k-diffusion"] = lambda: sampling.sample_dpmpp_2m(denoise, start, sigmas, disable=True)
        if compiled:
            fast = torch.compile(denoise)
            ways["PyTorch, compiled"] = lambda: sampling.sample_dpmpp_2m(fast, start, sigmas, disable=True)
    if "diffusers" in versions:
        ways["diffusers"] = lambda: _diffusers(torch, denoise, start, sigmas)
    if "azula" in versions:
        ways["azula"] = _azula(torch, denoise, start, sigmas)
    return ways


def _diffusers(torch: Any, denoise: Callable[..., Any], start: Any, sigmas: Any) -> Any:
    import diffusers  # pyright: ignore[reportMissingImports]

    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=2, lower_order_final=False, final_sigmas_type="sigma_min", solver_type="heun"
    )
    calls = len(sigmas) - 1
    scheduler.set_timesteps(calls)  # and the grid that is ours in its place
    scheduler.sigmas, scheduler.timesteps = sigmas, torch.arange(calls)
    # It holds x with alpha = 1 / sqrt(1 + sigma^2), and asks for the noise.
    y = start / torch.sqrt(1 + sigmas[0] ** 2)
    with torch.no_grad():
        for i, sigma in enumerate(sigmas[:-1]):
            x = y * torch.sqrt(1 + sigma**2)
            y = scheduler.step((x - denoise(x, sigma.expand(len(x)))) / sigma, i, y).prev_sample
    return y * torch.sqrt(1 + sigmas[-1] ** 2)


def _azula(torch: Any, denoise: Callable[..., Any], start: Any, sigmas: Any) -> Callable[[], Any]:
    """A denoiser of its own with our schedule, alpha 1 and sigma t."""
    from azula.denoise import Denoiser, DiracPosterior  # pyright: ignore[reportMissingImports]
    from azula.sample import DDIMSampler  # pyright: ignore[reportMissingImports]

    class Own(Denoiser):
        def schedule(self, t: Any) -> tuple[Any, Any]:
            return torch.ones_like(t), t

        def forward(self, x_t: Any, t: Any, **_: Any) -> Any:
            return DiracPosterior(mean=denoise(x_t, t.expand(len(x_t))))

    class OnGrid(DDIMSampler):
        @property
        def timesteps(self) -> Any:
            return sigmas

    sampler = OnGrid(Own(), steps=len(sigmas) - 1, silent=True)

    def run() -> Any:
        with torch.no_grad():
            return sampler(start)

    return run


def _diffrax(params: Any, d: int, start: jax.Array, times: jax.Array) -> Callable[[], Any]:
    import diffrax

    @jax.jit
    def solve(params: Any, x: jax.Array, times: jax.Array) -> Any:
        denoise = denoiser(params, d)
        term = diffrax.ODETerm(lambda t, x, _: denoise(x, jnp.asarray(t)).noise)
        solution = diffrax.diffeqsolve(
            term,
            diffrax.Euler(),
            times[0],
            times[-1],
            None,
            x,
            stepsize_controller=diffrax.StepTo(times),
            max_steps=len(times),
        )
        return solution.ys[0]  # pyright: ignore[reportOptionalSubscript]

    return lambda: solve(params, start, times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sampling_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--calls", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="torch.compile too")
    flags = parser.parse_args()
    print(f"{machine()}, batch {flags.batch} x {flags.dimension}")
    print(
        json.dumps(
            main(
                flags.batch,
                flags.dimension,
                flags.width,
                flags.blocks,
                flags.calls,
                flags.rounds,
                flags.compiled,
            )
        )
    )
