"""A quarter of the calls, by trained models: `choose_horizon` where the score is learned.

Three frozen models: the quickstart's of digits and of 8 x 8 patches (those in results/quickstart-* if they
are there, else trained first, minutes each), and a small transformer of 32 x 32 patches in colour, as in
`experiments.conditional.patches`. Nothing is asked of a divergence or of a score's exactness: the rule judges
starts by the model's own long run. Sampler: DPM-Solver++ 2M.

    chosen          start, horizon and grid of `choose_horizon`, from rows of the training images
    Gaussian        the least over horizons, grids and EDM's grids of this family's fits; so the mixture
    no calls        the least over horizons of these fits' own draws
    long            the best long grid, as `choose_horizon` has it from the longest horizon alone, from a
                    Gaussian of the data's moments; with as many calls, and with four times as many
    floor           the model's own long run again

all by sliced W_2 to the model's long run of 48 steps, and the chosen, the long ones and the starts' own draws
by a classifier that is to tell them from held-out images. Seeds are of fits, choices and draws; one model.

MEASURED, digits, three seeds (a core of an AMD EPYC, jax 0.10.2, 2026-11-30; two families at five horizons
fitted in 6.5 s once their programs are compiled), the floor .0162, training images told apart in .516 +-
.009:

                          4 calls                        8 calls
                          distance        told           distance        told
    chosen                .0166 +- .0009  .599 +- .012   .0143 +- .0001  .580 +- .004
    the best Gaussian     .0161 +- .0008                 .0144 +- .0006
    the best mixture      .0180 +- .0001                 .0156 +- .0002
    long, as many calls   .0206 +- .0015  .607 +- .014   .0154 +- .0006  .569 +- .019
    long, four times      .0146 +- .0006  .561 +- .014   .0145 +- .0006  .566 +- .019
    no calls              .0445 +- .0004

Patches of 8 x 8, two seeds, the floor .044, training images .590 +- .021:

                          4 calls                        8 calls
                          distance        told           distance        told
    chosen                .067 +- .007    .617 +- .008   .065 +- .003    .590 +- .021
    the best Gaussian     .111 +- .001                   .048 +- .005
    the best mixture      .066 +- .005                   .071 +- .007
    long, as many calls   .143 +- .005    .664 +- .028   .056 +- .014    .631 +- .025
    long, four times      .047 +- .005    .625 +- .042   .047 +- .003    .619 +- .047
    no calls              .219 +- .002

Patches of 32 x 32 in colour, one seed, 512 samples, Gaussians of rank 64 only, the floor .074, training
images .538, +- .027 each:

                          4 calls           8 calls
                          distance  told    distance  told
    chosen                .105      .668    .103      .702
    the best Gaussian     .092              .092
    long, as many calls   .097      .702    .102      .685
    long, four times      .096      .676    .095      .688
    no calls              .187      .543

There a start gains nothing: the long grid has its distance at 4 calls already, as so smooth a model, 600
steps old, bends no path. The Gaussian's own draws are told less often than this model's long run is.

So the rule holds where the score is learned: eleven choices of twelve are within 1.18 of the better
family's best, and one, 8 x 8 patches at 8 calls by 256 rows, at 1.6. With a quarter of the calls the
distance is 1.14 times that of the long grid on digits, near the floor, and 1.4 on patches; the classifier
sees .04 +- .02 more and no more. From eight calls on the long grid does as well.
"""

import dataclasses
import functools
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments import estimates, quickstart
from experiments.conditional import patches
from experiments.estimates import as_figure, show
from experiments.few_step import tasks
from experiments.image_problems import Problem
from experiments.initialization import choices
from experiments.initialization.choices import SCHEDULE
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.data.batches import quantize
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws import metrics
from jaxdiff.noising.process import perturb
from jaxdiff.noising.times import log_snr_grid, to_clean
from jaxdiff.sampling import starts
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.exponential_adams import dpm_solver_pp, unipc
from jaxdiff.sampling.horizon import choose_horizon
from jaxdiff.sampling.starts import Family
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLER = dpm_solver_pp()
_LONG_STEPS = 48


