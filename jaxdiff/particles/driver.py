"""The one scan that drives particles: they move, are weighed, and are resampled where few carry the weight.

A process moves rows from t to s < t and answers the logarithm of what their weights are multiplied by. Within
a group of n particles, whenever (sum w)^2 / sum w^2 falls below a share of n, n are drawn again with numbers
of copies that differ from n w by less than one, and the mean weight goes into the evidence. Groups know
nothing of each other: standard errors are over groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.shards import spread
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.metrics import Estimate
from jaxdiff.noising import times as grids
from jaxdiff.noising.process import inverse_log_snr, log_snr
from jaxdiff.typing import Array, Key

NUM_STEPS = 100
"""Of the default grid."""
# Sigma over alpha in units of the data; the default grid begins there at most. Beyond, weights only spread,
# and from more than 100 `noise_grid` comes in one step, which cost their trapezoids .3 nats.
_MOST_NOISE = 50.0


class Process(Protocol):
    """Weighted particles: a frozen pytree of settings (`jaxdiff.pytree`). A state's ``x`` is the sample.

    Each method answers a state, a NamedTuple of arrays whose leading axis is that of rows, and the rows' log
    weight increments; what is random comes from key.
    """

    @property
    def like(self) -> Denoiser:
        """A denoiser that knows the schedule, the range and the shape."""
        ...

    def init(self, key: Key, n: int, t: Array) -> tuple[Any, Array]:
        """n rows at the first time."""
        ...

    def step(self, key: Key, state: Any, t: Array, s: Array) -> tuple[Any, Array]:
        """The rows at s < t."""
        ...

    def finish(self, state: Any) -> tuple[Any, Array]:
        """The data, from the rows at the last time."""
        ...


@pytree
@dataclass(frozen=True, eq=False)
class Particles:
    """Groups of weighted particles, independent of each other.

    >>> x, even = jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]]), jnp.full((2, 2), math.log(0.5))
    >>> groups = jd.particles.Particles(x, even, jnp.log(jnp.array([1.0, 3.0])))
    >>> mean, evidence = groups.expectation(lambda x: x[:, 0]), groups.log_evidence
    >>> round(float(mean.value), 3), round(math.exp(evidence.value), 3)  # (2 + 3 * 6) / 4, and (1 + 3) / 2
    (5.0, 2.0)
    """

    x: Array
    """(groups, n, *shape)."""
    log_weights: Array
    """(groups, n), of sum 1 in each group."""
    log_evidences: Array
    """(groups,), each the logarithm of an unbiased estimate, in nats."""

    @property
    def log_evidence(self) -> Estimate:
        """Logarithm of the mean evidence, and its standard error over groups (NaN for one)."""
        mean = jax.nn.logsumexp(self.log_evidences) - jnp.log(len(self.log_evidences))
        return Estimate(mean, _error(jnp.exp(self.log_evidences - mean)))

    def expectation(self, function: Callable[[Array], Array]) -> Estimate:
        """Mean of function, (rows, *shape) -> (rows,), and its standard error over groups.

        Groups count by their evidences, so that the bias falls with all particles, not those of a group.
        Raises ValueError for a function that is not one number a row.
        """
        values = function(self.x.reshape(-1, *self.x.shape[2:]))
        checks.shape("function(x)", values, (self.log_weights.size,))
        means = (jnp.exp(self.log_weights) * values.reshape(self.log_weights.shape)).sum(1)
        shares = jnp.exp(self.log_evidences - self.log_evidence.value)  # of mean 1
        mean = jnp.mean(shares * means)
        return Estimate(mean, _error(shares * (means - mean)))

    def draw(self, key: Key) -> Array:
        """As many particles of equal weight, (groups n, *shape), by systematic resampling of all."""
        log_weights = (self.log_weights + self.log_evidences[:, None]).reshape(-1)
        return self.x.reshape(-1, *self.x.shape[2:])[systematic(key, log_weights)]


def run(
    key: Key,
    process: Process,
    n: int,
    *,
    groups: int = 8,
    num_steps: int | None = None,
    times: Array | None = None,
    threshold: float = 0.5,
) -> Particles:
    """Particles of the law that a process is for: `Composed` or `Twisted`.

    Under a mesh, ``with jax.set_mesh(jd.data_mesh()):``, rows are spread over its devices, and are the same.

    n: particles of a group. num_steps: of the default grid, over the denoiser's working range; 100 if nothing
    is said. times: another grid, decreasing, that ends where the denoiser knows its times: data are estimated
    from there. threshold: the effective share of n below which a group is resampled: 0 never, 1 always.

    Moments converge as n^(-1/2), with a bias of the order of 1 / n, to those of the discrete chain, whose own
    error falls as 1 / num_steps (1 / num_steps^2 of `Composed`).

    Raises TypeError for what is no key or process; ValueError for fewer than 2 particles, no groups, a
    threshold out of range or times that the denoiser does not know.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> tilt = jd.particles.Twisted(law, lambda data: data[:, 0])  # N(0, 1) e^x = e^(1/2) N(1, 1)
    >>> got = jd.particles.run(jax.random.key(0), tilt, 200, num_steps=100)
    >>> mean = got.expectation(lambda x: x[:, 0])
    >>> bool(abs(mean.value - 1) < 0.15), bool(abs(got.log_evidence.value - 1 / 2) < 0.1)
    (True, True)
    """
    checks.integer("n", n, 2)
    checks.integer("groups", groups, 1)
    checks.within("threshold", threshold, 0.0, 1.0)
    times = check_run(key, process, num_steps, times)
    return _run(key, process, times, threshold, n=n, groups=groups)


def check_run(key: Key, process: Process, num_steps: int | None, times: Array | None) -> Array:
    """The grid that a process is run on; errors of `run` in these arguments."""
    checks.key(key)
    if not all(hasattr(process, name) for name in ("init", "step", "finish")) or isinstance(process, type):
        raise TypeError(f"process must be one such as Composed(...), got {checks.described(process)}.")
    denoise = process.like
    if times is None:
        t_min, t_max = _ends(denoise)
        num_steps = NUM_STEPS if num_steps is None else num_steps
        times = grids.noise_grid(denoise.schedule, num_steps, t_min=t_min, t_max=t_max, scale=denoise.scale)
    elif num_steps is not None:
        raise ValueError("num_steps and times were both given; a grid has its own number of steps.")
    checks.times(denoise.schedule, times, increasing=False)
    denoise.check_times("times", times)
    return jnp.asarray(times, float)


@functools.partial(jax.jit, static_argnames=("n", "groups"))
def _run(key: Key, process: Process, times: Array, threshold: Array, *, n: int, groups: int) -> Particles:
    def resample(key: Key, carry: Any) -> Any:
        state, log_weights, log_evidences = carry
        few = jax.vmap(_share)(log_weights) < threshold
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(groups))
        chosen = jnp.where(few[:, None], jax.vmap(systematic)(keys, log_weights), jnp.arange(n)[None])
        rows = (chosen + n * jnp.arange(groups)[:, None]).reshape(-1)
        log_evidences = jnp.where(few, log_evidences + _log_mean(log_weights), log_evidences)
        log_weights = jnp.where(few[:, None], 0.0, log_weights)
        return jax.tree.map(lambda leaf: leaf[rows], state), log_weights, log_evidences

    def body(carry: Any, step: tuple[Array, Array, Array]) -> tuple[Any, None]:
        number, t, s = step
        resample_key, move_key = jax.random.split(jax.random.fold_in(key, number))
        state, log_weights, log_evidences = resample(resample_key, carry)
        new, increment = process.step(move_key, state, t, s)
        new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, state)
        return (new, log_weights + increment.reshape(groups, n), log_evidences), None

    start_key, key = jax.random.split(key)
    state, first = process.init(start_key, groups * n, times[0])
    state = jax.tree.map(spread, state)
    carry = (state, first.reshape(groups, n), jnp.zeros(groups))
    carry, _ = jax.lax.scan(body, carry, (jnp.arange(len(times) - 1), times[:-1], times[1:]))
    state, last = process.finish(carry[0])
    log_weights = carry[1] + last.reshape(groups, n)
    x = state.x.reshape(groups, n, *state.x.shape[1:])
    return Particles(x, jax.nn.log_softmax(log_weights), carry[2] + _log_mean(log_weights))


def _ends(denoise: Denoiser) -> tuple[Array, Array]:
    """The working range but for its noisiest end: weights are integrals over log-SNR, whose infinite ends are
    none and whose far ones have no digits left in single precision."""
    schedule, (t_min, t_max) = denoise.schedule, denoise.working_range
    least = -2 * jnp.log(_MOST_NOISE * denoise.scale)
    later = inverse_log_snr(schedule, least, t_min=t_min, t_max=t_max)
    return jnp.asarray(t_min), jnp.where(log_snr(schedule, t_max) < least, later, t_max)


def systematic(key: Key, log_weights: Array) -> Array:
    """n indices of n weights, (n,): index i is drawn n w_i times, rounded up or down."""
    n = log_weights.shape[0]
    heaped = jnp.cumsum(jax.nn.softmax(log_weights))
    places = (jax.random.uniform(key) + jnp.arange(n)) / n * heaped[-1]
    return jnp.minimum(jnp.searchsorted(heaped, places, side="right"), n - 1)


def _share(log_weights: Array) -> Array:
    """The effective share of particles, in (0, 1]."""
    total = 2 * jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(2 * log_weights)
    return jnp.exp(total) / log_weights.shape[0]


def _log_mean(log_weights: Array) -> Array:
    return jax.nn.logsumexp(log_weights, axis=1) - jnp.log(log_weights.shape[1])


def _error(values: Array) -> Array:
    """Standard error of the mean of independent values."""
    m = len(values)
    return jnp.sqrt(jnp.sum((values - values.mean()) ** 2) / (m * (m - 1))) if m > 1 else jnp.asarray(jnp.nan)
