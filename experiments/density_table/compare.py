"""One data set, all models, every seed: the same processor time for each, and one table of all of them."""

import dataclasses
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density_table.descent import Descent, Rules
from experiments.density_table.models import Encode, Model
from experiments.estimates import mean, show
from jaxdiff.laws.fitting import fit_gaussian, fit_mixture
from jaxdiff.typing import Key


@dataclasses.dataclass(frozen=True)
class Law:
    """What is fitted by expectation-maximization before the descent; one component is a Gaussian."""

    components: int
    rows: int = 20_000
    restarts: int = 2
    copies: int = 1
    """Of each row, each dequantized anew."""


class Way(NamedTuple):
    """A model, how it is descended and with which law; without a model it is the law itself."""

    law: Law
    model: Model | None = None
    rules: Rules = Rules()
    judged: bool = False
    """Whether validation rows choose among the averages on the way: for what has no other brake."""


class Rows(NamedTuple):
    """A data set as one seed sees it."""

    train: jax.Array
    """Raw."""
    valid: jax.Array
    """Encoded; may be empty where nothing is judged."""
    test: jax.Array
    """Encoded."""
    unit: jax.Array | float = 0.0
    """What log-densities gain, in nats, by being of the table's variables; one for all rows, or one each."""
    exact: np.ndarray | None = None
    """log p of the test rows in the table's variables, where it is known."""


def flowjax_is_there() -> bool:
    """Whether it is installed; said if not."""
    there = importlib.util.find_spec("flowjax") is not None
    if not there:
        print("FlowJAX is not installed (pip install 'jaxdiff[peers]'): its flows are left out.")
    return there


def figures(
    ways: dict[str, Way],
    rows_of: Callable[[int], Rows],
    encode: Encode,
    *,
    seeds: tuple[int, ...],
    seconds: float,
    name: str = "",
) -> list[dict[str, Any]]:
    """A row for each way: nats, and nats below the truth where that is known, over the seeds.

    The time of a way is that of its law and of its descent together.
    """
    descents = {key: Descent(way.model.loss, way.rules) for key, way in ways.items() if way.model is not None}
    found: dict[str, list[dict[str, float]]] = {key: [] for key in ways}
    for seed in seeds:
        rows = rows_of(seed)
        laws: dict[Law, tuple[Any, float]] = {}
        for number, (key, way) in enumerate(ways.items()):
            keys = jax.random.split(jax.random.key(1000 * seed + number), 3)
            if way.law not in laws:
                laws[way.law] = _fitted(jax.random.key(seed), way.law, rows, encode)
            law, spent = laws[way.law]
            one = _one(keys, way, descents.get(key), law, rows, max(seconds - spent, 0.2 * seconds))
            one["seconds"] += spent if way.model is None or way.law.components > 1 else 0.0
            found[key].append(one)
            print(f"{name} seed {seed} {key}: {one}", file=sys.stderr, flush=True)
    return [{"method": key, **_summary(values)} for key, values in found.items()]


def _fitted(key: Key, law: Law, rows: Rows, encode: Encode) -> tuple[Any, float]:
    encode_key, fit_key = jax.random.split(key)
    raw = rows.train[: law.rows]
    data = encode(encode_key, jnp.tile(raw, (law.copies, *[1] * (raw.ndim - 1))))
    if law.components == 1:
        return fit_gaussian(data), 0.0
    fit = functools.partial(fit_mixture, fit_key, data, law.components, num_restarts=law.restarts)
    jax.block_until_ready(fit(num_iterations=1))  # compiled
    began = time.process_time()
    fitted = jax.block_until_ready(fit())
    return fitted, time.process_time() - began


def _one(
    keys: jax.Array, way: Way, descent: Descent | None, law: Any, rows: Rows, seconds: float
) -> dict[str, float]:
    init_key, key, judge_key = keys
    figures = {"steps": 0.0, "seconds": 0.0}
    if descent is None or way.model is None:
        values = law.log_prob(rows.test)
    else:
        model = way.model

        def judge(params: Any) -> jax.Array:
            return model.log_prob(params, law, judge_key, rows.valid).mean()

        fitted = descent(
            key, model.start(init_key), rows.train, seconds, fixed=law, judge=judge if way.judged else None
        )
        figures = {"steps": float(fitted.steps), "seconds": fitted.seconds}
        values = jnp.concatenate(list(_in_turns(model, fitted.params, law, judge_key, rows.test)))
    nats = np.asarray(values, np.float64) + np.asarray(rows.unit)
    if not np.isfinite(nats).all():
        raise FloatingPointError(f"{(~np.isfinite(nats)).sum()} of {len(nats)} log-densities are not finite.")
    figures |= {"nats": float(nats.mean()), "over_rows": float(nats.std(ddof=1) / len(nats) ** 0.5)}
    if rows.exact is not None:
        below = rows.exact - nats
        figures |= {"below": float(below.mean()), "below_over_rows": float(below.std() / len(below) ** 0.5)}
    return figures


def _in_turns(model: Model, params: Any, law: Any, key: Key, x: jax.Array) -> Iterator[jax.Array]:
    size = min(500, len(x))
    for first in range(0, len(x), size):
        part = x[first : first + size]
        padded = jnp.concatenate([part, jnp.broadcast_to(x[:1], (size - len(part), x.shape[1]))])
        yield model.log_prob(params, law, jax.random.fold_in(key, first), padded)[: len(part)]


def _summary(values: list[dict[str, float]]) -> dict[str, Any]:
    def over(name: str) -> dict[str, float] | None:
        if name not in values[0]:
            return None
        own = [value[name] for value in values]
        if len(own) > 1:
            return mean(own)
        return {"mean": own[0], "standard_error": values[0].get(f"{name}_over_rows", values[0]["over_rows"])}

    return {
        "nats": over("nats"),
        "below": over("below"),
        "steps": float(np.mean([value["steps"] for value in values])),
        "seconds": float(np.mean([value["seconds"] for value in values])),
        "seeds": values,
    }


def lines(rows: list[dict[str, Any]], digits: int = 3) -> list[str]:
    """Of a table, one for each way."""
    return [
        f"{row['method']:34} {show(row['nats'], digits):>20} {show(row['below'], digits + 1):>20}"
        f" {row['seconds']:8.1f} {row['steps']:8.0f}"
        for row in rows
    ]


HEAD = f"{'':34} {'held-out nats':>20} {'below the truth':>20} {'seconds':>8} {'steps':>8}"
