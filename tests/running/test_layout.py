"""Where the arrays of a training state lie on eight devices, and what a step sends between them."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxdiff._numerics.shards import spread
from jaxdiff.learning.training import init_state, make_train_step
from jaxdiff.models import DiffusionTransformer, UNet
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel
from jaxdiff.running.programs import collectives

TRANSFORMER = DiffusionTransformer(patch_size=4, width=64, num_blocks=1, num_heads=2)
KEY, OPTIMIZER = jax.random.key(0), optax.sgd(1.0)
IMAGES = jax.random.normal(KEY, (512, 8, 8, 1))


def loss(params, key, batch):
    return ((TRANSFORMER.apply(params, batch, jnp.ones(len(batch))) - 1) ** 2).mean()


STEP = make_train_step(loss, OPTIMIZER, ema_decay=0.9)


def start():
    params = TRANSFORMER.init(KEY, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    noisy = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), params
    )  # it begins at zero
    return init_state(noisy, OPTIMIZER, ema_decay=0.9)


@functools.cache
def compiled(**axes):
    """A step of a fully sharded layout of eight devices, and the layout."""
    layout = Layout(data_mesh(jax.devices(), **axes), fully_sharded=True)
    batch = jax.ShapeDtypeStruct(IMAGES.shape, jnp.float32, sharding=layout.by_rows)
    step = jax.jit(data_parallel(STEP, layout)).lower(layout.place(KEY), layout.like(start), batch)
    return step.compile(), layout


def test_a_fully_sharded_step_sends_weights_and_their_gradients_and_nothing_of_the_batch():
    """Left to the compiler, the rows of the conditioning were spread by their features, and sent twice."""
    found = {c.kind: c for c in collectives(compiled()[0].as_text())}
    sizes = [4 * leaf.size for leaf in jax.tree.leaves(jax.eval_shape(start).params)]
    assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert found["all-gather"].largest <= max(sizes) < 4 * len(IMAGES) * 64
    assert found["all-gather"].bytes <= 2 * sum(sizes)  # forward and backward
    assert found["all-reduce"].bytes < 1.01 * sum(sizes)


@pytest.mark.slow
def test_slices_data_and_model_axes_compute_what_one_device_does():
    step, layout = compiled(slices=2, model=2)
    assert layout.mesh.axis_names == ("slice", "data", "model")
    state, metrics = step(layout.place(KEY), layout.create(start), layout.place_rows(IMAGES))
    one, expected = jax.jit(STEP)(KEY, start(), IMAGES)
    np.testing.assert_allclose(metrics.loss, expected.loss, rtol=1e-5)
    for got, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    # Nothing is computed twice, though two devices see each row; and of a state each has a quarter.
    work, alone = (c.cost_analysis()["flops"] for c in (step, compiled()[0]))
    assert work < 1.1 * alone
    shares = [leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(state.params)]
    assert sorted(set(shares)) == [1 / 4, 1]


@pytest.mark.slow
def test_a_fully_sharded_u_net_sends_each_weight_once_and_makes_the_step_of_one_device():
    """Left to the compiler, kernels were sent for the derivatives too, by that of TPUs with parts of images."""
    network = UNet(16, (1, 2), 1)

    def loss(params, key, batch):
        return ((network.apply(params, batch, jnp.ones(len(batch)), train=True) - 1) ** 2).mean()

    def start():
        params = network.init(KEY, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
        noisy = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), params)
        return init_state(noisy, OPTIMIZER, ema_decay=0.9)

    step = make_train_step(loss, OPTIMIZER, ema_decay=0.9)
    layout = Layout(data_mesh(jax.devices()), fully_sharded=True)
    given = layout.place(KEY), layout.create(start), layout.place_rows(IMAGES[:64])
    run = jax.jit(data_parallel(step, layout)).lower(*given).compile()
    found = {c.kind: c for c in collectives(run.as_text())}
    assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert found["all-gather"].bytes < sum(4 * leaf.size for leaf in jax.tree.leaves(given[1].params))
    state, metrics = run(*given)
    one, expected = jax.jit(step)(KEY, start(), IMAGES[:64])
    np.testing.assert_allclose(metrics.loss, expected.loss, rtol=1e-5)
    for got, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


def test_heads_and_hidden_units_are_parts_of_one_answer():
    """The same in seconds, without a gradient: of two devices that share rows each makes half of them."""
    layout = Layout(data_mesh(jax.devices()[:4], model=2), fully_sharded=True)

    def scalar(key, state, batch):
        return state, loss(state.params, key, batch)

    state, batch = start(), IMAGES[:8]
    placed = layout.place(KEY), jax.device_put(state, layout.shardings(state)), layout.place_rows(batch)
    run = jax.jit(lambda *given: data_parallel(scalar, layout)(*given)[1]).lower(*placed).compile()
    np.testing.assert_allclose(run(*placed), scalar(KEY, state, batch)[1], rtol=1e-5)
    # Of the 16 patches of a device's rows the two exchange two sums, and neither heads nor hidden units.
    sent = re.findall(r"= (f32\[16,\S*?\])\S* (?:all|reduce|collective)-", run.as_text())
    assert sent == ["f32[16,64]", "f32[16,64]"]


def test_a_mesh_has_the_axes_that_are_asked_for():
    devices = jax.devices()
    assert data_mesh(devices).axis_names == ("data",)
    assert dict(data_mesh(devices, slices=2).shape) == {"slice": 2, "data": 4}
    assert dict(data_mesh(devices, model=4).shape) == {"data": 2, "model": 4}
    # Neighbours share rows, and a slice is a part of the list.
    assert data_mesh(devices, slices=2, model=2).devices.ravel().tolist() == devices
    layout = Layout(data_mesh(devices, slices=2, model=2), fully_sharded=True)
    assert layout.by_rows.spec == PartitionSpec(("slice", "data"))
    made = layout.shardings(
        {"wide": jnp.zeros((64, 256)), "odd": jnp.zeros((63, 256)), "bias": jnp.zeros(256)}
    )
    specs = {name: where.spec for name, where in made.items()}
    assert specs == {
        "wide": PartitionSpec("data", "model"), "odd": PartitionSpec(None, "model"), "bias": PartitionSpec()
    }  # fmt: skip
    layout = Layout(layout.mesh)
    assert layout.shardings(jnp.zeros((64, 256))).spec == PartitionSpec(None, "model")
    rows = layout.feed(lambda step: np.arange(8.0))(0, 3)
    assert rows.shape == (3, 8)
    assert rows.addressable_shards[0].data.shape == (3, 2)
    with pytest.raises(ValueError, match="of 3 slices, got slices = 2; say 3"):
        data_mesh([types.SimpleNamespace(slice_index=i % 3) for i in range(6)], slices=2)


def test_activations_are_spread_in_a_step_and_left_alone_elsewhere():
    x = jnp.ones((16, 3))
    assert spread(x) is x
    assert "sharding_constraint" not in str(jax.make_jaxpr(spread)(x))
    with jax.sharding.use_abstract_mesh(data_mesh(jax.devices()).abstract_mesh):
        assert "sharding_constraint" in str(jax.make_jaxpr(spread)(x))
        assert "sharding_constraint" not in str(jax.make_jaxpr(spread)(x[:9]))  # which eight do not divide
        assert spread(x) is x


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((16, 4096), 1),
        ((4096, 16), 0),
        ((7, 1000, 24), 1),  # the longest of those that eight divides
        ((9, 11, 480), 2),
        ((8, 8), None),  # small
        ((4097, 3), None),  # not divided
    ],
)
def test_a_fully_sharded_array_is_spread_along_its_longest_axis(shape, axis):
    layout = Layout(data_mesh(jax.devices()[:8]), fully_sharded=True)
    made = layout.create(lambda: jnp.zeros(shape))
    share = tuple(n // 8 if i == axis else n for i, n in enumerate(shape))
    assert made.sharding.shard_shape(shape) == share
    assert Layout(layout.mesh).create(lambda: jnp.zeros(shape)).sharding.is_fully_replicated