class Model(NamedTuple):
    """A trained denoiser, rows that starts are fitted to, and rows that nothing has seen."""

    denoise: Denoiser
    data: Array
    held: Array
    t_max: float
    """Where its own sampler starts."""
    families: dict[str, Family[Any]]
    """Of the starts that the rule chooses from; the first, of the data's moments, is the long grid's too."""
    seen: Callable[[Array], Array] = lambda x: x
    """What the classifier is shown: levels of digits, since a last step to no noise leaves out what spreads
    them, and a network tells that at once."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Models, calls, and how many draws choose and judge."""

    models: tuple[str, ...] = ("digits", "patches", "large patches")
    quickstarts: tuple[quickstart.Config, ...] = tuple(quickstart.CONFIGS.values())
    runs: str = "results"  # where their models are, or are put; "" for passing ones
    calls: tuple[int, ...] = (4, 8)
    seeds: int = 3
    horizons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)  # sigma over the data's scale; the longest is added
    num_rows: int = 1_437
    num_held: int = 360
    num_chosen_by: int = 256
    num_tried: int = 256
    num_samples: int = 1_024
    components: int = 10  # of the mixture for images of 8 x 8
    classifier_steps: int = 1_000
    large: patches.Config = dataclasses.field(default_factory=patches.Config)


def smoke() -> Config:
    """One model of twenty steps, two horizons."""
    return Config(
        models=("digits",),
        quickstarts=(quickstart.smoke(),),
        runs="",
        calls=(2,),
        horizons=(1.0,),
        seeds=2,
        num_rows=200,
        num_held=64,
        components=2,
        num_chosen_by=64,
        num_tried=64,
        num_samples=64,
        classifier_steps=0,
    )


def run(config: Config) -> dict[str, Any]:
    """Rows, one for each model, number of calls and seed."""
    with warnings.catch_warnings():
        # Mixtures of full covariances have too many parameters for so few images: what that costs is shown.
        warnings.filterwarnings("ignore", message="the start law has")
        rows = [row for name in config.models for row in _rows(config, name)]
    return {"config": dataclasses.asdict(config), "rows": rows}


def _rows(config: Config, name: str) -> list[dict[str, Any]]:
    rows = []
    model = MODELS[name](config)
    longest = min(20 * float(model.denoise.scale), 0.99 * model.t_max)
    horizons = (*(t * float(model.denoise.scale) for t in config.horizons), longest)
    fresh = [
        _long_run(jax.random.key(seed), model.denoise, model.data, longest, n)
        for seed, n in ((100, 2 * config.num_samples), (101, config.num_samples))
    ]
    for seed in range(config.seeds):
        keys = tuple(jax.random.split(jax.random.key(seed), 3))
        began = time.monotonic()
        judges, n = (fresh[0], fresh[1]), config.num_samples
        task = choices.task(keys, model.denoise, model.data, model.families, {}, judges, horizons, n, n)
        fitted = time.monotonic() - began
        for calls in config.calls:
            figures = _figures(config, model, task, calls)
            rows.append({"model": name, "seed": seed, "calls": calls, "fits, s": fitted, **figures})
            print(f"trained: {rows[-1]}", file=sys.stderr, flush=True)
    return rows


def _figures(config: Config, model: Model, task: choices.Task, calls: int) -> dict[str, Any]:
    figures, chosen = choices.cell(
        task,
        SAMPLER,
        calls,
        num_chosen_by=config.num_chosen_by,
        num_tried=config.num_tried,
    )
    long = {
        times: choose_horizon(
            task.choose_key,
            next(iter(model.families.values())),
            model.denoise,
            model.data,
            num_steps=times * calls,
            sampler=SAMPLER,
            horizons=task.horizons[-1:],
            num_samples=config.num_chosen_by,
        )
        for times in (1, 4)
    }
    start, times = chosen
    drawn = {
        "chosen": choices.samples(task, SAMPLER, chosen, config.num_samples),
        "start": start.sample(task.draw_key, config.num_samples) / SCHEDULE.alpha(times[0]),
        **{
            f"long, {many} times": choices.samples(
                task, SAMPLER, choices.unlabelled(choice), config.num_samples
            )
            for many, choice in long.items()
        },
    }
    distances = {name: float(task.judge(x)) for name, x in drawn.items() if name.startswith("long")}

    def seen(x: Array) -> Array:
        return model.seen(x).reshape(len(x), -1)

    classify = functools.partial(metrics.classifier_two_sample_test, num_steps=config.classifier_steps)
    told = {
        name: as_figure(classify(task.draw_key, seen(x)[: len(model.held)], seen(model.held)))
        for name, x in (drawn | {"training images": model.data}).items()
        if config.classifier_steps
    }
    return {**figures, **distances, "told": told}


