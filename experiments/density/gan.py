"""GAN: what a score regularizer makes of a generator, on 25 modes and on digits.

A generator that pays l times the `score_regularizer` of a model of p pays, by the density formula, l times
its cross-entropy to p; `experiments.density.regularized_optimum` has the generator that is best then, for the
losses that `experiments.density.gan_training` trains. From t_min on, the regularizer knows p noised to t_min:
between modes of width .1 it is a wall of 50 l nats, over which no sample comes to a mode that lacks some. So
t_min falls from .5 while the regularizer is on.

    25 modes    Gaussians on a grid with the exact model of them. After a first half of training without the
                regularizer, the second half is run with each strength, from the same networks
    digits      the same, with the main job's diffusion model as the model

Controls: no regularizer, in as many steps and in half as many again; no annealing; and samples of the GAN
without a regularizer that the same model repairs, by noise of t = .5 and the probability flow back.

A sample is off mode if it is more than 4 standard deviations from every mean; a mode is counted if it has at
least a quarter of its share of the samples. The variance ratio is that around the modes of the samples on
them to the law's own: 1 / (1 + 2 l) at the optimum for a small l, with a critic that is perfect.

MEASURED, 25 modes, five seeds that chose nothing, means with the least and the greatest (a core of an AMD
EPYC, jax 0.10.2, 2026-11-29; 294 s with the digits). The baseline was chosen on seed 100 among five: R1 of
.02, .1 and .3, .1 at samples too, and one critic step with a smoother critic.

                          off mode              modes             variance ratio
    none                  .190 [.133, .274]     24.4 [23, 25]     1.73 [1.57, 1.90]
    l = .1                .177 [.114, .299]     23.4 [19, 25]     1.49 [1.18, 2.00]
    l = .3                .179 [.126, .243]     22.6 [19, 25]     1.42 [1.19, 1.74]
    l = .3, no annealing  .614 [.313, .800]      9.6 [7, 12]      3.13 [2.09, 3.82]
    none, longer          .168 [.118, .261]     24.6 [23, 25]     1.67 [1.54, 1.88]
    none, repaired        .069 [.059, .086]     25   [25, 25]     1.16 [1.09, 1.30]

So annealing is what keeps the modes. With it the regularizer narrows them, and takes .013 off the share
between them at l = .1, where half was the aim: less than half as many steps more take without it. Repair by
the same model needs no training and leaves a third. That a stronger regularizer takes no more off suggests
that what is left between modes is not for want of a reward.

Rounding decides these trainings: the same five seeds one by one, not side by side, had .135 [.131, .140],
.115 [.099, .128], .131, .577, .118 and .062, and 24.4 to 25 modes but for 9.8; so two of five are outliers
of no seed. By those the regularizer takes .020 +- .003 off, paired, and longer training as much.

MEASURED, digits, without the regularizer, how the baseline was chosen (seed 100, 300 training images held
out; the same day). Both halves together:

                                              far      missed    told
    images                                    .050     .050      .523
    800 steps, penalties 1                    .180     .110      .707
    1,600 steps, penalties 1                  .063     .060      .703
    1,600 steps, penalties .1                 .053     .067      .707
    1,600 steps, R1 of 10 alone               .113     .070      .730

And how the strength was, 800 steps to each half, the same seed and images:

    l                                   0       .001    .003    .01     .03
    far                                 .063    .043    .027    .003    .003
    told                                .697    .640    .607    .610    .710
    energy distance                     .0005   .0018   .0048   .0150   .0389

MEASURED, digits, test images, three seeds that chose nothing, means with the least and the greatest:

                 far               missed            told              energy distance       Frechet
    images       .050              .050              .569              -.0000                .190
    none         .058 [.050, .067] .066 [.064, .069] .713 [.692, .744] .0034 [.0027, .0042]  .250
    l = .003     .020 [.019, .022] .056 [.053, .058] .619 [.611, .633] .0082 [.0075, .0096]  .273
    none, longer .041 [.028, .047] .050 [.044, .058] .710 [.700, .719] .0039 [.0034, .0048]  .254
    repaired     .105 [.100, .111] .085 [.075, .100] .503 [.494, .517] .0011 [.0008, .0013]  .219
    model        .190 [.153, .217] .093 [.078, .114] .540 [.522, .553] .0026 [.0008, .0037]  .217

So on digits the regularizer does take more than half off the share that is far, misses no more, and a
classifier tells its samples less often; half as many steps more do neither. But samples are nearer to test
images than images are, .020 for .050, and both distances grow: it narrows. Repair by the same model, twenty
steps of its flow, needs no training and leaves nothing that the classifier tells.
"""

