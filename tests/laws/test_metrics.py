"""Sample distances against scipy, float64 NumPy and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance as pairs
import scipy.stats

from jaxdiff.laws import metrics


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _numpy_wasserstein(x, y, p):
    """Both quantile functions looked up on a grid that holds all their jumps."""
    n, m = len(x), len(y)
    cells = np.lcm(n, m)
    gaps = np.repeat(np.sort(x), cells // n) - np.repeat(np.sort(y), cells // m)
    return np.mean(np.abs(gaps) ** p) ** (1 / p)


def _fit_normal(points, mean, std):
    """The same points shifted and scaled to this mean and standard deviation exactly."""
    return mean + std * (points - points.mean()) / points.std()


# --- Wasserstein ---


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("n", "m"), [(300, 300), (300, 200), (97, 64), (1, 50)])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_wasserstein_1d_is_exact_for_unequal_sizes(n, m, p):
    x, y = _normal(0, n), 0.7 + 2 * _normal(1, m)
    value = metrics.wasserstein_1d(x, y, p=p)
    np.testing.assert_allclose(value, _numpy_wasserstein(x, y, p), rtol=1e-12)
    np.testing.assert_allclose(metrics.wasserstein_1d(y, x, p=p), value, rtol=1e-12)
    if p == 1:
        np.testing.assert_allclose(value, scipy.stats.wasserstein_distance(x, y), rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_wasserstein_1d_between_gaussians():
    # Quantiles at the cells' midpoints stand for the laws up to O(log n / n) in the tails.
    x = scipy.stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    y = 0.5 + 1.5 * scipy.stats.norm.ppf((np.arange(60_000) + 0.5) / 60_000)
    np.testing.assert_allclose(metrics.wasserstein_1d(x, y), np.hypot(0.5, 0.5), rtol=1e-4)
    np.testing.assert_allclose(metrics.wasserstein_1d(x, x + 0.25, p=1), 0.25, rtol=1e-12)


def test_wasserstein_1d_levels_are_exact_beyond_int32():
    # n m = 6.4e9: in 32-bit integers or floats the levels would collide. One point of x moved by 1 costs 1/n.
    n, m = 80_000, 80_001
    x, y = np.zeros(n, np.float32), np.zeros(m, np.float32)
    x[-1] = 1
    np.testing.assert_allclose(metrics.wasserstein_1d(x, y, p=1), 1 / n, rtol=1e-5)


def test_sliced_wasserstein_of_a_shift():
    # Along v a shift s costs <v, s>, and E <v, s>^2 = |s|^2 / d with variance 2 (d-1) / (d^2 (d+2)) |s|^4.
    d, num = 10, 2000
    x = _normal(0, 50, d)
    shift = 3 * _normal(1, d)
    value = metrics.sliced_wasserstein(jax.random.key(0), x, x + shift[None], num_projections=num)
    error = np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / num) * np.sum(shift**2)
    assert abs(value**2 - np.sum(shift**2) / d) < 3 * error


@pytest.mark.usefixtures("float64")
def test_sliced_wasserstein_averages_over_the_circle(monkeypatch):
    # In the plane the average over directions is an integral over the half circle. 4000 = 62 x 64 + 32.
    monkeypatch.setattr(metrics, "_CHUNK", 64 * 70)
    x, y = _normal(0, 40, 2), _normal(1, 30, 2) * [2.0, 0.5] + [1.0, 0.0]
    angles = np.pi * (np.arange(2000) + 0.5) / 2000
    slices = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distances = np.array([_numpy_wasserstein(x @ v, y @ v, 1) for v in slices])
    value = metrics.sliced_wasserstein(jax.random.key(0), x, y, num_projections=4000, p=1)
    assert abs(value - distances.mean()) < 3 * distances.std() / np.sqrt(4000)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("change", ["shift", "stretch"])
def test_max_sliced_finds_the_direction_that_differs(change):
    # y = x + s u costs |s <u, v>| along v. With x whitened exactly, y = x stretched by c along u costs at
    # most |c - 1| |<u, v>| (the map is a coupling), with equality at v = u. The maxima are |s| and |c - 1|.
    d = 20
    x = _normal(0, 200, d)
    x = x - x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / len(x))).T
    u = _normal(1, d)
    u /= np.linalg.norm(u)
    y = x + 0.8 * u[None] if change == "shift" else x + 0.8 * np.outer(x @ u, u)

    value, direction = metrics.max_sliced_wasserstein(jax.random.key(0), x, y)
    np.testing.assert_allclose(value, 0.8, rtol=1e-4)
    np.testing.assert_allclose(abs(direction @ u), 1, atol=1e-4)
    np.testing.assert_allclose(value, metrics.wasserstein_1d(x @ direction, y @ direction), rtol=1e-6)
    assert value > 2 * metrics.sliced_wasserstein(jax.random.key(0), x, y, num_projections=50)


# --- energy distance and MMD ---


def _numpy_u_statistic(kernel, x, y):
    n, m = len(x), len(y)
    xx, yy, xy = kernel(pairs.cdist(x, x)), kernel(pairs.cdist(y, y)), kernel(pairs.cdist(x, y))
    within_x = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    within_y = (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return within_x + within_y - 2 * xy.mean()


def _gaussian(bandwidth, distance):
    return np.exp(-((distance / bandwidth) ** 2) / 2)


@pytest.mark.usefixtures("float64")
def test_energy_distance_is_scipys_squared_without_its_bias():
    x, y = _normal(0, 80), 0.3 + _normal(1, 50)
    bias = pairs.pdist(x[:, None]).mean() / 80 + pairs.pdist(y[:, None]).mean() / 50
    wanted = scipy.stats.energy_distance(x, y) ** 2 - bias
    np.testing.assert_allclose(
        metrics.energy_distance(x[:, None], y[:, None]).value, wanted, rtol=1e-10, atol=1e-14
    )


# Whole, and in blocks of 8 points that leave a remainder.
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("n", "m", "d", "block"), [(40, 25, 3, 512), (42, 31, 4, 8)])
def test_statistics_against_all_pairs_in_numpy(monkeypatch, n, m, d, block):
    monkeypatch.setattr(metrics, "_BLOCK", block)  # the shapes are of this test alone, so nothing is cached
    x, y = _normal(0, n, d), 0.2 + _normal(1, m, d)
    median = np.median(pairs.pdist(np.concatenate([x, y])))
    for value, kernel in (
        (metrics.energy_distance(x, y).value, np.negative),
        (metrics.mmd(x, y, bandwidth=1.3 * d**0.5).value, functools.partial(_gaussian, 1.3 * d**0.5)),
        (metrics.mmd(x, y).value, functools.partial(_gaussian, median)),
    ):
        np.testing.assert_allclose(value, _numpy_u_statistic(kernel, x, y), rtol=1e-9, atol=1e-13)


@pytest.mark.usefixtures("float64")
def test_blocks_of_many_points():
    x, y = _normal(0, 1100, 3), 0.2 + _normal(1, 600, 3)  # three blocks of 367, and two
    for value, kernel in (
        (metrics.energy_distance(x, y).value, np.negative),
        (metrics.mmd(x, y, bandwidth=0.7).value, functools.partial(_gaussian, 0.7)),
    ):
        np.testing.assert_allclose(value, _numpy_u_statistic(kernel, x, y), rtol=1e-9, atol=1e-13)


def test_memory_does_not_grow_with_the_pairs():
    x, y = (jax.ShapeDtypeStruct((n, 10), jnp.float32) for n in (100_000, 90_000))
    for function, arguments in ((metrics._energy, (x, y)), (metrics._gaussian_mmd, (x, y, 1.0))):
        memory = function.lower(*arguments).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 2**26


@pytest.mark.parametrize("name", ["energy", "mmd"])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_statistics_are_unbiased_and_their_errors_honest(name, shift):
    # Over 400 pairs of samples the mean is the closed form, and the spread is the stated error, or 1/sqrt(2)
    # of it under equal laws. For x - y ~ N(-shift, 2) on the line and h = 1, E k = exp(-s^2/6) / sqrt(3); the
    # energy distance is 2 E|x - y| - 2 E|x - x'| with folded normals.
    runs, n, m = 400, 50, 40
    x, y = _normal(0, runs, n, 1), shift + _normal(1, runs, m, 1)
    statistic = metrics.energy_distance if name == "energy" else functools.partial(metrics.mmd, bandwidth=1.0)
    values, errors = jax.jit(jax.vmap(statistic))(x, y)
    if name == "energy":
        folded = scipy.stats.foldnorm(c=shift / np.sqrt(2), scale=np.sqrt(2)).mean()
        wanted = 2 * folded - 2 * scipy.stats.foldnorm(c=0, scale=np.sqrt(2)).mean()
    else:
        wanted = 2 / np.sqrt(3) * (1 - np.exp(-(shift**2) / 6))
    spread = np.std(values)
    assert abs(np.mean(values) - wanted) < 3 * spread / np.sqrt(runs)
    # The sample spread over 400 runs is known to 4% (kurtosis of a chi-square under equal laws: 10%).
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)) / spread, 1 if shift else np.sqrt(2), rtol=0.15)


def test_energy_distance_has_a_gradient_at_coinciding_points():
    # At y = x the term of a point and its twin counts as flat; with s_j = sum_i sign(x_j - x_i),
    x = jnp.array([[0.0], [1.0], [3.0]])
    # d/dy_j = (2 / 9) s_j from the pairs between the samples and -(2 / 6) s_j from those within y.
    gradient = jax.grad(lambda y: metrics.energy_distance(x, y).value)(x)
    np.testing.assert_allclose(gradient[:, 0], (2 / 9 - 1 / 3) * np.array([-2, 0, 2]), rtol=1e-5, atol=1e-7)


# --- Frechet ---


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("n", "m", "d"), [(100, 80, 6), (12, 9, 20)])
def test_frechet_distance_is_the_matrix_formula(n, m, d):
    mix = np.random.default_rng(2).normal(size=(d, d))
    x, y = _normal(0, n, d), 0.5 + _normal(1, m, d) @ mix
    a, b = np.cov(x.T), np.cov(y.T)
    # tr (A^1/2 B A^1/2)^1/2 = tr (AB)^1/2; for singular covariances by the eigenvalues of AB.
    if n > d:
        overlap = np.trace(scipy.linalg.sqrtm(a @ b)).real
        tolerance = 1e-10
    else:
        overlap = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0, None)).sum()
        tolerance = 1e-6
    wanted = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a) + np.trace(b) - 2 * overlap
    np.testing.assert_allclose(metrics.frechet_distance(x, y), wanted, rtol=tolerance)


def test_frechet_distance_keeps_its_digits_in_float32():
    # Standard deviations from 1 to 3e-6. By eigenvalues of the float32 covariances the error is 1%.
    x, y = (np.float32(_normal(seed, 1000, 256) * np.exp(-np.arange(256) / 20)) for seed in range(2))
    a, b = np.cov(x.T.astype(float)), np.cov(y.T.astype(float))
    overlap = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0, None)).sum()
    wanted = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a) + np.trace(b) - 2 * overlap
    np.testing.assert_allclose(metrics.frechet_distance(x, y), wanted, rtol=5e-4)


# --- C2ST ---


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_classifier_two_sample_test_reaches_the_bayes_accuracy(shift):
    # N(0, I) against N(shift e, I) is told apart with probability Phi(shift / 2), along one of five
    # axes of different units. Sizes are unequal, so a constant answer would be right for 3/5.
    n, m = 1800, 1200
    scale = np.array([1000.0, 1.0, 0.1, 1.0, 1.0])
    x, y = _normal(0, n, 5), _normal(1, m, 5)
    y[:, 0] += shift
    test = functools.partial(metrics.classifier_two_sample_test, width=32, num_steps=200, batch_size=128)
    accuracy, error = test(jax.random.key(0), x * scale, y * scale)
    # The stated error is of held-out accuracies, each over half a sample, at probability 1/2.
    np.testing.assert_allclose(error, 0.5 * np.sqrt(0.25 / 900 + 0.25 / 600), rtol=1e-6)
    bayes = scipy.stats.norm.cdf(shift / 2)
    assert abs(accuracy - bayes) < 3 * error
    assert bayes == 0.5 or accuracy > 0.5 + 10 * error


def test_classifier_two_sample_test_under_equal_laws_over_seeds():
    # 25 tests of 30 against 20 points, whose training halves the network learns by heart in 30 dimensions:
    # on held-out points the scores have mean 0 and at most unit variance.
    test = functools.partial(
        metrics.classifier_two_sample_test, width=16, num_steps=50, batch_size=16, learning_rate=0.01
    )
    tests = [test(jax.random.key(i), _normal(i, 30, 30), _normal(100 + i, 20, 30)) for i in range(25)]
    scores = np.array([(value - 0.5) / error for value, error in tests])
    assert abs(np.mean(scores)) < 3 / np.sqrt(25)
    assert 0.4 < np.std(scores) < 1.4


# --- bad input ---

_TWO_SAMPLES = [
    functools.partial(metrics.sliced_wasserstein, jax.random.key(0), num_projections=3),
    functools.partial(metrics.max_sliced_wasserstein, jax.random.key(0)),
    metrics.energy_distance,
    metrics.mmd,
    lambda x, y: metrics.frechet_distance(x, y),
    functools.partial(metrics.classifier_two_sample_test, jax.random.key(0)),
]


@pytest.mark.parametrize("metric", [*_TWO_SAMPLES, lambda x, y: metrics.wasserstein_1d(x[:, 1], y[:, 1])])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_traced_sample_that_is_not_finite_has_no_distance(metric, bad):
    """Where it cannot be refused."""
    good = _normal(0, 6, 2).astype(np.float32)
    if metric is metrics.mmd:
        metric = functools.partial(metric, bandwidth=1.0)
    for at in (0, 5):
        answer = jax.jit(metric)(jnp.asarray(good).at[at, 1].set(bad), good)
        value = answer[0] if isinstance(answer, tuple) else answer
        assert not np.isfinite(value)


@pytest.mark.parametrize("metric", _TWO_SAMPLES)
def test_low_precision_samples_are_looked_at_too(metric):
    good = jnp.asarray(_normal(0, 6, 2), jnp.bfloat16)
    with pytest.raises(ValueError, match="1 non-finite"):
        metric(good, good.at[2, 1].set(jnp.nan))


@pytest.mark.parametrize("metric", _TWO_SAMPLES)
def test_bad_samples_are_refused(metric):
    good = np.ones((5, 2))
    with pytest.raises(ValueError, match=r"one dimension, got shapes \(5, 2\) and \(5, 3\)"):
        metric(good, np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"must have shape \(any, any\), got \(5,\)"):
        metric(good, np.ones(5))
    with pytest.raises(ValueError, match="non-finite"):
        metric(np.full((5, 2), np.nan), good)
    with pytest.raises(ValueError, match=r"must hold at least \d points, got 0"):
        metric(good, np.ones((0, 2)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: metrics.mmd(x, y[:1]), "y must hold at least 2 points, got 1"),
        (lambda x, y: metrics.frechet_distance(x[:1], y), "x_features must hold at least 2 points, got 1"),
        (lambda x, y: metrics.mmd(x, y, bandwidth=0.0), "bandwidth must be positive"),
        (lambda x, y: metrics.mmd(0 * x, 0 * y), "median distance between points, must be positive"),
        (lambda x, y: metrics.wasserstein_1d(x, y[:, 0]), r"x must have shape \(any,\)"),
        (
            lambda x, y: metrics.wasserstein_1d(x[:, 0], y[:, 0], p=0.5),
            "p must be a finite number",
        ),
        (
            lambda x, y: metrics.sliced_wasserstein(jax.random.key(0), x, y, num_projections=0),
            "num_projections must be an integer of at least 1",
        ),
        (
            lambda x, y: metrics.max_sliced_wasserstein(jax.random.key(0), x, y, learning_rate=-1.0),
            "learning_rate must be positive",
        ),
        (
            lambda x, y: metrics.classifier_two_sample_test(jax.random.key(0), x, y, width=0),
            "width must be an integer of at least 1",
        ),
    ],
)
def test_bad_options_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(_normal(0, 6, 2), _normal(1, 6, 2))
