"""Real images: how near to the data a trained model may start, from what law, and in how few calls.

The model is that of `experiments.quickstart`, frozen. Its long run is the quickstart's: 40 Heun steps from
its largest noise, sigma = 5, and the denoised end, 81 calls of the network, from the Gaussian of the data
noised. Short runs start at sigma_T, on EDM's grid to the same end, from laws fitted to the training images:

    plain, isotropic, gaussian    N(0, sigma_T^2 I); mean and mean variance matched; all moments matched
    mixture, diagonal or full     ten Gaussians, by expectation-maximization
    patch flow                    an autoregressive flow over patches, at one horizon: it takes a minute
    empirical                     training images with noise: no law to learn, but a memory

"no calls" are draws of a start fitted at .02 that no denoiser has seen: what its calls must beat.

All starts draw from the same random numbers. For sets of 200 samples, against the test images: the energy
distance and the Frechet distance of pixels, and both less those of the long run, set by set, with standard
errors over sets. The differences are what "equal or better" is about; the luck of the test images, some .003
of energy distance, is in all of them. Beside them the same of training images, the floor, and *copies*: how
many samples are nearer to a training image than to any test image, of as many of each.

Of each start: the seconds of its fit, compilation included; the divergence E_init by the model's score
(`initialization_error`), which takes that score for the truth; and the gain, the mean log-density of noised
test images less that of the Gaussian start, which asks no model. Of each grid: E_disc of Euler and Maruyama's
chain, not of the samplers here. The chosen start, horizon and number of steps were fixed on a fifth of the
training images, held back from the starts' fits, with other seeds.

Expect the Gaussian start at sigma_T = 1 nearly to equal the long run in 19 calls, and the mixture of full
covariances to do so from .25, the data's own spread, in 9 calls or 5; noise alone ruins the samples at all of
these horizons.

MEASURED on digits (`--parts images`, one busy core of an AMD EPYC, jax 0.10.2, 2026-11-29; 1,173 s), Heun:

                                      less the long run
    start              sigma_T  calls  energy distance     Frechet            copies  fit, s  gain, nats
    gaussian           5        81      .0000               .000              .56
    gaussian           5        19     -.0009 +- .0002      .014 +- .001      .57
    gaussian           5         9      .0165 +- .0009      .211 +- .005      .56
    gaussian           5         5      .123  +- .003      1.206 +- .019      .55
    gaussian           1        19     -.0003 +- .0005      .004 +- .002      .57       0     0
    gaussian           .5        9      .0019 +- .0008      .031 +- .002      .55       0     0
    gaussian           .25       5      .0054 +- .0008      .039 +- .003      .55       0     0
    mixture, full      .25       9     -.0008 +- .0026     -.017 +- .007      .56       7     1.94 +- .12
    mixture, full      .25       5     -.0018 +- .0026     -.000 +- .008      .55       7     1.94 +- .12
    patch flow         .25       5      .0034 +- .0038      .016 +- .016      .52      67      .96 +- .06
    empirical          .25       5     -.0007 +- .0023     -.005 +- .012      .64       0     2.39 +- .17
    no calls, gaussian .02       0      .0027 +- .0009     -.022 +- .005      .56       0
    no calls, mixture  .02       0     -.0031 +- .0015     -.024 +- .008      .59      25
    training images                    -.0058 +- .0024     -.065 +- .009

Both distances are blind to what the network knows: draws that it has not seen have the less. A classifier
sees it. It tells from test images the long run in .546 of the cases, the chosen nine calls in .534, training
images in .471, and without a call the mixture in .592 and the Gaussian in .660, +- .022 each. So nine calls
from the mixture are as good as 81 of the long run, and better than none; its fit takes 7 s, which 202 images
pay for in calls saved, at .46 ms a call. By its copies it is no memory; the empirical start is one. Of five
calls the Gaussian of two moments from .25 loses .039 of Frechet distance, the mixture nothing.

E_init by the model's score is not to be trusted where it is needed: at .25 it puts the full mixture .28 nats
below the Gaussian (3.30 and 3.58), where the gain says 1.94, and at .5 it puts the empirical start no lower
than the Gaussian (.59 and .62), where the gain says .72. E_disc is 54 nats for the chosen grid, 193 for as
many steps from sigma = 5 and 40 for the long run's: it ranks horizons, but Heun's samples are far better.
"""

