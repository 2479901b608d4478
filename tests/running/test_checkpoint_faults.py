"""What is done to a run's directory, and what must hold after it: a table of faults.

A fault that does not destroy the newest checkpoint leaves its bits; one that does leaves those of the one
before, and says in a line which file was damaged. In either case the run goes on.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_worker as worker
from oracles import assert_same_bits, few_of

from jaxdiff.learning.training import TrainState
from jaxdiff.running import directory as directories
from jaxdiff.running import stored, sums
from jaxdiff.running.checkpoints import Checkpoints, restore

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = {"rate": 1e-2}
LOSSES = {1: 0.5, 2: 0.1, 5: 0.3}  # by step: 2 is the best, 5 the newest


def state(step, arrays=2, size=1000):
    """Arrays too large for the index, which do not compress."""
    noise = np.random.default_rng(step).random((arrays, size), np.float32)
    params = {f"w{n}": jnp.asarray(row) for n, row in enumerate(noise)}
    return TrainState(jnp.int32(step), params, None, ())


LIKE = jax.eval_shape(lambda: state(0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    with Checkpoints(directory, config=CONFIG, keep_latest=3) as checkpoints:
        for step, loss in LOSSES.items():
            checkpoints.save(state(step), {"loss": loss})
    return directory


@pytest.fixture
def run(whole, tmp_path):
    """A copy, to be damaged."""
    return pathlib.Path(shutil.copytree(whole, tmp_path / "run"))


# What is done to files: each takes the run's directory


def files(run, pattern):
    found = sorted(path for path in run.glob(pattern) if path.is_file())
    assert found, pattern
    return found


def flip(path, position=None, bit=0):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1 << bit
    path.write_bytes(data)


def flipped(pattern):
    return lambda run: flip(max(files(run, pattern), key=lambda path: path.stat().st_size))


def cut(pattern, part=0.5):
    return lambda run: [os.truncate(path, int(part * path.stat().st_size)) for path in files(run, pattern)]


def deleted(pattern):
    return lambda run: [path.unlink() for path in files(run, pattern)]


def written(name, data):
    def write(run):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)

    return write


def copied(source, target):
    return lambda run: shutil.copyfile(run / source, run / target)


def removed(name):
    return lambda run: shutil.rmtree(run / name)


def made(name):
    return lambda run: (run / name).mkdir()


def exchanged(pattern):
    def exchange(run):
        first, *_, last = files(run, pattern)
        one, other = first.read_bytes(), last.read_bytes()
        first.write_bytes(other)
        last.write_bytes(one)

    return exchange


def all_of(*faults):
    return lambda run: [fault(run) for fault in faults]


def unsummed(fault):
    """Done to checkpoints of an older version."""
    return all_of(deleted(f"*/{sums.NAME}"), fault)


def aged(run):
    for place, step in enumerate((5, 2, 1)):  # the newest is the oldest now
        for path in [run / str(step), *(run / str(step)).rglob("*")]:
            os.utime(path, (1e6 * place, 1e6 * place))


ARRAYS = "state/ocdbt.process_0/d/*"
INDEX = "state/d/*"
# what was done: (how, the step that is restored, what the warnings say, the best step)
FAULTS = {
    # The newest is destroyed: the one before it is restored.
    "a bit of an array": (flipped(f"5/{ARRAYS}"), 2, [rf"5 is damaged \({ARRAYS[:-1]}\w+ is not what"], 2),
    "a bit of the index": (flipped(f"5/{INDEX}"), 2, [r"5 is damaged \(state/d/\w+ is not what"], 2),
    "a bit of the tree": (flipped("5/state/_METADATA"), 2, ["state/_METADATA is not what was written"], 2),
    "a bit of the config": (flipped("5/about/metadata"), 2, ["about/metadata is not what was written"], 2),
    "a better metric": (written("5/metrics/metrics", b'{"loss": 0.01}'), 2, ["metrics/metrics is not what"], 2),
    "another step's metric": (copied("1/metrics/metrics", "5/metrics/metrics"), 2, ["metrics/metrics is not"], 2),
    "another step's arrays": (exchanged(f"5/{ARRAYS}"), 2, [rf"{ARRAYS[:-1]}\w+ is not what"], 2),
    "arrays cut": (cut(f"5/{ARRAYS}"), 2, [rf"{ARRAYS[:-1]}\w+ is not what was written"], 2),
    "arrays emptied": (cut(f"5/{ARRAYS}", 0), 2, [rf"{ARRAYS[:-1]}\w+ is not what was written"], 2),
    "arrays deleted": (deleted(f"5/{ARRAYS}"), 2, [rf"{ARRAYS[:-1]}\w+ is missing"], 2),
    "a directory for arrays": (all_of(deleted(f"5/{INDEX}"), removed("5/state/d")), 2, [r"state/d/\w+ is missing"], 2),
    "index emptied": (cut("5/state/manifest.ocdbt", 0), 2, ["state/manifest.ocdbt is not what was written"], 2),
    "index deleted": (deleted("5/state/manifest.ocdbt"), 2, ["state/manifest.ocdbt is missing"], 2),
    "tree cut": (cut("5/state/_METADATA"), 2, ["state/_METADATA is not what was written"], 2),
    "config emptied": (cut("5/about/metadata", 0), 2, ["about/metadata is not what was written"], 2),
    "config deleted": (deleted("5/about/metadata"), 2, ["about/metadata is missing"], 2),
    "metric deleted": (deleted("5/metrics/metrics"), 2, ["metrics/metrics is missing"], 2),
    "Orbax's notes cut": (cut("5/_CHECKPOINT_METADATA"), 2, ["_CHECKPOINT_METADATA is not what was written"], 2),
    "the newest deleted": (removed("5"), 2, [], 2),
    "the newest emptied": (all_of(removed("5"), made("5")), 2, ["run/5 is damaged"], 2),
    "the sums of another step": (copied(f"2/{sums.NAME}", f"5/{sums.NAME}"), 2, ["run/5 is damaged"], 2),
    "two of three": (
        all_of(flipped(f"5/{ARRAYS}"), flipped(f"2/{ARRAYS}")), 1, ["run/5 is damaged", "run/2 is damaged"], 1,
    ),
    "arrays cut, no sums": (unsummed(cut(f"5/{ARRAYS}")), 2, ["run/5 is damaged"], 2),
    "index cut, no sums": (unsummed(cut(f"5/{INDEX}")), 2, ["run/5 is damaged"], 2),
    "tree cut, no sums": (unsummed(cut("5/state/_METADATA")), 2, ["run/5 is damaged"], 2),
    "config cut, no sums": (unsummed(cut("5/about/metadata")), 2, ["run/5 is damaged .JSONDecodeError"], 2),
    "metric cut, no sums": (unsummed(cut("5/metrics/metrics")), 2, ["run/5 is damaged .JSONDecodeError"], 2),
    # The newest is whole: its bits are restored.
    "no sums": (deleted(f"*/{sums.NAME}"), 5, [], 2),
    "sums flipped": (flipped(f"5/{sums.NAME}"), 5, [r"The sums of .*5 are damaged \(SHA256SUMS is not what"], 2),
    "sums cut": (cut(f"5/{sums.NAME}"), 5, ["The sums of .*5 are damaged"], 2),
    "sums emptied": (cut(f"5/{sums.NAME}", 0), 5, ["The sums of .*5 are damaged"], 2),
    "sums of no text": (written(f"5/{sums.NAME}", b"\xff\xfe"), 5, ["The sums of .*5 are damaged"], 2),
    "sums half written, by a kill": (
        all_of(deleted(f"5/{sums.NAME}"), written(f"5/{sums.NAME}.part", b"0123")), 5, [], 2,
    ),
    "an older one's arrays": (flipped(f"1/{ARRAYS}"), 5, [], 2),
    "the best one's arrays": (flipped(f"2/{ARRAYS}"), 5, [], 2),
    "a save cut by a kill": (all_of(made("7.orbax-checkpoint-tmp"), written("7.orbax-checkpoint-tmp/state", b"")), 5, [], 2),
    "files of others": (all_of(written("9", b""), written("notes/10/5", b""), written("5/note", b"")), 5, [], 2),
    "times of a clock set back": (aged, 5, [], 2),
    "a dead holder's lock": (written(directories.LOCK, b"process 1 on host gone"), 5, [], 2),
    "a lock that names nobody": (written(directories.LOCK, b"\xff"), 5, [], 2),
}  # fmt: skip


@contextlib.contextmanager
def hearing():
    """The warnings, each once, in order."""
    heard = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield heard
    heard.extend(dict.fromkeys(str(warning.message) for warning in caught))


def assert_says(heard, wanted):
    assert len(heard) == len(wanted), heard
    for line, pattern in zip(heard, wanted, strict=True):
        assert "\n" not in line
        assert re.search(pattern, line), (pattern, line)


@pytest.mark.parametrize("fault", few_of(FAULTS, list(FAULTS)[::2]))
def test_what_a_fault_leaves(run, capfd, fault):
    do, left, says, best = FAULTS[fault]
    do(run)
    with hearing() as heard:
        restored = restore(run, LIKE, config=CONFIG)
    assert_says(heard, says)
    assert_same_bits(restored.state, state(left))
    assert restored.metrics == {"loss": LOSSES[left]}
    with hearing() as heard, Checkpoints(run, config=CONFIG, keep_latest=3) as checkpoints:
        assert_same_bits(checkpoints.restore(LIKE).state, state(left))  # what a run goes on from
        assert checkpoints.best_step == best
        checkpoints.save(state(11), {"loss": 1.0})
    assert_says(heard, says)
    assert_same_bits(restore(run, LIKE).state, state(11))
    assert not (run / directories.LOCK).exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "number", [*range(8), *(pytest.param(number, marks=pytest.mark.slow) for number in range(8, 60))]
)
def test_no_flipped_bit_is_unnoticed(run, number):
    draw = random.Random(number)
    position, bit = draw.random(), draw.randrange(8)
    found = sorted(files(run, "5/**/*"), key=lambda path: -path.stat().st_size)
    path = found[number % len(found)]  # of each file in turn
    flip(path, int(position * path.stat().st_size), bit)
    name = path.relative_to(run / "5").as_posix()
    with hearing() as heard:
        got = restore(run, LIKE).state
    if name == sums.NAME:
        assert_says(heard, ["The sums of checkpoint .*/5 are damaged"])
        assert_same_bits(got, state(5))
    else:
        assert_says(
            heard, [rf"Checkpoint .*/5 is damaged \({name} is not what was written\); looking at the one"]
        )
        assert_same_bits(got, state(2))


@pytest.mark.parametrize(
    "error", [FileNotFoundError("run/1/state"), ValueError("No ArrayMetadata found for process_index=0")]
)
def test_a_directory_removed_amid_a_save_is_one_clear_error(tmp_path, monkeypatch, error):
    """Both are Orbax's answers, by the moment; which one comes is a race, so they are made here."""
    out = tmp_path / "run"

    def save(*args, **options):
        shutil.rmtree(out)
        raise error

    checkpoints = Checkpoints(out, config={})
    monkeypatch.setattr(checkpoints._manager, "save", save)
    with pytest.raises(
        OSError, match=r"written in .*run: was it removed\? None is there; keep it, and go on"
    ):
        checkpoints.save(state(1))
    monkeypatch.undo()
    checkpoints.close()


