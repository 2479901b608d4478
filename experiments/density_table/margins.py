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
        num_cells = self.log_frequencies.shape[1]
        weights = jnp.exp(self.log_frequencies)
        cell = jnp.clip(jnp.floor(num_cells * x), 0, num_cells - 1).astype(int)

        def own(values: Array) -> Array:
            return jax.vmap(lambda cells: jnp.take_along_axis(values, cells[:, None], 1)[:, 0])(cell)

        below = own(jnp.cumsum(weights, 1) - weights) + own(weights) * (num_cells * x - cell)
        y = jax.scipy.special.ndtri(jnp.clip(below, _EDGE, 1 - _EDGE))
        slope = own(self.log_frequencies) + jnp.log(float(num_cells)) - jax.scipy.stats.norm.logpdf(y)
        return y, slope.sum(1)
