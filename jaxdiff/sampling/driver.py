"""From noise to data: the one scan that drives every sampler.

Noise at step k of sample i is a function of (key, k, i): a sample does not depend on its batch.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.denoising.ends import check_no_data_left, no_data_left
from jaxdiff.noising import times as grids
from jaxdiff.noising.process import marginals
from jaxdiff.sampling.exponential_adams import dpm_solver_pp
from jaxdiff.sampling.sampler import Sampler, check_sampler, check_state
from jaxdiff.typing import Array, Key, StartLaw, Time

NUM_STEPS = 32
"""Of the default grid: denoiser calls, with a sampler that makes one a step."""


def sample(
    key: Key,
    denoise: Denoiser,
    n: int,
    *,
    sampler: Sampler | None = None,
    num_steps: int | None = None,
    times: Array | None = None,
    start: StartLaw | None = None,
) -> Array:
    """n samples of the data, shape (n, *denoise.shape), by the reverse process from noise.

    Point i depends on (key, i) only.
    sampler: by default `dpm_solver_pp(2)`, one denoiser call a step. On this grid `deis(3)` left a fifth to a
        half of its error with exact denoisers of two mixtures in the plane (6 to 32 steps). With guidance of
        3 it left a tenth to .4 in d = 16, but with 3 modes in the plane 1.3 times as much at 12 steps and
        three times at 32, so the default is what it was (MEASURED while 2M had its slope integrated, which
        leaves 1.1 to 1.8 times what it leaves now).
    num_steps: of the default grid, `times.noise_grid` over the denoiser's working range with a last step to
        its estimate of the data; 32 if nothing is said, and at least 3: with 2, one step goes through all
        noise, and samples are the data's mean. A model made for fewer steps has times of its own.
    times: another grid, decreasing; it is taken as it is, so append the time of no noise (`times.to_clean`)
        for the denoised last step. A sampler that has a grid of its own (`LinearMultistep`) is run on that.
    start: the law at the first time, by default N(0, sigma^2 I), for which noise must dominate there. That
        knows nothing of the data's mean m: samples are off by about alpha |m| / sigma standard deviations
        (.125 for a mean of 10 under `Karras`), so centre data that are far from 0, or give their start.

    Memory is constant in the steps. Raises TypeError for what is no key, denoiser or sampler, and ValueError
    for times that do not decrease or that the denoiser does not know, and for a start of another shape or
    scale; where values are traced the answer is NaN instead. `integrate` is the same from a given x.

    >>> denoise = jd.Gaussian([1.0], 0.25).denoiser(jd.Karras())
    >>> samples = jd.sample(jax.random.key(0), denoise, 4000)
    >>> round(float(samples.mean()), 1), round(float(samples.std()), 1)
    (1.0, 0.5)
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.integer("n", n, 1)
    sampler = check_sampler(dpm_solver_pp() if sampler is None else sampler)
    if times is None and num_steps is None:
        times = getattr(sampler, "times", None)
    if times is None:
        _check_clean_enough(denoise)
        times = default_times(denoise, NUM_STEPS if num_steps is None else num_steps)
    elif num_steps is not None:
        raise ValueError("num_steps and times were both given; a grid has its own number of steps.")
    _check_grid(denoise, sampler, times)
    first = _first(times)
    if start is None:
        check_no_data_left(denoise, denoise.scale, first)
    else:
        checks.law_shape("start", start, denoise.shape)
    start_key, key = jax.random.split(key)
    x = _draw(start_key, denoise, start, first, n)
    if start is None:
        x = jnp.where(no_data_left(denoise, denoise.scale, first), x, jnp.nan)
    else:
        check_start_scale(denoise, x, first, fewest=4)
    return _integrate(key, denoise, sampler, x, times)


def integrate(
    key: Key, denoise: Denoiser, x: Array, times: Array, *, sampler: Sampler | None = None
) -> Array:
    """Integrate x, shape (batch, *denoise.shape), from times[0] down to times[-1].

    Memory is constant in the steps. x is a draw from the law at times[0]: `initial_noise`, or any start
    law's. Its dtype is kept; times and all that follows from them are in float32 or better. Raises as
    `sample`, TypeError for integer x and ValueError for NaN.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> x = jd.integrate(jax.random.key(0), denoise, jnp.array([[2.0]]), jnp.geomspace(1, 0.01, 21))
    >>> round(float(x[0, 0]), 2)  # from N(0, 1 + t^2) to N(0, 1): 2 / 2^(1/2)
    1.41
    """
    sampler = _check(key, denoise, x, times, sampler)
    return _integrate(key, denoise, sampler, x, times)


