"""Training: a pure step, the average of its parameters, and a loop that keeps the device busy.

With the run's key K, p_k the parameters before step k = 0, 1, ..., and d_k the decay of their average e_k:

    g_k     = grad_p loss(p_k, fold_in(K, k), batch_k)                                          (1)
    p_{k+1} = p_k + update(g_k)                                   (an Optax optimizer)          (2)
    e_{k+1} = e_k + (1 - d_k) (p_{k+1} - e_k),      e_0 = p_0     (`jaxdiff.learning.ema`)               (3)

Nothing here knows about diffusion: the loss is an argument. Nothing knows about devices either: where the
state and the batches lie is `jaxdiff.running.parallel`'s. No random state is kept: what step k draws is a
function of (K, k), so a run that is stopped, saved and resumed repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxdiff._numerics import checks, shards
from jaxdiff.learning import ema
from jaxdiff.learning.ema import EmaDecay
from jaxdiff.learning.signals import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from jaxdiff.learning.signals import interruption as interruption
from jaxdiff.typing import Array, Key, Params

LossFn: TypeAlias = Callable[[Params, Key, Any], Array]
"""``loss_fn(params, key, batch)``, a scalar."""
Averaging: TypeAlias = EmaDecay | tuple[EmaDecay, ...] | dict[str, EmaDecay] | None
"""A decay, or a pytree of decays for as many averages, or None, one of none, for no average at all."""


class TrainState(NamedTuple):
    """All that training changes. It holds no key: step k draws from ``fold_in(key, k)``."""

    step: Array
    """Steps done so far, a scalar int32."""
    params: Params
    ema_params: Params | None
    """The average of eq. (3) in the place of each decay: a tree like params, several in a tuple, or None."""
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """What a step reports: scalars from the step, arrays of shape (steps,) from the loop."""

    loss: Array
    gradient_norm: Array
    """Euclidean norm of g_k over all parameters, before the optimizer's own clipping."""


StepFn: TypeAlias = Callable[[Key, TrainState, Any], tuple[TrainState, Metrics]]
DeviceFeed: TypeAlias = Callable[[int, int], Any]
"""``feed(first, last)``: rows of the steps from first to last - 1, arrays (last - first, batch, ...)."""
Report: TypeAlias = Callable[[int, Metrics, float], None]
Save: TypeAlias = Callable[[TrainState, dict[str, float]], Any]


def init_state(
    params: Params, optimizer: optax.GradientTransformation, *, ema_decay: Averaging
) -> TrainState:
    """The state before step 0. With ema_decay=None no second copy of the parameters is held.

    Raises TypeError for a state in place of parameters, and for what is no optimizer.

    >>> state = jd.init_state({"w": jnp.ones(2)}, optax.sgd(0.1), ema_decay=0.5)
    >>> int(state.step), state.params["w"].tolist()
    (0, [1.0, 1.0])
    """
    if isinstance(params, TrainState):
        raise TypeError("params must be a network's parameters, got a TrainState; give its params.")
    ema_params = jax.tree.map(lambda _: params, ema_decay)
    state = TrainState(jnp.zeros((), jnp.int32), params, ema_params, checks.optimizer(optimizer).init(params))
    # A donated buffer must occur once: e_0 is p_0, and so are parts of some optimizers' states. The copies
    # also leave the caller's own params alive.
    return jax.tree.map(jnp.copy, state)