def test_a_damaged_best_is_named_and_does_not_rank(run):
    flipped(f"2/{ARRAYS}")(run)
    with pytest.raises(
        OSError, match=r"run/2 is damaged \(state/.* is not what .*; restore the latest, or .* 1, 2, 5"
    ):
        restore(run, LIKE, step="best")
    flipped("2/metrics/metrics")(run)
    with pytest.warns(UserWarning, match=r"run/2 is damaged \(metrics/metrics .*; it cannot be the best\."):
        assert_same_bits(restore(run, LIKE, step="best").state, state(5))


def test_all_damaged_is_an_error_that_moves_nothing(run):
    for step in LOSSES:
        flipped(f"{step}/{ARRAYS}")(run)
    names = sorted(run.rglob("*"))
    with hearing(), pytest.raises(OSError, match=r"No checkpoint in .*run can be read, of steps 5, 2, 1"):
        restore(run, LIKE)
    with (
        hearing(),
        Checkpoints(run, config=CONFIG) as checkpoints,
        pytest.raises(OSError, match=r"can be read.*Restore from a copy, or train anew in another directory"),
    ):
        checkpoints.restore(LIKE)
    assert sorted(run.rglob("*")) == names


def test_a_step_that_is_damaged_twice_is_set_aside_twice(run):
    for _ in range(2):
        flipped(f"5/{ARRAYS}")(run)
        with hearing(), Checkpoints(run, config=CONFIG, keep_latest=3) as checkpoints:
            assert_same_bits(checkpoints.restore(LIKE).state, state(2))
            checkpoints.save(state(5), {"loss": 0.3})
    assert {"5", "5.damaged", "5.damaged1"} <= {path.name for path in run.iterdir()}
    assert_same_bits(restore(run, LIKE).state, state(5))


