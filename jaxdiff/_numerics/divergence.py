"""The trace of the Jacobian of a function that acts on each row of a batch alone.

    div f(x)_i = sum_j d f(x)_ij / d x_ij,        E[v . (df/dx) v] = div f  for E[v v^T] = I.

Every form linearizes f once and pushes tangents through it; one tangent serves the whole batch, because
rows do not mix.
"""

from __future__ import annotations

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


def hutchinson(
    f: Callable[[Array], Array], x: Array, probes: Array, sketch: Array | None = None
) -> tuple[Array, Array]:
    """f(x) and one unbiased estimate of its divergence for each probe, shape (k, batch).

    Probes have shape (k, batch, ...), zero mean and unit covariance; signs have the least variance.
    sketch, (m, batch, ...), of the same kind and independent of the probes, m <= d: with Q an orthonormal
    basis of J sketch, J = df/dx, the trace of Q' J Q is exact and the probes are left with (I - QQ') J
    (I - QQ'). That is Hutch++, Meyer et al. 2021, arXiv 2010.09649: 2 m more tangents, worth it where few
    directions carry the trace.
    """
    value, push = jax.linearize(f, x)
    if sketch is None:
        return value, jax.vmap(lambda v: jax.vmap(jnp.vdot)(v, push(v)))(probes)

    def columns(tangents: Array) -> Array:
        """(m, batch, ...) as matrices (batch, d, m)."""
        return jnp.moveaxis(tangents.reshape(*tangents.shape[:2], -1), 0, 2)

    def tangents(columns: Array) -> Array:
        return jnp.moveaxis(columns, 2, 0).reshape(-1, *x.shape)

    basis = jnp.linalg.qr(columns(jax.vmap(push)(sketch)))[0]
    on_basis = jnp.sum(basis * columns(jax.vmap(push)(tangents(basis))), axis=(1, 2))
    left = columns(probes)
    left = left - basis @ (jnp.swapaxes(basis, 1, 2) @ left)
    rest = jnp.sum(left * columns(jax.vmap(push)(tangents(left))), axis=1)
    return value, on_basis[None] + rest.T
