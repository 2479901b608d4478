"""A masked autoregressive model: one network reads earlier tokens, a small one denoises the next.

In an order pi of the n tokens, slot i holds the token before the one that it is to tell of:

    h_0[i]  = W_in token[pi(i-1)] + own[pi(i-1)] + next[pi(i)],    a vector "start" in place of token -1
    h'      = h_k + W_o attention(norm(h_k)),    slot i attending to slots 0, ..., i
    h_{k+1} = h' + W2 dropout(silu(W1 norm(h')))
    z[pi(i)] = norm(h_K)[i], a function of tokens pi(0), ..., pi(i-1) and of pi                     (1)

    g_0     = V_in x_t
    g_{k+1} = g_k + V2 dropout(silu(V1 film(norm(g_k), c))),    c = silu(V [c(t), z])
    answer  = V_out norm(g_K),    V_out = 0 at initialization                                       (2)

(2) learns the law of token i given z_i, and by the chain rule, in every order,

    log p(x) = sum_i log p(x_i | z_i)                                                               (3)

with all terms from one call of (1). Li et al. 2024, arXiv 2406.11838 (tokens of real numbers, denoised by a
small network; here with causal attention); Pannatier et al. 2024, arXiv 2404.09562 (slots that know their own
token and the next one, hence any order).

Both networks learn by one `losses.regression_loss`, whose predictor takes z from the same params; with times
uniform in log-SNR and the noise row as weight it is -(3), up to what the denoising network leaves: see
`jaxdiff.densities.formula`, whose formula gives (3) held out.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff.models.dropout import Dropout
from jaxdiff.models.embedding import Conditioning, Film
from jaxdiff.typing import Array


class MaskedAutoregressive(nn.Module):
    """Both networks. Tokens have shape (batch, n, features), what is denoised (rows, d).

        z = model.apply(params, tokens, order, method="condition")        # (batch, n, width)
        answer = model.apply(params, z[:, i], x_t, t, method="denoise")   # of token i in every row

    order holds a permutation of 0, ..., n - 1 for each row, shape (batch, n): order[:, 0] comes first. The
    answer is zero at initialization; dropout and precision are those of `ResidualMLP`. Raises ValueError if a
    shape is wrong or width is not a multiple of num_heads, and TypeError if order is not of integers.

    >>> model, tokens = jd.models.MaskedAutoregressive(5), jnp.ones((2, 16, 5))
    >>> order = jnp.tile(jnp.arange(16), (2, 1))  # the first comes first
    >>> params = jax.eval_shape(model.init, jax.random.key(0), tokens, order, tokens, jnp.zeros(2))
    >>> condition = lambda params: model.apply(params, tokens, order, method="condition")
    >>> jax.eval_shape(condition, params).shape
    (2, 16, 64)
    """

    num_outputs: int
    """Of the denoising network for each row: d, or what a `quantized.predictor` wants of it."""
    width: int = 64
    num_blocks: int = 3
    num_heads: int = 4
    denoiser_width: int = 64
    denoiser_blocks: int = 2
    dropout: float = 0.0

    def setup(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width must be a multiple of num_heads = {self.num_heads}, got {self.width}.")
        self.encoder = _Encoder(self.width, self.num_blocks, self.num_heads, dropout=self.dropout)
        self.denoiser = _Denoiser(
            self.num_outputs, self.denoiser_width, self.denoiser_blocks, dropout=self.dropout
        )

    def __call__(self, tokens: Array, order: Array, x: Array, t: Array, *, train: bool = False) -> Array:
        """The answers for all tokens at once: x (batch, n, d), t (batch,) -> (batch, n, num_outputs)."""
        z = self.condition(tokens, order, train=train)
        checks.shape("x", x, (*tokens.shape[:2], None))
        checks.shape("t", t, tokens.shape[:1])
        z, x = (part.reshape(-1, part.shape[-1]) for part in (z, x))
        answer = self.denoise(z, x, jnp.repeat(t, tokens.shape[1]), train=train)
        return answer.reshape(*tokens.shape[:2], self.num_outputs)

    def condition(self, tokens: Array, order: Array, *, train: bool = False) -> Array:
        """z of every token, from those before it in the order: (batch, n, width), in the places of tokens."""
        checks.shape("tokens", tokens, (None, None, None))
        checks.shape("order", order, tokens.shape[:2])
        checks.integers("order", order)
        return self.encoder(tokens, order, train)

    def denoise(self, z: Array, x: Array, t: Array, *, train: bool = False) -> Array:
        """The answer for tokens x (rows, d), each with its z (rows, width) and its t (rows,)."""
        checks.shape("z", z, (None, self.width))
        checks.shape("x", x, (z.shape[0], None))
        checks.shape("t", t, z.shape[:1])
        return self.denoiser(z, x, t, train)


class _Encoder(nn.Module):
    """Eq. (1)."""

    width: int
    num_blocks: int
    num_heads: int
    dropout: float

    @nn.compact
    def __call__(self, tokens: Array, order: Array, train: bool) -> Array:
        batch, n, _ = tokens.shape
        draw = nn.initializers.normal(0.3)
        start = self.param("start", draw, (1, 1, self.width))
        own, following = (self.param(name, draw, (n, self.width)) for name in ("own", "next"))
        h = nn.Dense(self.width, name="in")(tokens) + own[None]
        h = jnp.take_along_axis(h, order[..., None], axis=1)[:, :-1]
        h = jnp.concatenate([jnp.broadcast_to(start, (batch, 1, self.width)), h], axis=1) + following[order]
        h = h.reshape(batch * n, self.width)  # products of matrices: many times faster on CPU than batched
        for i in range(self.num_blocks):
            # No biases: the softmax is blind to one on the keys, and the norm's own serves the others.
            qkv = nn.Dense(3 * self.width, use_bias=False, name=f"qkv_{i}")(nn.LayerNorm(name=f"norm_{i}")(h))
            q, k, v = jnp.split(qkv.reshape(batch, n, 3 * self.num_heads, -1), 3, axis=2)
            seen = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(h.shape)
            h = h + nn.Dense(self.width, name=f"attend_{i}")(seen)
            along = nn.silu(nn.Dense(2 * self.width, name=f"mlp_in_{i}")(_norm(h)))
            along = Dropout(self.dropout, deterministic=not train)(along, batch)
            h = h + nn.Dense(self.width, name=f"mlp_out_{i}")(along)
        z = nn.LayerNorm(name="norm")(h).reshape(batch, n, self.width)
        return jnp.take_along_axis(z, jnp.argsort(order, axis=1)[..., None], axis=1)


class _Denoiser(nn.Module):
    """Eq. (2)."""

    num_outputs: int
    width: int
    num_blocks: int
    dropout: float

    @nn.compact
    def __call__(self, z: Array, x: Array, t: Array, train: bool) -> Array:
        level = Conditioning(self.width, name="conditioning")(t, None)
        condition = nn.silu(nn.Dense(self.width, name="join")(jnp.concatenate([level, z], axis=-1)))
        h = nn.Dense(self.width, name="in")(x)
        for i in range(self.num_blocks):
            along = nn.Dense(self.width, name=f"in_{i}")(Film(name=f"film_{i}")(_norm(h), condition))
            along = Dropout(self.dropout, deterministic=not train)(nn.silu(along))
            h = h + nn.Dense(self.width, name=f"out_{i}")(along)
        zeros = nn.initializers.zeros_init()
        return nn.Dense(self.num_outputs, kernel_init=zeros, name="out")(nn.LayerNorm(name="norm")(h))


def _norm(x: Array) -> Array:
    return nn.LayerNorm(use_scale=False, use_bias=False)(x)
