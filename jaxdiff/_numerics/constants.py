"""What is known inside ``jit``: numbers that the traced program does not depend on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, overload

import jax
from jax.core import Tracer

_P = ParamSpec("_P")
_R = TypeVar("_R")


def folded(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, computed at once wherever all of its arguments are known, also while ``jit`` traces.

    Its answer is then a constant of the program: checks see it, and no run computes it again.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return function(*args, **kwargs)
        with jax.ensure_compile_time_eval():
            return function(*args, **kwargs)

    return call


@overload
def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]: ...
@overload
def compiled(*, static: str | Sequence[str]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def compiled(function: Any = None, *, static: str | Sequence[str] = ()) -> Any:
    """The function, compiled once for eager calls, and taken as it is where it is being traced already.

    For arithmetic, dispatched operation by operation otherwise, and for what runs inside of training steps: a
    network may close over traced dropout keys there, which a cache of compiled functions would hold on to.
    static: names of arguments that are part of the program. All others are traced in an eager call, so checks
    of values go before.
    """
    if function is None:
        return functools.partial(compiled, static=static)
    jitted = jax.jit(function, static_argnames=static)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return function(*args, **kwargs)
        return jitted(*args, **kwargs)

    return call


def number(value: Any) -> float | None:
    """A Python or NumPy number that stands in the program itself; None for arrays and what is traced."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
