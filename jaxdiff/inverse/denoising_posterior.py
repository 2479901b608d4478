"""The law of the data given one noised point, whose denoiser is one call of the prior's.

Data seen twice, through z_s = alpha_s data + sigma_s noise and x_t = alpha_t data + sigma_t noise of its own,
are seen once through less noise: precisions add up, e^lambda_u = e^lambda_s + e^lambda_t in log-SNR, and

    E[data | z_s, x_t] = D(alpha_u y, u),        y = w z_s / alpha_s + (1 - w) x_t / alpha_t,       (1)
    w = 1 / (1 + e^(lambda_t - lambda_s)).

So no law p(data | x_t) asks for a network of its own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.rows import to_rows
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.guidance.tilted import bound, scales, transformed
from jaxdiff.noising.process import inverse_log_snr, log_snr
from jaxdiff.typing import Array, Denoised, Schedule, Time


def denoising_posterior(denoise: Denoiser, x: Array, t: Time) -> Denoiser:
    """The denoiser of p(data | x_t = x), row by row: what `sample` makes of it are draws of that law.

    x: (batch, *shape), one law a row, so that batches of that many are answered; t: its time, a scalar or
    (batch,). Exact, but that no cleaner time than the denoiser's t_min is asked of it. Raises TypeError for
    what is no denoiser, ValueError for an x of another shape or a t that the denoiser does not know.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> posterior = jd.inverse.denoising_posterior(law, jnp.array([[2.0]]), 1.0)
    >>> round(float(posterior(jnp.zeros((1, 1)), 1.0).data[0, 0]), 4)  # the mean of 0, 2 and x_t = 0
    0.6667
    """
    check_denoiser("denoise", denoise)
    checks.batch("x", x, t)
    denoise.check_shape("x", x)
    denoise.check_times("t", t)
    return transformed(denoise, _DenoisingPosterior(denoise, jnp.asarray(x), single(t)))


@pytree
@dataclass(frozen=True, eq=False)
class _DenoisingPosterior:
    inner: Denoiser
    x: Array
    t: Array

    def at_rows(self, rows: Array) -> _DenoisingPosterior:
        """What belongs to rows x[rows]."""
        return dataclasses.replace(
            self, inner=self.inner.at_rows(rows), x=self.x[rows], t=self.t[rows] if self.t.ndim else self.t
        )

    def __call__(self, denoiser: Denoiser, z: Array, s: Array) -> Denoised:
        inner, schedule, x = bound(self.inner, denoiser), denoiser.schedule, single(self.x)
        if len(z) != len(x):
            raise ValueError(
                f"this posterior is given {len(x)} points, one a row, and was asked for {len(z)}."
            )
        z = single(z)
        levels = log_snr(schedule, s), log_snr(schedule, self.t)
        u = _time_of(schedule, jnp.logaddexp(*levels), inner.t_min, jnp.minimum(s, self.t))
        weight = to_rows(jax.nn.sigmoid(levels[0] - levels[1]), z)
        (alpha_s, sigma_s), (alpha_t, _), (alpha_u, sigma_u) = (
            scales(schedule, time, z) for time in (s, self.t, u)
        )
        seen = _over(x, alpha_t)
        answer = inner(alpha_u * (weight * _over(z, alpha_s) + (1 - weight) * seen), u)
        # (z - alpha_s D) / sigma_s, without the difference of large numbers.
        noise = (1 - weight) * (z - alpha_s * seen) + alpha_s * _over(sigma_u * answer.noise, alpha_u)
        return Denoised(answer.data, noise / sigma_s)


def _time_of(schedule: Schedule, level: Array, t_min: float, t_max: Array) -> Array:
    """Of each log-SNR, not above its t_max, and t_min where it is beyond that."""
    find = jnp.vectorize(lambda level, t: inverse_log_snr(schedule, level, t_min=t_min, t_max=t))
    return find(level, t_max)


def _over(x: Array, alpha: Array) -> Array:
    """x / alpha, and 0 where there is no signal."""
    return jnp.where(alpha > 0, x / jnp.where(alpha > 0, alpha, 1.0), 0.0)
