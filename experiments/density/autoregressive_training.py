"""A masked autoregressive model of digits in training, for `experiments.density.autoregressive`.

In four ways, with the same keys: by uniform weights; by the formula's; by uniform ones at first, then half
way and from half of the steps on by the formula's, with noise levels drawn in proportion to their gradients'
noise, which is measured as a stage begins (`experiments.density.loss_levels`; 128 gradients in all, beyond
the steps); and, its control, by uniform weights at levels that are drawn so.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density import loss_levels
from experiments.density.loss_levels import Levels
from experiments.optimizers import adamw
from jaxdiff import data
from jaxdiff.denoising import prediction, quantized
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.models import MaskedAutoregressive
from jaxdiff.noising import times
from jaxdiff.noising.process import log_snr
from jaxdiff.noising.schedules import Cosine
from jaxdiff.running.progress import Progress
from jaxdiff.typing import Array, Key, Params

WAYS: dict[str, tuple[tuple[float, float], ...]] = {
    "uniform": (),
    "formula": (),
    "formula, matched": ((0.5, 0.5), (1.0, 1.0)),
    "uniform, matched": ((0.5, 0.0), (1.0, 0.0)),
}
"""Stages at matched levels: the share of the steps until which, and how far from uniform weights to the
formula's."""
_UNMATCHED = 0.25  # of the steps of a way with stages: by uniform weights, before noise is measured