@functools.partial(jax.jit, static_argnames="n")
def _long_run(key: Key, denoise: Denoiser, data: Array, t_max: float, n: int) -> Array:
    """The model's own, from rows of data under all noise; a batch at a time."""
    t_min = denoise.working_range[0]
    times = to_clean(SCHEDULE, log_snr_grid(SCHEDULE, _LONG_STEPS, t_max=t_max, t_min=t_min))

    def batch(key: Key) -> Array:
        row_key, noise_key = jax.random.split(key)
        rows = jax.random.choice(row_key, data, (min(n, 256),))
        x = perturb(SCHEDULE, rows, noise_like(noise_key, rows), t_max)
        return integrate(key, denoise, x, times, sampler=unipc())

    return jax.lax.map(batch, jax.random.split(key, max(1, n // 256))).reshape(-1, *data.shape[1:])


def _quickstart(dataset: str, config: Config) -> Model:
    own = next(own for own in config.quickstarts if own.dataset == dataset)
    problem, denoise = quickstart.trained(own, config.runs and f"{config.runs}/quickstart-{dataset}")
    row_key, train_key, test_key = jax.random.split(jax.random.key(0), 3)
    train = jax.random.permutation(row_key, problem.train)[: config.num_rows]
    return Model(
        denoise,
        problem.encode(train_key, train),
        problem.encode(test_key, problem.test[: config.num_held]),
        problem.t_max,
        {
            "Gaussian": starts.gaussian(),
            "mixture": starts.gaussian_mixture(config.components, num_restarts=2, num_iterations=30),
        },
        seen=functools.partial(_levels, problem) if dataset == "digits" else lambda x: x,
    )


def _levels(problem: Problem, x: Array) -> Array:
    return quantize(x, levels=problem.levels) / problem.levels


def _large(config: Config) -> Model:
    task = tasks.task("patches", 0)
    fit_key, law_key, data_key, held_key = jax.random.split(jax.random.key(0), 4)
    law: Any = task.fit(law_key)
    denoise = patches.trained(config.large, fit_key, task, law)
    held = task.held(held_key, config.num_held)
    data, families = task.fresh(data_key, config.num_rows), {"rank 64": starts.low_rank(64)}
    return Model(denoise, data, held, float(denoise.working_range[1]), families)


MODELS: dict[str, Callable[[Config], Model]] = {
    "digits": functools.partial(_quickstart, "digits"),
    "patches": functools.partial(_quickstart, "patches"),
    "large patches": _large,
}


def table(figures: dict[str, Any]) -> str:
    """Means over seeds, with standard errors."""
    names = ("chosen", "best", "no calls", "long, 1 times", "long, 4 times", "floor", "ratio")
    lines = [f"{'model':15}{'calls':>6}" + "".join(f"{name:>19}" for name in names)]
    told = []
    for model, calls in dict.fromkeys((row["model"], row["calls"]) for row in figures["rows"]):
        rows = [row for row in figures["rows"] if (row["model"], row["calls"]) == (model, calls)]
        cells = "".join(
            f"{show(estimates.mean(np.array([row[name] for row in rows])), 4):>19}" for name in names
        )
        lines.append(f"{model:15}{calls:6d}{cells}")
        for name in rows[0]["told"]:
            values = np.array([row["told"][name]["mean"] for row in rows])
            told.append(f"{model:15}{calls:6d}  {name:18}{show(estimates.mean(values), 3):>18}")
    return "\n".join([*lines, "", "told apart from held-out images, by half of the held-out ones", *told])


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Sliced W_2 over the floor: a group of points for each model and number of calls."""
    names = ("chosen", "best", "no calls", "long, 1 times", "long, 4 times")
    groups = list(dict.fromkeys((row["model"], row["calls"]) for row in figures["rows"]))
    for name in names:
        points = [
            (place, row[name])
            for place, group in enumerate(groups)
            for row in figures["rows"]
            if (row["model"], row["calls"]) == group
        ]
        axes.semilogy(*zip(*points, strict=True), "o", markersize=4, label=name)
    axes.set_xticks(range(len(groups)), [f"{m}\n{c} calls" for m, c in groups], fontsize="x-small")
    axes.set(ylabel="sliced W_2 to the model's long run", title="trained models")
    axes.legend(fontsize="x-small")
