"""Jumps by any matrix of rates, with what is made for levels that have an order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff.jumps.processes import LINEAR, check_schedule, shares
from jaxdiff.typing import Array, Schedule, Time


@pytree
@dataclass(frozen=True, eq=False)
class Rates:
    """Jumps by any matrix of rates Q, (vocabulary, vocabulary), such as `birth_death` or `ordinal` make.

    Its entries off the diagonal are not negative, its rows sum to zero, and from each token there is a way to
    some token that is never left for good; log(1 / alpha(t)) is the time that Q has been at work. In P_st no
    two numbers are subtracted, so that small probabilities keep their digits. Raises TypeError for a matrix
    that is not known, ValueError for one of another kind or a schedule without alpha + sigma = 1.

    >>> process = jd.jumps.Rates(jd.jumps.birth_death([1.0], [3.0]))
    >>> process.stationary.round(4).tolist()  # up at the rate 1, down at the rate 3
    [0.75, 0.25]
    """

    matrix: Array
    schedule: Schedule = LINEAR
    stationary: Array = dataclasses.field(init=False)
    """The law that does not change, (vocabulary,)."""
    longest: float = dataclasses.field(init=False)
    """After so long all is forgotten, to double precision."""

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        stationary, longest = _long_run(self.matrix)
        matrix = jnp.asarray(self.matrix, float)
        set_fields(self, matrix=matrix, stationary=jnp.asarray(stationary, float), longest=longest)

    @property
    def vocabulary(self) -> int:
        return self.matrix.shape[-1]

    @property
    def states(self) -> int:
        return self.vocabulary

    def transition(self, s: Time, t: Time) -> Array:
        """P_st of eq. (1), (states, states)."""
        kept, lost = shares(self.schedule, s, t)
        # From whichever is small: the logarithm of a share near one has no digits left.
        elapsed = jnp.where(lost < 0.5, -jnp.log1p(-jnp.minimum(lost, 0.5)), -jnp.log(kept))
        return _exponential(self.matrix, jnp.minimum(elapsed, self.longest))

    def push(self, law: Array, s: Time, t: Time) -> Array:
        return jnp.matmul(law, self.transition(s, t), precision=jax.lax.Precision.HIGHEST)

    def pull(self, values: Array, s: Time, t: Time) -> Array:
        return jnp.matmul(values, self.transition(s, t).T, precision=jax.lax.Precision.HIGHEST)

    def leaving(self, x: Array) -> Array:
        return self.matrix[x]

    def entering(self, x: Array) -> Array:
        return self.matrix.T[x]

    def final_law(self) -> Array:
        return self.stationary


def birth_death(up: ArrayLike, down: ArrayLike) -> Array:
    """The matrix of jumps to the next level: from k to k + 1 at the rate up[k], from k + 1 back at down[k].

    up and down hold levels - 1 rates. Raises ValueError unless they are positive and of one length.

    >>> jd.jumps.birth_death([1.0, 2.0], [3.0, 4.0]).tolist()
    [[-1.0, 1.0, 0.0], [3.0, -5.0, 2.0], [0.0, 4.0, -4.0]]
    """
    checks.shape("up", up, (None,))
    checks.shape("down", down, np.shape(up))
    checks.positive("up", up)
    checks.positive("down", down)
    matrix = np.diag(np.asarray(up, float), 1) + np.diag(np.asarray(down, float), -1)
    return jnp.asarray(matrix - np.diag(matrix.sum(1)))


def ordinal(levels: int) -> Array:
    """The matrix of Ehrenfest's urns, for levels 0, ..., levels - 1 that have an order, such as gray values.

    A level is a number of heads among levels - 1 coins, each tossed again at rate one: to level k of n there
    leads a binomial with the heads that were kept, and alpha(t) is what is left of the distance of its mean
    from the middle. It is the Ornstein-Uhlenbeck process of many levels. Raises ValueError for fewer than 2.

    >>> jd.jumps.ordinal(3).tolist()
    [[-1.0, 1.0, 0.0], [0.5, -1.0, 0.5], [0.0, 1.0, -1.0]]
    """
    checks.integer("levels", levels, 2)
    k = np.arange(levels - 1)
    return birth_death((levels - 1 - k) / 2, (k + 1) / 2)


def _exponential(matrix: Array, elapsed: Array) -> Array:
    """exp(elapsed Q), (n, n), by sums and products of what is not negative."""
    n, fastest = len(matrix), -jnp.min(jnp.diagonal(matrix))
    moves = jnp.eye(n, dtype=matrix.dtype) + matrix / fastest  # at each tick of a clock
    ticks = fastest * elapsed
    halvings = jnp.ceil(jnp.log2(jnp.maximum(jnp.nan_to_num(ticks), 1.0))).astype(int)
    ticks = ticks * 2.0 ** (-halvings)

    def times(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    def term(i: int, total: Array) -> Array:
        return jnp.eye(n, dtype=matrix.dtype) + ticks / (20 - i) * times(moves, total)

    def square(_: int, total: Array) -> Array:
        total = times(total, total)
        return total / total.sum(1, keepdims=True)  # or rounding would double with each

    few = jax.lax.fori_loop(0, 20, term, jnp.eye(n, dtype=matrix.dtype))
    return jax.lax.fori_loop(0, halvings, square, few / few.sum(1, keepdims=True))


def _long_run(matrix: Any) -> tuple[np.ndarray, float]:
    """The stationary law of a matrix of rates and the time after which it is reached; see `Rates`."""
    values = checks.known(matrix)
    if values is None:
        raise TypeError(f"matrix must be an array of known rates, got {checks.described(matrix)}.")
    values = values.astype(np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise ValueError(f"matrix must have shape (vocabulary, vocabulary), got {values.shape}.")
    scale = np.abs(values).max()
    away = values - np.diag(np.diag(values))
    if not np.isfinite(scale) or (away < 0).any() or (np.abs(values.sum(1)) > 1e-5 * scale).any():
        raise ValueError(
            "matrix must hold rates: none below zero off the diagonal, and on it minus the sum of the row's "
            f"others; its rows sum to {checks.known(values.sum(1))}."
        )
    exact = away - np.diag(away.sum(1))
    gap = np.sort(-np.linalg.eigvals(exact).real)[1]
    if gap < 1e-12 * scale:
        raise ValueError(
            "matrix must forget where it began, but has two laws that do not change; see which tokens lead "
            "to which others."
        )
    equations = np.concatenate([exact.T, np.ones((1, len(exact)))])
    stationary = np.linalg.lstsq(equations, np.eye(len(exact) + 1)[-1])[0]
    stationary = np.maximum(stationary, 0)
    return stationary / stationary.sum(), float(40 / gap)
