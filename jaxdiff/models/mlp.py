"""A residual network for vectors.

    h_0     = W_in [x, waves(x)] + b_in
    h_{i+1} = h_i + W2 dropout(silu(W1 film(norm(h_i), c))) + biases,    c = c(t, label)
    answer  = W_out silu(norm(h_n)) + b_out,    W_out = b_out = 0 at initialization

where film scales and shifts by two linear functions of c (`jaxdiff.models.embedding`).
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.dropout import Dropout
from jaxdiff.models.embedding import Conditioning, Film, check_inputs, fourier_features
from jaxdiff.typing import Array


class ResidualMLP(nn.Module):
    """Vectors x (batch, d), noise levels t (batch,), labels (batch,) or None -> (batch, d).

    Zero at initialization. num_blocks may be 0; dropout is the rate at which units are dropped inside the
    blocks when ``train=True``, which needs ``rngs={"dropout": key}``; row i's depend on (key, i) only. With
    num_classes set, labels are integers in 0, ..., num_classes, the last being "no class"; under ``jit``,
    where their values are not known, a label out of range answers NaN.

    s, a second noise level (batch,), makes it the network of a flow map (`jaxdiff.maps`): see
    `jaxdiff.models.embedding`.

    The computation and the answer are in the precision of x, and in float32 at least.

    input_frequencies feeds sin(2 pi f x) and cos(2 pi f x) beside x, which lets a smooth network see the
    grain of quantized data: (64, 128) are those of variational diffusion models for 8-bit pixels in
    [-1, 1] (Kingma et al. 2021, arXiv 2107.00630).

    Raises ValueError if a shape is wrong, if labels are missing or not expected, or if known ones are out of
    range; TypeError if they are not integers.

    >>> model, x, t = jd.models.ResidualMLP(width=8, num_blocks=1), jnp.ones((1, 2)), jnp.zeros(1)
    >>> params = jax.jit(model.init)(jax.random.key(0), x, t)
    >>> jax.jit(model.apply)(params, x, t).tolist()  # before training
    [[0.0, 0.0]]
    """

    width: int = 256
    num_blocks: int = 3
    dropout: float = 0.0
    num_classes: int | None = None
    input_frequencies: tuple[float, ...] = ()

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
        check_inputs(("batch", "d"), self.num_classes, x, t, labels, s)
        condition = Conditioning(self.width, self.num_classes, name="conditioning")(t, labels, s)
        features = jnp.concatenate([x, fourier_features(x, self.input_frequencies)], axis=-1)
        h = nn.Dense(self.width, name="in")(features)
        for i in range(self.num_blocks):
            h = _Block(self.dropout, name=f"block_{i}")(h, condition, train)
        zeros = nn.initializers.zeros_init()
        return nn.Dense(x.shape[-1], kernel_init=zeros, name="out")(nn.silu(nn.LayerNorm(name="norm")(h)))


class _Block(nn.Module):
    dropout: float

    @nn.compact
    def __call__(self, x: Array, condition: Array, train: bool) -> Array:
        width = x.shape[-1]
        h = nn.LayerNorm(use_scale=False, use_bias=False, name="norm")(x)
        h = nn.silu(nn.Dense(width, name="dense_1")(Film(name="film")(h, condition)))
        h = Dropout(self.dropout, deterministic=not train)(h)
        return x + nn.Dense(width, name="dense_2")(h)
