"""Distances between two samples x (n, d) and y (m, d), and a test that tells them apart.

    W_p^p(x, y) = int_0^1 |F_x^-1(u) - F_y^-1(u)|^p du            on the line                           (1)
    SW_p        = (E W_p^p(<x, v>, <y, v>))^(1/p)                  v uniform on the sphere               (2)
    max-SW_p    = max_v W_p(<x, v>, <y, v>)                        v on the sphere                       (3)
    D           = E k(X, X') + E k(Y, Y') - 2 E k(X, Y)            k = exp(-|x-y|^2 / 2h^2): MMD^2       (4)
                                                                   k = -|x-y|: the energy distance
    F           = |mean_x - mean_y|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)      A, B the covariances      (5)

(1) and (5) are those of the empirical laws, so under equal laws they are positive; (4) is estimated without
bias. Nothing of size n x m is held in memory. Samples may be integers; they are computed on as floats.
Samples that are not finite are refused; where they are traced no distance is finite.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff._numerics import checks
from jaxdiff.typing import Array, Key, Params

_CHUNK = 2**24
"""Largest number of entries of an intermediate array."""
_BLOCK = 512
"""Points of a block, whose distances to those of another one fit into a processor's cache."""


class Estimate(NamedTuple):
    """A statistic and its standard error; what the error is of, the function says."""

    value: Array
    standard_error: Array


class Slice(NamedTuple):
    """A distance between projections and the unit vector (d,), up to its sign, projected on."""

    value: Array
    direction: Array


def wasserstein_1d(x: Array, y: Array, *, p: float = 2) -> Array:
    """W_p of eq. (1) between samples on the line, shapes (n,) and (m,), in the units of x; exact for n != m.

    Raises ValueError for another shape, no points, non-finite values or p < 1.

    >>> float(jd.metrics.wasserstein_1d(jnp.array([0.0, 1.0]), jnp.array([4.0, 3.0])))
    3.0
    """
    for name, points in (("x", x), ("y", y)):
        checks.shape(name, points, (None,))
    x, y = _samples(jnp.asarray(x)[:, None], jnp.asarray(y)[:, None], low=1)
    _check_order(p)
    return _wasserstein_1d(x, y, p)


def sliced_wasserstein(key: Key, x: Array, y: Array, *, num_projections: int, p: float = 2) -> Array:
    """SW_p of eq. (2) with an average over num_projections directions; direction i depends on (key, i) only.

    In the units of x; two laws that differ by a shift s are |s| / sqrt(d) apart for p = 2. Bonneel et al.
    2015, J. Math. Imaging Vision 51. Raises ValueError for mismatched d, no points, non-finite values, p < 1.

    >>> x = jax.random.normal(jax.random.key(0), (100, 1))
    >>> round(float(jd.metrics.sliced_wasserstein(jax.random.key(1), x, x + 3.0, num_projections=8)), 3)
    3.0
    """
    x, y = _samples(x, y, low=1)
    checks.key(key)
    checks.integer("num_projections", num_projections, 1)
    _check_order(p)
    return _sliced(key, x, y, num_projections, p)


def max_sliced_wasserstein(
    key: Key,
    x: Array,
    y: Array,
    *,
    num_starts: int = 8,
    num_steps: int = 200,
    learning_rate: float = 0.1,
    p: float = 2,
) -> Slice:
    """max-SW_p of eq. (3), in the units of x, and the direction that reaches it.

    Adam with a cosine decay climbs W_p^p over the sphere from num_starts random directions, and the best end
    is returned: a lower bound of the maximum for these points. The maximum itself overestimates that of the
    laws, by more as d / n grows, since it is taken over the points that it is measured on; for an honest
    distance find the direction on one half and take `wasserstein_1d` on the other. Deshpande et al. 2019,
    arXiv 1904.05877. Raises as `sliced_wasserstein`.

    >>> x = jax.random.normal(jax.random.key(0), (100, 2))
    >>> far = jd.metrics.max_sliced_wasserstein(jax.random.key(1), x, x + jnp.array([3.0, 0.0]))
    >>> round(float(far.value), 2), abs(far.direction.round(2)).tolist()  # seen along the first axis
    (3.0, [1.0, 0.0])
    """
    x, y = _samples(x, y, low=1)
    checks.key(key)
    checks.integer("num_starts", num_starts, 1)
    checks.integer("num_steps", num_steps, 1)
    checks.positive_number("learning_rate", learning_rate)
    _check_order(p)
    return _max_sliced(key, x, y, learning_rate, num_starts, num_steps, p)


