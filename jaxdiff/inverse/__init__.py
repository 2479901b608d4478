"""Data seen through an operator and noise: what a denoiser makes of an observation."""

from jaxdiff.inverse.operators import Operator, linear, mask
from jaxdiff.inverse.posteriors import dps, mmps, pigdm, tmpd

__all__ = ["Operator", "dps", "linear", "mask", "mmps", "pigdm", "tmpd"]
