"""Diagnostics that need the truth: errors of a denoiser level by level, and why they carry no dimension.

Everything here is one compiled call over noise levels, and may be vmapped from outside over seeds, laws
and the schedule's own parameters.

Joint learning. One path x_1, ..., x_N through levels t_1 < ... < t_N, x_j = alpha_j x_0 + sigma_j n_j, with
weights g_j; an estimated score f_j, the exact one s_j, zeta_j = f_j - s_j, and D_j = E[x_0 | x_j]. A loss is
the truth's loss, and a square and a noise more:

    |f_j + n_j / sigma_j|^2 = |s_j + n_j / sigma_j|^2 + |zeta_j|^2 - 2 <zeta_j, v_j>                    (1)
    v_j = (alpha_j / sigma_j^2) (x_0 - D_j)                                                             (2)

That noise, summed, is a martingale in reverse time: with M_k = D_{k-1} - D_k and D_0 = x_0,

    H = sum_j g_j <zeta_j, v_j> = sum_k R_k,     R_k = <G_k, M_k>                                       (3)
    G_k = sum_{j >= k} g_j (alpha_j / sigma_j^2) zeta_j                                                 (4)

where G_k is known and E[M_k] = 0 given x_k, ..., x_N. So E H^2 = sum_k E R_k^2, and by Tweedie's formula of
second order

    Cov(x_0 | x_t = x) = (sigma_t^2 / alpha_t) dD/dx (x, t)                                             (5)
    Cov(M_k | x_k)     = Cov(x_0 | x_k) - E[Cov(x_0 | x_{k-1}) | x_k]                                   (6)

Let no eigenvalue of the Hessian of log p exceed L at level k - 1, where the scales are alpha and sigma and
from where x_k ~ N(a x_{k-1}, v I). Then -log p(x_{k-1} | x_k) has curvature a^2 / v - L or more, D_{k-1} has
the Lipschitz constant (1 + sigma^2 L) / alpha, and R_k is sub-Gaussian by operator norms, free of dimension:

    E[exp(l R_k) | x_k, ..., x_N] <= exp(l^2 c_k |G_k|^2 / 2)
    c_k = ((1 + sigma^2 L) / alpha)^2 / (a^2 / v - L)                                                   (7)

K = E H^2 / E sum_j g_j |zeta_j|^2 plays the part of a dimension in what joint learning costs. The method is
that of Kumar, Nagaraj & Sarkar 2025, arXiv 2502.10354; (1) to (7) for every linear schedule are derived here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.noising.process import perturb, transition
from jaxdiff.typing import Array, Key, Params, Schedule, Time


class LevelError(NamedTuple):
    """A Monte Carlo mean at each noise level and its standard error, each of shape (len(times),)."""

    value: Array
    standard_error: Array


def score_error(
    key: Key,
    denoise: Denoiser,
    distribution: Distribution,
    schedule: Schedule,
    times: Array,
    *,
    num_samples: int = 1024,
) -> LevelError:
    """E || score_hat(x_t, t) - score(x_t, t) ||^2 over x_t ~ p_t at each of times, any order.

    The score is -noise / sigma; multiply by sigma^2 for noise units. The same data and noise serve at
    every level, so that the curve is smooth in t. Raises ValueError unless times is one-dimensional, in
    the schedule's range and above zero noise, and num_samples at least 2.
    """
    checks.integer("num_samples", num_samples, 2)
    checks.shape("times", times, (None,))
    checks.in_range("times", schedule, times)
    checks.positive("sigma at each of times", jax.vmap(schedule.sigma)(jnp.asarray(times, float)))
    data_key, noise_key = jax.random.split(key)
    data = distribution.sample(data_key, num_samples)
    noise = noise_like(noise_key, data)
    exact = distribution.denoiser(schedule)

    def at(t: Array) -> tuple[Array, Array]:
        x = perturb(schedule, data, noise, t)
        difference = (denoise(x, t).noise - exact(x, t).noise) / schedule.sigma(t)
        squared = jnp.sum(difference.reshape(num_samples, -1) ** 2, axis=1)
        return squared.mean(), squared.std(ddof=1) / num_samples**0.5

    return LevelError(*jax.vmap(at)(jnp.asarray(times, float)))


class MartingaleTerms(NamedTuple):
    """The terms of eqs. (3) and (4) for n paths through N levels of vectors of length d."""

    total: Array
    """H, shape (n,), by its definition; the increments sum to it."""
    increments: Array
    """R_k, shape (N, n)."""
    innovations: Array
    """M_k, shape (N, n, d)."""
    accumulated: Array
    """G_k, shape (N, n, d)."""
    squared_error: Array
    """sum_j g_j |zeta_j|^2, shape (n,)."""


def forward_path(key: Key, schedule: Schedule, data: Array, times: Array) -> Array:
    """Paths of data, shape (n, ...), through increasing times (N,), made step by step; shape (N, n, ...).

    Path i depends on (key, i) only. Raises TypeError for integer data, and ValueError for times that do not
    increase or are out of the schedule's range.
    """
    checks.batch("data", data)
    checks.increasing("times", times)
    checks.in_range("times", schedule, times)
    _, _, scale, std = _steps(schedule, times)

    def step(x: Array, inputs: tuple[Key, Array, Array]) -> tuple[Array, Array]:
        key, scale, std = inputs
        x = (scale * x + std * noise_like(key, x)).astype(x.dtype)
        return x, x

    return jax.lax.scan(step, data, (jax.random.split(key, len(scale)), scale, std))[1]


def martingale_terms(
    estimate: Denoiser,
    exact: Denoiser,
    schedule: Schedule,
    data: Array,
    path: Array,
    times: Array,
    weights: Array,
) -> MartingaleTerms:
    """Eqs. (3) and (4) for data (n, d), their path (N, n, d) through increasing times (N,), and g_j, (N,).

    exact: the denoiser of the law that data come from; with any other the increments still sum to H, but
    their mean is not zero. Raises ValueError for shapes that disagree and for times that do not increase.
    """
    alpha, sigma = _path_scales(schedule, data, path, times, weights)
    known = jax.vmap(exact)(path, times)
    zeta = (known.noise - jax.vmap(estimate)(path, times).noise) / sigma
    weights = weights[:, None, None]
    weighted = weights * alpha / sigma**2 * zeta
    innovations = jnp.concatenate([data[None], known.data[:-1]]) - known.data
    accumulated = jax.lax.cumsum(weighted, reverse=True)
    return MartingaleTerms(
        total=jnp.sum(weighted * (data[None] - known.data), axis=(0, 2)),
        increments=jnp.sum(accumulated * innovations, axis=2),
        innovations=innovations,
        accumulated=accumulated,
        squared_error=jnp.sum(weights * zeta**2, axis=(0, 2)),
    )


def martingale_constant(terms: MartingaleTerms) -> Array:
    """K = E H^2 / E sum_j g_j |zeta_j|^2, with means over the paths; a scalar."""
    return jnp.mean(terms.total**2) / jnp.mean(terms.squared_error)


def posterior_covariance(denoise: Denoiser, schedule: Schedule, x: Array, t: Time) -> Array:
    """Cov(x_0 | x_t = x), eq. (5), for x (n, d) at a scalar time; shape (n, d, d), by d tangents."""
    _, push = jax.linearize(lambda x: denoise(x, t).data, x)
    tangents = jnp.broadcast_to(jnp.eye(x.shape[1], dtype=x.dtype)[:, None], (x.shape[1], *x.shape))
    jacobian = jnp.moveaxis(jax.vmap(push)(tangents), 0, 2)
    return schedule.sigma(t) ** 2 / schedule.alpha(t) * jacobian


def increment_covariance(
    denoise: Denoiser, schedule: Schedule, x_s: Array, x_t: Array, s: Time, t: Time
) -> Array:
    """Cov(D(x_s, s) - D(x_t, t) | x_t), eq. (6), for scalar times s < t and x_t (n, d); shape (n, d, d).

    x_s: (draws, n, d), draws of x_s given x_t; the inner mean is over them. The first innovation x_0 - D_1
    has no s: its covariance is the `posterior_covariance`.
    """
    inner = jax.vmap(lambda x: posterior_covariance(denoise, schedule, x, s))(x_s)
    return posterior_covariance(denoise, schedule, x_t, t) - inner.mean(0)


def increment_constants(schedule: Schedule, times: Array, curvature: Array | float) -> Array:
    """c_k of eq. (7) at increasing times, shape (N,): R_k has the variance proxy c_k |G_k|^2.

    curvature: L at the level before each, of which the first is the data; scalar or (N,). Infinite where
    a^2 / v <= L, for there the step is too long for the bound.
    """
    checks.increasing("times", times)
    alpha, sigma, scale, std = _steps(schedule, times)
    concavity = (scale / std) ** 2 - curvature
    return jnp.where(concavity > 0, ((1 + sigma**2 * curvature) / alpha) ** 2 / concavity, jnp.inf)


def empirical_risk(
    denoise: Denoiser, schedule: Schedule, data: Array, path: Array, times: Array, weights: Array
) -> Array:
    """sum_j g_j |f_j + n_j / sigma_j|^2 for each path, shape (n,), with f_j = -noise / sigma of the denoiser.

    Arguments and errors are those of `martingale_terms`.
    """
    alpha, sigma = _path_scales(schedule, data, path, times, weights)
    noise = (path - alpha * data[None]) / sigma
    error = (noise - jax.vmap(denoise)(path, times).noise) / sigma
    return jnp.sum(weights[:, None, None] * error**2, axis=(0, 2))


def minimize_risk(
    family: Callable[[Params], Denoiser],
    candidates: Params,
    schedule: Schedule,
    data: Array,
    path: Array,
    times: Array,
    weights: Array,
    *,
    sizes: Array,
) -> tuple[Array, Array]:
    """Joint empirical risk minimization over a finite class, one function for all levels.

    candidates: parameters with a leading axis, of which family makes denoisers. sizes: numbers m <= n of
    paths, shape (k,), each minimization seeing the first m. Returns the minimizers' numbers, shape (k,), and
    the mean risks, shape (k, candidates). Errors are those of `martingale_terms`.
    """
    # One candidate at a time: its numbers fill a machine, and memory does not grow with the class.
    risks = jax.lax.map(lambda c: empirical_risk(family(c), schedule, data, path, times, weights), candidates)
    means = jnp.cumsum(risks, axis=1)[:, sizes - 1].T / sizes[:, None]
    return jnp.argmin(means, axis=1), means


def regularized_generator(log_prob: Array, volumes: Array | float, strength: Array | float) -> Array:
    """log q of the generator that is best under a score regularizer, on a grid; of log_prob's shape.

    Against the best discriminator p / (p + q), and with `losses.score_regularizer` in its likelihood weight,
    times strength = l, a GAN minimizes over densities q

        J(q) = int p log(p / (p + q)) + q log(q / (p + q)) - l q log p,

    whose minimum is q = p u / (1 - u), u = z p^l < 1, with z such that int q = 1; q -> p^(1 + 2 l) / Z as
    l -> 0. In three or more dimensions a large l leaves no such z, as u / (1 - u) is integrable around a
    maximum of p: then the rest of the mass goes to the maximum, here to its cell.

    log_prob: log p at the points, normalized here. volumes: of their cells, of that shape or a scalar.
    strength: l, a scalar. Li & Yan 2024, arXiv 2408.16765, section 4.2; derived here. Raises ValueError for
    values that are not finite, a volume that is not positive, or a negative strength.
    """
    checks.finite("log_prob", log_prob)
    checks.positive("volumes", volumes)
    checks.within("strength", strength, 0.0, float("inf"))
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


def _steps(schedule: Schedule, times: Array) -> tuple[Array, Array, Array, Array]:
    """alpha and sigma before each step, and its scale and std, each (N,); the first step is from the data."""
    times = jnp.asarray(times, float)
    alpha, sigma = jax.vmap(schedule.alpha)(times), jax.vmap(schedule.sigma)(times)
    scale, std = jax.vmap(lambda s, t: transition(schedule, s, t))(times[:-1], times[1:])
    firsts = jnp.ones(1), jnp.zeros(1), alpha[:1], sigma[:1]
    others = alpha[:-1], sigma[:-1], scale, std
    alpha, sigma, scale, std = map(jnp.concatenate, zip(firsts, others, strict=True))
    return alpha, sigma, scale, std


def _path_scales(
    schedule: Schedule, data: Array, path: Array, times: Array, weights: Array
) -> tuple[Array, Array]:
    """alpha and sigma as a path meets them, shape (N, 1, 1), once the shapes are found to agree."""
    checks.shape("data", data, (None, None))
    checks.increasing("times", times)
    checks.shape("path", path, (len(times), *data.shape))
    checks.shape("weights", weights, (len(times),))
    alpha, sigma = jax.vmap(schedule.alpha)(times), jax.vmap(schedule.sigma)(times)
    return alpha[:, None, None], sigma[:, None, None]
