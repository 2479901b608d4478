"""The transformer of DiT, Peebles & Xie 2023, arXiv 2212.09748, as its weights are published.

    h'      = h_k + gate1 * attention(mod1(norm(h_k)))                                              (1)
    h_{k+1} = h'  + gate2 * W2 gelu(W1 mod2(norm(h')) + b1) + b2                                    (2)
    answer  = W_out mod(norm(h_n)) + b_out, put back in the places of the patches                   (3)
    (shift1, scale1, gate1, shift2, scale2, gate2) = W_k silu(c_k) + b_k                            (4)
    c_k     = V2 silu(V1 waves(step) + d1) + d2 + vector of the class, of each block its own        (5)

with mod(h) = (1 + scale) h + shift; (3) has c_0. As published, (5) is the same for all blocks. A patch's
place is told by waves of its column, and then of its row. `DiffusionTransformer` is ours: it has other waves,
and fewer biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.models.embedding import check_inputs
from jaxdiff.models.patches import put_back
from jaxdiff.models.torch_layout import TorchNetwork, attention, linear, patches, standardized, table, waves
from jaxdiff.typing import Array

_ONLY = {
    "activation_fn": ("gelu-approximate",),
    "norm_type": ("ada_norm_zero",),
    "attention_bias": (True,),
    "norm_elementwise_affine": (False,),
}
_SILENT = ("in_channels", "dropout", "norm_num_groups", "upcast_attention")

_NAMES = {
    "x_embedder.proj": "pos_embed.proj",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_EMBEDDERS = {
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}
"""Layers in the authors' files and in diffusers', whose names are used here; the last are of every block."""


class DiT(TorchNetwork):
    """Images x (batch, height, width, C), steps t (batch,), labels (batch,) -> (batch, height, width, out).

    Exactly diffusers' DiTTransformer2DModel, and its parameters are those of its files, name for name: the
    fields are the entries of its config.json (`from_config`). Files of the authors' code, whose names are
    others, are understood by `from_state_dict` too; there norm_eps is 1e-6 and freq_shift 0. Labels are
    0, ..., num_embeds_ada_norm, the last standing for no class.

    Of published weights out_channels is twice C: the noise, [..., :C], and a variance. t is DDPM's step, what
    `ddpm_denoiser` shows. sample_size is that of the images it was trained on: of others, places are those
    of the same share of height and width.

    Raises ValueError if a shape is wrong, if an image is not cut by patch_size, or if labels are missing or
    known ones out of range; TypeError if they are not integers.

    >>> network = jd.models.DiT(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8)
    >>> x, steps, labels = jnp.ones((1, 8, 8, 4)), jnp.zeros(1), jnp.array([1000])  # no class
    >>> params = jax.eval_shape(network.init, jax.random.key(0), x, steps, labels)
    >>> jax.eval_shape(network.apply, params, x, steps, labels).shape
    (1, 8, 8, 4)
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    num_layers: int = 28
    patch_size: int = 2
    sample_size: int = 32
    out_channels: int | None = None
    num_embeds_ada_norm: int = 1000
    norm_eps: float = 1e-5
    freq_shift: float = 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DiT:
        """The network of diffusers' config.json, as a dict.

        Raises ValueError for an option whose value asks for another computation than is known here.
        """
        fields = {}
        for name, value in config.items():
            if name in cls.__dataclass_fields__ and name not in ("parent", "name", "freq_shift"):
                fields[name] = value
            elif name in _ONLY and value not in _ONLY[name]:
                raise ValueError(f"{name} is {value!r} in the config, wanted {_ONLY[name][0]!r}.")
            elif name not in _ONLY and name not in _SILENT and not name.startswith("_"):
                raise ValueError(f"The config has {name!r}, which no DiTTransformer2DModel known here has.")
        return cls(**fields)

    @nn.compact
    def __call__(self, x: Array, t: Array, labels: Array | None = None) -> Array:
        check_inputs(("batch", "height", "width", "channels"), self.num_embeds_ada_norm, x, t, labels)
        size, p, width = x.shape[1:3], self.patch_size, self.num_attention_heads * self.attention_head_dim
        if any(n % p for n in size):
            raise ValueError(f"height and width must be multiples of patch_size = {p}, got {size}.")
        h = patches(self, "pos_embed.proj", x, width, p) + self.places(size)[None]
        conditions = [self._condition(f"transformer_blocks.{i}", t, labels) for i in range(self.num_layers)]
        for i, c in enumerate(conditions):
            h = self._block(f"transformer_blocks.{i}", h, c)
        shift, scale = _rows(linear(self, "proj_out_1", conditions[0], 2 * width), 2)
        h = (1 + scale) * standardized(h, -1, 1e-6) + shift
        out = x.shape[-1] if self.out_channels is None else self.out_channels
        answer = linear(self, "proj_out_2", h, p**2 * out, zero=True)
        return put_back(answer, jnp.zeros((*x.shape[:3], out)), p)

    def places(self, size: tuple[int, ...]) -> np.ndarray:
        """The waves of the patches' places, (n, width), row by row."""
        width = self.num_attention_heads * self.attention_head_dim
        base = self.sample_size // self.patch_size
        frequencies = 10000.0 ** (-4 * np.arange(width // 4) / width)
        numbers = [n // self.patch_size for n in size]
        angles = [(np.arange(n) * base / n)[:, None] * frequencies for n in numbers]
        rows, columns = (np.concatenate([np.sin(a), np.cos(a)], axis=-1) for a in angles)
        places = [np.tile(columns, (numbers[0], 1)), np.repeat(rows, numbers[1], axis=0)]
        return np.concatenate(places, axis=-1).astype(np.float32)

    def labelled(self) -> bool:
        return True

    def renamed(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a file of the authors' under diffusers' names.

        Raises ValueError if the file holds other places than `places`.
        """
        stored = [tensors.pop(name) for name in ("pos_embed", "pos_embed.pos_embed") if name in tensors]
        expected = self.places((self.sample_size,) * 2)
        for places in stored:
            if places[0].shape != expected.shape or np.abs(places[0] - expected).max() > 1e-5:
                raise ValueError(
                    f"The file's places, of shape {places.shape}, are not those of sample_size = "
                    f"{self.sample_size} and patch_size = {self.patch_size}."
                )
        named: dict[str, Any] = {}
        for name, array in tensors.items():
            layer, _, leaf = name.rpartition(".")
            block, own = "", layer
            if layer.startswith("blocks."):
                _, number, own = layer.split(".", 2)
                block = f"transformer_blocks.{number}."
            if own == "attn.qkv":
                parts = zip("qkv", np.split(array, 3), strict=True)
                named |= {f"{block}attn1.to_{part}.{leaf}": rows for part, rows in parts}
            elif own in _EMBEDDERS:
                blocks = [f"transformer_blocks.{i}" for i in range(self.num_layers)]
                named |= {f"{one}.{_EMBEDDERS[own]}.{leaf}": array for one in blocks}
            else:
                named[f"{block}{_NAMES.get(own, own)}.{leaf}"] = array
        return named

    def _condition(self, name: str, t: Array, labels: Array | None) -> Array:
        """silu of eq. (5)."""
        width, own = self.num_attention_heads * self.attention_head_dim, f"{name}.norm1.emb"
        c = waves(t, 256, freq_shift=self.freq_shift, cosines_first=True)
        c = nn.silu(linear(self, f"{own}.timestep_embedder.linear_1", c, width))
        c = linear(self, f"{own}.timestep_embedder.linear_2", c, width)
        classes = f"{own}.class_embedder.embedding_table"
        return nn.silu(c + table(self, classes, self.num_embeds_ada_norm + 1, width, labels))

    def _block(self, name: str, h: Array, c: Array) -> Array:
        """Eqs. (1), (2) and (4)."""
        width = h.shape[-1]
        rows = linear(self, f"{name}.norm1.linear", c, 6 * width, zero=True)
        shift1, scale1, gate1, shift2, scale2, gate2 = _rows(rows, 6)
        seen = (1 + scale1) * standardized(h, -1, 1e-6) + shift1
        q, k, v = (linear(self, f"{name}.attn1.to_{part}", seen, width) for part in "qkv")
        heard = attention(q, k, v, self.num_attention_heads)
        h = h + gate1 * linear(self, f"{name}.attn1.to_out.0", heard, width)
        seen = (1 + scale2) * standardized(h, -1, self.norm_eps) + shift2
        along = nn.gelu(linear(self, f"{name}.ff.net.0.proj", seen, 4 * width))
        return h + gate2 * linear(self, f"{name}.ff.net.2", along, width)


def _rows(h: Array, num: int) -> list[Array]:
    """num rows, each (batch, 1, width)."""
    return jnp.split(h[:, None], num, axis=-1)
