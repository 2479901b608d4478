"""The posterior over a datum and a pool of others, eqs. (10) and (11) of `jaxdiff.learning.bootstrap`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.laws.components import PRECISION
from jaxdiff.typing import Array


class Rows(NamedTuple):
    """What x_t says of which of its rows made it, one entry for each datum of a batch."""

    shift: Array
    """S - x_0, of the data's shape."""
    number: Array
    """The effective number of rows, 1 / sum of squared weights, (batch,)."""
    unresolved: Array
    """tr Cov(n_t | x_t, rows), (batch,): about the number of directions in which the rows left lie."""


def posterior(own: Array, pool: Array, noise: Array, ratio: Array) -> Rows:
    """Of ``own + noise / ratio``, ratio = alpha / sigma: own, (batch, ...), among it and pool, (m, ...).

    Log-weights are taken as differences to that of own, which is 0: where the noise is small the others
    vanish, and with them the shift, exactly. All of the pool is weighed: to pick the nearest of it would take
    the same products first. Where ratio, (batch,), is infinite own alone is left.
    """
    shape = own.shape
    own, noise, pool = (x.reshape(len(x), -1) for x in (own, noise, pool))
    center = pool.mean(0)[None]
    own, pool, noiseless = own - center, pool - center, jnp.isinf(ratio)
    ratio = jnp.where(noiseless, 0.0, ratio)[:, None]
    # |x - alpha p|^2 / (2 sigma^2) without what all rows share
    seen, squares = ratio * own + noise, 0.5 * ratio * jnp.sum(pool**2, axis=1)[None]
    others = ratio * (jnp.matmul(seen, pool.T, precision=PRECISION) - squares)
    itself = ratio * (jnp.sum(seen * own, axis=1, keepdims=True) - 0.5 * ratio * jnp.sum(own**2, 1)[:, None])
    weights = jax.nn.softmax(jnp.concatenate([jnp.zeros_like(itself), others - itself], axis=1))
    itself, others = weights[:, :1], weights[:, 1:]
    rest = others.sum(1, keepdims=True)
    shift = jnp.matmul(others, pool, precision=PRECISION) - rest * own
    number = 1 / jnp.sum(weights**2, axis=1)
    squares = itself[:, 0] * jnp.sum(own**2, axis=1) + others @ jnp.sum(pool**2, axis=1)
    variance = jnp.maximum(squares - jnp.sum((own + shift) ** 2, axis=1), 0.0)
    return Rows(
        jnp.where(noiseless[:, None], 0.0, shift).reshape(shape),
        jnp.where(noiseless, 1.0, number),
        ratio[:, 0] ** 2 * variance,
    )


def share(rho: Array, rows: Array, unresolved: Array) -> Array:
    """kappa of eq. (11), from rho, n_t and r; scalars."""
    return 1 - rho**2 / (1 + (rows - 1) * rho**unresolved)
