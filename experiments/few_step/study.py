"""One seed of one task: its network, how a row of a table is trained, and how its samples are judged."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.estimates import mean, show
from experiments.few_step import methods, tasks, training
from experiments.networks import applied
from jaxdiff import maps
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.prediction import PredictionType, flow
from jaxdiff.laws import metrics
from jaxdiff.maps.flow_map import FlowMap, make_flow_map
from jaxdiff.noising.schedules import RectifiedFlow
from jaxdiff.sampling.driver import sample
from jaxdiff.sampling.exponential_adams import unipc
from jaxdiff.typing import Array, Key, Params, Schedule, StartLaw

SCHEDULE = RectifiedFlow()
CALLS = (1, 2, 4)
JUDGES = ("energy", "sliced", "classifier")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task and what is spent on a row."""

    task: str
    width: int = 64
    blocks: int = 3
    batch: int = 128
    budget: float = 1.2e11  # operations; of the denoiser's loss some 2,700 steps
    learning_rate: float = 2e-3  # chosen on law 3 and key 7
    map_rate: float = 0.25  # of that, the map's beside a fake denoiser; by reason, not tuned
    num_samples: int = 3_000
    classifier_steps: int = 300


SETTINGS = {
    "modes": Setting("modes"),
    "rings": Setting("rings"),
    "digits": Setting("digits", width=128, budget=5e11, learning_rate=1e-3, num_samples=597),
    "patches": Setting("patches", batch=32, budget=1e12, learning_rate=1e-3, num_samples=346),
}
SMALL: dict[str, Any] = {
    "width": 8,
    "blocks": 1,
    "batch": 16,
    "budget": 4e6,
    "num_samples": 64,
    "classifier_steps": 2,
}
"""Of a `Setting` for tests."""


class Study:
    """Trains and judges by keys of one seed; `judged` holds, by row and calls, judgements and steps."""

    def __init__(
        self,
        setting: Setting,
        seed: int,
        *,
        schedule: Schedule = SCHEDULE,
        prediction: PredictionType = flow,
    ) -> None:
        self.setting, self.task = setting, tasks.task(setting.task, seed)
        self.schedule, self.prediction = schedule, prediction
        self.network = tasks.network(setting.task, setting.width, setting.blocks)
        self.shape = self.task.shape
        init_key, self.fit_key, self.sample_key, self.judge_key, data_key = jax.random.split(
            jax.random.key(seed), 5
        )
        x, t = jnp.zeros((1, *self.shape)), jnp.zeros(1)
        self.params: Params = jax.jit(lambda key: self.network.init(key, x, t, s=t))(init_key)
        fresh, self.reference = (
            draw(key, setting.num_samples)
            for draw, key in zip((self.task.fresh, self.task.held), jax.random.split(data_key), strict=True)
        )
        self.judged: dict[tuple[str, int], tuple[tuple[float, ...], int]] = {}
        self.judge("new draws of the data", 0, fresh)

    def make(self, params: Params, *, horizon: float | None = None, base: FlowMap | None = None) -> FlowMap:
        """The network's map, of times below a horizon; added to the estimates of a base."""
        predict = applied(self.network)
        if base is not None:
            predict = jax.tree_util.Partial(functools.partial(_added, predict), base)
        return make_flow_map(
            predict, params, self.schedule, shape=self.shape, prediction=self.prediction, t_max=horizon
        )

    def draw(self, key: Key) -> Array:
        """A batch to train on."""
        return self.task.draw(key, self.setting.batch)

    def fit(
        self,
        loss: methods.Loss,
        params: Params | None = None,
        share: float = 1.0,
        *,
        teacher: Denoiser | None = None,
        data: Callable[[Key], Any] | None = None,
        make: Callable[[Params], FlowMap] | None = None,
    ) -> tuple[Params, int]:
        """Parameters by a share of the budget, and the steps, which make has of others than `make`."""
        make = self.make if make is None else make
        return training.fit(
            self.fit_key,
            loss,
            make,
            self.params if params is None else params,
            make(self.params).denoiser if teacher is None else teacher,
            self.draw if data is None else data,
            budget=share * self.setting.budget,
            learning_rate=self.setting.learning_rate,
        )

    def judge(self, name: str, calls: int, samples: Array, steps: int = 0) -> None:
        """Against new draws or held-out data, in units of the data's standard deviation."""
        n = self.setting.num_samples
        samples, reference = samples.reshape(n, -1), self.reference.reshape(n, -1)
        classifier = metrics.classifier_two_sample_test(
            self.judge_key, samples, reference, width=64, num_steps=self.setting.classifier_steps
        )
        self.judged[name, calls] = (
            (
                float(metrics.energy_distance(samples, reference).value),
                float(metrics.sliced_wasserstein(self.judge_key, samples, reference, num_projections=64)),
                float(classifier.value),
            ),
            steps,
        )

    def judge_map(
        self, name: str, flow_map: FlowMap, steps: int, *, renoise: float = 0.0, start: StartLaw | None = None
    ) -> None:
        """At each number of calls."""
        for calls in CALLS:
            samples = maps.sample_map(
                self.sample_key,
                flow_map,
                self.setting.num_samples,
                num_calls=calls,
                renoise=renoise,
                start=start,
            )
            self.judge(name, calls, samples, steps)

    def judge_solved(
        self,
        name: str,
        denoise: Denoiser,
        steps: int,
        calls: Iterable[int] | None = None,
        *,
        start: StartLaw | None = None,
    ) -> None:
        """By one DDIM step, or UniPC of the order that few calls bear, on the grid of the maps."""
        for n in calls or CALLS:
            grid = methods.grid(denoise, n).at[-1].set(0.0)
            solver = unipc(1 if n == 1 else 2 if n < 8 else 3)
            samples = sample(
                self.sample_key, denoise, self.setting.num_samples, times=grid, sampler=solver, start=start
            )
            self.judge(name, n, samples, steps)


