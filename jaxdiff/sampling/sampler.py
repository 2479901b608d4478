"""What a sampler is.

A step goes from time t to s < t. With (D, N) the denoiser's answer, the probability flow is
dx = D d(alpha) + N d(sigma), which Euler's method integrates to

    x_s = alpha_s D + sigma_s N,                                                              (1)

and no sampler divides by alpha unless its own definition does. None knows a schedule by name.

The grid decides the last step. Where sigma_s = 0 every sampler returns alpha_s D, the denoiser's estimate,
without a further call and without noise; a grid that ends at sigma_s > 0 leaves that noise in x.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

from jaxdiff._numerics import checks
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.typing import Array, Key


class Sampler(Protocol):
    """A reverse-time integrator: a frozen pytree of its settings (`jaxdiff.pytree`) with two pure methods.

    One that cannot start where alpha = 0 says so by a class attribute ``needs_signal = True``.
    """

    def init(self, x: Array) -> Any:
        """The state before the first step, a NamedTuple whose ``x`` is the sample."""
        ...

    def step(self, key: Key, denoise: Denoiser, state: Any, t: Array, s: Array) -> Any:
        """The state at time s < t, of the same structure and shapes; what is random comes from key."""
        ...


class State(NamedTuple):
    """The state of a one-step sampler."""

    x: Array


def check_sampler(sampler: Any) -> Sampler:
    """The sampler; TypeError for anything else."""
    if isinstance(sampler, type) or not (hasattr(sampler, "init") and hasattr(sampler, "step")):
        raise TypeError(f"sampler must be a sampler such as Heun(), got {checks.described(sampler)}.")
    checks.registered("sampler", sampler)
    return sampler


def check_state(sampler: Sampler, new: Any, old: Any) -> None:
    """Raise TypeError unless a step answers a state like the one before it, with the sample in ``x``."""
    wanted, got = jax.tree.structure(old), jax.tree.structure(new)
    if got != wanted or not hasattr(new, "x"):
        raise TypeError(
            f"{type(sampler).__name__} must keep one kind of state, a NamedTuple whose x is the sample; init "
            f"answers {wanted} and step {got}."
        )
