"""Constraints on the data: a denoiser whose estimates lie in a set, and projections onto some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.guidance.tilted import bound, noise_after, transformed
from jaxdiff.typing import Array, Denoised

Projection: TypeAlias = Callable[[Array], Array]
"""Data, (batch, *shape), to the nearest of a set, row by row."""


def projected(denoise: Denoiser, project: Projection) -> Denoiser:
    """The denoiser whose estimate of the data is projected onto a set, the noise following: x is kept.

    A sampler whose grid ends without noise returns its last estimate, so samples lie in the set as exactly as
    project puts them there, every time. Their law is not the model's given the set, but for sets that hold
    nearly all of it: mass beyond is moved to the edge. For the law itself give the set as a reward to
    `jaxdiff.particles`, or draw until it is met. Predict-project in the manner of Christopher et al. 2024
    (arXiv 2402.03559), on the estimate of the data. `Renoising` draws the noise anew between projections.

    project: such as `projections.box(-1.0, 1.0)`. Raises TypeError for what is no denoiser or function,
    ValueError where project answers another shape.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> answer = jd.projected(law, jd.projections.box(-1.0, 1.0))(jnp.array([[4.0]]), 1.0)
    >>> answer.data.tolist(), answer.noise.tolist()  # not 2 and 2, but 4 = 1 + 3
    ([[1.0]], [[3.0]])
    """
    check_denoiser("denoise", denoise)
    check_projection(project)
    return transformed(denoise, _Projected(denoise, project))


def check_projection(project: object) -> None:
    """Raise TypeError for what is no function."""
    if not callable(project) or isinstance(project, Denoiser):
        raise TypeError(
            f"project must be a function of data, (batch, *shape), got {checks.described(project)}."
        )


@pytree
@dataclass(frozen=True, eq=False)
class _Projected:
    inner: Denoiser
    project: Projection

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        answer = bound(self.inner, denoiser)(x, t)
        data = self.project(answer.data)
        checks.shape("project(data)", data, x.shape)
        noise = noise_after(denoiser.schedule, x, t, answer.noise, data - answer.data)
        return Denoised(data, noise)
