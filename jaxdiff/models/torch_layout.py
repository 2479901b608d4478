"""Layers whose parameters are laid out as PyTorch's are, in one flat dict by dotted names.

    name.weight    (out, in) of a linear layer, (out, in, height, width) of a convolution, (out,) of a norm
    name.bias      (out,)

so that a file of PyTorch's is the parameters, and they are such a file. Images are (batch, height, width,
channels), as everywhere here. A module is given to each layer to hold its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics.shards import whole
from jaxdiff.models.patches import cut
from jaxdiff.models.unet import _convolve as same_convolution
from jaxdiff.typing import Array, Params

_KERNEL = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=1, out_axis=0)
_ZEROS = nn.initializers.zeros_init()


class TorchNetwork(nn.Module, kw_only=True):
    """A network whose parameters are a PyTorch state dict's arrays, under its names.

    With reverse_mode, convolutions are differentiated as `UNet`'s are in training: many times as fast on a
    CPU, and by reverse mode alone.
    """

    reverse_mode: bool = False

    def from_state_dict(self, tensors: Mapping[str, Any], shape: tuple[int, ...]) -> Params:
        """The parameters that `apply` takes, of arrays by their names.

        tensors: what `load_safetensors` answers, or a state dict in NumPy. Names of older versions are
            understood, and half precision becomes float32.
        shape: of one image, (height, width, channels).

        Back again: ``save_safetensors(path, params["params"])`` is a file for PyTorch.

        Raises ValueError, naming them, where arrays are missing, not expected or of another shape: then the
        network is another one than the file's.
        """
        row = jnp.zeros((1, *shape)), jnp.zeros(1), *((jnp.zeros(1, int),) if self.labelled() else ())
        wanted = jax.eval_shape(self.init, jax.random.key(0), *row)["params"]
        got = self.renamed({name: np.asarray(array) for name, array in tensors.items()})
        ours = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
        theirs = {name: array.shape for name, array in got.items()}
        differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if differing:
            lines = [
                f"  {name}: got {theirs.get(name, 'nothing')}, wanted {ours.get(name, 'nothing')}"
                for name in differing[:10]
            ]
            if len(differing) > 10:
                lines.append(f"  and {len(differing) - 10} more")
            raise ValueError(
                f"The arrays are of another {type(self).__name__}; {len(differing)} differ:\n"
                + "\n".join(lines)
                + "\nBuild the network from the config beside the file, and give the shape of its images."
            )
        return {"params": {name: jnp.asarray(array, jnp.float32) for name, array in got.items()}}

    def labelled(self) -> bool:
        """Whether labels are asked for."""
        return False

    def renamed(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a file under the names used here."""
        return tensors


def linear(module: nn.Module, name: str, h: Array, features: int, *, zero: bool = False) -> Array:
    """h W^T + b along the last axis; W = 0 at initialization if zero."""
    answer = h @ module.param(f"{name}.weight", _ZEROS if zero else _KERNEL, (features, h.shape[-1])).T
    return answer + _along(_bias(module, name, features), answer)


def conv(
    module: TorchNetwork,
    name: str,
    x: Array,
    features: int,
    *,
    size: int = 3,
    stride: int = 1,
    padding: tuple[int, int] | None = None,
    bias: bool = True,
    zero: bool = False,
) -> Array:
    """A convolution with a square kernel of an odd size, zero at initialization if zero.

    padding: before and after, None standing for half the kernel.
    """
    shape = (features, x.shape[-1], size, size)
    weight = module.param(f"{name}.weight", _ZEROS if zero else _KERNEL, shape)
    # The order of axes that XLA has a fast kernel for on CPU.
    kernel, half = whole(weight).transpose(2, 3, 1, 0), size // 2
    before, after = (half, half) if padding is None else padding
    if module.reverse_mode and before <= half:
        # Fewer pixels are some of all, whose derivative is no other.
        answer = same_convolution(x, kernel)[:, half - before :: stride, half - before :: stride]
    else:
        numbers = ("NHWC", "HWIO", "NHWC")
        margins = [(before, after)] * 2
        answer = jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, margins, dimension_numbers=numbers)
    return answer + _along(_bias(module, name, features), answer) if bias else answer


def patches(module: nn.Module, name: str, x: Array, features: int, size: int) -> Array:
    """A convolution of square patches beside each other: (batch, n, features), row by row."""
    weight = module.param(f"{name}.weight", _KERNEL, (features, x.shape[-1], size, size))
    answer = cut(x, size) @ weight.transpose(2, 3, 1, 0).reshape(-1, features)
    return answer + _along(_bias(module, name, features), answer)


def group_norm(module: nn.Module, name: str, x: Array, groups: int, epsilon: float) -> Array:
    """Each group of channels, standardized over them and all pixels, times a weight plus a bias."""
    channels = x.shape[-1]
    if channels % groups:
        raise ValueError(f"{name} has {channels} channels, wanted a multiple of its {groups} groups.")
    h = standardized(x.reshape(len(x), -1, groups, channels // groups), (1, 3), epsilon).reshape(x.shape)
    weight = module.param(f"{name}.weight", nn.initializers.ones_init(), (channels,))
    return h * _along(weight, h) + _along(_bias(module, name, channels), h)


def standardized(h: Array, axes: int | tuple[int, ...], epsilon: float) -> Array:
    """h of mean zero and variance one over axes."""
    h = h - h.mean(axes, keepdims=True)
    return h * jax.lax.rsqrt((h**2).mean(axes, keepdims=True) + epsilon)


def table(module: nn.Module, name: str, rows: int, features: int, labels: Array | None) -> Array:
    """The rows of a table of embeddings that labels (batch,) say; NaN for a label outside."""
    weight = module.param(f"{name}.weight", nn.initializers.normal(0.02), (rows, features))
    return weight.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def attention(q: Array, k: Array, v: Array, heads: int) -> Array:
    """Of rows (batch, n, heads * channels), with scores divided by the root of a head's channels."""
    parts = (part.reshape(*part.shape[:2], heads, -1) for part in (q, k, v))
    return jax.nn.dot_product_attention(*parts).reshape(q.shape)


def waves(t: Array, width: int, *, freq_shift: float, cosines_first: bool) -> Array:
    """sin and cos of t w_i, w_i = 10000^(-i / (width / 2 - freq_shift)), i < width / 2: (batch, width)."""
    half = width // 2
    # Rounded as where the networks were trained: at step 1,000 that is seen.
    exponents = np.float32(-np.log(1e4)) * np.arange(half, dtype=np.float32) / np.float32(half - freq_shift)
    frequencies = np.exp(exponents.astype(float)).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    order = (jnp.cos, jnp.sin) if cosines_first else (jnp.sin, jnp.cos)
    return jnp.concatenate([wave(angles) for wave in order], axis=-1)


def enlarged(x: Array) -> Array:
    """Each pixel four times."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _bias(module: nn.Module, name: str, features: int) -> Array:
    return module.param(f"{name}.bias", _ZEROS, (features,))


def _along(vector: Array, h: Array) -> Array:
    """A vector along the last axis of h."""
    return jnp.expand_dims(vector, range(h.ndim - 1))
