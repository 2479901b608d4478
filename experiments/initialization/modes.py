"""What the 25 modes are sampled with: starts, horizons, samplers and grids, and how samples are judged."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.initialization import judges
from experiments.initialization.laws import grid_mixture, tiled_mixture
from jaxdiff.laws.metrics import max_sliced_wasserstein
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.models import SplineCoupling
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling import budget, starts
from jaxdiff.sampling.ddim import ancestral
from jaxdiff.sampling.exponential_adams import dpm_solver_pp
from jaxdiff.sampling.heun import Heun
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.starts import Family
from jaxdiff.typing import Array

SCHEDULE = Karras()
NO_CALLS = "no calls"
SAMPLERS: dict[str, tuple[Sampler, int]] = {  # and calls of the denoiser a step
    "ancestral": (ancestral(), 1),
    "Heun": (Heun(), 2),
    "DPM-Solver++": (dpm_solver_pp(), 1),
}
T_LONG, T_MIN = 80.0, 0.002
T_LAST = 0.04
"""Where the rivals' last step, to no noise, begins; chosen on other laws."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    law_seed: int = 0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    t_max: float = 1.244
    num_training: int = 10_000
    num_samples: int = 10_000
    reference: int = 10  # times as many draws of the law that samples are compared with
    components: int = 12  # of 25, so that the family does not hold the truth
    iterations: int = 60
    flow_steps: int = 400  # 0 leaves the flow out
    few_t_max: float = 0.7  # where runs of few steps start; chosen on another law and other seeds
    few_steps: tuple[int, ...] = (9, 6, 4)
    no_calls_t: float = 0.02  # where a mixture is fitted that is sampled without the denoiser
    gaussian_t: float = 4.0  # where the moments' Gaussian starts runs of few steps
    test_rows: int = 50_000  # for KL(p_T || start)
    dimensions: tuple[int, ...] = (40, 100)
    tiled_t_max: float = 7.0
    tiled_early: float = 1.0
    tiled_seeds: tuple[int, ...] = (0, 1, 2)
    tiled_samples: int = 3_000
    tiled_iterations: int = 40


class Plan(NamedTuple):
    """A way to sample: from a start at times[0], with a sampler, or of the start's own draws."""

    start: str
    t_max: float
    sampler: str
    grid: str
    times: Array

    @property
    def calls(self) -> int:
        """Of the denoiser."""
        return 0 if self.sampler == NO_CALLS else SAMPLERS[self.sampler][1] * (len(self.times) - 1)


class Task(NamedTuple):
    """What is sampled, how, and how samples are judged."""

    law: GaussianMixture
    families: dict[float, dict[str, Family[Any]]]
    """By t_max."""
    plans: list[Plan]
    num_samples: int
    judge: Callable[[Array], Callable[[Array], float]]
    """From draws of the law to the distance of samples from them."""
    num_draws: int


def plane(config: Config) -> Task:
    """25 modes in the plane: long runs, late starts, few calls with their rivals, and no calls at all."""
    law = grid_mixture(config.law_seed)
    families = _families(config, num_iterations=config.iterations)
    few = {name: families[name] for name in ("plain", "mixture")}
    if config.flow_steps:
        families["flow"] = starts.flow(SplineCoupling(), num_steps=config.flow_steps)
    long = functools.partial(times.power_grid, t_max=T_LONG, t_min=T_MIN, rho=7.0)
    short = times.truncate(times.power_grid(39, t_max=3.0, t_min=0.0002, rho=2.0), config.t_max)
    pilot = _pilot(law, config.few_t_max)
    plans = [
        *(Plan("noise", T_LONG, name, "long", long(39)) for name in ("Heun", "ancestral")),
        *(
            Plan(start, config.t_max, name, "truncated", short)
            for name in ("Heun", "ancestral")
            for start in (*families, "ideal")
        ),
    ]
    for steps in config.few_steps:
        anew = budget.optimal_grid(pilot, steps, t_max=config.few_t_max, t_min=T_MIN)
        plans.append(Plan("noise", T_LONG, "Heun", "long", long(steps)))
        plans += [Plan(start, config.few_t_max, "Heun", "anew", anew) for start in (*few, "ideal")]
        plans += _rivals(config, 2 * steps)
    nothing = Plan("mixture", config.no_calls_t, NO_CALLS, "-", jnp.full(1, config.no_calls_t))
    all_families = {config.t_max: families, config.few_t_max: few}
    all_families[config.no_calls_t] = {"mixture": families["mixture"]}
    all_families[config.gaussian_t] = {"Gaussian": families["Gaussian"]}
    return Task(
        law,
        all_families,
        [*plans, nothing],
        config.num_samples,
        judges.along_even_directions(config.num_samples),
        config.reference * config.num_samples,
    )


def _rivals(config: Config, calls: int) -> list[Plan]:
    """As many calls of DPM-Solver++ from noise alone and from two moments, on two grids each."""

    def to_clean(t_max: float, rho: float) -> Array:
        grid = times.power_grid(calls - 1, t_max=t_max, t_min=T_LAST, rho=rho)
        return times.to_clean(SCHEDULE, grid)

    starts = (("noise", T_LONG), ("Gaussian", config.gaussian_t))
    return [
        Plan(start, t, "DPM-Solver++", f"rho = {rho}", to_clean(t, rho))
        for start, t in starts
        for rho in (7, 20)
    ]


def tiled(config: Config, d: int) -> Task:
    """The tiled modes in d dimensions."""
    law = tiled_mixture(d)
    long = functools.partial(times.power_grid, t_max=T_LONG, t_min=T_MIN, rho=7.0)
    families = _families(
        config, covariance="isotropic", noise="fixed", num_iterations=config.tiled_iterations
    )
    families["early"] = starts.early(families["mixture"], config.tiled_early)
    short = times.power_grid(19, t_max=config.tiled_t_max, t_min=T_MIN, rho=5.0)
    few = times.power_grid(9, t_max=config.tiled_t_max, t_min=T_MIN, rho=5.0)
    plans = [
        Plan("noise", T_LONG, "Heun", "long", long(39)),
        *(Plan(start, config.tiled_t_max, "Heun", "rho = 5", short) for start in (*families, "ideal")),
        Plan("noise", T_LONG, "Heun", "long", long(9)),
        Plan("early", config.tiled_t_max, "Heun", "rho = 5", few),
    ]

    def judge(draws: Array) -> Callable[[Array], float]:
        key = jax.random.key(3)
        return lambda x: float(max_sliced_wasserstein(key, x, draws, num_starts=4, num_steps=60).value)

    n = config.tiled_samples
    return Task(law, {config.tiled_t_max: families}, plans, n, judge, n)


def _families(config: Config, **options: Any) -> dict[str, Family[Any]]:
    return {
        "plain": starts.plain(),
        "isotropic": starts.isotropic(),
        "Gaussian": starts.gaussian(),
        "mixture": starts.gaussian_mixture(config.components, num_restarts=1, **options),
    }


def _pilot(law: GaussianMixture, t_max: float) -> budget.ScoreCurvature:
    data_key, key = jax.random.split(jax.random.key(11))
    levels = times.log_snr_grid(SCHEDULE, 63, t_max=t_max, t_min=T_MIN)
    return budget.score_curvature(key, law.denoiser(SCHEDULE), law.sample(data_key, 2000), levels)
