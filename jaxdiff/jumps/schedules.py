"""How likely a token has stayed: alpha(t), and sigma(t) = 1 - alpha(t), of a scalar time t.

These are schedules as those of `jaxdiff.noising.schedules` are, frozen pytrees that state their range, with
alpha + sigma = 1 in the place of a signal and its noise; so grids and training times go over to them. Both
are written so that each keeps its digits where it vanishes. Any such object works; a Gaussian schedule does
where it has that sum, as `RectifiedFlow` has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp

from jaxdiff._numerics.pytrees import pytree
from jaxdiff.noising.schedules import RectifiedFlow, inside
from jaxdiff.typing import Array, Time


@pytree
@dataclass(frozen=True)
class Linear(RectifiedFlow):
    """alpha = 1 - t, t in [0, 1]; the straight path, known to its clean end.

    >>> schedule = jd.jumps.Linear()
    >>> float(schedule.alpha(0.25)), float(schedule.sigma(0.25))
    (0.75, 0.25)
    """

    working_range = (0.0, 1.0)


@pytree
@dataclass(frozen=True)
class Cosine:
    """alpha = 1 - cos(pi (1 - t) / 2), t in [0, 1]: few jumps late in the reverse process.

    Chang et al. 2022, arXiv 2202.04200 (how many tokens are masked); Shi et al. 2024, arXiv 2406.04329.

    >>> schedule = jd.jumps.Cosine()
    >>> round(float(schedule.sigma(1 / 3)), 4)  # half are masked in the first third of the time: sin(pi / 6)
    0.5
    """

    t_min = 0.0
    t_max = 1.0
    working_range = (0.0, 1.0)

    def alpha(self, t: Time) -> Array:
        return 2 * jnp.sin(0.25 * jnp.pi * (1 - inside(self, t))) ** 2

    def sigma(self, t: Time) -> Array:
        return jnp.sin(0.5 * jnp.pi * inside(self, t))


@pytree
@dataclass(frozen=True)
class Exponential:
    """alpha = e^-t, t >= 0: a clock of rate one for each token, the convention of theory papers.

    >>> schedule = jd.jumps.Exponential()
    >>> round(float(schedule.alpha(math.log(4))), 4)
    0.25
    """

    t_min = 0.0
    t_max = math.inf
    working_range = (0.0, 12.0)

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-inside(self, t))

    def sigma(self, t: Time) -> Array:
        return -jnp.expm1(-inside(self, t))
