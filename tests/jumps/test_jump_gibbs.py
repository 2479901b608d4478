"""Particle Gibbs with two particles leaves the tilted law of the chain as it is, by its matrices."""

import itertools

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import V, law, sequences

from jaxdiff import jumps

P, STEPS = law(2, length=2), 3


def reward(data):
    return jnp.where(data[:, 0] == data[:, 1], 1.2, -0.3) + 0.4 * data[:, 1]


def chain_law(denoise):
    """Of the data of the ancestral chain, whose steps are few and wrong."""
    x = sequences(V, 2)
    state = np.full(V**2, V**-2)
    times = jumps.grid(denoise.schedule, STEPS)
    for t, s in itertools.pairwise(times):
        chances = np.asarray(jumps.Ancestral().chances(denoise, jnp.asarray(x), t, s), np.float64)
        state = state @ (chances[:, 0][:, x[:, 0]] * chances[:, 1][:, x[:, 1]])
    return state / state.sum()


@pytest.mark.slow
def test_two_particles_leave_the_tilted_law_as_it_is_and_lead_to_it():
    denoise = jumps.Enumerated(jnp.asarray(P, jnp.float32).reshape(V, V)).denoiser(
        enumeration.process("uniform")
    )
    plain = chain_law(denoise)
    tilted = plain * np.exp(np.asarray(reward(jnp.asarray(sequences(V, 2)))))
    tilted /= tilted.sum()

    def off(paths):
        got = np.bincount(np.asarray(paths[:, -1]) @ [V, 1], minlength=V**2) / len(paths)
        return len(paths) * ((got - tilted) ** 2 / tilted).sum()

    paths = jumps.draw_paths(jax.random.key(0), denoise, 30_000, num_steps=STEPS)
    # Exact draws, by rejection.
    chance = np.exp(np.asarray(reward(paths[:, -1])) - 2.0)
    exact = paths[np.random.default_rng(0).uniform(size=len(paths)) < chance][:5000]
    assert len(exact) == 5000
    assert off(exact) < 24  # of 8 degrees of freedom, four standard deviations above
    after = jumps.particle_gibbs(jax.random.key(1), denoise, reward, exact)
    assert off(after) < 24
    assert (after != exact).any((1, 2)).mean() > 0.1
    other, before = paths[:5000], off(paths[:5000])
    for seed in range(40):
        other = jumps.particle_gibbs(jax.random.key(seed + 2), denoise, reward, other)
    assert before > 500
    assert off(other) < 24
