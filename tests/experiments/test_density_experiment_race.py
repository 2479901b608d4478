"""The race part at a reduced size: what it spends, and that Gaussians say little about its classes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.density import race

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures():
    return race.run(race.smoke())


def test_the_race_spends_less_and_agrees(figures):
    rows = {row["method"]: row for row in figures["rows"]}
    everything = rows["every class to the end"]
    assert everything["evaluations"] == 6 * 40
    assert everything["agreement"] == 1
    assert 6 * 20 <= rows["race"]["evaluations"] < 6 * 40
    assert rows["race"]["agreement"] > 0.8
    assert rows["Bayes' rule"]["accuracy"] > 0.85
    assert rows["Gaussians of the classes"]["accuracy"] < rows["Bayes' rule"]["accuracy"]
    shown = race.table(figures)
    assert all(f"{row['accuracy']:10.4f}{row['agreement']:11.4f}" in shown for row in figures["rows"])
    assert json.loads(json.dumps(figures, allow_nan=False))["rows"][0]["problem"] == "mixtures"


def test_a_turn_is_about_the_middle():
    """What is round stays as it is, and a spot keeps its distance to the middle and its ink."""
    place = np.stack(np.meshgrid(np.arange(8) - 3.5, np.arange(8) - 3.5, indexing="ij"))
    round_, spot = (
        np.exp(-((place - np.asarray(at)[:, None, None]) ** 2).sum(0) / 3) for at in ([0, 0], [0, 1.5])
    )
    turned = np.asarray(
        race._turned(jax.random.key(0), jnp.asarray(np.stack([round_, spot] * 8), jnp.float32))
    )
    np.testing.assert_allclose(turned[::2], np.tile(round_.ravel(), (8, 1)), atol=0.1)
    ink = turned[1::2] / turned[1::2].sum(1, keepdims=True)
    middles = ink @ place.reshape(2, -1).T
    np.testing.assert_allclose(np.hypot(*middles.T), 1.5, atol=0.2)
    assert middles.std(0).min() > 0.5  # each by an angle of its own
