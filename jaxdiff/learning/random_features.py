"""Random Fourier features: a model of one noise level whose fit is a linear system.

With 2K features of a Gaussian kernel of bandwidth b (Rahimi & Recht 2007),

    phi(x) = K^(-1/2) (cos w_1 x, ..., cos w_K x, sin w_1 x, ..., sin w_K x),     w_k ~ N(0, I / b^2)    (1)
    phi(x) . phi(y)  has mean  k(x - y) = exp(-|x - y|^2 / (2 b^2))
                     and variance  ((1 + k(2 (x - y))) / 2 - k(x - y)^2) / K                             (2)

the prediction c + B' phi(x) of least weighted square error, its coefficients held back but not c, has

    B = (F'VF + penalty I)^-1 F'VY,      c = mean(y) - B' mean(phi),                                     (3)

with V the weights divided by their sum and phi(x_i), y_i the rows of F and Y, less their means under V.

`predict` is a `Predictor`, so that a model is a denoiser through `make_denoiser` with any prediction type, a
teacher of `bootstrap.bootstrapped_target` and the model of `bootstrap.fit_levels`:

    def family(model): return make_denoiser(random_features.predict, model, schedule, shape=(d,), scale=0.5)

    model = random_features.init(key, d, 300, bandwidth=2.0)
    model = random_features.fit(model, family, x_t, target, t, penalty=1e-3)
    denoise = family(model)

All is in closed form and may be vmapped over penalties, bandwidths, seeds and data. Denoising score matching
with such features: arXiv 2101.05239.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.typing import Array, Denoised, Key, Time

_PRECISION = jax.lax.Precision.HIGHEST


class RandomFeatures(NamedTuple):
    """The model c + B' phi(x) of d numbers at x, shape (d,)."""

    frequencies: Array
    """w of eq. (1) in columns, shape (d, K)."""
    coefficients: Array
    """B, shape (2K, d)."""
    intercept: Array
    """c, shape (d,)."""


def init(key: Key, d: int, num_features: int, *, bandwidth: Array | float) -> RandomFeatures:
    """A model with features drawn and coefficients zero.

    bandwidth: b of eq. (1), a scalar, in units of what the model is shown: x / s for `EDM`, x for `data`.
    Raises ValueError unless num_features is even, and for sizes or a bandwidth that are not positive.

    >>> model = jd.random_features.init(jax.random.key(0), 2, 10_000, bandwidth=4.0)
    >>> round(float(model.frequencies.std()), 2)
    0.25
    """
    checks.integer("d", d, 1)
    checks.integer("num_features", num_features, 2)
    if num_features % 2:
        raise ValueError(
            f"num_features must be even, a cosine and a sine for each frequency, got {num_features}."
        )
    checks.shape("bandwidth", bandwidth, ())
    checks.positive("bandwidth", bandwidth)
    return _init(key, d, num_features, bandwidth)


