"""Heavy tails: which quantiles of Student t mixtures survive a short horizon, by the law that it starts from.

Data: four Student t laws of three degrees of freedom in R^d (`laws.student_mixture`), with the exact
denoiser, so that a sampler errs by its start and its steps alone. Starts:

    plain, isotropic     N(0, sigma_T^2 I); mean and mean variance matched
    one t, four t        `student_t_mixture(1)` and `(4)` fitted to rows of data noised to sigma_T
    four t, early        the same fitted at a noise of .3, and the rest of the noise added to the law: the
                         family is closed under noise, which hides the tails from a fit
    three t, early       with a component too few, so that the family does not hold the law
    ideal                the law of x at sigma_T itself

Heun's method is deterministic, T: x -> sample, so the starts can share their runs. With n_j rows from the law
q_j, some of them wide (the ideal law, its scales' degrees of freedom divided by three), a row counts

    p(x) / sum_j n_j q_j(x)                                                                          (1)

for the start p (the balance heuristic, Veach & Guibas 1995), at most 1 / n_j if p is q_j. Wide rows fill the
tails: those beyond the quantile of level 1 - 1e-6 are many. For each coordinate, of both signs, at level q

    ratio = quantile of T(x), x ~ p, by (1) / exact quantile of the data                             (2)

of which the mean and the standard deviation over the 2 d tails are given; left out where too few rows are
beyond. Beside it the bulk: the root mean square of the differences of the quantiles of levels .1, .2, ..., .9
in units of the data's range between the first and the last. Standard errors are by the jackknife over blocks
of rows; where there are several seeds a block is a seed with its own data and fits.

From .3 a run of one node makes no call: it is the early fit itself, with the noise that it was fitted under.

Expect the plain start to lose the tails at 2, partly at 7 and not at 80; one t to be too rigid in many
dimensions; and the ideal start's ratios to be one at every level.

MEASURED (one core of four jobs on two of an AMD EPYC, jax 0.12.0.1, 2026-11-29; 33 min, 7 where it is quiet),
means over tails with standard errors in units of the last digit. In 100 dimensions, one law, one fit of
20,000 rows, 200 tails:

    start, sigma_T, calls    .9         .99        .999       .9999      .99999     .999999    bulk
    plain, 2, 38             .644(1)    .481(1)    .322(1)    .198(1)    .113(1)               .100
    isotropic, 2, 38         .895(2)    .682(3)    .456(3)    .275(3)                          .029
    one t, 2, 38             .962(4)    .908(16)   .899(90)                                    .013
    three t, early, 2, 38    1.004(4)   .994(6)    .971(12)   .949(38)   .869(54)              .005
    three t, early, 2, 18    1.013(5)   1.000(6)   .968(12)   .972(55)   .855(69)              .007
    three t, early, .3, 0    1.183(6)   1.061(13)  1.013(39)  1.18(14)                         .087
    four t, early, 2, 38     1.003(4)   .992(8)    .965(16)   .932(36)   .859(55)              .005
    ideal, 2, 38             1.004(4)   1.004(7)   .997(11)   .985(19)   .995(25)   .984(36)   .005
    ideal, 2, 18             1.010(4)   1.001(7)   .972(12)   .989(25)   1.048(30)  1.071(52)  .007
    plain, 7, 38             .930(4)    .847(4)    .694(5)    .507(6)    .323(5)               .019
    four t, early, 7, 38     1.014(5)   1.007(8)   .996(13)   .949(25)   .933(31)   .926(46)   .006
    ideal, 7, 38             1.014(5)   1.010(7)   1.007(15)  .992(29)   .992(30)   1.029(29)  .006
    plain, 80, 78            1.007(8)   1.009(13)  1.036(24)  1.117(64)                        .008
    plain, 80, 18            1.143(6)   1.103(16)  1.066(40)  1.147(83)                        .043

Three components are as good as four, of which one dies (31 and 37 s of fitting, KL .25 nats at .3 for both):
ratios from .9 to .9999 are within a twentieth of 1, the last by less than its error. From 2 a quarter of the
long run's calls keeps tails that the long grid with as few widens by a seventh at .9. With no calls the start
alone has tails of the right size in the mean and the bulk wrong: over tails its ratios at .9 are spread by
.21, where three t, early from 2 has .01.

In the plane, five seeds of 5,000 rows each:

    plain, 2, 38             .893(3)    .777(6)    .610(6)    .410(7)    .246(3)    .140(4)    .09(4)
    one t, 2, 38             1.039(7)   1.010(13)  .878(28)   .691(33)   .531(33)   .378(18)   .004(1)
    four t, 2, 38            1.025(5)   1.005(10)  .970(37)   1.09(15)   2.0(1.0)   2.4(1.2)   .002
    four t, early, 2, 38     1.011(5)   1.010(10)  1.046(46)  1.133(72)  1.25(19)   1.80(45)   .000
    ideal, 2, 38             1.008(4)   1.000(10)  1.006(22)  1.033(22)  .948(36)   1.090(67)
    plain, 80, 78            1.014(7)   1.009(12)  1.000(37)  1.071(67)  1.47(11)

Beyond .999 these rest on the few rows that say how heavy a tail is: one seed of five fits 1.3 to 1.7 degrees
of freedom to one component.
"""

