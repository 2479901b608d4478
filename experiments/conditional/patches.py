"""Colour patches of photographs, 32 x 32, seen in part: a hole, an eighth of the size, random products.

A small transformer learns what a Gaussian of rank 64 leaves over of patches of seven photographs (bands of
each are held out; `experiments.few_step.tasks`). Held-out patches are seen, through noise of a twentieth of a
standard deviation, without their middle 16 x 16 pixels, by means of 4 x 4 pixels, or by 384 products with
random vectors, an eighth of the 3,072 numbers. Judged as `digits`, on the hole or on all numbers, in standard
deviations. The control is that Gaussian itself, conditioned in closed form, without a network.

Small: one short training, few images. Expect the network to beat the Gaussian where detail is missing.

Not measured yet: the one whole run (21 minutes on a third of a core) ended when a method that answered NaN
could not be written; it leaves a dash now.
"""

import dataclasses
import itertools
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conditional import judges
from experiments.conditional.methods import METHODS, Problem
from experiments.few_step import tasks
from experiments.networks import applied, started
from experiments.optimizers import adamw
from jaxdiff import inverse
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.factors import FactorMixture
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import denoising_loss
from jaxdiff.noising.schedules import Karras
from jaxdiff.running.progress import Progress
from jaxdiff.typing import Array, Key, Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE, SHAPE, SIZE = Karras(), (32, 32, 3), 3072


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, and what is asked of it."""

    width: int = 64
    blocks: int = 3
    steps: int = 600
    batch: int = 32
    learning_rate: float = 1e-3
    tasks: tuple[str, ...] = ("hole", "small", "products")
    std: float = 0.05
    images: int = 6
    draws: int = 20
    compute: int = 60
    settings: tuple[tuple[str, float], ...] = (
        ("DPS", 10.0),
        ("PiGDM", 0.0),
        ("MMPS, 1", 0.0),
        ("DiffPIR", 0.0),
        ("DAPS", 0.5),
        ("split Gibbs", 1.0),
        ("prior", 0.0),
    )
    """Methods with their settings, by the mixtures and not chosen here."""


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        width=8,
        blocks=1,
        steps=5,
        batch=4,
        tasks=("small",),
        images=2,
        compute=10,
        settings=(("DiffPIR", 0.0),),
    )


def run(config: Config) -> dict[str, Any]:
    """Judged draws of every method and of the control; and some of them, to be looked at."""
    task = tasks.task("patches", 0)
    key, fit_key, law_key, held_key = jax.random.split(jax.random.key(0), 4)
    law: Any = task.fit(law_key)
    denoise = _fit(config, fit_key, task, law)
    held = np.asarray(task.held(held_key, config.images), np.float64)
    rng, rows, shown = np.random.default_rng(0), [], {}
    for name in config.tasks:
        operator, judged = _task(name)
        matrix = np.asarray(operator.apply(jnp.eye(SIZE).reshape(-1, *SHAPE)), np.float64).reshape(SIZE, -1).T
        truth = held.reshape(len(held), -1)
        seen = truth @ matrix.T
        seen += config.std * rng.standard_normal(seen.shape)
        draws = {
            method: _draws(config, denoise, operator, seen, method, setting, jax.random.fold_in(key, i))
            for i, (method, setting) in enumerate(config.settings)
        }
        draws["Gaussian"] = conditioned(law.law, matrix, seen, config.draws, config.std, rng)
        rows += [
            {"task": name, "method": method, **judges.images(got[:, :, judged], truth[:, judged])}
            for method, got in draws.items()
        ]
        print(judges.table(rows[-len(draws) :]), file=sys.stderr, flush=True)
        simple = (seen @ np.linalg.pinv(matrix).T)[:1]
        shown[name] = {"truth": truth[:1], "seen": simple} | {m: got[0, :2] for m, got in draws.items()}
    return {
        "config": dataclasses.asdict(config),
        "rows": rows,
        "shown": {
            name: {method: np.nan_to_num(np.round(x, 2)).tolist() for method, x in own.items()}
            for name, own in shown.items()
        },
    }


def _task(name: str) -> tuple[inverse.Operator, np.ndarray]:
    """What is seen, and which numbers are judged."""
    if name == "hole":
        hole = np.zeros(SHAPE, bool)
        hole[8:24, 8:24] = True
        return inverse.mask(~hole), hole.reshape(-1)
    if name == "small":
        return inverse.linear(lambda x: x.reshape(8, 4, 8, 4, 3).mean((1, 3)), SHAPE), np.ones(SIZE, bool)
    vectors = jax.random.normal(jax.random.key(3), (SIZE // 8, SIZE)) / SIZE**0.5
    return inverse.linear(jax.tree_util.Partial(_products, vectors), SHAPE), np.ones(SIZE, bool)


def _products(vectors: Array, x: Array) -> Array:
    return vectors.astype(x.dtype) @ x.reshape(-1)


def _fit(config: Config, key: Key, task: tasks.Task, law: Distribution) -> Denoiser:
    network = tasks.network("patches", config.width, config.blocks)
    optimizer, decay = adamw(config.learning_rate, config.steps, 0.0, warm_up=100), ema.power_function(0.1)
    init_key, key = jax.random.split(key)

    def model(params: Params) -> Denoiser:
        return make_denoiser(applied(network), params, SCHEDULE, shape=SHAPE, scale=1.0, reference=law)

    def loss(params: Params, key: Key, batch: Array) -> Array:
        return denoising_loss(key, model(params), batch).mean()

    with Progress(config.steps) as progress:
        state = training.train(
            key,
            started(
                init_key, network, jnp.zeros((1, *SHAPE)), jnp.zeros(1), optimizer=optimizer, ema_decay=decay
            ),
            training.make_train_step(loss, optimizer, ema_decay=decay),
            lambda key: task.draw(key, config.batch),
            num_steps=config.steps,
            report=progress,
        )
    return model(training.averaged(state))


def _draws(
    config: Config,
    denoise: Denoiser,
    operator: inverse.Operator,
    seen: np.ndarray,
    method: str,
    setting: float,
    key: Key,
) -> np.ndarray:
    """(images, draws, numbers)."""

    @jax.jit
    def of(key: Key, y: Array) -> Array:
        problem = Problem(denoise, operator, y.reshape(operator.observed), jnp.asarray(config.std))
        return METHODS[method][0](key, problem, config.draws, config.compute, jnp.asarray(setting))

    print(f"patches: {method}", file=sys.stderr, flush=True)
    keys = jax.random.split(key, len(seen))
    got = [of(key, jnp.asarray(y, jnp.float32)) for key, y in zip(keys, seen, strict=True)]
    return np.asarray(jnp.stack(got), np.float64).reshape(len(seen), config.draws, SIZE)


def conditioned(
    law: FactorMixture, matrix: np.ndarray, seen: np.ndarray, draws: int, std: float, rng: np.random.Generator
) -> np.ndarray:
    """Draws of its one component, moved by what is seen (Matheron's rule): (images, draws, numbers)."""
    n = len(seen) * draws
    data = np.asarray(law.sample(jax.random.key(rng.integers(2**31)), n), np.float64)
    factors, rest = np.asarray(law.factors[0], np.float64), np.asarray(law.variances[0], np.float64)
    cross = factors @ (matrix @ factors).T + rest[:, None] * matrix.T
    spread = matrix @ cross + std**2 * np.eye(len(matrix))
    off = np.repeat(seen, draws, axis=0) - data @ matrix.T
    off -= std * rng.standard_normal(off.shape)
    return (data + np.linalg.solve(spread, off.T).T @ cross.T).reshape(len(seen), draws, -1)


def table(figures: dict[str, Any]) -> str:
    """A line for each task and method."""
    return judges.table(figures["rows"])


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """A row of images for each task: the truth, what is seen of it, and two draws of each method."""
    lines = []
    for own in figures["shown"].values():
        tiles = [
            np.pad(np.reshape(x, SHAPE), ((1, 1), (1, 1), (0, 0)), constant_values=3)
            for xs in own.values()
            for x in xs
        ]
        lines.append(np.concatenate(tiles, axis=1))
    axes.imshow(np.clip(np.concatenate(lines) / 4 + 0.5, 0, 1))
    first = next(iter(figures["shown"].values()))
    starts = np.cumsum([0] + [len(x) for x in first.values()])
    axes.set_xticks(
        [34 * (a + b) / 2 for a, b in itertools.pairwise(starts)],
        list(first),
        fontsize=4,
        rotation=30,
    )
    axes.set_yticks([34 * i + 17 for i in range(len(lines))], list(figures["shown"]), fontsize=5)
    axes.set_title("of what is seen, a patch")
