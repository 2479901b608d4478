"""Denoisers of tokens: exact ones against enumeration, and what a network's becomes."""

import itertools

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import LENGTH, NAMES, V, posterior, sequences

from jaxdiff import jumps

RNG = np.random.default_rng(3)
HIDDEN = 2
PI, A, E = (
    RNG.dirichlet(np.ones(HIDDEN)),
    RNG.dirichlet(np.ones(HIDDEN), HIDDEN),
    RNG.dirichlet(np.ones(V), HIDDEN),
)


def hidden_chain():
    """The law of a hidden chain's sequences by a sum over all of its paths, (V^L,)."""
    p = np.zeros(V**LENGTH)
    for row, x in enumerate(sequences(V)):
        for path in itertools.product(range(HIDDEN), repeat=LENGTH):
            chance = PI[path[0]]
            for a, b in itertools.pairwise(path):
                chance *= A[a, b]
            p[row] += chance * np.prod(E[list(path), x])
    return p


LAWS = {
    "enumerated": (
        lambda: jumps.Enumerated(jnp.asarray(enumeration.law()).reshape((V,) * LENGTH)),
        enumeration.law,
    ),
    "hidden chain": (
        lambda: jumps.HiddenMarkov(jnp.asarray(PI), jnp.asarray(A), jnp.asarray(E), LENGTH),
        hidden_chain,
    ),
}


@pytest.mark.parametrize("t", [0.2, pytest.param(0.9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", LAWS)
def test_laws_have_exact_denoisers(kind, name, t, float64):
    law, p = LAWS[kind][0](), LAWS[kind][1]()
    process = enumeration.process(name)
    x = sequences(process.states)
    total, wanted = posterior(name, p, t)
    got = np.exp(law.denoiser(process)(jnp.asarray(x), t))
    np.testing.assert_allclose(got[total > 0], wanted[total > 0], atol=1e-12)


@pytest.mark.parametrize("kind", LAWS)
def test_laws_have_their_probabilities_and_draws(kind, float64):
    law, p = LAWS[kind][0](), LAWS[kind][1]()
    np.testing.assert_allclose(law.log_prob(jnp.asarray(sequences(V))), np.log(p), rtol=1e-12)
    n = 40_000
    x = np.asarray(law.sample(jax.random.key(0), n))
    got = np.bincount(x @ V ** np.arange(LENGTH)[::-1], minlength=V**LENGTH)
    chi_squared = ((got - n * p) ** 2 / (n * p)).sum()
    assert chi_squared < 80 + 4 * np.sqrt(160)
    np.testing.assert_array_equal(law.sample(jax.random.key(0), 3), x[:3])


def test_long_chains_hear_their_neighbours_and_no_others():
    """A token between two that are seen, in single precision, after 200 tokens of chances below one."""
    chain = jumps.markov_chain(RNG.dirichlet(np.ones(V)), RNG.dirichlet(np.ones(V), V), 300)
    process = jumps.Masking(V)
    x = chain.sample(jax.random.key(1), 4)
    seen = x.at[:, 200].set(process.mask)
    got = np.exp(chain.denoiser(process)(seen, 0.5)[:, 200])
    a = np.asarray(chain.transition, np.float64)
    wanted = a[x[:, 199]] * a[:, x[:, 201]].T
    np.testing.assert_allclose(got, wanted / wanted.sum(1, keepdims=True), rtol=1e-5)


def silent(params, x, level):
    return jnp.zeros((*x.shape, V)) + params * level[:, None, None] * jnp.arange(V)[None, None]


@pytest.mark.parametrize("name", NAMES)
def test_a_silent_network_is_exact_for_tokens_without_a_law(name, float64):
    process = enumeration.process(name)
    denoise = jumps.make_denoiser(silent, 0.0, process, shape=(2,))
    x = sequences(process.states, 2)
    total, wanted = posterior(name, np.full(V**2, 1 / V**2), 0.4, 2)
    got = np.exp(denoise(jnp.asarray(x), 0.4))
    np.testing.assert_allclose(got[total > 0], wanted[total > 0], atol=1e-13)


def test_a_network_is_told_the_share_that_has_jumped_and_seen_tokens_are_certain():
    process = jumps.Masking(V, jumps.Cosine())
    denoise = jumps.make_denoiser(silent, 1.0, process, shape=(2,))
    got = denoise(jnp.asarray([[0, V], [V, 2]]), jnp.asarray([0.25, 0.5]))
    for row, level in enumerate(np.sin(np.pi * np.asarray([0.125, 0.25]))):
        wanted = level * np.arange(V) - np.log(np.exp(level * np.arange(V)).sum())
        np.testing.assert_allclose(got[row, 1 - row], wanted, rtol=1e-5)
    np.testing.assert_array_equal(got[0, 0], [0, -np.inf, -np.inf])
    np.testing.assert_array_equal(got[1, 1], [-np.inf, -np.inf, 0])


def test_new_parameters_and_conditions_compile_nothing_anew():
    calls = []

    def predict(params, x, level, condition):
        calls.append(None)
        return params * condition[:, None, None] * jnp.ones((*x.shape, V)) * jnp.arange(V)[None, None]

    @jax.jit
    def ask(denoise, x):
        return denoise(x, 0.5)

    x = jnp.full((2, 3), V)
    denoise = jumps.make_denoiser(predict, jnp.ones(()), jumps.Masking(V), shape=(3,), null_condition=0.0)
    first = ask(denoise.given(jnp.asarray([0.0, 1.0])), x)
    other = jumps.make_denoiser(predict, 2 * jnp.ones(()), jumps.Masking(V), shape=(3,), null_condition=0.0)
    second = ask(other.given(jnp.asarray([0.5, 0.0])), x)
    assert len(calls) == 1
    np.testing.assert_allclose(first[1], second[0], rtol=1e-6)
    np.testing.assert_allclose(first[0], -np.log(V), rtol=1e-6)


def test_times_that_it_does_not_know_are_answered_with_nan_where_they_are_traced():
    denoise = jumps.make_denoiser(silent, 0.0, jumps.Uniform(V), shape=(2,), t_min=0.1)
    x = jnp.zeros((2, 2), int)
    got = jax.jit(denoise)(x, jnp.asarray([0.05, 0.2]))
    assert np.isnan(got[0]).all()
    assert np.isfinite(got[1]).all()
