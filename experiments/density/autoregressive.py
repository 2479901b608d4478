"""Autoregressive: the diffusion loss of autoregressive models is a likelihood, with the right weights.

An autoregressive model over continuous tokens (Li et al. 2024, arXiv 2406.11838) learns the law of a token x
given z, what a network made of the tokens before it, by a regression onto the noise. With the density formula
(`jaxdiff.densities.formula`)

    E[-log p(x | z)]  <=  (1/2) int E|eps - N(x_t, t; z)|^2 dlambda + const,                         (1)

an equality where N is the denoiser of a law. So with times uniform in log-SNR the loss is maximum likelihood,
up to what (1) leaves, and with times uniform under a schedule it is another criterion. Two measurements:

*The minimizer.* Data of four modes, N(+-0.8, 0.05) and N(+-1.6, 0.05) with equal weights, and the family
(N(m, s2) + N(-m, s2)) / 2, which does not hold them. The mean of the regression is, up to a constant,

    (1/2) int w(lambda) E|N - N_theta|^2 dlambda,                                                    (2)

with w = 1 the divergence KL(data || theta), and with w in proportion to |dt / dlambda| the loss of uniform
times. It is minimized by Newton's method, beside the likelihood itself, both by quadrature in float64.

*Digits.* scikit-learn's 8 x 8 digits, dequantized as in `experiments.quickstart`, in sixteen tokens of 2 x 2
pixels, in reading order. A `MaskedAutoregressive` learns them in four ways, see `autoregressive_training`.
Its denoising network answers with level probabilities (`jaxdiff.denoising.quantized`). The held-out
log-density is that of the chain rule. Its terms need no formula each: given the z of all tokens, which come
from clean ones, the error of an image is the sum of its tokens', and so is the formula. Beside it, where in
log-SNR each way wins or loses its nats.

Expect the minimizer with formula weights to be the likelihood's, and (2) there to be the divergence; with
uniform times another one. About learning the theory says less: its criterion is better, in the limit of much
training, which is not where this experiment stops.

MEASURED, the minimizers (one core of a shared AMD EPYC, jax 0.12.0.1, 2026-11-22):

    minimizer of            m         s2        s2 - likelihood's    KL(data || .)
    likelihood              1.19932   .211637                        .118915
    (2), formula weights    1.19932   .211637   2e-11                .118915, and so is (2)
    uniform, cosine         1.19753   .215174   3.5e-3               .118988
    uniform, linear rate    1.19746   .215380   3.7e-3               .118996
    uniform, lin. variance  1.19647   .217723   6.1e-3               .119124

The digits, 6,000 steps, three seeds (jax 0.10.2, 2026-11-29; 1,046 s, most of it training). The weight
decay was chosen on a part of the training split, with another seed and uniform weights: 1 gives 101.4
there, and .3, that of shorter trainings, 90.3, for 110 and 123 on images that were learnt. Differences are
paired over 360 images, and in brackets stand the standard errors over seeds:

    nats                  uniform weights    formula               formula, matched      uniform, matched
    held out              101.25             +.09 +- .13 (.05)     +.42 +- .10 (.10)     -.41 +- .11 (.07)
    training              108.74             -1.95 +- .11 (.06)    +1.08 +- .10 (.11)    +1.26 +- .08 (.07)
      by quarters of log-SNR,                +.3 -1.4 -.9 -.1      +.8 +.3 -.2 -.0       +.2 +.8 +.3 +.0
      clean to noisy
    bits per dimension,   1.8050             1.8030                1.7956                1.8142
      held out

So what wins on the images that are learnt is the levels, dealt by their gradients' noise, whatever the
weights; and what wins on others is the theory's weights at these levels: .42 nats over uniform weights and
.83 over uniform ones at levels dealt alike, whose gain is overfitting. Where it is won is at clean levels,
which uniform times slight. The theory's weights alone lose on the images that are learnt, as their
gradient's deviation is 1.25 times that at matched levels, and win nothing on others. All this is less than
half a nat of a hundred: in the family above, which cannot hold the data, wrong weights cost 1e-4 nats a
token.

At 600 steps, weight decay .3 and three seeds, on held-out images: formula less uniform weights -1.52 +- .18;
annealed in at matched levels +.31 +- .09, and -.43 +- .10 at as many gradients, as the measuring of noise
takes 128, a fifth more, where at 6,000 steps it is a fiftieth (2026-11-22 and 2026-11-29).
"""

