"""Averages of the parameters over training, of a fixed length or of lengths that are chosen afterwards.

With p_k the parameters after k updates, an average e_k is

    e_k = d_k e_{k-1} + (1 - d_k) p_k,      k = 1, 2, ...                                       (1)

A constant d forgets what is older than 1 / (1 - d) updates. The power function, of exponent gamma, forgets a
constant part of the training however long that is: it gives an update weights that grow with its number,

    d_k = (1 - 1/k)^(gamma + 1):    e_k = (gamma + 1) / k^(gamma + 1)  int_0^k u^gamma p(u) du  (2)

exactly, with p(u) = p_j for u in (j - 1, j], as the weights (j/k)^(gamma + 1) - ((j - 1)/k)^(gamma + 1) of
the p_j show. The standard deviation of u under that density, over k, is the relative width,

    width = (gamma + 1)^(1/2) / ((gamma + 2) (gamma + 3)^(1/2))  <=  12^(-1/2) for gamma >= 0   (3)

An average that was not kept is the combination of those that were whose profile u^gamma is nearest to its
own in L2 among those of weights that sum to one (`reconstruction_weights`). Widths .05 and .10, kept from
time to time through training, together give the widths between and around them.

Karras et al. 2024, arXiv 2312.02696: (2) and (3) are its section 3.1, the reconstruction its section 3.2, but
for the sum of the weights, which is free there: a parameter that no longer moves would then be scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff.typing import Array, Params

EmaDecay: TypeAlias = float | Callable[[Array], Array]
"""d in [0, 1), or a function of the updates done before, k - 1."""


def warm_up(decay: float) -> Callable[[Array], Array]:
    """d_k = min(decay, k / (9 + k)): short averages first, so that the initialization is forgotten.

    >>> decay = jd.ema.warm_up(0.999)
    >>> [round(float(decay(step)), 3) for step in (0, 8, 10**6)]
    [0.1, 0.5, 0.999]
    """
    check_decay(decay)
    return lambda step: jnp.minimum(decay, (1 + step) / (10 + step))


def power_function(width: float) -> Callable[[Array], Array]:
    """d_k of (2), with the exponent of a relative width, in (0, 12^(-1/2)]; .05 to .10 is usual.

    >>> decay = jd.ema.power_function(12**-0.5)  # the widest: the mean of all updates, d_k = 1 - 1 / k
    >>> [round(float(decay(step)), 3) for step in (0, 1, 3)]
    [0.0, 0.5, 0.75]
    """
    gamma = exponent(width)
    return lambda step: (step / (step + 1.0)) ** (gamma + 1)


def exponent(width: float) -> float:
    """The gamma >= 0 of a relative width: (3), solved. Raises ValueError for a width that has none.

    >>> round(jd.ema.exponent(0.10), 2), round(jd.ema.exponent(0.05), 2)  # as in the paper
    (6.94, 16.97)
    """
    if not 0 < width <= 12**-0.5:
        raise ValueError(f"width must lie in (0, 12^(-1/2) = 0.2887], got {width!r}; .05 to .10 is usual.")
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    return max(0.0, float(roots.real.max()))


def at(decay: EmaDecay, step: Array) -> Array | float:
    """The decay of the update that follows `step` others.

    >>> jd.ema.at(0.99, 500), jd.ema.at(lambda step: step / 1000, 500)
    (0.99, 0.5)
    """
    return decay(step) if callable(decay) else decay


@compiled
def updated(average: Params, params: Params, decay: Array | float) -> Params:
    """Eq. (1) for each leaf, in the average's precision.

    >>> jd.ema.updated({"w": jnp.array([1.0])}, {"w": jnp.array([5.0])}, 0.75)["w"].tolist()
    [2.0]
    """
    return jax.tree.map(lambda e, p: e + jnp.asarray(1 - decay, e.dtype) * (p - e), average, params)


def check_decay(decay: float) -> None:
    """Raise ValueError for a constant decay out of range.

    >>> jd.ema.check_decay(1.0)
    Traceback (most recent call last):
    ValueError: ema_decay must lie in [0, 1), got 1.0; use None to keep no average.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"ema_decay must lie in [0, 1), got {decay!r}; use None to keep no average.")


def reconstruction_weights(
    steps: Sequence[int], widths: Sequence[float], *, step: int, width: float
) -> np.ndarray:
    """Weights of the averages kept at these steps and widths for the one of `width` at `step`, shape (n,).

    They sum to one and minimize the L2 distance of the profiles (2), whose inner products are, for k <= l,

        <gamma at k, delta at l> = (gamma + 1) (delta + 1) / (gamma + delta + 1) (k/l)^delta / l        (4)

    Use only what was kept up to that step or soon after. Raises ValueError for lengths that differ, steps
    below 1, and a width out of range.

    >>> weights = jd.ema.reconstruction_weights([50, 100, 100], [0.05, 0.05, 0.1], step=100, width=0.07)
    >>> round(float(weights.sum()), 6)
    1.0
    >>> kept = jd.ema.reconstruction_weights([100, 100], [0.05, 0.1], step=100, width=0.1)
    >>> abs(kept.round(3)).tolist()  # an average that was kept is itself
    [0.0, 1.0]
    """
    if len(steps) != len(widths) or not len(steps):
        raise ValueError(
            f"steps and widths must be as many, at least one, got {len(steps)} and {len(widths)}."
        )
    for number in (*steps, step):
        checks.integer("step", number, 1)
    k, gamma = np.array(steps, np.float64), np.array([exponent(own) for own in widths])
    matrix = _inner_product(k[:, None], gamma[:, None], k[None], gamma[None])
    wanted = _inner_product(k, gamma, np.array([float(step)]), np.array([exponent(width)]))
    n, scale = len(k), matrix.max()  # the multiplier of the sum is scaled to be of the size of the rest
    system = np.full((n + 1, n + 1), scale)
    system[:n, :n], system[n, n] = matrix, 0
    # Profiles that nearly repeat each other have small singular values, whose weights would blow up rounding.
    return np.linalg.lstsq(system, np.append(wanted, scale), rcond=1e-12)[0][:n]


def combine(weights: Sequence[float] | np.ndarray, averages: Iterable[Params]) -> Params:
    """sum_i weights[i] averages[i], in float32 at least; averages may be read one by one.

    Raises ValueError unless there are as many of one as of the other, at least one.

    >>> averages = {"w": jnp.array([0.0, 8.0])}, {"w": jnp.array([4.0, 0.0])}
    >>> jd.ema.combine([0.25, 0.75], averages)["w"].tolist()
    [3.0, 2.0]
    """
    total = None
    for weight, average in zip(np.asarray(weights).tolist(), averages, strict=True):
        total = _add(total, average, weight)
    if total is None:
        raise ValueError("There are no averages to combine; give at least one, and its weight.")
    return total


def _add(total: Params | None, average: Params, weight: float) -> Params:
    own = jax.tree.map(lambda p: weight * single(p), average)
    return own if total is None else jax.tree.map(jnp.add, total, own)


def _inner_product(k: np.ndarray, gamma: np.ndarray, l: np.ndarray, delta: np.ndarray) -> np.ndarray:  # noqa: E741
    """Eq. (4), of any order of k and l."""
    later, exponent_of_later = np.maximum(k, l), np.where(k <= l, delta, gamma)
    ratio = np.minimum(k, l) / later
    return (gamma + 1) * (delta + 1) / (gamma + delta + 1) * ratio**exponent_of_later / later
