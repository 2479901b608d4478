"""The U-Nets DDPM++ and NCSN++ of Song et al. 2021, arXiv 2011.13456, as EDM's authors published weights.

Karras et al. 2022, arXiv 2206.00364:

    block(h)  = r (s + conv1(silu(norm1(conv0(silu(norm0(h))) + W e + b)))),        r = 1 / sqrt(2)     (1)
    attend(s) = r (s + W_o softmax(q k^T / sqrt(channels)) v + b_o),   (q, k, v) linear in norm2(s)     (2)
    e         = silu(W1 silu(W0 (waves(t) + W_c class) + b0) + b1)                                      (3)

with s = h, or a 1x1 convolution of it where the number of channels or of pixels changes. A block that changes
the number of pixels filters h and s first, by resample_filter in both directions.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models.embedding import check_inputs
from jaxdiff.models.torch_layout import TorchNetwork, attention, conv, group_norm, linear, waves
from jaxdiff.typing import Array

_R = math.sqrt(0.5)


class EDMUNet(TorchNetwork):
    """Images x (batch, height, width, C), noise levels t (batch,), labels (batch,) or None -> x's shape.

    Exactly the SongUNet of EDM's authors, and its parameters are those of its state dict, name for name: the
    fields are that class's arguments. Their files are pickles, which can run code: convert one to
    safetensors where you trust it, and `from_state_dict` checks it, with the "model." before the names or
    without. Published DDPM++ is the default; NCSN++ has embedding_type "fourier", channel_mult_noise 2,
    encoder_type "residual" and resample_filter (1, 3, 3, 1).

    t is log(sigma) / 4, what `make_denoiser` shows with scale=0.5, theirs, and `Karras` noise. Labels are
    0, ..., label_dim, the last standing for no class. Dropout and the layer of augmentations, which sampling
    does not ask, are left out. Zero at initialization.

    Raises ValueError if a shape is wrong, if height or width is not img_resolution, if labels are missing or
    not expected, or for an encoder or embedding that is not known; TypeError if labels are not integers.

    >>> network = jd.models.EDMUNet(img_resolution=8, model_channels=32, channel_mult=(1,), num_blocks=1)
    >>> x, levels = jnp.ones((1, 8, 8, 3)), jnp.zeros(1)
    >>> params = jax.eval_shape(network.init, jax.random.key(0), x, levels)
    >>> jax.eval_shape(network.apply, params, x, levels).shape
    (1, 8, 8, 3)
    """

    img_resolution: int = 32
    label_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    @nn.compact
    def __call__(self, x: Array, t: Array, labels: Array | None = None) -> Array:
        check_inputs(("batch", "height", "width", "channels"), self.label_dim or None, x, t, labels)
        self._check(x.shape[1:3])
        e, sizes = (
            self._embedding(t, labels),
            [self.img_resolution >> i for i in range(len(self.channel_mult))],
        )

        h, beside, kept = x, x, []
        for level, (size, factor) in enumerate(zip(sizes, self.channel_mult, strict=True)):
            own = f"enc.{size}x{size}"
            if level == 0:
                h = conv(self, f"{own}_conv", h, self.model_channels)
            else:
                h = self._block(f"{own}_down", h, e, h.shape[-1], resized=self._smaller)
                if self.encoder_type == "residual":
                    h = beside = (h + self._reduced(f"{own}_aux_residual", beside, h.shape[-1])) * _R
            kept.append(h)
            for i in range(self.num_blocks):
                h = self._block(f"{own}_block{i}", h, e, self.model_channels * factor)
                h = self._attend(f"{own}_block{i}", h) if size in self.attn_resolutions else h
                kept.append(h)

        for level, (size, factor) in reversed([*enumerate(zip(sizes, self.channel_mult, strict=True))]):
            own = f"dec.{size}x{size}"
            if level == len(sizes) - 1:
                h = self._attend(f"{own}_in0", self._block(f"{own}_in0", h, e, h.shape[-1]))
                h = self._block(f"{own}_in1", h, e, h.shape[-1])
            else:
                h = self._block(f"{own}_up", h, e, h.shape[-1], resized=self._larger)
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, kept.pop()], axis=-1)
                h = self._block(f"{own}_block{i}", h, e, self.model_channels * factor)
                if i == self.num_blocks and size in self.attn_resolutions:
                    h = self._attend(f"{own}_block{i}", h)
        own = f"dec.{self.img_resolution}x{self.img_resolution}"
        h = nn.silu(_norm(self, f"{own}_aux_norm", h))
        return conv(self, f"{own}_aux_conv", h, x.shape[-1], zero=True)

    def labelled(self) -> bool:
        return self.label_dim > 0

    def renamed(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a file without the "model." of their names, and without what is not used."""
        short = {name.removeprefix("model."): array for name, array in tensors.items()}
        unused = ("resample_filter", "map_augment.weight")
        return {name: array for name, array in short.items() if not name.endswith(unused)}

    def _embedding(self, t: Array, labels: Array | None) -> Array:
        """Eq. (3)."""
        width, wide = (self.model_channels * m for m in (self.channel_mult_noise, self.channel_mult_emb))
        if self.embedding_type == "fourier":
            own = self.param("map_noise.freqs", nn.initializers.normal(16.0), (width // 2,))
            angles = t[:, None] * (2 * np.pi * jax.lax.stop_gradient(own))[None]
            e = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        else:
            e = waves(t, width, freq_shift=1, cosines_first=False)
        if labels is not None:
            held = jax.nn.one_hot(labels, self.label_dim) * math.sqrt(self.label_dim)
            e += linear(self, "map_label", held, width)
        e = nn.silu(linear(self, "map_layer0", e, wide))
        return nn.silu(linear(self, "map_layer1", e, wide))

    def _block(self, name: str, x: Array, e: Array, width: int, *, resized: Any = None) -> Array:
        """Eq. (1)."""
        h = nn.silu(_norm(self, f"{name}.norm0", x))
        if resized is not None:
            h, x = resized(h), resized(x)
        h = conv(self, f"{name}.conv0", h, width)
        h += linear(self, f"{name}.affine", e, width)[:, None, None]
        h = conv(self, f"{name}.conv1", nn.silu(_norm(self, f"{name}.norm1", h)), width, zero=True)
        if resized is not None or x.shape[-1] != width:
            x = conv(self, f"{name}.skip", x, width, size=1)
        return (x + h) * _R

    def _attend(self, name: str, x: Array) -> Array:
        """Eq. (2); a channel's query, key and value lie beside each other."""
        channels = x.shape[-1]
        qkv = conv(self, f"{name}.qkv", _norm(self, f"{name}.norm2", x), 3 * channels, size=1)
        qkv = qkv.reshape(len(x), -1, channels, 3)
        heard = attention(*(qkv[..., i] for i in range(3)), heads=1).reshape(x.shape)
        return (x + conv(self, f"{name}.proj", heard, channels, size=1, zero=True)) * _R

    def _smaller(self, x: Array) -> Array:
        """Half as many rows and columns."""
        return _filtered(x, self.resample_filter, (len(self.resample_filter) - 1) // 2, stride=2)

    def _larger(self, x: Array) -> Array:
        """Twice as many: the transpose of `_smaller`, four times as large."""
        length = len(self.resample_filter)
        return 4 * _filtered(x, self.resample_filter, length - 1 - (length - 1) // 2, spread=2)

    def _reduced(self, name: str, x: Array, width: int) -> Array:
        """Half as many rows and columns by a 3x3 convolution whose answer is filtered."""
        margin = 1 + (len(self.resample_filter) - 1) // 2
        x = conv(self, name, x, width, padding=(margin, margin), bias=False)
        x = _filtered(x, self.resample_filter, 0, stride=2)
        return x + self.param(f"{name}.bias", nn.initializers.zeros_init(), (width,))[None, None, None]

    def _check(self, size: tuple[int, ...]) -> None:
        for name, known in (
            ("embedding_type", ("positional", "fourier")),
            ("encoder_type", ("standard", "residual")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}.")
        if size != (self.img_resolution,) * 2 or self.img_resolution % 2 ** (len(self.channel_mult) - 1):
            raise ValueError(
                f"height and width must be img_resolution = {self.img_resolution}, a multiple of "
                f"{2 ** (len(self.channel_mult) - 1)} for {len(self.channel_mult)} levels, got {size}."
            )


def _norm(module: TorchNetwork, name: str, x: Array) -> Array:
    return group_norm(module, name, x, min(32, x.shape[-1] // 4), 1e-6)


def _filtered(x: Array, taps: tuple[int, ...], margin: int, *, stride: int = 1, spread: int = 1) -> Array:
    """Each channel by the taps in both directions, of sum one; spread apart by zeros first."""
    line = np.asarray(taps, np.float32) / sum(taps)
    kernel = np.tile(np.outer(line, line)[:, :, None, None], x.shape[-1])
    return jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel, x.dtype),
        (stride, stride),
        [(margin, margin)] * 2,
        lhs_dilation=(spread, spread),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
