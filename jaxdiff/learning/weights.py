"""Weights of a loss, as rows: the squared error is measured in the weight's row of
`jaxdiff.denoising.prediction`.

The rows of the prediction types are weights too: ``prediction.noise.row`` is the "simple" loss of DDPM, and
``prediction.EDM(std).row`` EDM's weight, which is one for a network of that type.
"""

from __future__ import annotations

import inspect

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff._numerics import checks
from jaxdiff.denoising.prediction import Row
from jaxdiff.noising.process import log_snr, with_derivative
from jaxdiff.typing import Array, Schedule, Time


def likelihood(schedule: Schedule, t: Time) -> tuple[Array, Array]:
    """Weight |d lambda / dt| / 2 on the squared noise error.

    Integrated over t it is the negative log-likelihood's integral over log-SNR, in nats: see
    `times.log_snr_uniform` for the matching training times. Song et al. 2021, arXiv 2101.09258.

    >>> _, b = jd.weights.likelihood(jd.Karras(), 4.0)  # log-SNR is -2 log t
    >>> round(float(b) ** 2, 4)
    0.25
    """
    (alpha, sigma), (alpha_dot, sigma_dot) = with_derivative(schedule, t)
    return jnp.zeros_like(alpha), jnp.sqrt(sigma_dot / sigma - alpha_dot / alpha)


def min_snr(gamma: Array | float = 5.0) -> Row:
    """Weight min(SNR, gamma) on the squared data error (Hang et al. 2023, arXiv 2303.09556).

    >>> row = jd.weights.min_snr(5.0)
    >>> [round(float(row(jd.Karras(), t)[0]) ** 2, 3) for t in (0.1, 0.5, 1.0)]  # SNR 100, 4 and 1
    [5.0, 4.0, 1.0]
    """
    checks.positive("gamma", gamma)
    return Partial(_min_snr, gamma)


def sigmoid(bias: Array | float = 0.0) -> Row:
    """Weight sigmoid(bias - lambda) on the squared noise error (Hoogeboom et al. 2024, arXiv 2410.19324).

    With times uniform in log-SNR it is that paper's loss; with others, multiply by their weight.

    >>> row = jd.weights.sigmoid(0.0)
    >>> [round(float(row(jd.Karras(), t)[1]) ** 2, 3) for t in (1.0, 3.0)]  # SNR 1 and 1 / 9
    [0.5, 0.9]
    """
    checks.finite("bias", bias)
    return Partial(_sigmoid, bias)


def as_argument(weight: Row) -> Partial:
    """The weight as a pytree, which compiled functions take as an argument.

    Raises TypeError for what is no function, such as a prediction type in the place of its row.

    >>> weight = jd.weights.as_argument(jd.prediction.score.row)
    >>> a, b = jax.jit(lambda weight, t: weight(jd.Karras(), t))(weight, 2.0)
    >>> float(a), float(b)  # 0 data - noise / sigma
    (0.0, -0.5)
    """
    if hasattr(weight, "row"):
        raise TypeError(f"weight must be a row, got {weight!r}; give its row, {weight!r}.row.")
    if weight is min_snr or weight is sigmoid:
        raise TypeError(f"weight must be a row, got {checks.described(weight)}; call it for one.")
    if not callable(weight):
        raise TypeError(
            f"weight must be a function (schedule, t) -> (a, b), got {type(weight).__name__}; such are "
            "weights.likelihood, weights.min_snr(5.0) and prediction.noise.row."
        )
    if isinstance(weight, Partial):
        return weight
    if inspect.ismethod(weight):  # whose owner, EDM(std) say, may hold arrays
        return Partial(weight.__func__, weight.__self__)
    return Partial(weight)


def _min_snr(gamma: Array | float, schedule: Schedule, t: Time) -> tuple[Array, Array]:
    snr = jnp.exp(log_snr(schedule, t))
    return jnp.sqrt(jnp.minimum(snr, gamma)), jnp.zeros_like(snr)


def _sigmoid(bias: Array | float, schedule: Schedule, t: Time) -> tuple[Array, Array]:
    value = log_snr(schedule, t)
    # sqrt(sigmoid) in this form stays above zero where the sigmoid itself underflows.
    return jnp.zeros_like(value), jnp.exp(-0.5 * jnp.logaddexp(0.0, value - bias))
