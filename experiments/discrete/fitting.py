"""One transformer for tokens, trained as a diffusion of jumps or, as its control, token after token."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.networks import applied
from experiments.optimizers import adamw
from jaxdiff import jumps
from jaxdiff.learning import training
from jaxdiff.models import TokenTransformer
from jaxdiff.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Fit:
    """The network and its training, the same for all ways."""

    width: int = 64
    num_blocks: int = 3
    num_heads: int = 4
    expansion: int = 2
    dropout: float = 0.0
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    steps: int = 3000
    ema_decay: float = 0.998
    with_places: bool = False


def network(fit: Fit, vocabulary: int, length: int, *, causal: bool = False) -> TokenTransformer:
    """Every network has the mask among its tokens, or the start of a sequence."""
    return TokenTransformer(
        vocabulary,
        vocabulary + 1,
        fit.width,
        fit.num_blocks,
        fit.num_heads,
        fit.expansion,
        fit.dropout,
        num_places=length if fit.with_places else None,
        causal=causal,
    )


def diffusion(
    fit: Fit, process: jumps.JumpProcess, length: int, draw: Callable[[Key], Array], seed: int
) -> jumps.CategoricalDenoiser:
    """The averaged denoiser of data (length,), of which draw(key) is a batch, by the bound's loss."""
    net = network(fit, process.vocabulary, length)

    def model(params: Params, dropout: Key | None = None) -> jumps.CategoricalDenoiser:
        return jumps.make_denoiser(applied(net, dropout), params, process, shape=(length,))

    def loss(params: Params, key: Key, batch: Array) -> Array:
        dropout, key = jax.random.split(key)
        denoise = model(params, dropout if fit.dropout else None)
        return jumps.denoising_loss(key, denoise, batch).mean() / length

    return model(_trained(fit, net, loss, length, draw, seed, type(process).__name__))


def autoregressive(
    fit: Fit, vocabulary: int, length: int, draw: Callable[[Key], Array], seed: int
) -> Callable[[Array], Array]:
    """log p(x) in nats, (batch, length) -> (batch,), of the same network that hears the past alone."""
    net = network(fit, vocabulary, length, causal=True)

    def log_prob(params: Params, x: Array, dropout: Key | None = None) -> Array:
        past = jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=vocabulary)
        logits = jax.nn.log_softmax(applied(net, dropout)(params, past, jnp.zeros(len(x))))
        return jnp.take_along_axis(logits, x[..., None], axis=-1)[..., 0].sum(1)

    def loss(params: Params, key: Key, batch: Array) -> Array:
        return -log_prob(params, batch, key if fit.dropout else None).mean() / length

    return functools.partial(
        jax.jit(log_prob), _trained(fit, net, loss, length, draw, seed, "autoregressive")
    )


def _trained(
    fit: Fit,
    net: TokenTransformer,
    loss: training.LossFn,
    length: int,
    draw: Callable[[Key], Array],
    seed: int,
    name: str,
) -> Params:
    init_key, key = jax.random.split(jax.random.key(seed))
    params = net.init(init_key, jnp.zeros((1, length), int), jnp.zeros(1))
    optimizer = adamw(fit.learning_rate, fit.steps, fit.weight_decay)
    state = training.init_state(params, optimizer, ema_decay=fit.ema_decay)
    step = training.make_train_step(loss, optimizer, ema_decay=fit.ema_decay)

    def report(done: int, metrics: Any, rate: float) -> None:
        if done % 500 == 0 or done == fit.steps:
            print(f"  {name}: {done} steps, {metrics.loss.mean():.4f} nats, {rate:.0f}/s", file=sys.stderr)

    state = training.train(key, state, step, draw, num_steps=fit.steps, report=report)
    return training.averaged(state)
