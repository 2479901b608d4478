"""How good a trained model is: held-out bits per dimension, and the distance of its samples to images.

Bits. Of held-out images, dequantized, the density formula without extrapolation
(`jaxdiff.densities.formula`): in the mean over the denoiser's working range, from sigma_min to sigma_max
unless these go beyond EDM's, with the data's Gaussian as start and as control variate, the evidence lower
bound of the reverse process in continuous time, for images with noise sigma_min, which is under a seventh of
a level of 256. Its standard error is over images; the noise of the estimate is in it. Beside it the
Gaussian's own log-density.

Frechet distance, on features that nobody trained: 32 leading principal components of the pixels, and 32 of
random local filters' rectified answers,

    mean of |<f, 5 x 5 square>| over each quarter of the image,      128 random f without a mean,

both whitened by the training images. It falls as 1 / n to that of the laws, so it is only compared at equal
n: with as many training images, and as many samples of the Gaussian, in place of the samples.
"""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.networks import num_parameters
from experiments.pictures import finite
from experiments.train import figures
from experiments.train.problems import Problem
from experiments.train.trainer import SCHEDULE, Run, average_of, first_average, leave_together
from jaxdiff import data
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula, pilot_time_density
from jaxdiff.laws import metrics
from jaxdiff.laws.shaped import Shaped
from jaxdiff.learning.training import TrainState
from jaxdiff.typing import Array, Key, Params

MAP_CALLS = (1, 2, 4)
"""Of a flow map, whose samples by these are measured beside Heun's."""
_FILTERS, _SIDE, _COMPONENTS = 128, 5, 32


def evaluate(run: Run, state: TrainState, out: pathlib.Path) -> dict[str, Any]:
    """Figures of the first average, which all processes compute together; process 0 draws figure.png."""
    params, problem = first_average(state), run.problem
    values = log_densities(run, params)
    leave_together(state, 1)
    size = math.prod(problem.shape)
    n, steps = run.config.num_samples, run.config.sample_steps
    samples = run.sample(params, jax.random.key(3), n, steps, of=average_of(state))
    by_calls = {}
    for calls in MAP_CALLS if run.learner.objective else ():
        few = run.sample(params, jax.random.key(3), n, steps, of=average_of(state), calls=calls)
        by_calls[f"frechet_{calls}_calls"] = frechet_distances(problem, few)["frechet_samples"]
    leave_together(state, 2)
    found = {
        "parameters": num_parameters(params),
        "held_out_images": len(values),
        **{
            f"{name}bits_per_dimension": float(
                data.bits_per_dimension(nats.mean(), size, levels=problem.levels)
            )
            for name, nats in (("", values), ("gaussian_", gaussian_log_densities(problem, len(values))))
        },
        "bits_per_dimension_standard_error": float(values.std(ddof=1) / len(values) ** 0.5)
        / (size * math.log(2)),
        **frechet_distances(problem, samples),
        **by_calls,
    }
    if jax.process_index() == 0:
        bits = f"{found['bits_per_dimension']:.3f}"
        title = (
            f"held-out bits per dimension {bits}; of a Gaussian {found['gaussian_bits_per_dimension']:.3f}"
        )
        held_out = problem.test[:64] / (problem.levels - 1)
        figures.draw_figure(held_out, problem.images(samples[:64]), out, title)
    return found


