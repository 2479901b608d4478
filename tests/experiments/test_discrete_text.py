"""Text by characters: what is held out, counts and compressions as controls, and what judges samples."""

import dataclasses
import itertools
import json
import zlib
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.discrete import fitting, grams, text


def test_topics_are_held_out_whole_and_little_of_them_is_in_the_rest():
    paragraphs, held_out = text.corpus(0, 0.12)
    train = " ".join(paragraphs)
    size = sum(map(len, held_out.values()))
    assert 0.08 < size / (size + len(train)) < 0.3
    own = {text.folded(part) for name in held_out for part in text.topics[name].split("\n\n")}
    assert not own & set(paragraphs)
    assert len(set(paragraphs)) == len(paragraphs)
    seen = {train[i : i + 40] for i in range(len(train) - 40)}
    windows = [x[i : i + 40] for x in held_out.values() for i in range(0, len(x) - 40, 7)]
    assert np.mean([window in seen for window in windows]) < 0.03
    assert set(train) == set(text.ALPHABET)
    assert text.decoded(text.encoded(train[:99])) == train[:99]


def by_hand(rows, order, vocabulary, row, i):
    """Eq. (1) by a recursion over the characters before, with counters."""
    p = 1 / vocabulary
    for before in range(min(order, i + 1)):
        after = Counter(
            r[j] for r in rows for j in range(before, len(r)) if r[j - before : j] == row[i - before : i]
        )
        if after:
            p = (after[row[i]] + len(after) * p) / (after.total() + len(after))
    return p


def test_counts_are_witten_and_bells():
    rng = np.random.default_rng(0)
    rows, x = rng.integers(0, 3, (6, 8)), rng.integers(0, 3, (4, 6))
    got = np.exp(grams.counted(rows, 4, 3).log_prob(x))
    rows, lists = rows.tolist(), x.tolist()
    wanted = [[by_hand(rows, 4, 3, row, i) for i in range(6)] for row in lists]
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_the_best_order_is_that_of_the_language():
    """Each character is the sum of the two before it, of three, but for a few."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 3, (300, 12))
    for i in range(2, 12):
        x[:, i] = np.where(rng.uniform(size=300) < 0.9, (x[:, i - 1] + x[:, i - 2]) % 3, x[:, i])
    assert grams.best(x[:200], x[200:], range(1, 6), 3).order == 3


def test_judges_of_samples():
    alternating = np.tile([0, 1], (10, 20))
    assert text.conditional_entropy(alternating) == 0
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(text.conditional_entropy(rng.integers(0, 8, (500, 60))), 3, atol=0.01)
    assert text.compressed(zlib.compress, "abcdefgh" * 40, "abcdefgh" * 40) < 0.4


@pytest.mark.slow
def test_one_after_another_samples_what_it_says():
    """Of a network that is not zero, on all sequences."""
    fit = fitting.Fit(
        width=8, num_blocks=1, num_heads=2, learning_rate=0.05, batch_size=8, steps=20, ema_decay=0.5
    )
    draw = lambda key: jax.random.randint(key, (8, 3), 0, 2).at[:, 1].set(1)  # noqa: E731
    model = fitting.autoregressive(fit, 2, 3, draw, 0)
    x = jnp.asarray(list(itertools.product(range(2), repeat=3)))
    p = np.exp(np.asarray(model(x), np.float64))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    assert p.max() > 1.5 / 8
    drawn = np.asarray(model.sample(jax.random.key(0), 4000))
    frequencies = np.bincount(drawn @ [4, 2, 1], minlength=8) / 4000
    assert (4000 * (frequencies - p) ** 2 / p).sum() < 7 + 4 * np.sqrt(14)


@pytest.mark.slow
def test_training_stops_where_kept_back_rows_are_best():
    """Rows that are kept back are what training never shows: the first average is the best, of three more."""
    fit = fitting.Fit(
        width=8, num_blocks=1, num_heads=2, learning_rate=0.02, batch_size=8, steps=60, checks=6
    )
    fit = dataclasses.replace(fit, ema_decay=0.5)
    ones = lambda key: jnp.ones((8, 3), int)  # noqa: E731
    zeros = jnp.zeros((4, 3), int)
    model = fitting.autoregressive(fit, 2, 3, ones, 0, kept_back=zeros)
    last = fitting.autoregressive(fit, 2, 3, ones, 0)
    assert last(zeros)[0] < 2 * model(zeros)[0]


@pytest.mark.slow
def test_the_part_on_text(monkeypatch):
    monkeypatch.setattr(text, "SAMPLERS", {"uniform": text.SAMPLERS["uniform"]})
    config = text.smoke()
    figures = text.run(config)
    assert json.loads(json.dumps(figures, allow_nan=False))["rows"] == figures["rows"]
    assert figures["config"] == dataclasses.asdict(config)
    bits = {row["way"].split()[0]: row["bits"]["mean"] for row in figures["rows"]}
    assert bits["counts"] < bits["characters"] - 0.3
    assert bits["masking"] > bits["counts"]
    assert 1 < figures["compressed"]["lzma"] < bits["counts"] < 3.5
    judged = {row["way"]: row for row in figures["judged"]}
    assert judged["held-out text"]["words"] > 0.7 > judged["one after another"]["words"]
    assert set(figures["path"][0]) == {"_"}
    assert "_" not in figures["path"][-1]
    assert figures["samples"]["masking"][0] in text.table(figures)
