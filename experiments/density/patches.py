"""Patches of photographs in bits per dimension: by formula, bound and flow, and token after token.

    32 x 32    gray, of seven photographs whose bands are held out: one diffusion model, an MLP-mixer of 4 x 4
               pixels over what a Gaussian of full covariance leaves
    8 x 8      gray, of two photographs, the patches of `experiments.quickstart`: its model, and a masked
               autoregressive one of 2 x 2 pixels

The joint models are judged as `experiments.density.digits` judges, the autoregressive one by the chain rule,
whose terms are the density formula's (see `experiments.density.autoregressive`). It is shown what a Gaussian
has not foretold: with C the Cholesky factor of the covariance in reading order, y = C^-1 (x - mean), whose
token i is a function of tokens up to i of x, so that log p(x) = sum_i log p(y_i | y_<i) - log det C, and
networks that answer zero are that Gaussian.

Expect the formula and the bound to agree, the latter below by the error of its chain's steps, and the flow
above them, as on digits. MEASURED on 192 held-out patches (a core of a busy AMD EPYC, jax 0.10.2, 2026-11-29;
183 s), bits per dimension with standard errors over patches, and nats paired with the formula's:

                            8 x 8                             32 x 32
    a Gaussian              5.889 +- .086                     5.652 +- .113
    joint, formula          3.231 +- .152                     3.830 +- .118
    joint, ELBO             3.328 +- .149    -4.3 +- .4       3.920 +- .116    -63.9 +- 5.1
    joint, flow             3.119 +- .153    +4.9 +- .5       3.736 +- .116    +66.9 +- 5.6
    autoregressive          3.107 +- .154

So networks of half a minute take 1.8 to 2.8 bits off the Gaussian. The gap between flow and formula, a
measure of rotations (`experiments.density.conservativity`), is .09 to .11 bits at both sizes; the bound is
as far below them, by its chain of 250 steps. Token after token, after as many steps and in twice the time,
is .12 bits better than the joint model by the formula, and as good by its flow.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments import image_problems, quickstart
from experiments.density import conservativity, digits
from experiments.image_problems import SCHEDULE, Problem
from experiments.networks import started
from experiments.optimizers import adamw
from jaxdiff import data
from jaxdiff.data import image_sets
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.models import MaskedAutoregressive, Mixer
from jaxdiff.noising import times
from jaxdiff.running.progress import Progress
from jaxdiff.typing import Array, Key, Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOKENS = 8  # a side, of all joint models
AR_TOKENS, AR_PATCH = 16, 2


@dataclasses.dataclass(frozen=True)
class Config:
    """The models and how finely they are judged. Nothing was searched."""

    model: quickstart.Config = quickstart.CONFIGS["patches"]
    sizes: tuple[int, ...] = (8, 32)
    steps: tuple[int, ...] = (4000, 3000)
    judged: digits.Config = digits.Config(  # noqa: RUF009 - frozen
        rows=192, evaluations=160, pilot_evaluations=256, chain_steps=250, exact=False
    )
    ar_steps: int = 4000
    ar_width: int = 64
    ar_draws: int = 4  # of a time and noise for each patch
    ar_learning_rate: float = 3e-3
    ar_evaluations: int = 320


def smoke() -> Config:
    """The same at a size for tests."""
    small = dataclasses.replace(digits.smoke(), exact=False, rows=4, evaluations=64, chain_steps=40)
    return Config(
        model=dataclasses.replace(quickstart.CONFIGS["patches"], channels=8, num_blocks=1, batch_size=8),
        steps=(10, 10),
        judged=small,
        ar_steps=40,
        ar_width=16,
        ar_draws=2,
    )


class _Patched(nn.Module):
    """A `Mixer` of TOKENS x TOKENS patches; its pixels in reading order, (batch, size^2, features)."""

    size: int
    channels: int
    num_blocks: int

    @nn.compact
    def __call__(self, x: Array, t: Array, *, train: bool = False) -> Array:
        across = self.size // TOKENS
        mixer = Mixer(num_outputs=across**2, channels=self.channels, num_blocks=self.num_blocks)
        answer = mixer(_tokens(x, TOKENS, across).reshape(len(x), TOKENS**2, -1), t, train=train)
        squares = answer.reshape(-1, TOKENS, TOKENS, across, across).swapaxes(2, 3)
        return squares.reshape(len(x), self.size**2, 1)


def _tokens(x: Array, across: int, size: int) -> Array:
    """(n, pixels, features) -> (n, across^2, size^2, features): square patches in reading order."""
    squares = x.reshape(len(x), across, size, across, size, -1).swapaxes(2, 3)
    return squares.reshape(len(x), across**2, size**2, -1)


def run(config: Config) -> dict[str, Any]:
    """For each size the joint model's rows, and the autoregressive one's of the smallest."""
    rows = []
    for size, steps in zip(config.sizes, config.steps, strict=True):
        print(f"patches of {size} x {size}", file=sys.stderr)
        problem = _problem(size)
        network = _Patched(size, config.model.channels, config.model.num_blocks)
        own = conservativity.Config(model=config.model)
        began = time.monotonic()
        way = conservativity.Way("plain", steps)
        denoise = jax.block_until_ready(conservativity.fit(own, problem, network, way))
        seconds = time.monotonic() - began
        found = digits.compare(config.judged, problem, denoise)
        x = problem.encode(jax.random.key(1), problem.test[: config.judged.rows])
        gaussian = np.asarray(problem.law.log_prob(x), np.float64)
        rows.append(_row(problem, size, "a Gaussian", gaussian, 0.0))
        for row in found["rows"]:
            nats = np.asarray(found["values"][row["method"]])
            rows.append(
                _row(problem, size, f"joint, {row['method']}", nats, seconds)
                | {"noise": row["standard_error"]}
            )
            rows[-1]["less_formula"] = row["less_formula"], row["less_formula_standard_error"]
        if size == config.sizes[0]:
            began = time.monotonic()
            nats = _autoregressive(config, problem)
            rows.append(_row(problem, size, "autoregressive", nats, time.monotonic() - began))
    return {"config": dataclasses.asdict(config), "rows": rows}


def _problem(size: int) -> Problem:
    if size == 8:
        return image_problems.patches()
    return image_problems.patches(_gray(image_sets.natural_patches(size=size)))


def _gray(split: data.Split) -> data.Split:
    def luma(pixels: np.ndarray) -> np.ndarray:
        return np.rint(pixels @ np.array([0.299, 0.587, 0.114], np.float32))[..., None].astype(np.uint8)

    return split._replace(train=luma(split.train), test=luma(split.test))


def _row(problem: Problem, size: int, method: str, nats: np.ndarray, seconds: float) -> dict[str, Any]:
    """Bits per dimension of pixels from nats of the model's x, with the standard error over images."""
    d = size**2
    pixels = nats - d * math.log(problem.unit)
    bits = float(data.bits_per_dimension(pixels.mean(), d, levels=problem.levels))
    error = float(nats.std(ddof=1) / len(nats) ** 0.5 / (d * math.log(2)))
    return {"size": size, "method": method, "bits": bits, "standard_error": error, "seconds": seconds}


