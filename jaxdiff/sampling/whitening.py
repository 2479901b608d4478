"""Powers of a covariance on rows of data: dense, or of low rank beside a multiple of the identity.

    C = B diag(lambda) B'                 C^p x = B diag(lambda^p) B' x,         d^2 numbers        (1)
    C = F F' + s^2 I, F'F diagonal        C^p x = s^2p x + F diag(g) F' x,       d r numbers        (2)
    g_i = ((l_i + s^2)^p - s^2p) / l_i,   l_i = |F_i|^2

since C is (l_i + s^2) on F_i / |F_i| and s^2 on all that is orthogonal to these.
"""

from __future__ import annotations

from typing import TypeAlias, cast

import jax
import jax.numpy as jnp

from jaxdiff.laws.factor_fitting import fit_low_rank
from jaxdiff.laws.factors import FactorMixture
from jaxdiff.laws.fitting import fit_gaussian
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.typing import Array

_PRECISION = jax.lax.Precision.HIGHEST

Whitening: TypeAlias = Gaussian | FactorMixture
"""A Gaussian, with (1), or that of `fit_low_rank`, with (2)."""


def fit_whitening(x: Array, rank: int | None) -> Whitening:
    """The Gaussian of the moments of x, (n, d), its covariance dense or of a rank."""
    return cast(Whitening, fit_gaussian(x) if rank is None else fit_low_rank(x, rank))


def mean(law: Whitening) -> Array:
    """Shape (d,)."""
    return law.mean if isinstance(law, Gaussian) else law.means[0]


def stretch(law: Whitening, x: Array, power: float) -> Array:
    """C^power x for the rows of x, shape (n, d)."""
    if isinstance(law, Gaussian):
        values, basis = law.covariance
        scale = (values**power)[None]
        if basis is None:
            return scale * x
        x = scale * jnp.matmul(x, basis, precision=_PRECISION)
        return jnp.matmul(x, basis.T, precision=_PRECISION)
    factors, rest = law.factors[0], law.variances[0, 0]
    lengths = jnp.sum(factors**2, axis=0)
    # A column of no length adds nothing, whatever it is divided by.
    gain = ((lengths + rest) ** power - rest**power) / jnp.where(lengths > 0, lengths, 1.0)
    along = jnp.matmul(x, factors, precision=_PRECISION)
    return rest**power * x + jnp.matmul(gain[None] * along, factors.T, precision=_PRECISION)
