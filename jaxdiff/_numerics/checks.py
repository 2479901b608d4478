"""What the public doors ask of their inputs. Each check says what was got, what was wanted and what to do.

Shapes are always checked. Values are checked only where they are known: under ``jit`` or ``vmap`` they
are tracers, and a value check there would cost a synchronization on every call.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.typing import Schedule, StartLaw

FEW = 64
"""Numbers, of fewer than which a root mean square says little."""


def known(x: Any) -> np.ndarray | None:
    """The values of x in NumPy, or None where they are not known (a tracer, or not an array at all)."""
    if isinstance(x, Tracer) or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return None  # or of other processes, too
    try:
        array = np.asarray(x)
    except (TypeError, ValueError):  # no array, or one of ragged rows
        return None
    return array if jnp.issubdtype(array.dtype, jnp.number) else None


def numbers(name: str, x: Any) -> np.ndarray | None:
    """The values of x, or None where they are not known; TypeError for what is neither numbers nor traced."""
    values = known(x)
    if values is None and not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x)):
        raise TypeError(f"{name} must be a number or an array of numbers, got {described(x)}.")
    return values


def finite(name: str, x: Any) -> None:
    """Raise ValueError if a known x has a NaN or an infinity."""
    values = numbers(name, x)
    if values is not None and not np.isfinite(values).all():
        bad = np.argwhere(~np.isfinite(np.atleast_1d(values)))
        raise ValueError(
            f"{name} has {len(bad)} non-finite of {values.size} values, the first at index "
            f"{tuple(int(i) for i in bad[0])}; wanted finite numbers. Clean the array before this call."
        )


def positive(name: str, x: Any) -> None:
    """Raise ValueError unless a known x is finite and above zero everywhere."""
    values = numbers(name, x)
    if values is not None and not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{name} must be positive and finite, got {_show(values)}.")


def positive_number(name: str, x: Any) -> None:
    """Raise ValueError unless x is one number and, where known, finite and above zero."""
    positive(name, x)
    shape(name, x, ())


def within(name: str, x: Any, low: float, high: float) -> None:
    """Raise ValueError unless a known x lies in the closed interval [low, high]."""
    values = numbers(name, x)
    if values is not None and not ((values >= low) & (values <= high)).all():
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {_show(values)}.")


def ordered(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Raise ValueError unless low < high, where both are known."""
    below, above = numbers(low_name, low), numbers(high_name, high)
    if below is not None and above is not None and not (below < above).all():
        raise ValueError(
            f"{low_name} must be below {high_name}, got {low_name} = {below} and {high_name} = {above}."
        )


def increasing(name: str, x: Any) -> None:
    """Raise ValueError unless x is one-dimensional and, where known, finite and strictly increasing."""
    shape(name, x, (None,))
    values = known(x)
    if values is not None and not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise ValueError(f"{name} must increase strictly, got {_show(values)}; sort them.")


def option(name: str, got: Any, wanted: Iterable[Any]) -> None:
    """Raise ValueError unless got is one of the wanted ones."""
    wanted = list(wanted)
    if got not in wanted:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, wanted))}; got {got!r}.")


def integer(name: str, got: Any, low: int) -> None:
    """Raise ValueError unless got is an integer of at least low, or a size that jax.export leaves open."""
    if jax.export.is_symbolic_dim(got):
        return
    if not isinstance(got, int | np.integer) or isinstance(got, bool) or got < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {got!r}.")


def num_rows(data: Any) -> int:
    """The length of the one leading axis of a pytree of arrays; ValueError unless there is one, of a row."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or not (n := lengths.pop()):
        raise ValueError(
            "data must be an array, or a pytree of arrays, with one leading axis of at least one row; got "
            f"shapes {', '.join(map(str, shapes)) or 'none'}."
        )
    return n


def extra(module: str, extra: str) -> Any:
    """A module of a package that comes with an extra of jaxdiff; raises ImportError naming the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs {module}, which is not installed; run pip install 'jaxdiff[{extra}]'."
        ) from error


def shape(name: str, x: Any, wanted: tuple[int | None, ...]) -> None:
    """Raise ValueError unless x has the wanted shape, None standing for any length."""
    got = np.shape(x)
    if len(got) != len(wanted) or any(w is not None and g != w for g, w in zip(got, wanted, strict=False)):
        raise ValueError(f"{name} must have shape {shown_shape(wanted)}, got {got}.")


