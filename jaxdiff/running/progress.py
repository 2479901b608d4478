"""What a training run shows: a line on the terminal, and JSON lines in a file."""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

import jax
import numpy as np

from jaxdiff.learning.training import Metrics

Sink = Callable[[int, dict[str, float]], None]
"""sink(step, values) of a dispatch, by name."""


class Progress:
    """A report for `train`: one line on a terminal, and JSON lines in a file.

    On a terminal the line is redrawn in place; elsewhere a plain line is printed every ten seconds.

    Each dispatch appends one object to log: step (steps done), loss and gradient_norm (means over the
    dispatch), steps_per_second (without compilation), elapsed_seconds (of all the runs that wrote the file)
    and, where devices say so, device_memory, the bytes in use at most on one of this process. Give a resumed
    run's restored step as first_step: later lines, left by what was lost, are dropped, and one cut off in
    writing.

    also(steps_per_second), asked at each dispatch, answers more values by name for that object.

    Each of sinks is called with the step and the same values by name. With TensorBoard:

        writer = tensorboardX.SummaryWriter("runs/first")
        def sink(step, values):
            for name, value in values.items():
                writer.add_scalar(name, value, step)

    Use it as a context manager, which closes the file.

    >>> import io
    >>> losses = {}
    >>> sink = lambda step, values: losses.update({step: values["loss"]})
    >>> report = jd.Progress(4, sinks=[sink], stream=io.StringIO())  # by itself a line on the terminal
    >>> step = jd.make_train_step(lambda params, key, batch: params**2 / 2, optax.sgd(0.5), ema_decay=None)
    >>> key, state = jax.random.key(0), jd.init_state(jnp.array(2.0), optax.sgd(0.5), ema_decay=None)
    >>> options = {"num_steps": 4, "steps_per_dispatch": 2, "report": report}
    >>> state = jd.train(key, state, step, lambda key: jnp.zeros(1), **options)
    >>> losses  # means of 2, 1/2 and of 1/8, 1/32
    {2: 1.25, 4: 0.078125}
    """

    def __init__(
        self,
        num_steps: int,
        *,
        first_step: int = 0,
        log: str | os.PathLike[str] | None = None,
        sinks: Sequence[Sink] = (),
        also: Callable[[float], dict[str, float]] = lambda rate: {},
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._num_steps = num_steps
        self._sinks, self._also = sinks, also
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._clock = clock
        self._shown_at = -math.inf
        elapsed, self._log = (0.0, None) if log is None else _reopen_log(pathlib.Path(log), first_step)
        self._started_at = clock() - elapsed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal and self._shown_at > -math.inf:
            self._stream.write("\n")
        if self._log is not None:
            self._log.close()

    def __call__(self, step: int, metrics: Metrics, steps_per_second: float) -> None:
        now = self._clock()
        loss, gradient_norm = float(np.mean(metrics.loss)), float(np.mean(metrics.gradient_norm))
        memory = _device_memory()
        values = {
            "loss": loss,
            "gradient_norm": gradient_norm,
            "steps_per_second": steps_per_second,
            "elapsed_seconds": now - self._started_at,
            **({"device_memory": memory[0]} if memory else {}),
            **self._also(steps_per_second),
        }
        if self._log is not None:
            self._log.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
            self._log.flush()
        for sink in self._sinks:
            sink(step, values)
        if step == self._num_steps or now - self._shown_at >= (0.1 if self._terminal else 10):
            self._shown_at = now
            self._show(step, loss, steps_per_second, memory)

    def _show(self, step: int, loss: float, steps_per_second: float, memory: tuple[int, int] | None) -> None:
        minutes, seconds = divmod(round((self._num_steps - step) / steps_per_second), 60)
        left = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        text = f"{step}/{self._num_steps}  loss {loss:.4g}  {steps_per_second:.3g} steps/s  {left} left"
        if memory:
            text += f"  {memory[0] / 1e9:.1f} of {memory[1] / 1e9:.0f} GB"
        if self._terminal:
            bar = "#" * (20 * step // self._num_steps)
            text = f"\r{f'[{bar:<20}] {text}'[: shutil.get_terminal_size().columns - 1]}\x1b[K"
        else:
            text += "\n"
        self._stream.write(text)
        self._stream.flush()


def _device_memory() -> tuple[int, int] | None:
    """Bytes in use at most on one device of this process, and those that it has; None where none says."""
    said = [device.memory_stats() or {} for device in jax.local_devices()]
    names = ("peak_bytes_in_use", "bytes_limit")
    rows = [(stats[names[0]], stats[names[1]]) for stats in said if set(names) <= stats.keys()]
    return max(rows, default=None)


def _reopen_log(path: pathlib.Path, first_step: int) -> tuple[float, TextIO]:
    """The log without its lines past first_step, open for appending, and the seconds that it has covered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept, elapsed = [], 0.0
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= first_step:
            kept.append(line + "\n")
            elapsed = entry["elapsed_seconds"]
    rewritten = path.with_name(path.name + ".tmp")  # a kill while rewriting leaves the log as it was
    rewritten.write_text("".join(kept))
    rewritten.replace(path)
    return elapsed, path.open("a")
