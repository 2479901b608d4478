"""Noise schedules: frozen pytrees with ``alpha(t)`` and ``sigma(t)`` for a scalar time t.

    x_t = alpha(t) data + sigma(t) noise,       noise ~ N(0, I).

Fields are leaves, so a schedule can be passed through ``jit`` as data and ``vmap``-ped over its own
parameters. Any object with the same two methods works everywhere in the library.

Both functions are written in the ``expm1`` form of their definition, so that they keep full relative
precision in float32 as t -> 0, where sigma -> 0, and as t -> 1, where alpha -> 0.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.typing import Array, Time


@pytree
@dataclass(frozen=True)
class VariancePreserving:
    """The VP SDE with a linear rate beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    alpha = exp(-B/2), sigma^2 = 1 - exp(-B), B(t) = int_0^t beta. Song et al. 2021, arXiv 2011.13456, eq. 33.
    """

    beta_min: Array | float = 0.1
    beta_max: Array | float = 20.0

    def __post_init__(self) -> None:
        checks.positive("beta_min", self.beta_min)
        checks.positive("beta_max", self.beta_max)

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-0.5 * _linear_rate_integral(self, t))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(-_linear_rate_integral(self, t)))


@pytree
@dataclass(frozen=True)
class SubVariancePreserving:
    """The sub-VP SDE: VP's alpha with the smaller noise sigma = 1 - exp(-B), t in [0, 1].

    Song et al. 2021, arXiv 2011.13456, eq. 34.
    """

    beta_min: Array | float = 0.1
    beta_max: Array | float = 20.0

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
    """The VE SDE: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1].

    Its noise at t = 0 is sigma_min, not zero. Song et al. 2021, arXiv 2011.13456, eq. 30.
    """

    sigma_min: Array | float = 0.01
    sigma_max: Array | float = 50.0

    def __post_init__(self) -> None:
        checks.positive("sigma_min", self.sigma_min)
        checks.positive("sigma_max", self.sigma_max)
        checks.ordered("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(jnp.asarray(t, float))

    def sigma(self, t: Time) -> Array:
        log_ratio = jnp.log(self.sigma_max) - jnp.log(self.sigma_min)
        return self.sigma_min * jnp.exp(jnp.asarray(t) * log_ratio)


@pytree
@dataclass(frozen=True)
class Karras:
    """EDM's schedule: alpha = 1 and sigma = t, so that time is the noise standard deviation, t >= 0.

    Karras et al. 2022, arXiv 2206.00364, section 3.
    """

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(jnp.asarray(t, float))

    def sigma(self, t: Time) -> Array:
        return jnp.asarray(t, float)


@pytree
@dataclass(frozen=True)
class Cosine:
    """log SNR = -2 log tan(pi t / 2) + 2 log(shift) at unit total variance, t in [0, 1].

    shift = 1 is the plain cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672); shift < 1 adds noise,
    as larger images want (Hoogeboom et al. 2023, arXiv 2301.11093, with shift = 64 / resolution).
    """

    shift: Array | float = 1.0

    def __post_init__(self) -> None:
        checks.positive("shift", self.shift)

    # 1 - t is exact in floating point near t = 1, so alpha is a sine of it rather than a cosine of t.
    def alpha(self, t: Time) -> Array:
        cos, sin = self.shift * jnp.sin(0.5 * jnp.pi * (1 - t)), jnp.sin(0.5 * jnp.pi * t)
        return cos / jnp.hypot(cos, sin)

    def sigma(self, t: Time) -> Array:
        cos, sin = self.shift * jnp.sin(0.5 * jnp.pi * (1 - t)), jnp.sin(0.5 * jnp.pi * t)
        return sin / jnp.hypot(cos, sin)


@pytree
@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path alpha = 1 - t, sigma = t, t in [0, 1].

    Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747.
    """

    def alpha(self, t: Time) -> Array:
        return 1 - jnp.asarray(t, float)

    def sigma(self, t: Time) -> Array:
        return jnp.asarray(t, float)


@pytree
@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """dX = -X dt + sqrt(2) dB: alpha = exp(-t), sigma^2 = 1 - exp(-2t), t >= 0.

    The convention of theory papers, arXiv 2502.10354 among them.
    """

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-jnp.asarray(t, float))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(-2 * jnp.asarray(t, float)))


@pytree
@dataclass(frozen=True)
class LinearVariance:
    """dX = -X / (2(1-t)) dt + dB / sqrt(1-t): alpha = sqrt(1-t), sigma = sqrt(t), t in [0, 1].

    The SDE of the score-based density formula, arXiv 2408.16765, eq. 2.4.
    """

    def alpha(self, t: Time) -> Array:
        return jnp.sqrt(1 - jnp.asarray(t, float))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(jnp.asarray(t, float))


@pytree
@dataclass(frozen=True)
class DiscreteVariancePreserving:
    """A DDPM table as a continuous schedule: VP with the rate constant on each [i-1, i], t in [0, T].

    At whole t it has the table's marginals, alpha_t^2 = prod_{i <= t} (1 - beta_i); in between it is the VP
    SDE that joins them. Made by `from_betas`. Ho et al. 2020, arXiv 2006.11239.
    """

    rate_integral: Array
    """B at t = 0, 1, ..., T, so that alpha = exp(-B/2); shape (T + 1,)."""

    def _integral(self, t: Time) -> Array:
        knots = jnp.arange(self.rate_integral.shape[0], dtype=self.rate_integral.dtype)
        # NaN beyond the table, so that a time out of range is found rather than silently clamped.
        return jnp.interp(jnp.asarray(t, knots.dtype), knots, self.rate_integral, left=jnp.nan, right=jnp.nan)

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))


def from_betas(betas: Array) -> DiscreteVariancePreserving:
    """The schedule of a DDPM table of variances betas, shape (T,), each in (0, 1); time runs over [0, T].

    Raises ValueError for another shape or a beta outside (0, 1).
    """
    betas = jnp.asarray(betas, float)
    checks.shape("betas", betas, (None,))
    checks.integer("the number of betas", len(betas), 1)
    values = checks.known(betas)
    if values is not None and not ((values > 0) & (values < 1)).all():
        raise ValueError(
            f"betas must lie strictly between 0 and 1, got {values.min():g} to {values.max():g}."
        )
    integral = -jnp.cumsum(jnp.log1p(-betas))
    return DiscreteVariancePreserving(jnp.concatenate([jnp.zeros_like(integral[:1]), integral]))


def _linear_rate_integral(schedule: VariancePreserving | SubVariancePreserving, t: Time) -> Array:
    t = jnp.asarray(t, float)
    return schedule.beta_min * t + 0.5 * (schedule.beta_max - schedule.beta_min) * t * t
