"""Images as rows of square patches, and back."""

from jaxdiff.typing import Array


def cut(x: Array, size: int) -> Array:
    """Images (batch, height, width, C) -> patches (batch, n, size^2 C), row by row; sides are multiples."""
    batch, height, width, channels = x.shape
    patches = x.reshape(batch, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return patches.reshape(batch, -1, size * size * channels)


def put_back(patches: Array, like: Array, size: int) -> Array:
    """The inverse of `cut`, of the shape of the images `like`."""
    batch, height, width, channels = like.shape
    x = patches.reshape(batch, height // size, width // size, size, size, channels)
    return x.swapaxes(2, 3).reshape(like.shape)
