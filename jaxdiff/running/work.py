"""How much arithmetic a function asks for, whatever a compiler makes of it: for a model-FLOP utilization."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiplications and additions in the matrix products and convolutions of function(*arguments).

    It is traced, not compiled or run; arguments may be shapes. The turns of a loop of known length are all
    counted, of a while loop one, of branches the dearest. What is computed twice to save memory counts twice:
    ask for a function without rematerialization. What is mapped over devices counts on all of them. A kernel
    of Pallas or cuDNN counts nothing, and an exported program.

    >>> from jaxdiff.running import work
    >>> work.flops(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))  # 2 * 2 * 3 * 4
    48
    """
    return flops_of(jax.make_jaxpr(function)(*arguments))


def flops_of(jaxpr: Any) -> int:
    """The same of what was traced already."""
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, features = equation.invars[1].aval, params["dimension_numbers"].rhs_spec[0]
        return 2 * equation.outvars[0].aval.size * (kernel.size // kernel.shape[features])
    if name == "pallas_call":
        return 0
    inner = [flops_of(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return sum(inner) * math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in jax.tree.leaves(
        params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
    ):
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr
