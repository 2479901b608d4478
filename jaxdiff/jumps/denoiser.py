"""A denoiser of tokens as a value: what their data were, and all that it knows of its process.

    denoise(x, t) = log p(token i of the data = v | x_t = x)                       (batch, *shape, vocabulary)
                  = others(x, t) + log P_0t(v, x_i), less the logarithm of its sum over v                  (1)

A network, or a law, answers `others`: what all but x_i say of token i, up to a constant. What x_i itself says
is known, and comes in by Bayes' rule; so under masking a token that is seen is answered with certainty, and a
network of zeros is the exact denoiser of tokens that are uniform and independent. A network may look at x_i
too: it is trained on (1). One that does not answers the law of the data's token given the others' x_t alone,
the conditional marginals of Sun et al. 2023, arXiv 2211.16750.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.conditions import as_condition, told
from jaxdiff.denoising.denoiser import check_data_shape, known_range
from jaxdiff.denoising.network import check_network
from jaxdiff.jumps.draws import check_row_times, check_tokens
from jaxdiff.jumps.processes import JumpProcess, check_process, likelihood
from jaxdiff.noising.process import marginals
from jaxdiff.typing import Array, Condition, Params, Predictor, Schedule, Time


@pytree
@dataclass(frozen=True, eq=False)
class CategoricalDenoiser:
    """``denoise(x, t) -> log-probabilities`` of x, integers (batch, *shape), at t, a scalar or (batch,).

    Made by `jumps.make_denoiser` of a network and by a law's ``denoiser(process)``. A time outside of [t_min,
    t_max] is refused where it is known and answered with NaN where it is traced, as is an x that cannot be.
    Raises TypeError for x that is not of integers, ValueError for another shape, tokens that the process does
    not know, a t that goes with other rows, or a condition of another number of rows.

    >>> denoise = jd.jumps.Enumerated(jnp.array([0.25, 0.75])).denoiser(jd.jumps.Masking(2))
    >>> denoise.shape, jnp.exp(denoise(jnp.array([[2]]), 0.5)).round(4).tolist()
    ((1,), [[[0.25, 0.75]]])
    """

    estimate: Estimate
    """How it answers: ``estimate(denoiser, x, t) -> others`` of eq. (1)."""
    process: JumpProcess
    shape: tuple[int, ...]
    """Of one datum: (length,) of a sequence."""
    t_min: float
    """The least time that it knows; t_max is the largest."""
    t_max: float
    condition: Condition = None
    """What it is bound to, see `given`."""
    null_condition: Condition = None
    """The condition that stands for none, of one row, as of `jaxdiff.Denoiser`."""

    def __call__(self, x: Array, t: Time) -> Array:
        return _joined(self.process, self.others(x, t), x, self._times(x, t))

    def others(self, x: Array, t: Time) -> Array:
        """What all but x_i say of token i, (batch, *shape, vocabulary): logarithms, each token's up to one
        constant; in single precision or better."""
        answer = self.estimate(self, x, self._times(x, t))
        checks.shape("the denoiser's answer", answer, (*x.shape, self.vocabulary))
        return single(answer)

    def given(self, condition: Condition) -> CategoricalDenoiser:
        """The same, bound to a condition; see `jaxdiff.Denoiser.given`."""
        return dataclasses.replace(self, condition=as_condition(condition))

    @property
    def vocabulary(self) -> int:
        return self.process.vocabulary

    @property
    def schedule(self) -> Schedule:
        return self.process.schedule

    def check_shape(self, name: str, x: Array) -> None:
        """Raise ValueError unless x holds rows of the data's shape."""
        check_data_shape(name, self.shape, x)

    def check_times(self, name: str, t: Any) -> None:
        """Raise ValueError unless known times t, of any shape, lie in [t_min, t_max]."""
        what = f"the times that this denoiser of {self.schedule} knows"
        checks.between(name, t, self.t_min, self.t_max, what)

    def _times(self, x: Array, t: Time) -> Array:
        """One time for each row, NaN where it is not known, after all checks."""
        check_tokens("x", x, self.process.states)
        self.check_shape("x", x)
        check_row_times(x, t)
        self.check_times("t", t)
        return _in_range(single(t), *checks.rounded_out(self.t_min, self.t_max), n=x.shape[0])


