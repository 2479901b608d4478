"""Reverse-time integrators: pairs of pure functions, and the one scan that drives them.

A step goes from time t to s < t. With (D, N) the denoiser's answer, the probability flow is
dx = D d(alpha) + N d(sigma), which Euler's method integrates to

    x_s = alpha_s D + sigma_s N,                                                              (1)

and no sampler divides by alpha unless its own definition does. None knows a schedule by name.

The grid decides the last step. Where sigma_s = 0 every sampler returns alpha_s D, the denoiser's estimate,
without a further call and without noise; a grid that ends at sigma_s > 0 leaves that noise in x.

Noise at step k of sample i is a function of (key, k, i): a sample does not depend on its batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.noising.process import log_snr, transition
from jaxdiff.typing import Array, Denoiser, Key, Schedule, Time


class Sampler(NamedTuple):
    """``init(x) -> state`` and ``step(key, state, t, s) -> state``; ``state.x`` is the sample.

    The schedule is what `sample` checks a grid against.
    """

    init: Callable[[Array], Any]
    step: Callable[[Key, Any, Array, Array], Any]
    schedule: Schedule


SamplerFactory: TypeAlias = Callable[[Denoiser, Schedule], Sampler]


class State(NamedTuple):
    """The state of a one-step sampler."""

    x: Array


def sample(key: Key, sampler: Sampler, x: Array, times: Array) -> Array:
    """Integrate x, shape (batch, ...), from times[0] down to times[-1]; memory constant in the steps.

    x is a draw from the law at times[0]: `initial_noise`, or any start law's. times is traced: jit the
    call once for each length of grid. Raises TypeError for integer x and ValueError for NaN, for times
    that do not decrease or that lie outside the schedule's range.
    """
    _check(sampler, x, times)

    def body(state: Any, step: tuple[Array, Array, Array]) -> tuple[Any, None]:
        return sampler.step(jax.random.fold_in(key, step[0]), state, step[1], step[2]), None

    return jax.lax.scan(body, sampler.init(x), _steps(x, times))[0].x


def sample_path(key: Key, sampler: Sampler, x: Array, times: Array) -> Array:
    """`sample` with the whole trajectory, shape (len(times), batch, ...), from x itself to the sample."""
    _check(sampler, x, times)

    def body(state: Any, step: tuple[Array, Array, Array]) -> tuple[Any, Array]:
        state = sampler.step(jax.random.fold_in(key, step[0]), state, step[1], step[2])
        return state, state.x

    _, path = jax.lax.scan(body, sampler.init(x), _steps(x, times))
    return jnp.concatenate([x[None], path])


def initial_noise(key: Key, schedule: Schedule, shape: tuple[int, ...], t: Time) -> Array:
    """sigma(t) noise of shape (batch, ...), the usual start at a large t; row i depends on (key, i) only.

    Raises ValueError unless t is a scalar in the schedule's range.
    """
    checks.shape("t", t, ())
    checks.in_range("t", schedule, t)
    return schedule.sigma(t) * noise_like(key, jnp.zeros(shape))


def ddim(denoise: Denoiser, schedule: Schedule, *, eta: float = 0.0) -> Sampler:
    """DDIM: eq. (1) with a part of the noise N redrawn. One denoiser call a step, order 1.

    x_s = alpha_s D + sqrt(sigma_s^2 - eta^2 b^2) N + eta b z, with b the standard deviation of the bridge
    x_s | x_t, data. eta = 0 is Euler's method on the probability flow, eta = 1 is `ancestral`.
    Song et al. 2020, arXiv 2010.02502, eq. 12. Raises ValueError unless 0 <= eta <= 1.
    """
    checks.within("eta", eta, 0.0, 1.0)

    def step(key: Key, state: State, t: Array, s: Array) -> State:
        estimate = denoise(state.x, t)
        sigma = schedule.sigma(s)
        if eta == 0:
            return State(schedule.alpha(s) * estimate.data + sigma * estimate.noise)
        # b / sigma_s = sqrt(v) / sigma_t, so that the two parts of the noise add up to sigma_s.
        redrawn = eta * transition(schedule, s, t)[1] / schedule.sigma(t)
        noise = jnp.sqrt(1 - redrawn**2) * estimate.noise + redrawn * noise_like(key, state.x)
        return State(schedule.alpha(s) * estimate.data + sigma * noise)

    return Sampler(State, step, schedule)


def ancestral(denoise: Denoiser, schedule: Schedule) -> Sampler:
    """DDPM's sampler: a draw from the bridge x_s | x_t, data at data = D (arXiv 2006.11239, alg. 2)."""
    return ddim(denoise, schedule, eta=1.0)


