"""E7: one network for all noise levels against one for each, as the dimension around the data grows.

Data: 256 Gaussians of standard deviation 0.3 at the corners of [-1, 1]^8, laid into R^d by a random isometry,
d = 8, ..., 512. So the law is the same in every d and its exact score is known, (U s_8(U'x)) in the eight
directions of the data and -x / sigma^2 in the others; a sum of 256 Gaussians is no MLP. Six levels t in
[0.1, 3] of the Ornstein-Uhlenbeck process, in geometric progression; 1,000 points, noised anew at every step.
The error is that of the theorem (`jaxdiff.theory.risk_bound`), not divided by d:

    sum_j g_j E|f(x_j, t_j) - s(x_j, t_j)|^2,     g_j = t_j - t_{j-1}                                  (1)

Every network is an MLP of two layers of SiLU units that predicts the data (what is predicted lies in eight
dimensions, whatever d is), by Adam with a cosine decay and an average. Four ways, of one compute:

    joint                      one network, shown all levels: 32 rows of each at a step
    joint, narrow              one of a sixth of the parameters, shown six times the rows
    levels, equal parameters   six such networks, a level each: together of the joint one's parameters
    levels, equal width        a network as wide as the joint one for each level, shown 32 rows: six times the
                               parameters

A seed has the same points in every dimension, so that what (1) grows by is compared seed by seed. Beside them
stands the Gaussian of the points' mean and covariance, which knows the eight directions. Each cell of the
table is one compiled call, in which levels are vmapped and seeds follow one another or, by `at_once`, are
vmapped too.

On fresh paths, the terms of the martingale (`jaxdiff.theory.martingale`) of what was learned: with W the sum
in (1) without its mean, K = E H^2 / E W beside its bound from the law's radius and width; E H^2 over the sum
of the E R_k^2, which is 1 for a martingale; and kappa = E W^2 / (E W)^2. And 2 E H / E W on paths of the
points learnt from, by eq. (1) there what training made of their noise: it is above 1 just where the loss on
them is below the truth's.

MEASURED, 4 seeds (`--parts E7`, one busy core of an AMD EPYC, jax 0.10.2, 2026-11-28, 9 min):

    error (1), d =            8             32            128           512           512 over 8
    joint                     .216 +- .007  .191 +- .001  .210 +- .003  .348 +- .009  1.61 +- .06
    joint, narrow             .154 +- .003  .133 +- .003  .117 +- .005  .193 +- .004  1.25 +- .04
    levels, equal parameters  .142 +- .004  .122 +- .006  .140 +- .007  .221 +- .007  1.56 +- .06
    levels, equal width       .229 +- .007  .231 +- .003  .322 +- .004  .737 +- .015  3.22 +- .08
    the Gaussian             1.708 +- .002 in every d

Between the same narrow networks (33, 27, 20 and 17 units), one for each level is 8 % ahead of one for all up
to d = 32; from 128 on the one for all is ahead by 13 to 16 %, with a sixth of the parameters, and grows
least. Between the wide ones it is ahead everywhere, by two times at 512. But at this compute narrow beats
wide, so that six narrow networks beat the one wide network of as many parameters in every d. What is left at
512 is of training, not of the points: 2 E H / E W falls from about 1 to .55, .53, .52 and .28.

On what networks have learned the martingale is one, E H^2 over its parts being 0.99 to 1.02; K is between
0.37 and 0.50 in every dimension, 44 to 60 times below its bound of 22; kappa is 1.2 to 1.3. The rates are the
best of 1.5e-3, 3e-3, 6e-3 and 1.2e-2 at d = 8 and 512 together on two other seeds (`--parts E7-choice`), that
of the narrow network on one.
"""