def energy_distance(x: Array, y: Array) -> Estimate:
    """The energy distance, eq. (4) with k = -|x - y|, in the units of x; zero exactly for equal laws.

    The squared distance, not its root, and the unbiased U-statistic, so it may be negative: with n and m
    points and mean distances a and b within each, it is `scipy.stats.energy_distance`**2 - a/n - b/m on the
    line. The standard error is that of `mmd`. Its time is that of n^2 + m^2 + n m distances and its memory
    that of a few million numbers beside the points: for 100,000 against 100,000 in 2 dimensions 22 s, in 10
    dimensions 92 s, and 12 MB (MEASURED, two busy CPU cores, jax 0.10.2). Szekely & Rizzo 2013, J. Stat.
    Plan. Inference 143.
    Raises ValueError for mismatched d, fewer than two points in either sample, or non-finite values.

    >>> x = jnp.array([[0.0], [1.0]])
    >>> float(jd.metrics.energy_distance(x, x + 10.0).value)  # 2 * 10 - 1 - 1
    18.0
    """
    return _energy(*_samples(x, y, low=2))


def mmd(x: Array, y: Array, *, bandwidth: Array | float | None = None) -> Estimate:
    """MMD^2, eq. (4) with the Gaussian kernel of standard deviation h = bandwidth; unbiased, may be negative.

    By default h is the median distance between points of the two samples together, from at most a thousand
    of them evenly spaced. Gretton et al. 2012, JMLR 13, eq. 3.

    The standard error is the spread of the points' shares in the value: right when the laws differ, and
    sqrt(2) too large when they are equal, where the first order on which it rests vanishes. It takes h as
    given. Raises ValueError for mismatched d, fewer than two points in either sample, non-finite values, or
    a bandwidth that is not positive (more than half of the points being equal makes the default zero).

    >>> x, y = jnp.array([[0.0], [0.0]]), jnp.array([[9.0], [9.0]])
    >>> round(float(jd.metrics.mmd(x, y, bandwidth=1.0).value), 4)  # 1 + 1 - 2 e^(-81 / 2)
    2.0
    """
    x, y = _samples(x, y, low=2)
    if bandwidth is None:
        bandwidth = median_distance(x, y)
        checks.positive("The default bandwidth, the median distance between points,", bandwidth)
    checks.positive_number("bandwidth", bandwidth)
    return _gaussian_mmd(x, y, bandwidth)


def frechet_distance(x_features: Array, y_features: Array) -> Array:
    """The Frechet distance F of eq. (5) between Gaussians fitted to two samples of features; squared units.

    Covariances have the divisor n - 1. With R_x and R_y the triangular factors of the centred samples, the
    trace of the root is the nuclear norm of R_x R_y^T / sqrt((n-1) (m-1)): no covariance is formed, so small
    variances keep their digits in float32, and it runs wherever QR and SVD do. F overestimates the distance
    between the laws by an amount that falls as 1 / n; compare at equal n. Heusel et al. 2017, arXiv
    1706.08500. Raises ValueError for mismatched d, fewer than two points in a sample, or non-finite values.

    >>> x = jnp.array([[0.0], [1.0], [2.0]])
    >>> round(float(jd.metrics.frechet_distance(x, x + 2.0)), 3)  # squared
    4.0
    """
    return _frechet(*_samples(x_features, y_features, low=2, names=("x_features", "y_features")))


