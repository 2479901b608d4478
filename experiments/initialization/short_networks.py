"""Networks trained below sigma_T only: what a learned start saves of the network, or of its training.

scikit-learn's 8 x 8 digits and the main job's kind of model (`experiments.quickstart`), at a smaller size. A
denoiser that is asked from sigma_T down, since a fitted law stands for everything above, need not learn the
times above. Held-out log-density, the same formula for all,

    log p(x)  from log q(x_T) at sigma_T and the denoiser's evaluations below it,                    (1)

with q the Gaussian of two moments at the whole range's end, 5, and at sigma_T a mixture of factor analyzers
or that Gaussian. Networks: all of the channels and steps; half of the channels; half of the steps. Controls:
each of them on the whole range, and no network: the law that is fitted to the dequantized digits themselves.
sigma_T and the start were chosen by `choice`, on a fifth of the training images and another seed.

Expect half of the steps below sigma_T to be worth all of them over the whole range, if times above are what
half of the training goes to.

MEASURED, 3 seeds (`--parts networks`, one busy core of an AMD EPYC, jax 0.10.2, 2026-11-29), nats held out,
and between brackets less the whole network over the whole range, with standard errors over seeds:

                        parameters   whole range             below .35, Gaussian     below .35, mixture of 20
    the whole network       54,425   97.71 (+0.00 +- 0.00)   97.39 (-0.33 +- 0.11)   99.16 (+1.45 +- 0.09)
    half of the channels    27,413   97.38 (-0.33 +- 0.21)   96.95 (-0.76 +- 0.35)   98.73 (+1.01 +- 0.33)
    half of the steps       54,425   95.46 (-2.25 +- 0.05)   95.60 (-2.11 +- 0.14)   97.38 (-0.34 +- 0.13)
    no network                       Gaussian 48.3, mixture of 20 63.2

So from a mixture half of the steps come within .34 +- .13 of all of them over the whole range, and half of
the channels are 1.0 above; both by what the mixture adds, since the same networks from the Gaussian are no
better than over the whole range, where half of the channels cost nothing either, at this size.
"""

import dataclasses
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import estimates, pictures, quickstart
from experiments.estimates import show
from experiments.image_problems import PROBLEMS, SCHEDULE, Problem
from experiments.networks import num_parameters, trained
from experiments.optimizers import adamw
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.models import Mixer
from jaxdiff.noising import times
from jaxdiff.sampling import starts
from jaxdiff.sampling.starts import fit_start
from jaxdiff.typing import Array, Key, Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WHOLE = 5.0
"""The end of the whole range, `PROBLEMS["digits"]`'s."""
GAUSSIAN = 0
"""Components of the start that is one Gaussian of the data's two moments."""
RANK = 8
"""Of the mixtures' factors."""


class Arm(NamedTuple):
    """A network and the range that it is trained and asked on."""

    horizon: float
    components: int
    """Of the mixture that it starts from; none is the Gaussian."""
    channels: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    horizons: tuple[float, ...] = (0.35,)
    components: tuple[int, ...] = (20,)
    fit_steps: int = 1000  # of a mixture
    channels: int = 24
    num_blocks: int = 2
    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 6e-3
    weight_decay: float = 1.0
    dropout: float = 0.1
    ema_decay: float = 0.995
    seeds: tuple[int, ...] = (1, 2, 3)
    evaluations: int = 128  # for each held-out image
    rows: int = 360
    no_calls_t: float = 0.02  # where the laws are fitted that no network follows
    choosing: bool = False
    """Whether it is judged on training images that are held out for it."""


def choice() -> Config:
    """What chose the horizon and the start."""
    return Config(horizons=(0.2, 0.35, 0.6, 1.0), components=(5, 10, 20), seeds=(11,), choosing=True)


def smoke() -> Config:
    """The same at a size for tests: one network for each range."""
    return Config(
        components=(2,),
        fit_steps=50,
        channels=8,
        num_blocks=1,
        steps=20,
        batch_size=16,
        seeds=(0,),
        evaluations=20,
        rows=24,
        choosing=True,
    )


