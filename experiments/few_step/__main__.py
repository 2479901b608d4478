"""Samples in one to four calls: every way to train a flow map, with the same network and the same arithmetic.

    python -m experiments.few_step                            # everything, some hours of a core
    python -m experiments.few_step --parts modes              # a part
    python -m experiments.few_step --resume                   # the parts that an interrupted run left

    | part    | question                                                             | module  |
    |---------|----------------------------------------------------------------------|---------|
    | modes   | 25 modes in the plane, of which each seed has its own                | compare |
    | rings   | a ring within another, which a straight path has to curl for         | compare |
    | digits  | digits of 8 x 8, of which each seed holds its own third back         | compare |
    | patches | photograph patches of 32 x 32 in colour                              | compare |
    | starts  | learned starts, bootstrapped teachers, a reference law: do they pay? | starts  |
    | shown   | MeanFlow by the noise level's logarithm, or by its angle             | shown   |

The module says what to expect. Written to --out: a JSON file for each part as it is done, figures.json with
all, and figure.png; the one beside this file has the panels of digits, patches, starts and shown.
"""

from experiments import parts
from experiments.few_step import compare, shown, starts
from experiments.few_step.study import SETTINGS

LEADING = (
    "MeanFlow",
    "shortcut",
    "moment matching",
    "sCM, training",
    "consistency, training",
    "sCM, distilled",
    "reflow",
    "score distillation",
    "posterior generator",
)
PARTS: parts.Parts = {
    "modes": (compare, compare.Config()),
    "rings": (compare, compare.Config(SETTINGS["rings"])),
    "digits": (compare, compare.Config(SETTINGS["digits"], methods=LEADING)),
    "patches": (
        compare,
        compare.Config(
            SETTINGS["patches"],
            methods=("MeanFlow", "shortcut", "moment matching", "sCM, distilled", "reflow"),
            reflow_pairs=2_048,
        ),
    ),
    "starts": (starts, starts.Config()),
    "shown": (shown, shown.Config()),
}

if __name__ == "__main__":
    parts.command_line("few_step", __doc__, PARTS)
