"""What a horizon and a grid leave: `choose_horizon`, an oracle that tries the same fits, and their rivals."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.labelled import Labelled
from jaxdiff.noising.schedules import Karras
from jaxdiff.noising.times import power_grid, to_clean
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.horizon import Horizon, choose_horizon
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.starts import Family, fit_start
from jaxdiff.typing import Array, Key, StartLaw

SCHEDULE = Karras()
_DIRECTIONS = 50
_FINALISTS = 8

Arm = tuple[StartLaw, Array]
"""A start, and the grid from its horizon."""


class Judge(NamedTuple):
    """By sliced W_2 to the law: the quantiles of many draws of it along directions, (directions, n).

    Of a divisor of n rows too, by the means of neighbouring quantiles.
    """

    directions: Array
    wanted: Array

    def __call__(self, x: Array) -> Array:
        wanted = self.wanted.reshape(len(self.wanted), len(x), -1).mean(2)
        return jnp.sqrt(jnp.mean((_along(self.directions, x) - wanted) ** 2))


class Task(NamedTuple):
    """A denoiser, rows of data, what every cell starts from, by horizon, and who judges."""

    denoise: Denoiser
    data: Array
    horizons: tuple[float, ...]
    family: Family[Any]
    """Whose fits were made before: the chooser and the oracle try the same ones."""
    starts: dict[str, StartLaw]
    """The family's fits, as "best", and the controls, stacked over the horizons."""
    judge: Judge
    floor: Array
    choose_key: Array
    draw_key: Array


def task(
    keys: Sequence[Key],
    denoise: Denoiser,
    data: Array,
    family: Family[Any],
    controls: dict[str, Callable[[float], StartLaw]],
    fresh: tuple[Array, Array],
    horizons: tuple[float, ...],
) -> Task:
    """Of keys for fits, choices and draws; fresh are draws that judge, and others, which are the floor."""
    fit_key, choose_key, draw_key = keys
    fits = {t: fit_start(fit_key, family, data, SCHEDULE, t) for t in horizons}
    made: Family[Any] = Family(lambda key, data, schedule, t: fits[float(t)], family.num_parameters)

    def stacked(start_at: Callable[[float], StartLaw]) -> StartLaw:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start_at, horizons))

    draws, others = fresh
    directions = jax.random.normal(jax.random.key(5), (_DIRECTIONS, others[0].size))
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    judge = Judge(directions, _along(directions, draws).reshape(_DIRECTIONS, len(others), -1).mean(axis=2))
    laws = {"best": stacked(fits.__getitem__), **{name: stacked(at) for name, at in controls.items()}}
    return Task(denoise, data, horizons, made, laws, judge, judge(others), choose_key, draw_key)


def cell(
    task: Task,
    sampler: Sampler,
    num_steps: int,
    *,
    num_chosen_by: int = 2048,
    num_tried: int,
    num_samples: int,
) -> tuple[dict[str, float], Arm]:
    """Distances of one sampler in so many steps, and what was chosen.

    The chooser judges by so many samples (`choose_horizon`, num_samples), the oracle tries every candidate by
    num_tried and the least `_FINALISTS` by num_samples, a divisor of the judge's, as all else.
    """
    choice = choose_horizon(
        task.choose_key,
        task.family,
        task.denoise,
        task.data,
        num_steps=num_steps,
        sampler=sampler,
        horizons=task.horizons,
        num_samples=num_chosen_by,
    )
    t_min = task.denoise.working_range[0]
    last = jnp.maximum(0.02, t_min)
    edm = [to_clean(SCHEDULE, power_grid(num_steps - 1, t_max=t, t_min=last, rho=7.0)) for t in task.horizons]
    grids = jnp.concatenate([choice.candidates.times, jnp.stack(edm)[:, None]], axis=1)
    score = functools.partial(_score, task.denoise, sampler, task.draw_key, task.judge)

    def judged(start: StartLaw, *others: Arm) -> tuple[Array, Array]:
        """Distances and horizons: of the seven that seem best, then of the longest's best, then of others."""
        rough = score(start, grids, n=num_tried)
        few = jnp.append(
            jnp.argsort(rough.reshape(-1))[: _FINALISTS - 1], rough.size - rough.shape[1] + rough[-1].argmin()
        )
        laws = jax.tree.map(lambda leaf: leaf[few // rough.shape[1]], start)
        times = grids.reshape(-1, grids.shape[2])[few]
        for other in others:
            laws, times = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), (laws, times), other)
        return score(laws, times[:, None], n=num_samples)[:, 0], times[:, 0]

    found = {name: judged(start) for name, start in task.starts.items() if name != "best"}
    distances, at = judged(task.starts["best"], unlabelled(choice))
    chosen, best = float(distances[-1]), jnp.argmin(distances)
    horizons = jnp.asarray(task.horizons)
    figures = {
        "chosen": chosen,
        "best": float(distances[best]),
        **{name: float(own.min()) for name, (own, _) in found.items()},
        "no calls": float(_no_calls(task.draw_key, task.judge, task.starts["best"], horizons, num_samples)),
        "floor": float(task.floor),
        "t_max": float(choice.t_max),
        "best t_max": float(at[best]),
        "ratio": chosen / float(distances[best]),
    }
    if "Gaussian" in found:
        figures["long"] = float(found["Gaussian"][0][-1])
    return figures, unlabelled(choice)


def unlabelled(choice: Horizon) -> Arm:
    """Of data without labels."""
    assert not isinstance(choice.start, Labelled)
    return choice.start, choice.times


def samples(task: Task, sampler: Sampler, arm: Arm, n: int) -> Array:
    """Of an arm, as `cell` draws them."""
    start, times = arm
    return integrate(task.draw_key, task.denoise, start.sample(task.draw_key, n), times, sampler=sampler)


def _along(directions: Array, x: Array) -> Array:
    return jnp.sort(directions @ x.reshape(len(x), -1).T, axis=1)


@functools.partial(jax.jit, static_argnames="n")
def _score(
    denoise: Denoiser,
    sampler: Sampler,
    key: Array,
    judge: Judge,
    laws: StartLaw,
    grids: Array,
    n: int,
) -> Array:
    """Distances of n samples each, (horizons, grids)."""

    def at(candidate: tuple[Any, Array]) -> Array:
        law, grids = candidate
        x = law.sample(key, n)
        return jax.lax.map(lambda times: judge(integrate(key, denoise, x, times, sampler=sampler)), grids)

    return jax.lax.map(at, (laws, grids))


@functools.partial(jax.jit, static_argnames="n")
def _no_calls(key: Array, judge: Judge, laws: StartLaw, horizons: Array, n: int) -> Array:
    """The least distance of the starts' own draws."""

    def at(candidate: tuple[Any, Array]) -> Array:
        law, t = candidate
        return judge(law.sample(key, n) / SCHEDULE.alpha(t))

    return jax.lax.map(at, (laws, horizons)).min()
