"""Laws on vectors with everything in closed form: sampling, density, noised law and exact denoiser.

They serve as oracles in theory, as start laws of samplers and as references for networks. All but the
finite set are finite mixtures of Gaussians whose components share K means m_k and K eigenbases B_k, with
N variances per mean; at a time with scales alpha, sigma, and with Lambda_kn the diagonal of eigenvalues,

    data | k, n  ~ N(m_k, B_k Lambda_kn B_k'),      x = alpha data + sigma noise                     (1)
    x    | k, n  ~ N(alpha m_k, B_k Q_kn B_k'),     Q_kn = alpha^2 Lambda_kn + sigma^2               (2)
    rho_kn       = P(k, n | x),                     u_k = B_k' (x - alpha m_k)                       (3)
    E[data  | x] = sum_kn rho_kn (m_k + B_k alpha Lambda_kn Q_kn^-1 u_k)                             (4)
    E[noise | x] = sum_kn rho_kn        B_k sigma Q_kn^-1 u_k                                        (5)

so that time enters through the eigenvalues only: a covariance is diagonalized once, at construction. In
(4) and (5) nothing large cancels: data keeps its digits as alpha -> 0 and noise keeps them as sigma -> 0.

A Student t is a mixture over a scale w ~ Gamma(nu/2, rate nu/2). With y = -log w and v the noise variance,

    p(x) = int N(x; m, e^y S + v I) g(y) dy,
    log g(y) = -nu/2 (y + e^-y) + nu/2 log(nu/2) - log Gamma(nu/2),                                  (6)

which the trapezoidal rule turns into (1) with N nodes; see `_log_scales`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising.denoiser import Denoiser, Distribution, Estimate, time_axis
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time

# TPUs multiply matrices in bfloat16 and GPUs in TF32 unless told otherwise; an oracle needs its digits.
_PRECISION = jax.lax.Precision.HIGHEST

# What a denoiser may hold at once per array when every row has its own time, in numbers (64 MiB of float32).
_CHUNK = 2**24


class Spectrum(NamedTuple):
    """A covariance, or a stack of them, by eigenvalues and eigenvectors: ``basis diag(values) basis'``.

    Wherever a law takes a covariance it takes this too, and then diagonalizes nothing.
    """

    values: Array
    """Eigenvalues, shape (..., d), or (..., 1) for a multiple of the identity."""
    basis: Array | None = None
    """Eigenvectors in columns, shape (..., d, d); None where the covariance is diagonal already."""


@pytree
@dataclass(frozen=True, init=False, eq=False)
class Gaussian:
    """N(mean, covariance) on vectors of length d.

    mean has shape (d,); covariance is a scalar (times the identity), (d,) (a diagonal), (d, d) or a
    `Spectrum`. It may be singular, which is data on a subspace: then everything but `log_prob` works.

    Raises ValueError for shapes that disagree, values that are not finite, a matrix that is not symmetric
    or a negative eigenvalue.
    """

    mean: Array
    covariance: Spectrum

    def __init__(self, mean: ArrayLike, covariance: ArrayLike | Spectrum) -> None:
        mean = _floats(mean)
        checks.shape("mean", mean, (None,))
        checks.finite("mean", mean)
        set_fields(self, mean=mean, covariance=_diagonalize("covariance", covariance, mean.shape))

    def sample(self, key: Key, n: int) -> Array:
        z = per_row(key, n, lambda key: jax.random.normal(key, self.mean.shape, self.mean.dtype))
        z = jnp.sqrt(self.covariance.values)[None] * z
        if self.covariance.basis is not None:
            z = jnp.matmul(z, self.covariance.basis.T, precision=_PRECISION)
        return self.mean[None] + z

    def log_prob(self, x: Array) -> Array:
        return _log_prob(self._components(), x)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mean.shape

    @property
    def scale(self) -> Array:
        return jnp.sqrt(jnp.mean(self.covariance.values))

    def affine(self, scale: Array | float, std: Array | float) -> "Gaussian":
        return Gaussian(scale * self.mean, _affine(self.covariance, scale**2, std**2))

    def perturbed(self, schedule: Schedule, t: Time) -> "Gaussian":
        return self.affine(schedule.alpha(t), schedule.sigma(t))

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return _exact(self, self._components(), schedule)

    def _components(self) -> "_Components":
        values, basis = self.covariance
        return _Components(
            log_weights=jnp.zeros((1, 1), self.mean.dtype),
            means=self.mean[None],
            values=values[None, None],
            basis=None if basis is None else basis[None],
        )


@pytree
@dataclass(frozen=True, init=False, eq=False)
class GaussianMixture:
    """sum_k weights_k N(means_k, covariances_k) on vectors of length d.

    weights has shape (K,), positive with sum 1; means (K, d); covariances (K,) (multiples of the identity),
    (K, d) (diagonals), (K, d, d) or a `Spectrum` of K. Singular covariances are allowed; `log_prob` alone
    needs them definite.

    Raises ValueError for shapes that disagree, weights that are not a probability vector, values that are
    not finite, matrices that are not symmetric or negative eigenvalues.
    """

    weights: Array
    means: Array
    covariances: Spectrum

    def __init__(self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike | Spectrum) -> None:
        weights, means = _check_mixture(weights, means)
        set_fields(
            self,
            weights=weights,
            means=means,
            covariances=_diagonalize("covariances", covariances, means.shape),
        )

    def sample(self, key: Key, n: int) -> Array:
        def draw(key: Key) -> tuple[Array, Array]:
            which, normal = jax.random.split(key)
            return (
                _choose(which, self.weights),
                jax.random.normal(normal, self.means.shape[1:], self.means.dtype),
            )

        k, z = per_row(key, n, draw)
        return self.means[k] + _color(self.covariances, k, z)

    def log_prob(self, x: Array) -> Array:
        return _log_prob(self._components(), x)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.means.shape[1:]

    @property
    def scale(self) -> Array:
        return _scale(self.weights, self.means, self.covariances.values.mean(-1))

    def affine(self, scale: Array | float, std: Array | float) -> "GaussianMixture":
        return GaussianMixture(self.weights, scale * self.means, _affine(self.covariances, scale**2, std**2))

    def perturbed(self, schedule: Schedule, t: Time) -> "GaussianMixture":
        return self.affine(schedule.alpha(t), schedule.sigma(t))

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return _exact(self, self._components(), schedule)

    def _components(self) -> "_Components":
        return _Components(
            log_weights=jnp.log(self.weights)[:, None],
            means=self.means,
            values=self.covariances.values[:, None],
            basis=self.covariances.basis,
        )


class ScaleDraw(NamedTuple):
    """What rows x of a `StudentTMixture` tell, for each component k, of a scale w and the noiseless part."""

    share: Array
    """P(k | x), shape (n, K)."""
    weight: Array
    """A draw of w given x and k, shape (n, K)."""
    mean: Array
    """E[noiseless part | x, k, w] - m_k in the eigenbasis of S_k, shape (n, K, d)."""
    variance: Array
    """Its variances in the same basis, shape (n, K, d)."""
    gap: Array
    """E[w - 1 - log w | x, k], shape (n, K)."""


@pytree
@dataclass(frozen=True, init=False, eq=False)
class StudentTMixture:
    """A mixture of multivariate Student t laws with Gaussian noise added: heavy tails, still in closed form.

    Given component k the law is that of m_k + (S_k / w)^(1/2) z + noise_variance^(1/2) z', with
    w ~ Gamma(nu_k / 2, rate nu_k / 2) and z, z' standard normal, so noising a law of this family gives
    another. Its covariance, where nu > 2, is nu / (nu - 2) S + noise_variance I.

    weights has shape (K,), positive with sum 1; means (K, d); scales, the matrices S_k, (K,), (K, d),
    (K, d, d) or a `Spectrum` of K; degrees_of_freedom (K,) or a scalar; noise_variance a scalar.

    Density and denoiser integrate (6) numerically: in float64 log-densities err by less than 1e-7 wherever
    |x - m| is at most 200 scales, and much farther out for nu below 1000 (see `_log_scales`).

    Raises ValueError for shapes that disagree, weights that are not a probability vector, values that are
    not finite, matrices that are not symmetric, negative eigenvalues, degrees of freedom that are not
    positive or a negative noise variance.
    """

    weights: Array
    means: Array
    scales: Spectrum
    degrees_of_freedom: Array
    noise_variance: Array

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        scales: ArrayLike | Spectrum,
        degrees_of_freedom: ArrayLike,
        noise_variance: ArrayLike = 0.0,
    ) -> None:
        weights, means = _check_mixture(weights, means)
        degrees_of_freedom, noise_variance = _floats(degrees_of_freedom), _floats(noise_variance)
        if degrees_of_freedom.shape not in ((), weights.shape):
            raise ValueError(
                f"degrees_of_freedom must be a scalar or have the shape {weights.shape} of weights, "
                f"got {degrees_of_freedom.shape}."
            )
        checks.positive("degrees_of_freedom", degrees_of_freedom)
        checks.shape("noise_variance", noise_variance, ())
        checks.within("noise_variance", noise_variance, 0, np.inf)
        set_fields(
            self,
            weights=weights,
            means=means,
            scales=_diagonalize("scales", scales, means.shape),
            degrees_of_freedom=jnp.broadcast_to(degrees_of_freedom, weights.shape),
            noise_variance=noise_variance,
        )

    def sample(self, key: Key, n: int) -> Array:
        def draw(key: Key) -> tuple[Array, Array, Array]:
            which, scale, normal = jax.random.split(key, 3)
            k = _choose(which, self.weights)
            half = 0.5 * self.degrees_of_freedom[k]
            # The logarithm, because a Gamma of few degrees of freedom underflows.
            log_w = jax.random.loggamma(scale, half, dtype=half.dtype) - jnp.log(half)
            return k, log_w, jax.random.normal(normal, (2, *self.means.shape[1:]), self.means.dtype)

        k, log_w, z = per_row(key, n, draw)
        heavy = jnp.exp(-0.5 * log_w)[:, None] * _color(self.scales, k, z[:, 0])
        return self.means[k] + heavy + jnp.sqrt(self.noise_variance) * z[:, 1]

    def log_prob(self, x: Array) -> Array:
        return _log_prob(self._components(), x)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.means.shape[1:]

    @property
    def scale(self) -> Array:
        """Over all entries; components of fewer than 3 degrees of freedom count as if of 3."""
        nu = jnp.maximum(self.degrees_of_freedom, 3.0)
        return _scale(
            self.weights, self.means, nu / (nu - 2) * self.scales.values.mean(-1) + self.noise_variance
        )

    def affine(self, scale: Array | float, std: Array | float) -> "StudentTMixture":
        return StudentTMixture(
            self.weights,
            scale * self.means,
            _affine(self.scales, scale**2, 0.0),
            self.degrees_of_freedom,
            scale**2 * self.noise_variance + std**2,
        )

    def perturbed(self, schedule: Schedule, t: Time) -> "StudentTMixture":
        return self.affine(schedule.alpha(t), schedule.sigma(t))

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return _exact(self, self._components(), schedule)

    def draw_scales(self, key: Key, x: Array) -> ScaleDraw:
        """A draw of each component's scale for rows x, shape (n, d); row i depends on (key, i) only."""
        checks.shape("x", x, (None, self.means.shape[1]))
        components = self._components()
        y = jax.vmap(lambda nu: _log_scales(nu, x.shape[1])[0])(self.degrees_of_freedom)

        def one(row: tuple[Array, Array]) -> ScaleDraw:
            number, x = row
            u = _project(components, x, 1.0)
            log_joint = _log_joint(components, u, components.values)
            posterior = jax.nn.softmax(log_joint, axis=1)
            keys = jax.random.split(jax.random.fold_in(key, number), len(u))
            chosen = jax.vmap(_choose)(keys, posterior)[:, None]
            variances = jnp.take_along_axis(components.values, chosen[..., None], axis=1)[:, 0]
            kept = 1 - self.noise_variance / variances
            return ScaleDraw(
                share=jax.nn.softmax(jax.nn.logsumexp(log_joint, axis=1)),
                weight=jnp.exp(-jnp.take_along_axis(y, chosen, axis=1)[:, 0]),
                mean=kept * u,
                variance=jnp.broadcast_to(kept * self.noise_variance, u.shape),
                gap=jnp.sum(posterior * (jnp.expm1(-y) + y), axis=1),
            )

        rows = max(1, _CHUNK // components.values.size)
        return jax.lax.map(one, (jnp.arange(len(x)), x), batch_size=rows)

    def _components(self) -> "_Components":
        d = self.means.shape[-1]
        y, log_mass = jax.vmap(lambda nu: _log_scales(nu, d))(self.degrees_of_freedom)
        return _Components(
            log_weights=jnp.log(self.weights)[:, None] + log_mass,
            means=self.means,
            values=jnp.exp(y)[:, :, None] * self.scales.values[:, None] + self.noise_variance,
            basis=self.scales.basis,
        )


@pytree
@dataclass(frozen=True, init=False, eq=False)
class Empirical:
    """The uniform law on the rows of points, shape (n, d): what a network that memorizes would denoise to.

    E[data | x] is the mean of the points under weights softmax(-|x - alpha points|^2 / (2 sigma^2)). The
    squares come from a matrix product, O(batch n) memory, on centered points: a logit errs by about
    eps |x| |point| / sigma^2, which matters only where points lie within a few sigma of one another.

    Raises ValueError for a shape that is not (n, d), n >= 1, or values that are not finite.
    """

    points: Array

    def __init__(self, points: ArrayLike) -> None:
        points = _floats(points)
        checks.shape("points", points, (None, None))
        if points.shape[0] == 0:
            raise ValueError("points must hold at least one row, got none.")
        checks.finite("points", points)
        set_fields(self, points=points)

    def sample(self, key: Key, n: int) -> Array:
        return self.points[per_row(key, n, lambda key: jax.random.randint(key, (), 0, self.points.shape[0]))]

    def log_prob(self, x: Array) -> Array:
        """Raise ValueError: a finite set has no density."""
        raise ValueError(
            "an Empirical law sits on finitely many points and has no density; noise it first, "
            "law.perturbed(schedule, t).log_prob(x)."
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.points.shape[1:]

    @property
    def scale(self) -> Array:
        return jnp.sqrt(jnp.mean(self.points.var(0)))

    def affine(self, scale: Array | float, std: Array | float) -> GaussianMixture:
        n = self.points.shape[0]
        weights = jnp.full((n,), 1 / n, self.points.dtype)
        variances = jnp.broadcast_to(jnp.asarray(std, self.points.dtype) ** 2, (n, 1))
        return GaussianMixture(weights, scale * self.points, Spectrum(variances))

    def perturbed(self, schedule: Schedule, t: Time) -> GaussianMixture:
        return self.affine(schedule.alpha(t), schedule.sigma(t))

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return _known_everywhere(self, _Nearest(self.points), schedule)


@pytree
@dataclass(frozen=True, eq=False)
class _Nearest:
    """The denoiser of an `Empirical` law."""

    points: Array

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        schedule = denoiser.schedule
        center = self.points.mean(0)
        centered = self.points - center[None]
        halved_squares = 0.5 * jnp.sum(centered**2, axis=-1)

        def one(x: Array, t: Time) -> Denoised:
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            inner = jnp.matmul(centered, x - alpha * center, precision=_PRECISION)
            weights = jax.nn.softmax((alpha / sigma**2) * (inner - alpha * halved_squares))
            data = jnp.matmul(weights, self.points, precision=_PRECISION)
            # The subtraction is no loss here: points are isolated at a small sigma, so noise answers to a
            # rounding of x or of alpha with just this error.
            return Denoised(data, (x - alpha * data) / sigma)

        return jax.vmap(one, in_axes=(0, time_axis(t)))(x, t)


class _Components(NamedTuple):
    """The mixture (1): K means with N spectra each that share a basis."""

    log_weights: Array  # (K, N)
    means: Array  # (K, d)
    values: Array  # (K, N, d), or (K, N, 1) for multiples of the identity
    basis: Array | None  # (K, d, d)


def _project(components: _Components, x: Array, alpha: Array | float) -> Array:
    """u of (3) for one x of shape (d,); shape (K, d)."""
    u = x[None] - alpha * components.means
    if components.basis is None:
        return u
    return jnp.einsum("kde,kd->ke", components.basis, u, precision=_PRECISION)


def _combine(components: _Components, v: Array) -> Array:
    """sum_k B_k v_k for v of shape (K, d)."""
    if components.basis is None:
        return v.sum(0)
    return jnp.einsum("kde,ke->d", components.basis, v, precision=_PRECISION)


def _log_joint(components: _Components, u: Array, variances: Array) -> Array:
    """log P(k, n) N(u_k; 0, Q_kn), shape (K, N), with variances the diagonals of Q of (2).

    Under vmap over points the quadratic forms of all N spectra are one matrix product per mean.
    """
    d, distinct = u.shape[-1], variances.shape[-1]
    squares = u**2 if distinct == d else jnp.sum(u**2, axis=-1, keepdims=True)
    quadratic = jnp.einsum("kd,knd->kn", squares, 1 / variances, precision=_PRECISION)
    log_det = (d // distinct) * jnp.sum(jnp.log(variances), axis=-1)
    return components.log_weights - 0.5 * (quadratic + log_det + d * math.log(2 * math.pi))


def _log_prob(components: _Components, x: Array) -> Array:
    x = jnp.asarray(x)
    d = components.means.shape[-1]
    if x.ndim == 0 or x.shape[-1] != d:
        raise ValueError(f"x must have shape (..., {d}), got {x.shape}.")
    checks.positive("every variance of a law with a density (noise a singular law first)", components.values)

    def one(x: Array) -> Array:
        u = _project(components, x, 1.0)
        return jax.nn.logsumexp(_log_joint(components, u, components.values))

    return jax.vmap(one)(x.reshape(-1, d)).reshape(x.shape[:-1])


def _exact(law: Distribution, components: _Components, schedule: Schedule) -> Denoiser:
    return _known_everywhere(law, _Posterior(components), schedule)


def _known_everywhere(law: Distribution, estimate: Estimate, schedule: Schedule) -> Denoiser:
    """A denoiser at all times of the schedule, of a law's shape and scale."""
    checks.schedule(schedule)
    return Denoiser(estimate, schedule, law.shape, law.scale, schedule.t_min, schedule.t_max)


@pytree
@dataclass(frozen=True, eq=False)
class _Posterior:
    """Eqs. (2) to (5)."""

    components: _Components

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        schedule, components = denoiser.schedule, self.components

        def one(x: Array, t: Time) -> Denoised:
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            variances = alpha**2 * components.values + sigma**2
            u = _project(components, x, alpha)
            posterior = jax.nn.softmax(_log_joint(components, u, variances), axis=(0, 1))
            mean = jnp.matmul(posterior.sum(1), components.means, precision=_PRECISION)
            to_data, to_noise = (
                jnp.einsum("kn,knd->kd", posterior, gain, precision=_PRECISION)
                for gain in (alpha * components.values / variances, sigma / variances)
            )
            return Denoised(mean + _combine(components, to_data * u), _combine(components, to_noise * u))

        if jnp.ndim(t) == 0:  # the variances belong to the whole batch
            return jax.vmap(one, in_axes=(0, None))(x, t)
        rows = max(1, _CHUNK // max(components.values.size, components.means.size))
        return jax.lax.map(lambda row: one(*row), (x, t), batch_size=rows)


def _log_scales(nu: Array, d: int) -> tuple[Array, Array]:
    """Nodes y and log-masses of the trapezoidal rule for (6), each of shape (N,); nu is a scalar.

    One even grid for every x, rather than nodes centered on each posterior of y. With noise that posterior
    can have two peaks, which a centered rule misses; and a grid that x does not enter makes the quadrature
    a mixture (1), whose cost is two matrix products.

    The step. Without noise the integrand is exp(-a y - b e^-y), a = (nu + d) / 2, of width a^(-1/2), and the
    rule errs by |Gamma(a + i w) / Gamma(a)|, w = 2 pi / step, below 1e-9 here. Noise, which tells nothing
    of y, does not sharpen it.
    The lower end. The posterior of w is stochastically below Gamma(a, rate nu / 2), whatever x and the
    noise, and P(Gamma(a) > a + sqrt(2 a r) + r) <= e^-r; r = 23 gives 1e-10.
    The upper end is what N nodes reach. The posterior sits at e^y = (nu + |x|^2) / (nu + d), in units of
    the scale, and decays like e^(-a y) above it. N grows like sqrt(d), as the inverse of the step does:
    y reaches above 30 for nu up to 10, hence any x in reach of a sampler, and |x| = 200 for every nu.
    """
    num_nodes = 128 + 24 * math.isqrt(d)
    a = 0.5 * (nu + d)
    step = 2 * math.pi / jnp.sqrt(256 + 50 * a)
    w_max = (a + jnp.sqrt(46 * a) + 23) / (0.5 * nu)
    y = step * jnp.arange(num_nodes) - jnp.log(w_max)
    log_density = -0.5 * nu * (y + jnp.exp(-y)) + 0.5 * nu * jnp.log(0.5 * nu) - jax.lax.lgamma(0.5 * nu)
    return y, log_density + jnp.log(step)


def _diagonalize(name: str, covariance: ArrayLike | Spectrum, shape: tuple[int, ...]) -> Spectrum:
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
    matrix = _floats(covariance)
    if matrix.shape not in wanted:
        raise ValueError(
            f"{name} must have the shape {wanted[0]} (isotropic), {wanted[1]} (diagonal) or {wanted[2]} "
            f"(full) to go with means of shape {shape}, got {matrix.shape}."
        )
    checks.finite(name, matrix)
    if matrix.shape != wanted[2]:
        spectrum = Spectrum(matrix[..., None] if matrix.shape == wanted[0] else matrix)
        slack = 0.0
    else:
        slack = float(np.sqrt(jnp.finfo(matrix.dtype).eps))
        known = checks.known(matrix)
        if known is not None and known.size:
            skew = np.abs(known - np.swapaxes(known, -1, -2)).max()
            if skew > slack * np.abs(known).max():
                raise ValueError(
                    f"{name} must be symmetric, but entries differ from their mirror images by up to "
                    f"{skew:g}; pass (matrix + matrix.T) / 2 if that is what is meant."
                )
        spectrum = Spectrum(*jnp.linalg.eigh(matrix))
    values = checks.known(spectrum.values)
    if values is not None and (values < -slack * np.abs(values).max(initial=0)).any():
        raise ValueError(f"{name} must have no negative eigenvalue, got one of {values.min():g}.")
    return spectrum._replace(values=jnp.maximum(spectrum.values, 0))  # what rounding left below zero


def _affine(spectrum: Spectrum, scale: Array | float, shift: Array | float) -> Spectrum:
    """The spectrum of scale covariance + shift I."""
    return spectrum._replace(values=scale * spectrum.values + shift)


def _check_mixture(weights: ArrayLike, means: ArrayLike) -> tuple[Array, Array]:
    weights, means = _floats(weights), _floats(means)
    checks.shape("weights", weights, (None,))
    checks.shape("means", means, (weights.shape[0], None))
    checks.positive("weights", weights)
    checks.finite("means", means)
    values = checks.known(weights)
    if values is not None and abs(values.sum(dtype=np.float64) - 1) > 1e-5:
        raise ValueError(f"weights must sum to 1, got {values.sum():g}; divide them by their sum.")
    return weights, means


def _scale(weights: Array, means: Array, variances: Array) -> Array:
    """Root of the mean variance of a mixture whose components have mean variances (K,)."""
    spread = means - (weights @ means)[None]
    return jnp.sqrt(weights @ (variances + jnp.mean(spread**2, axis=1)))


def _choose(key: Key, weights: Array) -> Array:
    """A component number; by inversion, which for many components is far cheaper than Gumbel noise."""
    return jax.random.choice(key, weights.shape[0], p=weights)


def _color(spectrum: Spectrum, k: Array, z: Array) -> Array:
    """Rows of z, shape (n, d), given the covariances of the components k, shape (n,)."""
    z = jnp.sqrt(spectrum.values)[k] * z
    if spectrum.basis is None:
        return z

    # Component by component, since a basis per row would be n d^2 numbers.
    def rotate(rows: Array, component: tuple[Array, Array]) -> tuple[Array, None]:
        number, basis = component
        turned = jnp.matmul(z, basis.T, precision=_PRECISION)
        return jnp.where((k == number)[:, None], turned, rows), None

    return jax.lax.scan(rotate, z, (jnp.arange(spectrum.basis.shape[0]), spectrum.basis))[0]


def _floats(x: ArrayLike) -> Array:
    """An array of floating-point numbers: x's own dtype if it is one, else the default."""
    x = jnp.asarray(x)
    return x.astype(jnp.result_type(x, float))
