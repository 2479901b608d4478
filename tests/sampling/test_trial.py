"""What starts are tried on, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.sampling import trial

LAW = jd.Gaussian(jnp.zeros(3), 1.0)
DATA = LAW.sample(jax.random.key(0), 100)


def test_draws_err_less_than_as_many_independent_ones():
    """Of 8 times as many one each, in 3 dimensions: their means err by half or less; 300 repeats know it to 4 %."""
    tried = trial.make_trial(jax.random.key(1), LAW.denoiser(jd.Karras()), DATA, None, False)

    def error(key):
        return tried.stratified(key, LAW.sample).mean(0)

    errors = np.asarray(jax.lax.map(error, jax.random.split(jax.random.key(2), 300))) * 10
    assert 0.3 < errors.std() < 0.6
    assert np.abs(errors.mean(0)).max() < 4 * 0.6 / 300**0.5


def test_the_distance_is_that_of_sorted_coordinates():
    """To the mean quantiles where there are fewer samples than the reference has; in NumPy."""
    tried = trial.make_trial(jax.random.key(1), LAW.denoiser(jd.Karras()), DATA, None, False)
    directions = np.asarray(tried.directions, np.float64)
    np.testing.assert_allclose((directions**2).sum(1), 1, rtol=1e-5)
    wanted = np.sort(directions @ np.tile(np.asarray(DATA, np.float64), (trial.REPEATS, 1)).T, axis=1)
    x = np.asarray(1.5 * LAW.sample(jax.random.key(3), 100) + 0.3, np.float64)
    own = np.sort(directions @ x.T, axis=1)
    few = np.sqrt(np.mean((own - wanted.reshape(-1, 100, trial.REPEATS).mean(2)) ** 2))
    np.testing.assert_allclose(tried.distance(tried.coordinates(jnp.asarray(x, float))), few, rtol=1e-4)
    many = jnp.tile(tried.coordinates(jnp.asarray(x, float)), (1, trial.REPEATS))
    all_own = np.sort(np.tile(own, (1, trial.REPEATS)), axis=1)
    np.testing.assert_allclose(tried.distance(many), np.sqrt(np.mean((all_own - wanted) ** 2)), rtol=1e-4)


def test_the_reference_is_the_denoiser_s_own():
    """Not the data: of a denoiser of N(2, 1) its quantiles, whatever the data are."""
    law = jd.Gaussian(jnp.full(3, 2.0), 1.0)
    tried = trial.make_trial(jax.random.key(1), law.denoiser(jd.Karras()), DATA, None, True)
    wanted, directions = np.asarray(tried.wanted), np.asarray(tried.directions)
    # 400 samples: means to 4 / 20, deviations to 4 / 28, of 64 directions in 3 dimensions.
    np.testing.assert_allclose(wanted.mean(1), 2 * directions.sum(1), atol=0.2)
    np.testing.assert_allclose(wanted.std(1), 1, atol=0.15)
