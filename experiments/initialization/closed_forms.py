"""What a start costs where everything is known: divergences, tails and steps by quadrature in float64.

For x noised to standard deviation s, KL(p_s || start), in nats, of

    product    a 5 x 5 grid of Gaussians of standard deviation .2, spacing 1, equal weights
    tiled      25 Gaussians N(., I) in R^d with means 5 (i, j, i, j, ...): a plane of spacing 5 (d / 2)^(1/2)
               and d - 2 directions that are N(0, 1)
    t          Student t of 3 degrees of freedom and unit scale on the line, of variance 3

from N(0, s^2), the moments' Gaussian in one variance or all, and for t the best t law. Then the tails that an
exact probability flow makes of a start with distribution function G: it is monotone on the line, so

    output quantile at q = F_0^-1(F_s(G^-1(q)))                                                     (1)

and last E_disc (`jaxdiff.sampling.budget`) on EDM's grids, for N(0, 1) and for five modes on the line.

All of it is DERIVED here, none of it a paper's; tests/test_initialization_experiment.py has the digits. For
instance: from N(0, 2^2) quantiles of the t data at .99, .9999 and .999999 come out at .62, .27 and .08 of
what they are, and a full Gaussian removes 98 % of what N(0, 7^2) loses on the tiled mixture.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from jaxdiff.denoising.denoiser import Distribution
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.noising.schedules import Karras
from jaxdiff.noising.times import power_grid
from jaxdiff.sampling.budget import kl_budget
from jaxdiff.typing import Array, StartLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = Karras()
LEVELS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
GRIDS = ((80.0, 40, 7.0), (80.0, 20, 7.0), (7.0, 20, 5.0), (2.0, 20, 7.0), (2.0, 10, 7.0))
"""t_max, nodes and rho, each down to .002."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Horizons, and sizes with a margin."""

    horizons: tuple[float, ...] = (0.5, 0.8, 1.0, 1.24, 2.0, 4.0, 7.0, 80.0)
    nodes: int = 20_001  # of the quadrature on the line
    dimensions: tuple[int, ...] = (40, 100)
    num_samples: int = 20_000  # for the steps of five modes, the only Monte Carlo here


def smoke() -> Config:
    """Fewer horizons, nodes and samples."""
    return Config(horizons=(1.0, 2.0, 7.0), nodes=6_001, dimensions=(40,), num_samples=500)


def run(config: Config) -> dict[str, Any]:
    """Every table, as a list of rows."""
    with jax.enable_x64(True):
        return {
            "config": dataclasses.asdict(config),
            "product": [_product(config, s) for s in config.horizons],
            "tiled": [_tiled(config, d, s) for d in config.dimensions for s in (2.0, 7.0, 80.0)],
            "t": [_student(config, s) for s in config.horizons],
            "tails": _tails(config),
            "steps": [_steps(config, *grid) for grid in GRIDS],
        }


def table(figures: dict[str, Any]) -> str:
    """All tables, one below another."""
    lines = []
    for name in ("product", "tiled", "t", "tails", "steps"):
        rows = figures[name]
        lines += ["", name, "".join(f"{key:>15}" for key in rows[0])]
        lines += [
            "".join(f"{v if isinstance(v, str) else format(v, '.7g'):>15}" for v in row.values())
            for row in rows
        ]
    return "\n".join(lines[1:])


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """The ratios of tail quantiles."""
    for row in figures["tails"]:
        ratios = [row[str(level)] for level in LEVELS]
        axes.semilogx([1 / (1 - level) for level in LEVELS], ratios, "o-", label=row["start"], markersize=3)
    axes.set(
        xlabel="1 / (1 - level)",
        ylabel="quantile over the data's",
        title="tails that a start leaves, exactly",
    )
    axes.legend(fontsize=7)


def divergence(p: Distribution, q: StartLaw, nodes: int) -> Array:
    """KL(p || q) between laws on the line, by the trapezoidal rule in u with x = sinh(u)."""
    x, weights = _line(nodes)
    log_p = p.log_prob(x[:, None])
    return jnp.sum(weights * jnp.exp(log_p) * (log_p - q.log_prob(x[:, None])))


def _line(nodes: int) -> tuple[Array, Array]:
    u = jnp.linspace(-16, 16, nodes)
    return jnp.sinh(u), jnp.cosh(u) * (u[1] - u[0])


def _normal(variance: float) -> Gaussian:
    return Gaussian(jnp.zeros(1), jnp.asarray(variance, float))


def _five(spacing: float, variance: float) -> GaussianMixture:
    return GaussianMixture(jnp.full(5, 0.2), spacing * jnp.arange(-2.0, 3)[:, None], jnp.full(5, variance))


def _gaussian_divergence(variance: float, of: float) -> float:
    """KL(N(0, variance) || N(0, of))."""
    return 0.5 * (variance / of - 1 - np.log(variance / of))


def _product(config: Config, s: float) -> dict[str, float]:
    p = _five(1.0, 0.04).perturbed(SCHEDULE, s)
    starts = {"N(0, s^2)": s**2, "N(0, s^2 + v)": s**2 + 2.04}
    return {"s": s, **{k: 2 * float(divergence(p, _normal(v), config.nodes)) for k, v in starts.items()}}


