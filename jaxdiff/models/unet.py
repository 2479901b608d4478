"""A U-Net for images, in the line of Ho et al. 2020, arXiv 2006.11239, and its successors.

    block(h)     = attend(s + conv(dropout(silu(film(norm(conv(silu(norm(h)))), c))))),    c = c(t, label)
    attend(s)    = s + W softmax(q k^T / sqrt(channels)) v,    (q, k, v) = linear in norm(s), over all pixels

with s = h, or a 1x1 convolution of h where the number of channels changes. Every block on the way down leaves
its answer for one on the way up, which reads it beside its own input.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdiff._numerics.shards import whole
from jaxdiff.models.dropout import Dropout
from jaxdiff.models.embedding import Conditioning, Film, check_inputs
from jaxdiff.models.rematerialization import Rematerialization, rematerialized
from jaxdiff.typing import Array, Key


class UNet(nn.Module):
    """Images x (batch, height, width, C), noise levels t (batch,), labels (batch,) or None -> x's shape.

    Zero at initialization. Level i works at 1/2^i of the resolution with channels * channel_multipliers[i]
    channels, blocks_per_level blocks down and as many up, and self-attention if i is in attention_levels
    (0 being the full resolution; attention costs (pixels of the level)^2). dropout and num_classes are those
    of `ResidualMLP`.

    dtype is the precision of the computation inside, None standing for that of x, and float32 at least.
    Parameters, statistics of normalizations, softmax and the last layer stay in float32 (in float64 if x is),
    and so does the answer: it is float32 for x in bfloat16 too.

    remat is what of a block stays in memory for the backward pass, which computes the rest a second time: see
    `jaxdiff.models.rematerialization`. "blocks" keeps its input only, for a third more operations.

    Raises ValueError if a shape is wrong, if height or width is not a multiple of 2^(levels - 1), if labels
    are missing or not expected, or if known ones are out of range; TypeError if they are not integers.

    >>> model = jd.models.UNet(channels=32, channel_multipliers=(1, 2), attention_levels=(1,))
    >>> x, t = jnp.ones((2, 32, 32, 3)), jnp.zeros(2)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x, t)
    >>> jax.eval_shape(model.apply, params, x, t).shape
    (2, 32, 32, 3)
    """

    channels: int = 64
    channel_multipliers: tuple[int, ...] = (1, 2, 2)
    blocks_per_level: int = 2
    attention_levels: tuple[int, ...] = ()
    dropout: float = 0.0
    num_classes: int | None = None
    dtype: DTypeLike | None = None
    remat: Rematerialization = "none"

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Array,
        labels: Array | None = None,
        *,
        s: Array | None = None,
        train: bool = False,
    ) -> Array:
        check_inputs(("batch", "height", "width", "channels"), self.num_classes, x, t, labels, s)
        levels = range(len(self.channel_multipliers))
        self._check_levels(x.shape[1:3])
        condition = Conditioning(4 * self.channels, self.num_classes, name="conditioning")(t, labels, s)

        own = train and s is None  # our convolution's derivative, see `_conv`
        # Arguments are counted from self; the fourth and fifth, train and own, are no arrays.
        make = rematerialized(_Block, self.remat, static_argnums=(3, 4))

        def block(name: str, level: int, h: Array) -> Array:
            channels = self.channels * self.channel_multipliers[level]
            attention = level in self.attention_levels
            return make(channels, attention, self.dropout, self.dtype, name=name)(h, condition, train, own)

        h = _conv(self.channels, 3, self.dtype, own, name="in")(x)
        kept = []
        for level in levels:
            h = nn.avg_pool(h, (2, 2), (2, 2)) if level else h
            for i in range(self.blocks_per_level):
                h = block(f"down_{level}_{i}", level, h)
                kept.append(h)
        for i in range(2):
            h = block(f"middle_{i}", levels[-1], h)
        for level in reversed(levels):
            for i in range(self.blocks_per_level):
                h = block(f"up_{level}_{i}", level, jnp.concatenate([h, kept.pop()], axis=-1))
            if level:
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
                h = _conv(h.shape[-1], 3, self.dtype, own, name=f"enlarge_{level}")(h)
        h = nn.silu(_norm(h, None, name="norm"))
        zeros = nn.initializers.zeros_init()
        return _conv(x.shape[-1], 3, None, own, kernel_init=zeros, name="out")(h)

    def _check_levels(self, size: tuple[int, ...]) -> None:
        levels = len(self.channel_multipliers)
        if any(level not in range(levels) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels must lie in 0, ..., {levels - 1}, one less than the number of "
                f"channel_multipliers, got {self.attention_levels}."
            )
        if any(n % 2 ** (levels - 1) for n in size):
            raise ValueError(
                f"height and width must be multiples of {2 ** (levels - 1)} for {levels} levels, got {size}; "
                "pad the images or use fewer channel_multipliers."
            )


class _Block(nn.Module):
    channels: int
    attention: bool
    dropout: float
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Array, condition: Array, train: bool, own: bool) -> Array:
        conv = functools.partial(_conv, self.channels, dtype=self.dtype, own=own)
        h = conv(3, name="conv_1")(nn.silu(_norm(x, self.dtype, name="norm_1")))
        h = _norm(h, self.dtype, name="norm_2", affine=False)
        h = nn.silu(Film(self.dtype, name="film")(h, condition))
        h = conv(3, name="conv_2")(Dropout(self.dropout, deterministic=not train)(h))
        if x.shape[-1] != self.channels:
            x = conv(1, name="shortcut")(x)
        return _Attention(self.dtype, name="attention")(x + h) if self.attention else x + h


class _Attention(nn.Module):
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        # No biases: the softmax is blind to one on the keys, and the norm's own serves the others.
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype)
        qkv = dense(3 * channels, name="qkv")(_norm(x, self.dtype, name="norm"))
        # One head, as (batch, pixels, heads, channels).
        q, k, v = jnp.split(qkv.reshape(batch, height * width, 1, 3 * channels), 3, axis=-1)
        return x + dense(channels, name="out")(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


def _norm(x: Array, dtype: DTypeLike | None, *, name: str, affine: bool = True) -> Array:
    # At least four channels a group: alone in a group, a channel would lose its mean, and so its bias.
    channels = x.shape[-1]
    groups = next((n for n in range(min(32, channels // 4), 0, -1) if channels % n == 0), 1)
    return nn.GroupNorm(groups, dtype=dtype, use_scale=affine, use_bias=affine, name=name)(x)


def _conv(
    channels: int, size: int, dtype: DTypeLike | None, own: bool, *, name: str, **options: Any
) -> nn.Conv:
    # Ours in training only, and not of flow maps, since it has no derivative in forward mode.
    convolve = _same if own else _of_whole
    options = {"kernel_init": _kernel_init, "conv_general_dilated": convolve, **options}
    return nn.Conv(channels, (size, size), dtype=dtype, name=name, **options)


def _same(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`_convolve` under the arguments that flax gives; ours are the same everywhere."""
    return _convolve(x, whole(kernel))


