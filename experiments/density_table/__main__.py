"""Held-out log-densities by diffusion, by mixtures and by FlowJAX's flows, trained for the same time.

    python -m experiments.density_table                                # everything
    python -m experiments.density_table --parts "two moons" digits     # some parts
    python -m experiments.density_table --resume                       # the parts that a stopped run left

    | part            | question                                                    | module |
    |-----------------|-------------------------------------------------------------|--------|
    | checkerboard    | how far below the truth, at three noises, in the plane      | toys   |
    | eight Gaussians | the same                                                    | toys   |
    | two moons       | the same                                                    | toys   |
    | digits          | 8 x 8 digits, with the quantization head and without it     | images |
    | patches         | 8 x 8 grey patches of photographs, by BSDS300's recipe      | images |
    | tables          | three small tables, and MINIBOONE where its file is         | tables |

Each part's module says what to expect. The flows need FlowJAX (pip install 'jaxdiff[peers]') and are left out
with a word where it is absent. Written to --out: a JSON file for each part as it is done, figures.json with
all of them, and figure.png.
"""

from experiments import parts
from experiments.density_table import images, tables, toys

PARTS: parts.Parts = {
    "checkerboard": (toys, toys.Config()),
    "eight Gaussians": (toys, toys.smooth("eight Gaussians", (0.1, 0.3, 1.0))),
    "two moons": (toys, toys.smooth("two moons", (0.05, 0.1, 0.2))),
    "digits": (images, images.CONFIGS["digits"]),
    "patches": (images, images.CONFIGS["patches"]),
    "tables": (tables, tables.Config()),
}

if __name__ == "__main__":
    parts.command_line("density_table", __doc__, PARTS)
