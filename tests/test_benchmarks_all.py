"""The benchmarks as one, and those beside other libraries."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import all as every
from benchmarks import compile_time, cost, likelihood_time, limits, sampling_time, theory_sweep, vector_step


def test_ways_are_timed_over_the_one_that_is_named(monkeypatch):
    """By a clock that each way moves on: twice as long is twice the ratio, and the first round does not count."""
    now = [0.0]
    monkeypatch.setattr(limits.time, "perf_counter", lambda: now[0])

    def way(seconds):
        calls = []

        def call():
            calls.append(None)
            now[0] += 100.0 if len(calls) == 1 else seconds

        return call

    rows = limits.interleaved({"slow": way(2.0), "fast": way(0.5)}, 3, over="fast")
    assert (rows["slow"]["seconds"], rows["slow"]["ratio"]) == (2.0, 4.0)
    assert rows["fast"]["ratio"] == 1.0
    assert "slow" in limits.shown(rows)


def test_limits_are_of_operations_and_bytes(monkeypatch):
    monkeypatch.setattr(limits, "seconds", lambda call: (call(), 0.5)[1])
    assert limits.matmul_peak(size=8, rounds=1) == 2 * 8**3 / 0.5
    assert limits.bandwidth(megabytes=1, rounds=1) == 2 * 2**20 / 0.5


def test_a_missing_peer_is_said_to_be_left_out(capsys):
    assert limits.peers(["numpy", "no-such-library"]) == {"numpy": np.__version__}
    assert "no-such-library is not installed" in capsys.readouterr().out


def test_every_benchmark_is_a_module_and_the_quick_run_leaves_out_what_is_long(tmp_path):
    for name, task in every.TASKS.items():
        full = every.command(task, full=True, out=tmp_path)
        assert full is not None, name
        quick = every.command(task, full=False, out=tmp_path)
        assert (quick is None) == (task.quick is None)
        if full[-2:-1] == ["--out"]:
            assert full[-1].startswith(str(tmp_path))
    minutes = sum(task.minutes for task in every.TASKS.values() if task.quick is not None)
    assert (
        minutes <= 60
    )  # the most that it can take; all that measure together were seen to take less than 15


def test_outputs_figures_failures_and_time_outs_are_kept(tmp_path, monkeypatch, capsys):
    program = {
        "good": "print('a line'); print('{\"figure\": 3}')",
        "bad": "raise SystemExit(7)",
        "long": "import time; print('began', flush=True); time.sleep(60)",
    }
    tasks = {name: every.Task(name, (), (), 0.5 if name != "long" else 0.01) for name in program}
    monkeypatch.setattr(every, "TASKS", tasks)
    monkeypatch.setattr(
        every, "command", lambda task, full, out: [sys.executable, "-c", program[task.module]]
    )
    found = every.main(list(program), tmp_path, full=False)
    rows = found["benchmarks"]
    assert rows["good"]["figures"] == {"figure": 3}
    assert (rows["good"]["output"], rows["good"]["status"]) == ("a line\n", 0)
    assert every.failed(found) == ["bad: status 7", "long: stopped, out of time"]
    assert json.loads((tmp_path / "all.json").read_text()) == found
    assert "a line" in capsys.readouterr().out

    program["bad"] = program["good"]  # mended
    del tasks["long"]
    again = every.main(list(tasks), tmp_path, full=False, resume=True)["benchmarks"]
    assert again["good"] == rows["good"]
    assert (again["bad"]["status"], list(again)) == (0, ["good", "bad"])
    assert "good: done before." in capsys.readouterr().out
    with pytest.raises(ValueError, match="of a quick run: go on with --quick"):
        every.main(list(tasks), tmp_path, full=True, resume=True)


def test_the_sweep_s_ways_answer_alike(monkeypatch):
    monkeypatch.setattr(theory_sweep, "matmul_peak", lambda: 1e9)
    found = theory_sweep.main(num_laws=2, num_levels=3, rows=5, components=2, d=3, rounds=1)
    assert max(found["apart"].values()) < 1e-5
    assert found["rows"]["NumPy"]["ratio"] == 1.0
    assert found["limit_seconds"] > 0


def test_the_network_is_the_same_in_pytorch():
    torch = pytest.importorskip("torch")
    weights = sampling_time.weights_of(3, 8, 2)
    x, t = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), np.float32(0.7)
    ours = sampling_time.denoiser(jax.tree.map(jnp.asarray, weights), 3)(jnp.asarray(x), t).data
    theirs = sampling_time.torch_denoiser(torch, weights)(torch.tensor(x), torch.full((4,), 0.7))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


@pytest.mark.slow
def test_samples_of_equal_methods_are_equal(monkeypatch):
    monkeypatch.setattr(sampling_time, "limits", lambda: {"matmul_gflops": 1.0, "gigabytes": 1.0})
    found = sampling_time.main(batch=4, d=3, width=8, blocks=1, calls=5, rounds=1, compiled=False)
    assert "diffrax" in found["apart"]
    assert max(found["apart"].values()) < 1e-4


@pytest.mark.slow
def test_the_likelihood_of_the_peer_s_flow_is_that_of_ours():
    law = likelihood_time.law_of("d = 2")
    x = law.sample(jax.random.key(0), 4)
    theirs = jax.jit(likelihood_time.by_diffrax(law)["diffrax Tsit5, 0.0001"])(jax.random.key(1), x)
    np.testing.assert_allclose(theirs, law.log_prob(x), atol=0.02)
    flow = likelihood_time.ours(law)["flow, 32 steps"](jax.random.key(1), x)
    np.testing.assert_allclose(flow, law.log_prob(x), atol=0.02)


@pytest.mark.slow
def test_cost_and_compilation_run_small(monkeypatch):
    row = cost.samples(d=2, rows=8, steps=3, rounds=1, width=8)
    assert row["over_bare"] > 0
    exact = cost.exact(d=2, rows=1000, rounds=1, bytes_a_second=1e9)
    assert exact["memory"] >= 8  # a number for each component of the mixture, of two for a point
    monkeypatch.setattr(
        compile_time, "_in_a_process", lambda name, environment: compile_time.run_task(name) | {"start": 0.0}
    )
    (found,) = compile_time.main(("a product",)).values()
    assert found["cold"]["first"] > found["cold"]["second"]


@pytest.mark.slow
def test_the_step_of_vectors_is_that_of_the_loss_written_out(monkeypatch):
    """Of one seed the two draw alike, so that a step of either leads to the same parameters."""
    monkeypatch.setattr(vector_step, "STEPS", 1)
    weights = sampling_time.weights_of(3, 8, 1)
    ways = vector_step._ours(weights, np.random.default_rng(0).normal(size=(4096, 3)).astype(np.float32))
    ours, alone = ways["jaxdiff, a step a call"]().params, ways["a loss written out"]()[0]
    for name, weight in weights.items():
        moved = np.asarray(alone[name]) - weight
        assert 0.99e-4 < abs(moved).max() < 1.01e-4  # Adam's first step, of the learning rate
        agree = np.mean(np.sign(np.asarray(ours[name]) - weight) == np.sign(moved))
        assert agree > 0.8, name