def test_the_sums_are_those_that_sha256sum_checks(run):
    command = ["sha256sum", "--check", "--quiet", "--strict", sums.NAME]
    assert subprocess.run(command, cwd=run / "5", capture_output=True).returncode == 0
    listed = sums.read(run / "5")
    assert set(listed) == {path.relative_to(run / "5").as_posix() for path in files(run, "5/**/*")} - {
        sums.NAME
    }


def test_without_sums_none_are_written_or_compared_and_the_next_run_sums_again(run, tmp_path):
    with Checkpoints(tmp_path / "new", config=CONFIG, sums=False) as checkpoints:
        checkpoints.save(state(1))
    assert sums.read(tmp_path / "new/1") == {}
    with Checkpoints(tmp_path / "new", config=CONFIG) as checkpoints:
        assert_same_bits(checkpoints.restore(LIKE).state, state(1))
        checkpoints.save(state(2))
    assert sums.read(tmp_path / "new/2")
    flipped("5/state/commit_success.txt")(run)  # which nobody reads
    with Checkpoints(run, config=CONFIG, sums=False) as checkpoints:
        assert_same_bits(checkpoints.restore(LIKE).state, state(5))
    assert_same_bits(restore(run, LIKE, sums=False).state, state(5))


# Who writes


HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.truncate(0)
lock.write("process 12345 on host elsewhere")
lock.flush()
print("held", flush=True)
sys.stdin.read()
"""


PIPES = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "text": True,
    "env": {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
}


@contextlib.contextmanager
def started(*arguments, until):
    """A process that has printed a line."""
    with subprocess.Popen(arguments, **PIPES) as process:
        try:
            assert any(line.startswith(until) for line in process.stdout)
            yield process
        finally:
            process.kill()


def test_a_live_run_is_not_opened_and_a_dead_one_is(run):
    save = run / "7.orbax-checkpoint-tmp"
    save.mkdir()
    flipped("5/about/metadata")(run)  # which opening would set aside
    with started(sys.executable, "-c", HOLD, str(run / directories.LOCK), until="held") as holder:
        before = sorted(run.rglob("*"))
        message = (
            r"run is open for writing by process 12345 on host elsewhere: wait until it ends, stop it, or"
        )
        for config in (CONFIG, {"other": 1}):  # the lock is asked first
            with pytest.raises(BlockingIOError, match=message):
                Checkpoints(run, config=config)
        assert sorted(run.rglob("*")) == before
        with pytest.warns(UserWarning, match="5 is damaged"):  # reading needs no lock
            assert_same_bits(restore(run, LIKE).state, state(2))
        holder.kill()
        holder.wait()
    assert (run / directories.LOCK).exists()
    with hearing() as heard, Checkpoints(run, config=CONFIG) as checkpoints:
        assert f"process {os.getpid()} on host" in (run / directories.LOCK).read_text()
        checkpoints.save(state(7))
    assert_says(heard, ["5 is damaged"])
    assert not save.exists()
    assert not (run / directories.LOCK).exists()


@pytest.mark.slow
def test_a_live_trainer_keeps_its_directory_and_ends_on_its_bits(tmp_path):
    with started(sys.executable, worker.__file__, str(tmp_path), until="step 10") as trainer:
        with pytest.raises(BlockingIOError, match=f"open for writing by process {trainer.pid} on host"):
            Checkpoints(tmp_path, config=worker.CONFIG)
        trainer.send_signal(signal.SIGTERM)
        for _ in trainer.stdout:
            pass
        assert trainer.wait(timeout=60) == 75
    assert int(restore(tmp_path, jax.eval_shape(worker.start)).state.step) >= 10


def test_the_same_process_opens_a_directory_once_at_a_time(tmp_path):
    with Checkpoints(tmp_path, config=CONFIG) as first:
        with pytest.raises(
            BlockingIOError, match="is already open for writing in this process; close it first"
        ):
            Checkpoints(tmp_path, config=CONFIG)
        first.save(state(1))  # as if nothing had been
    with pytest.raises(ValueError, match="another config"):
        Checkpoints(tmp_path, config={"rate": 1.0})
    with Checkpoints(tmp_path, config=CONFIG) as second:  # which that one, failing, has not kept
        assert_same_bits(second.restore(LIKE).state, state(1))


FORK = """
import os, pathlib, signal, sys, time
from jaxdiff.running.directory import locked
with locked(pathlib.Path(sys.argv[1])):
    if os.fork():
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    print("child", flush=True)
    sys.stdin.read()
    os._exit(0)
