"""Noise schedules: frozen pytrees with ``alpha(t)`` and ``sigma(t)`` for a scalar time t.

    x_t = alpha(t) data + sigma(t) noise,       noise ~ N(0, I).

Each states its range. ``t_min`` and ``t_max`` are the ends of its definition, where sigma or alpha vanish or
the formula stops: a time beyond them answers NaN. ``working_range`` is what a network is trained on and
sampled from unless something else is said, for data of unit standard deviation.

Array fields are data, so a schedule can be passed through ``jit`` and mapped over its own parameters; Python
numbers are constants of the program (`jd.pytree`). Any such object with the same members works everywhere.

Both functions are written in the ``expm1`` form of their definition, so that they keep full relative
precision in float32 as t -> 0, where sigma -> 0, and as t -> 1, where alpha -> 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.typing import Array, Schedule, Time


@pytree
@dataclass(frozen=True)
class VariancePreserving:
    """The VP SDE with a linear rate beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    alpha = exp(-B/2), sigma^2 = 1 - exp(-B), B(t) = int_0^t beta. Song et al. 2021, arXiv 2011.13456, eq. 33.

    >>> s = jd.VariancePreserving()
    >>> round(float(s.alpha(0.5) ** 2 + s.sigma(0.5) ** 2), 5)
    1.0
    """

    beta_min: Array | float = 0.1
    beta_max: Array | float = 20.0
    t_min = 0.0
    t_max = 1.0
    working_range = (1e-4, 1.0)

    def __post_init__(self) -> None:
        checks.positive("beta_min", self.beta_min)
        checks.positive("beta_max", self.beta_max)

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-0.5 * _linear_rate_integral(self, t))

    def sigma(self, t: Time) -> Array:
        return _noise_of_rates(functools.partial(_linear_rate_integral, self), inside(self, t))


@pytree
@dataclass(frozen=True)
class SubVariancePreserving:
    """The sub-VP SDE: VP's alpha with the smaller noise sigma = 1 - exp(-B), t in [0, 1].

    Song et al. 2021, arXiv 2011.13456, eq. 34.

    >>> s = jd.SubVariancePreserving()
    >>> round(float(s.alpha(0.5) ** 2 + s.sigma(0.5)), 5)
    1.0
    """

    beta_min: Array | float = 0.1
    beta_max: Array | float = 20.0
    t_min = 0.0
    t_max = 1.0
    working_range = (1e-2, 1.0)

    def __post_init__(self) -> None:
        checks.positive("beta_min", self.beta_min)
        checks.positive("beta_max", self.beta_max)

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-0.5 * _linear_rate_integral(self, t))

    def sigma(self, t: Time) -> Array:
        return -jnp.expm1(-_linear_rate_integral(self, t))


@pytree
@dataclass(frozen=True)
class VarianceExploding:
    """The VE SDE: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, t up to 1.

    Its noise at t = 0 is sigma_min, not zero: that is at t = -inf, where the denoised last step of a sampler
    goes. Song et al. 2021, arXiv 2011.13456, eq. 30.

    >>> round(float(jd.VarianceExploding(0.01, 100.0).sigma(0.5)), 4)  # half-way in the logarithm
    1.0
    """

    sigma_min: Array | float = 0.01
    sigma_max: Array | float = 50.0
    t_min = -math.inf
    t_max = 1.0
    working_range = (0.0, 1.0)

    def __post_init__(self) -> None:
        checks.positive("sigma_min", self.sigma_min)
        checks.positive("sigma_max", self.sigma_max)
        checks.ordered("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def alpha(self, t: Time) -> Array:
        return _one_inside(self, t)

    def sigma(self, t: Time) -> Array:
        _scalars(self, "sigma_min", "sigma_max")
        log_ratio = jnp.log(self.sigma_max) - jnp.log(self.sigma_min)
        # At t = -inf no parameter moves it: apart, or its derivative is infinity times 0.
        t = inside(self, t)
        clean = jnp.isinf(t)
        return jnp.where(clean, 0.0, self.sigma_min * jnp.exp(jnp.where(clean, 0.0, t) * log_ratio))


@pytree
@dataclass(frozen=True)
class Karras:
    """EDM's schedule: alpha = 1 and sigma = t, so that time is the noise standard deviation, t >= 0.

    Karras et al. 2022, arXiv 2206.00364, section 3.

    >>> float(jd.Karras().sigma(3.0))
    3.0
    """

    t_min = 0.0
    t_max = math.inf
    working_range = (0.002, 80.0)

    def alpha(self, t: Time) -> Array:
        return _one_inside(self, t)

    def sigma(self, t: Time) -> Array:
        return inside(self, t)


@pytree
@dataclass(frozen=True)
class Cosine:
    """log SNR = -2 log tan(pi t / 2) + 2 log(shift) at unit total variance, t in [0, 1].

    shift = 1 is the plain cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672); shift < 1 adds noise,
    as larger images want (Hoogeboom et al. 2023, arXiv 2301.11093, with shift = 64 / resolution).

    >>> round(float(jd.Cosine().sigma(0.5)), 4)  # as much noise as data: 2^(-1/2)
    0.7071
    """

    shift: Array | float = 1.0
    t_min = 0.0
    t_max = 1.0
    working_range = (1e-3, 1.0)

    def __post_init__(self) -> None:
        checks.positive("shift", self.shift)

    def alpha(self, t: Time) -> Array:
        cos, sin = self._parts(t)
        return cos / jnp.hypot(cos, sin)

    def sigma(self, t: Time) -> Array:
        cos, sin = self._parts(t)
        return sin / jnp.hypot(cos, sin)

    def _parts(self, t: Time) -> tuple[Array, Array]:
        _scalars(self, "shift")
        t = inside(self, t)
        # 1 - t is exact in floating point near t = 1, so alpha is a sine of it rather than a cosine of t.
        return self.shift * jnp.sin(0.5 * jnp.pi * (1 - t)), jnp.sin(0.5 * jnp.pi * t)


@pytree
@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path alpha = 1 - t, sigma = t, t in [0, 1].

    Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747.

    >>> float(jd.RectifiedFlow().alpha(0.25))
    0.75
    """

    t_min = 0.0
    t_max = 1.0
    working_range = (1e-3, 1.0)

    def alpha(self, t: Time) -> Array:
        return 1 - inside(self, t)

    def sigma(self, t: Time) -> Array:
        return inside(self, t)


