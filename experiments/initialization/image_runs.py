"""Runs of samplers of images: their grids, their calls of the denoiser, and their time."""

import functools
import time
from collections.abc import Callable

import jax

from experiments.image_problems import SCHEDULE
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.times import power_grid, to_clean
from jaxdiff.sampling.ddim import DDIM
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.heun import Heun
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Array, Key, StartLaw

SAMPLERS: dict[str, Sampler] = {"heun": Heun(), "ddim": DDIM()}
NO_CALLS = "none"
"""In place of a sampler: draws of the start as they are."""
RHO, T_MIN = 7, 2e-3  # of the quickstart's own grid


def grid(steps: int, horizon: float) -> Array:
    """Times from the horizon down, so many steps and the denoised end."""
    return to_clean(SCHEDULE, power_grid(steps, t_max=horizon, t_min=T_MIN, rho=RHO))


def calls(sampler: str, steps: int) -> int:
    """Of the denoiser, the end included."""
    if sampler == NO_CALLS:
        return 0
    return 2 * steps + 1 if sampler == "heun" else steps + 1


def runner(denoise: Denoiser, key: Key, draw_key: Key, like: Array) -> Callable[..., tuple[Array, float]]:
    """run(law, sampler, times): as many samples as rows of like, and seconds; one program for each length."""

    @functools.cache
    def compiled(sampler: str, length: int) -> Callable[[Array, Array], Array]:
        program = functools.partial(integrate, key, denoise, sampler=SAMPLERS[sampler])
        return jax.jit(program).lower(like, jax.ShapeDtypeStruct((length,), like.dtype)).compile()

    def run(law: StartLaw, sampler: str, times: Array) -> tuple[Array, float]:
        program = compiled(sampler, len(times))
        x = jax.block_until_ready(law.sample(draw_key, len(like)))
        began = time.monotonic()
        return jax.block_until_ready(program(x, times)), time.monotonic() - began

    return run