def classifier_two_sample_test(
    key: Key,
    x: Array,
    y: Array,
    *,
    width: int = 128,
    num_steps: int = 1000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> Estimate:
    """C2ST: accuracy of a network in telling held-out points of x from those of y; 0.5 if it cannot.

    A random half of each sample trains an MLP of two hidden layers (Adam, batch_size points of each sample a
    step); the other halves are classified. The value is the mean of the two samples' accuracies, so its mean
    is 0.5 under equal laws whatever n and m are; the standard error is an upper bound of its spread under
    equal laws, and (value - 0.5) / standard_error is a test. Lopez-Paz & Oquab 2017, arXiv 1610.06545.
    Raises ValueError for mismatched d, fewer than four points in either sample, or non-finite values.

    >>> x = jax.random.normal(jax.random.key(0), (100, 1))
    >>> test = jd.metrics.classifier_two_sample_test(jax.random.key(1), x, x + 9.0, num_steps=100)
    >>> float(test.value), round(float(test.standard_error), 4)  # on 50 points of either that it has not seen
    (1.0, 0.05)
    """
    checks.key(key)
    x, y = _samples(x, y, low=4)
    for name, number in (("width", width), ("num_steps", num_steps), ("batch_size", batch_size)):
        checks.integer(name, number, 1)
    checks.positive_number("learning_rate", learning_rate)
    return _classifier(key, x, y, learning_rate, width, num_steps, batch_size)


def _samples(x: Array, y: Array, *, low: int, names: tuple[str, str] = ("x", "y")) -> tuple[Array, Array]:
    for name, points in zip(names, (x, y), strict=True):
        if not isinstance(points, jax.Array):
            checks.numbers(name, points)
    x, y = jnp.asarray(x, float), jnp.asarray(y, float)
    for name, points in zip(names, (x, y), strict=True):
        checks.shape(name, points, (None, None))
        if len(points) < low:
            raise ValueError(f"{name} must hold at least {low} points, got {len(points)}.")
        checks.finite(name, points)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must have points of one dimension, got shapes {x.shape} and "
            f"{y.shape}."
        )
    return x, y


def _check_order(p: float) -> None:
    if not isinstance(p, int | float) or not 1 <= p < math.inf:
        raise ValueError(f"p must be a finite number of at least 1, known and in Python, got {p!r}.")


def _power_1d(x: Array, y: Array, p: float) -> Array:
    """W_p^p: both quantile functions are constant between consecutive multiples of 1/n and of 1/m."""
    n, m = len(x), len(y)
    # In units of 1/(nm), by NumPy's 64-bit integers, so that no level is rounded.
    levels = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    weights = jnp.asarray(np.diff(levels, prepend=0) / (n * m), x.dtype)
    gaps = jnp.sort(x)[(levels - 1) // m] - jnp.sort(y)[(levels - 1) // n]
    return jnp.sum(weights * jnp.abs(gaps) ** p)


@functools.partial(jax.jit, static_argnames="p")
def _wasserstein_1d(x: Array, y: Array, p: float) -> Array:
    return _power_1d(x[:, 0], y[:, 0], p) ** (1 / p)


def _power_along(direction: Array, x: Array, y: Array, p: float) -> Array:
    unit = direction / jnp.linalg.norm(direction)
    # Accelerators would otherwise round the factors to 10 bits of mantissa or less.
    project = functools.partial(jnp.matmul, precision="highest")
    return _power_1d(project(x, unit), project(y, unit), p)


def _directions(key: Key, num: int, x: Array) -> Array:
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num))
    directions = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)
    return directions / jnp.linalg.norm(directions, axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnames=("num_projections", "p"))
def _sliced(key: Key, x: Array, y: Array, num_projections: int, p: float) -> Array:
    powers = jax.lax.map(
        lambda direction: _power_along(direction, x, y, p),
        _directions(key, num_projections, x),
        batch_size=_rows_at_once(num_projections, len(x) + len(y)),
    )
    return jnp.mean(powers) ** (1 / p)


