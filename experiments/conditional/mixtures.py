"""Mixture priors seen through a random matrix: every method against draws of the exact posterior.

Prior: eight Gaussians of random means and spectra in R^d, with the exact denoiser, so that draws err by the
method and its steps alone. y = A data + std noise, A of random normal entries over d^(1/2), of few rows. The
posterior is a mixture in closed form.

Judged by the sliced W_2 of 1,000 draws to as many exact ones, a mean over observations, in the data's unit,
beside the floor of exact draws against exact draws; and by calibration, of 200 draws: how much of the
posterior their middle half and 90 % hold, and how far ranks of the truth that made y are from uniform, over
coordinates. All with the same compute for a draw (`methods`); settings are chosen on other observations.

Expect MMPS and split Gibbs to come nearest, particles where the observation says little, and no method to be
as wide as the posterior where it has several modes, but for those that are exact in the limit.

MEASURED (one or two busy cores of an AMD EPYC, jax 0.10.2, 2026-11-29; parts of this run by methods), sliced
W_2, six observations, and the share within 90 % at 100 evaluations; stars at the share of truths held:

    d = 80, 4 seen                     50            100           500           within 90 %
    prior                              1.61 +- .07   1.61 +- .07   1.61 +- .07   .906 +- .006 *
    prior, drawn again by likelihood    .39 +- .06    .39 +- .06    .39 +- .06   .567 +- .026 *
    DPS                                 .41 +- .12    .33 +- .09    .26 +- .06   .881 +- .007 *
    PiGDM                               .99 +- .12   1.01 +- .12   1.03 +- .11   .911 +- .005 *
    TMPD                                .74 +- .18    .72 +- .16    .71 +- .14   .872 +- .007 *
    MMPS, 1                             .82 +- .12    .83 +- .11    .83 +- .11   .891 +- .005 *
    MMPS, 4                             .65 +- .14    .71 +- .13    .78 +- .12   .818 +- .007 *
    DiffPIR                                          1.55 +- .06   1.55 +- .06   .903 +- .008
    DAPS                                              .79 +- .13    .56 +- .10   .880 +- .006
    split Gibbs                        1.57 +- .06   1.57 +- .06   1.54 +- .06   .910 +- .007 *
    twisted particles                                 .167 +- .016  .119 +- .034 .801 +- .005
    exact draws                         .074 +- .013                             .900 +- .001

    the same, by the default sampler   50            100           500
    DPS                                 .49 +- .14    .46 +- .13    .43 +- .11
    PiGDM                              1.13 +- .10   1.11 +- .10   1.11 +- .10
    TMPD                                .98 +- .14    .87 +- .14    .86 +- .14
    MMPS, 1                            1.08 +- .11    .95 +- .10    .92 +- .10
    MMPS, 4                            1.48 +- .12   1.07 +- .12    .88 +- .11

    d = 8, 2 seen                      50            100           500           within 90 %
    prior                              1.70 +- .14   1.70 +- .14   1.70 +- .14   .877 +- .018 *
    prior, drawn again by likelihood    .25 +- .06    .25 +- .05    .26 +- .06   .765 +- .029 *
    DPS, by the default sampler         .59 +- .10    .56 +- .08    .52 +- .07   .867 +- .022 *
    PiGDM, the same                     .65 +- .09    .61 +- .09    .61 +- .09   .929 +- .014 *
    TMPD, the same                      .67 +- .07    .49 +- .07    .49 +- .07   .923 +- .016 *
    MMPS, 4, the same                   .85 +- .11    .79 +- .07    .59 +- .08   .988 +- .007 *
    DiffPIR                             .90 +- .10    .87 +- .10    .91 +- .10   .894 +- .016 *
    DAPS                                .60 +- .07    .47 +- .08    .34 +- .08   .858 +- .025 *
    DAPS, Langevin                      .85 +- .10    .74 +- .09    .56 +- .06   .927 +- .014 *
    DAPS, ensemble                      .61 +- .11    .58 +- .10    .54 +- .10   .873 +- .022 *
    split Gibbs                        1.04 +- .11    .92 +- .10    .57 +- .08   .925 +- .016 *
    twisted particles                                 .200 +- .025  .118 +- .027 .821 +- .005
    exact draws                         .091 +- .013                             .901 +- .002

At 500 evaluations twisted particles hold .876 +- .003 in d = 8 and .875 +- .002 in d = 80: that is what it
takes to be within .87 and .93. What made them narrow was not their number. In d = 8, 40 observations, as a
twist that does not widen with the noise (the reward of the mean) and as this one:

    200 particles, 25 steps            .772 +- .013   .813 +- .004
    1,000 particles, 25 steps          .792 +- .013   .827 +- .002
    1,000 particles, 100 steps         .849 +- .006   .882 +- .001
    5,000 particles, 100 steps         .860 +- .006   .881 +- .001
    32 groups of 32, 100 steps         .814 +- .010   .878 +- .002

so it was the chain's steps, each of which leaves out what the data vary given x_t, and the twist (a script
of the day; `--parts d8` has the first and the last of them by the wider twist).

In d = 800, four numbers seen, 100 evaluations, 300 draws, four observations, and the share within 90 %:

    prior                              1.97 +- .25   .920     DiffPIR             1.89 +- .25   .900
    prior, drawn again by likelihood   3.96 +- .45   .039     DAPS                1.77 +- .30   .818
    DPS                                1.44 +- .42   .909     DAPS, Langevin      1.96 +- .27   .813
    PiGDM                              1.64 +- .23   .862     DAPS, ensemble      1.90 +- .35   .811
    TMPD                               1.64 +- .22   .824     split Gibbs         1.98 +- .27   .819
    MMPS, 1                            1.56 +- .32   .837     twisted particles   3.53 +- .45   .444
    MMPS, 4                            1.62 +- .23   .770     exact draws          .41 +- .02   .899

There no method does much with 100 evaluations, and what draws again from few particles is worse than the
prior.

So particles with a twist that widens come nearest by far; of those that guide DPS with its step chosen at
d = 80, and DAPS with the exact correction at d = 8 and much compute. In d = 8 a thousand draws of the prior,
drawn again, are as good as any, which is no method where an observation says much. Noise between steps pays
for every guidance, most where steps are few. The prior's own intervals are as honest as the exact ones', and
know nothing: calibration alone does not tell a posterior.
"""

