"""Flows over patches: who sees whom, an exact Jacobian, and an inverse one patch after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_bijection

from jaxdiff.models import PatchFlow

MODEL = PatchFlow(patch_size=2, width=8, num_blocks=3, num_layers=2, num_heads=2, num_classes=3)
SHAPE = (4, 6, 1)
FORWARD = jax.jit(MODEL.apply)
INVERSE = jax.jit(functools.partial(MODEL.apply, method="inverse"))
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, *SHAPE)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2, 3])


def moved(params, scale=0.1):
    """All parameters displaced, so that no block is the identity."""
    return jax.tree.map(lambda p: p + scale * jnp.asarray(RNG.standard_normal(p.shape), p.dtype), params)


@pytest.fixture(scope="module")
def initial():
    return jax.jit(MODEL.init)(jax.random.key(0), X, LABELS)


@pytest.fixture(scope="module")
def params(initial):
    return moved(initial)


def test_it_starts_as_the_identity_to_the_last_bit(initial, params):
    z, log_det = FORWARD(initial, X, LABELS)
    np.testing.assert_array_equal(z, X)
    np.testing.assert_array_equal(log_det, jnp.zeros(4))
    np.testing.assert_array_equal(INVERSE(initial, X, LABELS), X)
    assert jnp.abs(FORWARD(params, X, LABELS)[0] - X).max() > 0.1


def test_the_inverse_and_the_jacobian(params, float64):
    """Under guidance."""
    assert_bijection(MODEL, params, X.astype(jnp.float64), LABELS, 1.5)


def test_the_inverse_in_single_precision(params):
    z, _ = FORWARD(params, X, LABELS)
    np.testing.assert_allclose(INVERSE(params, z, LABELS), X, rtol=0, atol=1e-4)


def test_a_patch_is_scaled_and_shifted_by_those_before_it_and_blocks_take_turns():
    """By the Jacobians of the first block, which reads forwards, of the second, and of both.

    Within a patch the Jacobian of one block is diagonal.
    """
    model = MODEL.clone(num_blocks=2, num_layers=1, num_classes=None)
    params = moved(jax.jit(model.init)(jax.random.key(0), X[:1]), 0.3)
    jacobian = jax.jit(jax.jacfwd(lambda x, params: model.apply(params, x[None])[0][0]))

    def size(*working):
        """Of the derivatives between patches, (i, pixel, j, pixel), with the other blocks switched off."""
        on = jnp.asarray([float(block in working) for block in range(2)])
        out = jax.tree.map(lambda p: jax.vmap(jnp.multiply)(on, p), params["params"]["blocks"]["out"])
        blocks = {**params["params"]["blocks"], "out": out}
        derivative = np.abs(np.asarray(jacobian(X[0], {"params": {**params["params"], "blocks": blocks}})))
        derivative = derivative.reshape(2, 2, 3, 2, 2, 2, 3, 2)  # patch row, row in it, and columns; twice
        return derivative.transpose(0, 2, 1, 3, 4, 6, 5, 7).reshape(6, 4, 6, 4)

    first, second, both = size(0), size(1), size(0, 1)
    for i in range(6):
        for j in range(6):
            if i == j:
                for one in (first, second):
                    np.testing.assert_array_equal(one[i, :, i] > 0, np.eye(4, dtype=bool))
            else:
                assert first[i, :, j].max() > 1e-4 if j < i else first[i, :, j].max() == 0
                assert second[i, :, j].max() > 1e-4 if j > i else second[i, :, j].max() == 0
                assert both[i, :, j].max() > 1e-4


def test_guidance_extrapolates_shift_and_scale(params):
    """In one block, from shifts and logarithmic scales that are read off the flow at two images."""
    model = MODEL.clone(num_blocks=1)
    blocks = jax.tree.map(lambda p: p[:1], params["params"]["blocks"])
    one = {"params": {**params["params"], "blocks": blocks}}
    at = jax.jit(lambda x, labels, guidance: model.apply(one, x, labels, guidance=guidance))

    def last_patch(labels, guidance):
        """The scale and shift of the last patch: what is before it stays, it is 0 or 1."""
        values = []
        for value in (0.0, 1.0):
            x = X.at[:, 2:, 4:].set(value)
            values.append(np.asarray(at(x, labels, jnp.asarray(guidance))[0][:, 2:, 4:]))
        scale = values[1] - values[0]
        return -np.log(scale), -values[0] / scale

    given, null = last_patch(LABELS, 0.0), last_patch(jnp.full(4, 3), 0.0)
    for got, c, u in zip(last_patch(LABELS, 1.5), given, null, strict=True):
        np.testing.assert_allclose(got, c + 1.5 * (c - u), rtol=0, atol=1e-4)
    assert np.abs(given[1] - null[1])[:3].max() > 0.01
    unguided = jax.jit(model.apply)(one, X, LABELS)
    for got, wanted in zip(at(X, LABELS, jnp.zeros(())), unguided, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_the_density_of_the_plane_is_one(float64):
    """Two patches of one pixel under guidance: a Gaussian pulled back, integrated on a grid."""
    model = MODEL.clone(patch_size=1, num_blocks=2, num_layers=1)
    line = (np.arange(150) + 0.5) / 5 - 15
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 1, 2, 1))
    labels = jnp.full(len(grid), 1)
    params = moved(jax.jit(model.init)(jax.random.key(0), grid[:1], labels[:1]))

    @jax.jit
    def mass(x):
        z, log_det = model.apply(params, x, labels, guidance=1.0)
        density = jnp.exp(log_det - 0.5 * jnp.sum(z**2, axis=(1, 2, 3))) / (2 * np.pi)
        return density.sum(), jnp.abs(log_det).max()

    total, most = mass(grid)
    assert most > 0.1
    assert abs(total / 25 - 1) < 1e-3


@pytest.mark.parametrize(
    ("model", "x", "labels", "guidance", "error", "says"),
    [
        (MODEL, X[0], LABELS, None, ValueError, "x must have shape"),
        (MODEL, X[:, :3], LABELS, None, ValueError, "multiples of patch_size = 2, got"),
        (MODEL, X, None, None, ValueError, "labels are missing for a model of 3 classes"),
        (MODEL, X, LABELS / 2, None, TypeError, "labels must be integers"),
        (MODEL, X, LABELS, jnp.ones(4), ValueError, "guidance must have shape"),
        (MODEL.clone(num_classes=None), X, None, 1.0, ValueError, "guidance was given to a model without"),
        (MODEL.clone(num_heads=3), X, LABELS, None, ValueError, "multiple of num_heads = 3, got 8"),
    ],
)
def test_bad_input_is_refused(model, x, labels, guidance, error, says):
    with pytest.raises(error, match=says):
        jax.eval_shape(lambda key: model.init(key, x, labels, guidance=guidance), jax.random.key(0))
