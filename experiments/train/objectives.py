"""What is learnt besides a denoiser: flow maps, by the losses of `jaxdiff.maps`, each in one signature.

All are of one network with a second time, which is its own denoiser: bits, Heun's samples and whatever else
is said of a denoiser is said of it too. Their times and weights are those of `jaxdiff.maps`.

MEASURED (`python -m experiments.train digits --objective mean_flow --steps 2000 --evaluations 32`, 55 seconds
of training on one busy core of an AMD EPYC, one seed, 2026-11-29): Frechet distance of samples by 1, 2 and 4
calls of the map 24.2, 23.2 and 18.6, by 32 steps of Heun of its own denoiser 11.5; of the Gaussian's 18.7, of
training images 4.9. So short a training gives a denoiser, and no map yet.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from experiments.train.configs import Config
from jaxdiff import maps
from jaxdiff.maps.flow_map import FlowMap
from jaxdiff.typing import Array, Key


class Objective(NamedTuple):
    """A loss of each row by (config, key, map, its average, step, data), and how the map is sampled."""

    loss: Callable[[Config, Key, FlowMap, FlowMap, Array, Array], Array]
    renoise: float = 0.0
    """1 where a map is trained to the first time only."""


def _mean_flow(
    config: Config, key: Key, student: FlowMap, average: FlowMap, step: Array, x: Array, *, improved: bool
) -> Array:
    return maps.mean_flow_loss(key, student, x, improved=improved)


def _shortcut(config: Config, key: Key, student: FlowMap, average: FlowMap, step: Array, x: Array) -> Array:
    return maps.shortcut_loss(key, student, x, average=average)


def _consistency(
    config: Config, key: Key, student: FlowMap, average: FlowMap, step: Array, x: Array
) -> Array:
    return maps.consistency_loss(key, student, x, ratio=maps.halving(step, config.curriculum))


def _continuous(config: Config, key: Key, student: FlowMap, average: FlowMap, step: Array, x: Array) -> Array:
    warm_up = jnp.minimum(1.0, step / config.curriculum)
    return maps.continuous_consistency_loss(key, student, x, warm_up=warm_up)


def _moments(config: Config, key: Key, student: FlowMap, average: FlowMap, step: Array, x: Array) -> Array:
    return maps.moment_matching_loss(key, student, x, group=4)


OBJECTIVES = {
    "mean_flow": Objective(functools.partial(_mean_flow, improved=False)),
    "improved_mean_flow": Objective(functools.partial(_mean_flow, improved=True)),
    "shortcut": Objective(_shortcut),
    "consistency": Objective(_consistency, renoise=1.0),
    "continuous_consistency": Objective(_continuous, renoise=1.0),
    "moment_matching": Objective(_moments),
}
"""By the name that --objective has; "denoising" is no map's."""
