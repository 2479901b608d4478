"""Small tables that ship with scikit-learn, and MINIBOONE where the user has its file.

    wine             178 rows of 13 numbers
    diabetes         442 of 9: its tenth, the sex, takes two values and has no density
    breast cancer    569 of 30

Standardized by the training rows; a fifth of the rows is held out, another one for each seed. Numbers that
were written down to few digits lie on a grid, and a model that finds the grid gains without bound: uniform
noise of one step of each column's grid is added, anew at every step, as pixels are dequantized.

MINIBOONE is read from ``data.npy`` of the archive that Papamakarios et al. 2017 published
(zenodo.org/records/1161203), by their rules: the last tenth tests, the last tenth of the rest validates, and
what does not test is standardized by. Set JAXDIFF_MINIBOONE to the path of the file; without it the part says
so and leaves it out.

MEASURED (`--parts tables`, one busy core of an AMD EPYC, jax 0.10.2, FlowJAX 19.1.2, 2026-11-29; 5 s of
processor time a way, 3 seeds), nats, held out:

                                   wine           diabetes       breast cancer
    denoiser over 2 Gaussians  -16.1 +- .9      -6.7 +- .1        -5.7 +- 6.7
    mixture of 2               -15.6 +- .8      -7.9 +- .3       -10.7 +- 6.7
    Gaussian                   -15.1 +- .4      -9.2 +- .3       -17.9 +- 8.7
    FlowJAX, coupling          -19.1 +- 1.0    -10.1 +- .3       -17.3 +- 3.0
    FlowJAX, autoregressive    -16.3 +- .6      -8.9 +- .3        -8.1 +- 3.6

Seeds split the rows anew, so the errors are mostly of the split: of breast cancer a few rows far out decide,
and there the denoiser is ahead of the autoregressive flow in two splits of three. Of 178 wines nothing learns
more than a Gaussian knows.
"""

import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density_table import flows, models
from experiments.density_table.compare import HEAD, Law, Rows, Way, figures, flowjax_is_there, lines
from experiments.density_table.descent import Rules
from jaxdiff._numerics import checks
from jaxdiff.models import ResidualMLP
from jaxdiff.typing import Array, Key

VARIABLE = "JAXDIFF_MINIBOONE"


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on; chosen on seed 7."""

    tables: tuple[str, ...] = ("wine", "diabetes", "breast cancer", "MINIBOONE")
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: float = 5.0
    components: int = 2  # of hundreds of rows; of MINIBOONE ten times as many
    width: int = 64
    num_blocks: int = 2
    dropout: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 0.5
    batch_size: int = 64
    flow_layers: int = 4
    flow_width: int = 32
    flow_knots: int = 8
    flow_rate: float = 1e-3
    flow_decay: float = 0.1


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        tables=("wine",), seeds=(0,), seconds=0.1, components=1, width=8, num_blocks=1, flow_layers=1
    )


class Table(NamedTuple):
    """Rows of numbers, and the step of the grid that each column's lie on."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    step: np.ndarray