import dataclasses
import math
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density import loss_levels
from experiments.density.autoregressive_training import (
    LEVELS,
    PATCH,
    Config,
    conditional,
    dequantized,
    learner,
    tokens,
)
from experiments.density.minimizers import minimizers
from experiments.estimates import mean, show
from jaxdiff import data
from jaxdiff.denoising import quantized
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.densities.inputs import LogDensity
from jaxdiff.laws.fitting import fit_gaussian
from jaxdiff.learning import training
from jaxdiff.models import MaskedAutoregressive
from jaxdiff.typing import Array, Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JUDGED = ("held out", "training")


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        steps=32,
        seeds=(0, 1),
        batch_size=8,
        draws=2,
        width=16,
        num_blocks=1,
        denoiser_blocks=1,
        evaluation_rows=16,
        num_evaluations=160,
    )


def run(config: Config) -> dict[str, Any]:
    """The minimizers, and the held-out log-densities of the digits."""
    with jax.enable_x64(True):
        rows = minimizers()
    return {"config": dataclasses.asdict(config), "minimizers": rows, "digits": digits(config)}


def digits(config: Config) -> dict[str, Any]:
    """Learn in all ways and with all seeds; nats of (pixels + u) / 17, and paired differences."""
    train, held_out = _split(config)
    log_prior, reference = jax.jit(_independent_and_gaussian)(train)
    network = MaskedAutoregressive(
        PATCH**2 * LEVELS,
        width=config.width,
        num_blocks=config.num_blocks,
        denoiser_width=config.width,
        denoiser_blocks=config.denoiser_blocks,
    )
    model = conditional(config, network, log_prior)
    start, fit, curve = learner(config, network, model, train)

    @jax.jit
    def judge(params: Params, pixels: Array, x: Array) -> LogDensity:
        return log_density(config, model(params, pixels), reference, x)

    judged = [
        (pixels, dequantized(jax.random.key(1), pixels)) for pixels in (held_out, train[: len(held_out)])
    ]
    values = np.zeros((2, len(JUDGED), len(config.ways), len(config.seeds), len(held_out)))
    curves = np.zeros((len(JUDGED), len(config.ways), len(config.seeds), loss_levels.PARTS))
    noises = np.zeros((len(config.ways), len(config.seeds), loss_levels.PARTS))
    for s, seed in enumerate(config.seeds):
        start_key, key = jax.random.split(jax.random.key(seed))
        for w, way in enumerate(config.ways):
            print(f"digits, {way}, seed {seed}", file=sys.stderr)
            params, noises[w, s] = fit(key, start(start_key), way)
            for i, (pixels, x) in enumerate(judged):
                values[:, i, w, s] = judge(params, pixels, x)
                curves[i, w, s] = curve(params, pixels)
    nats, size = values[0], train[0].size
    rows = []
    for i, images in enumerate(JUDGED):
        for w, way in enumerate(config.ways):
            bits = float(data.bits_per_dimension(nats[i, w].mean(), size, levels=LEVELS))
            row = {"images": images, "weights": way, "bits_per_dimension": bits}
            row["curve"] = curves[i, w].mean(0).tolist()
            rows.append(row | {"seeds": [mean(own) for own in nats[i, w]]} | mean(nats[i, w].mean(0)))
    untrained = training.averaged(start(jax.random.key(0)))
    return {
        "parameters": sum(p.size for p in jax.tree.leaves(untrained)),
        "gaussian_nats": float(reference.log_prob(judged[0][1]).mean()),
        "untrained": _untrained(log_prior, held_out, *judge(untrained, *judged[0])),
        "rows": rows,
        "differences": [  # from the first way, paired, over images and, less surely, over seeds
            {"images": images, "weights": way, "over_seeds": mean((own[w] - own[0]).mean(1))}
            | mean((own[w] - own[0]).mean(0))
            | {"by_level": (curves[i, 0] - curves[i, w]).mean(0).tolist()}
            for i, (images, own) in enumerate(zip(JUDGED, nats, strict=True))
            for w, way in enumerate(config.ways[1:], 1)
        ],
        "gradient_noise": {way: own.mean(0).tolist() for way, own in zip(config.ways, noises, strict=True)},
    }


def _independent_and_gaussian(train: Array) -> tuple[Array, Distribution]:
    """Logarithms of the frequencies of each pixel's levels, (16, 4, 17), and the Gaussian of the images."""
    log_prior = jax.vmap(lambda pixels: quantized.log_histogram(pixels, levels=LEVELS), in_axes=1)(train)
    return log_prior, fit_gaussian(dequantized(jax.random.key(0), train))


