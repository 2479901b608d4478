"""Low-rank Gaussians and mixtures of factor analyzers fitted to data of many thousand entries.

Probabilistic PCA has a closed form: with lambda_1 >= ... >= lambda_d the eigenvalues of the data's covariance
and b_i its eigenvectors, the likeliest N(m, F F' + s^2 I) of rank r has (Tipping & Bishop 1999)

    s^2 = sum_{i>r} lambda_i / (d - r),        F = [b_i (lambda_i - s^2)^(1/2)]_{i<=r}               (1)

of which the first r pairs come from subspace iteration (Halko, Martinsson & Tropp 2011). Mixtures, and noise
of a variance for each entry, take expectation-maximization. With r_ik = P(k | x_i) and y = (z, 1),

    S_xy = mean_i r_ik x_i E[y | x_i, k]',    S_yy = mean_i r_ik E[y y' | x_i, k]                    (2)
    (F_k, m_k) = S_xy S_yy^-1,    D_k = diag(S_xx - (F_k, m_k) S_xy') / mean_i r_ik                  (3)

where the means over all rows are running ones over minibatches (Cappe & Moulines 2009): a step costs
batch_size K d r, whatever the number of rows, and no array is larger than K d (r + 2) beside the batch.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff.laws.components import PRECISION
from jaxdiff.laws.factors import FactorMixture, explain, posterior_precision
from jaxdiff.laws.fitting import check_mixture_data, shaped, spread_centers
from jaxdiff.laws.shaped import Shaped
from jaxdiff.typing import Array, Key

_OVERSAMPLED, _POWERS = 16, 8  # of the subspace iteration
_ROWS = 2048  # that a mixture's start is made of
_KEPT = 1e-6  # of a component's start, to which it returns where it lost every point


def fit_low_rank(data: ArrayLike, rank: int, *, floor: float = 1e-6) -> FactorMixture | Shaped:
    """The Gaussian (1) of covariance F F' + s^2 I, F of shape (d, rank), for data (n, d) or (n, ...).

    The law is a `FactorMixture` of one component, the columns of whose factors are orthogonal. floor is the
    least s^2 as a fraction of the data's variance per coordinate; directions of less variance than their
    neighbours may be missed where the spectrum is flat, at a loss of likelihood too small to measure.

    Raises ValueError for another shape, values that are not finite, data all in one point, a floor that is
    not positive, and unless 1 <= rank < min(n, d).

    >>> data = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
    >>> law = jd.fit_low_rank(data, 1)
    >>> variance = (law.factors**2).sum() + law.variances.ravel()[0]
    >>> round(float(variance), 3)  # the largest, of (1, -1, 0, 0)
    0.5
    """
    data, shape, least = check_mixture_data(data, 1, floor)
    _check_rank(rank, data)
    return shaped(_fit_low_rank(data, least, rank), shape)


def fit_factor_mixture(
    key: Key,
    data: ArrayLike,
    num_components: int,
    rank: int,
    *,
    noise_variance: ArrayLike = 0.0,
    batch_size: int = 256,
    num_steps: int = 1000,
    floor: float = 1e-6,
) -> FactorMixture | Shaped:
    """A mixture of factor analyzers for the rows of data, (n, d) or (n, ...), by minibatches: (2), (3).

    noise_variance: of noise that is added to each minibatch anew; the law returned is without it, and of
        great likelihood for data with it: what noise hides is not fitted.
    floor: the least variance of an entry given its factors, as a fraction of the data's mean variance.

    It begins at centers that k-means++ draws of at most 2048 rows, all with the low-rank covariance that the
    data have about their nearest center. One compiled loop; a step's weight in the running means falls like
    its number to the power -0.6.

    Raises ValueError for what `fit_low_rank` does, fewer rows than components, a count below one or a
    negative noise variance.

    >>> line = jnp.linspace(-1, 1, 50)[:, None] * jnp.array([1.0, 1.0, 0.0])
    >>> data = jnp.concatenate([line - 5.0, line + 5.0])
    >>> law = jd.fit_factor_mixture(jax.random.key(0), data, 2, 1, num_steps=50)
    >>> law.weights.round(1).tolist(), sorted(law.means[:, 2].round(1).tolist())
    ([0.5, 0.5], [-5.0, 5.0])
    """
    checks.key(key)
    data, shape, least = check_mixture_data(data, num_components, floor)
    _check_rank(rank, data)
    checks.integer("batch_size", batch_size, 1)
    checks.integer("num_steps", num_steps, 1)
    checks.shape("noise_variance", noise_variance, ())
    checks.within("noise_variance", noise_variance, 0.0, float("inf"))
    noise_variance = jnp.asarray(noise_variance, data.dtype)
    law = _fit(key, data, noise_variance, least, num_steps, num_components, rank, batch_size)
    return shaped(law, shape)


def _check_rank(rank: int, data: Array) -> None:
    checks.integer("rank", rank, 1)
    if rank >= min(data.shape):
        raise ValueError(
            f"rank must be less than the {data.shape[1]} entries of a row and the {data.shape[0]} rows, got "
            f"{rank}; a smaller rank fits these data, and `fit_gaussian` has them all."
        )


@partial(jax.jit, static_argnames="rank")
def _fit_low_rank(data: Array, floor: Array, rank: int) -> FactorMixture:
    n, d = data.shape
    mean = data.mean(0)
    rows = data - mean[None]
    product = partial(jnp.matmul, precision=PRECISION)
    start = jax.random.normal(jax.random.key(0), (d, min(rank + _OVERSAMPLED, n, d)), data.dtype)

    def power(_: int, basis: Array) -> Array:
        return jnp.linalg.qr(product(rows.T, product(rows, basis)))[0]

    basis = jax.lax.fori_loop(0, _POWERS, power, jnp.linalg.qr(start)[0])
    seen = product(rows, basis)
    values, turn = jnp.linalg.eigh(product(seen.T, seen) / n)
    values, basis = values[-rank:], product(basis, turn[:, -rank:])
    rest = (jnp.sum(rows**2) / n - values.sum()) / (d - rank)
    rest = jnp.maximum(rest, floor)
    factors = basis * jnp.sqrt(jnp.maximum(values - rest, 0))[None]
    return FactorMixture(jnp.ones((1,), data.dtype), mean[None], factors[None], rest[None])


class _Statistics(NamedTuple):
    """The means of (2) over rows; y has the factors first."""

    xx: Array  # (K, d), of r x^2
    xy: Array  # (K, d, r + 1)
    yy: Array  # (K, r + 1, r + 1), whose last entry is the mean of r


@partial(jax.jit, static_argnames=("num_components", "rank", "batch_size"))
def _fit(
    key: Key,
    data: Array,
    noise_variance: Array,
    floor: Array,
    num_steps: Array,
    num_components: int,
    rank: int,
    batch_size: int,
) -> FactorMixture:
    start_key, key = jax.random.split(key)
    center = data.mean(0)
    least = noise_variance + floor
    start = _start(start_key, data - center[None], noise_variance, floor, num_components, rank)

    def step(i: Array, statistics: _Statistics) -> _Statistics:
        row_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
        x = data[jax.random.randint(row_key, (batch_size,), 0, len(data))] - center[None]
        x += jnp.sqrt(noise_variance) * jax.random.normal(noise_key, x.shape, x.dtype)
        new = _statistics(_law(statistics, start, least), x)
        rate = (i + 10.0) ** -0.6
        return jax.tree.map(lambda old, new: old + rate * (new - old), statistics, new)

    law = _law(jax.lax.fori_loop(0, num_steps, step, start), start, least)
    return FactorMixture(law.weights, law.means + center[None], law.factors, law.variances - noise_variance)


def _start(
    key: Key, data: Array, noise_variance: Array, floor: Array, num_components: int, rank: int
) -> _Statistics:
    """The statistics of equally likely components about centers, with z as in the law itself."""
    row_key, center_key = jax.random.split(key)
    rows = data[jax.random.permutation(row_key, len(data))[:_ROWS]]
    centers, nearest = spread_centers(center_key, rows, num_components)
    within = _fit_low_rank(rows - nearest, floor, rank)
    factors, variance = within.factors[0], within.variances[0] + noise_variance

    def statistics(center: Array) -> _Statistics:
        xy = jnp.concatenate([factors, center[:, None]], axis=1)
        xx = center**2 + jnp.sum(factors**2, axis=1) + variance
        return _Statistics(xx, xy, jnp.eye(rank + 1, dtype=data.dtype))

    return jax.tree.map(lambda leaf: leaf / num_components, jax.vmap(statistics)(centers))


def _law(statistics: _Statistics, start: _Statistics, least: Array) -> FactorMixture:
    """The law (3), with the noise; its components keep a trace of their start."""
    xx, xy, yy = jax.tree.map(lambda now, first: now + _KEPT * first, statistics, start)
    share = yy[:, -1, -1]
    loadings = jnp.swapaxes(jnp.linalg.solve(yy, jnp.swapaxes(xy, 1, 2)), 1, 2)
    variances = (xx - jnp.sum(loadings * xy, axis=2)) / share[:, None]
    return FactorMixture(
        share / share.sum(), loadings[..., -1], loadings[..., :-1], jnp.maximum(variances, least)
    )


def _statistics(law: FactorMixture, x: Array) -> _Statistics:
    """Of rows x, shape (n, d), component after component: memory is that of a few arrays like x."""

    def one(law: FactorMixture) -> tuple[Array, Array, Array]:
        law = jax.tree.map(lambda leaf: leaf[None], law)
        gain = law.factors / law.variances[..., None]
        covariance = jnp.linalg.inv(posterior_precision(law, gain, 1.0)[0])
        found = jax.vmap(lambda x: explain(law, x, 1.0, 0.0))(x)
        y = jnp.concatenate([found.factors[:, 0], jnp.ones_like(x[:, :1])], axis=1)
        return y, jnp.pad(covariance, ((0, 1), (0, 1))), found.log_joint[:, 0]

    y, covariance, log_joint = jax.lax.map(one, law)
    weights = jax.nn.softmax(log_joint, axis=0) / len(x)  # (K, n)
    weighted = weights[..., None] * y
    return _Statistics(
        xx=jnp.matmul(weights, x**2, precision=PRECISION),
        xy=jnp.einsum("nd,kny->kdy", x, weighted, precision=PRECISION),
        yy=jnp.einsum("kny,knz->kyz", weighted, y, precision=PRECISION)
        + weights.sum(1)[:, None, None] * covariance,
    )
