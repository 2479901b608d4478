"""What a network predicts: data, noise, score, v, flow or EDM's; the only file that knows them apart.

A *prediction type* reads the pair (data, noise) linearly, by two functions of time, its row (a, b):

    prediction = a data + b noise,       x = alpha data + sigma noise.                     (1)

Two equations in two unknowns, with determinant det = alpha b - sigma a:

    data = (b x - sigma prediction) / det,    noise = (alpha prediction - a x) / det.      (2)

So a prediction in the row (a, b) becomes one in the row (c, d) by

    q = [(c b - d a) x + (alpha d - sigma c) p] / det,                                     (3)

and an error in p becomes w = (alpha d - sigma c) / det times that error in q, the ratio of the two
determinants. A loss weight is therefore a row as well (`jaxdiff.learning.weights`): the squared error
measured in the weight's row.

    | type     | a                    | b                  | det vanishes where |
    |----------|----------------------|--------------------|--------------------|
    | data     | 1                    | 0                  | sigma = 0          |
    | noise    | 0                    | 1                  | alpha = 0          |
    | score    | 0                    | -1 / sigma         | alpha = 0          |
    | v        | -sigma               | alpha              | never              |
    | flow     | alpha'               | sigma'             | never              |
    | EDM(std) | sigma / (std s)      | -alpha std / s     | never              |

with s^2 = alpha^2 std^2 + sigma^2. Angle(std) is EDM(std) for networks of flow maps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.noising.process import with_derivative
from jaxdiff.typing import Array, Denoised, Schedule, Time

Row: TypeAlias = Callable[[Schedule, Time], tuple[Array, Array]]
"""``row(schedule, t) -> (a, b)`` of eq. (1) for a scalar time: two scalars."""


class PredictionType(Protocol):
    """A row, and what the network is shown of (x, t)."""

    def row(self, schedule: Schedule, t: Time, /) -> tuple[Array, Array]:
        """(a, b) of eq. (1) at a scalar time: two scalars."""
        ...

    def inputs(self, schedule: Schedule, x: Array, t: Time, /) -> tuple[Array, Array]:
        """What the network is shown in the place of one example x, of any shape, and its scalar time."""
        ...


def as_they_are(schedule: Schedule, x: Array, t: Time) -> tuple[Array, Array]:
    """(x, t): the network is shown the example and the schedule's own time.

    >>> x, t = jd.prediction.as_they_are(jd.Karras(), jnp.array([2.0]), 3.0)
    >>> x.tolist(), float(t)
    ([2.0], 3.0)
    """
    del schedule
    return x, jnp.asarray(t, float)


@pytree
@dataclass(frozen=True)
class Reading:
    """A prediction type without parameters, made of two functions; by default the network is shown (x, t).

    >>> double = jd.prediction.Reading("double", lambda schedule, t: (0.0, 2.0))  # twice the noise
    >>> said, x = jnp.array([4.0]), jnp.array([5.0])
    >>> jd.convert(jd.Karras(), said, x, 1.0, source=double, target=jd.prediction.data).tolist()  # 5 - 2
    [3.0]
    """

    name: str
    row: Row
    inputs: Callable[[Schedule, Array, Time], tuple[Array, Array]] = as_they_are

    def __repr__(self) -> str:
        return f"prediction.{self.name}"


def _data(schedule: Schedule, t: Time) -> tuple[Array, Array]:
    alpha = schedule.alpha(t)
    return jnp.ones_like(alpha), jnp.zeros_like(alpha)


def _noise(schedule: Schedule, t: Time) -> tuple[Array, Array]:
    alpha = schedule.alpha(t)
    return jnp.zeros_like(alpha), jnp.ones_like(alpha)


def _score(schedule: Schedule, t: Time) -> tuple[Array, Array]:
    sigma = schedule.sigma(t)
    return jnp.zeros_like(sigma), -1 / sigma


def _v(schedule: Schedule, t: Time) -> tuple[Array, Array]:
    return -schedule.sigma(t), schedule.alpha(t)


def _flow(schedule: Schedule, t: Time) -> tuple[Array, Array]:
    return with_derivative(schedule, t)[1]


data = Reading("data", _data)
"""The clean data, E[data | x]."""
noise = Reading("noise", _noise)
"""The noise, E[noise | x] (Ho et al. 2020, arXiv 2006.11239)."""
score = Reading("score", _score)
"""The score, grad log p_t(x) = -noise / sigma."""
v = Reading("v", _v)
"""alpha noise - sigma data (Salimans & Ho 2022, arXiv 2202.00512)."""
flow = Reading("flow", _flow)
"""The velocity alpha' data + sigma' noise of the probability flow (arXiv 2209.03003, 2210.02747)."""


@pytree
@dataclass(frozen=True)
class EDM:
    """EDM's preconditioning for data of standard deviation data_std, under any schedule.

    The network answers with unit variance to an input of unit variance, x / s, and is shown the noise
    level as log(sigma / alpha) / 4, clipped where it is infinite. It never sees the schedule: a network
    trained under one serves under every other. Karras et al. 2022, arXiv 2206.00364, table 1, where
    alpha = 1. Raises ValueError unless data_std > 0.

    >>> kind = jd.prediction.EDM(3.0)
    >>> shown, level = kind.inputs(jd.Karras(), jnp.array([10.0]), 4.0)  # x / (3^2 + 4^2)^(1/2)
    >>> shown.tolist(), round(float(level), 4) == round(math.log(4) / 4, 4)
    ([2.0], True)
    """

    data_std: Array | float = 1.0

    def __post_init__(self) -> None:
        checks.positive("data_std", self.data_std)

    def row(self, schedule: Schedule, t: Time) -> tuple[Array, Array]:
        s = self._std(schedule, t)
        return schedule.sigma(t) / (self.data_std * s), -schedule.alpha(t) * self.data_std / s

    def inputs(self, schedule: Schedule, x: Array, t: Time) -> tuple[Array, Array]:
        return x / self._std(schedule, t).astype(x.dtype), noise_level(schedule, t)

    def _std(self, schedule: Schedule, t: Time) -> Array:
        checks.shape("data_std", self.data_std, ())
        return jnp.hypot(schedule.alpha(t) * self.data_std, schedule.sigma(t))


@pytree
@dataclass(frozen=True)
class Angle(EDM):
    """`EDM`, whose network is shown the noise level as an angle, 2 / pi atan(sigma / (alpha data_std)).

    It is in [0, 1], with slopes that are finite on the whole way, where those of a logarithm are not at its
    ends: for flow maps that are trained by a tangent, MeanFlow and sCM (arXiv 2410.11081 says why). A
    denoiser hears less of small noise so.

    >>> kind = jd.prediction.Angle(1.0)
    >>> [round(float(kind.inputs(jd.Karras(), jnp.ones(1), t)[1]), 3) for t in (0.0, 1.0)]
    [0.0, 0.5]
    """

    def inputs(self, schedule: Schedule, x: Array, t: Time) -> tuple[Array, Array]:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        angle = jnp.arctan2(sigma, alpha * self.data_std) * (2 / jnp.pi)
        return x / self._std(schedule, t).astype(x.dtype), angle


def noise_level(schedule: Schedule, t: Time) -> Array:
    """EDM's log(sigma / alpha) / 4, clipped to [-3, 3] where it would be infinite; a scalar.

    >>> round(float(jd.prediction.noise_level(jd.Karras(), math.exp(2.0))), 4)
    0.5
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    # Beyond the clip on either side, where the logarithm of 0 would have an infinite derivative.
    alpha, sigma = jnp.maximum(alpha, 1e-6 * sigma), jnp.maximum(sigma, 1e-6 * alpha)
    return -jnp.clip(2 * (jnp.log(alpha) - jnp.log(sigma)), -24.0, 24.0) / 8


