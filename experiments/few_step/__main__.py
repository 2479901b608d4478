"""Samples in one to four calls: every way to train a flow map, with the same network and the same arithmetic.

    python -m experiments.few_step                            # everything
    python -m experiments.few_step --parts modes              # a part
    python -m experiments.few_step --resume                   # the parts that an interrupted run left

    | part  | question                                                     | module  |
    |-------|--------------------------------------------------------------|---------|
    | modes | 25 modes in the plane, of which each seed has its own        | compare |
    | rings | a ring within another, which a straight path has to curl for | compare |

The module says what to expect. Written to --out: a JSON file for each part as it is done, figures.json with
both, and figure.png; the one beside this file is of the run in `compare`'s docstring.
"""

from experiments import parts
from experiments.few_step import compare

PARTS: parts.Parts = {
    "modes": (compare, compare.Config()),
    "rings": (compare, compare.Config(law="rings")),
}

if __name__ == "__main__":
    parts.command_line("few_step", __doc__, PARTS)