import dataclasses
import functools
import time
import warnings
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import estimates
from experiments.estimates import show
from experiments.initialization.laws import draw_rows, student_mixture, student_quantiles
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.heun import Heun
from jaxdiff.sampling.starts import Family, fit_start, isotropic, plain, student_t_mixture
from jaxdiff.typing import Array, Key, StartLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = Karras()
LEVELS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
BULK = tuple(i / 10 for i in range(1, 10))
T_MIN = 0.002
_LEAST_ROWS = 0.6  # beyond a quantile, for it to be given
_ROWS = 1024  # whose densities are computed together
_TEST = 4096  # rows for KL(p_T || start)


@dataclasses.dataclass(frozen=True)
class Run:
    """A grid, and the numbers of rows from each start, by name."""

    t_max: float
    nodes: int
    rho: float
    rows: dict[str, int]

    @property
    def grid(self) -> Array:
        """With one node no call is made: draws of the start itself, at t_max."""
        return times.power_grid(self.nodes - 1, t_max=self.t_max, t_min=T_MIN, rho=self.rho)


@dataclasses.dataclass(frozen=True)
class Case:
    """A dimension."""

    dimension: int
    seeds: tuple[int, ...]
    blocks: int  # of a seed's rows, for the jackknife
    num_training: int
    num_iterations: int  # of the fits of t laws
    runs: tuple[Run, ...]


_PLANE = {"plain": 800, "isotropic": 800, "one t": 800, "four t": 800, "four t, early": 800, "ideal": 800}
_PLANE |= {"wide": 2000}
# A Gaussian start has no tail to be helped by wide rows, in so many dimensions, and t laws share theirs.
_SPACE = {"plain": 6000, "isotropic": 2000, "four t, early": 3000, "ideal": 2000, "wide": 4000}
_LONG = {"plain": 3000, "ideal": 1000, "wide": 2000}
_FEW = {"four t, early": 3000, "ideal": 2000, "wide": 2000}


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    law_seed: int = 0
    early: float = 0.3
    cases: tuple[Case, ...] = (
        Case(
            dimension=2,
            seeds=(0, 1, 2, 3, 4),
            blocks=1,
            num_training=5_000,
            num_iterations=60,
            runs=(
                Run(2.0, 20, 7.0, _PLANE),
                Run(7.0, 20, 5.0, {name: n for name, n in _PLANE.items() if name not in ("one t", "four t")}),
                Run(80.0, 40, 7.0, _LONG),
                Run(80.0, 10, 7.0, _LONG),
                Run(2.0, 10, 7.0, _FEW),
            ),
        ),
        Case(
            dimension=100,
            seeds=(0,),
            blocks=10,
            num_training=20_000,
            num_iterations=80,
            runs=(
                Run(2.0, 20, 7.0, _SPACE | {"one t": 2000, "three t, early": 3000}),
                Run(7.0, 20, 5.0, _SPACE),
                Run(80.0, 40, 7.0, _LONG),
                Run(80.0, 10, 7.0, _LONG),
                Run(2.0, 10, 7.0, _FEW | {"three t, early": 3000}),
                Run(0.3, 1, 7.0, {"four t, early": 3000, "three t, early": 3000, "wide": 2000}),
            ),
        ),
    )


def smoke() -> Config:
    """The same at a size for tests."""
    rows = {"plain": 1000, "four t, early": 1000, "ideal": 1000, "wide": 1000}
    case = Case(2, (0,), blocks=5, num_training=5000, num_iterations=30, runs=(Run(2.0, 20, 7.0, rows),))
    return Config(cases=(case,))


