"""The closed form of quantized data against numerical integration, and the regression that goes with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxdiff.denoising import quantized
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.learning import targets
from jaxdiff.noising import schedules

L = 5
WEIGHTS = np.asarray([[0.1, 0.4, 0.05, 0.25, 0.2], [0.3, 0.02, 0.02, 0.06, 0.6]])  # of two entries
RHOS = [1e-3, 0.02, 0.1, 0.4, 2.0, 20.0]
Z = np.asarray([-3.0, -0.25, -0.002, 0.0, 0.09, 0.2, 0.203, 0.4, 0.5, 0.6, 0.8, 0.97, 1.0, 1.001, 1.3, 5.0])
KARRAS, VP = schedules.Karras(), schedules.VariancePreserving()


def vp_time(rho):
    """sigma / alpha = rho: e^B = 1 + rho^2, and B is a quadratic in t."""
    return (np.sqrt(0.01 + 39.8 * np.log1p(rho**2)) - 0.1) / 19.9


def integral(weights, z, rho):
    """E[noise | z] by Gauss-Legendre over y in every cell: density p(y) phi((z - y) / rho), noise (z - y) / rho.

    In s = (z - y) / rho, relative to the largest phi, and without what is e^-45 of it.
    """
    least = abs(z - np.clip(z, 0, 1)) / rho
    reach = np.sqrt(least**2 + 90)
    moments = np.zeros(2)
    for k, w in enumerate(weights):
        low, high = np.clip([(z - (k + 1) / L) / rho, (z - k / L) / rho], -reach, reach)
        for power in (0, 1):
            f = lambda s, power=power: s**power * np.exp(0.5 * (least**2 - s**2))  # noqa: E731
            moments[power] += w * integrate.fixed_quad(f, low, high, n=150)[0]
    return moments[1] / moments[0]


GRID = [(z, rho) for rho in RHOS for z in Z]
EXACT = np.asarray([[integral(w, z, rho) for w in WEIGHTS] for z, rho in GRID])
EDGE = np.asarray([(z - np.clip(z, 0, 1)) / rho for z, rho in GRID])[:, None]
MASS = np.asarray(
    [[w @ np.diff(stats.norm.cdf((np.arange(L + 1) / L - z) / rho)) for w in WEIGHTS] for z, rho in GRID]
)


def answer(params, features, t):
    """A network that answers with log-weights, whatever it is shown."""
    return jnp.broadcast_to(jnp.asarray(params)[None], (features.shape[0], *np.shape(params)))


def silent(params, features, t):
    return jnp.zeros((*features.shape[:2], L))


def predicted(z, rho, log_prior, params, network=answer):
    """The predictor at z (n, d) and rho (n,), in the precision of the moment."""
    predict = quantized.predictor(network, jnp.asarray(log_prior, float))
    return np.asarray(predict(params, jnp.asarray(z, float), jnp.log(jnp.asarray(rho, float)) / 4))


def on_the_grid():
    z, rho = np.asarray(GRID).T
    prior = np.log([[0.2] * L, [0.1, 0.2, 0.3, 0.2, 0.2]])
    return predicted(np.stack([z, z], 1), rho, prior, np.log(WEIGHTS) - prior)


def test_the_posterior_mean_is_that_of_the_integral(float64):
    """Inside cells, on edges and outside [0, 1]; where the mass underflows, within 2 / edge of it."""
    got = on_the_grid()
    seen = MASS > 1e-4
    np.testing.assert_allclose(got[seen], EXACT[seen], rtol=1e-7, atol=1e-7)
    # A normal beyond e exceeds it by less than 1 / e on average (Mills); weights that rise inwards add to that.
    assert (np.abs(got - EXACT) * np.abs(EDGE) < 2)[~seen].all()
    assert 10 < (~seen).sum() < 60


def test_single_precision_loses_little():
    """The worst of it is the rounding of the edges, 6e-8 / rho; and 1e-5 from differences at rho >> 1."""
    error = np.abs(on_the_grid() - EXACT)[MASS > 1e-4]
    assert error.max() < 2e-4
    assert np.median(error) < 2e-6


def test_away_from_edges_at_low_noise_the_network_has_no_say(float64):
    """Within a cell, 10 or more noise stds from its edges, the noise is unknown and its mean 0."""
    rho = np.full(L, 0.01 / L)
    inside = (np.arange(L)[:, None] + [0.12, 0.85]) / L
    for seed in range(3):
        network = 5 * np.random.default_rng(seed).standard_normal((2, L))
        assert np.abs(predicted(inside, rho, np.log(WEIGHTS), network)).max() < 1e-15
    on_edges = np.arange(1, L)[:, None] * [1, 1] / L
    answers = [
        predicted(on_edges, rho[1:], np.log(WEIGHTS), s * np.arange(2 * L).reshape(2, L)) for s in (0, 1)
    ]
    assert np.abs(answers[0] - answers[1]).max() > 0.3


@pytest.mark.parametrize("rho", [6.2e-6, 1e-4, 0.02])
def test_far_outside_the_noise_leads_to_the_nearest_edge(rho):
    """In float32, where the masses and densities of all cells underflow; derivatives are finite too."""
    z = np.asarray([[-1e3, 1e3], [-40.0, 40.0], [-1.0, 2.0]])

    def f(z):
        predict = quantized.predictor(silent, jnp.log(jnp.asarray(WEIGHTS)))
        return predict(None, z, jnp.full(3, jnp.log(rho) / 4))

    got, slope = jax.jvp(f, (jnp.asarray(z, jnp.float32),), (jnp.ones((3, 2)),))
    np.testing.assert_allclose(got, (z - np.clip(z, 0, 1)) / rho, rtol=5e-4)
    np.testing.assert_allclose(slope, 1 / rho, rtol=5e-4)


@pytest.mark.parametrize("rho", [0.05, 0.3, 3.0])
def test_a_silent_network_is_the_exact_denoiser_of_the_product_law(rho, float64):
    """By brute force over the L x L boxes, each with a quadrature in the plane; and the same under VP."""
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.uniform(-0.2, 1.2, (6, 2)), [[0.2, 0.4], [0.0, 1.0]]])
    nodes, mass = np.polynomial.legendre.leggauss(40)
    y = ((np.arange(L)[:, None] + 0.5 * (1 + nodes)) / L).ravel()
    p = (WEIGHTS[:, :, None] * mass).reshape(2, -1)
    joint = p[0][:, None] * p[1][None]
    wanted = []
    for row in z:
        density = joint * np.exp(-((row[0] - y[:, None]) ** 2 + (row[1] - y[None]) ** 2) / (2 * rho**2))
        density /= density.sum()
        wanted.append([(density.sum(1) * y).sum(), (density.sum(0) * y).sum()])
    predict = quantized.predictor(silent, jnp.log(jnp.asarray(WEIGHTS)))
    for schedule, t in ((KARRAS, rho), (VP, vp_time(rho))):
        denoise = make_denoiser(predict, None, schedule, shape=(2,), prediction=quantized.prediction)
        alpha = float(schedule.alpha(t))
        got = denoise(alpha * jnp.asarray(z), t)
        np.testing.assert_allclose(got.data, wanted, rtol=1e-7)
        np.testing.assert_allclose(got.noise, (z - wanted) / rho, rtol=1e-6, atol=1e-8)


def test_the_network_is_shown_the_level_that_z_tells():
    """Features: 3 (level - prior mean) where z is sharp, zero where it says nothing; t is log(rho) / 4."""
    shown = []

    def network(params, features, t):
        shown.append((features, t))
        return jnp.zeros((*features.shape[:2], L))

    levels = np.linspace(0, 1, L)
    z = (np.asarray([[3, 0], [1, 4]]) + 0.5) / L
    predicted(z, [1e-4, 1e4], np.log(WEIGHTS), None, network)
    features, t = shown[0]
    assert features.shape == (2, 2, 1)
    np.testing.assert_allclose(t, np.log([1e-4, 1e4]) / 4, rtol=1e-6)
    np.testing.assert_allclose(features[0, :, 0], 3 * (levels[[3, 0]] - WEIGHTS @ levels), rtol=1e-5)
    np.testing.assert_allclose(features[1, :, 0], 0, atol=1e-3)


def pixels(n, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.stack([rng.choice(L, n, p=w) for w in WEIGHTS], 1))


def denoiser(schedule):
    predict = quantized.predictor(silent, jnp.log(jnp.asarray(WEIGHTS)))
    return make_denoiser(predict, None, schedule, shape=(2,), prediction=quantized.prediction)


def test_the_target_makes_up_its_x(float64):
    k, t = pixels(300), jnp.geomspace(1e-3, 1.0, 300)
    for schedule in (KARRAS, VP):
        x, got = quantized.quantized_target(jax.random.key(0), schedule, k, t, levels=L)
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        np.testing.assert_allclose(alpha * got.data + sigma * got.noise, x, rtol=1e-9, atol=1e-9)
        # The mean of the data lies in the pixel's own cell, since the level is known.
        assert (np.floor(np.asarray(got.data) * L) == np.asarray(k)).all()


def test_x_is_the_noised_dequantized_pixel():
    """Its law given the pixel: uniform in the cell plus noise, by a Kolmogorov-Smirnov test at two noises."""
    n = 4000
    for t in (1e-4, 0.1):
        x, _ = quantized.quantized_target(
            jax.random.key(3), KARRAS, jnp.full((n, 1), 2), jnp.full(n, t), levels=L
        )
        y = np.linspace(2, 3, 1001) / L

        def cdf(x, y=y, t=t):
            return integrate.trapezoid(stats.norm.cdf((x[:, None] - y) / t), y, axis=1) * L

        assert stats.kstest(np.asarray(x[:, 0], np.float64), cdf).pvalue > 0.01


@pytest.mark.parametrize("rho", [0.03, 0.2])
def test_the_target_has_the_plain_targets_conditional_mean_and_less_variance(rho):
    """E[(target - D) h(x)] = 0 for both, D exact; the squared errors differ by E var(noise | x, k)."""
    n = 20_000
    k, t = pixels(n), jnp.full(n, rho)
    data = (k + jax.random.uniform(jax.random.key(5), k.shape)) / L
    squares = []
    for x, target in (
        quantized.quantized_target(jax.random.key(1), KARRAS, k, t, levels=L),
        targets.denoising_target(jax.random.key(2), KARRAS, data, t),
    ):
        residual = np.asarray(target.noise - denoiser(KARRAS)(x, t).noise, np.float64)
        for h in (jnp.ones_like, lambda x: x, lambda x: jnp.sin(9 * x), lambda x: jnp.cos(30 * x)):
            values = residual * np.asarray(h(x))
            assert (np.abs(values.mean(0)) < 4 * values.std(0) / np.sqrt(n)).all()
        squares.append(residual**2)
    # The variance of a normal between a and b, for the x and k of the first of the two.
    x, _ = quantized.quantized_target(jax.random.key(1), KARRAS, k, t, levels=L)
    a = (np.asarray(x, np.float64) - (np.asarray(k) + 1) / L) / rho
    b = a + 1 / (L * rho)
    mass = stats.norm.cdf(b) - stats.norm.cdf(a)
    phi_a, phi_b = stats.norm.pdf(a), stats.norm.pdf(b)
    removed = 1 + (a * phi_a - b * phi_b) / mass - ((phi_a - phi_b) / mass) ** 2
    difference = squares[1] - squares[0] - removed
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(difference.size)
    assert removed.mean() > 0.1 * squares[1].mean()


def test_rows_do_not_depend_on_their_batch():
    k, t = pixels(7), jnp.linspace(0.05, 0.5, 7)
    x, target = quantized.quantized_target(jax.random.key(0), VP, k, t, levels=L)
    few, target_of_few = quantized.quantized_target(jax.random.key(0), VP, k[:3], t[:3], levels=L)
    np.testing.assert_allclose(x[:3], few, rtol=1e-6)
    np.testing.assert_allclose(target.noise[:3], target_of_few.noise, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        denoiser(VP)(x, t).noise[:3], denoiser(VP)(few, t[:3]).noise, rtol=1e-5, atol=1e-5
    )


def test_the_histogram_is_that_of_the_counts():
    k = np.asarray([[0, 3], [0, 3], [1, 3], [0, 1]])
    levels, smoothing = 4, 0.25
    share = np.maximum([3 / 8, 2 / 8, 0, 3 / 8], 3e-3)
    counts = np.asarray([[3, 1, 0, 0], [0, 1, 0, 3]]) + smoothing * levels * share
    got = quantized.log_histogram(jnp.asarray(k), levels=levels, smoothing=smoothing)
    np.testing.assert_allclose(got, np.log(counts / counts.sum(1, keepdims=True)), rtol=1e-5)
    np.testing.assert_allclose(np.exp(got).sum(1), 1, rtol=1e-6)


def test_the_histogram_finds_the_law_and_leaves_no_level_out(float64):
    n = 40_000
    k = np.asarray(pixels(n)).astype(np.uint8)
    got = np.exp(quantized.log_histogram(k, levels=L))
    assert (np.abs(got - WEIGHTS) < 4 * np.sqrt(WEIGHTS * (1 - WEIGHTS) / n) + 1e-4).all()
    unseen = quantized.log_histogram(np.zeros((1000, 3), np.uint8), levels=256)
    assert np.isfinite(unseen).all()
    assert np.exp(unseen)[:, 1:].min() > 1e-5


def test_images_are_rows_of_another_shape(float64):
    """Prior, denoiser, target and histogram of (2, 3) images, against the same numbers in rows of 6."""
    k = jax.random.randint(jax.random.key(0), (50, 2, 3), 0, L)
    flat, t = k.reshape(50, 6), jnp.geomspace(0.01, 1.0, 50)
    prior = quantized.log_histogram(k, levels=L)
    assert prior.shape == (2, 3, L)
    np.testing.assert_array_equal(prior.reshape(6, L), quantized.log_histogram(flat, levels=L))
    x, target = quantized.quantized_target(jax.random.key(1), KARRAS, k, t, levels=L)
    rows, target_of_rows = quantized.quantized_target(jax.random.key(1), KARRAS, flat, t, levels=L)
    np.testing.assert_allclose(x.reshape(50, 6), rows, rtol=1e-12)
    np.testing.assert_allclose(target.noise.reshape(50, 6), target_of_rows.noise, rtol=1e-8)
    answers = []

    def network(params, features, t):
        return params * features * jnp.expand_dims(jnp.arange(L), range(features.ndim - 1))

    for z, log_prior in ((x, prior), (rows, prior.reshape(6, L))):
        denoise = make_denoiser(
            quantized.predictor(network, log_prior),
            0.5,
            KARRAS,
            shape=z.shape[1:],
            prediction=quantized.prediction,
        )
        answers.append(denoise(z, t).noise.reshape(50, 6))
    np.testing.assert_allclose(*answers, rtol=1e-10)


def test_the_prior_is_an_argument_of_compiled_programs():
    """Another one compiles nothing anew, and it is found among the leaves."""
    traced = []

    @jax.jit
    def noise(denoise, x):
        traced.append(None)
        return denoise(x, 0.1).noise

    def of(weights):
        predict = quantized.predictor(silent, jnp.log(jnp.asarray(weights)))
        return make_denoiser(predict, None, KARRAS, shape=(2,), prediction=quantized.prediction)

    x = jnp.asarray([[0.2, 0.4]])
    one, other = noise(of(WEIGHTS), x), noise(of(WEIGHTS[::-1]), x)
    assert len(traced) == 1
    assert np.abs(np.asarray(one - other)).max() > 0.01
    assert [leaf.shape for leaf in jax.tree.leaves(of(WEIGHTS))] == [(2, L)]


def test_half_precision_and_a_condition():
    """bfloat16 x is denoised in single precision; a bound condition is passed on to the network."""
    seen = []

    def network(params, features, t, label):
        seen.append((features.dtype, label.shape))
        return jnp.zeros((*features.shape[:2], L))

    predict = quantized.predictor(network, jnp.log(jnp.asarray(WEIGHTS)))
    denoise = make_denoiser(predict, None, VP, shape=(2,), prediction=quantized.prediction)
    x = jnp.asarray([[0.2, 0.4], [0.7, 0.9]], jnp.bfloat16)
    got = denoise.given(jnp.asarray([1, 2]))(x, 0.3)
    assert got.noise.dtype == jnp.bfloat16
    assert seen == [(jnp.float32, (2,))]
    wanted = denoiser(VP)(x.astype(jnp.float32), 0.3)
    np.testing.assert_allclose(got.noise.astype(jnp.float32), wanted.noise, rtol=2**-7)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"key": 1}, TypeError, "key must be a key"),
        ({"schedule": schedules.Karras}, TypeError, "got the class Karras; call it"),
        ({"pixels": jnp.ones((4, 2))}, TypeError, "pixels must be an array of integers, got float32"),
        ({"pixels": jnp.full((4, 2), L)}, ValueError, r"pixels must lie in \[0, 4\]"),
        ({"pixels": jnp.ones(4, int)}, ValueError, r"pixels must have shape \(batch, ...\), got \(4,\)"),
        ({"t": jnp.full(3, 0.5)}, ValueError, r"t must have shape \(4,\), got \(3,\)"),
        ({"t": jnp.asarray([0.5, 0.5, -0.1, 0.5])}, ValueError, r"t\[2\] = -0.1 is outside of the range"),
        ({"t": jnp.asarray([0.5, 0.0, 0.1, 0.5])}, ValueError, "sigma at t must be positive"),
        (
            {"t": jnp.asarray([0.5, 1.0, 0.1, 0.5]), "schedule": schedules.RectifiedFlow()},
            ValueError,
            "alpha at t must be positive",
        ),
        ({"levels": 0}, ValueError, "levels must be an integer of at least 1"),
    ],
)
def test_bad_input_of_the_target(change, error, match):
    given = {
        "key": jax.random.key(0),
        "schedule": KARRAS,
        "pixels": jnp.ones((4, 2), int),
        "t": jnp.full(4, 0.5),
    }
    with pytest.raises(error, match=match):
        quantized.quantized_target(**{**given, "levels": L, **change})


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: quantized.predictor(silent, jnp.zeros(4)),
            ValueError,
            r"log_prior must have shape .* got \(4,\)",
        ),
        (
            lambda: quantized.predictor(silent, jnp.full((2, L), jnp.nan)),
            ValueError,
            "log_prior has 10 non-finite",
        ),
        (
            lambda: quantized.predictor("net", jnp.zeros((2, L))),
            TypeError,
            "network must be a function .* got str",
        ),
        (lambda: denoiser(KARRAS)(jnp.ones((4, 3)), 0.5), ValueError, r"x must have shape \(batch, 2\)"),
        (
            lambda: quantized.predictor(silent, jnp.zeros((2, L)))(None, jnp.ones((4, 3)), jnp.ones(4)),
            ValueError,
            r"x must have shape \(any, 2\), got \(4, 3\)",
        ),
        (
            lambda: quantized.predictor(silent, jnp.zeros((2, L)))(None, jnp.ones((4, 2)), jnp.ones(())),
            ValueError,
            r"t must have shape \(4,\), got \(\)",
        ),
        (
            lambda: quantized.predictor(lambda *a: jnp.ones((4, 2)), jnp.zeros((2, L)))(
                None, jnp.ones((4, 2)), jnp.ones(4)
            ),
            ValueError,
            r"the network's answer must have shape \(4, 2, 5\), got \(4, 2\)",
        ),
        (
            lambda: quantized.log_histogram(jnp.ones(4, int), levels=L),
            ValueError,
            r"have shape \(n, ...\), got shape \(4,\)",
        ),
    ],
)
def test_bad_input_of_the_predictor(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_traced_time_without_noise_is_nan():
    target = jax.jit(
        lambda t: quantized.quantized_target(jax.random.key(0), KARRAS, jnp.ones((2, 2), int), t, levels=L)
    )
    x, y = target(jnp.asarray([0.5, -1.0]))
    for part in (x, *y):
        np.testing.assert_array_equal(np.isnan(part).all(1), [False, True])
