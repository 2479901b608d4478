"""Train a score model on real images, sample from it, and say how good it is.

    python -m experiments.quickstart                       # handwritten digits, a few minutes on two cores
    python -m experiments.quickstart --dataset patches     # 8 x 8 patches of photographs
    python -m experiments.quickstart --bootstrap 0.9       # targets that reuse the network's own average
    python -m experiments.quickstart --pool 1024           # and the posterior over that many training images
    python -m experiments.quickstart --resume              # go on after an interruption, or begin

Digits are scikit-learn's 1,797 images of 8 x 8 pixels in 17 levels, dequantized as (pixel + u) / 17. The
figure of merit is the held-out log-density by the probability flow, in nats of x in [0, 1]^64 (higher is
better). Expect 99 to 101 after the default 6,000 steps.
What carries it is that the network answers with level probabilities, and that the density of a level is left
to the closed form (`jaxdiff.denoising.quantized`). Printed beside it: a Gaussian of full covariance, and a
histogram of each pixel alone, which knows the levels and nothing else.

Patches are cut from the two photographs that ship with scikit-learn, 256 levels; the network learns what the
Gaussian fitted to them leaves over (a `reference`). Expect 205 to 225 nats, against 92 of that Gaussian.

Written to --out: figures.json, figure.png, metrics.jsonl and the checkpoints. A run stopped by SIGTERM or
Ctrl-C, whatever it is doing, saves, exits with status 75 and resumes bit for bit; Ctrl-C twice does not save.
"""

if __name__ == "__main__":
    from experiments import signals  # before the imports below, which take seconds

    signals.listen()

