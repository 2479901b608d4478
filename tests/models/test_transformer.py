"""The transformer against a NumPy transcription of its equations; what it shares is in test_models.py."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models import DiffusionTransformer

WIDTH, HEADS, PATCH = 12, 3, 2
MODEL = DiffusionTransformer(PATCH, WIDTH, num_blocks=1, num_heads=HEADS, expansion=3, num_classes=2)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4, 6, 2))
T = np.asarray([-1.0, 0.3, 2.0])
LABELS = np.asarray([0, 2, 1])


def dense(p, h):
    return h @ p["kernel"] + p.get("bias", 0)


def norm(h):
    return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)


def silu(h):
    return h / (1 + np.exp(-h))


def gelu(h):
    return 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))


def condition(p, t, label):
    angles = 2 * np.pi * t * 2.0 ** np.linspace(-4, 3, 16)
    level = dense(p["time_out"], silu(dense(p["time_in"], np.concatenate([np.sin(angles), np.cos(angles)]))))
    return silu(level + p["classes"][label])


def place(row, column):
    waves = []
    for at in (row, column):
        angles = [at / 10000 ** (4 * i / WIDTH) for i in range(WIDTH // 4)]
        waves += [np.cos(a) for a in angles] + [np.sin(a) for a in angles]
    return np.asarray(waves)


def attention(p, h):
    q, k, v = np.split(dense(p["qkv"], h), 3, axis=1)
    size, heard = WIDTH // HEADS, []
    for i in range(HEADS):
        own = slice(i * size, (i + 1) * size)
        weights = np.exp(q[:, own] @ k[:, own].T / np.sqrt(size))
        heard.append(weights / weights.sum(1, keepdims=True) @ v[:, own])
    return dense(p["attend"], np.concatenate(heard, axis=1))


def reference(p, x, t, label):
    """The answer for one image, patch by patch."""
    corners = [(i, j) for i in range(0, x.shape[0], PATCH) for j in range(0, x.shape[1], PATCH)]
    h = np.stack(
        [
            dense(p["in"], x[i : i + PATCH, j : j + PATCH].ravel()) + place(i // PATCH, j // PATCH)
            for i, j in corners
        ]
    )
    c, block = condition(p["conditioning"], t, label), p["block_0"]
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(dense(block["modulation"], c), 6)
    h = h + gate1 * attention(block, (1 + scale1) * norm(h) + shift1)
    along = gelu(dense(block["mlp_in"], (1 + scale2) * norm(h) + shift2))
    h = h + gate2 * dense(block["mlp_out"], along)
    shift, scale = np.split(dense(p["modulation"], c), 2)
    answer = np.empty_like(x)
    for (i, j), patch in zip(corners, dense(p["out"], (1 + scale) * norm(h) + shift), strict=True):
        answer[i : i + PATCH, j : j + PATCH] = patch.reshape(PATCH, PATCH, -1)
    return answer


def test_it_is_its_equations():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X, T, LABELS)
    params = jax.tree.map(lambda s: 0.5 * RNG.standard_normal(s.shape), shapes)
    expected = np.stack([reference(params["params"], *row) for row in zip(X, T, LABELS, strict=True)])
    got = jax.jit(MODEL.apply)(*jax.tree.map(jnp.float32, (params, X, T)), LABELS)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).mean() > 0.3


def test_number_of_parameters():
    model = DiffusionTransformer(2, 16, num_blocks=3, num_heads=4, expansion=4, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X, T, LABELS)
    w, pixels = 16, 2 * 2 * 2
    conditioning = (32 * w + w) + (w * w + w) + 11 * w
    block = (6 * w * w + 6 * w) + 3 * w * w + (w * w + w) + (4 * w * w + 4 * w) + (4 * w * w + w)
    ends = (pixels * w + w) + (2 * w * w + 2 * w) + (w * pixels + pixels)
    assert sum(a.size for a in jax.tree.leaves(shapes)) == conditioning + 3 * block + ends
