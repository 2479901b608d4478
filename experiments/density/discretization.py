"""How the discretized formula errs: every rule, on every table, against the number of steps.

Two laws on the line, N(0, 1) and a mixture of two Gaussians, with exact scores, so that all of the error is
the rule's (`jaxdiff.densities.discretized`). For each, E_p[rule(x)] - E_p[log p(x)], and for the mixture the
root mean square of rule(x) - log p(x) over data as well. Nothing is sampled: E|r|^2 is a closed form for N(0,
1) and Gauss-Hermite quadrature for the mixture. It is a function of the log-SNR alone, analytic, and so is
taken from its Chebyshev series on the range of all tables; a rule on a million levels is the weighted sums

    M_j = sum_k w_k T_j(lambda_k)                                                                (1)

and nothing else. The rule "ddpm" is there for the posterior variance (data variance 0) and for DDPM's larger
one (data variance 1, for which N(0, 1) is exact, as it is for the trapezoid, whose constant is its own rule
on N(0, 1)).

Expect, DERIVED in `jaxdiff.densities.discretized`: "left" and "ddpm" to tend to -gamma / 2 = -0.2886 on the
linear and the cosine table, however many the steps, and to err by about -c0 c1 log(T)^2 / (4 T) on the (c0,
c1) table.

MEASURED, c0 = 2 and c1 = 5 (one core of a shared AMD EPYC, jax 0.12.0.1, 2026-11-22; 28 s of CPU), in nats:

                          left, N(0, 1)                     mixture, T = 1000: mean (root mean square)
    T         1e3      1e4      1e5      1e6        left       ddpm    larger variance     trapezoid
    linear   -.4649   -.3166   -.2925   -.2891     -.4621     -.4546   -.0031 (.0059)    .00007 (.00015)
    cosine   -.4066   -.3076   -.2912   -.2889     -.4052     -.4016   -.0016 (.0031)    .00002 (.00005)
    (c0, c1) -.1130   -.0204   -.00321  -.00047    -.1059     -.1072   -.0070 (.0123)    .00001 (.00001)
    its law  -.1193   -.0212   -.00331  -.00048

The law is met within 4 % from T = 1e4. The mean of "ddpm" over N(0, 1) is that of "left", to 2e-9.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from jaxdiff.denoising.denoiser import Distribution
from jaxdiff.densities import discretized
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.process import log_snr, perturb
from jaxdiff.noising.schedules import Karras, from_betas
from jaxdiff.noising.tables import cosine_betas, linear_betas, logarithmic_betas
from jaxdiff.typing import Array, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLES = ("linear", "cosine", "(c0, c1)")
RULES = {
    "left": discretized.left,
    "ddpm": discretized.ddpm,
    "ddpm, larger variance": functools.partial(discretized.ddpm, data_variance=1.0),
    "trapezoid": discretized.trapezoid,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    num_steps: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    c0: float = 2.0
    c1: float = 5.0
    degree: int = 320  # of the Chebyshev series; what it leaves out is in the figures
    data_nodes: int = 200
    noise_nodes: int = 64


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(num_steps=(1_000, 10_000), degree=160, data_nodes=100, noise_nodes=32)


def mixture() -> GaussianMixture:
    """The mixture on the line."""
    return GaussianMixture(jnp.array([0.4, 0.6]), jnp.array([[-1.0], [1.2]]), jnp.array([0.09, 0.16]))


def line_of_data(nodes: int) -> tuple[Array, Array, Array]:
    """Points x of the mixture's data, (n, 1), log p there, and weights for means over data, each (n,)."""
    x = jnp.linspace(-3.2, 3.6, nodes)[:, None]
    log_prob = mixture().log_prob(x)
    weights = jnp.exp(log_prob)
    return x, log_prob, weights / weights.sum()  # the trapezoidal rule, exact for all that matters here


def squared_errors(law: Distribution, schedule: Schedule, times: Array, x: Array, nodes: int) -> Array:
    """E|r|^2 of the law's denoiser for data x, shape (n, 1), at times, (T,), by quadrature; shape (n, T)."""
    noise, weights = np.polynomial.hermite_e.hermegauss(nodes)
    rows, noise = jnp.repeat(x, nodes, axis=0), jnp.tile(jnp.asarray(noise)[:, None], (len(x), 1))
    denoise = law.denoiser(schedule)

    def at(t: Array) -> Array:
        r = noise - denoise(perturb(schedule, rows, noise, t), t).noise
        return (r**2).reshape(len(x), nodes) @ (weights / weights.sum())

    return jax.lax.map(at, times).T


