"""Spline couplings: a bijection with its exact Jacobian, the identity at first and far out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_bijection

from jaxdiff.models import SplineCoupling
from jaxdiff.models.spline_coupling import _orders, _spline

MODEL = SplineCoupling(num_layers=4, width=16, num_blocks=1, num_bins=6, num_classes=3)
FORWARD = jax.jit(MODEL.apply)
INVERSE = jax.jit(functools.partial(MODEL.apply, method="inverse"))
RNG = np.random.default_rng(0)
LABELS = jnp.asarray([0, 1, 2, 3, 0, 1, 2, 3])


def points(d):
    return jnp.asarray(2 * RNG.standard_normal((8, d)))


def moved(params, scale=0.05):
    """All parameters displaced, so that no spline is the identity."""
    return jax.tree.map(lambda p: p + scale * jnp.asarray(RNG.standard_normal(p.shape), p.dtype), params)


INIT = jax.jit(MODEL.init)


def made(d):
    return INIT(jax.random.key(0), points(d), LABELS)


@pytest.mark.parametrize("d", [1, 5])
def test_it_starts_as_the_identity_to_the_last_bit(d):
    x = points(d).astype(jnp.float32)
    params = made(d)
    z, log_det = FORWARD(params, x, LABELS)
    np.testing.assert_array_equal(z, x)
    np.testing.assert_array_equal(log_det, jnp.zeros(8))
    np.testing.assert_array_equal(INVERSE(params, x, LABELS), x)
    assert jnp.abs(FORWARD(moved(params), x, LABELS)[0] - x).max() > 0.1


@pytest.mark.parametrize(("d", "guidance"), [(1, 1.5), (5, None)])
def test_the_inverse_and_the_jacobian(d, guidance, float64):
    """With guidance too it is one bijection."""
    assert_bijection(MODEL, moved(made(d)), points(d), LABELS, guidance)


def test_the_inverse_in_single_precision():
    x = points(5).astype(jnp.float32)
    params = moved(made(5))
    z, _ = FORWARD(params, x, LABELS)
    np.testing.assert_allclose(INVERSE(params, z, LABELS), x, rtol=0, atol=1e-4)


def test_guidance_extrapolates_the_parameters():
    """None is that of the class, -1 that of no class, and 0.5 is neither; where they agree there is none."""
    params, x = moved(made(5)), points(5).astype(jnp.float32)
    null = jnp.full(8, 3)
    given = FORWARD(params, x, LABELS)
    for guidance, labels in ((0.0, LABELS), (-1.0, null)):
        guided = FORWARD(params, x, LABELS, guidance=jnp.asarray(guidance))
        for got, wanted in zip(guided, FORWARD(params, x, labels), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    further, _ = FORWARD(params, x, LABELS, guidance=jnp.asarray(0.5))
    difference = jnp.abs(further - given[0]).max(1)
    assert (difference[LABELS < 3] > 1e-3).all()
    assert (difference[LABELS == 3] < 1e-5).all()


def test_the_density_of_the_plane_is_one(float64):
    """A standard Gaussian pulled back by a guided flow, integrated on a grid of 401 x 401 points.

    The density has kinks of its slope at knots, so the error is that of the midpoint rule there.
    """
    params = moved(made(2))
    line = (np.arange(401) + 0.5) / 401 * 16 - 8
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2))

    @jax.jit
    def mass(x):
        z, log_det = MODEL.apply(params, x, jnp.full(len(x), 1), guidance=1.0)
        density = jnp.exp(log_det - 0.5 * jnp.sum(z**2, axis=1)) / (2 * np.pi)
        return density.sum(), jnp.abs(log_det).max()

    total, most = mass(grid)
    assert most > 1
    assert abs(total * (16 / 401) ** 2 - 1) < 1e-3


def test_a_spline_passes_the_knots_that_its_parameters_say(float64):
    """Increasing, with the stated slopes at the knots, and the identity outside."""
    num_bins, bound, least = 5, 3.0, 0.1
    raw = RNG.standard_normal(3 * num_bins - 1)

    def knots(raw):
        part = np.exp(raw) / np.exp(raw).sum()
        return np.cumsum([-bound, *(2 * bound * (least / num_bins + (1 - least) * part))])

    x, y = knots(raw[:num_bins]), knots(raw[num_bins : 2 * num_bins])
    slopes = np.exp([0, *(3 * np.tanh(raw[2 * num_bins :] / 3)), 0])

    @jax.jit
    def spline(x):
        rows = jnp.broadcast_to(raw, (len(x), 1, len(raw)))
        return tuple(part[:, 0] for part in _spline(rows, x[:, None], bound, False))

    inner = jnp.asarray(x[1:-1])
    for side in (-1e-9, 1e-9):
        at, log_slope = spline(inner + side)
        np.testing.assert_allclose(at, y[1:-1], rtol=0, atol=1e-7)
        np.testing.assert_allclose(log_slope, np.log(slopes[1:-1]), rtol=0, atol=1e-6)
    line = jnp.linspace(-4, 4, 2001)
    values, log_slope = spline(line)
    assert (jnp.diff(values) > 0).all()
    outside = jnp.abs(line) >= bound
    np.testing.assert_array_equal(values[outside], line[outside])
    np.testing.assert_array_equal(log_slope[outside], 0)
    # Rational of degree two between knots: the integral of its slope by Simpson's rule over many pieces.
    pieces = np.linspace(x[1], x[2], 2001)
    slope = np.exp(np.asarray(spline(jnp.asarray(pieces[:-1] + np.diff(pieces) / 2))[1]))
    np.testing.assert_allclose(slope.sum() * (pieces[1] - pieces[0]), y[2] - y[1], rtol=1e-5)


@pytest.mark.parametrize("d", [2, 3, 8, 13])
def test_every_coordinate_comes_to_move_every_other(d):
    """After two layers and log2(d) deals, by counting which are kept when which are moved."""
    orders = _orders(2 * int(np.ceil(np.log2(d))) + 2, d)
    heard = np.zeros((d, d), bool)
    for order in orders:
        assert sorted(order) == list(range(d))
        heard[np.ix_(order[d // 2 :], order[: d // 2])] = True
    assert (heard | np.eye(d, dtype=bool)).all()


X2, L2 = jnp.zeros((4, 2)), jnp.zeros(4, jnp.int32)


@pytest.mark.parametrize(
    ("model", "x", "labels", "guidance", "error", "says"),
    [
        (MODEL, X2[0], L2, None, ValueError, "x must have shape"),
        (MODEL, X2, None, None, ValueError, "labels are missing for a model of 3 classes"),
        (MODEL, X2, L2[:3], None, ValueError, "labels must hold one class per row"),
        (MODEL, X2, L2 / 2, None, TypeError, "labels must be integers"),
        (MODEL, X2, L2, jnp.ones(4), ValueError, "guidance must have shape"),
        (MODEL.clone(num_classes=None), X2, L2, None, ValueError, "model without classes"),
        (MODEL.clone(num_classes=None), X2, None, 1.0, ValueError, "guidance was given to a model without"),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "inverse"])
def test_bad_input_is_refused(model, x, labels, guidance, error, says, method):
    with pytest.raises(error, match=says):
        jax.eval_shape(
            lambda key: model.init(key, x, labels, guidance=guidance, method=method), jax.random.key(0)
        )


def test_a_label_out_of_range_answers_nan():
    z, _ = FORWARD(made(5), points(5).astype(jnp.float32), jnp.asarray([0, 3, 4, -1] * 2))
    np.testing.assert_array_equal(jnp.isnan(z).any(1), [False, False, True, True] * 2)
