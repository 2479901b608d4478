"""Networks of one size trained for one number of floating-point operations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.few_step.methods import Lesson, Loss
from experiments.optimizers import adamw
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.learning import bootstrap, ema
from jaxdiff.learning.training import averaged, init_state, train
from jaxdiff.maps.flow_map import FlowMap
from jaxdiff.typing import Array, Key, Params

MakeMap = Callable[[Params], FlowMap]
_DISPATCH = 250


def steps_for(budget: float, loss: Callable[[Params], Array], params: Params) -> int:
    """How many steps of a loss's gradient take so many operations, by the compiler's own count."""
    cost: Any = jax.jit(jax.value_and_grad(loss)).lower(params).compile().cost_analysis()
    return max(1, round(budget / cost["flops"]))


def fit(
    key: Key,
    loss: Loss,
    make: MakeMap,
    params: Params,
    teacher: Denoiser,
    draw: Callable[[Key], Any],
    *,
    budget: float,
    learning_rate: float,
) -> tuple[Params, int]:
    """The average of the parameters at the end, and the number of steps."""

    def scalar(params: Params, average: Params, share: Array, key: Key, batch: Any) -> Array:
        return loss(key, Lesson(make(params), make(average), teacher, share), batch).mean()

    return _descend(key, scalar, params, draw, budget, learning_rate)


def descend(
    key: Key,
    loss: Callable[[Params, Key, Any], Array],
    params: Params,
    draw: Callable[[Key], Any],
    *,
    budget: float,
    learning_rate: float | dict[str, float],
) -> tuple[Params, int]:
    """The same for a loss that knows of no map; of parameters by name each may have its own rate."""

    def scalar(params: Params, average: Params, share: Array, key: Key, batch: Any) -> Array:
        del average, share
        return loss(params, key, batch)

    return _descend(key, scalar, params, draw, budget, learning_rate)


def _descend(
    key: Key,
    loss: Callable[..., Array],
    params: Params,
    draw: Callable[[Key], Any],
    budget: float,
    learning_rate: float | dict[str, float],
) -> tuple[Params, int]:
    rows, half = draw(key), jnp.asarray(0.5)
    steps = steps_for(budget, lambda own: loss(own, params, half, key, rows), params)
    if isinstance(learning_rate, dict):
        rules = {name: adamw(rate, steps, 0.0, warm_up=100) for name, rate in learning_rate.items()}
        optimizer = optax.multi_transform({**rules}, {name: name for name in rules})
    else:
        optimizer = adamw(learning_rate, steps, 0.0, warm_up=100)

    def joint(params: Params, average: Params, step: Array, key: Key, batch: Any) -> Array:
        return loss(params, average, step / steps, key, batch)

    decay = ema.power_function(0.1)
    step = bootstrap.make_joint_step(joint, optimizer, ema_decay=decay)
    state = init_state(params, optimizer, ema_decay=decay)
    state = train(key, state, step, draw, num_steps=steps, steps_per_dispatch=min(steps, _DISPATCH))
    return averaged(state), steps
