"""How often intervals of log-densities hold the truth, on laws that nothing in the estimators was chosen on.

`density_formula` with the isotropic reference at 256 and 1,024 evaluations,
for points of a law and for the same plus N(0, I). Laws, in 2 to 200 dimensions: "clusters", three Gaussians
of variances log-uniform in [.01, 1] along their axes, their means 3 apart from 0; "one", a single Gaussian of
variances log-uniform in [.001, 1]. Value +- 1.96 standard errors should hold the truth in 95 % of cases. Rows
are independent given the law, and so are keys; the standard error beside a share is the binomial one.

MEASURED (one busy core of a shared AMD EPYC, jax 0.10.2, 2026-11-28; seed 4099, which was run once, after all
was chosen): of 240 cases each, with a binomial standard error of .014, at 256
and 1,024 evaluations

    law        points   d = 2           d = 10          d = 50          d = 200
    clusters   of       .946  .963      .963  .975      .971  .979      .954  .954
    clusters   off      .958  .963      .950  .963      .942  .983      .912  .950
    one        of       .975  .942      .975  .950      .971  .946      .958  .950
    one        off      .963  .942      .900  .950      .887  .938      .892  .925

in all .956, .953, .952 and .937 of 1,920 cases, +- .005. In d = 784 (20 rows and 3 keys, 60 cases each, so
that a row counts for three, 2026-11-29) .98 .98 and .87 .98 of the clusters, of and off the law, and .93 .95
and .87 .87 of the one Gaussian: .93 in all, but .90 off the law, where errors are tens of nats. So they are
honest but for points off the law at 256 evaluations from d = 10 on, which hold in .89 to .94.
"""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import LinearVariance

SCHEDULE = LinearVariance()


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes; the laws are drawn from a seed that chose nothing."""

    dimensions: tuple[int, ...] = (2, 10, 50, 200)
    evaluations: tuple[int, ...] = (256, 1024)
    rows: int = 40
    keys: int = 6
    seed: int = 4099


def smoke() -> Config:
    """Two dimensions, few rows."""
    return Config(dimensions=(2,), evaluations=(64,), rows=4, keys=2)


def run(config: Config) -> dict[str, Any]:
    """A row of figures for each law, dimension, place of the points and number of evaluations."""
    figures = []
    for d in config.dimensions:
        for name, law in _laws(config.seed, d).items():
            x = law.sample(jax.random.key(config.seed), config.rows)
            away = x + jax.random.normal(jax.random.key(config.seed + 1), x.shape)
            for points, rows in (("of", x), ("off", away)):
                truth = np.asarray(law.log_prob(rows), np.float64)
                for number in config.evaluations:
                    figures.append(
                        {"law": name, "d": d, "points": points, "evaluations": number}
                        | _share(config, law, rows, truth, number)
                    )
                    print(figures[-1], file=sys.stderr, flush=True)
    return {"config": dataclasses.asdict(config), "rows": figures}


def table(figures: dict[str, Any]) -> str:
    """A line for each, and the shares of all cases."""
    lines = [f"{'law':10s}{'points':>7s}{'d':>5s}{'evaluations':>13s}{'rmse':>9s}{'covered':>18s}"]
    for row in figures["rows"]:
        lines.append(
            f"{row['law']:10s}{row['points']:>7s}{row['d']:5d}{row['evaluations']:13d}{row['rmse']:9.3f}"
            f"{row['covered']:10.3f} +- {_binomial(row['covered'], row['cases']):.3f}"
        )
    cases = sum(row["cases"] for row in figures["rows"])
    share = sum(row["covered"] * row["cases"] for row in figures["rows"]) / cases
    return "\n".join([*lines, f"all {cases} cases: {share:.4f} +- {_binomial(share, cases):.4f}"])


def _binomial(share: float, cases: int) -> float:
    return (share * (1 - share) / cases) ** 0.5


def _laws(seed: int, d: int) -> dict[str, GaussianMixture]:
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((3, d))
    means *= 3 / np.linalg.norm(means, axis=1, keepdims=True)
    clusters = jnp.asarray([0.6, 0.3, 0.1]), jnp.asarray(means), jnp.asarray(10 ** rng.uniform(-2, 0, (3, d)))
    one = jnp.ones(1), jnp.zeros((1, d)), jnp.asarray(10 ** rng.uniform(-3, 0, (1, d)))
    return {"clusters": GaussianMixture(*clusters), "one": GaussianMixture(*one)}


def _share(
    config: Config, law: GaussianMixture, x: jax.Array, truth: np.ndarray, number: int
) -> dict[str, Any]:
    denoise = law.denoiser(SCHEDULE)

    @jax.jit
    def estimates(keys: jax.Array) -> Any:
        return jax.lax.map(lambda key: density_formula(key, denoise, x, Evaluations(number)), keys)

    keys = jax.random.split(jax.random.key(config.seed + number), config.keys)
    value, error = (np.asarray(part, np.float64) for part in estimates(keys))
    off = value - truth
    covered = float((np.abs(off) < 1.96 * error).mean())
    return {"cases": off.size, "covered": covered, "rmse": float(np.sqrt((off**2).mean()))}


if __name__ == "__main__":
    print(table(run(Config())))
