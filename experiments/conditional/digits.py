"""Digits seen in part: what the main job's model makes of the rest, and how sure it is.

The model of `experiments.quickstart`, and held-out digits of which are seen, through noise of a twentieth,
all but the middle 4 x 4 pixels, the upper half, means of 2 x 2 pixels, or all blurred by a Gaussian of
standard deviation 1. Each method draws 32 images for each with the same compute (`methods`). Judged on the
pixels not seen (all 64, of means and blurs) by the root mean square error of the draws' mean; by coverage,
the share of pixels within an interval that holds 90 % for exact draws; and by the energy score
E|X - x| - E|X - X'| / 2 of all of them together, which is least in the mean for the true law. The controls
see the same: each pixel's own law among training images, by itself; the Gaussian that is fitted to them,
conditioned in closed form; and the training images that are nearest in what is seen.

Expect diffusion posteriors to beat the Gaussian in the energy score, since a hole has shapes and not only
moments. MEASURED, 40 images, one model, 100 evaluations a draw (a core of an AMD EPYC, jax 0.10.2,
2026-11-29), the energy score less the Gaussian's, image by image, and within 90 % for the lower half:

    method                   hole           lower half     small          blurred        within 90 %
    Gaussian's own           .765 +- .031   .852 +- .032   .879 +- .035   .732 +- .019   .930 +- .008
    PiGDM                   -.206 +- .025  -.130 +- .023  -.171 +- .021  -.188 +- .014   .857 +- .012
    TMPD                    -.190 +- .024  -.102 +- .028  -.190 +- .025  -.210 +- .016   .843 +- .011
    MMPS, 4                 -.162 +- .025  -.073 +- .030  -.171 +- .018  -.182 +- .014   .753 +- .016
    DAPS                    -.138 +- .025  -.050 +- .026  -.164 +- .018  -.170 +- .010   .859 +- .012
    split Gibbs             -.088 +- .024  -.026 +- .025  -.045 +- .026  -.164 +- .015   .914 +- .009
    DiffPIR                 -.046 +- .028   .029 +- .021  -.014 +- .025  -.108 +- .012   .889 +- .011
    DPS                      .048 +- .031   .078 +- .022   .350 +- .034   .440 +- .026   .862 +- .010
    prior                    .210 +- .033   .207 +- .031   .553 +- .041   .700 +- .030   .881 +- .009
    each pixel alone         .229 +- .035   .202 +- .028   .572 +- .042   .716 +- .030   .905 +- .008
    the 32 nearest images   -.212 +- .026  -.167 +- .026  -.110 +- .027  -.024 +- .022   .914 +- .010

So for means and blurs PiGDM, TMPD, MMPS and DAPS beat every control. In a hole or a half they beat the
Gaussian, and the nearest training images do as well or better, without a model. Where the score is best the
intervals are too narrow, most of all by MMPS. By the default sampler MMPS had 1.11 on the hole, beside .60 of
PiGDM (100 images, an earlier run).
"""

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from experiments import quickstart
from experiments.conditional import judges
from experiments.conditional.methods import METHODS, Problem
from jaxdiff import inverse
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _tasks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pixels = np.eye(64).reshape(64, 8, 8)
    hole = np.zeros((8, 8), bool)
    hole[2:6, 2:6] = True
    lower = np.zeros((8, 8), bool)
    lower[4:] = True
    small = pixels.reshape(64, 4, 2, 4, 2).mean((2, 4)).reshape(64, 16).T
    masked = {name: (np.eye(64)[~m.reshape(-1)], m.reshape(-1)) for name, m in
              (("hole", hole), ("lower half", lower))}  # fmt: skip
    spread = scipy.ndimage.gaussian_filter(pixels, (0, 1, 1), mode="nearest").reshape(64, 64).T
    whole = np.ones(64, bool)
    return masked | {"small": (small, whole), "blurred": (spread, whole)}


IMAGES = 3  # in the picture
TASKS = _tasks()
"""What is seen, (m, 64), and which pixels are judged: a hole, the lower half, 4 x 4 means, a blur."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, and what is asked of it."""

    model: quickstart.Config = quickstart.CONFIGS["digits"]
    run: str = "results/quickstart-digits"  # where the trained model is, or is put; "" for a passing one
    tasks: tuple[str, ...] = tuple(TASKS)
    std: float = 0.05
    images: int = 40
    draws: int = 32
    compute: int = 100
    settings: tuple[tuple[str, float], ...] = (
        ("DPS", 3.0),
        ("PiGDM", 1.0),
        ("TMPD", 0.0),
        ("MMPS, 4", 0.0),
        ("DiffPIR", 0.0),
        ("DAPS", 0.5),
        ("split Gibbs", 1.0),
        ("prior", 0.0),
    )
    """Methods, with the settings that did best on the mixtures at this compute."""
    shown: int = 8


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        model=quickstart.smoke(),
        run="",
        images=4,
        draws=20,
        compute=44,
        settings=(("MMPS, 4", 0.0),),
        shown=2,
        tasks=("hole", "small"),
    )


