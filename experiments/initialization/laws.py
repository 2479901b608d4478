"""The laws that the experiments of initialization sample: two mixtures of 25 Gaussians, and heavy tails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.typing import Array, Key, StartLaw

_GRID = np.stack(np.meshgrid(np.arange(-2.0, 3), np.arange(-2.0, 3), indexing="ij"), -1).reshape(25, 2)


def grid_mixture(seed: int = 0) -> GaussianMixture:
    """25 Gaussians in the plane about a 5 x 5 grid, the mean variance of the two coordinates being one.

    Before it is scaled the grid has spacing 1; components have standard deviations of .1 to .3 along axes at
    random, and weights in proportion to draws from chi^2 with one degree of freedom. The mean is not zero.
    """
    rng = np.random.default_rng(seed)
    weights = rng.chisquare(1, 25)
    weights /= weights.sum()
    variances = rng.uniform(0.1, 0.3, (25, 2)) ** 2
    angle = rng.uniform(0, np.pi, 25)
    basis = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(25, 2, 2)
    mean = weights @ _GRID
    square = (weights @ (variances.sum(1) + ((_GRID - mean) ** 2).sum(1))) / 2
    return GaussianMixture(
        jnp.asarray(weights),
        jnp.asarray(_GRID / square**0.5),
        Spectrum(jnp.asarray(variances / square), jnp.asarray(basis)),
    )


def tiled_mixture(d: int) -> GaussianMixture:
    """25 Gaussians N(., I) of equal weights in R^d, d even: means 5 (i, j, i, j, ...), -2 <= i, j <= 2.

    A plane of the grid, of spacing 5 (d / 2)^(1/2), and d - 2 directions in which it is N(0, 1).
    """
    if d < 2 or d % 2:
        raise ValueError(f"d must be an even number of at least 2, got {d}.")
    means = np.tile(5 * _GRID, (1, d // 2))
    return GaussianMixture(jnp.full(25, 1 / 25), jnp.asarray(means), jnp.ones(25))


def student_mixture(d: int, seed: int = 0) -> StudentTMixture:
    """Four Student t laws of three degrees of freedom in R^d, with mean zero and mean variance one.

    Before they are centered and scaled their centers are uniform on (-1, 1)^d and their scale matrices are
    L L', L = .4 A diag(u), A lower triangular of diagonal one and N(0, 1) below, u uniform on (.1, 1); the
    weights are uniform on the simplex. Variances grow along the coordinates as d does.
    """
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(4))
    means = rng.uniform(-1, 1, (4, d))
    factors = 0.4 * (np.eye(d) + np.tril(rng.standard_normal((4, d, d)), -1)) * rng.uniform(0.1, 1, (4, 1, d))
    means -= weights @ means
    # Three degrees of freedom: the covariance is three times the scale matrix.
    square = weights @ (3 * (factors**2).sum((1, 2)) + (means**2).sum(1)) / d
    left, singular, _ = np.linalg.svd(factors)
    scales = Spectrum(jnp.asarray(singular**2 / square), jnp.asarray(left))
    return StudentTMixture(jnp.asarray(weights), jnp.asarray(means / square**0.5), scales, 3.0)


@functools.partial(jax.jit, static_argnames="n")
def draw_rows(law: StartLaw, key: Key, n: int) -> Array:
    """n points of a law, in one compiled call."""
    return law.sample(key, n)


@jax.jit
def log_prob(law: StartLaw, x: Array) -> Array:
    """Its log-density at rows x, (n, ...), likewise."""
    return law.log_prob(x)


def student_quantiles(law: StudentTMixture, levels: tuple[float, ...]) -> np.ndarray:
    """Exact quantiles of x_i and -x_i, shape (levels, 2 d), of a mixture with three degrees of freedom."""
    weights, means, values, basis = (
        np.asarray(part, np.float64) for part in (law.weights, law.means, *law.scales)
    )
    # In three degrees of freedom P(t > u 3^(1/2)) = 1/2 - (u / (1 + u^2) + arctan u) / pi.
    scale = np.sqrt(3 * np.einsum("kde,ke->kd", basis**2, values))
    center, scale = np.concatenate([means, -means], axis=1), np.concatenate([scale, scale], axis=1)
    wanted = 1 - np.array(levels)[:, None]
    high = np.full((len(levels), center.shape[1]), 1e4)
    low = -high
    for _ in range(80):
        middle = 0.5 * (low + high)
        u = (middle[:, None] - center) / scale
        beyond = np.einsum("k,lkd->ld", weights, 0.5 - (u / (1 + u**2) + np.arctan(u)) / np.pi)
        low, high = np.where(beyond > wanted, middle, low), np.where(beyond > wanted, high, middle)
    return 0.5 * (low + high)
