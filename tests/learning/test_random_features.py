"""Random features against the kernel they stand for, least squares in NumPy and exact denoisers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoising import prediction
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning import random_features
from jaxdiff.learning.bootstrap import bootstrapped_target, fit_levels
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.random_features import RandomFeatures
from jaxdiff.learning.targets import denoising_target
from jaxdiff.noising.schedules import Karras, OrnsteinUhlenbeck, VariancePreserving
from jaxdiff.theory import score_error
from jaxdiff.typing import Denoised


@pytest.mark.parametrize("bandwidth", [0.7, 2.0])
def test_inner_products_estimate_the_gaussian_kernel(bandwidth):
    """Mean and variance over 4,000 draws of 2 K = 6 features, eq. (2)."""
    draws, k = 4000, 3
    x, y = jnp.array([0.3, -1.0, 0.5]), jnp.array([-0.2, 0.4, 0.1])

    def product(key):
        model = random_features.init(key, 3, 2 * k, bandwidth=bandwidth)
        phi = random_features.features(model.frequencies, jnp.stack([x, y]))
        return jnp.stack([phi[0] @ phi[1], phi[0] @ phi[0]])

    across, own = np.asarray(jax.vmap(product)(jax.random.split(jax.random.key(0), draws)), np.float64).T
    np.testing.assert_allclose(own, 1, rtol=1e-5)

    def kernel(scale):
        return np.exp(-((scale * np.linalg.norm(np.asarray(x - y, np.float64))) ** 2) / (2 * bandwidth**2))

    variance = ((1 + kernel(2)) / 2 - kernel(1) ** 2) / k
    centered = across - kernel(1)
    assert abs(centered.mean()) < 4 * (variance / draws) ** 0.5
    assert abs((centered**2).mean() - variance) < 4 * (centered**2).std() / draws**0.5


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", [1e-8, 1e-2, 10.0])
def test_ridge_is_the_least_squares_solution(weighted, penalty):
    """Of the system with one row sqrt(penalty) for each coefficient and none for the intercept."""
    rng = np.random.default_rng(0)
    n, p, k = 40, 12, 3
    design, targets = rng.normal(size=(n, p)) + 1.5, rng.normal(size=(n, k)) - 4
    weights = rng.uniform(size=n) * (rng.uniform(size=n) > 0.3) if weighted else None
    got = random_features.ridge(
        jnp.asarray(design),
        jnp.asarray(targets),
        penalty=penalty,
        weights=None if weights is None else jnp.asarray(weights),
    )
    share = np.full(n, 1 / n) if weights is None else weights / weights.sum()
    root = np.sqrt(share)[:, None]
    rows = np.concatenate([root * np.append(design, np.ones((n, 1)), 1), np.sqrt(penalty) * np.eye(p, p + 1)])
    wanted = np.linalg.lstsq(rows, np.concatenate([root * targets, np.zeros((p, k))]), rcond=None)[0]
    np.testing.assert_allclose(got[0], wanted[:p], atol=1e-9)
    np.testing.assert_allclose(got[1], wanted[p], atol=1e-9)


CASES = {
    "edm, vp": (VariancePreserving(), prediction.EDM(0.7), 0.4, None),
    "data, ou": (OrnsteinUhlenbeck(), prediction.data, 0.8, None),
    "v, karras, reference": (Karras(), prediction.v, 3.0, lambda: Gaussian(jnp.ones(2), 0.5)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", CASES)
def test_the_fit_is_a_stationary_point_of_the_regression_loss(case):
    """By automatic differentiation of the loss that networks are trained with, in the same row."""
    schedule, chosen, t, reference = CASES[case]
    data = jax.random.normal(jax.random.key(0), (60, 2)) + 0.5
    x, target = denoising_target(jax.random.key(1), schedule, data, t)
    weights, penalty = jax.random.uniform(jax.random.key(2), (60,)), 1e-3
    family = of_models(schedule, prediction=chosen, reference=reference and reference())
    start = random_features.init(jax.random.key(3), 2, 20, bandwidth=1.5)
    model = random_features.fit(start, family, x, target, t, penalty=penalty, weights=weights)

    def loss(model):
        each = regression_loss(family(model), x, target, t)
        return weights @ each / weights.sum() + penalty * jnp.sum(model.coefficients**2)

    gradient = jax.jit(jax.grad(loss))
    at_start, at_fit = gradient(start), gradient(model)
    for name in ("coefficients", "intercept"):
        assert jnp.abs(getattr(at_start, name)).max() > 1e-2
        assert jnp.abs(getattr(at_fit, name)).max() < 1e-12


def test_many_features_and_points_learn_the_exact_denoiser():
    """A mixture in one dimension. Sixty coefficients from 20,000 points have a variance below 3e-3 of the
    noise, and a sixth of that bound leaves no room for a bias that could be seen.
    """
    law = GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[-1.0], [1.0]]), jnp.array([0.05, 0.1]))
    schedule, t = OrnsteinUhlenbeck(), 0.3

    @jax.jit
    def left():
        x, target = denoising_target(jax.random.key(1), schedule, law.sample(jax.random.key(0), 20000), t)
        model = random_features.init(jax.random.key(2), 1, 60, bandwidth=0.7)
        family = of_models(schedule, shape=(1,))
        model = random_features.fit(model, family, x, target, t, penalty=1e-5)
        error = score_error(jax.random.key(3), family(model), law, jnp.array([t]))
        return schedule.sigma(t) ** 2 * error.value[0]

    assert left() < 5e-4


def test_a_zero_weight_leaves_a_row_out():
    model, family, x, target, t = problem()
    weights = (jnp.arange(30) < 20).astype(float)
    fit = jax.jit(functools.partial(random_features.fit, model, family, penalty=0.1))
    got = fit(x, target, t, weights=weights)
    wanted = fit(x[:20], jax.tree.map(lambda y: y[:20], target), t)
    assert_same(got, wanted)


def test_it_is_vectorized_over_seeds_bandwidths_and_penalties():
    _, family, x, target, t = problem()

    def whole(key, bandwidth, penalty):
        model = random_features.init(key, 2, 10, bandwidth=bandwidth)
        return random_features.fit(model, family, x, target, t, penalty=penalty)

    cases = jax.random.split(jax.random.key(5), 3), jnp.array([0.5, 1.0, 2.0]), jnp.array([0.01, 0.1, 1.0])
    together, alone = jax.vmap(whole)(*cases), jax.jit(whole)
    for i in range(3):
        assert_same(*(jax.tree.map(lambda x: x[i], together), alone(*(case[i] for case in cases))))  # noqa: B023


def test_a_chain_of_levels_for_gaussian_data():
    """As the teacher and the fit of `fit_levels`: linear models reach the linear denoiser at every level.

    The features of a wide kernel are nearly linear. 4,000 points: the noise of two coefficients a coordinate
    leaves at most 2 (1 - q) / 4,000 < 5e-4 of a squared noise error, doubled for the curved features.
    """
    schedule, law = OrnsteinUhlenbeck(), Gaussian(jnp.array([0.5, -0.5]), 0.5)
    data = law.sample(jax.random.key(0), 4000)
    levels = jnp.array([0.3, 0.6, 1.2])

    denoiser = of_models(schedule)

    def fit(key, model, s, t, mix):
        x, target = bootstrapped_target(key, denoiser(model), data, s, t, mix=mix)
        return random_features.fit(model, denoiser, x, target, t, penalty=1e-4)

    def error(model, t):
        value = score_error(jax.random.key(3), denoiser(model), law, t[None]).value[0]
        return value * schedule.sigma(t) ** 2 / 2

    @jax.jit
    @jax.vmap
    def errors(mix):
        start = random_features.init(jax.random.key(1), 2, 20, bandwidth=20.0)
        models = fit_levels(jax.random.key(2), fit, start, levels, mix=mix)
        return jax.vmap(error)(models, levels)

    assert (errors(jnp.array([0.0, 1.0])) < 1e-3).all()


def of_models(schedule, **options):
    """The function that makes denoisers of models."""

    def family(model):
        return make_denoiser(random_features.predict, model, schedule, **{"shape": (2,), **options})

    return family


def problem():
    schedule = OrnsteinUhlenbeck()
    x, target = denoising_target(
        jax.random.key(0), schedule, jax.random.normal(jax.random.key(1), (30, 2)), 0.5
    )
    model = random_features.init(jax.random.key(2), 2, 10, bandwidth=1.0)
    return model, of_models(schedule), x, target, 0.5


def test_it_fits_from_any_start_and_compiles_once():
    """Coefficients that the model has do not enter; a second call with another family like it is the same program."""
    model, _, x, target, t = problem()
    wanted = random_features.fit(model, of_models(OrnsteinUhlenbeck()), x, target, t, penalty=0.1)
    before = random_features._fit._cache_size()
    got = random_features.fit(wanted, of_models(OrnsteinUhlenbeck()), x, target, t, penalty=0.1)
    assert random_features._fit._cache_size() == before
    assert_same(got, wanted)
    half = random_features.fit(
        model,
        of_models(OrnsteinUhlenbeck()),
        *jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, target)),
        t,
        penalty=0.1,
    )
    assert half.coefficients.dtype == jnp.float32
    np.testing.assert_allclose(
        random_features.predict(half, x, t), random_features.predict(wanted, x, t), atol=0.1
    )


def assert_same(got: RandomFeatures, wanted: RandomFeatures):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, wanted)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"penalty": 0.0}, ValueError, "penalty must be positive"),
        ({"penalty": jnp.nan}, ValueError, "penalty must be positive"),
        ({"penalty": jnp.ones(3)}, ValueError, r"penalty must have shape \(\), got \(3,\)"),
        ({"x": jnp.ones((30, 3))}, ValueError, r"x must have shape \(any, 2\), got \(30, 3\)"),
        ({"x": jnp.ones((30, 2), int)}, TypeError, "x must be an array of floating-point numbers"),
        ({"x": jnp.full((30, 2), jnp.nan)}, ValueError, "x has 60 non-finite of 60 values"),
        (
            {"target": Denoised(jnp.ones((30, 2)), jnp.ones((29, 2)))},
            ValueError,
            r"target.noise must have shape",
        ),
        (
            {"target": Denoised(jnp.full((30, 2), jnp.inf), jnp.ones((30, 2)))},
            ValueError,
            "target.data has 60",
        ),
        ({"t": jnp.full(30, 0.5)}, ValueError, r"t must have shape \(\)"),
        ({"t": 9.0}, ValueError, r"t = 9 is outside of the times"),
        (
            {"family": lambda model: model},
            TypeError,
            r"family\(model\) must be a Denoiser, got RandomFeatures",
        ),
        ({"weights": jnp.ones(29)}, ValueError, "weights must have shape .30"),
        ({"weights": -jnp.ones(30)}, ValueError, "weights must be finite and not negative.*got -1 to -1"),
        ({"weights": jnp.zeros(30)}, ValueError, "one of them positive; got 0 to 0"),
        ({"weights": jnp.full(30, jnp.nan)}, ValueError, "weights must be finite"),
    ],
)
def test_bad_input_of_fit(change, error, message):
    model, family, x, target, t = problem()
    given = {"family": family, "x": x, "target": target, "t": t, "penalty": 0.1} | change
    with pytest.raises(error, match=message):
        random_features.fit(model, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_features": 7}, "num_features must be even, a cosine and a sine for each frequency, got 7"),
        ({"num_features": 0}, "num_features must be an integer of at least 2"),
        ({"d": 0}, "d must be an integer of at least 1"),
        ({"bandwidth": -1.0}, "bandwidth must be positive"),
        ({"bandwidth": jnp.ones(2)}, r"bandwidth must have shape \(\)"),
    ],
)
def test_bad_input_of_init(change, message):
    with pytest.raises(ValueError, match=message):
        random_features.init(jax.random.key(0), **({"d": 2, "num_features": 8, "bandwidth": 1.0} | change))


def test_bad_input_of_ridge():
    with pytest.raises(ValueError, match=r"targets must have shape \(4, any\), got \(3, 1\)"):
        random_features.ridge(jnp.ones((4, 2)), jnp.ones((3, 1)), penalty=1.0)
