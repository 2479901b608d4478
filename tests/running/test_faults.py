"""Faults of processes and trainers. Each row says what was done and what must hold; one test runs them all.

The table: pytest tests/running/test_faults.py --collect-only -q -n 0 -m "slow or not slow"
Those of files and of the checkpoints themselves are in `test_checkpoint_faults`.
"""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import distributed_worker as spread
import jax
import jax.numpy as jnp
import kill_worker
import numpy as np
import optax
import pytest
import training_worker as worker
from oracles import assert_same_bits
from training_worker import SMALL, spawn, wait_for

from experiments import quickstart
from experiments.train import __main__ as trainer
from jaxdiff.learning.training import init_state, make_train_step, train
from jaxdiff.running.checkpoints import Checkpoints, restore
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel

FAULTS = []
LIKE = jax.eval_shape(worker.start)


def fault(done, holds, *arguments, slow=False):
    """A row: what was done, what must hold, and what it is checked with beside an empty directory."""

    def add(check):
        row = functools.partial(check, **dict(arguments))
        FAULTS.append(pytest.param(row, id=f"{done}: {holds}", marks=[pytest.mark.slow] * slow))
        return check

    return add


# --- a run in this process, over simulated devices, with a feed ---


@functools.cache
def step_of(devices, fully_sharded):
    layout = Layout(data_mesh(jax.devices()[:devices]), fully_sharded)
    plain = make_train_step(spread.loss, spread.OPTIMIZER, ema_decay=0.9)
    return layout, data_parallel(plain, layout)


def rows_of_step(step):
    return spread.ROWS[step]


def as_they_come(key, rows):
    return rows


def run(
    directory, rows=rows_of_step, *, num_steps=40, devices=8, fully_sharded=False, change=lambda state: state, **options
):  # fmt: skip
    """The run's state at its end, from what the directory holds."""
    layout, step = step_of(devices, fully_sharded)
    with Checkpoints(directory, config={}) as checkpoints:
        restored = checkpoints.restore(layout.like(spread.start))
        state = train(
            layout.place(jax.random.key(0)),
            change(layout.create(spread.start) if restored is None else restored.state),
            step, as_they_come, num_steps=num_steps, feed=layout.feed(rows), steps_per_dispatch=4,
            save=checkpoints.save, save_every=8, **options,
        )  # fmt: skip
    return jax.device_get(state)


def newest(directory):
    return restore(directory, jax.eval_shape(spread.start)).state


@functools.cache
def whole_run():
    layout, step = step_of(8, False)
    feed = layout.feed(rows_of_step)
    state = train(
        layout.place(jax.random.key(0)), layout.create(spread.start), step, as_they_come, num_steps=40, feed=feed,
        steps_per_dispatch=4,
    )  # fmt: skip
    return jax.device_get(state)


def assert_goes_on(directory):
    """The next run ends as one that nothing has happened to."""
    assert_same_bits(run(directory), whole_run())
    assert_same_bits(newest(directory), whole_run())


@fault("a feed ends at step 22 of 40", "the steps are named, 20 are saved, a longer feed goes on, same bits",
       ("error", StopIteration()), ("raised", ValueError), ("words", "has no rows of steps 20 to 23"))  # fmt: skip
@fault("a feed fails at step 22 of 40", "its error is passed on, 20 steps are saved, it goes on, same bits",
       ("error", OSError("disk gone")), ("raised", OSError), ("words", "disk gone"))  # fmt: skip
def the_feed_stops(directory, error, raised, words):
    def feed(step):
        if step == 22:
            raise error
        return spread.ROWS[step]

    with pytest.raises(raised, match=words):
        run(directory, feed)
    assert newest(directory).step == 20
    assert_goes_on(directory)


@fault("a row of one of eight devices is NaN", "the step is named, the save before is whole, same bits")
def nan_row(directory):
    def feed(step):
        rows = spread.ROWS[step].copy()
        rows[11, 1] = np.nan if step == 18 else rows[11, 1]
        return rows

    with pytest.raises(FloatingPointError, match="Step 18 has loss nan"):
        run(directory, feed)
    assert newest(directory).step == 16
    assert_goes_on(directory)


