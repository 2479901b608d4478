"""Bootstrapped targets; the equations are those of `jaxdiff.learning.bootstrap`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser, time_axis
from jaxdiff.learning.bootstrap.gates import jacobian_weight
from jaxdiff.learning.bootstrap.pool import Rows, posterior, share
from jaxdiff.learning.bootstrap.times import correlation, earlier_time
from jaxdiff.learning.targets import check_pool, denoising_target
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


def bootstrapped_target(
    key: Key,
    teacher: Denoiser,
    data: Array,
    s: Time,
    t: Time,
    *,
    mix: Array | float,
    gate: Array | float | Denoiser | None = None,
    field: Denoiser | None = None,
    pool: Array | None = None,
) -> tuple[Array, Denoised]:
    """x_t and the target y_g of eqs. (5) and (6), of data's shape (batch, ...), averaged over draws of x_s.

    teacher: the denoiser at the earlier times, whose schedule is the process; nothing is differentiated
        through it, and it is not listened to where the mix is 0.
    t: scalar or (batch,). s < t: of t's shape, or with a leading axis of draws, which are averaged: several
        earlier levels at once, or one repeated, x_s then being drawn that often from the bridge between the
        data and x_t. The variance of the average of n draws at one level is V_inf + (V_1 - V_inf) / n.
    mix: a, scalar or (batch,); 0 is denoising score matching, and s = t is allowed there and only there.
    gate: g, scalar or (batch,), or (batch, d, d) or (d, d) matrices for data (batch, d), see `matrix_gate`;
        by default the Rao-Blackwell gate rho^2, which alone needs no division by alpha_t, rho or 1 - rho^2.
        Or a denoiser, of which one Jacobian product at x_t makes the gate (13): the teacher itself, at about
        two of its passes more, or a law's. Nothing is differentiated through it either.
    field: a denoiser that knows the data at t as well as they can be known, as `Empirical(data)` does of a
        training set; the target is then y + S(x_t) - x_0, eq. (9).
    pool: further rows of the training set, (m, ...), for one too large for that; the target is then eq. (10),
        exactly unbiased if the pool is drawn anew, independently of the data and by the same law, as
        ``jaxdiff.data.batch(key, training_set, 2048)`` is at each step. A pool that stays is learnt by heart.

    Raises TypeError for integer data and for what is no key or denoiser; ValueError for NaN, for times, mix
    or gate of a wrong shape, for times out of the range of the schedule or of the denoiser that is asked
    there, for s > t, s = t with mix > 0, a mix outside [0, 1], a field of another schedule or shape, a pool
    of other rows, and a pool with a field or gate. Where such times and mixes are traced the target is NaN.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> x, target = jd.bootstrapped_target(jax.random.key(0), law, jnp.ones((1, 1)), 1.0, 2.0, mix=0.0)
    >>> target.data.tolist()  # with nothing mixed in, the data
    [[1.0]]
    """
    checks.key(key)
    check_denoiser("teacher", teacher)
    checks.batch("data", data, t)
    checks.finite("data", data)
    if data.shape[1:] != teacher.shape:
        raise ValueError(
            f"data must have shape {checks.shown_shape(('batch', *teacher.shape))}, as the teacher's; got "
            f"{data.shape}."
        )
    checks.in_range("t", teacher.schedule, t)
    checks.in_range("s", teacher.schedule, s)
    _check_mix(mix, data)
    _check_earlier(teacher, s, t, mix)
    jacobian = None
    if isinstance(gate, Denoiser):
        check_agree("gate", gate, "the teacher", teacher)
        gate.check_times("t", t)
        gate, jacobian = None, gate
    elif gate is not None:
        _check_gate(gate, data)
    if field is not None:
        check_denoiser("field", field)
        check_agree("field", field, "the teacher", teacher)
        field.check_times("t", t)
    if pool is not None:
        if field is not None:
            raise ValueError("field and pool do the same in two ways, got both; give one of them.")
        if gate is not None or jacobian is not None:
            raise ValueError("gate and pool take out the same noise, got both; give one of them.")
        check_pool(pool, data)
    return _bootstrapped_target(key, teacher, jnp.asarray(data), s, t, mix, gate, jacobian, field, pool)


@compiled
def _bootstrapped_target(
    key: Key,
    teacher: Denoiser,
    data: Array,
    s: Time,
    t: Time,
    mix: Array | float,
    gate: Array | float | None,
    jacobian: Denoiser | None,
    field: Denoiser | None,
    pool: Array | None,
) -> tuple[Array, Denoised]:
    schedule = teacher.schedule
    mix, t = jnp.asarray(mix, float), jnp.asarray(t, float)
    gate = None if gate is None else jnp.asarray(gate, float)
    target_key, bridge_key = jax.random.split(key)
    x_t, exact = denoising_target(target_key, schedule, data, t)
    s = jnp.asarray(s, float).reshape(-1, *t.shape)  # (draws,) or (draws, batch)
    fresh = jax.vmap(lambda key: noise_like(key, x_t))(jax.random.split(bridge_key, len(s)))
    # Data of half precision are mixed in single precision.
    exact, fresh = jax.tree.map(single, (exact, fresh))
    each = time_axis(t)

    def among_rows(pool: Array, noise: Array, t: Array) -> Rows:
        ratio = jax.vmap(lambda t: schedule.alpha(t) / schedule.sigma(t))(jnp.broadcast_to(t, len(data)))
        return posterior(exact.data, pool.astype(exact.data.dtype), noise, ratio)

    later = None if pool is None else among_rows(pool, exact.noise, t)

    def earlier(exact: Denoised, fresh: Array, s: Array, t: Array) -> tuple[Array, Array]:
        rho, rest = correlation(schedule, s, t)
        n_s = rho * exact.noise + jnp.sqrt(rest) * fresh
        return perturb(schedule, exact.data, n_s, s), n_s

    def target(
        exact: Denoised, n_s: Array, known: Denoised, s: Array, t: Array, mix: Array, gate: Array | None
    ) -> tuple[Denoised, Array]:
        """y_g, or y of (6), and what the Jacobian of (13) is to be taken along."""
        rho, rest = correlation(schedule, s, t)
        # What is asked for nothing is not listened to: a teacher may be NaN where it was not trained.
        known = jax.tree.map(
            lambda known, own: jnp.where(mix == 0, own, known), known, Denoised(exact.data, n_s)
        )
        m = n_s + mix * (known.noise - n_s)
        y = Denoised(exact.data + mix * (known.data - exact.data), exact.noise + rho * (m - n_s))
        allowed = (s < t) | ((s == t) & (mix == 0))
        y = jax.tree.map(lambda y: jnp.where(allowed, y, jnp.nan), y)
        direction = jacobian_weight(rho, mix) * (rest * m - rho * (exact.noise - rho * n_s))
        if gate is None:
            return y, direction
        bracket = m / rho - (exact.noise - rho * n_s) / rest
        if gate.ndim:
            change = gate @ bracket - rho**2 * bracket
        else:
            excess = gate - rho**2
            change = jnp.where(excess == 0, 0.0, excess * bracket)
        ratio = schedule.sigma(t) / schedule.alpha(t)
        return Denoised(y.data - ratio * change, y.noise + change), direction

    def curve(y: Denoised, slope: Array, t: Array) -> Denoised:
        return Denoised(y.data - schedule.sigma(t) * slope, y.noise + schedule.alpha(t) * slope)

    def pooled(y: Denoised, later: Rows, sooner: Rows, s: Array, t: Array, mix: Array) -> Denoised:
        kappa = share(correlation(schedule, s, t)[0], later.number, later.unresolved)
        shift = (1 - mix) * later.shift + mix * kappa * (later.shift - sooner.shift)
        noise = jnp.where(shift == 0, 0.0, schedule.alpha(t) / schedule.sigma(t) * shift)
        return Denoised(y.data + shift, y.noise - noise)

    def draw(fresh: Array, s: Array) -> tuple[Denoised, Array]:
        x_s, n_s = jax.vmap(earlier, in_axes=(0, 0, each, each))(exact, fresh, s, t)
        known = jax.tree.map(single, jax.lax.stop_gradient(teacher(x_s.astype(data.dtype), s)))
        axes = (0, 0, 0, each, each, time_axis(mix), None if gate is None or gate.ndim % 2 == 0 else 0)
        y, direction = jax.vmap(target, in_axes=axes)(exact, n_s, known, s, t, mix, gate)
        if pool is not None and later is not None:
            sooner, axes = among_rows(pool, n_s, s), (0, 0, 0, each, each, time_axis(mix))
            y = jax.vmap(pooled, in_axes=axes)(y, later, sooner, s, t, mix)
        return y, direction

    targets, direction = jax.tree.map(lambda y: y.mean(0), jax.vmap(draw)(fresh, s))
    if jacobian is not None:
        # One product for all draws, being linear.
        along = jax.lax.stop_gradient(direction.astype(data.dtype))
        slope = jax.jvp(lambda x: jacobian(x, t).data, (x_t,), (along,))[1]
        targets = jax.vmap(curve, in_axes=(0, 0, each))(targets, jax.lax.stop_gradient(single(slope)), t)
    if field is not None:
        known = jax.tree.map(single, jax.lax.stop_gradient(field(x_t, t)))
        targets = jax.tree.map(lambda y, known, exact: y + known - exact, targets, known, exact)
    return x_t, jax.tree.map(lambda y: y.astype(data.dtype), targets)


def half_noise_target(
    key: Key,
    teacher: Denoiser,
    data: Array,
    t: Time,
    *,
    mix: Array | float,
    t_min: Time | None = None,
    gate: Array | float | Denoiser | None = None,
    field: Denoiser | None = None,
    pool: Array | None = None,
) -> tuple[Array, Denoised]:
    """`bootstrapped_target` with the teacher at half of t's noise, sigma_s / alpha_s = sigma_t / (2 alpha_t).

    t_min: the least s, by default the least time of the teacher's working range. Where that leaves s nearer
    to t the mix is multiplied by (1 - rho^2) / (1 - 1/4), so that it goes to 0 as s -> t: there, and at every
    t <= t_min, the target is that of denoising. It is finite at every time of every schedule. Raises as
    `bootstrapped_target`.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t), jd.Karras(), shape=(1,))
    >>> data = jnp.ones((2, 1))
    >>> x, target = jd.bootstrap.half_noise_target(jax.random.key(0), zero, data, 2.0, mix=0.75)
    >>> target.data.round(4).tolist()  # a quarter of the data, the rest of the teacher: eq. (6)
    [[0.25], [0.25]]
    """
    check_denoiser("teacher", teacher)
    checks.within("mix", mix, 0.0, 1.0)
    checks.batch("data", data, t)
    t_min = teacher.working_range[0] if t_min is None else t_min
    s = earlier_time(teacher.schedule, t, 0.5, t_min=t_min)
    mix = _damped(teacher.schedule, s, t, mix)
    return bootstrapped_target(key, teacher, data, s, t, mix=mix, gate=gate, field=field, pool=pool)


@compiled
def _damped(schedule: Schedule, s: Array, t: Time, mix: Array | float) -> Array:
    """The mix times (1 - rho^2) / (3/4), at most 1, at s and t of one shape."""
    s, t = jnp.asarray(s, float), jnp.asarray(t, float)
    rest = jax.vmap(lambda s, t: correlation(schedule, s, t)[1])(jnp.ravel(s), jnp.ravel(t)).reshape(t.shape)
    return mix * jnp.minimum(rest / 0.75, 1.0)


def _check_mix(mix: Array | float, data: Array) -> None:
    if jnp.shape(mix) not in ((), data.shape[:1]):
        raise ValueError(f"mix must be a scalar or have shape {data.shape[:1]}, got {jnp.shape(mix)}.")
    checks.within("mix", mix, 0.0, 1.0)


def _check_gate(gate: Array | float, data: Array) -> None:
    n, *d = data.shape
    wanted: list[tuple[int, ...]] = [(), (n,)]
    if len(d) == 1:
        wanted += [(*d, *d), (n, *d, *d)]
    if jnp.shape(gate) not in wanted:
        raise ValueError(
            f"gate must have one of the shapes {', '.join(map(str, wanted))} with data of shape "
            f"{data.shape}, got {jnp.shape(gate)}; matrices go with data (batch, d) only."
        )
    checks.finite("gate", gate)


def _check_earlier(teacher: Denoiser, s: Time, t: Time, mix: Array | float) -> None:
    """Raise ValueError unless s has t's shape and, where there is mixing, is before t and in range."""
    wanted = jnp.shape(t)
    if jnp.shape(s) != wanted and (jnp.shape(s)[1:] != wanted or not jnp.shape(s)[0]):
        raise ValueError(
            f"s must have the shape of t, {wanted}, or one more leading axis of at least one draw; got "
            f"{jnp.shape(s)}."
        )
    earlier, later, share = checks.known(s), checks.known(t), checks.known(mix)
    if earlier is None:
        return
    if later is not None and (earlier > later).any():
        raise ValueError(
            f"s must not be above t, got s = {earlier} and t = {later}; give the earlier time first."
        )
    asked = np.ones_like(earlier, bool)
    if share is not None:
        asked &= (share if wanted else share.max()) > 0
    if share is not None and later is not None and (asked & (earlier == later)).any():
        raise ValueError(
            f"mix must be 0 where s = t, where the teacher would only repeat the learner; got mix = {share} "
            f"and s = {earlier}. Give an earlier s, or let the mix fall as `half_noise_target` does."
        )
    teacher.check_times("s", np.where(asked, earlier, teacher.t_max))
