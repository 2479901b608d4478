"""Independent references: float64 NumPy formulas written from the definitions, never from the library."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser, as_denoiser
from jaxdiff.noising import schedules
from jaxdiff.typing import Denoised


class Case(NamedTuple):
    """A schedule, a range of times inside it, and what its alpha, sigma, drift and diffusion should be."""

    make: Callable[[], Any]
    t_min: float
    t_max: float
    alpha: Callable[[np.ndarray], np.ndarray]
    sigma: Callable[[np.ndarray], np.ndarray]
    drift_rate: Callable[[float], float]
    diffusion: Callable[[float], float]

    @property
    def schedule(self) -> Any:
        """Made anew, so that its arrays have the precision of the test that asks."""
        return self.make()


def _rate(t):
    return 0.1 + 19.9 * t


def _integral(t):
    return 0.1 * t + 19.9 * t**2 / 2


def _cosine(shift):
    # From the definition, log SNR = -2 log tan(pi t / 2) + 2 log(shift) at unit total variance.
    def angle(t):
        return np.arctan(np.tan(np.pi * t / 2) / shift)

    def slope(t):  # d angle / dt
        return (np.pi / 2) / (np.cos(np.pi * t / 2) ** 2 * shift * (1 + (np.tan(np.pi * t / 2) / shift) ** 2))

    return Case(
        lambda: schedules.Cosine(shift),
        1e-3,
        0.999,
        lambda t: np.cos(angle(t)),
        lambda t: np.sin(angle(t)),
        lambda t: -np.tan(angle(t)) * slope(t),
        lambda t: np.sqrt(2 * np.tan(angle(t)) * slope(t)),
    )


BETAS = np.linspace(1e-3, 0.2, 60)


def _table(t):
    """alpha^2: the table's at whole times, and linear between them."""
    return np.interp(t, np.arange(61), np.concatenate([[1.0], np.cumprod(1 - BETAS)]))


def _table_rate(t):
    """-d log alpha^2 / dt."""
    step = int(t)
    return BETAS[step] / (1 - (t - step) * BETAS[step])


CASES = {
    "vp": Case(
        schedules.VariancePreserving,
        1e-3,
        1.0,
        lambda t: np.exp(-_integral(t) / 2),
        lambda t: np.sqrt(1 - np.exp(-_integral(t))),
        lambda t: -_rate(t) / 2,
        lambda t: np.sqrt(_rate(t)),
    ),
    "sub_vp": Case(
        schedules.SubVariancePreserving,
        1e-2,
        1.0,
        lambda t: np.exp(-_integral(t) / 2),
        lambda t: 1 - np.exp(-_integral(t)),
        lambda t: -_rate(t) / 2,
        lambda t: np.sqrt(_rate(t) * (1 - np.exp(-2 * _integral(t)))),
    ),
    "ve": Case(
        lambda: schedules.VarianceExploding(0.01, 50.0),
        0.0,
        1.0,
        np.ones_like,
        lambda t: 0.01 * 5000.0**t,
        lambda t: 0.0,
        lambda t: 0.01 * 5000.0**t * np.sqrt(2 * np.log(5000.0)),
    ),
    "karras": Case(
        schedules.Karras,
        2e-3,
        80.0,
        np.ones_like,
        lambda t: 1.0 * np.asarray(t),
        lambda t: 0.0,
        lambda t: np.sqrt(2 * t),
    ),
    "cosine": _cosine(1.0),
    "cosine_shifted": _cosine(0.5),
    "rectified_flow": Case(
        schedules.RectifiedFlow,
        1e-3,
        0.999,
        lambda t: 1 - t,
        lambda t: 1.0 * np.asarray(t),
        lambda t: -1 / (1 - t),
        lambda t: np.sqrt(2 * t / (1 - t)),
    ),
    "ou": Case(
        schedules.OrnsteinUhlenbeck,
        1e-4,
        6.0,
        lambda t: np.exp(-t),
        lambda t: np.sqrt(1 - np.exp(-2 * t)),
        lambda t: -1.0,
        lambda t: np.sqrt(2.0),
    ),
    "linear_variance": Case(
        schedules.LinearVariance,
        1e-5,
        0.9999,
        lambda t: np.sqrt(1 - t),
        lambda t: np.sqrt(t),
        lambda t: -1 / (2 * (1 - t)),
        lambda t: 1 / np.sqrt(1 - t),
    ),
    "ddpm_table": Case(
        lambda: schedules.from_betas(jnp.asarray(BETAS)),
        0.25,
        60.0,
        lambda t: np.sqrt(_table(t)),
        lambda t: np.sqrt(1 - _table(t)),
        lambda t: -_table_rate(t) / 2,
        lambda t: np.sqrt(_table_rate(t)),
    ),
}
NAMES = list(CASES)


def few_of(names, few=("vp", "karras", "rectified_flow", "ddpm_table", "zero_terminal_table")):
    """Parameters: those few, here a schedule of each kind, and the others among the slow tests."""
    return [name if name in few else pytest.param(name, marks=pytest.mark.slow) for name in names]


def interior(case: Case, n: int = 7) -> np.ndarray:
    """Times inside a case's range, geometrically spaced towards the clean end; never a knot of a table."""
    low = max(case.t_min, 1e-3 * case.t_max)
    return np.geomspace(low, case.t_max, n + 2)[1:-1] * (1 + 1e-7)


