"""How late to start, and on which grid: `choose_horizon` against an oracle, and both against their rivals.

Twelve laws on which nothing was designed: dust about a ring, two moons, a spiral, two rings and three sets of
random clouds in the plane, two mixtures in 8 dimensions, two mixtures of Student t laws in 3, and two linked
rings in R^4. The families are a Gaussian and a mixture of six, which holds the two mixtures only. For each
law, sampler and number of calls of the exact denoiser, sliced W_2 to fresh draws, of samples of

    chosen      what `choose_horizon` answers of both families, from 2,000 rows of data
    Gaussian    of the fits of one Gaussian the best, over horizons and grids, EDM's among them
    mixture     of the fits of six
    long        of the Gaussian's, from the longest horizon, 20 times the data, only: the best long grid
    noised data as best, from rows of the data with noise: nothing is fitted, and all is kept
    ideal       as best, from the law of x at the horizon itself
    no calls    the least over horizons of the fits' own draws, which no denoiser has seen
    floor       fresh draws against fresh draws

all with the same calls; Heun has half as many steps. The oracle knows the law, tries the very fits that the
chooser tries, and finds the best by draws of its own; all are judged by others, so that luck makes nothing
the best. Draws of starts are one from each of as many cells of equal mass, for the chooser and for all that
is judged: distances say more of laws and less of samples. The ratio is that of the chosen to the better of
the Gaussian and the mixture. The last figure is what `optimal_grid` is for: E_disc of Euler and Maruyama's
chain on 25 modes, on its grid and on others.

MEASURED, one seed (a share of two busy cores of an AMD EPYC, jax 0.10.2, 2026-11-30; 47 minutes of processor
time): the ratio, and the distances of the chosen, the Gaussian, the mixture, the best long grid and the
ideal, at 4, 8 and 16 calls; below, no calls and the floor, law by law:

  DPM-Solver++    4                              8                              16
  ring            1.55 .028 .018 .024 .082 .009  0.96 .011 .011 .017 .011 .007  1.00 .007 .007 .013 .007 .007
  moons           0.89 .017 .029 .020 .119 .010  1.20 .015 .013 .015 .013 .014  0.86 .007 .008 .009 .008 .009
  spiral          1.00 .017 .020 .017 .166 .012  1.13 .014 .013 .017 .017 .011  0.99 .006 .006 .015 .006 .007
  two rings       0.66 .013 .022 .019 .098 .009  0.70 .009 .014 .012 .009 .011  1.06 .010 .009 .012 .008 .008
  clouds 0        1.00 .029 .050 .029 .129 .026  0.86 .012 .014 .021 .014 .009  1.45 .015 .011 .013 .011 .008
  clouds 1        0.88 .029 .055 .033 .192 .021  0.99 .024 .024 .025 .033 .012  1.00 .010 .010 .024 .010 .009
  clouds 2        1.03 .031 .053 .030 .140 .007  1.18 .022 .022 .018 .034 .017  0.43 .010 .022 .034 .015 .014
  mixture 0, 8    0.89 .051 .083 .058 .143 .029  1.00 .025 .025 .068 .038 .039  2.90 .027 .009 .048 .009 .016
  mixture 1, 8    1.01 .039 .062 .038 .088 .015  1.33 .038 .029 .036 .032 .015  1.00 .023 .023 .035 .023 .031
  t 0, 3          1.21 .074 .078 .061 .217 .059  1.79 .110 .084 .061 .084 .050  1.04 .055 .053 .061 .086 .044
  t 1, 3          1.20 .047 .065 .039 .191 .028  1.21 .047 .039 .047 .054 .031  1.00 .031 .031 .058 .031 .027
  linked rings, 4 1.00 .022 .022 .029 .147 .008  1.18 .017 .014 .024 .019 .006  1.55 .013 .008 .019 .010 .007
  Heun            4                              8                              16
  ring            1.38 .030 .022 .027 .081 .008  1.00 .017 .017 .025 .068 .007  1.05 .016 .016 .025 .017 .007
  moons           1.00 .025 .071 .025 .431 .010  1.00 .015 .024 .015 .073 .010  0.60 .008 .013 .015 .037 .009
  spiral          0.82 .035 .072 .043 .500 .013  1.00 .016 .018 .016 .157 .011  1.00 .011 .015 .011 .042 .011
  two rings       0.98 .026 .035 .027 .378 .010  1.00 .015 .016 .015 .276 .014  1.00 .010 .010 .017 .048 .007
  clouds 0        1.00 .029 .070 .029 .458 .008  1.00 .019 .051 .019 .231 .012  0.96 .016 .049 .017 .058 .006
  clouds 1        0.80 .030 .107 .038 .457 .029  1.00 .025 .033 .025 .223 .013  1.39 .027 .019 .024 .063 .011
  clouds 2        1.02 .032 .068 .031 .428 .010  0.69 .020 .033 .029 .237 .005  1.12 .014 .028 .013 .064 .013
  mixture 0, 8    1.01 .051 .107 .051 .243 .028  0.83 .044 .074 .053 .145 .026  0.66 .026 .039 .046 .039 .021
  mixture 1, 8    1.23 .038 .097 .031 .264 .018  1.01 .039 .054 .038 .135 .015  1.55 .044 .029 .050 .040 .015
  t 0, 3          1.19 .072 .126 .061 .447 .059  0.99 .061 .068 .061 .212 .051  1.06 .054 .051 .061 .117 .048
  t 1, 3          1.22 .047 .105 .039 .420 .028  1.00 .041 .048 .041 .211 .035  1.10 .048 .056 .044 .056 .029
  linked rings, 4 1.00 .030 .070 .030 .255 .013  1.00 .022 .022 .024 .096 .007  0.84 .013 .016 .023 .039 .009
  no calls        .094 .082 .106 .104 .066 .075 .089 .089 .083 .101 .098 .131
  floor           .004 .003 .004 .003 .005 .004 .012 .013 .010 .044 .022 .004

Within 25 % of the better are 63 of 72, 33 of 36 with Heun; the median is 1.00 and the worst 2.90, a mixture
in 8 dimensions from which 16 calls of the Gaussian are at the floor. The mixture alone, from its own best
horizon, leaves .021 at 16 calls of DPM-Solver++ in the median, what is chosen .012: that is what the second
family is worth. (The rule of the day before, the mixture alone by independent draws, had 37 of 48 within,
of an oracle that was judged by the draws it chose by: its figures do not compare.) At 4 calls it takes the
mixture on 10 laws of 12, with Heun on 11, and at 16 with DPM-Solver++ on 3.

**With Heun a quarter of the calls is enough**: 4 calls from what is chosen leave .48 to .95 of what 16 of
the best long grid do on 10 laws of 12, and 1.3 and 1.7 of it on the ring and on a mixture; in the median
.72. With DPM-Solver++, which needs fewer, they leave 2.2 times as much, from .9 to 5.6, and 8 calls 1.65
times: there a start halves the distance at 4 calls (.029 against .141 of the long grid, .052 of the
Gaussian from its best horizon) and gains a quarter at 8. With the law itself at the horizon 4 calls leave
.013: what is lost is the fit's. Rows of the data with noise, no fit, are as good as the best fits.

On linked rings the fit decides, and the score does not mend it: of 10,000 rows, at 4 calls, from sigma = .5,
6, 12, 24 and 48 components leave .045, .023, .014, .031 and on another seed .037, .014, .014, .015, the law's
own draws .017 and .015, fresh draws .014 and .012; a step of Langevin there by the exact score and three
calls after it between .93 and 1.06 times as much (scripts of the day).
"""

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.initialization import choices, shapes
from experiments.initialization.choices import SCHEDULE
from experiments.initialization.laws import draw_rows, grid_mixture
from jaxdiff.denoising.denoiser import Distribution
from jaxdiff.laws.empirical import Empirical
from jaxdiff.noising.times import log_snr_grid, power_grid, truncate
from jaxdiff.sampling import starts
from jaxdiff.sampling.budget import kl_budget, optimal_grid, score_curvature
from jaxdiff.sampling.exponential_adams import dpm_solver_pp
from jaxdiff.sampling.heun import Heun
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T_MIN, T_END = 0.002, 80.0
SAMPLERS: dict[str, tuple[Sampler, int]] = {  # and calls of the denoiser a step
    "Heun": (Heun(), 2),
    "DPM-Solver++": (dpm_solver_pp(), 1),
}
_DRAWS = 16  # of the law for each sample


