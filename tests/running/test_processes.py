"""Two processes train as one does, stop together, and say so when one of them is gone."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import distributed_worker
import jax
import numpy as np
import pytest
import training_worker
from training_worker import SMALL

from jaxdiff.running.parallel import Layout, data_mesh

WORKER = pathlib.Path(distributed_worker.__file__)


def spawn(directory, processes, *more, worker=WORKER):
    """All the processes of a run."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    environment["PYTHONPATH"] = str(WORKER.parent.parent)
    arguments = [str(directory), str(port), str(processes)]
    return [
        subprocess.Popen(
            [sys.executable, "-u", str(worker), *arguments, str(number), *map(str, more)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def finish(running, timeout=100):
    """Exit statuses, what process 0 had still to report, and what each wrote to stderr."""
    try:
        ends = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], reports(ends[0][0]), [err for _, err in ends]


def reports(text):
    """Losses by the step that ends their dispatch."""
    return {line[0]: line[1:] for line in map(json.loads, filter(is_report, text.splitlines()))}


def is_report(line):
    return line.startswith("[") and not line.startswith("[Gloo]")


def read_until(process, step):
    """The reports of process 0 up to the one of a step."""
    lines = []
    for line in process.stdout:
        if is_report(line):
            lines.append(line)
            if json.loads(line)[0] >= step:
                return reports("".join(lines))
    raise AssertionError(process.stderr.read())


def in_this_process(directory):
    """The losses of the same run here, on two devices."""
    losses = {}
    state = distributed_worker.fit(
        directory, Layout(data_mesh(jax.devices()[:2])), lambda step: distributed_worker.ROWS[step],
        lambda step, metrics, rate: losses.update({step: metrics.loss.tolist()}),
    )  # fmt: skip
    assert int(state.step) == distributed_worker.NUM_STEPS
    return losses


@pytest.mark.slow
def test_two_processes_train_as_one_stop_together_and_go_on_as_one(tmp_path):
    expected = in_this_process(tmp_path / "one")
    two = spawn(tmp_path / "two", 2, 1)
    got = read_until(two[0], 8)
    two[1].send_signal(signal.SIGTERM)
    statuses, more, errors = finish(two)
    assert statuses == [75, 75], errors
    got |= more
    stopped_at = max(got)
    assert 8 <= stopped_at < 40
    rest = in_this_process(tmp_path / "two")
    assert min(rest) == stopped_at + 4
    got |= rest
    assert list(got) == list(expected)
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-5)


@pytest.mark.slow
def test_what_two_processes_kept_on_disks_of_their_own_is_gone_on_from_and_not_where_one_is_lost(tmp_path):
    """Killed at step 20, whose state lies there, while the checkpoints end at 16."""
    expected = in_this_process(tmp_path / "one")
    local = tmp_path / "local"
    for last, lost in ((20, False), (28, True)):
        statuses, got, errors = finish(spawn(tmp_path / "two", 2, 1, local, last))
        assert statuses == [-signal.SIGKILL] * 2, errors
        assert max(got) == last
        assert min(got) == (4 if last == 20 else 24)
        if lost:
            shutil.rmtree(local / "process-1")
    statuses, rest, errors = finish(spawn(tmp_path / "two", 2, 1, local, 0))
    assert statuses == [0, 0], errors
    assert min(rest) == 28  # from the checkpoint of 24, for one has lost its part of 28
    for step, losses in (got | rest).items():
        np.testing.assert_allclose(losses, expected[step], rtol=1e-5)


@pytest.mark.slow
def test_a_process_reads_the_part_of_a_state_that_its_devices_hold(tmp_path):
    """Two of 23 MB, which one device has saved whole: half of it each, and what shares a piece with it."""
    worker_file = WORKER.with_name("restore_worker.py")
    (one,) = spawn(tmp_path / "state", 1, worker=worker_file)
    assert finish([one])[0] == [0]
    on_disk = sum(file.stat().st_size for file in (tmp_path / "state").rglob("*") if file.is_file())
    two = spawn(tmp_path / "state", 2, worker=worker_file)
    ended = [(*process.communicate(timeout=100), process.returncode) for process in two]
    for said, error, status in ended:
        assert status == 0, error
        _, read = map(int, said.splitlines()[-1].split())
        assert 0.4 < read / on_disk < 0.6


@pytest.mark.slow
def test_a_process_whose_peer_has_died_says_so_and_ends(tmp_path):
    two = spawn(tmp_path, 2, 1)
    read_until(two[0], 8)
    two[1].kill()
    statuses, _, errors = finish(two, timeout=60)
    assert statuses[0] != 0
    assert "ConnectionError: Process 0 of 2 cannot go on" in errors[0]
    assert "they go on from the last checkpoint" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("at", [" left", "evaluating"])
def test_a_signal_to_one_of_two_trainers_ends_both(at, tmp_path):
    flags = [
        "digits",
        *SMALL,
        "--steps",
        "100",
        "--save_every",
        "50",
        "--out",
        str(tmp_path),
        "--num-processes",
        "2",
    ]
    flags += ["--coordinator", f"localhost:{free_port()}", "--process-id"]
    with contextlib.ExitStack() as both:
        two = [
            both.enter_context(
                training_worker.spawn(tmp_path, *flags, str(number), module="experiments.train")
            )
            for number in range(2)
        ]
        training_worker.wait_for(two[0], at, two[0].stderr)
        two[1].send_signal(signal.SIGTERM)
        assert finish(two)[0] == [75, 75]
    assert any((tmp_path / "checkpoints").glob("[0-9]*"))