import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING, Any

import jax

from experiments import estimates, quickstart
from experiments.estimates import as_figure, show
from experiments.image_problems import SCHEDULE, Problem
from experiments.initialization import image_budgets, image_starts
from experiments.initialization.image_runs import NO_CALLS, calls, grid, runner
from experiments.initialization.image_starts import FLOW, Fit
from experiments.initialization.judges import Judged, judge_images
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws import metrics
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class Case:
    """A trained model, and where it is asked to start."""

    model: quickstart.Config
    run: str  # where the trained model is; "" for a passing one
    trained_if_missing: bool
    horizons: tuple[float, ...]
    flow_horizon: float | None
    chosen: tuple[str, float, int]  # start, horizon and Heun steps


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    cases: tuple[Case, ...] = (
        Case(
            quickstart.CONFIGS["digits"],
            "results/quickstart-digits",
            trained_if_missing=True,
            horizons=(0.25, 0.5, 1.0),
            flow_horizon=0.25,
            chosen=("mixture, full", 0.25, 4),
        ),
        Case(
            quickstart.CONFIGS["patches"],
            "results/quickstart-patches",
            trained_if_missing=False,
            horizons=(1.0, 2.0, 4.0),
            flow_horizon=None,
            chosen=("gaussian", 2.0, 9),
        ),
    )
    seed: int = 0
    starts: tuple[str, ...] = (
        "plain",
        "isotropic",
        "gaussian",
        "mixture, diagonal",
        "mixture, full",
        "patch flow",
        "empirical",
    )
    no_calls: tuple[str, ...] = ("gaussian", "mixture, full")
    no_calls_t: float = 0.02  # where these are fitted, to be merely sampled
    sets: int = 5
    rows: int = 200
    test_rows: int = 360
    long_steps: int = 40
    steps: tuple[int, ...] = (2, 4, 9)  # the last is a quarter of the long run's calls
    ddim_steps: tuple[int, ...] = (8,)  # the calls of four Heun steps
    components: int = 10
    iterations: int = 30
    flow_width: int = 32
    flow_blocks: int = 4
    flow_steps: int = 800
    levels: int = 48  # of the pilot for E_disc
    classifier_steps: int = 1000  # none in the smoke run: compiling it is a sixth of its time


def smoke() -> Config:
    """A model of twenty steps, one horizon; and one model that is not there."""
    return Config(
        cases=(
            Case(quickstart.smoke(), "", True, (0.5,), None, ("gaussian", 0.5, 2)),
            Case(
                quickstart.CONFIGS["patches"], "no-such-directory", False, (1.0,), None, ("gaussian", 1.0, 2)
            ),
        ),
        starts=("plain", "gaussian"),
        no_calls=("gaussian",),
        sets=4,
        rows=64,
        test_rows=96,
        long_steps=8,
        steps=(2,),
        ddim_steps=(),
        levels=12,
        classifier_steps=0,
    )


def run(config: Config) -> dict[str, Any]:
    """The figures of each model, and a line for each that is not there."""
    measured, missing = [], []
    for case in config.cases:
        name = case.model.dataset
        if case.trained_if_missing or (pathlib.Path(case.run) / "checkpoints").is_dir():
            problem, denoise = quickstart.trained(case.model, case.run)
            measured.append({"dataset": name, **measure(config, case, problem, denoise)})
        else:
            missing.append(
                f"{name}: not measured, since {case.run} holds no trained model; "
                f"python -m experiments.quickstart --dataset {name} makes one."
            )
    return {"config": dataclasses.asdict(config), "cases": measured, "missing": missing}