@functools.partial(jax.jit, static_argnames=("num_starts", "num_steps", "p"))
def _max_sliced(
    key: Key, x: Array, y: Array, learning_rate: Array | float, num_starts: int, num_steps: int, p: float
) -> Slice:
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def climb(direction: Array) -> Array:
        def step(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
            direction, state = carry
            gradient = jax.grad(lambda v: -_power_along(v, x, y, p))(direction)
            update, state = optimizer.update(gradient, state)
            direction = direction + jnp.asarray(update)
            return (direction / jnp.linalg.norm(direction), state), None

        return jax.lax.scan(step, (direction, optimizer.init(direction)), length=num_steps)[0][0]

    directions = jax.vmap(climb)(_directions(key, num_starts, x))
    powers = jax.vmap(lambda direction: _power_along(direction, x, y, p))(directions)
    best = jnp.argmax(powers)
    return Slice(powers[best] ** (1 / p), directions[best])


@jax.jit
def _energy(x: Array, y: Array) -> Estimate:
    def kernel(squared: Array) -> Array:
        # The root's infinite slope at 0 would make every gradient NaN; a NaN itself is to stay one.
        apart = squared != 0
        return -jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)

    return _u_statistic(kernel, x, y)


@jax.jit
def _gaussian_mmd(x: Array, y: Array, bandwidth: Array | float) -> Estimate:
    return _u_statistic(lambda squared: jnp.exp(-squared / (2 * bandwidth**2)), x, y)


def _u_statistic(kernel: Callable[[Array], Array], x: Array, y: Array) -> Estimate:
    """D of eq. (4) for a kernel of the squared distance, without the pairs of a point with itself."""
    n, m = len(x), len(y)
    itself = kernel(jnp.zeros((), x.dtype))
    (x_to_x, _), (y_to_y, _), (x_to_y, y_to_x) = (_sums(kernel, *pair) for pair in ((x, x), (y, y), (x, y)))
    inside_x, inside_y = (x_to_x - itself) / (n - 1), (y_to_y - itself) / (m - 1)
    outside_x, outside_y = x_to_y / m, y_to_x / n
    value = jnp.mean(inside_x - outside_x) + jnp.mean(inside_y - outside_y)
    variance = (
        jnp.var(2 * (inside_x - outside_x), ddof=1) / n + jnp.var(2 * (inside_y - outside_y), ddof=1) / m
    )
    return Estimate(value, jnp.sqrt(variance))