@compiled(static="n")
def _in_range(t: Array, low: float, high: float, n: int) -> Array:
    return jnp.broadcast_to(jnp.where((t >= low) & (t <= high), t, jnp.nan), (n,))


@compiled
def _joined(process: JumpProcess, others: Array, x: Array, t: Array) -> Array:
    """Eq. (1)."""
    own = jax.vmap(lambda x, t: jnp.log(likelihood(process, x, t)))(x, t)
    return jax.nn.log_softmax(others + own.astype(others.dtype), axis=-1)


Estimate: TypeAlias = Callable[[CategoricalDenoiser, Array, Array], Array]
"""``estimate(denoiser, x, t)``, t of shape (batch,): a function, or a callable pytree that holds arrays."""


def make_denoiser(
    predict: Predictor,
    params: Params,
    process: JumpProcess,
    *,
    shape: tuple[int, ...],
    t_min: float | None = None,
    t_max: float | None = None,
    null_condition: Condition = None,
) -> CategoricalDenoiser:
    """The denoiser of a network, eq. (1).

    predict: any function of (params, x, level), and of a condition if the denoiser is bound to one: x holds
        tokens 0, ..., process.states - 1, (batch, *shape), the mask being the last, and level = sigma(t), the
        share of tokens that have jumped, (batch,). It answers (batch, *shape, vocabulary) of any numbers.
        Give the same function again for new params: another one is another program to be compiled.
    shape: of one datum, (length,) of a sequence.
    t_min, t_max: the times that it is trained on; by default the schedule's working range.
    null_condition: as of `jaxdiff.make_denoiser`.

    Raises TypeError for a network in the place of its apply function, a TrainState in the place of parameters
    or what is no process; ValueError for a range that is not the schedule's. The denoiser raises ValueError
    when predict answers in another shape.

    >>> network = lambda logits, x, level: jnp.broadcast_to(logits, (*x.shape, 2))
    >>> logits = jnp.log(jnp.array([0.75, 0.25]))
    >>> denoise = jd.jumps.make_denoiser(network, logits, jd.jumps.Masking(2), shape=(2,))
    >>> jnp.exp(denoise(jnp.array([[1, 2]]), 0.5)).round(4)  # what is seen is certain
    Array([[[0.  , 1.  ],
            [0.75, 0.25]]], dtype=float32)
    """
    check_network(predict, params, "(params, x, level)", "jumps.make_denoiser")
    denoiser = from_estimate(_Network(predict, params), process, shape=shape, t_min=t_min, t_max=t_max)
    return dataclasses.replace(denoiser, null_condition=jax.tree.map(jnp.asarray, null_condition))


def from_estimate(
    estimate: Estimate,
    process: JumpProcess,
    *,
    shape: tuple[int, ...],
    t_min: float | None = None,
    t_max: float | None = None,
) -> CategoricalDenoiser:
    """The denoiser that answers by an estimate; its range is by default the schedule's working range."""
    check_process("process", process)
    t_min, t_max = known_range(process.schedule, t_min, t_max)
    return CategoricalDenoiser(estimate, process, checks.data_shape(shape), t_min, t_max)


@pytree
@dataclass(frozen=True, eq=False)
class _Network:
    predict: Predictor
    params: Params

    @compiled
    def __call__(self, denoiser: CategoricalDenoiser, x: Array, t: Array) -> Array:
        level = marginals(denoiser.schedule, t)[1]
        return told(self.predict, self.params, x, level, condition=denoiser.condition)


def check_denoiser(name: str, denoise: Any) -> None:
    """Raise TypeError unless denoise is a CategoricalDenoiser."""
    if not isinstance(denoise, CategoricalDenoiser):
        raise TypeError(
            f"{name} must be a denoiser of tokens, got {checks.described(denoise)}; a network becomes one by "
            "jumps.make_denoiser(network.apply, params, process, shape=...)."
        )
