"""Do a learned start, bootstrapped targets or a reference law make maps need fewer calls, or less training?

Each of the library's three systems meets the maps, at equal arithmetic:

- a map of the times below a horizon only, sigma / alpha = 0.7, from a mixture of twelve components fitted to
  the data noised to it; with all of the budget, and with a quarter of it;
- a teacher trained by bootstrapped targets, its own average at half the noise, in as much arithmetic;
- a reference law, a Gaussian of the data's moments, whose exact flow map the network's estimates are added
  to: what the density formula does with its reference.

The controls: the same map over all times from noise, with all of the budget and with a quarter; the mixture
without any call; the denoiser by a solver, from noise and from the start.

MEASURED on 25 modes (`python -m experiments.few_step --parts starts`, a busy core of an AMD EPYC, jax 0.10.2,
2026-11-29; 37 minutes), thousandths of the energy distance at 1 and 4 calls over three seeds; in brackets
after a quarter of the training:

                           from noise              from the start         reference    bootstrapped teacher
    calls                  1           4           1          4           1     4      1     4
    shortcut               5.8 (11)    3.8 (9.3)   2.4 (5.3)  1.7 (4.4)   7.5   4.9
    MeanFlow               17 (93)     12 (19)     .9 (2.9)   .7 (1.7)    15    11
    sCM, distilled         18 (40)     35 (75)     2.0 (9.3)  2.7 (13)    28    28     22    16
    denoiser, a solver     590         26          19         1.4                      587   22

with standard errors of a tenth to a half of each, and .2 for MeanFlow from the start. So from a learned start
a map needs fewer calls and less training: MeanFlow in one call is nearer than from noise in four, by thirteen
times, and after a quarter of its training still by four; it then wins where from noise it was last. A
reference law and a bootstrapped teacher change nothing that three seeds could tell. And the control: the
mixture itself, fitted to the data and sampled without a call, has .4 +- .5, which no map goes below here:
the start pays for the map, but here nothing pays for more than the start.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from experiments.few_step import methods, study
from experiments.few_step.study import SCHEDULE, SETTINGS, SMALL, Setting, Study
from jaxdiff import maps
from jaxdiff.laws.fitting import fit_gaussian
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.learning import bootstrap
from jaxdiff.sampling import starts
from jaxdiff.typing import Array, Key

table, draw = study.table, study.draw


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    setting: Setting = SETTINGS["modes"]
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ("shortcut", "MeanFlow", "sCM, distilled")
    noise: float = 0.7  # sigma / alpha at the horizon, that of `experiments.initialization.mixture`
    components: int = 12
    mix: float = 0.9  # of the bootstrapped teacher, once a fifth of its training is done


def smoke() -> Config:
    """The same at a size for tests."""
    setting = dataclasses.replace(SETTINGS["modes"], **SMALL)
    return Config(setting=setting, seeds=(0,), methods=("shortcut",), components=2)


def run(config: Config) -> dict[str, Any]:
    """Of every row and number of calls, each judge's mean over seeds."""
    rows = study.over_seeds(functools.partial(_one, config), config.seeds)
    return {"config": dataclasses.asdict(config), "rows": rows}


def _one(config: Config, seed: int) -> Study:
    of = Study(config.setting, seed)
    n, horizon = of.setting.num_samples, config.noise / (1 + config.noise)
    data = of.task.draw(of.fit_key, 10_000 if n > 1_000 else 200)
    family = starts.gaussian_mixture(config.components, num_restarts=1)
    start = starts.fit_start(of.fit_key, family, data, SCHEDULE, horizon)
    of.judge("the start's mixture, fitted to the data", 0, of.task.fit(of.fit_key).sample(of.fit_key, n))
    reference = fit_gaussian(data)
    assert isinstance(reference, Gaussian)
    short = functools.partial(of.make, horizon=horizon)
    added = functools.partial(of.make, base=maps.gaussian_map(reference, SCHEDULE))

    taught, steps = of.fit(methods.denoising, share=0.5)
    of.judge_solved("denoiser, by a solver", of.make(taught).denoiser, steps)
    early, steps = of.fit(methods.denoising, share=0.5, make=short)
    of.judge_solved("denoiser, by a solver, from the start", short(early).denoiser, steps, start=start)
    strapped, steps = of.fit(functools.partial(_bootstrapped, mix=config.mix), share=0.5)
    of.judge_solved("denoiser, bootstrapped, by a solver", of.make(strapped).denoiser, steps)
    based, _ = of.fit(methods.denoising, share=0.5, make=added)

    for name in config.methods:
        method = methods.METHODS[name]
        for words, make, begun, law in (
            ("", of.make, taught, None),
            (", from the start", short, early, start),
            (", reference", added, based, None),
            *(((", bootstrapped teacher", of.make, strapped, None),) if method.taught else ()),
        ):
            for share, less in ((1.0, ""), *(() if law is None and words else ((0.25, ", a quarter"),))):
                ended, steps = of.fit(
                    method.loss,
                    begun if method.taught else of.params,
                    share * (0.5 if method.taught else 1.0),
                    teacher=make(begun).denoiser,
                    make=make,
                )
                of.judge_map(f"{name}{words}{less}", make(ended), steps, renoise=method.renoise, start=law)
    return of


def _bootstrapped(key: Key, lesson: methods.Lesson, data: Array, *, mix: float) -> Array:
    own, average = lesson.student.denoiser, lesson.average.denoiser
    mix_now = jnp.where(lesson.share > 0.2, mix, 0.0)
    return bootstrap.half_noise_loss(key, own, average, data, mix=mix_now)
