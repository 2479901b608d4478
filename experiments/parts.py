"""Experiments made of parts: each is run, printed, kept as soon as it is done, and drawn as one panel.

A part is a module with `Config`, `smoke() -> Config` (the same at a size for tests), `run(config)`, which
returns figures (what JSON can hold, the config among them), `table(figures) -> str` and
`draw(figures, axes)`; what it measures and what to expect is in its docstring. An experiment is a dictionary
of parts:

    if __name__ == "__main__":
        parts.command_line("name", __doc__, PARTS)
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from types import ModuleType
from typing import Any, TypeAlias

from experiments import pictures

Parts: TypeAlias = dict[str, tuple[ModuleType, Any]]
"""Modules and their configs, by the names of the parts."""


def main(parts: Parts, out: pathlib.Path, *, resume: bool = False) -> dict[str, Any]:
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


def draw(parts: Parts, figures: dict[str, Any], path: pathlib.Path) -> None:
    """A panel for each part."""
    plt = pictures.pyplot()
    across = 2 if len(parts) == 4 else min(3, len(parts))
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


def command_line(name: str, doc: str | None, parts: Parts, arguments: list[str] | None = None) -> None:
    """Parse the flags of `python -m experiments.<name>` and run; bad input ends in one line and status 2."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts), metavar="PART")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(f"results/{name}"))
    parser.add_argument("--resume", action="store_true", help="keep the parts that --out holds already")
    parser.add_argument(
        "--smoke", action="store_true", help="seconds instead of minutes, to see that it runs"
    )
    flags = parser.parse_args(arguments)
    chosen = {part: parts[part] for part in flags.parts}
    if flags.smoke:
        chosen = {part: (module, module.smoke()) for part, (module, _) in chosen.items()}
    try:
        main(chosen, flags.out, resume=flags.resume)
    except (OSError, ValueError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"\nwritten to {flags.out}/ (figures.json, figure.png and a file for each part)")


def _file(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / f"{name}.json"


def _write(path: pathlib.Path, figures: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".tmp")  # a part that was interrupted leaves no file
    partial.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")
    partial.replace(path)
