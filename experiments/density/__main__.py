"""The score-based density formula, measured: log-densities from scores, and what follows from them.

    python -m experiments.density                                # everything
    python -m experiments.density --parts identity accuracy      # some parts
    python -m experiments.density --resume                       # the parts that an interrupted run left

    | part           | question                                                           | module         |
    |----------------|--------------------------------------------------------------------|----------------|
    | identity       | does the formula hold, to rounding, under every schedule           | identity       |
    | accuracy       | its error against evaluations, beside the probability flow         | accuracy       |
    | discretization | the errors of the formula as a sum over a table's steps            | discretization |
    | ELBO           | does the bound choose the right model                              | elbo_validity  |
    | GAN            | what a score regularizer does to a generator                       | gan            |
    | classifier     | classes by their densities                                         | classifier     |
    | autoregressive | the diffusion loss for tokens, and its right weight                | autoregressive |
    | digits         | log-densities of the main job's model, by three methods            | digits         |
    | conservativity | what the flow forgives a network and the formula does not          | conservativity |
    | patches        | bits per dimension of 32 x 32 by three methods; token after token  | patches        |
    | multilevel     | a large network's log-densities mostly by a small one's            | multilevel     |
    | race           | classes that no Gaussians tell apart, by a race of densities       | race           |

Each part's module says what to expect. Written to --out: a JSON file for each part as it is done,
figures.json with all of them, and figure.png; the one beside this file is of the run of 2026-11-29, 64
minutes on a core of a busy AMD EPYC (jax 0.10.2). Method: Li & Yan 2024, arXiv 2408.16765; the tasks, sizes
and figures are this library's own, none of them the paper's.
"""

from experiments import parts
from experiments.density import (
    accuracy,
    autoregressive,
    classifier,
    conservativity,
    digits,
    discretization,
    elbo_validity,
    gan,
    identity,
    multilevel,
    patches,
    race,
)

PARTS: parts.Parts = {
    "identity": (identity, identity.Config()),
    "accuracy": (accuracy, accuracy.Config()),
    "discretization": (discretization, discretization.Config()),
    "ELBO": (elbo_validity, elbo_validity.Config()),
    "GAN": (gan, gan.Config()),
    "classifier": (classifier, classifier.Config()),
    "autoregressive": (autoregressive, autoregressive.Config()),
    "digits": (digits, digits.Config()),
    "conservativity": (conservativity, conservativity.Config()),
    "patches": (patches, patches.Config()),
    "multilevel": (multilevel, multilevel.Config()),
    "race": (race, race.Config()),
}

if __name__ == "__main__":
    parts.command_line("density", __doc__, PARTS)
