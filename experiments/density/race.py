"""Race: classes that no Gaussians tell apart, by a diffusion model that drops the unlikely ones as they show.

Two problems in which the classes have nearly one mean and one covariance, so that Gaussians fitted to them
say little:

    mixtures   six classes in R^12, each of eight Gaussians whose centres are drawn from one law for all
    digits     scikit-learn's 8 x 8 digits, each turned by an angle of its own, uniform in the circle, with
               noise of a tenth of their standard deviation

A network that hears the class is trained by the formula's weights; its log-densities classify
(`jaxdiff.densities.classifier`), all classes to the end or in a race. Controls: all classes with as many
evaluations as the race took, a network of the same size trained to discriminate, on the same draws, and the
Gaussians. "agreement" is with the answer of the diffusion model at many evaluations of every class.

Expect the race to answer as all classes to the end do, at a fifth of their evaluations, and not to beat a
network that discriminates. MEASURED (`--parts race`, one busy core of an AMD EPYC, jax 0.10.2, 2026-11-29;
485 s):

                                          evaluations    accuracy    agreement    cross-entropy, nats
    mixtures  every class to the end           1,920         .983        1.000        .052 +- .012
              race                               186         .983        1.000        .054 +- .014
              every class, 30 each               180         .978         .989        .065 +- .017
              every class, 100 each              600         .983         .994        .051 +- .012
              a network that discriminates         0         .969                     .129 +- .042
              Gaussians of the classes             0         .839                     .421 +- .044
              Bayes' rule                          0         .992                     .024 +- .010
    digits    every class to the end           3,200         .797        1.000        .612 +- .053
              race                               424         .806         .986        .621 +- .055
              every class, 42 each               420         .800         .947        .618 +- .054
              every class, 100 each            1,000         .800         .975        .611 +- .052
              a network that discriminates         0         .964                     .177 +- .062
              Gaussians of the classes             0         .883                     .551 +- .101

One seed; accuracies have standard errors of .007 (mixtures) and .02 (digits). The race takes a tenth and a
seventh of the evaluations and changes no accuracy; as many, spread evenly, agree less often with the answer
of many. On the mixtures the densities classify as well as a network that discriminates. On the turned
digits they do not: this network, of vectors, has learnt less of them in 4,000 steps than ten Gaussians know,
and a discriminating one of its size is far ahead. There the race is a cheaper way to an answer that is not
good.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.networks import applied
from experiments.optimizers import adamw
from jaxdiff import data
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities.classifier import ClassLogits, class_logits
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.models import ResidualMLP
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras
from jaxdiff.running.progress import Progress
from jaxdiff.typing import Array, Key, Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE, T_MIN, T_MAX = Karras(), 0.01, 10.0
"""Of data of unit standard deviation."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on; chosen with other seeds, on parts of the training split."""

    problems: tuple[str, ...] = ("mixtures", "digits")
    steps: int = 4000
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    dropout: float = 0.1
    width: int = 128
    num_blocks: int = 2
    num_train: int = 8000  # of the mixtures
    rows: int = 360
    evaluations: int = 320  # of a class, the most in the race
    margin: float = 3.0
    seed: int = 0


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        problems=("mixtures",), steps=50, width=32, num_blocks=1, num_train=600, rows=36, evaluations=40
    )


class Problem(NamedTuple):
    """Points of unit standard deviation and their classes."""

    train: Array
    labels: Array
    test: Array
    test_labels: np.ndarray
    num_classes: int
    laws: Labelled | None
    """The truth, if it is known."""


def run(config: Config) -> dict[str, Any]:
    """A row of figures for each problem and way."""
    problems = {"mixtures": mixtures, "digits": turned_digits}
    rows = [
        {"problem": name, **row} for name in config.problems for row in _judge(config, problems[name](config))
    ]
    return {"config": dataclasses.asdict(config), "rows": rows}