def read(row: Row, schedule: Schedule, estimate: Denoised, t: Time) -> Array:
    """The row's reading a data + b noise of an estimate, eq. (1), of its shape; t scalar.

    >>> estimate = jd.Denoised(data=jnp.array([1.0]), noise=jnp.array([5.0]))
    >>> jd.prediction.read(jd.prediction.v.row, jd.Karras(), estimate, 2.0).tolist()  # noise - t data
    [3.0]
    """
    a, b = row(schedule, t)
    return a * estimate.data + b * estimate.noise


def solve(row: Row, schedule: Schedule, prediction: Array, x: Array, t: Time) -> Denoised:
    """(data, noise) from a prediction in the row, eq. (2); x of any shape, t scalar.

    >>> said, x = jnp.array([1.0]), jnp.array([7.0])
    >>> answer = jd.prediction.solve(jd.prediction.noise.row, jd.Karras(), said, x, 2.0)
    >>> answer.data.tolist(), answer.noise.tolist()  # 7 = 5 + 2 * 1
    ([5.0], [1.0])
    """
    (a, b), det = row(schedule, t), determinant(row, schedule, t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return Denoised(data=(b * x - sigma * prediction) / det, noise=(alpha * prediction - a * x) / det)


def convert(
    schedule: Schedule,
    prediction: Array,
    x: Array,
    t: Time,
    *,
    source: PredictionType,
    target: PredictionType,
) -> Array:
    """The prediction of type source, of x's shape, as one of type target, eq. (3); t scalar.

    Infinite or NaN where source's determinant vanishes (see the table above): noise says nothing of the
    data where there is none of it. Raises ValueError for another shape, and TypeError for what is no type.

    >>> noise, data = jd.prediction.noise, jd.prediction.data
    >>> jd.convert(jd.Karras(), jnp.array([1.0]), jnp.array([3.0]), 2.0, source=noise, target=data).tolist()
    [1.0]
    """
    if jnp.shape(prediction) != jnp.shape(x):
        raise ValueError(f"prediction and x must have one shape, got {prediction.shape} and {x.shape}.")
    checks.shape("t", t, ())
    check_type("source", source)
    check_type("target", target)
    return _convert(schedule, prediction, x, t, source, target)


@compiled
def _convert(
    schedule: Schedule, prediction: Array, x: Array, t: Time, source: PredictionType, target: PredictionType
) -> Array:
    (a, b), (c, d) = source.row(schedule, t), target.row(schedule, t)
    scale = error_scale(schedule, t, source=source.row, target=target.row)
    return ((c * b - d * a) / determinant(source.row, schedule, t) * x + scale * prediction).astype(x.dtype)


def check_type(name: str, value: Any) -> None:
    """Raise TypeError unless value is a prediction type.

    >>> jd.prediction.check_type("prediction", "noise")
    Traceback (most recent call last):
    TypeError: prediction must be one of prediction.data, noise, score, v, flow or EDM(std), got 'noise'.
    """
    if inspect.isclass(value) or not hasattr(value, "row") or not hasattr(value, "inputs"):
        raise TypeError(
            f"{name} must be one of prediction.data, noise, score, v, flow or EDM(std), got "
            f"{checks.described(value)}."
        )


def determinant(row: Row, schedule: Schedule, t: Time) -> Array:
    """alpha b - sigma a of a row, a scalar.

    >>> float(jd.prediction.determinant(jd.prediction.v.row, jd.Karras(), 2.0))  # alpha^2 + sigma^2
    5.0
    """
    a, b = row(schedule, t)
    return schedule.alpha(t) * b - schedule.sigma(t) * a


def error_scale(schedule: Schedule, t: Time, *, source: Row, target: Row) -> Array:
    """w such that an error e of a prediction in source's row is an error w e in target's, a scalar.

    >>> noise, data = jd.prediction.noise.row, jd.prediction.data.row
    >>> float(jd.prediction.error_scale(jd.Karras(), 2.0, source=noise, target=data))  # data = x - 2 noise
    -2.0
    """
    return determinant(target, schedule, t) / determinant(source, schedule, t)
