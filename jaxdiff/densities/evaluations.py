"""How many evaluations of the denoiser a density takes, and where and how they are spent."""

from __future__ import annotations

import dataclasses

from jaxdiff._numerics import checks
from jaxdiff._numerics.chunks import BYTES_PER_CALL
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.densities.levels import KnownTimeDensity, TimeDensity, default_reference
from jaxdiff.typing import Array


@pytree
@dataclasses.dataclass(frozen=True)
class Evaluations:
    """What every call by the density formula asks for."""

    number: int = 1024
    """The most for a row. The error falls as their inverse root, and faster at first."""
    reference: Distribution | None = None
    """A law of points like x, by default N(0, scale^2 I) of the denoiser's scale. The better it fits the data
    the fewer evaluations are needed: `fit_gaussian` of training data or, better, `fit_mixture`."""
    time_density: TimeDensity | None = None
    """The noise levels where they go, by default `TimeDensity()`; see `pilot_time_density`."""
    bytes_per_call: int = BYTES_PER_CALL
    """What the arrays of one call of the denoiser may take, about; calls follow one another, in a derivative
    too, which keeps all that one call computes."""


@pytree
@dataclasses.dataclass(frozen=True)
class KnownEvaluations:
    """`Evaluations` that were checked, of which the scale is known."""

    number: int
    reference: Distribution | None
    time_density: KnownTimeDensity
    bytes_per_call: int

    @property
    def scale(self) -> Array | float:
        return self.time_density.scale

    def reference_for(self, denoise: Denoiser, x: Array) -> Distribution:
        """The reference, or the Gaussian of the denoiser's scale."""
        return default_reference(denoise, x) if self.reference is None else self.reference


def check_evaluations(
    denoise: Denoiser,
    evaluations: Evaluations,
    least: int = 20,
    without: tuple[str, ...] = (),
) -> KnownEvaluations:
    """evaluations, their time density at the denoiser's scale if it says none.

    Raises TypeError for what is no `Evaluations`, and ValueError for a number below the least, for a time
    density that is not positive, and for a field in `without`, which the call has no use for.
    """
    if not isinstance(evaluations, Evaluations):
        raise TypeError(
            f"evaluations must be an Evaluations, got {checks.described(evaluations)}: write "
            "Evaluations(420) for at most 420 a row."
        )
    checks.integer("evaluations.number", evaluations.number, least)
    checks.integer("evaluations.bytes_per_call", evaluations.bytes_per_call, 1)
    for name in without:
        if getattr(evaluations, name) is not None:
            raise ValueError(f"evaluations.{name} has no use in this call: leave it out.")
    density = TimeDensity() if evaluations.time_density is None else evaluations.time_density
    if not isinstance(density, TimeDensity):
        raise TypeError(f"time_density must be a TimeDensity, got {checks.described(density)}.")
    scale = denoise.scale if density.scale is None else density.scale
    checks.positive_number("scale", scale)
    checks.shape("masses", density.masses, (None,))
    checks.positive("masses", density.masses)
    known = KnownTimeDensity(scale, density.masses)
    return KnownEvaluations(evaluations.number, evaluations.reference, known, evaluations.bytes_per_call)
