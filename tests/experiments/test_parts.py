"""Experiments that are made of parts: running, keeping, resuming, and the command line."""

import dataclasses
import json
import types

import numpy as np
import pytest

from experiments import estimates, parts
from experiments.bootstrapping import __main__ as bootstrapping
from experiments.conditional import __main__ as conditional
from experiments.density import __main__ as density
from experiments.density_table import __main__ as density_table
from experiments.discrete import __main__ as discrete
from experiments.few_step import __main__ as few_step
from experiments.initialization import __main__ as initialization

COMMANDS = [bootstrapping, conditional, density, density_table, discrete, few_step, initialization]


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


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__.split(".")[1])
def test_every_part_has_the_interface_and_is_named_in_the_help(command):
    for name, (module, config) in command.PARTS.items():
        assert type(module.smoke()) is type(config)
        assert callable(module.run)
        assert callable(module.table)
        assert callable(module.draw)
        assert f"| {name} " in command.__doc__
        assert module.__name__.rsplit(".", 1)[1] in command.__doc__


def test_parts_that_are_done_are_kept(tmp_path, capsys):
    first, second = [], []
    both = {"A": (part(first), Config()), "B": (part(second), Config((5,)))}
    parts.main({"A": both["A"]}, tmp_path)
    with pytest.raises(FileExistsError, match="holds the results of A; go on with --resume"):
        parts.main(both, tmp_path)
    figures = parts.main(both, tmp_path, resume=True)
    assert (first, second) == ([Config()], [Config((5,))])
    assert (figures["A"]["product"], figures["B"]["product"]) == (6, 5)
    assert json.loads((tmp_path / "figures.json").read_text())["B"]["product"] == 5
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "product 6" in capsys.readouterr().out


def test_another_config_is_not_resumed(tmp_path):
    both = {"A": (part([]), Config())}
    parts.main(both, tmp_path)
    with pytest.raises(ValueError, match=r"another config, got .*\[2, 3\].*wanted .*\[4\]"):
        parts.main({"A": (part([]), Config((4,)))}, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--parts", "E9"], "invalid choice: 'E9'"), (["--seeds", "3"], "unrecognized arguments")],
)
def test_bad_flags_end_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        parts.command_line("name", "what it does", {"A": (part([]), Config())}, flags)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


# --- estimates ---------------------------------------------------------------------------------------------


def test_the_mean_over_rows_has_the_standard_error_of_a_mean():
    rows = np.array([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]], np.float32)
    mean, error = estimates.over_first(rows)
    np.testing.assert_allclose(mean, [3, 4])
    # deviations -2, -1, 3: variance 14 / 2, over 3 rows
    np.testing.assert_allclose(error, [(7 / 3) ** 0.5, 0])
    assert estimates.mean(rows[:, 0]) == pytest.approx({"mean": 3, "standard_error": (7 / 3) ** 0.5})
    json.dumps(estimates.mean(rows[:, 0]), allow_nan=False)


def test_the_geometric_mean_has_the_error_of_its_logarithm():
    found = estimates.geometric_mean(np.log([1.0, 4.0]))
    # logarithms 0 and log 4: standard deviation log(4) / sqrt(2), over sqrt(2) values
    assert found == pytest.approx({"mean": 2, "standard_error": 2 * np.log(4) / 2})


def test_a_figure_is_shown_with_its_error():
    figure = estimates.as_figure((np.float32(0.546), np.float32(0.0271)))
    assert estimates.show(figure, 3) == "0.546 +- 0.027"
    assert estimates.show(figure, 1) == "0.5 +- 0.0"
    assert estimates.show(None, 3) == "-"