def data_shape(got: Any) -> tuple[int, ...]:
    """The shape of one datum, as a tuple of Python integers; TypeError for anything else."""
    if isinstance(got, tuple | list) and all(isinstance(n, int | np.integer) and n > 0 for n in got):
        return tuple(map(int, got))
    raise TypeError(
        "shape must be a tuple of integers of at least 1, that of one datum such as (32, 32, 3); got "
        f"{got if isinstance(got, tuple | list | int | float) else described(got)}."
    )


def floating(name: str, x: Any) -> None:
    """Raise TypeError unless x is an array of floating-point numbers."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} must be an array of floating-point numbers, got {dtype or type(x).__name__}; "
            f"convert it first, for instance jnp.asarray({name}, jnp.float32)."
        )


def integers(name: str, x: Any) -> None:
    """Raise TypeError unless x is an array of integers."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name} must be an array of integers, got {dtype or type(x).__name__}.")


def batch(name: str, x: Any, t: Any = 0.0, *, time: str = "t") -> None:
    """Raise TypeError unless x holds floats, ValueError unless in rows, with a scalar t or one t for each."""
    floating(name, x)
    rows(name, x)
    if not isinstance(t, jax.Array | float):
        numbers(time, t)
    if np.shape(t) not in ((), x.shape[:1]):
        raise ValueError(
            f"{time} must be a scalar or have shape ({x.shape[0]},), one per row of {name}; got "
            f"{np.shape(t)}."
        )


def rows(name: str, x: Any) -> None:
    """Raise ValueError unless an array is of at least one row."""
    got = np.shape(x)
    if not got:
        raise ValueError(f"{name} must have shape (batch, ...), got a scalar.")
    if got[0] == 0:
        raise ValueError(f"{name} must have at least one row, got shape {got}.")


def law(name: str, law: StartLaw, x: Any) -> None:
    """Raise ValueError unless a law is one of rows like x, and its log-density has one number for each."""
    law_shape(name, law, np.shape(x)[1:])
    shape(f"{name}.log_prob(x)", jax.eval_shape(law.log_prob, x), np.shape(x)[:1])


def a_law(name: str, value: Any, needs: tuple[str, ...] = ("sample", "log_prob")) -> None:
    """Raise TypeError unless value has what is needed of a law."""
    missing = [need for need in ("shape", *needs) if not hasattr(value, need)]
    if missing or inspect.isclass(value):
        raise TypeError(
            f"{name} must be a law such as Gaussian(mean, covariance), got {described(value)}"
            f"{', which has no ' if missing else ''}{', '.join(missing)}."
        )


def law_shape(
    name: str, law: Any, wanted: tuple[int, ...], needs: tuple[str, ...] = ("sample", "log_prob")
) -> None:
    """Raise TypeError unless law has what is needed of one, ValueError unless its points have a shape."""
    a_law(name, law, needs)
    if tuple(law.shape) != wanted:
        raise ValueError(
            f"{name} must be a law of points of shape {shown_shape(wanted)}, got one of "
            f"{shown_shape(law.shape)}; a law of vectors becomes one of images by Shaped(law, shape)."
        )


def schedule(value: Any) -> None:
    """Raise TypeError unless value is a schedule, alpha, sigma and the range that it states, of scalars."""
    missing = [m for m in ("alpha", "sigma", "t_min", "t_max", "working_range") if not hasattr(value, m)]
    if missing or inspect.isclass(value):
        raise TypeError(
            f"schedule must be a schedule such as Karras(), got {described(value)}"
            f"{', which has no ' if missing else ''}{', '.join(missing)}."
        )
    registered("schedule", value)
    if type(value) not in _TRIED:
        _try_schedule(value)
        _TRIED.add(type(value))


_TRIED: set[type] = set()
"""Kinds of schedule that were found to be written with `jax.numpy`, which takes a trace to find out."""


def _try_schedule(value: Schedule) -> None:
    """Raise TypeError unless alpha and sigma can be traced, ValueError unless they are scalars."""
    try:
        made = jax.eval_shape(lambda t: (value.alpha(t), value.sigma(t)), jnp.zeros(()))
    except TypeError as error:
        raise TypeError(
            f"alpha and sigma of {type(value).__name__} must be written with jax.numpy, as functions of one "
            f"time that is traced (jnp.cos, not math.cos or np.cos): {str(error).splitlines()[0]}"
        ) from error
    for name, part in zip(("alpha", "sigma"), made, strict=True):
        shape(f"{name}(t) of {type(value).__name__}", part, ())