def _added(predict: Any, base: FlowMap, params: Params, x: Array, t: Array, s: Array | None = None) -> Array:
    estimates = base.averages(x, t, t if s is None else s)
    return estimates.noise - estimates.data + predict(params, x, t, s=s)


def over_seeds(one: Callable[[int], Study], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Of every row and number of calls, each judge's mean over the studies of so many seeds."""
    found = []
    for seed in seeds:
        found.append(one(seed).judged)
        jax.clear_caches()  # of some hundred programs; a process may map so much memory and no more
    return [
        {
            "name": name,
            "calls": calls,
            "steps": steps,
            **{judge: _over([of[name, calls][0][i] for of in found]) for i, judge in enumerate(JUDGES)},
        }
        for (name, calls), (_, steps) in found[0].items()
    ]


def _over(values: list[float]) -> dict[str, float]:
    return mean(values) if len(values) > 1 else {"mean": values[0], "standard_error": 0.0}


def table(figures: dict[str, Any]) -> str:
    """A row for each method and number of calls."""
    lines = [f"{'':40} calls   steps {'energy distance':>20} {'sliced W_2':>18} {'classifier':>18}"]
    one = len(figures["config"]["seeds"]) == 1  # whose standard error is unknown
    for row in figures["rows"]:
        parts = [
            f"{row[judge]['mean']:.{digits}f}" if one else show(row[judge], digits)
            for judge, digits in zip(JUDGES, (4, 3, 3), strict=True)
        ]
        name, calls, steps = row["name"], row["calls"], row["steps"] or "-"
        lines.append(f"{name:40} {calls:5d} {steps:>7} {parts[0]:>20} {parts[1]:>18} {parts[2]:>18}")
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: Any) -> None:
    """Sliced W_2 by calls, a line for each method, and what has none or one as a level."""
    rows = figures["rows"]
    lines = 0
    for name in dict.fromkeys(row["name"] for row in rows):
        own = sorted((row["calls"], row["sliced"]["mean"]) for row in rows if row["name"] == name)
        if len(own) == 1:
            axes.axhline(own[0][1], linestyle=":", color="gray")
            axes.text(40, own[0][1], name, ha="right", va="bottom", fontsize=6, color="gray")
            continue
        style = "--" if name.startswith("denoiser") else ("-", "-.", ":")[lines // 10]
        axes.plot(*zip(*own, strict=True), style, color=f"C{lines % 10}", marker=".", label=name)
        lines += 1
    title = figures["config"]["setting"]["task"]
    axes.set(xscale="log", yscale="log", xlabel="calls", ylabel="sliced W_2", title=title)
    axes.set_xticks([1, 2, 4, 8, 40], labels=["1", "2", "4", "8", "40"])
    axes.minorticks_off()
    axes.set_yticks([0.05, 0.1, 0.2, 0.5], labels=["0.05", "0.1", "0.2", "0.5"])
    axes.legend(fontsize=5)