import dataclasses
import functools
import itertools
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from experiments import estimates
from experiments.bootstrapping import ratios
from experiments.estimates import geometric_mean, show
from jaxdiff import theory
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, Distribution, as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.fitting import fit_gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.models.embedding import fourier_features
from jaxdiff.noising.schedules import OrnsteinUhlenbeck
from jaxdiff.typing import Array, Denoised, Key, Params, Time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = OrnsteinUhlenbeck()
JOINT, NARROW = "joint", "joint, narrow"
PARAMETERS, WIDTH = "levels, equal parameters", "levels, equal width"
METHODS = (JOINT, NARROW, PARAMETERS, WIDTH)
INTRINSIC, STD = 8, 0.3


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    dimensions: tuple[int, ...] = (8, 32, 128, 512)
    methods: tuple[str, ...] = METHODS
    rates: tuple[tuple[float, ...], ...] = ((6e-3,), (1.2e-2,), (6e-3,), (6e-3,))
    """Learning rates of each method, chosen by `choice`."""
    choosing: bool = False
    seeds: int = 4
    at_once: int = 1  # seeds that are vmapped; on a CPU they are faster one after another
    num_points: int = 1000
    num_levels: int = 6
    width: int = 96
    rows: int = 32  # of each level at a step, of the joint network
    steps: int = 2000
    ema_decay: float = 0.99
    test_points: int = 1000


def choice() -> Config:
    """What chose the rates, on seeds of its own."""
    return Config(dimensions=(8, 512), rates=((1.5e-3, 3e-3, 6e-3, 1.2e-2),) * 4, choosing=True, seeds=2)


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        dimensions=(8, 32),
        methods=(JOINT, PARAMETERS),  # one network and several: the others differ from them in their sizes
        rates=((6e-3,), (6e-3,)),
        seeds=2,
        at_once=2,
        num_points=200,
        num_levels=3,
        width=24,
        rows=16,
        steps=150,
        test_points=200,
    )


class Way(NamedTuple):
    """How the levels are shared out."""

    networks: int
    width: int
    rows: int
    """Of each level at a step."""


def way(config: Config, method: str, d: int) -> Way:
    """The network's or the networks' size: at equal parameters the width that comes nearest."""
    n = config.num_levels
    if method in (JOINT, WIDTH):
        return Way(1 if method == JOINT else n, config.width, config.rows)
    wanted = num_parameters(config.width, d) / n
    widths = range(1, config.width + 1)
    nearest = min(widths, key=lambda width: abs(num_parameters(width, d) - wanted))
    return Way(1 if method == NARROW else n, nearest, n * config.rows)


class MLP(nn.Module):
    """Two layers of SiLU units, shown waves of the noise level; zero at initialization."""

    width: int

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        h = jnp.concatenate([x, fourier_features(t[:, None], (0.25, 0.5, 1.0, 2.0))], axis=-1)
        for _ in range(2):
            h = nn.silu(nn.Dense(self.width)(h))
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros_init())(h)


def num_parameters(width: int, d: int) -> int:
    """Of one `MLP`."""
    return (d + 8 + 1) * width + (width + 1) * width + (width + 1) * d


def latent_law() -> GaussianMixture:
    """The law in its own eight coordinates."""
    corners = jnp.asarray(list(itertools.product((-1.0, 1.0), repeat=INTRINSIC)))
    return GaussianMixture(jnp.full(len(corners), 1 / len(corners)), corners, jnp.full(len(corners), STD**2))


def laid_out(law: Distribution, basis: Array) -> Denoiser:
    """The denoiser of the law laid into R^d by an orthonormal basis, shape (d, 8)."""
    return as_denoiser(Partial(_laid_out, law, basis), SCHEDULE, shape=basis.shape[:1])


def _laid_out(law: Distribution, basis: Array, x: Array, t: Time) -> Denoised:
    data = law.denoiser(SCHEDULE)(x @ basis, t).data @ basis.T
    return Denoised(data, (x - SCHEDULE.alpha(t) * data) / SCHEDULE.sigma(t))


