"""Denoising Markov models: one statement of score matching, of which noise and jumps are cases.

A Markov process with generator L, (L f)(x) = d E[f(x_t)] / dt, is told from the one whose rates and drifts
are those of L after a tilt by e^h, by the relative entropy of their paths per unit of time,

    D(L, h)(x) = e^-h(x) (L e^h)(x) - (L h)(x)  >=  0,       zero where h is constant about x              (1)

With L the generator of the data's own reversed bridge and h the logarithm of what a model's estimate of p_t
is off by, beside a constant, the mean of (1) over x_t and t is the bound on -log p that is minimized:

    noise      L f = drift . grad f + (g^2 / 2) trace hess f          D = (g^2 / 2) |grad h|^2
               grad h = model's score - score of x_t given the data: denoising score matching             (2)
    jumps      L f = sum_k R(x, k) (f(k) - f(x))                      D = sum_k R (e^dh - 1 - dh)
               e^dh = r / r0, the ratios of `jaxdiff.jumps.losses`: the score entropy                     (3)
    simplex    L f = (1/2) trace (diag x - x x') hess f               D = (1/2) grad h' (diag x - x x') grad h
               Wright and Fisher's, of shares x that sum to one                                           (4)

Benton et al. 2022, arXiv 2211.03595; the form (1) is derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array

Function: TypeAlias = Callable[[Array], Array]
"""Of one point, scalar."""
Generator: TypeAlias = Callable[[Function, Array], Array]
"""``L(f, x)``, a scalar."""


def path_cost(generator: Generator, h: Function, x: Array) -> Array:
    """D of eq. (1) at one point x, in nats per unit of time.

    >>> jumps = jd.jumps.jump_generator(jnp.array([0.0, 3.0]))
    >>> twice = lambda token: math.log(2) * token  # a model that jumps twice as often to token 1
    >>> jd.jumps.path_cost(jumps, twice, jnp.array(0)).round(4)  # 3 (2 - 1 - log 2)
    Array(0.9206, dtype=float32)
    """
    at = h(x)
    return generator(lambda y: jnp.exp(h(y) - at), x) - generator(h, x)


def noise_generator(drift: Array, diffusion: Array | float) -> Generator:
    """Eq. (2): drift of x's shape (d,) and g at the point that is asked about.

    >>> noise = jd.jumps.noise_generator(jnp.zeros(2), 3.0)
    >>> float(noise(lambda x: x @ x, jnp.array([1.0, 2.0])))  # g^2 d
    18.0
    """

    def apply(f: Function, x: Array) -> Array:
        return drift @ jax.grad(f)(x) + 0.5 * diffusion**2 * jnp.trace(jax.hessian(f)(x))

    return apply


def jump_generator(rates: Array) -> Generator:
    """Eq. (3): rates (states,) of the jumps from the token that is asked about; its own entry is not read.

    >>> jumps = jd.jumps.jump_generator(jnp.array([0.0, 3.0]))
    >>> float(jumps(lambda token: 2.0 * token, jnp.array(0)))
    6.0
    """

    def apply(f: Function, x: Array) -> Array:
        return (rates * (jax.vmap(f)(jnp.arange(len(rates))) - f(x))).sum()

    return apply


def simplex_generator(f: Function, x: Array) -> Array:
    """Eq. (4), of shares x, (n,).

    >>> float(jd.jumps.simplex_generator(lambda x: x[0] ** 2, jnp.array([0.5, 0.5])))  # the variance of x_0
    0.25
    """
    return 0.5 * jnp.trace((jnp.diag(x) - jnp.outer(x, x)) @ jax.hessian(f)(x))
