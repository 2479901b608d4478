"""Several models at once: data that are stacks of theirs, coupled by whatever guides one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.guidance.composed import check_composition
from jaxdiff.typing import Array, Denoised


def joint(denoisers: Sequence[Denoiser]) -> Denoiser:
    """The denoiser of independent data of each, stacked: of shape (k, *shape), k denoisers.

    What couples them is a transform of it. With a cost c(data), (batch, k, *shape) -> (batch,), Projected
    Coupled Diffusion (Luan et al. 2025, arXiv 2508.10531), whose cost is of the estimates here, is

        jd.projected(jd.rewarded(jd.joint([one, other]), lambda data: -c(data)), project)

    with constraints that hold exactly, and a law that is no tilt but for Gaussians and linear costs. A cost
    |A data|^2 / (2 std^2) is a linear observation of zero, and `inverse.mmps` exact for Gaussians; any cost
    is exact by `particles.Twisted`.

    Each denoiser has its own condition. Raises ValueError for no denoisers and for ones that disagree in
    schedule, shape or range; TypeError for what is no denoiser.

    >>> one, other = (jd.Gaussian([m], 1.0).denoiser(jd.Karras()) for m in (2.0, 0.0))
    >>> jd.joint([one, other])(jnp.zeros((1, 2, 1)), 1.0).data.tolist()
    [[[1.0], [0.0]]]
    """
    parts, _ = check_composition(denoisers, [1.0] * len(list(denoisers)))
    scales = jnp.stack([jnp.asarray(part.scale, float) for part in parts])
    return dataclasses.replace(
        parts[0],
        estimate=_Joint(parts),
        shape=(len(parts), *parts[0].shape),
        scale=jnp.sqrt(jnp.mean(scales**2)),
        condition=None,
        null_condition=None,
    )


@pytree
@dataclass(frozen=True, eq=False)
class _Joint:
    denoisers: list[Denoiser]

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        answers = [part(x[:, i], t) for i, part in enumerate(self.denoisers)]
        return jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *answers)
