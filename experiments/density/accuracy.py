"""Log-densities with the exact score: error against evaluations, for the formula and the probability flow.

Data: mixtures in d = 2, 10, 50 and 200 dimensions (`laws.mixture`); eight points from the law, and for d = 50
the same points plus N(0, I), where log p is -200 and less. What is known of the law by the estimators is its
exact denoiser and 2,000 samples, to which references are fitted:

    formula, isotropic / Gaussian / mixture     `density_formula` with that reference
    formula, Gaussian, pilot                    with a time density from a pilot, whose cost is left out
    flow, exact                                 `probability_flow`, exact trace
    flow, k probes                              10 such steps, Hutchinson's trace
    flow, Hutch++                               the same, 8 of 44 tangents in a sketch and 8 more on it
    flow, adaptive                              order 5, exact trace, steps by tolerance
    diffrax, adaptive                           the same flow by diffrax (Kidger 2021), Dormand & Prince 5(4)

Evaluations are calls of the denoiser for a point, a tangent counting as one. For each: the root mean square
error over points and keys, the bias with its standard error, how often value +- 1.96 standard errors holds
the truth, and the wall time of a point when eight are done at once.

MEASURED (one busy core of an AMD EPYC, jax 0.10.2, diffrax 0.7.2, 2026-11-30; 10 min). Root mean square
error in nats, by evaluations:

    of the law                   d = 2    10       50       200        d = 50, off the law
    formula, isotropic   1,024   .081     .109     .204     .61        .57
    formula, Gaussian    1,024   .081     .110     .202     .62        .56
    formula, mixture     1,024   .007     .017     .057     .54        .50
    formula, Gaussian      256   .18      .25      .62      1.4        1.6
    flow, 44 probes      1,023   .065     .30      .69      1.6        73
    flow, Hutch++        1,023   .019     .13      .98      2.0        73
    flow, exact, 20 steps        .001     .003     .022     .37        61
      in evaluations             189      525      2,205    8,505      2,205
    flow, adaptive, 1e-4         .001     .002     .010     .051       .073
      in evaluations             257      910      4,832    16,331     13,821
    diffrax, adaptive, 1e-4      .003     .008     .057     .149       .46
      in evaluations             232      795      4,297    16,482     12,903

So at a thousand evaluations in 50 dimensions the formula's error is 3.4 times less than that of the flow's
probes, and 12 times with a mixture for reference; off the law, where the flow is stiff, steps by tolerance
are right as well and 640 of the grid too (.11), 160 are not (15). An exact trace is best where it can be
afforded, and with two traces a step, where the rule of Runge and Kutta asked for four, and steps that are
least where data take form, it takes half the evaluations for half the error in d = 200 (.84 by 16,080
before). Intervals hold the truth in .925 to .984 of cases from 256 evaluations on; in .84 to .92 with 64 off
the law. Hutch++ spends on directions what it could on signs, and loses in d = 50, where no few directions
stand out.
"""

import dataclasses
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density.laws import mixture
from jaxdiff.denoising.denoiser import Distribution
from jaxdiff.densities.adaptive_flow import AdaptiveLogDensity, adaptive_probability_flow
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.flow import LogDensity, probability_flow
from jaxdiff.densities.formula import density_formula, pilot_time_density
from jaxdiff.laws.fitting import fit_gaussian, fit_mixture
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising import times
from jaxdiff.noising.schedules import LinearVariance
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = LinearVariance()
LEVELS = (11.0, -9.0)  # log-SNR between which the flow runs


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes; the pilot and the references see other samples than those that are judged."""

    dimensions: tuple[int, ...] = (2, 10, 50, 200)
    shifted: tuple[int, ...] = (50,)  # dimensions with points far from the law too
    evaluations: tuple[int, ...] = (64, 256, 1024)
    probes: tuple[int, ...] = (
        1,
        4,
        16,
        44,
    )  # 44: 1,023 evaluations at 10 steps
    exact_steps: tuple[int, ...] = (5, 10, 20)
    shifted_steps: tuple[int, ...] = (20, 40, 160, 640)
    tolerances: tuple[float, ...] = (1e-2, 1e-4)
    replicates: int = 40
    num_points: int = 8
    num_training: int = 2000


def smoke() -> Config:
    """One small dimension, few keys."""
    return Config(
        dimensions=(3,),
        shifted=(),
        evaluations=(64,),
        probes=(4,),
        exact_steps=(10,),
        shifted_steps=(20,),
        tolerances=(1e-2,),
        replicates=20,
        num_training=200,
    )


class Task(NamedTuple):
    """A law, points with their log-densities, and what was fitted to samples of the law."""

    law: GaussianMixture
    x: Array
    truth: np.ndarray
    training: Array
    references: dict[str, Distribution]


class Estimator(NamedTuple):
    """A way to the log-densities of the task's points, and how it is listed."""

    name: str
    setting: str
    evaluations: int | None
    """None where each point chooses."""
    random: bool
    run: Callable[[Key], LogDensity | AdaptiveLogDensity]


