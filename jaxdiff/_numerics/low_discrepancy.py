"""Monte Carlo means over noise levels and noise, of little variance and with an honest standard error.

A standard normal vector is a radius times a direction, eps = rho q, with rho^2 ~ chi^2_d and q uniform on the
sphere. Among n of them, let the directions be orthonormal, d at a time, and the radii stratified. Each vector
alone is still exactly standard normal, so every mean stays unbiased; and for a symmetric matrix B

    sum_{j <= d} q_j' B q_j = trace B,                                                           (1)

the mean of a quadratic form in the noise, without error and in every basis. (Quasi-Monte Carlo points in d
dimensions stratify the coordinates that they are given.) Both signs of each vector do the same for the odd
part. Genz & Monahan 1999 (stochastic spherical-radial rules); Yu et al. 2016, arXiv 1610.09072.

A mean over v uniform in (0, 1) and such noise is taken over *cells*, R for each of K strata of v, with v
stratified again inside a cell. Neighbours in v are coupled: the one lies as far from the lower end of its
part as the other from the upper end of its own, and their radii are quantiles q and 1 - q. That takes out
what is linear in v over the two, and most of the radius. Cells are independent, and those of a stratum have
one law: with s_k^2 the variance between the means of the R cells of stratum k,

    value = mean over all cells,      standard error^2 = sum_k s_k^2 / (R K^2),                  (2)

the second unbiased, with K (R - 1) degrees of freedom if the strata are alike and R - 1 if one has all of the
variance. So K is 2 and R is 5 or more, and 5/8 of K (R - 1) are taken: at R = 5 intervals of 95 % then hold
the truth in 93.8 % of cases at the least and 96.7 % at the most, for normal means. More strata err less and
know less of how much: at 1,024 points in 50 dimensions 5 strata of 2 cells err by .17 nats, 2 of 5 by .20
(MEASURED, jax 0.10.2, 2026-11-28, `experiments.density.accuracy`'s mixture, isotropic reference), but where
one of the 5 has the variance its two cells are one degree of freedom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff._numerics import checks, shards
from jaxdiff._numerics.chunks import map_within
from jaxdiff.typing import Array, Key

Integrand: TypeAlias = Callable[[Array, Array, Array, Array], Array]
"""A function of row numbers (k,), noise (k, ...), the numbers of their strata (k,) and v (k,); -> (k,).

Numbers rather than rows of x, because other things go by row too: what a denoiser is bound to, say.
"""

_STRATA = 2
_MIN_CELLS = 5 * _STRATA
_MIN_RADII = 16


class Layout(NamedTuple):
    """How the points of a mean are laid."""

    strata: int
    replicates: int
    """Cells of a stratum."""
    pairs: int
    """Of a vector and its negative, in a cell."""

    @property
    def points(self) -> int:
        return 2 * self.pairs * self.strata * self.replicates

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the error (2)."""
        return 0.625 * self.strata * (self.replicates - 1)


def mean(
    key: Key, x: Array, integrand: Integrand, num_evaluations: int, bytes_per_call: int
) -> tuple[Array, Array]:
    """Eq. (2) for each row of x, shape (batch, ...): value and standard error, (batch,).

    Of x only the shape and the precision matter: integrand closes over whatever goes by row.
    At most num_evaluations of the integrand a row, at least 20. Student's factor is in the error: value
    +- 1.96 errors is a 95 % interval.
    """
    layout = layout_of(num_evaluations, x[0].size)
    cells = cell_means(key, x, integrand, layout, bytes_per_call)
    error = jnp.sqrt(square_error_of_sum(cells)) / (layout.strata * layout.replicates)
    return cells.mean((1, 2)), error * student_factor(layout.freedom)


def square_error_of_sum(cells: Array) -> Array:
    """The squared error of the sum of cells, shape (..., strata, replicates) -> (...), as in (2)."""
    return cells.shape[-1] * jnp.sum(jnp.var(cells, axis=-1, ddof=1), axis=-1)