def run(config: Config) -> dict[str, Any]:
    """Rows of ratios for each start of each run, and the fits."""
    rows, fits = [], []
    for case in config.cases:
        law = student_mixture(case.dimension, config.law_seed)
        denoise = law.denoiser(SCHEDULE)
        exact = {"tails": student_quantiles(law, LEVELS), "bulk": student_quantiles(law, BULK)}
        starts = []
        for seed in case.seeds:
            laws, own = _fits(config, case, law, seed)
            starts.append(laws)
            fits += own
        for number, run in enumerate(case.runs):
            key = jax.random.fold_in(jax.random.key(17), number)
            x, weights = _draw(key, case, run, [laws[run.t_max] for laws in starts])
            began = time.process_time()
            y = np.asarray(_integrate(denoise, x, run.grid) if run.nodes > 1 else x, np.float64)
            seconds = time.process_time() - began
            for name, weight in weights.items():
                row = {
                    "dimension": case.dimension,
                    "t_max": run.t_max,
                    "nodes": run.nodes,
                    "calls": 2 * (run.nodes - 1),
                    "start": name,
                    "rows": len(y),
                    "microseconds": 1e6 * seconds / (max(2 * (run.nodes - 1), 1) * len(y)),
                }
                rows.append(row | _judge(y, weight, case.blocks * len(case.seeds), exact))
    return {"config": dataclasses.asdict(config), "rows": rows, "fits": fits}


def table(figures: dict[str, Any]) -> str:
    """A line for each start of each run: the mean ratio over tails, and the spread below it."""
    lines = ["output / exact quantile: mean over tails (standard error) and [standard deviation over tails]"]
    lines.append("  d sigma_T nodes start           bulk" + "".join(f"{level:>22}" for level in LEVELS))
    for row in figures["rows"]:
        head = f"{row['dimension']:3}{row['t_max']:8g}{row['nodes']:6} {row['start']:14}"
        cells = [
            f"{cell['mean']:.3f} ({cell['standard_error']:.3f}) [{cell['spread']:.2f}]" if cell else "-"
            for cell in row["ratios"]
        ]
        lines.append(f"{head}{row['bulk']['mean']:8.4f}" + "".join(f"{cell:>22}" for cell in cells))
    for fit in figures["fits"]:
        lines.append(
            f"d = {fit['dimension']}, sigma_T = {fit['t_max']:g}, seed {fit['seed']}, {fit['start']}: "
            f"{fit['seconds']:.1f} s, KL {show(fit['divergence'], 4)}, degrees of freedom "
            + ", ".join(f"{nu:.2f}" for nu in fit["degrees_of_freedom"])
        )
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Ratios in the largest dimension against the level, a line for each start of each run of 20 or more."""
    largest = max(row["dimension"] for row in figures["rows"])
    own = [row for row in figures["rows"] if row["dimension"] == largest and row["calls"]]
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(row["start"] for row in own))}
    styles = dict(zip(dict.fromkeys(row["t_max"] for row in own), ("-", "--", ":"), strict=False))
    drawn = set()
    for row in own:
        if (row["t_max"], row["start"]) in drawn:  # a run of fewer nodes
            continue
        drawn.add((row["t_max"], row["start"]))
        points = [(1 - level, cell) for level, cell in zip(LEVELS, row["ratios"], strict=True) if cell]
        axes.errorbar(
            [beyond for beyond, _ in points],
            [cell["mean"] for _, cell in points],
            [2 * cell["standard_error"] for _, cell in points],
            linestyle=styles[row["t_max"]],
            color=colors[row["start"]],
            label=f"{row['start']}, {row['t_max']:g}",
        )
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set(xscale="log", xlabel="1 - level", ylabel="quantile / exact", title=f"Tails, d = {largest}")
    axes.invert_xaxis()
    axes.legend(fontsize="xx-small", ncols=2)


def _fits(
    config: Config, case: Case, law: StudentTMixture, seed: int
) -> tuple[dict[float, dict[str, StartLaw]], list[dict[str, Any]]]:
    """The starts of every horizon by name, from a seed's own data, and what there is to say of the fits."""
    data_key, fit_key, test_key = jax.random.split(jax.random.key(seed), 3)
    data = draw_rows(law, data_key, case.num_training)
    t_family = functools.partial(student_t_mixture, num_restarts=1, num_iterations=case.num_iterations)
    families = {"plain": plain(), "isotropic": isotropic(), "one t": t_family(1), "four t": t_family(4)}

    def fit(family: Family[Any], t: float) -> tuple[Any, float]:
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the start law has")  # its error is in the figures
            fitted = jax.block_until_ready(fit_start(fit_key, family, data, SCHEDULE, t))
        return fitted, time.process_time() - began

    wanted = {name for run in case.runs for name in run.rows}
    early = {
        name: fit(t_family(components), config.early)
        for name, components in (("three t, early", 3), ("four t, early", 4))
        if name in wanted
    }
    starts: dict[float, dict[str, StartLaw]] = {}
    fits = []
    for t_max in sorted({run.t_max for run in case.runs}):
        wanted = {name for run in case.runs if run.t_max == t_max for name in run.rows}
        ideal = law.perturbed(SCHEDULE, t_max)
        wide = dataclasses.replace(ideal, degrees_of_freedom=ideal.degrees_of_freedom / 3)
        fitted = {name: fit(family, t_max) for name, family in families.items() if name in wanted}
        rest = max(t_max**2 - config.early**2, 0.0) ** 0.5
        fitted |= {
            name: (own.perturbed(SCHEDULE, rest), seconds)
            for name, (own, seconds) in early.items()
            if name in wanted
        }
        starts[t_max] = {"ideal": ideal, "wide": wide, **{name: own for name, (own, _) in fitted.items()}}
        test = draw_rows(ideal, test_key, _TEST)
        for name, (own, seconds) in fitted.items():
            fits.append(
                {
                    "dimension": case.dimension,
                    "t_max": t_max,
                    "seed": seed,
                    "start": name,
                    "seconds": seconds,
                    "divergence": estimates.mean(_log_prob(ideal, test) - _log_prob(own, test)),
                    "degrees_of_freedom": np.asarray(getattr(own, "degrees_of_freedom", ())).tolist(),
                }
            )
    return starts, fits


