"""Projections onto sets, for `projected`: of data (batch, *shape) to a point of the set, mostly the nearest.

Each row by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.rows import to_rows
from jaxdiff.guidance.projected import Projection
from jaxdiff.typing import Array


def box(low: ArrayLike, high: ArrayLike) -> Projection:
    """Entries between low and high, scalars or arrays of one datum's shape; exactly.

    Raises ValueError where a known low is above high.

    >>> jd.projections.box(-1.0, 1.0)(jnp.array([[0.5, 2.0, -3.0]])).tolist()
    [[0.5, 1.0, -1.0]]
    """
    known = checks.known(low), checks.known(high)
    if known[0] is not None and known[1] is not None and (known[0] > known[1]).any():
        raise ValueError(f"low must not be above high, got {low} and {high}.")
    return _Box(jnp.asarray(low, float), jnp.asarray(high, float))


def half_space(normal: ArrayLike, offset: ArrayLike) -> Projection:
    """sum(normal x) <= offset, normal of one datum's shape and offset a scalar; to rounding.

    Raises ValueError for a normal that is zero.

    >>> jd.projections.half_space([1.0, 1.0], 1.0)(jnp.array([[1.0, 1.0], [0.0, 0.0]])).tolist()  # x + y <= 1
    [[0.5, 0.5], [0.0, 0.0]]
    """
    normal = jnp.asarray(normal, float)
    checks.positive("the length of normal", jnp.sum(normal**2))
    checks.shape("offset", offset, ())
    return _HalfSpace(normal, jnp.asarray(offset, float))


def equality(matrix: ArrayLike, value: ArrayLike) -> Projection:
    """matrix x = value, of x in one row of d numbers: matrix (m, d), value (m,); to rounding.

    Rows that say the same are one. Raises ValueError for other shapes and numbers that are not finite.

    >>> jd.projections.equality([[1.0, 1.0]], [1.0])(jnp.array([[1.0, 2.0]])).tolist()  # sum to one
    [[0.0, 1.0]]
    """
    matrix, value = jnp.asarray(matrix, float), jnp.asarray(value, float)
    checks.shape("matrix", matrix, (None, None))
    checks.shape("value", value, matrix.shape[:1])
    checks.finite("matrix", matrix)
    checks.finite("value", value)
    return _Equality(matrix, jnp.linalg.pinv(matrix), value)


def dynamic_threshold(low: ArrayLike, high: ArrayLike, quantile: Array | float = 0.995) -> Projection:
    """Entries between low and high, scalars, by bringing all of a row nearer to the middle: for guidance.

    Where the quantile of a row's distances from the middle is s > 1 half-widths, distances are cut at s and
    divided by it, so that strong guidance leaves contrasts and not a plain of entries at the edge, as `box`
    does; where s <= 1 it is `box`. Not the nearest point, then. Saharia et al. 2022 (arXiv 2205.11487,
    section 2.3). Raises ValueError where a known low is not below high, and for a quantile beyond [0, 1].

    >>> jd.projections.dynamic_threshold(-1.0, 1.0, 1.0)(jnp.array([[0.5, 2.0], [0.5, 1.0]])).tolist()
    [[0.25, 1.0], [0.5, 1.0]]
    """
    checks.shape("low", low, ())
    checks.shape("high", high, ())
    checks.shape("quantile", quantile, ())
    checks.ordered("low", low, "high", high)
    checks.within("quantile", quantile, 0.0, 1.0)
    return _DynamicThreshold(jnp.asarray(low, float), jnp.asarray(high, float), jnp.asarray(quantile, float))


def spectral(low: ArrayLike, high: ArrayLike, axes: Sequence[int] | None = None) -> Projection:
    """Fourier amplitudes between low and high, scalars or arrays of one datum's shape; phases are kept.

    Amplitudes |F(k)| are those of ``numpy.fft.fftn(datum, axes=axes, norm="ortho")``, axes of one datum, by
    default all. high = 0 outside a band leaves that band; low = high gives a wished spectrum. To rounding,
    and to the nearest point, unique but where an amplitude is 0 below its low: there the phase is 0. Raises
    ValueError for bounds that are not in order, below 0, or not one number at k and -k (real data have one
    amplitude there), and for axes that a datum has not.

    >>> flat = jd.projections.spectral(0.0, jnp.array([9.0, 0.0, 0.0, 0.0]))  # the mean alone
    >>> flat(jnp.array([[1.0, 2.0, 3.0, 6.0]])).tolist()
    [[3.0, 3.0, 3.0, 3.0]]
    """
    if axes is not None:
        axes = tuple(axes)
        for axis in axes:
            checks.integer("axes", axis, 0)
    bounds = jnp.broadcast_arrays(jnp.asarray(low, float), jnp.asarray(high, float))
    least, most = (checks.known(bound) for bound in bounds)
    if least is not None and most is not None:
        if (least < 0).any() or (least > most).any():
            raise ValueError(f"0 <= low <= high must hold, got {low} and {high}.")
        for bound in (least, most):
            there = bound  # at -k
            for axis in range(bound.ndim) if axes is None else [a for a in axes if a < bound.ndim]:
                there = np.roll(np.flip(there, axis), 1, axis)
            if not np.allclose(bound, there, rtol=1e-4, atol=1e-6):
                raise ValueError("low and high must be the same at k and -k, for real data.")
    return _Spectral(bounds[0], bounds[1], axes)


def simplex(data: Array) -> Array:
    """Rows of vectors, (batch, d), that are not negative and sum to one.

    By sorting, Held, Wolfe & Crowder 1974. Raises ValueError for data of more axes.

    >>> jd.projections.simplex(jnp.array([[0.25, 0.75], [2.0, 0.0], [1.0, 1.0]])).tolist()
    [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]
    """
    if data.ndim != 2:
        raise ValueError(f"data on a simplex must have shape (batch, d), got {data.shape}.")
    down = -jnp.sort(-data, axis=1)
    numbers = jnp.arange(1, data.shape[1] + 1)[None]
    levels = (jnp.cumsum(down, axis=1) - 1) / numbers
    count = jnp.sum(down > levels, axis=1)
    level = jnp.take_along_axis(levels, count[:, None] - 1, axis=1)
    return jnp.maximum(data - level, 0.0)


@pytree
@dataclass(frozen=True, eq=False)
class _Box:
    low: Array
    high: Array

    def __call__(self, data: Array) -> Array:
        low, high = (
            jnp.broadcast_to(edge.astype(data.dtype), data.shape[1:])[None] for edge in (self.low, self.high)
        )
        return jnp.clip(data, low, high)


@pytree
@dataclass(frozen=True, eq=False)
class _Equality:
    matrix: Array
    inverse: Array
    value: Array

    def __call__(self, data: Array) -> Array:
        flat = data.reshape(len(data), -1)
        return data - ((flat @ self.matrix.T - self.value[None]) @ self.inverse.T).reshape(data.shape)


@pytree
@dataclass(frozen=True, eq=False)
class _DynamicThreshold:
    low: Array
    high: Array
    quantile: Array

    def __call__(self, data: Array) -> Array:
        middle, half = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        away = (single(data) - middle) / half
        axes = tuple(range(1, data.ndim))
        most = jnp.maximum(jnp.quantile(jnp.abs(away), self.quantile, axis=axes, keepdims=True), 1.0)
        return jnp.clip(middle + half * away / most, self.low, self.high).astype(data.dtype)


@pytree
@dataclass(frozen=True, eq=False)
class _Spectral:
    low: Array
    high: Array
    axes: tuple[int, ...] | None

    def __call__(self, data: Array) -> Array:
        if self.axes is not None and max(self.axes) >= data.ndim - 1:
            raise ValueError(f"axes must be of one datum, of shape {data.shape[1:]}, got {self.axes}.")
        axes = tuple(range(1, data.ndim)) if self.axes is None else tuple(1 + axis for axis in self.axes)
        waves = jnp.fft.fftn(single(data), axes=axes, norm="ortho")
        sizes = jnp.abs(waves)
        low, high = (
            jnp.broadcast_to(edge.astype(sizes.dtype), sizes.shape) for edge in (self.low, self.high)
        )
        phases = jnp.where(sizes > 0, waves / jnp.where(sizes > 0, sizes, 1.0), 1.0)
        new = jnp.fft.ifftn(jnp.clip(sizes, low, high) * phases, axes=axes, norm="ortho").real
        inside = ((sizes >= low) & (sizes <= high)).all(tuple(range(1, data.ndim)), keepdims=True)
        return jnp.where(inside, data, new.astype(data.dtype))  # without rounding where nothing is to be done


@pytree
@dataclass(frozen=True, eq=False)
class _HalfSpace:
    normal: Array
    offset: Array

    def __call__(self, data: Array) -> Array:
        axes = tuple(range(1, data.ndim))
        beyond = jnp.maximum(jnp.sum(self.normal[None] * data, axis=axes) - self.offset, 0.0)
        return data - to_rows(beyond / jnp.sum(self.normal**2), data) * self.normal[None]
