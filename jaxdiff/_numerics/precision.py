"""What sums and differences are taken in, whatever precision the data have."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff.typing import Array


def single(x: ArrayLike) -> Array:
    """x as an array in single precision or better: bfloat16, float16 and integers become float32."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
