"""A penalty on the rotations of a denoiser, which the scores of no law have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import per_row, signs_like
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.densities.conservativity import data_spectrum, squared_rotation
from jaxdiff.laws.components import Spectrum
from jaxdiff.typing import Array, Key, Time


def conservativity_loss(
    key: Key,
    denoise: Denoiser,
    x: Array,
    t: Time,
    *,
    data_covariance: ArrayLike | Spectrum | None = None,
    num_probes: int = 1,
) -> Array:
    """The squared length of the rotational part of N at noised x, shape (batch, *denoise.shape); (batch,).

    sum_ij h_ij A_ij^2 of eq. (2) in `jaxdiff.densities.conservativity`, A the antisymmetric part of dN/dx,
    unbiased from num_probes products with the Jacobian and with its transpose. It is in the units of
    `regression_loss` with ``weight=prediction.noise.row``, and about that part of it which rotations make:
    add the two. With a rotation the bound on the likelihood falls and the probability flow stays.

        loss = regression_loss(denoise, x, target, t, weight=prediction.noise.row).mean()
        loss += strength * conservativity_loss(key, denoise, x[::4], t[::4]).mean()

    A quarter of the batch doubles the cost of a step. The network gives up fit for it: see
    `experiments.density.conservativity` for how much.
    data_covariance is that of `rotation_curve`. Raises TypeError for what is no key or denoiser, and
    ValueError for num_probes below 1, and for x and t as `regression_loss` does.

    >>> law = jd.Gaussian([0.0, 0.0], 1.0).denoiser(jd.Karras())
    >>> loss = jd.conservativity_loss(jax.random.key(0), law, jnp.ones((1, 2)), 1.0)
    >>> loss.tolist()  # a law's noise is a gradient
    [0.0]
    """
    checks.key(key)
    checks.integer("num_probes", num_probes, 1)
    check_denoiser("denoise", denoise)
    checks.batch("x", x, t)
    denoise.check_shape("x", x)
    denoise.check_times("t", t)
    spectrum = data_spectrum(denoise, data_covariance)
    return _conservativity_loss(key, denoise, x, t, spectrum, num_probes=num_probes)


@compiled(static="num_probes")
def _conservativity_loss(
    key: Key, denoise: Denoiser, x: Array, t: Time, spectrum: Spectrum, *, num_probes: int
) -> Array:
    x = single(x)
    sign_key, place_key = jax.random.split(key)
    places = per_row(place_key, len(x), lambda key: jax.random.uniform(key, (num_probes,), x.dtype))
    places = (jnp.arange(num_probes)[:, None] + places.T) / num_probes
    signs = signs_like(sign_key, x, num_probes)
    return squared_rotation(denoise, x, jnp.broadcast_to(t, x.shape[:1]), spectrum, signs, places)