def run(config: Config) -> dict[str, Any]:
    """The errors of every rule, on every table, for both laws."""
    with jax.enable_x64(True):
        levels = {}
        for num_steps in config.num_steps:
            own = _levels(num_steps, config.c0, config.c1)
            levels |= {(name, num_steps): own[name] for name in TABLES}
        low = min(float(own[-1]) for own in levels.values())
        high = max(float(own[0]) for own in levels.values())
        nodes = chebyshev.chebpts1(config.degree + 1)
        times = jnp.exp(-0.25 * ((high + low) + (high - low) * nodes))
        (x, log_prob, weights), errors = _curve(times, config.data_nodes, config.noise_nodes)
        series = jnp.asarray(chebyshev.chebfit(nodes, np.asarray(errors).T, config.degree).T)
        rows = []
        for (name, num_steps), own in levels.items():
            sums = _sums(own, (2 * own - high - low) / (high - low), x, series)
            for rule in RULES:
                gaussian, values = (np.asarray(value) for value in sums[rule])
                error = values - np.asarray(log_prob)
                rows.append(
                    {
                        "table": name,
                        "num_steps": num_steps,
                        "rule": rule,
                        "gaussian": float(gaussian + 0.5 * np.log(2 * np.pi * np.e)),
                        "mixture": float(np.asarray(weights) @ error),
                        "mixture_rms": float(np.sqrt(np.asarray(weights) @ error**2)),
                    }
                )
    return {
        "config": dataclasses.asdict(config),
        "rows": rows,
        "laws": [{"table": name, "num_steps": n, "error": _law(config, name, n)} for name, n in levels],
        "series_remainder": float(np.abs(series[:, -8:]).max()),
    }


def table(figures: dict[str, Any]) -> str:
    """A line for each table and number of steps, a column for each rule and law."""
    lines = ["error in nats: of N(0, 1), of the mixture, and root mean square over the mixture's data"]
    lines.append(f"{'table':9}{'T':>8}{'law':>9}" + "".join(f"{name:>29}" for name in RULES))
    for law in figures["laws"]:
        own = [r for r in figures["rows"] if all(r[key] == law[key] for key in ("table", "num_steps"))]
        cells = (f"{r['gaussian']:11.5f}{r['mixture']:10.5f}{r['mixture_rms']:8.5f}" for r in own)
        lines.append(f"{law['table']:9}{law['num_steps']:8}{law['error']:9.5f}" + "".join(cells))
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """The size of the mixture's mean error against the number of steps, a line for each table and rule."""
    names = list(dict.fromkeys(row["table"] for row in figures["rows"]))
    for i, name in enumerate(names):
        for rule, style in zip(RULES, ("-", "--", "-.", ":"), strict=True):
            own = [row for row in figures["rows"] if (row["table"], row["rule"]) == (name, rule)]
            steps, errors = [row["num_steps"] for row in own], [abs(row["mixture"]) for row in own]
            axes.plot(steps, errors, style, color=f"C{i}", marker="o", markersize=3, label=f"{name}, {rule}")
    axes.set(xscale="log", yscale="log", xlabel="steps T", ylabel="|error|, nats", title="Discretization")
    axes.legend(fontsize=5, ncols=2, loc="lower left")


@functools.partial(jax.jit, static_argnums=0)
def _levels(num_steps: int, c0: float, c1: float) -> dict[str, Array]:
    betas = (
        linear_betas(num_steps),
        cosine_betas(num_steps),
        logarithmic_betas(num_steps, c0, c1),
    )
    level = jax.vmap(log_snr, in_axes=(None, 0))
    return {
        name: level(from_betas(b), jnp.arange(1.0, num_steps + 1))
        for name, b in zip(TABLES, betas, strict=True)
    }


@functools.partial(jax.jit, static_argnums=(1, 2))
def _curve(times: Array, data_nodes: int, noise_nodes: int) -> tuple[tuple[Array, Array, Array], Array]:
    """Points of the mixture's data and E|r|^2 there; under any schedule, and this one has every level."""
    points = line_of_data(data_nodes)
    return points, squared_errors(mixture(), Karras(), times, points[0], noise_nodes)


@jax.jit
def _sums(levels: Array, scaled: Array, x: Array, series: Array) -> dict[str, tuple[Array, Array]]:
    """Each rule's mean over N(0, 1), where E|r|^2 is sigmoid(lambda), and its values at the mixture's x."""
    rules = {name: rule(levels) for name, rule in RULES.items()}
    weights = jnp.stack([rule.weights for rule in rules.values()])

    def moment(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        before, now = carry  # T_{j-1} and T_j
        return (now, 2 * scaled * now - before), weights @ now

    _, moments = jax.lax.scan(moment, (scaled, jnp.ones_like(scaled)), length=series.shape[1])
    known = jnp.ones((1, 1)), jax.nn.sigmoid(levels)[None]
    # By (1) the series' coefficients take the place of the levels' E|r|^2, and M that of the weights.
    return {
        name: (rule.log_density(*known)[0], rule._replace(weights=moments[:, i]).log_density(x, series))
        for i, (name, rule) in enumerate(rules.items())
    }


def _law(config: Config, name: str, num_steps: int) -> float:
    """The derived error of the left rule."""
    if name == "(c0, c1)":
        return -config.c0 * config.c1 * np.log(num_steps) ** 2 / (4 * num_steps)
    return -0.5 * np.euler_gamma
