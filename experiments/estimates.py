"""Means with their standard errors: as figures hold them, and as tables show them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike


def over_first(values: ArrayLike | Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means over the first axis, which is that of seeds, sets or rows, and their standard errors."""
    values = np.asarray(values, np.float64)
    return values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5


def mean(values: ArrayLike | Sequence[float]) -> dict[str, float]:
    """Of independent values, shape (n,)."""
    return as_figure(over_first(values))


def geometric_mean(log_values: ArrayLike) -> dict[str, float]:
    """Of values whose logarithms are given, shape (n,); to first order the error is the mean times theirs."""
    center, error = over_first(log_values)
    return as_figure((np.exp(center), np.exp(center) * error))


def as_figure(estimate: Any) -> dict[str, float]:
    """What JSON can hold of a value and its standard error: a pair of scalars, such as an `Estimate`."""
    value, error = estimate
    return {"mean": float(value), "standard_error": float(error)}


def show(figure: dict[str, float] | None, digits: int) -> str:
    """One figure in print, to so many digits behind the point; "-" where there is none."""
    if figure is None:
        return "-"
    return f"{figure['mean']:.{digits}f} +- {figure['standard_error']:.{digits}f}"
