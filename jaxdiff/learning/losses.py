"""The regression that every target goes through, and the losses that need no target.

All take the denoiser that is trained, of the parameters to be differentiated,

    def model(params): return make_denoiser(network.apply, params, schedule, shape=(32, 32, 3), scale=0.5)

so that what is trained is what is sampled. All return one loss for each example, shape (batch,), a squared
Euclidean norm: a *sum* over the entries of a datum, which with the likelihood weight is in nats. Average over
the batch, and over entries if that is wanted, as the training asks. Losses are in float32 or better, whatever
the data are in.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff._numerics import checks, divergence
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import signs_like
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser, time_axis
from jaxdiff.denoising.prediction import Row
from jaxdiff.learning import weights
from jaxdiff.learning.targets import denoising_target
from jaxdiff.noising import times
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


def denoising_loss(key: Key, denoise: Denoiser, data: Array) -> Array:
    """Denoising score matching of data, shape (batch, *denoise.shape), at times of EDM's law; shape (batch,).

    Times are stratified over the batch, with log(sigma / alpha) ~ N(log(scale) - 1/2, 1.2^2) over the times
    that the denoiser knows: for data of standard deviation 1/2 EDM's -1.2 (Karras et al. 2022, arXiv
    2206.00364). The weight is that of `regression_loss`. For another law of times, target or weight write its
    three lines:

        t = times.log_snr_uniform(times.stratified(time_key, len(data)), schedule).t
        x, target = denoising_target(noise_key, schedule, data, t)
        loss = regression_loss(denoise, x, target, t, weight=prediction.noise.row)

    Raises TypeError for what is no key or denoiser and for integer data, ValueError for no rows, NaN, another
    shape, or a scale that is far from the denoiser's.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t[:, None]), jd.Karras(), shape=(2,))
    >>> loss = jd.denoising_loss(jax.random.key(0), zero, jnp.zeros((3, 2)))
    >>> loss.round(6).tolist()  # of data that are all zero
    [0.0, 0.0, 0.0]
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.batch("data", data)
    checks.finite("data", data)
    denoise.check_shape("data", data)
    denoise.check_scale("data", data)
    return _denoising_loss(key, denoise, jnp.asarray(data))


@compiled
def _denoising_loss(key: Key, denoise: Denoiser, data: Array) -> Array:
    time_key, noise_key = jax.random.split(key)
    t = drawn_times(time_key, denoise, len(data))
    x, target = denoising_target(noise_key, denoise.schedule, data, t)
    return regression_loss(denoise, x, target, t)


@compiled(static="n")
def drawn_times(key: Key, denoise: Denoiser, n: int) -> Array:
    """n times of the law of `denoising_loss`."""
    # Times are given: a law that is fitted does not move them by its scale to where errors are small.
    denoise = dataclasses.replace(denoise, scale=jax.lax.stop_gradient(denoise.scale))
    return times_about(times.stratified(key, n), denoise, denoise.scale)


def times_about(u: Array, denoise: Denoiser, about: Array | float) -> Array:
    """Times at points u of (0, 1), (n,): of levels of noise about one, as EDM's are about the scale."""
    t_min, t_max = denoise.working_range  # a law knows all times, of which the last may be infinite
    mean = jnp.log(about) - 0.5
    return times.log_normal(u, denoise.schedule, mean=mean, t_min=t_min, t_max=t_max).t


