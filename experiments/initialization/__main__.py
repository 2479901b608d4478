"""Initialization-aware sampling, measured: short runs from a learned start, and what they cost.

    python -m experiments.initialization                            # everything
    python -m experiments.initialization --parts mixture tails      # some parts
    python -m experiments.initialization --resume                   # the parts that an interrupted run left

    | part         | question                                                              | module         |
    |--------------|-----------------------------------------------------------------------|----------------|
    | exact        | what a start costs, and the tails it leaves, by quadrature            | closed_forms   |
    | mixture      | samples of 25 modes from short runs, in 2, 40 and 100 dimensions      | mixture        |
    | tails        | quantiles of heavy-tailed data, in 2 and 100 dimensions               | tails          |
    | surface      | a learned start against rows of data and noise                        | surface        |
    | horizon      | which horizon, and which grid                                         | horizon        |
    | trained      | the same by trained models of digits and patches                      | trained        |
    | images       | digits by the main job's model, in a fraction of its denoiser calls   | images         |
    | conditional  | digits of a wished class in five calls, from a start for each class   | conditional    |
    | networks     | networks trained below sigma_T only: half of one, or of its steps     | short_networks |

Each part's module says what to expect. Written to --out: a JSON file for each part as it is done,
figures.json with all of them, and figure.png. The figure.png beside this file is of 2026-11-30 (jax 0.10.2,
two busy cores of an AMD EPYC): 29 minutes without the horizon, whose cells took an hour, and with the seeds
of `trained` that its docstring names.

Method: Fassina, Cardoso, Le Corff & Romary 2026, arXiv 2603.00772; the tasks, sizes and figures are this
library's own, none of them the paper's.
"""

from experiments import parts
from experiments.initialization import (
    closed_forms,
    conditional,
    horizon,
    images,
    mixture,
    short_networks,
    surface,
    tails,
    trained,
)

PARTS: parts.Parts = {
    "exact": (closed_forms, closed_forms.Config()),
    "mixture": (mixture, mixture.Config()),
    "tails": (tails, tails.Config()),
    "surface": (surface, surface.Config()),
    "horizon": (horizon, horizon.Config()),
    "trained": (trained, trained.Config()),
    "images": (images, images.Config()),
    "conditional": (conditional, conditional.Config()),
    "networks": (short_networks, short_networks.Config()),
}

if __name__ == "__main__":
    parts.command_line("initialization", __doc__, PARTS)