class ChurnState(NamedTuple):
    """State of `heun`: the sample, and the first time of the run, above which churn may not go."""

    x: Array
    t_max: Array


def heun(
    denoise: Denoiser,
    schedule: Schedule,
    *,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, float("inf")),
    churn_noise: float = 1.0,
) -> Sampler:
    """EDM's sampler: the trapezoid rule in (alpha, sigma). Two denoiser calls a step, order 2.

    A step to sigma_s = 0 is Euler's, one call. With churn > 0, each step at a time in churn_range first
    noises x up to the time t (1 + churn), though never above the first time of the grid, with noise
    inflated by churn_noise. Under the `Karras` schedule churn is EDM's S_churn / steps, at most 0.414
    there. Karras et al. 2022, arXiv 2206.00364, alg. 2.
    Raises ValueError for negative churn or churn_noise, or a churn_range that is not in order.
    """
    checks.within("churn", churn, 0.0, float("inf"))
    checks.within("churn_noise", churn_noise, 0.0, float("inf"))
    low, high = map(checks.known, churn_range)
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"churn_range must be (low, high) with low <= high, got {churn_range}.")

    def noise_up(key: Key, state: ChurnState, t: Array) -> tuple[Array, Array]:
        inside = (t >= churn_range[0]) & (t <= churn_range[1])
        raised = jnp.minimum(t * (1 + jnp.where(inside, churn, 0.0)), state.t_max)
        scale, std = transition(
            schedule, t, jnp.where(raised > t, raised, 2 * t)
        )  # a place-holder that is > t
        noised = scale * state.x + churn_noise * std * noise_like(key, state.x)
        return jnp.where(raised > t, noised, state.x), raised

    def step(key: Key, state: ChurnState, t: Array, s: Array) -> ChurnState:
        state = ChurnState(state.x, jnp.maximum(state.t_max, t))
        x, t = noise_up(key, state, t) if churn > 0 else (state.x, t)
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        first = denoise(x, t)
        euler = alpha * first.data + sigma * first.noise

        def trapezoid(euler: Array) -> Array:
            second = denoise(euler, s)
            data, noise = (0.5 * (a + b) for a, b in zip(first, second, strict=True))
            return x + (alpha - schedule.alpha(t)) * data + (sigma - schedule.sigma(t)) * noise

        return ChurnState(jax.lax.cond(sigma > 0, trapezoid, lambda euler: euler, euler), state.t_max)

    return Sampler(lambda x: ChurnState(x, jnp.asarray(-jnp.inf, float)), step, schedule)


class MultistepState(NamedTuple):
    """State of `dpm_solver_pp`: the sample, and the latest estimates of the data with their log-SNRs."""

    x: Array
    data: tuple[Array, ...]
    half_log_snr: tuple[Array, ...]
    steps_done: Array


def dpm_solver_pp(denoise: Denoiser, schedule: Schedule, *, order: int = 2) -> Sampler:
    """DPM-Solver++, multistep, of order 1, 2 or 3. One denoiser call a step, and at order 3 one more in all.

    With l = log(alpha / sigma) and h = l_s - l_t the flow has the exact solution

        x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^(u - h) D(l_t + u) du,

    here with D the polynomial through its last `order` values, integrated exactly (an exponential
    Adams-Bashforth rule; order 1 is DDIM, and order 2 agrees with the paper's 2M to the order of its
    error). Early steps use the values there are; at order 3 the first takes its slope from a second call,
    without which the whole would be of order 2. A step to sigma_s = 0 is of order 1.
    Lu et al. 2022, arXiv 2211.01095. Raises ValueError for another order.
    """
    checks.option("order", order, (1, 2, 3))

    def init(x: Array) -> MultistepState:
        past = order - 1
        zero = jnp.zeros((), float)
        return MultistepState(x, (jnp.zeros_like(x),) * past, (zero,) * past, jnp.zeros((), int))

    def step(key: Key, state: MultistepState, t: Array, s: Array) -> MultistepState:
        del key
        data = (denoise(state.x, t).data, *state.data)
        logs = (0.5 * log_snr(schedule, t), *state.half_log_snr)
        h = 0.5 * log_snr(schedule, s) - logs[0]
        ratio, alpha = schedule.sigma(s) / schedule.sigma(t), schedule.alpha(s)
        x = ratio * state.x - alpha * jnp.expm1(-h) * data[0]
        # An infinite h (sigma_s = 0, or alpha_t = 0) leaves no room for a polynomial: order 1 there.
        finite = jnp.isfinite(h)
        h = jnp.where(finite, h, 1.0)
        first = h + jnp.expm1(-h)  # int_0^h e^(u-h) u du
        second = h**2 - 2 * first  # int_0^h e^(u-h) u^2 du
        if order > 1:
            ready = finite & (state.steps_done >= 1)
            slope = _difference(data[0] - data[1], logs[0] - logs[1], ready)
            if order > 2:
                starting, predicted = finite & (state.steps_done == 0), x
                ahead = jax.lax.cond(starting, lambda: denoise(predicted, s).data, lambda: data[0])
                slope = slope + _difference(ahead - data[0], h, starting)
            x = x + alpha * first * slope
            if order > 2:
                ready = finite & (state.steps_done >= 2)
                older_slope = _difference(data[1] - data[2], logs[1] - logs[2], ready)
                curvature = _difference(slope - older_slope, logs[0] - logs[2], ready)
                x = x + alpha * (second + jnp.where(ready, logs[0] - logs[1], 0.0) * first) * curvature
        return MultistepState(x, data[: order - 1], logs[: order - 1], state.steps_done + 1)

    return Sampler(init, step, schedule)


