"""Images on disk as NumPy pixels in 0..255: folders, the files of MNIST and CIFAR-10, photographs at hand.

Nothing is downloaded. An image is (height, width, channels) of uint8, which `jaxdiff.data.batches.dequantize`
takes with 256 levels once it is on the device; labels are int32.
"""

from __future__ import annotations

import gzip
import math
import pathlib
import pickle
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from jaxdiff._numerics import checks
from jaxdiff.data.batches import Split

PHOTOGRAPHS = ("china", "flower", "astronaut", "chelsea", "coffee", "rocket", "motorcycle")
"""The labels of `natural_patches`, in order."""

_BAND = 64  # columns; one band in five is held out
_MOST_PIXELS = 2**26
"""Of an image that is decoded, 8,192 x 8,192; more may be a small file that asks for all memory."""
_MOST_BYTES = 2**30
"""Of a file of MNIST's kind; the largest published, EMNIST's, has half as many."""


@dataclass(frozen=True)
class ImageFolder:
    """A random access source of images in files, for `jaxdiff.data.feeds.from_records` or Grain.

    ``folder[i]`` is {"image": uint8 (size, size, channels), "label": int32 ()}, without "label" where there
    are no classes.
    """

    paths: tuple[pathlib.Path, ...]
    labels: tuple[int, ...]
    """The number of each file's class in classes; empty where there are none."""
    classes: tuple[str, ...]
    size: int
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = {"image": _read_image(self.paths[index], self.size, self.channels)}
        if self.labels:
            record["label"] = np.asarray(self.labels[index], np.int32)
        return record


def image_folder(directory: str | PathLike[str], *, size: int, channels: int = 3) -> ImageFolder:
    """The PNG and JPEG files of a directory, each cut to its central square and resized to size x size.

    The sub-folders, sorted by name, are the classes 0, 1, ..., each with all the images under it; files are
    sorted by their path within the directory. With no sub-folder the images have no labels. Names that begin
    with a dot and other kinds of file are left out.

    Colours become RGB for 3 channels or luma (ITU-R BT.601) for 1; transparency is dropped, and the camera's
    rotation (EXIF) is applied. The resizing is Lanczos's, which averages where it shrinks; a square image of
    that size keeps its very pixels. More than 8 bits per channel and more than 2^26 pixels are refused before
    any is decoded.

    Raises FileNotFoundError where no image is found, ValueError for an empty class or images beside classes,
    ImportError without Pillow, and on reading ValueError naming a file that cannot be decoded.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> directory = pathlib.Path(tempfile.mkdtemp())
    >>> for name, colour in {"apples": "red", "leaves": "lime"}.items():
    ...     (directory / name).mkdir()
    ...     Image.new("RGB", (8, 6), colour).save(directory / name / "1.png")
    >>> folder = jd.image_sets.image_folder(directory, size=2)
    >>> folder.classes, folder[1]["image"][0, 0].tolist(), int(folder[1]["label"])
    (('apples', 'leaves'), [0, 255, 0], 1)
    """
    checks.integer("size", size, 1)
    checks.option("channels", channels, [1, 3])
    checks.extra("PIL.Image", "experiments")
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory of images.")
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and path.name[0] != ".")
    by_class = [_images_under(folder) for folder in folders]
    loose = [path for path in _images_under(directory) if path.parent == directory]
    if loose and folders:
        raise ValueError(
            f"{directory} has the image {loose[0].name} beside the sub-folder {folders[0].name}; sub-folders "
            "are classes, so move it into one, or give a directory without sub-folders."
        )
    for folder, paths in zip(folders, by_class, strict=True):
        if not paths:
            raise ValueError(f"{folder} is a class without a PNG or JPEG file; add images or remove it.")
    if not (loose or folders):
        raise FileNotFoundError(f"{directory} has no PNG or JPEG file and no sub-folder of them.")
    return ImageFolder(
        paths=tuple(loose or (path for paths in by_class for path in paths)),
        labels=tuple(label for label, paths in enumerate(by_class) for _ in paths),
        classes=tuple(folder.name for folder in folders),
        size=size,
        channels=channels,
    )


def mnist(directory: str | PathLike[str]) -> Split:
    """The four files of MNIST, or of Fashion-MNIST, which have the same names: pixels (n, 28, 28, 1).

    The files are {train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, compressed (.gz) or not;
    the published ones have 60000 training and 10000 test images. Raises FileNotFoundError for missing files
    and ValueError, naming the file, for one of other format, size or labels.
    """
    names = ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"]
    names += [name.replace("images-idx3", "labels-idx1") for name in names]
    where = (
        "https://ossci-datasets.s3.amazonaws.com/mnist (MNIST) or github.com/zalandoresearch/fashion-mnist"
    )
    paths = _find(directory, names, ["", ".gz"], where)
    images, labels = [_idx(path, (28, 28)) for path in paths[:2]], [_idx(path, ()) for path in paths[2:]]
    for path, pixels, classes in zip(paths[2:], images, labels, strict=True):
        _check_labels(path, classes, len(pixels))
    return _split(*(pixels[..., None] for pixels in images), *labels)


