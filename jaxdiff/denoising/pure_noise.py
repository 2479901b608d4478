"""Where noise is all there is: the end of time, from which sampling starts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.noising.process import log_snr
from jaxdiff.typing import Array, Schedule, Time

LEAST_NOISE = -4
"""The log-SNR at the data's scale below which noise dominates, and nothing need be known of the data."""


def check_no_data_left(denoise: Denoiser, scale: Array | float, t: Time | None = None) -> None:
    """Raise ValueError where noise does not dominate at a known time t, by default the end of the range."""
    t = denoise.working_range[1] if t is None else t
    level, known = checks.known(_level(denoise.schedule, scale, t)), checks.known(t)
    if level is not None and known is not None and not level <= LEAST_NOISE:
        raise ValueError(
            f"the log-SNR at t_max = {float(known):g} of {denoise.schedule} is {float(level):.3g} at the "
            f"data's scale, wanted less than {LEAST_NOISE}: take a later time, a denoiser that knows one, "
            "or give the law at that time as start."
        )


def no_data_left(denoise: Denoiser, scale: Array | float, t: Time) -> Array:
    """Whether noise dominates at time t, a scalar: where that is traced the answer to be given is NaN."""
    return _level(denoise.schedule, scale, t) <= LEAST_NOISE


@folded
@jax.jit
def _level(schedule: Schedule, scale: Array | float, t: Time) -> Array:
    """The log-SNR at the data's scale."""
    return log_snr(schedule, t) + 2 * jnp.log(scale)
