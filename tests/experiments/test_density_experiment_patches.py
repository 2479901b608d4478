"""Patches: what the autoregressive model is shown, bits from nats, and the order of pixels in patches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import image_problems
from experiments.density import patches

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def problem():
    return image_problems.patches()


def test_before_learning_the_tokens_have_the_density_of_the_gaussian(problem):
    """Networks that answer zero leave N(0, I) of y, whose log-density less log det C is that of x."""
    whitened, log_volume = patches.whitening(problem)
    x = problem.encode(jax.random.key(1), problem.test[:20])
    y = np.asarray(whitened(x), np.float64).reshape(20, 64)
    nats = -0.5 * (y**2).sum(1) - 32 * math.log(2 * math.pi) - log_volume
    np.testing.assert_allclose(nats, problem.law.log_prob(x), atol=0.05)


def test_a_token_comes_of_none_after_it(problem):
    whitened, _ = patches.whitening(problem)
    x = problem.encode(jax.random.key(1), problem.test[:1])
    moved = whitened(x.at[0, 8 * 2 + 5].add(1.0)) - whitened(x)  # row 2, column 5: in token 4 + 2
    changed = np.abs(np.asarray(moved)[0]).max(1) > 1e-3
    assert changed[6]
    assert not changed[:6].any()


def test_pixels_of_a_patch_are_together_and_are_put_back():
    """A mixer whose answers are its tokens' own first feature, by a network of one block."""
    image = jnp.arange(256.0).reshape(1, 256, 1)
    tokens = patches._tokens(image, 8, 2)
    assert tokens[0, 9, :, 0].tolist() == [34.0, 35.0, 50.0, 51.0]  # rows 2 and 3, columns 2 and 3
    network = patches._Patched(16, 8, 1)
    features = jax.random.normal(jax.random.key(0), (1, 256, 2))
    params = network.init(jax.random.key(1), features, jnp.zeros(1))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(2), leaf.shape), params)
    out = params["params"]["Mixer_0"]["out"]
    params["params"]["Mixer_0"]["out"] = {"kernel": 0 * out["kernel"], "bias": jnp.arange(4.0)}
    got = np.asarray(network.apply(params, features, jnp.zeros(1))).reshape(16, 16)
    np.testing.assert_array_equal(got, np.tile([[0.0, 1.0], [2.0, 3.0]], (8, 8)))


def test_bits_are_of_pixels(problem):
    """A density of one on (pixels + u) / 256 is eight bits."""
    nats = np.full(3, 64 * math.log(problem.unit)) + np.array([-1.0, 0.0, 1.0])
    row = patches._row(problem, 8, "uniform", nats, 0.0)
    assert row["bits"] == pytest.approx(8)
    assert row["standard_error"] == pytest.approx(3**-0.5 / 64 / math.log(2))
