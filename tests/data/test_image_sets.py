"""Images on disk against files written byte by byte, or by Pillow, and patches against their coordinates."""

import contextlib
import gzip
import os
import pickle
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest

from jaxdiff.data import feeds, image_sets

RNG = np.random.default_rng(0)


@contextlib.contextmanager
def small_memory():
    """Less than 8 MB more at any time, whatever a file says."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


# --- folders ---


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image")


def save(pillow, path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(pixels).save(path, **options)
    return pixels


def test_folders_are_classes_and_png_pixels_are_kept(pillow, tmp_path):
    files = ["cat/10.png", "cat/9.PNG", "cat/more/0.png", "dog/1.png", "ant/0.png"]
    written = {
        name: save(pillow, tmp_path / name, RNG.integers(0, 256, (6, 6, 3), np.uint8)) for name in files
    }
    for other in (".cache/x.png", "cat/._9.png", "cat/.hidden/x.png", "dog/notes.txt"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("not an image")
    folder = image_sets.image_folder(tmp_path, size=6)
    order = ["ant/0.png", "cat/10.png", "cat/9.PNG", "cat/more/0.png", "dog/1.png"]
    assert [path.relative_to(tmp_path).as_posix() for path in folder.paths] == order
    assert folder.classes == ("ant", "cat", "dog")
    assert len(folder) == 5
    for i, (name, label) in enumerate(zip(order, [0, 1, 1, 1, 2], strict=True)):
        assert folder[i]["label"].dtype == np.int32
        assert folder[i]["label"] == label
        assert folder[i]["image"].dtype == np.uint8
        np.testing.assert_array_equal(folder[i]["image"], written[name])


def test_a_folder_feeds_batches(pillow, tmp_path):
    images = [save(pillow, tmp_path / f"{i}.png", np.full((2, 2, 3), i, np.uint8)) for i in range(7)]
    feed = feeds.from_records(image_sets.image_folder(str(tmp_path), size=2), 4, seed=0)
    wanted = feeds.from_arrays({"image": np.stack(images)}, 4, seed=0)
    for step in range(4):
        assert feed(step).keys() == {"image"}  # without sub-folders there are no labels
        np.testing.assert_array_equal(feed(step)["image"], wanted(step)["image"])


def test_the_central_square_is_cut(pillow, tmp_path):
    wide = save(pillow, tmp_path / "wide.png", RNG.integers(0, 256, (4, 9, 3), np.uint8))
    tall = save(pillow, tmp_path / "tall.png", RNG.integers(0, 256, (10, 4, 3), np.uint8))
    got = image_sets.image_folder(tmp_path, size=4)
    np.testing.assert_array_equal(got[0]["image"], tall[3:7])
    np.testing.assert_array_equal(got[1]["image"], wide[:, 2:6])


def test_shrinking_averages_and_enlarging_interpolates(pillow, tmp_path):
    # A fine chequerboard is grey from afar, where reading every eighth pixel would be all black.
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    save(pillow, tmp_path / "board.png", np.repeat(board[..., None], 3, axis=2).astype(np.uint8))
    (shrunk,) = image_sets.image_folder(tmp_path, size=8)
    assert np.abs(shrunk["image"].astype(int) - 127.5).max() < 3
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], (1, 16, 3))
    save(pillow, tmp_path / "board.png", ramp)
    (enlarged,) = image_sets.image_folder(tmp_path, size=32)
    wanted = 10 * (np.arange(32) / 2 - 0.25)  # at the centres of the pixels, away from the ends
    assert np.abs(enlarged["image"].astype(int) - wanted[:, None, None])[6:-6].max() <= 1


def test_jpeg_gray_and_the_cameras_rotation(pillow, tmp_path):
    across, down = np.meshgrid(np.linspace(0, 255, 16), np.linspace(0, 255, 16))
    smooth = np.stack([across, down, 0 * down], axis=-1).astype(np.uint8)
    exif = pillow.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees before it is shown
    options = {"quality": 100, "subsampling": 0}
    save(pillow, tmp_path / "0.jpg", smooth, **options)
    save(pillow, tmp_path / "1.JPEG", smooth, exif=exif, **options)
    colour, gray = (image_sets.image_folder(tmp_path, size=16, channels=channels) for channels in (3, 1))
    for i, wanted in enumerate((smooth, np.rot90(smooth, -1))):
        assert np.abs(colour[i]["image"].astype(int) - wanted).max() <= 4
        luma = wanted @ [0.299, 0.587, 0.114]
        assert gray[i]["image"].shape == (16, 16, 1)
        assert np.abs(gray[i]["image"][..., 0] - luma).max() <= 4


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_file_that_cannot_be_decoded_is_named(pillow, tmp_path, kind):
    path = tmp_path / f"broken.{kind}"
    save(pillow, path, RNG.integers(0, 256, (32, 32, 3), np.uint8))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"text" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"broken.{kind} cannot be decoded"):
            image_sets.image_folder(tmp_path, size=8)[0]


def png(width, height, depth, colour, rows):
    """The bytes of a PNG; colour 0 is gray, 2 RGB, and 4 more with transparency."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_more_than_eight_bits_are_refused(pillow, tmp_path, colour, channels):
    """Of colours Pillow would take the upper eight without a word."""
    for depth in (8, 16):
        row = b"\0" + bytes(range(2 * channels * depth // 8))
        (tmp_path / "a.png").write_bytes(png(2, 2, depth, colour, 2 * row))
        folder = image_sets.image_folder(tmp_path, size=2)
        if depth == 8:
            assert folder[0]["image"].shape == (2, 2, 3)
    with pytest.raises(ValueError, match=r"a.png cannot be decoded: it has 16 bits per channel, wanted 8"):
        folder[0]


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (2**13 + 1, 2**13, "it has 8193 x 8192 pixels, wanted 67108864 at most"),
        (2**26 + 1, 1, "it has 67108865 x 1 pixels, wanted"),
        (12_000, 12_000, "decompression bomb"),  # by Pillow, where its warnings are errors
        (30_000, 30_000, "decompression bomb"),
        (2**13, 2**13, "image file is truncated"),  # as many as are decoded
    ],
)
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(pillow, tmp_path, width, height, words):
    (tmp_path / "a.png").write_bytes(png(width, height, 1, 0, b""))
    with pytest.raises(ValueError, match=f"a.png cannot be decoded: .*{words}"):
        image_sets.image_folder(tmp_path, size=2)[0]


