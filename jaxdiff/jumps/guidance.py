"""Denoisers of tokens pushed by a condition or a reward.

Both act on the logarithms that the others say, `CategoricalDenoiser.others`; what a token itself says of its
data comes in once, after. Under uniform jumps and masking alike the rates change by the same factors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.guidance.tilted import bound, of_no_condition
from jaxdiff.jumps.denoiser import CategoricalDenoiser, check_denoiser
from jaxdiff.typing import Array


def guided(
    denoise: CategoricalDenoiser, scale: Array | float, *, unconditional: CategoricalDenoiser | None = None
) -> CategoricalDenoiser:
    """Classifier-free guidance: p_conditional^scale p_unconditional^(1 - scale) for each token, normalized.

    denoise is bound to a condition by `given`, before or after; unconditional is by default the same, bound
    to its null condition. scale = 1 is the conditional denoiser. With one token it is exact: what is sampled
    is that product of the data's laws; with more it is not, since noised laws do not multiply. Schiff et al.
    2024, arXiv 2412.10193. Raises ValueError where there is neither a null condition nor another denoiser,
    for one of another process or shape, and for several scales.

    >>> mask = jd.jumps.Masking(2)
    >>> given, free = (jd.jumps.Enumerated(jnp.array([p, 1 - p])).denoiser(mask) for p in (0.6, 0.5))
    >>> denoise = jd.jumps.guided(given, 2.0, unconditional=free)
    >>> round(float(jnp.exp(denoise(jnp.array([[2]]), 0.5))[0, 0, 0]), 2)  # .6^2 to .4^2
    0.69
    """
    check_denoiser("denoise", denoise)
    checks.shape("scale", scale, ())
    if unconditional is None:
        unconditional = of_no_condition("guided", denoise)
    check_denoiser("unconditional", unconditional)
    if unconditional.shape != denoise.shape or unconditional.vocabulary != denoise.vocabulary:
        raise ValueError(
            f"unconditional must be of the shape and vocabulary of denoise, {denoise.shape} and "
            f"{denoise.vocabulary}; got {unconditional.shape} and {unconditional.vocabulary}."
        )
    return dataclasses.replace(denoise, estimate=_Guided(denoise, unconditional, scale), condition=None)


def rewarded(
    denoise: CategoricalDenoiser, reward: Callable[[Array], Array], scale: Array | float = 1.0
) -> CategoricalDenoiser:
    """Each token's chances times e^(scale d reward / d chances), at the chances that all have now: one vjp.

    reward: of chances (batch, *shape, vocabulary), of which the one-hot are data, -> (batch,), each row's its
    own. To first order in the reward's interactions; exact, the law p e^(scale reward) / Z being sampled,
    where tokens are independent and the reward is a sum over tokens. Nisonoff et al. 2024, arXiv
    2406.01572. Raises TypeError for what is no denoiser or function, ValueError for several scales and a
    reward that is not one number a row.

    >>> coin = jd.jumps.Enumerated(jnp.array([0.5, 0.5])).denoiser(jd.jumps.Masking(2))
    >>> denoise = jd.jumps.rewarded(coin, lambda chances: chances[:, 0, 1], math.log(3))
    >>> round(float(jnp.exp(denoise(jnp.array([[2]]), 0.5))[0, 0, 1]), 2)  # 1 to e^log 3
    0.75
    """
    check_denoiser("denoise", denoise)
    if not callable(reward):
        raise TypeError(f"reward must be a function of chances, got {checks.described(reward)}.")
    checks.shape("scale", scale, ())
    return dataclasses.replace(denoise, estimate=_Rewarded(denoise, reward, scale), condition=None)


@pytree
@dataclass(frozen=True, eq=False)
class _Guided:
    conditional: CategoricalDenoiser
    unconditional: CategoricalDenoiser
    scale: Array | float

    def __call__(self, denoiser: CategoricalDenoiser, x: Array, t: Array) -> Array:
        given = jax.nn.log_softmax(bound(self.conditional, denoiser).others(x, t))
        free = jax.nn.log_softmax(self.unconditional.others(x, t))
        # What one of them excludes is excluded: no infinity is taken from another.
        more = jnp.where(jnp.isneginf(given) | jnp.isneginf(free), 0.0, (self.scale - 1) * (given - free))
        return given + more


@pytree
@dataclass(frozen=True, eq=False)
class _Rewarded:
    inner: CategoricalDenoiser
    reward: Callable[[Array], Array]
    scale: Array | float

    def __call__(self, denoiser: CategoricalDenoiser, x: Array, t: Array) -> Array:
        inner = bound(self.inner, denoiser)

        def total(chances: Array) -> Array:
            value = self.reward(chances)
            checks.shape("reward(chances)", value, x.shape[:1])
            return value.sum()

        return inner.others(x, t) + self.scale * jax.grad(total)(jnp.exp(inner(x, t)))