def log_densities(run: Run, params: Params) -> np.ndarray:
    """In nats of (pixels + u) / levels, for each of the first held-out images; on all devices."""
    config, problem, layout = run.config, run.problem, run.layout
    devices = layout.mesh.size
    rows = min(config.evaluation_rows, len(problem.test)) // devices * devices
    if not rows:
        raise ValueError(
            f"evaluation_rows must be at least the {devices} devices, got {config.evaluation_rows}."
        )
    pilots = devices * -(-8 // devices)
    chosen = np.random.default_rng(0).choice(len(problem.train), size=pilots, replace=False)

    def nats(params: Params, law: Shaped, key: Key, pilot: Array, pixels: Array) -> Array:
        denoise = run.learner.model(law, params)
        keys = jax.random.split(key, 3)
        # A network errs at some noise levels more than at others; few training images show where.
        time_density = pilot_time_density(
            keys[0],
            denoise,
            problem.encode(keys[1], pilot),
            evaluations=Evaluations(
                config.evaluations,
                reference=law,
            ),
            num_bins=max(1, config.evaluations // 16),
        )
        return density_formula(
            keys[2],
            denoise,
            _held_out(problem, pixels),
            evaluations=Evaluations(
                config.evaluations,
                reference=law,
                time_density=time_density,
            ),
            start=law.perturbed(SCHEDULE, denoise.working_range[1]),
            extrapolate=False,
        ).value

    compiled = jax.jit(nats, out_shardings=layout.replicated)
    law, key = layout.place((problem.law, jax.random.key(1)))
    pilot, pixels = layout.place_rows((problem.train[chosen], problem.test[:rows]))
    values = finite("log-densities", compiled(params, law, key, pilot, pixels)).astype(np.float64)
    return values - math.prod(problem.shape) * math.log(problem.std)


def gaussian_log_densities(problem: Problem, rows: int) -> np.ndarray:
    """The same of the Gaussian alone, at the data themselves."""

    @jax.jit
    def nats(law: Shaped, pixels: Array) -> Array:
        return law.log_prob(_held_out(problem, pixels))

    values = np.asarray(nats(problem.law, problem.test[:rows]), np.float64)
    return values - math.prod(problem.shape) * math.log(problem.std)


def _held_out(problem: Problem, pixels: Array) -> Array:
    """Held-out images x, with the same dequantization for every model."""
    return problem.encode(jax.random.key(4), pixels)


def frechet_distances(problem: Problem, samples: np.ndarray) -> dict[str, float]:
    """Of samples, of as many of the Gaussian and as many training images, to the held-out ones.

    Raises FloatingPointError for samples that are not finite.
    """
    finite("samples to be compared", samples)  # in levels of pixels nothing would be seen of it
    features = fit_features(problem)
    n = min(len(samples), len(problem.test))
    chosen = np.random.default_rng(1).choice(len(problem.train), size=n, replace=False)

    def of_pixels(pixels: np.ndarray) -> Array:
        return jnp.asarray(features((pixels + 0.5) / problem.levels))

    def quantized(x: np.ndarray) -> np.ndarray:
        """x as the levels that images have."""
        return np.asarray(data.quantize(jnp.asarray(problem.images(x)), levels=problem.levels))

    held_out = of_pixels(problem.test[:n])
    others = {
        "samples": quantized(samples[:n]),
        "gaussian": quantized(np.asarray(problem.law.sample(jax.random.key(5), n))),
        "training_images": problem.train[chosen],
    }
    return {
        "frechet_images": n,
        **{
            f"frechet_{name}": float(metrics.frechet_distance(of_pixels(pixels), held_out))
            for name, pixels in others.items()
        },
    }


def fit_features(problem: Problem) -> Callable[[np.ndarray], np.ndarray]:
    """The features of images (n, height, width, channels) in [0, 1], shape (n, at most 64)."""
    side = min(_SIDE, *problem.shape[:2])
    filters = np.random.default_rng(0).normal(size=(side, side, problem.shape[2], _FILTERS))
    filters -= filters.mean((0, 1, 2))
    filters = jnp.asarray(filters / np.linalg.norm(filters.reshape(-1, _FILTERS), axis=0), jnp.float32)

    @jax.jit
    def textures(images: Array) -> Array:
        names = ("NHWC", "HWIO", "NHWC")
        answers = jnp.abs(
            jax.lax.conv_general_dilated(images, filters, (1, 1), "VALID", dimension_numbers=names)
        )
        quarters = [
            part for half in jnp.array_split(answers, 2, axis=1) for part in jnp.array_split(half, 2, axis=2)
        ]
        return jnp.concatenate([quarter.mean((1, 2)) for quarter in quarters], axis=1)

    def pixels(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)

    def filtered(images: np.ndarray) -> np.ndarray:
        parts = np.array_split(np.asarray(images, np.float32), -(-len(images) // 1000))
        return np.concatenate([np.asarray(textures(jnp.asarray(part))) for part in parts])

    chosen = np.random.default_rng(0).permutation(len(problem.train))[:10_000]
    images = ((problem.train[chosen] + 0.5) / problem.levels).astype(np.float32)
    whitened = [_whitening(describe, images) for describe in (pixels, filtered)]
    return lambda images: np.concatenate([white(images) for white in whitened], axis=1)


def _whitening(
    describe: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """The leading principal components of describe(images), each of variance 1 there."""
    rows = describe(images)
    mean = rows.mean(0)
    covariance = np.cov(rows, rowvar=False)
    values, basis = np.linalg.eigh(covariance)
    kept = slice(max(0, len(values) - _COMPONENTS), None)
    scaled = basis[:, kept] / np.sqrt(values[kept])
    return lambda images: ((describe(images) - mean) @ scaled).astype(np.float32)
