"""How late to start, and on which grid: one cut short or spaced anew, and the choice of the horizon.

Grids, for 25 Gaussians in the plane (`laws.grid_mixture`) with the exact score. From each horizon, with as
many steps: the end of the long grid (EDM's, of 39 steps from 80, rho 7; the same rule from the horizon on has
the same times), one even in log-SNR, and the grid of least error by a pilot run (`optimal_grid`); for each
E_disc of the chain in nats (`kl_budget`).

Horizons, for random mixtures of Gaussian and of Student t laws in 2 to 50 dimensions and several families:
`choose_horizon` sees 2,000 rows of data and the score. An oracle, who knows the law, finds the total of the
start and the grid that are returned, and the least among starts fitted at all of the horizons.

Expect: the pilot's grid errs least; totals that are U-shaped in the horizon for a plain start and falling
towards short horizons for a learned one; choices within a few per cent of the oracle's.

MEASURED (one quiet core of a two-core AMD EPYC, jax 0.12.0.1, 2026-11-22; 17 min), E_disc in nats:

    from t, steps           23.6, 31   8.03, 25   2.24, 19   .625, 14   .185, 10
    truncated               1.271      .929       .510       .260       .121
    even in log-SNR         1.634      1.190      .632       .311       .146
    pilot's                 1.041      .722       .371       .169       .059

28 of the 30 choices were within 20 % of the least: all 20 of plain and Gaussian starts (19 of them the
oracle's own) and 8 of the 10 of mixtures, whose fits at one horizon differ by their local optima: the other
two were 1.24 and 3.45 times the least, and one .52 of it.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.initialization.laws import grid_mixture
from jaxdiff.denoising.denoiser import Distribution
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.noising.schedules import Karras
from jaxdiff.noising.times import log_snr_grid, power_grid, truncate
from jaxdiff.sampling import starts
from jaxdiff.sampling.budget import initialization_error, kl_budget, optimal_grid, score_curvature
from jaxdiff.sampling.horizon import choose_horizon
from jaxdiff.sampling.starts import Family, fit_start
from jaxdiff.typing import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = Karras()
T_MIN, T_END = 0.002, 80.0
T_LAST = 0.02
"""Of the steps whose horizon is chosen."""

_FAMILIES: dict[str, Family[Any]] = {
    "plain": starts.plain(),
    "gaussian": starts.gaussian(),
    "mixture": starts.gaussian_mixture(3, num_restarts=2, num_iterations=40),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Both halves."""

    long_steps: int = 39
    starts: tuple[int, ...] = (8, 14, 20, 25, 29)  # nodes of the long grid, from 20 down to .4 or so
    num_samples: int = 4_000  # of the budgets
    dimensions: tuple[int, ...] = (2, 2, 4, 4, 8, 8, 16, 16, 50, 50)  # Gaussian and Student t in turn
    num_rows: int = 2_000
    num_steps: int = 20
    horizons: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    families: tuple[str, ...] = ("plain", "gaussian", "mixture")


def smoke() -> Config:
    """One law, three horizons."""
    return Config(
        starts=(20,),
        num_samples=200,
        dimensions=(2,),
        num_rows=400,
        num_steps=8,
        horizons=(0.5, 2.0, 8.0),
        families=("plain", "mixture"),
    )


def run(config: Config) -> dict[str, Any]:
    """Rows of grids and of choices."""
    laws = [_law(number, d) for number, d in enumerate(config.dimensions)]
    return {
        "config": dataclasses.asdict(config),
        "grids": _grids(config),
        "choices": [
            {"law": f"{type(law).__name__}, d = {d}", "family": name, **_choice(config, law, _FAMILIES[name])}
            for law, d in zip(laws, config.dimensions, strict=True)
            for name in config.families
        ],
    }


