"""The command `python -m experiments.bootstrapping`, and its part E5."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bootstrapping import __main__ as command
from experiments.bootstrapping import joint_network, level_networks, random_features
from jaxdiff.distributions import Gaussian
from jaxdiff.theory import score_error


@dataclasses.dataclass(frozen=True)
class Config:
    sizes: tuple[int, ...] = (2, 3)


def part(calls):
    """A part that notes its runs."""

    def run(config):
        calls.append(config)
        return {"config": dataclasses.asdict(config), "product": int(np.prod(config.sizes))}

    return types.SimpleNamespace(
        run=run,
        table=lambda figures: f"product {figures['product']}",
        draw=lambda figures, axes: axes.plot([0, figures["product"]]),
    )


def test_every_part_has_the_interface_and_is_named_in_the_help():
    for name, (module, config) in command.PARTS.items():
        assert type(module.smoke()) is type(config)
        assert f"| {name} " in command.__doc__
        assert module.__name__.rsplit(".", 1)[1] in command.__doc__


def test_parts_that_are_done_are_kept(tmp_path, capsys):
    first, second = [], []
    parts = {"A": (part(first), Config()), "B": (part(second), Config((5,)))}
    command.main({"A": parts["A"]}, tmp_path)
    with pytest.raises(FileExistsError, match="holds the results of A; go on with --resume"):
        command.main(parts, tmp_path)
    figures = command.main(parts, tmp_path, resume=True)
    assert (first, second) == ([Config()], [Config((5,))])
    assert (figures["A"]["product"], figures["B"]["product"]) == (6, 5)
    assert json.loads((tmp_path / "figures.json").read_text())["B"]["product"] == 5
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "product 6" in capsys.readouterr().out


def test_another_config_is_not_resumed(tmp_path):
    parts = {"A": (part([]), Config())}
    command.main(parts, tmp_path)
    with pytest.raises(ValueError, match=r"another config, got .*\[2, 3\].*wanted .*\[4\]"):
        command.main({"A": (part([]), Config((4,)))}, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--parts", "E9"], "invalid choice: 'E9'"), (["--seeds", "3"], "unrecognized arguments")],
)
def test_bad_flags_end_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.command_line(flags)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_the_summary_is_of_ratios_over_seeds():
    base = np.array([[1.0, 2.0, 4.0, 8.0], [2.0, 2.0, 2.0, 2.0]])
    got = joint_network.summary(base * np.array([[2.0, 2.0, 0.5, 0.5], [0.5, 2.0, 0.5, 2.0]]), base)
    np.testing.assert_allclose(got["ratio"], [1.0, 2.0, 0.5, 1.0])
    assert got["worst_level"] == pytest.approx(2.0)
    assert got["low_noise_half"] == pytest.approx(2**0.5)
    assert got["high_noise_half"] == pytest.approx(0.5**0.5)
    # log ratios of the high half are log(1/2) and 0: standard deviation log(2) / sqrt(2), over sqrt(2) seeds
    assert got["high_noise_half_standard_error"] == pytest.approx(0.5**0.5 * np.log(2) / 2)


def test_the_joint_network_learns():
    """In a twentieth of the steps its errors fall below those that it starts from, the Gaussian's of its skip."""
    config = dataclasses.replace(joint_network.smoke(), recipes=("field, jump 10",), steps=150)
    figures = joint_network.run(config)
    task = joint_network.mixture()
    start = Gaussian(jnp.zeros(10), task.data_std**2).denoiser(task.schedule)
    untrained = score_error(jax.random.key(0), start, task.law, task.schedule, task.levels).value / 10
    assert np.all(np.asarray(figures["rows"][0]["error"]) < 0.7 * np.asarray(untrained))
    assert "field, jump 10" in joint_network.table(figures)
    assert json.loads(json.dumps(figures, allow_nan=False))["levels"][0] == pytest.approx(0.02)


GAUSSIAN = Gaussian(jnp.zeros(10), 0.4)


