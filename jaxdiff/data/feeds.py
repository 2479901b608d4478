"""Batches on the host, as a function of the step: what data that do not lie on the device come by.

Global batch k = 0, 1, ... of B rows is a stretch of one endless walk through n rows, permutation 0 of them,
then permutation 1, and so on. Of P processes, process i has B / P consecutive rows of each batch:

    row j of process i in batch k  =  pi_e(p mod n),      p = k B + i B / P + j,    e = floor(p / n).    (1)

Every row is seen once per epoch e, and where B does not divide n a batch ends one epoch and begins the next.
The batch does not depend on P nor on the batches before it, so a run resumes at any step, on any number of
processes, with the data that it would have seen. pi_e sorts the 64-bit integers of Philox (Salmon et al.
2011) under the key (seed, e), whose stream NumPy guarantees; `Generator.permutation` has no such guarantee.

A feed, ``feed(step)``, is a pure function of the step that answers with this process's rows, a pytree of
NumPy arrays. It may be called from several threads. `jaxdiff.data.batches` has batches of data on the device.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

from jaxdiff._numerics import checks

Feed: TypeAlias = Callable[[int], Any]
"""``feed(step)``: this process's rows of the step's global batch, a pytree of NumPy arrays."""


class RecordSource(Protocol):
    """Records by number: an image folder, a Grain data source, a list. Read by several threads at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """Record 0, 1, ...: a pytree of arrays or numbers, of the same shapes for every index."""
        ...


def from_arrays(
    data: Any, size: int, *, seed: int, process_index: int | None = None, process_count: int | None = None
) -> Feed:
    """Eq. (1) over the rows of arrays in memory or mapped into it, size of them in a global batch.

    Data is an array (n, ...) or a pytree of such with one n; of ``np.load(path, mmap_mode="r")`` only the
    rows asked for are read. The processes are JAX's unless given. An epoch's permutation is drawn once, in
    O(n log n), and the last two are kept, 8 bytes a row each.

    Raises ValueError for unequal or empty leading axes, a size that is not in [1, n] or not divisible by the
    number of processes, and from the feed for a step that is not an integer of at least 0.

    >>> feed = jd.feeds.from_arrays(jnp.array([3, 5, 7, 9]), 2, seed=0)
    >>> sorted([*feed(0).tolist(), *feed(1).tolist()])  # an epoch
    [3, 5, 7, 9]
    >>> feed(7).tolist() == feed(7).tolist()
    True
    """
    n = checks.num_rows(data)
    rows = _walk(n, size, seed, *_processes(size, process_index, process_count))
    data = jax.tree.map(np.asarray, data)

    def feed(step: int) -> Any:
        at = rows(step)
        return jax.tree.map(lambda leaf: leaf[at], data)

    return feed


def from_records(
    source: RecordSource,
    size: int,
    *,
    seed: int,
    num_threads: int = 8,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Feed:
    """Eq. (1) over the records of a source, which num_threads threads read and decode and which are stacked.

    The source is anything with ``len(source)`` and ``source[i]``, as `jaxdiff.data.image_sets.image_folder`.
    Python threads help where reading waits or decodes outside the interpreter, as Pillow does; where decoding
    itself is Python, use Grain's worker processes and `from_grain`. Record 0 is read at once, and says what
    the others must be.

    Raises ValueError as `from_arrays` does, and from the feed, naming the record, for one of other structure,
    shapes or dtypes than record 0; an error of the source is passed on with the number of the record.

    >>> records = [{"x": 1.0, "label": 0}, {"x": 2.0, "label": 1}]  # or anything with a length and numbers
    >>> rows = jd.feeds.from_records(records, 2, seed=0)(5)
    >>> sorted(rows["x"].tolist()), sorted(rows["label"].tolist())
    ([1.0, 2.0], [0, 1])
    """
    if not len(source):
        raise ValueError(f"source must hold at least one record, got an empty {type(source).__name__}.")
    rows = _walk(len(source), size, seed, *_processes(size, process_index, process_count))
    checks.integer("num_threads", num_threads, 1)
    wanted = _kind(_read(source, 0))

    def read(index: int) -> Any:
        record = _read(source, index)
        if _kind(record) != wanted:
            raise ValueError(
                f"Record {index} of {type(source).__name__} is {_kind(record)} but record 0 is {wanted}; "
                "records that are stacked must agree, so resize, crop or pad them in the source."
            )
        return record

    def feed(step: int) -> Any:
        records = _in_threads(read, rows(step).tolist(), num_threads)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *records)

    return feed