@compiled(static=("d", "num_features"))
def _init(key: Key, d: int, num_features: int, bandwidth: Array | float) -> RandomFeatures:
    frequencies = jax.random.normal(key, (d, num_features // 2)) / bandwidth
    return RandomFeatures(frequencies, jnp.zeros((num_features, d)), jnp.zeros(d))


@compiled
def features(frequencies: Array, x: Array) -> Array:
    """phi of eq. (1) at each row of x, shape (batch, d) -> (batch, 2K).

    >>> model = jd.random_features.init(jax.random.key(0), 1, 10_000, bandwidth=1.0)
    >>> phi = jd.random_features.features(model.frequencies, jnp.array([[0.0], [1.0]]))
    >>> round(float(phi[0] @ phi[1]), 1)  # the kernel, e^(-1/2) = .607
    0.6
    """
    angles = jnp.matmul(x, frequencies, precision=_PRECISION)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1) / frequencies.shape[-1] ** 0.5


@compiled
def predict(model: RandomFeatures, x: Array, t: Array) -> Array:
    """c + B' phi(x), shape (batch, d): a `Predictor` that does not look at t.

    >>> model = jd.random_features.init(jax.random.key(0), 1, 100, bandwidth=1.0)
    >>> model = model._replace(intercept=jnp.array([3.0]))  # and no coefficients yet
    >>> jd.random_features.predict(model, jnp.array([[0.0], [1.0]]), jnp.ones(2)).tolist()
    [[3.0], [3.0]]
    """
    sums = jnp.matmul(features(model.frequencies, x), model.coefficients, precision=_PRECISION)
    return sums + model.intercept[None]


def fit(
    model: RandomFeatures,
    family: Callable[[RandomFeatures], Denoiser],
    x: Array,
    target: Denoised,
    t: Time,
    *,
    penalty: Array | float,
    weights: Array | None = None,
) -> RandomFeatures:
    """The model at one level t that minimizes the weighted mean of `regression_loss` + penalty |B|^2.

    family: makes the denoiser of a model, by `make_denoiser` of `predict`; its prediction type, schedule and
        reference are what is fitted.
    x and both parts of the target have shape (batch, d), t is a scalar. weights: (batch,), not negative, by
    default equal; a zero leaves a row out.

    Raises TypeError for integer x and for a family that makes no denoiser; ValueError for NaN, for shapes
    that disagree, for a t that the denoiser does not know, for a negative weight or none that is positive and
    unless penalty > 0.

    >>> predict = jd.random_features.predict
    >>> family = lambda model: jd.make_denoiser(predict, model, jd.Karras(), shape=(1,))  # begins at N(0, 1)
    >>> model = jd.random_features.init(jax.random.key(0), 1, 50, bandwidth=1.0)
    >>> x = jnp.linspace(-2, 8, 50)[:, None]
    >>> target = jd.Denoised((x + 3) / 2, (x - 3) / 2)  # of N(3, 1) at t = 1
    >>> denoise = family(jd.random_features.fit(model, family, x, target, 1.0, penalty=1e-3))
    >>> round(float(denoise(jnp.array([[1.0]]), 1.0).data[0, 0]), 3)
    2.0
    """
    checks.floating("x", x)
    checks.shape("x", x, (None, model.frequencies.shape[0]))
    checks.finite("x", x)
    checks.shape("t", t, ())
    for name, part in target._asdict().items():
        checks.shape(f"target.{name}", part, x.shape)
        checks.finite(f"target.{name}", part)
    checks.shape("penalty", penalty, ())
    checks.positive("penalty", penalty)
    _check_weights(weights, x)
    # Of the model that answers nothing, what it leaves is what there is to be learnt.
    silent = _silent(model)
    denoise = family(silent)
    check_denoiser("family(model)", denoise)
    denoise.check_times("t", t)
    return _fit(silent, denoise, x, target, t, penalty, weights)


@compiled
def _silent(model: RandomFeatures) -> RandomFeatures:
    return model._replace(
        coefficients=jnp.zeros_like(model.coefficients), intercept=jnp.zeros_like(model.intercept)
    )


@jax.jit
def _fit(
    model: RandomFeatures,
    silent: Denoiser,
    x: Array,
    target: Denoised,
    t: Array,
    penalty: Array,
    weights: Array | None,
) -> RandomFeatures:
    schedule, kind = silent.schedule, silent.prediction
    x, target = jax.tree.map(single, (x, target))

    def example(x: Array, target: Denoised, skip: Denoised) -> tuple[Array, Array]:
        left_over = jax.tree.map(jnp.subtract, target, skip)
        shown, _ = kind.inputs(schedule, x, t)
        return shown, prediction.read(kind.row, schedule, left_over, t)

    shown, wanted = jax.vmap(example)(x, target, silent(x, t))
    design = features(model.frequencies, shown)
    return RandomFeatures(model.frequencies, *ridge(design, wanted, penalty=penalty, weights=weights))


def ridge(
    design: Array, targets: Array, *, penalty: Array | float, weights: Array | None = None
) -> tuple[Array, Array]:
    """B, shape (p, k), and c, (k,), of eq. (3), from design (n, p) and targets (n, k), by Cholesky.

    In single precision or better, whatever they are in. Raises as `fit`.

    >>> design, targets = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[1.0], [3.0], [5.0]])
    >>> slope, intercept = jd.random_features.ridge(design, targets, penalty=1e-6)
    >>> slope.round(3).tolist(), intercept.round(3).tolist()
    ([[2.0]], [1.0])
    """
    design, targets = single(design), single(targets)
    checks.shape("design", design, (None, None))
    checks.shape("targets", targets, (design.shape[0], None))
    checks.shape("penalty", penalty, ())
    checks.positive("penalty", penalty)
    _check_weights(weights, design)
    return _ridge(design, targets, penalty, weights)


@jax.jit
def _ridge(design: Array, targets: Array, penalty: Array, weights: Array | None) -> tuple[Array, Array]:
    if weights is None:
        weights = jnp.ones_like(design[:, 0])
    share = weights / weights.sum()
    mean_feature, mean_target = (jnp.matmul(share, x, precision=_PRECISION) for x in (design, targets))
    centered = design - mean_feature[None]
    weighted = (share[:, None] * centered).T
    gram = jnp.matmul(weighted, centered, precision=_PRECISION)
    product = jnp.matmul(weighted, targets - mean_target[None], precision=_PRECISION)
    coefficients = cho_solve(cho_factor(gram + penalty * jnp.eye(len(gram), dtype=gram.dtype)), product)
    return coefficients, mean_target - jnp.matmul(mean_feature, coefficients, precision=_PRECISION)


def _check_weights(weights: Array | None, rows: Array) -> None:
    if weights is None:
        return
    checks.shape("weights", weights, rows.shape[:1])
    values = checks.known(weights)
    if values is not None and not ((values >= 0).all() and 0 < values.sum() < float("inf")):
        raise ValueError(
            f"weights must be finite and not negative, and one of them positive; got {values.min():g} to "
            f"{values.max():g}."
        )