import argparse
import dataclasses
import json
import math
import pathlib
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments import pictures, runs
from experiments.image_problems import PROBLEMS, SCHEDULE, Problem
from experiments.networks import applied, num_parameters
from experiments.optimizers import adamw
from jaxdiff import data
from jaxdiff.denoising import prediction, quantized
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities.flow import probability_flow
from jaxdiff.laws import metrics
from jaxdiff.learning import bootstrap, ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import stable_target
from jaxdiff.models import Mixer
from jaxdiff.noising import times
from jaxdiff.running.checkpoints import Checkpoints
from jaxdiff.running.progress import Progress
from jaxdiff.sampling.driver import integrate_path
from jaxdiff.sampling.heun import Heun
from jaxdiff.typing import Array, Denoised, Key, Params


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; found on a validation part of the training split, never on the test split."""

    dataset: str = "digits"
    steps: int = 6000
    seed: int = 0
    batch_size: int = 32  # small: at an equal number of images more, smaller steps did better
    learning_rate: float = 6e-3
    weight_decay: float = (
        1.0  # on matrices, times the learning rate; what keeps 1,437 images from being learnt
    )
    dropout: float = 0.1
    channels: int = 32
    num_blocks: int = 3
    ema_decay: float = 0.998
    bootstrap: float = 0.0  # how much of the target comes from the average at an earlier time
    warm_up: int = 500  # steps before the average is listened to
    pool: int = 0  # training images, drawn anew at each step, whose posterior mean the target is made of
    evaluation_rows: int = 360
    evaluation_steps: int = 32
    num_probes: int = 4
    num_samples: int = 360


CONFIGS = {
    "digits": Config(),
    # Five times the images, and less to learn in each: held back as the digits are, they lose 20 nats.
    "patches": Config(dataset="patches", weight_decay=0.05, dropout=0.0),
}


def smoke() -> Config:
    """The same run at a size for tests."""
    return Config(
        steps=20,
        channels=8,
        num_blocks=1,
        evaluation_rows=8,
        evaluation_steps=4,
        num_probes=2,
        num_samples=16,
    )


def main(config: Config, out: pathlib.Path, *, resume: bool = False) -> dict[str, Any]:
    """Train, sample and evaluate; returns the figures, which figures.json holds too."""
    began = time.monotonic()
    problem = PROBLEMS[config.dataset]()
    network, state = fit(config, problem, out, resume=resume)
    denoise = model(problem, network, training.averaged(state))
    trained = time.monotonic()
    print("evaluating the held-out log-density", file=sys.stderr)
    figures = {"config": dataclasses.asdict(config), "step": int(state.step)}
    figures |= {"parameters": num_parameters(state.params)} | evaluate(config, problem, denoise)
    path = draw_samples(config, problem, denoise)
    figures |= compare(config, problem, path[-1])
    figures |= {"training_seconds": trained - began, "total_seconds": time.monotonic() - began}
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(problem, path, out)
    return figures


def trained(config: Config, run: str) -> tuple[Problem, Denoiser]:
    """The problem, and the denoiser that the directory run holds; trained first, into run, if it does not.

    An empty run stands for a passing directory.
    """
    problem = PROBLEMS[config.dataset]()
    with tempfile.TemporaryDirectory() as passing:
        network, state = fit(config, problem, pathlib.Path(run or passing))
    return problem, model(problem, network, training.averaged(state))


def fit(
    config: Config, problem: Problem, out: pathlib.Path, *, resume: bool = True
) -> tuple[Mixer, training.TrainState]:
    """The network, and its state after config.steps steps; an interrupted run exits here, saved.

    It goes on from what out holds, if anything; without resume out must hold no run.
    """
    network = Mixer(
        num_outputs=problem.num_outputs,
        channels=config.channels,
        num_blocks=config.num_blocks,
        dropout=config.dropout,
    )
    init_key, key = jax.random.split(jax.random.key(config.seed))
    # Decay holds the matrices back, not biases and positions of pixels that are the same in every image.
    optimizer = adamw(config.learning_rate, config.steps, config.weight_decay, last=0.003)
    decay = ema.warm_up(config.ema_decay)

    def init() -> training.TrainState:
        features = jnp.zeros((1, problem.train.shape[1], problem.num_features))
        return training.init_state(network.init(init_key, features, jnp.zeros(1)), optimizer, ema_decay=decay)

    def loss(params: Params, average: Params, step: Array, key: Key, pixels: Array) -> Array:
        time_key, target_key, dropout_key = jax.random.split(key, 3)
        pool = None
        if config.pool:
            rows_key, encode_key = jax.random.split(jax.random.fold_in(key, 3))
            pool = problem.encode(encode_key, data.batch(rows_key, problem.train, config.pool))
        u = times.stratified(time_key, len(pixels))
        t = times.log_snr_uniform(u, SCHEDULE, t_min=problem.t_min, t_max=problem.t_max).t
        if config.bootstrap or config.pool:
            mix = config.bootstrap * (step >= config.warm_up)
            teacher = model(problem, network, average) if config.bootstrap else None
            x, target = bootstrapped(problem, target_key, teacher, pixels, t, mix, pool)
        else:
            x, target = problem.target(target_key, pixels, t)
        denoise = model(problem, network, params, dropout=dropout_key)
        # Uniform in log-SNR and measured in noise, this is the likelihood weighting.
        return regression_loss(denoise, x, target, t, weight=prediction.noise.row).mean()

    step = bootstrap.make_joint_step(loss, optimizer, ema_decay=decay)
    draw_batch = jax.tree_util.Partial(
        lambda pixels, key: data.batch(key, pixels, config.batch_size), problem.train
    )
    with (
        training.interruption() as stop,
        Checkpoints(out / "checkpoints", config=runs.identity(dataclasses.asdict(config))) as checkpoints,
    ):
        if not resume:
            runs.check_new(checkpoints, out)
        restored = checkpoints.restore(jax.eval_shape(init))
        state = jax.jit(init)() if restored is None else restored.state
        with Progress(config.steps, first_step=int(state.step), log=out / "metrics.jsonl") as progress:
            state = training.train(
                key,
                state,
                step,
                draw_batch,
                num_steps=config.steps,
                report=progress,
                save=checkpoints.save,
                save_every=1000,
                stop=stop,
            )
    runs.leave_if_stopped(state, config.steps, stop)
    return network, state


def model(problem: Problem, network: nn.Module, params: Params, *, dropout: Key | None = None) -> Denoiser:
    """What is trained, with a key for dropout, and sampled and asked for densities, without."""
    return make_denoiser(
        problem.predictor(applied(network, dropout)),
        params,
        SCHEDULE,
        shape=problem.train.shape[1:],
        scale=problem.scale,
        prediction=problem.prediction,
        reference=problem.reference,
        t_min=problem.flow_t_min,
        t_max=problem.t_max,
    )


def bootstrapped(
    problem: Problem,
    key: Key,
    teacher: Denoiser | None,
    pixels: Array,
    t: Array,
    mix: Array | float,
    pool: Array | None = None,
) -> tuple[Array, Denoised]:
    """x_t and its target, mixed with the teacher's estimate, if any, at half the noise of t."""
    encode_key, key = jax.random.split(key)
    x = problem.encode(encode_key, pixels)
    if teacher is None:
        return stable_target(key, SCHEDULE, x, t, pool=pool)
    return bootstrap.half_noise_target(key, teacher, x, t, mix=mix, t_min=problem.t_min, pool=pool)


