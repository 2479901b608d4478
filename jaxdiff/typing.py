"""The names that the rest of the library speaks in. No code.

A *schedule* is two scalar functions of a scalar time, ``x_t = alpha(t) data + sigma(t) noise``.
A *denoiser* answers ``(x, t)`` with the conditional means of both, which fixes the score
(``-noise / sigma``), the probability flow (``data alpha' + noise sigma'``) and every network
parameterization at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
"""A typed key, as ``jax.random.key(seed)`` makes it."""
Time: TypeAlias = jax.Array | float
Params: TypeAlias = Any
"""Any pytree of arrays."""

Predictor: TypeAlias = Callable[[Params, Array, Array], Array]
"""``predict(params, x, t)``: x of shape (batch, ...), t of shape (batch,); the answer has x's shape."""


class Schedule(Protocol):
    """A Gaussian noising process: the mean scale and the noise standard deviation at a scalar time."""

    def alpha(self, t: Time) -> Array:
        """Scale of the data at time t; non-increasing."""
        ...

    def sigma(self, t: Time) -> Array:
        """Standard deviation of the noise at time t; ``sigma / alpha`` increases with t."""
        ...


class Denoised(NamedTuple):
    """The conditional means ``E[data | x_t]`` and ``E[noise | x_t]``, each of x's shape.

    They satisfy ``x = alpha(t) data + sigma(t) noise``. Both are kept because each loses precision when
    it is computed from the other: the score is ``-noise / sigma``.
    """

    data: Array
    noise: Array


Denoiser: TypeAlias = Callable[[Array, Time], Denoised]
"""``denoise(x, t)``: x of shape (batch, ...), t scalar or of shape (batch,)."""


class StartLaw(Protocol):
    """A law that sampling can start from: draws of it, and its density."""

    def sample(self, key: Key, n: int) -> Array:
        """Draw n points, shape (n, d); point i depends on (key, i) only."""
        ...

    def log_prob(self, x: Array) -> Array:
        """Log-density in nats of x, shape (..., d) -> (...)."""
        ...


class Distribution(StartLaw, Protocol):
    """A law on vectors with everything in closed form; an oracle, a start law or a reference."""

    def perturbed(self, schedule: Schedule, t: Time) -> "Distribution":
        """The law of ``alpha(t) data + sigma(t) noise``."""
        ...

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The exact conditional means under this law."""
        ...
