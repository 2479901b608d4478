import inspect
import json
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from benchmarks import (
    bootstrapping_step,
    bootstrapping_sweep,
    checkpoint_sums,
    eager_calls,
    map_step,
    programs,
    public_calls,
    sampler_overhead,
    solver_orders,
    solver_tasks,
    solvers,
    solvers_drawn,
    solvers_noisy,
    train_step,
    training_loop,
)
from jaxdiff import Gaussian, Karras, as_denoiser, integrate
from jaxdiff.models import DiffusionTransformer, ResidualMLP
from jaxdiff.noising.times import power_grid
from jaxdiff.running import programs as compiled_programs


@pytest.mark.parametrize("name", sampler_overhead.SAMPLERS)
def test_the_calls_that_it_divides_by_are_the_calls_made(name):
    sampler, per_step = sampler_overhead.SAMPLERS[name]
    exact, calls = Gaussian(jnp.zeros(2), 1.0).denoiser(Karras()), []

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(None))
        return exact(x, t)

    denoise = as_denoiser(counted, Karras(), shape=(2,))
    grid = power_grid(5, t_max=80.0, t_min=0.1, rho=7)
    jax.block_until_ready(integrate(jax.random.key(0), denoise, jnp.ones((2, 2)), grid, sampler=sampler))
    jax.effects_barrier()
    assert len(calls) == 5 * per_step


@pytest.mark.slow
def test_it_runs_small(capsys):
    results = sampler_overhead.main(batch=4, dimension=2, width=8, num_steps=2, rounds=1)
    assert set(results) == {*sampler_overhead.SAMPLERS, "LinearMultistep"}
    assert all(r["ratio"] > 0 for r in results.values())
    assert "Heun" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_of_a_bootstrapped_step_runs_small(capsys):
    case = bootstrapping_step.Case(ResidualMLP(width=8, num_blocks=1), (2,), batch=8)
    figures = bootstrapping_step.main({"MLP": case}, num_data=50, pool_size=4, block=1, rounds=2)
    assert list(figures["MLP"]) == list(bootstrapping_step.KINDS)
    for row in figures["MLP"].values():
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high
    assert "bootstrapped, pool" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_of_a_map_s_step_runs_small(capsys):
    case = map_step.Case(ResidualMLP(width=8, num_blocks=1), (2,), batch=8)
    figures = map_step.main({"MLP": case}, block=1, rounds=2)
    assert list(figures["MLP"]) == list(map_step.LOSSES)
    assert figures["MLP"]["denoising"]["ratio"] == 1.0
    assert "improved MeanFlow" in capsys.readouterr().out


@pytest.mark.slow
def test_the_sweep_and_the_loops_compute_the_same_cells(capsys):
    def cell(key, law, dimension, s, t):
        return jnp.sum(law.means**2) * (t - s) + dimension + jax.random.uniform(key)

    figures = bootstrapping_sweep.main(cell, num_laws=3, num_pairs=2, dimensions=(1, 4), rounds=2)
    assert figures["cells"] == 3 * 2 * 2
    assert figures["apart"] < 1e-5
    assert set(figures["ways"]) == {"one call", "loop, padded", "loop, own size"}
    assert "compilation" in capsys.readouterr().out


@pytest.mark.slow
def test_a_train_step_runs_small_and_its_products_are_counted(capsys):
    # Without attention's own, 2 FLOP a parameter and patch forward, and twice that backward.
    network = DiffusionTransformer(2, 64, num_blocks=1, num_heads=2, dtype=jnp.bfloat16)
    options = {"batch": 2, "size": 8, "matmul": 64, "steps": 1, "rounds": 1, "with_torch": False}
    figures = train_step.main({"transformer": network}, **options)
    ours, patches, width = figures["transformer"]["jaxdiff"], 2 * 16, 64
    each_patch = 11 * width**2 + 2 * 16 * width  # qkv, W_o and the perceptron; scores and their sums
    each_image = 6 * width**2 + 2 * width**2 + width**2 + 32 * width
    products = 3 * 2 * (patches * each_patch + 2 * each_image)
    assert 1.0 < ours["model_flop"] / products < 1.6
    assert ours["of_peak"] == pytest.approx(ours["model_flop"] / ours["seconds"] / figures["peak"])
    assert ours["images_per_second"] > 0
    assert "of peak" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_of_the_training_loop_runs_small(capsys):
    network = ResidualMLP(width=8, num_blocks=0)
    figures = training_loop.main(
        network, 8, dimension=2, steps=4, save_every=2, steps_per_dispatch=2, rounds=1
    )
    low, high = figures["quartiles"]
    assert 0 < low <= figures["ratio"] <= high
    assert "in the loop" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_of_sums_of_checkpoints_runs_small(capsys):
    figures = checkpoint_sums.main(megabytes=10, rounds=1)
    for row in figures.values():
        assert row["ratio"] == pytest.approx(row["with"] / row["without"])
    assert figures["save"]["with"] > figures["held up"]["with"] > 0
    assert "from disk" in capsys.readouterr().out


