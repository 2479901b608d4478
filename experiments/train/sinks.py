"""Where curves and images of a run go beside its files: a sink is called with a step and values by name."""

import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Sink = Callable[[int, dict[str, Any]], None]
"""sink(step, values): numbers are points of curves, arrays (height, width, 1 or 3) in [0, 1] are images."""


@contextmanager
def tensorboard(directory: pathlib.Path, first_step: int) -> Iterator[Sink]:
    """A sink for `tensorboard --logdir`; what an earlier run wrote there of later steps is not shown.

    Raises ImportError without tensorboardX.
    """
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"--tensorboard needs {error.name}; pip install '.[tensorboard]'.") from None

    def sink(step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if np.ndim(value):
                writer.add_image(name, value, step, dataformats="HWC")
            else:
                writer.add_scalar(name, value, step)

    with SummaryWriter(str(directory), purge_step=first_step + 1, flush_secs=10) as writer:
        yield sink
