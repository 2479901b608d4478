"""Time bootstrapping, measured: what a target that reuses an earlier score costs and gains.

    python -m experiments.bootstrapping                        # everything
    python -m experiments.bootstrapping --parts E1 E2          # some parts
    python -m experiments.bootstrapping --resume               # the parts that an interrupted run left

    | part       | question                                                              | module          |
    |------------|-----------------------------------------------------------------------|-----------------|
    | E1         | the variance of every target, beside its formula                      | target_variance |
    | E2         | the error of the chain where it is known exactly (Hermite features)   | hermite         |
    | E3         | ridge regression on random features, level by level                   | random_features |
    | E4         | a network for each level                                              | level_networks  |
    | E5         | one network over all levels: every recipe that was tried              | joint_network   |
    | E5-fresh   | what came later, on seeds that chose nothing                          | joint_network   |
    | E5-digits  | the same on a law fitted to the digits                                | joint_network   |
    | E6         | joint learning over a finite class, flat in the dimension             | dimension       |
    | E7         | one network for all levels against one for each, d = 8 to 512         | joint_or_levels |
    | E7-choice  | its settings, on other seeds                                          | joint_or_levels |
    | E8         | real data: held-out nats from 200 to 1,400 digits                     | few_digits      |
    | E8-choice  | its settings, on other seeds                                          | few_digits      |

What the tables share is in `ratios`.
Each part's module says what to expect. Written to --out: a JSON file for each part as it is done,
figures.json with all of them, and figure.png; the one beside this file is of E1 to E4, E5-fresh, E6, E7 and
E8, an hour and a half on one core of a busy machine (2026-11-28, 29). Method: Kumar, Nagaraj & Sarkar 2025,
arXiv 2502.10354; the tasks, sizes and figures are this library's own, none of them the paper's.
"""

from experiments import parts
from experiments.bootstrapping import (
    dimension,
    few_digits,
    hermite,
    joint_network,
    joint_or_levels,
    level_networks,
    random_features,
    target_variance,
)

PARTS: parts.Parts = {
    "E1": (target_variance, target_variance.Config()),
    "E2": (hermite, hermite.Config()),
    "E3": (random_features, random_features.Config()),
    "E4": (level_networks, level_networks.Config()),
    "E5": (joint_network, joint_network.CONFIGS["mixture"]),
    "E5-fresh": (joint_network, joint_network.CONFIGS["fresh"]),
    "E5-digits": (joint_network, joint_network.CONFIGS["digits"]),
    "E6": (dimension, dimension.Config()),
    "E7": (joint_or_levels, joint_or_levels.Config()),
    "E7-choice": (joint_or_levels, joint_or_levels.choice()),
    "E8": (few_digits, few_digits.Config()),
    "E8-choice": (few_digits, few_digits.choice()),
}

if __name__ == "__main__":
    parts.command_line("bootstrapping", __doc__, PARTS)
