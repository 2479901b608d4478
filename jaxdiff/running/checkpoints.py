"""Checkpoints of a training state, over Orbax.

A directory holds one run; ``directory/<step>`` holds a checkpoint, written under another name and renamed
when it is complete, so that a kill at any moment leaves the earlier ones as they were. Beside the state lie
the run's configuration and the version of the library, and sums of all files (`jaxdiff.running.sums`), by
which a flipped bit is noticed. A checkpoint without sums, killed before they were written or of an older
version, is read as it is: a file that is cut or gone is noticed there, but not every bit.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pathlib
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxdiff._numerics import checks
from jaxdiff.learning.training import TrainState
from jaxdiff.running import sums
from jaxdiff.running.differences import check_config
from jaxdiff.running.directory import check_writable, local, locked
from jaxdiff.running.quiet import quiet
from jaxdiff.running.stored import DamagedError, Restored, about, read_about, restore_step, steps_in
from jaxdiff.running.writing import writing

_FILE_SIZE = 2**27
"""Bytes of a file of arrays, about: they are written, and summed, several at once."""
_PART_SIZE = 2**22
"""Bytes of an array that are read together, at most: a process of a restore reads those with rows of its own,
however many devices the array lay on when it was saved."""


class Checkpoints:
    """The checkpoints of one run, open for writing; a context manager.

    Saves run in the background; leaving the ``with`` waits for the last one, and must not be skipped. Kept
    are the keep_latest newest, so that a damaged one has a predecessor, the keep_best lowest in metric and,
    for averages to be combined afterwards (`jaxdiff.learning.ema`), those at multiples of keep_every.

    In a run of several processes each opens the same directory, which all of them see.

    Once a save is complete its files are summed, in the background too, and a restore compares the sums, so
    that a flipped bit is noticed; sums=False leaves both out, where the cores are needed more: each time they
    take 0.6 s of a core for a GB (`benchmarks.checkpoint_sums`).

    Raises, before any work: NotADirectoryError or OSError if directory cannot be written, BlockingIOError if
    it is open for writing already (see `directory.locked`), TypeError if config is not JSON, ValueError if
    directory holds a run with another config (the fields are named; leave out of config what may change, such
    as the number of steps). What goes wrong in writing, a full disk say, is an OSError of the next save or of
    the end of the ``with``.

    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> state = jd.init_state(jnp.array(1.0), optax.sgd(0.1), ema_decay=None)
    >>> with jd.Checkpoints(directory, config={}) as checkpoints:
    ...     for step, loss in enumerate([0.5, 0.1, 0.3]):
    ...         checkpoints.save(state._replace(step=jnp.array(step)), {"loss": loss})
    >>> [int(jd.restore(directory, state, step=step).state.step) for step in ("latest", "best")]
    [2, 1]
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        config: Mapping[str, Any],
        keep_latest: int = 2,
        keep_best: int = 1,
        keep_every: int | None = None,
        metric: str = "loss",
        sums: bool = True,
    ):
        checks.integer("keep_latest", keep_latest, 1)
        checks.integer("keep_best", keep_best, 0)
        self.directory = local(directory)
        self._about = about(config)
        self._metric = metric
        policies = ocp.checkpoint_managers
        best = policies.BestN(
            get_metric_fn=self._score, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False
        )
        kept = [policies.LatestN(keep_latest), best]
        if keep_every is not None:
            checks.integer("keep_every", keep_every, 1)
            kept.append(policies.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            best_fn=self._score,  # without it Orbax writes no metrics
            best_mode="min",
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,  # left by a kill in the middle of a save
        )
        check_writable(self.directory)
        with contextlib.ExitStack() as exits:
            exits.enter_context(locked(self.directory))
            self._compare_with_existing()
            exits.enter_context(quiet())
            self._manager = exits.enter_context(ocp.CheckpointManager(self.directory, options=options))
            self._sums = sums
            self._summer = exits.enter_context(ThreadPoolExecutor(1))
            self._summing: Future[None] | None = None
            self._exit = exits.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the last save and let go of the directory."""
        try:
            self._wait()
        finally:
            with writing(self.directory):  # Orbax has files of its own to end
                self._exit.close()

    @property
    def latest_step(self) -> int | None:
        """The newest step, or None in a new directory."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the lowest metric, or None if none was saved with it."""
        self._wait()
        return _best_step(self.directory, self._metric)

    def save(self, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
        """Save state under its step, in the background; it may be donated once this returns.

        Raises ValueError if the directory holds this step or a later one (they belong to another history),
        or if metrics lacks the metric by which the best is kept or gives a number that is not finite.
        """
        step = int(state.step)
        if self.latest_step is not None and step <= self.latest_step:
            raise ValueError(
                f"{self.directory} already holds step {self.latest_step}, and step {step} was to be saved; "
                "restore that one first, or train in another directory."
            )
        if metrics is not None:
            metrics = {name: float(value) for name, value in metrics.items()}
            if not math.isfinite(metrics.get(self._metric, math.nan)):
                raise ValueError(f"metrics must hold a finite {self._metric!r} to rank by, got {metrics}.")
        parts = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_PART_SIZE), state)
        arrays = ocp.args.PyTreeSave(state, parts, ocdbt_target_data_file_size=_FILE_SIZE)
        items = ocp.args.Composite(state=arrays, about=ocp.args.JsonSave(self._about))
        self._wait()
        with writing(self.directory):
            self._manager.save(step, args=items, metrics=metrics, force=True)
        if self._sums and jax.process_index() == 0:
            self._summing = self._summer.submit(self._sum, step)

    def restore(self, like: Any) -> Restored | None:
        """The newest readable checkpoint, to go on from, or None in a new directory. See `restore`.

        A damaged one is renamed to ``<step>.damaged``, with a warning, if one before it can be read.
        """
        self._wait()
        if not steps_in(self.directory):
            return None
        restored, damaged = _restore_newest(self.directory, like, None, part=False, verify=self._sums)
        _set_aside(self.directory, damaged)
        self._manager.reload()
        return restored

    def _compare_with_existing(self) -> None:
        # Orbax would fail on unreadable metrics, for the whole directory.
        steps, damaged = steps_in(self.directory), []
        for step in steps:
            try:
                found = read_about(self.directory, step)
            except DamagedError as error:
                _warn(self.directory, step, error)
                damaged.append(step)
            else:
                check_config(self.directory / str(step), found.config, self._about["config"])
        if steps and damaged == steps:
            raise _none_readable(self.directory, steps)
        _set_aside(self.directory, damaged)

    def _sum(self, step: int) -> None:
        with contextlib.suppress(Exception):  # raised to the one who saves next, or closes
            self._manager.wait_until_finished()
        if (path := self.directory / str(step)).is_dir():
            sums.write(path)

    def _wait(self) -> None:
        """For the last save and its sums."""
        summing, self._summing = self._summing, None
        with writing(self.directory):
            self._manager.wait_until_finished()
            if summing is not None:
                summing.result()

    def _score(self, metrics: Mapping[str, float]) -> float:
        return metrics[self._metric]


