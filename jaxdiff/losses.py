"""The regression that every target goes through, and the two losses that need no target.

All return one loss for each example, shape (batch,), a squared Euclidean norm (a sum over the entries of
x): with the likelihood weight they are nats. Average them as the training asks.
"""

import jax
import jax.numpy as jnp

from jaxdiff import checks, divergence, parameterizations
from jaxdiff.denoisers import network_output, skip_denoised, time_axis
from jaxdiff.parameterizations import Parameterization, Row
from jaxdiff.randomness import signs_like
from jaxdiff.typing import Array, Denoised, Denoiser, Distribution, Key, Params, Predictor, Schedule, Time


def regression_loss(
    predict: Predictor,
    params: Params,
    schedule: Schedule,
    x: Array,
    target: Denoised,
    t: Time,
    *,
    parameterization: Parameterization | None = None,
    weight: Row | None = None,
    reference: Distribution | None = None,
) -> Array:
    """|| w (prediction - reading of the target) ||^2 for each example, shape (batch,).

    x and both parts of the target have shape (batch, ...), t is scalar or (batch,). The target is read in
    the parameterization's row after the skip is taken from it, so that the network learns at unit scale; w
    converts its error into the weight's row, by default its own. predict, parameterization and reference
    are those of `denoisers.make_denoiser`, which turns the trained network into a denoiser.
    Raises ValueError when the shapes of x and the target differ, and as that denoiser does.
    """
    checks.batch("x", x, t)
    parameterization = parameterization or parameterizations.edm()
    for name, part in target._asdict().items():
        if part.shape != x.shape:
            raise ValueError(f"target.{name} must have the shape of x, {x.shape}, got {part.shape}.")

    def squared_error(prediction: Array, target: Denoised, skip: Denoised, t: Array) -> Array:
        left_over = jax.tree.map(jnp.subtract, target, skip)
        wanted = parameterizations.read(parameterization.row, schedule, left_over, t)
        scale = parameterizations.error_scale(
            schedule, t, source=parameterization.row, target=weight or parameterization.row
        )
        return scale**2 * jnp.sum((prediction - wanted) ** 2)

    skip = skip_denoised(schedule, x, t, parameterization, reference)
    prediction = network_output(predict, params, schedule, x, t, parameterization)
    return jax.vmap(squared_error, in_axes=(0, 0, 0, time_axis(t)))(prediction, target, skip, jnp.asarray(t))


def implicit_loss(
    denoise: Denoiser, schedule: Schedule, x: Array, t: Time, *, weight: Row = parameterizations.noise.row
) -> Array:
    """Implicit score matching: || noise ||^2 - 2 sigma div noise + d, shape (batch,), in the weight's row.

    Its mean over x_t equals that of the squared noise error of a regression onto the true noise, by Stein's
    identity, without that noise being known: only x_t is. The divergence is exact, d tangents.
    Hyvarinen 2005.
    """
    checks.batch("x", x, t)
    noise, trace = divergence.exact(lambda x: denoise(x, t).noise, x)
    return _implicit(schedule, noise, trace, t, weight)


def sliced_loss(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    t: Time,
    *,
    num_probes: int = 1,
    weight: Row = parameterizations.noise.row,
) -> Array:
    """`implicit_loss` with the divergence estimated by num_probes random signs, shape (batch,).

    Song et al. 2019, arXiv 1905.07088, in its variance-reduced form.
    """
    checks.batch("x", x, t)
    probes = signs_like(key, x, num_probes)
    noise, traces = divergence.hutchinson(lambda x: denoise(x, t).noise, x, probes)
    return _implicit(schedule, noise, traces.mean(0), t, weight)


def _implicit(schedule: Schedule, noise: Array, trace: Array, t: Time, weight: Row) -> Array:
    def combine(noise: Array, trace: Array, t: Array) -> Array:
        scale = parameterizations.error_scale(schedule, t, source=parameterizations.noise.row, target=weight)
        return scale**2 * (jnp.sum(noise**2) - 2 * schedule.sigma(t) * trace + noise.size)

    return jax.vmap(combine, in_axes=(0, 0, time_axis(t)))(noise, trace, jnp.asarray(t))
