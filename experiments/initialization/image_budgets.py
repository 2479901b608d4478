"""What starts and grids of images are worth in nats, by the model's score and without it."""

from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from experiments import estimates
from experiments.estimates import as_figure
from experiments.image_problems import SCHEDULE, Problem
from experiments.initialization import image_runs
from experiments.initialization.image_starts import FLOW, Fit
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.noising import times
from jaxdiff.noising.process import perturb
from jaxdiff.sampling.budget import discretization_error, initialization_error, score_curvature
from jaxdiff.typing import Array, Key

_NOISES = 8  # of each test image, for the gain


def of_starts(
    problem: Problem, denoise: Denoiser, fits: dict[tuple[str, float], Fit], test: Array, key: Key
) -> list[dict[str, Any]]:
    """What each start is worth on held-out images."""
    rows = []
    for (name, horizon), fitted in fits.items():
        x = jnp.tile(test, (_NOISES, 1))
        x = perturb(SCHEDULE, x, noise_like(key, x), horizon)
        gain = fitted.law.log_prob(x) - fits["gaussian", horizon].law.log_prob(x)
        gain = np.asarray(gain, np.float64).reshape(_NOISES, -1).mean(0)
        initialization = None
        # The estimate asks the start for its denoiser.
        if name != FLOW and horizon < problem.t_max:
            law = cast(Distribution, fitted.law)
            initialization = as_figure(initialization_error(key, denoise, law, test, horizon))
        rows.append(
            {
                "start": name,
                "horizon": horizon,
                "seconds": fitted.seconds,
                "sampling_error": fitted.sampling_error,
                "initialization": initialization,
                "gain": estimates.mean(gain),
            }
        )
    return rows


def of_grids(
    key: Key, denoise: Denoiser, data: Array, cells: list[tuple[float, int]], num_levels: int
) -> list[dict[str, Any]]:
    """E_disc of grids (horizon, steps), the longest first, less their last step, to no noise at all."""
    levels = times.log_snr_grid(SCHEDULE, num_levels - 1, t_max=cells[0][0], t_min=image_runs.T_MIN)
    curvature = score_curvature(key, denoise, data, levels)
    return [
        {
            "horizon": horizon,
            "steps": steps,
            "nats": float(discretization_error(curvature, image_runs.grid(steps, horizon)[:-1])),
        }
        for horizon, steps in cells
    ]
