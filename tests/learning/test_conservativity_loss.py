"""The penalty on rotations against dense Jacobians, and what training with it leaves of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.learning.conservativity_loss import conservativity_loss
from jaxdiff.noising.schedules import VariancePreserving
from jaxdiff.typing import Denoised

KEY = jax.random.key(0)
VP = VariancePreserving()
T = jnp.asarray([0.2, 0.7])
X = jax.random.normal(jax.random.key(5), (2, 8))


def model(params):
    def network(params, x, t):
        return jnp.tanh(x @ params["first"] + t[:, None]) @ params["second"]

    return make_denoiser(network, params, VP, shape=(8,), scale=1.0)


def dense(denoise, variances):
    """sum_ij h_ij A_ij^2 at X."""

    def one(x, t):
        jacobian = jax.jacfwd(lambda x: denoise(x[None], t[None]).noise[0])(x)
        c = VP.alpha(t) ** 2 * variances + VP.sigma(t) ** 2
        return jnp.sum(2 * c[:, None] * c[None] / (c[:, None] + c[None]) * ((jacobian - jacobian.T) / 2) ** 2)

    return jax.vmap(one)(X, T)


@pytest.mark.parametrize("variances", [None, jnp.linspace(0.1, 3.0, 8)])
def test_value_and_gradient_are_those_of_the_dense_jacobian(variances):
    first, second = jax.random.split(KEY)
    params = {"first": jax.random.normal(first, (8, 8)), "second": jax.random.normal(second, (8, 8)) / 3}

    x, t = jnp.tile(X, (400, 1)), jnp.tile(T, 400)

    def by_probes(params):
        denoise = model(params)
        rows = conservativity_loss(KEY, denoise, x, t, data_covariance=variances, num_probes=8)
        return rows.reshape(400, 2).mean(0), rows.reshape(400, 2).std(0) / 20

    def by_columns(params):
        return dense(model(params), jnp.ones(8) if variances is None else variances)

    @jax.jit
    def with_slope(params):
        got, pull, errors = jax.vjp(by_probes, params, has_aux=True)
        wanted, back = jax.vjp(by_columns, params)
        return got, errors, wanted, pull(jnp.ones_like(got))[0], back(jnp.ones_like(wanted))[0]

    got, errors, wanted, slope, exact = with_slope(params)
    assert (np.abs(got - wanted) < 4 * errors).all()
    assert (errors < 0.05 * wanted).all()
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, atol=0.1 * np.abs(b).max() + 1e-12)


def test_gradients_are_free_and_turns_are_not():
    def answer(strength):
        def one(x):
            return strength * jnp.concatenate([-x[4:], x[:4]]) + jnp.tanh(x)

        return as_denoiser(lambda x, t: Denoised(x, jax.vmap(one)(x)), VP, shape=(8,), scale=2.0)

    assert float(conservativity_loss(KEY, answer(0.0), X, T).max()) < 1e-10
    variance = 4 * jax.vmap(VP.alpha)(T) ** 2 + jax.vmap(VP.sigma)(T) ** 2
    np.testing.assert_allclose(conservativity_loss(KEY, answer(0.5), X, T), 0.25 * 8 * variance, rtol=1e-4)
    one = conservativity_loss(KEY, answer(0.5), X, jnp.asarray(0.2))
    np.testing.assert_allclose(one, 2 * (4 * VP.alpha(0.2) ** 2 + VP.sigma(0.2) ** 2), rtol=1e-4)


def test_in_training_it_takes_the_turn_out_and_leaves_the_rest():
    """A linear network of free matrix: descent on the penalty alone ends at its symmetric part."""
    law = Gaussian(jnp.zeros(8), 1.0)
    x = law.sample(KEY, 64)
    start = jax.random.normal(jax.random.key(2), (8, 8))

    def loss(matrix, key):
        denoise = as_denoiser(lambda x, t: Denoised(x, x @ matrix.T), VP, shape=(8,), scale=1.0)
        return conservativity_loss(key, denoise, x, jnp.asarray(0.5)).mean()

    @jax.jit
    def descend(matrix):
        return jax.lax.fori_loop(
            0, 60, lambda i, m: m - 0.3 * jax.grad(loss)(m, jax.random.fold_in(KEY, i)), matrix
        )

    np.testing.assert_allclose(descend(start), (start + start.T) / 2, atol=1e-3)
