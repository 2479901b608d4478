"""Classifier: class posteriors from a diffusion model, with the right weights and with those in use.

By the density formula, log p(x | c) - log p(x | c') = (1/2) int E[|r_c'|^2 - |r_c|^2] dlambda, r_c the error
of class c's denoiser (`jaxdiff.densities.classifier`). Diffusion classifiers (Li et al. 2023, arXiv
2303.16203) take softmax_c(-E|r_c|^2) with times uniform under the training schedule: no density, whatever its
scale.

*Mixtures.* Six classes in R^20, each of two Gaussians, with exact denoisers, so that everything is known:
which class Bayes' rule chooses, and its posterior. Three estimates of the same number of evaluations for each
class: the formula with the noise and the levels shared among the classes; the formula with noise of its own
for each class, which must find the log-densities one by one (`density_formula`); and weights uniform in the
time of DDPM's schedule, with shared noise.

*Digits.* scikit-learn's 8 x 8 digits, dequantized. A network that hears the class learns, by the formula's
weights, what a Gaussian fitted to each class leaves over; these Gaussians are the references of the formula
too. The test images are classified by the network with the formula, with and without the references and by
a race of classes; with weights uniform in the time of the cosine schedule (at the data's scale); and by
the densities of the Gaussians alone.

Expect the formula to agree with Bayes' rule on .99 of the points, with a divergence under .01 nats, from 100
evaluations of a class. Noise of its own costs little, since `density_formula` has taken out by its reference
what classes have in common. Uniform weights choose as well, but their softmax is no posterior, and at no
scale do their differences become log-ratios.

MEASURED, mixtures (a core of an AMD EPYC, jax 0.10.2, 2026-11-29; 140 s with the digits); Bayes'
rule is right on .992; the last column is at the best of all scales:

                 evaluations    accuracy    agreement    KL, nats    RMSE of log-ratios    at a scale
    formula           20          .991        .997         .0074            3.25              3.21
                     100          .992        .998         .0008             .63               .63
                     300          .992       1.000         .0002             .27               .27
    own noise         20          .988        .994         .0080            2.92              2.91
                     100          .990        .998         .0007             .64               .64
                     300          .991        .999         .0002             .28               .28
    uniform           20          .984        .991         .5042           24.0               8.76
                     100          .990        .996         .4554           24.0               2.86
                     300          .992        .998         .4524           24.0               1.68

A race spends 4 times fewer at equal agreement: on two other draws of the classes, on which margins of 2, 3
and 4 were tried, at most 320 evaluations of a class and a margin of 3 (jax 0.10.2, 2026-11-28), beside all
classes to the end,

                   evaluations of a point    agreement    KL, nats      evaluations    agreement    KL, nats
    race                    152                1.000        .0019           140           .996        .0021
    all classes             240                 .992        .0050           240           .992        .0047
                            600                1.000        .0021           600           .996        .0009
                           1920                1.000        .0002          1920           .996        .0002

MEASURED, digits, the 360 test images (the same run, training included); the race beside all classes to the
end:

                                evaluations of an image    accuracy    cross-entropy, nats
    formula                              1000                .989          .023 +- .011
    formula, race                         201                .989          .025 +- .012
    formula, no references               1000                .986          .021 +- .010
    uniform weights                      1000                .986          .041 +- .007
    Gaussians of the classes                0                .992          .029 +- .018

The Gaussians alone do as well, so these digits say nothing of the network; `experiments.density.race` has
digits turned by any angle, for which the Gaussians of the classes fail.
"""

import dataclasses
import math
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density.classifier_network import CLASSES, LEVELS, fit
from jaxdiff import data
from jaxdiff._numerics import low_discrepancy
from jaxdiff._numerics.chunks import BYTES_PER_CALL
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.densities.classifier import class_logits
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.process import perturb
from jaxdiff.noising.schedules import VariancePreserving
from jaxdiff.typing import Array, Key, Time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DDPM = VariancePreserving()


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on; found on a validation part of the training split, never on the test split."""

    evaluations: tuple[int, ...] = (20, 100, 300)
    """For each class of the mixtures."""
    num_classes: int = 6
    dimension: int = 20
    spread: float = 0.3  # of the classes' centres
    points: int = 240
    repeats: int = 4  # with other noise
    steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.5  # on matrices, times the learning rate
    dropout: float = 0.1
    width: int = 128
    num_blocks: int = 2
    ema_decay: float = 0.998
    covariance_floor: float = 0.02  # on the eigenvalues of the classes' Gaussians
    t_min: float = 0.017
    t_max: float = 0.97  # where the noise is 20 times the data
    test_t_min: float = 0.005
    test_rows: int = 360
    digit_evaluations: int = 100  # for each class
    margin: float = 3.0  # of a race
    validation: bool = False  # learn and judge on parts of the training split


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        evaluations=(100,),
        repeats=1,
        steps=20,
        width=16,
        num_blocks=1,
        test_rows=60,
        digit_evaluations=40,
    )


def run(config: Config) -> dict[str, Any]:
    """Accuracy, agreement with Bayes' rule, divergence from its posterior and errors of log-ratios."""
    return {
        "config": dataclasses.asdict(config),
        "mixtures": run_mixtures(config),
        "digits": run_digits(config),
    }


