"""Levels of a diffusion loss: what they draw, that they all have one mean, and where the gradient's noise is."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density import loss_levels
from experiments.density.loss_levels import PARTS
from jaxdiff.noising.schedules import Cosine

ENDS = {"t_min": 0.017, "t_max": 0.97}
U = (jnp.arange(4000) + 0.5) / 4000


def levels_of(t):
    """Log-SNR under the cosine schedule, written out."""
    return -2 * np.log(np.tan(np.pi / 2 * np.asarray(t, np.float64)))


def times_of(level):
    return np.arctan(np.exp(-level / 2)) * 2 / np.pi


ENDS_OF_LEVELS = float(levels_of(ENDS["t_min"])), float(levels_of(ENDS["t_max"]))


def test_uniform_levels_are_times_uniform():
    t, weight = loss_levels.drawn(U, Cosine(), loss_levels.uniform(Cosine(), **ENDS), **ENDS)
    np.testing.assert_allclose(weight, 1, rtol=1e-5)
    wanted = ENDS["t_min"] + U * (ENDS["t_max"] - ENDS["t_min"])
    assert np.abs(np.asarray(t) - wanted).max() < 0.03  # within a part it is log-SNR that is uniform
    parts = times_of(np.linspace(*ENDS_OF_LEVELS, PARTS + 1))
    shares = np.histogram(t, parts)[0] / len(t)
    np.testing.assert_allclose(shares, np.diff(parts) / (ENDS["t_max"] - ENDS["t_min"]), atol=2e-3)


def test_any_density_has_the_mean_of_its_weights():
    """int of a smooth function over log-SNR, weighted on the way to the formula's."""
    noise = jnp.exp(jnp.sin(jnp.arange(PARTS) * 1.7))
    uniform = loss_levels.uniform(Cosine(), **ENDS)

    def mean(levels):
        t, weight = loss_levels.drawn(U, Cosine(), levels, **ENDS)
        return float(np.mean(np.asarray(weight) * np.cos(levels_of(t) / 4)))

    high, low = ENDS_OF_LEVELS
    exact = 4 * (np.sin(high / 4) - np.sin(low / 4)) / (high - low)
    for levels in (
        loss_levels.formula(),
        loss_levels.matched(jnp.ones(PARTS), noise),
        loss_levels.matched(loss_levels.between(uniform, 1.0), noise),
    ):
        np.testing.assert_allclose(mean(levels), exact, atol=2e-3)
    flat = loss_levels.matched(loss_levels.between(uniform, 0.0), noise)
    np.testing.assert_allclose(mean(flat), mean(uniform), atol=2e-3)
    assert abs(mean(uniform) - exact) > 0.05


def test_the_noise_of_a_gradient_is_measured_at_each_part():
    """A loss whose gradient is normal with a deviation that is known from the level."""

    def loss(params, key, levels):
        u_key, key = jax.random.split(key)
        t, weight = loss_levels.drawn(jax.random.uniform(u_key, (8,)), Cosine(), levels, **ENDS)
        return jnp.mean(weight * (1 + 2 * t)) * (params @ (5 + jax.random.normal(key, (2,))))

    got = loss_levels.gradient_noise(jax.random.key(0), loss, jnp.zeros(2), num_batches=800)
    edges = np.linspace(*ENDS_OF_LEVELS, PARTS + 1)
    middles = times_of((edges[1:] + edges[:-1]) / 2)
    np.testing.assert_allclose(got, 2**0.5 * (1 + 2 * middles), rtol=0.1)


def test_the_noise_of_levels_is_that_of_their_draws_and_least_where_it_is_matched():
    """The deviation of w / p times a normal of the level's deviation, over draws of the level."""
    rng, noise = np.random.default_rng(0), jnp.exp(jnp.sin(jnp.arange(PARTS) * 1.7))
    weight = loss_levels.between(loss_levels.uniform(Cosine(), **ENDS), 0.5)
    matched = loss_levels.matched(weight, noise)
    for levels in (matched, loss_levels.Levels(jnp.ones(PARTS), weight)):
        density = np.asarray(levels.density, np.float64)
        parts = rng.choice(PARTS, 200_000, p=density / density.sum())
        drawn = np.asarray(levels.weight / levels.density * noise)[parts] * rng.standard_normal(200_000)
        np.testing.assert_allclose(loss_levels.noise_of(levels, noise), drawn.std(), rtol=0.02)
    assert loss_levels.noise_of(matched, noise) < loss_levels.noise_of(levels, noise)
