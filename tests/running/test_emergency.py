"""States on a disk of one's own: bits come back, the newest that all have, and damage is said."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.learning.training import init_state
from jaxdiff.running.emergency import EmergencyCheckpoints
from jaxdiff.running.parallel import Layout, data_mesh


def start():
    w = jax.random.normal(jax.random.key(0), (64, 128))
    return init_state({"w": w, "b": jnp.ones(3)}, optax.adam(0.1), ema_decay=(0.9, 0.99))


@pytest.fixture
def layout():
    return Layout(data_mesh(), fully_sharded=True)


def at(state, step):
    return state._replace(
        step=jnp.full_like(state.step, step), params=jax.tree.map(lambda p: p + step, state.params)
    )


def test_the_newest_state_comes_back_where_it_lay_if_it_is_newer(tmp_path, layout):
    state = layout.create(start)
    with EmergencyCheckpoints(tmp_path, config={"run": 1}) as local:
        assert local.restore(layout.like(start)) is None
        for step in (5, 10, 15):
            local.save(at(state, step))
    with EmergencyCheckpoints(tmp_path, config={"run": 1}) as local:
        assert local.restore(layout.like(start), after=15) is None
        restored = local.restore(layout.like(start), after=14)
        assert restored.config == {"run": 1}
        for got, wanted in zip(jax.tree.leaves(restored.state), jax.tree.leaves(at(state, 15)), strict=True):
            assert got.sharding == wanted.sharding or got.ndim == 0
            np.testing.assert_array_equal(got, wanted)
        assert sorted(path.name for path in local.directory.iterdir()) == ["10", "15"]
        local.save(at(state, 12))  # of a run that went on from an earlier checkpoint
        assert int(local.restore(layout.like(start)).state.step) == 12
    with pytest.raises(ValueError, match="run: got 1, wanted 2"):
        EmergencyCheckpoints(tmp_path, config={"run": 2})


def test_a_state_that_cannot_be_read_is_said_and_left(tmp_path, layout):
    """As is one of devices that others have taken the place of: their parts are not on this disk."""
    with EmergencyCheckpoints(tmp_path, config={}) as local:
        local.save(at(layout.create(start), 5))
        with pytest.raises(ValueError, match="another model"):
            local.restore({"w": jnp.ones(3)})
        for file in (local.directory / "5" / "state").rglob("*"):
            if file.is_file() and file.stat().st_size > 10_000:
                file.unlink()
        with pytest.warns(UserWarning, match="5 is not gone on from"):
            assert local.restore(layout.like(start)) is None