@fault(
    "the parameters of one of eight devices turn NaN", "the step is named, nothing of it is saved, same bits"
)
def nan_copy(directory):
    run(directory, stop=lambda step: step == 16)

    def damaged(leaf):
        copies = [shard.data for shard in leaf.addressable_shards]
        copies[5] = copies[5].at[0].set(jnp.nan)
        return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, copies)

    with pytest.raises(FloatingPointError, match="Step 16 has loss nan"):
        run(directory, change=lambda state: state._replace(params=jax.tree.map(damaged, state.params)))
    assert newest(directory).step == 16
    assert_goes_on(directory)


@fault("a learning rate of 1e30", "the step and what to do are named, what was good is saved")
def diverges(directory):
    optimizer = optax.sgd(lambda step: jnp.where(step < 10, 1e-2, 1e30))
    step = make_train_step(worker.loss, optimizer, ema_decay=None)

    def start():
        return init_state(worker.PARAMS, optimizer, ema_decay=None)

    with (
        Checkpoints(directory, config={}) as checkpoints,
        pytest.raises(
            FloatingPointError, match=r"Step 11 has loss .* with a smaller learning rate or clipped"
        ),
    ):
        train(
            worker.KEY, start(), step, worker.draw, num_steps=60, steps_per_dispatch=5, save=checkpoints.save, save_every=5
        )  # fmt: skip
    assert restore(directory, jax.eval_shape(start)).state.step == 10


@fault("saved on eight devices, gone on with on one", "the state restored is the same bits",
       ("devices", 1), ("fully_sharded", False))  # fmt: skip
@fault("saved on eight devices, gone on with on two, fully sharded", "the state restored is the same bits",
       ("devices", 2), ("fully_sharded", True))  # fmt: skip
def other_devices(directory, devices, fully_sharded):
    saved = run(directory, stop=lambda step: step == 20)
    seen = []
    state = run(
        directory, devices=devices, fully_sharded=fully_sharded, change=lambda state: seen.append(jax.device_get(state)) or state
    )  # fmt: skip
    assert_same_bits(seen[0], saved)
    for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole_run().params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@fault("x64 enabled over a run of float32", "the same bits in float32, and no float64 is made of it")
def x64(directory):
    saved = run(directory, stop=lambda step: step == 20)
    like = jax.eval_shape(spread.start)
    with jax.enable_x64(True):
        assert_same_bits(restore(directory, like).state, saved)
        with pytest.raises(ValueError, match=r"params/in: got float32\[3, 8\], wanted float64\[3, 8\]"):
            restore(directory, jax.eval_shape(spread.start))


@fault("the clock is set back by a day, twice", "the newest is the newest by its step, same bits")
def clock_set_back(directory):
    with pytest.MonkeyPatch.context() as patch:

        def report(step, metrics, rate):
            assert 0 < rate < np.inf
            if step in (12, 28):
                seconds, nanoseconds = time.time, time.time_ns
                patch.setattr(time, "time", lambda: seconds() - 86400)
                patch.setattr(time, "time_ns", lambda: nanoseconds() - 86400 * 10**9)

        run(directory, report=report, stop=lambda step: step == 36)
        assert newest(directory).step == 36
        assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == ["32", "36"]
        assert_goes_on(directory)


@fault(
    "the newest checkpoint is deleted under a run", "the run goes on and its next saves are whole, same bits"
)
def newest_deleted(directory):
    deleted = []

    def report(step, metrics, rate):
        steps = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
        if steps and not deleted:
            shutil.rmtree(directory / str(steps[-1]))
            deleted.append(steps[-1])

    assert_same_bits(run(directory, report=report), whole_run())
    assert deleted
    assert_same_bits(newest(directory), whole_run())


@fault("the newest checkpoint is deleted between two runs", "the next older one is restored, same bits")
def newest_deleted_between(directory):
    run(directory, stop=lambda step: step == 20)
    shutil.rmtree(directory / "20")
    seen = []
    run(directory, num_steps=16, change=lambda state: seen.append(int(state.step)) or state)
    assert seen == [16]
    assert_goes_on(directory)


@fault(
    "the whole directory is deleted under a run", "the run goes on and its next saves are whole, same bits"
)
def directory_deleted(directory):
    def report(step, metrics, rate):
        if step == 12:
            while not (directory / "8").exists():
                time.sleep(0.01)
            time.sleep(0.5)  # for the save to be over
            shutil.rmtree(directory)

    assert_same_bits(run(directory, report=report), whole_run())
    assert_same_bits(newest(directory), whole_run())


