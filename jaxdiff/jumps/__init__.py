"""Diffusion of tokens by jumps: masking, uniform replacement, or any rates that treat tokens one by one."""

from jaxdiff.jumps.denoiser import CategoricalDenoiser, make_denoiser
from jaxdiff.jumps.draws import categorical, perturb
from jaxdiff.jumps.driver import integrate, sample
from jaxdiff.jumps.generators import jump_generator, noise_generator, path_cost, simplex_generator
from jaxdiff.jumps.gibbs import draw_paths, particle_gibbs
from jaxdiff.jumps.guidance import guided, rewarded
from jaxdiff.jumps.laws import Enumerated, HiddenMarkov, markov_chain
from jaxdiff.jumps.losses import (
    bootstrapped_target,
    cross_entropy,
    denoising_loss,
    log_bound,
    ratio_matching,
    score_entropy,
)
from jaxdiff.jumps.orders import Confident, first_hitting
from jaxdiff.jumps.particles import Resampled, steered
from jaxdiff.jumps.processes import (
    JumpProcess,
    Masking,
    Uniform,
    bridge,
    forward_rates,
    ratios,
    reverse_rates,
    reverse_step,
)
from jaxdiff.jumps.rates import Rates, birth_death, ordinal
from jaxdiff.jumps.samplers import Ancestral, Corrected, Euler, JumpSampler, Remasking, TauLeaping
from jaxdiff.jumps.schedules import Cosine, Exponential, Linear
from jaxdiff.jumps.times import grid, share_uniform

__all__ = [
    "Ancestral",
    "CategoricalDenoiser",
    "Confident",
    "Corrected",
    "Cosine",
    "Enumerated",
    "Euler",
    "Exponential",
    "HiddenMarkov",
    "JumpProcess",
    "JumpSampler",
    "Linear",
    "Masking",
    "Rates",
    "Remasking",
    "Resampled",
    "TauLeaping",
    "Uniform",
    "birth_death",
    "bootstrapped_target",
    "bridge",
    "categorical",
    "cross_entropy",
    "denoising_loss",
    "draw_paths",
    "first_hitting",
    "forward_rates",
    "grid",
    "guided",
    "integrate",
    "jump_generator",
    "log_bound",
    "make_denoiser",
    "markov_chain",
    "noise_generator",
    "ordinal",
    "particle_gibbs",
    "path_cost",
    "perturb",
    "ratio_matching",
    "ratios",
    "reverse_rates",
    "reverse_step",
    "rewarded",
    "sample",
    "score_entropy",
    "share_uniform",
    "simplex_generator",
    "steered",
]
