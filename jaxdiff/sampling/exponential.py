"""Exponential integration in the log-SNR: the linear part exactly, an estimate by a polynomial.

Let l = log(alpha / sigma), h = l_s - l_t for a step from t to s < t, and tau the strength of the noise: 0 for
the probability flow, 1 for the reverse SDE. The process of that strength is, in the estimate D of the data,

    x_s = (sigma_s / sigma_t) e^(-tau^2 h) x_t + alpha_s (1 + tau^2) int_0^h e^(-(1 + tau^2) (h - u)) D(l_t +
    u) du
          + sigma_s sqrt(1 - e^(-2 tau^2 h)) z,                                                            (1)

and in the estimate N of the noise

    x_s = (alpha_s / alpha_t) x_t - sigma_s (1 + tau^2) int_0^h e^(h - u) N(l_t + u) du
          + sigma_s tau sqrt(e^(2 h) - 1) z.                                                        (2)

Both follow from dx = (f x + (1 + tau^2) g^2 N / (2 sigma)) dt + tau g dB, run backwards. Where D, or N, is
held they are exact (`held_step`); a polynomial adds to this its differences from the held value, weighted
(`weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array, Denoised, Schedule, Time

Estimate = Literal["data", "noise"]
ESTIMATES = ("data", "noise")

# Beyond this h little of x_t is left in (1), and (2) has no digits: a step to sigma_s = 0, or from alpha = 0.
_FAR = 10.0
_POINTS, _WEIGHTS = (0.5 * a for a in np.polynomial.legendre.leggauss(16))  # exact to rounding for h < _FAR


def half_log_snr(schedule: Schedule, t: Time) -> Array:
    """l = log(alpha / sigma), a scalar; where it is infinite no parameter moves it: derivatives are 0."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    none, clean = alpha == 0, sigma == 0
    level = jnp.log(jnp.where(none, 1.0, alpha)) - jnp.log(jnp.where(clean, 1.0, sigma))
    return jnp.where(none, -jnp.inf, jnp.where(clean, jnp.inf, level))


def root(share: Array) -> Array:
    """The square root of a share of noise; where there is none its derivative is 0 as well, not infinite."""
    none = share == 0
    return jnp.where(none, 0.0, jnp.sqrt(jnp.where(none, 1.0, share)))


def value(estimate: Estimate, denoised: Denoised) -> Array:
    """The estimate that is integrated."""
    return denoised.data if estimate == "data" else denoised.noise


def is_near(h: Array) -> Array:
    """Whether a step of h has room for a polynomial; one that has none holds the estimate of the data."""
    return jnp.abs(h) < _FAR


def held_step(
    estimate: Estimate,
    schedule: Schedule,
    x: Array,
    denoised: Denoised,
    t: Time,
    s: Time,
    tau: Array | float = 0.0,
    z: Array | float = 0.0,
) -> Array:
    """x_s of eq. (1) or (2) with the estimate at t held; eq. (1) where the step is far. x, z (batch, ...)."""
    h = half_log_snr(schedule, s) - half_log_snr(schedule, t)
    alpha, sigma, rate = schedule.alpha(s), schedule.sigma(s), 1 + jnp.square(tau)
    far = jnp.minimum(h, 100.0)  # e^-100 is no part of anything, and tau^2 h no 0 times infinity
    by_data = (
        sigma / schedule.sigma(t) * jnp.exp(far - rate * far) * x
        - alpha * jnp.expm1(-rate * far) * denoised.data
        + sigma * root(-jnp.expm1(2 * (far - rate * far))) * z
    )
    if estimate == "data":
        return by_data
    near = is_near(h)
    h, before = jnp.where(near, h, 1.0), jnp.where(near, schedule.alpha(t), 1.0)
    by_noise = (
        alpha / before * x
        - sigma * rate * jnp.expm1(h) * denoised.noise
        + sigma * tau * jnp.sqrt(jnp.expm1(2 * h)) * z
    )
    return jnp.where(near, by_noise, by_data)


def weights(
    estimate: Estimate,
    schedule: Schedule,
    start: Array,
    s: Time,
    nodes: Sequence[Array],
    ready: Sequence[Array],
    tau: Array | float = 0.0,
    *,
    midpoint: bool = False,
) -> list[Array]:
    """What multiplies V_j - V_0 in x_s, for the polynomial through V_0 at `start` and V_j at the nodes.

    start, nodes: values of l. ready: which nodes count; the degree is their number. All zero where the step
    is far. The integrals of eq. (1) and (2) over Lagrange's polynomials by Gauss and Legendre's rule of 16
    points: nothing cancels, so that float32 keeps its digits at any h. midpoint: the polynomial's value at
    h / 2 in place of all of it.
    """
    h = half_log_snr(schedule, s) - start
    near = is_near(h)
    h, rate = jnp.where(near, h, 1.0), 1 + jnp.square(tau)
    u = h * jnp.asarray(0.5 + _POINTS, h.dtype)
    if estimate == "data":
        kernel = schedule.alpha(s) * rate * jnp.exp(-rate * (h - u))
    else:
        kernel = -schedule.sigma(s) * rate * jnp.exp(h - u)
    kernel = kernel * h * jnp.asarray(_WEIGHTS, h.dtype)
    u = 0.5 * h if midpoint else u
    known = [near & ok & jnp.isfinite(node) for ok, node in zip(ready, nodes, strict=True)]
    at = [jnp.where(ok, node - start, 1.0) for ok, node in zip(known, nodes, strict=True)]
    answers = []
    for j, (ok, node) in enumerate(zip(known, at, strict=True)):
        basis = u / node
        for m, (other_ok, other) in enumerate(zip(known, at, strict=True)):
            if m != j:
                both = ok & other_ok
                basis = basis * jnp.where(both, (u - other) / jnp.where(both, node - other, 1.0), 1.0)
        answers.append(jnp.where(ok, jnp.sum(kernel * basis), 0.0))
    return answers


def reach(
    estimate: Estimate,
    schedule: Schedule,
    x: Array,
    first: Denoised,
    t: Time,
    s: Time,
    nodes: Sequence[tuple[Array, Array]] = (),
    tau: Array | float = 0.0,
    z: Array | float = 0.0,
    factor: float = 1.0,
) -> Array:
    """x_s by the polynomial through `first`, the answer at (x, t), and the nodes, pairs (l, value).

    factor: of what the polynomial adds to the held value.
    """
    start, origin = half_log_snr(schedule, t), value(estimate, first)
    at, ready = [node for node, _ in nodes], [jnp.asarray(True)] * len(nodes)
    parts = weights(estimate, schedule, start, s, at, ready, tau)
    held = held_step(estimate, schedule, x, first, t, s, tau, z)
    return held + factor * sum(w * (v - origin) for w, (_, v) in zip(parts, nodes, strict=True))
