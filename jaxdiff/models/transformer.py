"""A diffusion transformer for images: Peebles & Xie 2023, arXiv 2212.09748, with its adaLN-Zero blocks.

    h_0     = W_in patches(x) + b_in + place                                                        (1)
    h'      = h_k + gate1 * W_o attention(mod1(norm(h_k)))                     over all patches     (2)
    h_{k+1} = h'  + gate2 * W2 dropout(gelu(W1 mod2(norm(h'))))                                     (3)
    answer  = W_out mod(norm(h_n)) + b_out, put back in the places of the patches                   (4)

with c = c(t, label), mod(h) = (1 + scale) h + shift, and (shift1, scale1, gate1, shift2, scale2, gate2) =
W_c c + b_c, one row for each image. W_c = b_c = 0 at initialization, so that each block begins as the
identity, and W_out = b_out = 0. Half of place are waves of a patch's row and half of its column, cos and sin
of row / 10000^(4 i / width), and are not learned.

With a context, such as the embeddings of a text's tokens, each block hears it between (2) and (3):

    h'     <- h' + gate * V_o attention(mod(norm(h')), [null, context])        over all its tokens  (5)

with queries from the patches, keys and values from a learned token, null, and from the tokens of the context
that are not masked. (shift, scale, gate) of (5) are of their own V_c c + d_c, zero at initialization.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.shards import spread
from jaxdiff.models.attention import Kernel, attended
from jaxdiff.models.dropout import Dropout
from jaxdiff.models.embedding import Conditioning, check_inputs
from jaxdiff.models.patches import cut, put_back
from jaxdiff.models.rematerialization import Rematerialization, rematerialized
from jaxdiff.typing import Array


class DiffusionTransformer(nn.Module):
    """Images x (batch, height, width, C), noise levels t (batch,), labels (batch,) or None -> x's shape.

    Zero at initialization. Patches have patch_size^2 pixels; width is the number of channels of a patch
    inside, expansion that of the perceptron over width. dropout, num_classes and dtype, and with it the
    precision of the answer, are those of `UNet`.

    With context_width set, each block hears a context: (batch, m, context_width) floats of order one, of any
    m, with context_mask (batch, m) that is True where a token counts, None standing for everywhere. The order
    of the tokens is not heard, unless they tell it themselves. A row whose mask is all False is the null
    condition of classifier-free guidance, whatever its context holds. The parameters are those of the same
    model without a context, and more of new names: joined with trained ones, they begin with its answers.

    remat is what of a block stays in memory for the backward pass, which computes the rest a second time: see
    `jaxdiff.models.rematerialization`. "blocks" keeps its input only, for a third more operations.

    With scan, the blocks are one block with stacked parameters, run by a loop: compilation takes as long for
    28 as for a few, and a step on a CPU half as long again. `scanned_blocks` and `separate_blocks` turn
    parameters of either form, averages and optimizer states into the other's.

    attention is the kernel among patches, see `jaxdiff.models.attention`: "best" mostly never holds the
    scores of all pairs of them, and has a derivative in forward mode on CPUs only.

    Raises ValueError if a shape is wrong, if an image is not cut by patch_size, if width is not a multiple of
    num_heads and of 4, if labels or a context are missing or not expected, or if known labels are out of
    range; TypeError if labels are not integers, a context not floats, or its mask not booleans.

    >>> model = jd.models.DiffusionTransformer(patch_size=4, num_classes=10)
    >>> x, t, labels = jnp.ones((2, 32, 32, 3)), jnp.zeros(2), jnp.array([3, 10])  # a three, and no class
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x, t, labels)
    >>> jax.eval_shape(model.apply, params, x, t, labels).shape
    (2, 32, 32, 3)
    """

    patch_size: int = 2
    width: int = 256
    num_blocks: int = 8
    num_heads: int = 4
    expansion: int = 4
    dropout: float = 0.0
    num_classes: int | None = None
    dtype: DTypeLike | None = None
    remat: Rematerialization = "none"
    scan: bool = False
    attention: Kernel | None = None
    context_width: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Array,
        labels: Array | None = None,
        context: Array | None = None,
        context_mask: Array | None = None,
        *,
        s: Array | None = None,
        train: bool = False,
    ) -> Array:
        check_inputs(("batch", "height", "width", "channels"), self.num_classes, x, t, labels, s)
        _check_context(self.context_width, x, context, context_mask)
        self._check_sizes(x.shape[1:3])
        condition = Conditioning(self.width, self.num_classes, name="conditioning")(t, labels, s)
        patches = cut(x, self.patch_size)
        down, across = (n // self.patch_size for n in x.shape[1:3])
        places = waves_of_places(down, across, self.width)
        h = _dense(self.width, self.dtype, name="in")(patches)
        h += jnp.asarray(places, h.dtype)[None]
        heard = () if context is None else self._with_null(context, context_mask)
        # Arguments are counted from self; the fourth, train, is no array.
        block = rematerialized(_Block, self.remat, static_argnums=(3,), prevent_cse=not self.scan)
        make = functools.partial(
            block, self.num_heads, self.expansion, self.dropout, self.dtype, self.attention
        )
        if self.scan:
            loop = nn.scan(
                _Repeated,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,  # type: ignore[arg-type] - which flax means by it
                length=self.num_blocks,
            )
            h, _ = loop(make, train, name="blocks")(h, condition, *heard)
        else:
            for i in range(self.num_blocks):
                h = make(name=f"block_{i}")(h, condition, train, *heard)
        h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        shift, scale = _modulations(2, self.width, None, condition)
        h = (1 + scale) * _norm(h, None) + shift
        zeros = nn.initializers.zeros_init()
        answer = _dense(patches.shape[-1], None, kernel_init=zeros, name="out")(h)
        return put_back(answer, x, self.patch_size)

    def _with_null(self, context: Array, mask: Array | None) -> tuple[Array, Array]:
        """The context after the null token, (batch, 1 + m, context_width), and which tokens count."""
        batch, m, width = context.shape
        null = self.param("null", nn.initializers.normal(1.0), (1, 1, width))
        mask = jnp.ones((batch, m), bool) if mask is None else mask
        # A NaN in a masked token would be heard: it is not zero under a weight of zero either.
        context = jnp.where(mask[..., None], context, jnp.zeros_like(context))
        context = jnp.concatenate([jnp.broadcast_to(null, (batch, 1, width)), context], axis=1)
        return context, jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)

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
    """Eqs. (2), (5) and (3): h (batch, n, width), condition (batch, width) -> h's shape."""

    num_heads: int
    expansion: int
    dropout: float
    dtype: DTypeLike | None
    attention: Kernel | None

    @nn.compact
    def __call__(
        self,
        h: Array,
        condition: Array,
        train: bool,
        context: Array | None = None,
        counts: Array | None = None,
    ) -> Array:
        batch, n, width = h.shape
        dense = functools.partial(_dense, dtype=self.dtype)
        shift1, scale1, gate1, shift2, scale2, gate2 = _modulations(6, width, self.dtype, condition)
        # No biases: the softmax is blind to one on the keys, and that on the values is that of W_o.
        by_heads = functools.partial(_by_heads, (3, self.num_heads, width // self.num_heads))
        qkv = nn.Dense(3 * width, use_bias=False, dtype=self.dtype, dot_general=by_heads, name="qkv")(
            ((1 + scale1) * _norm(h, self.dtype) + shift1).reshape(batch * n, width)
        )
        q, k, v = jnp.moveaxis(spread(qkv.reshape(batch, n, *qkv.shape[1:]), 3), 2, 0)
        heard = attended(q, k, v, self.attention)
        h += gate1 * dense(width, name="attend")(heard.reshape(h.shape))
        if context is not None and counts is not None:
            h = _Hearing(self.num_heads, self.dtype, name="hearing")(h, condition, context, counts)
        hidden = dense(self.expansion * width, name="mlp_in", split=True)
        along = hidden((1 + scale2) * _norm(h, self.dtype) + shift2)
        along = Dropout(self.dropout, deterministic=not train)(nn.gelu(along))
        return h + gate2 * dense(width, name="mlp_out")(along)


class _Repeated(nn.Module):
    """A block as `nn.scan` asks for it."""

    make: Callable[..., nn.Module]
    train: bool

    @nn.compact
    def __call__(self, h: Array, condition: Array, *heard: Array) -> tuple[Array, None]:
        return self.make(name="block")(h, condition, self.train, *heard), None


def scanned_blocks(tree: Any) -> Any:
    """Parameters of a `DiffusionTransformer` as those with scan, wherever in a tree they are.

    So are all of a `TrainState`: its averages and its optimizer's moments are trees like the parameters.

    >>> tree = {"params": {"in": jnp.zeros(3), "block_0": {"w": jnp.zeros(2)}, "block_1": {"w": jnp.ones(2)}}}
    >>> jd.models.scanned_blocks(tree)["params"]["blocks"]["block"]["w"].tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """

    def stacked(node: Any) -> Any:
        if not _has(node, "block_0"):
            return node
        blocks = [node[f"block_{i}"] for i in range(sum(_is_block(name) for name in node))]
        rest = {name: part for name, part in node.items() if not _is_block(name)}
        return rest | {"blocks": {"block": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}}

    return jax.tree.map(stacked, tree, is_leaf=lambda node: _has(node, "block_0"))


def separate_blocks(tree: Any) -> Any:
    """The other way: parameters with scan as those without.

    >>> tree = {"blocks": {"block": {"w": jnp.array([[0.0, 0.0], [1.0, 1.0]])}}}
    >>> sorted(jd.models.separate_blocks(tree)), jd.models.separate_blocks(tree)["block_1"]["w"].tolist()
    (['block_0', 'block_1'], [1.0, 1.0])
    """

    def separated(node: Any) -> Any:
        if not _has(node, "blocks"):
            return node
        stacked = node["blocks"]["block"]
        rest = {name: part for name, part in node.items() if name != "blocks"}
        number = len(jax.tree.leaves(stacked)[0])
        return rest | {f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(number)}

    return jax.tree.map(separated, tree, is_leaf=lambda node: _has(node, "blocks"))


def _has(node: Any, name: str) -> bool:
    return isinstance(node, dict) and name in node


def _is_block(name: str) -> bool:
    return name.startswith("block_")


class _Hearing(nn.Module):
    """Eq. (5): h (batch, n, width) and context (batch, tokens, c), of which those count that counts says."""

    num_heads: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, h: Array, condition: Array, context: Array, counts: Array) -> Array:
        batch, _, width = h.shape
        dense = functools.partial(_dense, dtype=self.dtype)
        shift, scale, gate = _modulations(3, width, self.dtype, condition)
        heads = (batch, -1, self.num_heads, width // self.num_heads)
        # No biases, for the same reasons.
        q = dense(width, use_bias=False, name="q")((1 + scale) * _norm(h, self.dtype) + shift)
        kv = dense(2 * width, use_bias=False, name="kv")(context.astype(h.dtype))
        k, v = (part.reshape(heads) for part in jnp.split(kv, 2, axis=-1))
        # Never by cuDNN, which asks for more of a mask and of the number of tokens; these scores are few.
        heard = jax.nn.dot_product_attention(q.reshape(heads), k, v, mask=counts[:, None, None])
        return h + gate * dense(width, name="attend")(heard.reshape(h.shape))


def _check_context(width: int | None, x: Array, context: Array | None, mask: Array | None) -> None:
    """Raise ValueError or TypeError unless the model can hear the context: see `DiffusionTransformer`."""
    if width is None:
        if context is not None or mask is not None:
            raise ValueError(
                "a context or its mask was given to a model without; build it with context_width=..."
            )
        return
    if context is None:
        raise ValueError(
            f"context is missing for a model of context_width = {width}; give floats of shape "
            f"({x.shape[0]}, m, {width}), with a context_mask that is False throughout where there is none."
        )
    checks.shape("context", context, (x.shape[0], None, width))
    checks.floating("context", context)
    if mask is not None:
        checks.shape("context_mask", mask, context.shape[:2])
        if mask.dtype != bool:
            raise TypeError(
                f"context_mask must be booleans, True where a token counts, got {mask.dtype}; "
                "convert it first, for instance context_mask > 0."
            )


def _modulations(num: int, width: int, dtype: DTypeLike | None, condition: Array) -> list[Array]:
    """num rows, each (batch, 1, width), from the condition; zero at initialization."""
    zeros = nn.initializers.zeros_init()
    rows = spread(nn.Dense(num * width, dtype=dtype, kernel_init=zeros, name="modulation")(condition))
    return jnp.split(rows[:, None], num, axis=-1)


def _dense(
    features: int, dtype: DTypeLike | None, *, name: str, split: bool = False, **options: Any
) -> Callable[[Array], Array]:
    """An nn.Dense on (batch, n, channels), as one product of matrices: up to twice as fast on CPU.

    Where devices share a row, each makes some of the features, if split says so, and otherwise all.
    """
    dense = nn.Dense(features, dtype=dtype, name=name, **options)
    parts = 2 if split else None
    return lambda h: spread(dense(h.reshape(-1, h.shape[-1])).reshape(*h.shape[:-1], features), parts)


def _by_heads(shape: tuple[int, ...], h: Array, kernel: Array, *arguments: Any, **options: Any) -> Array:
    """The product, its columns by (3, heads, channels): as one axis the heads could not be spread."""
    return jax.lax.dot_general(h, kernel.reshape(-1, *shape), *arguments, **options)


def _norm(h: Array, dtype: DTypeLike | None) -> Array:
    return nn.LayerNorm(use_scale=False, use_bias=False, dtype=dtype)(h)


def waves_of_places(rows: int, columns: int, width: int) -> np.ndarray:
    """(rows * columns, width): of each place, cos and sin of its row and then of its column."""
    frequencies = 10000.0 ** (-4 * np.arange(width // 4) / width)
    angles = [np.arange(n)[:, None] * frequencies for n in (rows, columns)]
    waves = [np.concatenate([np.cos(a), np.sin(a)], axis=-1) for a in angles]
    return np.concatenate([np.repeat(waves[0], columns, axis=0), np.tile(waves[1], (rows, 1))], axis=-1)
