"""How flows hear of the class, and how guidance acts on them.

A flow reads the parameters of its bijections off networks. Under guidance g the parameters of a class, c, and
those of no class, u, become c + g (c - u): another bijection of the same family, and so with an exact
density.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdiff._numerics import checks
from jaxdiff.models.embedding import check_inputs
from jaxdiff.typing import Array


class Conditions(nn.Module):
    """What the networks of a flow hear of the class: one vector a row, and under guidance that of no class.

    Without classes the one answer is None; under a label outside 0, ..., num_classes that `check_flow_inputs`
    could not know, it is NaN.
    """

    width: int
    num_classes: int | None

    @nn.compact
    def __call__(
        self, labels: Array | None, guidance: Array | float | None, dtype: DTypeLike
    ) -> tuple[Array | None, ...]:
        if self.num_classes is None or labels is None:
            return (None,)
        shape = (self.num_classes + 1, self.width)
        table = self.param("classes", nn.initializers.normal(1.0), shape, jnp.float32)
        table = table.astype(jnp.promote_types(dtype, table.dtype))
        given = table.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return (given,) if guidance is None else (given, jnp.broadcast_to(table[-1:], given.shape))


def guided(answers: list[Array], guidance: Array | float | None) -> Array:
    """c, or c + g (c - u) from the answers (c, u) of a network under a class and under none."""
    if guidance is None:
        return answers[0]
    given, null = answers
    return given + guidance * (given - null)


def check_flow_inputs(
    axes: tuple[str, ...],
    num_classes: int | None,
    x: Array,
    labels: Array | None,
    guidance: Array | float | None,
) -> None:
    """As `embedding.check_inputs`, and of guidance: a scalar, and of a model with classes."""
    check_inputs(axes, num_classes, x, jnp.zeros(x.shape[:1]), labels)
    if guidance is not None:
        checks.shape("guidance", guidance, ())
        if num_classes is None:
            raise ValueError("guidance was given to a model without classes; build it with num_classes=...")