def arms(config: Config) -> list[Arm]:
    """The whole range first; half of the channels and half of the steps on every range."""
    ranges = [(WHOLE, GAUSSIAN)]
    ranges += [(t, k) for t in config.horizons for k in (GAUSSIAN, *config.components)]
    sizes = [(config.channels, config.steps)]
    if not config.choosing:
        sizes += [(config.channels // 2, config.steps), (config.channels, config.steps // 2)]
    return [Arm(*reach, *size) for size in sizes for reach in ranges]


def run(config: Config) -> dict[str, Any]:
    """Held-out nats of every arm, and of laws that no network follows."""
    problem = PROBLEMS["digits"]()
    learnt, held_out = problem.train, problem.test
    if config.choosing:
        learnt, held_out = problem.train[len(problem.train) // 5 :], problem.train[: len(problem.train) // 5]
    held_out = held_out[: config.rows]
    nats: dict[tuple[Any, ...], list[np.ndarray]] = {}
    for seed in config.seeds:
        train_key, fit_key, test_key, encode_key = jax.random.split(jax.random.key(seed), 4)
        data = problem.encode(encode_key, learnt)
        x = problem.encode(test_key, held_out)
        networks: dict[tuple[Any, ...], Params] = {}  # a network is one for all starts
        for arm in arms(config):
            own = arm.horizon, arm.channels, arm.steps
            network = network_of(config, problem, arm.channels)
            if own not in networks:
                networks[own] = train(config, problem, network, arm, learnt, train_key)
            start = _start(config, arm.components, data, fit_key, arm.horizon)
            denoise = model(problem, network, networks[own], arm.horizon)
            value = _nats(test_key, denoise, x, start, Evaluations(config.evaluations, reference=problem.law))
            nats.setdefault(arm, []).append(pictures.finite("nats", value).astype(np.float64))
            print(seed, arm, f"{nats[arm][-1].mean():.2f}", file=sys.stderr, flush=True)
        for components in (GAUSSIAN, *config.components):
            law = _start(config, components, data, fit_key, config.no_calls_t)
            nats.setdefault((components,), []).append(np.asarray(law.log_prob(x), np.float64))
    first = np.stack(next(iter(nats.values())))
    rows = []
    for arm, values in nats.items():
        value = np.stack(values)
        gain = (value - first).mean(1)
        named = arm._asdict() if isinstance(arm, Arm) else {"components": arm[0], "horizon": None}
        # Over seeds if there are several, or else over images.
        over = (lambda own: own.mean(1)) if len(value) > 1 else (lambda own: own[0])
        rows.append(
            named
            | {"nats": estimates.mean(over(value)), "gain": estimates.mean(over(value - first))}
            | {"gains": gain.tolist(), "parameters": _parameters(config, problem, named.get("channels"))}
        )
    return {"config": dataclasses.asdict(config), "rows": rows}


def _start(config: Config, components: int, data: Array, key: Key, t: float) -> Distribution:
    family = starts.gaussian()
    if components != GAUSSIAN:
        family = starts.factor_mixture(components, RANK, num_steps=config.fit_steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the start law has")  # its error is in the figures
        return fit_start(key, family, data, SCHEDULE, t)


@jax.jit
def _nats(key: Key, denoise: Denoiser, x: Array, start: Distribution, evaluations: Evaluations) -> Array:
    return density_formula(key, denoise, x, evaluations, start=start, extrapolate=False).value


def network_of(config: Config, problem: Problem, channels: int) -> Mixer:
    """The main job's kind."""
    return Mixer(
        num_outputs=problem.num_outputs,
        channels=channels,
        num_blocks=config.num_blocks,
        dropout=config.dropout,
    )


def model(
    problem: Problem, network: Mixer, params: Params, horizon: float, *, dropout: Key | None = None
) -> Denoiser:
    """The main job's, of the times up to the horizon."""
    return dataclasses.replace(quickstart.model(problem, network, params, dropout=dropout), t_max=horizon)


def train(config: Config, problem: Problem, network: Mixer, arm: Arm, pixels: Array, key: Key) -> Params:
    """The averaged parameters, after the arm's steps at times up to its horizon, uniform in log-SNR."""
    optimizer = adamw(config.learning_rate, arm.steps, config.weight_decay)
    average = ema.warm_up(config.ema_decay)

    def loss(params: Params, key: Key, rows: Array) -> Array:
        time_key, target_key, dropout_key = jax.random.split(key, 3)
        u = times.stratified(time_key, len(rows))
        t = times.log_snr_uniform(u, SCHEDULE, t_min=problem.t_min, t_max=arm.horizon).t
        x, y = problem.target(target_key, rows, t)
        denoise = model(problem, network, params, arm.horizon, dropout=dropout_key)
        return regression_loss(denoise, x, y, t, weight=prediction.noise.row).mean()

    step: Callable[..., Any] = training.make_train_step(loss, optimizer, ema_decay=average)
    init_key, step_key, row_key = jax.random.split(key, 3)
    shown = jnp.zeros((1, *problem.law.shape, problem.num_features))

    @jax.jit
    def fitted(pixels: Array) -> Params:
        state = training.init_state(network.init(init_key, shown, jnp.zeros(1)), optimizer, ema_decay=average)
        return trained(
            step,
            state,
            step_key,
            row_key,
            pixels,
            num_rows=len(pixels),
            batch_size=config.batch_size,
            num_steps=arm.steps,
        )

    return fitted(pixels)


def _parameters(config: Config, problem: Problem, channels: int | None) -> int:
    if channels is None:
        return 0
    network = network_of(config, problem, channels)
    shown = jnp.zeros((1, *problem.law.shape, problem.num_features))
    shapes = jax.eval_shape(lambda key: network.init(key, shown, jnp.zeros(1)), jax.random.key(0))
    return num_parameters(shapes)


def table(figures: dict[str, Any]) -> str:
    """A line for each arm; the first is the whole network on the whole range."""
    lines = [f"{'trained up to':>14}{'start':>14}{'parameters':>12}{'steps':>7}{'nats':>20}{'gain':>20}"]
    for row in figures["rows"]:
        start = "Gaussian" if row["components"] == GAUSSIAN else f"mixture, {row['components']}"
        reach = "no network" if row["horizon"] is None else f"{row['horizon']:g}"
        lines.append(
            f"{reach:>14}{start:>14}{row['parameters']:12d}{row.get('steps', 0):7d}"
            f"{show(row['nats'], 2):>20}{show(row['gain'], 2):>20}"
        )
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Gains over the whole range's whole network, a bar each."""
    rows = [row for row in figures["rows"] if row["horizon"] is not None]
    names = [
        f"to {row['horizon']:g}, {row['components'] or 'one'}, {row['channels']} ch., {row['steps']} steps"
        for row in rows
    ]
    axes.barh(
        names,
        [row["gain"]["mean"] for row in rows],
        xerr=[2 * row["gain"]["standard_error"] for row in rows],
        height=0.6,
    )
    axes.axvline(0, color="black", linewidth=0.5)
    axes.tick_params(axis="y", labelsize="xx-small")
    axes.set(xlabel="nats held out, less the first", title="networks below sigma_T")
