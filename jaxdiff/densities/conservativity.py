"""How far a denoiser is from the scores of any law: rotations, and what they cost in nats.

The scores of a law are gradients, so the Jacobian J = dN/dx of its noise is symmetric; a network's is not.
Let q be the density that the probability flow of a denoiser N has and p the data's, each noised or flown to
the time of lambda, with noises N_q and N_p. Then the two log-densities of the denoiser differ, in the mean
over data, by

    E[flow - formula] = (1/2) int E[(N - N_q) . (N - N_p)] dlambda                               (1)

(from the continuity equation of q and Stein's identity; derived here). An error f whose flux keeps q as it
is, div(q f) = 0, is all in N - N_q: the flow forgives it, and the formula pays (1/2) int E|f|^2 dlambda for
it, to second order in the errors. What (1) holds beside that is of gradients that are not of one law: of
errors that contradict each other at different noises. It has either sign, and is zero for an exact denoiser.

How long f is follows from A = (J - J') / 2. Where p_t is Gaussian, with variances c_i of x_t along its axes,

    E|f|^2 <= sum_ij h_ij E[A_ij^2],    h_ij = 2 c_i c_j / (c_i + c_j)                           (2)

with equality where f is linear (by the spectrum of the Hodge Laplacian, whose least value on a pair of axes
is 1 / c_i + 1 / c_j; derived here). Where p_t is not, (2) is an estimate, of digits up to twice what flow and
formula differ by (`experiments.density.conservativity`). It needs no Jacobian: for signs z and
D = exp(-u / (2 c)) in the axes,

    h_ij = 2 int exp(-u / c_i) exp(-u / c_j) du,      E|D A (D z)|^2 = sum_ij D_i^2 A_ij^2 D_j^2,    (3)

so one Jacobian-vector and one vector-Jacobian product at a random u is an unbiased estimate.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.chunks import map_rows
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.densities.inputs import check_data, check_times, grid_log_snr
from jaxdiff.laws.components import PRECISION, Spectrum
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.process import marginals, perturb
from jaxdiff.typing import Array, Key

_TAILS = (9.0, 2.5)
"""log(u / c) goes from -9 for the least c to 2.5 for the largest: that leaves 1e-4 of (3) out."""


class RotationCurve(NamedTuple):
    """The right side of eq. (2) at each noise level."""

    log_snr: Array
    """Shape (levels,), falling."""
    squared_rotation: Array
    """Shape (batch, levels); each row's is unbiased, and rows are independent."""

    @property
    def nats(self) -> Array:
        """What the formula pays for it over these levels, by the trapezoidal rule; shape (batch,)."""
        steps = self.log_snr[:-1] - self.log_snr[1:]
        sums = self.squared_rotation[:, :-1] + self.squared_rotation[:, 1:]
        return 0.25 * jnp.sum(steps[None] * sums, axis=1)


def rotation_curve(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array,
    *,
    data_covariance: ArrayLike | Spectrum | None = None,
    num_probes: int = 1,
    rows_per_call: int = 1024,
) -> RotationCurve:
    """The squared length of the rotations in a denoiser's noise, eq. (2), at data x, (batch, *denoise.shape).

    times: increasing, as for `probability_flow`; a few dozen, even in log-SNR.
    data_covariance: of the d entries of x, a scalar (times the identity), (d,), (d, d) or a `Spectrum`; by
        default that of the denoiser's scale, in all directions. Data of unequal variances want their own.
    num_probes: noises and probes at each time of each row, an evaluation and two products with its Jacobian
        each. rows_per_call is the most rows of a call.

    ``.nats.mean()`` is an estimate of how far `probability_flow` is above `density_formula` because of
    rotations, with the standard error of a mean over rows: zero for the denoiser of any law. Row i depends
    on (key, i), x_i and the condition of row i only. Raises as `probability_flow` does.

    >>> law = jd.Gaussian([0.0, 0.0], 1.0).denoiser(jd.Karras())
    >>> curve = jd.rotation_curve(jax.random.key(0), law, jnp.ones((1, 2)), jnp.geomspace(0.01, 10, 20))
    >>> round(float(curve.squared_rotation.max()), 6)  # a law's noise is a gradient
    0.0
    """
    checks.integer("num_probes", num_probes, 1)
    checks.integer("rows_per_call", rows_per_call, 1)
    x = check_data(key, denoise, x)
    times = check_times(denoise, times, x.dtype)
    spectrum = data_spectrum(denoise, data_covariance)
    return _curve(key, denoise, x, times, spectrum, num_probes=num_probes, rows_per_call=rows_per_call)


