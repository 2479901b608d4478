"""`DiffusionTransformer` and `UNet` in PyTorch, for the benchmark of a train step to compare with.

Names of modules are those of the Flax networks, so that parameters can be copied from one to the other. The
parts that these keep in float32 are kept in it here, outside of autocast.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]  # noqa: N812
from torch import nn  # pyright: ignore[reportMissingImports]

from jaxdiff.models import DiffusionTransformer, UNet
from jaxdiff.models.transformer import waves_of_places

_TIME_FREQUENCIES = 2.0 ** np.linspace(-4, 3, 16)


class Conditioning(nn.Module):
    """Of the noise level, without classes."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.tensor(_TIME_FREQUENCIES, dtype=torch.float32))
        self.time_in, self.time_out = nn.Linear(32, width), nn.Linear(width, width)

    def forward(self, t: Any) -> Any:
        with torch.autocast(t.device.type, enabled=False):
            angles = 2 * math.pi * t[:, None] * self.frequencies
            h = torch.cat([angles.sin(), angles.cos()], dim=-1)
            return F.silu(self.time_out(F.silu(self.time_in(h))))


class TransformerBlock(nn.Module):
    """Of `Transformer`."""

    def __init__(self, width: int, num_heads: int, expansion: int):
        super().__init__()
        self.num_heads = num_heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.attend = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)

    def forward(self, h: Any, condition: Any) -> Any:
        batch, n, width = h.shape
        rows = self.modulation(condition)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = rows
        qkv = self.qkv((1 + scale1) * F.layer_norm(h, (width,), eps=1e-6) + shift1)
        q, k, v = qkv.view(batch, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, width)
        h = h + gate1 * self.attend(heard)
        along = self.mlp_in((1 + scale2) * F.layer_norm(h, (width,), eps=1e-6) + shift2)
        return h + gate2 * self.mlp_out(F.gelu(along, approximate="tanh"))


class Transformer(nn.Module):
    """The network that the Flax one describes, on images (batch, size, size, 3)."""

    def __init__(self, like: DiffusionTransformer, size: int):
        super().__init__()
        self.patch, self.side = like.patch_size, size // like.patch_size
        places = waves_of_places(self.side, self.side, like.width)
        self.register_buffer("places", torch.tensor(places, dtype=torch.float32))
        patch = 3 * self.patch**2
        blocks = {
            f"block_{i}": TransformerBlock(like.width, like.num_heads, like.expansion)
            for i in range(like.num_blocks)
        }
        self.parts = nn.ModuleDict(
            {
                "conditioning": Conditioning(like.width),
                "in": nn.Linear(patch, like.width),
                **blocks,
                "modulation": nn.Linear(like.width, 2 * like.width),
                "out": nn.Linear(like.width, patch),
            }
        )

    def forward(self, x: Any, t: Any) -> Any:
        batch, p, side = len(x), self.patch, self.side
        condition = self.parts["conditioning"](t)
        patches = x.view(batch, side, p, side, p, 3).transpose(2, 3).reshape(batch, side**2, -1)
        h = self.parts["in"](patches)
        h = h + self.places.to(h.dtype)
        for name, block in self.parts.items():
            h = block(h, condition) if name.startswith("block") else h
        with torch.autocast(x.device.type, enabled=False):
            h = h.float()
            shift, scale = self.parts["modulation"](condition)[:, None].chunk(2, dim=-1)
            h = self.parts["out"]((1 + scale) * F.layer_norm(h, h.shape[-1:], eps=1e-6) + shift)
        return h.view(batch, side, side, p, p, 3).transpose(2, 3).reshape(x.shape)


