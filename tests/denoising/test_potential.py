"""Predictors that are gradients: the score of a law, symmetric Jacobians, and quantized pairs in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoising import prediction, quantized
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.denoising.potential import conservative
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.models import ResidualMLP
from jaxdiff.noising.schedules import Karras, VariancePreserving
from tests.denoising.test_quantized import EDGE, EXACT, GRID, MASS, RHOS, WEIGHTS, answer

VP = VariancePreserving()


def test_the_log_density_of_a_law_makes_the_denoiser_of_the_law(float64):
    law = GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[1.0, 0.0], [-1.0, 0.5]]), jnp.array([0.1, 0.4]))
    log_prob = jax.vmap(lambda x, t: law.perturbed(VP, t).log_prob(x[None])[0])
    predict = conservative(lambda params, x, t: params * log_prob(x, t))
    denoise = make_denoiser(predict, 1.0, VP, shape=(2,), prediction=prediction.score)
    x = law.sample(jax.random.key(0), 20)
    for t in (0.05, 0.5):
        np.testing.assert_allclose(denoise(x, t).noise, law.denoiser(VP)(x, t).noise, rtol=1e-9)


@pytest.mark.parametrize("reference", [None, Gaussian(jnp.arange(3.0), jnp.array([0.1, 1.0, 2.0]))])
def test_the_noise_is_a_gradient_at_every_time_and_that_of_the_network_is_not(reference, float64):
    network = ResidualMLP(width=8, num_blocks=1)
    x, key = jax.random.normal(jax.random.key(0), (3,)), jax.random.key(1)
    params = network.init(key, x[None], jnp.zeros(1))
    params = jax.tree.map(lambda leaf: leaf + 0.5 * jax.random.normal(key, leaf.shape), params)

    def potential(params, x, t):
        return jnp.sum(x * network.apply(params, x, t), axis=1)

    turns = []
    for predict in (conservative(potential), network.apply):
        denoise = make_denoiser(predict, params, Karras(), shape=(3,), reference=reference)

        def noise(x, t, denoise=denoise):
            return denoise(x[None], t).noise[0]

        found = jax.jit(jax.vmap(jax.jacfwd(noise), (None, 0)))(x, jnp.array([0.01, 0.7, 20.0]))
        turns.append(np.abs(found - found.swapaxes(1, 2)).max((1, 2)) / np.abs(found).max((1, 2)))
    assert (turns[0] < 1e-12).all()
    assert (turns[1] > 1e-3).all()


def test_independent_levels_are_those_of_the_predictor(float64):
    """The integral of each entry alone where masses can be seen, and out to where they underflow."""
    z, rho = np.asarray(GRID).T
    predict = conservative(quantized.potential(answer, jnp.log(jnp.asarray(WEIGHTS))))
    got = predict(jnp.zeros_like(jnp.asarray(WEIGHTS)), jnp.stack([z, z], 1), jnp.log(jnp.asarray(rho)) / 4)
    seen = MASS > 1e-4
    np.testing.assert_allclose(got[seen], EXACT[seen], rtol=1e-7, atol=1e-7)
    assert (np.abs(got - EXACT) * np.abs(EDGE) < 2)[~seen].all()


@pytest.mark.parametrize("rho", RHOS[1:])
def test_the_weights_that_change_with_z_count_too(rho, float64):
    """Two entries of one law: log p(z_1) + log p(z_2 | z_1), whose gradient is the posterior mean of both."""
    joint = np.random.default_rng(0).dirichlet(np.ones(9)).reshape(3, 3)
    z = jnp.asarray([[0.2, 0.7], [0.34, 0.5], [0.9, 0.01]])
    t = jnp.log(jnp.full(3, rho)) / 4

    def cells(z):
        edges = (jnp.arange(4.0).reshape(*[1] * z.ndim, 4) / 3 - z[..., None]) / rho
        return jnp.diff(jax.scipy.special.ndtr(edges)), jnp.diff(jax.scipy.stats.norm.pdf(edges))

    def network(own, features, t):
        first = cells(own[:, 0])[0]
        second = jnp.log(first @ joint)
        return jnp.stack([jnp.broadcast_to(jnp.log(joint.sum(1))[None], second.shape), second], axis=1)

    potential = quantized.potential(network, jnp.zeros((2, 3)))
    got = jax.grad(lambda z: potential(z, z, t).sum())(z)
    mass, slope = cells(z)
    parts = [slope[:, 0, :, None] * mass[:, 1, None], mass[:, 0, :, None] * slope[:, 1, None]]
    total = jnp.sum(joint[None] * mass[:, 0, :, None] * mass[:, 1, None], axis=(1, 2))
    exact = jnp.stack([jnp.sum(joint[None] * part, axis=(1, 2)) / total for part in parts], axis=1)
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-9)


def test_far_outside_the_nearest_end_is_all_there_is():
    """In single precision, also where exp(e^2 / 2) and the masses leave its range."""
    predict = conservative(quantized.potential(answer, jnp.log(jnp.asarray(WEIGHTS, jnp.float32))))
    e = jnp.array([8.0, 11.9, 12.1, 14.0, 40.0, 1e4])
    z = 1 + 0.1 * jnp.stack([e, e], 1)
    got = predict(jnp.zeros(WEIGHTS.shape), z, jnp.log(jnp.full(6, 0.1)) / 4)
    assert (jnp.abs(got - e[:, None]) * e[:, None] < 2 + 1e-5 * e[:, None] ** 2).all()
