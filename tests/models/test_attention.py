"""Every kernel of attention answers what the plain one does, and each platform gets its own."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.maps.tangents import forward
from jaxdiff.models import DiffusionTransformer, attention
from jaxdiff.models.attention import attended

Q, K, V, TANGENT = jax.random.normal(jax.random.key(0), (4, 2, 6, 3, 8))


def close(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_heads_in_turn_are_heads_together_with_both_derivatives():
    def both(kernel):
        def scalar(q, k, v):
            return jnp.sin(attended(q, k, v, kernel)).sum()

        def all(q, k, v):
            value, along = jax.jvp(lambda v: attended(q, k, v, kernel), (v,), (TANGENT,))
            return value, along, jax.grad(scalar, (0, 1, 2))(q, k, v)

        return jax.jit(all)(Q, K, V)

    weights = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", Q, K) / 8**0.5)
    close(both("chunked")[0], jnp.einsum("bhqk,bkhc->bqhc", weights, V))
    close(both("chunked"), both(None))


def test_heads_in_turn_keep_no_scores():
    def kept(kernel):
        wide = jax.ShapeDtypeStruct((2, 64, 4, 8), jnp.float32)
        vjp = jax.eval_shape(lambda *x: jax.vjp(lambda *x: attended(*x, kernel), *x)[1], wide, wide, wide)
        return max(leaf.size for leaf in jax.tree.leaves(vjp))

    assert kept("chunked") == 2 * 64 * 4 * 8 < 2 * 4 * 64**2 <= kept("xla")


@pytest.mark.parametrize(
    ("platform", "places", "dtype", "kernel"),
    [
        ("cpu", 128, jnp.float32, "chunked"),
        ("cpu", 64, jnp.float32, "xla"),
        ("cpu", 128, jnp.bfloat16, "xla"),
        ("gpu", 64, jnp.bfloat16, "cudnn"),
        ("gpu", 64, jnp.float32, "xla"),
        ("tpu", 256, jnp.bfloat16, "flash"),
        ("tpu", 64, jnp.bfloat16, "xla"),
        ("rocm", 64, jnp.float32, "xla"),
    ],
)
def test_each_platform_has_its_kernel(monkeypatch, platform, places, dtype, kernel):
    q = jax.ShapeDtypeStruct((2, places, 4, 64), dtype)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert attention._best(q) == kernel
    # What a step is traced for counts, and not what it is traced on.
    mesh = types.SimpleNamespace(abstract_device=types.SimpleNamespace(platform=platform))
    monkeypatch.setattr(jax, "default_backend", lambda: "elsewhere")
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)
    assert attention._best(q) == kernel


def test_the_kernel_for_tpus_is_lowered_for_them_and_not_for_odd_numbers():
    model = DiffusionTransformer(1, 128, 1, 1, attention="flash")
    x, t = jax.ShapeDtypeStruct((2, 8, 16, 1), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    params = jax.eval_shape(model.clone(attention=None).init, jax.random.key(0), x, t)
    lowered = jax.jit(model.apply).trace(params, x, t).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()
    with pytest.raises(ValueError, match="multiples of 128 places, got 6; use attention='best'"):
        attended(Q, K, V, "flash")
    with pytest.raises(ValueError, match="attention must be one of 'xla'"):
        attended(Q, K, V, "splash")


def test_a_kernel_without_a_derivative_in_forward_mode_is_said_so_before_anything_is_compiled():
    q = jax.ShapeDtypeStruct((1, 128, 1, 64), jnp.bfloat16)

    def tangent(kernel):
        return lambda q: forward(lambda q: attended(q, q, q, kernel), (q,), (q,))

    with pytest.raises(TypeError, match="nor by flash"):
        jax.eval_shape(tangent("flash"), q)
    value, along = jax.eval_shape(tangent("chunked"), q)
    assert value.shape == along.shape == q.shape
