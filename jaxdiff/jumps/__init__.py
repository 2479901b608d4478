"""Diffusion of tokens by jumps: masking, uniform replacement, or any rates that treat tokens one by one."""

from jaxdiff.jumps.denoiser import CategoricalDenoiser, make_denoiser
from jaxdiff.jumps.draws import categorical, perturb
from jaxdiff.jumps.laws import Enumerated, HiddenMarkov, markov_chain
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
from jaxdiff.jumps.schedules import Cosine, Exponential, Linear

__all__ = [
    "CategoricalDenoiser",
    "Cosine",
    "Enumerated",
    "Exponential",
    "HiddenMarkov",
    "JumpProcess",
    "Linear",
    "Masking",
    "Rates",
    "Uniform",
    "birth_death",
    "bridge",
    "categorical",
    "forward_rates",
    "make_denoiser",
    "markov_chain",
    "ordinal",
    "perturb",
    "ratios",
    "reverse_rates",
    "reverse_step",
]
