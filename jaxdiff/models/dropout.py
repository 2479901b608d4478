"""Dropout whose mask for sample i depends on (key, i) only, as all that is random in a batch here."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff._numerics.randomness import per_row
from jaxdiff.typing import Array


class Dropout(nn.Module):
    """A share `rate` of x's entries is set to zero and the others are divided by 1 - rate.

    The masks come from the key "dropout" of ``apply(..., rngs={"dropout": key})``; with a step's own key they
    are a function of (seed, step, sample), on any number of devices, whereas flax's own Dropout draws one
    mask for the whole array, the same on every device under pmap. Nothing is done, and no key is needed, at
    rate 0 or where deterministic. Raises ValueError unless 0 <= rate < 1.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: Array, num_samples: int | None = None) -> Array:
        """x of shape (batch, ...), or (num_samples * k, ...) with each sample's k rows in succession."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout must be a rate in [0, 1), got {self.rate!r}.")
        if self.rate == 0 or self.deterministic:
            return x
        keep = 1 - self.rate
        num_samples = x.shape[0] if num_samples is None else num_samples
        # Drawn flat: XLA compiles a draw of many axes ten times more slowly on CPU.
        shape = (math.prod(x.shape) // num_samples,)
        kept = per_row(self.make_rng("dropout"), num_samples, lambda k: jax.random.bernoulli(k, keep, shape))
        return jnp.where(kept.reshape(x.shape), x / keep, jnp.zeros_like(x))