def table(figures: dict[str, Any]) -> str:
    """A line for each way."""
    lines = [f"{'':38}{'evaluations':>12}{'accuracy':>10}{'agreement':>11}{'cross-entropy, nats':>25}"]
    lines += [
        f"{row['problem']:10}{row['method']:28}{row['evaluations']:12.0f}{row['accuracy']:10.4f}"
        f"{row['agreement']:11.4f}{row['cross_entropy']:15.4f} +- {row['cross_entropy_standard_error']:.4f}"
        for row in figures["rows"]
    ]
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Accuracy against evaluations, a marker for each way."""
    for row in figures["rows"]:
        axes.plot(
            max(row["evaluations"], 10),
            row["accuracy"],
            "o" if row["problem"] == "digits" else "s",
            label=f"{row['problem']}: {row['method']}",
        )
    axes.set(xscale="log", xlabel="evaluations of a row", ylabel="accuracy", title="Race of classes")
    axes.legend(fontsize=5)


def _judge(config: Config, problem: Problem) -> list[dict[str, Any]]:
    num_classes, x = problem.num_classes, problem.test
    denoise, discriminate = fit(config, problem), fit_discriminative(config, problem)
    gaussians = _gaussians(problem)

    def classify(number: int, margin: float | None = None) -> Callable[[], ClassLogits]:
        return lambda: class_logits(
            jax.random.key(config.seed + 4),
            denoise,
            x,
            Evaluations(number),
            num_classes=num_classes,
            margin=margin,
        )

    everything = classify(config.evaluations)()
    race = classify(config.evaluations, config.margin)()
    equal = max(20, int(race.num_evaluations.mean()) // num_classes)
    ways: dict[str, tuple[Array, float]] = {
        "every class to the end": (everything.value, num_classes * config.evaluations),
        "race": (race.value, float(race.num_evaluations.mean())),
    }
    for n in sorted({20, equal, 100} & set(range(config.evaluations))):
        ways[f"every class, {n} each"] = (classify(n)().value, num_classes * n)
    ways["a network that discriminates"] = (discriminate(x), 0)
    ways["Gaussians of the classes"] = (_log_densities(gaussians, x), 0)
    if problem.laws is not None:
        ways["Bayes' rule"] = (_log_densities(problem.laws, x), 0)
    best = np.asarray(everything.value).argmax(1)
    return [
        {"method": name, "evaluations": evaluations, **_figures(logits, problem.test_labels, best)}
        for name, (logits, evaluations) in ways.items()
    ]


def _figures(logits: Array, labels: np.ndarray, best: np.ndarray) -> dict[str, float]:
    values = np.asarray(logits, np.float64)
    loss = np.logaddexp.reduce(values, axis=1) - values[np.arange(len(labels)), labels]
    return {
        "accuracy": float((values.argmax(1) == labels).mean()),
        "agreement": float((values.argmax(1) == best).mean()),
        "cross_entropy": float(loss.mean()),
        "cross_entropy_standard_error": float(loss.std(ddof=1) / len(loss) ** 0.5),
    }


def mixtures(config: Config, num_classes: int = 6, d: int = 12, parts: int = 8) -> Problem:
    """Classes whose centres are drawn from one law."""
    law_key, train_key, test_key = jax.random.split(jax.random.key(config.seed + 1), 3)

    def law(key: Key) -> GaussianMixture:
        mean_key, variance_key = jax.random.split(key)
        means = 0.9 * jax.random.normal(mean_key, (parts, d))
        variances = jax.random.uniform(variance_key, (parts, d), minval=0.05, maxval=0.6)
        return GaussianMixture(jnp.full(parts, 1 / parts), means, variances)

    laws = [law(key) for key in jax.random.split(law_key, num_classes)]

    def points(key: Key, n: int) -> tuple[Array, np.ndarray]:
        keys = jax.random.split(key, num_classes)
        x = jnp.concatenate([one.sample(k, n // num_classes) for one, k in zip(laws, keys, strict=True)])
        return x, np.repeat(np.arange(num_classes), n // num_classes)

    train, labels = points(train_key, config.num_train)
    test, test_labels = points(test_key, config.rows)
    std = float(train.std())
    scaled = Labelled([one.affine(1 / std, 0.0) for one in laws])
    return Problem(train / std, jnp.asarray(labels), test / std, test_labels, num_classes, scaled)


def turned_digits(config: Config, copies: int = 16) -> Problem:
    """Every image turned by some angles, and noise of a tenth of the standard deviation."""
    split = data.digits()
    turn_key, test_key = jax.random.split(jax.random.key(config.seed + 2))
    pixels = jnp.asarray(split.train, jnp.float32).reshape(-1, 8, 8) / 16
    test = jnp.asarray(split.test[: config.rows], jnp.float32).reshape(-1, 8, 8) / 16
    train = _turned(turn_key, jnp.tile(pixels, (copies, 1, 1)))
    mean, std = train.mean(0), float(train.std())

    def finished(key: Key, images: Array) -> Array:
        return (images - mean[None]) / std + 0.1 * jax.random.normal(key, images.shape)

    return Problem(
        finished(turn_key, train),
        jnp.tile(jnp.asarray(split.train_labels), copies),
        finished(test_key, _turned(test_key, test)),
        np.asarray(split.test_labels[: config.rows]),
        10,
        None,
    )


@jax.jit
def _turned(key: Key, images: Array) -> Array:
    """Images (n, 8, 8) turned about their middle, as vectors."""
    grid = jnp.stack(jnp.meshgrid(jnp.arange(8) - 3.5, jnp.arange(8) - 3.5, indexing="ij"))

    def one(angle: Array, image: Array) -> Array:
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
        places = jnp.einsum("ij,jkl->ikl", turn, grid) + 3.5
        return jax.scipy.ndimage.map_coordinates(image, list(places), order=1).ravel()

    return jax.vmap(one)(jax.random.uniform(key, (len(images),), maxval=2 * jnp.pi), images)


def fit(config: Config, problem: Problem) -> Denoiser:
    """A denoiser given the class."""
    network = _network(config, problem.num_classes)

    def model(params: Params, dropout: Key | None = None) -> Denoiser:
        return make_denoiser(
            applied(network, dropout),
            params,
            SCHEDULE,
            shape=problem.train.shape[1:],
            scale=1.0,
            prediction=prediction.EDM(),
            t_min=T_MIN,
            t_max=T_MAX,
        )

    def loss(params: Params, key: Key, batch: tuple[Array, Array]) -> Array:
        x, labels = batch
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        u = times.stratified(time_key, len(x))
        t = times.log_snr_uniform(u, SCHEDULE, t_min=T_MIN, t_max=T_MAX).t
        x_t, target = denoising_target(noise_key, SCHEDULE, x, t)
        denoise = model(params, dropout_key).given(labels)
        return regression_loss(denoise, x_t, target, t, weight=prediction.noise.row).mean()

    inputs = problem.train[:1], jnp.zeros(1), problem.labels[:1]
    params = jax.jit(network.init)(jax.random.key(config.seed + 3), *inputs)
    return model(_trained(config, problem, loss, params))


def fit_discriminative(config: Config, problem: Problem) -> Callable[[Array], Array]:
    """Logits of a network of the same width and depth that is shown no noise level and no class."""
    network = _network(config, None)
    head = 0.01 * jax.random.normal(
        jax.random.key(config.seed + 5), (problem.train.shape[1], problem.num_classes)
    )
    inputs = problem.train[:1], jnp.zeros(1)
    params = {"network": jax.jit(network.init)(jax.random.key(config.seed + 3), *inputs), "head": head}

    def logits(params: Params, x: Array, dropout: Key | None = None) -> Array:
        return (x + applied(network, dropout)(params["network"], x, jnp.zeros(len(x)))) @ params["head"]

    def loss(params: Params, key: Key, batch: tuple[Array, Array]) -> Array:
        x, labels = batch
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, x, key), labels).mean()

    params = _trained(config, problem, loss, params)
    return functools.partial(jax.jit(logits), params)


def _network(config: Config, num_classes: int | None) -> ResidualMLP:
    return ResidualMLP(
        width=config.width, num_blocks=config.num_blocks, dropout=config.dropout, num_classes=num_classes
    )


def _trained(
    config: Config, problem: Problem, loss: Callable[[Params, Key, Any], Array], params: Params
) -> Params:
    print("race: training", file=sys.stderr)
    optimizer = adamw(config.learning_rate, config.steps, config.weight_decay)
    decay = ema.warm_up(0.998)

    def draw_batch(rows: tuple[Array, Array], key: Key) -> tuple[Array, Array]:
        return data.batch(key, rows, config.batch_size)

    with Progress(config.steps) as progress:
        state = training.train(
            jax.random.key(config.seed + 6),
            jax.jit(lambda params: training.init_state(params, optimizer, ema_decay=decay))(params),
            training.make_train_step(loss, optimizer, ema_decay=decay),
            jax.tree_util.Partial(draw_batch, (problem.train, problem.labels)),
            num_steps=config.steps,
            report=progress,
        )
    return training.averaged(state)


def _gaussians(problem: Problem) -> Labelled:
    """Fitted to the classes, with a hundredth added to the variances."""
    laws = []
    for label in range(problem.num_classes):
        own = np.asarray(problem.train, np.float64)[np.asarray(problem.labels) == label]
        covariance = np.cov(own.T) + 0.01 * np.eye(own.shape[1])
        laws.append(Gaussian(jnp.asarray(own.mean(0), jnp.float32), jnp.asarray(covariance, jnp.float32)))
    return Labelled(laws)


@jax.jit
def _log_densities(laws: Labelled, x: Array) -> Array:
    """log p(x | c) for each row and class, (batch, classes)."""
    return jax.vmap(lambda label: laws.law(label).log_prob(x))(jnp.arange(laws.num_labels)).T
