"""Start laws: what a short reverse-time run starts from, fitted to noised data by maximum likelihood.

A sampler may start at any time T from any law q of x_T = alpha data + sigma noise; the score, its training
and the integrator stay as they are. What the start costs is KL(p_T || q), see `jaxdiff.sampling.budget`:

    N(0, sigma^2 I), the usual start, `plain`     |mean|^2 / 2 sigma^2 + O(sigma^-4)
    matched moments, `gaussian`                   O(sigma^-6), or O(sigma^-8) for symmetric data
    data of infinite variance                     infinite under both; take `student_t_mixture`
    d* parameters fitted to n rows                d* / 2n more, in the mean

A *family* is how a law is fitted: any function (key, data, schedule, t_max) -> law, with the number of
parameters beside it.

    law = fit_start(key, gaussian_mixture(12), data, schedule, 1.2)
    samples = sample(key, heun(denoise, schedule), law.sample(key, n), truncate(times, 1.2))

Noise is *dynamic* where it is drawn again and again, so that only the data are a sample, or *fixed*, where
one noised copy of the data is all that is seen. Fassina, Cardoso, Le Corff & Romary 2026, arXiv 2603.00772;
the rates are derived here.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.laws.fitting import NOISES, fit_gaussian, fit_mixture, fit_student_mixture
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.noising.process import perturb, transition
from jaxdiff.sampling.flows import Flow, fit_flow
from jaxdiff.typing import Array, Key, Schedule, StartLaw, Time

_MOST_ROWS = 2**18  # of noised copies that a mixture is fitted to, while the data are fewer
_MOST_COPIES = 8  # which leaves an eighth of the sampling error that is the noise's


Law = TypeVar("Law", bound=StartLaw)


class Family(NamedTuple, Generic[Law]):
    """A way to fit a start law."""

    fit: Callable[[Key, Array, Schedule, Time], Law]
    """From data, (n, ...), to a law of ``alpha(t_max) data + sigma(t_max) noise``."""
    num_parameters: Callable[[int], int]
    """d*, from the number of entries of a row."""


def fit_start(key: Key, family: Family[Law], data: Array, schedule: Schedule, t_max: Time) -> Law:
    """The law of family that is likeliest for alpha(t_max) data + sigma(t_max) noise, data of shape (n, ...).

    Warns where the sampling error d* / 2n is more than a nat. Raises TypeError for integer data, and
    ValueError for NaN, for fewer than two rows, for a t_max outside of the schedule's range or without noise,
    and what the family's own fit raises.
    """
    checks.batch("data", data)
    checks.finite("data", data)
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 rows, got {len(data)}.")
    checks.shape("t_max", t_max, ())
    checks.in_range("t_max", schedule, t_max)
    checks.positive("sigma at t_max, without which there may be no density,", schedule.sigma(t_max))
    error = sampling_error(family, data)
    if error > 1:
        warnings.warn(
            f"the start law has {family.num_parameters(data[0].size)} parameters for {len(data)} rows: "
            f"expect about {error:.2g} nats of sampling error. {math.ceil(error * len(data))} rows would "
            "bring it to 1 nat, and so would a smaller family.",
            stacklevel=2,
        )
    return family.fit(key, data, schedule, t_max)


def sampling_error(family: Family[Any], data: Array) -> float:
    """d* / 2n, in nats: the mean divergence that fitting d* parameters to n rows of data costs."""
    return family.num_parameters(data[0].size) / (2 * len(data))


def plain() -> Family[Gaussian]:
    """N(0, sigma^2 I), which is not fitted at all: the start of every sampler without a learned one."""

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Gaussian:
        del key
        return Gaussian(jnp.zeros_like(_rows(data)[0]), schedule.sigma(t_max) ** 2)

    return Family(fit, lambda d: 0)


def isotropic(*, noise: str = "dynamic") -> Family[Gaussian]:
    """The Gaussian of the data's mean and mean variance, N(m, (alpha^2 v + sigma^2) I)."""
    return Family(_gaussian_fit("isotropic", noise), lambda d: d + 1)


def gaussian(*, noise: str = "dynamic") -> Family[Gaussian]:
    """The Gaussian of the data's mean and covariance, N(m, alpha^2 S + sigma^2 I).

    Dynamic noise is exact here. With fixed noise the law is that of the noised rows, and for Gaussian data of
    whatever moments its divergence from the truth has the mean
    (d n (1 + 1/n) / (n - d - 2) - d + sum_{i<=d} psi((n - i) / 2) + d log(2 / n)) / 2.
    """
    return Family(_gaussian_fit("full", noise), lambda d: d + _of_covariance(d))