def run(config: Config) -> dict[str, Any]:
    """A row for each estimator on each task."""
    rows = []
    for d in config.dimensions:
        for shifted in (False, True)[: 1 + (d in config.shifted)]:
            task = _task(config, d, shifted)
            print(f"accuracy: d = {d}, points {'off' if shifted else 'of'} the law", file=sys.stderr)
            for estimator in (*_formulas(config, task), *_flows(config, task, shifted)):
                row = _measure(config, task, estimator)
                rows.append({"dimension": d, "points": "shifted" if shifted else "data", **row})
    return {"config": dataclasses.asdict(config), "rows": rows}


def table(figures: dict[str, Any]) -> str:
    """A block for each task."""
    lines, task = [], None
    for row in figures["rows"]:
        if task != (row["dimension"], row["points"]):
            task = (row["dimension"], row["points"])
            lines.append(f"d = {task[0]}, points {'off' if task[1] == 'shifted' else 'of'} the law")
            lines.append(
                f"  {'':23s}{'':>14s}{'evaluations':>12s}{'rmse':>9s}{'bias':>19s}{'covered':>9s}{'ms':>9s}"
            )
        covered = f"{row['coverage']:9.3f}" if "coverage" in row else " " * 9
        bias = f"{row['bias']:+.4f}"
        bias += f" +- {row['bias_standard_error']:.4f}" if "bias_standard_error" in row else ""
        lines.append(
            f"  {row['method']:23s}{row['setting']:>14s}{row['evaluations']:12.0f}{row['rmse']:9.4f}"
            f"{bias:>19s}{covered}{row['milliseconds']:9.2f}"
        )
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Error against evaluations in the largest dimension that has shifted points too."""
    d = max(figures["config"]["shifted"] or figures["config"]["dimensions"])
    rows = [r for r in figures["rows"] if r["dimension"] == d and r["points"] == "data"]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        style = "o-" if name.startswith("formula") else "s--"
        axes.loglog(
            [r["evaluations"] for r in own], [r["rmse"] for r in own], style, label=name, markersize=4
        )
    axes.set(xlabel="evaluations", ylabel="root mean square error, nats", title=f"log-density, d = {d}")
    axes.legend(fontsize=6)


def _task(config: Config, d: int, shifted: bool) -> Task:
    law = mixture(d)
    point_key, training_key, shift_key, fit_key = jax.random.split(jax.random.key(7), 4)
    x = law.sample(point_key, config.num_points)
    if shifted:
        x = x + jax.random.normal(shift_key, x.shape)
    training = law.sample(training_key, config.num_training)
    references: dict[str, Distribution] = {
        "isotropic": fit_gaussian(training, covariance="isotropic"),
        "Gaussian": fit_gaussian(training),
        # The floor is for d = 200, where the smallest component has as many samples as dimensions.
        "mixture": fit_mixture(fit_key, training, len(law.weights), floor=1e-2),
    }
    truth = np.asarray(law.log_prob(x), np.float64)
    return Task(law, x, truth, training, references)


def _formulas(config: Config, task: Task) -> Iterator[Estimator]:
    denoise = task.law.denoiser(SCHEDULE)
    gaussian = task.references["Gaussian"]
    pilot = pilot_time_density(
        jax.random.key(9), denoise, task.training[:32], evaluations=Evaluations(512, reference=gaussian)
    )
    for name, reference, time_density in (
        *((name, reference, None) for name, reference in task.references.items()),
        ("Gaussian, pilot", gaussian, pilot),
    ):
        for n in config.evaluations:
            call = functools.partial(
                density_formula,
                denoise=denoise,
                x=task.x,
                evaluations=Evaluations(n, reference=reference, time_density=time_density),
            )
            yield Estimator(f"formula, {name}", "", n, True, call)


def _flows(config: Config, task: Task, shifted: bool) -> Iterator[Estimator]:
    d = task.x.shape[1]
    t_min, t_max = (float(jax.nn.sigmoid(-level)) for level in LEVELS)
    shared = {
        "denoise": task.law.denoiser(SCHEDULE),
        "x": task.x,
        "start": task.references["Gaussian"].perturbed(SCHEDULE, t_max),
    }
    flow = functools.partial(probability_flow, **shared)

    def grid(num_steps: int) -> Array:
        scale = shared["denoise"].scale
        return times.log_snr_grid(SCHEDULE, num_steps, t_max=t_max, t_min=t_min, scale=scale)[::-1]

    def evaluations(steps: int, tangents: int) -> int:
        """Five calls an interval, and one of no length before; tangents of two of them."""
        return (steps + 1) * (5 + 2 * tangents)

    for steps in config.shifted_steps if shifted else config.exact_steps:
        call = functools.partial(flow, times=grid(steps))
        yield Estimator("flow, exact", f"{steps} steps", evaluations(steps, d), False, call)
    for probes in config.probes:
        call = functools.partial(flow, times=grid(10), num_probes=probes)
        yield Estimator("flow, Hutchinson", f"{probes} probes", evaluations(10, probes), True, call)
    sketch = min(8, d)
    tangents = max(config.probes)
    if tangents > 2 * sketch:
        call = functools.partial(flow, times=grid(10), num_probes=tangents - 2 * sketch, sketch_size=sketch)
        yield Estimator("flow, Hutch++", f"{tangents} tangents", evaluations(10, tangents), True, call)
    for tolerance in config.tolerances:
        call = functools.partial(
            adaptive_probability_flow, **shared, t_min=t_min, t_max=t_max, tolerance=tolerance, max_steps=4096
        )
        yield Estimator("flow, adaptive", f"{tolerance:g}", None, False, call)
        if importlib.util.find_spec("diffrax"):
            peer = functools.partial(_diffrax, task=task, start=shared["start"], tolerance=tolerance)
            yield Estimator("diffrax, adaptive", f"{tolerance:g}", None, False, peer)


def _diffrax(key: Key, *, task: Task, start: Distribution, tolerance: float) -> AdaptiveLogDensity:
    """The same flow and exact trace, each point alone under `jax.vmap`, by diffrax's adaptive solver."""
    import diffrax

    denoise = task.law.denoiser(SCHEDULE)

    def field(level: Any, state: tuple[Array, Array], _: Any) -> tuple[Array, Array]:
        cos, sin = jnp.sqrt(jax.nn.sigmoid(level)), jnp.sqrt(jax.nn.sigmoid(-level))

        def velocity(z: Array) -> Array:
            estimate = denoise(z[None], sin**2)
            return -0.5 * sin * cos * (cos * estimate.noise - sin * estimate.data)[0]

        slope, push = jax.linearize(velocity, state[0])
        return slope, jnp.trace(jax.vmap(push)(jnp.eye(len(slope), dtype=slope.dtype)))

    scale = jnp.sqrt(jax.nn.sigmoid(LEVELS[0]))

    def one(x: Array) -> tuple[Array, Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            t0=LEVELS[0],
            t1=LEVELS[1],
            dt0=(LEVELS[1] - LEVELS[0]) / 32,
            y0=(scale * x, jnp.zeros((), x.dtype)),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=4096,
        )
        assert solution.ys is not None
        z, gained = (part[-1] for part in solution.ys)
        return start.log_prob(z) + x.size * jnp.log(scale) + gained, 6 * solution.stats["num_steps"] + 1

    value, calls = jax.vmap(one)(task.x)
    return AdaptiveLogDensity(value, jnp.zeros_like(value), calls)


