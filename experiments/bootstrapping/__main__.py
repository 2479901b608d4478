"""Time bootstrapping, measured: what a target that reuses an earlier score costs and gains.

    python -m experiments.bootstrapping                        # everything
    python -m experiments.bootstrapping --parts E1 E2          # some parts
    python -m experiments.bootstrapping --resume               # the parts that an interrupted run left

    | part       | question                                                              | module          |
    |------------|-----------------------------------------------------------------------|-----------------|
    | E1         | the variance of every target, beside its formula                      | target_variance |
    | E2         | the error of the chain where it is known exactly (Hermite features)   | hermite         |
    | E3         | ridge regression on random features, level by level                   | random_features |
    | E4         | a network for each level                                              | level_networks  |
    | E5         | one network over all levels: every recipe that was tried              | joint_network   |
    | E5-digits  | the same on a law fitted to the digits                                | joint_network   |
    | E6         | joint learning over a finite class, flat in the dimension             | dimension       |

Each part's module says what to expect. Written to --out: a JSON file for each part as it is done,
figures.json with all of them, and figure.png. Method: Kumar, Nagaraj & Sarkar 2025, arXiv 2502.10354; the
tasks, sizes and figures are this library's own, none of them the paper's.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from types import ModuleType
from typing import Any

from experiments.bootstrapping import (
    dimension,
    hermite,
    joint_network,
    level_networks,
    random_features,
    target_variance,
)

PARTS: dict[str, tuple[ModuleType, Any]] = {
    "E1": (target_variance, target_variance.Config()),
    "E2": (hermite, hermite.Config()),
    "E3": (random_features, random_features.Config()),
    "E4": (level_networks, level_networks.Config()),
    "E5": (joint_network, joint_network.CONFIGS["mixture"]),
    "E5-digits": (joint_network, joint_network.CONFIGS["digits"]),
    "E6": (dimension, dimension.Config()),
}


def smoke() -> dict[str, tuple[ModuleType, Any]]:
    """The same parts at a size for tests."""
    return {name: (module, module.smoke()) for name, (module, _) in PARTS.items()}


def main(
    parts: dict[str, tuple[ModuleType, Any]], out: pathlib.Path, *, resume: bool = False
) -> dict[str, Any]:
    """Run the parts one after another, printing the table of each; returns what figures.json holds."""
    out.mkdir(parents=True, exist_ok=True)
    done = sorted(name for name in parts if _file(out, name).exists())
    if done and not resume:
        raise FileExistsError(
            f"{out} holds the results of {', '.join(done)}; go on with --resume, or give another directory "
            "by --out."
        )
    figures = {}
    for name in done:
        figures[name] = json.loads(_file(out, name).read_text())
        wanted = json.loads(json.dumps(dataclasses.asdict(parts[name][1])))
        if figures[name]["config"] != wanted:
            raise ValueError(
                f"{_file(out, name)} is of another config, got {figures[name]['config']}, wanted {wanted}; "
                "give another directory by --out."
            )
    for name, (module, config) in parts.items():
        if name not in done:
            began = time.monotonic()
            print(f"running {name}", file=sys.stderr)
            figures[name] = {**module.run(config), "seconds": time.monotonic() - began}
            _write(_file(out, name), figures[name])
        print(f"\n{name}, {figures[name]['seconds']:.0f} s\n{module.table(figures[name])}", flush=True)
    _write(out / "figures.json", figures)
    draw(parts, figures, out / "figure.png")
    return figures


def draw(parts: dict[str, tuple[ModuleType, Any]], figures: dict[str, Any], path: pathlib.Path) -> None:
    """A panel for each part."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    across = min(3, len(parts))
    down = -(-len(parts) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(5 * across, 4 * down), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(parts) :]:
        axis.axis("off")
    for axis, (name, (module, _)) in zip(axes.flat, parts.items(), strict=False):
        module.draw(figures[name], axis)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _file(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / f"{name}.json"


def _write(path: pathlib.Path, figures: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".tmp")  # a part that was interrupted leaves no file
    partial.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def command_line(arguments: list[str] | None = None) -> None:
    """Parse the flags and run; bad input ends in one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bootstrapping",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/bootstrapping"))
    parser.add_argument("--resume", action="store_true", help="keep the parts that --out holds already")
    parser.add_argument(
        "--smoke", action="store_true", help="seconds instead of minutes, to see that it runs"
    )
    flags = parser.parse_args(arguments)
    parts = smoke() if flags.smoke else PARTS
    try:
        main({name: parts[name] for name in flags.parts}, flags.out, resume=flags.resume)
    except (OSError, ValueError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"\nwritten to {flags.out}/ (figures.json, figure.png and a file for each part)")


if __name__ == "__main__":
    command_line()
