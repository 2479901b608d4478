"""Jump processes of tokens, each of which jumps on its own: masking, uniform, or by rates (`jumps.rates`).

With alpha(t) of the schedule, a token goes from x to k at the rate -(alpha'/alpha) Q(x, k), and

    P_st = exp(log(alpha_s / alpha_t) Q)                        the law of x_t given x_s, s < t          (1)

In what follows everything is one token's, though p, the law of its data given all of x_t, hears the others:

    p(x_s = k | x_t, data) = P_0s(data, k) P_st(k, x_t) / P_0t(data, x_t)                                (2)
    r_s(k)                 = sum_v p(v) P_0s(v, k) / P_0t(v, x_t)                                        (3)
    p(x_s = k | x_t)       = r_s(k) P_st(k, x_t)          the mean of (2) over p                         (4)
    r_t(k)                 = p_t(x_t with k in place of its own token) / p_t(x_t)                        (5)
    reverse rate to k      = -(alpha'/alpha) Q(k, x_t) r_t(k)                                            (6)

so one sum (3) is the ancestral step and the ratio of probabilities that stands for a score, (5) being said of
all k from which x_t can be reached. Austin et al. 2021, arXiv 2107.03006; Campbell et al. 2022, arXiv
2205.14987; Lou et al. 2023, arXiv 2310.16834.

A process is asked for little: `push`, a law through P_st; `pull`, values through P_st from the other side;
the rows and the columns of Q. Masking and uniform jumps never make a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.jumps.schedules import Linear
from jaxdiff.noising.process import marginals
from jaxdiff.typing import Array, Schedule, Time

LINEAR = Linear()


class JumpProcess(Protocol):
    """What the rest of this package asks of a process; times are scalars, laws (..., states)."""

    @property
    def schedule(self) -> Schedule:
        """With alpha + sigma = 1."""
        ...

    @property
    def vocabulary(self) -> int:
        """Tokens of the data are 0, ..., vocabulary - 1."""
        ...

    @property
    def states(self) -> int:
        """Tokens of x are 0, ..., states - 1: those of the data, and the mask where there is one."""
        ...

    def push(self, law: Array, s: Time, t: Time) -> Array:
        """sum_x law(x) P_st(x, k), (..., states), of laws at s."""
        ...

    def pull(self, values: Array, s: Time, t: Time) -> Array:
        """sum_k P_st(x, k) values(k), (..., states): the means of values at t, given x at s."""
        ...

    def leaving(self, x: Array) -> Array:
        """Q(x, .), (..., states), for tokens (...)."""
        ...

    def entering(self, x: Array) -> Array:
        """Q(., x), (..., states), for tokens (...)."""
        ...

    def final_law(self) -> Array:
        """The law where all has been forgotten, (states,)."""
        ...


@dataclass(frozen=True)
class _Replacing:
    """Tokens are replaced by draws of one law pi: Q = 1 pi' - I and P_st = a I + (1 - a) 1 pi'."""

    vocabulary: int
    schedule: Schedule = LINEAR

    def __post_init__(self) -> None:
        checks.integer("vocabulary", self.vocabulary, 2)
        check_schedule(self.schedule)

    @property
    def states(self) -> int:
        return self.vocabulary

    def final_law(self) -> Array:
        raise NotImplementedError

    def push(self, law: Array, s: Time, t: Time) -> Array:
        kept, lost = shares(self.schedule, s, t)
        return kept * law + lost * law.sum(-1, keepdims=True) * _last(self.final_law(), law)

    def pull(self, values: Array, s: Time, t: Time) -> Array:
        kept, lost = shares(self.schedule, s, t)
        return kept * values + lost * (values * _last(self.final_law(), values)).sum(-1, keepdims=True)

    def leaving(self, x: Array) -> Array:
        own = one_hot(x, self.states)
        return _last(self.final_law(), own) - own

    def entering(self, x: Array) -> Array:
        return self.final_law()[x][..., None] - one_hot(x, self.states)


@pytree
@dataclass(frozen=True)
class Masking(_Replacing):
    """Tokens 0, ..., vocabulary - 1 are put to the mask, the token `vocabulary`, one by one and for good.

    alpha(t) is the share that is not masked. Sahoo et al. 2024, arXiv 2406.07524; Shi et al. 2024, arXiv
    2406.04329. Raises ValueError for a vocabulary below 2 or a schedule without alpha + sigma = 1.

    >>> process = jd.jumps.Masking(3)
    >>> process.states, process.mask
    (4, 3)
    >>> jd.jumps.perturb(jax.random.key(0), process, jnp.array([[0, 1, 2]]), 1.0).tolist()
    [[3, 3, 3]]
    """

    @property
    def states(self) -> int:
        return self.vocabulary + 1

    @property
    def mask(self) -> int:
        """The token that stands for none."""
        return self.vocabulary

    def final_law(self) -> Array:
        return one_hot(jnp.asarray(self.vocabulary), self.states)


@pytree
@dataclass(frozen=True)
class Uniform(_Replacing):
    """Tokens 0, ..., vocabulary - 1 are replaced by draws of them all, of equal chances.

    alpha(t) is the share that was never replaced. Raises as `Masking`.

    >>> x = jd.jumps.perturb(jax.random.key(0), jd.jumps.Uniform(2), jnp.zeros((10_000, 1), int), 0.5)
    >>> round(float(x.mean()), 1)  # half were replaced, by as many zeros as ones: .25
    0.2
    """

    def final_law(self) -> Array:
        return jnp.full(self.vocabulary, 1 / self.vocabulary)


def one_hot(x: Array, n: int) -> Array:
    """One of n for each token, (..., n), zero for tokens of none of them; in the default precision."""
    return jax.nn.one_hot(x, n, dtype=float)


def among_states(process: JumpProcess, law: Array) -> Array:
    """A law of the data's tokens, (..., vocabulary), as one of x's, (..., states)."""
    return jnp.pad(law, [(0, 0)] * (law.ndim - 1) + [(0, process.states - process.vocabulary)])


def start_law(process: JumpProcess, t: Time) -> Array:
    """What a token of equal chances has become at t, (states,): the final law, where all is forgotten."""
    equal = jnp.full(process.vocabulary, 1 / process.vocabulary)
    return process.push(among_states(process, equal), process.schedule.t_min, t)


def likelihood(process: JumpProcess, x: Array, t: Time) -> Array:
    """P_0t(v, x) for every token v of the data, (..., vocabulary)."""
    values = one_hot(x, process.states)
    return process.pull(values, process.schedule.t_min, t)[..., : process.vocabulary]


def bridge(process: JumpProcess, data: Array, x_t: Array, s: Time, t: Time) -> Array:
    """The chances of each token of x_s given data and x_t, eq. (2), (..., states), for s < t.

    NaN where x_t cannot come of the data. Raises ValueError for data and x_t of two shapes.

    >>> masked = jnp.array([2])
    >>> jd.jumps.bridge(jd.jumps.Masking(2), jnp.array([0]), masked, 0.25, 0.5).round(4)
    Array([[0.5, 0. , 0.5]], dtype=float32)
    """
    checks.integers("data", data)
    checks.integers("x_t", x_t)
    checks.shape("x_t", x_t, jnp.shape(data))
    own = one_hot(data, process.states)
    joint = process.push(own, process.schedule.t_min, s) * process.pull(one_hot(x_t, process.states), s, t)
    return joint / joint.sum(-1, keepdims=True)


def ratios(process: JumpProcess, log_probs: Array, x_t: Array, t: Time, s: Time | None = None) -> Array:
    """r_s of eq. (3), (..., states), and by default r_t: p_t(x_t with another token) / p_t(x_t).

    log_probs: of the data given x_t, (..., vocabulary), as a `CategoricalDenoiser` answers.

    >>> log_probs, masked = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([2])
    >>> jd.jumps.ratios(jd.jumps.Masking(2), log_probs, masked, 0.5).round(4)
    Array([[0.75, 0.25, 1.  ]], dtype=float32)
    """
    own = likelihood(process, x_t, t)
    possible = own > 0
    # What cannot have been adds nothing, whatever is said of it.
    weights = jnp.where(possible, jnp.exp(log_probs) / jnp.where(possible, own, 1.0), 0.0)
    return process.push(among_states(process, weights), process.schedule.t_min, t if s is None else s)


def reverse_step(process: JumpProcess, log_probs: Array, x_t: Array, s: Time, t: Time) -> Array:
    """The chances of each token of x_s given x_t, eq. (4), (..., states), for s < t; see `ratios`.

    >>> log_probs, masked = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([2])
    >>> jd.jumps.reverse_step(jd.jumps.Masking(2), log_probs, masked, 0.25, 0.5).round(4)
    Array([[0.375, 0.125, 0.5  ]], dtype=float32)
    """
    return ratios(process, log_probs, x_t, t, s) * process.pull(one_hot(x_t, process.states), s, t)


def rate(process: JumpProcess, t: Time) -> Array:
    """-(alpha'/alpha)(t), which Q is times."""
    t = jnp.asarray(t, float)
    alpha, slope = jax.jvp(process.schedule.alpha, (t,), (jnp.ones_like(t),))
    return -slope / alpha


def forward_rates(process: JumpProcess, x: Array, t: Time) -> Array:
    """Rates of the jumps from tokens x at t, (..., states); that to the token itself is minus their sum.

    >>> jd.jumps.forward_rates(jd.jumps.Masking(2), jnp.array([0]), 0.5).round(4)
    Array([[-2.,  0.,  2.]], dtype=float32)
    """
    return rate(process, t) * process.leaving(x)


def reverse_rates(process: JumpProcess, log_probs: Array, x_t: Array, t: Time) -> Array:
    """Rates of the reverse process's jumps from x_t, eq. (6), (..., states); as `forward_rates`.

    >>> log_probs, masked = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([2])
    >>> jd.jumps.reverse_rates(jd.jumps.Masking(2), log_probs, masked, 0.5).round(4)
    Array([[ 1.5,  0.5, -2. ]], dtype=float32)
    """
    rates = rate(process, t) * process.entering(x_t) * ratios(process, log_probs, x_t, t)
    own = one_hot(x_t, process.states)
    others = rates * (1 - own)
    return others - own * others.sum(-1, keepdims=True)


def check_process(name: str, value: Any) -> None:
    """Raise TypeError unless value is a process of jumps."""
    needs = ("schedule", "vocabulary", "states", "push", "pull", "leaving", "entering", "final_law")
    if isinstance(value, type) or not all(hasattr(value, need) for need in needs):
        raise TypeError(f"{name} must be a process such as jumps.Masking(27), got {checks.described(value)}.")


def shares(schedule: Schedule, s: Time, t: Time) -> tuple[Array, Array]:
    """alpha_t / alpha_s and what it lacks of one, each to its own precision."""
    alpha = schedule.alpha(s)
    return schedule.alpha(t) / alpha, (schedule.sigma(t) - schedule.sigma(s)) / alpha


def _last(law: Array, like: Array) -> Array:
    """A law (states,) to go with others, (..., states)."""
    return law.astype(like.dtype).reshape((1,) * (like.ndim - 1) + law.shape)


def check_schedule(schedule: Any) -> None:
    """Raise TypeError for what is no schedule, ValueError unless alpha + sigma = 1 and it begins at 1."""
    checks.schedule(schedule)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(schedule)):
        return
    low, high = schedule.working_range
    alpha, sigma = map(checks.known, marginals(schedule, np.linspace(low, high, 5)[1:-1]))
    first = checks.known(marginals(schedule, schedule.t_min)[1])
    if alpha is None or sigma is None or first is None:
        return
    if not (np.allclose(alpha + sigma, 1, atol=1e-5) and abs(first) < 1e-6):
        raise ValueError(
            f"schedule must have alpha + sigma = 1, the chances to stay and to jump, and sigma = 0 at its "
            f"first time, as jumps.Linear() has; got {schedule}."
        )
