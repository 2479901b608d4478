"""The trace of the Jacobian of a function that acts on each row of a batch alone.

    div f(x)_i = sum_j d f(x)_ij / d x_ij,        E[v . (df/dx) v] = div f  for E[v v^T] = I.

Both forms linearize f once and push tangents through it; one tangent serves the whole batch, because
rows do not mix.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array

_BASIS_CHUNK = 16  # tangents pushed at a time: enough to fill the machine, and memory stays bounded in d


def exact(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """f(x) and its divergence, shape (batch,), by d tangents; x of shape (batch, ...)."""
    value, push = jax.linearize(f, x)
    size = x[0].size

    def diagonal(j: Array) -> Array:
        tangent = jnp.zeros(size, x.dtype).at[j].set(1).reshape(x.shape[1:])
        return push(jnp.broadcast_to(tangent, x.shape)).reshape(x.shape[0], size)[:, j]

    terms = jax.lax.map(diagonal, jnp.arange(size), batch_size=min(size, _BASIS_CHUNK))
    return value, terms.sum(0)


def hutchinson(f: Callable[[Array], Array], x: Array, probes: Array) -> tuple[Array, Array]:
    """f(x) and one unbiased estimate of its divergence for each probe, shape (k, batch).

    Probes have shape (k, batch, ...), zero mean and unit covariance; signs have the least variance.
    """
    value, push = jax.linearize(f, x)
    return value, jax.vmap(lambda v: jax.vmap(jnp.vdot)(v, push(v)))(probes)