def test_other_formats_are_not_tried(pillow, tmp_path):
    """Some of Pillow's hand the file to another program."""
    pillow.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "a.png", format="GIF")
    with pytest.raises(ValueError, match=r"a.png cannot be decoded: cannot identify image file"):
        image_sets.image_folder(tmp_path, size=2)[0]


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ([], FileNotFoundError, "has no PNG or JPEG file and no sub-folder"),
        (["a.txt"], FileNotFoundError, "has no PNG or JPEG file"),
        (["cat/a.png", "dog/a.txt"], ValueError, "dog is a class without a PNG or JPEG"),
        (["cat/a.png", "b.png"], ValueError, "has the image b.png beside the sub-folder cat"),
    ],
)
def test_a_directory_that_is_no_image_folder_is_refused(tmp_path, files, error, words):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(error, match=words):
        image_sets.image_folder(tmp_path, size=4)


# --- MNIST ---

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def idx(values):
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A directory of the four files, 5 training and 3 test images, the test part compressed; their content."""
    content = {}
    for part, n in (("train", 5), ("t10k", 3)):
        content[part] = RNG.integers(0, 256, (n, 28, 28), np.uint8), RNG.integers(0, 10, n, np.uint8)
        for name, values in zip((IMAGES, LABELS), content[part], strict=True):
            pack, ending = (gzip.compress, ".gz") if part == "t10k" else (bytes, "")
            (tmp_path / f"{part}-{name}{ending}").write_bytes(pack(idx(values)))
    return tmp_path, content


def test_mnist_is_read_back(mnist):
    directory, content = mnist
    split = image_sets.mnist(directory)
    for pixels, labels, part in (
        (split.train, split.train_labels, "train"),
        (split.test, split.test_labels, "t10k"),
    ):
        np.testing.assert_array_equal(pixels[..., 0], content[part][0])
        np.testing.assert_array_equal(labels, content[part][1])
        assert (pixels.dtype, labels.dtype) == (np.uint8, np.int32)
        assert pixels.flags.writeable


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (f"train-{IMAGES}", lambda content: content[:-1], "holds 3919 bytes .* shape .5, 28, 28"),
        (f"train-{IMAGES}", lambda content: content + b"0", "holds more than 3920 bytes"),
        (f"train-{IMAGES}", lambda content: content[:11], "wanted 00 00 08 03 .* and 12 bytes of lengths"),
        (f"train-{IMAGES}", lambda content: idx(np.zeros((0, 28, 28), np.uint8)), "shape .0, 28, 28., wanted"),
        (f"train-{LABELS}", lambda content: idx(np.zeros(0, np.uint8)), "shape .0,., wanted .n,. with n of at"),
        (f"train-{LABELS}", lambda content: content[:4] + b"\x40\0\0\1", "says .* 1073741825 bytes, wanted at most"),
        (f"train-{LABELS}", lambda content: content[:4] + b"\x40\0\0\0", "holds 0 bytes of data where"),
        (f"train-{IMAGES}", lambda content: b"", "begins with nothing, wanted 00 00 08 03"),
        (f"train-{IMAGES}", lambda content: gzip.compress(content), "begins with 1f 8b .*, wanted 00 00 08 03"),
        (f"train-{IMAGES}", lambda content: idx(np.zeros((5, 28), np.uint8)), "begins with 00 00 08 02"),
        (f"train-{IMAGES}", lambda content: idx(np.zeros((5, 28, 27), np.uint8)), "shape .5, 28, 27., wanted"),
        (f"t10k-{IMAGES}.gz", lambda content: content[:-20], "t10k-images.*cannot be decompressed"),
        (f"t10k-{IMAGES}.gz", lambda content: b"none", "t10k-images.*cannot be decompressed"),
        (f"train-{LABELS}", lambda content: idx(np.zeros(4, np.uint8)), "4 labels for 5 images"),
        (f"train-{LABELS}", lambda content: idx(np.full(5, 10, np.uint8)), r"must lie in \[0, 9\]"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_mnist_is_refused(mnist, name, damage, words):
    path = mnist[0] / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=words):
        image_sets.mnist(mnist[0])


def test_no_more_is_decompressed_than_the_head_says(mnist):
    path = mnist[0] / f"t10k-{IMAGES}.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**26)))
    assert path.stat().st_size < 2**17
    with small_memory(), pytest.raises(ValueError, match="holds more than 2352 bytes"):
        image_sets.mnist(mnist[0])


# --- CIFAR-10 ---

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def python_2_pickle(rows, labels):
    """Opcode by opcode what Python 2 wrote of {'labels': list, 'data': array of bytes}, in protocol 2."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01"
    array += b"K" + bytes([len(rows)]) + b"M\x00\x0c\x86" + dtype + b"\x89" + text(rows.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"labels") + numbers + text(b"data") + array + b"u."