def evaluate(config: Config, problem: Problem, denoise: Denoiser) -> dict[str, Any]:
    """Held-out log-density in nats of (pixels + u) / levels, bits per dimension, and standard errors."""
    flow_key, data_key = jax.random.split(jax.random.key(1))
    x = problem.encode(data_key, problem.test[: config.evaluation_rows])
    grid = times.log_snr_grid(
        SCHEDULE, config.evaluation_steps, t_max=problem.t_max, t_min=problem.flow_t_min
    )[::-1]

    values = probability_flow(
        flow_key,
        denoise,
        x,
        grid,
        num_probes=config.num_probes,
        start=problem.law.perturbed(SCHEDULE, problem.t_max),
    ).value
    size = x.shape[1]
    nats = pictures.finite("log-densities", values).astype(np.float64) - size * math.log(problem.unit)
    error = float(nats.std(ddof=1) / math.sqrt(len(nats)))  # over images; the probes' own noise is in it
    return {
        "held_out_nats": float(nats.mean()),
        "held_out_nats_standard_error": error,
        "bits_per_dimension": float(data.bits_per_dimension(nats.mean(), size, levels=problem.levels)),
        "bits_per_dimension_standard_error": error / (size * math.log(2)),
        "gaussian_nats": float(problem.law.log_prob(x).mean()) - size * math.log(problem.unit),
        "pixel_histogram_nats": float(_histogram_nats(problem)),
    }


def _histogram_nats(problem: Problem) -> Array:
    """What a histogram of each pixel alone gives on the test images: the levels, and no image."""
    log_prior = quantized.log_histogram(problem.train, levels=problem.levels)
    own = jnp.take_along_axis(log_prior.T, jnp.asarray(problem.test), axis=0)
    return (own.sum(1) + problem.train.shape[1] * math.log(problem.levels)).mean()


def draw_samples(config: Config, problem: Problem, denoise: Denoiser) -> Array:
    """The trajectory of the sampler, shape (42, num_samples, d): 40 Heun steps and the denoised end.

    Raises FloatingPointError for samples that are not finite.
    """
    start_key, key = jax.random.split(jax.random.key(2))
    x = problem.law.perturbed(SCHEDULE, problem.t_max).sample(start_key, config.num_samples)
    grid = times.power_grid(40, t_max=problem.t_max, t_min=2e-3, rho=7)
    path = integrate_path(key, denoise, x, times.to_clean(SCHEDULE, grid), sampler=Heun())
    pictures.finite(f"samples of the average at step {config.steps}", path[-1])
    return path


def compare(config: Config, problem: Problem, samples: Array) -> dict[str, Any]:
    """Distances of the samples to the test images, each beside that of as many training images.

    Raises FloatingPointError for samples that are not finite.
    """
    pictures.finite("samples to be compared", samples)
    encode_key, choose_key, key = jax.random.split(jax.random.key(3), 3)
    n = config.num_samples
    test = problem.encode(encode_key, problem.test[:n])
    train = problem.encode(encode_key, data.batch(choose_key, problem.train, n))
    figures = {}
    for name, x in (("samples", samples), ("training_images", train)):
        figures[f"energy_distance_{name}"] = float(metrics.energy_distance(x, test).value)
        figures[f"sliced_wasserstein_{name}"] = float(
            metrics.sliced_wasserstein(key, x, test, num_projections=500)
        )
    return figures