@dataclasses.dataclass(frozen=True)
class Config:
    """Laws, and how they are sampled and judged."""

    laws: tuple[str, ...] = tuple(shapes.LAWS)
    cells: tuple[tuple[str, int], ...] = (
        ("DPM-Solver++", 4),
        ("DPM-Solver++", 8),
        ("DPM-Solver++", 16),
        ("Heun", 4),
        ("Heun", 8),
        ("Heun", 16),
    )
    seed: int = 100
    num_rows: int = 2_000
    num_tried: int = 1_024  # samples of every candidate
    num_samples: int = 4_096  # of the least of them
    num_judged: int = 16_384  # of all that is shown
    horizons: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 20.0)
    components: int = 6
    grid_starts: tuple[int, ...] = (8, 14, 20, 25, 29)  # nodes of the long grid, from 20 down to .4 or so
    budget_samples: int = 4_000


def smoke() -> Config:
    """One law, one sampler, three horizons."""
    return Config(
        laws=("ring",),
        cells=(("DPM-Solver++", 4),),
        num_rows=500,
        num_tried=256,
        num_samples=1_024,
        num_judged=1_024,
        horizons=(0.5, 2.0, 20.0),
        grid_starts=(20,),
        budget_samples=200,
    )


def run(config: Config) -> dict[str, Any]:
    """Rows of choices, and of grids."""
    rows = []
    for name in config.laws:
        task = _task(config, name)
        for sampler, calls in config.cells:
            rows.append(
                {"law": name, "sampler": sampler, "calls": calls, **_cell(config, task, sampler, calls)}
            )
            print(f"horizon: {rows[-1]}", file=sys.stderr, flush=True)
    return {"config": dataclasses.asdict(config), "rows": rows, "grids": _grids(config)}


