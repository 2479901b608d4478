"""The league of solvers drawn, and its answer: which solver for which number of calls?

    python -m benchmarks.solvers_drawn [RUN ...]

RUN: folders that `benchmarks.solvers --out` wrote, of other laws or parts each, which are gathered into
benchmarks/solvers.json; without any that file is read. Draws benchmarks/solvers.png, and prints for every
number of calls how far above the least classical error of a law each solver is, in the median over the laws,
and where diffusers is below jaxdiff.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).parent
DRAWN = {
    "DDIM": "0.75",
    "Heun": "0.55",
    "DPM-Solver++ 2": "tab:blue",
    "DEIS 3": "tab:green",
    "UniPC 2, noise": "tab:orange",
    "UniPC 3, noise": "tab:red",
}
PEERS = "diffusers "
NOT_CLASSICAL = ("chosen", "learned")

Results = dict[str, dict[str, dict[str, float]]]
"""Law to solver to calls, as JSON has them, to the mean error."""


def gathered(runs: list[pathlib.Path]) -> dict[str, Any]:
    """The runs' files as one."""
    record: dict[str, Any] = {"machine": None, "agreement": {}, "errors": {}}
    for run in runs:
        one = json.loads((run / "solvers.json").read_text())
        record["machine"] = one["machine"]
        record["agreement"] |= one["agreement"]
        for law, solvers in one["errors"].items():
            of_law = record["errors"].setdefault(law, {})
            for solver, by_calls in solvers.items():
                of_law.setdefault(solver, {}).update(by_calls)
    return record


def calls_of(results: Results) -> list[int]:
    """All numbers of calls, rising."""
    return sorted({int(c) for law in results.values() for by in law.values() for c in by})


def above(results: Results, calls: int) -> dict[str, float]:
    """Solver to its error over the least classical one of jaxdiff's, the median over laws."""
    ratios: dict[str, list[float]] = {}
    for solvers in results.values():
        known = {name: by[str(calls)] for name, by in solvers.items() if str(calls) in by}
        own = [e for name, e in known.items() if not name.startswith(PEERS) and name not in NOT_CLASSICAL]
        for name, error in known.items() if own else ():
            ratios.setdefault(name, []).append(error / min(own))
    return {name: float(np.median(values)) for name, values in ratios.items()}


def behind(results: Results) -> list[str]:
    """Every law and number of calls at which diffusers has a smaller error than all of jaxdiff's solvers."""
    lines = []
    for law, solvers in results.items():
        for calls in calls_of(results):
            known = {
                n: by[str(calls)] for n, by in solvers.items() if str(calls) in by and n not in NOT_CLASSICAL
            }
            if known and (best := min(known, key=known.__getitem__)).startswith(PEERS):
                own = min((n for n in known if not n.startswith(PEERS)), key=known.__getitem__)
                lines.append(
                    f"{law}, {calls} calls: {best} {known[best]:.3g}, jaxdiff's {own} {known[own]:.3g}"
                )
    return lines


def draw(results: Results, path: pathlib.Path) -> None:
    """Error against calls, a panel a law."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(results), figsize=(3.4 * len(results), 3.6), sharex=True, squeeze=False
    )
    for axis, (law, solvers) in zip(axes[0], results.items(), strict=True):
        peers = [by for name, by in solvers.items() if name.startswith(PEERS)]
        if peers:
            shared = sorted({int(c) for by in peers for c in by})
            least = [min(by[str(c)] for by in peers if str(c) in by) for c in shared]
            axis.plot(shared, least, "k:", label="diffusers, its best")
        for name, color in DRAWN.items():
            if name in solvers:
                calls = sorted(map(int, solvers[name]))
                axis.plot(calls, [solvers[name][str(c)] for c in calls], color=color, label=name)
        if "learned" in solvers:
            calls = sorted(map(int, solvers["learned"]))
            axis.plot(calls, [solvers["learned"][str(c)] for c in calls], "k*", label="learned")
        axis.set(title=law, xlabel="denoiser calls", xscale="log", yscale="log")
        ticks = [4, 6, 8, 12, 16, 24, 40]
        axis.set_xticks(ticks, [str(c) for c in ticks])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("RMSE to the exact flow map")
    handles = {
        label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(runs: list[pathlib.Path], folder: pathlib.Path = HERE) -> dict[int, dict[str, float]]:
    """Gather, draw, print; returns, for every number of calls, `above`."""
    if runs:
        (folder / "solvers.json").write_text(json.dumps(gathered(runs), indent=1) + "\n")
    results: Results = json.loads((folder / "solvers.json").read_text())["errors"]
    draw(results, folder / "solvers.png")
    table = {calls: above(results, calls) for calls in calls_of(results)}
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    print("error over the least classical one of jaxdiff's, the median over laws")
    print(f"{'':<26}" + "".join(f"{c:>7}" for c in table))
    for name in names:
        shown = (f"{row[name]:7.2f}" if name in row else f"{'':7}" for row in table.values())
        print(f"{name:<26}" + "".join(shown))
    print("diffusers below jaxdiff:", *(behind(results) or ["nowhere"]), sep="\n")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=pathlib.Path, metavar="RUN")
    main(parser.parse_args().runs)
