"""Normalizing flows as start laws: a bijection of Gaussian coordinates, fitted by maximum likelihood.

With m and C the moments of x = alpha data + sigma noise at the start of a sampler,

    u = C^(-1/2) (x - m),    C^(1/2) symmetric, so that a pixel stays where it is                   (1)
    z = f(u) ~ N(0, I)                                                                              (2)
    log p(x) = log N(f(u); 0, I) + log |det f'(u)| - 1/2 log det C                                  (3)
             = log N(x; m, C) + gain(u),
    gain(u)  = 1/2 |u|^2 - 1/2 |f(u)|^2 + log |det f'(u)|                                           (4)

so a flow whose f is the identity is the Gaussian, and what it learns is the gain over that Gaussian, whose
mean under the law of x is KL(x || Gaussian) - KL(x || flow). Where the data's tails are heavy (2) may be a
Student t law of covariance I, whose logarithm (4) then has; where d is large C may be of low rank. Starting a
sampler from a flow fitted to noised data is from Fassina et al., arXiv 2603.00772. f is any bijection with
the two methods of `jaxdiff.models.SplineCoupling`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.chunks import map_rows
from jaxdiff._numerics.randomness import per_row
from jaxdiff.sampling.whitening import Whitening, mean, stretch
from jaxdiff.typing import Array, Key, Params

ROWS = 4096  # that a bijection is called on at once, and the least number for an evaluation


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Flow:
    """The law (3) on arrays of the given shape, the Gaussian being that of the flattened array.

    Under a model with classes it is the law of no class until `conditioned` on one.
    """

    gaussian: Whitening
    params: Params
    model: nn.Module = dataclasses.field(metadata={"static": True})
    """``apply(params, u, labels, guidance=...) -> (z, log_det)``, and its method "inverse", z -> u."""
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    degrees_of_freedom: float | None = dataclasses.field(default=None, metadata={"static": True})
    """Of z: None for N(0, I), a number above 2 for the Student t law of covariance I."""
    label: Array | None = None
    guidance: Array | None = None

    def conditioned(self, label: ArrayLike, guidance: ArrayLike | None = None) -> Flow:
        """The law of class label, a scalar integer in 0, ..., num_classes; the last is "no class".

        guidance, a scalar g, extrapolates the bijection's parameters away from those of no class, as the
        model says; it doubles the cost, and the density stays exact. Raises ValueError for a model without
        classes or a label out of range.
        """
        num_classes = num_classes_of(self.model)
        if num_classes is None:
            raise ValueError("The flow's model has no classes; build it with num_classes=... to have labels.")
        label = jnp.asarray(label)
        checks.shape("label", label, ())
        checks.integers("label", label)
        checks.within("label", label, 0, num_classes)
        if guidance is not None:
            guidance = jnp.asarray(guidance, mean(self.gaussian).dtype)
            checks.shape("guidance", guidance, ())
        return dataclasses.replace(self, label=label, guidance=guidance)

    def sample(self, key: Key, n: int) -> Array:
        """Draw n points, shape (n, *shape); point i depends on (key, i) only."""
        checks.key(key)
        checks.integer("n", n, 1)
        return _sample(self, key, n)

    def log_prob(self, x: Array) -> Array:
        """Log-density in nats of x, shape (..., *shape) -> (...), in single precision or better."""
        x = jnp.asarray(x)
        checks.floating("x", x)
        lead = x.shape[: x.ndim - len(self.shape)]
        if x.shape != (*lead, *self.shape):
            raise ValueError(f"x must have shape {checks.shown_shape(('...', *self.shape))}, got {x.shape}.")
        return _log_prob(self, x)

    def _labels(self, n: int) -> Array | None:
        num_classes = num_classes_of(self.model)
        if num_classes is None:
            return None
        return jnp.full((n,), num_classes if self.label is None else self.label)


@functools.partial(jax.jit, static_argnames="n")
def _sample(flow: Flow, key: Key, n: int) -> Array:
    center = mean(flow.gaussian)

    def draw(key: Key) -> Array:
        if flow.degrees_of_freedom is None:
            return jax.random.normal(key, center.shape, center.dtype)
        normal_key, chi_key = jax.random.split(key)
        z = jax.random.normal(normal_key, center.shape, center.dtype)
        chi = 2 * jax.random.gamma(chi_key, flow.degrees_of_freedom / 2, (), center.dtype)
        return z * jnp.sqrt((flow.degrees_of_freedom - 2) / chi)

    z = per_row(key, n, draw)

    def invert(z: Array) -> Array:
        rows = z.shape[0]
        images, labels = z.reshape(rows, *flow.shape), flow._labels(rows)
        inverse: Any = flow.model.apply(flow.params, images, labels, guidance=flow.guidance, method="inverse")
        return stretch(flow.gaussian, inverse.reshape(z.shape), 0.5)

    return (center[None] + by_chunks(invert, z)).reshape(n, *flow.shape)


@jax.jit
def _log_prob(flow: Flow, x: Array) -> Array:
    gaussian, lead = flow.gaussian, x.shape[: x.ndim - len(flow.shape)]
    x = x.reshape(-1, math.prod(flow.shape)).astype(jnp.promote_types(x.dtype, mean(gaussian).dtype))

    def log_prob(x: Array) -> Array:
        u = stretch(gaussian, x - mean(gaussian)[None], -0.5).reshape(-1, *flow.shape)
        base = flow.degrees_of_freedom
        gain = gain_over_gaussian(flow.model, base, flow.params, u, flow._labels(len(x)), flow.guidance)
        return gaussian.log_prob(x) + gain

    return by_chunks(log_prob, x).reshape(lead)


def gain_over_gaussian(
    model: nn.Module,
    degrees_of_freedom: float | None,
    params: Params,
    u: Array,
    labels: Array | None,
    guidance: Array | None,
) -> Array:
    """Eq. (4) of rows u, or what stands for it under a Student t law of z; shape (batch,)."""
    answer: Any = model.apply(params, u, labels, guidance=guidance)
    z, log_det = answer
    if degrees_of_freedom is None:
        # |u|^2 - |z|^2 without the difference of large numbers.
        return 0.5 * jnp.sum(((u - z) * (u + z)).reshape(len(u), -1), axis=1) + log_det
    nu, d = degrees_of_freedom, math.prod(u.shape[1:])
    squares = (jnp.sum(x.reshape(len(u), -1) ** 2, axis=1) for x in (u, z))
    return _student_gain(nu, d, *squares) + log_det


def _student_gain(nu: float, d: int, of_u: Array, of_z: Array) -> Array:
    """log t(z) - log N(u), t the Student law of covariance I, from |u|^2 and |z|^2."""
    constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) + d / 2 * math.log(2 / (nu - 2))
    return constant - (nu + d) / 2 * jnp.log1p(of_z / (nu - 2)) + of_u / 2


def by_chunks(function: Callable[[Any], Array], rows: Any) -> Array:
    """function of rows, on at most ROWS of them at once: memory stays bounded for any number of rows.

    A number that jax.export leaves open cannot be cut into parts.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    if jax.export.is_symbolic_dim(n) or n <= ROWS:
        return function(rows)
    return map_rows(function, rows, ROWS)


def num_classes_of(model: nn.Module) -> int | None:
    """None for a model without classes."""
    return getattr(model, "num_classes", None)
