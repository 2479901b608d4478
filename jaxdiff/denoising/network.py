"""From a network to a `Denoiser`.

With the row (a, b) of its prediction type (`jaxdiff.denoising.prediction`), det =
alpha b - sigma a and output p,

    data = skip.data - (sigma / det) p,      noise = skip.noise + (alpha / det) p.                      (1)

The skip is x read at p = 0, (b x / det, -a x / det); for EDM's that is the exact denoiser of N(0, std^2 I).
Any other *reference* law with a closed-form denoiser can take its place, and the network then learns what
that law leaves over.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising import prediction as prediction_types
from jaxdiff.denoising.conditions import told
from jaxdiff.denoising.denoiser import Denoiser, Distribution, from_estimate, time_axis
from jaxdiff.denoising.prediction import EDM, PredictionType
from jaxdiff.typing import Array, Condition, Denoised, Params, Predictor, Schedule, Time


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
    """The denoiser of a network, eq. (1).

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
    schedule's or that ends where the prediction leaves something open (noise where alpha = 0, data where
    sigma = 0), a scale that is not positive or a reference of another shape. The denoiser raises ValueError
    when predict answers in another shape than x's.

    >>> denoise = jd.make_denoiser(lambda params, x, t: params * x, 0.0, jd.Karras(), shape=(2,))
    >>> denoise(jnp.ones((1, 2)), 1.0).data.tolist()  # a network of zeros leaves the denoiser of N(0, I)
    [[0.5, 0.5]]
    """
    check_network(predict, params, "(params, x, t)", "make_denoiser")
    if reference is not None:
        needs = "sample", "log_prob", "perturbed", "denoiser"
        checks.law_shape("reference", reference, checks.data_shape(shape), needs)
    denoiser = from_estimate(
        _Network(predict, params, reference), schedule, shape=shape, scale=scale, t_min=t_min, t_max=t_max
    )
    if prediction is None:
        prediction = EDM(scale)
    prediction_types.check_type("prediction", prediction)
    if not isinstance(prediction, EDM):
        _check_determinants(prediction, schedule, denoiser.t_min, denoiser.t_max)
    return dataclasses.replace(
        denoiser, prediction=prediction, null_condition=jax.tree.map(jnp.asarray, null_condition)
    )


def check_network(predict: Any, params: Any, arguments: str, maker: str) -> None:
    """Raise TypeError for a network in the place of its apply function, and a TrainState for parameters."""
    if hasattr(predict, "apply") or not callable(predict):
        raise TypeError(
            f"predict must be a function of {arguments}, got {type(predict).__name__}; give a Flax "
            f"network's apply: {maker}(network.apply, params, ...)."
        )
    if hasattr(params, "ema_params") and hasattr(params, "opt_state"):
        raise TypeError("params must be a network's parameters, got a TrainState; give averaged(state).")


@pytree
@dataclass(frozen=True, eq=False)
class _Network:
    """Eq. (1)."""

    predict: Predictor
    params: Params
    reference: Distribution | None

    @compiled
    def __call__(self, denoiser: Denoiser, x: Array, t: Array, s: Array | None = None) -> Denoised:
        schedule, prediction = denoiser.schedule, denoiser.prediction

        def shown(t: Array) -> tuple[Array, Array]:
            times = jnp.broadcast_to(t, x.shape[:1])
            return jax.vmap(lambda x, t: prediction.inputs(schedule, x, t))(x, times)

        later = {} if s is None else {"s": shown(s)[1]}  # the second time of a flow map
        output = told(self.predict, self.params, *shown(t), condition=denoiser.condition, **later)
        if not isinstance(output, jax.Array | np.ndarray) or output.shape != x.shape:
            got = jnp.shape(output) if hasattr(output, "shape") else checks.described(output)
            raise ValueError(f"predict must answer in the shape of x, {x.shape}, but answered {got}.")
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


@compiled
def _determinant(prediction: PredictionType, schedule: Schedule, t: Time) -> tuple[Array, Array, Array]:
    """The determinant of a prediction type, alpha and sigma."""
    det = prediction_types.determinant(prediction.row, schedule, t)
    return det, schedule.alpha(t), schedule.sigma(t)


def _check_determinants(prediction: PredictionType, schedule: Schedule, t_min: float, t_max: float) -> None:
    """Raise ValueError where a prediction at an end leaves noise or data open, and losses would be NaN."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(schedule)):
        return
    for name, t, what, others in (
        ("t_min", t_min, "noise", "noise, v or EDM(std)"),
        ("t_max", t_max, "data", "v, flow or EDM(std)"),
    ):
        if not math.isfinite(t):
            continue
        with jax.ensure_compile_time_eval():
            det, alpha, sigma = map(float, _determinant(prediction, schedule, t))
        if det == 0 or not math.isfinite(det):
            raise ValueError(
                f"{prediction} says nothing of the {what} at {name} = {t:g} of {schedule}, where alpha = "
                f"{alpha:g}, sigma = {sigma:g} and det = {det:g}; give another {name}, an end of the times "
                f"trained on, or let the network predict {others}."
            )
