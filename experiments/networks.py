"""What the experiments give `make_denoiser` of a Flax network."""

import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff.typing import Key


def applied(network: nn.Module, dropout: Key | None = None) -> Callable[..., Any]:
    """The network as a function of parameters and inputs; in training with dropout by a key, a leaf of it."""
    if dropout is None:
        return network.apply
    return Partial(functools.partial(network.apply, train=True), rngs={"dropout": dropout})
