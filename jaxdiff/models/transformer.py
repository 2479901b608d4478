"""A diffusion transformer for images: Peebles & Xie 2023, arXiv 2212.09748, with its adaLN-Zero blocks.

    h_0     = W_in patches(x) + b_in + place                                                        (1)
    h'      = h_k + gate1 * W_o attention(mod1(norm(h_k)))                     over all patches     (2)
    h_{k+1} = h'  + gate2 * W2 dropout(gelu(W1 mod2(norm(h'))))                                     (3)
    answer  = W_out mod(norm(h_n)) + b_out, put back in the places of the patches                   (4)

with c = c(t, label), mod(h) = (1 + scale) h + shift, and (shift1, scale1, gate1, shift2, scale2, gate2) =
W_c c + b_c, one row for each image. W_c = b_c = 0 at initialization, so that each block begins as the
identity, and W_out = b_out = 0. Half of place are waves of a patch's row and half of its column, cos and sin
of row / 10000^(4 i / width), and are not learned.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff.models.dropout import Dropout
from jaxdiff.models.embedding import Conditioning, check_inputs
from jaxdiff.models.patches import cut, put_back
from jaxdiff.typing import Array


class DiffusionTransformer(nn.Module):
    """Images x (batch, height, width, C), noise levels t (batch,), labels (batch,) or None -> x's shape.

    Zero at initialization. Patches have patch_size^2 pixels; width is the number of channels of a patch
    inside, expansion that of the perceptron over width. dropout, num_classes and dtype are those of `UNet`.

    With remat, the backward pass computes each block a second time instead of keeping what it computed: of a
    block, only its input stays in memory, for a third more operations.

    attention is the ``implementation`` of `jax.nn.dot_product_attention`: "cudnn", in bfloat16 on NVIDIA GPUs
    only, never holds the scores of all pairs of patches.

    Raises ValueError if a shape is wrong, if an image is not cut by patch_size, if width is not a multiple of
    num_heads and of 4, or if labels are missing or not expected; TypeError if they are not integers.
    """

    patch_size: int = 2
    width: int = 256
    num_blocks: int = 8
    num_heads: int = 4
    expansion: int = 4
    dropout: float = 0.0
    num_classes: int | None = None
    dtype: DTypeLike | None = None
    remat: bool = False
    attention: Literal["xla", "cudnn"] | None = None

    @nn.compact
    def __call__(self, x: Array, t: Array, labels: Array | None = None, *, train: bool = False) -> Array:
        check_inputs(("batch", "height", "width", "channels"), self.num_classes, x, t, labels)
        self._check_sizes(x.shape[1:3])
        condition = Conditioning(self.width, self.num_classes, name="conditioning")(t, labels)
        patches = cut(x, self.patch_size)
        down, across = (n // self.patch_size for n in x.shape[1:3])
        places = waves_of_places(down, across, self.width)
        h = _dense(self.width, self.dtype, name="in")(patches)
        h += jnp.asarray(places, h.dtype)[None]
        # Arguments are counted from self; the fourth, train, is no array.
        block = nn.remat(_Block, static_argnums=(3,)) if self.remat else _Block
        for i in range(self.num_blocks):
            options = (self.num_heads, self.expansion, self.dropout, self.dtype, self.attention)
            h = block(*options, name=f"block_{i}")(h, condition, train)
        h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        shift, scale = _modulations(2, self.width, None, condition)
        h = (1 + scale) * _norm(h, None) + shift
        zeros = nn.initializers.zeros_init()
        answer = _dense(patches.shape[-1], None, kernel_init=zeros, name="out")(h)
        return put_back(answer, x, self.patch_size)

    def _check_sizes(self, size: tuple[int, ...]) -> None:
        if self.width % math.lcm(self.num_heads, 4):
            raise ValueError(
                f"width must be a multiple of 4 and of num_heads = {self.num_heads}, got {self.width}."
            )
        if any(n % self.patch_size for n in size):
            raise ValueError(
                f"height and width must be multiples of patch_size = {self.patch_size}, got {size}; "
                "pad the images or use another patch_size."
            )


class _Block(nn.Module):
    """Eqs. (2) and (3): h (batch, n, width), condition (batch, width) -> h's shape."""

    num_heads: int
    expansion: int
    dropout: float
    dtype: DTypeLike | None
    attention: Literal["xla", "cudnn"] | None

    @nn.compact
    def __call__(self, h: Array, condition: Array, train: bool) -> Array:
        batch, n, width = h.shape
        dense = functools.partial(_dense, dtype=self.dtype)
        shift1, scale1, gate1, shift2, scale2, gate2 = _modulations(6, width, self.dtype, condition)
        # No biases: the softmax is blind to one on the keys, and that on the values is that of W_o.
        qkv = dense(3 * width, use_bias=False, name="qkv")((1 + scale1) * _norm(h, self.dtype) + shift1)
        q, k, v = jnp.split(qkv.reshape(batch, n, 3 * self.num_heads, width // self.num_heads), 3, axis=2)
        heard = jax.nn.dot_product_attention(q, k, v, implementation=self.attention)
        h += gate1 * dense(width, name="attend")(heard.reshape(h.shape))
        along = dense(self.expansion * width, name="mlp_in")((1 + scale2) * _norm(h, self.dtype) + shift2)
        along = Dropout(self.dropout, deterministic=not train)(nn.gelu(along))
        return h + gate2 * dense(width, name="mlp_out")(along)


def _modulations(num: int, width: int, dtype: DTypeLike | None, condition: Array) -> list[Array]:
    """num rows, each (batch, 1, width), from the condition; zero at initialization."""
    zeros = nn.initializers.zeros_init()
    rows = nn.Dense(num * width, dtype=dtype, kernel_init=zeros, name="modulation")(condition)
    return jnp.split(rows[:, None], num, axis=-1)


def _dense(features: int, dtype: DTypeLike | None, *, name: str, **options: Any) -> Callable[[Array], Array]:
    """An nn.Dense on (batch, n, channels), as one product of matrices: up to twice as fast on CPU."""
    dense = nn.Dense(features, dtype=dtype, name=name, **options)
    return lambda h: dense(h.reshape(-1, h.shape[-1])).reshape(*h.shape[:-1], features)


def _norm(h: Array, dtype: DTypeLike | None) -> Array:
    return nn.LayerNorm(use_scale=False, use_bias=False, dtype=dtype)(h)


def waves_of_places(rows: int, columns: int, width: int) -> np.ndarray:
    """(rows * columns, width): of each place, cos and sin of its row and then of its column."""
    frequencies = 10000.0 ** (-4 * np.arange(width // 4) / width)
    angles = [np.arange(n)[:, None] * frequencies for n in (rows, columns)]
    waves = [np.concatenate([np.cos(a), np.sin(a)], axis=-1) for a in angles]
    return np.concatenate([np.repeat(waves[0], columns, axis=0), np.tile(waves[1], (rows, 1))], axis=-1)
