"""Linear operators on data, as a function and its adjoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.typing import Array


@pytree
@dataclass(frozen=True, eq=False)
class Operator:
    """A linear function of one datum, (*shape) -> (*observed), and its adjoint, each applied to rows.

    >>> every_other = jd.inverse.Operator(lambda x: x[::2], (4,))
    >>> every_other.apply(jnp.array([[1.0, 2.0, 3.0, 4.0]])).tolist()
    [[1.0, 3.0]]
    >>> every_other.adjoint(jnp.array([[1.0, 3.0]])).tolist()
    [[1.0, 0.0, 3.0, 0.0]]
    """

    function: Callable[[Array], Array]
    shape: tuple[int, ...]
    """Of one datum."""

    def apply(self, x: Array) -> Array:
        """(batch, *shape) -> (batch, *observed)."""
        return jax.vmap(self.function)(x)

    def adjoint(self, y: Array) -> Array:
        """(batch, *observed) -> (batch, *shape): <apply(x), y> = <x, adjoint(y)>."""
        like = jax.ShapeDtypeStruct(self.shape, y.dtype)
        y = y.astype(jax.eval_shape(self.function, like).dtype)
        return jax.vmap(lambda y: jax.linear_transpose(self.function, like)(y)[0])(y)

    @property
    def observed(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return jax.eval_shape(self.function, jax.ShapeDtypeStruct(self.shape, jnp.float32)).shape


def linear(function: Callable[[Array], Array], shape: tuple[int, ...]) -> Operator:
    """The operator of any linear JAX function of one datum: a blur, a product with a matrix, a slice.

    function: (*shape) -> (*observed), or a callable pytree that holds arrays. Raises TypeError for what is no
    function or no shape, ValueError for a function that JAX cannot transpose.

    >>> operator = jd.inverse.linear(lambda x: x.sum(keepdims=True), (2,))
    >>> operator.apply(jnp.array([[3.0, 5.0]])).tolist()
    [[8.0]]
    """
    if not callable(function):
        raise TypeError(f"function must be a linear function of one datum, got {checks.described(function)}.")
    operator = Operator(function, checks.data_shape(shape))
    try:
        jax.eval_shape(operator.adjoint, jax.ShapeDtypeStruct((1, *operator.observed), jnp.float32))
    except Exception as error:
        raise ValueError(
            "function must be linear in its argument, without a constant, so that JAX can transpose it; got "
            f"{type(error).__name__}: {(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    return operator


def mask(kept: Array | np.ndarray) -> Operator:
    """The entries of a datum where kept, (*shape) of booleans, is True, in one row: inpainting.

    Raises TypeError for other than known booleans, ValueError where none is kept.

    >>> operator = jd.inverse.mask(jnp.array([True, False]))
    >>> operator.apply(jnp.array([[3.0, 5.0]])).tolist()
    [[3.0]]
    """
    if isinstance(kept, jax.Array) and not isinstance(kept, Tracer):
        kept = np.asarray(kept)
    if not isinstance(kept, np.ndarray) or kept.dtype != bool:
        raise TypeError(f"kept must be an array of known booleans, got {checks.described(kept)}.")
    places = np.flatnonzero(np.asarray(kept))
    if not len(places):
        raise ValueError("kept must be True somewhere, or nothing is observed.")
    return Operator(_Take(jnp.asarray(places)), tuple(kept.shape))


@pytree
@dataclass(frozen=True, eq=False)
class _Take:
    places: Array

    def __call__(self, x: Array) -> Array:
        return x.reshape(-1)[self.places]
