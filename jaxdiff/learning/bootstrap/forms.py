"""Two forms of training on bootstrapped targets: level by level, and one network that is its own teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from jaxdiff._numerics import checks
from jaxdiff.learning.training import Averaging, Metrics, StepFn, TrainState, averaged, make_train_step
from jaxdiff.typing import Array, Key, Params


def fit_levels(
    key: Key,
    fit: Callable[[Key, Params, Array, Array, Array], Params],
    params: Params,
    levels: Array,
    *,
    mix: Array | float,
) -> Params:
    """The sequential form: one model per noise level, each fitted to targets from the frozen one before it.

    ``fit(key, params, s, t, mix)`` answers with the parameters at level t, given those at the level s before
    it, which are the teacher and the warm start; at the first level s = t and mix = 0. levels: increasing
    times, shape (n,); mix: scalar or (n,). Returns the parameters with a leading axis of levels. One scan: it
    is compiled once, and may be vmapped over seeds, data and hyper-parameters.

    Raises ValueError unless levels are increasing and mix lies in [0, 1].

    >>> fit = lambda key, params, s, t, mix: params + t  # in the place of one that learns
    >>> levels = jnp.array([1.0, 2.0, 3.0])
    >>> jd.bootstrap.fit_levels(jax.random.key(0), fit, jnp.array(0.0), levels, mix=0.5).tolist()
    [1.0, 3.0, 6.0]
    """
    checks.key(key)
    checks.increasing("levels", levels)
    checks.within("mix", mix, 0.0, 1.0)
    if jnp.shape(mix) not in ((), jnp.shape(levels)):
        raise ValueError(f"mix must be a scalar or have shape {jnp.shape(levels)}, got {jnp.shape(mix)}.")
    fit = Partial(fit) if jax.tree_util.all_leaves([fit]) else fit
    return _fit_levels(key, fit, params, levels, mix)


@jax.jit
def _fit_levels(key: Key, fit: Callable[..., Params], params: Params, levels: Array, mix: Array) -> Params:
    levels = jnp.asarray(levels, float)
    mix = jnp.broadcast_to(jnp.asarray(mix, float), levels.shape).at[0].set(0.0)
    earlier = jnp.concatenate([levels[:1], levels[:-1]])

    def level(params: Params, inputs: tuple[Array, ...]) -> tuple[Params, Params]:
        params = fit(inputs[0], params, *inputs[1:])
        return params, params

    keys = jax.random.split(key, len(levels))
    return jax.lax.scan(level, params, (keys, earlier, levels, mix))[1]


def make_joint_step(
    loss_fn: Callable[[Params, Params, Array, Key, Any], Array],
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: Averaging,
    num_microbatches: int = 1,
    teacher: Callable[[TrainState], Params] = averaged,
) -> StepFn:
    """The joint form: a train step of one network over all levels that is taught by its own average.

    ``loss_fn(params, teacher_params, step, key, batch)``: teacher_params is teacher(state) before this step,
    by default the average, or the parameters themselves with ema_decay=None; where several averages are kept,
    say which: ``teacher=lambda state: state.ema_params["long"]``. step counts from 0, for a mix that waits
    until the teacher knows something. Otherwise as `training.make_train_step`, with a state from
    `training.init_state`.

    >>> loss = lambda params, average, step, key, batch: (params - average / 2) ** 2 / 2
    >>> step = jd.bootstrap.make_joint_step(loss, optax.sgd(1.0), ema_decay=0.5)
    >>> state = jd.init_state(jnp.array(4.0), optax.sgd(1.0), ema_decay=0.5)
    >>> state, _ = step(jax.random.key(0), state, None)
    >>> float(state.params), float(state.ema_params)  # the target was 4 / 2; half-way from 4 to there
    (2.0, 3.0)
    """

    def step(key: Key, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        def loss(params: Params, key: Key, batch: Any) -> Array:
            return loss_fn(params, teacher(state), state.step, key, batch)

        train_step = make_train_step(loss, optimizer, ema_decay=ema_decay, num_microbatches=num_microbatches)
        return train_step(key, state, batch)

    return step