import dataclasses
import functools
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import quickstart
from experiments.density import regularized_optimum
from experiments.density.gan_training import SCHEDULE, Gan, Problem, Variant, train
from experiments.image_problems import Problem as ImageProblem
from jaxdiff import data
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws import metrics
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising import times
from jaxdiff.noising.process import perturb
from jaxdiff.sampling.driver import integrate
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MODES = Gan(  # chosen on seed 100, without the regularizer
    t_min=0.05,
    t_max=8.0,
    clip=200.0,
    draws=4,
    num_samples=20_000,
    steps=400,
    batch_size=128,
    width=64,
    penalty=0.1,
    critic_steps=2,
    waves=(0.5, 1.0, 2.0, 4.0, 8.0),
    critic_waves=(0.5, 1.0, 2.0, 4.0),
    seeds=(0, 1, 2, 3, 4),
)
DIGITS = Gan(  # chosen without the regularizer: seed 100, a part of the training images held out
    t_min=0.05,
    t_max=5.0,  # the model's
    clip=400.0,
    draws=1,
    num_samples=360,
    steps=800,
    batch_size=64,
    width=256,
    penalty=1.0,
    fake_penalty=1.0,
    learning_rate=1e-3,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    optimum_strengths: tuple[float, ...] = (0.01, 0.05, 0.1, 0.3, 1.0)
    descent_steps: int = 4000
    slope_points: int = 256
    mode_std: float = 0.1
    t_start: float = 0.5
    modes: Gan = MODES
    mode_strengths: tuple[float, ...] = (0.1, 0.3)
    longer: float = 1.5  # the steps of a control, beside those of the others
    digits: Gan = DIGITS
    digit_strengths: tuple[float, ...] = (0.003,)  # by seed 100 and held-out training images
    model: quickstart.Config = quickstart.CONFIGS["digits"]
    run: str = "results/quickstart-digits"  # where the trained model is, or is put; "" for a passing one


def smoke() -> Config:
    """The same at a size for tests."""
    full = Config()
    small = {"steps": 20, "width": 16, "depth": 1, "batch_size": 32, "seeds": (0, 1)}
    return dataclasses.replace(
        full,
        descent_steps=400,
        slope_points=64,
        modes=dataclasses.replace(full.modes, **small, num_samples=500),
        mode_strengths=(0.1,),
        digits=dataclasses.replace(full.digits, **small),
        digit_strengths=(0.1,),
        model=quickstart.smoke(),
        run="",
    )


def run(config: Config) -> dict[str, Any]:
    """The closed forms' tables and those of the trainings, and some samples to draw."""
    with jax.enable_x64(True):
        optimum = regularized_optimum.optima(config.optimum_strengths, config.descent_steps)
        weights = regularized_optimum.slopes(config.slope_points)
    rows, samples = modes(config)
    return {
        "config": dataclasses.asdict(config),
        "optimum": optimum,
        "weights": weights,
        "modes": rows,
        "digits": digits(config),
        "samples": {name: np.asarray(x[:1500], np.float64).round(3).tolist() for name, x in samples.items()},
    }


def modes(config: Config) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """A row of figures for each way, and samples of the first seed of the first way and the last strength."""
    law = mode_law(config.mode_std)
    variance = law.means.var(0) + law.covariances.values[0]
    problem = Problem(law.sample, Gaussian(jnp.zeros(2), variance), law.denoiser(SCHEDULE))
    variants = _variants(config, config.mode_strengths)
    variants["no annealing"] = Variant(config.mode_strengths[-1], config.modes.t_min)
    print("25 modes", file=sys.stderr)
    samples = dict(zip(variants, train(config.modes, problem, list(variants.values())), strict=True))
    longer = dataclasses.replace(config.modes, steps=round(config.longer * config.modes.steps))
    samples["none, longer"] = train(longer, problem, [Variant(0.0, config.t_start)])[0]
    samples["none, repaired"] = jax.lax.map(lambda x: _repaired(problem, x, config.t_start), samples["none"])
    rows = [_summary(name, [judge_modes(x, law) for x in xs]) for name, xs in samples.items()]
    return rows, {name: samples[name][0] for name in ("none", f"l = {config.mode_strengths[-1]}")}


def _variants(config: Config, strengths: tuple[float, ...]) -> dict[str, Variant]:
    annealed = {f"l = {strength}": Variant(strength, config.t_start) for strength in strengths}
    return {"none": Variant(0.0, config.t_start)} | annealed


def _repaired(problem: Problem, x: Array, t: float) -> Array:
    """Samples noised to t, and denoised by twenty steps of the model's flow."""
    noise_key, key = jax.random.split(jax.random.key(1))
    x_t = perturb(SCHEDULE, x, jax.random.normal(noise_key, x.shape), jnp.asarray(t))
    return integrate(key, problem.denoise, x_t, times.log_snr_grid(SCHEDULE, 20, t_min=0.01, t_max=t))


def mode_law(std: float) -> GaussianMixture:
    """25 Gaussians of equal weight on a square grid of spacing 2."""
    line = np.arange(-4.0, 5.0, 2.0)
    means = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return GaussianMixture(np.full(25, 0.04), means, np.full(25, std**2))


def judge_modes(samples: Array | np.ndarray, law: GaussianMixture) -> dict[str, float]:
    """Samples (n, 2): the share off every mode, the smallest mode's share and the variance around modes."""
    std = float(jnp.sqrt(law.covariances.values[0, 0]))
    samples = np.asarray(samples, np.float64)
    offsets = samples[:, None] - np.asarray(law.means)[None]
    distances = np.linalg.norm(offsets, axis=2)
    nearest, on = distances.argmin(1), distances.min(1) < 4 * std
    member = (nearest[:, None] == np.arange(25)[None]) & on[:, None]
    counts = member.sum(0)
    centers = np.einsum("nk,nkd->kd", member, offsets) / np.maximum(counts, 1)[:, None]
    squares = np.where(member, ((offsets - centers[None]) ** 2).sum(2), 0).sum()
    return {
        "off_mode": 1 - float(on.mean()),
        "modes": int((counts > 0.25 * len(samples) / 25).sum()),
        "least_share": float(25 * counts.min() / len(samples)),
        "variance_ratio": float(squares / (2 * max(on.sum(), 1)) / std**2),
    }


def digits(config: Config) -> list[dict[str, Any]]:
    """On digits: the main job's diffusion model, of the training split; judged by the test split."""
    images, denoise = quickstart.trained(config.model, config.run)
    train_key, test_key, choose_key = jax.random.split(jax.random.key(0), 3)
    encoded, test = images.encode(train_key, images.train), images.encode(test_key, images.test)
    problem = Problem(lambda key, n: data.batch(key, encoded, n), images.law, denoise)
    real = data.batch(choose_key, encoded, len(test))  # what the distances of perfect samples would be
    judge = functools.partial(judge_digits, test=test, real=real)
    variants = _variants(config, config.digit_strengths)
    print("digits", file=sys.stderr)
    # Without a strength nothing is asked of the model: one that costs nothing takes its place.
    free = problem._replace(denoise=images.law.denoiser(SCHEDULE))
    none = [variants.pop("none")]
    longer = dataclasses.replace(config.digits, steps=round(config.longer * config.digits.steps))
    samples = {"none": train(config.digits, free, none)[0]}
    samples |= dict(zip(variants, train(config.digits, problem, list(variants.values())), strict=True))
    samples["none, longer"] = train(longer, free, none)[0]
    samples["none, repaired"] = jax.lax.map(lambda x: _repaired(problem, x, config.t_start), samples["none"])
    samples["model"] = jax.lax.map(
        lambda key: _sampled(images, denoise, key, len(test)),
        jax.random.split(jax.random.key(4), len(config.digits.seeds)),
    )
    rows = [_summary(name, [judge(x) for x in xs]) for name, xs in samples.items()]
    return [_summary("images", [judge(real)]), *rows]


def _sampled(images: ImageProblem, denoise: Denoiser, key: Key, n: int) -> Array:
    """What the diffusion model itself makes, in forty steps."""
    start_key, key = jax.random.split(key)
    x = images.law.perturbed(SCHEDULE, images.t_max).sample(start_key, n)
    return integrate(key, denoise, x, times.log_snr_grid(SCHEDULE, 40, t_min=0.01, t_max=images.t_max))


def judge_digits(samples: Array, test: Array, real: Array) -> dict[str, float]:
    """Distances of samples to test images, what they miss of each other, and how a network tells them apart.

    far: the share of samples farther from the nearest test image than 95 % of real images are; missed: that
    of test images farther from the nearest sample than 95 % of them are from the nearest real image; told: a
    classifier's accuracy, samples against test images.
    """
    told = metrics.classifier_two_sample_test(jax.random.key(5), samples, test, width=64, num_steps=300)
    figures = {name: float(value) for name, value in _judge_digits(samples, test, real).items()}
    return figures | {"told": float(told.value)}


@jax.jit
def _judge_digits(samples: Array, test: Array, real: Array) -> dict[str, Array]:
    def nearest(x: Array, y: Array) -> Array:
        return jax.lax.map(lambda row: jnp.linalg.norm(y - row[None], axis=1).min(), x)

    far = nearest(samples, test) > jnp.quantile(nearest(real, test), 0.95)
    missed = nearest(test, samples) > jnp.quantile(nearest(test, real), 0.95)
    return {
        "energy": metrics.energy_distance(samples, test).value,
        "frechet": metrics.frechet_distance(samples, test),
        "far": far.mean(),
        "missed": missed.mean(),
    }


def _summary(name: str, rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, with the least and the greatest."""
    return {"way": name} | {figure: _mean([row[figure] for row in rows]) for figure in rows[0]}


def _mean(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "least": float(min(values)), "greatest": float(max(values))}


def table(figures: dict[str, Any]) -> str:
    """Three tables; over seeds, the mean with the least and the greatest."""
    lines = [regularized_optimum.table(figures["optimum"], figures["weights"])]
    for name in ("modes", "digits"):
        rows = figures[name]
        columns = [key for key in rows[0] if key != "way"]
        lines.append(f"\n{name:18}" + "".join(f"{column:>26}" for column in columns))
        for row in rows:
            cells = (row[column] for column in columns)
            shown = (f"{c['mean']:.4g} [{c['least']:.4g}, {c['greatest']:.4g}]" for c in cells)
            lines.append(f"{row['way']:18}" + "".join(f"{cell:>26}" for cell in shown))
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Samples of one seed, without the regularizer and with the strongest."""
    names = list(figures["samples"])
    for name, color in ((names[0], "C7"), (names[-1], "C3")):
        x, y = np.asarray(figures["samples"][name]).T
        axes.plot(x, y, ".", markersize=1.5, color=color, label=name)
    axes.set(
        title="25 modes, a GAN and a score regularizer", aspect="equal", xlim=(-5.5, 5.5), ylim=(-5.5, 5.5)
    )
    axes.legend(fontsize="x-small", markerscale=6)