@fault("resumed with fewer steps than were done", "refused with both numbers, the run stays")
def fewer_steps(directory):
    run(directory)
    with pytest.raises(
        ValueError, match="num_steps=20 counts from the run's beginning, and 40 steps are done"
    ):
        run(directory, num_steps=20)
    assert_same_bits(newest(directory), whole_run())


# --- processes ---


@functools.cache
def whole_worker(num_steps=worker.NUM_STEPS):
    return jax.device_get(train(worker.KEY, worker.start(), worker.STEP, worker.draw, num_steps=num_steps))


def finish_worker(directory):
    """The next run of the worker, in this process."""
    with Checkpoints(directory, config=worker.CONFIG) as checkpoints:
        state = checkpoints.restore(LIKE).state
        return train(
            worker.KEY, state, worker.STEP, worker.draw, num_steps=worker.NUM_STEPS, save=checkpoints.save
        )


@fault("SIGKILL at five random moments", "same bits", ("kills", 5))
@fault("SIGKILL at twenty random moments", "some amid a save, same bits", ("kills", 20), slow=True)
def killed(directory, kills):
    with spawn(directory, str(kills), script=kill_worker.__file__) as process:
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    seen = [json.loads(line) for line in output.splitlines()]
    assert len(seen) == kills
    if kills == 20:
        assert sum(kill["saving"] for kill in seen) >= 3
        assert len({kill["step"] for kill in seen}) >= 5  # others let the run get on
    assert_same_bits(restore(directory, LIKE).state, whole_worker(kill_worker.num_steps(kills)))


def repeat(process, number=signal.SIGTERM):
    """A signal every 50 ms until the process has ended; its status."""
    for _ in range(1000):
        process.send_signal(number)
        try:
            return process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            pass
    raise AssertionError("it does not end")


@fault(
    "SIGTERM every 50 ms in training and saving", "status 75, quiet, the save is whole, same bits", slow=True
)
def terminated(directory):
    with spawn(directory) as process:
        wait_for(process, "step 10")
        assert repeat(process) == 75
        assert process.stderr.read() == ""
    assert 0 < int(restore(directory, LIKE).state.step) < worker.NUM_STEPS
    assert_worker_goes_on(directory)


@fault("SIGTERM while a feed hangs", "status 75 within seconds, all that was done is saved",
       ("signals", [signal.SIGTERM]), ("saved", 20))  # fmt: skip
@fault("SIGINT twice while a feed hangs", "leaves at once", ("signals", [signal.SIGINT] * 2), ("saved", None))
def feed_hangs(directory, signals, saved):
    with spawn(directory, "--hung") as process:
        wait_for(process, "step 15")  # said when step 20 is under way
        time.sleep(0.5)
        for number in signals:
            process.send_signal(number)
            time.sleep(0.1)  # or the second finds the first, and is none
        assert process.wait(timeout=10 if saved else 1) == 75
    if saved:
        assert restore(directory, LIKE).state.step == saved


@fault("SIGKILL amid a save", "the save before it is whole, and nothing is left of it after the next")
def killed_in_a_save(directory):
    with spawn(directory, "--large") as process:
        wait_for(process, "saving 2")
        deadline = time.monotonic() + 60
        while not list(directory.glob("2.*tmp*")) and time.monotonic() < deadline:
            time.sleep(0.001)
    assert process.returncode == -signal.SIGKILL
    assert list(directory.glob("2.*tmp*"))  # or the kill came too late to prove anything
    assert_large_goes_on(directory)


@fault("the disk is full", "status 1, the last of few lines says which step is whole, the next save is",
       ("mode", "--full"), ("goes_on", lambda directory: assert_large_goes_on(directory)))  # fmt: skip
@fault("the disk is full in training", "the same, and the run goes on, same bits", ("mode", "--full-disk"),
       ("goes_on", lambda directory: assert_worker_goes_on(directory)), slow=True)  # fmt: skip
