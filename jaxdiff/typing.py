"""The names that the rest of the library speaks in. No code.

A *schedule* is two scalar functions of a scalar time, ``x_t = alpha(t) data + sigma(t) noise``, and the range
of times where they are defined. A *denoiser* (`jaxdiff.denoising.denoiser.Denoiser`) answers ``(x, t)`` with
the conditional means of data and noise, which fixes the score (``-noise / sigma``), the probability flow
(``data alpha' + noise sigma'``) and every prediction type at once.
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
Condition: TypeAlias = Any
"""What a denoiser is told beside x and t: labels, embeddings, images, masks; any pytree of arrays.

The leading axis of each array is the batch's. An array of leading axis 1, or a scalar, stands for every row.
"""

Predictor: TypeAlias = Callable[..., Array]
"""``predict(params, x, t)``: x of shape (batch, ...), t of shape (batch,); the answer has x's shape.

With a condition it is ``predict(params, x, t, condition)``, or ``predict(params, x, t, **condition)`` if that
is a dictionary. A Flax module's ``apply`` is one.
"""


class Schedule(Protocol):
    """A Gaussian noising process: the mean scale and the noise standard deviation at a scalar time."""

    @property
    def t_min(self) -> float:
        """The first time: of no noise, or where the definition begins."""
        ...

    @property
    def t_max(self) -> float:
        """The last time: of no signal, or where the definition ends; it may be infinite."""
        ...

    @property
    def working_range(self) -> tuple[float, float]:
        """The times between which networks are trained and sampled, for data of unit standard deviation."""
        ...

    def alpha(self, t: Time) -> Array:
        """Scale of the data at time t; non-increasing, NaN outside of [t_min, t_max]."""
        ...

    def sigma(self, t: Time) -> Array:
        """Standard deviation of the noise at time t; ``sigma / alpha`` increases with t."""
        ...


class Denoised(NamedTuple):
    """The conditional means ``E[data | x_t]`` and ``E[noise | x_t]``, each of x's shape.

    They satisfy ``x = alpha(t) data + sigma(t) noise``. Both are kept because each loses precision when
    it is computed from the other: the score is ``-noise / sigma``.

    >>> jd.Denoised(data=jnp.ones(2), noise=jnp.zeros(2)).data.tolist()
    [1.0, 1.0]
    """

    data: Array
    noise: Array


class StartLaw(Protocol):
    """A law that sampling can start from: draws of it, and its density."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        ...

    def sample(self, key: Key, n: int) -> Array:
        """Draw n points, shape (n, *shape); point i depends on (key, i) only."""
        ...

    def log_prob(self, x: Array) -> Array:
        """Log-density in nats of x, shape (..., *shape) -> (...)."""
        ...