"""


@pytest.mark.slow
def test_a_child_that_outlives_a_killed_run_does_not_keep_its_lock(tmp_path):
    with started(sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path), until="child") as parent:
        assert parent.wait(timeout=60) == -signal.SIGKILL
        with directories.locked(tmp_path):
            pass


def test_a_lock_that_its_holder_removes_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    lock, real, calls = tmp_path / directories.LOCK, fcntl.flock, []

    def removed_first(file, how):
        if not calls:
            lock.unlink()
        calls.append(how)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with directories.locked(tmp_path):
        assert len(calls) == 2
        with pytest.raises(BlockingIOError), directories.locked(tmp_path):
            pass
    assert not lock.exists()


def test_a_file_system_without_locks_is_named_once_and_written(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with hearing() as heard, Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        checkpoints.save(state(1))
    assert_says(
        heard, [r"cannot be locked \(.*not supported\): see to it that no other process writes there"]
    )
    assert_same_bits(restore(tmp_path, LIKE).state, state(1))


def test_of_several_processes_the_first_one_locks_and_all_are_refused(tmp_path, monkeypatch):
    refused = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(directories.multihost_utils, "broadcast_one_to_all", lambda _: bool(refused))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with directories.locked(tmp_path):
        assert list(tmp_path.iterdir()) == []
    refused.append("by process 0")
    with (
        pytest.raises(BlockingIOError, match="is held by another run, as process 0 says"),
        directories.locked(tmp_path),
    ):
        pass


def test_damage_that_one_process_finds_is_damage_to_all(run, monkeypatch):
    monkeypatch.setattr(stored.multihost_utils, "process_allgather", lambda mine: np.array([mine, True]))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with hearing() as heard, pytest.raises(OSError, match="No checkpoint"):
        restore(run, LIKE)
    assert_says(heard, 3 * ["is damaged .another process says which file"])


# What is done under a run


@pytest.fixture
def sums_wait(monkeypatch):
    """Sums that are written once this event is set."""
    event, write = threading.Event(), sums.write
    monkeypatch.setattr(sums, "write", lambda path: event.wait(10) and write(path))
    return event


def test_sums_hold_up_the_end_and_not_the_loop(tmp_path, sums_wait):
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        checkpoints.save(state(1))
        sums_wait.set()
    assert sums.read(tmp_path / "1")


@pytest.mark.parametrize("what", ["1", "2"], ids=["an older one", "the newest"])
def test_a_checkpoint_deleted_under_a_run_does_not_stop_it(tmp_path, what):
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state(step), {"loss": 1.0})
        assert checkpoints.best_step == 2  # once it is written
        shutil.rmtree(tmp_path / what)
        for step in (3, 4):
            checkpoints.save(state(step), {"loss": 2.0})
    assert_same_bits(restore(tmp_path, LIKE).state, state(4))


def test_a_directory_deleted_under_a_run_is_made_anew(tmp_path):
    run = tmp_path / "run"
    with Checkpoints(run, config=CONFIG) as checkpoints:
        checkpoints.save(state(1))
        assert checkpoints.best_step is None
        shutil.rmtree(run)
        checkpoints.save(state(2))
    assert_same_bits(restore(run, LIKE).state, state(2))


def test_a_save_deleted_before_its_sums_is_an_error(tmp_path, sums_wait):
    with Checkpoints(tmp_path, config=CONFIG, sums=False) as checkpoints:
        checkpoints.save(state(1))
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        checkpoints.save(state(2))
        while not (tmp_path / "2").exists():
            time.sleep(0.01)
        shutil.rmtree(tmp_path / "2")
        sums_wait.set()
        with pytest.raises(
            OSError, match=r"could not be written in .* was it removed\? Step 1 is whole; keep it, and go on"
        ):
            checkpoints.save(state(3))
        checkpoints.save(state(4))
    assert_same_bits(restore(tmp_path, LIKE).state, state(4))


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 100 kB, which to what writes it is the same."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def large(step):
    """Arrays whose writes fail together."""
    return state(step, arrays=50, size=50_000)


FULL = """
import sys
from test_checkpoint_faults import CONFIG, Checkpoints, full_disk, large
with Checkpoints(sys.argv[1], config=CONFIG) as checkpoints:
    checkpoints.save(large(1))
