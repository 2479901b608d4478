"""How many paths joint learning needs: the theorem of dimension-free score matching, with its constants.

In the notation of `jaxdiff.theory.martingale`, let R_k have the variance proxy c_k |G_k|^2 given what comes
after it, and W = sum_j g_j |zeta_j|^2. By eq. (4) there, with u_j = g_j^(1/2) zeta_j,

    sum_k c_k |G_k|^2 <= K W,   K = |A|^2,   A_kj = c_k^(1/2) g_j^(1/2) alpha_j / sigma_j^2, j >= k     (1)

in the operator norm of an N x N matrix, path by path and whatever the dimension. So the sum over m paths has
E exp(l sum H - l^2 K sum W / 2) <= 1 for every l. A minimizer f of the risk over a finite class that holds
the truth has sum W <= 2 sum H by eq. (1) there; with l = 1 / 2K and a union over the class, with probability
1 - delta,

    (1/m) sum_i W_i(f) <= 8 K log(|H| / delta) / m                                                      (2)

on the paths that it was learnt from. If E W^2 <= kappa (E W)^2 in the class, which is where moments of the
error, and through them the dimension, may come in, then P(mean W < E W / 2) <= exp(-m / 8 kappa), and with
probability 1 - delta

    E W(f) <= 16 K log(2 |H| / delta) / m     if m >= 8 kappa log(2 |H| / delta).                         (3)

The theorem is that of Kumar, Nagaraj & Sarkar 2025, arXiv 2502.10354, in its form (samples in proportion to
log |H| and to nothing of the dimension); the proof and the constants are derived here and are not the
paper's. It is an upper bound: how far above measured errors is in `experiments.bootstrapping.dimension`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.theory.paths import scales
from jaxdiff.typing import Array, Schedule


class RiskBound(NamedTuple):
    """What holds for the minimizer of the risk with the probability asked for; three scalars."""

    empirical: Array
    """Eq. (2): of the mean over the paths it was learnt from of sum_j g_j |f_j - s_j|^2."""
    population: Array
    """Eq. (3): of its expectation; infinite where there are fewer than least_paths."""
    least_paths: Array
    """Of eq. (3): 8 kappa log(2 |H| / delta)."""


def martingale_bound(schedule: Schedule, times: Array, weights: Array, constants: Array) -> Array:
    """K of eq. (1), a scalar, which bounds `martingale_constant`; for g_j and c_k at increasing times, (N,).

    constants: by `cluster_constants`, or by `increment_constants`. Raises TypeError for what is no schedule,
    ValueError for times that do not increase or are out of its range, for other shapes, for weights that
    are not positive and for negative constants.

    >>> times, constants = jnp.array([1.0]), jnp.array([0.5])
    >>> bound = jd.theory.martingale_bound(jd.Karras(), times, jnp.ones(1), constants)
    >>> round(float(bound), 4)  # of one level, c g / sigma^4
    0.5
    """
    checks.schedule(schedule)
    checks.increasing("times", times)
    checks.in_range("times", schedule, times)
    for name, value in (("weights", weights), ("constants", constants)):
        checks.shape(name, value, jnp.shape(times))
    checks.positive("weights", weights)
    checks.within("constants", constants, 0.0, math.inf)
    return _martingale_bound(schedule, times, weights, constants)


@jax.jit
def _martingale_bound(schedule: Schedule, times: Array, weights: Array, constants: Array) -> Array:
    alpha, sigma = (scale[:, 0, 0] for scale in scales(schedule, times))
    later = jnp.triu(jnp.ones((len(alpha), len(alpha))))
    known = jnp.isfinite(constants)
    rows, columns = jnp.sqrt(jnp.where(known, constants, 0.0)), jnp.sqrt(weights) * alpha / sigma**2
    norm = jnp.linalg.norm(rows[:, None] * later * columns[None], ord=2)
    return jnp.where(known.all(), norm**2, jnp.inf)


def risk_bound(
    constant: Array | float,
    *,
    num_candidates: int,
    num_paths: int,
    delta: float = 0.05,
    hypercontractivity: Array | float = 1.0,
) -> RiskBound:
    """Eqs. (2) and (3) for K = constant, a class of num_candidates that holds the truth, and num_paths.

    delta: the probability that a bound fails. hypercontractivity: kappa, at least 1, the largest
    E W^2 / (E W)^2 in the class; it can be measured on `MartingaleTerms.squared_error`. Raises ValueError for
    numbers out of range.

    >>> bound = jd.theory.risk_bound(0.5, num_candidates=100, num_paths=1000)
    >>> round(float(bound.empirical), 4), round(4 * math.log(100 / 0.05) / 1000, 4)
    (0.0304, 0.0304)
    """
    checks.within("constant", constant, 0.0, math.inf)
    checks.integer("num_candidates", num_candidates, 1)
    checks.integer("num_paths", num_paths, 1)
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, got {delta}.")
    checks.within("hypercontractivity", hypercontractivity, 1.0, math.inf)
    each = math.log(num_candidates / delta)
    both = math.log(2 * num_candidates / delta)
    constant, least = jnp.asarray(constant, float), 8 * jnp.asarray(hypercontractivity, float) * both
    population = jnp.where(num_paths >= least, 16 * constant * both / num_paths, jnp.inf)
    return RiskBound(8 * constant * each / num_paths, population, least)
