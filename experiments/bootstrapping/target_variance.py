"""E1: how far every target is from the true score, and what its formula says.

At pairs of times s < t of the Ornstein-Uhlenbeck schedule, with the exact teacher, over laws drawn at random
(`laws.random_law`): the mean squared error of the target to the score, per dimension and in units of the
score, E|y - N(x_t, t)|^2 / (d sigma_t^2), beside eq. (7) of `jaxdiff.learning.bootstrap`. That is linear in
q_s and q_t, which come from the same samples, so that the difference has a standard error of its own and is
judged by it, also where the variance is a small difference of large numbers. Two targets have no row in (7):

    n draws of x_s       V_n = V_inf + (V_1 - V_inf) / n,  hence  V_8 = (7 V_2 - 3 V_1) / 4              (1)
    target score         -(sigma_t / alpha_t) grad log p_0(x_0), whose variance is
                         (sigma_t / alpha_t)^2 E|grad log p_0|^2 / d - q_t                               (2)

with V_1 from (7) and V_2 measured. (2) is the pure bootstrap from s = 0 (De Bortoli et al. 2024, arXiv
2402.08667); it needs the density of the data, which only an oracle has.

The stable target field (`jaxdiff.learning.targets.stable_target`) is judged in two parts. With independent
candidate sets C, C', one of which contains the data that made x_t and the other a fresh draw of the data
given x_t,

    E|E[y | x_t] - N|^2 = E <y_C - N, y_C' - N>,            variance = E|y - N|^2 - that.                 (3)

The bias is found to be zero, and it is: given x_t and the set, each candidate is the one that made x_t with
probability equal to its weight, so y = E[noise | x_t, C]. This holds as long as that one is a candidate and
the others are fresh; over a finite set of data, it is the empirical law whose score the target has.

A law on R^d is held as one on R^50: its means are padded by zeros, which makes the further coordinates
independent of the first d, and these alone are counted. So one compiled call holds every cell.

MEASURED (two cores of an AMD EPYC, jax 0.12.0.1, 2026-11-22): of 3,200 cells, 20 laws in each of 1, 2, 10 and
50 dimensions, the largest difference is 3.7 standard errors (a bound passed in 99 runs of a hundred: 4.7),
above 2 in 4.8 % and above 3 in 0.09 %. The order of the first four targets holds in all 1,200 comparisons.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import estimates
from experiments.bootstrapping.laws import random_law
from experiments.estimates import show
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning.bootstrap import bootstrapped_target, noise_correlation, optimal_gate, target_variance
from jaxdiff.learning.targets import denoising_target, stable_target
from jaxdiff.noising.schedules import OrnsteinUhlenbeck
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = OrnsteinUhlenbeck()

BOOTSTRAPPED = ("optimal gate", "mix 1", "mix 0.5", "denoising", "pure bootstrap", "step alone", "8 draws")
"""The first four in the order of their variances."""
CLEAN, STABLE = "target score", "stable field"
TARGETS = (*BOOTSTRAPPED, CLEAN, STABLE)


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    pairs: tuple[tuple[float, float], ...] = ((0.05, 0.1), (0.2, 0.3), (0.5, 0.6), (1.0, 1.1), (1.0, 1.5))
    dimensions: tuple[int, ...] = (1, 2, 10, 50)
    num_laws: int = 20
    num_samples: int = 8192  # for each law, pair and dimension
    num_candidates: int = 256  # of the stable target field
    seed: int = 0


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        pairs=((0.2, 0.3), (1.0, 1.5)), dimensions=(2, 10), num_laws=8, num_samples=2048, num_candidates=64
    )


class Compared(NamedTuple):
    """Targets beside their formulas, in units of the noise: arrays whose last axis is the targets'."""

    measured: Array
    """E|y - N|^2 / d."""
    formula: Array
    z: Array
    """Their difference over its standard error."""


class Bootstrapped(NamedTuple):
    """One law at one pair of times: the targets of `jaxdiff.learning.bootstrap`."""

    compared: Compared
    gap: Array
    """By how much the variance of each of the first four targets exceeds that before it, shape (3,)."""
    gap_z: Array


class Peers(NamedTuple):
    """Likewise: those of others."""

    compared: Compared
    """The target score alone."""
    stable_error: Array
    """E|y - N|^2 / d of the stable target field, a scalar."""
    stable_bias: Array
    """Its squared bias by eq. (3), itself unbiased and hence of either sign; a scalar."""


