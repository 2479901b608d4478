"""What a learned start costs against the rows that it is learned from and the noise that it is learned under.

KL(p_s || start), in nats, for 25 Gaussians in the plane (`laws.grid_mixture`), and a mixture of `components`
Gaussians or one Gaussian fitted to n rows noised to standard deviation s, under fixed noise (one noised copy)
and dynamic noise (up to eight), by de Bruijn's identity with the exact score on fresh rows
(`initialization_error`). Means over seeds, which draw the rows, the noise and the fit.

Expect: the mixture's loss falls as 1 / n to what so few components leave, and with s; dynamic noise gains
most where most of what is fitted is noise, at a long horizon; the Gaussian's has a floor that more rows do
not lower.

MEASURED (one busy core of a shared AMD EPYC, jax 0.12.0.1, 2026-11-22; 5 min), in nats, errors 1 to 30 %:

    n = 100, 1,000, 10,000    s = .4                 1.24                   7
    Gaussian, dynamic         .156   .153   .151     .0066  .0056  .0051    .00004 .00002 .000003
    Gaussian, fixed           .164   .153   .151     .0235  .0076  .0053    .0159  .0026  .0004
    12 of 25, dynamic         .092   .0087  .0014    .062   .0038  .0006    .065   .0040  .0006
    12 of 25, fixed           1.38   .036   .0036    1.27   .038   .0025    1.13   .049   .0029

At a long horizon one Gaussian is enough, and a mixture's 71 parameters only add d* / 2n = .0036 at 10,000
rows of fixed noise; at a short one the mixture is worth having from 1,000 rows on. Dynamic noise saves four
fifths.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.estimates import over_first
from experiments.initialization.laws import grid_mixture
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling import starts
from jaxdiff.sampling.budget import initialization_error
from jaxdiff.sampling.starts import Family, fit_start
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = Karras()


@dataclasses.dataclass(frozen=True)
class Config:
    """The surface."""

    sizes: tuple[int, ...] = (100, 1_000, 10_000)
    horizons: tuple[float, ...] = (0.4, 0.8, 1.24, 2.0, 7.0)
    components: int = 12  # of 25, so that the family does not hold the truth
    iterations: int = 60
    noises: tuple[str, ...] = starts.NOISES
    num_fresh: int = 2_000
    seeds: int = 3


def smoke() -> Config:
    """A corner, under fixed noise."""
    return Config(
        sizes=(100, 400),
        horizons=(1.24, 7.0),
        components=3,
        iterations=10,
        noises=("fixed",),
        num_fresh=300,
        seeds=4,
    )


def run(config: Config) -> dict[str, Any]:
    """A row for each family, noise, size and horizon."""
    rows = [
        {"family": name, "noise": noise, "n": n, "s": s, **loss}
        for name, noise, family in _families(config)
        for n in config.sizes
        for s, loss in zip(config.horizons, _losses(config, family, n), strict=True)
    ]
    return {"config": dataclasses.asdict(config), "rows": rows}


def table(figures: dict[str, Any]) -> str:
    """A line for each family and size, a column for each horizon."""
    horizons = figures["config"]["horizons"]
    lines = [f"{'nats':28s}{'n':>8}" + "".join(f"{f's = {s:g}':>20}" for s in horizons)]
    for rows in _lines(figures):
        first = rows[0]
        cells = "".join(f"{r['loss']:11.5f} +- {r['standard_error']:.4f}" for r in rows)
        lines.append(f"{first['family'] + ', ' + first['noise']:28s}{first['n']:>8}{cells}")
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Losses against the horizon."""
    sizes = figures["config"]["sizes"]
    for rows in _lines(figures):
        first = rows[0]
        axes.loglog(
            [r["s"] for r in rows],
            [r["loss"] for r in rows],
            "-" if first["noise"] == "dynamic" else ":",
            color=f"C{sizes.index(first['n'])}",
            marker="o" if first["family"] == "mixture" else "x",
            markersize=4,
            label=f"{first['family']}, {first['noise']}, n = {first['n']}",
        )
    axes.set(xlabel="noise s", ylabel="KL(p_s || start), nats", title="what a start costs")
    axes.legend(fontsize=5)


def _lines(figures: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Rows that differ in the horizon only, together."""
    each = len(figures["config"]["horizons"])
    rows = figures["rows"]
    return [rows[i : i + each] for i in range(0, len(rows), each)]


def _families(config: Config) -> list[tuple[str, str, Family[Any]]]:
    return [
        (name, noise, make(noise))
        for name, make in (
            ("gaussian", lambda noise: starts.gaussian(noise=noise)),
            (
                "mixture",
                lambda noise: starts.gaussian_mixture(
                    config.components, noise=noise, num_restarts=2, num_iterations=config.iterations
                ),
            ),
        )
        for noise in config.noises
    ]


def _losses(config: Config, family: Family[Any], n: int) -> list[dict[str, float]]:
    """At each horizon."""
    law = grid_mixture()
    denoise = law.denoiser(SCHEDULE)

    @jax.jit  # once for all horizons and seeds
    def one(key: Key, s: Array) -> Array:
        data_key, fit_key, fresh_key, noise_key = jax.random.split(key, 4)
        start = fit_start(fit_key, family, law.sample(data_key, n), SCHEDULE, s)
        fresh = law.sample(fresh_key, config.num_fresh)
        return initialization_error(noise_key, denoise, start, fresh, s).value

    losses = np.array(
        [[one(jax.random.key(seed), s) for s in config.horizons] for seed in range(config.seeds)]
    )
    return [
        {"loss": float(loss), "standard_error": float(error)}
        for loss, error in zip(*over_first(losses), strict=True)
    ]