def learn(config: Config, method: str, d: int, keys: Array, rates: Array) -> dict[str, np.ndarray]:
    """`summary` after training, each of shape (seeds, rates), by one compiled call."""
    size = way(config, method, d)
    network, times = MLP(size.width), levels(config)
    weights = jnp.diff(times, prepend=0.0)
    scale = ((1 + STD**2) * INTRINSIC / d) ** 0.5
    predicted = prediction.Reading("data", prediction.data.row, prediction.EDM(scale).inputs)
    decay = ema.warm_up(config.ema_decay)
    cosine = optax.cosine_decay_schedule(1.0, config.steps)
    per_network = config.num_levels // size.networks

    def denoiser(params: Params) -> Denoiser:
        return make_denoiser(network.apply, params, SCHEDULE, shape=(d,), scale=scale, prediction=predicted)  # type: ignore[arg-type] - flax says a tuple may come back

    def answer(networks: Params, x: Array, t: Array) -> Denoised:
        which = jnp.argmin(jnp.abs(times - t)) // per_network
        return denoiser(jax.tree.map(lambda leaf: leaf[which], networks))(x, t)

    def train(key: Key, own: Array, points: Array, rate: Array) -> Params:
        """One network at its own levels."""
        optimizer = optax.adam(lambda count: rate * cosine(count), b2=0.99)
        init_key, row_key, step_key = jax.random.split(key, 3)

        def loss(params: Params, key: Key, batch: tuple[Array, Array]) -> Array:
            x, target = denoising_target(key, SCHEDULE, *batch)
            return regression_loss(denoiser(params), x, target, batch[1], weight=prediction.noise.row).mean()

        step = training.make_train_step(loss, optimizer, ema_decay=decay)

        def body(state: training.TrainState, number: Array) -> tuple[training.TrainState, None]:
            t = jnp.repeat(own, size.rows)
            rows = jax.random.randint(jax.random.fold_in(row_key, number), t.shape, 0, len(points))
            return step(step_key, state, (points[rows], t))[0], None

        params = network.init(init_key, points[:1], jnp.ones(1))
        state = training.init_state(params, optimizer, ema_decay=decay)
        return training.averaged(jax.lax.scan(body, state, jnp.arange(config.steps))[0])

    def one(key: Key, rate: Array) -> dict[str, Array]:
        data_key, basis_key, train_key, path_key = jax.random.split(key, 4)
        inner = latent_law().sample(data_key, config.num_points + config.test_points)
        basis = jnp.linalg.qr(jax.random.normal(basis_key, (d, INTRINSIC)))[0]
        data = inner @ basis.T
        own = times.reshape(size.networks, per_network)
        split = jax.random.split(train_key, size.networks)
        points = data[: config.num_points]
        networks = jax.vmap(train, in_axes=(0, 0, None, None))(split, own, points, rate)
        estimate = as_denoiser(Partial(answer, networks), SCHEDULE, shape=(d,))
        path = theory.forward_path(path_key, SCHEDULE, data, times)
        exact = laid_out(latent_law(), basis)
        terms = theory.martingale_terms(estimate, exact, data, path, times, weights)
        return summary(terms, config.num_points)

    # Vmapped over one, products of matrices are several times slower.
    batch_size = config.at_once if config.at_once > 1 else None
    call = functools.partial(jax.lax.map, lambda pair: one(*pair), batch_size=batch_size)
    pairs = jnp.repeat(keys, len(rates)), jnp.tile(rates, len(keys))
    flat = jax.jit(call)(pairs)
    return jax.tree.map(lambda x: np.asarray(x, np.float64).reshape(len(keys), len(rates)), flat)


def summary(terms: theory.MartingaleTerms, num_points: int) -> dict[str, Array]:
    """Of paths of which the first num_points are of points learnt from, and the others fresh."""
    total, squared = terms.total[num_points:], terms.squared_error[num_points:]
    parts = jnp.mean(terms.increments[:, num_points:] ** 2, axis=1)
    paid, error = terms.total[:num_points].mean(), terms.squared_error[:num_points].mean()
    return {
        "error": squared.mean(),
        "constant": jnp.mean(total**2) / squared.mean(),
        "orthogonality": jnp.mean(total**2) / parts.sum(),
        "hypercontractivity": jnp.mean(squared**2) / squared.mean() ** 2,
        "learnt": 2 * paid / error,
    }