def layout_of(num_evaluations: int, d: int) -> Layout:
    """What `mean` takes in d dimensions: cells of d pairs where there are enough, so that (1) holds."""
    checks.integer("num_evaluations", num_evaluations, 2 * _MIN_CELLS)
    pairs = min(-(-_MIN_RADII // d) * d, num_evaluations // (2 * _MIN_CELLS))
    cells = num_evaluations // (2 * pairs)
    return Layout(_STRATA, cells // _STRATA, pairs)


def cell_means(key: Key, x: Array, integrand: Integrand, layout: Layout, bytes_per_call: int) -> Array:
    """The mean of the integrand in each cell, over 2 pairs points; shape (batch, strata, replicates).

    The integrand is called on as many cells as bytes_per_call allow, at least one, again and again.
    Of x, (batch, ...), only the shape and the precision matter; what row i is given depends on (key, i) only.
    """
    strata, replicates, pairs = layout
    each, places = strata * replicates, shards.row_numbers(x.shape[0])

    def draw(number: Array) -> tuple[Array, Array]:
        cell_key = jax.random.fold_in(jax.random.fold_in(key, places[number // each]), number % each)
        place_key, noise_key = jax.random.split(cell_key)
        place = coupled(jax.random.uniform(place_key, (-(-pairs // 2),), x.dtype), pairs)
        v = (number % each // replicates + (jnp.arange(pairs) + place) / pairs) / strata
        noise = orthogonal_noise(noise_key, pairs, x[0].size, x.dtype)
        return jnp.concatenate([v, v]), jnp.concatenate([noise, -noise])

    @jax.checkpoint  # or a derivative would keep what every call computed
    def means(numbers: Array) -> Array:
        v, noise = jax.vmap(draw)(numbers)
        rows = jnp.repeat(numbers, 2 * pairs)
        noise = noise.reshape(-1, *x.shape[1:])
        values = integrand(rows // each, noise, rows % each // replicates, v.reshape(-1))
        return values.reshape(-1, 2 * pairs).mean(1)

    numbers = jnp.arange(x.shape[0] * each)
    cells = map_within(means, numbers, bytes_per_call)
    return cells.reshape(x.shape[0], strata, replicates)


def student_factor(freedom: Any) -> Any:
    """The 97.5 % quantile of Student's t over the normal law's; within 1 % from freedom = 3 on, .2 % from 5.

    Abramowitz & Stegun 1964, 26.7.5.
    """
    z, n = 1.959964, freedom
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return 1 + (first + second + third) / z


def coupled(u: Array, n: int) -> Array:
    """u_1, 1 - u_1, u_2, 1 - u_2, ...: n numbers of the law of u if that is uniform in (0, 1)."""
    return jnp.stack([u, 1 - u], axis=1).reshape(-1)[:n]


def orthogonal_noise(key: Key, n: int, d: int, dtype: DTypeLike = float) -> Array:
    """n standard normal vectors, shape (n, d): each d in turn are orthogonal, and their radii stratified and
    coupled in twos.

    The law of each vector is even, but the vectors are to be used with both signs: the QR factorization fixes
    signs in its own way. Time O(n d min(n, d)). Raises ValueError unless n and d are integers above zero.
    """
    checks.integer("n", n, 1)
    checks.integer("d", d, 1)
    basis_key, order_key, radius_key = jax.random.split(key, 3)
    bases = jax.random.normal(basis_key, (-(-n // d), d, min(n, d)), dtype)
    directions = jnp.swapaxes(jnp.linalg.qr(bases)[0], 1, 2).reshape(-1, d)[:n]
    half = -(-n // 2)
    u = (jax.random.permutation(order_key, half) + jax.random.uniform(radius_key, (half,), dtype)) / half
    cumulative, radius = _radii(d)
    return jnp.interp(coupled(u, n), cumulative.astype(dtype), radius.astype(dtype))[:, None] * directions


def _radii(d: int) -> tuple[np.ndarray, np.ndarray]:
    """A table of the distribution function of the norm of d standard normals, and the norms it belongs to.

    In y = log(rho^2 / d) / 2 the density is exp(d (y + (1 - e^2y) / 2)) up to a constant, and by Chernoff's
    bound its integral over either tail is at most that: both ends leave out less than e^-32.
    """
    low, high = -0.5 - 32 / d, 0.5 * np.log1p(2 * np.sqrt(32 / d) + 64 / d)
    y = np.linspace(low, high, 2**15 + 1)
    density = np.exp(d * (y - 0.5 * np.expm1(2 * y)))
    cumulative = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return cumulative / cumulative[-1], np.sqrt(d) * np.exp(y)
