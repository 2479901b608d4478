"""What a network of two times is shown of the noise: the logarithm of its level, or an angle.

MeanFlow under `Karras`, trained alike but for the type of its prediction: `EDM`, which shows log(sigma) / 4,
whose slope has no end where there is no noise, and `Angle`, which shows 2 / pi atan(sigma). The straight path
shows t itself.
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
