"""DDIM and the ancestral sampler of DDPM: Euler's method on the flow, with a part of the noise redrawn."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import number
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.sampling.exponential import half_log_snr, root
from jaxdiff.sampling.sampler import State
from jaxdiff.typing import Array, Key


@pytree
@dataclass(frozen=True)
class DDIM:
    """One denoiser call a step, order 1: eq. (1) of `jaxdiff.sampling.sampler` with a part of the noise
    redrawn.

    x_s = alpha_s D + sqrt(sigma_s^2 - eta^2 b^2) N + eta b z, with b the standard deviation of the bridge
    x_s | x_t, data. eta = 0 is Euler's method on the probability flow, eta = 1 is `ancestral`; an array may
    be traced. Song et al. 2020, arXiv 2010.02502, eq. 12. Raises ValueError unless 0 <= eta <= 1.

    >>> denoise, times = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.linspace(1, 0, 201)
    >>> x = jd.integrate(jax.random.key(0), denoise, jnp.array([[2.0]]), times, sampler=jd.DDIM())
    >>> round(float(x[0, 0]), 2)  # 2 / 2^(1/2)
    1.41
    """

    eta: Array | float = 0.0

    def __post_init__(self) -> None:
        checks.within("eta", self.eta, 0.0, 1.0)

    def init(self, x: Array) -> State:
        return State(x)

    def step(self, key: Key, denoise: Denoiser, state: State, t: Array, s: Array) -> State:
        checks.shape("eta", self.eta, ())  # several are mapped over, not broadcast
        schedule = denoise.schedule
        estimate = denoise(state.x, t)
        sigma = schedule.sigma(s)
        if number(self.eta) == 0:
            return State(schedule.alpha(s) * estimate.data + sigma * estimate.noise)
        # (b / sigma_s)^2 = 1 - e^(lambda_t - lambda_s), so that the two parts of the noise add up to sigma_s.
        fall = 2 * (half_log_snr(schedule, t) - half_log_snr(schedule, s))
        kept = root(1 - self.eta**2 + self.eta**2 * jnp.exp(fall))
        noise = kept * estimate.noise + self.eta * root(-jnp.expm1(fall)) * noise_like(key, state.x)
        return State(schedule.alpha(s) * estimate.data + sigma * noise)


def ancestral() -> DDIM:
    """DDPM's sampler: a draw from the bridge x_s | x_t, data at data = D (arXiv 2006.11239, alg. 2).

    >>> jd.ancestral() == jd.DDIM(eta=1.0)
    True
    """
    return DDIM(eta=1.0)
