"""Conditions: bound by row, for all rows, dropped, guided, and taken along by whatever takes rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoising.conditions import drop_condition
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.guidance.classifier_free import guided
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling.driver import sample
from jaxdiff.typing import Denoised

CENTERS = np.array([-2.0, 0.0, 3.0, 0.5])  # of the classes' laws N(c, 1); the last stands for no class


def gaussian_classes(x, t, labels):
    """The exact denoiser of the classes' laws, row by row, in plain NumPy operations."""
    t = jnp.broadcast_to(t, x.shape[:1])[:, None]
    centred = x - jnp.asarray(CENTERS, x.dtype)[labels][:, None]
    noise = t / (1 + t**2) * centred
    return Denoised(x - t * noise, noise)


CLASSES = as_denoiser(gaussian_classes, Karras(), shape=(2,))
X = jax.random.normal(jax.random.key(0), (5, 2))
LABELS = jnp.asarray([2, 0, 1, 2, 0])


def test_a_condition_belongs_to_its_row_or_to_all():
    by_row = CLASSES.given(LABELS)(X, 0.7)
    for i, label in enumerate(LABELS):
        law = Gaussian(jnp.full(2, CENTERS[label]), 1.0).denoiser(Karras())
        np.testing.assert_allclose(by_row.data[i], law(X[i : i + 1], 0.7).data[0], rtol=1e-5, atol=1e-6)
    for one in (2, jnp.asarray(2), jnp.asarray([2])):
        np.testing.assert_array_equal(CLASSES.given(one)(X, 0.7).data[3], by_row.data[3])
    assert CLASSES.condition is None


def test_a_condition_is_an_argument_of_the_compiled_program():
    traces = []

    def counted(x, t, labels):
        traces.append(None)
        return gaussian_classes(x, t, labels)

    denoise = as_denoiser(counted, Karras(), shape=(2,))
    low = sample(jax.random.key(0), denoise.given(0), 500)
    num_traces = len(traces)
    high = sample(jax.random.key(0), denoise.given(2), 500)
    assert len(traces) == num_traces
    assert abs(low.mean() + 2) < 4 / np.sqrt(1000) + 0.02
    assert abs(high.mean() - 3) < 4 / np.sqrt(1000) + 0.02


def test_rows_take_their_conditions_along():
    rows = jnp.asarray([4, 0, 0, 2])
    for denoise in (
        CLASSES.given(LABELS),
        guided(CLASSES.given(LABELS), 1.7, unconditional=CLASSES.given(3)),
    ):
        whole, part = denoise(X, 0.7), denoise.at_rows(rows)(X[rows], 0.7)
        np.testing.assert_allclose(part.data, whole.data[rows], rtol=1e-6)
    for condition in (1, jnp.asarray([1]), None):
        denoise = CLASSES.given(condition)
        assert jax.tree.leaves(denoise.at_rows(rows).condition) == jax.tree.leaves(denoise.condition)


def test_guidance_by_the_null_condition():
    """Of Gaussians of one variance the guided denoiser is that of an extrapolated mean; bound before or after."""

    def predict(params, x, t, labels):  # in noise, for EDM's network is shown x / s
        return gaussian_classes(x, t, labels).noise

    from jaxdiff.denoising import prediction

    denoise = make_denoiser(
        predict, None, Karras(), shape=(2,), prediction=prediction.noise, null_condition=3
    )
    for scale in (0.0, 1.0, 2.5):
        mean = CENTERS[3] + scale * (CENTERS[np.asarray(LABELS)] - CENTERS[3])
        noise = 0.7 / (1 + 0.49) * (np.asarray(X) - mean[:, None])
        before = guided(denoise.given(LABELS), scale)(X, 0.7)
        after = guided(denoise, scale).given(LABELS)(X, 0.7)
        np.testing.assert_allclose(before.noise, noise, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(before.noise, after.noise)
    assert (guided(denoise, 2.0).shape, guided(denoise, 2.0).t_max) == (denoise.shape, denoise.t_max)


def test_a_dictionary_goes_to_the_network_by_name():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, t, labels=None, *, context=None):
            return x * 0 + labels[:, None] + context.sum((1, 2))[:, None]

    context = jnp.arange(30.0).reshape(5, 3, 2)
    denoise = make_denoiser(Network().apply, {}, Karras(), shape=(2,))
    got = denoise.given({"labels": LABELS, "context": context})(X, 1.0)
    silent = denoise.given({"labels": 0 * LABELS, "context": 0 * context})(X, 1.0)
    output = np.asarray(LABELS) + np.asarray(context).sum((1, 2))
    # Under EDM's type at sigma = 1 and unit variance the network moves the data by sigma / sqrt(2) of its output.
    np.testing.assert_allclose(got.data - silent.data, (output / np.sqrt(2))[:, None] * np.ones(2), rtol=1e-5)


def test_conditions_are_dropped_at_their_rate():
    n = 20_000
    condition = {"labels": jnp.arange(n) % 3, "context": jnp.ones((n, 2, 4))}
    null = {"labels": 3, "context": jnp.zeros((1, 2, 4))}
    dropped = drop_condition(jax.random.key(1), condition, null, 0.1)
    gone = np.asarray(dropped["labels"] == 3)
    assert abs(gone.mean() - 0.1) < 4 * np.sqrt(0.09 / n)
    np.testing.assert_array_equal(dropped["labels"][~gone], condition["labels"][~gone])
    # The parts of a row go together.
    np.testing.assert_array_equal(np.asarray(dropped["context"]).any((1, 2)), ~gone)
    half = drop_condition(jax.random.key(1), jax.tree.map(lambda leaf: leaf[: n // 2], condition), null, 0.1)
    np.testing.assert_array_equal(half["labels"], dropped["labels"][: n // 2])
    everything = drop_condition(jax.random.key(1), condition["labels"], 3, 1.0)
    assert (everything == 3).all()
    with pytest.raises(ValueError, match="rate must lie in"):
        drop_condition(jax.random.key(1), condition, null, 10)
