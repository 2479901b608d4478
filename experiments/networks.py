"""What the experiments do with Flax networks: give them to `make_denoiser`, train them in one call, count."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff.learning import training
from jaxdiff.typing import Array, Key, Params


def applied(network: nn.Module, dropout: Key | None = None) -> Callable[..., Any]:
    """The network as a function of parameters and inputs; in training with dropout by a key, a leaf of it."""
    if dropout is None:
        return network.apply
    return Partial(functools.partial(network.apply, train=True), rngs={"dropout": dropout})


def started(
    key: Key, network: nn.Module, *inputs: Array, optimizer: optax.GradientTransformation, ema_decay: Any
) -> training.TrainState:
    """The state that training begins from, by one program, where an eager network makes a hundred."""

    @jax.jit
    def start(key: Key) -> training.TrainState:
        return training.init_state(network.init(key, *inputs), optimizer, ema_decay=ema_decay)

    return start(key)


def trained(
    step: Callable[..., Any],
    state: training.TrainState,
    key: Key,
    row_key: Key,
    data: Array,
    *,
    num_rows: Array | int,
    batch_size: int,
    num_steps: Array | int,
) -> Params:
    """The averaged parameters after so many steps on batches of the first num_rows of data; pure JAX."""

    def body(number: Array, state: training.TrainState) -> training.TrainState:
        rows = jax.random.randint(jax.random.fold_in(row_key, number), (batch_size,), 0, num_rows)
        return step(key, state, data[rows])[0]

    return training.averaged(jax.lax.fori_loop(0, num_steps, body, state))


def num_parameters(tree: Any) -> int:
    """Numbers in all of a tree's arrays, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
