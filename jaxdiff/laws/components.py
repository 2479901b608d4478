"""What the laws share: mixtures of Gaussians in the eigenbases of their covariances.

All laws but the finite set are mixtures of Gaussians whose components share K means m_k and K eigenbases B_k,
with N variances per mean; at a time with scales alpha, sigma, and Lambda_kn the diagonal of eigenvalues,

    data | k, n  ~ N(m_k, B_k Lambda_kn B_k'),      x = alpha data + sigma noise                     (1)
    x    | k, n  ~ N(alpha m_k, B_k Q_kn B_k'),     Q_kn = alpha^2 Lambda_kn + sigma^2               (2)
    rho_kn       = P(k, n | x),                     u_k = B_k' (x - alpha m_k)                       (3)
    E[data  | x] = sum_kn rho_kn (m_k + B_k alpha Lambda_kn Q_kn^-1 u_k)                             (4)
    E[noise | x] = sum_kn rho_kn        B_k sigma Q_kn^-1 u_k                                        (5)

so that time enters through the eigenvalues only: a covariance is diagonalized once, at construction. In
(4) and (5) nothing large cancels: data keeps its digits as alpha -> 0 and noise keeps them as sigma -> 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, Distribution, Estimate, time_axis
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time

# TPUs multiply matrices in bfloat16 and GPUs in TF32 unless told otherwise; an oracle needs its digits.
PRECISION = jax.lax.Precision.HIGHEST

_Noised = TypeVar("_Noised", covariant=True)

CHUNK = 2**24
"""Numbers that an array of many rows may hold at once, 64 MiB of float32: more rows than that take turns."""


class Spectrum(NamedTuple):
    """A covariance, or a stack of them, by eigenvalues and eigenvectors: ``basis diag(values) basis'``.

    Wherever a law takes a covariance it takes this too, and then diagonalizes nothing.

    >>> law = jd.Gaussian(jnp.zeros(2), jd.Spectrum(jnp.array([1.0, 4.0])))
    >>> round(float(law.log_prob(jnp.zeros((1, 2)))[0]), 4)  # -log(4 pi)
    -2.531
    """

    values: Array
    """Eigenvalues, shape (..., d), or (..., 1) for a multiple of the identity."""
    basis: Array | None = None
    """Eigenvectors in columns, shape (..., d, d); None where the covariance is diagonal already."""


class Components(NamedTuple):
    """The mixture (1): K means with N spectra each that share a basis."""

    log_weights: Array  # (K, N)
    means: Array  # (K, d)
    values: Array  # (K, N, d), or (K, N, 1) for multiples of the identity
    basis: Array | None  # (K, d, d)

    def project(self, x: Array, alpha: Array | float) -> Array:
        """u of (3) for one x of shape (d,); shape (K, d)."""
        u = x[None] - alpha * self.means
        if self.basis is None:
            return u
        return jnp.einsum("kde,kd->ke", self.basis, u, precision=PRECISION)

    def combine(self, gains: Array, u: Array) -> Array:
        """sum_k B_k (gains_k u_k) for gains of shape (K, d) or (K, 1) and u of shape (K, d)."""
        if self.basis is not None:
            return jnp.einsum("kde,ke->d", self.basis, gains * u, precision=PRECISION)
        if gains.shape[-1] < u.shape[-1]:  # a product of matrices: a third of the time of sums on CPU
            return jnp.einsum("k,kd->d", gains[:, 0], u, precision=PRECISION)
        return (gains * u).sum(0)

    def log_joint(self, u: Array, variances: Array) -> Array:
        """log P(k, n) N(u_k; 0, Q_kn), shape (K, N), with variances the diagonals of Q of (2).

        Under vmap over points the quadratic forms of all N spectra are one matrix product per mean.
        """
        d, distinct = u.shape[-1], variances.shape[-1]
        squares = u**2 if distinct == d else jnp.einsum("kd,kd->k", u, u, precision=PRECISION)[:, None]
        quadratic = jnp.einsum("kd,knd->kn", squares, 1 / variances, precision=PRECISION)
        log_det = (d // distinct) * jnp.sum(jnp.log(variances), axis=-1)
        return self.log_weights - 0.5 * (quadratic + log_det + d * math.log(2 * math.pi))

    def log_prob(self, x: Array) -> Array:
        """Log-density of x, shape (..., d) -> (...)."""
        return _log_prob(self, check_density(x, self.means.shape[-1], self.values), CHUNK)


@functools.partial(jax.jit, static_argnames="chunk")
def _log_prob(components: Components, x: Array, chunk: int) -> Array:
    def one(x: Array, _: Time) -> Array:
        u = components.project(x, 1.0)
        return jax.nn.logsumexp(components.log_joint(u, components.values))

    entries = max(components.means.size, components.log_weights.size)
    rows = x.reshape(-1, x.shape[-1])
    return in_chunks(one, rows, jnp.zeros(()), entries, chunk).reshape(x.shape[:-1])


@pytree
@dataclass(frozen=True, eq=False)
class Posterior:
    """The denoiser of a mixture, eqs. (2) to (5)."""

    components: Components

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        return _posterior_means(self.components, denoiser.schedule, x, t, CHUNK)


@functools.partial(jax.jit, static_argnames="chunk")
def _posterior_means(components: Components, schedule: Schedule, x: Array, t: Array, chunk: int) -> Denoised:
    def one(x: Array, t: Time) -> Denoised:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        variances = alpha**2 * components.values + sigma**2
        u = components.project(x, alpha)
        posterior = jax.nn.softmax(components.log_joint(u, variances), axis=(0, 1))
        mean = jnp.matmul(posterior.sum(1), components.means, precision=PRECISION)
        to_data, to_noise = (
            jnp.einsum("kn,knd->kd", posterior, gain, precision=PRECISION)
            for gain in (alpha * components.values / variances, sigma / variances)
        )
        return Denoised(mean + components.combine(to_data, u), components.combine(to_noise, u))

    entries = max(components.means.size, components.log_weights.size)
    if jnp.ndim(t):  # variances of its own for each row
        entries = max(entries, components.values.size)
    return in_chunks(one, x, t, entries, chunk)


def in_chunks(one: Callable[[Array, Time], Any], x: Array, t: Array, entries: int, chunk: int) -> Any:
    """one(row, time) over rows x at t, a scalar or one for each; one row takes entries numbers of memory.

    As many rows at once as chunk numbers hold, where that is not all of them. Numbers of less than single
    precision are computed on in single precision.

    Rows lead in memory, by `vmap`, and sums run over the axes behind them. With rows last, sums over a
    leading axis of components under softmax weights, shape (8, 16, 4096) for one, are wrong under `jit` by
    more than the numbers' own size: XLA:CPU in jax 0.10.2.
    """
    x = single(x)
    rows = max(1, chunk // max(1, entries))
    # A number of rows that jax.export leaves open cannot be cut.
    if jax.export.is_symbolic_dim(x.shape[0]) or x.shape[0] <= rows:
        return jax.vmap(one, in_axes=(0, time_axis(t)))(x, t)
    if jnp.ndim(t) == 0:
        return jax.lax.map(lambda x: one(x, t), x, batch_size=rows)
    return jax.lax.map(lambda row: one(*row), (x, t), batch_size=rows)


def known_everywhere(law: Distribution, estimate: Estimate, schedule: Schedule) -> Denoiser:
    """A denoiser at all times of the schedule, of a law's shape and scale."""
    checks.schedule(schedule)
    return Denoiser(estimate, schedule, law.shape, law.scale, schedule.t_min, schedule.t_max)


