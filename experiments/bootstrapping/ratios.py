"""What all tables of the experiment share: seeds, rivals, and ratios to denoising.

Settings are chosen on seeds that are not reported: a part draws its seeds by `keys`, and what chose its
settings, a part of its own (E7-choice, E8-choice) or a run of another day, drew others.

An error is compared with denoising's of the same seed, as the logarithm of their ratio; means over seeds, or
over seeds and levels, are geometric, and standard errors are over seeds. Beside bootstrapping stand, on the
same seeds, the rivals that a user has for the same money:

    denoising, more steps        as many more as a bootstrapped step costs, the rate's decay stretched
    denoising, twice the batch   with as many steps: the same noise of the target, half of it left
    stable field                 the training set's own posterior mean for the target: no noise left at all

Many noisings of each datum are what denoising has wherever its noise is drawn anew at each step, as in E4, E5
and E8; E2 and E3 keep them few and say what more of them do.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.estimates import geometric_mean, show
from jaxdiff.typing import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DENOISING, MORE_STEPS, TWICE_THE_BATCH = "denoising", "denoising, more steps", "denoising, twice the batch"
STABLE = "stable field"


def keys(part: str, num_seeds: int, *, choosing: bool = False) -> Array:
    """The seeds of a part, such as "E4": those that are reported, or those that chose its settings."""
    root = jax.random.key(zlib.crc32(part.encode()))
    return jax.random.split(jax.random.fold_in(root, int(choosing)), num_seeds)


def compare(
    methods: Sequence[str], error: np.ndarray, ranges: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """A row for each method from its errors, shape (seeds, methods, levels); the first is denoising.

    ranges: which levels are averaged over together, by names, as masks. A row has the errors, the ratios with
    their standard errors level by level, and of each range the mean ratio and that of the worst level.
    """
    rows = []
    for i, method in enumerate(methods):
        log_ratio = np.log(error[:, i] / error[:, 0])
        each = [geometric_mean(column) for column in log_ratio.T]
        rows.append(
            {
                "method": method,
                "error": np.exp(np.log(error[:, i]).mean(0)).tolist(),
                "ratio": [level["mean"] for level in each],
                "ratio_standard_error": [level["standard_error"] for level in each],
                "ranges": {
                    name: geometric_mean(log_ratio[:, chosen].mean(1))
                    | {"worst_level": max(each[k]["mean"] for k in np.flatnonzero(chosen))}
                    for name, chosen in ranges.items()
                },
            }
        )
    return rows


def table(title: str, levels: Sequence[float], rows: Sequence[dict[str, Any]], *, level: str = "t") -> str:
    """The rows of `compare` as text: a line a method, a column a level, and their standard errors below."""
    names = list(rows[0]["ranges"])
    blank = f"{'':30}" + 25 * len(names) * " "
    lines = [
        f"{title:30}" + "".join(f"{name:>18}{'worst':>7}" for name in names) + "   ratio at each level",
        f"{level:30}" + blank[30:] + "".join(f"{t:9.3f}" for t in levels),
        f"{'error of ' + rows[0]['method']:30}" + blank[30:] + "".join(f"{e:9.1e}" for e in rows[0]["error"]),
    ]
    for row in rows[1:]:
        means = "".join(f"{show(r, 3):>18}{r['worst_level']:7.2f}" for r in row["ranges"].values())
        lines.append(f"{row['method']:30}{means}" + "".join(f"{ratio:9.3f}" for ratio in row["ratio"]))
        lines.append(blank + "".join(f"{value:9.3f}" for value in row["ratio_standard_error"]))
    return "\n".join(lines)


def draw(
    axes: "Axes",
    levels: Sequence[float],
    rows: Sequence[dict[str, Any]],
    *,
    name: str = "method",
    label: str = "",
) -> None:
    """A line and a band of two standard errors for each row, of `compare` or alike, which has a name."""
    for row in rows:
        ratio, spread = np.asarray(row["ratio"]), 2 * np.asarray(row["ratio_standard_error"])
        (line,) = axes.plot(levels, ratio, label=row[name] + label, linewidth=1)
        axes.fill_between(levels, ratio - spread, ratio + spread, alpha=0.15, color=line.get_color())
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set(xscale="log", xlabel="t", ylabel="error / denoising's")
    axes.legend(fontsize="x-small")
