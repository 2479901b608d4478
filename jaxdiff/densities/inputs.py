"""What every density asks of its data and its times, and what it answers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff._numerics.precision import single
from jaxdiff.denoising.conditions import rows_of
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.denoising.ends import check_no_data_left
from jaxdiff.noising.process import log_snr
from jaxdiff.typing import Array, Key, Schedule


class LogDensity(NamedTuple):
    """Log-densities in nats and the standard errors of their Monte Carlo part, each of shape (batch,)."""

    value: Array
    standard_error: Array


def check_data(key: Key, denoise: Denoiser, x: Array) -> Array:
    """x, shape (batch, *denoise.shape), in single precision or better.

    Raises TypeError for what is no key, denoiser or array of floats, and ValueError for no rows, NaN, another
    shape, and a condition of another number of rows.
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.batch("x", x)
    denoise.check_shape("x", x)
    checks.finite("x", x)
    _check_conditions(denoise, len(x))
    return single(x)


def check_times(
    denoise: Denoiser, times: Array, dtype: DTypeLike, *, noise_at_the_end: bool = False
) -> Array:
    """times, an increasing grid, in a precision.

    Raises ValueError where they do not increase strictly, the denoiser does not know them, a log-SNR is
    infinite or, with noise_at_the_end, noise does not dominate at the last.
    """
    checks.times(denoise.schedule, times, increasing=True)
    denoise.check_times("times", times)
    known = checks.known(times)
    if known is not None:
        levels = checks.known(_log_snrs(denoise.schedule, jnp.asarray(known, float)))
        if levels is not None and not np.isfinite(levels).all():
            at = int(np.argmin(np.isfinite(levels)))
            raise ValueError(
                f"the log-SNR at times[{at}] = {known[at]:g} is {levels[at]:g}, wanted a finite one: keep "
                f"times inside the range of {denoise.schedule}, where both alpha and sigma are above zero."
            )
        if noise_at_the_end:
            check_no_data_left(denoise, denoise.scale, float(known[-1]))
    return jnp.asarray(times, dtype)


def grid_log_snr(schedule: Schedule, times: Array) -> Array:
    """Log-SNRs at times, (n,), in their precision; all NaN for times that `check_times` refuses if known."""
    levels = _log_snrs(schedule, times).astype(times.dtype)
    good = jnp.all(times[:-1] < times[1:]) & jnp.all(jnp.isfinite(levels))
    return jnp.where(good, levels, jnp.nan)


def normal_log_prob(x: Array, std: Array | float) -> Array:
    """Log-density of N(0, std^2 I) at x, shape (batch, ...) -> (batch,)."""
    rows = x.reshape(x.shape[0], -1) / std
    return -0.5 * jnp.sum(rows**2, axis=1) - rows.shape[1] * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi))


@folded
@jax.jit
def _log_snrs(schedule: Schedule, times: Array) -> Array:
    return jax.vmap(lambda t: log_snr(schedule, t))(times)


def _check_conditions(denoise: Denoiser, n: int) -> None:
    """Raise ValueError unless a condition, also that of a denoiser inside of this one, has n rows or one."""
    jax.eval_shape(lambda condition: rows_of(condition, n), denoise.condition)
    for part in jax.tree.leaves(denoise.estimate, is_leaf=lambda node: isinstance(node, Denoiser)):
        if isinstance(part, Denoiser):
            _check_conditions(part, n)