def shipped(name: str, seed: int) -> Table:
    """One that ships with scikit-learn, split by a seed."""
    datasets = checks.extra("sklearn.datasets", "experiments")
    load = {"wine": datasets.load_wine, "breast cancer": datasets.load_breast_cancer}
    if name == "diabetes":
        rows = np.delete(datasets.load_diabetes(scaled=False).data, 1, axis=1)
    else:
        rows = load[name]().data
    rows = np.random.default_rng(seed).permutation(rows)
    held = len(rows) // 5
    test, valid, train = rows[:held], rows[held : held + held // 2], rows[held + held // 2 :]
    return _standardized(train, valid, test, _steps(rows))


def miniboone(path: str | os.PathLike[str]) -> Table:
    """MINIBOONE's file, 43 columns, by the rules of its archive.

    Raises FileNotFoundError where there is none, and ValueError for what is no table of 43 columns.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is no file; set {VARIABLE} to data.npy of zenodo.org/records/1161203, miniboone."
        )
    rows = np.load(file, allow_pickle=False)
    if rows.ndim != 2 or rows.shape[1] != 43 or not np.isfinite(rows).all():
        raise ValueError(f"{file} must hold finite rows of 43 numbers, got shape {rows.shape}.")
    rows, test = rows[: -(len(rows) // 10)], rows[-(len(rows) // 10) :]
    train, valid = rows[: -(len(rows) // 10)], rows[-(len(rows) // 10) :]
    return _standardized(train, valid, test, np.zeros(43), by=rows)


def _standardized(
    train: np.ndarray, valid: np.ndarray, test: np.ndarray, step: np.ndarray, by: np.ndarray | None = None
) -> Table:
    mean, std = (train if by is None else by).mean(0), (train if by is None else by).std(0)
    train, valid, test = (((part - mean) / std).astype(np.float32) for part in (train, valid, test))
    return Table(train, valid, test, (step / std).astype(np.float32))


def _steps(rows: np.ndarray) -> np.ndarray:
    """The least power of ten of which all of a column's numbers are multiples."""
    steps = 10.0 ** np.arange(-8, 3)

    def step(column: np.ndarray) -> float:
        shares = column[:, None] / steps
        fits = (abs(shares - np.rint(shares)) < 1e-6 * np.maximum(1, abs(shares))).all(0)
        return float(steps[np.flatnonzero(fits)[-1]]) if fits.any() else 0.0

    return np.array([step(column) for column in rows.T])


def run(config: Config) -> dict[str, Any]:
    """A block for each table."""
    there, blocks = flowjax_is_there(), {}
    for name in config.tables:
        path = os.environ.get(VARIABLE)
        if name == "MINIBOONE" and path is None:
            print(f"{VARIABLE} is not set: MINIBOONE is left out.")
            continue
        blocks[name] = _of(config, name, path, there)
    return {"config": dataclasses.asdict(config), "flowjax": flows.version(), "blocks": blocks}


def _of(config: Config, name: str, path: str | None, there: bool) -> list[dict[str, Any]]:
    def table(seed: int) -> Table:
        return miniboone(path or "") if name == "MINIBOONE" else shipped(name, seed)

    first = table(0)
    d = len(first.step)

    # The steps ride along, behind the rows: a table's own scale is its training rows'.
    def encode(key: Key, rows: Array) -> Array:
        x, step = jnp.split(rows, 2, axis=1)
        return x + step * (jax.random.uniform(key, x.shape) - 0.5)

    def with_steps(part: np.ndarray, step: np.ndarray) -> jax.Array:
        return jnp.asarray(np.concatenate([part, np.broadcast_to(step, part.shape)], axis=1))

    def rows(seed: int) -> Rows:
        own = table(seed)
        valid_key, test_key = jax.random.split(jax.random.key(seed))
        valid, test = (
            encode(key, with_steps(part, own.step))
            for key, part in ((valid_key, own.valid), (test_key, own.test))
        )
        return Rows(with_steps(own.train, own.step), valid, test)

    components = config.components * (10 if name == "MINIBOONE" else 1)
    network = models.Vectors(
        ResidualMLP(width=config.width, num_blocks=config.num_blocks, dropout=config.dropout)
    )
    noise = models.Range(0.01, 30.0, 0.003)
    rules = Rules(config.learning_rate, config.weight_decay, config.batch_size, chunk=20)
    law = Law(components)
    ways = {
        f"denoiser over {components} Gaussians": Way(
            law, models.denoiser(network, d, noise, encode, reference=True), rules, judged=True
        ),
        f"mixture of {components}": Way(law),
        "Gaussian": Way(Law(1)),
    }
    if there:
        settings = flows.Settings(config.flow_layers, config.flow_width, 1, config.flow_knots, 5.0)
        rules = dataclasses.replace(rules, learning_rate=config.flow_rate, weight_decay=config.flow_decay)
        ways |= {
            f"FlowJAX, {kind}": Way(
                Law(1), models.flow(flows.flow(kind, d, settings), encode), rules, judged=True
            )
            for kind in flows.KINDS
        }
    return figures(ways, rows, encode, seeds=config.seeds, seconds=config.seconds, name=name)


def table(figures: dict[str, Any]) -> str:
    """A block of rows for each table."""
    found = [HEAD]
    for name, rows in figures["blocks"].items():
        found += [name, *lines(rows, 2)]
    return "\n".join(found)


def draw(figures: dict[str, Any], axes: Any) -> None:
    """Nats above the Gaussian, a line for each way over the tables."""
    blocks = figures["blocks"]
    for number, row in enumerate(next(iter(blocks.values()))):
        above = [
            rows[number]["nats"]["mean"]
            - next(other["nats"]["mean"] for other in rows if other["method"] == "Gaussian")
            for rows in blocks.values()
        ]
        axes.plot(list(blocks), above, "o", label=row["method"])
    axes.axhline(0.0, linestyle=":", color="gray")
    axes.set(ylabel="nats above a Gaussian", title="small tables")
    axes.legend(fontsize=6)
