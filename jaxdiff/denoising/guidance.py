"""Guidance: a denoiser pushed away from another one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.typing import Array, Denoised


def guided(denoise: Denoiser, scale: Array | float, *, unconditional: Denoiser | None = None) -> Denoiser:
    """Classifier-free guidance: unconditional + scale (conditional - unconditional), for data and noise.

    denoise: bound to a condition by `Denoiser.given`, before or after; unconditional: by default the same,
    bound to its null condition. scale: 1 is the conditional denoiser. With a worse model in the place of the
    unconditional one this is autoguidance. What is sampled is not the tilted law p (p / q)^(scale - 1): the
    guided score is not that law's at any noise level but the last. Ho & Salimans 2022, arXiv 2207.12598;
    Karras et al. 2024, arXiv 2406.02507. Raises ValueError where there is neither a null condition nor
    another denoiser, and for an unconditional one of another schedule, shape or range.
    """
    check_denoiser("denoise", denoise)
    checks.shape("scale", scale, ())  # one for each row would go along the entries of a datum
    if unconditional is None:
        if denoise.null_condition is None:
            raise ValueError(
                "guided needs what stands for no condition: make the denoiser with null_condition=... (the "
                "last label of a network with classes), or give unconditional=, a denoiser."
            )
        unconditional = denoise.given(denoise.null_condition)
    check_denoiser("unconditional", unconditional)
    check_agree("unconditional", unconditional, "denoise", denoise, ("schedule", "shape", "t_min", "t_max"))
    return dataclasses.replace(denoise, estimate=_Guided(denoise, unconditional, scale), condition=None)


@pytree
@dataclass(frozen=True, eq=False)
class _Guided:
    conditional: Denoiser
    unconditional: Denoiser
    scale: Array | float

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        conditional = self.conditional
        if denoiser.condition is not None:  # bound after guidance was put on
            conditional = conditional.given(denoiser.condition)
        with_condition, without = conditional(x, t), self.unconditional(x, t)
        return jax.tree.map(lambda c, u: u + self.scale * (c - u), with_condition, without)
