"""Two times for each row: what flow maps are trained at."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.maps.flow_map import FlowMap, check_map
from jaxdiff.noising import times
from jaxdiff.noising.process import inverse_log_snr
from jaxdiff.typing import Array, Key

_RHO = 7.0  # as `times.noise_grid`
_MOST_NOISE = 100.0


def drawn_pairs(
    key: Key, flow_map: FlowMap, n: int, *, equal: Array | float = 0.5, ends: Array | float = 0.25
) -> tuple[Array, Array]:
    """n pairs (t, s), s <= t, each (n,), over the working range of the map's denoiser.

    Both are of one law, log(sigma / alpha) ~ N(log(scale) - 0.4, 1.6^2), in order, as MeanFlow's are. Of the
    rows a share `equal` has s = t, where a map is its denoiser. Of the others, a share `ends` has t at the
    end of the range, where samples begin, and independently as many s at its first time, where they end.
    Raises ValueError for shares outside of [0, 1].

    >>> flow_map = jd.maps.gaussian_map(jd.Gaussian([0.0], 1.0), jd.Karras())
    >>> t, s = jd.maps.drawn_pairs(jax.random.key(0), flow_map, 8, equal=0.0)
    >>> bool((s < t).all())
    True
    """
    checks.key(key)
    check_map("flow_map", flow_map)
    checks.integer("n", n, 1)
    for name, share in (("equal", equal), ("ends", ends)):
        checks.within(name, share, 0.0, 1.0)
        checks.shape(name, share, ())
    return _drawn_pairs(key, flow_map, equal, ends, n)


@compiled(static="n")
def _drawn_pairs(
    key: Key, flow_map: FlowMap, equal: Array | float, ends: Array | float, n: int
) -> tuple[Array, Array]:
    t_key, s_key, share_key = jax.random.split(key, 3)
    denoise = flow_map.denoiser
    t_min, t_max = denoise.working_range

    def law(key: Key) -> Array:
        u, mean = times.stratified(key, n), jnp.log(denoise.scale) - 0.4
        return times.log_normal(u, denoise.schedule, mean=mean, std=1.6, t_min=t_min, t_max=t_max).t

    # Stratified draws rise with the row: those of s are dealt anew.
    shares = per_row(share_key, n, lambda key: jax.random.uniform(key, (4,)))
    one, other = law(t_key), law(s_key)[jnp.argsort(shares[:, 3])]
    same = shares[:, 0] < equal
    t = jnp.where(same, one, jnp.where(shares[:, 1] < ends, t_max, jnp.maximum(one, other)))
    s = jnp.where(same, one, jnp.where(shares[:, 2] < ends, t_min, jnp.minimum(one, other)))
    return t, s


def earlier(denoise: Denoiser, t: Array, ratio: Array | float) -> Array:
    """The times, t's shape (batch,), of ratio times the sigma / alpha of t, at least the first that is known.

    Pure noise counts as a hundred times the data.
    """
    schedule, low = denoise.schedule, denoise.working_range[0]

    def one(t: Array) -> Array:
        level = -2 * (jnp.log(_noise_to_data(denoise, t)) + jnp.log(ratio))
        return inverse_log_snr(schedule, level, t_min=jnp.minimum(low, t), t_max=t)

    return jax.lax.stop_gradient(jax.vmap(one)(t))


def _noise_to_data(denoise: Denoiser, t: Array) -> Array:
    """sigma / alpha at a scalar time, at most that which counts as pure noise."""
    ratio = denoise.schedule.sigma(t) / jnp.maximum(denoise.schedule.alpha(t), 1e-12)
    return jnp.minimum(ratio, _MOST_NOISE * jnp.asarray(denoise.scale, t.dtype))


def way(denoise: Denoiser, t: Array, s: Array, num_steps: int) -> Array:
    """num_steps + 1 times from t to s, each (batch,), on the way even in (sigma / alpha)^(1/7)."""
    return jax.vmap(lambda t, s: _way(denoise, t, s, num_steps), out_axes=1)(t, s)


def _way(denoise: Denoiser, t: Array, s: Array, num_steps: int) -> Array:
    schedule, low = denoise.schedule, denoise.working_range[0]
    high, least = (_noise_to_data(denoise, v) for v in (t, s))
    ratios = jnp.linspace(high ** (1 / _RHO), least ** (1 / _RHO), num_steps + 1) ** _RHO
    levels = -2 * jnp.log(jnp.maximum(ratios, 1e-12))
    bracket = jnp.minimum(jnp.maximum(s, low), t)  # the schedule's first time may be infinite
    found = jax.vmap(lambda v: inverse_log_snr(schedule, v, t_min=bracket, t_max=t))(levels)
    return jax.lax.stop_gradient(found).at[0].set(t).at[-1].set(s)
