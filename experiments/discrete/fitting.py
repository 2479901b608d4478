"""One transformer for tokens, trained as a diffusion of jumps or, as its control, token after token."""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

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
    checks: int = 10
    """How often kept-back rows are asked, where there are some."""


class _Placed(nn.Module):
    """A network whose answers begin at a table of logarithms, one for each place."""

    net: TokenTransformer
    length: int

    @nn.compact
    def __call__(self, x: Array, t: Array, *, train: bool = False) -> Array:
        table = self.param("table", nn.initializers.zeros_init(), (self.length, self.net.vocabulary))
        return self.net(x, t, train=train) + table[None]


def network(fit: Fit, vocabulary: int, length: int, *, causal: bool = False) -> nn.Module:
    """Every network has the mask among its tokens, or the start of a sequence."""
    net = TokenTransformer(
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
    return _Placed(net, length) if fit.with_places else net


def diffusion(
    fit: Fit,
    process: jumps.JumpProcess,
    length: int,
    draw: Callable[[Key], Array],
    seed: int,
    *,
    table: Array | None = None,
    kept_back: Array | None = None,
) -> jumps.CategoricalDenoiser:
    """The averaged denoiser of data (length,), of which draw(key) is a batch, by the bound's loss.

    table: logarithms of chances, (length, vocabulary), from which a network with places begins.
    kept_back: rows that are not trained on: the average is taken where it is best for them.
    """
    net = network(fit, process.vocabulary, length)

    def model(params: Params, dropout: Key | None = None) -> jumps.CategoricalDenoiser:
        return jumps.make_denoiser(applied(net, dropout), params, process, shape=(length,))

    def loss(params: Params, key: Key, batch: Array) -> Array:
        dropout, key = jax.random.split(key)
        denoise = model(params, dropout if fit.dropout else None)
        return jumps.denoising_loss(key, denoise, batch).mean() / length

    @jax.jit
    def cost(params: Params, rows: Array) -> Array:
        return -jumps.log_bound(jax.random.key(seed), model(params), rows, num_times=16).value.mean()

    name = type(process).__name__
    return model(_trained(fit, net, loss, length, draw, seed, table, cost, kept_back, name))


@dataclasses.dataclass(frozen=True)
class TokenAfterToken:
    """A law of sequences (length,) by the same network that hears the past alone."""

    net: nn.Module
    vocabulary: int
    length: int
    params: Params = None

    def logits(self, params: Params, x: Array, dropout: Key | None = None) -> Array:
        """Log-probabilities of each token given those before it, (batch, length, vocabulary)."""
        past = jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=self.vocabulary)
        return jax.nn.log_softmax(applied(self.net, dropout)(params, past, jnp.zeros(len(x))))

    def log_prob(self, params: Params, x: Array, dropout: Key | None = None) -> Array:
        """log p(x) in nats, (batch, length) -> (batch,)."""
        logits = self.logits(params, x, dropout)
        return jnp.take_along_axis(logits, x[..., None], axis=-1)[..., 0].sum(1)

    def __call__(self, x: Array) -> Array:
        """`log_prob` of the parameters that it has learnt."""
        return jax.jit(self.log_prob)(self.params, x)

    def sample(self, key: Key, n: int) -> Array:
        """n sequences, (n, length), by a call for each token."""

        def show(i: Array, x: Array) -> Array:
            probs = jnp.exp(self.logits(self.params, x)[:, i])
            return x.at[:, i].set(jumps.categorical(jax.random.fold_in(key, i), probs))

        return jax.lax.fori_loop(0, self.length, show, jnp.zeros((n, self.length), jnp.int32))


def autoregressive(
    fit: Fit,
    vocabulary: int,
    length: int,
    draw: Callable[[Key], Array],
    seed: int,
    *,
    table: Array | None = None,
    kept_back: Array | None = None,
) -> TokenAfterToken:
    """The control, of the same size and as many steps."""
    model = TokenAfterToken(network(fit, vocabulary, length, causal=True), vocabulary, length)

    def loss(params: Params, key: Key, batch: Array) -> Array:
        return -model.log_prob(params, batch, key if fit.dropout else None).mean() / length

    def cost(params: Params, rows: Array) -> Array:
        return -model.log_prob(params, rows).mean()

    params = _trained(
        fit, model.net, loss, length, draw, seed, table, jax.jit(cost), kept_back, "autoregressive"
    )
    return dataclasses.replace(model, params=params)


def _trained(
    fit: Fit,
    net: nn.Module,
    loss: training.LossFn,
    length: int,
    draw: Callable[[Key], Array],
    seed: int,
    table: Array | None,
    cost: Callable[[Params, Array], Array],
    kept_back: Array | None,
    name: str,
) -> Params:
    init_key, key = jax.random.split(jax.random.key(seed))
    params = jax.jit(net.init)(init_key, jnp.zeros((1, length), int), jnp.zeros(1))
    if table is not None:
        params = {"params": {**params["params"], "table": jnp.asarray(table, jnp.float32)}}
    optimizer = adamw(fit.learning_rate, fit.steps, fit.weight_decay)
    state = training.init_state(params, optimizer, ema_decay=fit.ema_decay)
    step = training.make_train_step(loss, optimizer, ema_decay=fit.ema_decay)

    def report(done: int, metrics: Any, rate: float) -> None:
        if done % 500 == 0 or done == fit.steps:
            print(f"  {name}: {done} steps, {metrics.loss.mean():.4f} nats, {rate:.0f}/s", file=sys.stderr)

    if kept_back is None:
        state = training.train(key, state, step, draw, num_steps=fit.steps, report=report)
        return training.averaged(state)
    best, params, worse = math.inf, None, 0
    for number in range(fit.checks):
        end = fit.steps * (number + 1) // fit.checks
        state = training.train(key, state, step, draw, num_steps=end)
        now = float(cost(training.averaged(state), kept_back)) / length
        print(f"  {name}: {end} steps, {now:.4f} nats of what was kept back", file=sys.stderr)
        if now < best:
            # The state is given away to what trains it on.
            best, params, worse = now, jax.tree.map(jnp.copy, training.averaged(state)), 0
        else:
            worse += 1
        if worse == 3:
            break
    return params
