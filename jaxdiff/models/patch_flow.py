"""A normalizing flow of images: blocks that are autoregressive over patches, by transformers.

An image is n patches x_i of D numbers. In a block, a causal transformer gives for every patch a shift m_i and
a logarithmic scale s_i from the patches before it,

    h_0[i]  = W_in x_{i-1} + position[i] + W_c class,    x_{-1} = 0
    h'      = h_k + W_o attention(norm(h_k)),    slot i attending to slots 0, ..., i
    h_{k+1} = h' + W2 silu(W1 norm(h'))
    m_i, s_i = W_out norm(h_K)[i] + b,    W_out = b = 0 at initialization                           (1)
    z_i     = (x_i - m_i) exp(-s_i),      log |det dz/dx| = - sum_i sum s_i                         (2)

and every second block takes the patches in reverse. From x to z all patches are done at once; from z to x,
x_i = m_i + z_i exp(s_i), one after the other, each as one slot of the transformer that remembers the keys and
values of those before it. Zhai et al. 2024, arXiv 2412.06329 (TarFlow; here the first patch is moved too).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models.flow_conditions import Conditions, check_flow_inputs, guided
from jaxdiff.models.patches import cut, put_back
from jaxdiff.typing import Array

_Memory = list[tuple[Array, Array]]  # keys and values of each layer, (batch, n, heads, width / heads)


class PatchFlow(nn.Module):
    """A bijection of images x (batch, height, width, channels), the identity at initialization.

        z, log_det = model.apply(params, x, labels)             # log_det (batch,), of dz/dx
        x = model.apply(params, z, labels, method="inverse")    # n slots one after the other in each block

    With num_classes set, labels are integers in 0, ..., num_classes, the last being "no class". guidance,
    a scalar g, then replaces (m, s) by c + g (c - u), c those of the class and u those of no class: again an
    autoregressive flow, with its exact log_det.

    The computation and both answers are in the precision of x, and in float32 at least. Raises ValueError if
    a shape is wrong, if the image is not cut by patch_size, if width is not a multiple of num_heads, if
    labels are missing or not expected, or if known ones are out of range; TypeError if they are not integers.

    >>> model, x = jd.models.PatchFlow(width=8, num_heads=2, num_blocks=1), jnp.ones((2, 4, 4, 1))
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> z, log_det = jax.eval_shape(model.apply, params, x)
    >>> z.shape, log_det.shape
    ((2, 4, 4, 1), (2,))
    """

    patch_size: int = 2
    width: int = 64
    num_blocks: int = 4
    num_layers: int = 2
    """Of attention, in a block."""
    num_heads: int = 4
    num_classes: int | None = None

    def setup(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width must be a multiple of num_heads = {self.num_heads}, got {self.width}.")
        self.conditions = Conditions(self.width, self.num_classes)
        self.blocks = _Block(self.width, self.num_layers, self.num_heads)

    def __call__(
        self, x: Array, labels: Array | None = None, *, guidance: Array | float | None = None
    ) -> tuple[Array, Array]:
        patches, conditions = self._begin(x, labels, guidance)

        def through(block: "_Block", patches: Array) -> tuple[Array, Array]:
            before = jnp.pad(patches[:, :-1], ((0, 0), (1, 0), (0, 0)))
            memory = block.no_memory(patches)
            answers = [block(before, condition, memory, 0)[0] for condition in conditions]
            shift, log_scale = jnp.split(guided(answers, guidance), 2, axis=-1)
            return ((patches - shift) * jnp.exp(-log_scale))[:, ::-1], -log_scale.sum((1, 2))

        patches, log_dets = self._scan(through)(self.blocks, patches)
        return put_back(self._in_order(patches), x, self.patch_size), log_dets.sum(0)

    def inverse(
        self, z: Array, labels: Array | None = None, *, guidance: Array | float | None = None
    ) -> Array:
        patches, conditions = self._begin(z, labels, guidance)

        def following(
            block: "_Block", carry: tuple[Array, list[_Memory]], slot: tuple[Array, Array]
        ) -> tuple[tuple[Array, list[_Memory]], Array]:
            (before, memories), (place, patch) = carry, slot
            heard = [
                block(before[:, None], condition, memory, place)
                for condition, memory in zip(conditions, memories, strict=True)
            ]
            shift, log_scale = jnp.split(guided([answer[:, 0] for answer, _ in heard], guidance), 2, axis=-1)
            patch = shift + patch * jnp.exp(log_scale)
            return (patch, [memory for _, memory in heard]), patch

        def through(block: "_Block", patches: Array) -> tuple[Array, None]:
            along = nn.scan(following, variable_broadcast="params", split_rngs={"params": False})
            start = jnp.zeros_like(patches[:, 0]), [block.no_memory(patches) for _ in conditions]
            slots = jnp.arange(patches.shape[1]), patches[:, ::-1].swapaxes(0, 1)
            return along(block, start, slots)[1].swapaxes(0, 1), None

        patches, _ = self._scan(through, reverse=True)(self.blocks, self._in_order(patches))
        return put_back(patches, z, self.patch_size)

    def _scan(self, through: Callable[..., Any], *, reverse: bool = False) -> Callable[..., Any]:
        """Through the blocks, which have one shape, so that one is compiled for all."""
        return nn.scan(
            through,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_blocks,
            reverse=reverse,
        )

    def _begin(
        self, x: Array, labels: Array | None, guidance: Array | float | None
    ) -> tuple[Array, tuple[Array | None, ...]]:
        """The patches (batch, n, D), row by row, and what the blocks hear of the class."""
        check_flow_inputs(("batch", "height", "width", "channels"), self.num_classes, x, labels, guidance)
        size = self.patch_size
        if any(n % size for n in x.shape[1:3]):
            raise ValueError(f"x must have sides that are multiples of patch_size = {size}, got {x.shape}.")
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return cut(x, size), self.conditions(labels, guidance, x.dtype)

    def _in_order(self, patches: Array) -> Array:
        """Each block turns the order around, so after an odd number of them it is the reverse."""
        return patches[:, ::-1] if self.num_blocks % 2 else patches


class _Block(nn.Module):
    """Eq. (1) for slots place, place + 1, ...; the memory holds what those before them left."""

    width: int
    num_layers: int
    num_heads: int

    def no_memory(self, patches: Array) -> _Memory:
        batch, n, _ = patches.shape
        shape = (batch, n, self.num_heads, self.width // self.num_heads)
        nothing = jnp.zeros(shape, jnp.promote_types(patches.dtype, jnp.float32))
        return [(nothing, nothing)] * self.num_layers

    @nn.compact
    def __call__(
        self, before: Array, condition: Array | None, memory: _Memory, place: Array | int
    ) -> tuple[Array, _Memory]:
        batch, slots, size = before.shape
        n = memory[0][0].shape[1]
        position = self.param("position", nn.initializers.normal(0.3), (n, self.width))
        h = nn.Dense(self.width, name="in")(before)
        h += jax.lax.dynamic_slice_in_dim(position, place, slots)[None]
        if condition is not None:
            h += nn.Dense(self.width, use_bias=False, name="condition")(condition)[:, None]
        h = h.reshape(-1, self.width)  # products of matrices: many times faster on CPU than batched
        seen = jnp.arange(n)[None] <= place + jnp.arange(slots)[:, None]
        left = []
        for i, (keys, values) in enumerate(memory):
            # No biases: the softmax is blind to one on the keys, and the norm's own serves the others.
            qkv = nn.Dense(3 * self.width, use_bias=False, name=f"qkv_{i}")(nn.LayerNorm(name=f"norm_{i}")(h))
            q, k, v = jnp.split(qkv.reshape(batch, slots, 3 * self.num_heads, -1), 3, axis=2)
            keys = jax.lax.dynamic_update_slice_in_dim(keys, k, place, axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(values, v, place, axis=1)
            left.append((keys, values))
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, keys) / math.sqrt(q.shape[-1])
            attention = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf))
            heard = jnp.einsum("bhqk,bkhd->bqhd", attention, values)
            h += nn.Dense(self.width, name=f"attend_{i}")(heard.reshape(h.shape))
            along = nn.LayerNorm(use_scale=False, use_bias=False, name=f"mlp_norm_{i}")(h)
            along = nn.silu(nn.Dense(2 * self.width, name=f"mlp_in_{i}")(along))
            h += nn.Dense(self.width, name=f"mlp_out_{i}")(along)
        out = nn.Dense(2 * size, kernel_init=nn.initializers.zeros_init(), name="out")
        return out(nn.LayerNorm(name="norm")(h)).reshape(batch, slots, 2 * size), left
