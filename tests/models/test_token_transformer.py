"""The transformer for tokens against a NumPy transcription of its equations, place by place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcription import assert_answers, condition, dense, drawn, softmax
from transcription import standardized as norm

from jaxdiff.models import TokenTransformer
from jaxdiff.models.token_transformer import turned

WIDTH, HEADS, V = 12, 3, 5
MODEL = TokenTransformer(
    V, V + 1, WIDTH, num_blocks=1, num_heads=HEADS, expansion=3, num_classes=2, num_places=7
)
RNG = np.random.default_rng(0)
X = RNG.integers(0, V + 1, (3, 6))
T, LABELS = np.asarray([0.1, 0.5, 0.9]), np.asarray([0, 2, 1])


def gelu(h):
    return 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))


def turn(vector, place):
    half = len(vector) // 2
    pairs = vector[:half] + 1j * vector[half:]
    pairs = pairs * np.exp(1j * place / 10000 ** (np.arange(half) / half))
    return np.concatenate([pairs.real, pairs.imag])


def reference(p, x, t, label, causal=False):
    size = WIDTH // HEADS
    h = p["tokens"][x] + (p["places"][: len(x)] if "places" in p else 0)
    c, block = condition(p["conditioning"], t, label), p["block_0"]
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(dense(block["modulation"], c), 6)
    q, k, v = np.split(dense(block["qkv"], (1 + scale1) * norm(h) + shift1), 3, axis=1)
    heard = []
    for i in range(HEADS):
        own = slice(i * size, (i + 1) * size)
        turned = [
            np.stack([turn(row, place) for place, row in enumerate(norm(part[:, own]))]) for part in (q, k)
        ]
        scores = np.exp(block["sharpness"][i]) * turned[0] @ turned[1].T / np.sqrt(size)
        if causal:
            scores[np.triu_indices(len(x), 1)] = -np.inf
        heard.append(softmax(scores) @ v[:, own])
    h = h + gate1 * dense(block["attend"], np.concatenate(heard, axis=1))
    along = dense(block["mlp_in"], (1 + scale2) * norm(h) + shift2)
    h = h + gate2 * dense(block["mlp_out"], gelu(along))
    shift, scale = np.split(dense(p["modulation"], c), 2)
    return dense(p["out"], (1 + scale) * norm(h) + shift)


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_its_equations(causal):
    model = MODEL.clone(causal=causal)
    params = drawn(RNG, model, X, T, LABELS)
    wanted = np.stack([reference(params["params"], *row, causal) for row in zip(X, T, LABELS, strict=True)])
    assert_answers(model, params, (X, T, LABELS), wanted)


def test_turned_pairs_hear_how_far_apart_places_are_and_no_more():
    query, key = (np.broadcast_to(v, (1, 9, 1, 8)) for v in RNG.standard_normal((2, 1, 1, 1, 8)))
    scores = np.einsum("bihd,bjhd->ij", turned(jnp.asarray(query)), turned(jnp.asarray(key)))
    for apart in range(-8, 9):
        line = np.diag(scores, apart)
        np.testing.assert_allclose(line, line[0], atol=1e-4)
    assert np.std([scores[0, apart] for apart in range(9)]) > 0.1


def test_it_says_nothing_before_training():
    params = MODEL.init(jax.random.key(0), X, jnp.asarray(T), jnp.asarray(LABELS))
    assert not np.asarray(MODEL.apply(params, X, jnp.asarray(T), jnp.asarray(LABELS))).any()


@pytest.mark.parametrize(
    ("model", "inputs", "error", "words"),
    [
        (MODEL, (X.astype(float), T, LABELS), TypeError, "x must be an array of integers, got float"),
        (MODEL, (X[0], T, LABELS), ValueError, r"x must have shape \(batch, length\)"),
        (MODEL, (np.zeros((3, 8), int), T, LABELS), ValueError, "at most 7 places, got 8"),
        (MODEL, (X, T, None), ValueError, "labels are missing"),
        (
            MODEL.clone(width=9),
            (X, T, LABELS),
            ValueError,
            "width must be a multiple of 2 num_heads = 6, got 9",
        ),
    ],
)
def test_bad_input_is_refused(model, inputs, error, words):
    with pytest.raises(error, match=words):
        jax.eval_shape(model.init, jax.random.key(0), *inputs)