def draw(problem: Problem, path: Array, out: pathlib.Path) -> None:
    """figure.png: real and generated images, the loss curve, and one trajectory in eight frames."""
    plt = pictures.pyplot()

    real = problem.encode(jax.random.key(4), problem.test[:64])
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    figure, axes = plt.subplot_mosaic(
        "ab;cc;dd", figsize=(9, 9), height_ratios=[5, 2, 3], layout="constrained"
    )
    white = float(real.min())
    limits = {"cmap": "gray_r", "vmin": white, "vmax": float(real.max())}

    def tiles(x: Array, across: int) -> np.ndarray:
        return pictures.tiles(x.reshape(-1, 8, 8, 1), across, line=white)

    axes["a"].imshow(tiles(real, 8), **limits)
    axes["a"].set_title("held-out images")
    axes["b"].imshow(tiles(path[-1, :64], 8), **limits)
    axes["b"].set_title("generated images")
    axes["c"].plot([line["step"] for line in log], [line["loss"] for line in log], linewidth=1)
    axes["c"].set(xlabel="step", ylabel="loss (squared noise error)")
    frames = np.unique(np.linspace(0, len(path) - 1, 10).astype(int))
    strip = np.concatenate([tiles(path[i, :3], 1) for i in frames], axis=1)
    axes["d"].imshow(strip, **limits)
    axes["d"].set_title("three samples on their way from noise")
    for name in "abd":
        axes[name].axis("off")
    figure.savefig(out / "figure.png", dpi=120)
    plt.close(figure)


def command_line(arguments: list[str] | None = None) -> None:
    """Parse the flags, run, and print the figures; bad input ends in one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.quickstart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", choices=sorted(PROBLEMS), default="digits")
    parser.add_argument(
        "--steps", type=int, default=Config.steps, help="training steps (default %(default)s)"
    )
    parser.add_argument(
        "--bootstrap",
        type=float,
        default=Config.bootstrap,
        metavar="MIX",
        help="part of the target, in [0, 1], from the network's average at an earlier time (default none)",
    )
    parser.add_argument(
        "--pool", type=int, default=0, metavar="N", help="training images that join a target (default none)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of initialization, batches and noise")
    parser.add_argument("--out", type=pathlib.Path, help="directory (default results/quickstart-<dataset>)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if any")
    flags = parser.parse_args(arguments)
    if flags.steps < 1:
        parser.error(f"--steps must be at least 1, got {flags.steps}.")
    if not 0 <= flags.bootstrap <= 1:
        parser.error(f"--bootstrap must lie in [0, 1], got {flags.bootstrap}.")
    if flags.pool < 0:
        parser.error(f"--pool must be at least 0, got {flags.pool}.")
    options = {name: getattr(flags, name) for name in ("steps", "seed", "bootstrap", "pool")}
    config = dataclasses.replace(CONFIGS[flags.dataset], **options)
    out = flags.out or pathlib.Path("results") / f"quickstart-{flags.dataset}"
    try:
        figures = main(config, out, resume=flags.resume)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(
        f"held-out log-density  {figures['held_out_nats']:.2f} +- "
        f"{figures['held_out_nats_standard_error']:.2f} nats\n"
        f"beside it             {figures['gaussian_nats']:.2f} of a Gaussian, "
        f"{figures['pixel_histogram_nats']:.2f} of a histogram per pixel\n"
        f"bits per dimension    {figures['bits_per_dimension']:.3f} +- "
        f"{figures['bits_per_dimension_standard_error']:.3f}\n"
        f"energy distance       {figures['energy_distance_samples']:.4f} of samples, "
        f"{figures['energy_distance_training_images']:.4f} of training images, to the test images\n"
        f"sliced Wasserstein    {figures['sliced_wasserstein_samples']:.4f} of samples, "
        f"{figures['sliced_wasserstein_training_images']:.4f} of training images\n"
        f"time                  {figures['training_seconds']:.0f} s of training, "
        f"{figures['total_seconds']:.0f} s in all\n"
        f"written to            {out}/ (figures.json, figure.png, metrics.jsonl, checkpoints)"
    )


if __name__ == "__main__":
    command_line()
