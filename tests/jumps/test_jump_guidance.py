"""Guidance where what it samples is known: one token, and independent ones."""

import enumeration
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import V, posterior, sequences
from oracles import few_of

from jaxdiff import jumps

RNG = np.random.default_rng(8)
GIVEN, FREE = RNG.dirichlet(np.ones(V)), RNG.dirichlet(np.ones(V))


@pytest.mark.parametrize("name", few_of(["masking", "uniform"], ("uniform",)))
def test_guidance_of_one_token_is_the_denoiser_of_the_product(name, float64):
    process = enumeration.process(name)
    given, free = (jumps.Enumerated(jnp.asarray(p)).denoiser(process) for p in (GIVEN, FREE))
    product = GIVEN**2.5 * FREE**-1.5
    x = sequences(process.states, 1)
    _, wanted = posterior(name, product / product.sum(), 0.4, 1)
    got = jumps.guided(given, 2.5, unconditional=free)(jnp.asarray(x), 0.4)
    np.testing.assert_allclose(np.exp(got), wanted, atol=1e-12)


def test_guidance_hears_conditions_and_the_null_condition():
    def predict(params, x, level, label):
        return params[label][:, None]

    table = jnp.log(jnp.asarray([GIVEN, FREE]))
    denoise = jumps.make_denoiser(predict, table, jumps.Masking(V), shape=(1,), null_condition=1)
    x = jnp.full((2, 1), V)
    got = np.exp(jumps.guided(denoise, 2.0).given(jnp.asarray([0, 1]))(x, 0.5))[:, 0]
    wanted = GIVEN**2 / FREE
    np.testing.assert_allclose(got[0], wanted / wanted.sum(), rtol=1e-5)
    np.testing.assert_allclose(got[1], FREE, rtol=1e-5)


def test_guidance_keeps_what_cannot_be_out():
    exact = [
        jumps.Enumerated(jnp.asarray(p)).denoiser(jumps.Masking(V))
        for p in ([0.5, 0.5, 0.0], [0.2, 0.0, 0.8])
    ]
    got = np.exp(jumps.guided(exact[0], 2.0, unconditional=exact[1])(jnp.full((1, 1), V), 0.5))[0, 0]
    assert got[2] == 0
    assert np.isfinite(got).all()


@pytest.mark.parametrize("name", few_of(["masking", "uniform"], ("uniform",)))
def test_a_reward_of_independent_tokens_is_a_tilt(name, float64):
    process, worth = enumeration.process(name), jnp.asarray([[0.3, -1.0, 0.5], [1.0, 0.0, -0.4]])
    p = np.outer(GIVEN, FREE)
    denoise = jumps.Enumerated(jnp.asarray(p)).denoiser(process)
    tilted = p * np.exp(2 * (np.asarray(worth)[0][:, None] + np.asarray(worth)[1][None]))
    x = sequences(process.states, 2)
    total, wanted = posterior(name, (tilted / tilted.sum()).reshape(-1), 0.4, 2)
    got = jumps.rewarded(denoise, lambda chances: (chances * worth[None]).sum((1, 2)), 2.0)(
        jnp.asarray(x), 0.4
    )
    np.testing.assert_allclose(np.exp(got)[total > 0], wanted[total > 0], atol=1e-12)