def averaged(state: TrainState) -> Params:
    """The parameters to sample with: their average, or the parameters themselves where none is kept.

    Raises ValueError where several are kept; take one of ``state.ema_params``.

    >>> state = jd.init_state({"w": jnp.ones(2)}, optax.sgd(0.1), ema_decay=0.5)
    >>> jd.averaged(state)["w"].tolist()
    [1.0, 1.0]
    """
    _check_state(state)
    if state.ema_params is None:
        return state.params
    if jax.tree.structure(state.ema_params) != jax.tree.structure(state.params):
        raise ValueError("The state holds several averages of the parameters; take one of state.ema_params.")
    return state.ema_params


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: Averaging,
    num_microbatches: int = 1,
) -> StepFn:
    """``step(key, state, batch) -> (state, metrics)``, eqs. (1) to (3); pure, and not jitted.

    key is the run's key, the same at every step: the step folds in ``state.step`` itself. ema_decay must be
    what the state was made with, at least in the number of averages.

    With num_microbatches = m > 1 the gradient is accumulated: microbatch j, rows j, j + m, j + 2 m, ... of
    the batch, goes through the loss alone, under the key ``fold_in(step key, j)``, and g_k is the mean over
    j. A loss that is a mean over rows needs an m-th of the memory, and is the same but for its noise.

    The step raises ValueError for a batch without rows or whose rows m does not divide, and for a loss that
    is no scalar; TypeError for what is no key or TrainState.

    >>> step = jd.make_train_step(lambda params, key, batch: params**2 / 2, optax.sgd(0.5), ema_decay=0.5)
    >>> state = jd.init_state(jnp.array(4.0), optax.sgd(0.5), ema_decay=0.5)
    >>> state, metrics = step(jax.random.key(0), state, None)
    >>> float(state.params), float(state.ema_params), float(metrics.loss)  # 4 - 4 / 2, half-way, 4^2 / 2
    (2.0, 3.0, 8.0)
    """
    checks.integer("num_microbatches", num_microbatches, 1)
    for decay in jax.tree.leaves(ema_decay):
        if not callable(decay):
            ema.check_decay(decay)

    def scalar_loss(params: Params, key: Key, batch: Any) -> Array:
        loss = loss_fn(params, key, batch)
        if (shape := jax.tree.map(jnp.shape, loss)) != ():
            raise ValueError(f"loss_fn must answer a scalar, got shape {shape}; take its .mean().")
        return loss

    def gradient(params: Params, key: Key, batch: Any) -> tuple[Array, Params]:
        of_part = jax.value_and_grad(scalar_loss)
        if num_microbatches == 1:
            return of_part(params, key, batch)

        def add(total: Any, part: tuple[Array, Any]) -> tuple[Any, None]:
            j, rows = part
            return jax.tree.map(jnp.add, total, of_part(params, jax.random.fold_in(key, j), rows)), None

        parts = _split(batch, num_microbatches)
        shapes = jax.eval_shape(of_part, params, key, jax.tree.map(lambda leaf: leaf[0], parts))
        zeros = jax.tree.map(jnp.zeros_like, shapes)
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(num_microbatches), parts))
        return jax.tree.map(lambda leaf: leaf / num_microbatches, total)

    def step(key: Key, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        checks.key(key)
        _check_state(state)
        _check_averages(state, ema_decay)
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
        if any(shape[:1] == (0,) for shape in shapes):
            raise ValueError(f"A batch must have at least one row, got arrays of shape {shapes}.")
        step_key = jax.random.fold_in(key, state.step)
        loss, grads = shards.mean(gradient(state.params, step_key, batch))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = jax.tree.map(
            lambda decay, average: ema.updated(average, params, ema.at(decay, state.step)),
            ema_decay,
            state.ema_params,
        )
        new_state = TrainState(state.step + 1, params, ema_params, opt_state)
        return new_state, Metrics(loss, optax.tree.norm(grads))

    return step


def train(
    key: Key,
    state: TrainState,
    step_fn: StepFn,
    batch_fn: Callable[..., Any],
    *,
    num_steps: int,
    feed: DeviceFeed | None = None,
    steps_per_dispatch: int = 50,
    report: Report | None = None,
    save: Save | None = None,
    save_every: int | None = None,
    stop: Callable[[int], bool] | None = None,
) -> TrainState:
    """Step until ``state.step == num_steps``, counted from the run's beginning, or until stop(step) is true.

    The answer depends on (key, state) only, not on where the run was interrupted. state is donated: use the
    returned one. A stopped run is known by its ``step < num_steps``.

    batch_fn(key) draws the batch of step k inside the compiled loop, from a key that depends on (key, k)
    only. An array that it closes over becomes a constant of the compiled program; give a large one as
    ``jax.tree_util.Partial(draw, data)`` (or any callable pytree), which passes it as an argument instead.
    Data that the device cannot hold come by a feed: the batch is then batch_fn(key, rows), where the rows of
    step k are slice k - first of ``feed(first, last)``, which a thread calls while the device is at the
    dispatch before. steps_per_dispatch batches are then in memory at once, twice. A feed that fails or ends
    ends the run, what was done before being saved; one that hangs can be stopped, in a run of one process.

    The device runs steps_per_dispatch steps at a time, up to the next multiple of that number: one program
    for whole dispatches and one for a remainder, compiled once for the same two functions. The host asks for
    the metrics of a dispatch when the next one is already queued.

    report(step, metrics, steps_per_second): after each dispatch, in order; metrics of shape (steps,), NumPy.
    save(state, metrics): at the end of the first dispatch that reaches a multiple of save_every, at the end,
        and on a stop. metrics holds the means over that dispatch. The state may be donated after it returns.
    stop(step): asked at the start and after each dispatch, with the steps done by then, and while the feed is
        waited for; `interruption` makes one of signals.

    Raises FloatingPointError, naming the step, when a loss, a gradient or the parameters are no longer
    finite; nothing is saved before it has been looked at, so the last checkpoint is a good one. Raises
    ConnectionError when another process of the run is gone, ValueError for a state that was given away or is
    past num_steps and for a feed that ends by StopIteration, and as the feed and the step do.

    >>> step = jd.make_train_step(lambda params, key, batch: params**2 / 2, optax.sgd(0.5), ema_decay=None)
    >>> state = jd.init_state(jnp.array(4.0), optax.sgd(0.5), ema_decay=None)
    >>> state = jd.train(jax.random.key(0), state, step, lambda key: jnp.zeros(1), num_steps=3)
    >>> int(state.step), float(state.params)
    (3, 0.5)
    """
    checks.key(key)
    _check_state(state)
    checks.integer("num_steps", num_steps, 0)
    checks.integer("steps_per_dispatch", steps_per_dispatch, 1)
    if save_every is not None:
        checks.integer("save_every", save_every, 1)
        if save is None:
            raise ValueError(f"save_every={save_every} needs save, a function of (state, metrics); got None.")
    step_fn, batch_fn = _as_pytree(step_fn), _as_pytree(batch_fn)

    start = step = saved = int(state.step)
    if start > num_steps:
        raise ValueError(
            f"num_steps={num_steps} counts from the run's beginning, and {start} steps are done; ask for as "
            "many at least, or begin another run."
        )
    queued: tuple[int, int, Metrics, Array] | None = None
    settled_at = 0.0
    means: dict[str, float] = {}

    def settle() -> None:
        nonlocal queued, settled_at, means
        if queued is None:
            return
        (first, last, *answers), queued = queued, None
        metrics, finite = jax.device_get(answers)
        _check_finite(first, last, metrics, finite)
        now = time.perf_counter()
        rate, settled_at = (last - first) / max(now - settled_at, 1e-9), now
        means = {name: float(np.mean(values)) for name, values in metrics._asdict().items()}
        if report is not None:
            report(last, metrics, rate)

    def keep() -> None:
        nonlocal saved
        settle()
        if save is not None and step > saved:
            save(state, means)
        saved = step

    def asked() -> bool:
        return stop is not None and stop(step)

    def end_of_dispatch(first: int) -> int:
        return min(num_steps, first + steps_per_dispatch - first % steps_per_dispatch)

    def fetch(first: int) -> Future[Any] | None:
        return _begin(feed, first, end_of_dispatch(first)) if feed and first < num_steps else None

    with _lost_peers():
        stopped = asked()
        coming = None if stopped else fetch(step)
        try:
            while step < num_steps and not stopped and (coming is None or _comes(coming, asked)):
                if coming and coming.exception():
                    keep()  # before it is raised
                rows = coming and coming.result()
                first, step = step, end_of_dispatch(step)
                coming = fetch(step)
                state, metrics, finite = _dispatch(key, step_fn, batch_fn, state, rows, length=step - first)
                if first == start:
                    settled_at = time.perf_counter()  # the first dispatch returns once it is compiled
                settle()
                queued = first, step, metrics, finite
                stopped = asked()
                if save_every is not None and step // save_every > first // save_every:
                    keep()
            keep()
        finally:
            if coming:
                wait([coming], timeout=2)  # a thread that the interpreter's end cuts off may crash it
    return state


def _begin(feed: DeviceFeed, first: int, last: int) -> Future[Any]:
    """The rows, from a thread of their own that nobody has to wait for: it may hang."""
    rows: Future[Any] = Future()

    def fetch() -> None:
        try:
            rows.set_result(feed(first, last))
        except StopIteration as error:
            ended = ValueError(
                f"The feed has ended: it has no rows of steps {first} to {last - 1}. Repeat its data, or "
                "train for fewer steps."
            )
            ended.__cause__ = error
            rows.set_exception(ended)
        except BaseException as error:
            error.add_note(f"while the feed was asked for the rows of steps {first} to {last - 1}")
            rows.set_exception(error)

    threading.Thread(target=fetch, name="feed", daemon=True).start()
    return rows


def _comes(rows: Future[Any], asked: Callable[[], bool]) -> bool:
    """Wait for rows, or for the feed to fail; False where a stop is asked for before."""
    while not wait([rows], timeout=0.2).done:
        # Several processes could not ask at the same steps: the others are at the next one.
        if jax.process_count() == 1 and asked():
            return False
    return True


@functools.partial(jax.jit, static_argnames="length", donate_argnames="state")
def _dispatch(
    key: Key, step_fn: StepFn, batch_fn: Callable[..., Any], state: TrainState, rows: Any, *, length: int
) -> tuple[TrainState, Metrics, Array]:
    data_key, step_key = jax.random.split(key)

    def body(state: TrainState, rows: Any) -> tuple[TrainState, Metrics]:
        batch_key = jax.random.fold_in(data_key, state.step)
        batch = batch_fn(batch_key) if rows is None else batch_fn(batch_key, rows)
        return step_fn(step_key, state, batch)

    state, metrics = jax.lax.scan(body, state, rows, length=length)
    # The metrics of a step look at the parameters before it, which leaves those after the last one.
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(state.params)]))
    return state, metrics, finite


