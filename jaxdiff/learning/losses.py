"""The regression that every target goes through, and the losses that need no target.

All take the denoiser that is trained, of the parameters to be differentiated,

    def model(params): return make_denoiser(network.apply, params, schedule, shape=(32, 32, 3), scale=0.5)

so that what is trained is what is sampled. All return one loss for each example, shape (batch,), a squared
Euclidean norm: a *sum* over the entries of a datum, which with the likelihood weight is in nats. Average over the
batch, and over entries if that is wanted, as the training asks.
"""

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, divergence
from jaxdiff._numerics.randomness import noise_like, signs_like
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser, time_axis
from jaxdiff.denoising.prediction import Row
from jaxdiff.learning import weights
from jaxdiff.learning.targets import denoising_target
from jaxdiff.noising import times
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


def denoising_loss(key: Key, denoise: Denoiser, data: Array) -> Array:
    """Denoising score matching of data, shape (batch, *denoise.shape), at times of EDM's law; shape (batch,).

    Times are stratified over the batch, with log(sigma / alpha) ~ N(log(scale) - 1/2, 1.2^2) over the times that the
    denoiser knows: for data of standard deviation 1/2 EDM's -1.2 (Karras et al. 2022, arXiv 2206.00364). The weight
    is that of `regression_loss`. For another law of times, target or weight write its three lines:

        t = times.log_snr_uniform(times.stratified(time_key, len(data)), schedule).t
        x, target = denoising_target(noise_key, schedule, data, t)
        loss = regression_loss(denoise, x, target, t, weight=prediction.noise.row)
    """
    check_denoiser("denoise", denoise)
    time_key, noise_key = jax.random.split(key)
    t = times.log_normal(
        times.stratified(time_key, len(data)),
        denoise.schedule,
        mean=jnp.log(denoise.scale) - 0.5,
        t_min=denoise.t_min,
        t_max=denoise.t_max,
    ).t
    x, target = denoising_target(noise_key, denoise.schedule, data, t)
    return regression_loss(denoise, x, target, t)


def regression_loss(
    denoise: Denoiser, x: Array, target: Denoised, t: Time, *, weight: Row | None = None
) -> Array:
    """|| a (target.data - D) + b (target.noise - N) ||^2 for each example, shape (batch,), (a, b) the weight's row.

    x and both parts of the target have shape (batch, *denoise.shape), t is scalar or (batch,).
    weight: of `jaxdiff.learning.weights`, or the row of a prediction type; by default that of the denoiser's own, so
    that a network's loss is the squared error of what it predicts.
    Raises ValueError when the shapes of x and the target differ, and as the denoiser does.
    """
    check_denoiser("denoise", denoise)
    checks.batch("x", x, t)
    for name, part in target._asdict().items():
        if part.shape != x.shape:
            raise ValueError(f"target.{name} must have the shape of x, {x.shape}, got {part.shape}.")
    row = denoise.prediction.row if weight is None else weight

    def squared_error(error: Denoised, t: Array) -> Array:
        return jnp.sum(prediction.read(row, denoise.schedule, error, t) ** 2)

    # In single precision or better, whatever x is in.
    error = jax.tree.map(_difference, target, denoise(x, t))
    return jax.vmap(squared_error, in_axes=(0, time_axis(t)))(error, jnp.asarray(t))


def implicit_loss(denoise: Denoiser, x: Array, t: Time, *, weight: Row = prediction.noise.row) -> Array:
    """Implicit score matching: || noise ||^2 - 2 sigma div noise + d, shape (batch,), in the weight's row.

    Its mean over x_t equals that of the squared noise error of a regression onto the true noise, by Stein's
    identity, without that noise being known: only x_t is. The divergence is exact, d tangents.
    Hyvarinen 2005.
    """
    checks.batch("x", x, t)
    noise, trace = divergence.exact(lambda x: denoise(x, t).noise, x)
    return _implicit(denoise.schedule, noise, trace, t, weight)


def sliced_loss(
    key: Key,
    denoise: Denoiser,
    x: Array,
    t: Time,
    *,
    num_probes: int = 1,
    weight: Row = prediction.noise.row,
) -> Array:
    """`implicit_loss` with the divergence estimated by num_probes random signs, shape (batch,).

    Song et al. 2019, arXiv 1905.07088, in its variance-reduced form.
    """
    checks.batch("x", x, t)
    probes = signs_like(key, x, num_probes)
    noise, traces = divergence.hutchinson(lambda x: denoise(x, t).noise, x, probes)
    return _implicit(denoise.schedule, noise, traces.mean(0), t, weight)


def score_regularizer(
    key: Key,
    denoise: Denoiser,
    x: Array,
    t: Time,
    *,
    weight: Row = weights.likelihood,
) -> Array:
    """|| noise - N(alpha x + sigma noise, t) ||^2 of generated x, shape (batch,), in the weight's row.

    x has shape (batch, ...), t is scalar or (batch,); N is that of a denoiser trained before. The value is
    the mean over a fresh noise and its negative, two evaluations a row: around a mode, where N is linear, the
    gradient in x is then free of the noise. It is what a generator pays for leaving the law p that was
    denoised: with the default weight, times from t_min to t_max of any law in `jaxdiff.noising.times`, and
    p_t the law p noised, the density formula (eq. (2) of `jaxdiff.densities.formula`) gives

        E[times.weight * score_regularizer(key, denoise, x, times.t)]
            = d log(sigma(t_max) / sigma(t_min)) + E[log p_t_max(X_t_max) - log p_t_min(X_t_min) | x],

    which is -log p(x) and a constant as the range widens. Differentiable in x, through the denoiser; the
    gradient is then minus the score of p in the mean. Another weight, the usual `prediction.noise.row`
    say, gives a number that is only correlated with -log p.

    Xia et al. 2024, arXiv 2311.18208; as a likelihood, Li & Yan 2024, arXiv 2408.16765, section 4.2. Raises
    TypeError for integer x, and ValueError for times that are neither scalar nor one for each row.
    """
    checks.batch("x", x, t)
    schedule, noise, t, each = denoise.schedule, noise_like(key, x), jnp.asarray(t), time_axis(t)

    def squared_error(noise: Array) -> Array:
        x_t = jax.vmap(lambda x, noise, t: perturb(schedule, x, noise, t), in_axes=(0, 0, each))(x, noise, t)
        return jax.vmap(lambda error: jnp.sum(error**2))(noise - denoise(x_t, t).noise)

    def scale(t: Array) -> Array:
        return prediction.error_scale(schedule, t, source=prediction.noise.row, target=weight)

    scales = jax.vmap(scale)(t) if t.ndim else scale(t)
    return scales**2 * 0.5 * (squared_error(noise) + squared_error(-noise))


def _difference(target: Array, estimate: Array) -> Array:
    dtype = jnp.promote_types(target.dtype, jnp.float32)
    return target.astype(dtype) - estimate.astype(dtype)


def _implicit(schedule: Schedule, noise: Array, trace: Array, t: Time, weight: Row) -> Array:
    def combine(noise: Array, trace: Array, t: Array) -> Array:
        scale = prediction.error_scale(schedule, t, source=prediction.noise.row, target=weight)
        return scale**2 * (jnp.sum(noise**2) - 2 * schedule.sigma(t) * trace + noise.size)

    return jax.vmap(combine, in_axes=(0, 0, time_axis(t)))(noise, trace, jnp.asarray(t))
