"""25 modes: what a learned start saves, in steps of the sampler, and what it costs.

Data in the plane: `laws.grid_mixture`, with the exact denoiser, so that samples err by the start, the steps
and their number alone. A long run begins with noise of 80 and takes the 40 nodes of EDM's grid down to .002;
a short one begins at 1.244, from the 26 nodes there and below of 40 from 3 to .0002 (rho = 2), or from fewer
nodes laid anew (`budget.optimal_grid`). Starts, fitted to num_training rows with noise drawn afresh:

    plain          N(0, sigma_T^2 I)
    isotropic      mean and mean variance matched
    Gaussian       mean and covariance matched
    mixture        25 Gaussians, by expectation-maximization
    flow           a spline coupling flow
    ideal          the law of x at sigma_T itself

The distance is the greatest W_2 along 180 even directions between samples and ten times as many draws of the
law, and the floor is that of as many further draws. KL(p_T || start) is by Monte Carlo. Every seed has its
own rows, fits and noise; means over seeds, with standard errors.

The same in d = 40 and 100: `laws.tiled_mixture`, whose modes are five standard deviations and more apart,
from sigma_T = 7, in 20 nodes (rho = 5) or 10, with the greatest W_2 along any direction that is found
(`max_sliced_wasserstein`). The mixture there is of isotropic components; "early" is the same fitted at a
noise of 1, where the modes are told apart, and the rest of the noise added to the law.

Beside the few calls stand their rivals (`modes`): as many calls of DPM-Solver++ on long grids and from the
Gaussian of two moments, and no calls at all, of a mixture fitted at .02. The mixture has 12 components,
so that the family does not hold the 25.

What a fit costs is given in seconds, in calls of this denoiser for one sample, and in samples whose saved
calls pay for it; for a network, whose call is dearer, they are fewer in proportion.

MEASURED, means and standard errors over 5 seeds in the plane and 3 beyond (one busy core of an AMD EPYC, jax
0.10.2, 2026-11-29; 176 s). In the plane, floor .025 +- .002, the long runs .021 +- .002 by Heun (78 calls),
.109 +- .002 by ancestral sampling:

    26 nodes from 1.244      plain    isotropic   Gaussian   mixture         flow            ideal
    KL(p_T || start), nats   .184     .0189       .0055      .0006 +- .0001  .0009 +- .0003
    Heun, 50 calls           .257     .108        .041       .035 +- .005    .029 +- .007    .028 +- .003
    ancestral, 25 calls      .139     .076        .050       .056 +- .002    .052 +- .004    .052 +- .002

    few calls                            18               12               8
    mixture from .7, Heun                .027 +- .006     .027 +- .006     .028 +- .006
    ideal from .7, Heun                  .029 +- .004     .029 +- .004     .030 +- .004
    Gaussian from 4, DPM-Solver++        .025 +- .002     .025 +- .002     .030 +- .001
    noise of 80, DPM-Solver++, rho = 20  .023 +- .002     .034 +- .001     .062 +- .002
    noise of 80, DPM-Solver++, rho = 7   .032 +- .001     .061 +- .001     .109 +- .000
    noise of 80, Heun, its long grid     .150 +- .001     .381 +- .001     .919 +- .003
    plain from .7, Heun                  .531 +- .002     .532 +- .002     .534 +- .002
    no calls: a mixture fitted at .02    .052 +- .007

So at 8 calls the learned start is near the floor, and so is the best of its rivals, two moments and a good
solver: nothing is gained by learning more, and what the start saves over noise is half of the distance at 8
calls. (The solver's integrated form, which was the default before, left .044 and .122.) Under ancestral
steps 25 calls from any fit have half of the distance of the long run's 39, the Gaussian's as well.

Beyond the plane, distances by Heun and KL(p_T || start):

    start, sigma_T     calls    d = 40          KL      d = 100         KL
    noise, 80          78       5.0 +- .1               11.7 +- .3
    plain, 7           38       28.5 +- .2      17.6    48.9 +- .2      47.8
    isotropic, 7       38       24.2 +- .1      11.1    46.0 +- .3      31.5
    Gaussian, 7        38       7.9 +- .3       .286    13.7 +- .4      .769
    mixture, 7         38       4.8 +- .7       .475    8.5 +- 1.5      2.58
    early, 7           38       5.4 +- .8       .695    8.2 +- 1.6      2.77
    early, 7           18       5.5 +- .7               9.0 +- 1.4
    noise, 80          18       4.8 +- .7               11.1 +- .3
    ideal, 7           38       4.2 +- .5               7.7 +- 1.2
    floor                       3.8 +- .9               5.3 +- .3

In 40 dimensions the long grid with as few calls is as good as the start; in 100, where the plane of the modes
has a standard deviation of 50 and 80 is no long horizon, a quarter of the long run's calls is better, though
twelve components for 25 modes leave 2.6 nats. KL and distance disagree there: the Gaussian has a third of
the mixture's KL and 1.6 times its distance.
"""

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import estimates
from experiments.estimates import show
from experiments.initialization.laws import draw_rows, log_prob
from experiments.initialization.modes import (
    NO_CALLS,
    SAMPLERS,
    SCHEDULE,
    T_LONG,
    Config,
    Task,
    plane,
    tiled,
)
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.starts import fit_start
from jaxdiff.typing import Array, Key, StartLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        seeds=(0, 1),
        num_training=1_000,
        num_samples=2_000,
        components=25,  # as the law has: so few rows leave the rest to luck
        iterations=15,
        flow_steps=0,
        few_steps=(6,),
        test_rows=1_000,
        dimensions=(20,),
        tiled_seeds=(0, 1),
        tiled_samples=300,
        tiled_iterations=15,
    )