def _of_whole(x: Array, kernel: Array, *arguments: Any, **options: Any) -> Array:
    return jax.lax.conv_general_dilated(x, whole(kernel), *arguments, **options)


_conv_nhwc = functools.partial(
    jax.lax.conv_general_dilated, window_strides=(1, 1), dimension_numbers=("NHWC", "HWIO", "NHWC")
)


def _plain(x: Array, kernel: Array) -> Array:
    return _conv_nhwc(x, kernel, padding="SAME")


@jax.custom_vjp
def _convolve(x: Array, kernel: Array) -> Array:
    """Images (n, height, width, c) with a kernel (k, k, c, c'), k odd, to the images' size."""
    return _plain(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    # By the platform that the program is compiled for, which need not be one that this host has.
    return jax.lax.platform_dependent(*kept, cotangent, cpu=_written_out, default=_of_jax)


def _of_jax(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    (of_x,) = jax.linear_transpose(lambda x: _plain(x, kernel), x)(cotangent)
    (of_kernel,) = jax.linear_transpose(lambda kernel: _plain(x, kernel), kernel)(cotangent)
    return of_x, of_kernel


def _written_out(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    """`_of_jax`, as convolutions in the order of axes that XLA has a fast kernel for on CPU.

    XLA would reorder them by itself, but only outside of loops: in the scan of a training loop they take 18
    times as long (MEASURED, jax 0.12.0.1, 2026-11-22).
    """
    of_x = _plain(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))
    margin = [(size // 2, size // 2) for size in kernel.shape[:2]]
    # Channels take the place of rows, and rows that of channels.
    of_kernel = _conv_nhwc(x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), padding=margin)
    return of_x, of_kernel.transpose(1, 2, 0, 3)


_convolve.defvjp(_forward, _backward)


def _kernel_init(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    # lecun_normal, number for number, drawn as the matrix that it is: XLA takes ten times as long to compile
    # a random draw with four axes for a CPU, which made the initialization of a network a matter of minutes.
    matrix = (math.prod(shape[:-1]), shape[-1])
    return nn.initializers.lecun_normal()(key, matrix, dtype).reshape(shape)