def table(figures: dict[str, Any]) -> str:
    """Grids, then choices."""
    lines = [f"{'from t':>10}{'steps':>8}{'truncated':>12}{'even':>12}{'pilot':>12}   E_disc, nats"]
    for row in figures["grids"]:
        lines.append(
            f"{row['t_max']:10.4g}{row['steps']:8d}{row['truncated']:12.4f}{row['even']:12.4f}{row['pilot']:12.4f}"
        )
    lines.append(f"\n{'law':28s}{'family':>12}{'chosen':>9}{'best':>9}{'total / best':>14}")
    for row in figures["choices"]:
        lines.append(
            f"{row['law']:28s}{row['family']:>12}{row['chosen']:9.3g}{row['best']:9.3g}{row['ratio']:14.3f}"
        )
    good = sum(row["ratio"] < 1.2 for row in figures["choices"])
    lines.append(f"within 20 % of the least: {good} of {len(figures['choices'])}")
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Totals of the first law over horizons, and the choices."""
    horizons = figures["config"]["horizons"]
    first = figures["choices"][0]["law"]
    for row in figures["choices"]:
        if row["law"] == first:
            axes.loglog(horizons, row["totals"], "o-", markersize=4, label=row["family"])
            axes.axvline(row["chosen"], color=axes.lines[-1].get_color(), linestyle=":")
    axes.set(xlabel="horizon", ylabel="E_init + E_disc, nats", title=f"totals and choices, {first}")
    axes.legend(fontsize=7)


def _grids(config: Config) -> list[dict[str, Any]]:
    law, key = grid_mixture(), jax.random.key(0)
    denoise = law.denoiser(SCHEDULE)
    long = power_grid(config.long_steps, t_max=T_END, t_min=T_MIN, rho=7.0)
    pilot = score_curvature(
        jax.random.key(1),
        denoise,
        law.sample(jax.random.key(2), config.num_samples),
        log_snr_grid(SCHEDULE, 63, t_max=T_END, t_min=T_MIN),
    )

    def error(times: Array) -> Array:
        start = law.perturbed(SCHEDULE, times[0])
        return kl_budget(key, denoise, law, start, times, num_samples=config.num_samples).discretization.value

    rows = []
    for node in config.starts:
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


def _law(number: int, d: int) -> GaussianMixture | StudentTMixture:
    """Three components of random weights, means and covariances; every other law has heavy tails."""
    rng = np.random.default_rng(number)
    weights = jnp.asarray(rng.dirichlet(np.full(3, 3.0)))
    means = jnp.asarray(rng.uniform(0.5, 2) * rng.standard_normal((3, d)))
    roots = rng.standard_normal((3, d, d)) / d**0.5
    covariances = jnp.asarray(
        rng.uniform(0.1, 1, (3, 1, 1)) * (roots @ roots.swapaxes(1, 2)) + 0.05 * np.eye(d)
    )
    if number % 2:
        return StudentTMixture(weights, means, covariances, rng.uniform(3, 8))
    return GaussianMixture(weights, means, covariances)


def _choice(config: Config, law: Distribution, family: Family[Any]) -> dict[str, Any]:
    # Steps end at a noise of .02; what starts cost is measured up to 80, or 80 times the data if sooner.
    denoise = dataclasses.replace(law.denoiser(SCHEDULE), t_min=T_LAST, t_max=T_END)
    data = law.sample(jax.random.key(0), config.num_rows)
    choice = choose_horizon(
        jax.random.key(1),
        family,
        denoise,
        data,
        num_steps=config.num_steps,
        horizons=config.horizons,
    )
    fresh = law.sample(jax.random.key(2), config.num_rows)

    def oracle(start: Distribution, times: Array) -> Array:
        budget = kl_budget(jax.random.key(3), denoise, law, start, times)
        first = initialization_error(jax.random.key(4), denoise, start, fresh, times[0])
        return first.value + budget.discretization.value

    levels = log_snr_grid(SCHEDULE, 63, t_max=T_END, t_min=T_LAST)
    pilot = score_curvature(jax.random.key(5), denoise, fresh, levels)
    totals = []
    for t in config.horizons:
        start = fit_start(jax.random.key(6), family, data, SCHEDULE, t)
        grid = optimal_grid(pilot, config.num_steps, t_max=t, t_min=T_LAST)
        totals.append(float(oracle(start, grid)))
    best = int(np.argmin(totals))
    return {
        "chosen": float(choice.t_max),
        "best": config.horizons[best],
        "ratio": float(oracle(cast(Distribution, choice.start), choice.times)) / totals[best],
        "totals": totals,
        "printed": str(choice),
    }