import dataclasses
import functools
import sys
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments import estimates
from experiments.conditional import judges
from experiments.conditional.methods import LINEAR, METHODS, Problem
from experiments.estimates import show
from jaxdiff import inverse
from jaxdiff.laws.factors import FactorMixture
from jaxdiff.laws.metrics import sliced_wasserstein
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = Karras()
FLOOR = "exact draws"
DENSE = 100
"""The largest dimension of full covariances."""
JUDGES = ("half", "most", "ranks")
"""Of calibration: shares of truths within 50 % and 90 %, and how far their ranks are from uniform."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    d: int = 8  # of data
    observed: int = 2  # of an observation
    std: float = 0.3
    computes: tuple[int, ...] = (50, 100, 500)
    draws: int = 1_000
    observations: int = 6
    chosen_on: int = 3  # other observations, for settings
    coverage_computes: tuple[int, ...] = (100, 500)
    coverage_observations: int = 60
    coverage_draws: int = 200
    exact_draws: int = 2_000  # to measure intervals by
    methods: tuple[str, ...] = LINEAR


LARGE = Config(
    d=800, observed=4, computes=(100,), draws=300, observations=4, chosen_on=2, coverage_computes=(100,),
    coverage_observations=8, exact_draws=1_000,
)  # fmt: skip
"""Few of everything, for time."""


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        computes=(88,), draws=200, observations=2, chosen_on=1, coverage_computes=(88,),
        coverage_observations=3, coverage_draws=200, methods=("prior", "MMPS, 4", "split Gibbs"),
    )  # fmt: skip


class Posed(Protocol):
    """A problem whose posterior is known: what judges need."""

    def observation(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Data and what is seen of them."""
        ...

    def posterior(self, rng: np.random.Generator, y: np.ndarray, n: int) -> np.ndarray:
        """Draws of it, (n, d)."""
        ...

    def problem(self, y: np.ndarray) -> Problem:
        """What a method is given."""
        ...


