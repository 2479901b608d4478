"""The integrand of the density formula over noise levels, as a function of what is drawn for it.

    (1/2) int E[(N - N_ref) . (2 eps - N - N_ref)] dlambda                                       (1)

of `jaxdiff.densities.formula`, eqs. (3) and (4), with lambda drawn through u = sqrt(sigmoid(-lambda - 2 log
scale)), where dlambda = -2 du / (u (1 - u^2)), and u by a piecewise constant density.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics.low_discrepancy import Integrand
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.shaped import Shaped
from jaxdiff.noising.process import inverse_log_snr, log_snr_at_end, perturb
from jaxdiff.typing import Array, Time


class TimeDensity(NamedTuple):
    """Where the evaluations go: a law of u, piecewise constant on equal bins of (0, 1)."""

    scale: Array | float | None = None
    """Standard deviation of the data, where the noise has u^2 = 1/2; by default the denoiser's."""
    masses: Array | tuple[float, ...] = (1.0,)
    """Positive, one a bin, in proportion to the evaluations there."""


class KnownTimeDensity(NamedTuple):
    """A `TimeDensity` whose scale is known."""

    scale: Array | float
    masses: Array | tuple[float, ...] = (1.0,)


def level_integrand(
    denoise: Denoiser,
    reference: Denoiser,
    x: Array,
    t_min: Time,
    t_max: Time,
    open_ends: tuple[bool, bool],
    time_density: KnownTimeDensity,
) -> Integrand:
    """A function of v in (0, 1) and noise whose mean over both is eq. (1) from t_max to t_min, for rows of x.

    reference: what answers N_ref, under the same schedule: a law's denoiser, or another network's.
    Where an end (t_min, t_max) is open the integral goes on to clean data or to pure noise, with the value at
    the end decaying at the rates that it has in the limits.
    """
    schedule = denoise.schedule
    log_scale = 2 * jnp.log(jnp.asarray(time_density.scale, float))
    high, low = (log_snr_at_end(schedule, t, 0.5 * (t_min + t_max)) for t in (t_min, t_max))
    masses = jnp.asarray(time_density.masses, float)
    bins = len(masses)
    cumulative = jnp.concatenate([jnp.zeros_like(masses[:1]), jnp.cumsum(masses / masses.sum())])
    edges = jnp.linspace(0, 1, bins + 1)

    def share_below(level: Array) -> Array:
        return jnp.interp(jnp.sqrt(jax.nn.sigmoid(-level - log_scale)), edges, cumulative)

    first = 0.0 if open_ends[0] else share_below(high)
    last = 1.0 if open_ends[1] else share_below(low)

    def integrand(rows: Array, noise: Array, stratum: Array, v: Array) -> Array:
        share = first + (last - first) * v
        bin_of = jnp.clip(jnp.searchsorted(cumulative, share, side="right") - 1, 0, bins - 1)
        slope = (last - first) / (bins * jnp.diff(cumulative)[bin_of])  # du / dv
        # At the rounded ends the integrand has its limits already, to the square of this distance.
        eps = jnp.finfo(v.dtype).eps
        u = jnp.clip(jnp.interp(share, cumulative, edges), eps**0.5, 1 - 4 * eps)
        remaining = (1 - u) * (1 + u)
        level = jnp.log(remaining) - 2 * jnp.log(u) - log_scale
        t = jax.vmap(lambda level: inverse_log_snr(schedule, level, t_min=t_min, t_max=t_max))(level)
        decay = jnp.exp(-jnp.maximum(level - high, 0) - jnp.maximum(low - level, 0))
        difference = _half_difference(denoise.at_rows(rows), reference.at_rows(rows), x[rows], noise, t)
        return slope * 2 / (u * remaining) * decay * difference

    return integrand


def default_reference(denoise: Denoiser, x: Array) -> Distribution:
    """N(0, scale^2 I) of the denoiser's scale, a law of points like x."""
    normal = Gaussian(jnp.zeros(x[0].size, x.dtype), jnp.asarray(denoise.scale, x.dtype) ** 2)
    return Shaped(normal, x.shape[1:])


def _half_difference(denoise: Denoiser, reference: Denoiser, x: Array, noise: Array, t: Array) -> Array:
    """The integrand of eq. (1) for rows x and noise at times t, shape (k,)."""
    x_t = jax.vmap(lambda x, noise, t: perturb(denoise.schedule, x, noise, t))(x, noise, t)
    own, other = denoise(x_t, t).noise, reference(x_t, t).noise
    product = (own - other) * (2 * noise - own - other)
    return 0.5 * jnp.sum(product.reshape(len(x), -1), axis=1)