@pytest.mark.parametrize("name", ["chain", "jump 4, optimal gate", "jump 4, online mix", "field, jump 4"])
def test_a_recipe_keeps_the_conditional_mean(name):
    """With the exact denoiser as teacher, E[(target - D) h(x)] = 0 at every level but the warm-up's."""
    task, config = joint_network.mixture()._replace(law=GAUSSIAN), joint_network.Config(steps=10)
    exact = GAUSSIAN.denoiser(task.schedule)
    points = GAUSSIAN.sample(jax.random.key(0), 4000)
    level = jnp.arange(4000) % 20
    target = joint_network.make_target(joint_network.RECIPES[name], config, task, points)
    draw = jax.jit(lambda step: target(jax.random.key(1), exact, exact, step, points, level))
    x, y = draw(9)
    t = task.levels[level]
    difference = np.asarray(y.noise - exact(x, t).noise, np.float64)
    for moment in (difference, difference * np.asarray(x)):
        mean, error = moment.mean(), moment.std() / np.sqrt(moment.size)
        # the field of 4,000 points is not the law's: it is off by about 1 / sqrt(4000) of the noise explained
        slack = 0.02 if "field" in name else 0.0
        assert abs(mean) < 4 * error + slack
    # before the warm-up's end every recipe but the field's is denoising
    x, y = draw(0)
    if "field" not in name:
        noise = (np.asarray(x) - np.exp(-np.asarray(t))[:, None] * np.asarray(points)) / np.sqrt(
            -np.expm1(-2 * np.asarray(t))
        )[:, None]
        np.testing.assert_allclose(y.noise, noise, atol=2e-3)


def test_the_optimal_gate_is_measured_on_the_batch():
    """For isotropic Gaussian data g* leaves no variance, so the target is the exact denoiser's answer."""
    task, config = joint_network.mixture()._replace(law=GAUSSIAN), joint_network.Config(steps=10)
    exact = GAUSSIAN.denoiser(task.schedule)
    points = GAUSSIAN.sample(jax.random.key(0), 20_000)
    level = jnp.arange(20_000) % 20
    variance = {}
    for name in ("jump 4", "jump 4, optimal gate"):
        target = joint_network.make_target(joint_network.RECIPES[name], config, task, points)
        x, y = jax.jit(target, static_argnums=(1, 2))(jax.random.key(1), exact, exact, 9, points, level)
        residual = (y.noise - exact(x, task.levels[level]).noise) ** 2
        variance[name] = np.asarray(residual.mean(1))[np.asarray(level) > 0].mean()
    assert variance["jump 4, optimal gate"] < 1e-3 * variance["jump 4"]


def test_ratios_are_compared_seed_by_seed():
    error = np.array([[[1.0, 2.0, 4.0], [0.5, 1.0, 4.0]], [[2.0, 2.0, 2.0], [2.0, 1.0, 0.5]]])
    _, row = random_features.compare(["denoising", "other"], error, np.array([0.1, 1.0, 3.0]))
    np.testing.assert_allclose(row["ratio"], [0.5**0.5, 0.5, 0.5], rtol=1e-12)
    # the log ratios at the last level are 0 and -log 4: standard deviation log(4) / sqrt(2), over sqrt(2) seeds
    assert row["ratio_standard_error"][2] == pytest.approx(0.5 * np.log(4) / 2)


@pytest.mark.parametrize("part", [random_features, level_networks], ids=["E3", "E4"])
def test_the_sequential_parts_run_small(part):
    """The first level is not bootstrapped, so every method but the stable field is denoising there."""
    figures = part.run(part.smoke())
    assert json.loads(json.dumps(figures, allow_nan=False))["config"]
    for rows in [p["rows"] for p in figures.get("problems", [figures])]:
        assert rows[0]["ratio"] == pytest.approx([1.0] * len(rows[0]["ratio"]))
        assert rows[1]["ratio"][0] == pytest.approx(1.0, rel=1e-3)
        assert rows[1]["ratio"][-1] != pytest.approx(1.0, rel=1e-3)
    assert "stable field" in part.table(figures)