def gaussian_mixture(
    num_components: int,
    *,
    covariance: str = "full",
    noise: str = "dynamic",
    num_restarts: int = 4,
    num_iterations: int = 100,
) -> Family[GaussianMixture]:
    """A mixture of Gaussians, by `fit_mixture` of noised data; under dynamic noise, of up to eight copies."""
    checks.option("noise", noise, NOISES)
    parameters = {"full": _of_covariance, "diagonal": lambda d: d, "isotropic": lambda d: 1}
    checks.option("covariance", covariance, parameters)

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> GaussianMixture:
        noise_key, fit_key = jax.random.split(key)
        copies = 1 if noise == "fixed" else max(1, min(_MOST_COPIES, _MOST_ROWS // len(data)))
        x = jnp.tile(_rows(data), (copies, 1))
        return fit_mixture(
            fit_key,
            perturb(schedule, x, noise_like(noise_key, x), t_max),
            num_components,
            covariance=covariance,
            num_restarts=num_restarts,
            num_iterations=num_iterations,
        )

    return Family(fit, lambda d: num_components * (1 + d + parameters[covariance](d)) - 1)


def student_t_mixture(
    num_components: int, *, noise: str = "dynamic", num_restarts: int = 2, num_iterations: int = 100
) -> Family[StudentTMixture]:
    """A mixture of Student t laws with the noise added, by `fit_student_mixture`: tails stay heavy."""
    checks.option("noise", noise, NOISES)

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> StudentTMixture:
        variance = schedule.sigma(t_max) ** 2
        law = fit_student_mixture(
            key,
            schedule.alpha(t_max) * _rows(data),
            num_components,
            noise_variance=variance,
            noise=noise,
            num_restarts=num_restarts,
            num_iterations=num_iterations,
        )
        return dataclasses.replace(law, noise_variance=variance)

    return Family(fit, lambda d: num_components * (2 + d + _of_covariance(d)) - 1)


def early(family: Family[Any], t: float) -> Family[Any]:
    """The laws of family fitted at a time t before t_max, and noised from there to t_max exactly.

    Noise hides from a fit what it adds nothing to: tails, and modes. A family that is closed under noise (all
    here but flows) can be fitted where they show; what is lost at t is an upper bound of what is lost later.
    Small t asks more of the family: data that it does not fit at t it may well fit at t_max.
    fit_start raises ValueError unless t < t_max.
    """

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> StartLaw:
        checks.ordered("t", t, "t_max", t_max)
        checks.in_range("t", schedule, t)
        law = family.fit(key, data, schedule, t)
        return law.perturbed(_Step(*transition(schedule, t, t_max)), t_max)

    return Family(fit, family.num_parameters)


class _Step(NamedTuple):
    """The schedule of one step, at every time."""

    scale: Array
    std: Array

    def alpha(self, t: Time) -> Array:
        return self.scale

    def sigma(self, t: Time) -> Array:
        return self.std


def flow(model: nn.Module, **options: Any) -> Family[Flow]:
    """A normalizing flow, by `fit_flow` with its options: `models.SplineCoupling`, or `PatchFlow` of images.

    The parameters counted are those of the Gaussian that it starts from; the network's own are held back by
    data that are kept from its fit.
    """

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Flow:
        return fit_flow(key, model, data, schedule, t_max, **options)

    return Family(fit, lambda d: d + _of_covariance(d))


def _gaussian_fit(covariance: str, noise: str) -> Callable[[Key, Array, Schedule, Time], Gaussian]:
    checks.option("noise", noise, NOISES)

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Gaussian:
        data = _rows(data)
        if noise == "dynamic":
            return fit_gaussian(data, covariance=covariance).perturbed(schedule, t_max)
        x = perturb(schedule, data, noise_like(key, data), t_max)
        if covariance == "full" and len(x) <= x.shape[1]:
            raise ValueError(
                f"data must hold more rows than the {x.shape[1]} entries of a row, for a full covariance "
                f"under fixed noise; got {len(x)}. {10 * x.shape[1]} would do; dynamic noise needs no more."
            )
        return fit_gaussian(x, covariance=covariance)

    return fit


def _rows(data: Array) -> Array:
    if data.ndim != 2:
        raise ValueError(
            f"data must have shape (n, d) for laws of vectors, got {data.shape}; reshape them to "
            f"({len(data)}, {data[0].size}), or take a flow, whose laws have the shape of a datum."
        )
    return data


def _of_covariance(d: int) -> int:
    """Free entries of a symmetric matrix."""
    return d * (d + 1) // 2
