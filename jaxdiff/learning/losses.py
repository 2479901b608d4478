"""The regression that every target goes through, and the losses that need no target.

All return one loss for each example, shape (batch,), a squared Euclidean norm (a sum over the entries of
x): with the likelihood weight they are nats. Average them as the training asks.
"""

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, divergence
from jaxdiff._numerics.randomness import noise_like, signs_like
from jaxdiff.denoising import parameterizations
from jaxdiff.denoising.denoisers import network_output, skip_denoised, time_axis
from jaxdiff.denoising.parameterizations import Parameterization, Row
from jaxdiff.noising.process import perturb
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


def score_regularizer(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    t: Time,
    *,
    weight: Row = parameterizations.likelihood,
) -> Array:
    """|| noise - N(alpha x + sigma noise, t) ||^2 of generated x, shape (batch,), in the weight's row.

    x has shape (batch, ...), t is scalar or (batch,); N is that of a denoiser trained before. The value is
    the mean over a fresh noise and its negative, two evaluations a row: around a mode, where N is linear, the
    gradient in x is then free of the noise. It is what a generator pays for leaving the law p that was
    denoised: with the default weight, times from t_min to t_max of any law in `jaxdiff.noising.times`, and
    p_t the law p noised, the density formula (eq. (2) of `jaxdiff.densities.formula`) gives

        E[times.weight * score_regularizer(key, denoise, schedule, x, times.t)]
            = d log(sigma(t_max) / sigma(t_min)) + E[log p_t_max(X_t_max) - log p_t_min(X_t_min) | x],

    which is -log p(x) and a constant as the range widens. Differentiable in x, through the denoiser; the
    gradient is then minus the score of p in the mean. Another weight, the usual `parameterizations.noise.row`
    say, gives a number that is only correlated with -log p.

    Xia et al. 2024, arXiv 2311.18208; as a likelihood, Li & Yan 2024, arXiv 2408.16765, section 4.2. Raises
    TypeError for integer x, and ValueError for times that are neither scalar nor one for each row.
    """
    checks.batch("x", x, t)
    noise, t, each = noise_like(key, x), jnp.asarray(t), time_axis(t)

    def squared_error(noise: Array) -> Array:
        x_t = jax.vmap(lambda x, noise, t: perturb(schedule, x, noise, t), in_axes=(0, 0, each))(x, noise, t)
        return jax.vmap(lambda error: jnp.sum(error**2))(noise - denoise(x_t, t).noise)

    def scale(t: Array) -> Array:
        return parameterizations.error_scale(schedule, t, source=parameterizations.noise.row, target=weight)

    scales = jax.vmap(scale)(t) if t.ndim else scale(t)
    return scales**2 * 0.5 * (squared_error(noise) + squared_error(-noise))


def _implicit(schedule: Schedule, noise: Array, trace: Array, t: Time, weight: Row) -> Array:
    def combine(noise: Array, trace: Array, t: Array) -> Array:
        scale = parameterizations.error_scale(schedule, t, source=parameterizations.noise.row, target=weight)
        return scale**2 * (jnp.sum(noise**2) - 2 * schedule.sigma(t) * trace + noise.size)

    return jax.vmap(combine, in_axes=(0, 0, time_axis(t)))(noise, trace, jnp.asarray(t))
