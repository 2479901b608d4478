"""What to regress onto: functions that return a noisy x_t and a target whose conditional mean is E[. | x_t].

Each takes a batch of data, shape (batch, ...), with t scalar or of shape (batch,), and returns
``(x_t, Denoised)``, both of data's shape and dtype, with x_t = alpha data + sigma noise holding for the
target as well. Denoising and flow-matching training share one target and differ in the row of the regression.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import time_axis
from jaxdiff.laws.empirical import Empirical
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


def denoising_target(key: Key, schedule: Schedule, data: Array, t: Time) -> tuple[Array, Denoised]:
    """The pair (data, noise) that made x_t (Vincent 2011; conditional flow matching, arXiv 2210.02747).

    Row i of the noise depends on (key, i) only. Raises TypeError for what is no key or schedule and for
    integer data, ValueError for NaN, for a t that goes with other rows or is out of the schedule's range;
    where t is traced, x_t is NaN there.

    >>> x, target = jd.denoising_target(jax.random.key(0), jd.Karras(), jnp.ones((1, 2)), 2.0)
    >>> bool(jnp.allclose(x, target.data + 2.0 * target.noise)), target.data.tolist()
    (True, [[1.0, 1.0]])
    """
    _check(key, schedule, data, t)
    return _denoising_target(key, schedule, jnp.asarray(data), t)


@compiled
def _denoising_target(key: Key, schedule: Schedule, data: Array, t: Time) -> tuple[Array, Denoised]:
    noise = noise_like(key, data)
    x = jax.vmap(perturb, in_axes=(None, 0, 0, time_axis(t)))(schedule, data, noise, jnp.asarray(t))
    return x, Denoised(data, noise)


def stable_target(
    key: Key, schedule: Schedule, data: Array, t: Time, *, pool: Array | None = None
) -> tuple[Array, Denoised]:
    """The mean of the candidates for the data, weighted by their posterior given x_t.

    The candidates are the batch and, if given, a pool of further data, shape (m, ...). The variance of the
    target falls with their number. Where they are independent draws of one law, any of them is as likely to
    have made x_t, so the target is the mean of the datum given x_t and the set of candidates: its conditional
    mean is the exact one for any number of them. Candidates that stay the same from step to step are learnt
    themselves. Xu et al. 2023, arXiv 2302.00670, eq. 6, who allow for a bias. Where sigma = 0 only a datum
    itself is left. Raises as `denoising_target`, and ValueError for a pool of other rows than data's.

    >>> x, target = jd.stable_target(jax.random.key(0), jd.Karras(), jnp.array([[0.0], [1.0]]), 1e3)
    >>> target.data.round(2).tolist()  # under much noise the mean of the batch
    [[0.5], [0.5]]
    """
    _check(key, schedule, data, t)
    if pool is not None:
        check_pool(pool, data)
    return _stable_target(key, schedule, jnp.asarray(data), t, pool)


@compiled
def _stable_target(
    key: Key, schedule: Schedule, data: Array, t: Time, pool: Array | None
) -> tuple[Array, Denoised]:
    x, exact = _denoising_target(key, schedule, data, t)
    # In single precision or better from the draws on: x itself may be rounded to bfloat16.
    own, noise, each = single(exact.data), single(exact.noise), time_axis(t)
    unrounded = jax.vmap(perturb, in_axes=(None, 0, 0, each))(schedule, own, noise, jnp.asarray(t))
    candidates = own if pool is None else jnp.concatenate([own, pool.astype(own.dtype)])
    # What is left of the data once x_t is seen is what the finite set of candidates denoises to.
    field = Empirical(candidates.reshape(len(candidates), -1)).denoiser(schedule)
    known = field(unrounded.reshape(len(x), -1), t)

    def choose(known: Array, exact: Array, t: Array) -> Array:
        return jnp.where(schedule.sigma(t) == 0, exact, known.reshape(exact.shape).astype(exact.dtype))

    chosen = jax.tree.map(
        lambda known, exact: jax.vmap(choose, in_axes=(0, 0, each))(known, exact, jnp.asarray(t)),
        known,
        exact,
    )
    return x, chosen


def check_pool(pool: Array, data: Array) -> None:
    """Raise TypeError for integers, ValueError unless a pool holds finite rows of the shape of data's."""
    checks.batch("pool", pool)
    checks.finite("pool", pool)
    if pool.shape[1:] != data.shape[1:]:
        raise ValueError(f"pool must hold rows of shape {data.shape[1:]}, got {pool.shape[1:]}.")


def _check(key: Key, schedule: Schedule, data: Array, t: Time) -> None:
    checks.key(key)
    checks.schedule(schedule)
    checks.batch("data", data, t)
    checks.finite("data", data)
    checks.in_range("t", schedule, t)
