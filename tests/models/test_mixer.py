"""The mixer against a NumPy transcription of its equations; the other models are in test_models.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcription import dense, silu
from transcription import standardized as norm

from jaxdiff.models import Mixer
from jaxdiff.models.embedding import Conditioning

MODEL = Mixer(num_outputs=3, channels=4, num_blocks=2, expansion=2, num_classes=5)
X = jax.random.normal(jax.random.key(1), (6, 7, 2))
T = jnp.linspace(-1.0, 1.0, 6)
LABELS = jnp.arange(6)


@functools.cache
def trained():
    """Parameters with nothing left at zero, as training leaves them."""
    params = jax.jit(MODEL.init)(jax.random.key(0), X, T, LABELS)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


apply = jax.jit(MODEL.apply)


def reference(params, x, t, labels):
    conditioning = Conditioning(16, 5).apply({"params": params["params"]["conditioning"]}, t, labels)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    c = np.asarray(conditioning, np.float64)[:, None]

    def film(name, h):
        scale, shift = np.split(dense(p[name]["scale_shift"], c), 2, axis=-1)
        return (1 + scale) * norm(h) + shift

    def mix(name, h):
        return dense(p[name]["dense_2"], silu(dense(p[name]["dense_1"], h)))

    h = dense(p["in"], np.asarray(x, np.float64)) + p["position"]
    for i in range(2):
        h = h + mix(f"tokens_{i}", film(f"film_tokens_{i}", h).swapaxes(1, 2)).swapaxes(1, 2)
        h = h + mix(f"channels_{i}", film(f"film_channels_{i}", h))
    return dense(p["out"], norm(h) * p["norm"]["scale"] + p["norm"]["bias"])


def test_it_is_its_equations():
    np.testing.assert_allclose(apply(trained(), X, T, LABELS), reference(trained(), X, T, LABELS), atol=2e-5)


def test_it_begins_at_zero():
    params = jax.jit(MODEL.init)(jax.random.key(0), X, T, LABELS)
    assert (apply(params, X, T, LABELS) == 0).all()


def test_rows_do_not_mix():
    answer = apply(trained(), X, T, LABELS)
    order = jnp.asarray([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(apply(trained(), X[order], T[order], LABELS[order]), answer[order], atol=1e-6)


def test_no_parameter_is_dead():
    gradient = jax.grad(lambda p: (apply(p, X, T, LABELS) ** 2).sum())(trained())
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
        assert (leaf != 0).mean() > 0.9, jax.tree_util.keystr(path)


def test_dropout_is_keyed_and_off_by_default():
    model = Mixer(num_outputs=3, channels=4, num_blocks=2, dropout=0.5, num_classes=5)

    params = trained()

    @jax.jit
    def run(key, x=X, t=T, labels=LABELS):
        return model.apply(params, x, t, labels, train=True, rngs={"dropout": key})

    one, other = run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(one, run(jax.random.key(0)))
    fewer = run(jax.random.key(0), X[:4], T[:4], LABELS[:4])  # masks of samples, not of their tokens
    np.testing.assert_allclose(fewer, one[:4], rtol=0, atol=1e-6)
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(
        jax.jit(model.apply)(trained(), X, T, LABELS), apply(trained(), X, T, LABELS)
    )


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (X[..., 0], LABELS, r"x must have shape \(batch, tokens, features\), got \(6, 7\)"),
        (X, None, "labels are missing for a model of 5 classes"),
    ],
)
def test_wrong_input_is_refused(x, labels, message):
    with pytest.raises(ValueError, match=message):
        MODEL.apply(trained(), x, T, labels)
