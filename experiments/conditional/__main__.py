"""Data seen through an operator and noise, measured: how near to the posterior the draws are, and how honest.

    python -m experiments.conditional                    # everything
    python -m experiments.conditional --parts d8 plane   # some parts
    python -m experiments.conditional --resume           # the parts that an interrupted run left

    | part      | question                                                                  | module   |
    |-----------|---------------------------------------------------------------------------|----------|
    | d8        | each method against exact posterior draws, at equal compute; coverage      | mixtures |
    | d80       | the same in 80 dimensions                                                  | mixtures |
    | d800      | the same where covariances are of factors; 100 evaluations, few observed   | mixtures |
    | plane     | a nonlinear observation in the plane: draws on rings, judged by a grid     | plane    |
    | digits    | digits seen in part by the main job's model; a Gaussian's conditional      | digits   |
    | patches   | 32 x 32 in colour: a hole, an eighth of the size, random products          | patches  |
    | classes   | digits of a wished class: guidance, weights that make it exact, spread     | classes  |

Each part's module says what to expect and what was measured. Written to --out: a JSON file for each part as
it is done, figures.json with all of them, and figure.png; the one beside this file has plane, digits (without
their lower half, blurred) and classes.
"""

from experiments import parts
from experiments.conditional import classes, digits, mixtures, patches, plane

PARTS: parts.Parts = {
    "d8": (mixtures, mixtures.Config()),
    "d80": (mixtures, mixtures.Config(d=80, observed=4, coverage_observations=30)),
    "d800": (mixtures, mixtures.LARGE),
    "plane": (plane, plane.CONFIG),
    "digits": (digits, digits.Config()),
    "patches": (patches, patches.Config()),
    "classes": (classes, classes.Config()),
}

if __name__ == "__main__":
    parts.command_line("conditional", __doc__, PARTS)
