"""Images of 8 x 8 pixels: digits, with the quantization head and without it, and patches of photographs.

    digits     scikit-learn's, x = (pixel + u) / 17 in [0, 1]^64, nats of x; 1,437 training and 360 test
    patches    of the seven photographs that ship with scikit-learn and scikit-image, grey, by the recipe of
               BSDS300 (Uria, Murray & Larochelle 2013; Zoran & Weiss 2011): (pixel + u) / 256, without its
               mean over the patch, and without the last pixel, which the others then determine; 63 numbers

The denoiser without a head is one of EDM's prediction over a *reference*, the Gaussian that stands beside it:
the network learns what the Gaussian leaves over. A second table is of the same ways, all of them shown every
entry mapped to a normal one by its own histogram (`margins`), which is no more than a change of variables.
With the head (`jaxdiff.denoising.quantized`) it is that of `experiments.quickstart`; beside it FlowJAX's
flows with the same head (`flows`), since that is where the nats of digits are: the levels themselves are
known.

Flows are stopped by a tenth of the training rows, which all the others leave aside too (but for the denoiser
with the head, whose histogram has them).

MEASURED of digits (`--parts digits`, one busy core of an AMD EPYC, jax 0.10.2, FlowJAX 19.1.2, 2026-11-30;
20 s of processor time a way, 3 seeds), nats:

                                 without a head    by normal margins    with the quantization head
    denoiser                                                                     98.6 +- .2
    denoiser over a Gaussian         95.4 +- .5        99.5 +- .2
    mixture of 10                    56.5 +- .5        88.2 +- .4
    Gaussian                         49.2 +- .1        85.2 +- .0
    FlowJAX, coupling                87.7 +- .1        95.1 +- .1                91.4 +- .0
    FlowJAX, autoregressive          90.6 +- .1        96.9 +- .2                95.8 +- .1

Over images the standard error is .5 to 1.4. The middle column is of a run of that block alone, after its
rate was chosen: at the 3e-3 of the first column, on a busier core (11,700 steps, not 17,000), 97.3 +- .6.
Without a head the day before it was 89.1 and 94.6, and below the autoregressive flow: over ten Gaussians in
place of one, with 32 channels in three blocks, at 2e-3 and by batches of 32. On validation images (seed 7,
without a head, a core to itself): 93.2 of that, 95.7 with two blocks and 4e-3, 97.4 over one Gaussian, 98.8
with 24 channels and batches of 16; twice that rate 92.4. Three other settings of the autoregressive flow,
of rate, layers and width, have 91.9 to 92.7 there, the table's 92.7. By normal margins the network learns
nothing at 4e-3 in batches of 32 (87.1, the Gaussian 86.6; at 2e-3 98.3). **Normal margins** (`margins`) are
worth much by themselves: one Gaussian of them, fitted in no time, has 85.2, and they give flows, and the
denoiser, more than the head does. The main job's 100.2 are of two minutes on two cores and of all training
images.

MEASURED of patches (`--parts patches`, the same machine and day, 20 s, 3 seeds; over patches the standard
error is 2.1 to 3.0), nats in 63 dimensions:

    denoiser over a Gaussian     196.0 +- .1
    mixture of 30                189.0 +- 1.2
    Gaussian                     104.9
    FlowJAX, coupling            187.6 +- .1
    FlowJAX, autoregressive      186.0 +- .2

Over the mixture, whose fit takes 14 of the 20 seconds, a network of 32 channels had added nothing to it
(188.8): one Gaussian is known at once, and leaves the network all of the time.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import image_problems
from experiments.density_table import flows, models
from experiments.density_table.compare import HEAD, Law, Rows, Way, figures, flowjax_is_there, lines
from experiments.density_table.descent import Rules
from experiments.density_table.margins import Margins
from jaxdiff import data
from jaxdiff.data import image_sets
from jaxdiff.denoising import quantized
from jaxdiff.models import Mixer
from jaxdiff.typing import Array, Key

See = Callable[[Key, Array], tuple[Array, Array]]
"""Of a key and integer pixels: what models see of them, and the logarithm of that map's slope, of all rows or
one a row, which their log-densities gain by being of the table's variables."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What a part depends on.

    What is of what has no head, flows too, was chosen on validation images and seed 7, which is none of the
    table's. With the head they are the quickstart's.
    """

    dataset: str = "digits"
    heads: bool = True
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: float = 20.0
    num_train: int = 100_000  # at most
    num_test: int = 360
    components: int = 10
    copies: int = 4  # of each row for the mixture, dequantized anew: or it would find the grid of levels
    channels: int = 24
    num_blocks: int = 2
    least_noise: float = 0.03  # of training, in standard deviations; a third of it is the flow's
    batch_size: int = 16
    learning_rate: float = 3e-3
    margins_rate: float = 2e-3
    weight_decay: float = 0.05
    head_channels: int = 32
    head_blocks: int = 3
    head_batch: int = 32
    head_rate: float = 6e-3
    head_decay: float = 1.0
    head_dropout: float = 0.1
    flow_layers: int = 6
    flow_width: int = 128
    flow_knots: int = 8
    flow_batch: int = 64
    flow_rate: float = 3e-3
    flow_decay: float = 0.0


CONFIGS = {
    "digits": Config(),
    # Many more images.
    "patches": Config(
        dataset="patches",
        heads=False,
        num_test=1000,
        components=30,
        copies=1,
        least_noise=0.02,
        batch_size=32,
        flow_batch=256,
    ),
}


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        seeds=(0,),
        seconds=0.2,
        num_test=6,
        components=2,
        channels=8,
        num_blocks=1,
        head_channels=8,
        head_blocks=1,
        flow_layers=1,
        flow_width=8,
        flow_knots=4,
    )


def digits() -> tuple[np.ndarray, np.ndarray, int]:
    """Training and test pixels (n, 64), and the number of levels."""
    split = data.digits()
    return split.train.astype(np.int32), split.test.astype(np.int32), 17


def patches() -> tuple[np.ndarray, np.ndarray, int]:
    """The same of photographs, in a random order; grey is ITU-R BT.601's luma, rounded."""
    split = image_sets.natural_patches(size=8)

    def gray(images: np.ndarray) -> np.ndarray:
        luma = np.rint(images @ np.array([0.299, 0.587, 0.114])).astype(np.int32)
        return np.random.default_rng(0).permutation(luma.reshape(len(luma), -1))

    return gray(split.train), gray(split.test), 256


