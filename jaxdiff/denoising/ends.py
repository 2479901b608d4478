"""The ends of time: where noise is all there is, and where it hides no more than detail."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.process import log_snr
from jaxdiff.typing import Array, Schedule, Time

PURE_NOISE = -4
"""The log-SNR at the data's scale below which noise dominates, and nothing need be known of the data."""
CLEAN = 4
"""That above which the noise is small, and densities go on to clean data as if they were smooth."""


def check_no_data_left(denoise: Denoiser, scale: Array | float, t: Time | None = None) -> None:
    """Raise ValueError where noise does not dominate at a known time t, by default the end of the range."""
    t = denoise.working_range[1] if t is None else t
    level, known = checks.known(_level(denoise.schedule, scale, t)), checks.known(t)
    if level is not None and known is not None and not level <= PURE_NOISE:
        raise ValueError(
            f"the log-SNR at t_max = {float(known):g} of {denoise.schedule} is {float(level):.3g} at the "
            f"data's scale, wanted less than {PURE_NOISE}: take a later time, a denoiser that knows one, "
            "or give the law at that time as start."
        )


def no_data_left(denoise: Denoiser, scale: Array | float, t: Time) -> Array:
    """Whether noise dominates at time t, a scalar: where that is traced the answer to be given is NaN."""
    return _level(denoise.schedule, scale, t) <= PURE_NOISE


def check_clean(denoise: Denoiser, scale: Array | float) -> None:
    """Raise ValueError where the noise is not small at the known first time of the working range."""
    t = denoise.working_range[0]
    level, known = checks.known(_level(denoise.schedule, scale, t)), checks.known(t)
    if level is not None and known is not None and not level >= CLEAN:
        raise ValueError(
            f"the log-SNR at t_min = {float(known):g} of {denoise.schedule} is {float(level):.3g} at the "
            f"data's scale, wanted more than {CLEAN}: noise hides there what a density of the data needs. "
            "Take a denoiser that knows cleaner times, or the density of noised data, by times of your own "
            "(probability_flow) or without extrapolation (density_formula)."
        )


def is_clean(denoise: Denoiser, scale: Array | float) -> Array:
    """Whether the noise is small at the first time of the working range: otherwise, where traced, NaN."""
    return _level(denoise.schedule, scale, denoise.working_range[0]) >= CLEAN


@folded
@jax.jit
def _level(schedule: Schedule, scale: Array | float, t: Time) -> Array:
    """The log-SNR at the data's scale."""
    return log_snr(schedule, t) + 2 * jnp.log(scale)