def _draw(
    key: Key, case: Case, run: Run, starts: list[dict[str, StartLaw]]
) -> tuple[Array, dict[str, np.ndarray]]:
    """Rows of all starts and seeds, (n, d), block after block, and their weights (1) by start."""
    rows, weights = [], {name: [] for name in run.rows if name != "wide"}
    for seed, laws in zip(case.seeds, starts, strict=True):
        keys = jax.random.split(jax.random.fold_in(key, seed), len(run.rows))
        parts = [draw_rows(laws[name], key, n) for key, (name, n) in zip(keys, run.rows.items(), strict=True)]
        # Each block has its share of each start's.
        x = jnp.concatenate([part.reshape(case.blocks, -1, case.dimension) for part in parts], axis=1)
        x = x.reshape(-1, case.dimension)
        logs = {name: np.asarray(_log_prob(laws[name], x), np.float64) for name in run.rows}
        total = np.logaddexp.reduce([np.log(n) + logs[name] for name, n in run.rows.items()])
        rows.append(x)
        for name in weights:
            weights[name].append(np.exp(logs[name] - total))
    return jnp.concatenate(rows), {name: np.concatenate(parts) for name, parts in weights.items()}


@jax.jit
def _log_prob(law: StartLaw, x: Array) -> Array:
    return jax.lax.map(law.log_prob, x, batch_size=_ROWS)


@jax.jit
def _integrate(denoise: Denoiser, x: Array, grid: Array) -> Array:
    # No noise is drawn. Under `jit` nothing is said of the scale of x, whose wide rows have no variance.
    return integrate(jax.random.key(0), denoise, x, grid, sampler=Heun())


def _judge(y: np.ndarray, weight: np.ndarray, blocks: int, exact: dict[str, np.ndarray]) -> dict[str, Any]:
    """Ratios (2), their standard errors and spreads, and the bulk's difference."""
    d = y.shape[1]
    y = np.concatenate([y, -y], axis=1)
    order = np.argsort(-y, axis=0)
    y = np.take_along_axis(y, order, axis=0)
    block = np.repeat(np.arange(blocks), len(y) // blocks)

    def of(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ratios, (levels, tails), and the bulk's difference."""
        sorted_weight = (weight / weight.sum())[order]
        beyond = np.cumsum(sorted_weight, axis=0) - 0.5 * sorted_weight
        levels = 1 - np.array(LEVELS + BULK)
        found = np.stack(
            [np.interp(levels, own, value) for own, value in zip(beyond.T, y.T, strict=True)], axis=1
        )
        tails, bulk = found[: len(LEVELS)], found[len(LEVELS) :, :d]
        truth = exact["bulk"][:, :d]
        off = (bulk - truth) / (truth[-1] - truth[0])[None]
        return tails / exact["tails"], np.sqrt((off**2).mean())

    ratios, bulk = of(weight)
    parts = [of(np.where(block == b, 0.0, weight)) for b in range(blocks)]
    without = np.stack([ratio.mean(1) for ratio, _ in parts]), np.stack([value for _, value in parts])
    error, bulk_error = (((blocks - 1) * value.var(axis=0)) ** 0.5 for value in without)
    sorted_weight = (weight / weight.sum())[order]
    cumulative = np.cumsum(sorted_weight, axis=0)

    def rows_beyond(level: float) -> float:
        """In units of the weight of the row at the quantile."""
        at = np.sum(cumulative < 1 - level, axis=0).clip(max=len(y) - 1)
        return float((1 - level) / np.take_along_axis(sorted_weight, at[None], axis=0).mean())

    return {
        "bulk": {"mean": float(bulk), "standard_error": float(bulk_error)},
        "ratios": [
            {"mean": float(ratio.mean()), "standard_error": float(own), "spread": float(ratio.std())}
            if rows_beyond(level) > _LEAST_ROWS
            else None
            for level, ratio, own in zip(LEVELS, ratios, error, strict=True)
        ],
    }