def run(config: Config) -> dict[str, Any]:
    """Judged draws of every method and control; and some of them, to be looked at."""
    images, denoise = quickstart.trained(config.model, config.run)
    encode_key, key = jax.random.split(jax.random.key(7))
    train = np.asarray(images.encode(encode_key, images.train), np.float64)
    x = np.asarray(images.encode(key, images.test[: config.images]), np.float64)
    rng = np.random.default_rng(0)
    rows, shown = [], {}
    for task in config.tasks:
        matrix, judged = TASKS[task]
        seen = x @ matrix.T
        seen += config.std * rng.standard_normal(seen.shape)
        draws = {
            name: _draws(config, denoise, matrix, seen, name, setting, jax.random.fold_in(key, i))
            for i, (name, setting) in enumerate(config.settings)
        }
        draws |= _controls(config, train, matrix, seen, rng)
        rows += [
            {"task": task, "method": name}
            | judges.images(got[:, :, judged], x[:, judged], draws["Gaussian"][:, :, judged])
            for name, got in draws.items()
        ]
        shown[task] = {name: np.nan_to_num(got[: config.shown, :4]).tolist() for name, got in draws.items()}
    return {
        "config": dataclasses.asdict(config),
        "rows": rows,
        "range": float(x.max() - x.min()),
        "shown": {"truth": x[: config.shown].tolist(), "draws": shown},
    }


def _draws(
    config: Config,
    denoise: Denoiser,
    matrix: np.ndarray,
    seen: np.ndarray,
    method: str,
    setting: float,
    key: Key,
) -> np.ndarray:
    """(images, draws, pixels)."""
    operator = inverse.linear(jax.tree_util.Partial(_product, jnp.asarray(matrix, jnp.float32)), (64,))

    @jax.jit
    def of(key: Key, y: Array) -> Array:
        problem = Problem(denoise, operator, y, jnp.asarray(config.std))
        return METHODS[method][0](key, problem, config.draws, config.compute, jnp.asarray(setting))

    print(f"digits: {method}", file=sys.stderr, flush=True)
    keys = jax.random.split(key, len(seen))
    got = [of(key, jnp.asarray(y, jnp.float32)) for key, y in zip(keys, seen, strict=True)]
    return np.asarray(jnp.stack(got), np.float64)


def _product(matrix: Array, x: Array) -> Array:
    return matrix.astype(x.dtype) @ x


def _controls(
    config: Config, train: np.ndarray, matrix: np.ndarray, seen: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Of laws that no network knows: (images, draws, pixels) each."""
    shape = (len(seen), config.draws, 64)
    alone, gaussian, near = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for place in range(64):
        alone[:, :, place] = rng.choice(train[:, place], shape[:2])
    mean, covariance = train.mean(0), np.cov(train.T)
    inside = matrix @ covariance @ matrix.T + config.std**2 * np.eye(len(matrix))
    gain = np.linalg.solve(inside, matrix @ covariance).T
    left = covariance - gain @ matrix @ covariance
    for i, y in enumerate(seen):
        center = mean + gain @ (y - matrix @ mean)
        gaussian[i] = rng.multivariate_normal(center, (left + left.T) / 2, config.draws)
        near[i] = train[np.argsort(((train @ matrix.T - y) ** 2).sum(1))[: config.draws]]
    return {"each pixel alone": alone, "Gaussian": gaussian, f"the {config.draws} nearest images": near}


def table(figures: dict[str, Any]) -> str:
    """A line for each task and method."""
    return judges.table(figures["rows"])


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """A row for each task and method: of some images the truth, draws, and the draws' standard deviation."""
    shown = figures["shown"]
    truth, rows = np.asarray(shown["truth"])[:IMAGES], {}
    for task, draws in shown["draws"].items():
        for name, got in draws.items():
            own = np.asarray(got)[:IMAGES]
            tiles = np.concatenate([truth[: len(own), None], own, own.std(1, keepdims=True)], axis=1)
            rows[f"{task}, {name}"] = [np.pad(x.reshape(8, 8), 1) for x in tiles.reshape(-1, 64)]
    picture = np.concatenate([np.concatenate(tiles, axis=1) for tiles in rows.values()])
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    axes.set_yticks(10 * np.arange(len(rows)) + 4.5, list(rows), fontsize=3.5)
    axes.set_xticks([])
    axes.set_title("the truth, four draws, their spread; thrice")
