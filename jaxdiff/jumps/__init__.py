"""Diffusion of tokens by jumps: masking, uniform replacement, or any rates that treat tokens one by one."""

from jaxdiff.jumps.draws import categorical, perturb
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
    "Cosine",
    "Exponential",
    "JumpProcess",
    "Linear",
    "Masking",
    "Rates",
    "Uniform",
    "birth_death",
    "bridge",
    "categorical",
    "forward_rates",
    "ordinal",
    "perturb",
    "ratios",
    "reverse_rates",
    "reverse_step",
]
