"""Denoisers of data that are seen through an operator: y = A data + std noise.

With r = y - A D and V = Cov[data | x_t] = (sigma^2 / alpha) dD/dx, to the gradient of log p(y | x_t) is put

    h = (dD/dx)' A' (std^2 + A C A')^-1 r,            a score of x_t given y                          (1)

for some guess C of V: V itself (MMPS), its sums over rows on the diagonal (TMPD), rho^2 I (PiGDM), or none at
all and |r| in the place of the inverse (DPS). With rho^2 I for V in the data's own move too, nothing is
differentiated (DiffPIR). The inverse is by conjugate gradients.

Where they are not exact, draw by `ancestral()`: its noise mends what a guess gets wrong. MEASURED, MMPS with
four iterations, eight Gaussians in d = 8, two numbers seen, sliced W_2 over four observations at 9 and 45
steps (2026-11-29): the default 1.01 and .79, order 1 .73 and .77, `ancestral()` .68 and .66.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.guidance.tilted import bound, noise_after, scales, shifted, transformed
from jaxdiff.inverse.operators import Operator
from jaxdiff.typing import Array, Denoised

_TINY = 1e-30


def mmps(
    denoise: Denoiser, operator: Operator, y: Array, std: Array | float, *, num_iterations: int = 8
) -> Denoiser:
    """Moment matching, C = V: exact for any Gaussian prior. Rozet et al. 2024, arXiv 2405.13712.

    y: one observation, of operator.observed; `jax.vmap` takes several. std: of its noise. num_iterations: of
    conjugate gradients, one vjp each; as many as there are numbers in y are exact. Of other priors it is the
    posterior where the posterior given x_t is nearly Gaussian. Where alpha = 0 it is the prior. Raises
    TypeError for what is no denoiser or operator, ValueError for an operator of another shape, a y of another
    shape, a std that is not positive and num_iterations < 1.

    >>> law, seen = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jd.inverse.mask(jnp.array([True]))
    >>> posterior = jd.inverse.mmps(law, seen, jnp.array([2.0]), 1.0)
    >>> round(float(posterior(jnp.zeros((1, 1)), 1.0).data[0, 0]), 4)  # the mean of 0, 2 and x_t = 0
    0.6667
    """
    return _made(denoise, operator, y, std, "mmps", num_iterations)


def tmpd(
    denoise: Denoiser, operator: Operator, y: Array, std: Array | float, *, num_iterations: int = 8
) -> Denoiser:
    """Row sums of V as a diagonal, C = diag(V 1): exact for Gaussian priors of diagonal covariance.

    Boys et al. 2023, arXiv 2310.06721. Negative sums count as 0. Arguments and errors are those of `mmps`.

    >>> law, seen = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jd.inverse.mask(jnp.array([True]))
    >>> posterior = jd.inverse.tmpd(law, seen, jnp.array([2.0]), 1.0)
    >>> round(float(posterior(jnp.zeros((1, 1)), 1.0).data[0, 0]), 4)  # the mean of 0, 2 and x_t = 0
    0.6667
    """
    return _made(denoise, operator, y, std, "tmpd", num_iterations)


def pigdm(
    denoise: Denoiser,
    operator: Operator,
    y: Array,
    std: Array | float,
    *,
    data_std: Array | float | None = None,
    num_iterations: int = 8,
) -> Denoiser:
    """C = rho^2 I, rho^2 the posterior variance of data of standard deviation data_std, by default the scale.

    Exact for isotropic Gaussian priors of that data_std. Song et al. 2023 (PiGDM). Along a direction in which
    data vary more than that the data are moved too far, by V / rho^2 where noise is large, and may not come
    back: the brightness of a photograph of 3,072 numbers varies tens of times as much as one number does, and
    draws ended at 1e8 or in NaN by the default. Take a larger data_std there, or `mmps`. Other arguments and
    errors are those of `mmps`.

    >>> law, seen = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jd.inverse.mask(jnp.array([True]))
    >>> posterior = jd.inverse.pigdm(law, seen, jnp.array([2.0]), 1.0)
    >>> round(float(posterior(jnp.zeros((1, 1)), 1.0).data[0, 0]), 4)  # the mean of 0, 2 and x_t = 0
    0.6667
    """
    return _of_data_std(denoise, operator, y, std, "pigdm", num_iterations, data_std)


def diffpir(
    denoise: Denoiser,
    operator: Operator,
    y: Array,
    std: Array | float,
    *,
    data_std: Array | float | None = None,
    num_iterations: int = 8,
) -> Denoiser:
    """D + rho^2 A' (std^2 + rho^2 A A')^-1 r, between D and the observation: one call, and no derivative.

    Of `pigdm` with rho^2 I for V throughout, and exact where that is; blind to what the unseen owes to the
    seen but by the prior's next step, so take many steps and a sampler that draws noise, `ancestral()`. A
    data_std that is large beside the noise is Zhu et al. 2023 (DiffPIR, arXiv 2305.08995, at lambda = 1); a
    small std besides DDNM (Wang et al. 2022, arXiv 2212.00490), which puts the seen part in its place.
    Arguments and errors are those of `pigdm`.

    >>> law, seen = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jd.inverse.mask(jnp.array([True]))
    >>> posterior = jd.inverse.diffpir(law, seen, jnp.array([2.0]), 1.0)
    >>> round(float(posterior(jnp.zeros((1, 1)), 1.0).data[0, 0]), 4)  # the mean of 0, 2 and x_t = 0
    0.6667
    """
    return _of_data_std(denoise, operator, y, std, "diffpir", num_iterations, data_std)


def dps(denoise: Denoiser, operator: Operator, y: Array, *, step: Array | float = 1.0) -> Denoiser:
    """h = step (dD/dx)' A' r / |r|: exact for no law; `mmps` costs a few products more and has no step.

    Chung et al. 2022, arXiv 2209.14687, whose step this is in terms of the score: the data move by
    (sigma^2 / alpha) h. Other arguments and errors are those of `mmps`.

    >>> law, seen = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jd.inverse.mask(jnp.array([True]))
    >>> posterior = jd.inverse.dps(law, seen, jnp.array([2.0]), step=1.0)
    >>> round(float(posterior(jnp.zeros((1, 1)), 1.0).data[0, 0]), 4)  # dD/dx, whatever y lacks
    0.5
    """
    checks.positive_number("step", step)
    return _made(denoise, operator, y, 1.0, "dps", 1, step)


def _of_data_std(
    denoise: Denoiser,
    operator: Operator,
    y: Array,
    std: Array | float,
    kind: str,
    num_iterations: int,
    data_std: Array | float | None,
) -> Denoiser:
    """Of those that take the data for isotropic."""
    check_denoiser("denoise", denoise)
    data_std = denoise.scale if data_std is None else data_std
    checks.positive_number("data_std", data_std)
    return _made(denoise, operator, y, std, kind, num_iterations, data_std)


def _made(
    denoise: Denoiser,
    operator: Operator,
    y: Array,
    std: Array | float,
    method: str,
    num_iterations: int,
    number: Array | float = 1.0,
) -> Denoiser:
    check_denoiser("denoise", denoise)
    check_observation(denoise, operator, y, std)
    checks.integer("num_iterations", num_iterations, 1)
    return transformed(denoise, _Posterior(denoise, operator, y, std, method, num_iterations, number))


def check_observation(denoise: Denoiser, operator: Operator, y: Array, std: Array | float) -> None:
    """Errors of `mmps` in its operator, y and std."""
    check_operator(operator, y, std)
    if operator.shape != denoise.shape:
        raise ValueError(f"operator must be of data of shape {denoise.shape}, got one of {operator.shape}.")


def check_operator(operator: Operator, y: Array, std: Array | float) -> None:
    """Those that need no denoiser."""
    if not isinstance(operator, Operator):
        raise TypeError(
            f"operator must be linear(function, shape) or a mask, got {checks.described(operator)}."
        )
    checks.shape("y", y, operator.observed)
    checks.finite("y", y)
    checks.positive_number("std", std)


@pytree
@dataclass(frozen=True, eq=False)
class _Posterior:
    inner: Denoiser
    operator: Operator
    y: Array
    std: Array | float
    method: str
    num_iterations: int
    number: Array | float
    """The step of DPS, the data's standard deviation of PiGDM and DiffPIR; of the others nothing."""

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        x, inner = single(x), bound(self.inner, denoiser)

        def mean(x: Array) -> tuple[Array, Denoised]:
            answer = inner(x, t)
            return answer.data, answer

        if self.method == "diffpir":
            pull, (data, answer) = lambda v: (v,), mean(x)
        else:
            data, pull, answer = jax.vjp(mean, x, has_aux=True)
        residual = jnp.asarray(self.y)[None].astype(data.dtype) - self.operator.apply(data)
        alpha, sigma = scales(denoiser.schedule, t, x)
        if self.method == "dps":
            weighed = self.number * residual / jnp.sqrt(_rows(residual, residual) + _TINY)
            return shifted(denoiser.schedule, x, t, answer, pull(self.operator.adjoint(weighed))[0])
        gain = jnp.where(alpha > 0, sigma**2 / jnp.where(alpha > 0, alpha, 1.0), 0.0)
        spread = self._covariance(pull, gain, alpha, sigma, data)

        def product(v: Array) -> Array:
            return self.std**2 * v + self.operator.apply(spread(self.operator.adjoint(v)))

        weighed = self.operator.adjoint(solve(product, residual, self.num_iterations, self.std**2))
        if self.method == "diffpir":
            change = spread(weighed)
            return Denoised(data + change, noise_after(denoiser.schedule, x, t, answer.noise, change))
        return shifted(denoiser.schedule, x, t, answer, pull(weighed)[0])

    def _covariance(
        self, pull: Callable[[Array], tuple[Array]], gain: Array, alpha: Array, sigma: Array, data: Array
    ) -> Callable[[Array], Array]:
        if self.method == "mmps":
            return lambda v: gain * pull(v)[0]
        if self.method == "tmpd":
            sums = jnp.maximum(gain * pull(jnp.ones_like(data))[0], 0.0)
            return lambda v: sums * v
        return lambda v: self.number**2 * sigma**2 / (sigma**2 + alpha**2 * self.number**2) * v


def solve(product: Callable[[Array], Array], b: Array, num_iterations: int, floor: Array | float) -> Array:
    """x with product(x) = b for each row, by conjugate gradients; product is at least floor times x.

    Where it says less, as by the Jacobian of a network that is no denoiser's, the floor is taken for it: no
    direction then is gone along further than an observation's noise allows. A row that is solved stays: rows
    do not see each other.
    """

    def body(_: int, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        x, residual, direction, square = carry
        image = product(direction)
        curvature = jnp.maximum(_rows(direction, image), floor * _rows(direction, direction))
        length = square / jnp.maximum(curvature, _TINY)
        length = jnp.where(square > least, length, 0.0)
        x, residual = x + length * direction, residual - length * image
        new = _rows(residual, residual)
        return x, residual, residual + new / jnp.maximum(square, _TINY) * direction, new

    square = _rows(b, b)
    least = square * jnp.finfo(b.dtype).eps ** 2
    return jax.lax.fori_loop(0, num_iterations, body, (jnp.zeros_like(b), b, b, square))[0]


def _rows(a: Array, b: Array) -> Array:
    """Products of rows, kept to go with them: (batch, 1, ..., 1)."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdims=True)
