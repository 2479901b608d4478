"""What a horizon and a grid leave: `choose_horizon`, an oracle that tries the same fits, and their rivals."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics.strata import one_of_each, stratified
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
_FINALISTS = 4
_DRAWS = 8  # for each sample that is run

Arm = tuple[StartLaw, Array]
"""A start, and the grid from its horizon."""


class Judge(NamedTuple):
    """By sliced W_2 to the law: sorted coordinates of many draws of it along directions, (directions, n).

    Of a divisor of n rows, by the means of neighbouring ones.
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
    families: dict[str, Family[Any]]
    """Whose fits were made before: the chooser and the oracle try the same ones."""
    draws: dict[str, tuple[Array, Array]]
    """Of the families' fits and of the controls, (horizons, n, *shape): to find the best by, and to judge."""
    judge: Judge
    floor: Array
    choose_key: Array
    draw_key: Array


def task(
    keys: Sequence[Key],
    denoise: Denoiser,
    data: Array,
    families: dict[str, Family[Any]],
    controls: dict[str, Callable[[float], StartLaw]],
    fresh: tuple[Array, Array],
    horizons: tuple[float, ...],
    num_samples: int,
    num_judged: int,
) -> Task:
    """Of keys for fits, choices and draws; fresh are draws that judge, of a multiple of both numbers, and
    others, of which num_judged are the floor.
    """
    fit_key, choose_key, draw_key = keys

    def made(family: Family[Any]) -> Family[Any]:
        fits = {t: fit_start(fit_key, family, data, SCHEDULE, t) for t in horizons}
        return Family(lambda key, data, schedule, t: fits[float(t)], family.num_parameters)

    def stacked(start_at: Callable[[float], StartLaw]) -> StartLaw:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start_at, horizons))

    own = {name: made(family) for name, family in families.items()}
    tried = {name: functools.partial(family.fit, fit_key, data, SCHEDULE) for name, family in own.items()}

    wanted, others = fresh
    directions = jax.random.normal(jax.random.key(5), (_DIRECTIONS, others[0].size))
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    judge = Judge(directions, _along(directions, wanted))
    draws, (find_key, judge_key) = {}, jax.random.split(draw_key)
    for name, at in (tried | controls).items():
        laws = stacked(at)
        draws[name] = _drawn(find_key, judge, laws, num_samples), _drawn(judge_key, judge, laws, num_judged)
    floor = judge(others[one_of_each(draw_key, _coordinates(directions, others), num_judged)])
    return Task(denoise, data, horizons, own, draws, judge, floor, choose_key, draw_key)


def cell(
    task: Task,
    sampler: Sampler,
    num_steps: int,
    *,
    num_chosen_by: int = 2048,
    num_tried: int,
) -> tuple[dict[str, Any], Arm]:
    """Distances of one sampler in so many steps, and what was chosen.

    The chooser judges by so many samples (`choose_horizon`, num_samples). The oracle tries every candidate by
    num_tried, and the least `_FINALISTS` of each start by all of the draws; the least of these runs from
    other draws, as all that is judged, so that luck does not make it the best.
    """
    choice = choose_horizon(
        task.choose_key,
        list(task.families.values()),
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
    tried = choice.candidates.times[: len(task.horizons)]  # those of all families
    grids = jnp.concatenate([tried, jnp.stack(edm)[:, None]], axis=1)
    longest = len(task.horizons) - 1

    def score(x: Array, grids: Array) -> Array:
        return _score(task.denoise, sampler, task.draw_key, task.judge, x, grids)

    def least(name: str) -> tuple[tuple[int, Array], tuple[int, Array]]:
        """Of the best, the horizon's number and the grid, and of the best from the longest horizon."""
        x = task.draws[name][0]
        rough = score(x[:, :num_tried], grids)
        of_all, of_longest = (jnp.argsort(own.reshape(-1))[:_FINALISTS] for own in (rough, rough[-1]))
        few = jnp.concatenate([of_all, of_longest + longest * rough.shape[1]])
        times = grids.reshape(-1, grids.shape[2])[few]
        found = score(x[few // rough.shape[1]], times[:, None])[:, 0]
        best, long = int(found.argmin()), _FINALISTS + int(found[_FINALISTS:].argmin())
        return (int(few[best]) // rough.shape[1], times[best]), (longest, times[long])

    def judged(name: str, horizon: int, times: Array) -> float:
        return float(score(task.draws[name][1][horizon][None], times[None, None])[0, 0])

    arms = {name: least(name) for name in task.draws}
    family = list(task.families)[int(choice.family)]
    chosen = int(jnp.argmin(jnp.abs(jnp.asarray(task.horizons) - choice.t_max)))
    figures = {
        "chosen": judged(family, chosen, choice.times),
        **{name: judged(name, *best) for name, (best, _) in arms.items()},
        "no calls": min(
            float(task.judge(x / SCHEDULE.alpha(t)))
            for name in task.families
            for x, t in zip(task.draws[name][1], task.horizons, strict=True)
        ),
        "floor": float(task.floor),
        "t_max": float(choice.t_max),
        "family": family,
    }
    if "Gaussian" in arms:
        figures["long"] = judged("Gaussian", *arms["Gaussian"][1])
    best = min(task.families, key=lambda name: figures[name])
    ratio = figures["chosen"] / figures[best]
    return figures | {"best": figures[best], "best family": best, "ratio": ratio}, unlabelled(choice)


def unlabelled(choice: Horizon) -> Arm:
    """Of data without labels."""
    assert not isinstance(choice.start, Labelled)
    return choice.start, choice.times


def samples(task: Task, sampler: Sampler, arm: Arm, n: int) -> Array:
    """Of an arm, from draws as `cell` has them."""
    start, times = jax.tree.map(lambda leaf: leaf[None], arm)
    x = _drawn(jax.random.split(task.draw_key)[1], task.judge, start, n)
    return integrate(task.draw_key, task.denoise, x[0], times[0], sampler=sampler)


@functools.partial(jax.jit, static_argnames="n")
def _drawn(key: Key, judge: Judge, laws: StartLaw, n: int) -> Array:
    """For each law one draw from each of n cells of 8 n or more, (laws, n, *shape).

    So all laws are judged with less of the noise of samples.
    """

    features = functools.partial(_coordinates, judge.directions)
    return jax.lax.map(lambda law: stratified(key, law.sample, features, n, out_of=_DRAWS), laws)


def _coordinates(directions: Array, x: Array) -> Array:
    return x.reshape(len(x), -1) @ directions.T


def _along(directions: Array, x: Array) -> Array:
    return jnp.sort(_coordinates(directions, x).T, axis=1)


@jax.jit
def _score(
    denoise: Denoiser, sampler: Sampler, key: Array, judge: Judge, draws: Array, grids: Array
) -> Array:
    """Of runs from draws, (horizons, n, *shape), along their grids, (horizons, grids, steps + 1)."""

    def at(candidate: tuple[Array, Array]) -> Array:
        x, grids = candidate
        return jax.lax.map(lambda times: judge(integrate(key, denoise, x, times, sampler=sampler)), grids)

    return jax.lax.map(at, (draws, grids))
