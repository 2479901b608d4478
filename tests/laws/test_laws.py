"""Closed-form laws against scipy, brute force, quadrature and automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import Scales, few_of

from jaxdiff.laws import components
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.factors import FactorMixture
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.noising import schedules
from jaxdiff.noising.process import transition


def every_schedule():
    yield from (
        (schedule, t)
        for schedule in (
            schedules.VariancePreserving(),
            schedules.SubVariancePreserving(),
            schedules.VarianceExploding(),
            schedules.Karras(),
            schedules.Cosine(),
            schedules.RectifiedFlow(),
            schedules.OrnsteinUhlenbeck(),
            schedules.LinearVariance(),
        )
        for t in (0.02, 0.4, 0.97)
    )
    yield from ((schedules.from_betas(np.linspace(1e-3, 0.2, 20)), t) for t in (0.3, 11.0))


D, K = 3, 2
WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[1.0, -0.5, 0.25], [-1.5, 0.75, 2.0]])
SCALARS = np.array([0.5, 1.25])
DIAGONALS = np.array([[0.25, 1.0, 2.0], [1.5, 0.5, 0.75]])
_factors = np.random.default_rng(0).normal(size=(K, D, D))
MATRICES = _factors @ _factors.transpose(0, 2, 1) / D + 0.5 * np.eye(D)
FACTORS = np.random.default_rng(3).normal(size=(K, D, 2))
POINTS = np.random.default_rng(1).normal(size=(12, D))
SUBSPACE = np.diag([2.0, 0.0, 0.5])
X = np.concatenate([MEANS, 2 * np.random.default_rng(2).normal(size=(6, D)), [[15.0, -20.0, 8.0]]])

LAWS = {
    "gaussian-isotropic": lambda: Gaussian(MEANS[0], 0.5),
    "gaussian-diagonal": lambda: Gaussian(MEANS[0], DIAGONALS[0]),
    "gaussian-full": lambda: Gaussian(MEANS[0], MATRICES[0]),
    "gaussian-singular": lambda: Gaussian(MEANS[0], SUBSPACE),
    "mixture-isotropic": lambda: GaussianMixture(WEIGHTS, MEANS, SCALARS),
    "mixture-diagonal": lambda: GaussianMixture(WEIGHTS, MEANS, DIAGONALS),
    "mixture-full": lambda: GaussianMixture(WEIGHTS, MEANS, MATRICES),
    "student-isotropic": lambda: StudentTMixture(WEIGHTS, MEANS, SCALARS, 1.5),
    "student-full": lambda: StudentTMixture(WEIGHTS, MEANS, MATRICES, [2.5, 6.0], 0.25),
    "factors-isotropic": lambda: FactorMixture([1.0], MEANS[:1], FACTORS[:1], SCALARS[:1]),
    "factors-diagonal": lambda: FactorMixture(WEIGHTS, MEANS, FACTORS, DIAGONALS),
    "empirical": lambda: Empirical(POINTS),
}

STRETCHED = {
    "gaussian-full": lambda c: Gaussian(c * MEANS[0], c * MATRICES[0]),
    "mixture-full": lambda c: GaussianMixture(WEIGHTS, c * MEANS, c * MATRICES),
    "student-full": lambda c: StudentTMixture(WEIGHTS, c * MEANS, c * MATRICES, 2 * c),
    "factors-diagonal": lambda c: FactorMixture(WEIGHTS, c * MEANS, FACTORS, c * DIAGONALS),
}

# Covariances as dense matrices, for scipy.
DENSE = {
    "gaussian-isotropic": [0.5 * np.eye(D)],
    "gaussian-diagonal": [np.diag(DIAGONALS[0])],
    "gaussian-full": [MATRICES[0]],
    "gaussian-singular": [SUBSPACE],
    "mixture-isotropic": [s * np.eye(D) for s in SCALARS],
    "mixture-diagonal": [np.diag(s) for s in DIAGONALS],
    "mixture-full": list(MATRICES),
    "factors-isotropic": [FACTORS[0] @ FACTORS[0].T + 0.5 * np.eye(D)],
    "factors-diagonal": [f @ f.T + np.diag(s) for f, s in zip(FACTORS, DIAGONALS, strict=True)],
    "empirical": [np.zeros((D, D))] * len(POINTS),
}


def dense_mixture(name):
    """(weights, means, covariances) of a law that is a mixture of Gaussians."""
    if name == "empirical":
        return np.full(len(POINTS), 1 / len(POINTS)), POINTS, DENSE[name]
    if len(DENSE[name]) == 1:
        return np.ones(1), MEANS[:1], DENSE[name]
    return WEIGHTS, MEANS, DENSE[name]


def reference_log_prob(name, x, alpha, sigma):
    weights, means, covariances = dense_mixture(name)
    terms = [
        np.log(w) + scipy.stats.multivariate_normal(alpha * m, alpha**2 * c + sigma**2 * np.eye(D)).logpdf(x)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return scipy.special.logsumexp(terms, axis=0)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("scales", [(1.0, 0.0), (0.6, 0.8)])
def test_log_density_is_scipys(name, scales, float64):
    law = LAWS[name]()
    if scales[1] > 0:
        law = law.perturbed(Scales(*scales), 0.5)
    elif name in ("gaussian-singular", "empirical"):
        with pytest.raises(ValueError, match=r"no density|singular"):
            law.log_prob(X)
        return
    np.testing.assert_allclose(law.log_prob(X), reference_log_prob(name, X, *scales), rtol=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_denoiser_is_the_score_of_the_noised_law(name, float64):
    """E[noise | x] = -sigma grad log p_t and x = alpha data + sigma noise, on every schedule."""
    law = LAWS[name]()

    @jax.jit
    @jax.vmap
    def evaluate(scales):
        score = jax.vmap(jax.grad(lambda x: law.perturbed(scales, 0.0).log_prob(x)))(X)
        return score, law.denoiser(scales)(X, 0.0)

    alpha, sigma = (
        jnp.stack(v) for v in zip(*((s.alpha(t), s.sigma(t)) for s, t in every_schedule()), strict=True)
    )
    score, denoised = evaluate(Scales(alpha, sigma))
    alpha, sigma = np.asarray(alpha)[:, None, None], np.asarray(sigma)[:, None, None]
    np.testing.assert_allclose(-denoised.noise / sigma, score, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        alpha * denoised.data + sigma * denoised.noise, X[None] + 0 * alpha, rtol=1e-11
    )


@pytest.mark.parametrize(
    "name",
    ["gaussian-full", "mixture-diagonal", "mixture-full", "student-full", "factors-diagonal", "empirical"],
)
def test_the_scale_is_the_root_of_the_mean_variance(name, float64):
    """Over all entries, about the mean of each: from the covariances, and what the means are apart."""
    if name == "student-full":  # nu / (nu - 2) S + v, with 3 for the degrees of freedom below
        weights, means = WEIGHTS, MEANS
        covariances = [n / (n - 2) * c + 0.25 * np.eye(D) for n, c in zip((3.0, 6.0), MATRICES, strict=True)]
    else:
        weights, means, covariances = dense_mixture(name)
    second = sum(w * (np.trace(c) + m @ m) for w, m, c in zip(weights, means, covariances, strict=True))
    mean = weights @ means
    np.testing.assert_allclose(LAWS[name]().scale, np.sqrt((second - mean @ mean) / D), rtol=1e-6)


@pytest.mark.parametrize("name", ["gaussian-full", "mixture-full", "student-full", "factors-diagonal"])
def test_noising_twice_is_noising_once(name, float64):
    schedule, law = schedules.VariancePreserving(), LAWS[name]()
    step = transition(schedule, 0.2, 0.5)
    twice = law.perturbed(schedule, 0.2).affine(*step).log_prob(X)
    np.testing.assert_allclose(twice, law.perturbed(schedule, 0.5).log_prob(X), rtol=1e-9)


@pytest.mark.parametrize("name", ["gaussian-full", "mixture-full", "student-full", "factors-diagonal"])
def test_schedules_themselves(name, float64):
    """The law asks a schedule for alpha and sigma at t, vmapped over the schedule, times and law at once."""
    betas, times = jnp.array([5.0, 20.0]), jnp.array([0.1, 0.5, 0.9])
    stretches = jnp.array([1.0, 1.5])
    laws = jax.vmap(STRETCHED[name])(stretches)

    def evaluate(law, beta, t):
        schedule = schedules.VariancePreserving(0.1, beta)
        return law.denoiser(schedule)(X, t), law.perturbed(schedule, t).log_prob(X)

    over = jax.vmap(evaluate, in_axes=(None, None, 0))
    over = jax.vmap(jax.vmap(over, in_axes=(None, 0, None)), in_axes=(0, None, None))
    together = jax.jit(over)(laws, betas, times)
    alone = jax.jit(evaluate)
    for i, j, k in ((0, 0, 0), (1, 0, 2), (0, 1, 1), (1, 1, 2)):
        one = alone(jax.tree.map(lambda leaf, i=i: leaf[i], laws), float(betas[j]), float(times[k]))
        chosen = jax.tree.map(lambda leaf, at=(i, j, k): leaf[at], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), chosen, one)


@pytest.mark.parametrize("name", ["mixture-full", "student-full", "factors-diagonal", "empirical"])
def test_time_per_row(name, float64, monkeypatch):
    """A time per row, in several chunks, gives what a scalar time gives row by row."""
    monkeypatch.setattr(components, "CHUNK", 4000 if name == "student-full" else 24)
    denoise = LAWS[name]().denoiser(schedules.Cosine())
    times = np.linspace(0.1, 0.9, len(X))
    together = jax.jit(denoise)(jnp.asarray(X), times)
    one = jax.jit(denoise)
    for i, t in enumerate(times):
        row = one(X[i : i + 1], t)
        np.testing.assert_allclose(together.data[i], row.data[0], rtol=1e-10)
        np.testing.assert_allclose(together.noise[i], row.noise[0], rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", few_of(LAWS, [name for name in LAWS if name != "factors-isotropic"]))
def test_half_precision_is_rounded_once(name, dtype):
    """x in half a float: all is computed in float32, and answered in x's dtype; densities stay in float32."""
    law = LAWS[name]()
    x = jnp.asarray(X[:8], dtype)
    for t in (0.3, np.float32(np.linspace(0.2, 0.8, 8))):
        got, wanted = (law.denoiser(schedules.Cosine())(x, t) for x in (x, x.astype(jnp.float32)))
        for low, full in zip(got, wanted, strict=True):
            assert low.dtype == dtype
            np.testing.assert_array_equal(low, full.astype(dtype))
    noised = law.perturbed(schedules.Cosine(), 0.3)
    log_prob = noised.log_prob(x)
    assert log_prob.dtype == jnp.float32
    np.testing.assert_array_equal(log_prob, noised.log_prob(x.astype(jnp.float32)))
    assert Gaussian(jnp.zeros(2, dtype), jnp.ones(2, dtype)).mean.dtype == jnp.float32


