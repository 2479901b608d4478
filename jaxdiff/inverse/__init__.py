"""Data seen through an operator and noise: what a denoiser makes of an observation."""

from jaxdiff.inverse.denoising_posterior import denoising_posterior
from jaxdiff.inverse.learned_priors import draw_each, learn_prior
from jaxdiff.inverse.operators import Operator, linear, mask
from jaxdiff.inverse.posterior_generator import (
    PosteriorGenerator,
    posterior_distillation_losses,
    sample_generator,
)
from jaxdiff.inverse.posteriors import dps, mmps, pigdm, tmpd
from jaxdiff.inverse.split_gibbs import split_gibbs

__all__ = [
    "Operator",
    "PosteriorGenerator",
    "denoising_posterior",
    "dps",
    "draw_each",
    "learn_prior",
    "linear",
    "mask",
    "mmps",
    "pigdm",
    "posterior_distillation_losses",
    "sample_generator",
    "split_gibbs",
    "tmpd",
]
