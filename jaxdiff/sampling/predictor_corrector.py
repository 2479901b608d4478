"""A step of any sampler, then Langevin steps at the time reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.sampling.ddim import ancestral
from jaxdiff.sampling.sampler import Sampler, check_sampler
from jaxdiff.typing import Array, Key


@pytree
@dataclass(frozen=True)
class PredictorCorrector:
    """A step of the predictor, by default `ancestral`, then Langevin steps: 1 + num_corrections calls a step.

    x <- x + tau score + sqrt(2 tau) z with tau = 2 (signal_to_noise sigma_s)^2. Song et al. 2021, arXiv
    2011.13456, alg. 4, set tau from norms averaged over the batch; sigma_s is what these estimate, and
    keeps samples independent of each other. Raises ValueError for num_corrections < 1 or
    signal_to_noise <= 0.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> x = jd.sample(jax.random.key(0), denoise, 4000, sampler=jd.PredictorCorrector(), num_steps=100)
    >>> round(float(x.std()), 1)
    1.0
    """

    predictor: Sampler = field(default_factory=ancestral)
    num_corrections: int = 1
    signal_to_noise: Array | float = 0.16

    def __post_init__(self) -> None:
        check_sampler(self.predictor)
        checks.integer("num_corrections", self.num_corrections, 1)
        checks.positive("signal_to_noise", self.signal_to_noise)

    @property
    def needs_signal(self) -> bool:
        """Whether the predictor does."""
        return getattr(self.predictor, "needs_signal", False)

    def init(self, x: Array) -> Any:
        return self.predictor.init(x)

    def step(self, key: Key, denoise: Denoiser, state: Any, t: Array, s: Array) -> Any:
        predict_key, correct_key = jax.random.split(key)
        state = self.predictor.step(predict_key, denoise, state, t, s)
        sigma = denoise.schedule.sigma(s)
        move = 2 * self.signal_to_noise**2 * sigma  # tau / sigma_s, the step along -N

        def correct(x: Array, key: Key) -> tuple[Array, None]:
            noise = denoise(x, s).noise
            stirred = x - move * noise + 2 * self.signal_to_noise * sigma * noise_like(key, x)
            return stirred.astype(x.dtype), None

        def langevin(x: Array) -> Array:
            return jax.lax.scan(correct, x, jax.random.split(correct_key, self.num_corrections))[0]

        return state._replace(x=jax.lax.cond(sigma > 0, langevin, lambda x: x, state.x))
