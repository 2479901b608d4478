"""From draws of p(data | x_t) to draws given an observation too: what `daps` does at each level.

A correction is any callable pytree of this protocol. Gaussian draws are corrected by what their own spread
says (Matheron's rule): data + Cov[data, seen] Cov[seen + noise]^-1 (y - a draw of seen + noise) has the right
mean and the right covariance at once, without either being written down.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like, per_row
from jaxdiff._numerics.rows import squares, to_rows
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.guidance.projected import Projection, check_projection
from jaxdiff.guidance.tilted import Reward
from jaxdiff.inverse.operators import Operator
from jaxdiff.inverse.posteriors import check_operator, solve
from jaxdiff.noising.process import marginals
from jaxdiff.typing import Array, Key

Seen: TypeAlias = Callable[[Array], Array]
"""Data (batch, *shape) -> (batch, m), row by row: what is observed without noise, linear or not."""


class Correction(Protocol):
    """Draws of p(data | x_t), (batch, *shape), to draws given the observation too."""

    def __call__(self, key: Key, denoise: Denoiser, x: Array, t: Array, data: Array) -> Array:
        """t is a scalar."""
        ...


def linear_gaussian(
    operator: Operator, y: Array, std: Array | float, *, num_iterations: int = 8
) -> Correction:
    """Given y = operator(data) + std noise: exact for every Gaussian prior, and row by row.

    Matheron's rule with Cov[data | x_t] = (sigma^2 / alpha) dD/dx, as in `mmps`, whose arguments and errors
    these are: one vjp for each of num_iterations, and one more.

    >>> law, x, key = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.zeros((4000, 1)), jax.random.key(0)
    >>> data = 0.5**0.5 * jax.random.normal(key, x.shape)  # p(data | x_1 = 0)
    >>> correct = jd.inverse.linear_gaussian(jd.inverse.mask(jnp.array([True])), jnp.array([2.0]), 1.0)
    >>> draws = correct(jax.random.key(1), law, x, jnp.array(1.0), data)
    >>> round(float(draws.mean()), 1)  # the mean of 0, 2 and x_t = 0: 2 / 3
    0.7
    """
    check_operator(operator, y, std)
    checks.integer("num_iterations", num_iterations, 1)
    return _LinearGaussian(operator, y, std, num_iterations)


def projection(project: Projection) -> Correction:
    """Given that the data lie in a set: the draw, projected. Its data lie in the set exactly.

    Exact for affine sets where p(data | x_t) is isotropic, as of isotropic Gaussians; of other laws the draw
    is moved to the edge and not conditioned, as by `projected`. With `daps` this is predict-project-renoise
    (arXiv 2601.21033) whose prediction is a draw and no mean: see `Renoising`. Raises TypeError for what is
    no function.

    >>> on_line = jd.inverse.projection(jd.projections.equality([[1.0, 0.0]], [2.0]))
    >>> law, noises = jd.Gaussian(jnp.zeros(2), 1.0).denoiser(jd.Karras()), jnp.array([20.0, 1.0, 0.1])
    >>> jd.inverse.daps(jax.random.key(0), law, on_line, 3, noises=noises)[:, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    check_projection(project)
    return _Projection(project)


def langevin(log_likelihood: Reward, *, num_moves: int = 50) -> Correction:
    """Given log p(y | data) up to a constant, differentiable: num_moves of Langevin's, accepted or not.

    They move N(data; E[data | x_t], rho^2 I) times the likelihood, rho^2 the posterior variance of isotropic
    data of the prior's scale: what p(data | x_t) is taken for, exactly for isotropic Gaussians. Moves cost a
    gradient of the likelihood and no call of the denoiser; each row finds the length of its own. Where the
    likelihood is narrower than rho by a factor of k, about k^2 moves are asked for. Raises TypeError for what
    is no function, ValueError for num_moves < 1.

    >>> law, x, key = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.zeros((4000, 1)), jax.random.key(0)
    >>> data = 0.5**0.5 * jax.random.normal(key, x.shape)  # p(data | x_1 = 0)
    >>> correct = jd.inverse.langevin(lambda data: -((data[:, 0] - 2.0) ** 2) / 2)  # y = 2, of std 1
    >>> draws = correct(jax.random.key(1), law, x, jnp.array(1.0), data)
    >>> round(float(draws.mean()), 1)  # the mean of 0, 2 and x_t = 0: 2 / 3
    0.7
    """
    if not callable(log_likelihood) or isinstance(log_likelihood, Denoiser):
        raise TypeError(
            f"log_likelihood must be a function of data, (batch, *shape), got "
            f"{checks.described(log_likelihood)}."
        )
    checks.integer("num_moves", num_moves, 1)
    return _Langevin(log_likelihood, num_moves)


def ensemble_kalman(seen: Seen, y: Array, std: Array | float) -> Correction:
    """Given y = seen(data) + std noise, with no derivative of anything: covariances are the ensemble's.

    Cov[data, seen | x_t] and Cov[seen | x_t] are means over rows, of differences from E[data | x_t] and from
    seen there: for Gaussian priors and a linear seen they are exact as rows grow many; of other laws each row
    is corrected by what is true of all on the average. All rows are of one y and see each other, and should
    be many times more than there are numbers in y. In the manner of Zheng et al. 2024 (EnKG), arXiv
    2409.20175. Raises TypeError for what is no function, ValueError for a y that is no vector or not finite
    and a std that is not positive.

    >>> law, x, key = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.zeros((4000, 1)), jax.random.key(0)
    >>> data = 0.5**0.5 * jax.random.normal(key, x.shape)  # p(data | x_1 = 0)
    >>> correct = jd.inverse.ensemble_kalman(lambda data: data, jnp.array([2.0]), 1.0)
    >>> draws = correct(jax.random.key(1), law, x, jnp.array(1.0), data)
    >>> round(float(draws.mean()), 1)  # the mean of 0, 2 and x_t = 0: 2 / 3
    0.7
    """
    if not callable(seen) or isinstance(seen, Denoiser):
        raise TypeError(f"seen must be a function of data, (batch, *shape), got {checks.described(seen)}.")
    checks.shape("y", y, (None,))
    checks.finite("y", y)
    checks.positive_number("std", std)
    return _EnsembleKalman(seen, y, std)


@pytree
@dataclass(frozen=True, eq=False)
class _Projection:
    project: Projection

    def __call__(self, key: Key, denoise: Denoiser, x: Array, t: Array, data: Array) -> Array:
        new = self.project(data)
        checks.shape("project(data)", new, data.shape)
        return new


@pytree
@dataclass(frozen=True, eq=False)
class _LinearGaussian:
    operator: Operator
    y: Array
    std: Array | float
    num_iterations: int

    def __call__(self, key: Key, denoise: Denoiser, x: Array, t: Array, data: Array) -> Array:
        alpha, sigma = marginals(denoise.schedule, t)
        _, pull = jax.vjp(lambda x: denoise(x, t).data, single(x))

        def spread(v: Array) -> Array:
            return jnp.where(alpha > 0, sigma**2 / jnp.where(alpha > 0, alpha, 1.0), 0.0) * pull(v)[0]

        def product(v: Array) -> Array:
            return self.std**2 * v + self.operator.apply(spread(self.operator.adjoint(v)))

        seen = self.operator.apply(data)
        off = jnp.asarray(self.y)[None] - seen - self.std * noise_like(key, seen)
        return data + spread(self.operator.adjoint(solve(product, off, self.num_iterations, self.std**2)))


@pytree
@dataclass(frozen=True, eq=False)
class _Langevin:
    log_likelihood: Reward
    num_moves: int

    def __call__(self, key: Key, denoise: Denoiser, x: Array, t: Array, data: Array) -> Array:
        mean, variance = denoise(x, t).data, _isotropic_variance(denoise, t)
        rows = functools.partial(to_rows, x=data)

        def log_density(data: Array) -> Array:
            value = self.log_likelihood(data)
            checks.shape("log_likelihood(data)", value, data.shape[:1])
            return value - squares(data - mean) / (2 * variance)

        def at(data: Array) -> tuple[Array, Array]:
            value, pull = jax.vjp(log_density, data)
            return value, pull(jnp.ones_like(value))[0]

        def move(carry: tuple[Array, ...], number: Array) -> tuple[tuple[Array, ...], None]:
            data, value, slope, log_step = carry
            noise_key, choice_key = jax.random.split(jax.random.fold_in(key, number))
            step, noise = rows(jnp.exp(log_step)), noise_like(noise_key, data)
            new = data + step * slope + jnp.sqrt(2 * step) * noise
            new_value, new_slope = at(new)
            back = squares(data - new - step * new_slope) / (4 * jnp.exp(log_step))
            log_ratio = new_value - value - back + squares(noise) / 2
            share = jnp.where(jnp.isfinite(log_ratio), jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
            taken = per_row(choice_key, len(share), jax.random.uniform) < share
            value, slope = jnp.where(taken, new_value, value), jnp.where(rows(taken), new_slope, slope)
            # In the first half, towards the share of .57 that Langevin's moves do best with.
            gain = jnp.where(2 * number < self.num_moves, 2 / jnp.sqrt(1 + number), 0.0)
            log_step = log_step + gain * (share - 0.57)
            return (jnp.where(rows(taken), new, data), value, slope, log_step), None

        begun = (data, *at(data), jnp.full(len(data), jnp.log(0.5 * variance)))
        return jax.lax.scan(move, begun, jnp.arange(self.num_moves))[0][0]


@pytree
@dataclass(frozen=True, eq=False)
class _EnsembleKalman:
    seen: Seen
    y: Array
    std: Array | float

    def __call__(self, key: Key, denoise: Denoiser, x: Array, t: Array, data: Array) -> Array:
        mean = denoise(x, t).data
        seen = self.seen(data)
        checks.shape("seen(data)", seen, (len(data), *jnp.shape(self.y)))
        off, off_seen = (data - mean).reshape(len(data), -1), seen - self.seen(mean)
        cross, spread = off.T @ off_seen / len(data), off_seen.T @ off_seen / len(data)
        missing = jnp.asarray(self.y)[None] - seen - self.std * noise_like(key, seen)
        inside = spread + self.std**2 * jnp.eye(len(spread))
        return data + (missing @ jnp.linalg.solve(inside, cross.T)).reshape(data.shape)


def _isotropic_variance(denoise: Denoiser, t: Array) -> Array:
    """Of data of N(0, scale^2 I) given x_t."""
    alpha, sigma = marginals(denoise.schedule, t)
    return sigma**2 / (sigma**2 / denoise.scale**2 + alpha**2)
