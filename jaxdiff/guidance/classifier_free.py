"""Guidance: a denoiser pushed away from another one."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.rows import to_rows
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.guidance.tilted import bound, noise_after, of_no_condition, transformed
from jaxdiff.typing import Array, Denoised, Time


def guided(
    denoise: Denoiser,
    scale: Array | float,
    *,
    unconditional: Denoiser | None = None,
    interval: tuple[Time, Time] | None = None,
    rescale: Array | float = 0.0,
) -> Denoiser:
    """Classifier-free guidance: conditional + (scale - 1) (conditional - unconditional), of data and noise.

    denoise: bound to a condition by `Denoiser.given`, before or after; unconditional: by default the same,
    bound to its null condition. scale: 1 is the conditional denoiser, bit for bit. Ho & Salimans 2022, arXiv
    2207.12598. With a worse model as unconditional this is autoguidance, Karras et al. 2024, arXiv
    2406.02507; with a denoiser of data weighted by a reward, and the plain one as unconditional, it follows
    that reward.
    interval: the times (low, high) at which it guides, all by default; Kynkaanniemi et al. 2024, arXiv
        2404.07724.
    rescale: in [0, 1], how far each row's data are brought back to the standard deviation over its entries
        that they have without guidance; Lin et al. 2023, arXiv 2305.08891.

    What is sampled is not the tilt p (p / q)^(scale - 1), whose score is another one wherever noise is left:
    between Gaussians of standard deviations s and u the flow ends at s^scale u^(1 - scale), not at
    (scale / s^2 + (1 - scale) / u^2)^(-1/2). Weights mend it: `jaxdiff.particles.Composed`.

    Raises ValueError where there is neither a null condition nor another denoiser, for an unconditional one
    of another schedule, shape or range, several scales, an interval upside down or a rescale out of range.

    >>> one, none = (jd.Gaussian([m], 1.0).denoiser(jd.Karras()) for m in (2.0, 0.0))
    >>> jd.guided(one, 3.0, unconditional=none)(jnp.zeros((1, 1)), 1.0).data.tolist()  # 1 + 2 (1 - 0)
    [[3.0]]
    """
    check_denoiser("denoise", denoise)
    checks.shape("scale", scale, ())  # one for each row would go along the entries of a datum
    checks.within("rescale", rescale, 0.0, 1.0)
    checks.shape("rescale", rescale, ())
    if interval is not None:
        checks.ordered("interval[0]", interval[0], "interval[1]", interval[1])
    unconditional = without_condition(denoise, unconditional)
    return transformed(denoise, _Guided(denoise, unconditional, scale, interval, rescale))


def without_condition(denoise: Denoiser, unconditional: Denoiser | None) -> Denoiser:
    """The unconditional denoiser that goes with denoise: its own null condition's where none is given.

    Raises as `guided`.
    """
    if unconditional is None:
        unconditional = of_no_condition("guidance", denoise)
    check_denoiser("unconditional", unconditional)
    check_agree("unconditional", unconditional, "denoise", denoise, ("schedule", "shape", "t_min", "t_max"))
    return unconditional


@pytree
@dataclass(frozen=True, eq=False)
class _Guided:
    conditional: Denoiser
    unconditional: Denoiser
    scale: Array | float
    interval: tuple[Time, Time] | None
    rescale: Array | float

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        with_condition, without = bound(self.conditional, denoiser)(x, t), self.unconditional(x, t)
        more = self.scale - 1
        if self.interval is not None:
            inside = (t >= self.interval[0]) & (t <= self.interval[1])
            more = to_rows(jnp.where(inside, more, 0.0), x)
        answer = jax.tree.map(lambda c, u: c + more * (c - u), with_condition, without)
        if isinstance(self.rescale, int | float) and self.rescale == 0:
            return answer
        axes = tuple(range(1, x.ndim))
        wanted, got = (v.data.std(axes, keepdims=True) for v in (with_condition, answer))
        # A datum of equal entries has no spread to bring back.
        ratio = jnp.where(got > 0, wanted / jnp.where(got > 0, got, 1.0), 1.0)
        change = self.rescale * (ratio - 1) * answer.data
        return Denoised(answer.data + change, noise_after(denoiser.schedule, x, t, answer.noise, change))
