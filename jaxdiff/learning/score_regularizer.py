"""What a generator pays for leaving the law that a denoiser knows, and which generator pays the least."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser, time_axis
from jaxdiff.denoising.prediction import Row
from jaxdiff.learning import weights
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Key, Time


def score_regularizer(
    key: Key,
    denoise: Denoiser,
    x: Array,
    t: Time,
    *,
    weight: Row = weights.likelihood,
) -> Array:
    """|| noise - N(alpha x + sigma noise, t) ||^2 of generated x, shape (batch,), in the weight's row.

    x has shape (batch, *denoise.shape), t is scalar or (batch,); N is that of a denoiser trained before. The
    value is the mean over a fresh noise and its negative, two evaluations a row: around a mode, where N is
    linear, the gradient in x is then free of the noise. It is what a generator pays for leaving the law p
    that was denoised: with the default weight, times from t_min to t_max of any law in
    `jaxdiff.noising.times`, and p_t the law p noised, the density formula (eq. (2) of
    `jaxdiff.densities.formula`) gives

        E[times.weight * score_regularizer(key, denoise, x, times.t)]
            = d log(sigma(t_max) / sigma(t_min)) + E[log p_t_max(X_t_max) - log p_t_min(X_t_min) | x],

    which is -log p(x) and a constant as the range widens. Differentiable in x, through the denoiser; the
    gradient is then minus the score of p in the mean. Another weight, the usual `prediction.noise.row`
    say, gives a number that is only correlated with -log p.

    Xia et al. 2024, arXiv 2311.18208; as a likelihood, Li & Yan 2024, arXiv 2408.16765, section 4.2. Raises
    TypeError for integer x and for what is no key or denoiser, and ValueError for x of another shape than the
    denoiser's and for times that are neither scalar nor one for each row, or that it does not know.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> weight = jd.prediction.noise.row
    >>> loss = jd.score_regularizer(jax.random.key(0), law, jnp.array([[2.0]]), 1e3, weight=weight)
    >>> round(float(loss[0]), 3)  # under much noise nothing is left to say
    0.0
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.batch("x", x, t)
    denoise.check_times("t", t)
    return _score_regularizer(key, denoise, x, t, weights.as_argument(weight))


@compiled
def _score_regularizer(key: Key, denoise: Denoiser, x: Array, t: Time, weight: Partial) -> Array:
    x = single(x)
    schedule, noise, t, each = denoise.schedule, noise_like(key, x), jnp.asarray(t), time_axis(t)

    def squared_error(noise: Array) -> Array:
        x_t = jax.vmap(lambda x, noise, t: perturb(schedule, x, noise, t), in_axes=(0, 0, each))(x, noise, t)
        return jax.vmap(lambda error: jnp.sum(error**2))(noise - denoise(x_t, t).noise)

    def scale(t: Array) -> Array:
        return prediction.error_scale(schedule, t, source=prediction.noise.row, target=weight)

    scales = jax.vmap(scale)(t) if t.ndim else scale(t)
    return scales**2 * 0.5 * (squared_error(noise) + squared_error(-noise))


def regularized_generator(log_prob: Array, volumes: Array | float, strength: Array | float) -> Array:
    """log q of the generator that is best under a score regularizer, on a grid; of log_prob's shape.

    Against the best discriminator p / (p + q), and with `score_regularizer` in its likelihood weight, times
    strength = l, a GAN minimizes over densities q

        J(q) = int p log(p / (p + q)) + q log(q / (p + q)) - l q log p,

    whose minimum is q = p u / (1 - u), u = z p^l < 1, with z such that int q = 1; q -> p^(1 + 2 l) / Z as
    l -> 0. In three or more dimensions a large l leaves no such z, as u / (1 - u) is integrable around a
    maximum of p: then the rest of the mass goes to the maximum, here to its cell.

    log_prob: log p at the points, normalized here. volumes: of their cells, of that shape or a scalar.
    strength: l, a scalar. Li & Yan 2024, arXiv 2408.16765, section 4.2; derived here. Raises ValueError for
    values that are not finite, a volume that is not positive or of another shape, or a negative strength.

    >>> log_prob = jnp.log(jnp.array([0.2, 0.8]))  # of two cells of volume 1
    >>> jnp.exp(jd.regularized_generator(log_prob, 1.0, 0.0)).round(3)  # no regularizer: the data's law
    Array([0.2, 0.8], dtype=float32)
    >>> bool(jnp.exp(jd.regularized_generator(log_prob, 1.0, 0.5))[1] > 0.8)  # drawn to the mode
    True
    """
    checks.finite("log_prob", log_prob)
    checks.positive("volumes", volumes)
    checks.shape("strength", strength, ())
    checks.within("strength", strength, 0.0, float("inf"))
    if jnp.shape(volumes):
        checks.shape("volumes", volumes, jnp.shape(log_prob))
    return _regularized_generator(log_prob, volumes, strength)


@compiled
def _regularized_generator(log_prob: Array, volumes: Array | float, strength: Array | float) -> Array:
    log_prob = log_prob - jax.nn.logsumexp(log_prob + jnp.log(volumes))
    tilt = strength * (log_prob - log_prob.max())

    def log_density(log_u_max: Array) -> Array:
        log_u = log_u_max + tilt
        return log_prob + log_u - jnp.log(-jnp.expm1(log_u))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        too_much = jnp.sum(volumes * jnp.exp(log_density(middle))) > 1
        return jnp.where(too_much, low, middle), jnp.where(too_much, middle, high)

    # Where u <= 1/2 everywhere q is below p, so its mass is below one; it is infinite where u reaches 1.
    ends = jnp.full_like(log_prob.max(), -jnp.log(2)), jnp.zeros_like(log_prob.max())
    low, _ = jax.lax.fori_loop(0, 200, halve, ends)
    return log_density(low)
