"""E8: does it pay on real data? Held-out nats of the main job's model, from 200, 700 and 1,400 digits.

The model is that of `experiments.quickstart` at a reduced size: a mixer that answers with the probabilities
of each pixel's 17 levels, dropout, weight decay, an average of the weights. A seed draws its own training
images from those that the main job trains on, its own network, batches and noise; the 360 held-out images are
the same. Methods differ in the target alone:

    denoising      the main job's own (`quantized_target`)
    bootstrapped   `half_noise_target`, taught by the network's average, after a warm-up
    stable field   the posterior mean over all the training images, no noise left
    both           eq. (9) of `jaxdiff.learning.bootstrap`: the field and the teacher

Below sigma = 0.1, less than two levels, an image is known and all have denoising's target. Beside them stands
denoising with as many more steps as a bootstrapped step costs, measured in the same process, step by step in
turn.

The figure of merit is the log-density of the held-out images by the formula (`jaxdiff.densities.formula`), in
nats of x in [0, 1]^64, with the same images, levels and noise for all methods of a seed; differences to
denoising are paired by seed, and their standard errors are over seeds.

MEASURED, 3 seeds (`--parts E8`, one busy core of an AMD EPYC, jax 0.10.2, 2026-11-28, 8 min):

    nats                    200 digits                700 digits                1,400 digits
    a Gaussian              31.5                      48.1                      49.3
    denoising               87.4 +- .2                90.5 +- .2                89.4 +- .7
    bootstrapped            -0.4 +- .3 to that        -0.5 +- .3                +1.3 +- .8
    stable field            -0.0 +- .2                +0.1 +- .4                +2.3 +- .4
    both                    -0.3 +- .2                -0.3 +- .3                +1.6 +- .3
    denoising, more steps   -0.2 +- .3                +1.3 +- .2                +2.8 +- .4

It does not pay here. From 200 digits nothing gains, more steps neither: the images are the limit, not the
noise of the targets. From 700 and 1,400 more steps gain, 700 being few; targets of less noise gain from
1,400 only, at equal steps, and less than 1.5 times the steps of denoising, while with teacher and field a
step takes 1.57 times denoising's. The decay, of 1 and 3, and the mix, of 0.5 and 0.9, are the best on two
other seeds (`--parts E8-choice`), where bootstrapping had +0.2 +- .0, -0.6 +- .6 and -1.1 +- .4 nats.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments import estimates, pictures
from experiments.bootstrapping import ratios
from experiments.estimates import show
from experiments.image_problems import PROBLEMS, SCHEDULE, Problem
from experiments.networks import applied, trained
from experiments.optimizers import clipped_adamw
from jaxdiff.denoising import prediction, quantized
from jaxdiff.denoising.denoiser import Denoiser, as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.fitting import fit_gaussian
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.learning import bootstrap, ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.models import Mixer
from jaxdiff.noising import times
from jaxdiff.typing import Array, Denoised, Key, Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOOTSTRAPPED, BOTH = "bootstrapped", "both"
KNOWN = 0.1
"""The noise below which an image is known."""
DECAYS, MIXES = (1.0, 3.0), (0.5, 0.9)
"""What `choice` chooses from."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    sizes: tuple[int, ...] = (200, 700, 1400)  # divisors of the last, to share its programs
    decays: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weight decay for each size, chosen for denoising by `choice`."""
    mix: float = 0.5  # chosen likewise
    more_steps: float = 1.5  # what a step with teacher and field costs
    choosing: bool = False
    seeds: int = 3
    steps: int = 700
    batch_size: int = 32
    learning_rate: float = 6e-3
    dropout: float = 0.1
    channels: int = 16
    num_blocks: int = 2
    ema_decay: float = 0.995
    warm_up: int = 100  # steps before the average is listened to
    evaluations: int = 64  # of the denoiser for each held-out image
    test_rows: int = 360


def choice() -> Config:
    """What chose the decays and the mix, on seeds of its own."""
    return Config(choosing=True, seeds=2)


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        sizes=(80, 160),  # more than dimensions, or the Gaussian has no density
        decays=(1.0, 1.0),
        seeds=2,
        steps=12,
        batch_size=8,
        warm_up=4,
        channels=4,
        num_blocks=1,
        evaluations=20,
        test_rows=12,
    )


class Task(NamedTuple):
    """The images that are learnt from, repeated to a length that all sizes share."""

    pixels: Array
    size: Array
    """How many of them are different: the first."""
    log_prior: Array
    law: Gaussian

    def field(self, levels: int) -> Denoiser:
        """What is known of an image by these, each dequantized by a Gaussian of the uniform's variance."""
        centers = Empirical((self.pixels + 0.5) / levels).denoiser(SCHEDULE)
        variance = jnp.asarray(1 / (12 * levels**2))
        return as_denoiser(Partial(_around, centers, variance), SCHEDULE, shape=centers.shape)


