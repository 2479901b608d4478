"""Emergency checkpoints: each process keeps what its own devices hold on a disk of its own host.

    with Checkpoints("/shared/run", config=config) as checkpoints, \\
            EmergencyCheckpoints("/local/run", config=config) as local:
        newest = local.restore(like, after=checkpoints.latest_step) or checkpoints.restore(like)

A disk of the host, or a part of its memory such as ``/dev/shm``, is written many times as fast as a directory
that all hosts see, and by all of them at once, so a state may be kept there every few minutes, and in the
shared directory every hour. A run that ended with its hosts alive, by a fault of the program, of the network
or of a device, goes on from there; one that lost a host goes on from the shared directory. Orbax writes and
reads the arrays, as in its own emergency checkpoints (`orbax.checkpoint.experimental.emergency`, whose
managers ask for the service of `jax.distributed`, and one for several slices): no process waits for another
as it writes, and what is newest is what all processes have.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxdiff.learning.training import TrainState
from jaxdiff.running.differences import check_config
from jaxdiff.running.directory import check_writable, local, locked
from jaxdiff.running.quiet import quiet
from jaxdiff.running.stored import DamagedError, Restored, about, read_about, read_state, steps_in
from jaxdiff.running.writing import writing

_KEPT = 2
"""States on each disk: where one process was killed in the midst of a save, all have the one before."""


class EmergencyCheckpoints:
    """The newest states of one run on this process's own disk; a context manager.

    directory is one that other hosts do not see; each process has a folder of its own there. Saves run in the
    background, the two newest stay, and leaving the ``with`` waits for the last. There are no sums here: a
    flipped bit is not noticed, as it is in `Checkpoints`, beside which this stands.

    Raises, before any work: NotADirectoryError or OSError if directory cannot be written, BlockingIOError if
    another run holds it, TypeError if config is not JSON, ValueError if what lies there is of another config:
    let it name the run. What goes wrong in writing is an OSError of the next save or of the end of the
    ``with``.

    >>> import tempfile
    >>> from jaxdiff.running.emergency import EmergencyCheckpoints
    >>> state = jd.init_state(jnp.array([1.0, 2.0]), optax.sgd(0.1), ema_decay=None)
    >>> with EmergencyCheckpoints(tempfile.mkdtemp(), config={}) as local:
    ...     local.save(state._replace(step=jnp.array(7)))
    ...     back = local.restore(state).state
    >>> int(back.step), back.params.tolist()
    (7, [1.0, 2.0])
    """

    def __init__(self, directory: str | os.PathLike[str], *, config: Mapping[str, Any]):
        self._about = about(config)
        root, own = local(directory), jax.process_index()
        self.directory = root / f"process-{own}"
        check_writable(root)
        alone = ocp.options.MultiprocessingOptions(
            primary_host=None, active_processes={own}, barrier_sync_key_prefix=f"emergency-{own}"
        )
        # Each process writes the parts of its own devices, whoever else has a copy of them.
        arrays = ocp.type_handlers.ArrayHandler(
            primary_host=None, replica_id=None, use_replica_parallel=False
        )
        self._handler = ocp.PyTreeCheckpointHandler(
            multiprocessing_options=alone,
            type_handler_registry=ocp.type_handlers.create_type_handler_registry((jax.Array, arrays)),
        )
        handlers = {
            "state": self._handler,
            "about": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        }
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(_KEPT),
            multiprocessing_options=alone,
            create=False,
            cleanup_tmp_directories=True,
            enable_per_process_directory_creation=True,
            save_root_metadata=False,
        )
        with contextlib.ExitStack() as exits:
            exits.enter_context(locked(root))
            self.directory.mkdir(exist_ok=True)
            for step in steps_in(self.directory):
                with contextlib.suppress(DamagedError):  # a restore says so
                    found = read_about(self.directory, step).config
                    check_config(self.directory / str(step), found, self._about["config"])
            exits.enter_context(quiet())
            self._manager = exits.enter_context(
                ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
            )
            self._exit = exits.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.directory):
            self._exit.close()

    def save(self, state: TrainState) -> None:
        """Save this process's part of state under its step, in the background; it may be donated then.

        Steps as late or later, of before a restore of an earlier one, go.
        """
        step = int(state.step)
        self._wait()
        for later in [other for other in steps_in(self.directory) if other >= step]:
            self._manager.delete(later)
        arrays, said = ocp.args.PyTreeSave(state), ocp.args.JsonSave(self._about)
        with writing(self.directory):
            self._manager.save(step, args=ocp.args.Composite(state=arrays, about=said), force=True)

    def restore(self, like: Any, *, after: int | None = None) -> Restored | None:
        """The newest state that all processes have, to go on from, or None if none is newer than after.

        like is that of `checkpoints.restore`, with the shardings that it was saved with, on the same devices
        of the same processes: another process's part is not on this disk. Where a process cannot read its
        own, all of them answer None, with a warning.
        """
        self._wait()
        step = max(set.intersection(*map(set, _of_all(steps_in(self.directory)[-_KEPT:]))), default=None)
        if step is None or (after is not None and step <= after):
            return None
        restored, damage = None, None
        try:
            path = self.directory / str(step)
            restored = read_about(self.directory, step)._replace(
                state=read_state(path, like, handler=self._handler)
            )
        except DamagedError as error:
            damage = str(error)
        if any(_of_all([1] if damage else [])):
            warnings.warn(
                f"Emergency checkpoint {self.directory / str(step)} is not gone on from: "
                f"{damage or 'another process cannot read its part'}.",
                stacklevel=2,
            )
            return None
        return restored

    def _wait(self) -> None:
        with writing(self.directory):
            self._manager.wait_until_finished()


def _of_all(numbers: list[int]) -> list[list[int]]:
    """Those of each process, up to `_KEPT`."""
    if jax.process_count() == 1:
        return [numbers]
    padded = np.array([*numbers, *[-1] * (_KEPT - len(numbers))])
    return [[n for n in row if n >= 0] for row in multihost_utils.process_allgather(padded).tolist()]
