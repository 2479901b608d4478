"""Few of many draws, one from each of as many cells of equal mass: their means err far less than as many
independent draws' in few dimensions, and no more in many.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, Key


def stratified(
    key: Key, draw: Callable[[Key, int], Array], features: Callable[[Array], Array], n: int, *, out_of: int
) -> Array:
    """n of n times out_of draws or more, one from each of n cells of equal mass by features, (m, k)."""
    draw_key, pick_key = jax.random.split(key)
    many = draw(draw_key, 1 << (out_of * n - 1).bit_length())
    return many[one_of_each(pick_key, features(many), n)]


def one_of_each(key: Key, features: Array, n: int) -> Array:
    """Numbers of n of the rows of features, (m, k), in random order; each row's chance is n / m.

    m: a power of 2, at least n. The rows are ordered as the leaves of a tree that quarters every cell by
    quantiles, along the feature that varies most in cells of that size, until there are at least n / 4, and
    each of n equal stretches gives one.
    """
    m, cells = len(features), 1
    pick_key, order_key = jax.random.split(key)
    order = jnp.arange(m)
    while True:
        own = features[order].reshape(cells, m // cells, -1)
        widest = jnp.argmax(own.var(1).sum(0))
        within = jnp.argsort(own[:, :, widest], axis=1)
        order = jnp.take_along_axis(order.reshape(cells, -1), within, axis=1).reshape(-1)
        if 4 * cells >= n:
            break
        cells *= 4
    place = (jnp.arange(n) + jax.random.uniform(pick_key, (n,))) * (m / n)
    return jax.random.permutation(order_key, order[jnp.minimum(place.astype(int), m - 1)])