def registered(name: str, value: Any) -> None:
    """Raise TypeError unless value is a pytree, as what somebody has written need not be."""
    if jax.tree_util.all_leaves([value]):
        raise TypeError(
            f"{name} must be a pytree, so that compiled functions take it as an argument; make "
            f"{type(value).__name__} a frozen dataclass under @jaxdiff.pytree."
        )


def optimizer(value: Any) -> Any:
    """The optimizer; TypeError for anything else."""
    if not (hasattr(value, "init") and hasattr(value, "update")):
        raise TypeError(f"optimizer must be one of Optax such as optax.adam(1e-3), got {described(value)}.")
    return value


def described(value: Any) -> str:
    """What value is, in a message about the wrong thing in its place."""
    if inspect.isclass(value):
        return f"the class {value.__name__}; call it"
    if inspect.isfunction(value):
        return f"the function {value.__name__}"
    return repr(value) if isinstance(value, str | None) else type(value).__name__


def key(value: Any) -> None:
    """Raise TypeError unless value is one typed key."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key must be a key such as jax.random.key(0), got {dtype or type(value).__name__}: the key is "
            "the first argument of whatever is random."
        )
    shape("key", value, ())


def times(schedule: Schedule, times: Any, *, increasing: bool) -> None:
    """Raise ValueError unless times is a strictly increasing (or decreasing) grid in the schedule's range."""
    shape("times", times, (None,))
    if np.shape(times)[0] < 2:
        raise ValueError(f"times must hold at least 2 entries, got {np.shape(times)[0]}.")
    values = known(times)
    if values is None:
        return
    in_range("times", schedule, values)
    with np.errstate(invalid="ignore"):
        steps = np.diff(values)
    if not (steps > 0).all() and not (steps < 0).all():
        at = int(np.argmin(steps > 0 if increasing else steps < 0))
        raise ValueError(
            f"times must be strictly {'increasing' if increasing else 'decreasing'}, but times[{at}] = "
            f"{values[at]:g} is followed by {values[at + 1]:g}."
        )
    if (steps[0] > 0) != increasing:
        raise ValueError(
            f"times must run from {'low to high' if increasing else 'high to low'} noise, got "
            f"{values[0]:g} to {values[-1]:g}; reverse them with times[::-1]."
        )


def in_range(name: str, schedule: Schedule, t: Any) -> None:
    """Raise ValueError unless known times t, of any shape, lie in the schedule's range."""
    between(name, t, schedule.t_min, schedule.t_max, f"the range of {schedule}")


def between(name: str, t: Any, low: float, high: float, what: str) -> None:
    """Raise ValueError unless known times t, of any shape, lie in [low, high], to the rounding of float32."""
    values = known(t)
    if values is None:
        return
    least, most = rounded_out(low, high)
    outside = ~((values >= least) & (values <= most))
    if outside.any():
        at = tuple(int(i) for i in np.argwhere(np.atleast_1d(outside))[0])
        where = f"{name}[{', '.join(map(str, at))}]" if np.ndim(values) else name
        raise ValueError(
            f"{where} = {np.atleast_1d(values)[at]:g} is outside of {what}, from {low:g} to {high:g}."
        )


def rounded_out(low: float, high: float) -> tuple[float, float]:
    """The ends of a range of times, as far out as float32 may round them."""
    slack = 1e-5
    return low - slack * abs(low), high + slack * abs(high)


def root_mean_square(x: Any, *, fewest: int = FEW) -> float | None:
    """Of known x of at least so many numbers; None for any other."""
    values = known(x)
    if values is None or values.size < fewest:
        return None
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def shown_shape(shape: Iterable[Any]) -> str:
    """A shape in print, one axis as (30,)."""
    lengths = ["any" if length is None else str(length) for length in shape]
    return "(" + ", ".join(lengths) + ("," if len(lengths) == 1 else "") + ")"


def _show(values: np.ndarray) -> str:
    return np.array2string(values, threshold=8, precision=4, separator=", ")
