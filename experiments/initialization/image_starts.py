"""Starts for images, as laws of rows of their pixels, and what it takes to fit one."""

import functools
import math
import time
import warnings
from typing import NamedTuple

import jax

from jaxdiff.laws.empirical import Empirical
from jaxdiff.models import PatchFlow
from jaxdiff.sampling.starts import (
    Family,
    fit_start,
    flow,
    gaussian,
    gaussian_mixture,
    isotropic,
    plain,
    sampling_error,
)
from jaxdiff.typing import Array, Key, Schedule, StartLaw, Time

FLOW = "patch flow"


class Fit(NamedTuple):
    """A start, the seconds of its fit, compilation included, and d* / 2n."""

    law: StartLaw
    seconds: float
    sampling_error: float


class _Rows(NamedTuple):
    """A law of images, as one of rows: `Shaped` the other way."""

    law: StartLaw

    @property
    def shape(self) -> tuple[int, ...]:
        return (math.prod(self.law.shape),)

    def sample(self, key: Key, n: int) -> Array:
        return self.law.sample(key, n).reshape(n, -1)

    def log_prob(self, x: Array) -> Array:
        return self.law.log_prob(x.reshape(*x.shape[:-1], *self.law.shape))


def families(
    *, components: int, iterations: int, flow_width: int, flow_blocks: int, flow_steps: int
) -> dict[str, Family]:
    """By name. Images of the flow are 8 by 8."""
    mixture = functools.partial(gaussian_mixture, components, num_restarts=2, num_iterations=iterations)
    patches = flow(
        PatchFlow(patch_size=4, width=flow_width, num_blocks=flow_blocks, num_layers=1),
        num_steps=flow_steps,
        batch_size=256,
        learning_rate=5e-3,
        evaluate_every=min(100, flow_steps),
    )

    def fit_patches(key: Key, data: Array, schedule: Schedule, t_max: Time) -> StartLaw:
        return _Rows(patches.fit(key, data.reshape(-1, 8, 8, 1), schedule, t_max))

    def memorize(key: Key, data: Array, schedule: Schedule, t_max: Time) -> StartLaw:
        del key
        return Empirical(data).perturbed(schedule, t_max)

    return {
        "plain": plain(),
        "isotropic": isotropic(),
        "gaussian": gaussian(),
        "mixture, diagonal": mixture(covariance="diagonal"),
        "mixture, full": mixture(covariance="full"),
        FLOW: patches._replace(fit=fit_patches),
        "empirical": Family(memorize, lambda d: 0),
    }


def fit(key: Key, family: Family, data: Array, schedule: Schedule, horizon: float) -> Fit:
    """The start of a family for data (n, d) noised to the horizon."""
    began = time.monotonic()
    with warnings.catch_warnings():
        # The mixture of full covariances has too many parameters for so few images; what that costs is shown.
        warnings.filterwarnings("ignore", message="the start law has")
        law = fit_start(key, family, data, schedule, horizon)
    jax.block_until_ready(law)
    return Fit(law, time.monotonic() - began, sampling_error(family, data))