@functools.partial(jax.jit, static_argnums=0)
def gaussian_errors(config: Config, keys: Array) -> Array:
    """Eq. (1) of the Gaussian of the points' moments, one for each seed: the same in every dimension."""

    def one(key: Key) -> Array:
        data_key, path_key = jax.random.split(key)
        times = levels(config)
        points, fresh = jnp.split(
            latent_law().sample(data_key, config.num_points + config.test_points), [config.num_points]
        )
        path = theory.forward_path(path_key, SCHEDULE, fresh, times)
        fitted, exact = (law.denoiser(SCHEDULE) for law in (fit_gaussian(points), latent_law()))
        weights = jnp.diff(times, prepend=0.0)
        return theory.martingale_terms(fitted, exact, fresh, path, times, weights).squared_error.mean()

    return jax.lax.map(one, keys)


def levels(config: Config) -> Array:
    """The times, in geometric progression."""
    return jnp.geomspace(0.1, 3.0, config.num_levels)


def run(config: Config) -> dict[str, Any]:
    """Every method at every rate in every dimension."""
    keys = ratios.keys("E7", config.seeds, choosing=config.choosing)
    rows = []
    for method, rates in zip(config.methods, config.rates, strict=True):
        first = None
        for d in config.dimensions:
            began = time.monotonic()
            found = learn(config, method, d, keys, jnp.asarray(rates))
            seconds = time.monotonic() - began
            first = found["error"] if first is None else first
            size = way(config, method, d)
            for k, rate in enumerate(rates):
                growth = np.log(found["error"][:, k] / first[:, k])
                rows.append(
                    {
                        "method": method,
                        "dimension": d,
                        "rate": rate,
                        "width": size.width,
                        "parameters": size.networks * num_parameters(size.width, d),
                        "growth": geometric_mean(growth),
                        "seconds": seconds,
                    }
                    | {name: estimates.mean(values[:, k]) for name, values in found.items()}
                )
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    times = levels(config)
    constants = theory.cluster_constants(SCHEDULE, times, radius=INTRINSIC**0.5, std=STD)
    bound = theory.martingale_bound(SCHEDULE, times, jnp.diff(times, prepend=0.0), constants)
    return {
        "config": dataclasses.asdict(config),
        "rows": rows,
        "gaussian": estimates.mean(gaussian_errors(config, keys)),
        "bound": float(bound),
    }


def table(figures: dict[str, Any]) -> str:
    """A line for each method and dimension."""
    heading = (
        f"{'':26}{'rate':>7}{'d':>5}{'width':>6}{'parameters':>11}{'error (1)':>18}{'over the first d':>18}"
        f"{'K':>16}{'martingale':>16}{'kappa':>7}{'2 E H / E W':>16}"
    )
    lines = [heading, *map(_line, figures["rows"])]
    lines.append(
        f"error of the Gaussian {show(figures['gaussian'], 3)}; K <= {figures['bound']:.1f} by the theorem"
    )
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['method']:26}{row['rate']:7g}{row['dimension']:5}{row['width']:6}{row['parameters']:11,}"
        f"{show(row['error'], 3):>18}{show(row['growth'], 3):>18}"
        f"{show(row['constant'], 3):>16}{show(row['orthogonality'], 2):>16}"
        f"{row['hypercontractivity']['mean']:7.1f}{show(row['learnt'], 2):>16}"
    )


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """The error against the dimension, a line for each method and rate; dotted, the Gaussian's."""
    for method, rates in zip(figures["config"]["methods"], figures["config"]["rates"], strict=True):
        for rate in rates:
            own = [row for row in figures["rows"] if (row["method"], row["rate"]) == (method, rate)]
            d = [row["dimension"] for row in own]
            error = [row["error"]["mean"] for row in own]
            spread = [2 * row["error"]["standard_error"] for row in own]
            axes.errorbar(d, error, spread, marker="o", markersize=4, label=f"{method}, rate {rate:g}")
    axes.axhline(figures["gaussian"]["mean"], color="black", linestyle=":", label="Gaussian")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="dimension d", ylabel="Σ g E |f − s|² (not divided by d)", title="Joint or per level")
    axes.legend(fontsize="x-small")
