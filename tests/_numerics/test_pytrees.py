"""What of an object is data and what is part of the program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff._numerics.constants import folded, number
from jaxdiff._numerics.pytrees import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Thing:
    a: object
    b: object = 2.0


def test_arrays_are_leaves_and_numbers_are_not():
    assert jax.tree.leaves(Thing(1.0)) == []
    assert jax.tree.leaves(Thing((1.0, "x"), max)) == []
    assert len(jax.tree.leaves(Thing(jnp.ones(2), np.float32(3.0)))) == 2
    assert len(jax.tree.leaves(Thing({"w": jnp.ones(2)}, Thing(jnp.zeros(()))))) == 2
    named = jax.tree_util.tree_flatten_with_path(Thing(1.0, jnp.ones(())))[0]
    assert jax.tree_util.keystr(named[0][0]) == ".b"


def test_numbers_are_known_inside_jit_and_another_is_another_program():
    traces = []

    @jax.jit
    def run(thing):
        traces.append(number(thing.b))
        return thing.a * thing.b

    assert run(Thing(jnp.asarray(3.0))) == 6
    assert run(Thing(jnp.asarray(4.0))) == 8
    assert run(Thing(jnp.asarray(3.0), 5.0)) == 15
    assert run(Thing(jnp.asarray(3.0), jnp.asarray(5.0))) == 15
    assert traces == [2.0, 5.0, None]


def test_what_is_rebuilt_around_other_leaves_keeps_its_structure():
    """JAX puts placeholders, numbers and None where arrays were, and takes the result apart again."""
    thing = Thing(jnp.arange(3.0), jnp.asarray(1.0))
    axes = jax.tree.unflatten(jax.tree.structure(thing), [0, None])
    np.testing.assert_array_equal(jax.vmap(lambda t: t.a + t.b, in_axes=(axes,))(thing), [1, 2, 3])
    numbers = jax.tree.map(lambda leaf: leaf.ndim, thing)
    assert jax.tree.structure(numbers) == jax.tree.structure(thing)
    gradient = jax.grad(lambda t: (t.a * t.b).sum())(thing)
    np.testing.assert_array_equal(gradient.a, [1, 1, 1])
    # A replaced field is looked at anew.
    assert jax.tree.leaves(dataclasses.replace(axes, a=1.0, b=2.0)) == []


def test_rebuilding_is_not_construction():
    @pytree
    @dataclasses.dataclass(frozen=True)
    class Checked:
        value: object

        def __post_init__(self):
            assert self.value is not None

    doubled = jax.tree.map(lambda leaf: 2 * leaf, Checked(jnp.ones(2)))
    np.testing.assert_array_equal(doubled.value, [2, 2])
    jax.tree.map(lambda leaf: None, Checked(jnp.ones(2)))
    with pytest.raises(AssertionError):
        Checked(None)


def test_folded_functions_answer_at_once_where_all_is_known():
    @folded
    def total(thing, scale):
        return scale * jnp.sum(thing.a)

    thing = Thing(jnp.ones(3))  # outside: what is made while jit traces is not known

    @jax.jit
    def run(x):
        known, traced = total(thing, 2.0), total(Thing(x), 2.0)
        assert not isinstance(known, jax.core.Tracer)
        assert isinstance(traced, jax.core.Tracer)
        return known + traced

    assert run(jnp.ones(3)) == 12
    assert total(Thing(jnp.ones(3)), scale=2.0) == 6


def test_compiled_functions_are_compiled_once_and_leave_no_tracers_behind():
    """Inside a training step the network closes over traced dropout keys, and the losses must let go of them."""
    from jaxdiff.denoising.network import make_denoiser
    from jaxdiff.learning.losses import denoising_loss
    from jaxdiff.noising.schedules import Karras

    def loss(params, key, data):
        def predict(params, x, t):
            return params * x * jax.random.bernoulli(key, 0.5, x.shape)

        return denoising_loss(key, make_denoiser(predict, params, Karras(), shape=(2,)), data).mean()

    with jax.checking_leaks():
        value = jax.jit(jax.grad(loss))(jnp.ones(()), jax.random.key(0), jnp.ones((8, 2)))
    assert np.isfinite(value)
