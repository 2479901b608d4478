"""Data seen through an operator and noise: what a denoiser makes of an observation."""

from jaxdiff.inverse.corrections import (
    Correction,
    ensemble_kalman,
    langevin,
    linear_gaussian,
    projection,
)
from jaxdiff.inverse.daps import daps
from jaxdiff.inverse.denoising_posterior import denoising_posterior
from jaxdiff.inverse.learned_priors import draw_each, learn_prior
from jaxdiff.inverse.operators import Operator, linear, mask
from jaxdiff.inverse.posterior_generator import (
    PosteriorGenerator,
    posterior_distillation_losses,
    sample_generator,
)
from jaxdiff.inverse.posteriors import diffpir, dps, mmps, pigdm, tmpd
from jaxdiff.inverse.split_gibbs import split_gibbs

__all__ = [
    "Correction",
    "Operator",
    "PosteriorGenerator",
    "daps",
    "denoising_posterior",
    "diffpir",
    "dps",
    "draw_each",
    "ensemble_kalman",
    "langevin",
    "learn_prior",
    "linear",
    "linear_gaussian",
    "mask",
    "mmps",
    "pigdm",
    "posterior_distillation_losses",
    "projection",
    "sample_generator",
    "split_gibbs",
    "tmpd",
]
