"""What the trainers ask of a run's directory, and how they end on a signal."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff.learning.training import EXIT_INTERRUPTED, TrainState
from jaxdiff.running.checkpoints import Checkpoints


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The config that checkpoints must agree with: in double precision other numbers are drawn."""
    return config | ({"x64": True} if jax.dtypes.result_type(float) == np.float64 else {})


def check_new(checkpoints: Checkpoints, out: pathlib.Path) -> None:
    """Raise FileExistsError where out holds a run, which is gone on with only if that is asked for."""
    if checkpoints.latest_step is not None:
        raise FileExistsError(
            f"{out} holds a run, saved at step {checkpoints.latest_step}; go on with --resume, or give "
            "another directory by --out."
        )


def leave_if_stopped(state: TrainState, num_steps: int, stop: Callable[[int], bool]) -> None:
    """Exit with the status that asks for another run unless all steps are done and no signal has come."""
    if int(state.step) < num_steps or stop(num_steps + 1):
        if jax.process_index() == 0:
            print(f"Stopped at step {int(state.step)}; go on with --resume.", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED)
