"""The line on a terminal, plain lines elsewhere, and a log that has each step once."""

import io
import json

import jax
import numpy as np
import training_worker as worker

from jaxdiff.learning.training import Metrics, train
from jaxdiff.running.progress import Progress


def metrics_of(*losses):
    return Metrics(np.asarray(losses, np.float32), np.full(len(losses), 2.0, np.float32))


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream, clock = Terminal(), Clock()
    with Progress(1000, stream=stream, clock=clock) as progress:
        progress(250, metrics_of(1.0, 3.0), 0.2)
        clock.now += 0.06
        progress(260, metrics_of(1.0), 0.2)  # too soon to be drawn
        clock.now += 0.06
        progress(500, metrics_of(0.12345678), 50.0)
        progress(1000, metrics_of(0.5), 100.0)  # the last is always drawn
    frames = [frame.removesuffix("\n").removesuffix("\x1b[K") for frame in stream.getvalue().split("\r")]
    assert frames == [
        "",
        "[#####               ] 250/1000  loss 2  0.2 steps/s  1:02:30 left",
        "[##########          ] 500/1000  loss 0.1235  50 steps/s  0:00:10 left",
        "[####################] 1000/1000  loss 0.5  100 steps/s  0:00:00 left",
    ]
    assert stream.getvalue().endswith("\n")


def test_bar_never_wraps(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    with Progress(1000, stream=stream) as progress:
        progress(250, metrics_of(1.0), 10.0)
    assert stream.getvalue() == "\r[#####               ] 250/10\x1b[K\n"


def test_plain_lines_when_not_a_terminal():
    stream, clock = io.StringIO(), Clock()
    with Progress(40, stream=stream, clock=clock) as progress:
        for step in (10, 20, 30, 40):
            progress(step, metrics_of(1.0), 10.0)
            clock.now += 6
    assert stream.getvalue().splitlines() == [
        "10/40  loss 1  10 steps/s  0:00:03 left",
        "30/40  loss 1  10 steps/s  0:00:01 left",
        "40/40  loss 1  10 steps/s  0:00:00 left",
    ]


def test_memory_of_the_fullest_device_is_shown(tmp_path, monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    said = [None, {"peak_bytes_in_use": 7_240_000_000, "bytes_limit": 80_000_000_000}]
    said += [{"peak_bytes_in_use": 10, "bytes_limit": 90_000_000_000}, {"bytes_in_use": 3}]
    monkeypatch.setattr(jax, "local_devices", lambda: list(map(Device, said)))
    stream, seen = io.StringIO(), []
    with Progress(
        40, log=tmp_path / "log", stream=stream, sinks=[lambda *call: seen.append(call)]
    ) as progress:
        progress(40, metrics_of(1.0), 10.0)
    assert stream.getvalue() == "40/40  loss 1  10 steps/s  0:00:00 left  7.2 of 80 GB\n"
    assert read(tmp_path / "log")[0]["device_memory"] == 7_240_000_000
    ((step, values),) = seen
    assert step == 40
    assert {"step": step, **values} == read(tmp_path / "log")[0]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_log_has_no_step_twice_after_a_resume(tmp_path):
    path, clock = tmp_path / "new" / "log.jsonl", Clock()
    with Progress(40, log=path, stream=io.StringIO(), clock=clock) as progress:
        for step in (10, 20, 30):
            clock.now += 2
            progress(step, metrics_of(1.0, 2.0), 5.0)
    assert read(path)[1] == {
        "step": 20, "loss": 1.5, "gradient_norm": 2.0, "steps_per_second": 5.0, "elapsed_seconds": 4.0,
    }  # fmt: skip
    path.write_text(path.read_text() + '{"step": 40, "lo')  # killed in the middle of a line
    clock.now += 1000
    with Progress(40, first_step=20, log=path, stream=io.StringIO(), clock=clock) as progress:
        for step in (30, 40):
            clock.now += 3
            progress(step, metrics_of(1.0), 5.0)
    assert [line["step"] for line in read(path)] == [10, 20, 30, 40]
    assert [line["elapsed_seconds"] for line in read(path)] == [2, 4, 7, 10]
    with Progress(40, log=path, stream=io.StringIO(), clock=clock):
        assert read(path) == []  # a run from step 0 starts anew


def test_progress_reports_a_real_run(tmp_path):
    path = tmp_path / "log.jsonl"
    with Progress(17, log=path, stream=io.StringIO()) as progress:
        train(
            worker.KEY,
            worker.start(),
            worker.STEP,
            worker.draw,
            num_steps=17,
            steps_per_dispatch=5,
            report=progress,
        )
    assert [line["step"] for line in read(path)] == [5, 10, 15, 17]
    assert all(np.isfinite(list(line.values())).all() for line in read(path))
