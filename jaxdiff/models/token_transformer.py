"""A transformer for tokens: `DiffusionTransformer`'s blocks with rotary positions.

    h_0     = token_vector[x] (+ place_vector[i])                                                   (1)
    h'      = h_k + gate1 * W_o attention(mod1(norm(h_k)))                     over all places      (2)
    h_{k+1} = h'  + gate2 * W2 dropout(gelu(W1 mod2(norm(h'))))                                     (3)
    answer  = W_out mod(norm(h_n)) + b_out                          one number a token of the data  (4)

with mod, shift, scale and gate from c(level, label) as there. Queries and keys are norm(W h), each entry pair
(j, j + half) of a head turned by the angle i / 10000^(j / half) at place i, so that attention hears how far
apart two places are, and lengths that were never seen go through: Su et al. 2021, arXiv 2104.09864. Queries
are times e^sharpness, a number of each head that is learned from 0: of norms alone no score is above the root
of a head's size, too little for one place to be heard alone. W_c = b_c = 0 and W_out = b_out = 0 at
initialization.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff._numerics import checks
from jaxdiff.models.dropout import Dropout
from jaxdiff.models.embedding import Conditioning, check_inputs
from jaxdiff.typing import Array


class TokenTransformer(nn.Module):
    """Tokens x (batch, length), levels t (batch,), labels (batch,) or None -> (batch, length, vocabulary).

    Zero at initialization. x holds integers 0, ..., num_states - 1: of a `jumps` process its ``states``,
    under masking one more than its ``vocabulary``. width is the number of channels of a place inside,
    expansion that of the perceptron over width. num_places: with a length that is always the same, as of
    images, a vector learned for each place beside the turned pairs. causal: places hear only those before
    them and themselves, for the control by autoregression. dropout, num_classes and dtype are those of
    `UNet`.

    Raises ValueError if a shape is wrong, if width / num_heads is not even, if labels are missing or not
    expected or out of range, or for more than num_places; TypeError if x or labels are not integers.

    >>> process, x, t = jd.jumps.Masking(27), jnp.zeros((2, 10), int), jnp.ones(2)
    >>> model = jd.models.TokenTransformer(process.vocabulary, process.states, width=32, num_blocks=1)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x, t)
    >>> jax.eval_shape(model.apply, params, x, t).shape  # numbers for each letter at each place
    (2, 10, 27)
    """

    vocabulary: int
    num_states: int
    width: int = 128
    num_blocks: int = 4
    num_heads: int = 4
    expansion: int = 4
    dropout: float = 0.0
    num_classes: int | None = None
    num_places: int | None = None
    causal: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array, t: Array, labels: Array | None = None, *, train: bool = False) -> Array:
        checks.integers("x", x)
        check_inputs(("batch", "length"), self.num_classes, x, t, labels)
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width must be a multiple of 2 num_heads = {2 * self.num_heads}, got {self.width}."
            )
        condition = Conditioning(self.width, self.num_classes, name="conditioning")(t, labels)
        vectors = self.param("tokens", nn.initializers.normal(1.0), (self.num_states, self.width))
        h = vectors[x]
        if self.num_places is not None:
            if x.shape[1] > self.num_places:
                raise ValueError(f"x must hold at most {self.num_places} places, got {x.shape[1]}.")
            places = self.param("places", nn.initializers.normal(0.5), (self.num_places, self.width))
            h += places[None, : x.shape[1]]
        h = h.astype(self.dtype or h.dtype)
        for i in range(self.num_blocks):
            options = (self.num_heads, self.expansion, self.dropout, self.causal, self.dtype)
            h = _Block(*options, name=f"block_{i}")(h, condition, train)
        h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        shift, scale = _modulations(2, self.width, None, condition)
        zeros = nn.initializers.zeros_init()
        h = (1 + scale) * _norm(h, None) + shift
        return _rows(nn.Dense(self.vocabulary, kernel_init=zeros, name="out"), h)


class _Block(nn.Module):
    """Eqs. (2) and (3): h (batch, n, width), condition (batch, width) -> h's shape."""

    num_heads: int
    expansion: int
    dropout: float
    causal: bool
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, h: Array, condition: Array, train: bool) -> Array:
        batch, n, width = h.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = _modulations(6, width, self.dtype, condition)
        heard = (1 + scale1) * _norm(h, self.dtype) + shift1
        # No biases: the softmax is blind to one on the keys, and that on the values is that of W_o.
        qkv = _rows(nn.Dense(3 * width, use_bias=False, dtype=self.dtype, name="qkv"), heard)
        q, k, v = jnp.split(qkv.reshape(batch, n, 3 * self.num_heads, width // self.num_heads), 3, axis=2)
        q, k = (turned(_norm(part, self.dtype)) for part in (q, k))
        sharpness = self.param("sharpness", nn.initializers.zeros_init(), (self.num_heads, 1))
        q = jnp.exp(sharpness).astype(q.dtype)[None, None] * q
        seen = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal).reshape(h.shape)
        h = h + gate1 * _rows(nn.Dense(width, dtype=self.dtype, name="attend"), seen)
        along = (1 + scale2) * _norm(h, self.dtype) + shift2
        along = nn.gelu(_rows(nn.Dense(self.expansion * width, dtype=self.dtype, name="mlp_in"), along))
        along = Dropout(self.dropout, deterministic=not train)(along)
        return h + gate2 * _rows(nn.Dense(width, dtype=self.dtype, name="mlp_out"), along)


def turned(h: Array) -> Array:
    """Heads (batch, n, heads, size) with each pair (j, j + size / 2) turned by an angle of its place."""
    n, half = h.shape[1], h.shape[3] // 2
    angles = np.arange(n)[:, None] * 10000.0 ** (-np.arange(half) / half)
    cos, sin = (jnp.asarray(wave(angles), h.dtype)[None, :, None] for wave in (np.cos, np.sin))
    first, second = h[..., :half], h[..., half:]
    return jnp.concatenate([cos * first - sin * second, sin * first + cos * second], axis=-1)


def _modulations(num: int, width: int, dtype: DTypeLike | None, condition: Array) -> list[Array]:
    """num rows, each (batch, 1, width), from the condition; zero at initialization."""
    zeros = nn.initializers.zeros_init()
    rows = nn.Dense(num * width, dtype=dtype, kernel_init=zeros, name="modulation")(condition)
    return jnp.split(rows[:, None], num, axis=-1)


def _rows(dense: nn.Dense, h: Array) -> Array:
    """On (batch, n, channels) as one product of matrices: up to twice as fast on CPU."""
    return dense(h.reshape(-1, h.shape[-1])).reshape(*h.shape[:-1], dense.features)


def _norm(h: Array, dtype: DTypeLike | None) -> Array:
    return nn.LayerNorm(use_scale=False, use_bias=False, dtype=dtype)(h)
