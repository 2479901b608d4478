"""The masked autoregressive model: who sees whom, and the chain rule of its densities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.models import MaskedAutoregressive
from jaxdiff.noising.schedules import Cosine
from jaxdiff.typing import Denoised

N, D, OUTPUTS = 5, 2, 3
MODEL = MaskedAutoregressive(
    OUTPUTS, width=16, num_blocks=2, num_heads=2, denoiser_width=16, denoiser_blocks=1, dropout=0.2
)
ANSWER = jax.jit(MODEL.apply)
CONDITION = jax.jit(functools.partial(MODEL.apply, method="condition"))
DENOISE = jax.jit(functools.partial(MODEL.apply, method="denoise"))
RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.standard_normal((3, N, D)), jnp.float32)
ORDER = jnp.asarray([[0, 1, 2, 3, 4], [3, 0, 4, 1, 2], [4, 3, 2, 1, 0]])
X, T = jnp.asarray(RNG.standard_normal((3, N, D)), jnp.float32), jnp.array([-1.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def initial():
    return jax.jit(MODEL.init)(jax.random.key(0), TOKENS, ORDER, X, T)


@pytest.fixture(scope="module")
def params(initial):
    """With a last layer that is not zero."""
    out = initial["params"]["denoiser"]["out"]
    drawn = jnp.asarray(RNG.standard_normal(out["kernel"].shape) / 4, jnp.float32)
    denoiser = {**initial["params"]["denoiser"], "out": {**out, "kernel": drawn}}
    return {"params": {**initial["params"], "denoiser": denoiser}}


def test_it_starts_at_zero_and_hears_its_inputs(initial, params):
    assert (ANSWER(initial, TOKENS, ORDER, X, T) == 0).all()
    base = ANSWER(params, TOKENS, ORDER, X, T)
    assert base.shape == (3, N, OUTPUTS)
    for moved in (ANSWER(params, TOKENS, ORDER, X + 0.3, T), ANSWER(params, TOKENS, ORDER, X, T + 0.25)):
        assert (jnp.abs(moved - base).mean(-1) > 1e-3).all()


def test_a_token_depends_on_those_before_it_in_the_order_and_on_no_other(params):
    """By the Jacobian of all answers in all tokens."""
    jacobian = jax.jit(jax.jacrev(lambda tokens: MODEL.apply(params, tokens, ORDER, X, T).sum(-1)))(TOKENS)
    size = np.abs(np.asarray(jacobian)).max(-1)  # (row, token i, row, token j)
    for row in range(3):
        place = {int(token): at for at, token in enumerate(ORDER[row])}
        for i in range(N):
            for j in range(N):
                seen = size[row, i, row, j]
                assert seen > 1e-4 if place[j] < place[i] else seen == 0, (row, i, j)
    between = size * (1 - np.eye(3))[:, None, :, None]
    assert (between == 0).all()


def test_the_parts_give_what_the_whole_gives(params):
    """One token of every row, each denoised at a level of its own."""
    whole, z = ANSWER(params, TOKENS, ORDER, X, T), CONDITION(params, TOKENS, ORDER)
    for i in (0, 3):
        part = DENOISE(params, z[:, i], X[:, i], T)
        np.testing.assert_allclose(part, whole[:, i], rtol=0, atol=1e-5)


def test_the_order_itself_is_heard(params):
    """The same tokens before, but another one to tell of."""
    rows = jnp.repeat(TOKENS[:1], 3, axis=0)
    z = CONDITION(params, rows, jnp.asarray([[0, 1, 2, 3, 4], [0, 1, 3, 2, 4], [4, 3, 2, 1, 0]]))
    assert jnp.abs(z[0, 2] - z[1, 3]).max() > 0.05
    np.testing.assert_allclose(z[0, :2], z[1, :2], rtol=0, atol=1e-6)


def test_dropout_is_a_function_of_the_key(params):
    @jax.jit
    def dropped(key):
        return MODEL.apply(params, TOKENS, ORDER, X, T, train=True, rngs={"dropout": key})

    first = dropped(jax.random.key(1))
    np.testing.assert_array_equal(first, dropped(jax.random.key(1)))
    for other in (dropped(jax.random.key(2)), ANSWER(params, TOKENS, ORDER, X, T)):
        assert jnp.abs(first - other).max() > 1e-3


def test_one_formula_gives_all_terms_of_the_chain_rule():
    """Exact conditional denoisers of a Gaussian: the sum over tokens is the joint log-density, within 4 errors.

    The joint law is used in closed form only, and the denoisers are those of each token given clean ones.
    """
    schedule, size, rows = Cosine(), 4, 6
    root = RNG.standard_normal((size, size)) / 2
    covariance = root @ root.T + 0.2 * np.eye(size)
    x = np.linalg.cholesky(covariance) @ RNG.standard_normal((size, rows))
    means, variances = np.zeros((size, rows)), np.zeros(size)
    for i in range(size):
        regression = np.linalg.solve(covariance[:i, :i], covariance[:i, i])
        means[i], variances[i] = regression @ x[:i], covariance[i, i] - regression @ covariance[:i, i]

    def one(key, mean, x):
        def denoise(x_t, t):
            def row(x_t, t):
                alpha, sigma = schedule.alpha(t), schedule.sigma(t)
                residual = (x_t - alpha * mean) / (alpha**2 * jnp.asarray(variances, jnp.float32) + sigma**2)
                return Denoised(
                    mean + alpha * jnp.asarray(variances, jnp.float32) * residual, sigma * residual
                )

            return jax.vmap(row)(x_t, t)

        known = as_denoiser(denoise, schedule, shape=x.shape)
        value, error = density_formula(key, known, x[None], evaluations=Evaluations(512))
        return value[0], error[0]

    inputs = (jnp.asarray(part.T, jnp.float32) for part in (means, x))
    value, error = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), rows), *inputs)
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    exact = -0.5 * (log_det + np.sum(x * np.linalg.solve(covariance, x), axis=0))
    assert (error < 0.2).all()
    assert (np.abs(value - exact) < 4 * error + 1e-3).all(), (value, exact, error)


@pytest.mark.parametrize(
    ("model", "tokens", "order", "x", "t", "error", "says"),
    [
        (MODEL, TOKENS[0], ORDER, X, T, ValueError, "tokens must have shape"),
        (MODEL, TOKENS, ORDER[0], X, T, ValueError, "order must have shape"),
        (MODEL, TOKENS, ORDER / 2, X, T, TypeError, "order must"),
        (MODEL, TOKENS, ORDER, X[:, :3], T, ValueError, "x must have shape"),
        (MODEL, TOKENS, ORDER, X, T[:2], ValueError, "t must have shape"),
        (MODEL.clone(num_heads=3), TOKENS, ORDER, X, T, ValueError, "multiple of num_heads = 3, got 16"),
    ],
)
def test_bad_input_is_refused(model, tokens, order, x, t, error, says):
    with pytest.raises(error, match=says):
        jax.eval_shape(model.init, jax.random.key(0), tokens, order, x, t)
