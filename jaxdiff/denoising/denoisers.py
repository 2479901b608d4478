"""From a network to a `Denoiser`, and transforms of one denoiser into another.

With the row (a, b) of the parameterization and det = alpha b - sigma a, a network output p gives

    data = skip.data - (sigma / det) p,      noise = skip.noise + (alpha / det) p.               (1)

The skip is x read at p = 0, (b x / det, -a x / det); for `edm` that is the exact denoiser of N(0, std^2 I).
Any other *reference* law with a closed-form denoiser can take its place, and the network then learns what
that law leaves over.
"""

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.denoising import parameterizations
from jaxdiff.denoising.parameterizations import Parameterization
from jaxdiff.typing import Array, Denoised, Denoiser, Distribution, Params, Predictor, Schedule, Time


def make_denoiser(
    predict: Predictor,
    params: Params,
    schedule: Schedule,
    *,
    parameterization: Parameterization | None = None,
    reference: Distribution | None = None,
) -> Denoiser:
    """The denoiser of eq. (1); ``denoise(x, t)`` takes x of shape (batch, ...) and t scalar or (batch,).

    predict: any function of (params, x, t) that answers in x's shape; it is called on whole batches.
    parameterization: what it predicts and what it is shown; by default `edm()`, for data of unit variance.
    reference: the law whose denoiser is the skip, of vectors (batch, d); by default the row's own.
    Raises TypeError for integer x and ValueError for a t that goes with other rows, for a reference of
    another dimension, or when predict answers in another shape than x's.
    """
    parameterization = parameterization or parameterizations.edm()

    def combine(x: Array, prediction: Array, skip: Denoised, t: Array) -> Denoised:
        det = parameterizations.determinant(parameterization.row, schedule, t)
        data = skip.data - (schedule.sigma(t) / det).astype(x.dtype) * prediction
        noise = skip.noise + (schedule.alpha(t) / det).astype(x.dtype) * prediction
        return Denoised(data, noise)

    def denoise(x: Array, t: Time) -> Denoised:
        checks.batch("x", x, t)
        skip = skip_denoised(schedule, x, t, parameterization, reference)
        prediction = network_output(predict, params, schedule, x, t, parameterization)
        return jax.vmap(combine, in_axes=(0, 0, 0, time_axis(t)))(x, prediction, skip, jnp.asarray(t))

    return denoise


def network_output(
    predict: Predictor,
    params: Params,
    schedule: Schedule,
    x: Array,
    t: Time,
    parameterization: Parameterization,
) -> Array:
    """What predict answers to a batch x at t (scalar or (batch,)), in the row's units and x's dtype."""
    times = jnp.broadcast_to(t, x.shape[:1])
    shown = jax.vmap(lambda x, t: parameterization.inputs(schedule, x, t))(x, times)
    prediction = predict(params, *shown)
    if jnp.shape(prediction) != x.shape:
        raise ValueError(
            f"predict must answer in the shape of x, {x.shape}, but answered {jnp.shape(prediction)}."
        )
    return prediction.astype(x.dtype)  # a bfloat16 network inside float32 mathematics


def skip_denoised(
    schedule: Schedule,
    x: Array,
    t: Time,
    parameterization: Parameterization,
    reference: Distribution | None,
) -> Denoised:
    """The estimate that stands when the network answers zero; x (batch, ...), t scalar or (batch,)."""
    if reference is not None:
        return reference.denoiser(schedule)(x, t)

    def at_zero(x: Array, t: Array) -> Denoised:
        return parameterizations.solve(parameterization.row, schedule, jnp.zeros_like(x), x, t)

    return jax.vmap(at_zero, in_axes=(0, time_axis(t)))(x, jnp.asarray(t))


def guided(conditional: Denoiser, unconditional: Denoiser, scale: Array | float) -> Denoiser:
    """Classifier-free guidance: unconditional + scale (conditional - unconditional), for data and noise.

    scale = 1 is the conditional denoiser. With a worse model in place of the unconditional one this is
    autoguidance. Ho & Salimans 2022, arXiv 2207.12598; Karras et al. 2024, arXiv 2406.02507.
    """

    def denoise(x: Array, t: Time) -> Denoised:
        with_label, without = conditional(x, t), unconditional(x, t)
        return jax.tree.map(lambda c, u: u + scale * (c - u), with_label, without)

    return denoise


def time_axis(t: Time) -> int | None:
    """The `vmap` axis of a time that is one for the batch (a scalar) or one for each example, (batch,)."""
    return 0 if jnp.ndim(t) else None
