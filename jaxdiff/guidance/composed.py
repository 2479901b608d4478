"""Scores added: products, powers and quotients of several models' laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.guidance.tilted import scales, transformed
from jaxdiff.typing import Array, Denoised


def composed(denoisers: Sequence[Denoiser], powers: Array | Sequence[float]) -> Denoiser:
    """The denoiser of the score sum_i powers_i score_i: noise = sum_i powers_i noise_i.

    Two powers of 1 are a product, one power above 1 is annealing, and (w, 1 - w) classifier-free guidance.
    The score is that of prod_i p_i^powers_i at each level alone, which is not that product noised: of one
    Gaussian of standard deviation s the flow from N(0, sigma^2) under `Karras` ends at s^power
    sigma^(1 - power). `jaxdiff.particles.Composed` samples the product itself. Each denoiser has its own
    condition. Where alpha = 0 the powers must sum to 1, for data = (x - sigma noise) / alpha.

    Raises ValueError for no denoisers, another number of powers and denoisers that disagree in schedule,
    shape or range; TypeError for what is no denoiser.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> jd.composed([law, law], [1.0, 1.0])(jnp.array([[2.0]]), 1.0).noise.tolist()  # 1 + 1
    [[2.0]]
    """
    denoisers, powers = check_composition(denoisers, powers)
    return transformed(denoisers[0], _Composed(denoisers, powers))


def check_composition(
    denoisers: Sequence[Denoiser], powers: Array | Sequence[float]
) -> tuple[list[Denoiser], Array]:
    """The denoisers as a list and their powers as an array; errors as of `composed`."""
    denoisers = list(denoisers)
    if not denoisers:
        raise ValueError("denoisers must hold at least one denoiser, got none.")
    for i, denoise in enumerate(denoisers):
        check_denoiser(f"denoisers[{i}]", denoise)
        fields = ("schedule", "shape", "t_min", "t_max")
        check_agree(f"denoisers[{i}]", denoise, "denoisers[0]", denoisers[0], fields)
    powers = jnp.asarray(powers, float)
    checks.shape("powers", powers, (len(denoisers),))
    checks.finite("powers", powers)
    return denoisers, powers


def combine(denoiser: Denoiser, powers: Array, x: Array, t: Array, answers: list[Denoised]) -> Denoised:
    """The answer of the summed score from those of its parts."""
    data, noise = (sum(p * part[k] for p, part in zip(powers, answers, strict=True)) for k in (0, 1))
    alpha, _ = scales(denoiser.schedule, t, x)
    rest = 1 - powers.sum()
    return Denoised(jnp.where(rest == 0, data, data + rest * x / alpha), jnp.asarray(noise))


@pytree
@dataclass(frozen=True, eq=False)
class _Composed:
    denoisers: list[Denoiser]
    powers: Array

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        return combine(denoiser, self.powers, x, t, [part(x, t) for part in self.denoisers])
