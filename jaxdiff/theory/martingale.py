"""Why what joint learning costs carries no dimension: the noise of a loss over all levels is a martingale.

Everything here is one compiled call over noise levels, and may be vmapped from outside over seeds, laws
and the schedule's own parameters.

One path x_1, ..., x_N through levels t_1 < ... < t_N, x_j = alpha_j x_0 + sigma_j n_j, with
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

This says nothing of steps that are too long, a^2 / v <= L. *Clusters* have a bound at every step: data
x_0 = mu + s z with z standard normal and mu of any law on a set of diameter 2 rho. At level k - 1, with
tau^2 = alpha^2 s^2 + sigma^2 and h = alpha^2 s^2 / tau^2,

    D_{k-1} = (h / alpha) x_{k-1} + (1 - h) E[mu | x_{k-1}]

and x_{k-1} given x_k and mu is Gaussian of variance w = tau^2 / (1 + a^2 tau^2 / v). So R_k is a Gaussian and
what is bounded, by Hoeffding's lemma of a proxy of the square of half its range; as the two may go together,

    c_k = (h w^(1/2) / alpha + rho (h w / tau^2 + 1 - h))^2                                         (8)
    L   = -1 / tau^2 + alpha^2 rho^2 / tau^4    at level k - 1                                      (9)

where neither knows how many clusters there are, nor in how many dimensions. The better of (7) with (9) and of
(8) holds: (8) at long steps, (7) at short ones, of which (8) does not know that they are many.

K = E H^2 / E sum_j g_j |zeta_j|^2 plays the part of a dimension in what joint learning costs, and
`jaxdiff.theory.risk_bound` says how. The method is that of Kumar, Nagaraj & Sarkar 2025, arXiv 2502.10354;
(1) to (9) for every linear schedule are derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.theory.paths import check_path, scales, steps
from jaxdiff.typing import Array, Schedule, Time


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


def martingale_terms(
    estimate: Denoiser, exact: Denoiser, data: Array, path: Array, times: Array, weights: Array
) -> MartingaleTerms:
    """Eqs. (3) and (4) for data (n, d), their path (N, n, d) through increasing times (N,), and g_j, (N,).

    exact: the denoiser of the law that data come from, of estimate's schedule; with any other the increments
    still sum to H, but their mean is not zero. path: by `forward_path`, under that schedule. Raises TypeError
    for what is no denoiser; ValueError for shapes that disagree, for times that do not increase or that a
    denoiser does not know and for denoisers of two schedules.

    >>> exact, wrong = (jd.Gaussian([mean], 1.0).denoiser(jd.Karras()) for mean in (0.0, 1.0))
    >>> key, data, times = jax.random.key(0), jnp.array([[0.5], [-1.0]]), jnp.array([1.0, 2.0, 4.0])
    >>> path = jd.theory.forward_path(key, jd.Karras(), data, times)
    >>> terms = jd.theory.martingale_terms(wrong, exact, data, path, times, jnp.ones(3))
    >>> bool(jnp.allclose(terms.increments.sum(0), terms.total, atol=1e-5))  # eq. (3)
    True
    """
    check_path(estimate, data, path, times, weights)
    check_denoiser("exact", exact)
    check_agree("exact", exact, "estimate", estimate)
    exact.check_times("times", times)
    return _martingale_terms(estimate, exact, data, path, times, weights)


@jax.jit
def _martingale_terms(
    estimate: Denoiser, exact: Denoiser, data: Array, path: Array, times: Array, weights: Array
) -> MartingaleTerms:
    alpha, sigma = scales(estimate.schedule, times)
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
    """K = E H^2 / E sum_j g_j |zeta_j|^2, with means over the paths; a scalar.

    >>> law, wrong = (jd.Gaussian([mean], 1.0) for mean in (0.0, 1.0))
    >>> data, times = law.sample(jax.random.key(0), 10_000), jnp.ones(1)
    >>> path = jd.theory.forward_path(jax.random.key(1), jd.Karras(), data, times)
    >>> denoisers = wrong.denoiser(jd.Karras()), law.denoiser(jd.Karras())
    >>> terms = jd.theory.martingale_terms(*denoisers, data, path, times, jnp.ones(1))
    >>> round(float(jd.theory.martingale_constant(terms)), 1)  # of one level, Cov(x_0 | x_1)
    0.5
    """
    return jnp.mean(terms.total**2) / jnp.mean(terms.squared_error)


def posterior_covariance(denoise: Denoiser, x: Array, t: Time) -> Array:
    """Cov(x_0 | x_t = x), eq. (5), for x (n, d) at a scalar time; shape (n, d, d), by d tangents.

    Raises TypeError for what is no denoiser, ValueError for other shapes and for a t that it does not know.

    >>> denoise = jd.Gaussian(jnp.zeros(2), 1.0).denoiser(jd.Karras())
    >>> jd.theory.posterior_covariance(denoise, jnp.ones((1, 2)), 1.0).round(4).tolist()  # 1 / (1 + 1)
    [[[0.5, 0.0], [0.0, 0.5]]]
    """
    _check_at(denoise, "x", x, "t", t)
    return _posterior_covariance(denoise, x, t)


@jax.jit
def _posterior_covariance(denoise: Denoiser, x: Array, t: Array) -> Array:
    schedule = denoise.schedule
    _, push = jax.linearize(lambda x: denoise(x, t).data, x)
    tangents = jnp.broadcast_to(jnp.eye(x.shape[1], dtype=x.dtype)[:, None], (x.shape[1], *x.shape))
    jacobian = jnp.moveaxis(jax.vmap(push)(tangents), 0, 2)
    return schedule.sigma(t) ** 2 / schedule.alpha(t) * jacobian


def increment_covariance(denoise: Denoiser, x_s: Array, x_t: Array, s: Time, t: Time) -> Array:
    """Cov(D(x_s, s) - D(x_t, t) | x_t), eq. (6), for scalar times s < t and x_t (n, d); shape (n, d, d).

    x_s: (draws, n, d), draws of x_s given x_t; the inner mean is over them. The first innovation x_0 - D_1
    has no s: its covariance is the `posterior_covariance`. Raises as that, and ValueError unless s < t.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> x_t, x_s = jnp.zeros((1, 1)), jnp.zeros((1, 1, 1))  # for Gaussian data it does not depend on them
    >>> round(float(jd.theory.increment_covariance(denoise, x_s, x_t, 1.0, 2.0)[0, 0, 0]), 4)  # 4 / 5 - 1 / 2
    0.3
    """
    _check_at(denoise, "x_t", x_t, "t", t)
    checks.shape("x_s", x_s, (None, *x_t.shape))
    _check_at(denoise, "x_s[0]", x_s[0], "s", s)
    checks.ordered("s", s, "t", t)
    return _increment_covariance(denoise, x_s, x_t, s, t)


@jax.jit
def _increment_covariance(denoise: Denoiser, x_s: Array, x_t: Array, s: Array, t: Array) -> Array:
    inner = jax.vmap(lambda x: _posterior_covariance(denoise, x, s))(x_s)
    return _posterior_covariance(denoise, x_t, t) - inner.mean(0)


def increment_constants(schedule: Schedule, times: Array, curvature: Array | float) -> Array:
    """c_k of eq. (7) at increasing times, shape (N,): R_k has the variance proxy c_k |G_k|^2.

    curvature: L at the level before each, of which the first is the data; scalar or (N,). Infinite where
    a^2 / v <= L, for there the step is too long for the bound: `cluster_constants` has another. Raises
    TypeError for what is no schedule, ValueError for times that do not increase or are out of its range and
    for a curvature of another shape.

    >>> times, curvature = jnp.array([1.0, 2.0]), jnp.array([-1.0, -0.5])  # N(0, 1), and N(0, 2) at t = 1
    >>> constants = jd.theory.increment_constants(jd.Karras(), times, curvature)
    >>> [round(float(c), 4) for c in constants]  # the variances of M_k, see `increment_covariance`
    [0.5, 0.3]
    """
    _check_levels(schedule, times)
    if jnp.shape(curvature):
        checks.shape("curvature", curvature, jnp.shape(times))
    return _increment_constants(schedule, times, curvature)


@jax.jit
def _increment_constants(schedule: Schedule, times: Array, curvature: Array) -> Array:
    alpha, sigma, scale, std = steps(schedule, times)
    concavity = (scale / std) ** 2 - curvature
    return jnp.where(concavity > 0, ((1 + sigma**2 * curvature) / alpha) ** 2 / concavity, jnp.inf)


def cluster_constants(
    schedule: Schedule, times: Array, *, radius: Array | float, std: Array | float
) -> Array:
    """c_k of eqs. (7) with (9) or of (8), whichever is smaller, at increasing times, shape (N,).

    radius: rho, half the largest distance between two of the clusters' centres; std: s, the standard
    deviation of each around its centre, which may be 0. Raises as `increment_constants`, and ValueError for a
    negative radius or std.

    >>> times = jnp.array([1.0, 2.0])
    >>> constants = jd.theory.cluster_constants(jd.Karras(), times, radius=0.0, std=1.0)  # one, N(0, 1)
    >>> [round(float(c), 4) for c in constants]  # as `increment_constants`
    [0.5, 0.3]
    """
    _check_levels(schedule, times)
    for name, value in (("radius", radius), ("std", std)):
        checks.shape(name, value, ())
        checks.within(name, value, 0.0, float("inf"))
    return _cluster_constants(schedule, times, radius, std)


@jax.jit
def _cluster_constants(schedule: Schedule, times: Array, radius: Array, std: Array) -> Array:
    alpha, sigma, scale, step_std = steps(schedule, times)
    total = (alpha * std) ** 2 + sigma**2
    known = jnp.where(total > 0, total, 1.0)  # points, as they are before the first level
    share = (alpha * std) ** 2 / known
    left = 1 / (1 + total * (scale / step_std) ** 2)
    any_step = (share / alpha * jnp.sqrt(total * left) + radius * (share * left + 1 - share)) ** 2
    any_step = jnp.where(total > 0, any_step, radius**2)
    curvature = jnp.where(total > 0, ((alpha * radius) ** 2 / known - 1) / known, jnp.inf)
    return jnp.minimum(any_step, _increment_constants(schedule, times, curvature))


def _check_levels(schedule: Schedule, times: Array) -> None:
    checks.schedule(schedule)
    checks.increasing("times", times)
    checks.in_range("times", schedule, times)


def _check_at(denoise: Denoiser, x_name: str, x: Array, t_name: str, t: Time) -> None:
    check_denoiser("denoise", denoise)
    checks.floating(x_name, x)
    checks.shape(x_name, x, (None, *denoise.shape))
    checks.shape(x_name, x, (None, None))
    checks.shape(t_name, t, ())
    denoise.check_times(t_name, t)