def cifar10(directory: str | PathLike[str]) -> Split:
    """CIFAR-10 from its Python or its binary version: pixels (n, 32, 32, 3), 50000 and 10000 images.

    The files are data_batch_1 to data_batch_5 and test_batch, or the same with .bin, where the archive's
    folder was unpacked. The pickles of the Python version are read without running anything they name: what
    they may hold is built-in values and arrays of bytes. Raises FileNotFoundError for missing files and
    ValueError, naming the file, for one of other content.
    """
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    paths = _find(directory, names, ["", ".bin"], "https://www.cs.toronto.edu/~kriz/cifar.html")
    batches = [_cifar_binary(path) if path.suffix else _cifar_pickle(path) for path in paths]
    for path, (_, labels) in zip(paths, batches, strict=True):
        _check_labels(path, labels, len(labels))
    planes, labels = zip(*batches, strict=True)
    images = [np.moveaxis(rows.reshape(-1, 3, 32, 32), 1, 3) for rows in planes]
    return _split(np.concatenate(images[:5]), images[5], np.concatenate(labels[:5]), labels[5])


def natural_patches(*, size: int = 32) -> Split:
    """Colour patches (n, size, size, 3) of the photographs that ship with scikit-learn and scikit-image.

    They are the seven `PHOTOGRAPHS`, 300 to 512 pixels high and 451 to 741 wide; the other colour images of
    scikit-image are of microscopes, telescopes and drawings, and the motorcycle's right view repeats its left
    one. Each photograph is cut into vertical bands of 64 columns. Of bands 2, 7, ... (from 0) the test part
    has the whole patches side by side from the upper left corner. Training patches are those at multiples of
    max(1, size // 4), down and across, in each stretch between test bands (the columns after the last whole
    band go with the stretch before them), so they overlap each other but share no pixel with the test part.

    At size 32 there are 18543 training patches (of the seven 2750, 2750, 2562, 1428, 2350, 2750, 3953) and
    346 test patches (52, 52, 64, 18, 48, 52, 60). Labels say which of `PHOTOGRAPHS`. Raises ValueError for a
    size that is not in [1, 64], and ImportError if one of the packages is missing.
    """
    checks.integer("size", size, 1)
    if size > _BAND:
        raise ValueError(f"size must be at most {_BAND}, the width of a band, got {size}.")
    train, test = [], []
    for image in _photographs():
        width = image.shape[1]
        held_out = [(at, at + _BAND) for at in range(2 * _BAND, width - _BAND + 1, 5 * _BAND)]
        starts, stops = zip(*held_out, strict=True)
        between = zip((0, *stops), (*starts, width), strict=True)
        test.append(_windows(image, held_out, size, size))
        train.append(_windows(image, between, size, max(1, size // 4)))
    labels = [np.repeat(np.arange(len(part)), [len(rows) for rows in part]) for part in (train, test)]
    return _split(np.concatenate(train), np.concatenate(test), *labels)


def _windows(image: np.ndarray, stretches: Iterable[tuple[int, int]], size: int, stride: int) -> np.ndarray:
    """The windows of size x size, a stride apart, of each stretch [start, stop) of an image's columns."""
    found = []
    for start, stop in stretches:
        if stop - start >= size:
            # Columns and channels as one axis: a window's rows are then copied whole.
            rows = image[:, start:stop].reshape(len(image), -1)
            views = np.lib.stride_tricks.sliding_window_view(rows, (size, 3 * size))
            found.append(views[::stride, :: 3 * stride].reshape(-1, size, size, 3))
    return np.concatenate(found)


def _photographs() -> Iterator[np.ndarray]:
    sklearn, skimage = (
        checks.extra("sklearn.datasets", "experiments"),
        checks.extra("skimage.data", "experiments"),
    )
    yield from (sklearn.load_sample_image(f"{name}.jpg") for name in PHOTOGRAPHS[:2])
    yield from (getattr(skimage, name)() for name in PHOTOGRAPHS[2:6])
    yield skimage.stereo_motorcycle()[0]


def _images_under(directory: pathlib.Path) -> list[pathlib.Path]:
    """PNG and JPEG files, sorted by their path, with nothing hidden."""
    found = (path.relative_to(directory) for path in directory.rglob("*"))
    images = (path for path in found if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    return [directory / path for path in sorted(images) if not any(part[0] == "." for part in path.parts)]


def _read_image(path: pathlib.Path, size: int, channels: int) -> np.ndarray:
    pillow, operations = checks.extra("PIL.Image", "experiments"), checks.extra("PIL.ImageOps", "experiments")
    try:
        with path.open("rb") as file:
            head = file.read(25)
            with pillow.open(file, formats=["PNG", "JPEG"]) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise ValueError(
                        f"it has {image.width} x {image.height} pixels, wanted {_MOST_PIXELS} at most"
                    )
                # Of 16 bits Pillow takes the upper 8 without a word.
                if image.format == "PNG" and head[24] == 16:
                    raise ValueError("it has 16 bits per channel, wanted 8")
                upright = operations.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # a damaged file raises nearly anything
        raise ValueError(f"The image {path} cannot be decoded: {error}.") from error
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    square = upright.resize((size, size), pillow.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    return np.array(square).reshape(size, size, channels)


def _find(
    directory: str | PathLike[str], names: list[str], endings: list[str], where: str
) -> list[pathlib.Path]:
    """The files of these names, each with one of the endings, the first found."""
    found = {
        name: [path for end in endings if (path := pathlib.Path(directory, name + end)).is_file()]
        for name in names
    }
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        raise FileNotFoundError(
            f"{directory} has no {', '.join(missing)} (nor {endings[1]}); wanted are {', '.join(names)}, "
            f"directly in the directory. They are at {where}."
        )
    return [paths[0] for paths in found.values()]


def _idx(path: pathlib.Path, item: tuple[int, ...]) -> np.ndarray:
    """Bytes (n, *item) of an IDX file: 0, 0, 8 (for bytes), the number of axes, their lengths, the data.

    No more is decompressed than the lengths say.
    """
    head, magic = 4 * (2 + len(item)), bytes([0, 0, 8, 1 + len(item)])
    try:
        with gzip.open(path) if path.suffix else path.open("rb") as file:
            start = file.read(head)
            if start[:4] != magic or len(start) < head:
                raise ValueError(
                    f"{path} begins with {start.hex(' ') or 'nothing'}, wanted {magic.hex(' ')} of an IDX "
                    f"file and {head - 4} bytes of lengths."
                )
            lengths = struct.unpack(f">{1 + len(item)}I", start[4:])
            if lengths[1:] != item or not lengths[0]:
                raise ValueError(
                    f"{path} says that it has shape {lengths}, wanted {checks.shown_shape(('n', *item))} "
                    "with n of at least 1."
                )
            size = math.prod(lengths)
            if size > _MOST_BYTES:
                raise ValueError(f"{path} says that it holds {size} bytes, wanted at most {_MOST_BYTES}.")
            content = file.read(size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be decompressed: {error}.") from error
    if len(content) != size:
        got = f"more than {size}" if len(content) > size else len(content)
        raise ValueError(
            f"{path} holds {got} bytes of data where its head says shape {lengths}; it is cut off or "
            "damaged, so copy it again."
        )
    return np.frombuffer(content, np.uint8).reshape(lengths)


def _cifar_binary(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % 3073:
        raise ValueError(
            f"{path} has {len(content)} bytes, wanted a multiple of 3073 (a label, 32 x 32 x 3 pixels); it "
            "is cut off or damaged, so copy it again."
        )
    rows = content.reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0]


def _cifar_pickle(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file:
            # Strings of Python 2 are bytes; latin1 maps each to the character of its number.
            content = _Unpickler(file, encoding="latin1").load()
        _, shape, dtype, fortran_order, raw = content["data"].state
        if dtype.made_from[0] != "u1" or fortran_order:
            raise ValueError(f"data is of {dtype.made_from[0]}, wanted u1 by rows")
        pixels = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, np.uint8).reshape(shape)
        checks.shape("data", pixels, (None, 3072))
        labels = np.array(content["labels"])
        checks.integers("labels", labels)
        checks.shape("labels", labels, (checks.num_rows(pixels),))
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path} is not a batch of CIFAR-10's Python version: {error!r}.") from error
    return pixels, labels


class _Placeholder:
    """What stands for an array or a dtype of a pickle: what it would have been made from."""

    def __init__(self, *made_from: Any):
        self.made_from = made_from
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):
    """Built-in values and placeholders; a pickle may name any function, and have it called.

    In Python: the one in C takes as much memory as the largest number of a name in the file says.
    """

    def find_class(self, module: str, name: str) -> Any:
        arrays = {("numpy", "ndarray"), ("numpy", "dtype")}
        arrays |= {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
        if (module, name) not in arrays:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which an array of bytes does not need"
            )
        return _Placeholder


def _check_labels(path: pathlib.Path, labels: np.ndarray, num_images: int) -> None:
    checks.within(f"The labels of {path}", labels, 0, 9)
    if len(labels) != num_images:
        raise ValueError(
            f"{path} has {len(labels)} labels for {num_images} images; they are of two data sets."
        )


def _split(train: np.ndarray, test: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray) -> Split:
    return Split(
        train=np.array(train, order="C"),
        test=np.array(test, order="C"),
        train_labels=train_labels.astype(np.int32),
        test_labels=test_labels.astype(np.int32),
    )
