"""Multilevel: log-densities of a large network of which a small one takes most of the evaluations.

The model is that of `experiments.quickstart`; a mixer with a quarter of its channels and one block in the
place of three learns to answer as it does. For held-out digits then, with p_0 the Gaussian of the data, p_1
the small network's and p_2 the large one's,

    log p_2(x) = log p_0(x) + (log p_1(x) - log p_0(x)) + (log p_2(x) - log p_1(x)),               (1)

the first term known and each difference by `log_density_difference`, with a density of noise levels of its
own, from a pilot on training images. The control is the large network alone, by `density_formula` with the
same Gaussian as reference: at the cost of (1), at as many evaluations of the large one, and at what the
digits part takes. Many evaluations of the large network alone are the truth.

Expect the error of the mean of 360 images to be under .1 nats with 80 evaluations of the large network on
each, and the same mean. MEASURED on the 360 test images, one seed (`--parts multilevel`, a core of an AMD
EPYC, jax 0.10.2, 2026-11-29; 240 s):

                               evaluations    cost               nats    less the truth
    multilevel                          80    358.5     98.846 +- .076    +.044, .5 standard errors
    large alone, equal cost            358    358.5     98.812 +- .096    +.010,  .1
    large alone                         80     80.0     98.804 +- .225    +.001,  .0
    large alone                        320    320.0     98.736 +- .097    -.066, -.6
    truth                            1,280  1,280.0     98.802 +- .035

An evaluation of the small network (13,489 parameters against 111,441) costs .44 of one of the large: a layer
of 17 levels a pixel is in both. So at equal cost the variance is 1.6 times less, and at equal evaluations of
the large network 9 times. On 120 training images it was 1.9 and 9.6 (2026-11-28).
"""

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import quickstart
from experiments.image_problems import SCHEDULE, Problem
from experiments.networks import num_parameters, started
from experiments.optimizers import adamw
from jaxdiff import data
from jaxdiff._numerics import low_discrepancy
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.densities.difference import log_density_difference
from jaxdiff.densities.evaluations import Evaluations, check_evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.densities.inputs import LogDensity
from jaxdiff.densities.levels import TimeDensity, level_integrand
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.models import Mixer
from jaxdiff.noising import times
from jaxdiff.running.progress import Progress
from jaxdiff.typing import Array, Key, Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class Config:
    """The two networks and what each is asked for; chosen on training images."""

    model: quickstart.Config = quickstart.CONFIGS["digits"]
    run: str = "results/quickstart-digits"  # where the trained model is, or is put; "" for a passing one
    channels: int = 8
    num_blocks: int = 1
    steps: int = 2500
    batch_size: int = 64
    learning_rate: float = 6e-3
    rows: int = 360
    small_evaluations: int = 640
    large_evaluations: int = 80
    alone: tuple[int, ...] = (80, 320)
    truth_evaluations: int = 1280
    pilot_evaluations: int = 1024
    timed_rows: int = 2048  # of an evaluation whose time is taken
    validation: bool = False  # judge on training images


def smoke() -> Config:
    """A model of twenty steps, a few images."""
    return Config(
        model=quickstart.smoke(),
        run="",
        channels=4,
        steps=20,
        rows=6,
        small_evaluations=80,
        large_evaluations=40,
        alone=(40,),
        truth_evaluations=160,
        pilot_evaluations=256,
        timed_rows=256,
    )


def run(config: Config) -> dict[str, Any]:
    """Means of log-densities in nats, their standard errors, and what they cost."""
    problem, large = quickstart.trained(config.model, config.run)
    small = distilled(config, problem, large)
    law = problem.law.denoiser(SCHEDULE)
    data_key, pilot_key, key = jax.random.split(jax.random.key(1), 3)
    images = problem.train[-config.rows :] if config.validation else problem.test[: config.rows]
    x, few = problem.encode(data_key, images), problem.encode(pilot_key, problem.train[:32])
    densities = {
        name: pilot(config, pilot_key, *pair, few)
        for name, pair in (("small", (small, law)), ("large", (large, small)), ("alone", (large, law)))
    }
    cost = relative_cost(small, large, few, config.timed_rows)

    def alone(key: Key, n: int) -> LogDensity:
        return density_formula(
            key, large, x, evaluations=Evaluations(n, reference=problem.law, time_density=densities["alone"])
        )

    def multilevel(key: Key) -> LogDensity:
        keys = jax.random.split(key)
        pairs = (
            (small, law, config.small_evaluations, densities["small"]),
            (large, small, config.large_evaluations, densities["large"]),
        )
        terms = [
            log_density_difference(key, one, other, x, evaluations=Evaluations(n, time_density=density))
            for key, (one, other, n, density) in zip(keys, pairs, strict=True)
        ]
        value = problem.law.log_prob(x) + terms[0].value + terms[1].value
        return LogDensity(value, jnp.hypot(terms[0].standard_error, terms[1].standard_error))

    in_all = config.large_evaluations + cost * config.small_evaluations
    truth_key, *keys = jax.random.split(key, 3 + len(config.alone))
    truth = alone(truth_key, config.truth_evaluations)
    rows = [
        _row("multilevel", config.large_evaluations, in_all, multilevel(keys[0]), truth),
        _row("large alone, equal cost", int(in_all), in_all, alone(keys[1], int(in_all)), truth),
    ]
    rows += [
        _row("large alone", n, n, alone(key, n), truth) for n, key in zip(config.alone, keys[2:], strict=True)
    ]
    return {
        "config": dataclasses.asdict(config),
        "relative_cost": cost,
        "parameters": {
            name: num_parameters(net.estimate) for name, net in (("small", small), ("large", large))
        },
        "rows": [*rows, _row("truth", config.truth_evaluations, config.truth_evaluations, truth, truth)],
    }


