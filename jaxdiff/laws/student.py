"""Mixtures of multivariate Student t laws under Gaussian noise: heavy tails, by quadrature.

A Student t is a mixture over a scale w ~ Gamma(nu/2, rate nu/2). With y = -log w and v the noise variance,

    p(x) = int N(x; m, e^y S + v I) g(y) dy,
    log g(y) = -nu/2 (y + e^-y) + nu/2 log(nu/2) - log Gamma(nu/2),                                  (1)

which the trapezoidal rule turns into a mixture of Gaussians with N spectra to a mean, see `_log_scales`; the
rest is `jaxdiff.laws.components`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws import components as machinery
from jaxdiff.laws.components import (
    Components,
    Posterior,
    Spectrum,
    at_level,
    check_affine,
    check_mixture,
    choose,
    color,
    diagonalized,
    floats,
    known_everywhere,
    mixture_scale,
    rescaled,
)
from jaxdiff.typing import Array, Key, Schedule, Time


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

    Density and denoiser integrate (1) numerically: in float64 log-densities err by less than 1e-7 wherever
    |x - m| is at most 200 scales, and much farther out for nu below 1000 (see `_log_scales`).

    Raises ValueError for shapes that disagree, weights that are not a probability vector, values that are
    not finite, matrices that are not symmetric, negative eigenvalues, degrees of freedom that are not
    positive or a negative noise variance.

    >>> law = jd.StudentTMixture([1.0], [[0.0]], [1.0], [3.0])
    >>> round(float(law.scale), 4)  # 3^(1/2)
    1.7321
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
        weights, means = check_mixture(weights, means)
        degrees_of_freedom, noise_variance = floats(degrees_of_freedom), floats(noise_variance)
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
            scales=diagonalized("scales", scales, means.shape),
            degrees_of_freedom=jnp.broadcast_to(degrees_of_freedom, weights.shape),
            noise_variance=noise_variance,
        )

    def sample(self, key: Key, n: int) -> Array:
        checks.integer("n", n, 1)
        return self._sample(key, n)

    @compiled(static="n")
    def _sample(self, key: Key, n: int) -> Array:
        def draw(key: Key) -> tuple[Array, Array, Array]:
            which, scale, normal = jax.random.split(key, 3)
            k = choose(which, self.weights)
            half = 0.5 * self.degrees_of_freedom[k]
            # The logarithm, because a Gamma of few degrees of freedom underflows.
            log_w = jax.random.loggamma(scale, half, dtype=half.dtype) - jnp.log(half)
            return k, log_w, jax.random.normal(normal, (2, *self.means.shape[1:]), self.means.dtype)

        k, log_w, z = per_row(key, n, draw)
        heavy = jnp.exp(-0.5 * log_w)[:, None] * color(self.scales, k, z[:, 0])
        return self.means[k] + heavy + jnp.sqrt(self.noise_variance) * z[:, 1]

    def log_prob(self, x: Array) -> Array:
        return self._components().log_prob(x)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.means.shape[1:]

    @property
    @compiled
    def scale(self) -> Array:
        """Over all entries; components of fewer than 3 degrees of freedom count as if of 3."""
        nu = jnp.maximum(self.degrees_of_freedom, 3.0)
        return mixture_scale(
            self.weights, self.means, nu / (nu - 2) * self.scales.values.mean(-1) + self.noise_variance
        )

    def affine(self, scale: Array | float, std: Array | float) -> StudentTMixture:
        check_affine(scale, std)
        return self._affine(scale, std)

    @compiled
    def _affine(self, scale: Array | float, std: Array | float) -> StudentTMixture:
        return StudentTMixture(
            self.weights,
            scale * self.means,
            rescaled(self.scales, scale**2, 0.0),
            self.degrees_of_freedom,
            scale**2 * self.noise_variance + std**2,
        )

    def perturbed(self, schedule: Schedule, t: Time) -> StudentTMixture:
        return at_level(self, schedule, t)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        return known_everywhere(self, Posterior(self._components()), schedule)

    def draw_scales(self, key: Key, x: Array) -> ScaleDraw:
        """A draw of each component's scale for rows x, shape (n, d); row i depends on (key, i) only."""
        checks.shape("x", x, (None, self.means.shape[1]))
        components = self._components()
        y = jax.vmap(lambda nu: _log_scales(nu, x.shape[1])[0])(self.degrees_of_freedom)

        def one(row: tuple[Array, Array]) -> ScaleDraw:
            number, x = row
            u = components.project(x, 1.0)
            log_joint = components.log_joint(u, components.values)
            posterior = jax.nn.softmax(log_joint, axis=1)
            keys = jax.random.split(jax.random.fold_in(key, number), len(u))
            chosen = jax.vmap(choose)(keys, posterior)[:, None]
            variances = jnp.take_along_axis(components.values, chosen[..., None], axis=1)[:, 0]
            kept = 1 - self.noise_variance / variances
            return ScaleDraw(
                share=jax.nn.softmax(jax.nn.logsumexp(log_joint, axis=1)),
                weight=jnp.exp(-jnp.take_along_axis(y, chosen, axis=1)[:, 0]),
                mean=kept * u,
                variance=jnp.broadcast_to(kept * self.noise_variance, u.shape),
                gap=jnp.sum(posterior * (jnp.expm1(-y) + y), axis=1),
            )

        rows = max(1, machinery.CHUNK // components.values.size)
        return jax.lax.map(one, (jnp.arange(len(x)), x), batch_size=rows)

    @compiled
    def _components(self) -> Components:
        d = self.means.shape[-1]
        y, log_mass = jax.vmap(lambda nu: _log_scales(nu, d))(self.degrees_of_freedom)
        return Components(
            log_weights=jnp.log(self.weights)[:, None] + log_mass,
            means=self.means,
            values=jnp.exp(y)[:, :, None] * self.scales.values[:, None] + self.noise_variance,
            basis=self.scales.basis,
        )


def _log_scales(nu: Array, d: int) -> tuple[Array, Array]:
    """Nodes y and log-masses of the trapezoidal rule for (1), each of shape (N,); nu is a scalar.

    One even grid for every x, rather than nodes centered on each posterior of y. With noise that posterior
    can have two peaks, which a centered rule misses; and a grid that x does not enter makes the quadrature
    a mixture, whose cost is two matrix products.

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