@pytree
@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """dX = -X dt + sqrt(2) dB: alpha = exp(-t), sigma^2 = 1 - exp(-2t), t >= 0.

    The convention of theory papers, arXiv 2502.10354 among them.

    >>> round(float(jd.OrnsteinUhlenbeck().alpha(jnp.log(2.0))), 5)
    0.5
    """

    t_min = 0.0
    t_max = math.inf
    working_range = (1e-5, 5.0)

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-inside(self, t))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(-2 * inside(self, t)))


@pytree
@dataclass(frozen=True)
class LinearVariance:
    """dX = -X / (2(1-t)) dt + dB / sqrt(1-t): alpha = sqrt(1-t), sigma = sqrt(t), t in [0, 1].

    The SDE of the score-based density formula, arXiv 2408.16765, eq. 2.4.

    >>> float(jd.LinearVariance().sigma(0.25))
    0.5
    """

    t_min = 0.0
    t_max = 1.0
    working_range = (1e-5, 1.0)

    def alpha(self, t: Time) -> Array:
        return jnp.sqrt(1 - inside(self, t))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(inside(self, t))


@pytree
@dataclass(frozen=True, repr=False, eq=False)
class DiscreteVariancePreserving:
    """A DDPM table as a continuous schedule, t in [0, T]: alpha^2 is linear in t on each [i-1, i].

    At whole t it has the table's marginals, alpha_t^2 = prod_{i <= t} (1 - beta_i), that of the data before
    any noise being at t = 0. A last beta of 1, a table of zero terminal signal, is allowed. Made by
    `from_betas`. Ho et al. 2020, arXiv 2006.11239; zero terminal signal: Lin et al. 2023, arXiv 2305.08891.
    """

    betas: Array
    """beta_1, ..., beta_T, shape (T,)."""
    rate_integral: Array
    """B = -log alpha^2 before each step, at t = 0, ..., T - 1, shape (T,)."""
    t_min = 0.0

    def __repr__(self) -> str:
        return f"DiscreteVariancePreserving({self.betas.shape[-1]} betas)"

    @property
    def t_max(self) -> float:
        return float(self.betas.shape[-1])

    @property
    def working_range(self) -> tuple[float, float]:
        return 1.0, self.t_max

    def _integral(self, t: Time) -> Array:
        t = inside(self, jnp.asarray(t, self.betas.dtype))
        last = self.betas.shape[-1] - 1
        step = jnp.clip(jnp.where(jnp.isnan(t), 0, jnp.floor(t)).astype(int), 0, last)
        return self.rate_integral[step] - jnp.log1p(-(t - step) * self.betas[step])

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: Time) -> Array:
        return _noise_of_rates(self._integral, inside(self, jnp.asarray(t, self.betas.dtype)))