def integrate_path(
    key: Key, denoise: Denoiser, x: Array, times: Array, *, sampler: Sampler | None = None
) -> Array:
    """`integrate` with the whole trajectory, shape (len(times), batch, ...), from x itself to the sample.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> path = jd.integrate_path(jax.random.key(0), denoise, jnp.array([[2.0]]), jnp.geomspace(1, 0.01, 21))
    >>> len(path), float(path[0, 0, 0]), round(float(path[-1, 0, 0]), 2)
    (21, 2.0, 1.41)
    """
    sampler = _check(key, denoise, x, times, sampler)
    return _integrate_path(key, denoise, sampler, x, times)


def initial_noise(key: Key, denoise: Denoiser, n: int, t: Time | None = None) -> Array:
    """n draws of sigma(t) noise, shape (n, *denoise.shape), the usual start; row i depends on (key, i) only.

    t: a scalar, by default the end of the denoiser's working range. Raises ValueError where the denoiser does
    not know it.

    >>> denoise = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> round(float(jd.initial_noise(jax.random.key(0), denoise, 10_000, 80.0).std()))
    80
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    t = denoise.working_range[1] if t is None else t
    checks.shape("t", t, ())
    denoise.check_times("t", t)
    return _draw(key, denoise, None, jnp.asarray(t, float), n)


@folded
def default_times(denoise: Denoiser, num_steps: int) -> Array:
    """num_steps + 1 times: over the denoiser's working range, and then a last step to no noise."""
    checks.integer("num_steps", num_steps, 3)
    t_min, t_max = denoise.working_range
    grid = grids.noise_grid(denoise.schedule, num_steps - 1, t_min=t_min, t_max=t_max, scale=denoise.scale)
    return grids.to_clean(denoise.schedule, grid)


@functools.partial(jax.jit, static_argnames="n")
def _draw(key: Key, denoise: Denoiser, start: StartLaw | None, t: Array, n: int) -> Array:
    if start is not None:
        return start.sample(key, n)
    return denoise.schedule.sigma(t) * noise_like(key, jnp.zeros((n, *denoise.shape)))


@jax.jit
def _integrate(key: Key, denoise: Denoiser, sampler: Sampler, x: Array, times: Array) -> Array:
    return integrate_given(key, denoise, sampler, x, _if_noisy(denoise, x, times))


@jax.jit
def integrate_given(key: Key, denoise: Denoiser, sampler: Sampler, x: Array, times: Array) -> Array:
    """`integrate` from points x of any law: data near a given point, say, have not all noise of its time."""

    def body(state: Any, step: tuple[Array, Array, Array]) -> tuple[Any, None]:
        return _step(key, denoise, sampler, state, step), None

    return jax.lax.scan(body, sampler.init(x), _steps(denoise, x, times))[0].x


@jax.jit
def _integrate_path(key: Key, denoise: Denoiser, sampler: Sampler, x: Array, times: Array) -> Array:
    def body(state: Any, step: tuple[Array, Array, Array]) -> tuple[Any, Array]:
        state = _step(key, denoise, sampler, state, step)
        return state, state.x

    _, path = jax.lax.scan(body, sampler.init(x), _steps(denoise, x, _if_noisy(denoise, x, times)))
    return jnp.concatenate([x[None], path])


def _step(key: Key, denoise: Denoiser, sampler: Sampler, state: Any, step: tuple[Array, Array, Array]) -> Any:
    new = sampler.step(jax.random.fold_in(key, step[0]), denoise, state, step[1], step[2])
    check_state(sampler, new, state)
    # Scalars of the schedule are in single precision or better; what is carried keeps the precision of x.
    return jax.tree.map(lambda new, old: new.astype(old.dtype), new, state)


def _steps(denoise: Denoiser, x: Array, times: Array) -> tuple[Array, Array, Array]:
    times = jnp.asarray(times, jnp.result_type(x, jnp.float32))
    # What is refused where it is known answers NaN where it is traced: times that do not decrease, or that
    # end where the denoiser knows nothing and noise is left. Times before the end are asked of the denoiser.
    least, _ = checks.rounded_out(denoise.t_min, denoise.t_max)
    end_is_known = (times[-1] >= least) | (times[-1] <= denoise.schedule.t_min)
    good = jnp.all(times[:-1] > times[1:]) & end_is_known
    times = jnp.where(good, times, jnp.nan)
    return jnp.arange(len(times) - 1), times[:-1], times[1:]