@pytest.fixture
def cifar():
    """Three rows of 3072 bytes and labels for each of the six batches."""
    return {
        name: (RNG.integers(0, 256, (3, 3072), np.uint8), RNG.integers(0, 10, 3).tolist()) for name in BATCHES
    }


def modern_pickle(protocol):
    return lambda rows, labels: pickle.dumps({"labels": labels, "data": rows}, protocol)


def binary(rows, labels):
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(rows, labels, strict=True))


@pytest.mark.parametrize(
    ("ending", "write"),
    [("", python_2_pickle), ("", modern_pickle(3)), ("", modern_pickle(4)), (".bin", binary)],
    ids=["python 2", "protocol 3", "protocol 4", "binary"],
)
def test_cifar_is_read_back(tmp_path, cifar, ending, write):
    for name, batch in cifar.items():
        (tmp_path / (name + ending)).write_bytes(write(*batch))
    split = image_sets.cifar10(tmp_path)
    assert split.train.shape == (15, 32, 32, 3)
    assert split.test.shape == (3, 32, 32, 3)
    rows, labels = (np.concatenate([cifar[name][i] for name in BATCHES]) for i in range(2))
    images = np.concatenate([split.train, split.test])
    for channel, y, x in ((0, 0, 0), (0, 0, 31), (1, 5, 7), (2, 31, 30)):
        np.testing.assert_array_equal(images[:, y, x, channel], rows[:, 1024 * channel + 32 * y + x])
    np.testing.assert_array_equal(np.sort(images.reshape(18, -1)), np.sort(rows))
    np.testing.assert_array_equal(np.concatenate([split.train_labels, split.test_labels]), labels)
    assert (split.train.dtype, split.train_labels.dtype) == (np.uint8, np.int32)
    assert split.train.flags.c_contiguous
    assert split.train.flags.writeable


