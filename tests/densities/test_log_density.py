import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import few_of
from scipy import stats

from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.flow import default_times, probability_flow
from jaxdiff.densities.formula import density_formula
from jaxdiff.densities.log_density import log_density
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.shaped import Shaped
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.noising.process import marginals
from jaxdiff.noising.schedules import (
    Karras,
    OrnsteinUhlenbeck,
    RectifiedFlow,
    VariancePreserving,
    from_betas,
)
from jaxdiff.noising.tables import linear_betas

KEY = jax.random.key(0)
SCHEDULES = {
    "karras": Karras,
    "vp": VariancePreserving,
    "ou": OrnsteinUhlenbeck,
    "rectified_flow": RectifiedFlow,
    "table": lambda: from_betas(linear_betas(1000)),
}


def mixture(d, spread=1.0, unit=1.0):
    """A law, and its log-density in NumPy."""
    rng = np.random.default_rng(1)
    weights = np.array([0.5, 0.3, 0.2])
    means = unit * spread * rng.standard_normal((3, d))
    stds = unit * np.sqrt(rng.uniform(0.1, 0.6, (3, d)))

    def log_prob(x):
        x = np.asarray(x, np.float64).reshape(len(x), 1, d)
        parts = np.log(weights) + stats.norm(means, stds).logpdf(x).sum(2)
        return np.logaddexp.reduce(parts, axis=1)

    return GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in (weights, means, stds**2))), log_prob


@pytest.mark.parametrize("name", few_of(SCHEDULES, ["karras"]))
def test_few_dimensions(name):
    """Within 5e-3 nats, and within the error that is told, of data of scale 1/2; a table's first step is coarse."""
    law, log_prob = mixture(2, spread=2.0, unit=0.5)
    x = law.sample(jax.random.key(1), 50)
    got = log_density(KEY, law.denoiser(SCHEDULES[name]()), x)
    off, first = np.abs(got.value - log_prob(x)), 2e-3 if name == "table" else 0.0
    assert off.max() < 5e-3
    assert (off < got.standard_error + 1e-3 + first).all()
    assert np.asarray(got.standard_error).max() < 0.05


@pytest.mark.parametrize("name", few_of(SCHEDULES, ["karras"]))
@pytest.mark.parametrize("shape", [(25,), (5, 5, 1)])
def test_many_dimensions_and_images(name, shape):
    law, log_prob = mixture(25)
    x = law.sample(jax.random.key(1), 50)
    got = log_density(KEY, Shaped(law, shape).denoiser(SCHEDULES[name]()), x.reshape(50, *shape))
    off = np.asarray(got.value - log_prob(x))
    assert (np.abs(off) < 1.96 * got.standard_error).mean() > 0.84
    assert abs(off.mean()) < 4 * off.std() / 50**0.5
    assert np.sqrt(np.mean(off**2)) < 0.15


@pytest.mark.slow
def test_the_method_is_that_of_the_size_and_of_the_evaluations():
    law, _ = mixture(2, spread=3.0)
    x, denoise = law.sample(jax.random.key(1), 4), law.denoiser(VariancePreserving())
    fine, coarse = (probability_flow(KEY, denoise, x, default_times(denoise, n)).value for n in (20, 10))
    enough = 9 * (21 + 11)  # 2 d + 5 for each interval and one more
    got = log_density(KEY, denoise, x, num_evaluations=enough + 9)
    np.testing.assert_array_equal(got.value, fine)
    np.testing.assert_array_equal(got.standard_error, np.abs(fine - coarse))
    assert np.asarray(got.standard_error).max() > 1e-3
    assert (log_density(KEY, denoise, x, num_evaluations=enough - 1).value != fine).all()
    few = 9 * (17 + 9) - 1
    got = log_density(KEY, denoise, x, num_evaluations=few)
    np.testing.assert_array_equal(got, density_formula(KEY, denoise, x, evaluations=Evaluations(few)))
    for d in (16, 17):
        law, _ = mixture(d)
        x, denoise = law.sample(jax.random.key(1), 4), law.denoiser(VariancePreserving())
        wanted = (
            probability_flow(KEY, denoise, x).value
            if d == 16
            else density_formula(KEY, denoise, x, evaluations=Evaluations(1024)).value
        )
        np.testing.assert_array_equal(log_density(KEY, denoise, x).value, wanted)