def _autoregressive(config: Config, problem: Problem) -> np.ndarray:
    """Nats of held-out images in the model's x, by the chain rule."""
    whitened, log_volume = whitening(problem)
    network = MaskedAutoregressive(AR_PATCH**2, width=config.ar_width, denoiser_width=config.ar_width)
    params = _learnt(config, problem, network, whitened)

    @jax.jit
    def judge(params: Params, y: Array) -> Array:
        evaluations = Evaluations(config.ar_evaluations)
        return density_formula(jax.random.key(2), _conditional(network, params, y), y, evaluations).value

    y = whitened(problem.encode(jax.random.key(1), problem.test[: config.judged.rows]))
    return np.asarray(judge(params, y), np.float64) - log_volume


def whitening(problem: Problem) -> tuple[Callable[[Array], Array], float]:
    """From x, (n, pixels), to tokens y, (n, AR_TOKENS, AR_PATCH^2), and log det C."""
    across = math.isqrt(AR_TOKENS)
    x = np.asarray(problem.encode(jax.random.key(0), problem.train), np.float64)
    reading = _tokens(jnp.arange(x.shape[1])[None, :, None], across, AR_PATCH).ravel()
    factor = np.linalg.cholesky(np.cov(x[:, reading], rowvar=False, bias=True))
    lower = jnp.asarray(factor, jnp.float32)

    def whitened(x: Array) -> Array:
        centered = (x - problem.law.mean[None])[:, reading]
        y = jax.scipy.linalg.solve_triangular(lower, centered.T, lower=True).T
        return y.reshape(-1, AR_TOKENS, AR_PATCH**2)

    return whitened, float(np.log(np.diag(factor)).sum())


