"""Digits of a wished class in five calls: a start for each class, and a horizon chosen with the labels.

A network of the noised digits and their class (that of `experiments.density.classifier`, trained here) is
asked for as many of each class as the test images have. `choose_horizon`, given the training images and
their labels, says where to start and on what grid; the start is a law for each class, fitted at that time.
Samples are told from the test images by a classifier, of which 0.5 is none, and by the energy distance.

Beside the short run from the starts: the starts' own laws without any call; as many calls from noise, by the
better of two solvers and six grids, chosen on other draws against the model's long run; the long run; and
training images. Rows are means over draws, of one network: other trainings are not in the errors.

MEASURED (`python -m experiments.initialization --parts conditional`, one busy core of an AMD EPYC, jax
0.10.2, 2026-11-30; 92 s), 360 images, 5 draws; the choice was sigma / alpha = 1.17, three times as much noise
as data, and DEIS of order 3 both from there and from noise:

                                    classifier       energy distance
    the starts' laws, no calls      .796 +- .017     -.0025 +- .0005
    5 calls from the starts         .516 +- .009     -.0008 +- .0007
    5 calls from noise              .776 +- .020      .0009 +- .0008
    40 calls from noise             .536 +- .019      .0007 +- .0009
    training images                 .493 +- .005     -.0009 +- .0011

So five calls from the starts are told apart no more often than forty from noise (-.020 +- .021); neither
the starts nor the calls do that alone. The energy distance sees none of it. By independent draws of starts,
and other keys, `choose_horizon` took sigma / alpha = .38, and .544 +- .011 of its samples were told; how
much of that is the luck of one choice was not asked.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density import classifier, classifier_network
from experiments.estimates import mean, show
from jaxdiff import data
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws import metrics
from jaxdiff.laws.labelled import Labelled
from jaxdiff.noising import times
from jaxdiff.noising.process import log_snr
from jaxdiff.sampling import starts
from jaxdiff.sampling.driver import sample
from jaxdiff.sampling.exponential_adams import deis, dpm_solver_pp, unipc
from jaxdiff.sampling.horizon import choose_horizon
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.starts import fit_labelled_start
from jaxdiff.typing import Array, Key, StartLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOLVERS = {"DEIS 3": deis(3), "DPM-Solver++ 2": dpm_solver_pp(2)}
JUDGES = ("classifier", "energy")
_T_MIN = 0.02  # where the long run and the grids from noise leave for the denoised end


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    model: classifier.Config = dataclasses.field(default_factory=classifier.Config)
    calls: int = 5
    rank: int = 16  # of a class's Gaussian
    horizons: tuple[float, ...] = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8)
    rhos: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    long_calls: int = 40
    draws: int = 5
    samples_to_choose: int = 1437
    classifier_steps: int = 1000


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        model=classifier.smoke(),
        rank=2,
        horizons=(0.5,),
        rhos=(2.0,),
        long_calls=8,
        draws=2,
        samples_to_choose=64,
        classifier_steps=2,
    )


def run(config: Config) -> dict[str, Any]:
    """Judgements by row, means over draws."""
    pixels, labels, test_pixels, test_labels = classifier.split_digits(config.model)
    laws = classifier.class_gaussians(config.model, pixels, labels)
    denoise = classifier_network.fit(config.model, pixels, labels, laws)
    choose_key, draw_key, test_key, judge_key = jax.random.split(jax.random.key(0), 4)
    encode = functools.partial(data.dequantize, levels=classifier_network.LEVELS)
    train, test = encode(choose_key, pixels), encode(test_key, test_pixels)
    wanted = jnp.asarray(test_labels)

    family = starts.low_rank(config.rank)
    with warnings.catch_warnings():
        # Of so many parameters for the rows of a class: what that costs is what is measured.
        warnings.filterwarnings("ignore", message="the start law has")
        choices = {
            name: choose_horizon(
                choose_key,
                family,
                denoise,
                train,
                num_steps=config.calls,
                sampler=solver,
                horizons=config.horizons,
                num_samples=config.samples_to_choose,
                labels=labels,
            )
            for name, solver in SOLVERS.items()
        }
        bare = fit_labelled_start(choose_key, family, train, labels, denoise.schedule, _T_MIN)
    chosen = min(choices, key=lambda name: float(choices[name].candidates.distance.min()))
    choice, own = choices[chosen], choices[chosen].start
    assert isinstance(own, Labelled)
    bound, length = denoise.given(wanted), len(wanted)
    plain, plain_solver = _best_from_noise(config, choose_key, denoise.given(labels), len(labels))
    long = _grid(denoise, config.long_calls, 3.0)
    noise_law = starts.plain().fit(choose_key, train, denoise.schedule, long[0])

    def drawn(solver: Sampler, grid: Array, start: StartLaw) -> Callable[[Key], Array]:
        return lambda key: sample(key, bound, length, sampler=solver, times=grid, start=start)

    ways: dict[str, Callable[[Key], Array]] = {
        "the starts' laws, no calls": lambda key: bare.given(wanted).sample(key, length),
        f"{config.calls} calls from the starts": drawn(SOLVERS[chosen], choice.times, own.given(wanted)),
        f"{config.calls} calls from noise": drawn(SOLVERS[plain_solver], plain, noise_law),
        f"{config.long_calls} calls from noise": drawn(unipc(2), long, noise_law),
        "training images": lambda key: jax.random.permutation(key, train)[:length],
    }
    rows = {name: [] for name in ways}
    for key, own_key in zip(
        *(jax.random.split(key, config.draws) for key in (draw_key, judge_key)), strict=True
    ):
        for name, way in ways.items():
            rows[name].append(_judge(config, own_key, way(key), test))
    return {
        "config": dataclasses.asdict(config),
        "solver": chosen,
        "horizon": float(jnp.exp(-0.5 * log_snr(denoise.schedule, choice.t_max))),
        "solver_from_noise": plain_solver,
        "rows": [
            {"name": name, **dict(zip(JUDGES, map(mean, zip(*found, strict=True)), strict=True))}
            for name, found in rows.items()
        ],
    }


def _judge(config: Config, key: Key, x: Array, test: Array) -> tuple[float, float]:
    told = metrics.classifier_two_sample_test(key, x, test, num_steps=config.classifier_steps)
    return float(told.value), float(metrics.energy_distance(x, test).value)


def _grid(denoise: Denoiser, calls: int, rho: float) -> Array:
    """Even in a power of sigma / alpha, from all noise, with the denoised end."""
    last = denoise.working_range[1]
    grid = times.noise_grid(denoise.schedule, calls - 1, t_min=_T_MIN, t_max=last, rho=rho)
    return times.to_clean(denoise.schedule, grid)


def _best_from_noise(config: Config, key: Key, denoise: Denoiser, n: int) -> tuple[Array, str]:
    """The grid and the solver whose samples are nearest to the long run's, by the sliced W_2."""
    long = _grid(denoise, config.long_calls, 3.0)
    law = starts.plain().fit(key, jnp.zeros((2, *denoise.shape)), denoise.schedule, long[0])
    wanted = sample(key, denoise, n, sampler=unipc(2), times=long, start=law)
    found = []
    for name, solver in SOLVERS.items():
        for rho in config.rhos:
            grid = _grid(denoise, config.calls, rho)
            x = sample(key, denoise, n, sampler=solver, times=grid, start=law)
            apart = metrics.sliced_wasserstein(key, x, wanted, num_projections=64)
            found.append((float(apart), name, grid))
    _, name, grid = min(found, key=lambda one: one[0])
    return grid, name


def table(figures: dict[str, Any]) -> str:
    """A row for each way to draw."""
    lines = [
        f"from sigma / alpha = {figures['horizon']:.2f} by {figures['solver']}; from noise by "
        f"{figures['solver_from_noise']}",
        f"{'':32} {'classifier':>18} {'energy distance':>20}",
    ]
    for row in figures["rows"]:
        lines.append(f"{row['name']:32} {show(row['classifier'], 3):>18} {show(row['energy'], 4):>20}")
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """The classifier's accuracy by row."""
    rows = figures["rows"]
    values = [row["classifier"]["mean"] for row in rows]
    errors = [row["classifier"]["standard_error"] for row in rows]
    places = np.arange(len(rows))
    axes.barh(places, values, xerr=errors, color="C0")
    axes.set_yticks(places, labels=[row["name"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(0.5, color="gray", linestyle=":")
    axes.set(xlim=(0.4, 1), xlabel="told from test images", title="digits given their class")
