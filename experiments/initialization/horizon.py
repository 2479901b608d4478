"""How late to start, and on which grid: `choose_horizon` against an oracle, and both against their rivals.

Twelve laws on which nothing was designed: dust about a ring, two moons, a spiral, two rings and three sets of
random clouds in the plane, two mixtures in 8 dimensions, two mixtures of Student t laws in 3, and two linked
rings in R^4. The family, a mixture of six Gaussians, holds the two mixtures only. For each law, sampler
and number of calls of the exact denoiser, sliced W_2 to fresh draws, of samples of

    chosen      what `choose_horizon` answers from 2,000 rows of data
    best        the least over horizons and grids, EDM's among them, of fits of the family
    no calls    the least over horizons of these fits' own draws, which no denoiser has seen
    Gaussian    as best, from the Gaussian of the data's mean and covariance
    long        as Gaussian, from the longest horizon, 20 times the data, only: the best long grid
    noised data as best, from rows of the data with noise: nothing is fitted, and all is kept
    ideal       as best, from the law of x at the horizon itself
    floor       fresh draws against fresh draws

all with the same calls; Heun has half as many steps. The oracle judges by the very draws that all are judged
by, so "best" is what luck adds too. The last figure is what `optimal_grid` is for: E_disc of Euler and
Maruyama's chain on 25 modes, on its grid and on others.

The oracle and the chooser try the same fits, so the ratio is of the choice alone.

MEASURED, 48 cells of 72, of one seed (a share of two busy cores of an AMD EPYC, jax 0.10.2, 2026-11-29; the
cells of Heun on the other laws were not run): the ratio, and what is chosen, a Gaussian from its best horizon
and the best long grid, at 4, 8 and 16 calls; then no calls, and the floor:

    DPM-Solver++    4                       8                       16
    ring             1.02 .027 .021 .076   1.16 .023 .013 .013   1.00 .019 .015 .015  .095 .009
    moons            1.02 .024 .034 .120   1.21 .021 .017 .018   1.72 .020 .014 .014  .083 .011
    spiral           1.28 .031 .025 .166   1.58 .027 .018 .020   2.24 .025 .016 .016  .113 .013
    two rings        1.00 .019 .026 .100   1.02 .015 .017 .018   1.00 .015 .015 .015  .105 .009
    clouds 0         1.08 .037 .040 .129   2.04 .040 .016 .017   2.32 .034 .012 .012  .074 .019
    clouds 1         1.16 .034 .055 .192   1.04 .027 .029 .037   1.00 .024 .014 .019  .077 .015
    clouds 2         1.10 .024 .053 .143   1.05 .015 .020 .033   1.00 .014 .015 .021  .089 .037
    mixture 0, 8     1.00 .074 .073 .136   1.65 .069 .033 .036   1.00 .038 .029 .029  .093 .027
    mixture 1, 8     1.43 .047 .056 .087   1.36 .041 .033 .036   1.34 .041 .028 .028  .088 .016
    t 0, 3           1.04 .081 .081 .216   1.04 .077 .063 .096   1.00 .072 .087 .112  .105 .038
    t 1, 3           1.17 .059 .067 .199   1.05 .047 .045 .075   1.01 .045 .037 .055  .103 .033
    linked rings, 4  1.11 .028 .023 .151   1.01 .022 .017 .019   1.00 .021 .010 .011  .128 .010
    Heun
    ring             1.02 .028 .023 .081   1.00 .027 .023 .064   1.09 .026 .020 .020  .095 .009
    moons            1.20 .029 .071 .434   1.00 .020 .028 .076   1.01 .020 .019 .038  .083 .011
    spiral           1.00 .043 .075 .505   1.35 .029 .024 .157   1.01 .024 .018 .043  .113 .013
    two rings        1.22 .034 .037 .378   1.00 .016 .022 .277   1.00 .016 .018 .048  .105 .009

Within 25 % of the best are 37 of 48, with Heun 11 of 12; the median is 1.04 and the worst 2.32. What fails is
luck: 16,000 samples of one law are .013 to .026 from as many others, on moons and clouds, and of five keys
three chose the right horizon of the spiral at 16 calls. With 64,000 samples for the last three horizons, at
twice the cost, it was three of five again (not kept).

**A fitted start pays where calls are few, and costs where they are not.** At 4 calls the best long grid has
4.3 times the distance of what is chosen, in the median, and never less. From 8 on the Gaussian of two moments
is better than the chosen mixture on 9 laws of 12, and from 16 on the long grid is on 8: a mixture of six that
is fitted to 2,000 rows brings their sampling error to a short horizon, which a long one has forgotten. So a
quarter of the calls is not enough with this solver: 4 calls from the chosen start leave .7 to 3.0 times what
16 of the long grid do, 1.8 in the median; with Heun, .7 to 1.4 on the four laws. Rows of the data with noise,
no fit, have .94 of the distance of the best fits in the median.

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
