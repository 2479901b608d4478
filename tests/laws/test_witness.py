"""The witness of two laws: against NumPy, against Gaussians in closed form, and what guidance by it does."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd


def test_its_means_differ_by_the_distance_of_the_two_sets(float64):
    """MMD^2 with each point beside itself, by loops in NumPy; images are as vectors, and h is mmd's."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 2, 2)), 0.5 + rng.standard_normal((5, 2, 2))

    def mean(a, b, h):
        return np.mean([[np.exp(-((p - q) ** 2).sum() / (2 * h**2)) for q in b] for p in a])

    for bandwidth in (0.7, None):
        reward = jd.witness(jnp.asarray(x), jnp.asarray(y), bandwidth=bandwidth)
        points = np.concatenate([x, y]).reshape(12, 4)
        apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
        h = bandwidth or np.median(apart[np.triu_indices(12, 1)])
        got = reward(jnp.asarray(x)).mean() - reward(jnp.asarray(y)).mean()
        np.testing.assert_allclose(got, mean(x, x, h) + mean(y, y, h) - 2 * mean(x, y, h), rtol=1e-10)


def test_of_gaussians_it_is_their_closed_form():
    """E k(y, N(m, s^2)) = (h^2 / (h^2 + s^2))^(1/2) exp(-(y - m)^2 / 2 (h^2 + s^2)) in one dimension."""
    n, h, y = 100_000, 0.8, np.linspace(-3, 3, 7)
    keys = jax.random.split(jax.random.key(0))
    reference, generated = 1.0 + 0.5 * jax.random.normal(keys[0], (n, 1)), jax.random.normal(keys[1], (n, 1))
    got = jd.witness(reference, generated, bandwidth=h)(jnp.asarray(y[:, None], jnp.float32))

    def mean(m, s):
        return (h**2 / (h**2 + s**2)) ** 0.5 * np.exp(-((y - m) ** 2) / (2 * (h**2 + s**2)))

    np.testing.assert_allclose(got, mean(1.0, 0.5) - mean(0.0, 1.0), atol=4 * (2 * 0.25 / n) ** 0.5)


def test_a_hundred_examples_move_the_weights_of_modes():
    """Two modes of equal weight, and examples of which nine in ten are of the right one.

    The tilt p e^(c w) is integrated on a grid; guidance, which is not exact, goes half of the way to it at least.
    """
    model = jd.GaussianMixture(jnp.full(2, 0.5), jnp.array([[-2.0], [2.0]]), jnp.full(2, 0.1))
    wanted = jd.GaussianMixture(jnp.array([0.1, 0.9]), jnp.array([[-2.0], [2.0]]), jnp.full(2, 0.1))
    keys = jax.random.split(jax.random.key(1), 5)
    reference, generated = wanted.sample(keys[0], 100), model.sample(keys[1], 300)
    reward, denoise = jd.witness(reference, generated), model.denoiser(jd.Karras())
    scale = 1.5

    def share(x):
        return float((x[:, 0] > 0).mean())

    grid = jnp.linspace(-6, 6, 4001)[:, None]
    tilt = np.exp(np.asarray(model.log_prob(grid) + scale * reward(grid)))
    right = float(tilt[grid[:, 0] > 0].sum() / tilt.sum())
    assert 0.6 < right < 0.95  # what the scale asks for
    plain, guided = (
        jd.sample(keys[2], d, 800, num_steps=20) for d in (denoise, jd.rewarded(denoise, reward, scale))
    )
    assert abs(share(plain) - 0.5) < 4 * (0.25 / 800) ** 0.5
    assert share(guided) > share(plain) + 0.5 * (right - 0.5)
    before, after = (float(jd.metrics.mmd(x, reference).value) for x in (plain, guided))
    assert after < 0.6 * before
