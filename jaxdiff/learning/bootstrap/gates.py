"""Gates and mixes; the equations are those of `jaxdiff.learning.bootstrap`."""

from __future__ import annotations

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff.typing import Array


@compiled
def optimal_gate(correlation: Array | float, explained: Array | float, *, mix: Array | float = 1.0) -> Array:
    """g* of eq. (8), from rho and q_s: the gate of least variance, of their common shape; 0 where rho = 0.

    >>> float(jd.bootstrap.optimal_gate(0.5, 1.0))  # rho^2 where the noise at s is all explained
    0.25
    >>> float(jd.bootstrap.optimal_gate(0.5, 0.0))  # the earlier score alone where it is zero and known
    1.0
    """
    square = jnp.asarray(correlation, float) ** 2
    total = square + (1 - square) * _left(explained, mix)
    return square / jnp.where(total == 0, 1.0, total)


def matrix_gate(correlation: Array | float, jacobian: Array) -> Array:
    """rho^2 (rho^2 I + (1 - rho^2) Q)^-1 for the mix a = 1, shape (d, d): the best gate of all matrices.

    Q = E[sigma_s dN/dx (x_s, s) | x_t], symmetric: the noise's Jacobian at the earlier level, in units of
    1 / sigma_s. For Gaussian data the target's variance is then zero. At rho = 0 it is zero.
    Raises ValueError for a rho that is no scalar and a Q that is not square.

    >>> explained = jnp.diag(jnp.array([1.0, 0.0]))
    >>> jd.bootstrap.matrix_gate(0.5, explained).tolist()  # as `optimal_gate` in either direction
    [[0.25, 0.0], [0.0, 1.0]]
    """
    checks.shape("correlation", correlation, ())
    checks.shape("jacobian", jacobian, jnp.shape(jacobian)[-1:] * 2)
    return _matrix_gate(correlation, jacobian)


@compiled
def _matrix_gate(correlation: Array | float, jacobian: Array) -> Array:
    square = jnp.asarray(correlation, jacobian.dtype) ** 2
    identity = jnp.eye(jacobian.shape[-1], dtype=jacobian.dtype)
    total = jnp.where(square == 0, identity, square * identity + (1 - square) * jacobian)
    return square * jnp.linalg.inv(total)


def jacobian_weight(rho: Array, mix: Array | float) -> Array:
    """Of (13), rho k / ((1 - a)^2 + k rho^2): what C [(1 - rho^2) m - rho (n_t - rho n_s)] is multiplied by.

    It is 0 for a = 0, and where rho = 0, whatever a is: the gate is then rho^2.
    """
    k = 1 - (1 - mix) ** 2
    total = (1 - mix) ** 2 + k * rho**2
    return rho * k / jnp.where(total == 0, 1.0, total)


def target_variance(
    correlation: Array, gate: Array, mix: Array | float, explained_s: Array, explained_t: Array
) -> Array:
    """V of eq. (7): E tr Cov(y_g | x_t) / d in units of the noise, for the exact teacher; scalars.

    >>> rho, explained = 0.5, (0.5, 0.8)  # of N(0, 1) at s = 1 and t = 2: s^2 / (1 + s^2)
    >>> variance = jd.bootstrap.target_variance(rho, rho**2, 0.0, *explained)
    >>> round(float(variance), 4)  # of denoising, 1 - q_t
    0.2
    >>> best = jd.bootstrap.optimal_gate(rho, explained[0])
    >>> abs(round(float(jd.bootstrap.target_variance(rho, best, 1.0, *explained)), 4))
    0.0
    """
    noise = (1 - gate) ** 2 / (1 - correlation**2)
    return noise + gate**2 * _left(explained_s, mix) / correlation**2 - explained_t


@compiled
def optimal_mix(variance: Array | float, squared_bias: Array | float, freedom: Array | float) -> Array:
    """a* = f v / (f v + b^2): the mix that trades the teacher's bias against the variance of its target.

    variance: v = 1 - q_s, of the denoising target at the earlier level. squared_bias: b^2, the mean over x_t
    of |E[N_hat - N | x_t]|^2 / d at that level, in the same units. freedom: f, the learner's degrees of
    freedom over its number of samples. Of the common shape of all; 0 where there is nothing to trade.

    >>> round(float(jd.bootstrap.optimal_mix(variance=0.5, squared_bias=0.1, freedom=0.2)), 4)
    0.5
    """
    gain = jnp.asarray(freedom * variance, float)
    total = gain + squared_bias
    return gain / jnp.where(total == 0, 1.0, total)


def _left(explained: Array | float, mix: Array | float) -> Array | float:
    """E|m|^2 / d of eq. (3)."""
    return (1 - mix) ** 2 + (1 - (1 - mix) ** 2) * explained
