"""Host batches: the walk against its definition, processes against one, threads and Grain against plain reading."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.stats

from jaxdiff.data import feeds


def arrays(n):
    return {"x": np.arange(2 * n).reshape(n, 2), "label": np.arange(n)}


def numbers(n, size, seed=0, **processes):
    """A feed of the row numbers themselves."""
    return feeds.from_arrays(np.arange(n), size, seed=seed, **processes)


# --- the walk ---


@pytest.mark.parametrize("size", [1, 3, 4, 5, 12])
def test_every_row_is_seen_once_per_epoch(size):
    n, epochs = 12, 5
    feed = feeds.from_arrays(arrays(n), size, seed=0)
    batches = [feed(step) for step in range(-(-n * epochs // size))]
    for batch in batches:
        np.testing.assert_array_equal(batch["x"], batch["label"][:, None] * 2 + [0, 1])
    walk = np.concatenate([batch["label"] for batch in batches])[: n * epochs].reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(walk, axis=1), np.tile(np.arange(n), (epochs, 1)))
    assert len({tuple(epoch) for epoch in walk}) == epochs
    # The walk is the same in whatever steps it is taken, and another one under another seed.
    np.testing.assert_array_equal(walk, [numbers(n, n)(epoch) for epoch in range(epochs)])
    assert (walk[0] != numbers(n, n, seed=1)(0)).any()


def philox(key, n):
    """n integers of Philox 4x64-10 (Salmon et al. 2011, section 3.3), blocks counted from 1 as NumPy does."""
    mask, numbers = 2**64 - 1, []
    for block in range(1, -(-n // 4) + 1):
        c, k = [block, 0, 0, 0], list(key)
        for _ in range(10):
            high_0, low_0 = divmod(0xD2E7470EE14C6C93 * c[0], 2**64)
            high_1, low_1 = divmod(0xCA5A826395121157 * c[2], 2**64)
            c = [high_1 ^ c[1] ^ k[0], low_1, high_0 ^ c[3] ^ k[1], low_0]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        numbers += c
    return numbers[:n]


@pytest.mark.parametrize("step", [0, 1, 10**15])
def test_the_walk_is_of_philox_alone(step):
    # So a run that is resumed under another version of NumPy, or of this library, sees the same rows.
    bits = philox((7, step), 10)
    assert numbers(10, 10, seed=7)(step).tolist() == sorted(range(10), key=bits.__getitem__)


def codes(feed):
    """The orders of three rows at 3,000 steps, as numbers 0 to 5."""
    number = {order: i for i, order in enumerate(itertools.permutations(range(3)))}
    return np.array([number[tuple(feed(step).tolist())] for step in range(3_000)])


def test_permutations_are_uniform_and_independent():
    # Over 3,000 epochs of 3 rows: the 6 orders are equally likely, and those of two epochs, or of two seeds at
    # one epoch, are independent, so each of their 36 pairs is too.
    first, second = codes(numbers(3, 3, seed=0)), codes(numbers(3, 3, seed=1))
    for pairs in (6 * first[::2] + first[1::2], 6 * first + second):
        assert scipy.stats.chisquare(np.bincount(pairs, minlength=36)).pvalue > 1e-2


@pytest.mark.parametrize("count", [2, 3, 6])
def test_any_number_of_processes_sees_the_same_global_batches(count):
    whole = numbers(16, 6)
    parts = [numbers(16, 6, process_index=i, process_count=count) for i in range(count)]
    for step in range(9):  # which begins three epochs within a batch, some within a process's part
        np.testing.assert_array_equal(np.concatenate([part(step) for part in parts]), whole(step))


def test_a_batch_is_a_function_of_its_step():
    wanted = [numbers(50, 8)(step) for step in range(40)]  # each from a fresh feed
    steps = np.random.default_rng(0).permutation(40).tolist()
    feed = numbers(50, 8)
    with ThreadPoolExecutor(4) as threads:
        for step, batch in zip(steps, threads.map(feed, steps), strict=True):
            np.testing.assert_array_equal(batch, wanted[step])


def test_a_mapped_file_is_read_as_an_array_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    batch = feeds.from_arrays(mapped, 8, seed=3)(5)
    np.testing.assert_array_equal(batch, feeds.from_arrays(pixels, 8, seed=3)(5))
    batch[:] = 0  # it is the caller's own, and the file stays as it was
    np.testing.assert_array_equal(np.load(tmp_path / "pixels.npy"), pixels)


# --- records ---


class Records:
    """Record i is {"x": (i, i), "label": i}; change(i) may give another one."""

    def __init__(self, n, change=lambda i: None):
        self._n, self._change = n, change

    def __len__(self):
        return self._n

    def __getitem__(self, i):
        return self._change(i) or {"x": np.full(2, i, np.float32), "label": np.int32(i)}


def test_records_are_walked_as_arrays_are():
    feed = feeds.from_records(Records(10), 4, seed=5, process_index=1, process_count=2)
    for step in range(6):
        batch = feed(step)
        rows = numbers(10, 4, seed=5, process_index=1, process_count=2)(step)
        np.testing.assert_array_equal(batch["label"], rows)
        np.testing.assert_array_equal(batch["x"], np.stack([rows, rows], axis=1))
        assert (batch["x"].dtype, batch["label"].dtype) == (np.float32, np.int32)


def test_records_are_read_by_as_many_threads():
    meeting = threading.Barrier(3)
    source = Records(9, lambda i: None)
    feed = feeds.from_records(source, 6, seed=0, num_threads=3)
    source._change = lambda i: meeting.wait(10) and None  # raises unless three are there at once
    assert len(feed(0)["label"]) == 6


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"x": np.zeros(3, np.float32), "label": np.int32(0)}, r"float32\[3\].*record 0 is.*float32\[2\]"),
        ({"x": np.zeros(2), "label": np.int32(0)}, r"float64\[2\]"),
        ({"x": np.zeros(2, np.float32)}, "Record 4 of Records"),
    ],
)
def test_a_record_that_differs_is_named(other, words):
    feed = feeds.from_records(Records(6, lambda i: other if i == 4 else None), 6, seed=0)
    with pytest.raises(ValueError, match=words):
        feed(0)


def test_an_error_of_the_source_says_which_record():
    def fail(i):
        if i == 4:
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone") as caught:
        feeds.from_records(Records(6, fail), 6, seed=0)(0)
    assert caught.value.__notes__ == ["while reading record 4 of Records"]


# --- Grain ---


@pytest.fixture(scope="module")
def grain():
    return pytest.importorskip("grain")


def in_threads(grain):
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)
    return lambda batches: batches.to_iter_dataset(options)


@pytest.mark.parametrize("count", [1, 3])
def test_grain_gives_its_own_records_in_order(grain, count):
    dataset = grain.MapDataset.source(Records(10)).shuffle(seed=1).repeat()
    wanted = np.array([dataset[p]["label"] for p in range(6 * 9)]).reshape(9, 6)
    parts = [
        feeds.from_grain(dataset, 6, in_threads(grain), process_index=i, process_count=count)
        for i in range(count)
    ]
    for step in (0, 1, 2, 7, 8, 3):  # in order, then resumed further on, then back
        got = [part(step) for part in parts]
        np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in got]), wanted[step])
        np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in got])[:, 0], wanted[step])


def test_grain_is_started_anew_only_where_the_steps_jump(grain):
    starts = []

    def iterate(batches):
        starts.append(int(batches[0]["label"][0]))
        return batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))

    feed = feeds.from_grain(grain.MapDataset.source(Records(10)), 2, iterate)
    for step in (0, 1, 2, 4, 3, 4):
        np.testing.assert_array_equal(feed(step)["label"], [2 * step, 2 * step + 1])
    assert starts == [0, 8, 6]
    with pytest.raises(IndexError, match=r"ends before step 5 .* repeat it"):
        feed(5)


def test_all_processes_come_to_the_end_of_a_dataset_at_once(grain):
    dataset = grain.MapDataset.source(Records(7))  # one global batch of 4, and a part of the next
    for index in range(2):
        feed = feeds.from_grain(dataset, 4, in_threads(grain), process_index=index, process_count=2)
        assert feed(0)["label"].tolist() == [2 * index, 2 * index + 1]
        with pytest.raises(IndexError, match="ends before step 1"):
            feed(1)


def test_grain_is_started_anew_after_an_error(grain):
    broken = True

    def fail_once(record):
        if broken and record["label"] == 4:
            raise OSError("disk gone")
        return record

    feed = feeds.from_grain(grain.MapDataset.source(Records(10)).map(fail_once), 2, in_threads(grain))
    feed(1)
    with pytest.raises(OSError, match="disk gone"):
        feed(2)
    broken = False
    assert feed(2)["label"].tolist() == [4, 5]


# --- bad input ---


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: numbers(3, 4), "size must be at most the 3 rows of data, got 4"),
        (lambda: numbers(3, 0), "size must be an integer of at least 1"),
        (lambda: numbers(9, 8, process_index=0, process_count=3), "divisible by the 3 processes, got 8; 6 or 9"),
        (lambda: numbers(9, 4, process_index=2, process_count=2), "must be below process_count, got 2 of 2"),
        (lambda: numbers(9, 4, process_index=-1, process_count=2), "process_index must be an integer of at least 0"),
        (lambda: numbers(9, 4, process_index=0, process_count=0), "process_count must be an integer of at least 1"),
        (lambda: numbers(9, 4, seed=-1), "seed must be an integer of at least 0"),
        (lambda: numbers(9, 4, seed=2**64), r"seed must be below 2\*\*64"),
        (lambda: numbers(9, 4)(1.5), "step must be an integer of at least 0, got 1.5"),
        (lambda: numbers(9, 4)(-1), "step must be an integer"),
        (lambda: feeds.from_arrays({"a": np.ones(3), "b": np.ones(4)}, 2, seed=0), r"shapes \(3,\), \(4,\)"),
        (lambda: feeds.from_arrays(np.ones((0, 2)), 2, seed=0), "at least one row"),
        (lambda: feeds.from_arrays({}, 2, seed=0), "got shapes none"),
        (lambda: feeds.from_records(Records(0), 2, seed=0), "at least one record, got an empty Records"),
        (lambda: feeds.from_records(Records(2), 3, seed=0), "at most the 2 rows"),
        (lambda: feeds.from_records(Records(3), 3, seed=0, num_threads=0), "num_threads must be an integer"),
        (lambda: feeds.from_grain(None, 3, iter, process_index=0, process_count=2), "divisible by the 2 processes"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