def measure(config: Config, case: Case, problem: Problem, denoise: Denoiser) -> dict[str, Any]:
    """The figures of one model."""
    names = ("encode", "fit", "draw", "sample", "noise", "last")
    keys: dict[str, Key] = dict(
        zip(names, jax.random.split(jax.random.key(config.seed), len(names)), strict=True)
    )
    data = problem.encode(keys["encode"], jax.random.permutation(keys["encode"], problem.train))
    test = problem.encode(jax.random.fold_in(keys["encode"], 1), problem.test[: config.test_rows])
    fits = _fit(config, case, problem, data, keys["fit"])
    samples, seconds = _sample(config, case, problem, denoise, fits, data, keys)
    cells = [(problem.t_max, config.long_steps)]
    cells += [(t, steps) for t in (problem.t_max, *case.horizons) for steps in config.steps]
    start, horizon, steps = case.chosen
    chosen = start, horizon, "heun", steps
    long, size = next(iter(samples)), config.sets * config.rows
    # What a call costs for one image, by the longest of the runs.
    call = seconds[long] / (calls("heun", config.long_steps) * size)
    saved = (calls("heun", config.long_steps) - calls("heun", steps)) * call
    return {
        "t_max": problem.t_max,
        "chosen": list(chosen),
        **_judge(config, samples, seconds, chosen, data, test, keys["last"]),
        "starts": image_budgets.of_starts(problem, denoise, fits, test, keys["noise"]),
        "discretization": image_budgets.of_grids(
            keys["noise"], denoise, data[: config.rows], cells, config.levels
        ),
        "milliseconds_per_call": 1e3 * call,
        "images_that_pay_for_the_fit": fits[start, horizon].seconds / saved,
    }


Arm = tuple[str, float, str, int]
"""Start, horizon, sampler and steps."""


def _fit(config: Config, case: Case, problem: Problem, data: Array, key: Key) -> dict[tuple[str, float], Fit]:
    """Every start at every horizon."""
    families = image_starts.families(
        components=config.components,
        iterations=config.iterations,
        flow_width=config.flow_width,
        flow_blocks=config.flow_blocks,
        flow_steps=config.flow_steps,
    )
    wanted = [("gaussian", problem.t_max), ("plain", problem.t_max)]
    wanted += [(name, config.no_calls_t) for name in config.no_calls]
    wanted += [
        (name, horizon)
        for horizon in case.horizons
        for name in config.starts
        if name != FLOW or horizon == case.flow_horizon
    ]
    return {
        (name, horizon): image_starts.fit(key, families[name], data, SCHEDULE, horizon)
        for name, horizon in wanted
    }


def _sample(
    config: Config,
    case: Case,
    problem: Problem,
    denoise: Denoiser,
    fits: dict[tuple[str, float], Fit],
    data: Array,
    keys: dict[str, Key],
) -> tuple[dict[Arm, Array], dict[Arm, float]]:
    """Samples of every arm, the long run's first, and the seconds that they took."""
    run = [start for start in fits if start[1] in (*case.horizons, problem.t_max)]
    arms: list[Arm] = [(name, problem.t_max, "heun", config.long_steps) for name in ("gaussian", "plain")]
    arms += [(name, config.no_calls_t, NO_CALLS, 0) for name in config.no_calls]
    arms += [(*start, "heun", steps) for start in run for steps in config.steps]
    arms += [(*start, "ddim", steps) for start in run for steps in config.ddim_steps]
    size = config.sets * config.rows
    sample = runner(denoise, keys["sample"], keys["draw"], data[:size])
    samples, seconds = {}, {}
    for name, horizon, sampler, steps in arms:
        arm, law = (name, horizon, sampler, steps), fits[name, horizon].law
        if sampler == NO_CALLS:
            samples[arm], seconds[arm] = law.sample(keys["draw"], size), 0.0
        else:
            samples[arm], seconds[arm] = sample(law, sampler, grid(steps, horizon))
    return samples, seconds


def _judge(
    config: Config,
    samples: dict[Arm, Array],
    seconds: dict[Arm, float],
    chosen: Arm,
    data: Array,
    test: Array,
    key: Key,
) -> dict[str, Any]:
    """Rows of distances, those of training images, and what a classifier says of a few."""

    def judge(samples: Array) -> Judged:
        return judge_images(samples.reshape(config.sets, config.rows, -1), data, test)

    long, training = next(iter(samples)), data[: config.sets * config.rows]
    judged = {arm: judge(x) for arm, x in samples.items()}
    rows = [
        {
            **dict(zip(("start", "horizon", "sampler", "steps"), arm, strict=True)),
            "calls": calls(arm[2], arm[3]),
            "seconds": seconds[arm],
            **_figures(judged[arm], judged[long]),
        }
        for arm in samples
    ]
    floor = _figures(judge(training), judged[long])
    del floor["copies"]  # some of those images are the very ones that would be copied
    compared = {"long run": samples[long], "chosen": samples[chosen], "training images": training}
    compared |= {f"no calls, {arm[0]}": x for arm, x in samples.items() if arm[2] == NO_CALLS}
    classify = functools.partial(metrics.classifier_two_sample_test, num_steps=config.classifier_steps)
    classifier = [
        {"samples": name, **as_figure(classify(key, x, test))}
        for name, x in compared.items()
        if config.classifier_steps
    ]
    return {"rows": rows, "floor": floor, "classifier": classifier}