def _split(batch: Any, m: int) -> Any:
    """The microbatches, stacked: rows j, j + m, ... so that each lies on the devices of the whole evenly."""

    def split(leaf: Array) -> Array:
        if len(leaf) % m:
            raise ValueError(
                f"num_microbatches={m} must divide the {len(leaf)} rows of a batch (of a device)."
            )
        return leaf.reshape(-1, m, *leaf.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def _check_state(state: Any) -> None:
    """Raise TypeError unless state is a TrainState, ValueError where it is no longer there."""
    if not isinstance(state, TrainState):
        raise TypeError(
            f"state must be a TrainState, got {type(state).__name__}; init_state(params, optimizer, "
            "ema_decay=...) makes one of parameters."
        )
    arrays = (x for x in jax.tree.leaves(state) if isinstance(x, jax.Array) and not isinstance(x, Tracer))
    if any(x.is_deleted() for x in arrays):
        raise ValueError("This state was given to train before, which donates it; use the one returned.")


def _check_averages(state: TrainState, ema_decay: Averaging) -> None:
    """The decays must be a prefix of the tree of averages, and each average must be like the parameters."""
    try:
        held = jax.tree.structure(ema_decay).flatten_up_to(state.ema_params)
    except ValueError:
        held = [None]
    if any(jax.tree.structure(own) != jax.tree.structure(state.params) for own in held):
        raise ValueError(
            f"The step has ema_decay={ema_decay!r}, and the averages of the state have another structure; "
            "give init_state and make_train_step the same ema_decay."
        )


def _as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a plain function a pytree without leaves, so that jit takes it, and knows it again by identity."""
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function


def _check_finite(first: int, last: int, metrics: Metrics, params_finite: Array) -> None:
    good = np.isfinite(metrics.loss) & np.isfinite(metrics.gradient_norm)
    if good.all() and params_finite:
        return
    if good.all():
        what = f"The parameters are not finite after step {last - 1}"
    else:
        at = int(np.argmin(good))
        loss, norm = float(metrics.loss[at]), float(metrics.gradient_norm[at])
        what = f"Step {first + at} has loss {loss:g} and gradient norm {norm:g}"
    raise FloatingPointError(
        f"{what}; training is stopped and nothing of it was saved since. Go on from the last checkpoint with "
        "a smaller learning rate or clipped gradients, or look for the cause with jax.debug_nans(True)."
    )


@contextlib.contextmanager
def _lost_peers() -> Iterator[None]:
    """Say plainly what a failed collective means."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # The runtime's errors begin with a status; some versions raise them as ValueError.
        status = re.match("UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED", str(error))
        if jax.process_count() == 1 or not status:
            raise
        raise ConnectionError(
            f"Process {jax.process_index()} of {jax.process_count()} cannot go on: another one has died or "
            "cannot be reached; see its log. Start all of them again: they go on from the last checkpoint. "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