def _if_noisy(denoise: Denoiser, x: Array, times: Array) -> Array:
    """times, and NaN where they begin with a noise that x, of no few numbers, has not."""
    times = jnp.asarray(times, jnp.result_type(x, jnp.float32))
    if jax.export.is_symbolic_dim(x.size) or x.size < checks.FEW:
        return times
    got = jnp.sqrt(jnp.mean(jnp.square(x.astype(times.dtype))))
    return jnp.where(got >= 0.5 * denoise.schedule.sigma(times[0]), times, jnp.nan)


def _first(times: Array) -> Time:
    """times[0], known where they are: indexing under ``jit`` would hide it."""
    known = checks.known(times)
    return jnp.asarray(times)[0] if known is None else float(known[0])


def _check_grid(denoise: Denoiser, sampler: Sampler, times: Array) -> None:
    """Raise ValueError unless times decrease and the denoiser knows them, but for a last one of no noise."""
    checks.times(denoise.schedule, times, increasing=False)
    known = checks.known(times)
    if known is None:
        return
    own = checks.known(getattr(sampler, "times", known))
    if own is not None and not (own.shape == known.shape and np.allclose(own, known, 1e-4, 0.0)):
        raise ValueError(
            f"{type(sampler).__name__} has a grid of its own, {own.tolist()}, got the times "
            f"{known.tolist()}: its coefficients mean nothing elsewhere; leave times and num_steps out, "
            "or give its own."
        )
    # Nothing is asked of the denoiser at the clean end.
    clean = known[-1] <= denoise.schedule.t_min
    denoise.check_times("times", known[:-1] if clean else known)
    if getattr(sampler, "needs_signal", False):
        alpha = checks.known(marginals(denoise.schedule, known[0])[0])
        if alpha is not None and alpha == 0:
            raise ValueError(
                f"{type(sampler).__name__} cannot start at times[0] = {known[0]:g} of {denoise.schedule}, "
                "where alpha = 0 and the drift is infinite; start a little later, or take another sampler."
            )


def _check_clean_enough(denoise: Denoiser) -> None:
    """Raise ValueError where the default grid would end in noise that hides the data."""
    t_min = checks.known(denoise.working_range[0])
    if t_min is None:
        return
    scales = _known_scales(denoise, float(t_min))
    if scales is not None and scales[0] ** 2 > 0.2 * scales[1] ** 2:
        raise ValueError(
            f"t_min = {float(t_min):g} of {denoise.schedule} has noise of standard deviation "
            f"{scales[0]:.3g}, and with the data {scales[1]:.3g}: samples would end in the mean of what it "
            "hides. Take a denoiser that knows cleaner times, a schedule in the data's unit, or say by times "
            "that this is meant."
        )


def check_start_scale(denoise: Denoiser, x: Array, t: Time, *, fewest: int = checks.FEW) -> None:
    """Raise ValueError where known x, (batch, ...), is not of the scale of x_t, which holds noise."""
    got, known_t = checks.root_mean_square(x, fewest=fewest), checks.known(t)
    if got is None or known_t is None:
        return
    wanted = _known_scales(denoise, float(known_t))
    if wanted is None:
        return
    sigma, total = wanted
    # The root mean square of 64 standard normal numbers is below 1/2 once in 10^12 draws, and of four numbers
    # below 1/50 once in 10^6.
    if not sigma / (2 if x.size >= checks.FEW else 50) <= got <= 30 * total:
        raise ValueError(
            f"x has the root mean square {got:.3g} at t = {float(known_t):g} of {denoise.schedule}, where "
            f"noise alone has {sigma:.3g} and noise and data about {total:.3g}; draw it by "
            "initial_noise(key, denoise, n, t), or from a law fitted at that time."
        )


def _check(key: Key, denoise: Denoiser, x: Array, times: Array, sampler: Sampler | None) -> Sampler:
    checks.key(key)
    check_denoiser("denoise", denoise)
    sampler = check_sampler(dpm_solver_pp() if sampler is None else sampler)
    checks.batch("x", x)
    denoise.check_shape("x", x)
    checks.finite("x", x)
    _check_grid(denoise, sampler, times)
    check_start_scale(denoise, x, _first(times))
    return sampler


def _known_scales(denoise: Denoiser, t: float) -> tuple[float, float] | None:
    """Standard deviations of the noise and of noise and data at a known time; None where one is traced."""
    alpha, sigma = map(checks.known, marginals(denoise.schedule, t))
    scale = checks.known(denoise.scale)
    if alpha is None or sigma is None or scale is None:
        return None
    return float(sigma), math.hypot(alpha * scale, sigma)
