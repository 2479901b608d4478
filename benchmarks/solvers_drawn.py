"""The league of solvers drawn, and its answer: which solver for which number of calls?

    python -m benchmarks.solvers_drawn [RUN ...]

RUN: folders that `benchmarks.solvers --out` wrote, of other laws or parts each, which are gathered into
benchmarks/solvers.json; without any that file is read. Draws benchmarks/solvers.png, and prints for every
number of calls how far above the least classical error of a law each solver is, in the median over the laws,
where a peer is below all of jaxdiff's classical solvers, and jaxdiff's best over the peers' best, law by law.
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
    "diffusers DPM-Solver++ 2": "tab:blue",
    "DEIS 3": "tab:green",
    "UniPC 2, noise": "tab:orange",
    "UniPC 3, noise": "tab:red",
}
PEERS = ("diffusers ", "diffrax ", "k-diffusion ")
FITTED = ("fitted on other laws", "fitted on laws of far modes")
NOT_CLASSICAL = (*FITTED, "chosen", "learned")

Results = dict[str, dict[str, dict[str, float]]]
"""Law to solver to calls, as JSON has them, to the mean error."""


def gathered(runs: list[pathlib.Path]) -> dict[str, Any]:
    """The runs' files as one."""
    record: dict[str, Any] = {"machine": None, "agreement": {}, "errors": {}, "distances": {}}
    for run in runs:
        one = json.loads((run / "solvers.json").read_text())
        record["machine"] = one["machine"]
        record["agreement"] |= one["agreement"]
        for part in ("errors", "distances"):
            for law, solvers in one.get(part, {}).items():
                of_law = record[part].setdefault(law, {})
                for solver, by_calls in solvers.items():
                    known = {
                        calls: e for calls, e in by_calls.items() if np.isfinite(e)
                    }  # of steps there were
                    of_law.setdefault(solver, {}).update(known)
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
    """Every law and number of calls at which a peer has a smaller error than all that is classical here."""
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


def beside(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """jaxdiff's least error over the peers' least: law to kind ("classical", fitted, learned) to calls."""
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    for law, solvers in results.items():
        kinds: dict[str, list[dict[str, float]]] = {}
        for name, by_calls in solvers.items():
            kind = name if name in NOT_CLASSICAL else "classical"
            kinds.setdefault("peers" if name.startswith(PEERS) else kind, []).append(by_calls)

        def least(kind: str, calls: str, kinds: dict[str, list[dict[str, float]]] = kinds) -> float:
            return min((by[calls] for by in kinds.get(kind, []) if calls in by), default=np.nan)

        for kind in kinds if "peers" in kinds else ():
            of = {c: least(kind, c) / least("peers", c) for c in map(str, calls_of(results))}
            ratios.setdefault(law, {})[kind] = {c: ratio for c, ratio in of.items() if np.isfinite(ratio)}
    return ratios


def draw(results: Results, path: pathlib.Path) -> None:
    """Error against calls, a panel a law."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.9 * rows + 0.7), sharex=True, squeeze=False
    )
    for axis in axes.flat[len(results) :]:
        axis.remove()
    for axis, (law, solvers) in zip(axes.flat, results.items(), strict=False):
        peers = [by for name, by in solvers.items() if name.startswith(PEERS)]
        if peers:
            shared = sorted({int(c) for by in peers for c in by})
            least = [min(by[str(c)] for by in peers if str(c) in by) for c in shared]
            axis.plot(shared, least, "k:", label="the peers' best")
        for name, color in DRAWN.items():
            if name in solvers:
                calls = sorted(map(int, solvers[name]))
                axis.plot(calls, [solvers[name][str(c)] for c in calls], color=color, label=name)
        for name, style in ((FITTED[0], "k--"), (FITTED[1], "k-."), ("learned", "k*")):
            if name in solvers:
                calls = sorted(map(int, solvers[name]))
                axis.plot(calls, [solvers[name][str(c)] for c in calls], style, label=name)
        axis.set(title=law, xlabel="denoiser calls", xscale="log", yscale="log")
        ticks = [4, 6, 8, 12, 16, 24, 40]
        axis.set_xticks(ticks, [str(c) for c in ticks])
        axis.tick_params(labelbottom=True)
        axis.minorticks_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("RMSE to the exact flow map")
    handles = {
        label: h
        for axis in axes.flat[: len(results)]
        for h, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8)
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
    print("a peer below jaxdiff's classical solvers:", *(behind(results) or ["nowhere"]), sep="\n")
    print("jaxdiff's least over the peers' least")
    for law, kinds in beside(results).items():
        for kind, ratios in kinds.items():
            if kind != "peers":
                print(f"{law:<26} {kind:<22}" + "".join(f"{c:>4}: {r:4.2f}" for c, r in ratios.items()))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=pathlib.Path, metavar="RUN")
    main(parser.parse_args().runs)
