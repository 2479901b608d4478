"""Noise drawn anew at every time, a corrector for what projections and guidance leave behind."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.sampling.sampler import State
from jaxdiff.typing import Array, Key


@pytree
@dataclass(frozen=True)
class Renoising:
    """x_s = alpha_s D + sigma_s z, num_repeats times at each time: predict, and noise the prediction again.

    Of `projected(denoise, project)` it is predict-project-renoise, Rochman-Sharabi & Louppe 2026, arXiv
    2601.21033, whose data lie in the set at every step. There the kernel that leaves p(x_t | data in the set)
    as it is draws data given x_t and the set; D, projected, stands for that draw, so laws come out narrower:
    of data N(m, v) under `Karras`, at a time that is repeated for ever, x has variance (v + sigma^2)^2 /
    (2 v + sigma^2) and not v + sigma^2. With draws in place of D it is `inverse.daps` by
    `inverse.projection(project)`, at several calls for one.

    num_repeats calls a step; 1 is multistep sampling as of consistency models. Raises ValueError for
    num_repeats < 1.

    >>> denoise = jd.projected(
    ...     jd.Gaussian([0.5], 1.0).denoiser(jd.Karras()), jd.projections.equality([[1.0]], [2.0])
    ... )
    >>> jd.sample(jax.random.key(0), denoise, 1, sampler=jd.Renoising(2)).tolist()
    [[2.0]]
    """

    num_repeats: int = 1

    def __post_init__(self) -> None:
        checks.integer("num_repeats", self.num_repeats, 1)

    def init(self, x: Array) -> State:
        return State(x)

    def step(self, key: Key, denoise: Denoiser, state: State, t: Array, s: Array) -> State:
        schedule, key_of = denoise.schedule, jax.random.split(key, self.num_repeats)

        def noised(x: Array, key: Key, to: Array) -> Array:
            new = schedule.alpha(to) * denoise(x, t).data + schedule.sigma(to) * noise_like(key, x)
            return new.astype(x.dtype)

        x, _ = jax.lax.scan(lambda x, key: (noised(x, key, t), None), state.x, key_of[1:])
        return State(noised(x, key_of[0], s))