def test_every_public_function_is_measured_or_left_out_for_a_reason():
    modules = {name: part for name in jd.__all__ if inspect.ismodule(part := getattr(jd, name))}
    names = {name for name in jd.__all__ if inspect.isfunction(getattr(jd, name))}
    for module, part in modules.items():
        own = {name: function for name, function in vars(part).items() if inspect.isfunction(function)}
        exported = getattr(part, "__all__", [name for name in own if own[name].__module__ == part.__name__])
        names |= {f"{module}.{name}" for name in exported if name in own and not name.startswith("_")}
    at_the_top = {getattr(jd, name) for name in jd.__all__ if inspect.isfunction(getattr(jd, name))}
    names -= {name for name in names if "." in name and attrgetter(name)(jd) in at_the_top}
    names -= {name for name in names if name.startswith(("feeds.", "image_sets.", "models."))}
    measured = {name.split(",")[0] for name in public_calls.setting(public_calls.SMOKE)[1]}
    left_out = [name for reason in public_calls.LEFT_OUT.values() for name in reason]
    assert len(set(left_out)) == len(left_out)
    assert measured & set(left_out) == set()
    assert names - measured == set(left_out)


@pytest.mark.slow
def test_every_public_function_traces():
    """At the size that is measured: what no test calls under jit in this very way would only fail there."""
    fresh, calls = public_calls.setting(public_calls.Size())
    key = jax.random.key(0)
    inputs = fresh(key)
    for name, call in calls.items():
        try:
            jax.eval_shape(call, key, inputs)
        except Exception as error:
            raise AssertionError(name) from error


@pytest.mark.slow
def test_eager_calls_run_small(capsys):
    figures = eager_calls.main(public_calls.SMOKE, rounds=1, only=["initial_noise", "fit_gaussian"])
    assert set(figures) == {"initial_noise", "fit_gaussian"}
    for row in figures.values():
        assert row["programs"] == 0
        assert row["ratio"] == pytest.approx(row["eager"] / row["jitted"])
    assert "fit_gaussian" in capsys.readouterr().out


def test_a_function_that_compiles_again_is_seen(capsys):
    def again(key, inputs):
        return jax.jit(lambda x: 2 * x)(inputs)

    found = eager_calls.measure(again, lambda key: jax.random.normal(key, (3,)), rounds=2)
    assert found["programs"] == 1
    assert found["ratio"] > eager_calls.BAR


def test_weak_scaling_is_two_rings():
    """Of 1 MB on slices of 256 chips that send 200 GB/s each, and an eighth of 25 GB/s between slices."""
    where = compiled_programs.Topology("v5e-8", compiled_programs.CHIPS["v5e"], range(8))
    reduced = compiled_programs.Collective("all-reduce", 2, 10**6, 10**6)
    found = compiled_programs.Program(where, 0.0, 8, 0, 0, 0, 197e9, 0.0, 0.0, (reduced,))
    eight, *_, most = programs.weak_scaling(found)
    assert eight.compute == most.compute == 1e-3
    assert eight.gradients == pytest.approx(2 * 7 / 8 * 1e6 / 200e9)
    assert most.gradients == pytest.approx(2 * 255 / 256 * 1e6 / 200e9 + 2 * 15 / 16 * 1e6 / 256 / (25e9 / 8))
    assert eight.input == pytest.approx(16 * 32 * 32 * 3 * 4 / (25e9 / 8))
    assert most.in_turn == 1e-3 / (1e-3 + most.gradients + most.input) < most.alongside == 1.0


@pytest.mark.slow
def test_reports_of_programs_run_small(monkeypatch, tmp_path, capsys):
    """On eight devices one reduction of the gradients, as many bytes as the parameters; a sampler sends none."""
    small = DiffusionTransformer(patch_size=4, width=32, num_blocks=1, num_heads=2)
    monkeypatch.setattr(programs, "TRANSFORMER", small)
    monkeypatch.setattr(programs, "SHAPE", (8, 8, 3))
    chip = compiled_programs.CHIPS["v5e"]
    monkeypatch.setattr(
        compiled_programs, "topology", lambda name: compiled_programs.Topology(name, chip, jax.devices())
    )
    monkeypatch.setitem(programs.PROGRAMS, "step", lambda where: programs.train_step(where, small))
    figures = programs.main(["step", "sampler"], ["cpu-8"], tmp_path / "programs.json")
    parameters = 4 * sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: programs.initial(small)))
    )
    (reduced,) = figures["step, cpu-8"]["collectives"]
    assert reduced["kind"] == "all-reduce"
    assert parameters <= reduced["bytes"] < parameters + 1000
    assert sum(found["bytes"] for found in figures["sampler, cpu-8"]["collectives"]) <= 4  # one flag
    assert figures["sampler, cpu-8"]["fits"]
    assert json.loads((tmp_path / "programs.json").read_text()).keys() == figures.keys()
    assert "all-reduce" in capsys.readouterr().out


