"""Where the arrays of a training state lie on eight devices."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff.running.parallel import Layout, data_mesh


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
