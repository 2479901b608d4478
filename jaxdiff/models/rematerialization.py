"""What a block's backward pass finds in memory, and what it computes a second time.

none         all that the forward pass computed is kept
blocks       the input of a block only: a third more operations
dots         the answers of products with weights, and of convolutions, too: what is cheap comes twice
offloaded    these, of products, in the host's memory, from where they come back in time
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
from flax import linen as nn

from jaxdiff._numerics import checks

Rematerialization: TypeAlias = Literal["none", "blocks", "dots", "offloaded"]


def rematerialized(block: type[nn.Module], kind: Rematerialization, **options: Any) -> Any:
    """The kind of module, under `flax.linen.remat` with options; raises ValueError for an unknown kind."""
    checks.option("remat", kind, ["none", "blocks", "dots", "offloaded"])
    return block if kind == "none" else nn.remat(block, policy=_POLICIES[kind], **options)


def _products(primitive: Any, *_: Any, **params: Any) -> bool:
    kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *_, **params)
    return bool(kept) or primitive.name == "conv_general_dilated"


_POLICIES: dict[str, Callable[..., Any] | None] = {
    "blocks": None,
    "dots": _products,
    "offloaded": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
}