with full_disk(), Checkpoints(sys.argv[1], config=CONFIG) as checkpoints:
    checkpoints.save(large(2))
"""


def test_what_a_full_disk_says_last_is_what_to_do(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", FULL, tmp_path], **PIPES, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    *trace, message = errors.strip().splitlines()
    assert re.match(r"OSError: .* is the disk full\? Step 1 is whole; make room, and go on", message), errors
    assert len(trace) < 20, errors
    assert output == ""


@pytest.mark.slow
def test_a_run_goes_on_after_the_disk_was_full_and_hears_one_line(tmp_path, capfd):
    whole = r"is the disk full\? Step 1 is whole; make room, and go on. \(File too large\)$"
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        checkpoints.save(large(1), {"loss": 1.0})
        assert checkpoints.best_step == 1
        with full_disk():
            checkpoints.save(large(2), {"loss": 0.5})
            with pytest.raises(OSError, match=whole) as caught:
                checkpoints.save(large(3), {"loss": 0.5})
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        checkpoints.save(large(3), {"loss": 2.0})
    assert_same_bits(restore(tmp_path, jax.eval_shape(lambda: large(0))).state, large(3))
    with (
        full_disk(),
        pytest.raises(OSError, match=whole.replace("1", "3")),
        Checkpoints(tmp_path, config=CONFIG) as checkpoints,
    ):
        checkpoints.save(large(4))
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        assert_same_bits(checkpoints.restore(jax.eval_shape(lambda: large(0))).state, large(3))
        checkpoints.save(large(4))
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3", "4"}
    assert capfd.readouterr() == ("", "")


def test_a_clock_that_runs_backwards_changes_no_order(tmp_path, monkeypatch):
    now, clock, nanoseconds = [0.0], time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: clock() + now[0])
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + int(1e9 * now[0]))
    with Checkpoints(tmp_path, config=CONFIG) as checkpoints:
        for step in (1, 2, 3, 4):
            now[0] -= 86400.0
            checkpoints.save(state(step), {"loss": step})
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3", "4"}
    assert_same_bits(restore(tmp_path, LIKE).state, state(4))
    assert_same_bits(restore(tmp_path, LIKE, step="best").state, state(1))


@pytest.fixture
def read_only(run):
    """The run, on a file system that takes no writes."""
    if os.geteuid():
        paths = [run, *run.rglob("*")]
        for path in paths:
            path.chmod(path.stat().st_mode & 0o555)
        yield run
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)
        return
    mounts = [["mount", "--bind", str(run), str(run)], ["mount", "-o", "remount,bind,ro", str(run)]]
    if any(subprocess.run(mount, capture_output=True).returncode for mount in mounts):
        subprocess.run(["umount", str(run)], capture_output=True)
        pytest.skip("root may write anywhere, and may not mount here")
    yield run
    subprocess.run(["umount", str(run)], check=True)


def test_a_read_only_directory_is_restored_from_and_not_opened(read_only):
    assert_same_bits(restore(read_only, LIKE).state, state(5))
    assert_same_bits(restore(read_only, LIKE, step="best").state, state(2))
    with pytest.raises(OSError, match=r"Checkpoints cannot be written in .*run: .*Choose another one"):
        Checkpoints(read_only, config=CONFIG)