def regression_loss(
    denoise: Denoiser, x: Array, target: Denoised, t: Time, *, weight: Row | None = None
) -> Array:
    """|| a (target.data - D) + b (target.noise - N) ||^2 for each example, shape (batch,), (a, b) the row of
    the weight.

    x and both parts of the target have shape (batch, *denoise.shape), t is scalar or (batch,).
    weight: of `jaxdiff.learning.weights`, or the row of a prediction type; by default that of the denoiser's
        own, so that a network's loss is the squared error of what it predicts.
    Raises TypeError for what is no denoiser, target or weight, ValueError when the shapes of x and the target
    differ, and as the denoiser does.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> target = jd.Denoised(jnp.array([[1.0]]), jnp.array([[3.0]]))
    >>> jd.regression_loss(law, jnp.array([[4.0]]), target, 1.0).tolist()  # (3 - 2)^2
    [1.0]
    """
    check_denoiser("denoise", denoise)
    checks.batch("x", x, t)
    if not isinstance(target, Denoised):
        raise TypeError(f"target must be a Denoised(data, noise), got {checks.described(target)}.")
    for name, part in target._asdict().items():
        if part.shape != x.shape:
            raise ValueError(f"target.{name} must have the shape of x, {x.shape}, got {part.shape}.")
    denoise.check_times("t", t)
    row = denoise.prediction.row if weight is None else weight
    return _regression_loss(denoise, x, target, t, weights.as_argument(row))


@compiled
def _regression_loss(denoise: Denoiser, x: Array, target: Denoised, t: Time, weight: Partial) -> Array:
    def squared_error(error: Denoised, t: Array) -> Array:
        return jnp.sum(prediction.read(weight, denoise.schedule, error, t) ** 2)

    # In single precision or better.
    error = jax.tree.map(_difference, target, denoise(x, t))
    return jax.vmap(squared_error, in_axes=(0, time_axis(t)))(error, jnp.asarray(t))


def implicit_loss(denoise: Denoiser, x: Array, t: Time, *, weight: Row = prediction.noise.row) -> Array:
    """Implicit score matching: || noise ||^2 - 2 sigma div noise + d, shape (batch,), in the weight's row.

    Its mean over x_t equals that of the squared noise error of a regression onto the true noise, by Stein's
    identity, without that noise being known: only x_t is. The divergence is exact, d tangents.
    Hyvarinen 2005. Raises as the denoiser does.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> jd.implicit_loss(law, jnp.array([[2.0]]), 1.0).tolist()  # 1^2 - 2 / 2 + 1
    [1.0]
    """
    _check(denoise, x, t)
    return _implicit_loss(denoise, x, t, weights.as_argument(weight))


@compiled
def _implicit_loss(denoise: Denoiser, x: Array, t: Time, weight: Partial) -> Array:
    noise, trace = divergence.exact(lambda x: denoise(x, t).noise, single(x))
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

    Song et al. 2019, arXiv 1905.07088, in its variance-reduced form. Raises TypeError for what is no
    key, ValueError for num_probes below 1, and as `implicit_loss`.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> loss = jd.sliced_loss(jax.random.key(0), law, jnp.array([[2.0]]), 1.0)
    >>> loss.tolist()  # `implicit_loss`, where d = 1
    [1.0]
    """
    checks.key(key)
    checks.integer("num_probes", num_probes, 1)
    _check(denoise, x, t)
    return _sliced_loss(key, denoise, x, t, weights.as_argument(weight), num_probes=num_probes)


@compiled(static="num_probes")
def _sliced_loss(
    key: Key, denoise: Denoiser, x: Array, t: Time, weight: Partial, *, num_probes: int
) -> Array:
    x = single(x)
    probes = signs_like(key, x, num_probes)
    noise, traces = divergence.hutchinson(lambda x: denoise(x, t).noise, x, probes)
    return _implicit(denoise.schedule, noise, traces.mean(0), t, weight)


def _implicit(schedule: Schedule, noise: Array, trace: Array, t: Time, weight: Partial) -> Array:
    def combine(noise: Array, trace: Array, t: Array) -> Array:
        scale = prediction.error_scale(schedule, t, source=prediction.noise.row, target=weight)
        return scale**2 * (jnp.sum(noise**2) - 2 * schedule.sigma(t) * trace + noise.size)

    return jax.vmap(combine, in_axes=(0, 0, time_axis(t)))(noise, trace, jnp.asarray(t))


def _check(denoise: Denoiser, x: Array, t: Time) -> None:
    check_denoiser("denoise", denoise)
    checks.batch("x", x, t)
    denoise.check_shape("x", x)
    denoise.check_times("t", t)


def _difference(target: Array, estimate: Array) -> Array:
    return single(target) - single(estimate)
