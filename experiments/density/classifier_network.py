"""The network of digits given their class, for `experiments.density.classifier`."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from experiments.networks import applied, started
from experiments.optimizers import adamw
from jaxdiff import data, pytree
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.models import ResidualMLP
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Cosine
from jaxdiff.running.progress import Progress
from jaxdiff.typing import Array, Denoised, Key, Params

if TYPE_CHECKING:
    from experiments.density.classifier import Config

LEVELS, CLASSES = 17, 10
STD = 0.38  # of a pixel, in units of the range
COSINE = Cosine(1 / STD)  # at t = 1/2 the noise is as large as the data


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class _Residual:
    """How a network answers that learns what the law of the label leaves over."""

    network: Denoiser
    """Its skip is the denoiser of N(0, STD^2 I), in whose place the law's is put."""
    laws: Labelled

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        network, law = (part.given(denoiser.condition) for part in (self.network, self.laws.denoiser(COSINE)))
        skip = Gaussian(jnp.zeros(x.shape[1:]), STD**2).denoiser(COSINE)
        return jax.tree.map(lambda a, b, c: a - b + c, network(x, t), skip(x, t), law(x, t))


def fit(config: "Config", pixels: Array, labels: Array, laws: Labelled) -> Denoiser:
    """A network's denoiser given the label, trained on what the class's Gaussian leaves over."""
    network = ResidualMLP(
        width=config.width, num_blocks=config.num_blocks, dropout=config.dropout, num_classes=laws.num_labels
    )
    init_key, key = jax.random.split(jax.random.key(1))
    optimizer = adamw(config.learning_rate, config.steps, config.weight_decay)

    def model(params: Params, *, dropout: Key | None = None) -> Denoiser:
        """What is trained, with a key for dropout, and asked for densities, without; of a label each."""
        denoise = make_denoiser(
            applied(network, dropout),
            params,
            COSINE,
            shape=pixels.shape[1:],
            scale=STD,
            t_min=config.test_t_min,
            t_max=config.t_max,
        )
        return dataclasses.replace(denoise, estimate=_Residual(denoise, laws))

    def loss(params: Params, key: Key, batch: tuple[Array, Array]) -> Array:
        time_key, encode_key, noise_key, dropout_key = jax.random.split(key, 4)
        pixels, labels = batch
        u = times.stratified(time_key, config.batch_size)
        t = times.log_snr_uniform(u, COSINE, t_min=config.t_min, t_max=config.t_max).t
        x = data.dequantize(encode_key, pixels, levels=LEVELS)
        x_t, target = denoising_target(noise_key, COSINE, x, t)
        denoise = model(params, dropout=dropout_key).given(labels)
        # Uniform in log-SNR and measured in noise: the formula's weights.
        return regression_loss(denoise, x_t, target, t, weight=prediction.noise.row).mean()

    def draw_batch(rows: tuple[Array, Array], key: Key) -> tuple[Array, Array]:
        return data.batch(key, rows, config.batch_size)

    decay = ema.warm_up(config.ema_decay)
    inputs = jnp.zeros((1, pixels.shape[1])), jnp.zeros(1), jnp.zeros(1, int)
    with Progress(config.steps) as progress:
        state = training.train(
            key,
            started(init_key, network, *inputs, optimizer=optimizer, ema_decay=decay),
            training.make_train_step(loss, optimizer, ema_decay=decay),
            jax.tree_util.Partial(draw_batch, (pixels, labels)),
            num_steps=config.steps,
            report=progress,
        )
    return model(training.averaged(state))