def _groups(channels: int) -> int:
    return next((n for n in range(min(32, channels // 4), 0, -1) if channels % n == 0), 1)


def _norm(channels: int, *, affine: bool = True) -> Any:
    return nn.GroupNorm(_groups(channels), channels, eps=1e-6, affine=affine)


class UNetBlock(nn.Module):
    """Of `TorchUNet`: two convolutions, and attention where asked for."""

    def __init__(self, before: int, channels: int, attention: bool, condition: int):
        super().__init__()
        parts = {
            "norm_1": _norm(before),
            "conv_1": nn.Conv2d(before, channels, 3, padding=1),
            "norm_2": _norm(channels, affine=False),
            "film": nn.ModuleDict({"scale_shift": nn.Linear(condition, 2 * channels)}),
            "conv_2": nn.Conv2d(channels, channels, 3, padding=1),
        }
        if before != channels:
            parts["shortcut"] = nn.Conv2d(before, channels, 1)
        if attention:
            qkv, out = (nn.Linear(channels, n * channels, bias=False) for n in (3, 1))
            parts["attention"] = nn.ModuleDict({"norm": _norm(channels), "qkv": qkv, "out": out})
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Any, condition: Any) -> Any:
        parts = self.parts
        h = parts["norm_2"](parts["conv_1"](F.silu(parts["norm_1"](x))))
        scale, shift = parts["film"]["scale_shift"](condition)[:, :, None, None].chunk(2, dim=1)
        h = parts["conv_2"](F.silu((1 + scale) * h + shift))
        h = h + (parts["shortcut"](x) if "shortcut" in parts else x)
        return self._attend(h) if "attention" in parts else h

    def _attend(self, x: Any) -> Any:
        own = self.parts["attention"]
        pixels = own["norm"](x).flatten(2).transpose(1, 2)
        q, k, v = own["qkv"](pixels)[:, None].chunk(3, dim=-1)
        heard = own["out"](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + heard.transpose(1, 2).reshape(x.shape)


class TorchUNet(nn.Module):
    """The network that the Flax one describes, on images (batch, size, size, 3)."""

    def __init__(self, like: UNet):
        super().__init__()
        widths = [like.channels * m for m in like.channel_multipliers]
        self.levels, self.per_level = range(len(widths)), like.blocks_per_level
        parts: dict[str, Any] = {"conditioning": Conditioning(4 * like.channels)}

        def add(name: str, level: int, before: int) -> int:
            attention = level in like.attention_levels
            parts[name] = UNetBlock(before, widths[level], attention, 4 * like.channels)
            return widths[level]

        parts["in"] = nn.Conv2d(3, like.channels, 3, padding=1)
        now, kept = like.channels, []
        for level in self.levels:
            for i in range(self.per_level):
                now = add(f"down_{level}_{i}", level, now)
                kept.append(now)
        for i in range(2):
            now = add(f"middle_{i}", self.levels[-1], now)
        for level in reversed(self.levels):
            for i in range(self.per_level):
                now = add(f"up_{level}_{i}", level, now + kept.pop())
            if level:
                parts[f"enlarge_{level}"] = nn.Conv2d(now, now, 3, padding=1)
        parts |= {"norm": _norm(now), "out": nn.Conv2d(now, 3, 3, padding=1)}
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Any, t: Any) -> Any:
        parts = self.parts
        condition = parts["conditioning"](t)
        h, kept = parts["in"](x.permute(0, 3, 1, 2)), []
        for level in self.levels:
            h = F.avg_pool2d(h, 2) if level else h
            for i in range(self.per_level):
                h = parts[f"down_{level}_{i}"](h, condition)
                kept.append(h)
        for i in range(2):
            h = parts[f"middle_{i}"](h, condition)
        for level in reversed(self.levels):
            for i in range(self.per_level):
                h = parts[f"up_{level}_{i}"](torch.cat([h, kept.pop()], dim=1), condition)
            if level:
                h = parts[f"enlarge_{level}"](F.interpolate(h, scale_factor=2, mode="nearest"))
        with torch.autocast(x.device.type, enabled=False):
            return parts["out"](F.silu(parts["norm"](h.float()))).permute(0, 2, 3, 1)


def build(like: DiffusionTransformer | UNet, size: int, params: Any, device: str) -> Any:
    """The same network with a copy of the Flax parameters, on a device."""
    module = TorchUNet(like) if hasattr(like, "channel_multipliers") else Transformer(like, size)  # pyright: ignore[reportArgumentType]
    names = {"weight": ("kernel", "scale"), "bias": ("bias",)}
    for name, parameter in module.named_parameters():
        *path, last = name.replace("parts.", "").split(".")
        node = params["params"]
        for part in path:
            node = node[part]
        leaf = np.asarray(next(node[n] for n in names[last] if n in node))
        leaf = leaf.transpose({1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[leaf.ndim])
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(leaf.copy()))
    return module.to(device).to(memory_format=torch.channels_last)


def answer(module: Any, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """What a network answers in float32."""
    device = next(module.parameters()).device
    with torch.no_grad():
        return module(*(torch.from_numpy(a).to(device) for a in (x, t))).cpu().numpy()


def make_step(
    module: Any, images: np.ndarray, dtype: str = "bfloat16", *, compiled: bool = True
) -> Callable[[], Any]:
    """A train step on denoising score matching with EDM's parameterization, Adam and an EMA; no arguments.

    In bfloat16 by autocast, or in float32; compiled by `torch.compile`, or eager.
    """
    device = next(module.parameters()).device
    torch.set_float32_matmul_precision("high")
    data = torch.from_numpy(images).to(device)
    params = list(module.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.Adam(params, lr=1e-4, fused=device.type == "cuda")

    def loss_fn(data: Any) -> Any:
        sigma = torch.exp(1.2 * torch.randn(len(data), device=data.device) - 1.2)
        wide = sigma[:, None, None, None]
        scale = torch.sqrt(1 + wide**2)
        x = data + wide * torch.randn_like(data)
        with torch.autocast(data.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            got = module(x / scale, torch.log(sigma) / 4)
        return ((got.float() - (data * scale - x / scale) / wide) ** 2).mean()

    loss_of = torch.compile(loss_fn) if compiled else loss_fn

    def step() -> Any:
        loss = loss_of(data)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, params, 1e-4)
        return loss.detach()

    return step


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int | None:
    """Bytes on the GPU at most, since the beginning."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
