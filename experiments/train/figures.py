"""Grids of images, and the figure of a run."""

import json
import pathlib

import numpy as np

from experiments.pictures import pyplot, tiles


def draw_grid(images: np.ndarray, path: pathlib.Path) -> None:
    """Images (n, height, width, 1 or 3) in [0, 1] as one PNG, in rows of eight."""
    plt = pyplot()
    grid = tiles(images, 8)
    plt.imsave(path, grid.repeat(2, axis=0).repeat(2, axis=1), vmin=0, vmax=1, cmap="gray")


def draw_figure(held_out: np.ndarray, samples: np.ndarray, out: pathlib.Path, title: str) -> None:
    """figure.png of a run: held-out images, generated ones, and the loss by metrics.jsonl."""
    plt = pyplot()
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    figure, axes = plt.subplot_mosaic("ab;cc", figsize=(9, 7), height_ratios=[5, 2], layout="constrained")
    for name, images, label in (("a", held_out, "held-out images"), ("b", samples, "generated images")):
        axes[name].imshow(tiles(images[:64], 8), vmin=0, vmax=1, cmap="gray")
        axes[name].set_title(label)
        axes[name].axis("off")
    axes["c"].plot([line["step"] for line in log], [line["loss"] for line in log], linewidth=1)
    axes["c"].set(xlabel="step", ylabel="loss", yscale="log", title=title)
    figure.savefig(out / "figure.png", dpi=120)
    plt.close(figure)
