"""A model's form by platform: precision, and its blocks in one loop or apart; and a state of either form."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax

from experiments.train.configs import Config, in_single_precision
from jaxdiff.learning.training import TrainState
from jaxdiff.models import scanned_blocks, separate_blocks
from jaxdiff.running.checkpoints import Checkpoints
from jaxdiff.running.emergency import EmergencyCheckpoints
from jaxdiff.running.parallel import Layout


def for_platform(config: Config, platform: str, asked: Collection[str]) -> Config:
    """The config with what suits a platform, but for options that are asked for by name.

    On CPUs float32 for bfloat16. On accelerators a transformer's blocks are in one loop, which compiles as
    fast for 28 as for a few, and which would take a CPU half as long again.
    """
    if platform == "cpu":
        return config if "model.dtype" in asked else in_single_precision(config)
    if "model.scan" in asked or not hasattr(config.model, "scan"):
        return config
    return dataclasses.replace(config, model=config.model.clone(scan=True))


def newest(
    config: Config,
    layout: Layout,
    init: Callable[[], TrainState],
    checkpoints: Checkpoints,
    emergency: EmergencyCheckpoints | None,
) -> TrainState | None:
    """The newest state there is, or None; of a transformer with its blocks in the other form too.

    Raises as `Checkpoints.restore`.
    """

    def read(init: Callable[[], TrainState]) -> TrainState | None:
        like, found = layout.like(init), None
        if emergency:
            found = emergency.restore(like, after=checkpoints.latest_step)
        found = found or checkpoints.restore(like)
        return found and found.state

    if not hasattr(config.model, "scan"):
        return read(init)
    scan: bool = getattr(config.model, "scan")  # noqa: B009 - of some models
    to_this, to_other = (scanned_blocks, separate_blocks) if scan else (separate_blocks, scanned_blocks)
    try:
        return read(init)
    except ValueError as error:
        try:
            state: Any = read(lambda: to_other(init()))
        except ValueError:
            raise error from None
        return jax.jit(to_this, out_shardings=layout.shardings(jax.eval_shape(init)))(state)