def without_mean(x: Array) -> Array:
    """The recipe of BSDS300: rows (n, d) less their own means, and without the last entry; (n, d - 1)."""
    return (x - x.mean(1, keepdims=True))[:, :-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """A data set and the affine maps that its models see it through."""

    train: jax.Array
    """Integer pixels."""
    valid: jax.Array
    test: jax.Array
    levels: int
    centered: bool
    """Whether a row is less its mean and its last entry."""

    def unit(self, key: Key, pixels: Array) -> Array:
        """The variables that nats are of."""
        x = data.dequantize(key, pixels, levels=self.levels)
        return without_mean(x) if self.centered else x


def load(config: Config) -> Images:
    """The config's data set, with a tenth of the training rows, at most 1,000, for validation."""
    train, test, levels = {"digits": digits, "patches": patches}[config.dataset]()
    held = min(1000, len(train) // 10)
    # Of digits a part that is drawn: neighbours are of one hand.
    order = np.random.default_rng(0).permutation(len(train))
    train, valid = train[order[held:]][: config.num_train], train[order[:held]]
    train, valid, test = (jnp.asarray(part) for part in (train, valid, test[: config.num_test]))
    return Images(train, valid, test, levels, centered=config.dataset == "patches")


def run(config: Config) -> dict[str, Any]:
    """A table without heads, and one with them."""
    images = load(config)
    there = flowjax_is_there()
    blocks = {"without a head": _plain(config, images, there)}
    if config.heads:
        blocks["by normal margins, without a head"] = _by_margins(config, images, there)
        blocks["with the quantization head"] = _with_heads(config, images, there)
    return {"config": dataclasses.asdict(config), "flowjax": flows.version(), "blocks": blocks}


def _flows(config: Config, d: int, encode: models.Encode, log_prior: Array | None) -> dict[str, Way]:
    settings = flows.Settings(config.flow_layers, config.flow_width, 2, config.flow_knots, 5.0)
    return {
        f"FlowJAX, {kind}": Way(
            Law(1),
            models.flow(flows.flow(kind, d, settings, log_prior=log_prior), encode),
            Rules(config.flow_rate, config.flow_decay, config.flow_batch, chunk=20),
            judged=True,
        )
        for kind in flows.KINDS
    }


def _plain(config: Config, images: Images, there: bool) -> list[dict[str, Any]]:
    """Every entry scaled to a standard deviation of one: the margins of digits hardly vary."""
    some = images.unit(jax.random.key(0), images.train[:20_000])
    mean, std = some.mean(0), some.std(0)
    log_slope = -jnp.log(std).sum()

    def see(key: Key, pixels: Array) -> tuple[Array, Array]:
        return (images.unit(key, pixels) - mean[None]) / std[None], log_slope

    return _figures(
        config,
        images,
        _headless(
            config,
            images,
            see,
            there,
            models.Range(config.least_noise, 30.0, config.least_noise / 3),
            config.learning_rate,
        ),
        see,
    )


def _by_margins(config: Config, images: Images, there: bool) -> list[dict[str, Any]]:
    """Every entry mapped to a normal one, for all ways alike."""
    margins = Margins(quantized.log_histogram(images.train, levels=images.levels))

    def see(key: Key, pixels: Array) -> tuple[Array, Array]:
        return margins(images.unit(key, pixels))

    ways = _headless(config, images, see, there, models.Range(0.1, 30.0, 0.1), config.margins_rate)
    return _figures(config, images, ways, see)


def _headless(
    config: Config, images: Images, see: See, there: bool, noise: models.Range, rate: float
) -> dict[str, Way]:
    d, encode = images.train.shape[1] - images.centered, _encode(see)
    network = Mixer(channels=config.channels, num_blocks=config.num_blocks)
    ours = models.denoiser(network, d, noise, encode, reference=True)
    rules = Rules(rate, config.weight_decay, config.batch_size, chunk=20)
    ways = {
        "denoiser over a Gaussian": Way(Law(1), ours, rules),
        f"mixture of {config.components}": Way(Law(config.components, restarts=1, copies=config.copies)),
        "Gaussian": Way(Law(1)),
    }
    return ways | (_flows(config, d, encode, None) if there else {})


def _with_heads(config: Config, images: Images, there: bool) -> list[dict[str, Any]]:
    """Of x in [0, 1]."""
    problem = image_problems.digits()
    network = Mixer(
        num_outputs=problem.num_outputs,
        channels=config.head_channels,
        num_blocks=config.head_blocks,
        dropout=config.head_dropout,
    )
    rules = Rules(config.head_rate, config.head_decay, config.head_batch, chunk=20)
    ways = {"denoiser": Way(Law(1), models.levels_denoiser(network, problem), rules)}
    if there:
        log_prior = quantized.log_histogram(images.train, levels=images.levels)
        ways |= _flows(config, images.train.shape[1], images.unit, log_prior)
    return _figures(config, images, ways, lambda key, pixels: (images.unit(key, pixels), jnp.zeros(())))


def _figures(config: Config, images: Images, ways: dict[str, Way], see: See) -> list[dict[str, Any]]:
    def rows(seed: int) -> Rows:
        valid_key, test_key = jax.random.split(jax.random.key(seed))
        return Rows(images.train, see(valid_key, images.valid)[0], *see(test_key, images.test))

    return figures(ways, rows, _encode(see), seeds=config.seeds, seconds=config.seconds, name=config.dataset)


def _encode(see: See) -> models.Encode:
    return lambda key, pixels: see(key, pixels)[0]


def table(figures: dict[str, Any]) -> str:
    """A block with heads and one without; of digits bits per dimension follow."""
    found = [HEAD]
    for name, rows in figures["blocks"].items():
        found += [name, *lines(rows, 2)]
    if figures["config"]["dataset"] == "digits":
        best = max(row["nats"]["mean"] for rows in figures["blocks"].values() for row in rows)
        found.append(f"the greatest is {math.log2(17) - best / 64 / math.log(2):.3f} bits per dimension")
    return "\n".join(found)


def draw(figures: dict[str, Any], axes: Any) -> None:
    """Nats of every way, a bar each."""
    names, values, colors = [], [], []
    for number, (block, rows) in enumerate(figures["blocks"].items()):
        for row in rows:
            names.append(f"{row['method']}, {block}")
            values.append(row["nats"]["mean"])
            colors.append(f"C{number}")
    axes.barh(names[::-1], values[::-1], color=colors[::-1])
    axes.tick_params(axis="y", labelsize=6)
    axes.set(xlabel="held-out nats", title=figures["config"]["dataset"])
