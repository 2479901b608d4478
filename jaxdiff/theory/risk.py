"""Joint empirical risk minimization over all noise levels, with the loss of `jaxdiff.theory.martingale`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff._numerics import checks
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.theory.paths import check_path, scales
from jaxdiff.typing import Array, Params


def empirical_risk(denoise: Denoiser, data: Array, path: Array, times: Array, weights: Array) -> Array:
    """sum_j g_j |f_j + n_j / sigma_j|^2 for each path, shape (n,), with f_j = -noise / sigma of the denoiser.

    Arguments and errors are those of `martingale_terms`.

    >>> silent = jd.as_denoiser(lambda x, t: jd.Denoised(x, 0 * x), jd.Karras(), shape=(1,))  # says: no noise
    >>> data, times = jnp.zeros((1, 1)), jnp.array([1.0, 2.0])
    >>> path = jnp.array([[[1.0]], [[4.0]]])  # so n_1 / sigma_1 = n_2 / sigma_2 = 1
    >>> jd.theory.empirical_risk(silent, data, path, times, jnp.array([1.0, 3.0])).tolist()
    [4.0]
    """
    check_path(denoise, data, path, times, weights)
    return _empirical_risk(denoise, data, path, times, weights)


@jax.jit
def _empirical_risk(denoise: Denoiser, data: Array, path: Array, times: Array, weights: Array) -> Array:
    alpha, sigma = scales(denoise.schedule, times)
    noise = (path - alpha * data[None]) / sigma
    error = (noise - jax.vmap(denoise)(path, times).noise) / sigma
    return jnp.sum(weights[:, None, None] * error**2, axis=(0, 2))


def minimize_risk(
    family: Callable[[Params], Denoiser],
    candidates: Params,
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
    the mean risks, shape (k, candidates). Errors are those of `martingale_terms`, and ValueError for sizes
    out of [1, n].

    >>> family = lambda mean: jd.Gaussian(mean[None], 1.0).denoiser(jd.Karras())
    >>> key, means, times = jax.random.key(0), jnp.array([0.0, 2.0, 4.0]), jnp.array([1.0, 2.0])
    >>> data = jd.Gaussian([2.0], 1.0).sample(key, 1000)
    >>> path = jd.theory.forward_path(key, jd.Karras(), data, times)
    >>> options = {"weights": jnp.ones(2), "sizes": jnp.array([1000])}
    >>> jd.theory.minimize_risk(family, means, data, path, times, **options)[0].tolist()  # the second mean
    [1]
    """
    first = family(jax.tree.map(lambda leaf: leaf[0], candidates))
    check_denoiser("family(candidate)", first)
    check_path(first, data, path, times, weights)
    checks.integers("sizes", sizes)
    checks.shape("sizes", sizes, (None,))
    checks.within("sizes", sizes, 1, len(data))
    family = Partial(family) if jax.tree_util.all_leaves([family]) else family
    return _minimize_risk(family, candidates, data, path, times, weights, sizes)


@jax.jit
def _minimize_risk(
    family: Callable[[Params], Denoiser],
    candidates: Params,
    data: Array,
    path: Array,
    times: Array,
    weights: Array,
    sizes: Array,
) -> tuple[Array, Array]:
    # One candidate at a time: its numbers fill a machine, and memory does not grow with the class.
    risks = jax.lax.map(lambda c: _empirical_risk(family(c), data, path, times, weights), candidates)
    means = jnp.cumsum(risks, axis=1)[:, sizes - 1].T / sizes[:, None]
    return jnp.argmin(means, axis=1), means