def _around(centers: Denoiser, variance: Array, x: Array, t: Array) -> Denoised:
    """Of the points of centers with Gaussian noise of this variance, under `Karras`, where sigma = t."""
    center = centers(x, jnp.hypot(t, jnp.sqrt(variance))).data
    share = (variance / (variance + t**2)).reshape(-1, 1)
    data = center + share * (x - center)
    return Denoised(data, (x - data) / t.reshape(-1, 1))


def task(problem: Problem, key: Key, size: int, rows: int) -> Task:
    """So many images drawn from the problem's, without replacement."""
    order_key, encode_key = jax.random.split(key)
    pixels = jax.random.permutation(order_key, problem.train)[:size]
    law = fit_gaussian(problem.encode(encode_key, pixels))
    assert isinstance(law, Gaussian)
    log_prior = quantized.log_histogram(pixels, levels=problem.levels)
    return Task(pixels[jnp.arange(rows) % size], jnp.asarray(size), log_prior, law)


class How(NamedTuple):
    """What a method is, beside its program: numbers."""

    mix: Array
    field: Array
    """1 with the field, 0 without."""
    decay: Array
    steps: Array


Trainer = Callable[[Task, Key, How], Params]
"""``train(task, key, how)``: the averaged parameters."""
Target = tuple[Array, Denoised]


def target(
    problem: Problem,
    key: Key,
    task: Task,
    teacher: Denoiser,
    pixels: Array,
    t: Array,
    mix: Array,
    field: Array,
) -> Target:
    """x_t and the target of bootstrapping with this mix, of the field or of both; denoising's below KNOWN."""
    own_key, other_key, encode_key = jax.random.split(key, 3)
    data = problem.encode(encode_key, pixels)
    x, y = bootstrap.half_noise_target(other_key, teacher, data, t, mix=mix, t_min=KNOWN / 2)
    # Eq. (9): the field's answer instead of the datum and the noise that made x.
    known, made = task.field(problem.levels)(x, t), Denoised(data, (x - data) / t[:, None])
    y = jax.tree.map(lambda y, known, made: y + field * (known - made), y, known, made)
    own = problem.target(own_key, pixels, t)
    return jax.tree.map(lambda own, other: jnp.where((t < KNOWN)[:, None], own, other), own, (x, y))


def trainer(config: Config, problem: Problem, *, denoising: bool) -> Trainer:
    """Of denoising, or of all others: one program each for all sizes, mixes, decays and numbers of steps."""
    network = network_of(config, problem)
    average = ema.warm_up(config.ema_decay)

    def train(task: Task, key: Key, how: How) -> Params:
        def rate(count: Array) -> Array:
            share = jnp.minimum(count / how.steps, 1.0)
            return config.learning_rate * jnp.minimum(10 * share, 0.5 * (1 + jnp.cos(jnp.pi * share)))

        optimizer = clipped_adamw(rate, how.decay)  # type: ignore[arg-type] - a traced one
        init_key, step_key, row_key = jax.random.split(key, 3)

        def loss(params: Params, teacher: Params, step: Array, key: Key, pixels: Array) -> Array:
            time_key, target_key, dropout_key = jax.random.split(key, 3)
            u = times.stratified(time_key, len(pixels))
            t = times.log_snr_uniform(u, SCHEDULE, t_min=problem.t_min, t_max=problem.t_max).t
            if denoising:
                x, y = problem.target(target_key, pixels, t)
            else:
                known, mix = model(problem, network, task, teacher), how.mix * (step >= config.warm_up)
                x, y = target(problem, target_key, task, known, pixels, t, mix, how.field)
            denoise = model(problem, network, task, params, dropout=dropout_key)
            return regression_loss(denoise, x, y, t, weight=prediction.noise.row).mean()

        step = bootstrap.make_joint_step(loss, optimizer, ema_decay=average)

        shown = jnp.zeros((1, task.pixels.shape[1], problem.num_features))
        state = training.init_state(network.init(init_key, shown, jnp.zeros(1)), optimizer, ema_decay=average)
        return trained(
            step,
            state,
            step_key,
            row_key,
            task.pixels,
            num_rows=task.size,
            batch_size=config.batch_size,
            num_steps=how.steps,
        )

    return jax.jit(train)


def network_of(config: Config, problem: Problem) -> Mixer:
    """The main job's, at this config's size."""
    return Mixer(
        num_outputs=problem.num_outputs,
        channels=config.channels,
        num_blocks=config.num_blocks,
        dropout=config.dropout,
    )


def model(
    problem: Problem, network: Mixer, task: Task, params: Params, *, dropout: Key | None = None
) -> Denoiser:
    """Which knows the levels' frequencies from the task's own images."""
    return make_denoiser(
        quantized.predictor(applied(network, dropout), task.log_prior),
        params,
        SCHEDULE,
        shape=task.pixels.shape[1:],
        scale=problem.scale,
        prediction=problem.prediction,
        t_min=problem.flow_t_min,
        t_max=problem.t_max,
    )


