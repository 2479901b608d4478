"""Data seen through an operator and noise: what a denoiser makes of an observation."""

from jaxdiff.inverse.denoising_posterior import denoising_posterior
from jaxdiff.inverse.operators import Operator, linear, mask
from jaxdiff.inverse.posteriors import dps, mmps, pigdm, tmpd
from jaxdiff.inverse.split_gibbs import split_gibbs

__all__ = ["Operator", "denoising_posterior", "dps", "linear", "mask", "mmps", "pigdm", "split_gibbs", "tmpd"]