def gaussian_denoiser(schedule, mean: float, variance: float, shape: tuple[int, ...] = (1,)) -> Denoiser:
    """The exact denoiser of N(mean, variance I), by the conditional mean of a joint Gaussian, at all times."""
    return as_denoiser(
        _GaussianMeans(schedule, mean, variance),
        schedule,
        shape=shape,
        scale=math.sqrt(variance) if isinstance(variance, int | float) else jnp.sqrt(variance),
        t_min=schedule.t_min,
        t_max=schedule.t_max,
    )


@pytree
@dataclass(frozen=True)
class _GaussianMeans:
    schedule: Any
    mean: Any
    variance: Any

    def __call__(self, x, t):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        if jnp.ndim(alpha):  # one time for each row
            alpha, sigma = (v.reshape(v.shape + (1,) * (x.ndim - 1)) for v in (alpha, sigma))
        total = alpha**2 * self.variance + sigma**2
        centred = x - alpha * self.mean
        return Denoised(self.mean + alpha * self.variance / total * centred, sigma / total * centred)


def gaussian_flow(case: Case, x, t: float, s: float, mean: float, variance: float):
    """The exact solution at s of the probability flow of N(mean, variance) from x at t, in NumPy."""

    def std(u):
        return np.sqrt(case.alpha(u) ** 2 * variance + case.sigma(u) ** 2)

    return case.alpha(s) * mean + std(s) / std(t) * (x - case.alpha(t) * mean)


def log_snr_times(case: Case, num_steps: int) -> np.ndarray:
    """Decreasing times whose log-SNR is uniform, by NumPy bisection on the reference alpha and sigma."""

    def level(t):
        return 2 * np.log(case.alpha(t) / case.sigma(t))

    values = np.linspace(level(np.float64(case.t_max)), level(np.float64(case.t_min)), num_steps + 1)
    low, high = np.full(values.shape, case.t_min), np.full(values.shape, case.t_max)
    for _ in range(80):
        middle = (low + high) / 2
        clean = level(middle) > values
        low, high = np.where(clean, middle, low), np.where(clean, high, middle)
    grid = (low + high) / 2
    grid[0], grid[-1] = case.t_max, case.t_min
    return grid


def float32_tolerance(x: jax.Array) -> float:
    """A few units in the last place of x's dtype, relative."""
    return 8 * float(jnp.finfo(x.dtype).eps)


@pytree
@dataclass(frozen=True)
class Scales:
    """A schedule that stands still: one compilation then serves every schedule and time."""

    alpha_value: Any
    sigma_value: Any
    t_min: ClassVar[float] = 0.0
    t_max: ClassVar[float] = 1.0
    working_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def alpha(self, t):
        return jnp.asarray(self.alpha_value)

    def sigma(self, t):
        return jnp.asarray(self.sigma_value)


@pytree
@dataclass(frozen=True)
class Chosen:
    """One of the schedules by its number, so that all of them are one compiled call."""

    number: Any
    schedules: Any

    @property
    def t_min(self):
        """The first of all; each schedule answers NaN outside of its own range."""
        return min(schedule.t_min for schedule in self.schedules)

    @property
    def t_max(self):
        return max(schedule.t_max for schedule in self.schedules)

    @property
    def working_range(self):
        low, high = jnp.asarray([schedule.working_range for schedule in self.schedules]).T
        return low[self.number], high[self.number]

    def alpha(self, t):
        return jax.lax.switch(self.number, [s.alpha for s in self.schedules], t)

    def sigma(self, t):
        return jax.lax.switch(self.number, [s.sigma for s in self.schedules], t)


def assert_bijection(model, params, x, labels, guidance):
    """A flow's inverse and the determinant of its Jacobian, by automatic differentiation in float64.

    x: shape (n, ...), of points that the flow moves; also each row alone is mapped as in the batch.
    """

    def row(x, label):
        z, log_det = model.apply(params, x[None], label[None], guidance=guidance)
        return z[0], log_det[0]

    @jax.jit
    def all_of(x):
        jacobian, alone = jax.vmap(jax.jacfwd(row, has_aux=True))(x, labels)
        z, log_det = model.apply(params, x, labels, guidance=guidance)
        back = model.apply(params, z, labels, guidance=guidance, method="inverse")
        return z, log_det, alone, jacobian, back

    z, log_det, alone, jacobian, back = all_of(x)
    sign, wanted = np.linalg.slogdet(np.asarray(jacobian).reshape(len(x), x[0].size, x[0].size))
    assert (sign == 1).all()
    assert np.abs(wanted).mean() > 0.1
    np.testing.assert_allclose(alone, wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(log_det, wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-9)
    assert np.abs(z - x).max() > 0.3


def assert_same_bits(one, other):
    """Trees of one structure, whose leaves agree in dtype and in every number."""
    one, other = jax.device_get(one), jax.device_get(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def compilations(call: Callable[[], Any]) -> int:
    """How many programs a call compiles, or takes from the disk's cache."""
    count = 0

    def listen(event: str, _: float, **__: Any) -> None:
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(jax.tree.leaves(call()))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return count
