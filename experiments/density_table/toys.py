"""Three laws of the plane at three noises each, whose entropies say how much there is to be had.

Every way is given 100,000 points, scaled to a unit standard deviation, and judged by 2,000 others: by their
mean log-density, and by how far that is below the law's own on the same points, which estimates the
Kullback-Leibler divergence with far less noise than either mean. The denoiser's density is that of its
probability flow. All networks have the same processor time, which a mixture may fall short of.

MEASURED (`python -m experiments.density_table`, one busy core of an AMD EPYC, jax 0.10.2, FlowJAX 19.1.2; 3
seeds; the checkerboard 12 s a way, 2026-11-29, the others 4 s, 2026-11-30), thousandths of a nat below truth:

                               checkerboard            two moons         eight Gaussians
    noise                    .1    .2    .4        .05    .1    .2        .1    .3     1
    entropy, nats         3.639 3.799 4.075       .289 1.008 1.678      .312 2.509 4.602
    denoiser               16±2  12±2   5±1         5±1   3±1   2±1      13±2  12±2  12±1
    the same over 32                                3±1   4±0   2±1       3±1   3±1   4±1
    mixture of 32          71±1  28±3   6±2         3±1   4±0   2±1       3±1   3±1   4±1
    FlowJAX, coupling       7±1   5±1   3±1         8±1   6±2   2±2       8±1   9±3   3±1
    FlowJAX, autoregressive 8±3  10±1   4±0        10±2   7±2   3±1      22±2  15±2   4±1

So the denoiser is within .02 of the truth everywhere. In the plane splines learn as fast as it does or
faster, and but for the sharp edges of the checkerboard a mixture without a network is as good as any.
Learning rates and the sizes of flows were chosen on seed 7 of the checkerboard, where targets that are
posterior means over the batch took the denoiser from 31 to 10 thousandths in 20 s; on seed 7 of the eight
Gaussians and of the two moons at the least noise 1e-2 took it from 24 and 6 to 7 and 2 (on the checkerboard
from 8 to 15). The coupling flow has 8 at 3e-3 on that of the eight Gaussians, where its 1e-2 has 11.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density_table import flows, laws, models
from experiments.density_table.compare import HEAD, Law, Rows, Way, figures, flowjax_is_there, lines
from experiments.density_table.descent import Rules
from jaxdiff.models import ResidualMLP


@dataclasses.dataclass(frozen=True)
class Config:
    """What a part depends on; chosen on seed 7 of the checkerboard, the denoiser's rate on that of each."""

    law: str = "checkerboard"
    noises: tuple[float, ...] = (0.1, 0.2, 0.4)
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: float = 12.0  # of processor time, for every way but the mixture
    num_train: int = 100_000
    num_test: int = 2_000
    width: int = 64
    num_blocks: int = 3
    learning_rate: float = 3e-3
    batch_size: int = 256
    components: int = 32
    flow_layers: int = 6
    flow_width: int = 48
    flow_knots: int = 16
    flow_rate: float = 1e-2


def smooth(law: str, noises: tuple[float, ...]) -> Config:
    """Of laws without edges, which are learnt in a third of the time and by a larger rate."""
    return Config(law=law, noises=noises, seconds=4.0, learning_rate=1e-2)


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        law="two moons",
        noises=(0.2,),
        seeds=(0,),
        seconds=0.5,
        num_train=2000,
        num_test=200,
        width=16,
        num_blocks=1,
        components=4,
        flow_layers=2,
        flow_width=8,
        flow_knots=4,
    )


def ways(config: Config) -> dict[str, Way]:
    """What is compared; FlowJAX's only where it is installed."""
    network = ResidualMLP(width=config.width, num_blocks=config.num_blocks)
    ours = models.denoiser(network, 2, models.Range(), models.identity, stable=True)
    rules = Rules(learning_rate=config.learning_rate, batch_size=config.batch_size)
    law = Law(config.components)
    over = models.denoiser(
        models.Vectors(network), 2, models.Range(), models.identity, reference=True, stable=True
    )
    found = {
        "denoiser": Way(Law(1), ours, rules),
        f"denoiser over {config.components} Gaussians": Way(law, over, rules),
        f"mixture of {config.components}": Way(law),
    }
    if flowjax_is_there():
        settings = flows.Settings(config.flow_layers, config.flow_width, 2, config.flow_knots)
        rules = dataclasses.replace(rules, learning_rate=config.flow_rate)
        found |= {
            f"FlowJAX, {kind}": Way(
                Law(1), models.flow(flows.flow(kind, 2, settings), models.identity), rules
            )
            for kind in flows.KINDS
        }
    return found


def rows(config: Config, noise: float, seed: int) -> Rows:
    """Scaled to a mean of zero and a standard deviation of one over both coordinates."""
    law = laws.LAWS[config.law]
    train_key, test_key = jax.random.split(jax.random.key(seed))
    train = laws.sample(law, train_key, config.num_train, noise)
    test = laws.sample(law, test_key, config.num_test, noise)
    mean, std = train.mean(0), float(train.std())

    def scaled(x: jax.Array) -> jax.Array:
        return (x - mean[None]) / std

    exact = np.asarray(laws.log_density(law, test, noise), np.float64)
    return Rows(scaled(train), jnp.zeros((0, 2)), scaled(test), -2 * float(np.log(std)), exact)


def run(config: Config) -> dict[str, Any]:
    """A table for each noise."""
    compared = ways(config)
    return {
        "config": dataclasses.asdict(config),
        "flowjax": flows.version(),
        "noises": [
            {
                "noise": noise,
                "entropy": laws.entropy(laws.LAWS[config.law], noise),
                "rows": figures(
                    compared,
                    lambda seed, noise=noise: rows(config, noise, seed),
                    models.identity,
                    seeds=config.seeds,
                    seconds=config.seconds,
                    name=f"{config.law}, noise {noise}",
                ),
            }
            for noise in config.noises
        ],
    }


def table(figures: dict[str, Any]) -> str:
    """A block of rows for each noise."""
    found = [HEAD]
    for block in figures["noises"]:
        found.append(f"noise {block['noise']:g}, entropy {block['entropy']:.4f}")
        found += lines(block["rows"])
    return "\n".join(found)


def draw(figures: dict[str, Any], axes: Any) -> None:
    """Nats below the truth against the noise, a line for each way."""
    blocks = figures["noises"]
    for number, row in enumerate(blocks[0]["rows"]):
        below = [block["rows"][number]["below"]["mean"] for block in blocks]
        axes.plot([block["noise"] for block in blocks], below, marker="o", label=row["method"])
    axes.axhline(0.02, linestyle=":", color="gray")
    axes.set(xscale="log", yscale="log", xlabel="noise", ylabel="nats below the truth")
    axes.set_title(figures["config"]["law"])
    axes.legend(fontsize=6)