def check_density(x: ArrayLike, d: int, values: Array) -> Array:
    """x as an array of vectors of d numbers; ValueError for others, and where a variance is not positive."""
    x = x if isinstance(x, jax.Array) else jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] != d:
        raise ValueError(f"x must have shape (..., {d}), got {x.shape}.")
    checks.positive("every variance of a law with a density (noise a singular law first)", values)
    return x


def diagonalized(name: str, covariance: ArrayLike | Spectrum, shape: tuple[int, ...]) -> Spectrum:
    """The spectrum of a covariance per mean, the means being of the given shape (..., d)."""
    *lead, d = shape
    wanted = (tuple(lead), shape, (*shape, d))
    if isinstance(covariance, Spectrum):
        values, basis = covariance
        if values.shape not in (shape, (*lead, 1)) or (basis is not None and basis.shape != wanted[2]):
            raise ValueError(
                f"{name} must be a Spectrum of values {shape} or {(*lead, 1)} and basis {wanted[2]} or None, "
                f"got {values.shape} and {None if basis is None else basis.shape}."
            )
        return covariance
    matrix = floats(covariance)
    if matrix.shape not in wanted:
        raise ValueError(
            f"{name} must have the shape {wanted[0]} (isotropic), {wanted[1]} (diagonal) or {wanted[2]} "
            f"(full) to go with means of shape {shape}, got {matrix.shape}."
        )
    checks.finite(name, matrix)
    kind = wanted.index(matrix.shape)
    slack = 0.0
    if kind == 2:
        slack = float(np.sqrt(np.finfo(matrix.dtype).eps))
        known = checks.known(matrix)
        if known is not None and known.size:
            skew = np.abs(known - np.swapaxes(known, -1, -2)).max()
            if skew > slack * np.abs(known).max():
                raise ValueError(
                    f"{name} must be symmetric, but entries differ from their mirror images by up to "
                    f"{skew:g}; pass (matrix + matrix.T) / 2 if that is what is meant."
                )
    spectrum, values = _spectrum(matrix, kind)
    values = checks.known(values)
    if values is not None and (values < -slack * np.abs(values).max(initial=0)).any():
        raise ValueError(f"{name} must have no negative eigenvalue, got one of {values.min():g}.")
    return spectrum