class Exact:
    """The prior, and in float64 NumPy what y leaves of it."""

    def __init__(self, d: int, observed: int, std: float) -> None:
        rng = np.random.default_rng(d)
        self.weights = rng.dirichlet(np.full(8, 4.0))
        self.means = 1.5 * rng.standard_normal((8, d))
        self.std, self.rest = std, 0.0
        self.law: FactorMixture | GaussianMixture
        if d <= DENSE:
            spectra = np.exp(rng.uniform(np.log(0.05), np.log(1.0), (8, d)))
            turns = np.stack([np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(8)])
            self.roots = turns * np.sqrt(spectra)[:, None]
            covariances = self.roots @ self.roots.transpose(0, 2, 1)
            self.law = GaussianMixture(
                jnp.asarray(self.weights), jnp.asarray(self.means), jnp.asarray(covariances)
            )
        else:  # eight directions of variance, and a little in all
            self.rest = 0.05
            self.roots = rng.standard_normal((8, d, 8))
            self.law = FactorMixture(
                jnp.asarray(self.weights), jnp.asarray(self.means), jnp.asarray(self.roots),
                jnp.full((8, d), self.rest),
            )  # fmt: skip
        self.matrix = rng.standard_normal((observed, d)) / d**0.5
        matrix = jnp.asarray(self.matrix, jnp.float32)
        self.operator = inverse.linear(jax.tree_util.Partial(_product, matrix), (d,))

    def observation(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Data and what is seen of them."""
        data = self._component(rng, rng.choice(8, p=self.weights), 1)
        return data[0], self._seen(rng, data)[0]

    def posterior(self, rng: np.random.Generator, y: np.ndarray, n: int) -> np.ndarray:
        """Draws of it, (n, d): of each component as many as its weight given y says, moved by their gain."""
        a, gains, logs = self.matrix, [], []
        for weight, mean, root in zip(self.weights, self.means, self.roots, strict=True):
            cross = root @ (a @ root).T + self.rest * a.T
            spread = a @ cross + self.std**2 * np.eye(len(a))
            off = y - a @ mean
            gains.append(np.linalg.solve(spread, cross.T))
            logs.append(
                np.log(weight) - 0.5 * (off @ np.linalg.solve(spread, off) + np.linalg.slogdet(spread)[1])
            )
        weights = np.exp(np.array(logs) - max(logs))
        counts, draws = rng.multinomial(n, weights / weights.sum()), []
        for k, (count, gain) in enumerate(zip(counts, gains, strict=True)):
            data = self._component(rng, k, count)
            draws.append(data + (y - self._seen(rng, data)) @ gain)
        return np.concatenate(draws)

    def problem(self, y: np.ndarray) -> Problem:
        """What a method is given."""
        observed = jnp.asarray(y, jnp.float32)
        return Problem(self.law.denoiser(SCHEDULE), self.operator, observed, jnp.asarray(self.std))

    def _component(self, rng: np.random.Generator, k: int, n: int) -> np.ndarray:
        root = self.roots[k]
        data = self.means[k] + rng.standard_normal((n, root.shape[1])) @ root.T
        return data + self.rest**0.5 * rng.standard_normal(data.shape)

    def _seen(self, rng: np.random.Generator, data: np.ndarray) -> np.ndarray:
        seen = data @ self.matrix.T
        return seen + self.std * rng.standard_normal(seen.shape)


def _product(matrix: Array, x: Array) -> Array:
    return matrix.astype(x.dtype) @ x


@functools.partial(jax.jit, static_argnames=("method", "n", "compute"))
def _draw(key: Key, problem: Problem, setting: Array, *, method: str, n: int, compute: int) -> Array:
    return METHODS[method][0](key, problem, n, compute, setting)


def run(config: Config) -> dict[str, Any]:
    """Distances at every compute, and calibration at some."""
    rows, coverage = judged(config, Exact(config.d, config.observed, config.std))
    return {"config": dataclasses.asdict(config), "rows": rows, "coverage": coverage}


def judged(config: Config, exact: Posed) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of distances, and of calibration."""
    rows, coverage = [], []
    for method in (*config.methods, FLOOR):
        for compute in config.computes if method != FLOOR else (0,):
            setting = chosen(config, exact, method, compute)
            found = distances(config, exact, method, compute, setting, config.observations, seed=1)
            row = {"compute": compute, "method": method}
            rows.append(row | {"setting": setting, "distance": estimates.mean(found)})
            print(rows[-1], file=sys.stderr, flush=True)
            if compute in (*config.coverage_computes, 0):
                coverage.append(row | calibration(config, exact, method, compute, setting))
                print(coverage[-1], file=sys.stderr, flush=True)
    return rows, coverage


def chosen(config: Config, exact: Posed, method: str, compute: int) -> float:
    """The setting of the least distance on observations of its own."""
    settings = METHODS[method][1] if method != FLOOR else (0.0,)
    if len(settings) == 1:
        return settings[0]
    found = [
        np.mean(distances(config, exact, method, compute, setting, config.chosen_on, seed=2))
        for setting in settings
    ]
    return settings[int(np.nanargmin(found))]


def distances(
    config: Config, exact: Posed, method: str, compute: int, setting: float, number: int, *, seed: int
) -> list[float]:
    """Sliced W_2 of draws to exact ones, for each observation."""
    rng, found = np.random.default_rng([seed, config.draws]), []
    for i in range(number):
        _, y = exact.observation(rng)
        wanted = exact.posterior(rng, y, config.draws)
        if method == FLOOR:
            got = jnp.asarray(exact.posterior(np.random.default_rng([3, i]), y, config.draws), jnp.float32)
        else:
            got = draws(
                config, exact, method, compute, setting, y, jax.random.fold_in(jax.random.key(seed), i)
            )
        distance = sliced_wasserstein(
            jax.random.key(0), got, jnp.asarray(wanted, jnp.float32), num_projections=100
        )
        found.append(float(distance))
    return found


def draws(
    config: Config, exact: Posed, method: str, compute: int, setting: float, y: np.ndarray, key: Key
) -> Array:
    """As many as the config says, by a method."""
    problem, own = exact.problem(y), jnp.asarray(setting)
    return _draw(key, problem, own, method=method, n=config.draws, compute=compute)


def calibration(
    config: Config, exact: Posed, method: str, compute: int, setting: float
) -> dict[str, dict[str, float] | None]:
    """What intervals of 50 % and 90 % hold, and how far ranks of the truth are off.

    An interval holds the truth that made y with the posterior's own probability of it: that is counted, a
    mean over coordinates and observations, for it varies far less than whether the truth is in. The last is
    the largest distance of the distribution of ranks, of the truth among the draws, from the uniform one,
    over coordinates of one observation, a mean over observations.
    """
    rng, n = np.random.default_rng(4), config.coverage_draws
    ranks, held = [], {0.5: [], 0.9: []}
    for i in range(config.coverage_observations):
        data, y = exact.observation(rng)
        wanted = exact.posterior(np.random.default_rng([6, i]), y, config.exact_draws)
        if method == FLOOR:
            got = exact.posterior(np.random.default_rng([5, i]), y, n)
        else:
            got = _draw(
                jax.random.key(i), exact.problem(y), jnp.asarray(setting), method=method, n=n, compute=compute
            )
        got = np.asarray(got, np.float64)
        ranks.append(_off((got < data).mean(0)))
        for share, own in held.items():
            low, high = judges.interval(got, share)
            own.append(float(((wanted >= low) & (wanted <= high)).mean()))
    return {
        "half": estimates.mean(held[0.5]),
        "most": estimates.mean(held[0.9]),
        "ranks": estimates.mean(ranks),
    }


def _off(ranks: np.ndarray) -> float:
    """Largest distance of their distribution function from the uniform one's."""
    places, own = np.arange(1, len(ranks) + 1) / len(ranks), np.sort(ranks)
    return float(np.maximum(places - own, own - places + 1 / len(ranks)).max())


def table(figures: dict[str, Any]) -> str:
    """Distances, a line for each method and a column for each compute; then calibration, a line for each."""
    config, rows, coverage = (figures[name] for name in ("config", "rows", "coverage"))
    floor = next(row["distance"] for row in rows if row["method"] == FLOOR)
    lines = [f"d = {config['d']}, {config['observed']} seen; sliced W_2, of exact draws {show(floor, 3)}"]
    for method in config["methods"]:
        cells = [row for row in rows if row["method"] == method]
        lines.append(
            f"  {method:34}" + "".join(f"{row['compute']:6d}: {show(row['distance'], 3)}" for row in cells)
        )
    lines.append("held by intervals of 50 % and 90 %, and distance of ranks from uniform")
    lines += [
        f"  {row['method']:34}{row['compute'] or '':6}"
        + "".join(f"{show(row[name], 3):>18}" for name in JUDGES)
        for row in coverage
    ]
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Distances against compute, a line for each method."""
    rows = figures["rows"]
    for method in figures["config"]["methods"]:
        cells = [row for row in rows if row["method"] == method]
        axes.errorbar(
            [row["compute"] for row in cells],
            [row["distance"]["mean"] for row in cells],
            [2 * row["distance"]["standard_error"] for row in cells],
            marker="o",
            markersize=3,
            label=method,
        )
    floor = next(row["distance"]["mean"] for row in rows if row["method"] == FLOOR)
    axes.axhline(floor, color="black", linewidth=0.5, linestyle="--", label=FLOOR)
    axes.set(xscale="log", yscale="log", xlabel="evaluations a draw", ylabel="sliced W_2 to the posterior")
    axes.set_title(f"posteriors of a mixture, d = {figures['config']['d']}")
    axes.legend(fontsize="xx-small")
