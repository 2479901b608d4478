"""Models tuned by a reward r, so that plain sampling draws the tilt p e^r / E e^r of a base p.

Three ways to what `regression_loss` regresses onto, and one loss besides. All are right where the model has
reached the tilt, and have there the tilt's denoiser as their conditional mean.

    base draws, weighed        (reward_weights(reward(data)) * denoising_loss(key, model, data)).mean()
    the model's own chain      x, t, target = adjoint_matching_target(key, model, base, reward, n, times=grid)
    the model's draws, noised  x, target = renoised_reward_target(key, model, base, reward, samples, t)

The first is the simplest, and fails where few base draws have a large reward: (sum w)^2 / sum w^2 of them
count. The others need the reward's gradient and a base beside the model, and see what the model draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff._numerics.rows import to_rows
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.denoising.ends import check_no_data_left
from jaxdiff.guidance.tilted import Reward, noise_after, rewarded, shifted
from jaxdiff.noising.process import bridge, marginals, transition
from jaxdiff.typing import Array, Denoised, Key, Time


def reward_weights(rewards: Array) -> Array:
    """n e^r / sum e^r of rewards in nats, (n,), of mean 1: what each row's loss is multiplied by.

    The mean of weighted losses over draws of the base has the tilt's denoiser as its minimizer, up to a bias
    of the order of the weights' variance over n, for they are normalized by themselves. Peters & Schaal 2007.
    Raises ValueError for rewards of another shape or not finite.

    >>> jd.rewards.reward_weights(jnp.log(jnp.array([1.0, 3.0]))).round(4).tolist()
    [0.5, 1.5]
    """
    checks.shape("rewards", rewards, (None,))
    checks.finite("rewards", rewards)
    return len(rewards) * jax.nn.softmax(single(rewards))


def adjoint_matching_target(
    key: Key, denoise: Denoiser, base: Denoiser, reward: Reward, n: int, *, times: Array
) -> tuple[Array, Array, Denoised]:
    """(x, t, target): points of n ancestral chains of denoise, and there the base moved along adjoints.

    With a chain x_0, ..., x_K of the model and m_k the mean of the base's step from x_k,

        a_K = grad r(D_base(x_K)),    a_k = (dm_k / dx)' a_{k+1},    target = base with a_k added to its score

    through the base alone, never the model. Where the model draws the tilt, the mean of a_k given x_k is the
    gradient of log E[e^r | x_k]; for a Gaussian base and a linear reward each a_k is, wherever the model
    is. Domingo-Enrich et al. 2024, arXiv 2409.08861, whose memoryless noise the ancestral chain has.

    times: decreasing, (K + 1,), from where noise dominates to where the model knows the data best. Shapes:
    ((K + 1) n, *shape) and ((K + 1) n,). Cost: a call of the model and of the base, with its vjp, a step.
    Nothing is differentiated. Raises TypeError for what is no key or denoiser, ValueError for denoisers that
    disagree, times that they do not know and a reward that is not one number a row.

    >>> base, tilt = (jd.Gaussian([mean], 1.0).denoiser(jd.Karras()) for mean in (0.0, 1.0))
    >>> key, reward, times = jax.random.key(0), lambda data: data[:, 0], jnp.geomspace(50.0, 0.01, 9)
    >>> x, t, target = jd.rewards.adjoint_matching_target(key, base, base, reward, 2, times=times)
    >>> bool(jnp.allclose(target.noise, tilt(x, t).noise, atol=1e-3))  # N(0, 1) e^x is N(1, 1)
    True
    """
    checks.key(key)
    _check_pair(denoise, base, reward)
    checks.integer("n", n, 1)
    checks.times(denoise.schedule, times, increasing=False)
    denoise.check_times("times", times)
    base.check_times("times", times)
    check_no_data_left(base, base.scale, jnp.asarray(times)[0])
    return _adjoint_matching_target(key, _Tuned(denoise, base, reward), jnp.asarray(times, float), n=n)


def renoised_reward_target(
    key: Key,
    denoise: Denoiser,
    base: Denoiser,
    reward: Reward,
    data: Array,
    t: Time,
    *,
    at: Time | None = None,
    rate: Array | float = 1.0,
) -> tuple[Array, Denoised]:
    """(x_t, target) from the model's own samples, (batch, *shape): noised, and moved by what is amiss.

        data + rate rho_t^2 c(z),    c = score of rewarded(base, reward) - score of denoise,    z = x_at

    with rho_t^2 the posterior variance of isotropic data of the base's scale. E[c(z) | x_t] is alpha_t /
    alpha_at times how far the model's score at x_t would be from a law's whose score at z is right, so the
    tilt is left alone, without the variance of the correction, and every other law is moved towards it: by
    rate of its way at the clean end. For isotropic Gaussian bases of that scale and linear rewards the first
    target, where the model is the base, is the tilt's. No chain, and no derivative but the base's.

    at: the time where scores are compared, by default the cleanest of the working range; of a network one at
        which its score is good, such as of sigma / alpha a twentieth of the scale. t: later than that.

    Nothing is differentiated. Raises TypeError for what is no key or denoiser, ValueError for data of another
    shape, denoisers that disagree, times that they do not know and a rate out of (0, 1].

    >>> base = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> key, reward, data = jax.random.key(0), lambda data: data[:, 0], jnp.array([[-1.0], [3.0]])
    >>> x, target = jd.rewards.renoised_reward_target(key, base, base, reward, data, 1.0)
    >>> (target.data - data).round(3).tolist()  # as N(1, 1), the tilt, is from N(0, 1): (x + 1) / 2 - x / 2
    [[0.5], [0.5]]
    """
    checks.key(key)
    _check_pair(denoise, base, reward)
    checks.batch("data", data, t)
    checks.finite("data", data)
    denoise.check_shape("data", data)
    at = denoise.working_range[0] if at is None else at
    checks.shape("at", at, ())
    for name, time in (("at", at), ("t", t)):
        denoise.check_times(name, time)
        base.check_times(name, time)
    if checks.known(at) is not None and checks.known(t) is not None and not (jnp.asarray(t) > at).all():
        raise ValueError(f"t must be later than the time {at} where scores are compared, got {t}.")
    checks.within("rate", rate, 0.0, 1.0)
    checks.positive_number("rate", rate)
    return _renoised_reward_target(key, _Tuned(denoise, base, reward), jnp.asarray(data), t, at, rate)


def log_mean_loss(value: Array, log_weight: Array) -> Array:
    """w (e^(value - log w) - 1 - (value - log w)), (batch,), whose minimizer over functions is log E[w | .].

    value: of a network at x_t, log_weight: of the data that made x_t, both (batch,). What is learnt so is
    the soft value of a reward, w = e^r, and a twist for `jaxdiff.particles.Twisted`; or, with w the density
    ratio of another law's data to these, the way to that law by few data (TGDP, Ouyang et al. 2024, arXiv
    2405.16876), the ratio from a classifier between the two. To guide by it:

        h = lambda x, t: jax.grad(lambda x: value(params, x, t).sum())(x)
        jd.tilted(denoise, h)

    Raises ValueError for other shapes.

    >>> jd.rewards.log_mean_loss(jnp.log(jnp.array([3.0])), jnp.log(jnp.array([3.0]))).tolist()
    [0.0]
    """
    checks.shape("log_weight", log_weight, (None,))
    checks.shape("value", value, jnp.shape(log_weight))
    off = single(value) - single(log_weight)
    return jnp.exp(log_weight) * (jnp.expm1(off) - off)


@pytree
@dataclass(frozen=True, eq=False)
class _Tuned:
    """What a reward tunes, with no derivatives."""

    denoise: Denoiser
    base: Denoiser
    reward: Reward


@compiled(static="n")
def _adjoint_matching_target(
    key: Key, tuned: _Tuned, times: Array, *, n: int
) -> tuple[Array, Array, Denoised]:
    tuned = jax.lax.stop_gradient(tuned)
    base, schedule = tuned.base, tuned.base.schedule
    start_key, key = jax.random.split(key)
    start = schedule.sigma(times[0]) * noise_like(start_key, jnp.zeros((n, *base.shape)))

    def step(x: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        number, t, s = step
        mean, std = bridge(schedule, tuned.denoise(x, t).data, x, s, t)
        return (mean + std * noise_like(jax.random.fold_in(key, number), x)).astype(x.dtype), x

    last, path = jax.lax.scan(step, start, (jnp.arange(len(times) - 1), times[:-1], times[1:]))

    def reward(x: Array) -> tuple[Array, Denoised]:
        answer = base(x, times[-1])
        value = tuned.reward(answer.data)
        checks.shape("reward(data)", value, (n,))
        return value.sum(), answer

    def back(adjoint: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Denoised]:
        x, t, s = step

        def mean(x: Array) -> tuple[Array, Denoised]:
            answer = base(x, t)
            return bridge(schedule, answer.data, x, s, t)[0], answer

        _, pull, answer = jax.vjp(mean, x, has_aux=True)
        (adjoint,) = pull(adjoint)
        return adjoint, shifted(schedule, x, t, answer, adjoint)

    adjoint, answer = jax.grad(reward, has_aux=True)(last)
    final = shifted(schedule, last, times[-1], answer, adjoint)
    _, targets = jax.lax.scan(back, adjoint, (path, times[:-1], times[1:]), reverse=True)

    def flat(path: Array, last: Array) -> Array:
        return jnp.concatenate([path, last[None]]).reshape(-1, *base.shape)

    return flat(path, last), jnp.repeat(times, n), jax.tree.map(flat, targets, final)


@compiled
def _renoised_reward_target(
    key: Key, tuned: _Tuned, data: Array, t: Time, at: Time, rate: Array | float
) -> tuple[Array, Denoised]:
    tuned = jax.lax.stop_gradient(tuned)
    base, schedule, at = tuned.base, tuned.base.schedule, single(at)
    own_key, key = jax.random.split(key)
    data = single(data)
    t = jnp.broadcast_to(single(t), data.shape[:1])
    z = schedule.alpha(at) * data + schedule.sigma(at) * noise_like(own_key, data)
    amiss = tuned.denoise(z, at).noise - rewarded(base, tuned.reward)(z, at).noise
    kept, std = jax.vmap(lambda t: transition(schedule, at, t))(t)
    x = to_rows(kept, z) * z + to_rows(std, z) * noise_like(key, z)
    alpha, sigma = (to_rows(v, z) for v in marginals(schedule, t))
    variance = sigma**2 / (sigma**2 / base.scale**2 + alpha**2)
    change = rate * variance * schedule.alpha(at) / schedule.sigma(at) * amiss
    return x, Denoised(data + change, noise_after(schedule, x, t, (x - alpha * data) / sigma, change))


def _check_pair(denoise: Denoiser, base: Denoiser, reward: Reward) -> None:
    check_denoiser("denoise", denoise)
    check_denoiser("base", base)
    check_agree("base", base, "denoise", denoise)
    if not callable(reward) or isinstance(reward, Denoiser):
        raise TypeError(
            f"reward must be a function of data, (batch, *shape), got {checks.described(reward)}."
        )