def disk_full(directory, mode, goes_on):
    with spawn(directory, mode) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    *trace, message = errors.strip().splitlines()
    assert len(trace) < 40, errors
    assert message.startswith(f"OSError: A checkpoint could not be written in {directory}: is the disk full?")
    step = max(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    assert f"Step {step} is whole; make room, and go on. " in message
    goes_on(directory)


def assert_worker_goes_on(directory):
    assert_same_bits(finish_worker(directory), whole_worker())


def assert_large_goes_on(directory):
    like = worker.large(0)
    assert_same_bits(restore(directory, like).state, worker.large(1))
    with Checkpoints(directory, config=worker.CONFIG) as checkpoints:
        checkpoints.save(worker.large(3))
    assert sorted(path.name for path in directory.iterdir()) == ["1", "3"]
    assert_same_bits(restore(directory, like).state, worker.large(3))


# --- the trainers' commands ---

TRAIN = ("experiments.train", "digits", *SMALL, "--steps", "120", "--save_every", "40")
QUICKSTART = ("experiments.quickstart", "--steps", "150")


def command(module, *arguments, directory):
    return spawn(directory, *arguments, "--resume", "--out", str(directory), module=module)


def holds_handlers(process):
    """Whether it has a handler of SIGTERM by now."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return caught >> (signal.SIGTERM - 1) & 1


@fault("SIGTERM to experiments.train before its imports", "status 75", ("arguments", TRAIN))
@fault("SIGTERM to experiments.quickstart before its imports", "status 75", ("arguments", QUICKSTART))
def terminated_at_the_start(directory, arguments):
    with command(*arguments, directory=directory) as process:
        deadline = time.monotonic() + 30
        while not holds_handlers(process) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert "jaxlib" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text()
        assert repeat(process) == 75
        assert process.stderr.read() == "Stopped by SIGTERM; go on with --resume.\n"
    assert not directory.exists()


@fault("SIGTERM every 50 ms in each phase of experiments.train", "status 75 each time, same bits",
       ("arguments", TRAIN), slow=True)  # fmt: skip
@fault("SIGTERM every 50 ms in each phase of experiments.quickstart", "status 75 each time, same bits",
       ("arguments", QUICKSTART), slow=True)  # fmt: skip
def terminated_in_each_phase(directory, arguments):
    for at in ("Compiling", "Compiling jit(_dispatch)", " left", "evaluating"):
        with command(*arguments, directory=directory / "cut") as process:
            wait_for(process, at, process.stderr)
            assert repeat(process) == 75
    with command(*arguments, directory=directory / "whole") as process:
        wait_for(process, "evaluating", process.stderr)
        process.terminate()
        assert process.wait() == 75
    one, other = (stored(directory / name / "checkpoints") for name in ("cut", "whole"))
    assert one["step"] == int(arguments[arguments.index("--steps") + 1])
    assert_same_bits(one, other)


def stored(directory):
    """The arrays of the newest checkpoint, whatever they are."""
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        path = directory / str(step) / "state"
        metadata = reader.metadata(path).item_metadata.tree
        return reader.restore(
            path,
            args=ocp.args.PyTreeRestore(
                restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), metadata)
            ),
        )


@fault("experiments.train with an output that cannot be written", "status 2, one line",
       ("main", trainer.command_line), ("flags", ("digits", *SMALL)))  # fmt: skip
@fault("experiments.quickstart with an output that cannot be written", "status 2, one line",
       ("main", quickstart.command_line), ("flags", ()))  # fmt: skip
def read_only(directory, main, flags):
    if os.geteuid() == 0:  # root may write in any directory of a disk, but not here
        out = pathlib.Path("/proc/self/run")
    else:
        directory.mkdir(mode=0o500)
        out = directory / "run"
    assert_one_line(main, [*flags, "--out", str(out)], f"Checkpoints cannot be written in {out}/checkpoints")


@fault("experiments.train with a learning rate of 1e30", "status 2, one line names the step", slow=True)
def trainer_diverges(directory):
    flags = ["digits", *SMALL, "--learning_rate", "1e30", "--out", str(directory)]
    assert_one_line(trainer.command_line, flags, "Step 1 has loss nan and gradient norm nan")


def assert_one_line(main, flags, words):
    errors = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.stderr, "write", errors.append)
        with pytest.raises(SystemExit) as left:
            main(flags)
    assert left.value.code == 2
    assert words in errors[-1]
    assert errors[-1].count("\n") == 1


@pytest.mark.parametrize("check", FAULTS)
def test_after(check, tmp_path):
    check(tmp_path / "run")
