"""One checkpoint as it lies on the disk: compared with its sums and with what is asked for, then read.

Orbax casts dtypes silently when it restores, and answers a wrong tree with pages of logs. So what is asked
for is compared with the checkpoint's metadata first, and the differences are named before an array is read.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import pathlib
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxdiff.running import sums
from jaxdiff.running.differences import check_config, check_tree
from jaxdiff.running.quiet import no_unraisable, quiet


class Restored(NamedTuple):
    """A checkpoint as it was read."""

    state: Any
    """The tree that was asked for."""
    config: dict[str, Any]
    metrics: dict[str, float]
    """Empty if none were saved with it."""
    version: str
    """The version of jaxdiff that wrote it."""


class DamagedError(Exception):
    """A checkpoint that cannot be read, in one line."""


def about(config: Mapping[str, Any]) -> dict[str, Any]:
    """What lies beside a state: the config as it will be read back, with lists for tuples, and our version.

    Raises TypeError for a config that is not what JSON can hold.
    """
    try:
        held = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"config must be a dict of what JSON can hold ({error}); give dataclasses.asdict(config), "
            "with names in place of functions and arrays."
        ) from None
    try:
        version = importlib.metadata.version("jaxdiff")
    except importlib.metadata.PackageNotFoundError:  # run from its source tree
        version = "unknown"
    return {"config": held, "version": version}


def steps_in(directory: pathlib.Path) -> list[int]:
    """The complete checkpoints, which are those that have lost their temporary names."""
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit() and path.is_dir())


def read_about(directory: pathlib.Path, step: int) -> Restored:
    """All but the state. Raises DamagedError, as `restore_step` does, of which it is the first part."""
    path = directory / str(step)
    damage = sums.damage(path, _sums(path, state=False))
    if damage is not None:
        raise DamagedError(damage)
    try:
        about = json.loads((path / "about" / "metadata").read_text())
        metrics_file = path / "metrics" / "metrics"
        metrics = json.loads(metrics_file.read_text()) if metrics_file.exists() else {}
        return Restored(None, about["config"], metrics, about["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(first_line(error)) from None


def restore_step(
    directory: pathlib.Path,
    step: int,
    like: Any,
    config: dict[str, Any] | None,
    *,
    part: bool,
    verify: bool,
) -> Restored:
    """A checkpoint whose sums are right, whose config is the one given and whose arrays are those of like.

    verify is False to leave out the sums of the state, which are many bytes.
    Raises DamagedError if it is damaged, and ValueError if it is another config's or another model's.
    """
    path = directory / str(step)
    about = read_about(directory, step)
    if config is not None:
        check_config(path, about.config, config)
    with ThreadPoolExecutor(1) as beside:
        summing = beside.submit(sums.damage, path, _sums(path, state=True) if verify else {})
        if jax.process_count() > 1:  # first, or one would wait for another that cannot read
            _agree(summing.result())
        state = None
        try:
            state = read_state(path, like, part=part)
        except (DamagedError, ValueError):
            if summing.result() is None:  # or that is the reason
                raise
    if (damage := summing.result()) is not None:
        raise DamagedError(damage)
    return about._replace(state=state)


def _sums(path: pathlib.Path, *, state: bool) -> dict[str, str]:
    """Those of the files of the state, of which each process takes some, or of the files beside it."""
    try:
        known = sums.read(path)
    except ValueError as error:
        known = {}
        if state:
            warnings.warn(
                f"The sums of checkpoint {path} are damaged ({error}); it is read unverified.", stacklevel=5
            )
    names = [name for name in known if name.startswith("state/") == state]
    if state:
        names = names[jax.process_index() :: jax.process_count()]
    return {name: known[name] for name in names}


def _agree(damage: str | None) -> None:
    """Raise DamagedError in all processes if one of them has found damage."""
    found = multihost_utils.process_allgather(np.asarray(damage is not None))
    if found.any():
        raise DamagedError(damage or "another process says which file")


def read_state(
    path: pathlib.Path, like: Any, *, part: bool = False, handler: ocp.PyTreeCheckpointHandler | None = None
) -> Any:
    """The arrays of a checkpoint at path, each device's part of them read by its own process.

    handler: another than Orbax's own, for a checkpoint of one process. Raises as `restore_step`.
    """
    target = jax.tree.map(_target, like)
    arguments = ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=part
    )
    handler, where = handler or ocp.PyTreeCheckpointHandler(), cast(Any, path / "state")
    with quiet(), no_unraisable():
        # Exceptions as wide because Orbax raises a bare one for data that it cannot read.
        try:
            metadata = handler.metadata(where).tree
        except Exception as error:
            damage = first_line(error)
        else:
            got = {name: metadata[name] for name in target if name in metadata} if part else metadata
            check_tree(path, got, target)
            try:
                return handler.restore(where, args=arguments)
            except Exception as error:
                damage = first_line(error)
                time.sleep(0.5)  # for the other reads, which end in threads, to complain
        gc.collect()  # and to be freed; a fifth of a second, which a read that went well does without
        raise DamagedError(damage)


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf), sharding=sharding)


def first_line(error: BaseException) -> str:
    """An error in a line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