def _conditional(network: MaskedAutoregressive, params: Params, y: Array) -> Denoiser:
    """The denoiser of all tokens of y, each given those before it."""

    def predict(params: Params, x: Array, t: Array, z: Array) -> Array:
        flat = z.reshape(-1, z.shape[-1]), x.reshape(-1, x.shape[-1]), jnp.repeat(t, x.shape[1])
        return jnp.asarray(network.apply(params, *flat, method="denoise")).reshape(x.shape)

    order = jnp.broadcast_to(jnp.arange(y.shape[1])[None], y.shape[:2])
    z = network.apply(params, y, order, method="condition")
    return make_denoiser(predict, params, SCHEDULE, shape=y.shape[1:], t_min=0.003, t_max=80.0).given(z)


def _learnt(
    config: Config,
    problem: Problem,
    network: MaskedAutoregressive,
    whitened: Callable[[Array], Array],
) -> Params:
    """Parameters by the likelihood's weights."""
    optimizer = adamw(config.ar_learning_rate, config.ar_steps, config.model.weight_decay, warm_up=100)
    decay = ema.warm_up(config.model.ema_decay)

    def loss(params: Params, key: Key, pixels: Array) -> Array:
        data_key, time_key, order_key, noise_key = jax.random.split(key, 4)
        y = whitened(problem.encode(data_key, pixels))
        rows = jnp.repeat(jnp.arange(len(y)), config.ar_draws)
        denoise = _conditional(network, params, y).at_rows(rows)
        u = jax.random.permutation(order_key, times.stratified(time_key, len(rows)))
        t = times.log_snr_uniform(u, SCHEDULE, t_min=denoise.t_min, t_max=denoise.t_max).t
        x, target = denoising_target(noise_key, SCHEDULE, y[rows], t)
        return regression_loss(denoise, x, target, t, weight=prediction.noise.row).mean()

    y = whitened(problem.encode(jax.random.key(0), problem.train[:1]))
    order = jnp.arange(AR_TOKENS)[None]
    with Progress(config.ar_steps) as progress:
        state = training.train(
            jax.random.key(config.model.seed),
            started(
                jax.random.key(5), network, y, order, y, jnp.zeros(1), optimizer=optimizer, ema_decay=decay
            ),
            training.make_train_step(loss, optimizer, ema_decay=decay),
            jax.tree_util.Partial(
                lambda rows, key: data.batch(key, rows, config.model.batch_size), problem.train
            ),
            num_steps=config.ar_steps,
            report=progress,
        )
    return training.averaged(state)


def table(figures: dict[str, Any]) -> str:
    """A line for each size and method."""
    lines = [f"{'bits per dimension, held out':32}{'':22}{'nats less the formula':>24}{'training, s':>13}"]
    for row in figures["rows"]:
        less = "{:+14.2f} +- {:.2f}".format(*row["less_formula"]) if "less_formula" in row else ""
        name = f"{row['size']} x {row['size']}, {row['method']}"
        lines.append(
            f"{name:32}{row['bits']:12.3f} +- {row['standard_error']:.3f}{less:>27}{row['seconds']:13.0f}"
        )
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """A bar for each size and method."""
    rows = figures["rows"]
    axes.barh([f"{row['size']}: {row['method']}" for row in rows], [row["bits"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="bits per dimension, held out", title="patches")
