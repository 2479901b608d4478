"""E2: a law of the learned error that is known exactly, and what the bootstrap's gain is made of.

The data are N(0, 1), hence so is every x_t of the Ornstein-Uhlenbeck schedule, and the learner at level t_k
is least squares on the normalized Hermite polynomials phi_0, ..., phi_3 of x_t. They are orthonormal, they
contain the truth D(x, t) = e^-t x, and E[phi_h(x_t) | x_s] = e^-h(t-s) phi_h(x_s). So, up to terms of order
1/m^2, the error of D_k has coefficients that follow, with a_k the mix (0 at the first level),

    delta_k = a_k e^(-h (t_k - t_{k-1})) delta_{k-1} + e_k,    e_k = (1/m) sum_i phi_h(x_k^i) u_k^i      (1)
    u_k     = x_0 - D(x_k, t_k) + a_k (D(x_{k-1}, t_{k-1}) - x_0)                                        (2)

and E|D_k - D|^2 = sum_h E delta_k^2. With v_k = mmse(t_k) = 1 - e^(-2 t_k), v_0 = 0, the covariances of the
noise e_k are, for m data and one path of noise through all levels,

    m Cov(e_j, e_k) = e^(-h |t_j - t_k|) sum_{i <= j, k} w_ji w_ki (v_i - v_{i-1}),                      (3)
    w_kk = 1,    w_ki = 1 - a_k for i < k

as the increments of D along the path are orthogonal, and for n new noisings of the same data at each level

    m Cov(e_j, e_k) = c_j c_k + [j = k] (v_k - (2 a_k - a_k^2) v_{k-1} - c_k^2) / n,                     (4)
    c_k = sqrt(h + 1) e^(-h t_k) (v_k - a_k v_{k-1})

as E[phi_h(x_k) u_k | x_0] = c_k phi_{h+1}(x_0). What follows from them:

- Denoising (a = 0, n = 1) errs by 4 v / m. Bootstrapping along one path (a = 1) errs by sum_h int_0^t v'(u)
  e^(-2h(t-u)) du / m on a fine grid: the noise that enters at small t is smoothed on the way to t, all but
  its mean, and the ratio falls to 1/4. A mix below 1 adds noise.
- With new noise at every level the coherent part of (4) adds up: the ratio falls to 1/2 only at a = 1, and
  to less at a mix of 0.8 to 0.95, which forgets.
- For n -> infinity the coherent part alone is left, m E delta_k^2 = (h + 1) e^(-2 h t_k) v_k^2 whatever the
  mix. What bootstrapping saves here is the noise of few noisings, which many noisings of each datum save too.

MEASURED, 2,400 seeds (one busy core of an AMD EPYC, jax 0.10.2, 2026-11-29, 14 min), at t = 0.5, 1, 1.5 and
3: within 2.6 % of the law, and within 2 standard errors, in every run, 16 noisings of each datum among them.
The ratio to denoising falls along one path to 0.578, 0.388, 0.309, 0.254; of denoising with 16 noisings it is
0.414, 0.331, 0.303, 0.297, and with many, by (4), 0.370, 0.289, 0.263, 0.251.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.estimates import over_first
from jaxdiff.denoising.denoiser import Denoiser, as_denoiser
from jaxdiff.learning.bootstrap import bootstrapped_target, fit_levels
from jaxdiff.noising.process import transition
from jaxdiff.noising.schedules import OrnsteinUhlenbeck
from jaxdiff.typing import Array, Denoised, Key, Time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = OrnsteinUhlenbeck()
NUM_FEATURES = 4

PATH, NEW = "one path", "new noise"


Runs: TypeAlias = tuple[tuple[str, int, tuple[float, ...]], ...]
"""Design and noisings of each datum at each level, with the mixes that are run on the same draws."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    runs: Runs = ((PATH, 1, (0.0, 0.9, 1.0)), (NEW, 1, (0.9, 1.0)), (NEW, 2, (0.0,)), (NEW, 16, (0.0, 1.0)))
    step: float = 0.05  # of the grid of levels, whose first is one step
    num_levels: int = 60
    shown: tuple[float, ...] = (0.5, 1.0, 1.5, 3.0)
    num_samples: int = 5000
    num_seeds: int = 2400  # at high noise the error is nearly one squared normal: 1.4 / sqrt(2400) = 3 %
    chunk: int = 4  # seeds at a time; 16 MB of features
    seed: int = 0


