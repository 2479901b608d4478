"""What process 0 says and writes of each dispatch, and how well the devices are used."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax

from experiments.train.configs import Config
from experiments.train.sinks import Sink
from jaxdiff.learning import training
from jaxdiff.learning.training import Metrics
from jaxdiff.running import programs
from jaxdiff.running.goodput import Goodput
from jaxdiff.running.progress import Progress


@contextmanager
def reports(
    config: Config,
    out: pathlib.Path,
    first_step: int,
    profile: pathlib.Path | None,
    sinks: Sequence[Sink],
    also: Callable[[float], dict[str, float]],
) -> Iterator[training.Report | None]:
    """A report for `training.train`: progress, metrics.jsonl and a trace; None of processes but the first."""
    if jax.process_index():
        yield None
        return
    seen = 0

    def trace() -> None:
        """The dispatch after the first report, when everything is compiled."""
        nonlocal seen
        seen += 1
        if profile and seen == 1:
            jax.profiler.start_trace(profile)
        if profile and seen == 2:
            jax.profiler.stop_trace()

    log = out / "metrics.jsonl"
    with Progress(config.steps, first_step=first_step, log=log, sinks=sinks, also=also) as progress:

        def report(step: int, metrics: Metrics, rate: float) -> None:
            progress(step, metrics, rate)
            trace()

        try:
            yield report
        finally:
            if seen == 1:
                trace()


def accounts(lost: Goodput, flops: Callable[[], int]) -> Callable[[float], dict[str, float]]:
    """By steps a second: model_flops a second of all devices, mfu, their part of the peak where it is known,
    goodput and its losses.

    flops() of a step is asked for once, with the first report, when the devices have work.
    """
    once = functools.cache(flops)
    chip = programs.chip_of(jax.devices()[0].device_kind)

    def values(rate: float) -> dict[str, float]:
        achieved = once() * rate
        peak = {"mfu": achieved / (chip.flops * jax.device_count())} if chip else {}
        return {"model_flops": achieved, **peak, **lost.values()}

    return values
