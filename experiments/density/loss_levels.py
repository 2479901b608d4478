"""How often a diffusion loss draws each noise level, and what it weighs there.

The loss that counts is int w |eps - N|^2 dlambda; drawn with density p, it is the mean of w / p |eps - N|^2,
whatever p. The gradient of a mean over independent draws has the least variance where p is in proportion to w
times the standard deviation of the gradient at a level.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxdiff.noising import times
from jaxdiff.typing import Array, Key, Params, Schedule

PARTS = 16


class Levels(NamedTuple):
    """Of equal parts of log-SNR, clean ones first: densities of draws and weights, (PARTS,), of mean one."""

    density: Array
    weight: Array


def formula() -> Levels:
    """The density formula's: log-SNR uniform."""
    return Levels(jnp.ones(PARTS), jnp.ones(PARTS))


def uniform(schedule: Schedule, *, t_min: float, t_max: float) -> Levels:
    """Times uniform under a schedule."""
    edges = times.log_snr_grid(schedule, PARTS, t_min=t_min, t_max=t_max)[::-1]
    share = PARTS * jnp.diff(edges) / (t_max - t_min)
    return Levels(share, share)


def between(levels: Levels, share: Array | float) -> Array:
    """Weights on the way, geometrically, from those of levels to the formula's at share 1."""
    weight = levels.weight ** (1 - share)
    return weight / weight.mean()


def matched(weight: Array, noise: Array) -> Levels:
    """Levels of these weights that are drawn in proportion to the noise of their weighted gradients."""
    density = weight * noise
    return Levels(density / density.mean(), weight)


def at_part(part: Array) -> Levels:
    """One part alone, at weight one."""
    only = jax.nn.one_hot(part, PARTS)
    return Levels(only, only + (only == 0))  # elsewhere 1 / 0, which is never drawn


def drawn(u: Array, schedule: Schedule, levels: Levels, *, t_min: float, t_max: float) -> tuple[Array, Array]:
    """Times for points u of (0, 1), and the weights that their losses take, w / p."""
    edges = jnp.linspace(0.0, 1.0, PARTS + 1)
    heights = jnp.concatenate([jnp.zeros(1), jnp.cumsum(levels.density) / levels.density.sum()])
    v = jnp.clip(jnp.interp(u, heights, edges), 0.0, 1.0)
    part = jnp.clip((v * PARTS).astype(int), 0, PARTS - 1)
    t = times.log_snr_uniform(v, schedule, t_min=t_min, t_max=t_max).t
    return t, (levels.weight / levels.density)[part]


def gradient_noise(
    key: Key, loss: Callable[[Params, Key, Levels], Array], params: Params, *, num_batches: int = 4
) -> Array:
    """Standard deviation of the gradient of loss(params, key, levels) over batches at each part, (PARTS,)."""

    def of_part(part: Array) -> Array:
        levels, keys = at_part(part), jax.random.split(jax.random.fold_in(key, part), num_batches)
        gradients = jax.lax.map(lambda key: ravel_pytree(jax.grad(loss)(params, key, levels))[0], keys)
        return jnp.sqrt(jnp.sum(jnp.var(gradients, axis=0, ddof=1)))

    return jax.lax.map(of_part, jnp.arange(PARTS))


def noise_of(levels: Levels, noise: Array) -> float:
    """Standard deviation of the gradient under levels whose parts have that noise, up to a common factor.

    Of one draw about the mean of its part; the batch's number of draws divides all levels' alike.
    """
    return float(jnp.sqrt(jnp.mean(levels.weight**2 / levels.density * noise**2)))