def _row(
    name: str, evaluations: int, cost: float, answer: LogDensity, truth: LogDensity
) -> dict[str, float | str | None]:
    """Figures of a mean over images: their errors are independent."""
    values, wanted = (np.asarray(found.value, np.float64) for found in (answer, truth))
    errors = [
        float(np.sqrt(np.mean(np.square(found.standard_error)) / len(values))) for found in (answer, truth)
    ]
    off = float((values - wanted).mean())
    return {
        "method": name,
        "large_evaluations": evaluations,
        "cost": cost,
        "nats": float(values.mean()),
        "standard_error": errors[0],
        "less_truth": off,
        "in_standard_errors": None if answer is truth else off / math.hypot(*errors),
    }


def table(figures: dict[str, Any]) -> str:
    """A line for each way."""
    lines = [f"{'':26}{'evaluations':>12}{'cost':>8}{'nats':>19}{'less the truth':>18}{'in errors':>11}"]
    for row in figures["rows"]:
        off = row["in_standard_errors"]
        lines.append(
            f"{row['method']:26}{row['large_evaluations']:12}{row['cost']:8.1f}{row['nats']:10.3f} +- "
            f"{row['standard_error']:.3f}{row['less_truth']:+18.3f}"
            + ("" if off is None else f"{off:+11.1f}")
        )
    lines.append(
        f"an evaluation of the small network costs {figures['relative_cost']:.3f} of the large one's"
    )
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Standard errors of the mean against what they cost."""
    for row in figures["rows"]:
        axes.plot(row["cost"], row["standard_error"], "o", label=row["method"])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="evaluations of the large network, or their cost",
        title="Multilevel",
    )
    axes.set_ylabel("standard error of the mean, nats")
    axes.legend(fontsize="x-small")


def distilled(config: Config, problem: Problem, large: Denoiser) -> Denoiser:
    """A small network that learns to answer as the large one: there is no noise in what it learns."""
    network = Mixer(num_outputs=problem.num_outputs, channels=config.channels, num_blocks=config.num_blocks)
    init_key, key = jax.random.split(jax.random.key(3))
    optimizer, decay = adamw(config.learning_rate, config.steps, 0.0), ema.warm_up(0.995)

    def loss(params: Params, key: Key, pixels: Array) -> Array:
        time_key, encode_key, noise_key = jax.random.split(key, 3)
        u = times.stratified(time_key, config.batch_size)
        t = times.log_snr_uniform(u, SCHEDULE, t_min=problem.t_min, t_max=problem.t_max).t
        x, _ = denoising_target(noise_key, SCHEDULE, problem.encode(encode_key, pixels), t)
        small = quickstart.model(problem, network, params)
        return regression_loss(small, x, large(x, t), t, weight=prediction.noise.row).mean()

    features = jnp.zeros((1, problem.train.shape[1], problem.num_features))
    with Progress(config.steps) as progress:
        state = training.train(
            key,
            started(init_key, network, features, jnp.zeros(1), optimizer=optimizer, ema_decay=decay),
            training.make_train_step(loss, optimizer, ema_decay=decay),
            jax.tree_util.Partial(lambda rows, key: data.batch(key, rows, config.batch_size), problem.train),
            num_steps=config.steps,
            report=progress,
        )
    return quickstart.model(problem, network, training.averaged(state))


def pilot(
    config: Config, key: Key, denoise: Denoiser, other: Denoiser, x: Array, bins: int = 64
) -> TimeDensity:
    """As `pilot_time_density`, of the difference between two denoisers, at few rows x."""
    layout = low_discrepancy.Layout(bins, 2, config.pilot_evaluations // (4 * bins))

    @jax.jit
    def cells(denoise: Denoiser, other: Denoiser) -> Array:
        even = check_evaluations(denoise, Evaluations())
        integrand = level_integrand(
            denoise, other, x, *denoise.working_range, (True, True), even.time_density
        )
        return low_discrepancy.cell_means(key, x, integrand, layout, even.bytes_per_call)

    found = cells(denoise, other)
    std = jnp.sqrt(jnp.mean((found[..., 0] - found[..., 1]) ** 2, axis=0))
    return TimeDensity(masses=std + 0.1 * std.mean())


def relative_cost(small: Denoiser, large: Denoiser, x: Array, num_rows: int, repeats: int = 20) -> float:
    """The time of an evaluation of one over that of the other, interleaved, at so many rows."""
    rows, t = jnp.tile(x, (-(-num_rows // len(x)), 1))[:num_rows], jnp.full(num_rows, 0.3)
    call = jax.jit(lambda denoise: denoise(rows, t).noise)

    def seconds(denoise: Denoiser) -> float:
        began = time.perf_counter()
        jax.block_until_ready(call(denoise))
        return time.perf_counter() - began

    ratios = [seconds(small) / seconds(large) for _ in range(repeats + 2)][2:]
    return float(np.median(ratios))
