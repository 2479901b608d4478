"""Every way to train a flow map, as a loss of one signature, and what each is sampled with."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff import maps
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.learning.losses import denoising_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.maps.flow_map import FlowMap
from jaxdiff.noising import times as grids
from jaxdiff.typing import Array, Denoised, Key


class Lesson(NamedTuple):
    """What a loss is given beside a key and a batch."""

    student: FlowMap
    average: FlowMap
    """Of its parameters over the training so far."""
    teacher: Denoiser
    """A denoiser trained before, where the method has one."""
    share: Array
    """Of the training that is done, in [0, 1]."""


Loss: TypeAlias = Callable[[Key, Lesson, Any], Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """A loss, whether it has a teacher (and begins from its parameters), and how its map is sampled."""

    loss: Loss
    taught: bool = False
    renoise: float = 0.0
    """1 where the map knows its ends at the first time only."""


def _tempered(losses: Array, power: float = 0.5) -> Array:
    """Each row's loss over a power of itself, as MeanFlow's and consistency's are, so that none is loud."""
    return losses / jax.lax.stop_gradient(losses + 1e-3) ** power


def _mean_flow(
    key: Key, lesson: Lesson, data: Array, *, improved: bool = False, taught: bool = False
) -> Array:
    teacher = lesson.teacher if taught else None
    return _tempered(maps.mean_flow_loss(key, lesson.student, data, teacher=teacher, improved=improved))


def _continuous(key: Key, lesson: Lesson, data: Array, *, taught: bool = False) -> Array:
    teacher = lesson.teacher if taught else None
    warm_up = jnp.minimum(1.0, 2 * lesson.share)
    return maps.continuous_consistency_loss(key, lesson.student, data, teacher=teacher, warm_up=warm_up)


def _discrete(key: Key, lesson: Lesson, data: Array, *, taught: bool = False) -> Array:
    # Eight halvings at most, the last an eighth before the end.
    ratio = maps.halving((lesson.share * 1000).astype(int), 125, least=1 / 64)
    teacher = lesson.teacher if taught else None
    return _tempered(maps.consistency_loss(key, lesson.student, data, ratio=ratio, teacher=teacher))


def _shortcut(key: Key, lesson: Lesson, data: Array) -> Array:
    return maps.shortcut_loss(key, lesson.student, data, average=lesson.average)


def _moments(key: Key, lesson: Lesson, data: Array) -> Array:
    return maps.moment_matching_loss(key, lesson.student, data, group=16)


METHODS: dict[str, Method] = {
    "MeanFlow": Method(_mean_flow),
    "improved MeanFlow": Method(functools.partial(_mean_flow, improved=True)),
    "shortcut": Method(_shortcut),
    "moment matching": Method(_moments),
    "sCM, training": Method(_continuous, renoise=1.0),
    "consistency, training": Method(_discrete, renoise=1.0),
    "MeanFlow, distilled": Method(functools.partial(_mean_flow, taught=True), taught=True),
    "sCM, distilled": Method(functools.partial(_continuous, taught=True), taught=True, renoise=1.0),
    "consistency, distilled": Method(functools.partial(_discrete, taught=True), taught=True, renoise=1.0),
}


def denoising(key: Key, lesson: Lesson, data: Array) -> Array:
    """The teacher's own training."""
    return denoising_loss(key, lesson.student.denoiser, data)


def reflow(key: Key, lesson: Lesson, pairs: Denoised) -> Array:
    """Of pairs in the place of data; its map is of single steps."""
    return maps.reflow_loss(key, lesson.student.denoiser, pairs)


def progressive(key: Key, lesson: Lesson, data: Array, *, calls: int, before: FlowMap) -> Array:
    """A stage, of so many calls, which halves those of the map before."""
    return maps.progressive_loss(
        key, lesson.student, before, data, times=grid(lesson.student.denoiser, calls)
    )


def score_distillation(key: Key, student: FlowMap, fake: Denoiser, teacher: Denoiser, data: Array) -> Array:
    """DMD2: of the map, from the times of four calls to the first, and of the fake denoiser of its ends."""
    time_key, noise_key, key, fake_key = jax.random.split(key, 4)
    t = jax.random.choice(time_key, grid(student.denoiser, 4)[:-1], (len(data),))
    x, _ = denoising_target(noise_key, student.schedule, data, t)
    samples = student(x, t, student.schedule.t_min)
    own = maps.score_distillation_loss(key, samples, teacher, fake)
    return own + denoising_loss(fake_key, fake, jax.lax.stop_gradient(samples))


def grid(denoise: Denoiser, calls: int) -> Array:
    """Times of so many calls, as `sample_map` has them, and every second one of twice as many."""
    low, high = denoise.working_range
    return grids.noise_grid(denoise.schedule, calls, t_min=low, t_max=high, scale=denoise.scale)


def energy(samples: Array, data: Array) -> Array:
    """The energy distance of two batches of one size, without bias: a generator's loss, a scalar."""

    def mean(a: Array, b: Array, pairs: int) -> Array:
        square = ((a[:, None] - b[None]) ** 2).sum(2)
        same = square == 0  # a row and itself
        return jnp.where(same, 0.0, jnp.sqrt(jnp.where(same, 1.0, square))).sum() / pairs

    n, others = len(samples) ** 2, len(samples) * (len(samples) - 1)
    return 2 * mean(samples, data, n) - mean(samples, samples, others) - mean(data, data, others)
