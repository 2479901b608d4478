"""Start laws: what a short reverse-time run starts from, fitted to noised data by maximum likelihood.

A sampler may start at any time T from any law q of x_T = alpha data + sigma noise; the score, its training
and the integrator stay as they are. What the start costs is KL(p_T || q), see `jaxdiff.sampling.budget`:

    N(0, sigma^2 I), the usual start, `plain`     |mean|^2 / 2 sigma^2 + O(sigma^-4)
    matched moments, `gaussian`                   O(sigma^-6), or O(sigma^-8) for symmetric data
    the same of rank r, `low_rank`                |S - S_r|_F^2 / 4 sigma^4 more; no d x d matrix
    data of infinite variance                     infinite under both; take `student_t_mixture`
    d* parameters fitted to n rows                d* / 2n more, in the mean

A *family* is how a law is fitted: any function (key, data, schedule, t_max) -> law, with the number of
parameters beside it. Data have shape (n, *shape), and the law is one of points of that shape; families of
laws of vectors take the entries in C order, and their laws of images are `Shaped`.

    law = fit_start(key, gaussian_mixture(12), data, schedule, 1.2)
    samples = sample(key, denoise, n, sampler=Heun(), times=truncate(times, 1.2), start=law)

Noise is *dynamic* where it is drawn again and again, so that only the data are a sample, or *fixed*, where
one noised copy of the data is all that is seen. Fassina, Cardoso, Le Corff & Romary 2026, arXiv 2603.00772;
the rates are derived here.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Distribution
from jaxdiff.laws.factor_fitting import fit_factor_mixture, fit_low_rank
from jaxdiff.laws.fitting import NOISES, fit_gaussian, fit_mixture, fit_student_mixture
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.shaped import Shaped
from jaxdiff.noising.process import marginals, perturb, transition
from jaxdiff.sampling.flow_fitting import fit_flow
from jaxdiff.sampling.flows import Flow
from jaxdiff.typing import Array, Key, Schedule, StartLaw, Time

_MOST_ROWS = 2**18  # of noised copies that a mixture is fitted to, while the data are fewer
_MOST_COPIES = 8  # which leaves an eighth of the sampling error that is the noise's


Law = TypeVar("Law", bound=StartLaw)


class Family(NamedTuple, Generic[Law]):
    """A way to fit a start law.

    >>> wide = jd.starts.Family(lambda key, data, schedule, t_max: jd.Gaussian([0.0], 99.0), lambda d: 0)
    >>> data = jnp.array([[0.0], [2.0]])
    >>> start = jd.fit_start(jax.random.key(0), wide, data, jd.Karras(), 3.0)  # a law of one's own
    >>> round(float(start.scale) ** 2, 2)
    99.0
    """

    fit: Callable[[Key, Array, Schedule, Time], Law]
    """From data, (n, *shape), to a law of ``alpha(t_max) data + sigma(t_max) noise``, a pytree.

    Where it is pure JAX, data and t_max may be traced.
    """
    num_parameters: Callable[[int], int]
    """d*, from the number of entries of a row."""


def fit_start(key: Key, family: Family[Law], data: Array, schedule: Schedule, t_max: Time) -> Law:
    """The law of family that is likeliest for alpha(t_max) data + sigma(t_max) noise, data (n, *shape).

    Laws are fitted, and given, in single precision or better, whatever the data are in. Warns where the
    sampling error d* / 2n is more than a nat. Raises TypeError for integer data, and ValueError for NaN, for
    fewer than two rows, for a t_max outside of the schedule's range or without noise, and what the family's
    own fit raises. A traced t_max out of range answers a law of NaN.

    >>> data = jnp.array([[0.0], [2.0]])
    >>> start = jd.fit_start(jax.random.key(0), jd.starts.gaussian(), data, jd.Karras(), 3.0)
    >>> start.mean.tolist(), round(float(start.scale) ** 2, 4)  # variance 1 of the data, and 3^2
    ([1.0], 10.0)
    """
    checks.shape("t_max", t_max, ())
    data = check_fit(key, family, data, schedule, t_max)
    return family.fit(key, data, schedule, t_max)


def fit_labelled_start(
    key: Key, family: Family[Any], data: Array, labels: ArrayLike, schedule: Schedule, t_max: Time
) -> Labelled:
    """A start for each label, fitted by `fit_start` to the rows that have it: labels (n,) in 0, ..., K - 1.

    For a denoiser bound to the labels of its samples:

        starts = fit_labelled_start(key, family, data, labels, schedule, t_max)
        x = sample(key, denoise.given(wanted), n, times=times, start=starts.given(wanted))

    Raises as `fit_start`, for the rows of each label, TypeError for labels that are not integers, and
    ValueError for labels that are traced, negative or of another number, and where one has fewer than two
    rows.

    >>> data, labels = jnp.array([[0.0], [2.0], [7.0], [9.0]]), [0, 0, 1, 1]
    >>> family = jd.starts.gaussian()
    >>> laws = jd.fit_labelled_start(jax.random.key(0), family, data, labels, jd.Karras(), 3.0)
    >>> laws.law(0).mean.tolist(), laws.law(1).mean.tolist()
    ([1.0], [8.0])
    """
    checks.shape("t_max", t_max, ())
    checks.batch("data", data)
    checks.finite("data", data)
    parts = by_labels(single(data), labels)
    check_fit(key, family, min(parts, key=len), schedule, t_max)
    return fit_labelled(key, family, parts, schedule, t_max)


def fit_labelled(
    key: Key, family: Family[Any], parts: Sequence[Array], schedule: Schedule, t_max: Time
) -> Labelled:
    """The same of rows by label, without checks.

    >>> parts = [jnp.array([[0.0], [2.0]]), jnp.array([[7.0], [9.0]])]
    >>> laws = jd.starts.fit_labelled(jax.random.key(0), jd.starts.gaussian(), parts, jd.Karras(), 3.0)
    >>> laws.law(0).mean.tolist(), laws.law(1).mean.tolist()
    ([1.0], [8.0])
    """
    laws = (family.fit(jax.random.fold_in(key, i), rows, schedule, t_max) for i, rows in enumerate(parts))
    return Labelled(tuple(laws))


def by_labels(data: Array, labels: ArrayLike) -> list[Array]:
    """The rows of each label, after the checks of `fit_labelled_start`. Raises as that for the labels.

    >>> data = jnp.array([[0.0], [7.0], [2.0], [9.0]])
    >>> [rows.ravel().tolist() for rows in jd.starts.by_labels(data, [0, 1, 0, 1])]
    [[0.0, 2.0], [7.0, 9.0]]
    """
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    checks.integers("labels", labels)
    checks.shape("labels", labels, (len(data),))
    known = checks.known(labels)
    if known is None:
        raise ValueError("labels must be known, for each has a number of rows of its own; they are traced.")
    counts = np.bincount(known) if known.min() >= 0 else np.zeros(1, int)
    if counts.min() < 2:
        raise ValueError(
            f"labels must be 0, ..., K - 1 with at least 2 rows each, got numbers of rows {counts.tolist()} "
            f"and a least label of {known.min()}."
        )
    return [data[known == label] for label in range(len(counts))]


def check_fit(key: Key, family: Family[Any], data: Array, schedule: Schedule, times: ArrayLike) -> Array:
    """The data in single precision or better, after the checks of `fit_start` for fits at times.

    >>> half = jnp.zeros((100, 2), jnp.bfloat16)
    >>> jd.starts.check_fit(jax.random.key(0), jd.starts.gaussian(), half, jd.Karras(), 3.0).dtype
    dtype('float32')
    """
    checks.key(key)
    if not isinstance(family, Family):
        raise TypeError(
            f"family must be a Family such as starts.gaussian(), got {getattr(family, '__name__', family)!r}."
        )
    checks.batch("data", data)
    checks.finite("data", data)
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 rows, got {len(data)}.")
    checks.schedule(schedule)
    checks.in_range("t_max", schedule, times)
    checks.positive("sigma at t_max, without which there may be no density,", marginals(schedule, times)[1])
    error = sampling_error(family, data)
    if error > 1:
        warnings.warn(
            f"the start law has {round(2 * error * len(data))} parameters for {len(data)} rows: expect about "
            f"{error:.2g} nats of sampling error. {math.ceil(error * len(data))} rows would bring it to 1 "
            "nat, and so would a smaller family.",
            stacklevel=3,
        )
    return single(data)


def sampling_error(family: Family[Any], data: Array) -> float:
    """d* / 2n, in nats: the mean divergence that fitting d* parameters to n rows of data costs.

    >>> jd.starts.sampling_error(jd.starts.gaussian(), jnp.zeros((100, 2)))  # 2 + 3 numbers, 5 / 200
    0.025
    """
    return family.num_parameters(data.size // len(data)) / (2 * len(data))


def plain() -> Family[Distribution]:
    """N(0, sigma^2 I), which is not fitted at all: the start of every sampler without a learned one.

    >>> data = jnp.array([[0.0], [2.0]])
    >>> start = jd.fit_start(jax.random.key(0), jd.starts.plain(), data, jd.Karras(), 3.0)
    >>> start.mean.tolist(), round(float(start.scale) ** 2, 4)
    ([0.0], 9.0)
    """
    return Family(_plain_fit, lambda d: 0)


def isotropic(*, noise: str = "dynamic") -> Family[Distribution]:
    """The Gaussian of the data's mean and mean variance, N(m, (alpha^2 v + sigma^2) I).

    >>> data = jnp.array([[0.0, 0.0], [2.0, 4.0]])  # variances 1 and 4
    >>> start = jd.fit_start(jax.random.key(0), jd.starts.isotropic(), data, jd.Karras(), 3.0)
    >>> round(float(start.scale) ** 2, 4)  # 5 / 2 + 3^2
    11.5
    """
    return Family(_gaussian_fit("isotropic", noise), lambda d: d + 1)


def gaussian(*, noise: str = "dynamic") -> Family[Distribution]:
    """The Gaussian of the data's mean and covariance, N(m, alpha^2 S + sigma^2 I).

    Dynamic noise is exact here. With fixed noise the law is that of the noised rows, and for Gaussian data of
    whatever moments its divergence from the truth has the mean
    (d n (1 + 1/n) / (n - d - 2) - d + sum_{i<=d} psi((n - i) / 2) + d log(2 / n)) / 2.

    >>> data, key = jnp.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), jax.random.key(0)
    >>> start = jd.fit_start(key, jd.starts.gaussian(), data, jd.Karras(), 2.0)
    >>> sorted(round(float(value), 3) for value in start.covariance.values)  # 1 / 2 and 9 / 2, and 2^2
    [4.5, 8.5]
    """
    return Family(_gaussian_fit("full", noise), lambda d: d + _of_covariance(d))


def gaussian_mixture(
    num_components: int,
    *,
    covariance: str = "full",
    noise: str = "dynamic",
    num_restarts: int = 16,
    num_iterations: int = 300,
) -> Family[Distribution]:
    """A mixture of Gaussians, by `fit_mixture` of noised data; under dynamic noise, of up to eight copies.

    >>> data = jnp.repeat(jnp.array([[-90.0], [90.0]]), 50, axis=0)
    >>> family = jd.starts.gaussian_mixture(2, num_restarts=1)
    >>> start = jd.fit_start(jax.random.key(0), family, data, jd.Karras(), 3.0)
    >>> start.weights.round(2).tolist()
    [0.5, 0.5]
    """
    checks.option("noise", noise, NOISES)
    parameters = {"full": _of_covariance, "diagonal": lambda d: d, "isotropic": lambda d: 1}
    checks.option("covariance", covariance, parameters)

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Distribution:
        noise_key, fit_key = jax.random.split(key)
        copies = 1 if noise == "fixed" else max(1, min(_MOST_COPIES, _MOST_ROWS // len(data)))
        return fit_mixture(
            fit_key,
            _noised(noise_key, data, schedule, t_max, copies),
            num_components,
            covariance=covariance,
            num_restarts=num_restarts,
            num_iterations=num_iterations,
        )

    return Family(fit, lambda d: num_components * (1 + d + parameters[covariance](d)) - 1)


def low_rank(rank: int, *, noise: str = "dynamic") -> Family[Distribution]:
    """The Gaussian of a few factors and one variance for the rest, by `fit_low_rank`: for many entries.

    Dynamic noise is exact here.

    >>> data, key = jnp.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), jax.random.key(0)
    >>> start = jd.fit_start(key, jd.starts.low_rank(1), data, jd.Karras(), 2.0)
    >>> variance = (start.factors**2).sum() + start.variances.ravel()[0]
    >>> round(float(variance), 3)  # the largest, 9 / 2 of the data and 2^2
    8.5
    """
    checks.option("noise", noise, NOISES)

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Distribution:
        if noise == "fixed":
            return fit_low_rank(_noised(key, data, schedule, t_max, 1), rank)
        return fit_low_rank(data, rank).perturbed(schedule, t_max)

    return Family(fit, lambda d: d + 1 + _of_factors(d, rank))


def factor_mixture(
    num_components: int, rank: int, *, noise: str = "dynamic", batch_size: int = 256, num_steps: int = 1000
) -> Family[Distribution]:
    """A mixture of factor analyzers, by `fit_factor_mixture` of minibatches: for thousands of entries.

    Under dynamic noise every minibatch has noise of its own.

    >>> family = jd.starts.factor_mixture(8, 3)  # to be given to `fit_start`
    >>> family.num_parameters(1000)  # about 8 (2 + 3) 1000; full covariances are 4 million numbers
    39983
    """
    checks.option("noise", noise, NOISES)

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Distribution:
        noise_key, fit_key = jax.random.split(key)
        if noise == "fixed":
            data, std = _noised(noise_key, data, schedule, t_max, 1), jnp.zeros(())
        else:
            data, std = _scaled(data, schedule, t_max)
        law = fit_factor_mixture(
            fit_key,
            data,
            num_components,
            rank,
            noise_variance=std**2,
            batch_size=batch_size,
            num_steps=num_steps,
        )
        return _affine(law, (1.0, std))

    return Family(fit, lambda d: num_components * (1 + 2 * d + _of_factors(d, rank)) - 1)


def student_t_mixture(
    num_components: int, *, noise: str = "dynamic", num_restarts: int = 2, num_iterations: int = 100
) -> Family[Distribution]:
    """A mixture of Student t laws with the noise added, by `fit_student_mixture`: tails stay heavy.

    >>> family = jd.starts.student_t_mixture(2)  # to be given to `fit_start`
    >>> family.num_parameters(1)  # two means, scales and degrees of freedom, and a weight
    7
    """
    checks.option("noise", noise, NOISES)

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Distribution:
        data, std = _scaled(data, schedule, t_max)
        law = fit_student_mixture(
            key,
            data,
            num_components,
            noise_variance=std**2,
            noise=noise,
            num_restarts=num_restarts,
            num_iterations=num_iterations,
        )
        return _affine(law, (1.0, std))

    return Family(fit, lambda d: num_components * (2 + d + _of_covariance(d)) - 1)


def early(family: Family[Any], t: float) -> Family[Distribution]:
    """The laws of family fitted at a time t before t_max, and noised from there to t_max exactly.

    Noise hides from a fit what it adds nothing to: tails, and modes. A family that is closed under noise (all
    here but flows) can be fitted where they show; what is lost at t is an upper bound of what is lost later.
    Small t asks more of the family: data that it does not fit at t it may well fit at t_max.
    fit_start raises ValueError unless t < t_max.

    >>> data, family = jnp.array([[0.0], [2.0]]), jd.starts.early(jd.starts.gaussian(), 1.0)
    >>> start = jd.fit_start(jax.random.key(0), family, data, jd.Karras(), 3.0)
    >>> round(float(start.scale) ** 2, 4)  # what `gaussian` itself gives: 1 + 3^2
    10.0
    """

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Distribution:
        checks.ordered("t", t, "t_max", t_max)
        checks.in_range("t", schedule, t)
        law = family.fit(key, data, schedule, t)
        if not hasattr(law, "affine"):
            raise TypeError(
                f"the laws of an early family must be closed under noise, but {type(law).__name__} has no "
                "affine; fit this family at t_max itself."
            )
        return _affine(law, _transition(schedule, t, t_max))

    return Family(fit, family.num_parameters)


def flow(model: nn.Module, **options: Any) -> Family[Flow]:
    """A normalizing flow, by `fit_flow` with its options: `models.SplineCoupling`, or `PatchFlow` of images.

    The parameters counted are those of the Gaussian that it starts from; the network's own are held back by
    data that are kept from its fit.

    >>> family = jd.starts.flow(jd.models.SplineCoupling(), rank=1)  # to be given to `fit_start`
    >>> family.num_parameters(10)  # of the Gaussian alone: a mean, a factor and a variance
    21
    """

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Flow:
        return fit_flow(key, model, data, schedule, t_max, **options)

    rank = options.get("rank")
    return Family(fit, lambda d: d + (_of_covariance(d) if rank is None else _of_factors(d, rank) + 1))


def _gaussian_fit(covariance: str, noise: str) -> Callable[[Key, Array, Schedule, Time], Distribution]:
    checks.option("noise", noise, NOISES)

    def fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Distribution:
        d = data.size // len(data)
        if noise == "fixed" and covariance == "full" and len(data) <= d:
            raise ValueError(
                f"data must hold more rows than the {d} entries of a row, for a full covariance "
                f"under fixed noise; got {len(data)}. {10 * d} would do; dynamic noise needs no more."
            )
        return _fit_moments(key, data, schedule, t_max, covariance, noise)

    return fit


# What fits are made of, each compiled once: an eager fit at another time, or of new data, compiles nothing.


@functools.partial(jax.jit, static_argnames=("covariance", "noise"))
def _fit_moments(
    key: Key, data: Array, schedule: Schedule, t_max: Time, covariance: str, noise: str
) -> Distribution:
    if noise == "dynamic":
        return fit_gaussian(data, covariance=covariance).perturbed(schedule, t_max)
    return fit_gaussian(perturb(schedule, data, noise_like(key, data), t_max), covariance=covariance)


@jax.jit
def _plain_fit(key: Key, data: Array, schedule: Schedule, t_max: Time) -> Distribution:
    del key
    law = Gaussian(jnp.zeros_like(data[0]).reshape(-1), schedule.sigma(t_max) ** 2)
    return law if data.ndim == 2 else Shaped(law, data.shape[1:])


@functools.partial(jax.jit, static_argnames="copies")
def _noised(key: Key, data: Array, schedule: Schedule, t_max: Time, copies: int) -> Array:
    """x_t of so many copies of the data, one after another."""
    x = jnp.tile(data, (copies, *[1] * (data.ndim - 1)))
    return perturb(schedule, x, noise_like(key, x), t_max)


@jax.jit
def _scaled(data: Array, schedule: Schedule, t: Time) -> tuple[Array, Array]:
    """Of x_t, what is the data's, and the standard deviation of what is not."""
    return schedule.alpha(t) * data, schedule.sigma(t)


@jax.jit
def _affine(law: Distribution, step: tuple[Array | float, Array | float]) -> Distribution:
    return law.affine(*step)


@jax.jit
def _transition(schedule: Schedule, s: Time, t: Time) -> tuple[Array, Array]:
    return transition(schedule, s, t)


def _of_covariance(d: int) -> int:
    """Free entries of a symmetric matrix."""
    return d * (d + 1) // 2


def _of_factors(d: int, rank: int) -> int:
    """Free numbers of rank factors, which a rotation does not change."""
    return d * rank - rank * (rank - 1) // 2
