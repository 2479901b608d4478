"""Weights of a loss, as rows: the squared error is measured in the weight's row of
`jaxdiff.denoising.prediction`.

The rows of the prediction types are weights too: ``prediction.noise.row`` is the "simple" loss of DDPM, and
``prediction.EDM(std).row`` EDM's weight, which is one for a network of that type.
"""

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.denoising.prediction import Row
from jaxdiff.noising.process import log_snr, with_derivative
from jaxdiff.typing import Array, Schedule, Time


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
