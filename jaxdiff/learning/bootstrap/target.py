"""Time bootstrapping: targets at one noise level that reuse a score known at an earlier one.

Two times s < t of one forward path, and the one number that a linear schedule leaves of them:

    x_t = alpha_t x_0 + sigma_t n_t,      x_s = alpha_s x_0 + sigma_s n_s                               (1)
    n_s = rho n_t + sqrt(1 - rho^2) xi,   rho = exp((lambda_t - lambda_s) / 2) in (0, 1)                (2)

With N(x, s) = E[n_s | x_s = x] (the teacher), y_g has conditional mean E[n_t | x_t] for every gate g and
every mix a in [0, 1]:

    m   = n_s + a (N(x_s, s) - n_s)                                                                     (3)
    y_g = (1 - g) (n_t - rho n_s) / (1 - rho^2)  +  (g / rho) m                                         (4)
        = n_t + a rho (N(x_s, s) - n_s) + (g - rho^2) [m / rho - (n_t - rho n_s) / (1 - rho^2)]         (5)

the first term of (4) being the noise of the step from s to t, and the second the earlier score carried to t.
At g = rho^2 (Rao-Blackwell) the bracket of (5) drops out, and in terms of the data it reads

    y = (1 - a) x_0 + a D(x_s, s),        D(x, s) = E[x_0 | x_s = x]                                    (6)

which is unbiased since E[x_0 | x_t] is a martingale in reverse time. With q = E|N(x)|^2 / d, the part of the
noise that is explained at a level (sigma^2 times the Fisher information per dimension), and
e = (1 - a)^2 + (1 - (1 - a)^2) q_s, the mean conditional variance of y_g, per dimension and in units of the
noise, is

    V = (1 - g)^2 / (1 - rho^2) + g^2 e / rho^2 - q_t                                                   (7)

    | target                      | g      | a | V                                     |
    |-----------------------------|--------|---|---------------------------------------|
    | denoising score matching    | rho^2  | 0 | 1 - q_t                               |
    | denoising of the step alone | 0      | - | 1 / (1 - rho^2) - q_t                 |
    | pure bootstrap              | 1      | 1 | q_s / rho^2 - q_t                     |
    | Rao-Blackwell               | rho^2  | 1 | 1 - rho^2 + rho^2 q_s - q_t           |
    | optimal                     | (8)    | a | 1 / (1 - rho^2 + rho^2 / e) - q_t     |

    g* = rho^2 / (rho^2 + (1 - rho^2) e)                                                                (8)

The last is zero for isotropic Gaussian data. Divide by sigma_t^2 for units of the score.

Where the training set can be looked up, its own denoiser S (`Empirical`) takes the noise at t out of (6),

    y = (1 - a) x_0 + a D(x_s, s) + [S(x_t, t) - x_0]                                                   (9)

and at a = 1 the variance that is left is that of x_0 given x_s, however late t is. Where the noise is small,
S is x_0 and the teacher alone is left, which holds memorization back; where it is large, S does the work.

The method is that of Kumar, Nagaraj & Sarkar 2025, arXiv 2502.10354; the form in rho and (7) to (9) are
derived here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, time_axis
from jaxdiff.learning.targets import denoising_target
from jaxdiff.learning.training import Averaging, Metrics, StepFn, TrainState, averaged, make_train_step
from jaxdiff.noising.process import inverse_log_snr, log_snr, perturb
from jaxdiff.typing import Array, Denoised, Key, Params, Schedule, Time


def noise_correlation(schedule: Schedule, s: Time, t: Time) -> Array:
    """rho of eq. (2) for scalar times s <= t: the correlation of the noises of one path at s and t."""
    return _correlation(schedule, s, t)[0]


def earlier_time(schedule: Schedule, t: Time, correlation: Array | float, *, t_min: Time) -> Array:
    """The scalar time s < t whose noise has the given correlation with that of t, at least t_min.

    A fixed correlation is a fixed ratio of sigma / alpha: the same step of the same difficulty everywhere.
    """
    checks.within("correlation", correlation, 0.0, 1.0)
    return inverse_log_snr(schedule, log_snr(schedule, t) - 2 * jnp.log(correlation), t_min=t_min, t_max=t)


def bootstrapped_target(
    key: Key,
    teacher: Denoiser,
    schedule: Schedule,
    data: Array,
    s: Time,
    t: Time,
    *,
    mix: Array | float,
    gate: Array | float | None = None,
    field: Denoiser | None = None,
) -> tuple[Array, Denoised]:
    """x_t and the target y_g of eqs. (5) and (6), of data's shape (batch, ...), averaged over draws of x_s.

    teacher: the denoiser at the earlier times; nothing is differentiated through it.
    t: scalar or (batch,). s < t: of t's shape, or with a leading axis of draws, which are averaged: several
        earlier levels at once, or one repeated, x_s then being drawn that often from the bridge between the
        data and x_t. The variance of the average of n draws at one level is V_inf + (V_1 - V_inf) / n.
    mix: a, scalar or of t's shape; 0 is denoising score matching, and s = t is allowed there.
    gate: g, likewise, or (batch, d, d) or (d, d) matrices for data (batch, d), see `matrix_gate`; by default
        the Rao-Blackwell gate rho^2, which alone needs no division by alpha_t or 1 - rho^2.
    field: a denoiser that knows the data at t as well as they can be known, as `Empirical(data)` does of a
        training set; the target is then y + S(x_t) - x_0, eq. (9).

    Raises TypeError for integer data, ValueError for NaN in them, for times of a wrong shape or out of the
    schedule's range, for s > t and for a mix outside [0, 1].
    """
    checks.batch("data", data, t)
    checks.in_range("s", schedule, jnp.ravel(jnp.asarray(s)))
    checks.within("mix", mix, 0.0, 1.0)
    _check_earlier(s, t)
    mix, t = jnp.asarray(mix, float), jnp.asarray(t, float)
    gate = None if gate is None else jnp.asarray(gate, float)
    target_key, bridge_key = jax.random.split(key)
    x_t, exact = denoising_target(target_key, schedule, data, t)
    s = jnp.asarray(s, float).reshape(-1, *t.shape)  # (draws,) or (draws, batch)
    fresh = jax.vmap(lambda key: noise_like(key, x_t))(jax.random.split(bridge_key, len(s)))

    def earlier(exact: Denoised, fresh: Array, s: Array, t: Array) -> tuple[Array, Array]:
        rho, rest = _correlation(schedule, s, t)
        n_s = rho * exact.noise + jnp.sqrt(rest) * fresh
        return perturb(schedule, exact.data, n_s, s), n_s

    def target(
        exact: Denoised, n_s: Array, known: Denoised, s: Array, t: Array, mix: Array, gate: Array | None
    ) -> Denoised:
        rho, rest = _correlation(schedule, s, t)
        m = n_s + mix * (known.noise - n_s)
        y = Denoised(exact.data + mix * (known.data - exact.data), exact.noise + rho * (m - n_s))
        if gate is None:
            return y
        bracket = m / rho - (exact.noise - rho * n_s) / rest
        change = (gate @ bracket if gate.ndim else gate * bracket) - rho**2 * bracket
        return Denoised(y.data - schedule.sigma(t) / schedule.alpha(t) * change, y.noise + change)

    def draw(fresh: Array, s: Array) -> Denoised:
        each = time_axis(t)
        x_s, n_s = jax.vmap(earlier, in_axes=(0, 0, each, each))(exact, fresh, s, t)
        known = jax.lax.stop_gradient(teacher(x_s, s))
        axes = (0, 0, 0, each, each, time_axis(mix), None if gate is None or gate.ndim % 2 == 0 else 0)
        return jax.vmap(target, in_axes=axes)(exact, n_s, known, s, t, mix, gate)

    targets = jax.tree.map(lambda y: y.mean(0), jax.vmap(draw)(fresh, s))
    if field is not None:
        known = jax.lax.stop_gradient(field(x_t, t))
        targets = jax.tree.map(lambda y, known, exact: y + known - exact, targets, known, exact)
    return x_t, targets


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
    """
    checks.increasing("levels", levels)
    checks.within("mix", mix, 0.0, 1.0)
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
) -> StepFn:
    """The joint form: a train step of one network over all levels that is taught by its own average.

    ``loss_fn(params, teacher_params, step, key, batch)``: teacher_params is the average before this step, or
    the parameters themselves with ema_decay=None; step counts from 0, for a mix that waits until the teacher
    knows something. Otherwise as `training.make_train_step`, with a state from `training.init_state`.
    """

    def step(key: Key, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        def loss(params: Params, key: Key, batch: Any) -> Array:
            return loss_fn(params, averaged(state), state.step, key, batch)

        return make_train_step(loss, optimizer, ema_decay=ema_decay)(key, state, batch)

    return step


def optimal_gate(correlation: Array, explained: Array, *, mix: Array | float = 1.0) -> Array:
    """g* of eq. (8), from rho and q_s: the gate of least variance, a scalar."""
    left = _left(explained, mix)
    return correlation**2 / (correlation**2 + (1 - correlation**2) * left)


def matrix_gate(correlation: Array, jacobian: Array) -> Array:
    """rho^2 (rho^2 I + (1 - rho^2) Q)^-1 for the mix a = 1, shape (d, d): the best gate of all matrices.

    Q = E[sigma_s dN/dx (x_s, s) | x_t], symmetric: the noise's Jacobian at the earlier level, in units of
    1 / sigma_s. For Gaussian data the target's variance is then zero.
    """
    identity = jnp.eye(jacobian.shape[-1], dtype=jacobian.dtype)
    return correlation**2 * jnp.linalg.inv(correlation**2 * identity + (1 - correlation**2) * jacobian)


def target_variance(
    correlation: Array, gate: Array, mix: Array | float, explained_s: Array, explained_t: Array
) -> Array:
    """V of eq. (7): E tr Cov(y_g | x_t) / d in units of the noise, for the exact teacher; scalars."""
    noise = (1 - gate) ** 2 / (1 - correlation**2)
    return noise + gate**2 * _left(explained_s, mix) / correlation**2 - explained_t


def optimal_mix(variance: Array, squared_bias: Array, freedom: Array | float) -> Array:
    """a* = f v / (f v + b^2): the mix that trades the teacher's bias against the variance of its target.

    variance: v = 1 - q_s, of the denoising target at the earlier level. squared_bias: b^2, the mean over x_t
    of |E[N_hat - N | x_t]|^2 / d at that level, in the same units. freedom: f, the learner's degrees of
    freedom over its number of samples.
    """
    return freedom * variance / (freedom * variance + squared_bias)


def _left(explained: Array, mix: Array | float) -> Array:
    """E|m|^2 / d of eq. (3)."""
    return (1 - mix) ** 2 + (1 - (1 - mix) ** 2) * explained


def _correlation(schedule: Schedule, s: Time, t: Time) -> tuple[Array, Array]:
    """rho and 1 - rho^2, which keeps its digits as s -> t."""
    # One time twice has rho = 1 where the log-SNR is infinite, too.
    difference = jnp.where(s == t, 0.0, log_snr(schedule, t) - log_snr(schedule, s))
    return jnp.exp(0.5 * difference), -jnp.expm1(difference)


def _check_earlier(s: Time, t: Time) -> None:
    wanted = jnp.shape(t)
    if jnp.shape(s) != wanted and (jnp.shape(s)[1:] != wanted or not jnp.shape(s)[0]):
        raise ValueError(
            f"s must have the shape of t, {wanted}, or one more leading axis of at least one draw; got "
            f"{jnp.shape(s)}."
        )
    earlier, later = checks.known(s), checks.known(t)
    if earlier is not None and later is not None and (earlier > later).any():
        raise ValueError(
            f"s must not be above t, got s = {earlier} and t = {later}; give the earlier time first."
        )