def run(config: Config) -> dict[str, Any]:
    """Fits, and distances of every plan, in the plane and in the dimensions of the tiled mixture."""
    studies = [_study(config, plane(config), config.seeds)]
    studies += [_study(config, tiled(config, d), config.tiled_seeds) for d in config.dimensions]
    return {"config": dataclasses.asdict(config), "studies": studies}


def table(figures: dict[str, Any]) -> str:
    """A block for each law: the floor and the fits, then a line for each plan."""
    lines = []
    for study in figures["studies"]:
        lines.append(f"d = {study['dimension']}, floor {show(study['floor'], 4)}")
        lines.append("  start       sigma_T   KL(p_T || start)       seconds to fit")
        for fit in study["fits"]:
            seconds = f"{fit['seconds']:.2f}"
            lines.append(
                f"  {fit['start']:10} {fit['t_max']:8g}   {show(fit['divergence'], 4):20} {seconds:>15}"
            )
        lines.append(
            "  start      sigma_T sampler    grid      nodes calls      distance        over the long run's"
        )
        for row in study["rows"]:
            lines.append(
                f"  {row['start']:10}{row['t_max']:8g} {row['sampler']:10} {row['grid']:10}{row['nodes']:5}"
                f"{row['calls']:6}   {show(row['distance'], 4)}   {show(row['over_long'], 4)}"
            )
        lines.append(
            f"  a call of the denoiser takes {study['microseconds']:.2f} us a row; the fits pay from"
        )
        for saving in study["savings"]:
            lines.append(
                f"    {saving['samples']:.3g} samples on: {saving['start']}, sigma_T = {saving['t_max']:g}, "
                f"{saving['calls']} calls instead of {saving['calls'] + saving['saved']}"
            )
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Distances in the plane against calls of the denoiser, a color for each start."""
    study = figures["studies"][0]
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(row["start"] for row in study["rows"]))}
    markers = dict(zip((*SAMPLERS, NO_CALLS), "so^x", strict=True))
    for row in study["rows"]:
        axes.errorbar(
            max(row["calls"], 1),  # none on a logarithmic axis
            row["distance"]["mean"],
            2 * row["distance"]["standard_error"],
            color=colors[row["start"]],
            marker=markers[row["sampler"]],
            markersize=4,
        )
    for name, color in colors.items():
        axes.plot([], [], color=color, label=name)
    for name, marker in markers.items():
        axes.plot([], [], color="black", marker=marker, linestyle="", label=name)
    axes.axhline(study["floor"]["mean"], color="black", linewidth=0.5, linestyle="--")
    axes.set(
        xscale="log", yscale="log", xlabel="calls of the denoiser", ylabel="max-sliced W_2", title="25 modes"
    )
    axes.legend(fontsize="xx-small", ncols=2)


def _study(config: Config, task: Task, seeds: tuple[int, ...]) -> dict[str, Any]:
    """What every fit costs and every plan gives, over seeds."""
    names = ("data", "fit", "test", "start", "noise", "draw", "floor")
    split = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), len(names)))(jnp.asarray(seeds))
    keys: dict[str, Key] = dict(zip(names, split.T, strict=True))
    starts, fits = _fit(config, task, keys)
    samples, microseconds = _sample(task, starts, keys)
    floor, rows = _judge(task, samples, keys)
    return {
        "dimension": task.law.shape[0],
        "floor": estimates.mean(floor),
        "fits": fits,
        "rows": rows,
        "microseconds": microseconds,
        "savings": _savings(fits, rows, microseconds),
    }


_Starts = dict[tuple[str, float], list[StartLaw]]
"""By name and horizon, one for each seed."""


def _fit(config: Config, task: Task, keys: dict[str, Key]) -> tuple[_Starts, list[dict[str, Any]]]:
    """The starts, and of each that is fitted its divergence and seconds."""
    law, seeds = task.law, len(keys["fit"])
    data = [draw_rows(law, key, config.num_training) for key in keys["data"]]
    starts: _Starts = {("noise", T_LONG): [Gaussian(jnp.zeros(law.shape), T_LONG**2)] * seeds}
    fits = []
    for t_max, families in task.families.items():
        ideal = law.perturbed(SCHEDULE, t_max)
        starts["ideal", t_max] = [ideal] * seeds
        for name, family in families.items():
            laws, seconds, divergences = [], [], []
            for key, test_key, rows in zip(keys["fit"], keys["test"], data, strict=True):
                began = time.process_time()
                laws.append(jax.block_until_ready(fit_start(key, family, rows, SCHEDULE, t_max)))
                seconds.append(time.process_time() - began)
                x = draw_rows(ideal, test_key, config.test_rows)
                divergences.append(float(jnp.mean(log_prob(ideal, x) - log_prob(laws[-1], x))))
            starts[name, t_max] = laws
            fits.append(
                {
                    "start": name,
                    "t_max": t_max,
                    "divergence": estimates.mean(divergences),
                    "seconds": float(np.median(seconds[1:])),  # the first of them compiles
                }
            )
    return starts, fits


def _sample(task: Task, starts: _Starts, keys: dict[str, Key]) -> tuple[list[Array], float]:
    """Samples of every plan, (seeds, n, d), and the microseconds of a call for one row."""
    denoise, samples, microseconds = task.law.denoiser(SCHEDULE), [], []
    for plan in task.plans:
        laws = starts[plan.start, plan.t_max]
        x = jnp.stack(
            [draw_rows(law, key, task.num_samples) for law, key in zip(laws, keys["start"], strict=True)]
        )
        if not plan.calls:
            samples.append(x)
            continue
        began = time.process_time()
        sampler, _ = SAMPLERS[plan.sampler]
        samples.append(jax.block_until_ready(_integrate(denoise, sampler, keys["noise"], x, plan.times)))
        rows = plan.calls * x.shape[0] * x.shape[1]
        microseconds.append(1e6 * (time.process_time() - began) / rows)
    return samples, float(np.median(microseconds))  # most of them compiled nothing


def _judge(
    task: Task, samples: list[Array], keys: dict[str, Key]
) -> tuple[list[float], list[dict[str, Any]]]:
    """The floor for every seed, and a row for every plan."""
    judges = [task.judge(draw_rows(task.law, key, task.num_draws)) for key in keys["draw"]]
    fresh = [draw_rows(task.law, key, task.num_samples) for key in keys["floor"]]
    floor = [judge(x) for judge, x in zip(judges, fresh, strict=True)]
    rows, long = [], {}
    for plan, sets in zip(task.plans, samples, strict=True):
        distances = np.array([judge(x) for judge, x in zip(judges, sets, strict=True)])
        if plan.grid == "long":
            long.setdefault(plan.sampler, distances)  # the first is the long run
        rows.append(
            {
                "start": plan.start,
                "t_max": plan.t_max,
                "sampler": plan.sampler,
                "grid": plan.grid,
                "nodes": len(plan.times),
                "calls": plan.calls,
                "distance": estimates.mean(distances),
                "over_long": estimates.mean(distances / long.get(plan.sampler, long["Heun"])),
                "distances": distances.tolist(),
            }
        )
    return floor, rows


def _savings(
    fits: list[dict[str, Any]], rows: list[dict[str, Any]], microseconds: float
) -> list[dict[str, Any]]:
    """Samples whose saved calls pay for a fit, for each that saves some."""
    savings = []
    for fit in fits:
        for row in rows:
            fitted = fit["start"] in ("mixture", "early", "flow")
            if fitted and (row["start"], row["t_max"], row["sampler"]) == (
                fit["start"],
                fit["t_max"],
                "Heun",
            ):
                saved, calls = rows[0]["calls"] - row["calls"], 1e6 * fit["seconds"] / microseconds
                savings.append(
                    {
                        "start": row["start"],
                        "t_max": row["t_max"],
                        "calls": row["calls"],
                        "saved": saved,
                        "fit_in_calls": calls,
                        "samples": calls / saved,
                    }
                )
    return savings


@jax.jit
def _integrate(denoise: Denoiser, sampler: Sampler, keys: Key, x: Array, grid: Array) -> Array:
    """Samples of every seed, of the shape of x, (seeds, n, d)."""
    return jax.lax.map(lambda pair: integrate(pair[0], denoise, pair[1], grid, sampler=sampler), (keys, x))