def _sums(kernel: Callable[[Array], Array], x: Array, y: Array) -> tuple[Array, Array]:
    """sum_j k(x_i, y_j), shape (n,), and sum_i k(x_i, y_j), shape (m,), block by block."""
    (x_blocks, x_real), (y_blocks, y_real) = _blocks(x), _blocks(y)

    def rows(columns: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
        a, a_real = block

        def pair(row: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
            b, b_real = block
            values = jnp.where(a_real[:, None] & b_real[None], kernel(_squared(a, b)), 0)
            return row + values.sum(1), values.sum(0)

        row, added = jax.lax.scan(pair, jnp.zeros_like(a[:, 0]), (y_blocks, y_real))
        return columns + added, row

    columns, rows_of_blocks = jax.lax.scan(rows, jnp.zeros_like(y_blocks[..., 0]), (x_blocks, x_real))
    return rows_of_blocks.reshape(-1)[: len(x)], columns.reshape(-1)[: len(y)]


def _blocks(x: Array) -> tuple[Array, Array]:
    """Points (n, d) in blocks of equal length, the last filled up, and which points are real."""
    number = -(-len(x) // _BLOCK)
    length = -(-len(x) // number)
    filled = jnp.pad(x, ((0, number * length - len(x)), (0, 0)))
    return filled.reshape(number, length, -1), jnp.arange(number * length).reshape(number, length) < len(x)


def _squared(x: Array, y: Array) -> Array:
    """Squared distances (n, m), from differences: |x|^2 + |y|^2 - 2 <x, y> has no digits for near points.

    Coordinate by coordinate: XLA:CPU takes twenty times as long for the sum over an axis of (d, n, m).
    """

    def add(squares: Array, coordinate: tuple[Array, Array]) -> tuple[Array, None]:
        a, b = coordinate
        return squares + (a[:, None] - b[None]) ** 2, None

    zeros = jnp.zeros((len(x), len(y)), x.dtype)
    return jax.lax.scan(add, zeros, (x.T, y.T))[0]


@jax.jit
def median_distance(x: Array, y: Array) -> Array:
    """Between points (n, d) of two samples together, of at most a thousand evenly spaced ones.

    >>> float(jd.metrics.median_distance(jnp.array([[0.0]]), jnp.array([[1.0], [3.0]])))  # of 1, 2 and 3
    2.0
    """
    points = jnp.concatenate([x, y])
    points = points[:: math.ceil(len(points) / 1000)]
    return jnp.median(jnp.sqrt(_squared(points, points))[np.triu_indices(len(points), 1)])


def _rows_at_once(num_rows: int, entries_per_row: int) -> int:
    return min(num_rows, max(1, _CHUNK // entries_per_row))


@jax.jit
def _frechet(x: Array, y: Array) -> Array:
    mean_x, mean_y = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
    root_x = jnp.linalg.qr((x - mean_x[None]) / math.sqrt(len(x) - 1), mode="r")
    root_y = jnp.linalg.qr((y - mean_y[None]) / math.sqrt(len(y) - 1), mode="r")
    product = jnp.matmul(root_x, root_y.T, precision="highest")
    overlap = jnp.sum(jnp.linalg.svd(product, compute_uv=False))
    return jnp.sum((mean_x - mean_y) ** 2) + jnp.sum(root_x**2) + jnp.sum(root_y**2) - 2 * overlap


@functools.partial(jax.jit, static_argnames=("width", "num_steps", "batch_size"))
def _classifier(
    key: Key, x: Array, y: Array, learning_rate: Array | float, width: int, num_steps: int, batch_size: int
) -> Estimate:
    key_x, key_y, key_init, key_batch = jax.random.split(key, 4)
    train_x, test_x = jnp.split(jax.random.permutation(key_x, x), [len(x) // 2])
    train_y, test_y = jnp.split(jax.random.permutation(key_y, y), [len(y) // 2])
    train = jnp.concatenate([train_x, train_y])
    mean, std = jnp.mean(train, axis=0, keepdims=True), jnp.std(train, axis=0, keepdims=True)
    std = jnp.where(std > 0, std, 1)
    network = nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(width), nn.relu, nn.Dense(1)])
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def logits(params: Params, points: Array) -> Array:
        """Log-odds that points are of x."""
        return jnp.asarray(network.apply(params, (points - mean) / std))

    def loss(params: Params, x: Array, y: Array) -> Array:
        return jnp.mean(nn.softplus(-logits(params, x))) + jnp.mean(nn.softplus(logits(params, y)))

    def step(carry: tuple[Params, optax.OptState], i: Array) -> tuple[tuple[Params, optax.OptState], None]:
        params, state = carry
        draw_x, draw_y = jax.random.split(jax.random.fold_in(key_batch, i))
        rows_x = jax.random.randint(draw_x, (batch_size,), 0, len(train_x))
        rows_y = jax.random.randint(draw_y, (batch_size,), 0, len(train_y))
        gradient = jax.grad(loss)(params, train_x[rows_x], train_y[rows_y])
        update, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, update), state), None

    params = network.init(key_init, train[:1])
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(num_steps))
    of_x, of_y = logits(params, test_x), logits(params, test_y)
    accuracy = 0.5 * (jnp.mean(of_x > 0) + jnp.mean(of_y <= 0))
    # A comparison hides a NaN, of the samples or of a training that diverged.
    accuracy = jnp.where(jnp.isfinite(of_x).all() & jnp.isfinite(of_y).all(), accuracy, jnp.nan)
    # Given the network each accuracy is a binomial frequency, of variance at most 1/4 over its count.
    return Estimate(accuracy, jnp.asarray(0.25 * math.sqrt(1 / len(test_x) + 1 / len(test_y)), x.dtype))