class Call:
    """Pickled as a call of function(*arguments)."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("what", ["posix.mkdir", "builtins.eval", "numpy.save"])
def test_a_pickle_cannot_run_anything(tmp_path, cifar, what, inside):
    ran = tmp_path / "ran.npy"
    call = {
        "posix.mkdir": Call(os.mkdir, str(ran)),
        "builtins.eval": Call(eval, f"__import__('os').mkdir({str(ran)!r})"),
        "numpy.save": Call(np.save, str(ran), 0),
    }[what]
    rows, labels = cifar["test_batch"]
    attack = pickle.dumps({"labels": labels, "data": rows, "filenames": [call]} if inside else call, 4)
    for name, batch in cifar.items():
        (tmp_path / name).write_bytes(attack if name == "data_batch_3" else python_2_pickle(*batch))
    with pytest.raises(ValueError, match=f"data_batch_3 is not a batch .*it asks for {what}"):
        image_sets.cifar10(tmp_path)
    assert not ran.exists()
    pickle.loads(attack)
    assert ran.exists()  # so it would have


def test_a_damaged_batch_of_cifar_is_refused(tmp_path, cifar):
    rows, labels = cifar["test_batch"]
    whole = python_2_pickle(rows, labels)
    for name in BATCHES[:5]:
        (tmp_path / name).write_bytes(whole)
    cuts = [whole[: len(whole) * k // 50] for k in range(50)]
    others = [
        pickle.dumps(content, 4)
        for content in (
            {"labels": labels},
            {"data": rows},
            {"labels": labels, "data": rows[:, :-1]},
            {"labels": labels, "data": rows.astype(np.int8)},
            {"labels": labels, "data": np.asfortranarray(rows)},
            {"labels": labels[:2], "data": rows},
            {"labels": [10, 0, 0], "data": rows},
            {"labels": ["0", "0", "0"], "data": rows},
            {"labels": labels, "data": rows.tolist()},
            {"labels": np.zeros(0, int).tolist(), "data": rows[:0]},
            [labels, rows],
        )
    ]
    for content in (*cuts, *others):
        (tmp_path / "test_batch").write_bytes(content)
        with pytest.raises(ValueError, match="test_batch"):
            image_sets.cifar10(tmp_path)


def test_a_pickle_cannot_ask_for_memory(tmp_path, cifar):
    for name, batch in cifar.items():
        (tmp_path / name).write_bytes(python_2_pickle(*batch))
    name_in_memo = b"r" + struct.pack("<I", 2**24)
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}" + name_in_memo + b".")
    with small_memory(), pytest.raises(ValueError, match="data_batch_1 is not a batch"):
        image_sets.cifar10(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"), [(-1, "9218 bytes, wanted a multiple of 3073"), (-9219, "0 bytes")]
)
def test_a_damaged_binary_batch_is_refused(tmp_path, cifar, change, words):
    for name, batch in cifar.items():
        (tmp_path / f"{name}.bin").write_bytes(binary(*batch))
    os.truncate(tmp_path / "data_batch_2.bin", 9219 + change)
    with pytest.raises(ValueError, match=f"data_batch_2.bin has {words}"):
        image_sets.cifar10(tmp_path)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (image_sets.mnist, r"train-images-idx3-ubyte, t10k-.* \(nor .gz\).*fashion-mnist"),
        (image_sets.cifar10, r"has no data_batch_2, .* \(nor .bin\).*data_batch_1, .*cs.toronto.edu"),
    ],
)
def test_missing_files_are_named(tmp_path, load, words):
    (tmp_path / "data_batch_1").touch()
    with pytest.raises(FileNotFoundError, match=words):
        load(tmp_path)


# --- photographs ---


@pytest.mark.parametrize(("size", "stride"), [(25, 6), (32, 8), (64, 16)])
def test_no_test_pixel_is_in_a_training_patch(monkeypatch, size, stride):
    # Photographs whose pixels are their own coordinates show where every pixel of every patch came from.
    shapes = [(100, 512), (90, 451), (64, 600)]
    held_out = [[(128, 192), (448, 512)], [(128, 192)], [(128, 192), (448, 512)]]
    between = [[(0, 128), (192, 448)], [(0, 128), (192, 451)], [(0, 128), (192, 448), (512, 600)]]
    images = [
        np.stack([np.full(s, k), *np.indices(s)], axis=-1).astype(np.int16) for k, s in enumerate(shapes)
    ]
    monkeypatch.setattr(image_sets, "_photographs", lambda: images)
    split = image_sets.natural_patches(size=size)
    train, test = (
        np.bincount(
            np.ravel_multi_index(np.moveaxis(part, 3, 0), (3, 100, 600)).ravel(), minlength=3 * 100 * 600
        )
        for part in (split.train, split.test)
    )  # how often each pixel occurs
    assert not (train.astype(bool) & test.astype(bool)).any()
    assert test.max() == 1
    for patches, labels, stretches, step in (
        (split.train, split.train_labels, between, stride),
        (split.test, split.test_labels, held_out, size),
    ):
        corners = [
            (k, row, column)
            for k, (height, _) in enumerate(shapes)
            for row in range(0, height - size + 1, step)
            for start, stop in stretches[k]
            for column in range(start, stop - size + 1, step)
        ]
        assert sorted(map(tuple, patches[:, 0, 0].tolist())) == sorted(corners)
        assert (patches[..., 0] == labels[:, None, None]).all()
        # Each patch is a window: rows and columns step by one from its corner.
        steps = patches[..., 1:] - patches[:, :1, :1, 1:]
        assert (steps == np.indices((size, size)).transpose(1, 2, 0)[None]).all()


def test_natural_patches_are_of_the_photographs():
    datasets, photographs = pytest.importorskip("sklearn.datasets"), pytest.importorskip("skimage.data")
    split = image_sets.natural_patches()
    assert split.train.shape == (18543, 32, 32, 3)
    assert split.train.dtype == np.uint8
    assert np.bincount(split.train_labels).tolist() == [2750, 2750, 2562, 1428, 2350, 2750, 3953]
    assert np.bincount(split.test_labels).tolist() == [52, 52, 64, 18, 48, 52, 60]
    for name, image in (
        ("flower", datasets.load_sample_image("flower.jpg")),
        ("chelsea", photographs.chelsea()),
        ("motorcycle", photographs.stereo_motorcycle()[0]),
    ):
        label = image_sets.PHOTOGRAPHS.index(name)
        np.testing.assert_array_equal(split.train[split.train_labels == label][1], image[:32, 8:40])
        np.testing.assert_array_equal(split.test[split.test_labels == label][1], image[:32, 160:192])


# --- bad input ---


@pytest.mark.parametrize(
    ("module", "load"),
    [
        ("PIL.Image", lambda path: image_sets.image_folder(path, size=8)),
        ("sklearn.datasets", lambda path: image_sets.natural_patches()),
        ("skimage.data", lambda path: image_sets.natural_patches()),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, module, load):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}.*jaxdiff\[experiments\]"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (ValueError, lambda: image_sets.image_folder(".", size=0), "size must be an integer of at least 1"),
        (
            ValueError,
            lambda: image_sets.image_folder(".", size=8, channels=2),
            "channels must be one of 1, 3",
        ),
        (FileNotFoundError, lambda: image_sets.image_folder("none", size=8), "none is not a directory"),
        (ValueError, lambda: image_sets.natural_patches(size=65), "size must be at most 64"),
        (ValueError, lambda: image_sets.natural_patches(size=0), "size must be an integer"),
    ],
)
def test_bad_input_is_refused(error, call, words):
    with pytest.raises(error, match=words):
        call()