def from_betas(betas: Array) -> DiscreteVariancePreserving:
    """The schedule of a DDPM table of variances betas, shape (T,), in (0, 1); the last may be 1.

    Time runs over [0, T], whole times being the table's: t = i is after the first i of its steps. Raises
    ValueError for another shape or a beta out of range.

    >>> schedule = jd.from_betas(jnp.array([0.5, 0.5]))
    >>> [round(float(schedule.alpha(t) ** 2), 4) for t in (0.0, 1.0, 2.0)]
    [1.0, 0.5, 0.25]
    """
    betas = jnp.asarray(betas, float)
    checks.shape("betas", betas, (None,))
    checks.integer("the number of betas", len(betas), 1)
    values = checks.known(betas)
    if values is not None and not ((values > 0).all() and (values[:-1] < 1).all() and values[-1] <= 1):
        raise ValueError(
            f"betas must lie strictly between 0 and 1, but for a last one of 1; got {values.min():g} to "
            f"{values.max():g}."
        )
    return DiscreteVariancePreserving(betas, _rate_integrals(betas))


@compiled
def _rate_integrals(betas: Array) -> Array:
    """B before each step, shape (T,)."""
    integral = -jnp.cumsum(jnp.log1p(-betas[:-1]))
    return jnp.concatenate([jnp.zeros_like(betas[:1]), integral])


def inside(schedule: Schedule, t: Time) -> Array:
    """t as an array, NaN beyond the schedule's range: no formula goes on to plausible numbers there."""
    t = single(t)
    return jnp.where((t >= schedule.t_min) & (t <= schedule.t_max), t, jnp.nan)


def _scalars(schedule: Schedule, *names: str) -> None:
    """Raise ValueError for fields of several values, which are mapped over by vmap and never broadcast."""
    for name in names:
        checks.shape(name, getattr(schedule, name), ())


def _one_inside(schedule: Schedule, t: Time) -> Array:
    t = inside(schedule, t)
    return jnp.where(jnp.isnan(t), t, jnp.ones_like(t))


def _noise_of_rates(integral: Callable[[Array], Array], t: Array) -> Array:
    """sigma = (1 - e^-B(t))^(1/2), of t >= 0.

    At t = 0 its slope is infinite and no rate moves it: apart, or a rate's derivative is infinity times 0.
    """
    later = jnp.sqrt(-jnp.expm1(-integral(jnp.where(t > 0, t, 1.0))))
    return jnp.where(t > 0, later, jnp.sqrt(t))


def _linear_rate_integral(schedule: VariancePreserving | SubVariancePreserving, t: Time) -> Array:
    _scalars(schedule, "beta_min", "beta_max")
    t = inside(schedule, t)
    return schedule.beta_min * t + 0.5 * (schedule.beta_max - schedule.beta_min) * t * t
