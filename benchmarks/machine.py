"""Where and when a benchmark was run."""

import datetime
import os
import pathlib
import re

import jax


def machine() -> str:
    """The device, its number of cores on a CPU, the version of JAX and the date, in one line."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        name = f"{os.cpu_count()} cores of {_processor() or name}"
    return f"{name}, jax {jax.__version__}, {datetime.date.today().isoformat()}"


def _processor() -> str | None:
    """What Linux says of the processor."""
    information = pathlib.Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.M) if information.exists() else None
    )
    return found and found[1]
