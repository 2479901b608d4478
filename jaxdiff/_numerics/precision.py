"""What sums and differences are taken in, whatever precision the data have."""

from __future__ import annotations

import jax.numpy as jnp

from jaxdiff.typing import Array


def single(x: Array) -> Array:
    """x in single precision or better: bfloat16 and float16 become float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
