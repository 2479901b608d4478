"""Samples before they are judged or looked at."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike


def finite(name: str, values: ArrayLike) -> np.ndarray:
    """The values, (n, ...), in NumPy; FloatingPointError where a row has a NaN or an infinity.

    Judges would refuse them too, but levels of pixels are integers, in which nothing is seen of a NaN.
    """
    array = np.asarray(values)
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if bad.any():
        raise FloatingPointError(
            f"{bad.sum()} of {len(array)} {name} are not finite, the first at row {int(np.argmax(bad))}: "
            "nothing is said of them. Look for the cause with jax.debug_nans(True), from the checkpoint."
        )
    return array


def tiles(images: ArrayLike, across: int, *, line: float = 1.0) -> np.ndarray:
    """Images (n, height, width, 1 or 3) side by side, each in a frame of the value line, as one to be shown.

    Whole rows only, unless there is less than one.
    """
    images = np.asarray(images)
    across = min(across, len(images))
    grid = images[: across * (len(images) // across)].reshape(-1, across, *images.shape[1:])
    grid = np.pad(grid, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=line)
    down, _, height, width, channels = grid.shape
    whole = grid.swapaxes(1, 2).reshape(down * height, across * width, channels)
    return whole[..., 0] if channels == 1 else whole


def pyplot() -> Any:
    """matplotlib.pyplot, drawing into files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
