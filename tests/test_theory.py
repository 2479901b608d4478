import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, interior

from jaxdiff.distributions import Gaussian
from jaxdiff.schedules import VariancePreserving
from jaxdiff.theory import score_error


@pytest.mark.parametrize("name", NAMES)
def test_error_of_a_wrong_gaussian_is_its_closed_form(name):
    """Scores of N(0, 1) and N(.5, 1.5): the mean squared difference is a quadratic form, in d = 4 coordinates."""
    case = CASES[name]
    times = jnp.asarray(interior(case, 5), jnp.float32)
    truth, model = Gaussian(jnp.zeros(4), 1.0), Gaussian(jnp.full(4, 0.5), 1.5)
    got = jax.jit(
        lambda key: score_error(
            key, model.denoiser(case.schedule), truth, case.schedule, times, num_samples=4000
        )
    )(jax.random.key(0))
    alpha, sigma = case.alpha(interior(case, 5)), case.sigma(interior(case, 5))
    p, q = alpha**2 + sigma**2, 1.5 * alpha**2 + sigma**2
    # scores -x/p and -(x - .5 alpha)/q, x ~ N(0, p)
    wanted = 4 * ((1 / p - 1 / q) ** 2 * p + (0.5 * alpha / q) ** 2)
    assert (np.abs(got.value - wanted) < 4 * got.standard_error + 1e-5 * wanted).all()
    assert (got.standard_error < 0.1 * wanted + 1e-9).all()


def test_one_call_over_levels_seeds_and_schedule_parameters():
    truth, model = Gaussian(jnp.zeros(2), 1.0), Gaussian(jnp.zeros(2), 1.3)
    times, keys, rates = (
        jnp.linspace(0.1, 0.9, 4),
        jax.random.split(jax.random.key(0), 3),
        jnp.asarray([5.0, 20.0]),
    )
    traces = []

    def error(key, beta_max):
        traces.append(None)
        schedule = VariancePreserving(0.1, beta_max)
        return score_error(key, model.denoiser(schedule), truth, schedule, times, num_samples=64).value

    swept = jax.jit(jax.vmap(jax.vmap(error, (0, None)), (None, 0)))(keys, rates)
    assert swept.shape == (2, 3, 4)
    assert len(traces) == 1
    np.testing.assert_allclose(swept[1, 2], error(keys[2], rates[1]), rtol=1e-4)