def smoke() -> Config:
    """The same at a size for tests."""
    runs = ((PATH, 1, (0.0, 0.9, 1.0)), (NEW, 2, (0.0, 0.9, 1.0)))
    return Config(runs, step=0.1, num_levels=15, shown=(0.5, 1.5), num_samples=1000, num_seeds=100)


def run(config: Config) -> dict[str, Any]:
    """The error at every level, measured and by eqs. (1) to (4), for each of the runs."""
    levels = config.step * np.arange(1, config.num_levels + 1)
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    rows = []
    for design, noisings, mixes in config.runs:
        one_seed = functools.partial(
            errors,
            levels=levels,
            mixes=mixes,
            num_samples=config.num_samples,
            path=design == PATH,
            noisings=noisings,
        )
        every = jax.jit(lambda keys, f=one_seed: jax.lax.map(f, keys, batch_size=config.chunk))
        for mix, found in zip(mixes, np.asarray(every(keys), np.float64).swapaxes(0, 1), strict=True):
            measured, error = over_first(found)
            row = {"design": design, "noisings": noisings, "mix": mix, "measured": measured.tolist()}
            row |= {"standard_error": error.tolist()}
            rows.append(row | {"theory": (law(levels, mix, design, noisings) / config.num_samples).tolist()})
    many = law(levels, 0.0, NEW, math.inf) / config.num_samples
    return {
        "config": dataclasses.asdict(config),
        "levels": levels.tolist(),
        "rows": rows,
        "many_noisings": many.tolist(),
    }


def errors(
    key: Key, *, levels: np.ndarray, mixes: tuple[float, ...], num_samples: int, path: bool, noisings: int
) -> Array:
    """E|D_k(x_k) - D(x_k, t_k)|^2 over new x_k, shape (mixes, levels), from one data set."""
    data_key, path_key, fit_key = jax.random.split(key, 3)
    x_0 = jax.random.normal(data_key, (num_samples,))
    draw = along_path(path_key, x_0, levels) if path else with_new_noise(jnp.repeat(x_0, noisings))

    def fit(key: Key, coefficients: Array, s: Time, t: Time, mix: Array) -> Array:
        x_t, y = draw(key, coefficients, s, t, mix)
        design = features(x_t)
        return jnp.linalg.solve(design.T @ design, design.T @ y)

    def one(mix: Array) -> Array:
        fitted = fit_levels(fit_key, fit, jnp.zeros(NUM_FEATURES), jnp.asarray(levels), mix=mix)
        truth = jnp.zeros_like(fitted).at[:, 1].set(jnp.exp(-jnp.asarray(levels)))
        return jnp.sum((fitted - truth) ** 2, axis=1)

    return jax.vmap(one)(jnp.asarray(mixes))


Draw = Callable[[Key, Array, Time, Time, Array], tuple[Array, Array]]
"""``draw(key, coefficients at s, s, t, mix)``: x_t and the target for the data, shape (n,) each."""


