"""How draws of a posterior are judged."""

from typing import Any

import numpy as np

from experiments import estimates


def interval(draws: np.ndarray, share: float, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Its two ends, of so many exact draws that another is within with this probability.

    Of n independent draws of a uniform law the quantile q, linear between order statistics, has in the mean
    (q (n - 1) + 1) / (n + 1) below it, so quantiles of 5 % and 95 % of 32 draws hold .85 and not .9. Tails
    that are not straight hold a little more, of 32 normal draws .909.
    """
    n, tail = draws.shape[axis], (1 - share) / 2
    q = (tail * (n + 1) - 1) / (n - 1)
    if q < -1e-9:
        raise ValueError(f"an interval of {share} needs {round(1 / tail) - 1} draws, got {n}.")
    low, high = np.quantile(draws, [max(q, 0), min(1 - q, 1)], axis=axis)
    return low, high


def images(draws: np.ndarray, truth: np.ndarray, control: np.ndarray) -> dict[str, Any]:
    """draws (images, draws, judged) against truth (images, judged); None where any is no number.

    The energy score less that of the control's draws too, image by image: images differ more than methods.
    """
    if not np.isfinite(draws).all():
        return dict.fromkeys(("error", "coverage", "energy_score", "less_control"))
    error = np.sqrt(((draws.mean(1) - truth) ** 2).mean(1))
    low, high = interval(draws, 0.9, axis=1)
    covered = ((truth >= low) & (truth <= high)).mean(1)
    score = energy_score(draws, truth)
    return {
        "error": estimates.mean(error),
        "coverage": estimates.mean(covered),
        "energy_score": estimates.mean(score),
        "less_control": estimates.mean(score - energy_score(control, truth)),
    }


def energy_score(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """E|X - x| - E|X - X'| / 2 of each image's draws, (images,): least, in the mean, for the true law."""
    n = draws.shape[1]
    apart = np.linalg.norm(draws[:, :, None] - draws[:, None], axis=-1).sum((1, 2)) / (n * (n - 1))
    return np.linalg.norm(draws - truth[:, None], axis=-1).mean(1) - apart / 2


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each task and method, of `images`."""
    show = estimates.show
    names = ("error of the mean", "coverage of 90 %", "energy score", "less Gaussian")
    lines = [f"{'task':14}{'method':28}" + "".join(f"{name:>20}" for name in names)]
    lines += [
        f"{row['task']:14}{row['method']:28}{show(row['error'], 3):>20}{show(row['coverage'], 3):>20}"
        f"{show(row['energy_score'], 3):>20}{show(row['less_control'], 3):>20}"
        for row in rows
    ]
    return "\n".join(lines)