def _figures(judged: Judged, reference: Judged) -> dict[str, Any]:
    """Means over sets, and their differences to those of the reference, with standard errors."""
    figures = {name: estimates.mean(values) for name, values in judged._asdict().items()}
    for name in ("energy", "frechet"):
        figures[f"{name}_less_long"] = estimates.mean(getattr(judged, name) - getattr(reference, name))
    return figures


def table(figures: dict[str, Any]) -> str:
    """For each model what its starts and grids are worth, and then its samples."""
    lines = []
    for case in figures["cases"]:
        lines.append(f"{case['dataset']}, long run from sigma = {case['t_max']:g}: fits to training images")
        lines.append(
            f"{'start':20}{'sigma_T':>8}{'seconds':>9}{'d*/2n':>7}{'E_init, nats':>20}{'gain, nats':>20}"
        )
        for row in case["starts"]:
            lines.append(
                f"{row['start']:20}{row['horizon']:8g}{row['seconds']:9.1f}{row['sampling_error']:7.2f}"
                f"{show(row['initialization'], 3):>20}{show(row['gain'], 3):>20}"
            )
        lines.append("\nE_disc of Heun's grids, less their last step")
        for row in case["discretization"]:
            lines.append(f"sigma_T = {row['horizon']:<5g}{row['steps']:4} steps{row['nats']:9.1f} nats")
        lines.append("\nsamples against test images, and less those of the long run (the first line)")
        names = "".join(f"{name:>20}" for name in ("energy distance", "less long", "Frechet", "less long"))
        lines.append(f"{'start':20}{'sigma_T':>8}{'calls':>11}{names}{'copies':>8}")
        for row in (*case["rows"], {"start": "training images", **case["floor"]}):
            drawn = (
                f"{row['horizon']:8g}{row['sampler']:>7}{row['calls']:4}" if "horizon" in row else " " * 19
            )
            cells = "".join(
                f" {show(row[name], 4):>19}"
                for name in ("energy", "energy_less_long", "frechet", "frechet_less_long")
            )
            copies = f"{row['copies']['mean']:.3f}" if "copies" in row else "-"
            lines.append(f"{row['start']:20}{drawn}{cells}{copies:>8}")
        name, horizon, _, steps = case["chosen"]
        lines.append(f"\nchosen: {name} from sigma_T = {horizon:g}, {steps} Heun steps")
        told = ", ".join(f"{r['samples']} {show(r, 3)}" for r in case["classifier"])
        if told:
            lines.append(f"told apart from test images by a classifier: {told}")
        lines.append(
            f"a call: {case['milliseconds_per_call']:.3f} ms an image; the calls saved have paid for the fit "
            f"after {case['images_that_pay_for_the_fit']:.0f} images"
        )
    return "\n".join([*lines, *figures["missing"]])


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """The first model: Frechet distances against calls, a line for each start at the chosen horizon."""
    case = figures["cases"][0]
    chosen = case["chosen"][1]
    heun = [row for row in case["rows"] if row["sampler"] == "heun"]
    for start, horizon in dict.fromkeys((row["start"], row["horizon"]) for row in heun):
        if horizon not in (chosen, case["t_max"]):
            continue
        own = sorted(
            (row for row in heun if (row["start"], row["horizon"]) == (start, horizon)),
            key=lambda row: row["calls"],
        )
        axes.errorbar(
            [row["calls"] for row in own],
            [row["frechet"]["mean"] for row in own],
            [2 * row["frechet"]["standard_error"] for row in own],
            linestyle="-" if horizon == chosen else "--",
            marker="o",
            markersize=4,
            label=f"{start}, {horizon:g}",
        )
    axes.axhline(case["floor"]["frechet"]["mean"], color="gray", linestyle=":", label="training images")
    axes.set(
        xscale="log", yscale="log", xlabel="calls of the network", ylabel="Frechet distance to test images"
    )
    axes.set_title(f"{case['dataset']}: starts, by sigma_T")
    axes.legend(fontsize="x-small", ncols=2)