def from_grain(
    dataset: Any,
    size: int,
    iterate: Callable[[Any], Iterable[Any]],
    *,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Feed:
    """The walk of a ``grain.MapDataset`` of single records, in batches read ahead by Grain's own engine.

    Dataset says the order, so shuffle and repeat it, and do not batch or shard it: that is done here, so that
    p of eq. (1) is its record p whatever the number of processes. ``iterate(batches)`` starts the engine on
    this process's batches::

        dataset = grain.MapDataset.source(source).shuffle(seed=0).repeat().map(decode)
        options = grain.ReadOptions(num_threads=8, prefetch_buffer_size=16)  # 16 batches
        feed = feeds.from_grain(dataset, 256, lambda batches: batches.to_iter_dataset(options))

    With ``.mp_prefetch(grain.MultiprocessingOptions(num_workers=8))`` after ``to_iter_dataset`` worker
    processes decode instead of threads; Grain then wants absl's flags parsed. Augmentation is
    ``dataset.seed(0).random_map(...)`` before the feed, a function of p, or is left to the device.

    Steps that follow one another are read ahead. Any other step, as on resuming, starts the engine anew
    there. Raises ValueError for a size that is not divisible by the number of processes, and from the feed
    IndexError at the end of a dataset that was not repeated.
    """
    index, count = _processes(size, process_index, process_count)
    batches = dataset.batch(size // count, drop_remainder=True)
    batches = batches[index : len(batches) // count * count : count]  # whole global batches, for all as many
    turn = threading.Lock()
    running: list[Iterator[Any]] = []  # at most one
    next_step = None

    def feed(step: int) -> Any:
        nonlocal next_step
        checks.integer("step", step, 0)
        if step >= len(batches):
            raise IndexError(
                f"The dataset ends before step {step} of global batch size {size}; repeat it: "
                "dataset.shuffle(seed=...).repeat()."
            )
        with turn:
            if step != next_step:
                running.clear()
                running.append(iter(iterate(batches[step:])))
            next_step = None  # until the batch is there: after an error the engine is started anew
            batch = next(running[0])
            next_step = step + 1
            return batch

    weakref.finalize(feed, running.clear)  # worker processes are to end before the interpreter does
    return feed


def _processes(size: int, index: int | None, count: int | None) -> tuple[int, int]:
    """This process and the number of them, JAX's where they are not given, checked with the batch size."""
    checks.integer("size", size, 1)
    count = jax.process_count() if count is None else count
    index = jax.process_index() if index is None else index
    checks.integer("process_count", count, 1)
    checks.integer("process_index", index, 0)
    if index >= count:
        raise ValueError(f"process_index must be below process_count, got {index} of {count}.")
    if size % count:
        raise ValueError(
            f"size, the rows of the global batch, must be divisible by the {count} processes, got {size}; "
            f"{size - size % count} or {size - size % count + count} would be."
        )
    return index, count


def _walk(n: int, size: int, seed: int, index: int, count: int) -> Callable[[int], np.ndarray]:
    """Eq. (1): ``rows(step)``, the size / count rows in [0, n) of process index."""
    if size > n:
        raise ValueError(f"size must be at most the {n} rows of data, got {size}.")
    checks.integer("seed", seed, 0)
    if seed >= 2**64:
        raise ValueError(f"seed must be below 2**64, got {seed}.")
    local = size // count

    @functools.lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
    def permutation(epoch: int) -> np.ndarray:
        bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
        return np.argsort(bits, kind="stable")

    def rows(step: int) -> np.ndarray:
        checks.integer("step", step, 0)
        epoch, start = divmod(int(step) * size + index * local, n)
        here = permutation(epoch)[start : start + local]
        if len(here) == local:
            return here
        return np.concatenate([here, permutation(epoch + 1)[: local - len(here)]])

    return rows


def _read(source: RecordSource, index: int) -> Any:
    try:
        return jax.tree.map(np.asarray, source[index])
    except Exception as error:
        error.add_note(f"while reading record {index} of {type(source).__name__}")
        raise


def _in_threads(read: Callable[[int], Any], numbers: list[int], num_threads: int) -> list[Any]:
    """What read answers to each; by daemons: for others, which may hang, the interpreter waits."""
    answers: list[Future[Any]] = [Future() for _ in numbers]
    todo = deque(zip(answers, numbers, strict=True))

    def work() -> None:
        while todo:
            try:
                answer, number = todo.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                answer.set_result(read(number))
            except BaseException as error:
                todo.clear()
                answer.set_exception(error)

    for _ in range(min(num_threads, len(numbers))):
        threading.Thread(target=work, name="jaxdiff-feed", daemon=True).start()
    return [answer.result() for answer in answers]


def _kind(record: Any) -> str:
    """Structure, dtypes and shapes of a record, in words."""
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", record))
