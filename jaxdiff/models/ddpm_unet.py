"""The U-Net of DDPM, Ho et al. 2020, arXiv 2006.11239, as the diffusers library has it (its UNet2DModel).

    block(h)  = (s + conv2(silu(norm2(conv1(silu(norm1(h))) + W silu(e))))) / factor               (1)
    attend(s) = (s + W_o softmax(q k^T / sqrt(head_dim)) v + b_o) / factor,  (q, k, v) linear in norm(s)  (2)
    e         = W2 silu(W1 waves(step) + b1) + b2  (+ class vector)                                (3)

with s = h, or a 1x1 convolution of it where the number of channels changes, and factor = 1 but in the middle.
Under "scale_shift", conv1 is not added to, and norm2(h) is multiplied by 1 + scale and shifted, of W silu(e).
Every block and every smaller image on the way down leaves its answer for one on the way up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.embedding import check_inputs
from jaxdiff.models.torch_layout import (
    TorchNetwork,
    attention,
    conv,
    enlarged,
    group_norm,
    linear,
    table,
    waves,
)
from jaxdiff.typing import Array

_DOWN = {"DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"}
_UP = {"UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"}

_ONLY = {
    "act_fn": ("silu", "swish"),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "class_embed_type": (None,),
    "attn_norm_num_groups": (None,),
}
"""Options of diffusers of which one value is known here."""

_SILENT = ("sample_size", "in_channels", "num_train_timesteps", "dropout")
"""Options that say nothing of what is computed, outside of training."""


class DDPMUNet(TorchNetwork):
    """Images x (batch, height, width, C), steps t (batch,), labels (batch,) or None -> as many images.

    Exactly diffusers' UNet2DModel, and its parameters are those of its files, name for name: the fields are
    the entries of its config.json (`from_config`), and `from_state_dict` checks a file against them. Answers
    out_channels channels, None standing for C; zero at initialization. With num_class_embeds, labels are
    0, ..., num_class_embeds - 1. Dropout is left out.

    t is DDPM's step, 0 for the cleanest: what `ddpm_denoiser` shows.

    Raises ValueError if a shape is wrong, if height or width is not a multiple of 2^(levels - 1), if labels
    are missing or not expected, or for a block_type that is not known.

    >>> config = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    >>> network = jd.models.DDPMUNet.from_config(config | {"block_out_channels": [32, 64]})
    >>> x, steps = jnp.ones((1, 8, 8, 3)), jnp.zeros(1)
    >>> params = jax.eval_shape(network.init, jax.random.key(0), x, steps)
    >>> params["params"]["conv_in.weight"].shape  # PyTorch's order
    (32, 3, 3, 3)
    """

    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    layers_per_block: int = 2
    out_channels: int | None = 3
    attention_head_dim: int | None = 8
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    mid_block_scale_factor: float = 1
    add_attention: bool = True
    center_input_sample: bool = False
    resnet_time_scale_shift: str = "default"
    num_class_embeds: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DDPMUNet:
        """The network of diffusers' config.json, as a dict.

        Raises ValueError for an option whose value asks for another computation than is known here.
        """
        fields = {}
        for name, value in config.items():
            if name in cls.__dataclass_fields__ and name not in ("parent", "name"):
                fields[name] = tuple(value) if isinstance(value, list) else value
            elif name in _ONLY and value not in _ONLY[name]:
                raise ValueError(f"{name} is {value!r} in the config, wanted one of {_ONLY[name]}.")
            elif name not in _ONLY and name not in _SILENT and not name.startswith("_"):
                raise ValueError(f"The config has {name!r}, which is no option of a UNet2DModel known here.")
        return cls(**fields)

    @nn.compact
    def __call__(self, x: Array, t: Array, labels: Array | None = None) -> Array:
        last = None if self.num_class_embeds is None else self.num_class_embeds - 1
        check_inputs(("batch", "height", "width", "channels"), last, x, t, labels)
        self._check(x.shape[1:3])
        widths, groups = self.block_out_channels, self.norm_num_groups
        e = waves(t, widths[0], freq_shift=self.freq_shift, cosines_first=self.flip_sin_to_cos)
        e = nn.silu(linear(self, "time_embedding.linear_1", e, 4 * widths[0]))
        e = linear(self, "time_embedding.linear_2", e, 4 * widths[0])
        if labels is not None:
            e += table(self, "class_embedding", self.num_class_embeds or 0, 4 * widths[0], labels)
        e = nn.silu(e)

        x = 2 * x - 1 if self.center_input_sample else x
        h = conv(self, "conv_in", x, widths[0])
        kept = [h]
        for level, (kind, width) in enumerate(zip(self.down_block_types, widths, strict=True)):
            own = f"down_blocks.{level}"
            for i in range(self.layers_per_block):
                h = self._block(f"{own}.resnets.{i}", h, e, width)
                h = self._attend(f"{own}.attentions.{i}", h) if kind.startswith("Attn") else h
                kept.append(h)
            if level < len(widths) - 1:
                h = self._smaller(f"{own}.downsamplers.0", kind, h, e)
                kept.append(h)

        factor = self.mid_block_scale_factor
        h = self._block("mid_block.resnets.0", h, e, widths[-1], factor=factor)
        if self.add_attention:
            normed = self.resnet_time_scale_shift == "default"
            h = self._attend("mid_block.attentions.0", h, factor=factor, normed=normed)
        h = self._block("mid_block.resnets.1", h, e, widths[-1], factor=factor)

        for level, (kind, width) in enumerate(zip(self.up_block_types, widths[::-1], strict=True)):
            own = f"up_blocks.{level}"
            for i in range(self.layers_per_block + 1):
                h = self._block(f"{own}.resnets.{i}", jnp.concatenate([h, kept.pop()], axis=-1), e, width)
                h = self._attend(f"{own}.attentions.{i}", h) if kind.startswith("Attn") else h
            if level < len(widths) - 1:
                h = self._larger(f"{own}.upsamplers.0", kind, h, e)
        h = nn.silu(group_norm(self, "conv_norm_out", h, groups, self.norm_eps))
        return conv(self, "conv_out", h, self.out_channels or x.shape[-1], zero=True)

    def labelled(self) -> bool:
        return self.num_class_embeds is not None

    def renamed(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a file under the names of today: attention was of query, key, value, proj_attn."""
        old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

        def current(name: str) -> str:
            *path, layer, leaf = ["", *name.split(".")]
            return ".".join([*path, old.get(layer, layer) if "attentions" in path else layer, leaf])[1:]

        return {current(name): array for name, array in tensors.items()}

    def _block(
        self, name: str, x: Array, e: Array, width: int, *, factor: float = 1, resized: Any = None
    ) -> Array:
        """Eq. (1), with both h and s resized before the convolution."""
        h = nn.silu(group_norm(self, f"{name}.norm1", x, self.norm_num_groups, self.norm_eps))
        if resized is not None:
            h, x = resized(h), resized(x)
        h = conv(self, f"{name}.conv1", h, width)
        scaled = self.resnet_time_scale_shift == "scale_shift"
        row = linear(self, f"{name}.time_emb_proj", e, width * (1 + scaled))[:, None, None]
        h = h if scaled else h + row
        h = group_norm(self, f"{name}.norm2", h, self.norm_num_groups, self.norm_eps)
        if scaled:
            scale, shift = jnp.split(row, 2, axis=-1)
            h = h * (1 + scale) + shift
        h = conv(self, f"{name}.conv2", nn.silu(h), width, zero=True)
        if x.shape[-1] != width:
            x = conv(self, f"{name}.conv_shortcut", x, width, size=1)
        return (x + h) / factor

    def _attend(self, name: str, x: Array, *, factor: float = 1, normed: bool = True) -> Array:
        """Eq. (2)."""
        channels = x.shape[-1]
        head = channels if self.attention_head_dim is None else self.attention_head_dim
        heads = channels // head
        h = group_norm(self, f"{name}.group_norm", x, self.norm_num_groups, self.norm_eps) if normed else x
        rows = h.reshape(len(x), -1, channels)
        q, k, v = (linear(self, f"{name}.to_{part}", rows, heads * head) for part in "qkv")
        heard = linear(self, f"{name}.to_out.0", attention(q, k, v, heads), channels)
        return (x + heard.reshape(x.shape)) / factor

    def _smaller(self, name: str, kind: str, h: Array, e: Array) -> Array:
        """Half as many rows and columns."""
        if kind.startswith("Resnet") or (kind.startswith("Attn") and self.downsample_type == "resnet"):
            return self._block(name, h, e, h.shape[-1], resized=lambda h: nn.avg_pool(h, (2, 2), (2, 2)))
        # Without a padding of its own it takes one pixel at the far ends.
        before, after = self.downsample_padding, self.downsample_padding or 1
        return conv(self, f"{name}.conv", h, h.shape[-1], stride=2, padding=(before, after))

    def _larger(self, name: str, kind: str, h: Array, e: Array) -> Array:
        """Twice as many."""
        if kind.startswith("Resnet") or (kind.startswith("Attn") and self.upsample_type == "resnet"):
            return self._block(name, h, e, h.shape[-1], resized=enlarged)
        return conv(self, f"{name}.conv", enlarged(h), h.shape[-1])

    def _check(self, size: tuple[int, ...]) -> None:
        levels = len(self.block_out_channels)
        for name, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            kinds = getattr(self, name)
            if len(kinds) != levels or not known.issuperset(kinds):
                raise ValueError(
                    f"{name} must be {levels} of {', '.join(sorted(known))}, as many as block_out_channels, "
                    f"got {kinds}."
                )
        for name, known in (
            ("downsample_type", ("conv", "resnet")),
            ("upsample_type", ("conv", "resnet")),
            ("resnet_time_scale_shift", ("default", "scale_shift")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}.")
        if any(n % 2 ** (levels - 1) for n in size):
            raise ValueError(
                f"height and width must be multiples of {2 ** (levels - 1)} for {levels} levels, got {size}; "
                "pad the images."
            )
