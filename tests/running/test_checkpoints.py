"""Checkpoints through the disk: bit for bit, and every way to be wrong; faults are in tables of their own."""

import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_worker as worker
from oracles import assert_same_bits

from jaxdiff.learning.training import TrainState, init_state, make_train_step, train
from jaxdiff.running.checkpoints import Checkpoints, restore, save

CONFIG = {"model": {"width": 8, "depth": 2}, "rate": 1e-2}
LIKE = jax.eval_shape(worker.start)


def small(step, value=1.0, width=4):
    """A state that costs nothing to make."""
    params = {
        "w": jnp.full((3, width), float(value)),
        "b": jnp.arange(width, dtype=jnp.float32),
        "table": jnp.asarray(np.sin(np.arange(1000)), jnp.float32),  # too large to be kept in the index
    }
    return init_state(params, optax.adam(1e-3), ema_decay=0.9)._replace(step=jnp.int32(step))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory with steps 1, 2 and 5; copy it before damaging it."""
    directory = tmp_path_factory.mktemp("run")
    with Checkpoints(directory, config=CONFIG, keep_latest=3) as checkpoints:
        for step, loss in ((1, 0.5), (2, 0.1), (5, 0.3)):
            checkpoints.save(small(step, value=step), {"loss": loss, "gradient_norm": 1.0})
    return directory


@pytest.fixture
def copy(run, tmp_path):
    return pathlib.Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def uninterrupted():
    return jax.device_get(
        train(worker.KEY, worker.start(), worker.STEP, worker.draw, num_steps=worker.NUM_STEPS)
    )


# What is read is what was written


def test_round_trip_keeps_bits_config_metrics_and_version(run):
    restored = restore(run, jax.eval_shape(lambda: small(0)), config=CONFIG)
    assert_same_bits(restored.state, small(5, value=5))
    assert restored.config == CONFIG
    assert restored.metrics == {"loss": 0.3, "gradient_norm": 1.0}
    assert isinstance(restored.version, str)
    assert restored.version


@pytest.mark.parametrize(("step", "got"), [("latest", 5), ("best", 2), (1, 1)])
def test_the_step_that_is_asked_for(run, step, got):
    assert_same_bits(restore(run, small(0), step=step).state, small(got, value=got))


def test_one_off_save_and_a_config_of_tuples(tmp_path):
    config = {"widths": (8, 8), "name": None}
    save(tmp_path, small(3), config=config)
    assert restore(tmp_path, small(0), config=config).config == {"widths": [8, 8], "name": None}
    with pytest.raises(FileNotFoundError, match="has the metric 'loss'; restore the latest"):
        restore(tmp_path, small(0), step="best")


def test_keys_and_low_precision_survive(tmp_path):
    state = TrainState(
        jnp.int32(1), {"h": jnp.arange(5, dtype=jnp.bfloat16) / 3}, None, {"key": jax.random.key(7)}
    )
    save(tmp_path, state, config={})
    got = restore(tmp_path, jax.eval_shape(lambda: state)).state
    np.testing.assert_array_equal(got.params["h"].astype(np.float32), state.params["h"].astype(np.float32))
    np.testing.assert_array_equal(jax.random.bits(got.opt_state["key"]), jax.random.bits(jax.random.key(7)))


def test_a_leaf_goes_where_its_sharding_says(run):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), jax.eval_shape(lambda: small(0))
    )
    got = restore(run, like).state
    assert {x.sharding for x in jax.tree.leaves(got)} == {sharding}
    assert_same_bits(got, small(5, value=5))


def test_the_latest_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, config={}, keep_latest=2, keep_best=1) as checkpoints:
        assert checkpoints.latest_step is None
        assert checkpoints.best_step is None
        assert checkpoints.restore(small(0)) is None
        for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 4.0)):
            checkpoints.save(small(step), {"loss": loss})
    with Checkpoints(
        tmp_path, config={}, keep_latest=2, keep_best=1
    ) as checkpoints:  # metrics come from disk
        for step, loss in ((5, 0.5), (6, 2.0), (7, 3.0), (8, 3.0)):
            checkpoints.save(small(step), {"loss": loss})
        assert (checkpoints.latest_step, checkpoints.best_step) == (8, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "7", "8"]


# Runs that are cut


@pytest.mark.parametrize("cut", [37])
def test_resuming_from_disk_repeats_the_uninterrupted_run(tmp_path, uninterrupted, cut):
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        train(worker.KEY, worker.start(), worker.STEP, worker.draw, num_steps=cut, save=checkpoints.save)
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        state = checkpoints.restore(LIKE).state
        assert int(state.step) == cut
        state = train(
            worker.KEY, state, worker.STEP, worker.draw, num_steps=worker.NUM_STEPS,
            save=checkpoints.save, save_every=10,
        )  # fmt: skip
    assert_same_bits(state, uninterrupted)
    assert_same_bits(restore(tmp_path, LIKE).state, uninterrupted)


def test_a_state_saved_in_the_background_may_be_donated(tmp_path):
    """Every save is followed at once by steps that donate what is being written."""
    want = {}

    def keep(state, means):
        want[int(state.step)] = jax.tree.map(np.array, jax.device_get(state))
        checkpoints.save(state, means)

    with Checkpoints(tmp_path, config={}, keep_latest=5) as checkpoints:
        train(
            worker.KEY, worker.start(), worker.STEP, worker.draw, num_steps=50, steps_per_dispatch=10,
            save=keep, save_every=10,
        )  # fmt: skip
    for step in (10, 30, 50):
        assert_same_bits(restore(tmp_path, LIKE, step=step).state, want[step])


def test_the_last_good_checkpoint_survives_a_nan(tmp_path):
    def bad_after_25(params, key, batch):
        return worker.loss(params, key, batch) * jnp.where(params["count"] >= 25, jnp.nan, 1.0)

    optimizer = optax.sgd(1.0)

    def loss(params, key, batch):  # the gradient of count is -1, so that count is the step
        return bad_after_25(params, key, batch) - (params["count"] - jax.lax.stop_gradient(params["count"]))

    params = {**worker.PARAMS, "count": jnp.zeros(())}
    state = init_state(params, optimizer, ema_decay=None)
    with (
        Checkpoints(tmp_path, config={}) as checkpoints,
        pytest.raises(FloatingPointError, match="Step 25 has loss nan"),
    ):
        train(
            worker.KEY, state, make_train_step(loss, optimizer, ema_decay=None), worker.draw,
            num_steps=100, steps_per_dispatch=10, save=checkpoints.save, save_every=10,
        )  # fmt: skip
    restored = restore(tmp_path, jax.eval_shape(lambda: init_state(params, optimizer, ema_decay=None)))
    assert int(restored.state.step) == 20
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(restored.state)))


# Errors, before any work


def test_a_checkpoint_of_another_model_names_the_leaves(run, capfd):
    with pytest.raises(ValueError, match="is of another model; they differ in 4 places") as error:
        restore(run, small(0, width=5)._replace(opt_state=small(0).opt_state))
    text = str(error.value)
    assert "  params/w: got float32[3, 4], wanted float32[3, 5]\n" in text
    assert "  ema_params/b: got float32[4], wanted float32[5]\n" in text
    assert "opt_state" not in text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s._replace(ema_params=None), "ema_params/w: got float32[3, 4], wanted nothing"),
        (lambda s: s._replace(step=np.float32(0)), "step: got int32[], wanted float32[]"),  # Orbax would cast
        (
            lambda s: s._replace(params={**s.params, "c": jnp.zeros(2)}),
            "params/c: got nothing, wanted float32[2]",
        ),
        (lambda s: s._replace(opt_state=()), "opt_state/0/mu/w: got float32[3, 4], wanted nothing"),
    ],
)
def test_a_difference_in_one_place_is_named(run, change, line):
    with pytest.raises(ValueError, match="another model") as error:
        restore(run, change(small(0)))
    assert f"  {line}\n" in str(error.value)


def test_a_checkpoint_of_another_config_names_the_fields(run):
    other = {"model": {"width": 16, "depth": 2, "dropout": 0.1}}
    lines = [
        "  model.width: got 8, wanted 16\n",
        "  model.dropout: got nothing, wanted 0.1\n",
        "  rate: got 0.01, wanted nothing\n",
    ]
    for attempt in (lambda: restore(run, small(0), config=other), lambda: Checkpoints(run, config=other)):
        with pytest.raises(ValueError, match="is of another config; they differ in 3 places") as error:
            attempt()
        assert all(line in str(error.value) for line in lines)
        assert "depth" not in str(error.value)


def test_missing_things_are_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere to restore from"):
        restore(tmp_path / "nowhere", small(0))
    with pytest.raises(
        FileNotFoundError, match=r"holds no checkpoint: looked for subdirectories named by a step"
    ):
        restore(tmp_path, small(0))
    with pytest.raises(FileNotFoundError, match=r"holds no step 4; it holds 1, 2, 5"):
        restore(run, small(0), step=4)
    with pytest.raises(ValueError, match="step must be one of 'latest', 'best'; got 'newest'"):
        restore(run, small(0), step="newest")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_a_directory(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match=r"file is a file; wanted the directory of a run"):
        restore(file, small(0))
    for path in (file, file / "below"):
        with pytest.raises(NotADirectoryError, match="file is a file; checkpoints want a directory"):
            Checkpoints(path, config={})


def test_an_unwritable_directory_is_found_at_once(tmp_path):
    if os.geteuid() == 0:  # root may write in any directory of a disk, but not here
        directory = pathlib.Path("/proc/self/checkpoints")
    else:
        directory = tmp_path / "locked"
        directory.mkdir(mode=0o500)
    with pytest.raises(OSError, match=r"Checkpoints cannot be written in .*Choose another one"):
        Checkpoints(directory, config={})


def test_an_address_is_not_a_directory():
    with pytest.raises(ValueError, match="is an address; wanted a directory"):
        Checkpoints("gs://bucket/run", config={})


@pytest.mark.parametrize("config", [{"f": print}, {"x": float("nan")}, {"a": np.zeros(2)}])
def test_a_config_must_be_json(tmp_path, config):
    with pytest.raises(TypeError, match="config must be a dict of what JSON can hold"):
        Checkpoints(tmp_path / "new", config=config)
    assert not (tmp_path / "new").exists()


def test_a_step_of_another_history_is_refused(copy):
    with Checkpoints(copy, config=CONFIG) as checkpoints:
        for step in (3, 5):
            with pytest.raises(ValueError, match=f"already holds step 5, and step {step} was to be saved"):
                checkpoints.save(small(step))


@pytest.mark.parametrize("metrics", [{"loss": float("nan")}, {"accuracy": 1.0}])
def test_metrics_must_rank(tmp_path, metrics):
    with (
        Checkpoints(tmp_path, config={}) as checkpoints,
        pytest.raises(ValueError, match="metrics must hold a finite 'loss'"),
    ):
        checkpoints.save(small(1), metrics)


def test_nothing_is_printed_by_a_normal_run(tmp_path, capfd):
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        checkpoints.save(small(1), {"loss": 1.0})
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        checkpoints.restore(small(0))
    restore(tmp_path, small(0))
    assert capfd.readouterr() == ("", "")
    assert json.loads((tmp_path / "1" / "about" / "metadata").read_text())["config"] == CONFIG
