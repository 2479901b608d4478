"""Characters given the few before them, by counts: the control of languages, and a judge of samples.

Of Witten and Bell: each order is mixed with the one below, by how many kinds of characters came after,

    p_k(c | h) = (n(h c) + d(h) p_{k-1}(c | h')) / (n(h) + d(h)),        p_{-1} = 1 / vocabulary        (1)

with n the counts, d(h) the number of different characters that followed h, and h' without its first.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class _Table(NamedTuple):
    grams: np.ndarray
    """Sorted codes of h c; counts go with them."""
    counts: np.ndarray
    contexts: np.ndarray
    """Sorted codes of h; totals and kinds go with them."""
    totals: np.ndarray
    kinds: np.ndarray


@dataclasses.dataclass(frozen=True)
class Grams:
    """Eq. (1), by the tables of no, one, ... characters before."""

    vocabulary: int
    tables: tuple[_Table, ...]

    @property
    def order(self) -> int:
        """Of how many characters at most its laws are."""
        return len(self.tables)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Of each character in nats, given those before it in its row: (batch, length) -> the same."""
        p = np.full(x.shape, 1 / self.vocabulary)
        for before, table in enumerate(self.tables[: x.shape[1]]):
            codes = _codes(x, before + 1, self.vocabulary)
            count = _found(table.grams, table.counts, codes)
            total, kinds = (
                _found(table.contexts, values, codes // self.vocabulary)
                for values in (table.totals, table.kinds)
            )
            lower = p[:, before:]
            p[:, before:] = np.where(total > 0, (count + kinds * lower) / np.maximum(total + kinds, 1), lower)
        return np.log(p)


def counted(rows: np.ndarray, order: int, vocabulary: int) -> Grams:
    """Of rows of characters, (batch, length)."""
    tables = []
    for before in range(order):
        codes = _codes(rows, before + 1, vocabulary)
        grams, counts = np.unique(codes, return_counts=True)
        contexts, first, kinds = np.unique(grams // vocabulary, return_index=True, return_counts=True)
        tables.append(_Table(grams, counts, contexts, np.add.reduceat(counts, first), kinds))
    return Grams(vocabulary, tuple(tables))


def best(rows: np.ndarray, kept_back: np.ndarray, orders: Iterable[int], vocabulary: int) -> Grams:
    """Of the order that is best on rows that were not counted."""
    return max(
        (counted(rows, order, vocabulary) for order in orders), key=lambda law: law.log_prob(kept_back).sum()
    )


def _codes(rows: np.ndarray, n: int, vocabulary: int) -> np.ndarray:
    """A number for each n characters in a row, (batch, length - n + 1)."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(rows, np.int64), n, axis=1)
    return windows @ vocabulary ** np.arange(n)[::-1]


def _found(keys: np.ndarray, values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
    return np.where(keys[at] == codes, values[at], 0)