def along_path(key: Key, x_0: Array, levels: np.ndarray) -> Draw:
    """One path for each datum, which all levels share."""

    def step(x: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        scale, std = transition(SCHEDULE, *inputs[1:])
        x = scale * x + std * jax.random.normal(inputs[0], x.shape)
        return x, x

    grid, keys = jnp.asarray(levels), jax.random.split(key, len(levels))
    _, x = jax.lax.scan(step, x_0, (keys, jnp.append(0.0, grid[:-1]), grid))

    def draw(_: Key, coefficients: Array, s: Time, t: Time, mix: Array) -> tuple[Array, Array]:
        x_s, x_t = x[jnp.searchsorted(grid, s)], x[jnp.searchsorted(grid, t)]
        return x_t, (1 - mix) * x_0 + mix * (features(x_s) @ coefficients)

    return draw


def with_new_noise(x_0: Array) -> Draw:
    """The library's target: x_s and x_t are drawn anew at every level."""

    def draw(key: Key, coefficients: Array, s: Time, t: Time, mix: Array) -> tuple[Array, Array]:
        x_t, y = bootstrapped_target(key, model(coefficients), x_0[:, None], s, t, mix=mix)
        return x_t[:, 0], y.data[:, 0]

    return draw


def model(coefficients: Array) -> Denoiser:
    """What least squares has learnt at one level."""
    return as_denoiser(Partial(_estimate, coefficients), SCHEDULE, shape=(1,))


def _estimate(coefficients: Array, x: Array, t: Time) -> Denoised:
    data = (features(x[:, 0]) @ coefficients)[:, None]
    return Denoised(data, (x - SCHEDULE.alpha(t) * data) / SCHEDULE.sigma(t))


def features(x: Array) -> Array:
    """phi_0, ..., phi_3 at each x, shape (n,) -> (n, 4), orthonormal under N(0, 1)."""
    return jnp.stack([jnp.ones_like(x), x, (x**2 - 1) / 2**0.5, (x**3 - 3 * x) / 6**0.5], axis=1)


def law(levels: np.ndarray, mix: float, design: str, noisings: float) -> np.ndarray:
    """m E|D_k - D|^2 at each level by eqs. (1), (3) and (4)."""
    t, n = levels, len(levels)
    a = np.where(np.arange(n) == 0, 0.0, mix)
    v = -np.expm1(-2 * t)
    before = np.append(0.0, v[:-1])
    w = np.eye(n) + np.tril(np.broadcast_to(1 - a[:, None], (n, n)), -1)
    total = np.zeros(n)
    for h in range(NUM_FEATURES):
        if design == PATH:
            shared = np.einsum("ji,ki,i->jk", w, w, v - before)
            covariance = np.exp(-h * abs(t[:, None] - t)) * shared
        else:
            c = math.sqrt(h + 1) * np.exp(-h * t) * (v - a * before)
            covariance = np.outer(c, c) + np.diag((v - (2 * a - a**2) * before - c**2) / noisings)
        # delta = carry @ e: eq. (1) from the first level on
        carry = np.linalg.inv(np.eye(n) - np.diag(a[1:] * np.exp(-h * np.diff(t)), -1))
        total += np.einsum("kj,ji,ki->k", carry, covariance, carry)
    return total


def table(figures: dict[str, Any]) -> str:
    """At the levels shown: error, its law, and the ratio to denoising with one noising."""
    config, baseline = figures["config"], figures["rows"][0]
    at = [round(t / config["step"]) - 1 for t in config["shown"]]
    lines = ["error x 1e5" + " " * 24 + "".join(f"{f't = {t:g}':^42}" for t in config["shown"])]
    lines.append(f"{'':35}" + f"{'measured':>18}{'law':>9}{'ratio':>7}{'law':>8}" * len(at))
    for row in figures["rows"]:
        line = f"{row['design']}, {row['noisings']} noising{'s' * (row['noisings'] > 1)}, mix {row['mix']:g}"
        line = f"{line:35}"
        for k in at:
            measured, error, law = (1e5 * row[name][k] for name in ("measured", "standard_error", "theory"))
            ratio, expected = (row[name][k] / baseline[name][k] for name in ("measured", "theory"))
            line += f"{measured:9.2f} +- {error:5.2f}{law:9.2f}{ratio:7.3f}{expected:8.3f}"
        lines.append(line)
    line = f"{'new noise, many noisings, any mix':35}"
    for k in at:
        many = figures["many_noisings"][k]
        line += f"{1e5 * many:27.2f}{many / baseline['theory'][k]:15.3f}"
    return "\n".join([*lines, line])


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Ratio of the error to that of denoising: measured (with two standard errors) and the law (lines)."""
    t, baseline = np.asarray(figures["levels"]), figures["rows"][0]
    for k, row in enumerate(figures["rows"][1:]):
        ratio = {name: np.divide(row[name], baseline[name]) for name in ("measured", "theory")}
        spread = 2 * np.divide(row["standard_error"], baseline["measured"])
        label = f"{row['design']}, mix {row['mix']:g}" + (
            f", {row['noisings']} noisings" * (row["noisings"] > 1)
        )
        axes.plot(t, ratio["theory"], color=f"C{k}", linewidth=1, label=label)
        some = slice(len(t) // 15 - 1, None, max(1, len(t) // 15))
        axes.errorbar(t[some], ratio["measured"][some], spread[some], fmt="o", color=f"C{k}", markersize=3)
    many = np.divide(figures["many_noisings"], baseline["theory"])
    axes.plot(t, many, color="gray", linewidth=1, label="new noise, many noisings, any mix")
    axes.axhline(1 / NUM_FEATURES, color="gray", linestyle=":", linewidth=1)
    axes.set(xlabel="t", ylabel="error / that of denoising", ylim=(0, 1.3), title="Four Hermite features")
    axes.legend(fontsize="x-small")
