"""A denoiser as a value: what it answers, and all that it knows of its process and its data.

    denoise(x, t) = (E[data | x_t = x], E[noise | x_t = x]),        score = -noise / sigma(t)           (1)

It carries its schedule, the times that it knows, the shape and the scale of the data and the condition it is
bound to, so whatever takes a denoiser asks for none of these again. It is a frozen pytree whose parameters
are leaves: it goes through ``jit``, ``vmap`` and ``grad`` as an argument, and new parameters compile nothing
anew.

Of a network, with the row (a, b) of its prediction type (`jaxdiff.denoising.prediction`), det = alpha b -
sigma a and output p,

    data = skip.data - (sigma / det) p,      noise = skip.noise + (alpha / det) p.                      (2)

The skip is x read at p = 0, (b x / det, -a x / det); for EDM's that is the exact denoiser of N(0, std^2 I).
Any other *reference* law with a closed-form denoiser can take its place, and the network then learns what
that law leaves over.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import number
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising import prediction as prediction_types
from jaxdiff.denoising.prediction import EDM, PredictionType
from jaxdiff.noising.process import working_range
from jaxdiff.typing import Array, Condition, Denoised, Key, Params, Predictor, Schedule, StartLaw, Time

_SLACK = 1e-5  # relative, on the ends of a range: what float32 makes of a Python number


@pytree
@dataclass(frozen=True, eq=False)
class Denoiser:
    """``denoise(x, t) -> Denoised``: x of shape (batch, *shape), t a scalar or of shape (batch,).

    Made by `make_denoiser` of a network, by `as_denoiser` of a function, and by every law's
    ``denoiser(schedule)``. The answer has x's shape and dtype. A time outside of [t_min, t_max] is refused
    where it is known, with a ValueError, and answered with NaN where it is traced. Raises ValueError for an x
    of another shape, a t that goes with other rows, or a condition of another number of rows; TypeError for
    integer x.
    """

    estimate: "Estimate"
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
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x must have shape {checks.shown_shape(('batch', *self.shape))}, the data's of this "
                "denoiser; "
                f"got {x.shape}."
            )
        t = jnp.asarray(t)
        t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
        low, high = self.t_min - _SLACK * abs(self.t_min), self.t_max + _SLACK * abs(self.t_max)
        if checks.known(t) is None:
            t = jnp.where((t >= low) & (t <= high), t, jnp.nan)
        else:
            self.check_times("t", t)
        answer = self.estimate(self, x, t)
        if not isinstance(answer, Denoised):
            raise TypeError(
                f"a denoiser must answer a Denoised(data, noise), got {type(answer).__name__}; a network, "
                "which "
                "answers an array, becomes a denoiser by make_denoiser."
            )
        for name, part in answer._asdict().items():
            checks.shape(f"the denoiser's {name}", part, x.shape)
        return jax.tree.map(lambda part: part.astype(x.dtype), answer)

    def given(self, condition: Condition) -> "Denoiser":
        """The same, bound to a condition: a pytree of arrays whose leading axis is that of the batch.

        An array of leading axis 1, or a scalar such as a label, is one for all rows. None binds to nothing.
        """
        return dataclasses.replace(self, condition=jax.tree.map(jnp.asarray, condition))

    def at_rows(self, rows: Array) -> "Denoiser":
        """The denoiser of rows x[rows], (k,) integers: what is bound by row goes with them."""

        def take(denoiser: Denoiser) -> Denoiser:
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

        Those of the schedule's working range, at the log-SNRs that they have at the data's scale, within
        [t_min, t_max].
        """
        low, high = working_range(self.schedule, self.scale)
        if number(low) is None or number(high) is None:
            return jnp.clip(low, self.t_min, self.t_max), jnp.clip(high, self.t_min, self.t_max)
        return min(max(low, self.t_min), self.t_max), min(max(high, self.t_min), self.t_max)

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

    def affine(self, scale: Array | float, std: Array | float) -> "Distribution":
        """The law of ``scale x + std noise``, x of this law; two scalars."""
        ...

    def perturbed(self, schedule: Schedule, t: Time) -> "Distribution":
        """The law of ``alpha(t) data + sigma(t) noise``."""
        ...

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The exact conditional means under this law, at every time of the schedule."""
        ...


def make_denoiser(
    predict: Predictor,
    params: Params,
    schedule: Schedule,
    *,
    shape: tuple[int, ...],
    scale: Array | float = 1.0,
    prediction: PredictionType | None = None,
    reference: Distribution | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    null_condition: Condition = None,
) -> Denoiser:
    """The denoiser of a network, eq. (2).

    predict: any function of (params, x, t), and of a condition if the denoiser is bound to one, that answers
        in x's shape; it is called on whole batches. Give the same function again for new params: another one
        is another program to be compiled.
    shape: of one datum, such as (32, 32, 3).
    scale: standard deviation of the data, over all entries.
    prediction: what the network predicts and is shown; by default ``EDM(scale)``.
    reference: the law whose denoiser is the skip; by default the prediction type's own.
    t_min, t_max: the times that it is trained on; by default the schedule's working range.
    null_condition: one row of the condition that stands for none, for `guided` and `drop_condition`: the last
        label of a network with classes, say.

    Raises TypeError for a network in the place of its apply function, a TrainState in the place of
    parameters, a class in the place of a schedule or prediction type; ValueError for a range that is not the
    schedule's or that holds a time where the prediction says nothing of the data (noise where alpha = 0), a
    scale that is not positive or a reference of another shape. The denoiser raises ValueError when predict
    answers in another shape than x's.
    """
    if hasattr(predict, "apply") or not callable(predict):
        raise TypeError(
            f"predict must be a function of (params, x, t), got {type(predict).__name__}; give a Flax "
            "network's "
            "apply: make_denoiser(network.apply, params, ...)."
        )
    if hasattr(params, "ema_params") and hasattr(params, "opt_state"):
        raise TypeError("params must be a network's parameters, got a TrainState; give averaged(state).")
    checks.positive("scale", scale)
    if prediction is None:
        prediction = EDM(scale)
    _check_prediction(prediction)
    if reference is not None and reference.shape != tuple(shape):
        raise ValueError(
            f"reference must be a law of points of shape {tuple(shape)}, got one of {reference.shape}; a "
            "law of "
            "vectors becomes one of images by Shaped(law, shape)."
        )
    denoiser = as_denoiser(
        _Network(predict, params, reference), schedule, shape=shape, scale=scale, t_min=t_min, t_max=t_max
    )
    if not isinstance(prediction, EDM):
        _check_determinant(prediction, schedule, denoiser.t_max)
    return dataclasses.replace(
        denoiser, prediction=prediction, null_condition=jax.tree.map(jnp.asarray, null_condition)
    )


def as_denoiser(
    function: Callable[..., Denoised],
    schedule: Schedule,
    *,
    shape: tuple[int, ...],
    scale: Array | float = 1.0,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Denoiser:
    """The denoiser of a function (x, t) -> Denoised, or (x, t, condition) -> Denoised, and of what it does
    not say.

    shape, scale, t_min and t_max are those of `make_denoiser`, and so are the errors.
    """
    if hasattr(function, "apply") or not callable(function):
        raise TypeError(
            "function must be a function of (x, t) that answers a Denoised, got "
            f"{type(function).__name__}; a "
            "network becomes a denoiser by make_denoiser(network.apply, params, schedule, shape=...)."
        )
    checks.schedule(schedule)
    checks.positive("scale", scale)
    low, high = schedule.working_range
    t_min, t_max = float(low if t_min is None else t_min), float(high if t_max is None else t_max)
    checks.ordered("t_min", t_min, "t_max", t_max)
    for name, t in (("t_min", t_min), ("t_max", t_max)):
        checks.in_range(name, schedule, t)
    shape = tuple(int(size) for size in shape)
    estimate = function if isinstance(function, _Network) else _Function(function)
    return Denoiser(estimate, schedule, shape, scale, t_min, t_max)


@pytree
@dataclass(frozen=True, eq=False)
class _Function:
    function: Callable[..., Denoised]

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        condition = rows_of(denoiser.condition, len(x))
        return self.function(x, t) if condition is None else self.function(x, t, condition)


@pytree
@dataclass(frozen=True, eq=False)
class _Network:
    """Eq. (2)."""

    predict: Predictor
    params: Params
    reference: Distribution | None

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        schedule, prediction = denoiser.schedule, denoiser.prediction
        times = jnp.broadcast_to(t, x.shape[:1])
        shown = jax.vmap(lambda x, t: prediction.inputs(schedule, x, t))(x, times)
        condition = rows_of(denoiser.condition, len(x))
        if condition is None:
            output = self.predict(self.params, *shown)
        elif isinstance(condition, Mapping):
            output = self.predict(self.params, *shown, **condition)
        else:
            output = self.predict(self.params, *shown, condition)
        if jnp.shape(output) != x.shape:
            raise ValueError(
                f"predict must answer in the shape of x, {x.shape}, but answered {jnp.shape(output)}."
            )
        # A bfloat16 network inside mathematics in single precision or better.
        output = jnp.asarray(output).astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.reference is None:

            def at_zero(x: Array, t: Array) -> Denoised:
                return prediction_types.solve(prediction.row, schedule, jnp.zeros_like(x), x, t)

            skip = jax.vmap(at_zero, in_axes=(0, time_axis(t)))(x, t)
        else:
            skip = self.reference.denoiser(schedule)(x, t)

        def combine(output: Array, skip: Denoised, t: Array) -> Denoised:
            det = prediction_types.determinant(prediction.row, schedule, t)
            return Denoised(
                skip.data - schedule.sigma(t) / det * output, skip.noise + schedule.alpha(t) / det * output
            )

        return jax.vmap(combine, in_axes=(0, 0, time_axis(t)))(output, skip, t)


def guided(denoise: Denoiser, scale: Array | float, *, unconditional: Denoiser | None = None) -> Denoiser:
    """Classifier-free guidance: unconditional + scale (conditional - unconditional), for data and noise.

    denoise: bound to a condition by `Denoiser.given`, before or after; unconditional: by default the same,
    bound to its null condition. scale: 1 is the conditional denoiser. With a worse model in the place of the
    unconditional one this is autoguidance. What is sampled is not the tilted law p (p / q)^(scale - 1): the
    guided score is not that law's at any noise level but the last. Ho & Salimans 2022, arXiv 2207.12598;
    Karras et al. 2024, arXiv 2406.02507. Raises ValueError where there is neither a null condition nor
    another denoiser, and for an unconditional one of another schedule, shape or range.
    """
    check_denoiser("denoise", denoise)
    if unconditional is None:
        if denoise.null_condition is None:
            raise ValueError(
                "guided needs what stands for no condition: make the denoiser with null_condition=... (the "
                "last "
                "label of a network with classes), or give unconditional=, a denoiser."
            )
        unconditional = denoise.given(denoise.null_condition)
    check_denoiser("unconditional", unconditional)
    for name in ("schedule", "shape", "t_min", "t_max"):
        mine, other = getattr(denoise, name), getattr(unconditional, name)
        if not _same(mine, other):
            raise ValueError(f"unconditional must have the {name} of denoise, {mine}; got {other}.")
    return dataclasses.replace(denoise, estimate=_Guided(denoise, unconditional, scale), condition=None)


@pytree
@dataclass(frozen=True, eq=False)
class _Guided:
    conditional: Denoiser
    unconditional: Denoiser
    scale: Array | float

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        conditional = self.conditional
        if denoiser.condition is not None:  # bound after guidance was put on
            conditional = conditional.given(denoiser.condition)
        with_condition, without = conditional(x, t), self.unconditional(x, t)
        return jax.tree.map(lambda c, u: u + self.scale * (c - u), with_condition, without)


def drop_condition(key: Key, condition: Condition, null_condition: Condition, rate: float) -> Condition:
    """The condition of a batch with rows put to the null condition, each at the given rate, for training.

    null_condition: as the condition, of one row or scalars. Row i depends on (key, i) only.
    """
    checks.within("rate", rate, 0.0, 1.0)
    n = checks.num_rows(condition)
    dropped = per_row(key, n, lambda key: jax.random.bernoulli(key, rate))

    def drop(leaf: Array, null: Array) -> Array:
        null = jnp.asarray(null, leaf.dtype)
        null = null if jnp.shape(null)[:1] in ((), (1,)) else null[None]
        return jnp.where(dropped.reshape(-1, *[1] * (leaf.ndim - 1)), null.reshape(1, *leaf.shape[1:]), leaf)

    return jax.tree.map(drop, condition, null_condition)


def rows_of(condition: Condition, n: int) -> Condition:
    """A condition with one row for each of n; ValueError where it has another number of rows."""

    def rows(leaf: Array) -> Array:
        leaf = leaf if jnp.ndim(leaf) else leaf[None]
        if leaf.shape[0] not in (1, n):
            raise ValueError(
                f"a condition must have one row for each of the {n} of x, or one for all; got "
                f"{leaf.shape[0]}."
            )
        return jnp.broadcast_to(leaf, (n, *leaf.shape[1:]))

    return jax.tree.map(rows, condition)


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


def _check_prediction(prediction: Any) -> None:
    names = "prediction.data, noise, score, v, flow or EDM(std)"
    if inspect.isclass(prediction):
        raise TypeError(
            f"prediction must be a prediction type, got the class {prediction.__name__}; call it."
        )
    if not hasattr(prediction, "row") or not hasattr(prediction, "inputs"):
        raise TypeError(f"prediction must be one of {names}, got {prediction!r}.")


def _check_determinant(prediction: PredictionType, schedule: Schedule, t_max: float) -> None:
    """Raise ValueError where a prediction at t_max leaves the data open."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(schedule)) or not math.isfinite(
        t_max
    ):
        return
    with jax.ensure_compile_time_eval():
        det = float(prediction_types.determinant(prediction.row, schedule, t_max))
        alpha = float(schedule.alpha(t_max))
    if det == 0 or not math.isfinite(det):
        raise ValueError(
            f"{prediction} says nothing of the data at t_max = {t_max:g} of {schedule}, where alpha = "
            f"{alpha:g}; "
            "give a smaller t_max, the last time trained on, or let the network predict v, flow or EDM()."
        )


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal as far as is known."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = [(checks.known(x), checks.known(y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    return all(x is None or y is None or (x.shape == y.shape and (x == y).all()) for x, y in pairs)
