"""A vector added to the score, which every guidance is.

With x = alpha data + sigma noise and score = -noise / sigma, adding h to the score is

    noise <- noise - sigma h,        data <- data + (sigma^2 / alpha) h,                          (1)

which keeps x. Where alpha = 0 there is nothing of the data in x, and they are left as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.rows import to_rows
from jaxdiff.denoising.denoiser import Denoiser, Estimate, check_denoiser
from jaxdiff.noising.process import marginals
from jaxdiff.typing import Array, Condition, Denoised, Schedule, Time

Shift: TypeAlias = Callable[[Array, Array], Array]
"""``h(x, t)`` of x's shape: a function, or a callable pytree that holds arrays."""
Reward: TypeAlias = Callable[[Array], Array]
"""Of data (batch, *shape) -> (batch,), each row's its own."""


def tilted(denoise: Denoiser, h: Shift) -> Denoiser:
    """The denoiser whose score is that of denoise plus h(x, t).

    With h = grad log E[w(data) | x_t] it is that of the law p w / E w, exactly; with any other h no level's
    score need be that of noised data, and what is sampled depends on the schedule and the sampler. Raises
    TypeError for what is no denoiser or function, ValueError for an h of another shape than x.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> jd.tilted(law, lambda x, t: jnp.ones_like(x))(jnp.array([[2.0]]), 1.0).noise.tolist()  # 1 - 1
    [[0.0]]
    """
    check_denoiser("denoise", denoise)
    _check_function("h", h, "(x, t)")
    return transformed(denoise, _Tilted(denoise, h))


def rewarded(denoise: Denoiser, reward: Reward, scale: Array | float = 1.0) -> Denoiser:
    """Tilted by the gradient of scale reward(E[data | x_t]), through the denoiser: one vjp a call.

    It puts the reward of the mean for log E[e^(scale reward) | x_t]. The two have one gradient where the
    reward is linear and the data Gaussian, and there it samples the tilt p e^(scale reward); elsewhere it
    does not: `jaxdiff.particles` does. Raises TypeError for what is no denoiser or function, ValueError for
    several scales and for a reward that is not one number a row.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> jd.rewarded(law, lambda data: data.sum(1), 2.0)(jnp.zeros((1, 1)), 1.0).data.tolist()
    [[1.0]]
    """
    check_denoiser("denoise", denoise)
    _check_function("reward", reward, "data, (batch, *shape)")
    checks.shape("scale", scale, ())
    return transformed(denoise, _Rewarded(denoise, reward, scale))


def transformed(denoise: Denoiser, estimate: Estimate) -> Denoiser:
    """A denoiser like another, which its estimate holds: what is bound later goes to that, see `bound`."""
    return dataclasses.replace(denoise, estimate=estimate, condition=None)


class _Bindable(Protocol):
    """A denoiser, of whatever data."""

    @property
    def condition(self) -> Condition: ...
    @property
    def null_condition(self) -> Condition: ...
    def given(self, condition: Condition) -> Any: ...


_Bound = TypeVar("_Bound", bound=_Bindable)


def bound(inner: _Bound, outer: _Bindable) -> _Bound:
    """What an estimate holds, given what was bound to its denoiser after the transform."""
    return inner if outer.condition is None else inner.given(outer.condition)


def scales(schedule: Schedule, t: Time, x: Array) -> tuple[Array, Array]:
    """alpha and sigma at a scalar t or one t a row, to go with x, (batch, ...)."""
    alpha, sigma = (to_rows(v, x) for v in marginals(schedule, t))
    return alpha, sigma


def of_no_condition(caller: str, denoise: _Bound) -> _Bound:
    """The same denoiser bound to its null condition; ValueError, which names the caller, if it has none."""
    if denoise.null_condition is None:
        raise ValueError(
            f"{caller} needs what stands for no condition: make the denoiser with null_condition=... (the "
            "last label of a network with classes), or give unconditional=, a denoiser."
        )
    return denoise.given(denoise.null_condition)


def noise_after(schedule: Schedule, x: Array, t: Time, noise: Array, change: Array) -> Array:
    """The noise that keeps x where its data are changed by so much; as it is where there is none."""
    alpha, sigma = scales(schedule, t, x)
    return noise - jnp.where(sigma > 0, alpha / jnp.where(sigma > 0, sigma, 1.0), 0.0) * change


def shifted(schedule: Schedule, x: Array, t: Time, answer: Denoised, h: Array) -> Denoised:
    """Eq. (1)."""
    alpha, sigma = scales(schedule, t, x)
    gain = jnp.where(alpha > 0, sigma**2 / jnp.where(alpha > 0, alpha, 1.0), 0.0)
    return Denoised(answer.data + gain * h, answer.noise - sigma * h)


@pytree
@dataclass(frozen=True, eq=False)
class _Tilted:
    inner: Denoiser
    h: Shift

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        answer, h = bound(self.inner, denoiser)(x, t), self.h(x, t)
        checks.shape("h(x, t)", h, x.shape)
        return shifted(denoiser.schedule, x, t, answer, h)


@pytree
@dataclass(frozen=True, eq=False)
class _Rewarded:
    inner: Denoiser
    reward: Reward
    scale: Array | float

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        def value(x: Array) -> tuple[Array, Denoised]:
            answer = bound(self.inner, denoiser)(x, t)
            reward = self.reward(answer.data)
            checks.shape("reward(data)", reward, x.shape[:1])
            return reward.sum(), answer

        x = single(x)
        h, answer = jax.grad(value, has_aux=True)(x)
        return shifted(denoiser.schedule, x, t, answer, self.scale * h)


def _check_function(name: str, function: object, arguments: str) -> None:
    if not callable(function) or isinstance(function, Denoiser):
        raise TypeError(f"{name} must be a function of {arguments}, got {checks.described(function)}.")
