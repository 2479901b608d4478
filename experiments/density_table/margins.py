"""Every entry mapped to a normal one by its own histogram: what flows and denoisers of images see at will.

    y_i = Phi^-1(F_i(x_i)),    F_i(x) = sum_{j<k} w_ij + w_ik (L x - k),    k = floor(L x)                (1)

for x in [0, 1]^d, w_i the frequencies of L equal cells of entry i among the training rows. If the cells are
levels and x = (pixel + u) / L is dequantized, y_i is exactly normal as far as the frequencies are true: the
edges of the levels, where the density of x jumps, are gone from every margin (they remain in what one entry
says of another). The density of x is that of y times the slopes of (1):

    log p(x) = log p(y) + sum_i log(L w_ik) - log phi(y_i)                                               (2)
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array

_EDGE = 1e-6  # of F, of which the quantile is taken


@dataclasses.dataclass(frozen=True, eq=False)
class Margins:
    """Eq. (1), of log-frequencies (d, L)."""

    log_frequencies: jax.Array

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """y, shape (n, d), of rows x in [0, 1]^d, and the logarithm of the slope of it, shape (n,)."""
        y, log_slope = jax.vmap(jax.vmap(to_normal), (0, None))(x, self.log_frequencies)
        return y, log_slope.sum(1)


def to_normal(x: Array, log_frequencies: Array) -> tuple[Array, Array]:
    """y of one entry x, scalar, by log-frequencies (L,), and the logarithm of its slope."""
    weights, num_cells = jnp.exp(log_frequencies), len(log_frequencies)
    cell = jnp.clip(jnp.floor(num_cells * x), 0, num_cells - 1).astype(int)
    inside = (jnp.cumsum(weights) - weights)[cell] + weights[cell] * (num_cells * x - cell)
    y = jax.scipy.special.ndtri(jnp.clip(inside, _EDGE, 1 - _EDGE))
    return y, log_frequencies[cell] + jnp.log(float(num_cells)) - jax.scipy.stats.norm.logpdf(y)
