"""Log-densities of the data under a denoiser, in nats.

The probability flow in coordinates that are bounded for every schedule: with c = sqrt(alpha^2 + sigma^2),
z = x / c and tan(theta) = sigma / alpha = exp(-lambda / 2),

    dz / d lambda = -(1/2) sin(theta) cos(theta) [cos(theta) N - sin(theta) D],                  (1)

and the log-density of z changes along it by minus the divergence of the right side. Data enter at t_min
as x = alpha data, so that, up to O(sigma(t_min)^2),

    log p(data) = log p_T(c_T z_T) + d log(c_T alpha_min / c_min) + int div(1) d lambda.          (2)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff import checks, divergence
from jaxdiff.process import inverse_log_snr, log_snr
from jaxdiff.randomness import signs_like
from jaxdiff.typing import Array, Denoiser, Distribution, Key, Schedule


class LogDensity(NamedTuple):
    """Log-densities in nats and the standard errors of their Monte Carlo part, each of shape (batch,)."""

    value: Array
    standard_error: Array


def probability_flow(
    key: Key,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    times: Array,
    *,
    num_probes: int | None = None,
    start: Distribution | None = None,
) -> LogDensity:
    """log p(x) of data x, shape (batch, ...), by eqs. (1) and (2); four denoiser calls for each interval.

    times: increasing, both ends with sigma > 0 and alpha > 0; the classical Runge-Kutta rule of order 4 in
    log-SNR between each two. `times.log_snr_grid` reversed is a good grid.
    num_probes: None for the exact trace, d tangents a call and standard error 0; or the number of random
    signs of Hutchinson's estimate, held along the path, with the standard error of their mean (NaN for
    one probe). The step error is in neither: compare two grids.
    start: the law of x at times[-1], by default N(0, sigma^2 I).
    Song et al. 2021, arXiv 2011.13456, section 4.3. Raises TypeError for integer x and ValueError for NaN,
    for times that do not increase, are out of range or reach an infinite log-SNR, for num_probes < 1 and
    for a start law of another dimension.
    """
    checks.batch("x", x)
    checks.finite("x", x)
    checks.times(schedule, times, increasing=True)
    x = jnp.asarray(x)
    times = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))
    levels = jax.vmap(lambda t: log_snr(schedule, t))(times)
    known = checks.known(levels)
    if known is not None and not jnp.isfinite(known).all():
        at = int(jnp.argmin(jnp.isfinite(known)))
        raise ValueError(
            f"the log-SNR at times[{at}] = {times[at]:g} is {known[at]:g}, wanted a finite one: keep times "
            f"inside the range of {schedule}, where both alpha and sigma are above zero."
        )
    if start is not None:  # found here rather than after the integration
        checks.shape("start.log_prob(x)", jax.eval_shape(start.log_prob, x), x.shape[:1])
    signs = None if num_probes is None else signs_like(key, x, num_probes)
    size = x[0].size

    def velocity(z: Array, t: Array) -> tuple[Array, Array]:
        """Right side of eq. (1) and its divergence, shape (k, batch)."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        c = jnp.hypot(alpha, sigma)
        cos, sin = alpha / c, sigma / c

        def f(z: Array) -> Array:
            estimate = denoise(c * z, t)
            return -0.5 * sin * cos * (cos * estimate.noise - sin * estimate.data)

        if signs is None:
            value, trace = divergence.exact(f, z)
            return value, trace[None]
        return divergence.hutchinson(f, z, signs)

    def runge_kutta(carry: tuple[Array, Array], ends: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        (z, gained), (t, t_next, level, level_next) = carry, ends
        h = level_next - level
        middle = inverse_log_snr(schedule, level + 0.5 * h, t_min=t, t_max=t_next)
        k1, d1 = velocity(z, t)
        k2, d2 = velocity(z + 0.5 * h * k1, middle)
        k3, d3 = velocity(z + 0.5 * h * k2, middle)
        k4, d4 = velocity(z + h * k3, t_next)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return (z, gained + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)), None

    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    c = jnp.hypot(alpha, sigma)
    gained = jnp.zeros((1 if num_probes is None else num_probes, x.shape[0]), x.dtype)
    intervals = (times[:-1], times[1:], levels[:-1], levels[1:])
    (z, gained), _ = jax.lax.scan(runge_kutta, (alpha[0] / c[0] * x, gained), intervals)
    prior = _normal_log_prob(c[-1] * z, sigma[-1]) if start is None else start.log_prob(c[-1] * z)
    values = (prior + size * (jnp.log(c[-1]) + jnp.log(alpha[0]) - jnp.log(c[0])))[None] + gained
    if num_probes is None:
        return LogDensity(values[0], jnp.zeros_like(values[0]))
    return LogDensity(values.mean(0), values.std(0, ddof=1) / num_probes**0.5)


def _normal_log_prob(x: Array, std: Array) -> Array:
    rows = x.reshape(x.shape[0], -1) / std
    return -0.5 * jnp.sum(rows**2, axis=1) - rows.shape[1] * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi))
