"""softmax(q k^T / sqrt(channels)) v, by the kernel that a platform has for it.

Each answers the same, up to rounding. They differ in what they keep of the scores, n^2 numbers for each row
and head of n places:

    xla       all of them, in memory; any platform, any dtype
    chunked   those of one head at a time, and again in the backward pass: `jax.lax.map`, for CPUs
    cudnn     none: NVIDIA's kernel, in bfloat16 or float16
    flash     none: the Pallas kernel for TPUs that jax ships, for n a multiple of 128 (Dao et al. 2022, arXiv
              2205.14135)
    best      cudnn on GPUs and flash on TPUs for what they take, chunked on CPUs in float32 from 128 places
              on, and else xla

MEASURED (jax 0.10.2, a busy core of an AMD EPYC, processor time of a gradient in float32, interleaved, 6
heads of 64, 2026-11-29): chunked takes .52 of xla's time for 1,024 places and .66 for 256; 1.15 for 64.

xla and chunked have derivatives in forward mode, as flow maps' tangents need; cudnn and flash have none, and
jax says so.
"""

import math
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, shards
from jaxdiff.typing import Array

Kernel: TypeAlias = Literal["xla", "cudnn", "flash", "chunked", "best"]


def attended(q: Array, k: Array, v: Array, kernel: Kernel | None) -> Array:
    """Of q, k and v, all (batch, n, heads, channels), by a kernel, None standing for xla; like q.

    Raises ValueError for another kernel, and for one that does not take these.
    """
    kernel = "xla" if kernel is None else kernel
    checks.option("attention", kernel, ["xla", "cudnn", "flash", "chunked", "best"])
    if kernel == "best":
        kernel = _best(q)
    if kernel == "chunked":
        return _chunked(q, k, v)
    if kernel == "flash":
        return _flash(q, k, v)
    return jax.nn.dot_product_attention(q, k, v, implementation=kernel)


def _best(q: Array) -> Literal["xla", "cudnn", "flash", "chunked"]:
    """By the platform of the mesh that a step is traced for, see `shards.spread`, or by that of this host."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    places, _, channels = q.shape[1:]
    short = q.dtype in (jnp.bfloat16, jnp.float16)
    if platform in ("gpu", "cuda"):
        return "cudnn" if short and channels % 8 == 0 and channels <= 128 else "xla"
    if platform == "tpu":
        return "flash" if places % 128 == 0 else "xla"
    return "chunked" if platform == "cpu" and q.dtype == jnp.float32 and places >= 128 else "xla"


def _chunked(q: Array, k: Array, v: Array) -> Array:
    @jax.checkpoint
    def one(part: tuple[Array, Array, Array]) -> Array:
        return jax.nn.dot_product_attention(*(x[:, :, None] for x in part), implementation="xla")[:, :, 0]

    heads = jax.lax.map(one, tuple(jnp.moveaxis(x, 2, 0) for x in (q, k, v)))
    return jnp.moveaxis(heads, 0, 2)


def _flash(q: Array, k: Array, v: Array) -> Array:
    from jax.experimental.pallas.ops.tpu import flash_attention  # which takes a second to import

    if q.shape[1] % 128:
        raise ValueError(
            f"attention='flash' takes multiples of 128 places, got {q.shape[1]}; use attention='best'."
        )

    def run(*parts: Array) -> Array:
        parts = tuple(x.swapaxes(1, 2) for x in parts)
        return flash_attention.flash_attention(*parts, sm_scale=1 / math.sqrt(q.shape[-1])).swapaxes(1, 2)

    # The compiler does not know how to spread a kernel of one's own.
    mesh = jax.sharding.get_abstract_mesh()
    if shards.DATA_AXIS not in mesh.auto_axes:
        return run(q, k, v)
    where = shards.placed(mesh, q.shape, 2)
    return jax.shard_map(run, in_specs=where, out_specs=where, check_vma=False)(q, k, v)
