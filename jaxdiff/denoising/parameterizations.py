"""What a network predicts, as rows; the only file that knows noise, score, v, flow and EDM apart.

A *row* (a, b) is a linear reading of the pair (data, noise), its two entries functions of time:

    prediction = a data + b noise,       x = alpha data + sigma noise.                     (1)

Two equations in two unknowns, with determinant det = alpha b - sigma a:

    data = (b x - sigma prediction) / det,    noise = (alpha prediction - a x) / det.      (2)

So a prediction in the row (a, b) becomes one in the row (c, d) by

    q = [(c b - d a) x + (alpha d - sigma c) p] / det,                                     (3)

and an error in p becomes w = (alpha d - sigma c) / det times that error in q, the ratio of the two
determinants. A loss weight is therefore a row as well: the squared error measured in the weight's row.

    | row      | a                    | b                  | det fails where |
    |----------|----------------------|--------------------|-----------------|
    | data     | 1                    | 0                  | sigma = 0       |
    | noise    | 0                    | 1                  | alpha = 0       |
    | score    | 0                    | -1 / sigma         | alpha = 0       |
    | v        | -sigma               | alpha              | never           |
    | flow     | alpha'               | sigma'             | never           |
    | edm(std) | sigma / (std s)      | -alpha std / s     | never           |   s^2 = alpha^2 std^2 + sigma^2
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.noising.process import log_snr, with_derivative
from jaxdiff.typing import Array, Denoised, Schedule, Time

Row: TypeAlias = Callable[[Schedule, Time], tuple[Array, Array]]


def _raw(schedule: Schedule, x: Array, t: Time) -> tuple[Array, Array]:
    return x, jnp.asarray(t, float)


class Parameterization(NamedTuple):
    """A row, and what the network is shown of (x, t); by default both as they are.

    ``inputs(schedule, x, t)`` is for one example: x of any shape and a scalar t.
    """

    row: Row
    inputs: Callable[[Schedule, Array, Time], tuple[Array, Array]] = _raw


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


data = Parameterization(_data)
"""The clean data, E[data | x]."""
noise = Parameterization(_noise)
"""The noise, E[noise | x] (Ho et al. 2020, arXiv 2006.11239)."""
score = Parameterization(_score)
"""The score, grad log p_t(x) = -noise / sigma."""
v = Parameterization(_v)
"""alpha noise - sigma data (Salimans & Ho 2022, arXiv 2202.00512)."""
flow = Parameterization(_flow)
"""The velocity alpha' data + sigma' noise of the probability flow (arXiv 2209.03003, 2210.02747)."""


def edm(data_std: Array | float = 1.0) -> Parameterization:
    """EDM's preconditioning for data of standard deviation data_std, under any schedule.

    The network answers with unit variance to an input of unit variance, x / s, and is shown the noise
    level as log(sigma / alpha) / 4, clipped where it is infinite. It never sees the schedule: a network
    trained under one serves under every other. Karras et al. 2022, arXiv 2206.00364, table 1, where
    alpha = 1. Raises ValueError unless data_std > 0.
    """
    checks.positive("data_std", data_std)

    def std(schedule: Schedule, t: Time) -> Array:
        return jnp.hypot(schedule.alpha(t) * data_std, schedule.sigma(t))

    def row(schedule: Schedule, t: Time) -> tuple[Array, Array]:
        s = std(schedule, t)
        return schedule.sigma(t) / (data_std * s), -schedule.alpha(t) * data_std / s

    def inputs(schedule: Schedule, x: Array, t: Time) -> tuple[Array, Array]:
        return x / std(schedule, t).astype(x.dtype), noise_level(schedule, t)

    return Parameterization(row, inputs)


def noise_level(schedule: Schedule, t: Time) -> Array:
    """EDM's log(sigma / alpha) / 4, clipped to [-3, 3] where it would be infinite; a scalar."""
    return -jnp.clip(log_snr(schedule, t), -24.0, 24.0) / 8


def read(row: Row, schedule: Schedule, estimate: Denoised, t: Time) -> Array:
    """The row's reading a data + b noise of an estimate, eq. (1), of its shape; t scalar."""
    a, b = row(schedule, t)
    return a * estimate.data + b * estimate.noise


def solve(row: Row, schedule: Schedule, prediction: Array, x: Array, t: Time) -> Denoised:
    """(data, noise) from a prediction in the row, eq. (2); x of any shape, t scalar."""
    (a, b), det = row(schedule, t), determinant(row, schedule, t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return Denoised(data=(b * x - sigma * prediction) / det, noise=(alpha * prediction - a * x) / det)


def convert(
    schedule: Schedule,
    prediction: Array,
    x: Array,
    t: Time,
    *,
    source: Parameterization,
    target: Parameterization,
) -> Array:
    """The prediction in source's row, of x's shape, as one in target's row, eq. (3); t scalar.

    Infinite or NaN where source's determinant vanishes (see the table above): noise says nothing of the
    data where there is none of it.
    """
    if jnp.shape(prediction) != jnp.shape(x):
        raise ValueError(f"prediction and x must have one shape, got {prediction.shape} and {x.shape}.")
    (a, b), (c, d) = source.row(schedule, t), target.row(schedule, t)
    scale = error_scale(schedule, t, source=source.row, target=target.row)
    return (c * b - d * a) / determinant(source.row, schedule, t) * x + scale * prediction


def determinant(row: Row, schedule: Schedule, t: Time) -> Array:
    """alpha b - sigma a of a row, a scalar."""
    a, b = row(schedule, t)
    return schedule.alpha(t) * b - schedule.sigma(t) * a


def error_scale(schedule: Schedule, t: Time, *, source: Row, target: Row) -> Array:
    """w such that an error e of a prediction in source's row is an error w e in target's, a scalar."""
    return determinant(target, schedule, t) / determinant(source, schedule, t)


# Weights. The EDM weight is the row of edm(std) and the "simple" loss that of noise: any row serves.


def likelihood(schedule: Schedule, t: Time) -> tuple[Array, Array]:
    """Weight |d lambda / dt| / 2 on the squared noise error.

    Integrated over t it is the negative log-likelihood's integral over log-SNR, in nats: see
    `times.log_snr_uniform` for the matching training times. Song et al. 2021, arXiv 2101.09258.
    """
    (alpha, sigma), (alpha_dot, sigma_dot) = with_derivative(schedule, t)
    return jnp.zeros_like(alpha), jnp.sqrt(sigma_dot / sigma - alpha_dot / alpha)


def min_snr(gamma: float = 5.0) -> Row:
    """Weight min(SNR, gamma) on the squared data error (Hang et al. 2023, arXiv 2303.09556)."""
    checks.positive("gamma", gamma)

    def row(schedule: Schedule, t: Time) -> tuple[Array, Array]:
        snr = jnp.exp(log_snr(schedule, t))
        return jnp.sqrt(jnp.minimum(snr, gamma)), jnp.zeros_like(snr)

    return row


def sigmoid(bias: float = 0.0) -> Row:
    """Weight sigmoid(bias - lambda) on the squared noise error (Hoogeboom et al. 2024, arXiv 2410.19324).

    With times uniform in log-SNR it is that paper's loss; with others, multiply by their weight.
    """

    def row(schedule: Schedule, t: Time) -> tuple[Array, Array]:
        value = log_snr(schedule, t)
        # sqrt(sigmoid) in this form stays above zero where the sigmoid itself underflows.
        return jnp.zeros_like(value), jnp.exp(-0.5 * jnp.logaddexp(0.0, value - bias))

    return row
