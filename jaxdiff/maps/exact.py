"""Flow maps that are known: of a Gaussian in closed form, of any denoiser by many of its steps, or by one."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.guidance.tilted import bound, scales, transformed
from jaxdiff.laws.components import PRECISION
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.maps.flow_map import FlowMap, as_flow_map, by_increments, on_the_way
from jaxdiff.maps.pairs import way
from jaxdiff.typing import Array, Denoised, Schedule


def gaussian_map(law: Gaussian, schedule: Schedule) -> FlowMap:
    """The exact flow map of Gaussian data, at all times of the schedule.

    Along each eigenvector, of variance v, with c(t)^2 = alpha^2 v + sigma^2 and u = x - alpha_t mean,

        Phi = alpha_s mean + c_s / c_t u
        D'  = mean + v h / [c_t (sigma_s c_t + sigma_t c_s)] u,    h = alpha_t sigma_s + alpha_s sigma_t
        N'  = h / [c_t (alpha_t c_s + alpha_s c_t)] u

    which are D and N at s = t. Raises TypeError for another law.

    >>> flow_map = jd.maps.gaussian_map(jd.Gaussian([0.0], 1.0), jd.Karras())
    >>> flow_map(jnp.array([[5.0]]), 0.75, 0.0).tolist()  # 5 / (1 + 0.75^2)^(1/2)
    [[4.0]]
    """
    if not isinstance(law, Gaussian):
        raise TypeError(
            f"law must be a Gaussian, got {checks.described(law)}; integrated_map(law.denoiser(schedule)) is "
            "the flow map of any law."
        )
    return as_flow_map(law.denoiser(schedule), _OfGaussian(law))


def integrated_map(denoise: Denoiser, *, num_steps: int = 32) -> FlowMap:
    """The flow map of any denoiser, by num_steps steps of Heun's rule on a grid of its own from t to s.

    Each call asks the denoiser 2 num_steps + 2 times, on whole batches, and memory is constant in the steps
    where no derivative is taken. Its error falls as num_steps^-2. Raises TypeError for what is no denoiser.

    >>> flow_map = jd.maps.integrated_map(jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()))
    >>> round(float(flow_map(jnp.array([[5.0]]), 0.75, 0.0)[0, 0]), 2)
    4.0
    """
    check_denoiser("denoise", denoise)
    checks.integer("num_steps", num_steps, 1)
    return as_flow_map(transformed(denoise, denoise.estimate), _Integrated(denoise, num_steps))


def one_step_map(denoise: Denoiser) -> FlowMap:
    """The map of one DDIM step, which holds D' = D and N' = N on the way: a denoiser taken as a flow map.

    What progressive distillation begins from. Raises TypeError for what is no denoiser.

    >>> flow_map = jd.maps.one_step_map(jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()))
    >>> flow_map(jnp.array([[2.0]]), 1.0, 0.5).tolist()  # data + 0.5 noise, which are 1 and 1
    [[1.5]]
    """
    check_denoiser("denoise", denoise)
    return as_flow_map(transformed(denoise, denoise.estimate), _OneStep(denoise))


@pytree
@dataclass(frozen=True, eq=False)
class _OfGaussian:
    law: Gaussian

    def __call__(self, denoiser: Denoiser, x: Array, t: Array, s: Array) -> Denoised:
        return _gaussian_averages(self.law, denoiser.schedule, x, t, s)


@compiled
def _gaussian_averages(law: Gaussian, schedule: Schedule, x: Array, t: Array, s: Array) -> Denoised:
    mean, (values, basis) = law.mean[None], law.covariance

    def turned(x: Array, *, back: bool = False) -> Array:
        return x if basis is None else jnp.matmul(x, basis.T if back else basis, precision=PRECISION)

    x = single(x)
    a, b, a_s, b_s = (v for time in (t, s) for v in scales(schedule, time, x))
    c, c_s = (jnp.sqrt(a**2 * values[None] + b**2) for a, b in ((a, b), (a_s, b_s)))
    u, h = turned(x - a * mean), a * b_s + a_s * b
    data = _ratio(values[None] * h, c * (b_s * c + b * c_s), a * values[None] / c**2)
    noise = _ratio(h, c * (a * c_s + a_s * c), b / c**2)
    return Denoised(mean + turned(data * u, back=True), turned(noise * u, back=True))


def _ratio(top: Array, bottom: Array, limit: Array) -> Array:
    """top / bottom, and its limit s -> t where both are at an end at which alpha or sigma is 0."""
    ended = bottom == 0
    return jnp.where(ended, limit, top / jnp.where(ended, 1.0, bottom))


@pytree
@dataclass(frozen=True, eq=False)
class _OneStep:
    inner: Denoiser

    def __call__(self, denoiser: Denoiser, x: Array, t: Array, s: Array) -> Denoised:
        del s
        return bound(self.inner, denoiser)(x, t)


@pytree
@dataclass(frozen=True, eq=False)
class _Integrated:
    inner: Denoiser
    num_steps: int

    def __call__(self, denoiser: Denoiser, x: Array, t: Array, s: Array) -> Denoised:
        schedule, denoise = denoiser.schedule, bound(self.inner, denoiser)
        x = single(x)
        grid = way(denoise, t, s, self.num_steps)

        def heun(x: Array, times: tuple[Array, Array]) -> tuple[Array, None]:
            here = denoise(x, times[0])
            there = denoise(by_increments(schedule, x, here, *times), times[1])
            mean = jax.tree.map(lambda h, e: 0.5 * (h + e), here, there)
            return by_increments(schedule, x, mean, *times), None

        end = jax.lax.scan(heun, x, (grid[:-1], grid[1:]))[0]
        # Where the way is short, the trapezoid's rule.
        short = jax.tree.map(lambda h, e: 0.5 * (h + e), denoise(x, t), denoise(end, s))
        return on_the_way(schedule, x, end, t, s, short=short)