def _tiled(config: Config, d: int, s: float) -> dict[str, float]:
    spacing = 5 * (d / 2) ** 0.5
    p = _five(spacing, 1.0).perturbed(SCHEDULE, s)
    plane, rest = 1 + 2 * spacing**2, d - 2
    row: dict[str, float] = {"d": d, "s": s}
    mean = (2 * plane + rest) / d
    starts = {"N(0, s^2)": (0.0, 0.0), "one variance": (mean, mean), "full Gaussian": (plane, 1.0)}
    for name, (first, others) in starts.items():
        row[name] = 2 * float(
            divergence(p, _normal(first + s**2), config.nodes)
        ) + rest * _gaussian_divergence(1 + s**2, others + s**2)
    return row


def _t(nu: float | Array, scale: float | Array) -> StudentTMixture:
    variance = jnp.asarray(scale, float)[None] ** 2
    return StudentTMixture(jnp.ones(1), jnp.zeros((1, 1)), variance, jnp.asarray(nu, float))


def _student(config: Config, s: float) -> dict[str, float]:
    p = _t(3.0, 1.0).perturbed(SCHEDULE, s)
    x, weights = _line(config.nodes)
    log_p = p.log_prob(x[:, None])
    mass = weights * jnp.exp(log_p)

    @jax.jit
    @jax.value_and_grad
    def loss(parameters: Array) -> Array:
        nu, scale = jnp.exp(parameters)
        gammas = (
            jax.lax.lgamma(0.5 * (nu + 1))
            - jax.lax.lgamma(0.5 * nu)
            - 0.5 * jnp.log(jnp.pi * nu)
            - jnp.log(scale)
        )
        return jnp.sum(mass * (log_p - gammas + 0.5 * (nu + 1) * jnp.log1p((x / scale) ** 2 / nu)))

    best = _minimize(loss, jnp.log(jnp.asarray([3.0 + s**2, (1 + s**2) ** 0.5])))
    return {
        "s": s,
        "N(0, s^2)": float(divergence(p, _normal(s**2), config.nodes)),
        "N(0, s^2 + 3)": float(divergence(p, _normal(s**2 + 3), config.nodes)),
        "best t": float(loss(best)[0]),
        "its nu": float(jnp.exp(best[0])),
        "its scale": float(jnp.exp(best[1])),
    }


def _minimize(loss: Any, x: Array) -> Array:
    """Newton's method from differences of the gradient, halved until it goes down."""
    for _ in range(60):
        value, slope = loss(x)
        steps = 1e-4 * jnp.eye(len(x))
        hessian = jnp.stack([(loss(x + h)[1] - loss(x - h)[1]) / 2e-4 for h in steps])
        values, basis = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
        move = -basis @ ((basis.T @ slope) / jnp.maximum(jnp.abs(values), 1e-12))
        while float(jnp.abs(move).max()) > 1e-9 and loss(x + move)[0] > value:
            move = 0.5 * move
        x = x + move
        if float(jnp.abs(move).max()) < 1e-7:
            break
    return x


def _tails(config: Config) -> list[dict[str, Any]]:
    """Eq. (1) over the data's own quantile, for t of 3 degrees of freedom."""
    x, weights = _line(config.nodes)

    def log_survival(law: Distribution) -> Array:
        """log P(X > x) at the nodes."""
        mass = weights * jnp.exp(law.log_prob(x[:, None]))
        above = jnp.cumsum(mass[::-1])[::-1]
        return jnp.log(above - 0.5 * mass)

    data = _t(3.0, 1.0)
    log_data = log_survival(data)

    def quantile(log_tail: Array) -> Array:
        return jnp.sinh(jnp.interp(-log_tail, -log_data, jnp.arcsinh(x)))

    tails = jnp.log1p(-jnp.asarray(LEVELS))
    exact, rows = quantile(tails), [{"start": "the data", **_by_level(quantile(tails))}]
    for s in (2.0, 7.0, 80.0):
        log_noised = log_survival(data.perturbed(SCHEDULE, s))
        for name, variance in ((f"N(0, {s:g}^2)", s**2), (f"N(0, {s:g}^2 + 3)", s**2 + 3)):
            start = jnp.sqrt(variance) * ndtri(jnp.asarray(LEVELS))
            output = quantile(jnp.interp(jnp.arcsinh(start), jnp.arcsinh(x), log_noised))
            rows.append({"start": name, **_by_level(output / exact)})
    return rows


def _by_level(values: Array) -> dict[str, float]:
    return {str(level): float(value) for level, value in zip(LEVELS, values, strict=True)}


def _steps(config: Config, t_max: float, nodes: int, rho: float) -> dict[str, Any]:
    times = power_grid(nodes - 1, t_max=t_max, t_min=0.002, rho=rho)
    row: dict[str, Any] = {"grid": f"{t_max:g}, {nodes}, {rho:g}"}
    for name, law, n in (("N(0, 1)", _normal(1.0), 2), ("five modes", _weighted(), config.num_samples)):
        start = law.perturbed(SCHEDULE, t_max)
        budget = kl_budget(jax.random.key(0), law.denoiser(SCHEDULE), law, start, times, num_samples=n)
        row[name] = float(budget.discretization.value)
        row["+-"] = float(budget.discretization.standard_error)
    return row


def _weighted() -> GaussianMixture:
    return GaussianMixture(
        jnp.asarray([0.1, 0.15, 0.2, 0.25, 0.3]), jnp.arange(-2.0, 3)[:, None], jnp.full(5, 0.04)
    )