def _untrained(log_prior: Array, pixels: Array, value: Array, error: Array) -> dict[str, float]:
    """Networks that answer zero leave independent pixels: their log-density, exact and by the formula."""
    own = np.take_along_axis(np.asarray(log_prior)[None], np.asarray(pixels)[..., None], axis=-1)
    exact = float(own.sum() / len(pixels) + pixels[0].size * math.log(LEVELS))
    standard_error = float(jnp.sqrt(jnp.sum(error**2)) / len(pixels))
    return {"exact": exact, "formula": float(value.mean()), "standard_error": standard_error}


def _split(config: Config) -> tuple[Array, Array]:
    """Tokens to learn from and tokens to judge by, (n, 16, 4)."""
    split = data.digits()
    train, held_out = split.train, split.test
    if config.validation:
        train, held_out = train[:1200], train[1200:]
    return tokens(train), tokens(held_out[: config.evaluation_rows])


def log_density(config: Config, denoise: Denoiser, reference: Distribution, x: Array) -> LogDensity:
    """Nats of images x by the chain rule in reading order, and their standard errors, (n,)."""
    return density_formula(
        jax.random.key(2), denoise, x, evaluations=Evaluations(config.num_evaluations, reference=reference)
    )


def table(figures: dict[str, Any]) -> str:
    """Minimizers beside the likelihood's, and the digits' held-out nats."""
    best = figures["minimizers"][0]
    lines = [
        "criterion                 m         s2     s2 - MLE       m - MLE   KL(data || .)   value of (2)"
    ]
    for row in figures["minimizers"]:
        value = "" if row["integral"] is None else f"{row['integral']:15.8f}"
        lines.append(
            f"{row['criterion']:20} {row['m']:.5f}  {row['s2']:9.6f} {row['s2'] - best['s2']:+12.1e} "
            f"{row['m'] - best['m']:+13.1e} {row['divergence']:15.8f}{value}"
        )
    found = figures["digits"]
    lines.append(
        f"\nnats of digits, {len(figures['config']['seeds'])} seeds      mean over seeds     each seed"
    )
    for row in found["rows"]:
        each = "  ".join(f"{own['mean']:.2f}" for own in row["seeds"])
        lines.append(f"{row['images']:9} {row['weights']:18} {show(row, 2):>16}     {each}")
    for row in found["differences"]:
        spread = row["over_seeds"]["standard_error"]
        lines.append(
            f"{row['images']:9} {row['weights'] + ' - first':18} {show(row, 2):>16}     "
            f"+- {spread:.2f} over seeds"
        )
    known = found["untrained"]
    shown = f"{known['formula']:.2f} +- {known['standard_error']:.2f}, exact {known['exact']:.2f}"
    lines.append(f"before training   {shown}")
    held_out = "  ".join(
        f"{row['weights']} {row['bits_per_dimension']:.4f}"
        for row in found["rows"]
        if row["images"] == "held out"
    )
    lines.append(f"held out, bits per dimension: {held_out}; a Gaussian's nats: {found['gaussian_nats']:.2f}")
    lines.append("nats won over the first way in quarters of log-SNR, clean to noisy:")
    for row in found["differences"]:
        quarters = np.reshape(row["by_level"], (4, -1)).sum(1)
        lines.append(
            f"{row['images']:9} {row['weights']:18} " + "".join(f"{nats:+8.2f}" for nats in quarters)
        )
    lines.append("noise of the gradient by formula weights over that at matched levels, where each way ends:")
    for way, noise in found["gradient_noise"].items():
        unmatched, matched = (
            loss_levels.noise_of(levels, jnp.asarray(noise))
            for levels in (
                loss_levels.formula(),
                loss_levels.matched(jnp.ones(len(noise)), jnp.asarray(noise)),
            )
        )
        lines.append(f"          {way:18} {unmatched / matched:.2f}")
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Held-out nats of each seed, by each way."""
    for i, row in enumerate([r for r in figures["digits"]["rows"] if r["images"] == "held out"]):
        axes.errorbar(
            [seed + 0.1 * i for seed in range(len(row["seeds"]))],
            [own["mean"] for own in row["seeds"]],
            [own["standard_error"] for own in row["seeds"]],
            fmt="o",
            capsize=3,
            label=row["weights"],
        )
    axes.set_xticks(range(len(figures["config"]["seeds"])))
    axes.set(xlabel="seed", ylabel="held-out nats", title="Digits, masked autoregressive")
    axes.legend()