@pytest.mark.parametrize(
    "name",
    [
        *("gaussian-full", "gaussian-singular", "mixture-diagonal", "mixture-full", "student-full"),
        *("factors-isotropic", "factors-diagonal", "empirical"),
    ],
)
def test_float32_keeps_its_digits(name):
    """Neither mean is computed from the other: noise at sigma = 1e-3 and data at alpha = 1e-3 are exact."""
    law, small = LAWS[name](), 2.0**-10
    # An empirical law is met near its points; its noise elsewhere is (x - point) / sigma all the same.
    near = np.float32(X[1:9] if name != "empirical" else POINTS[:8] + small)
    far = np.float32(X[1:9])

    @jax.jit
    def evaluate(law, alpha, sigma, x):
        return law.denoiser(Scales(alpha, sigma))(x, 0.0)

    def both(law, dtype):
        one, tiny = jnp.asarray(1, dtype), jnp.asarray(small, dtype)
        noise = evaluate(law, one, tiny, jnp.asarray(near, dtype)).noise
        data = evaluate(law, tiny, one, jnp.asarray(far, dtype)).data
        assert noise.dtype == data.dtype == dtype
        return np.asarray([noise, data], np.float64)

    single = both(law, jnp.float32)
    with jax.enable_x64(True):
        double = both(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), law), jnp.float64)
    error = np.linalg.norm(single - double, axis=-1) / np.linalg.norm(double, axis=-1)
    # The weights of factor analyzers far out are differences of sums of r + d squares.
    assert error.max() < (5e-5 if name == "factors-diagonal" else 1e-5)


