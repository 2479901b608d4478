import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import theory
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import OrnsteinUhlenbeck
from jaxdiff.theory import risk


def test_the_minimizer_is_the_truth_once_there_are_enough_paths():
    """Nine Gaussians; the risks of the first m paths are the means that NumPy finds."""
    schedule, times = OrnsteinUhlenbeck(), jnp.asarray([0.1, 0.3, 0.8])
    weights, sizes = jnp.asarray([0.1, 0.2, 0.5]), jnp.asarray([2, 300, 4000])
    means = 0.3 * jnp.stack(jnp.meshgrid(*2 * [jnp.arange(-1.0, 2.0)]), -1).reshape(-1, 2)

    @jax.jit
    @jax.vmap
    def run(key):
        data_key, key = jax.random.split(key)
        data = Gaussian(means[4], 0.5).sample(data_key, 4000)
        path = theory.forward_path(key, schedule, data, times)
        family = lambda mean: Gaussian(mean, 0.5).denoiser(schedule)  # noqa: E731
        best, risks = theory.minimize_risk(family, means, data, path, times, weights, sizes=sizes)
        return data, path, best, risks

    data, path, best, risks = jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(3), 8)))
    means = np.asarray(means)
    assert (best[:, 2] == 4).all()
    assert (best[:, 0] != 4).any()
    for i, j, m in ((0, 1, 1), (3, 8, 2)):
        wanted = 0.0
        for t, g, x in zip(times, weights, np.asarray(path[i], np.float64), strict=True):
            alpha, variance = np.exp(-t), 1 - np.exp(-2 * t)
            score = -(x - alpha * means[j]) / (alpha**2 * 0.5 + variance)
            wanted += g * ((score + (x - alpha * data[i]) / variance)[: sizes[m]] ** 2).sum(1).mean()
        assert risks[i, m, j] == pytest.approx(float(wanted), rel=1e-4)


def family(mean):
    return Gaussian(mean, 0.5).denoiser(OrnsteinUhlenbeck())


def test_a_second_call_compiles_nothing():
    def call(seed):
        data, path = jnp.full((4, 2), 0.1 * seed), jnp.full((2, 4, 2), 0.2 * seed)
        given = data, path, jnp.asarray([0.1, 0.5]) * seed, jnp.ones(2)
        theory.minimize_risk(family, jnp.full((3, 2), 0.1 * seed), *given, sizes=jnp.asarray([1, 4]))
        theory.empirical_risk(family(jnp.zeros(2)), *given)

    call(1)
    before = risk._minimize_risk._cache_size(), risk._empirical_risk._cache_size()
    call(2)
    assert (risk._minimize_risk._cache_size(), risk._empirical_risk._cache_size()) == before


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"sizes": jnp.asarray([0, 2])}, ValueError, r"sizes must lie in \[1, 4\]"),
        ({"sizes": jnp.asarray([5])}, ValueError, r"sizes must lie in \[1, 4\]"),
        ({"sizes": jnp.asarray([1.0])}, TypeError, "sizes must be an array of integers"),
        ({"family": lambda mean: mean}, TypeError, r"family\(candidate\) must be a Denoiser"),
    ],
)
def test_bad_minimizations(change, error, match):
    given = {
        "family": family,
        "candidates": jnp.zeros((3, 2)),
        "data": jnp.ones((4, 2)),
        "path": jnp.ones((2, 4, 2)),
        "times": jnp.asarray([0.1, 0.5]),
        "weights": jnp.ones(2),
        "sizes": jnp.asarray([1]),
    }
    with pytest.raises(error, match=match):
        theory.minimize_risk(**{**given, **change})
