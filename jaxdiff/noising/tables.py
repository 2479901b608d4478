"""DDPM's tables: variances beta_1, ..., beta_T, from which `schedules.from_betas` makes a schedule."""

from __future__ import annotations

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.typing import Array


def linear_betas(num_steps: int) -> Array:
    """DDPM's table, even from 1e-4 to 0.02, times 1000 / num_steps; it tends to `VariancePreserving`().

    At least 21 steps, or the largest is above one, which is a ValueError. Ho et al. 2020, arXiv 2006.11239.

    >>> betas = jd.linear_betas(1000)
    >>> round(float(betas[0]), 4), round(float(betas[-1]), 4)
    (0.0001, 0.02)
    """
    checks.integer("num_steps", num_steps, 21)
    return 1000 / num_steps * jnp.linspace(1e-4, 0.02, num_steps)


def cosine_betas(num_steps: int) -> Array:
    """alpha_t^2 = f(t) / f(0) with f = cos^2(pi/2 (t/T + 0.008) / 1.008), and no beta above 0.999.

    Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17. Raises ValueError for num_steps below 1.

    >>> round(float((1 - jd.cosine_betas(100)[:50]).prod()), 2)  # half-way: as much noise as data
    0.49
    """
    checks.integer("num_steps", num_steps, 1)
    angle = 0.5 * jnp.pi * (jnp.arange(num_steps + 1) / num_steps + 0.008) / 1.008
    # cos^2 b / cos^2 a = 1 - sin(b - a) sin(b + a) / cos^2 a, in which small betas keep their digits.
    step = 0.5 * jnp.pi / (1.008 * num_steps)
    betas = jnp.sin(step) * jnp.sin(angle[1:] + angle[:-1]) / jnp.cos(angle[:-1]) ** 2
    return jnp.minimum(betas, 0.999)


def logarithmic_betas(num_steps: int, c0: float, c1: float) -> Array:
    """beta_1 = T^-c0 and beta_{t+1} = delta min(beta_1 (1 + delta)^t, 1), delta = c1 log(T) / T.

    The noise variance grows by the factor 1 + delta a step until it is of order one, and then tends to one.
    Li & Yan 2024, arXiv 2409.18959, eq. 2.3. Raises ValueError unless c0, c1 > 0 and delta < 1.

    >>> betas = jd.logarithmic_betas(100, 1.0, 5.0)
    >>> delta = 5 * math.log(100) / 100
    >>> round(float(betas[0]), 4), round(float(betas[2] / betas[1] - 1), 3) == round(delta, 3)
    (0.01, True)
    """
    checks.integer("num_steps", num_steps, 2)
    checks.positive("c0", c0)
    checks.positive("c1", c1)
    log_steps = jnp.log(jnp.asarray(num_steps, float))
    delta = c1 * log_steps / num_steps
    checks.ordered("c1 log(num_steps) / num_steps", delta, "the largest beta", 1.0)
    grown = jnp.exp(jnp.minimum(jnp.arange(1, num_steps) * jnp.log1p(delta) - c0 * log_steps, 0.0))
    return jnp.append(jnp.exp(-c0 * log_steps), delta * grown)