@functools.partial(jax.jit, static_argnames=("num_probes", "rows_per_call"))
def _curve(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array,
    spectrum: Spectrum,
    *,
    num_probes: int,
    rows_per_call: int,
) -> RotationCurve:
    n, each, d = len(times), len(times) * num_probes, x[0].size

    def draw(number: Array) -> tuple[Array, Array, Array]:
        own = jax.random.fold_in(jax.random.fold_in(key, number // each), number % each)
        noise_key, sign_key, place_key = jax.random.split(own, 3)
        noise = jax.random.normal(noise_key, (d,), x.dtype)
        signs = jax.random.rademacher(sign_key, (d,), x.dtype)
        return noise, signs, jax.random.uniform(place_key, dtype=x.dtype)

    def squares(numbers: Array) -> Array:
        rows, t = numbers // each, times[numbers % n]
        noise, signs, place = jax.vmap(draw)(numbers)
        noise, signs = (drawn.reshape(-1, *x.shape[1:]) for drawn in (noise, signs))
        x_t = jax.vmap(lambda x, noise, t: perturb(denoise.schedule, x, noise, t))(x[rows], noise, t)
        return squared_rotation(denoise.at_rows(rows), x_t, t, spectrum, signs[None], place[None])

    values = map_rows(squares, jnp.arange(len(x) * each), rows_per_call)
    return RotationCurve(
        log_snr=grid_log_snr(denoise.schedule, times),
        squared_rotation=values.reshape(len(x), num_probes, n).mean(1),
    )


def squared_rotation(
    denoise: Denoiser, x: Array, t: Array, spectrum: Spectrum, signs: Array, places: Array
) -> Array:
    """Eq. (2) at noised x, (batch, *denoise.shape), and times t, (batch,), by eq. (3); shape (batch,).

    spectrum: of the data's covariance, over flat entries. signs, (probes, batch, ...), and places, (probes,
    batch) and uniform in (0, 1): z and log u of eq. (3), whose mean over probes is taken.
    """
    d = x[0].size
    alpha, sigma = (
        scale[:, None].astype(x.dtype) for scale in jax.vmap(lambda t: marginals(denoise.schedule, t))(t)
    )
    c = alpha**2 * spectrum.values[None].astype(x.dtype) + sigma**2
    low, high = jnp.log(c.min(1)) - _TAILS[0], jnp.log(c.max(1)) + _TAILS[1]

    def noise(x: Array) -> Array:
        return denoise(x, t).noise

    def turned(rows: Array, *, back: bool = False) -> Array:
        if spectrum.basis is None:
            return rows
        return jnp.matmul(rows, spectrum.basis.T if back else spectrum.basis, precision=PRECISION)

    _, pull = jax.vjp(noise, x)

    def probe(signs: Array, place: Array) -> Array:
        if c.shape[1] == 1:  # h is c
            gain, half = c[:, 0], jnp.ones_like(c)
        else:
            u = jnp.exp(low + (high - low) * place)
            gain, half = 2 * u * (high - low), jnp.exp(-0.5 * u[:, None] / c)
        v = turned(half * signs.reshape(-1, d), back=True).reshape(x.shape)
        pushed = jax.jvp(noise, (x,), (v,))[1]
        difference = turned((pushed - pull(v)[0]).reshape(-1, d))
        return 0.25 * gain * jnp.sum((half * difference) ** 2, axis=1)

    return jax.vmap(probe)(signs, places).mean(0)


def data_spectrum(denoise: Denoiser, data_covariance: ArrayLike | Spectrum | None) -> Spectrum:
    """The spectrum of the covariance of the denoiser's data, flat; by default scale^2 I."""
    if data_covariance is None:
        return Spectrum(jnp.asarray(denoise.scale, float)[None] ** 2)
    return Gaussian(jnp.zeros(math.prod(denoise.shape)), data_covariance).covariance
