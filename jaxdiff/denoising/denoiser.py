"""A denoiser as a value: what it answers, and all that it knows of its process and its data.

    denoise(x, t) = (E[data | x_t = x], E[noise | x_t = x]),        score = -noise / sigma(t)           (1)

It carries its schedule, the times that it knows, the shape and the scale of the data and the condition it is
bound to, so whatever takes a denoiser asks for none of these again. It is a frozen pytree whose parameters
are leaves: it goes through ``jit``, ``vmap`` and ``grad`` as an argument, and new parameters compile nothing
anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising import prediction as prediction_types
from jaxdiff.denoising.conditions import as_condition, rows_of
from jaxdiff.denoising.prediction import PredictionType
from jaxdiff.noising.process import working_range
from jaxdiff.typing import Array, Condition, Denoised, Schedule, StartLaw, Time


@pytree
@dataclass(frozen=True, eq=False)
class Denoiser:
    """``denoise(x, t) -> Denoised``: x of shape (batch, *shape), t a scalar or of shape (batch,).

    Made by `make_denoiser` of a network, by `as_denoiser` of a function, and by every law's
    ``denoiser(schedule)``. The answer has x's shape and dtype. A time outside of [t_min, t_max] is refused
    where it is known, with a ValueError, and answered with NaN where it is traced. Raises ValueError for an x
    of another shape, a t that goes with other rows, or a condition of another number of rows; TypeError for
    integer x.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> denoise(jnp.array([[2.0]]), 1.0).data.tolist()
    [[1.0]]
    >>> denoise.shape, float(denoise.scale)
    ((1,), 1.0)
    """

    estimate: Estimate
    """How it answers: ``estimate(denoiser, x, t) -> Denoised``."""
    schedule: Schedule
    shape: tuple[int, ...]
    """Of one datum."""
    scale: Array | float
    """Standard deviation of the data, over all entries."""
    t_min: float
    """The least time that it knows, trained or exact; t_max is the largest."""
    t_max: float
    prediction: PredictionType = prediction_types.noise
    """What a network predicts, and what a loss measures in if nothing else is said."""
    condition: Condition = None
    """What it is bound to, see `given`."""
    null_condition: Condition = None
    """The condition that stands for none, of one row: what classifier-free training drops a condition for."""

    def __call__(self, x: Array, t: Time) -> Denoised:
        checks.batch("x", x, t)
        self.check_shape("x", x)
        t = single(t)
        if checks.known(t) is None:
            low, high = checks.rounded_out(self.t_min, self.t_max)
            t = jnp.where((t >= low) & (t <= high), t, jnp.nan)
        else:
            self.check_times("t", t)
        answer = self.estimate(self, x, t)
        if not isinstance(answer, Denoised):
            raise TypeError(
                f"a denoiser must answer a Denoised(data, noise), got {type(answer).__name__}; a network, "
                "which answers an array, becomes a denoiser by make_denoiser."
            )
        for name, part in answer._asdict().items():
            checks.shape(f"the denoiser's {name}", part, x.shape)
        return jax.tree.map(lambda part: part.astype(x.dtype), answer)

    def given(self, condition: Condition) -> Denoiser:
        """The same, bound to a condition: a pytree of arrays whose leading axis is that of the batch.

        An array of leading axis 1, or a scalar such as a label, is one for all rows. None binds to nothing.
        """
        return dataclasses.replace(self, condition=as_condition(condition))

    def at_rows(self, rows: Array) -> Denoiser:
        """The denoiser of rows x[rows], (k,) integers: what is bound by row goes with them."""

        def take(denoiser: Denoiser) -> Denoiser:
            estimate: Any = denoiser.estimate
            if hasattr(estimate, "at_rows"):  # it holds what goes by row, beside conditions
                return dataclasses.replace(denoiser, estimate=estimate.at_rows(rows))
            return dataclasses.replace(
                denoiser,
                condition=jax.tree.map(
                    lambda leaf: leaf if jnp.shape(leaf)[:1] in ((), (1,)) else leaf[rows], denoiser.condition
                ),
                # Conditions may also be bound to denoisers that this one is made of.
                estimate=jax.tree.map(
                    lambda node: take(node) if isinstance(node, Denoiser) else node,
                    denoiser.estimate,
                    is_leaf=lambda node: isinstance(node, Denoiser),
                ),
            )

        return take(self)

    @property
    def working_range(self) -> tuple[Time, Time]:
        """The times between which it is sampled and asked for densities unless something else is said.

        Its own t_min and t_max, of a network those that it is trained on. Where one of them is an end of the
        schedule, as a law's are, which knows all times, that of the schedule's working range, at the log-SNR
        that it has at the data's scale. Raises ValueError where that is 0: a law of one point has no density,
        and nothing to be sampled.
        """
        checks.positive("the denoiser's scale, the standard deviation of its data,", self.scale)
        ends = zip(
            (self.t_min, self.t_max),
            (self.schedule.t_min, self.schedule.t_max),
            working_range(self.schedule, self.scale),
            strict=True,
        )
        low, high = (working if checks.known(own) == end else own for own, end, working in ends)
        return low, high

    def check_shape(self, name: str, x: Array) -> None:
        """Raise ValueError unless x holds rows of the data's shape."""
        check_data_shape(name, self.shape, x)

    def check_scale(self, name: str, data: Array) -> None:
        """Raise ValueError where known data, (batch, *shape), are of quite another scale than is said."""
        got, scale = checks.root_mean_square(data), checks.known(self.scale)
        if got is None or scale is None:
            return
        if got > 20 * scale or got < scale / 100:
            raise ValueError(
                f"{name} have the root mean square {got:.3g}, which is far from the denoiser's scale, "
                f"{float(scale):.3g}; divide them by their standard deviation (pixels in 0..255 are scaled "
                "to [-1, 1], say), or make the denoiser with their scale."
            )

    def check_times(self, name: str, t: Any) -> None:
        """Raise ValueError unless known times t, of any shape, lie in [t_min, t_max]."""
        checks.between(
            name, t, self.t_min, self.t_max, f"the times that this denoiser of {self.schedule} knows"
        )