def _measure(config: Config, task: Task, estimator: Estimator) -> dict[str, Any]:
    replicates = config.replicates if estimator.random else 1
    keys = jax.random.split(jax.random.key(1), replicates)
    compiled = jax.jit(lambda keys: jax.lax.map(estimator.run, keys)).lower(keys).compile()
    began = time.monotonic()
    answer = jax.tree.map(lambda part: np.asarray(part, np.float64), jax.block_until_ready(compiled(keys)))
    seconds = time.monotonic() - began
    off = answer.value - task.truth[None]
    evaluations = estimator.evaluations
    if evaluations is None:
        evaluations = float(answer.num_evaluations.mean() * (1 + task.x.shape[1]))
    row = {
        "method": estimator.name,
        "setting": estimator.setting,
        "evaluations": evaluations,
        "rmse": float(np.sqrt((off**2).mean())),
        "bias": float(off.mean()),
        "milliseconds": 1e3 * seconds / off.size,
    }
    if estimator.random:
        # Keys are independent; the points of a key are not the same law, but each has its own noise.
        row["bias_standard_error"] = float(off.mean(1).std(ddof=1) / np.sqrt(replicates))
    if estimator.name.startswith("formula"):
        row["coverage"] = float((np.abs(off) < 1.96 * answer.standard_error).mean())
    return row