@compiled(static="kind")
def _spectrum(matrix: Array, kind: int) -> tuple[Spectrum, Array]:
    """Of numbers, diagonals or matrices, for kind 0, 1 and 2; and the eigenvalues as they were found."""
    if kind == 2:
        values, basis = jnp.linalg.eigh(matrix)
    else:
        values, basis = (matrix if kind else matrix[..., None]), None
    return Spectrum(jnp.maximum(values, 0), basis), values  # without what rounding left below zero


def check_affine(scale: Array | float, std: Array | float) -> None:
    """Raise ValueError unless known scale and std of ``scale x + std noise`` are finite scalars."""
    for name, value in (("scale", scale), ("std", std)):
        checks.finite(name, value)
        checks.shape(name, value, ())


class _Affine(Protocol[_Noised]):
    def _affine(self, scale: Array, std: Array) -> _Noised: ...


def at_level(law: _Affine[_Noised], schedule: Schedule, t: Time) -> _Noised:
    """The law of alpha data + sigma noise, by the law's own ``_affine``: what its ``perturbed`` is.

    Raises TypeError for what is no schedule, ValueError for a known time out of its range or not scalar.
    """
    checks.schedule(schedule)
    checks.shape("t", t, ())
    checks.in_range("t", schedule, t)
    return _at_level(law, schedule, t)


@compiled
def _at_level(law: _Affine[_Noised], schedule: Schedule, t: Time) -> _Noised:
    return law._affine(schedule.alpha(t), schedule.sigma(t))


def rescaled(spectrum: Spectrum, scale: Array | float, shift: Array | float) -> Spectrum:
    """The spectrum of scale covariance + shift I, two scalars: t may be one for each law under vmap only."""
    checks.shape("scale", scale, ())
    checks.shape("std", shift, ())
    return spectrum._replace(values=scale * spectrum.values + shift)


def check_mixture(weights: ArrayLike, means: ArrayLike) -> tuple[Array, Array]:
    """Weights (K,) and means (K, d) as arrays; ValueError for others than these."""
    weights, means = floats(weights), floats(means)
    checks.shape("weights", weights, (None,))
    checks.shape("means", means, (weights.shape[0], None))
    checks.positive("weights", weights)
    checks.finite("means", means)
    values = checks.known(weights)
    if values is not None and abs(values.sum(dtype=np.float64) - 1) > 1e-5:
        raise ValueError(f"weights must sum to 1, got {values.sum():g}; divide them by their sum.")
    return weights, means


def mixture_scale(weights: Array, means: Array, variances: Array) -> Array:
    """Root of the mean variance of a mixture whose components have mean variances (K,)."""
    spread = means - (weights @ means)[None]
    return jnp.sqrt(weights @ (variances + jnp.mean(spread**2, axis=1)))


def choose(key: Key, weights: Array) -> Array:
    """A component number; by inversion, which for many components is far cheaper than Gumbel noise."""
    return jax.random.choice(key, weights.shape[0], p=weights)


def color(spectrum: Spectrum, k: Array, z: Array) -> Array:
    """Rows of z, shape (n, d), given the covariances of the components k, shape (n,)."""
    z = jnp.sqrt(spectrum.values)[k] * z
    if spectrum.basis is None:
        return z

    # Component by component, since a basis per row would be n d^2 numbers.
    def rotate(rows: Array, component: tuple[Array, Array]) -> tuple[Array, None]:
        number, basis = component
        turned = jnp.matmul(z, basis.T, precision=PRECISION)
        return jnp.where((k == number)[:, None], turned, rows), None

    return jax.lax.scan(rotate, z, (jnp.arange(spectrum.basis.shape[0]), spectrum.basis))[0]


def floats(x: ArrayLike) -> Array:
    """An array of floating-point numbers: x's own dtype if it is one of single precision or better.

    Less is not enough for a law's parameters, and integers become the default.
    """
    x = jnp.asarray(x)
    dtype = jnp.promote_types(jnp.result_type(x, float), jnp.float32)
    # Of a weak type, as of a Python number, products with bfloat16 would be bfloat16.
    return x if x.dtype == dtype and not x.weak_type else x.astype(dtype)