def table(figures: dict[str, Any]) -> str:
    """A line for each estimator of either part."""
    lines = [
        "mixtures     evaluations  accuracy  agreement  KL, nats  RMSE of log-ratios  after a best scale"
    ]
    for row in figures["mixtures"]:
        if row["estimator"] == "Bayes":
            lines.append(f"{'Bayes':24}{row['accuracy']:10.4f}")
        else:
            lines.append(
                f"{row['estimator']:13}{row['evaluations']:11}{row['accuracy']:10.4f}{row['agreement']:11.4f}"
                f"{row['divergence']:10.4f}{row['error']:20.3f}{row['scaled_error']:20.3f}"
            )
    lines.append("\ndigits                          evaluations of an image  accuracy  cross-entropy, nats")
    lines += [
        f"{row['method']:32}{row['evaluations']:23.0f}{row['accuracy']:10.4f}{row['cross_entropy']:13.4f} +- "
        f"{row['cross_entropy_standard_error']:.4f}"
        for row in figures["digits"]
    ]
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """The divergence from the exact posterior against evaluations, a line for each estimator."""
    rows = [row for row in figures["mixtures"] if "divergence" in row]
    for name in dict.fromkeys(row["estimator"] for row in rows):
        own = [row for row in rows if row["estimator"] == name]
        axes.plot(
            [row["evaluations"] for row in own], [row["divergence"] for row in own], marker="o", label=name
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(xlabel="evaluations for each class", ylabel="KL(posterior ‖ estimate), nats", title="Classifier")
    axes.legend(fontsize="x-small")


def run_mixtures(config: Config) -> list[dict[str, Any]]:
    """Rows of figures, one for each estimator and number of evaluations."""
    law_key, data_key, key = jax.random.split(jax.random.key(0), 3)
    count, each = config.num_classes, config.points // config.num_classes
    laws = Labelled([_class_law(config, key) for key in jax.random.split(law_key, count)])
    keys = jax.random.split(data_key, count)
    x = jnp.concatenate([laws.law(label).sample(key, each) for label, key in enumerate(keys)])
    labels, denoise = np.repeat(np.arange(count), each), laws.denoiser(DDPM)
    truth = np.asarray(_log_densities(laws, x), np.float64)

    def shared(key: Key, n: int) -> Array:
        return class_logits(key, denoise, x, num_classes=count, evaluations=Evaluations(n)).value

    def own_noise(key: Key, n: int) -> Array:
        def of_class(label: Array, key: Key) -> Array:
            return density_formula(key, denoise.given(label), x, evaluations=Evaluations(n)).value

        return jax.vmap(of_class)(jnp.arange(count), jax.random.split(key, count)).T

    def uniform(key: Key, n: int) -> Array:
        return uniform_logits(key, denoise, x, num_classes=count, num_evaluations=n, t_min=0.0, t_max=1.0)

    rows = []
    for name, estimate in (("formula", shared), ("own noise", own_noise), ("uniform", uniform)):
        for n in config.evaluations:
            print(f"classifier: {name}, {n} evaluations", file=sys.stderr)
            call = jax.jit(lambda keys, f=estimate, n=n: jax.lax.map(lambda key: f(key, n), keys))
            logits = np.asarray(call(jax.random.split(key, config.repeats)), np.float64)
            rows.append({"estimator": name, "evaluations": n, **_compare(logits, truth, labels)})
    return [*rows, {"estimator": "Bayes", "accuracy": float((truth.argmax(1) == labels).mean())}]


def uniform_logits(
    key: Key,
    denoise: Denoiser,
    x: Array,
    *,
    num_classes: int,
    num_evaluations: int,
    t_min: Time | None = None,
    t_max: Time | None = None,
) -> Array:
    """-E|r_c|^2 over times uniform in [t_min, t_max], shape (batch, num_classes), with shared noise.

    By default all of the denoiser's working range.
    """
    low, high = denoise.working_range
    t_min, t_max = low if t_min is None else t_min, high if t_max is None else t_max

    def of_class(label: Array) -> Array:
        own = denoise.given(label)

        def integrand(rows: Array, noise: Array, _: Array, v: Array) -> Array:
            t = t_min + (t_max - t_min) * v
            x_t = jax.vmap(lambda x, noise, t: perturb(own.schedule, x, noise, t))(x[rows], noise, t)
            return -jnp.sum((noise - own(x_t, t).noise) ** 2, axis=1)

        return low_discrepancy.mean(key, x, integrand, num_evaluations, BYTES_PER_CALL // num_classes)[0]

    return jax.vmap(of_class)(jnp.arange(num_classes)).T


def run_digits(config: Config) -> list[dict[str, Any]]:
    """Rows of figures, one for each way to classify the test images."""
    train, train_labels, pixels, labels = split_digits(config)
    laws = class_gaussians(config, train, train_labels)
    denoise = fit(config, train, train_labels, laws)
    x, n = data.dequantize(jax.random.key(3), pixels, levels=LEVELS), config.digit_evaluations

    def formula(references: Labelled, margin: float | None = None) -> tuple[Array, float]:
        answer = class_logits(
            jax.random.key(4),
            denoise,
            x,
            num_classes=CLASSES,
            evaluations=Evaluations(n),
            margin=margin,
            references=references,
        )
        return answer.value, float(answer.num_evaluations.mean())

    @jax.jit
    def uniform(denoise: Denoiser) -> Array:
        return uniform_logits(jax.random.key(4), denoise, x, num_classes=CLASSES, num_evaluations=n)

    one_for_all = Labelled([laws.law(0)] * CLASSES)
    rows = []
    for name, classify in (
        ("formula", lambda: formula(laws)),
        ("formula, race", lambda: formula(laws, config.margin)),
        ("formula, no references", lambda: formula(one_for_all)),
        ("uniform weights", lambda: (uniform(denoise), CLASSES * n)),
        ("Gaussians of the classes", lambda: (_log_densities(laws, x), 0)),
    ):
        print(f"classifier: digits, {name}", file=sys.stderr)
        logits, evaluations = classify()
        loss = -_log_softmax(np.asarray(logits, np.float64))
        own = loss[np.arange(len(labels)), labels]
        rows.append(
            {
                "method": name,
                "evaluations": evaluations,
                "accuracy": float((loss.argmin(1) == labels).mean()),
                "cross_entropy": float(own.mean()),
                "cross_entropy_standard_error": float(own.std(ddof=1) / len(own) ** 0.5),
            }
        )
    return rows


def split_digits(config: Config) -> tuple[Array, Array, Array, np.ndarray]:
    """Pixels and labels to learn from, and to judge by."""
    train, test, train_labels, test_labels = data.digits()
    if config.validation:
        order = np.random.default_rng(0).permutation(len(train))
        held, kept = order[: len(order) // 5], order[len(order) // 5 :]
        test, test_labels = train[held], train_labels[held]
        train, train_labels = train[kept], train_labels[kept]
    rows = slice(config.test_rows)
    return (
        jnp.asarray(train, jnp.int32),
        jnp.asarray(train_labels, jnp.int32),
        jnp.asarray(test[rows], jnp.int32),
        test_labels[rows],
    )


def class_gaussians(config: Config, pixels: Array, labels: Array) -> Labelled:
    """A Gaussian for each class, its eigenvalues raised by config.covariance_floor."""
    x = data.dequantize(jax.random.key(0), pixels, levels=LEVELS)

    @jax.jit
    def one(label: Array) -> Gaussian:
        weights = (labels == label) / jnp.sum(labels == label)
        mean = weights @ x
        centred = (x - mean[None]) * jnp.sqrt(weights)[:, None]
        return Gaussian(mean, centred.T @ centred + config.covariance_floor * jnp.eye(x.shape[1]))

    return Labelled([one(jnp.asarray(label)) for label in range(CLASSES)])


def _class_law(config: Config, key: Key) -> GaussianMixture:
    """Two Gaussians of diagonal covariances near one centre."""
    centre_key, mean_key, variance_key = jax.random.split(key, 3)
    shape = (2, config.dimension)
    centre = config.spread * jax.random.normal(centre_key, shape[1:])
    means = centre[None] + 0.4 * jax.random.normal(mean_key, shape)
    low, high = math.log(0.1), 0.0
    variances = jnp.exp(jax.random.uniform(variance_key, shape, minval=low, maxval=high))
    return GaussianMixture(jnp.full(2, 0.5), means, variances)


@jax.jit
def _log_densities(laws: Labelled, x: Array) -> Array:
    """log p(x | c) for each row and class, (batch, classes)."""
    return jax.vmap(lambda label: laws.law(label).log_prob(x))(jnp.arange(laws.num_labels)).T


def _compare(logits: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Figures of logits (repeats, points, classes) beside the log-densities, over repeats and points."""
    posterior, best = _log_softmax(truth), truth.argmax(1)
    choice = logits.argmax(2)
    given = np.broadcast_to(best[None, :, None], (*choice.shape, 1))
    ratios = logits - np.take_along_axis(logits, given, 2)
    wanted = np.broadcast_to(truth - truth.max(1, keepdims=True), ratios.shape)
    scale = (ratios * wanted).sum() / (ratios**2).sum()
    number = ratios.size - choice.size  # without the best class, whose ratio is 1
    return {
        "accuracy": float((choice == labels).mean()),
        "agreement": float((choice == best).mean()),
        "divergence": float((np.exp(posterior) * (posterior - _log_softmax(logits))).sum(2).mean()),
        "error": float(np.sqrt(((ratios - wanted) ** 2).sum() / number)),
        "scaled_error": float(np.sqrt(((scale * ratios - wanted) ** 2).sum() / number)),
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
