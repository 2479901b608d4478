import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, Chosen, interior

from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import RectifiedFlow, VariancePreserving
from jaxdiff.theory import level_error, score_error


def all_schedules():
    return tuple(case.schedule for case in CASES.values())


def test_error_of_a_wrong_gaussian_is_its_closed_form():
    """Scores of N(0, 1) and N(.5, 1.5): the mean squared difference is a quadratic form, in d = 4 coordinates."""
    truth, model, options = Gaussian(jnp.zeros(4), 1.0), Gaussian(jnp.full(4, 0.5), 1.5), all_schedules()
    times = np.stack([interior(case, 5) for case in CASES.values()]).astype(np.float32)

    def error(key, number, times):
        schedule = Chosen(number, options)
        return score_error(key, model.denoiser(schedule), truth, times, num_samples=4000)

    keys = jax.random.split(jax.random.key(0), len(NAMES))
    got = jax.tree.map(np.asarray, jax.jit(jax.vmap(error))(keys, jnp.arange(len(NAMES)), jnp.asarray(times)))
    for case, t, value, standard_error in zip(CASES.values(), times.astype(np.float64), *got, strict=True):
        alpha, sigma = case.alpha(t), case.sigma(t)
        p, q = alpha**2 + sigma**2, 1.5 * alpha**2 + sigma**2
        # scores -x/p and -(x - .5 alpha)/q, x ~ N(0, p)
        wanted = 4 * ((1 / p - 1 / q) ** 2 * p + (0.5 * alpha / q) ** 2)
        assert (np.abs(value - wanted) < 4 * standard_error + 1e-5 * wanted).all()
        assert (standard_error < 0.1 * wanted + 1e-9).all()


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
        return score_error(key, model.denoiser(schedule), truth, times, num_samples=64).value

    swept = jax.jit(jax.vmap(jax.vmap(error, (0, None)), (None, 0)))(keys, rates)
    assert swept.shape == (2, 3, 4)
    assert len(traces) == 1
    np.testing.assert_allclose(swept[1, 2], error(keys[2], rates[1]), rtol=1e-4)


def test_a_second_call_compiles_nothing():
    def predict(params, x, t):
        return params * x

    def call(seed):
        denoise = make_denoiser(predict, jnp.float32(seed), VariancePreserving(), shape=(2,))
        truth = Gaussian(jnp.full(2, float(seed)), 1.0)
        return score_error(jax.random.key(seed), denoise, truth, jnp.linspace(0.1, 0.9, 3) / seed)

    call(1)
    before = level_error._score_error._cache_size()
    call(2)
    assert level_error._score_error._cache_size() == before


PLANE = Gaussian(jnp.zeros(2), 1.0)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"key": 0}, TypeError, "key must be a key"),
        ({"denoise": PLANE}, TypeError, "denoise must be a Denoiser, got Gaussian"),
        (
            {"distribution": Gaussian(jnp.zeros(3), 1.0)},
            ValueError,
            r"points of shape \(2,\), got one of \(3,\)",
        ),
        ({"times": 0.5}, ValueError, r"times must have shape \(any,\), got \(\)"),
        ({"times": jnp.asarray([0.5, 1.1])}, ValueError, r"times\[1\] = 1.1 is outside of the times"),
        ({"times": jnp.asarray([0.5, 0.0])}, ValueError, "sigma at each of times must be positive"),
        ({"num_samples": 1}, ValueError, "num_samples must be an integer of at least 2, got 1"),
    ],
)
def test_bad_input(change, error, match):
    given = {
        "key": jax.random.key(0),
        "denoise": PLANE.denoiser(RectifiedFlow()),
        "distribution": PLANE,
        "times": jnp.asarray([0.1, 0.5]),
        "num_samples": 4,
    }
    with pytest.raises(error, match=match):
        score_error(**{**given, **change})