Estimate: TypeAlias = Callable[[Denoiser, Array, Array], Denoised]
"""``estimate(denoiser, x, t)``: a function, or a callable pytree that holds arrays."""


class Distribution(StartLaw, Protocol):
    """A law with everything in closed form; an oracle, a start law or a reference."""

    @property
    def scale(self) -> Array | float:
        """Standard deviation over all entries: the root of the mean variance."""
        ...

    def affine(self, scale: Array | float, std: Array | float) -> Distribution:
        """The law of ``scale x + std noise``, x of this law; two scalars."""
        ...

    def perturbed(self, schedule: Schedule, t: Time) -> Distribution:
        """The law of ``alpha(t) data + sigma(t) noise``."""
        ...

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The exact conditional means under this law, at every time of the schedule."""
        ...


def as_denoiser(
    function: Callable[..., Denoised],
    schedule: Schedule,
    *,
    shape: tuple[int, ...],
    scale: Array | float = 1.0,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Denoiser:
    """The denoiser of a function and of what it does not say.

    function: (x, t) -> Denoised, or (x, t, condition) -> Denoised if the denoiser is bound to a condition.
    shape, scale, t_min and t_max are those of `make_denoiser`, and so are the errors.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t), jd.Karras(), shape=(2,))
    >>> zero(jnp.array([[2.0, 4.0]]), 2.0).noise.tolist()
    [[1.0, 2.0]]
    """
    if hasattr(function, "apply") or not callable(function):
        raise TypeError(
            "function must be a function of (x, t) that answers a Denoised, got "
            f"{type(function).__name__}; a network becomes a denoiser by make_denoiser(network.apply, "
            "params, schedule, shape=...)."
        )
    return from_estimate(_Function(function), schedule, shape=shape, scale=scale, t_min=t_min, t_max=t_max)


def from_estimate(
    estimate: Estimate,
    schedule: Schedule,
    *,
    shape: tuple[int, ...],
    scale: Array | float,
    t_min: float | None,
    t_max: float | None,
) -> Denoiser:
    """The denoiser that answers by an estimate; its range is by default the schedule's working range."""
    checks.schedule(schedule)
    checks.positive_number("scale", scale)
    t_min, t_max = known_range(schedule, t_min, t_max)
    return Denoiser(estimate, schedule, checks.data_shape(shape), scale, t_min, t_max)


def known_range(schedule: Schedule, t_min: float | None, t_max: float | None) -> tuple[float, float]:
    """The times that a denoiser knows, by default the schedule's working range.

    Raises ValueError unless they are in order and in the schedule's range.
    """
    low, high = schedule.working_range
    t_min, t_max = low if t_min is None else t_min, high if t_max is None else t_max
    checks.ordered("t_min", t_min, "t_max", t_max)
    t_min, t_max = float(t_min), float(t_max)
    for name, t in (("t_min", t_min), ("t_max", t_max)):
        checks.in_range(name, schedule, t)
    return t_min, t_max


def check_data_shape(name: str, shape: tuple[int, ...], x: Array) -> None:
    """Raise ValueError unless x holds rows of data of a denoiser's shape."""
    if tuple(jnp.shape(x)[1:]) != shape:
        raise ValueError(
            f"{name} must have shape {checks.shown_shape(('batch', *shape))}, the data's of this "
            f"denoiser; got {jnp.shape(x)}."
        )


@pytree
@dataclass(frozen=True, eq=False)
class _Function:
    function: Callable[..., Denoised]

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        condition = rows_of(denoiser.condition, x.shape[0])
        return self.function(x, t) if condition is None else self.function(x, t, condition)


def time_axis(t: Time) -> int | None:
    """The `vmap` axis of a time that is one for the batch (a scalar) or one for each example, (batch,)."""
    return 0 if jnp.ndim(t) else None


def check_denoiser(name: str, denoise: Any) -> None:
    """Raise TypeError unless denoise is a Denoiser."""
    if isinstance(denoise, Denoiser):
        return
    if hasattr(denoise, "apply"):
        hint = "a network becomes one by make_denoiser(network.apply, params, schedule, shape=...)"
    else:
        hint = "a function of (x, t) becomes one by as_denoiser(function, schedule, shape=..., scale=...)"
    raise TypeError(f"{name} must be a Denoiser, got {type(denoise).__name__}; {hint}.")


def check_agree(
    name: str,
    denoise: Denoiser,
    other_name: str,
    other: Denoiser,
    fields: tuple[str, ...] = ("schedule", "shape"),
) -> None:
    """Raise ValueError unless the fields of one denoiser are those of another, as far as is known."""
    for field in fields:
        got, wanted = getattr(denoise, field), getattr(other, field)
        if not _agree(got, wanted):
            raise ValueError(f"{name} must have the {field} of {other_name}, {wanted}; got {got}.")


def _agree(a: Any, b: Any) -> bool:
    """Whether two values are equal as far as is known."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = [(checks.known(x), checks.known(y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    return all(x is None or y is None or (x.shape == y.shape and (x == y).all()) for x, y in pairs)
