"""Flows fitted by maximum likelihood to noised data; (1) to (4) are those of `jaxdiff.sampling.flows`."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.laws.fitting import NOISES
from jaxdiff.learning import training
from jaxdiff.learning.ema import EmaDecay
from jaxdiff.noising.process import perturb
from jaxdiff.sampling.flows import ROWS, Flow, by_chunks, gain_over_gaussian, num_classes_of
from jaxdiff.sampling.whitening import Whitening, fit_whitening, mean, stretch
from jaxdiff.typing import Array, Key, Params, Schedule, Time

_NULL_RATE = 0.1  # of labels that are dropped in training
_LEAST_HELD_OUT = 10


def fit_flow(
    key: Key,
    model: nn.Module,
    data: ArrayLike,
    schedule: Schedule,
    t_max: Time,
    *,
    labels: ArrayLike | None = None,
    noise: str = "dynamic",
    rank: int | None = None,
    degrees_of_freedom: float | None = None,
    num_steps: int = 2000,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    held_out: float = 0.1,
    ema_decay: EmaDecay | None = 0.99,
    evaluate_every: int = 100,
    patience: int = 10,
    report: training.Report | None = None,
) -> Flow:
    """A flow of great likelihood for ``alpha(t_max) data + sigma(t_max) noise``, data of shape (n, *shape).

    Under noise="dynamic" every batch draws its noise anew, and m and C follow exactly from the moments of the
    data. Under "fixed" one noised copy of the data is drawn at first, and is all that is fitted. Labels (n,),
    for a model with num_classes, are dropped for "no class" at the rate 0.1.

    rank: of C beside a multiple of the identity, by `fit_low_rank`, for data of thousands of entries; dense
        without.
    degrees_of_freedom: above 2, for z of a Student t law of covariance I, so that tails as heavy are in the
        family; it begins at that law of x, whose gain over the Gaussian may be negative.

    A part held_out of the rows is kept from the fit. Every evaluate_every steps the mean gain (4) on it,
    under noise of its own, is compared with the best so far, at first that of the identity (zero, for a
    Gaussian z). The parameters of the best are returned, and after patience evaluations without a better one
    the fit ends. What is evaluated and returned is the average of the parameters over steps, unless ema_decay
    is None. Adam's learning rate falls from learning_rate to zero along a cosine.

    report(step, metrics, steps_per_second) is that of `training.train`, for instance
    `progress.Progress(num_steps)`; the loss is minus the gain over the Gaussian, in nats.

    Raises before any work ValueError for data that are too few (it says how many would do) or not finite,
    labels of another shape or range, an unknown noise, t_max outside the schedule's range, a model that
    answers in another shape; TypeError for data that are not floats and labels that are not integers. Raises
    FloatingPointError when a step is no longer finite.

    >>> data, key = jnp.tile(jnp.array([[-1.0], [1.0]]), (200, 1)), jax.random.key(0)
    >>> model = jd.models.SplineCoupling(num_layers=2, width=8, num_blocks=1)
    >>> law = jd.fit_flow(key, model, data, jd.Karras(), 0.3, num_steps=300, batch_size=100)
    >>> x = data + 0.3 * jax.random.normal(key, data.shape)
    >>> gaussian = jd.fit_gaussian(data).perturbed(jd.Karras(), 0.3)
    >>> bool(law.log_prob(x).mean() > gaussian.log_prob(x).mean() + 0.2)  # of .5 nats that there are to gain
    True
    """
    checks.key(key)
    data = jnp.asarray(data)
    checks.floating("data", data)
    data = single(data)
    checks.option("noise", noise, NOISES)
    checks.integer("num_steps", num_steps, 1)
    checks.integer("batch_size", batch_size, 1)
    checks.integer("evaluate_every", evaluate_every, 1)
    checks.integer("patience", patience, 1)
    checks.positive("learning_rate", learning_rate)
    _check_data(data, held_out, noise, rank)
    if degrees_of_freedom is not None:
        checks.positive("degrees_of_freedom - 2, since the covariance is fitted,", degrees_of_freedom - 2)
        degrees_of_freedom = float(degrees_of_freedom)
    checks.schedule(schedule)
    checks.shape("t_max", t_max, ())
    checks.in_range("t_max", schedule, t_max)
    checks.positive(f"sigma(t_max), t_max = {t_max},", schedule.sigma(t_max))
    labels = _check_labels(labels, num_classes_of(model), len(data))
    _check_model(model, data, labels)

    prepare_key, init_key, key = jax.random.split(key, 3)
    gaussian, part, test = _prepare(
        prepare_key, data, labels, schedule, t_max, round(held_out * len(data)), noise, rank
    )
    programs = _programs(model, degrees_of_freedom, num_steps, batch_size, learning_rate, ema_decay)
    params = programs.init(init_key, part)
    state = training.init_state(params, programs.optimizer, ema_decay=ema_decay)
    draw = jax.tree_util.Partial(programs.draw, part)
    best, best_gain, waited = params, float(programs.gain(params, test)), 0
    for step in range(evaluate_every, num_steps + evaluate_every, evaluate_every):
        state = training.train(
            key,
            state,
            programs.step,
            draw,
            num_steps=min(step, num_steps),
            steps_per_dispatch=min(50, evaluate_every),
            report=report,
        )
        average = training.averaged(state)
        gain = float(programs.gain(average, test))
        waited += 1
        if gain > best_gain:
            best, best_gain, waited = jax.tree.map(jnp.copy, average), gain, 0
        if waited == patience:
            break
    return Flow(gaussian, best, model, data.shape[1:], degrees_of_freedom=degrees_of_freedom)


class _Blur(NamedTuple):
    """The noise that a batch is still to be given."""

    gaussian: Whitening
    sigma: Array


class _Rows(NamedTuple):
    """Examples in the coordinates (1)."""

    u: Array
    labels: Array | None
    blur: _Blur | None


@functools.partial(jax.jit, static_argnames=("num_held_out", "noise", "rank"))
def _prepare(
    key: Key,
    data: Array,
    labels: Array | None,
    schedule: Schedule,
    t_max: Time,
    num_held_out: int,
    noise: str,
    rank: int | None,
) -> tuple[Whitening, _Rows, _Rows]:
    """The Gaussian, the rows to be fitted and, noised, those held out."""
    split_key, fitted_key, held_key = jax.random.split(key, 3)
    shape, flat = data.shape[1:], data.reshape(len(data), -1)
    order = jax.random.permutation(split_key, len(data))
    held, fitted = order[:num_held_out], order[num_held_out:]
    # Several noises for each of a few held-out rows: a gain of thousandths of a nat is looked for.
    held = jnp.tile(held, -(-ROWS // num_held_out))

    def noised(key: Key, x: Array) -> Array:
        return perturb(schedule, x, noise_like(key, x), t_max)

    if noise == "fixed":
        x = noised(fitted_key, flat[fitted])
        gaussian, blur = fit_whitening(x, rank), None
    else:
        x = schedule.alpha(t_max) * flat[fitted]
        gaussian = fit_whitening(flat[fitted], rank).perturbed(schedule, t_max)
        blur = _Blur(gaussian, jnp.asarray(schedule.sigma(t_max), x.dtype))

    def rows(x: Array, which: Array, blur: _Blur | None) -> _Rows:
        u = stretch(gaussian, x - mean(gaussian)[None], -0.5).reshape(-1, *shape)
        return _Rows(u, None if labels is None else labels[which], blur)

    return gaussian, rows(x, fitted, blur), rows(noised(held_key, flat[held]), held, None)


class _Programs(NamedTuple):
    """What is compiled: once for all fits that differ in data, noise level and seed only."""

    init: Any
    optimizer: optax.GradientTransformation
    step: training.StepFn
    draw: Any
    gain: Any


@functools.lru_cache(maxsize=16)
def _programs(
    model: nn.Module,
    degrees_of_freedom: float | None,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: EmaDecay | None,
) -> _Programs:
    num_classes = num_classes_of(model)

    def init(key: Key, rows: _Rows) -> Params:
        return model.init(key, rows.u[:1], None if rows.labels is None else rows.labels[:1])

    def loss(params: Params, key: Key, batch: _Rows) -> Array:
        return -gain_over_gaussian(model, degrees_of_freedom, params, batch.u, batch.labels, None).mean()

    def draw(rows: _Rows, key: Key) -> _Rows:
        row_key, noise_key, null_key = jax.random.split(key, 3)
        which = jax.random.randint(row_key, (batch_size,), 0, len(rows.u))
        u, labels = rows.u[which], None
        if rows.blur is not None:
            noise = noise_like(noise_key, u.reshape(batch_size, -1))
            u += rows.blur.sigma * stretch(rows.blur.gaussian, noise, -0.5).reshape(u.shape)
        if rows.labels is not None and num_classes is not None:
            dropped = jax.random.bernoulli(null_key, _NULL_RATE, (batch_size,))
            labels = jnp.where(dropped, num_classes, rows.labels[which])
        return _Rows(u, labels, None)

    def gain(params: Params, rows: _Rows) -> Array:
        return by_chunks(
            lambda r: gain_over_gaussian(model, degrees_of_freedom, params, r.u, r.labels, None), rows
        ).mean()

    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, num_steps // 10), num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))
    step = training.make_train_step(loss, optimizer, ema_decay=ema_decay)
    return _Programs(jax.jit(init), optimizer, step, draw, jax.jit(gain))


def _check_data(data: Array, held_out: float, noise: str, rank: int | None) -> None:
    if data.ndim < 2 or not data.size:
        raise ValueError(f"data must have shape (n, ...), one example a row, got {data.shape}.")
    checks.within("held_out", held_out, 0.01, 0.5)
    n, d = len(data), data.size // len(data)
    if rank is None:
        least = d + 2 if noise == "fixed" else 2  # a covariance of d + 1 points is as good as singular
    else:
        checks.within("rank", rank, 1, d - 1)
        least = rank + 1
    num_held_out = round(held_out * n)
    if num_held_out < _LEAST_HELD_OUT or n - num_held_out < least:
        would_do = math.ceil(max(_LEAST_HELD_OUT / held_out, (least + 1) / (1 - held_out)))
        raise ValueError(
            f"data has {n} rows, which is too few: {num_held_out} would be held out (wanted at least "
            f"{_LEAST_HELD_OUT}) and {n - num_held_out} fitted (wanted at least {least}). "
            f"{would_do} rows would do."
        )
    checks.finite("data", data)


def _check_labels(labels: ArrayLike | None, num_classes: int | None, n: int) -> Array | None:
    if num_classes is None:
        if labels is not None:
            raise ValueError("labels were given to a model without classes; build it with num_classes=...")
        return None
    if labels is None:
        raise ValueError(f"labels are missing for a model of {num_classes} classes; give integers ({n},).")
    labels = jnp.asarray(labels)
    checks.shape("labels", labels, (n,))
    checks.integers("labels", labels)
    checks.within("labels", labels, 0, num_classes - 1)
    return labels


def _check_model(model: nn.Module, data: Array, labels: Array | None) -> None:
    some = (data[:2], None if labels is None else labels[:2])
    answer, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), *some)
    got, wanted = jax.tree.map(jnp.shape, answer), (data[:2].shape, (2,))
    if got != wanted:
        raise ValueError(
            f"The model must answer (z, log_det) of shapes {wanted} for 2 rows of the data, got {got}."
        )
