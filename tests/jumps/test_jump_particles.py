"""Particles of tokens against sums over all sequences."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import V, law, sequences
from oracles import few_of

from jaxdiff import jumps

P = law(2, length=2)


def exact(name):
    return jumps.Enumerated(jnp.asarray(P, jnp.float32).reshape(V, V)).denoiser(enumeration.process(name))


def left_over(x):
    got = np.bincount(np.asarray(x) @ [V, 1], minlength=V**2) / len(x)
    return 0.5 * np.abs(got - P).sum()


@pytest.mark.parametrize("name", few_of(["masking", "uniform"], ("masking",)))
def test_steering_leads_to_the_tilted_law(name):
    """Its evidence, and how often the two tokens are alike, which nothing factorizes."""
    reward = lambda data: jnp.where(data[:, 0] == data[:, 1], 1.5, -0.5) + 0.5 * data[:, 0]  # noqa: E731
    got = jumps.steered(jax.random.key(0), exact(name), reward, 1000, num_steps=32)
    x = sequences(V, 2)
    tilted = P * np.exp(np.asarray(reward(jnp.asarray(x))))
    alike = got.expectation(lambda data: (data[:, 0] == data[:, 1]).astype(float))
    wanted = tilted[x[:, 0] == x[:, 1]].sum() / tilted.sum()
    # The chain's own steps leave .005 of total variation, by its matrices.
    assert abs(alike.value - wanted) < 4 * alike.standard_error + 0.01
    assert abs(got.log_evidence.value - np.log(tilted.sum())) < 4 * got.log_evidence.standard_error + 0.02
    assert 0 < got.log_evidence.standard_error < 0.03
    plain = P[x[:, 0] == x[:, 1]].sum()
    assert abs(wanted - plain) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", few_of(["masking", "uniform"], ("masking",)))
def test_resampling_takes_the_error_of_steps(name):
    """Two steps, of which one draws its data together: as many draws of the law itself leave .01."""
    table = jnp.log(jnp.asarray(P, jnp.float32)).reshape(V, V)
    log_prob = lambda data: table[data[:, 0], data[:, 1]]  # noqa: E731
    off = {}
    for k in (1, 64):
        sampler = jumps.Resampled(log_prob, k)
        # Down to where a last step of one call changes little.
        times = jnp.asarray([1.0, 0.02, 0.0])
        x = jumps.sample(jax.random.key(0), exact(name), 20_000, sampler=sampler, times=times)
        off[k] = left_over(x)
    assert off[1] > 0.08
    assert off[64] < 0.02
