"""What the networks share, in NumPy, for the transcriptions of their equations."""

import jax
import jax.numpy as jnp
import numpy as np


def dense(p, h):
    return h @ p["kernel"] + p.get("bias", 0)


def silu(h):
    return h / (1 + np.exp(-h))


def standardized(h, axes=-1):
    return (h - h.mean(axes, keepdims=True)) / np.sqrt(h.var(axes, keepdims=True) + 1e-6)


def softmax(scores):
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True)


def condition(p, t, label):
    angles = 2 * np.pi * t * 2.0 ** np.linspace(-4, 3, 16)
    level = dense(p["time_out"], silu(dense(p["time_in"], np.concatenate([np.sin(angles), np.cos(angles)]))))
    return silu(level + p["classes"][label])


def drawn(rng, model, *inputs, scale=0.5):
    """Parameters of a model in float64, with nothing left at zero."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda s: scale * rng.standard_normal(s.shape), shapes)


def assert_answers(model, params, inputs, expected):
    """A model answers within float32's rounding of what was expected, which is of order one."""
    got = jax.jit(model.apply)(*jax.tree.map(_single, (params, *inputs)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).mean() > 0.3


def _single(a):
    return jnp.asarray(a, jnp.float32) if np.issubdtype(a.dtype, np.floating) else a