def table(figures: dict[str, Any]) -> str:
    """Choices, how near they are to the best, then grids."""
    names = ("chosen", "Gaussian", "mixture", "long", "noised data", "ideal", "no calls", "floor")
    lines = [
        f"{'law':16}{'sampler':>13}{'calls':>6}{'from':>15}{'best of':>10}{'ratio':>7}"
        + "".join(f"{name:>12}" for name in names)
    ]
    for row in figures["rows"]:
        own = f"{row['family']} {row['t_max']:g}"
        head = f"{row['law']:16}{row['sampler']:>13}{row['calls']:6d}{own:>15}{row['best family']:>10}"
        lines.append(f"{head}{row['ratio']:7.2f}" + "".join(f"{row[name]:12.4f}" for name in names))
    ratios = np.array([row["ratio"] for row in figures["rows"]])
    lines.append(
        f"within 25 % of the best: {np.sum(ratios <= 1.25)} of {len(ratios)}; "
        f"median {np.median(ratios):.2f}, 90 % {np.quantile(ratios, 0.9):.2f}, worst {ratios.max():.2f}"
    )
    lines.append(f"\n{'from t':>10}{'steps':>8}{'truncated':>12}{'even':>12}{'pilot':>12}   E_disc, nats")
    for row in figures["grids"]:
        cells = "".join(f"{row[name]:12.4f}" for name in ("truncated", "even", "pilot"))
        lines.append(f"{row['t_max']:10.4g}{row['steps']:8d}{cells}")
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """What was chosen, and each control, over the best: a column of points for each control."""
    names = ("chosen", "Gaussian", "mixture", "long", "noised data", "ideal", "no calls", "floor")
    for place, name in enumerate(names):
        ratios = [row[name] / row["best"] for row in figures["rows"]]
        axes.semilogy(place + np.linspace(-0.3, 0.3, len(ratios)), ratios, "o", markersize=3, label=name)
    axes.axhline(1.25, color="black", linewidth=0.5)
    axes.set_xticks(range(len(names)), names, fontsize="x-small")
    axes.set(ylabel="sliced W_2 over the best choice's", title="horizon and grid")


def _task(config: Config, name: str) -> choices.Task:
    law = shapes.LAWS[name](config.seed)
    data_key, fit_key, choose_key, draw_key, test_key = jax.random.split(jax.random.key(config.seed), 5)
    data = draw_rows(law, data_key, config.num_rows)
    fresh_key, other_key = jax.random.split(test_key)
    return choices.task(
        (fit_key, choose_key, draw_key),
        law.denoiser(SCHEDULE),
        data,
        {
            "Gaussian": starts.gaussian(),
            "mixture": starts.gaussian_mixture(config.components, num_restarts=4, num_iterations=60),
        },
        {
            "noised data": lambda t: Empirical(data).perturbed(SCHEDULE, t),
            "ideal": lambda t: law.perturbed(SCHEDULE, t),
        },
        (
            draw_rows(law, fresh_key, _DRAWS * config.num_judged),
            draw_rows(law, other_key, _DRAWS * config.num_judged),
        ),
        config.horizons,
        config.num_samples,
        config.num_judged,
    )


def _cell(config: Config, task: choices.Task, sampler: str, calls: int) -> dict[str, Any]:
    solver, calls_a_step = SAMPLERS[sampler]
    num_steps = calls // calls_a_step
    return choices.cell(task, solver, num_steps, num_tried=config.num_tried)[0]


def _grids(config: Config) -> list[dict[str, Any]]:
    law: Distribution = grid_mixture()
    key, denoise = jax.random.key(0), law.denoiser(SCHEDULE)
    long = power_grid(39, t_max=T_END, t_min=T_MIN, rho=7.0)
    pilot = score_curvature(
        jax.random.key(1),
        denoise,
        law.sample(jax.random.key(2), config.budget_samples),
        log_snr_grid(SCHEDULE, 63, t_max=T_END, t_min=T_MIN),
    )

    def error(times: Array) -> Array:
        start = law.perturbed(SCHEDULE, times[0])
        return kl_budget(
            key, denoise, law, start, times, num_samples=config.budget_samples
        ).discretization.value

    rows = []
    for node in config.grid_starts:
        t_max = float(long[node])
        times = truncate(long, t_max)
        steps = len(times) - 1
        grids = {
            "truncated": times,
            "even": log_snr_grid(SCHEDULE, steps, t_max=t_max, t_min=T_MIN),
            "pilot": optimal_grid(pilot, steps, t_max=t_max, t_min=T_MIN),
        }
        errors = {name: float(error(grid)) for name, grid in grids.items()}
        rows.append({"t_max": t_max, "steps": steps, **errors})
    return rows
