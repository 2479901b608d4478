"""Maximum likelihood for Gaussians and their mixtures.

With responsibilities r_ik = P(component k | data_i), expectation-maximization alternates

    r_ik   ~ weights_k N(data_i; mean_k, covariance_k),             sum_k r_ik = 1                  (1)
    weights_k = mean_i r_ik,     mean_k, covariance_k = moments of the data under the weights r_ik   (2)

Each eigenvalue of a covariance is raised to a floor. That is the exact maximizer of (2) among covariances
above the floor, so the likelihood still never falls, which adding the floor would not grant.
Dempster, Laird & Rubin 1977.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff import checks
from jaxdiff.distributions import Gaussian, GaussianMixture
from jaxdiff.typing import Array, Key

_COVARIANCES = ("full", "diagonal", "isotropic")
_PRECISION = jax.lax.Precision.HIGHEST


def fit_gaussian(data: ArrayLike, *, covariance: str = "full") -> Gaussian:
    """The Gaussian of greatest likelihood for the rows of data, shape (n, d).

    covariance is "full", "diagonal" or "isotropic". The sums are divided by n; with n <= d the full
    covariance is singular, which denoisers accept and `log_prob` does not.

    Raises ValueError for another shape, values that are not finite or an unknown covariance.
    """
    data = _check_data(data, covariance)
    return _weighted_gaussian(data, jnp.ones_like(data[:, 0]), jnp.zeros((), data.dtype), covariance)


def fit_mixture(
    key: Key,
    data: ArrayLike,
    num_components: int,
    *,
    covariance: str = "full",
    num_restarts: int = 4,
    num_iterations: int = 100,
    floor: float = 1e-6,
) -> GaussianMixture:
    """A Gaussian mixture fitted to the rows of data, shape (n, d), by expectation-maximization.

    covariance is "full", "diagonal" or "isotropic"; floor is the least eigenvalue of a covariance as a
    fraction of the data's variance per coordinate. Each restart begins at the centers that k-means++ draws
    (Arthur & Vassilvitskii 2007), all with the covariance that the data have about their nearest center.
    The restart of greatest likelihood is returned.

    One compiled call, whatever the number of iterations; restarts and components take turns, so memory is
    that of a few arrays of shape (n, d) and (n, num_components).

    Raises ValueError for another shape, values that are not finite, data all in one point, fewer rows than
    components, an unknown covariance, a count below one or a floor that is not positive.
    """
    data = _check_data(data, covariance)
    checks.integer("num_components", num_components, 1)
    checks.integer("num_restarts", num_restarts, 1)
    checks.integer("num_iterations", num_iterations, 1)
    checks.positive("floor", floor)
    if data.shape[0] < num_components:
        raise ValueError(
            f"data must hold at least as many rows as there are components, got {data.shape[0]} rows for "
            f"{num_components} components."
        )
    spread = jnp.var(data, axis=0).mean()
    checks.positive("the variance of data", spread)
    weights, components = _fit(
        key, data, floor * spread, num_iterations, num_components, num_restarts, covariance
    )
    return GaussianMixture(weights, components.mean, components.covariance)


@partial(jax.jit, static_argnames=("num_components", "num_restarts", "covariance"))
def _fit(
    key: Key,
    data: Array,
    floor: Array,
    num_iterations: Array,
    num_components: int,
    num_restarts: int,
    covariance: str,
) -> tuple[Array, Gaussian]:
    """Weights and a stack of Gaussians, the best over restarts."""

    def log_joint(weights: Array, components: Gaussian) -> Array:
        return jnp.log(weights)[:, None] + jax.lax.map(lambda law: law.log_prob(data), components)

    def update(_: Array, state: tuple[Array, Gaussian]) -> tuple[Array, Gaussian]:
        responsibilities = jax.nn.softmax(log_joint(*state), axis=0)
        # A component that lost every point keeps a weight, so that its logarithm exists.
        counts = responsibilities.sum(1) + 10 * jnp.finfo(data.dtype).eps
        components = jax.lax.map(lambda r: _weighted_gaussian(data, r, floor, covariance), responsibilities)
        return counts / counts.sum(), components

    def restart(key: Key) -> tuple[Array, tuple[Array, Gaussian]]:
        centers, nearest = _spread_centers(key, data, num_components)
        within = _weighted_gaussian(data - nearest, jnp.ones_like(data[:, 0]), floor, covariance)
        start = jax.vmap(lambda center: Gaussian(center, within.covariance))(centers)
        uniform = jnp.full((num_components,), 1 / num_components, data.dtype)
        state = jax.lax.fori_loop(0, num_iterations, update, (uniform, start))
        return jax.nn.logsumexp(log_joint(*state), axis=0).mean(), state

    log_likelihoods, states = jax.lax.map(restart, jax.random.split(key, num_restarts))
    best = jnp.argmax(log_likelihoods)
    return jax.tree.map(lambda leaf: leaf[best], states)


def _spread_centers(key: Key, data: Array, num_centers: int) -> tuple[Array, Array]:
    """k-means++: centers, shape (num_centers, d), and each row's nearest, of data's shape.

    Every center is a row drawn with probability proportional to its squared distance from those before.
    """

    def add(state: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], Array]:
        squares, nearest = state
        # Once every row is a center all squares are zero; then any row will do.
        logits = jnp.log(jnp.where(squares.max() > 0, squares, 1))
        center = data[jax.random.categorical(key, logits)]
        to_center = jnp.sum((data - center[None]) ** 2, axis=1)
        nearest = jnp.where((to_center < squares)[:, None], center[None], nearest)
        return (jnp.minimum(squares, to_center), nearest), center

    far = jnp.full_like(data[:, 0], jnp.finfo(data.dtype).max)
    (_, nearest), centers = jax.lax.scan(add, (far, data), jax.random.split(key, num_centers))
    return centers, nearest


def _weighted_gaussian(data: Array, weights: Array, floor: Array, covariance: str) -> Gaussian:
    """The moments (2) of data under weights, shape (n,), which need not sum to one."""
    weights = weights / jnp.maximum(weights.sum(), jnp.finfo(data.dtype).tiny)
    mean = jnp.matmul(weights, data, precision=_PRECISION)
    centered = data - mean[None]
    if covariance == "full":
        second = jnp.matmul((centered * weights[:, None]).T, centered, precision=_PRECISION)
    else:
        second = jnp.matmul(weights, centered**2, precision=_PRECISION)
    law = Gaussian(mean, second.mean() if covariance == "isotropic" else second)
    values = jnp.maximum(law.covariance.values, floor)
    return Gaussian(mean, law.covariance._replace(values=values))


def _check_data(data: ArrayLike, covariance: str) -> Array:
    data = jnp.asarray(data)
    data = data.astype(jnp.result_type(data, float))
    checks.shape("data", data, (None, None))
    if data.shape[0] == 0:
        raise ValueError("data must hold at least one row, got none.")
    checks.finite("data", data)
    checks.option("covariance", covariance, _COVARIANCES)
    return data