def evaluator(config: Config, problem: Problem) -> Callable[[Task, Key, Params], Array]:
    """``nats(task, key, params)``: means over the held-out images, and the Gaussian's."""
    network = network_of(config, problem)

    def nats(task: Task, key: Key, params: Params) -> Array:
        encode_key, formula_key = jax.random.split(key)
        x = problem.encode(encode_key, problem.test[: config.test_rows])
        density = density_formula(
            formula_key,
            model(problem, network, task, params),
            x,
            evaluations=Evaluations(config.evaluations, reference=task.law),
            start=task.law.perturbed(SCHEDULE, problem.t_max),
            extrapolate=False,
        )
        return jnp.stack([density.value.mean(), task.law.log_prob(x).mean()])

    return jax.jit(nats)


def methods(config: Config, decay: float) -> dict[str, How]:
    """By their names, for one size: denoising first, and last with more steps."""

    def how(mix: float, field: float, steps: float = config.steps) -> How:
        return How(*map(jnp.asarray, (mix, field, decay, round(steps))))

    if config.choosing:
        return {
            f"{ratios.DENOISING}, decay {d:g}": how(0.0, 0.0)._replace(decay=jnp.asarray(d)) for d in DECAYS
        } | {f"{BOOTSTRAPPED}, mix {mix:g}": how(mix, 0.0) for mix in MIXES}
    return {
        ratios.DENOISING: how(0.0, 0.0),
        BOOTSTRAPPED: how(config.mix, 0.0),
        ratios.STABLE: how(0.0, 1.0),
        BOTH: how(config.mix, 1.0),
        ratios.MORE_STEPS: how(0.0, 0.0, config.more_steps * config.steps),
    }


def run(config: Config) -> dict[str, Any]:
    """Every method at every size, seed by seed; and what a bootstrapped step costs."""
    problem = PROBLEMS["digits"]()
    plain, other = (trainer(config, problem, denoising=is_plain) for is_plain in (True, False))
    evaluate, rows = evaluator(config, problem), []
    for size, decay in zip(config.sizes, config.decays, strict=True):
        nats: dict[str, list[np.ndarray]] = {}
        for key in ratios.keys(f"E8, {size}", config.seeds, choosing=config.choosing):
            task_key, train_key, test_key = jax.random.split(key, 3)
            own = task(problem, task_key, size, max(config.sizes))
            for method, how in methods(config, decay).items():
                train = plain if method.startswith(ratios.DENOISING) else other
                value = evaluate(own, test_key, train(own, train_key, how))
                nats.setdefault(method, []).append(pictures.finite("nats", value).astype(np.float64))
        first = np.stack(next(iter(nats.values())))
        for method, values in nats.items():
            value = np.stack(values)
            row = {"size": size, "method": method, "nats": estimates.mean(value[:, 0])}
            row |= {"gaussian": estimates.mean(value[:, 1])}
            rows.append(row | {"gain": estimates.mean(value[:, 0] - first[:, 0])})
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    some = task(problem, jax.random.key(0), config.sizes[0], max(config.sizes))
    return {"config": dataclasses.asdict(config), "rows": rows, "cost": cost(config, some, plain, other)}


def cost(config: Config, task: Task, plain: Trainer, other: Trainer) -> float:
    """Seconds of a step with teacher and field over those of denoising: the median of rounds in turn."""
    steps = min(config.steps, 40)
    how = How(*map(jnp.asarray, (config.mix, 1.0, 1.0, steps)))

    def seconds(train: Trainer) -> float:
        began = time.perf_counter()
        jax.block_until_ready(train(task, jax.random.key(0), how))
        return time.perf_counter() - began

    return float(np.median([seconds(other) / seconds(plain) for _ in range(9 if config.steps > 100 else 3)]))


def table(figures: dict[str, Any]) -> str:
    """A line a method and size."""
    heading = f"{'digits':>6} {'method':24}{'held-out nats':>18}{'less denoising':>18}{'a Gaussian':>12}"
    lines = [heading, *map(_line, figures["rows"])]
    return "\n".join([*lines, f"a step with teacher and field takes {figures['cost']:.2f} of denoising's"])


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['size']:6} {row['method']:24}{show(row['nats'], 2):>18}{show(row['gain'], 2):>18}"
        f"{row['gaussian']['mean']:12.2f}"
    )


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """What each method gains over denoising, against the number of digits."""
    names = list(dict.fromkeys(row["method"] for row in figures["rows"]))
    for name in names[1:]:
        own = [row for row in figures["rows"] if row["method"] == name]
        gain = [row["gain"]["mean"] for row in own]
        spread = [2 * row["gain"]["standard_error"] for row in own]
        axes.errorbar([row["size"] for row in own], gain, spread, marker="o", markersize=4, label=name)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(xscale="log", xlabel="digits", ylabel="nats above denoising", title="held-out digits")
    axes.legend(fontsize="x-small")