def run(config: Config) -> dict[str, Any]:
    """Measure every cell, in two compiled calls."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_laws)
    laws, dimensions = padded_laws(keys, config.dimensions), jnp.asarray(config.dimensions)
    s, t = jnp.asarray(config.pairs).T
    own_cell = functools.partial(bootstrapped, num_samples=config.num_samples)
    peers_cell = functools.partial(
        peers, num_samples=config.num_samples, num_candidates=config.num_candidates
    )
    cells = [
        jax.jit(functools.partial(sweep, cell))(keys, laws, dimensions, s, t)
        for cell in (own_cell, peers_cell)
    ]
    scale = jax.vmap(SCHEDULE.sigma)(t) ** -2.0
    return _figures(config, *jax.tree.map(lambda x: np.asarray(x, np.float64), (*cells, scale)))


def padded_laws(keys: Key, dimensions: tuple[int, ...]) -> GaussianMixture:
    """Random laws, one for each key and dimension, with these leading axes, all on R^max(dimensions)."""

    def padded(key: Key, d: int) -> GaussianMixture:
        law = random_law(key, d)
        means = jnp.pad(law.means, ((0, 0), (0, max(dimensions) - d)))
        return GaussianMixture(law.weights, means, law.covariances)

    each = [jax.vmap(functools.partial(padded, d=d))(keys) for d in dimensions]
    return jax.tree.map(lambda *laws: jnp.stack(laws, axis=1), *each)


def sweep(
    cell: Callable[..., Any],
    keys: Key,
    laws: GaussianMixture,
    dimensions: Array,
    s: Array,
    t: Array,
    *,
    chunk: int | None = None,
) -> Any:
    """``cell(key, law, dimension, s, t)`` at every law, pair and dimension, which become leading axes.

    keys: (laws,); laws: leading axes (laws, dimensions); s, t: (pairs,). A scan over cells, `chunk` of them
    at a time: one already fills a core's cache.
    """
    shape = (len(keys), len(s), len(dimensions))

    def one(number: Array) -> Any:
        law, pair, size = jnp.unravel_index(number, shape)
        key = jax.random.fold_in(keys[law], number)
        return cell(key, jax.tree.map(lambda x: x[law, size], laws), dimensions[size], s[pair], t[pair])

    cells = jax.lax.map(one, jnp.arange(np.prod(shape)), batch_size=chunk)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), cells)


def bootstrapped(
    key: Key, law: GaussianMixture, dimension: Array, s: Array, t: Array, *, num_samples: int
) -> Bootstrapped:
    """The targets of eqs. (7) and (1), for a law of which the first `dimension` coordinates count.

    s and t are scalars. For one gate the formula is linear in q_s and q_t, so each sample has its own. 1 - q
    is estimated by |n|^2 - |N|^2, of which little is left where 1 - q is small.
    """
    data_key, path_key = jax.random.split(key)
    data = law.sample(data_key, num_samples)
    denoise, inner = law.denoiser(SCHEDULE), _inner(data, dimension)
    target = functools.partial(bootstrapped_target, path_key, denoise, data)

    rho = noise_correlation(SCHEDULE, s, t)
    mixes, gates = jnp.array([1.0, 0.5, 0.0, 1.0, 0.0]), jnp.zeros(5).at[:3].set(rho**2).at[3].set(1.0)
    x, y = jax.vmap(lambda mix, gate: target(s, t, mix=mix, gate=gate), out_axes=(None, 0))(mixes, gates)
    exact = denoise(x, t).noise
    # Denoising has n_t as its target, the pure bootstrap N(x_s, s) / rho, the step alone n_t and n_s.
    _, _, n_t, pure, step = y.noise
    n_s, known = (n_t - (1 - rho**2) * step) / rho, rho * pure
    q_s, q_t = 1 + inner(known, known) - inner(n_s, n_s), 1 + inner(exact, exact) - inner(n_t, n_t)
    best = optimal_gate(rho, q_s.mean())
    two, eight = (target(jnp.full(draws, s), t, mix=1.0)[1].noise for draws in (2, 8))
    all_targets = [target(s, t, mix=1.0, gate=best)[1].noise, *y.noise, eight, two]

    *measured, two = jax.vmap(lambda y: inner(y - exact, y - exact))(jnp.stack(all_targets))
    formula = jax.vmap(lambda mix, gate: target_variance(rho, gate, mix, q_s, q_t))(
        jnp.append(1.0, mixes), jnp.append(best, gates)
    )
    eight = (7 * two - 3 * formula[1]) / 4
    gap = jnp.diff(jnp.stack(measured[:4]), axis=0)
    compared = _compare(jnp.stack(measured), jnp.stack([*formula, eight]))
    return Bootstrapped(compared, gap.mean(1), _z(gap))


def peers(
    key: Key,
    law: GaussianMixture,
    dimension: Array,
    s: Array,
    t: Array,
    *,
    num_samples: int,
    num_candidates: int,
) -> Peers:
    """The targets of eqs. (2) and (3), for a law and times as in `bootstrapped`; s is not used."""
    del s
    data_key, noise_key, stable_key = jax.random.split(key, 3)
    data = law.sample(data_key, num_samples)
    inner = _inner(data, dimension)
    x, _ = denoising_target(noise_key, SCHEDULE, data, t)
    exact = law.denoiser(SCHEDULE)(x, t).noise
    clean = -SCHEDULE.sigma(t) / SCHEDULE.alpha(t) * jax.vmap(jax.grad(law.log_prob))(data)
    measured, formula = inner(clean - exact, clean - exact), inner(clean, clean) - inner(exact, exact)
    stable = _stable(stable_key, law, data, t, inner, num_candidates)
    return Peers(_compare(measured[None], formula[None]), *stable)


def _inner(data: Array, dimension: Array) -> Callable[[Array, Array], Array]:
    """<a, b> / d over the coordinates that count, the last axis."""
    counted = jnp.arange(data.shape[-1]) < dimension
    return lambda a, b: jnp.sum(jnp.where(counted[None], a * b, 0), axis=-1) / dimension


def _compare(measured: Array, formula: Array) -> Compared:
    return Compared(measured.mean(-1), formula.mean(-1), _z(measured - formula))


def _z(difference: Array) -> Array:
    """Mean over its standard error, along the last axis."""
    return difference.mean(-1) / (difference.std(-1, ddof=1) / difference.shape[-1] ** 0.5)


def _stable(
    key: Key,
    law: GaussianMixture,
    data: Array,
    t: Array,
    inner: Callable[[Array, Array], Array],
    num_candidates: int,
) -> tuple[Array, Array]:
    """Mean squared error of the stable target field, and its squared bias by eq. (3).

    The data are cut into groups: a quarter of the candidates, which make an x_t each, then the rest of them,
    and then the second set.
    """
    size = 2 * num_candidates - 1
    groups = data[: len(data) // size * size].reshape(-1, size, data.shape[-1])

    def one(inputs: tuple[Key, Array]) -> tuple[Array, Array]:
        target_key, source_key = jax.random.split(inputs[0])
        batch, pool, second = jnp.split(inputs[1], (num_candidates // 4, num_candidates))
        x, y = stable_target(target_key, SCHEDULE, batch, t, pool=pool)

        def again(source: Array, x: Array) -> Array:
            field = Empirical(jnp.concatenate([source[None], second])).denoiser(SCHEDULE)
            return field(x[None], t).noise[0]

        exact = law.denoiser(SCHEDULE)(x, t).noise
        error, other = y.noise - exact, jax.vmap(again)(_draw_data(source_key, law, x, t), x) - exact
        return inner(error, error).mean(), inner(error, other).mean()

    error, bias = jax.lax.map(one, (jax.random.split(key, len(groups)), groups))
    return error.mean(), bias.mean()


def _draw_data(key: Key, law: GaussianMixture, x: Array, t: Array) -> Array:
    """One draw of the data given each x_t, the rows of x: their law is a mixture again."""
    component_key, noise_key = jax.random.split(key)
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    values = law.covariances.values[:, 0]  # multiples of the identity
    total = alpha**2 * values + sigma**2
    parts = jax.vmap(Gaussian)(alpha * law.means, total)
    log_joint = jnp.log(law.weights)[:, None] + jax.vmap(lambda part: part.log_prob(x))(parts)
    k = jax.random.categorical(component_key, log_joint, axis=0)
    mean = law.means[k] + (alpha * values / total)[k, None] * (x - alpha * law.means[k])
    std = sigma * jnp.sqrt(values / total)[k, None]
    return mean + std * jax.random.normal(noise_key, x.shape)


def _figures(config: Config, own: Bootstrapped, peers: Peers, scale: np.ndarray) -> dict[str, Any]:
    """Means over laws, in units of the score, from the cells, with leading axes (laws, pairs, dimensions)."""
    measured, formula, z = (
        np.concatenate(parts, axis=-1) for parts in zip(own.compared, peers.compared, strict=True)
    )
    z, rows = abs(z), []
    for j, d in enumerate(config.dimensions):
        for i, (s, t) in enumerate(config.pairs):
            at = {"dimension": d, "s": s, "t": t}
            for k, name in enumerate((*BOOTSTRAPPED, CLEAN)):
                row = at | {"target": name, "measured": estimates.mean(measured[:, i, j, k] * scale[i])}
                row |= {"formula": estimates.mean(formula[:, i, j, k] * scale[i])}
                rows.append(row | {"largest_z": float(z[:, i, j, k].max())})
            error, bias = (x[:, i, j] * scale[i] for x in (peers.stable_error, peers.stable_bias))
            row = at | {"target": STABLE, "measured": estimates.mean(error)}
            rows.append(
                row | {"squared_bias": estimates.mean(bias), "variance": estimates.mean(error - bias)}
            )
    return {
        "config": dataclasses.asdict(config),
        "rows": rows,
        "agreement": {
            "cells": z.size,
            "largest_z": float(z.max()),
            "bound": statistics.NormalDist().inv_cdf(1 - 0.005 / z.size),  # passed in one run of a hundred
            "share_above_2": float((z > 2).mean()),
            "share_above_3": float((z > 3).mean()),
        },
        "ordering": [
            {
                "dimension": d,
                "comparisons": own.gap[:, :, j].size,
                "violations": int((own.gap[:, :, j] < 0).sum()),
                "smallest_z": float(own.gap_z[:, :, j].min()),
            }
            for j, d in enumerate(config.dimensions)
        ],
    }


def table(figures: dict[str, Any]) -> str:
    """Measured over formula at each pair and dimension, means over laws."""
    lines = [" d   s -> t           " + "".join(f"{name:>15}" for name in TARGETS) + "   its bias^2"]
    rows = figures["rows"]
    for at in range(0, len(rows), len(TARGETS)):
        block = rows[at : at + len(TARGETS)]
        lines.append(
            f"{block[0]['dimension']:2}  {block[0]['s']:.2f} -> {block[0]['t']:.2f}  measured"
            + "".join(f"{row['measured']['mean']:15.5f}" for row in block)
            + f"   {show(block[-1]['squared_bias'], 5)}"
        )
        formulas = "".join(f"{row['formula']['mean']:15.5f}" for row in block[:-1])
        lines.append(f"{'formula ':>26}{formulas}")
    agreement = figures["agreement"]
    lines.append(
        f"{agreement['cells']} cells: measured - formula at most {agreement['largest_z']:.2f} standard "
        f"errors (bound {agreement['bound']:.2f}), above 2 in {agreement['share_above_2']:.1%}, above 3 in "
        f"{agreement['share_above_3']:.2%}"
    )
    for row in figures["ordering"]:
        lines.append(
            f"d = {row['dimension']}: optimal gate <= mix 1 <= mix 0.5 <= denoising, violated in "
            f"{row['violations']} of {row['comparisons']} comparisons, smallest gap "
            f"{row['smallest_z']:.1f} standard errors"
        )
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Measured (points) and formula (bars) at each pair, for the largest dimension up to 10."""
    config = figures["config"]
    dimension = max(d for d in config["dimensions"] if d <= 10)
    rows = [row for row in figures["rows"] if row["dimension"] == dimension]
    place = np.arange(len(config["pairs"]))
    for k, name in enumerate(TARGETS):
        own = [row for row in rows if row["target"] == name]
        x, color = place + (k - 4) * 0.09, f"C{k}"
        axes.plot(x, [row["measured"]["mean"] for row in own], "o", color=color, markersize=4, label=name)
        if name != STABLE:
            axes.plot(x, [row["formula"]["mean"] for row in own], "_", color=color, markersize=10)
    axes.set_yscale("log")
    axes.set_xticks(place, [f"{s:g} → {t:g}" for s, t in config["pairs"]])
    axes.set(xlabel="s → t", ylabel="E |target − score|² / d", title=f"Target variance, d = {dimension}")
    axes.legend(fontsize="x-small", ncols=3)