@pytest.mark.parametrize("d", few_of([3, 12], [3]))
@pytest.mark.parametrize("name", few_of(["karras", "table"], ["karras"]))
def test_data_on_a_plane_have_the_density_of_noised_data_and_that_is_said(name, d):
    """One direction is missing; the answer is E log p of alpha x + sigma eps at the first time, closed here."""
    schedule = SCHEDULES[name]()
    variances = np.r_[np.linspace(0.5, 2, d - 1), 0.0]
    law = Gaussian(jnp.zeros(d), jnp.asarray(variances, jnp.float32))
    x = law.sample(KEY, 40)
    denoise = law.denoiser(schedule)
    with pytest.warns(UserWarning, match=f"no density: around .* of {d} directions are missing at t_min"):
        got = log_density(KEY, denoise, x)
    alpha, sigma = (float(part) for part in marginals(schedule, denoise.working_range[0]))
    total = alpha**2 * variances + sigma**2
    squares = (alpha**2 * np.asarray(x, np.float64) ** 2 + sigma**2) / total
    wanted = -0.5 * (np.log(2 * np.pi * total) + squares).sum(1)
    off = np.asarray(got.value) - wanted
    assert (np.abs(off) < 1.96 * got.standard_error).mean() > 0.84
    assert abs(off.mean()) < 4 * off.std() / 40**0.5
    assert off.std() < 0.6
    traced = jax.jit(lambda denoise: log_density(KEY, denoise, x).value)(denoise)
    assert np.isnan(traced).all()


def test_points_have_no_density():
    law = Empirical(jax.random.normal(KEY, (50, 2)))
    with pytest.warns(UserWarning, match="no density: around 10 of 10 rows .* of 2 directions"):
        log_density(KEY, law.denoiser(Karras()), law.points[:10])


@pytest.mark.parametrize(("rows", "off", "found"), [(32, 0, 32), (1, 0, 1), (32, 1, 31)])
def test_rows_that_are_elsewhere_do_not_hide_those_without_density(rows, off, found):
    law = Gaussian(jnp.zeros(2), jnp.asarray([1.0, 0.0]))
    x = law.sample(KEY, rows).at[:off, 1].set(0.05)
    with pytest.warns(UserWarning, match=f"around {found} of {rows} rows"):
        log_density(KEY, law.denoiser(VariancePreserving()), x)


def test_an_atom_is_no_density():
    law = GaussianMixture(jnp.asarray([0.4, 0.6]), jnp.zeros((2, 1)), jnp.asarray([[0.0], [1.0]]))
    with pytest.warns(UserWarning, match="no density"):
        log_density(KEY, law.denoiser(Karras()), law.sample(KEY, 64))


@pytest.mark.slow
def test_heavy_tails_and_many_narrow_directions_have_a_density():
    """Warnings are errors here."""
    tails = StudentTMixture(jnp.ones(1), jnp.zeros((1, 16)), jnp.ones(1), jnp.asarray([1.0]))
    narrow = Gaussian(jnp.zeros(200), jnp.geomspace(1.0, 1e-3, 200))
    for law in (tails, narrow):
        denoise = law.denoiser(SCHEDULES["table"]())
        assert np.isfinite(log_density(KEY, denoise, law.sample(KEY, 16), num_evaluations=20).value).all()


@pytest.mark.parametrize(("variance", "dense"), [(3e-5, False), (1e-3, True)])
def test_detail_that_the_first_noise_hides_counts_as_none(variance, dense):
    """Beside a table's first noise, of variance 1e-4."""
    law = Gaussian(jnp.zeros(2), jnp.asarray([1.0, variance]))
    x = law.sample(KEY, 64)
    with contextlib.nullcontext() if dense else pytest.warns(UserWarning, match="no density"):
        got = log_density(KEY, law.denoiser(SCHEDULES["table"]()), x)
    if dense:
        np.testing.assert_allclose(got.value, law.log_prob(x), atol=0.1)


@pytest.mark.parametrize("num_evaluations", [19, 1.5, True])
def test_bad_numbers_of_evaluations_are_refused(num_evaluations):
    law, _ = mixture(2)
    with pytest.raises(ValueError, match="num_evaluations must be an integer of at least 20"):
        log_density(KEY, law.denoiser(Karras()), jnp.zeros((2, 2)), num_evaluations=num_evaluations)