def save(
    directory: str | os.PathLike[str],
    state: TrainState,
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Save one state in a directory and wait for it. Errors as in `Checkpoints`, which opens it.

    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> state = jd.init_state({"w": jnp.array([1.0, 2.0])}, optax.adam(0.1), ema_decay=None)
    >>> jd.save(directory, state, config={"width": 64})
    >>> jd.restore(directory, state).state.params["w"].tolist()
    [1.0, 2.0]
    """
    with Checkpoints(directory, config=config) as checkpoints:
        checkpoints.save(state, metrics)


def restore(
    directory: str | os.PathLike[str],
    like: Any,
    *,
    step: int | str = "latest",
    config: Mapping[str, Any] | None = None,
    metric: str = "loss",
    part: bool = False,
    sums: bool = True,
) -> Restored:
    """Read a checkpoint; the directory is not written to.

    like says what is wanted: a tree of arrays or of shapes and dtypes, such as
    ``jax.eval_shape(lambda: init_state(...))``. A leaf goes where its sharding says (`parallel.Layout.like`),
    else to the first device. With part=True like is a dictionary of some of the fields of the state, such as
    ``{"ema_params": params}``, and nothing else is restored. step is a number, "latest", or "best" for the
    lowest metric. All files are compared with their sums, if there are any; with sums=False only those beside
    the state are, see `Checkpoints`. Where the latest is damaged, the one before it is read, with a warning
    that names the file.

    Raises, before an array is read: FileNotFoundError (no directory, no checkpoint, or not this step),
    NotADirectoryError, ValueError if the checkpoint is of another config (where one is given) or of another
    model: each field or leaf is named with what was got and what was wanted. Raises OSError if the checkpoint
    is damaged, and no earlier one may stand in for it.

    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> state = jd.init_state({"w": jnp.array([1.0, 2.0])}, optax.adam(0.1), ema_decay=None)
    >>> jd.save(directory, state, config={"width": 64}, metrics={"loss": 0.5})
    >>> like = jax.eval_shape(lambda: {"params": {"w": jnp.zeros(2)}})
    >>> back = jd.restore(directory, like, part=True)
    >>> back.state["params"]["w"].tolist(), back.config, back.metrics
    ([1.0, 2.0], {'width': 64}, {'loss': 0.5})
    """
    directory = local(directory)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; wanted the directory of a run.")
    if not directory.exists():
        raise FileNotFoundError(f"There is no directory {directory} to restore from; check its name.")
    steps = steps_in(directory)
    if not steps:
        raise FileNotFoundError(
            f"{directory} holds no checkpoint: looked for subdirectories named by a step, such as "
            f"{directory / '1000'}. A directory of runs? Give one of theirs."
        )
    if isinstance(step, str):
        checks.option("step", step, ["latest", "best"])
    wanted = None if config is None else about(config)["config"]
    if step == "latest":
        return _restore_newest(directory, like, wanted, part=part, verify=sums)[0]
    at = _best_step(directory, metric) if step == "best" else int(step)
    if at is None:
        raise FileNotFoundError(
            f"No checkpoint in {directory} has the metric {metric!r}; restore the latest."
        )
    if at not in steps:
        raise FileNotFoundError(f"{directory} holds no step {at}; it holds {', '.join(map(str, steps))}.")
    try:
        return restore_step(directory, at, like, wanted, part=part, verify=sums)
    except DamagedError as error:
        raise OSError(
            f"Checkpoint {directory / str(at)} is damaged ({error}); restore the latest, or "
            f"another of the steps {', '.join(map(str, steps))}."
        ) from None


def _restore_newest(
    directory: pathlib.Path, like: Any, config: dict[str, Any] | None, *, part: bool, verify: bool
) -> tuple[Restored, list[int]]:
    """The newest checkpoint that can be read, and the steps of those after it, which cannot."""
    damaged = []
    for step in reversed(steps_in(directory)):
        try:
            return restore_step(directory, step, like, config, part=part, verify=verify), damaged
        except DamagedError as error:
            _warn(directory, step, error)
            damaged.append(step)
    raise _none_readable(directory, damaged)


def _none_readable(directory: pathlib.Path, steps: list[int]) -> OSError:
    return OSError(
        f"No checkpoint in {directory} can be read, of step{'s' * (len(steps) > 1)} "
        f"{', '.join(map(str, steps))}. Restore from a copy, or train anew in another directory."
    )


def _best_step(directory: pathlib.Path, metric: str) -> int | None:
    scores = {}
    for step in steps_in(directory):
        try:
            scores[step] = read_about(directory, step).metrics[metric]
        except DamagedError as error:
            _warn(directory, step, error, "it cannot be the best")
        except KeyError:  # saved without
            pass
    return min(scores, key=lambda step: (scores[step], -step), default=None)


def _warn(
    directory: pathlib.Path, step: int, error: DamagedError, then: str = "looking at the one before it"
) -> None:
    warnings.warn(f"Checkpoint {directory / str(step)} is damaged ({error}); {then}.", stacklevel=5)


def _set_aside(directory: pathlib.Path, damaged: list[int]) -> None:
    """Rename the damaged ones: as the newest they would keep the next ones from being saved."""
    if damaged and jax.process_index() == 0:
        for step in damaged:
            names = (directory / f"{step}.damaged{number or ''}" for number in itertools.count())
            (directory / str(step)).rename(next(name for name in names if not name.exists()))
    if damaged and jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
