"""What a network of two times is shown of the noise: the logarithm of its level, or an angle.

MeanFlow under `Karras`, trained alike but for the type of its prediction: `EDM`, which shows log(sigma) / 4,
whose slope has no end where there is no noise, and `Angle`, which shows 2 / pi atan(sigma). The straight path
shows t itself.

MEASURED on 25 modes (`python -m experiments.few_step --parts shown`, a core of an AMD EPYC, jax 0.10.2,
2026-11-29; 10 minutes), thousandths of the energy distance at 1, 2 and 4 calls, three seeds:

    log(sigma), Karras    255 +- 61    97 +- 56    16 +- 5
    angle, Karras          17 +- 5     32 +- 10    20 +- 5
    t, straight path       17 +- 6     12 +- 6     12 +- 5

So the tangent of a logarithm spoils long steps, and the angle mends that; at four calls, which are short, all
three are alike.
"""

import dataclasses
import functools
from typing import Any

from experiments.few_step import methods, study
from experiments.few_step.study import SCHEDULE, SETTINGS, SMALL, Setting, Study
from jaxdiff.denoising import prediction
from jaxdiff.noising.schedules import Karras

table, draw = study.table, study.draw
SHOWN = {
    "log(sigma), Karras": (Karras(), prediction.EDM()),
    "angle, Karras": (Karras(), prediction.Angle()),
    "t, straight path": (SCHEDULE, prediction.flow),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    setting: Setting = SETTINGS["modes"]
    seeds: tuple[int, ...] = (0, 1, 2)
    shown: tuple[str, ...] = tuple(SHOWN)


def smoke() -> Config:
    """The same at a size for tests."""
    setting = dataclasses.replace(SETTINGS["modes"], **SMALL)
    return Config(setting=setting, seeds=(0,), shown=("angle, Karras",))


def run(config: Config) -> dict[str, Any]:
    """Of every row and number of calls, each judge's mean over seeds."""
    rows = study.over_seeds(functools.partial(_one, config), config.seeds)
    return {"config": dataclasses.asdict(config), "rows": rows}


def _one(config: Config, seed: int) -> Study:
    judged, of = {}, None
    for name in config.shown:
        schedule, shown = SHOWN[name]
        of = Study(config.setting, seed, schedule=schedule, prediction=shown)
        ended, steps = of.fit(methods.METHODS["MeanFlow"].loss)
        of.judge_map(f"MeanFlow shown {name}", of.make(ended), steps)
        judged |= of.judged
    assert of is not None
    of.judged = judged
    return of