LEVELS, SIDE, PATCH = 17, 8, 2
STD = 0.355  # of the dequantized digits
SCHEDULE = Cosine(shift=1 / STD)  # the noise at t = 1/2 is as large as the data


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on. Not searched: one run was seen, on the validation part."""

    steps: int = 6000
    seeds: tuple[int, ...] = (0, 1, 2)
    ways: tuple[str, ...] = tuple(WAYS)
    batch_size: int = 32
    draws: int = 4  # of a time and noise for each token: they cost less than z
    learning_rate: float = 5e-3
    weight_decay: float = 1.0  # on matrices, times the learning rate; .3 forgets 11 nats on others
    ema_decay: float = 0.99
    t_min: float = 0.017  # a sixth of a level: below it the closed form does everything
    t_max: float = 0.97
    test_t_min: float = 5e-4  # the edges of a level are sharp for all but one in a hundred values
    width: int = 64  # of both networks
    num_blocks: int = 3
    denoiser_blocks: int = 2
    evaluation_rows: int = 360
    num_evaluations: int = 80  # an image: their noise is half of what the images' own spread makes
    validation: bool = False  # learn from the first 1,200 training images, judge on others of them


def tokens(pixels: np.ndarray) -> Array:
    """(n, 64) -> (n, 16, 4): patches in reading order."""
    across = SIDE // PATCH
    images = jnp.asarray(pixels, jnp.int32).reshape(-1, across, PATCH, across, PATCH)
    return images.swapaxes(2, 3).reshape(-1, across**2, PATCH**2)


def dequantized(key: Key, pixels: Array) -> Array:
    """(pixels + u) / 17."""
    return data.dequantize(key, pixels, levels=LEVELS)


def _shown(pixels: Array) -> Array:
    """Of tokens, to the network that makes z: levels, for u says nothing of other tokens."""
    return (pixels - 5) / 6


def _reading_order(tokens: Array) -> Array:
    return jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape[:2])


def conditional(
    config: Config, network: MaskedAutoregressive, log_prior: Array
) -> Callable[[Params, Array], Denoiser]:
    """``model(params, pixels)``: the denoiser of the tokens of images, each given those before it.

    The z that make it so come from clean pixels, and go by row as a condition does.
    """

    def answer(params: Params, features: Array, t: Array, z: Array) -> Array:
        rows, tokens, size, _ = features.shape
        flat = z.reshape(rows * tokens, -1), features.reshape(-1, size), jnp.repeat(t, tokens)
        return jnp.asarray(network.apply(params, *flat, method="denoise")).reshape(rows, tokens, size, LEVELS)

    predict = quantized.predictor(answer, log_prior)

    def model(params: Params, pixels: Array) -> Denoiser:
        z = network.apply(params, _shown(pixels), _reading_order(pixels), method="condition")
        denoise = make_denoiser(
            predict,
            params,
            SCHEDULE,
            shape=pixels.shape[1:],
            scale=STD,
            prediction=quantized.prediction,
            t_min=config.test_t_min,
            t_max=config.t_max,
        )
        return denoise.given(z)

    return model


def learner(
    config: Config,
    network: MaskedAutoregressive,
    model: Callable[[Params, Array], Denoiser],
    train: Array,
) -> tuple[
    Callable[[Key], training.TrainState],
    Callable[[Key, training.TrainState, str], tuple[Params, Array]],
    Callable[[Params, Array], Array],
]:
    """``start(key)``, a state; ``fit(key, state, way)``, the average of the parameters learnt and the noise
    of gradients there at each part of log-SNR; ``curve(params, pixels)``, nats that are lost at each part.

    Levels and weights are data: one compiled program serves all ways.
    """
    optimizer = adamw(config.learning_rate, config.steps, config.weight_decay, warm_up=100)
    decay = ema.warm_up(config.ema_decay)
    ends = {"t_min": config.t_min, "t_max": config.t_max}
    uniform = loss_levels.uniform(SCHEDULE, **ends)

    def loss(params: Params, key: Key, batch: tuple[Array, Levels]) -> Array:
        time_key, order_key, target_key = jax.random.split(key, 3)
        pixels, levels = batch
        # Several times and noises of each image share what is made of its tokens.
        denoise = model(params, pixels).at_rows(jnp.repeat(jnp.arange(len(pixels)), config.draws))
        shown = jnp.repeat(pixels, config.draws, axis=0)
        u = jax.random.permutation(order_key, times.stratified(time_key, len(shown)))
        t, weight = loss_levels.drawn(u, SCHEDULE, levels, **ends)
        x, target = quantized.quantized_target(target_key, SCHEDULE, shown, t, levels=LEVELS)
        return jnp.mean(weight * regression_loss(denoise, x, target, t, weight=prediction.noise.row))

    step = training.make_train_step(loss, optimizer, ema_decay=decay)

    def draw(source: tuple[Array, Levels], key: Key) -> tuple[Array, Levels]:
        return data.batch(key, source[0], config.batch_size), source[1]

    @jax.jit
    def start(key: Key) -> training.TrainState:
        x = jnp.zeros(train[:1].shape)
        params = network.init(key, x, _reading_order(x), x, jnp.zeros(1))
        return training.init_state(params, optimizer, ema_decay=decay)

    @jax.jit
    def gradient_noise(key: Key, params: Params, train: Array) -> Array:
        def own(params: Params, key: Key, levels: Levels) -> Array:
            data_key, key = jax.random.split(key)
            return loss(params, key, draw((train, levels), data_key))

        return loss_levels.gradient_noise(key, own, params)

    def fit(key: Key, state: training.TrainState, way: str) -> tuple[Params, Array]:
        levels = loss_levels.formula() if way == "formula" else uniform
        with Progress(config.steps) as progress:
            for end, share in ((_UNMATCHED if WAYS[way] else 1.0, None), *WAYS[way]):
                if share is not None:
                    noise = gradient_noise(jax.random.fold_in(key, state.step), state.params, train)
                    levels = loss_levels.matched(loss_levels.between(uniform, share), noise)
                state = training.train(
                    key,
                    state,
                    step,
                    jax.tree_util.Partial(draw, (train, levels)),
                    num_steps=round(end * config.steps),
                    steps_per_dispatch=min(50, round(_UNMATCHED * config.steps)),  # of one program
                    report=progress,
                )
        params = training.averaged(state)
        return params, gradient_noise(key, params, train)

    part = float(log_snr(SCHEDULE, config.t_min) - log_snr(SCHEDULE, config.t_max)) / loss_levels.PARTS

    @jax.jit
    def curve(params: Params, pixels: Array) -> Array:
        def at_part(number: Array) -> Array:
            return loss(
                params, jax.random.fold_in(jax.random.key(3), number), (pixels, loss_levels.at_part(number))
            )

        return 0.5 * part * jax.lax.map(at_part, jnp.arange(loss_levels.PARTS))

    return start, fit, curve
