"""The experiments on tokens at a reduced size: laws, controls and estimates that are known."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.discrete import digits, languages, samplers
from jaxdiff import data


def test_the_languages_are_stationary_and_nothing_factorizes_them():
    config = languages.Config()
    for law in languages.laws(config).values():
        np.testing.assert_allclose(law.initial @ law.transition, law.initial, atol=1e-6)
        x = law.sample(jax.random.key(0), 500)
        alone = np.asarray(law.initial @ law.emission)
        assert np.asarray(law.log_prob(x)).mean() > np.log(alone)[np.asarray(x)].sum(1).mean() + 1


@pytest.mark.slow
def test_exact_denoisers_have_the_entropy_and_others_are_above():
    figures = languages.run(languages.smoke())
    assert json.loads(json.dumps(figures, allow_nan=False))["rows"] == figures["rows"]
    for row in figures["rows"]:
        assert row["way"] in languages.table(figures)
        if "exact" in row["way"]:
            assert abs(row["above"]["mean"]) < 5 * row["above"]["standard_error"]
        elif "counts" in row["way"]:  # which know a language of two hidden states and eight characters
            assert abs(row["above"]["mean"]) < 0.01
        elif row["way"] != "the law itself":
            assert row["above"]["mean"] > 0.02


@pytest.mark.slow
def test_samplers_leave_more_than_the_law_and_first_hitting_does_not():
    config = dataclasses.replace(samplers.smoke(), samples=4000)
    figures = samplers.run(config)
    left = {(row["process"], row["way"]): row["total_variation"] for row in figures["rows"]}
    floor = left["none", "the law itself"]
    assert left["masking", "first hitting"] < 3 * floor
    assert left["none", "characters alone"] > 5 * floor
    assert left["masking", "ancestral"] > 2 * floor
    assert "first hitting" in samplers.table(figures)


@pytest.mark.slow
def test_digits_stand_beside_their_histograms():
    config = digits.smoke()
    figures = digits.run(config)
    split = data.digits()
    train = np.random.default_rng(config.seed).permutation(split.train)[config.kept_back :]
    counts = np.stack([np.bincount(column, minlength=17) for column in train.T]).astype(float)
    counts += 0.5 * 17 * np.maximum(counts.sum(0) / counts.sum(), 3e-3)
    frequencies = counts / counts.sum(1, keepdims=True)
    wanted = -np.log2(frequencies[np.arange(64), split.test[: config.images]]).mean()
    rows = {row["way"]: row for row in figures["rows"]}
    np.testing.assert_allclose(rows["histograms"]["bits"]["mean"], wanted, rtol=1e-6)
    assert list(rows) == ["histograms", "pixel after pixel", *config.ways]
    assert np.asarray(figures["samples"]["ordinal"]).max() <= 16
    assert np.array_equal(figures["samples"]["held out"], split.test[: config.samples])
    assert "continuous noise" in digits.table(figures)