def _difference(rise: Array, run: Array, ready: Array) -> Array:
    """rise / run, or zero where there is no history yet."""
    return jnp.where(ready, rise / jnp.where(ready, run, 1.0), 0.0)


def euler_maruyama(denoise: Denoiser, schedule: Schedule) -> Sampler:
    """Euler-Maruyama on the reverse SDE, its coefficients integrated exactly over the step. Weak order 1.

    With (a, v) of x_t | x_s and the score held at its value at (x_t, t),

        x_s = (x_t + v score + sqrt(v) z) / a = alpha_s D + (a sigma_s^2 / sigma_t) N + (sqrt(v) / a) z.

    It over-disperses where `ancestral` under-disperses. It needs alpha_t > 0: the drift is singular where
    there is no signal. Noise is left out of a step to sigma_s = 0.
    """

    def step(key: Key, state: State, t: Array, s: Array) -> State:
        estimate = denoise(state.x, t)
        scale, std = transition(schedule, s, t)
        sigma = schedule.sigma(s)
        mean = schedule.alpha(s) * estimate.data + scale * sigma**2 / schedule.sigma(t) * estimate.noise
        return State(mean + jnp.where(sigma > 0, std / scale, 0.0) * noise_like(key, state.x))

    return Sampler(State, step, schedule)


def predictor_corrector(
    denoise: Denoiser,
    schedule: Schedule,
    *,
    predictor: SamplerFactory = ancestral,
    num_corrections: int = 1,
    signal_to_noise: float = 0.16,
) -> Sampler:
    """A step of the predictor, then Langevin steps at the time reached. 1 + num_corrections calls a step.

    x <- x + tau score + sqrt(2 tau) z with tau = 2 (signal_to_noise sigma_s)^2. Song et al. 2021, arXiv
    2011.13456, alg. 4, set tau from norms averaged over the batch; sigma_s is what these estimate, and
    keeps samples independent of each other. Raises ValueError for num_corrections < 1 or
    signal_to_noise <= 0.
    """
    checks.integer("num_corrections", num_corrections, 1)
    checks.positive("signal_to_noise", signal_to_noise)
    inner = predictor(denoise, schedule)

    def step(key: Key, state: Any, t: Array, s: Array) -> Any:
        predict_key, correct_key = jax.random.split(key)
        state = inner.step(predict_key, state, t, s)
        move = 2 * signal_to_noise**2 * schedule.sigma(s)  # tau / sigma_s, the step along -N

        def correct(x: Array, key: Key) -> tuple[Array, None]:
            noise = denoise(x, s).noise
            return x - move * noise + jnp.sqrt(2 * move * schedule.sigma(s)) * noise_like(key, x), None

        def langevin(x: Array) -> Array:
            return jax.lax.scan(correct, x, jax.random.split(correct_key, num_corrections))[0]

        return state._replace(x=jax.lax.cond(schedule.sigma(s) > 0, langevin, lambda x: x, state.x))

    return Sampler(inner.init, step, schedule)


def _check(sampler: Sampler, x: Array, times: Array) -> None:
    checks.batch("x", x)
    checks.finite("x", x)
    checks.times(sampler.schedule, times, increasing=False)


def _steps(x: Array, times: Array) -> tuple[Array, Array, Array]:
    times = jnp.asarray(times, jnp.result_type(x, jnp.float32))
    return jnp.arange(len(times) - 1), times[:-1], times[1:]
