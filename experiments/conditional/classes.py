"""Digits of a wished class: what guidance does to them, and what it costs in spread.

The network of the noised digits and their class (`experiments.density.classifier`), trained here on each
digit twice, with its class and with an eleventh label that says nothing, so that it answers both that
classifier-free guidance needs. Each way draws an image for every test label. Judged by the share of them
whose nearest training image is of the wished class; by the distance of pairs within a class over that of test
images, which is 1 for the right spread; and by a classifier that is trained to tell them from test images, of
which 0.5 is none.

Beside guidance by a scale: the same in a middle interval of noise, or rescaled; the network's denoiser of no
class, guided by the gradient of log p(class | E[data | x_t]) of the classes' Gaussians; particles of weights
that make guidance exact for its tilt p(x | c)^w p(x)^(1 - w); the class's Gaussian, without a network; and
training images.

Expect a larger scale to make classes surer and narrower, and particles to be as sure and less narrow.

MEASURED (`python -m experiments.conditional --parts classes`, a share of two busy cores of an AMD EPYC, jax
0.10.2, 2026-11-29), 360 images, 3 draws of one network, 40 calls:

                              right class       spread            told from test images
    scale 1                   .970 +- .005      1.058 +- .010     .560 +- .011
    scale 1.5                 .996 +- .002      1.136 +- .018     .567 +- .014
    scale 2                  1.000              1.314 +- .027     .644 +- .003
    scale 4                   .996 +- .002      3.407 +- .111     .909 +- .009
    scale 4, in the middle    .998 +- .001      2.316 +- .070     .813 +- .003
    scale 4, rescaled        1.000              1.502 +- .031     .926 +- .014
    gradient of a classifier  .795 +- .008      1.157 +- .001     .662 +- .012
    particles of scale 1.5    .996 +- .002      1.202 +- .031     .838 +- .017
    particles of scale 2      .995 +- .005       .725 +- .058     .990 +- .002
    their Gaussians, 4        .994 +- .002      3.654 +- .113     .930 +- .002
    the classes' Gaussians    .979 +- .002      1.213 +- .001     .849 +- .038
    training images          1.000               .964 +- .004     .531 +- .005

So expectation was wrong: guidance makes classes surer and wider. Between the Gaussians of a class and of all
digits it ends at s_c^w s_u^(1 - w), which explodes where a class varies more than all do, and without a
network it is as wide. A scale of 1.5 costs nothing that the classifier sees; 200 particles of 64 numbers are
too few, for copies of a few are left.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density import classifier, classifier_network
from experiments.estimates import mean, show
from jaxdiff import data, particles, pytree
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.guidance.classifier_free import guided
from jaxdiff.guidance.tilted import rewarded
from jaxdiff.laws import metrics
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.sampling.driver import sample
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES = classifier_network.CLASSES
JUDGES = ("right", "spread", "classifier")


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    model: classifier.Config = dataclasses.field(default_factory=classifier.Config)
    scales: tuple[float, ...] = (1.0, 1.5, 2.0, 4.0)
    strong: float = 4.0  # in an interval, and rescaled
    middle: tuple[float, float] = (0.2, 0.8)  # times; of `Cosine` noise is a third and three times the data's
    particle_scales: tuple[float, ...] = (1.5, 2.0)
    particles: int = 200  # of a class
    calls: int = 40
    draws: int = 3
    classifier_steps: int = 1000
    shown: int = 12


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        model=classifier.smoke(), scales=(3.0,), strong=3.0, particle_scales=(), calls=8,
        draws=2, classifier_steps=2, shown=4,
    )  # fmt: skip


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class _LogPosterior:
    """log p(label | data) by the laws of the classes, a reward."""

    laws: Labelled
    labels: Array

    def __call__(self, x: Array) -> Array:
        logs = jax.vmap(lambda label: self.laws.law(label).log_prob(x))(jnp.arange(CLASSES)).T
        return jnp.take_along_axis(jax.nn.log_softmax(logs), self.labels[:, None], axis=1)[:, 0]


def run(config: Config) -> dict[str, Any]:
    """Judgements by row, means over draws, of one network; and some images."""
    pixels, labels, test_pixels, test_labels = classifier.split_digits(config.model)
    laws = classifier.class_gaussians(config.model, pixels, labels)
    key, encode_key, test_key = jax.random.split(jax.random.key(0), 3)
    encode = functools.partial(data.dequantize, levels=classifier_network.LEVELS)
    train, test = encode(encode_key, pixels), encode(test_key, test_pixels)
    centred = train - train.mean(0)[None]
    spread = centred.T @ centred / len(train) + config.model.covariance_floor * jnp.eye(train.shape[1])
    laws = Labelled([*(laws.law(jnp.asarray(c)) for c in range(CLASSES)), Gaussian(train.mean(0), spread)])
    denoise = classifier_network.fit(
        config.model,
        jnp.concatenate([pixels, pixels]),
        jnp.concatenate([labels, jnp.full(len(labels), CLASSES)]),
        laws,
    )
    wanted = jnp.asarray(test_labels)
    rows, shown = [], {}
    for name, way in _ways(config, denoise, laws, train, labels, wanted).items():
        found = []
        for i in range(config.draws):
            x = way(jax.random.fold_in(key, i))
            found.append(_judge(config, jax.random.fold_in(test_key, i), x, wanted, test, train, labels))
            shown.setdefault(name, np.asarray(x)[_places(test_labels, config.shown)].round(3).tolist())
        rows.append({"name": name, **dict(zip(JUDGES, map(mean, zip(*found, strict=True)), strict=True))})
    return {"config": dataclasses.asdict(config), "rows": rows, "shown": shown}


def _ways(
    config: Config, denoise: Denoiser, laws: Labelled, train: Array, labels: Array, wanted: Array
) -> dict[str, Callable[[Key], Array]]:
    """An image for each wanted label, by key."""
    n = len(wanted)
    none = denoise.given(jnp.full(n, CLASSES))
    guide = functools.partial(guided, denoise.given(wanted), unconditional=none)

    of_laws = laws.denoiser(denoise.schedule)
    simple = guided(of_laws.given(wanted), config.strong, unconditional=of_laws.given(jnp.full(n, CLASSES)))

    def drawn(model: Denoiser) -> Callable[[Key], Array]:
        return lambda key: sample(key, model, n, num_steps=config.calls)

    ways = {f"scale {scale}": drawn(guide(scale)) for scale in config.scales}
    ways[f"scale {config.strong}, in the middle"] = drawn(guide(config.strong, interval=config.middle))
    ways[f"scale {config.strong}, rescaled"] = drawn(guide(config.strong, rescale=0.7))
    ways["gradient of a classifier"] = drawn(rewarded(none, _LogPosterior(laws, wanted)))
    for scale in config.particle_scales:
        ways[f"particles of scale {scale}"] = functools.partial(_weighed, config, denoise, wanted, scale)

    def training_images(key: Key) -> Array:
        return train[jax.random.categorical(key, jnp.where(labels[None] == wanted[:, None], 0.0, -jnp.inf))]

    ways[f"their Gaussians, scale {config.strong}"] = drawn(simple)
    ways["the classes' Gaussians"] = lambda key: laws.given(wanted).sample(key, n)
    return ways | {"training images": training_images}


def _weighed(config: Config, denoise: Denoiser, wanted: Array, scale: float, key: Key) -> Array:
    """Particles for each class, from which its rows are drawn."""
    n = config.particles

    @jax.jit
    def of(key: Key, label: Array) -> Array:
        run_key, key = jax.random.split(key)
        parts = [denoise.given(jnp.full(n, 1) * c) for c in (label, CLASSES)]
        process = particles.Composed(parts, [scale, 1 - scale])
        got = particles.run(run_key, process, n, groups=1, num_steps=config.calls)
        return got.x[0][jax.random.categorical(key, got.log_weights[0], shape=(len(wanted),))]

    drawn = jnp.stack([of(jax.random.fold_in(key, c), jnp.asarray(c)) for c in range(CLASSES)])
    return drawn[wanted, jnp.arange(len(wanted))]


def _judge(
    config: Config, key: Key, x: Array, wanted: Array, test: Array, train: Array, labels: Array
) -> tuple[float, float, float]:
    nearest = labels[jnp.argmin(jnp.sum((x[:, None] - train[None]) ** 2, axis=-1), axis=1)]
    told = metrics.classifier_two_sample_test(key, x, test, num_steps=config.classifier_steps)
    return (
        float((nearest == wanted).mean()),
        _apart(x, wanted) / _apart(test, wanted),
        float(told.value),
    )


def _apart(x: Array, wanted: Array) -> float:
    """Mean distance of pairs of one class."""
    distances = jnp.sqrt(jnp.sum((x[:, None] - x[None]) ** 2, axis=-1))
    pairs = (wanted[:, None] == wanted[None]) & ~jnp.eye(len(x), dtype=bool)
    return float(jnp.sum(jnp.where(pairs, distances, 0.0)) / jnp.sum(pairs))


def _places(labels: np.ndarray, number: int) -> np.ndarray:
    """Of test labels in the order of classes, so many."""
    return np.argsort(labels, kind="stable")[:: max(len(labels) // number, 1)][:number]


def table(figures: dict[str, Any]) -> str:
    """A row for each way to draw."""
    lines = [f"{'':34}{'right class':>18}{'spread':>18}{'told from test':>18}"]
    lines += [
        f"{row['name']:34}" + "".join(f"{show(row[j], 3):>18}" for j in JUDGES) for row in figures["rows"]
    ]
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """A row of images for each way, in the order of classes."""
    shown = figures["shown"]
    picture = np.concatenate(
        [np.concatenate([np.pad(np.reshape(x, (8, 8)), 1) for x in own], axis=1) for own in shown.values()]
    )
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    axes.set_yticks(10 * np.arange(len(shown)) + 4.5, list(shown), fontsize=5)
    axes.set_xticks([])
    axes.set_title("digits given their class")