def moments(name):
    weights, means, covariances = dense_mixture(name)
    mean = weights @ means
    second = sum(w * (c + np.outer(m, m)) for w, m, c in zip(weights, means, covariances, strict=True))
    return mean, second - np.outer(mean, mean)


@pytest.mark.parametrize(
    "name", ["gaussian-full", "gaussian-singular", "mixture-diagonal", "mixture-full", "factors-diagonal"]
)
def test_sample_moments(name):
    n = 20_000
    x = np.asarray(LAWS[name]().sample(jax.random.key(0), n), np.float64)
    mean, covariance = moments(name)
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(x.mean(0) - mean) <= 4 * error + 1e-6).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert (np.abs(products.mean(0) - covariance) <= 4 * products.std(0) / np.sqrt(n) + 1e-6).all()


@pytest.mark.parametrize(
    "name",
    ["gaussian-full", "mixture-diagonal", "mixture-full", "student-full", "factors-diagonal", "empirical"],
)
def test_samples_do_not_depend_on_how_many(name):
    law, key = LAWS[name](), jax.random.key(3)
    np.testing.assert_allclose(law.sample(key, 8)[:4], law.sample(key, 4), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian-full", "mixture-full", "student-full"])
def test_diagonalized_once(name):
    """No eigendecomposition per time: neither noising nor denoising asks for one."""
    law = LAWS[name]()
    program = jax.make_jaxpr(
        lambda x, t: (
            law.perturbed(schedules.Cosine(), t).log_prob(x),
            law.denoiser(schedules.Cosine())(x, t),
        )
    )(jnp.asarray(X, jnp.float32), 0.5)
    assert "eigh" in str(jax.make_jaxpr(jnp.linalg.eigh)(jnp.eye(D)))
    assert "eigh" not in str(program)


@pytest.mark.parametrize("name", LAWS)
def test_pytree_is_rebuilt_without_checks(name):
    law = LAWS[name]()
    jax.tree.map(jnp.shape, law)  # leaves that are not arrays
    doubled = jax.vmap(lambda _: law)(jnp.arange(2))  # leaves of two laws, which no constructor accepts
    again = jax.tree.map(lambda leaf: leaf[1], doubled)
    jax.tree.map(np.testing.assert_array_equal, again, law)


def test_log_prob_takes_any_leading_shape(float64):
    law = LAWS["mixture-full"]()
    flat = law.log_prob(X[:6])
    np.testing.assert_allclose(law.log_prob(X[:6].reshape(2, 3, D)), flat.reshape(2, 3), rtol=1e-13)
    np.testing.assert_allclose(law.log_prob(X[0]), flat[0], rtol=1e-13)


def _asymmetric():
    matrix = np.eye(D)
    matrix[0, 1] = 0.5
    return matrix


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(np.zeros((2, D)), 1.0), "mean must have shape"),
        (lambda: Gaussian([np.nan, 0.0], 1.0), "mean has 1 non-finite"),
        (lambda: Gaussian(np.zeros(D), np.eye(D + 1)), "covariance must have the shape"),
        (lambda: Gaussian(np.zeros(D), Spectrum(jnp.ones(2))), "covariance must be a Spectrum of values"),
        (
            lambda: GaussianMixture(WEIGHTS, MEANS, Spectrum(jnp.ones((2, D)), jnp.eye(D))),
            "Spectrum of values",
        ),
        (lambda: Gaussian(np.zeros(2), [[np.inf, 0], [0, 1]]), "covariance has 1 non-finite"),
        (lambda: Gaussian(np.zeros(D), _asymmetric()), "covariance must be symmetric"),
        (lambda: Gaussian(np.zeros(D), np.diag([1.0, 2.0, -0.1])), "no negative eigenvalue"),
        (lambda: Gaussian(np.zeros(D), -1.0), "no negative eigenvalue"),
        (lambda: GaussianMixture([0.5, 0.6], MEANS, SCALARS), "weights must sum to 1"),
        (lambda: GaussianMixture([1.5, -0.5], MEANS, SCALARS), "weights must be positive"),
        (lambda: GaussianMixture([1.0], MEANS, SCALARS), "means must have shape"),
        (lambda: GaussianMixture(WEIGHTS, MEANS, np.ones(3)), "covariances must have the shape"),
        (lambda: GaussianMixture(WEIGHTS, MEANS, 1.0), "covariances must have the shape"),
        (lambda: StudentTMixture(WEIGHTS, MEANS, SCALARS, [3.0]), "degrees_of_freedom must be a scalar"),
        (lambda: StudentTMixture(WEIGHTS, MEANS, SCALARS, 0.0), "degrees_of_freedom must be positive"),
        (lambda: StudentTMixture(WEIGHTS, MEANS, SCALARS, 3.0, -1.0), "noise_variance must lie in"),
        (lambda: StudentTMixture(WEIGHTS, MEANS, -SCALARS, 3.0), "scales must have no negative eigenvalue"),
        (lambda: FactorMixture(WEIGHTS, MEANS, FACTORS[0], SCALARS), "factors must have shape"),
        (lambda: FactorMixture(WEIGHTS, MEANS, FACTORS, np.ones(3)), "variances must have the shape"),
        (lambda: FactorMixture(WEIGHTS, MEANS, FACTORS, [0.0, 1.0]), "variances must be positive"),
        (lambda: FactorMixture(WEIGHTS, MEANS, np.inf * FACTORS, SCALARS), "factors has 12 non-finite"),
        (lambda: Empirical(np.zeros(3)), "points must have shape"),
        (lambda: Empirical(np.zeros((0, 3))), "at least one row"),
        (lambda: Empirical([[0.0, np.nan]]), "points has 1 non-finite"),
        (lambda: LAWS["gaussian-full"]().log_prob(np.zeros((4, 2))), r"x must have shape \(\.\.\., 3\)"),
        (lambda: LAWS["empirical"]().log_prob(X), "law.perturbed"),
        (lambda: LAWS["gaussian-full"]().sample(jax.random.key(0), 0), "n must be an integer"),
        (lambda: LAWS["mixture-full"]().denoiser(schedules.Cosine())(jnp.zeros(3), 0.5), "x must have shape"),
        (
            lambda: LAWS["mixture-full"]().denoiser(schedules.Cosine())(jnp.zeros((4, 3)), jnp.zeros(3)),
            "t must be a scalar or have shape",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
