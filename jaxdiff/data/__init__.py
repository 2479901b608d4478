"""Where rows come from: batches on the device, feeds from the host, and data sets.

What is here of batches (`jaxdiff.data.batches`) is used as ``data.batch``, ``data.digits`` and so on.
"""

from jaxdiff.data import feeds, image_sets
from jaxdiff.data.batches import (
    Split,
    batch,
    bits_per_dimension,
    checkerboard,
    dequantize,
    digits,
    eight_gaussians,
    epoch_batch,
    photograph_patches,
    quantize,
    two_moons,
)

__all__ = [
    "Split",
    "batch",
    "bits_per_dimension",
    "checkerboard",
    "dequantize",
    "digits",
    "eight_gaussians",
    "epoch_batch",
    "feeds",
    "image_sets",
    "photograph_patches",
    "quantize",
    "two_moons",
]
