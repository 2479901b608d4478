"""An MLP-mixer for a fixed set of tokens: pixels, patches or the columns of a table.

    h_0     = W_in features + position
    h'      = h_i + V2 dropout(silu(V1 film(norm(h_i), c)))        over tokens, c = c(t, label)
    h_{i+1} = h'  + W2 dropout(silu(W1 film(norm(h'), c)))         over channels
    answer  = W_out norm(h_n),    W_out = 0 at initialization

Tolstikhin et al. 2021, arXiv 2105.01601. Weights are shared over tokens or over channels, never over both,
which generalizes better than a `ResidualMLP` of ten times the size from a few thousand images.
"""

import flax.linen as nn

from jaxdiff.models.dropout import Dropout
from jaxdiff.models.embedding import Conditioning, Film, check_inputs
from jaxdiff.typing import Array


class Mixer(nn.Module):
    """Features (batch, tokens, f), noise levels t (batch,), labels or None -> (batch, tokens, num_outputs).

    Zero at initialization; dropout, num_classes, precision and errors are those of `ResidualMLP`.

    >>> model = jd.models.Mixer(num_outputs=3)
    >>> x, t = jnp.ones((2, 16, 5)), jnp.zeros(2)  # 16 tokens of 5 features
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x, t)
    >>> jax.eval_shape(model.apply, params, x, t).shape
    (2, 16, 3)
    """

    num_outputs: int = 1
    channels: int = 32
    num_blocks: int = 3
    expansion: int = 2
    dropout: float = 0.0
    num_classes: int | None = None

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
        check_inputs(("batch", "tokens", "features"), self.num_classes, x, t, labels, s)
        batch, tokens, _ = x.shape
        condition = Conditioning(4 * self.channels, self.num_classes, name="conditioning")(t, labels, s)
        position = self.param("position", nn.initializers.normal(0.3), (tokens, self.channels))
        h = nn.Dense(self.channels, name="in")(x) + position[None]
        for i in range(self.num_blocks):
            # Tokens become rows of a matrix by transposition: one large product, fast forward and backward.
            # A bias over tokens would be one number for all channels of a token, which every norm takes out.
            across = _Mix(tokens, 1.0, self.dropout, use_bias=False, name=f"tokens_{i}")
            h = h + across(Film(name=f"film_tokens_{i}")(_norm(h), condition).swapaxes(1, 2), train).swapaxes(
                1, 2
            )
            along = _Mix(self.channels, self.expansion, self.dropout, name=f"channels_{i}")
            h = h + along(Film(name=f"film_channels_{i}")(_norm(h), condition), train)
        h = nn.LayerNorm(name="norm")(h).reshape(batch * tokens, self.channels)
        answer = nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros_init(), name="out")(h)
        return answer.reshape(batch, tokens, self.num_outputs)


class _Mix(nn.Module):
    """A two-layer perceptron over the last axis, zero at initialization."""

    size: int
    expansion: float
    dropout: float
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        h = x.reshape(-1, x.shape[-1])  # products of matrices: many times faster on CPU than batched ones
        h = nn.silu(nn.Dense(int(self.size * self.expansion), name="dense_1")(h))
        h = Dropout(self.dropout, deterministic=not train)(h, x.shape[0])
        zeros = nn.initializers.zeros_init()
        h = nn.Dense(self.size, use_bias=self.use_bias, kernel_init=zeros, name="dense_2")(h)
        return h.reshape(x.shape)


def _norm(x: Array) -> Array:
    return nn.LayerNorm(use_scale=False, use_bias=False)(x)