@pytest.mark.slow
def test_the_league_of_solvers_runs_small(monkeypatch, tmp_path, capsys, float64):
    """Where who wins is known, that is who wins."""
    law = "3 modes, d = 2"
    few = "DDIM", "DPM-Solver++ 2", "UniPC 3, noise", "Runge-Kutta 3"
    monkeypatch.setattr(solvers, "SOLVERS", {name: solvers.SOLVERS[name] for name in few})
    monkeypatch.setattr(solvers, "CALLS", (12,))
    monkeypatch.setattr(solvers, "LEARNED_CALLS", (5,))
    monkeypatch.setattr(solvers, "LEARNING_STEPS", 200)
    errors = solvers.main(40, 1, False, tmp_path, [law], ("classical", "learned"))[law]
    assert errors["learned"][5] < errors["chosen"][5]
    assert errors["UniPC 3, noise"][12] < errors["DPM-Solver++ 2"][12] < errors["DDIM"][12]
    assert errors["Runge-Kutta 3"][12] < errors["DDIM"][12]
    assert errors["fitted on other laws"][12] < errors["UniPC 3, noise"][12]
    assert (
        json.loads((tmp_path / "solvers.json").read_text())["errors"][law]["DDIM"]["12"] == errors["DDIM"][12]
    )
    assert "UniPC 3, noise" in capsys.readouterr().out


@pytest.mark.slow
def test_the_judge_of_noisy_solvers_sees_what_they_do(monkeypatch, float64):
    """Eight ancestral steps are told from the law, forty less; draws of it are not."""
    monkeypatch.setattr(solvers_noisy, "CALLS", (8, 40))
    monkeypatch.setattr(solvers_noisy, "RHOS", (7.0,))
    monkeypatch.setattr(solvers_noisy, "SOLVERS", {"ancestral": solvers_noisy.SOLVERS["ancestral"]})
    found = solvers_noisy.league("3 modes, d = 2", seeds=2, rows=2000, peers={})
    assert found["ancestral"][8] > 3 * found["ancestral"][40]
    assert abs(found[solvers_noisy.NOTHING][8]) < 0.1 * found["ancestral"][8]


@pytest.mark.slow
def test_orders_of_solvers_are_measured(float64, capsys):
    """Two that are named rightly on two schedules, and one that is not: Heun as of order three."""
    solvers = {"DDIM": (jd.DDIM(), 1), "Heun": (jd.Heun(), 2), "not": (jd.Heun(), 3)}
    schedules = {"Karras": Karras(), "flow": jd.RectifiedFlow()}
    found = solver_orders.main(100, solvers, schedules)
    for name, order in (("DDIM", 1), ("Heun", 2), ("not", 2)):
        for at, rounding in found[name].values():
            assert at == pytest.approx(order, abs=0.1)
            assert 1e-8 < rounding < 1e-5
    assert float(capsys.readouterr().out.split("orders within ")[1].split()[0]) == pytest.approx(1, abs=0.1)


def test_tasks_of_solvers_are_solved_from_their_own_laws_noised(float64):
    """With guidance between two denoisers of one law nothing is moved; points have the largest noise."""
    of = solver_tasks.POSED["guided by 3, d = 2"](np.random.default_rng(0), 0)
    x = of.law.sample(jax.random.key(0), 5)
    away = of.denoise(x, 0.5).data - of.law.denoiser(Karras())(x, 0.5).data
    assert float(jnp.abs(away).max()) > 0.01  # pushed from the other classes
    near = of.denoise(x, 1e-3).data - x
    assert float(jnp.abs(near).max()) < 0.01  # but no point is, where there is no noise
    tails = solver_tasks.LAWS["heavy tails, d = 16"](np.random.default_rng(0))
    wide = np.asarray(tails.sample(jax.random.key(1), 20_000))
    wide = (wide - np.median(wide, 0)) / np.median(np.abs(wide - np.median(wide, 0)), 0)
    assert (np.abs(wide) > 8).mean() > 1e-4  # of a Gaussian's rows 7e-8 are


def test_the_leagues_answer_is_read_off_its_errors(tmp_path, capsys):
    """Of two laws run apart: ratios to the least of one's own, their median, and where a peer is below."""
    runs = {
        "one": {"first": {"DDIM": {"4": 0.4}, "DEIS 3": {"4": 0.2}, "diffusers DEIS 3": {"4": 0.1}}},
        "two": {"second": {"DDIM": {"4": 0.8}, "DEIS 3": {"4": 0.1}, "learned": {"4": 0.01}}},
    }
    for name, errors in runs.items():
        (tmp_path / name).mkdir()
        record = {"machine": "here", "agreement": {}, "errors": errors}
        (tmp_path / name / "solvers.json").write_text(json.dumps(record))
    table = solvers_drawn.main([tmp_path / name for name in runs], tmp_path)
    assert table[4]["DDIM"] == pytest.approx(5.0)  # of 2 and 8
    assert table[4]["DEIS 3"] == 1.0
    results = json.loads((tmp_path / "solvers.json").read_text())["errors"]
    assert solvers_drawn.beside(results)["first"]["classical"]["4"] == pytest.approx(2.0)
    assert (tmp_path / "solvers.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "first, 4 calls: diffusers DEIS 3 0.1, jaxdiff's DEIS 3 0.2" in printed
    assert "second" not in printed
