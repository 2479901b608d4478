"""Objectives: bounds of log p by rates, and regressions of classes that have the same minimizer.

Reverse jumps of one token, from x to k at the rate b Q(k, x) r(k), b = -alpha'/alpha, cost by the path
measures' relative entropy, against those of the data's own bridge, r0(k) = P_0t(data, k) / P_0t(data, x),

    D(data, x_t, t) = b sum_k Q(k, x) [r(k) - r0(k) - r0(k) log(r(k) / r0(k))],    summed over tokens     (1)
    -log p(data)   <=  int E D dt  +  KL(x_T | data || start)  -  E log p(data | x at t_min)              (2)

with equality where r is exact and all is forgotten at T: the mean over paths is log p itself, not only in the
mean over data. (1) is the score entropy of Lou et al. 2023, arXiv 2310.16834, and under masking the weighted
cross-entropy -alpha' / (1 - alpha) sum over masks of -log p(data | x_t) of Sahoo et al. 2024, arXiv
2406.07524, and Shi et al. 2024, arXiv 2406.04329; for the general case Campbell et al. 2022, arXiv
2205.14987.

All losses answer one number a row, (batch,), a sum over tokens in nats, in single precision or better.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff.densities.inputs import LogDensity
from jaxdiff.jumps.denoiser import CategoricalDenoiser, check_denoiser
from jaxdiff.jumps.draws import check_row_times, check_tokens, perturb, perturb_on
from jaxdiff.jumps.processes import JumpProcess, among_states, one_hot, rate, ratios, start_law
from jaxdiff.jumps.times import share_uniform
from jaxdiff.noising import times
from jaxdiff.typing import Array, Key, Time


def denoising_loss(key: Key, denoise: CategoricalDenoiser, data: Array) -> Array:
    """An estimate of the integral in eq. (2) for each row of data, integers (batch, *shape), in nats.

    One time a row, stratified over the batch, of equal shares of jumped tokens. For other times or another
    objective write its lines: `jumps.perturb`, and then `score_entropy` or `cross_entropy`. Raises TypeError
    for what is no key or denoiser and for floats, ValueError for another shape or tokens that are none.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> data = jnp.zeros((4096, 2), int)
    >>> jd.jumps.denoising_loss(jax.random.key(0), alike, data).mean().round(1)  # -log p = log 2
    Array(0.7, dtype=float32)
    """
    checks.key(key)
    _check_data(denoise, data)
    return _denoising_loss(key, denoise, data)


@compiled
def _denoising_loss(key: Key, denoise: CategoricalDenoiser, data: Array) -> Array:
    time_key, jump_key = jax.random.split(key)
    u = times.stratified(time_key, len(data))
    t, weight = share_uniform(u, denoise.schedule, t_min=denoise.t_min, t_max=denoise.t_max)
    return weight * score_entropy(denoise, data, perturb(jump_key, denoise.process, data, t), t)


def score_entropy(denoise: CategoricalDenoiser, data: Array, x: Array, t: Time) -> Array:
    """D of eq. (1), for tokens x at t that data have become: nats per unit of time, (batch,).

    The sum over k is over jumps that lead to x. t is a scalar or (batch,). Raises as the denoiser does.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> jd.jumps.score_entropy(alike, jnp.array([[1, 1]]), jnp.array([[2, 2]]), 0.5).round(2)  # 2 log 2 / t
    Array([2.77], dtype=float32)
    """
    _check_data(denoise, data)
    checks.shape("x", x, data.shape)
    check_row_times(x, t)
    return _score_entropy(denoise, data, x, t)


@compiled
def _score_entropy(denoise: CategoricalDenoiser, data: Array, x: Array, t: Time) -> Array:
    log_probs, process = denoise(x, t), denoise.process

    def row(log_probs: Array, data: Array, x: Array, t: Array) -> Array:
        certain = jnp.log(one_hot(data, process.vocabulary))
        own, exact = (ratios(process, p, x, t) for p in (log_probs, certain))
        jumps = process.entering(x) * (1 - one_hot(x, process.states))
        costs = jnp.where(jumps > 0, jumps * _divergence(own, exact), 0.0)
        return rate(process, t) * costs.sum()

    return jax.vmap(row)(log_probs, data, x, jnp.broadcast_to(jnp.asarray(t, float), x.shape[:1]))


def _divergence(r: Array, exact: Array) -> Array:
    """r - r0 - r0 log(r / r0), without a difference of what is nearly equal."""
    some = exact > 0
    base = jnp.where(some, exact, 1.0)
    off = (r - base) / base
    near = jnp.abs(off) < 0.5
    far = jnp.log(jnp.maximum(r, jnp.finfo(r.dtype).tiny)) - jnp.log(base)
    log_ratio = jnp.where(near, jnp.log1p(jnp.where(near, off, 0.0)), far)
    return jnp.where(some, base * (off - log_ratio), r)


def cross_entropy(denoise: CategoricalDenoiser, target: Array, x: Array, t: Time) -> Array:
    """-sum_i log p(data_i | x_t), (batch,): discrete flow matching, and masked-token prediction.

    target: the data, integers (batch, *shape), or chances of them, (batch, *shape, vocabulary), such as
    `bootstrapped_target` makes. Its minimizer is exact under every weight and law of times; where tokens are
    seen under masking it is zero. Gat et al. 2024, arXiv 2407.15595. Raises ValueError for a target of
    another shape, and as the denoiser does.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> jd.jumps.cross_entropy(alike, jnp.array([[1, 1]]), jnp.array([[2, 2]]), 0.5).round(2)  # 2 log 2
    Array([1.39], dtype=float32)
    """
    check_denoiser("denoise", denoise)
    wanted = (
        jnp.shape(x) if jnp.issubdtype(target.dtype, jnp.integer) else (*jnp.shape(x), denoise.vocabulary)
    )
    checks.shape("target", target, wanted)
    if wanted == jnp.shape(x):
        check_tokens("target", target, denoise.vocabulary)
    return _cross_entropy(denoise, target, x, t)


@compiled
def _cross_entropy(denoise: CategoricalDenoiser, target: Array, x: Array, t: Time) -> Array:
    log_probs = denoise(x, t)
    chances = one_hot(target, denoise.vocabulary) if target.ndim == x.ndim else target
    # A token that cannot be has a logarithm of no use, nor its derivative.
    terms = jnp.where(chances > 0, chances * jnp.where(chances > 0, log_probs, 0.0), 0.0)
    return -terms.reshape(len(x), -1).sum(1)


def ratio_matching(denoise: CategoricalDenoiser, x: Array, t: Time) -> Array:
    """-sum_i log p_t(x_i | all other tokens of x_t), (batch,), of noised x alone: the data are not asked for.

    For denoisers whose `others` do not depend on x_i; any other would learn to repeat it. Its minimizer
    has all ratios of p_t exactly. Sun et al. 2023, arXiv 2211.16750. Raises as the denoiser does.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Uniform(2))
    >>> jd.jumps.ratio_matching(alike, jnp.array([[0, 0]]), 0.5).round(2)  # each is 0 with chance 5/8
    Array([0.94], dtype=float32)
    """
    check_denoiser("denoise", denoise)
    check_row_times(x, t)
    return _ratio_matching(denoise, x, t)


@compiled
def _ratio_matching(denoise: CategoricalDenoiser, x: Array, t: Time) -> Array:
    process, others = denoise.process, denoise.others(x, t)

    def row(others: Array, x: Array, t: Array) -> Array:
        law = process.push(among_states(process, jax.nn.softmax(others)), process.schedule.t_min, t)
        return -jnp.log(jnp.take_along_axis(law, x[..., None], axis=-1)).sum()

    return jax.vmap(row)(others, x, jnp.broadcast_to(jnp.asarray(t, float), x.shape[:1]))


def bootstrapped_target(
    key: Key, teacher: CategoricalDenoiser, data: Array, s: Time, t: Time, *, mix: Array | float = 1.0
) -> tuple[Array, Array]:
    """x_t, and chances of the data as a teacher has them at the earlier time s of the same path.

    (1 - mix) one-hot(data) + mix p(. | x_s), (batch, *shape, vocabulary), for `cross_entropy`. Given x_s, x_t
    says no more of the data, so with an exact teacher the target is the mean of the one-hot one given both:
    its own mean given x_t is unchanged, and its squared error falls from 1 - E |p(. | x_t)|^2 to E |p(. |
    x_s)|^2 - E |p(. | x_t)|^2, never above. Under masking only tokens gain that are masked at s still, a
    share sigma(s) / sigma(t) of those at t. Nothing is differentiated through the teacher.

    s < t: scalars or (batch,). Raises as the denoiser does, and ValueError for s > t or a mix out of [0, 1].

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> x, chances = jd.jumps.bootstrapped_target(jax.random.key(0), alike, jnp.array([[1, 1]]), 0.0, 0.5)
    >>> chances.tolist()  # a teacher of no noise knows the data
    [[[0.0, 1.0], [0.0, 1.0]]]
    """
    checks.key(key)
    _check_data(teacher, data)
    checks.within("mix", mix, 0.0, 1.0)
    for time in (s, t):
        check_row_times(data, time)
    gap = checks.known(t), checks.known(s)
    if gap[0] is not None and gap[1] is not None and (gap[0] < gap[1]).any():
        raise ValueError(f"s must not be after t, got s = {s} and t = {t}.")
    return _bootstrapped_target(key, teacher, data, s, t, mix)


@compiled
def _bootstrapped_target(
    key: Key, teacher: CategoricalDenoiser, data: Array, s: Time, t: Time, mix: Array | float
) -> tuple[Array, Array]:
    first_key, then_key = jax.random.split(key)
    process = teacher.process
    x_s = perturb(first_key, process, data, s)
    x_t = perturb_on(then_key, process, x_s, s, t)
    chances = jax.lax.stop_gradient(jnp.exp(teacher(x_s, s)))
    return x_t, (1 - mix) * one_hot(data, process.vocabulary) + mix * chances


def log_bound(key: Key, denoise: CategoricalDenoiser, data: Array, *, num_times: int = 64) -> LogDensity:
    """The lower bound of log p(data) of eq. (2) in nats, (batch,), and its standard error.

    num_times: calls of the denoiser, an even number: two independent ones in each of half as many equal
    shares of jumped tokens, whose differences make the error. The start is what tokens of equal chances have
    become at t_max. Row i depends on (key, i) and itself only. Raises as `denoising_loss`, and ValueError for
    an odd number.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> bound = jd.jumps.log_bound(jax.random.key(0), alike, jnp.array([[1, 1]]), num_times=64)
    >>> bool(abs(bound.value[0] - math.log(0.5)) < 3 * bound.standard_error[0])
    True
    """
    checks.key(key)
    _check_data(denoise, data)
    checks.integer("num_times", num_times, 2)
    if num_times % 2:
        raise ValueError(f"num_times must be even, got {num_times}.")
    return _log_bound(key, denoise, data, num_times=num_times)


@functools.partial(jax.jit, static_argnames="num_times")
def _log_bound(key: Key, denoise: CategoricalDenoiser, data: Array, *, num_times: int) -> LogDensity:
    process, strata = denoise.process, num_times // 2

    def one(number: Array) -> Array:
        time_key, jump_key = jax.random.split(jax.random.fold_in(key, number))
        own = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(time_key, i)))(jnp.arange(len(data)))
        u = (number // 2 + own) / strata
        t, weight = share_uniform(u, denoise.schedule, t_min=denoise.t_min, t_max=denoise.t_max)
        return weight * score_entropy(denoise, data, perturb(jump_key, process, data, t), t)

    costs = jax.lax.map(one, jnp.arange(num_times)).reshape(strata, 2, -1)
    value = -costs.mean((0, 1)) - _start_cost(process, data, denoise.t_max)
    if denoise.t_min > denoise.schedule.t_min:
        t = jnp.full(len(data), denoise.t_min)
        x = perturb(jax.random.fold_in(key, num_times), process, data, t)
        value -= cross_entropy(denoise, data, x, t)
    return LogDensity(value, jnp.sqrt(((costs[:, 0] - costs[:, 1]) ** 2).sum(0)) / num_times)


def _start_cost(process: JumpProcess, data: Array, t: float) -> Array:
    """KL between the law of x_t given data and that of `start_law`, (batch,)."""
    law = process.push(one_hot(data, process.states), process.schedule.t_min, t)
    start = start_law(process, t).reshape((1,) * data.ndim + (-1,))
    terms = jnp.where(
        law > 0, law * jnp.log(jnp.where(law > 0, law, 1.0) / jnp.where(law > 0, start, 1.0)), 0.0
    )
    return terms.reshape(len(data), -1).sum(1)


def _check_data(denoise: CategoricalDenoiser, data: Array) -> None:
    check_denoiser("denoise", denoise)
    check_tokens("data", data, denoise.vocabulary)
    denoise.check_shape("data", data)
