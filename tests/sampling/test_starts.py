"""Start laws fitted to noised data: exact laws of estimators, known divergences, tails that stay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compilations, few_of
from scipy.special import digamma

import jaxdiff as jd
from jaxdiff.sampling import starts

KARRAS = jd.Karras()
MODES = jd.GaussianMixture(
    jnp.full(3, 1 / 3), jnp.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]]), jnp.array([0.1, 0.2, 0.3])
)


def mean_divergence(n, d):
    """E KL of Gaussian data from the Gaussian of greatest likelihood for n rows: exact, whatever the moments."""
    return 0.5 * (
        d * n * (1 + 1 / n) / (n - d - 2)
        - d
        + digamma((n - np.arange(1, d + 1)) / 2).sum()
        + d * np.log(2 / n)
    )


@pytest.mark.parametrize(("n", "d", "printed"), [(50, 2, 0.057421), (200, 5, 0.053066)])
def test_a_gaussian_start_loses_what_the_exact_law_says(n, d, printed):
    """Under fixed noise the noised rows are Gaussian data themselves, so the law is exact for every horizon."""
    np.testing.assert_allclose(mean_divergence(n, d), printed, atol=6e-7)
    root = np.random.default_rng(0).standard_normal((d, d))
    law, family = jd.Gaussian(jnp.arange(d) - 1.0, root @ root.T), starts.gaussian(noise="fixed")
    truth = law.perturbed(KARRAS, 1.5)
    covariance = np.asarray(root @ root.T + 1.5**2 * np.eye(d), np.float64)
    inverse_root = np.linalg.inv(np.linalg.cholesky(covariance))

    @jax.jit
    @jax.vmap
    def fits(key):
        data_key, fit_key = jax.random.split(key)
        fit = jd.fit_start(fit_key, family, law.sample(data_key, n), KARRAS, 1.5)
        return fit.mean, (fit.covariance.basis * fit.covariance.values[None]) @ fit.covariance.basis.T

    means, covariances = (np.asarray(a, np.float64) for a in fits(jax.random.split(jax.random.key(0), 2000)))
    relative = inverse_root @ covariances @ inverse_root.T
    shift = (means - np.asarray(truth.mean)) @ inverse_root.T
    inverse = np.linalg.inv(relative)
    losses = 0.5 * (
        np.trace(inverse, axis1=1, axis2=2)
        + np.einsum("ni,nij,nj->n", shift, inverse, shift)
        - d
        + np.linalg.slogdet(relative)[1]
    )
    error = losses.std() / len(losses) ** 0.5
    assert error < 0.03 * printed
    assert abs(losses.mean() - printed) < 3 * error


def test_dynamic_noise_is_exact_for_gaussians():
    """The noised moments of the rows, and no more: under VP with its scale, too."""
    data, schedule, t = MODES.sample(jax.random.key(0), 40), jd.VariancePreserving(), 0.4
    rows = np.asarray(data, np.float64)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    full = jd.fit_start(jax.random.key(1), starts.gaussian(), data, schedule, t)
    covariance = (full.covariance.basis * full.covariance.values[None]) @ full.covariance.basis.T
    np.testing.assert_allclose(full.mean, alpha * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        covariance, alpha**2 * np.cov(rows.T, ddof=0) + sigma**2 * np.eye(2), rtol=1e-5
    )
    one = jd.fit_start(jax.random.key(1), starts.isotropic(), data, schedule, t)
    np.testing.assert_allclose(one.covariance.values, alpha**2 * rows.var(0).mean() + sigma**2, rtol=1e-5)
    none = jd.fit_start(jax.random.key(1), starts.plain(), data, schedule, t)
    np.testing.assert_allclose(
        none.log_prob(jnp.ones(2)), -1 / sigma**2 - np.log(2 * np.pi * sigma**2), rtol=1e-5
    )


def test_a_start_of_low_rank_is_exact_for_gaussians():
    """Data of rank 1 beside white noise: the full Gaussian of the same rows, with fewer numbers, under VP."""
    key, schedule = jax.random.key(0), jd.VariancePreserving()
    data = 1 + jax.random.normal(key, (4000, 1)) * jnp.array([[2.0, -1.0, 0.5, 1.0]])
    data += 0.1 * jax.random.normal(jax.random.key(1), data.shape)
    full, low, mixture = (
        jd.fit_start(jax.random.key(2), family, data, schedule, 0.4)
        for family in (starts.gaussian(), starts.low_rank(1), starts.factor_mixture(1, 1, num_steps=300))
    )
    x = full.sample(jax.random.key(3), 2000)
    truth = full.log_prob(x)
    assert abs(float(jnp.mean(truth - low.log_prob(x)))) < 0.003
    assert abs(float(jnp.mean(truth - mixture.log_prob(x)))) < 0.01
    assert (starts.low_rank(2).num_parameters(10), starts.factor_mixture(3, 2).num_parameters(10)) == (
        30,
        119,
    )


def test_an_early_fit_is_noised_on_exactly():
    """Gaussians are closed under noise: fitted at any time before, they come out the same at t_max."""
    data, schedule = MODES.sample(jax.random.key(0), 40), jd.VariancePreserving()
    at_once = jd.fit_start(jax.random.key(1), starts.gaussian(), data, schedule, 0.6)
    first = jd.fit_start(jax.random.key(1), starts.early(starts.gaussian(), 0.2), data, schedule, 0.6)
    x = MODES.sample(jax.random.key(2), 10)
    np.testing.assert_allclose(first.log_prob(x), at_once.log_prob(x), rtol=1e-5)
    with pytest.raises(ValueError, match="t must be below t_max"):
        jd.fit_start(jax.random.key(1), starts.early(starts.gaussian(), 0.7), data, schedule, 0.6)


@functools.partial(jax.jit, static_argnames="n")
def draw(law, key, n):
    return law.sample(key, n)


@functools.partial(jax.jit, static_argnames="n")
def divergence(truth, start, n):
    """KL(truth || start) and its standard error."""
    x = truth.sample(jax.random.key(99), n)
    gap = truth.log_prob(x) - start.log_prob(x)
    return gap.mean(), gap.std() / n**0.5


def test_a_mixture_start_beats_a_gaussian_one_and_fresh_noise_beats_fixed():
    data, t = MODES.sample(jax.random.key(0), 500), 1.0
    fit = functools.partial(jd.fit_start, data=data, schedule=KARRAS, t_max=t)
    truth = MODES.perturbed(KARRAS, t)
    mixture = functools.partial(starts.gaussian_mixture, 3, num_restarts=2, num_iterations=50)
    gaussian = divergence(truth, fit(jax.random.key(1), starts.gaussian()), 8000)
    losses = {
        noise: [divergence(truth, fit(jax.random.key(seed), mixture(noise=noise)), 8000) for seed in range(4)]
        for noise in ("fixed", "dynamic")
    }
    means = {noise: np.mean([value for value, _ in rows]) for noise, rows in losses.items()}
    error = np.sqrt(sum(e**2 for rows in losses.values() for _, e in rows)) / 4
    # d* / 2n = 17 / 1000 for fixed noise, less where noise is most of what is fitted.
    assert means["dynamic"] + 3 * error < means["fixed"] < 0.04
    assert means["fixed"] < gaussian[0] / 3


HEAVY = jd.StudentTMixture(
    jnp.array([0.6, 0.4]),
    jnp.array([[-1.0, 0.0], [1.0, 0.5]]),
    jnp.array([[[0.5, 0.2], [0.2, 0.3]], [[0.2, 0.0], [0.0, 0.4]]]),
    jnp.array([3.0, 3.0]),
)


@pytest.mark.slow
def test_a_student_start_keeps_the_tails():
    """Its upper quantiles are the noised data's own far out, where a Gaussian of the same moments has none."""
    data, t = HEAVY.sample(jax.random.key(0), 3000), 1.0
    family = starts.student_t_mixture(2, num_restarts=1, num_iterations=60)
    start = jd.fit_start(jax.random.key(1), family, data, KARRAS, t)
    gaussian = jd.fit_start(jax.random.key(1), starts.gaussian(), data, KARRAS, t)
    truth = HEAVY.perturbed(KARRAS, t)
    levels = np.array([0.99, 0.999, 0.9999])  # of which even the last has 10 points beyond it

    def tails(law, key):
        return np.quantile(np.linalg.norm(draw(law, jax.random.key(key), 100_000), axis=1), levels)

    exact, ours, theirs = tails(truth, 2), tails(start, 3), tails(gaussian, 4)
    np.testing.assert_allclose(ours / exact, 1, atol=0.5)
    np.testing.assert_allclose(ours[0] / exact[0], 1, atol=0.1)
    assert theirs[2] < 0.35 * exact[2]
    loss, error = divergence(truth, start, 8000)
    # d* / 2n = 13 / 6000, and what expectation-maximization has not reached yet.
    assert loss < 0.01 + 3 * error
    assert divergence(truth, gaussian, 8000)[0] > 0.05


@pytest.mark.slow
def test_student_mixture_recovers_clean_data():
    """Without noise, of one component: location, scale and degrees of freedom, and more than a Gaussian says."""
    law = jd.StudentTMixture(
        jnp.ones(1), jnp.array([[2.0, -1.0]]), jnp.array([[[1.0, 0.5], [0.5, 2.0]]]), 4.0
    )
    data = law.sample(jax.random.key(0), 4000)
    fit = jd.fit_student_mixture(jax.random.key(1), data, 1, num_restarts=1, num_iterations=40)
    scale = (fit.scales.basis[0] * fit.scales.values[0][None]) @ fit.scales.basis[0].T
    np.testing.assert_allclose(fit.means[0], [2.0, -1.0], atol=0.07)
    np.testing.assert_allclose(scale, [[1.0, 0.5], [0.5, 2.0]], atol=0.15)
    np.testing.assert_allclose(fit.degrees_of_freedom, 4.0, rtol=0.15)
    far = data.at[0].set(jnp.array([1e4, 1e4]))
    again = jd.fit_student_mixture(jax.random.key(1), far, 1, num_restarts=1, num_iterations=40)
    np.testing.assert_allclose(again.means[0], fit.means[0], atol=0.02)


def test_short_runs_from_a_learned_start_and_truncated_grids():
    """From p_T itself on the end of a long grid Heun's samples are the data's; from N(0, sigma^2) they are not."""
    long = jd.times.power_grid(39, t_max=80.0, t_min=0.002, rho=7.0)
    t = float(long[25])
    times = jd.times.truncate(long, t)
    np.testing.assert_array_equal(times, long[25:])
    # The same node in the other precision, on either side of the entry.
    for near in (np.nextafter(np.float32(t), np.float32(9)), np.nextafter(np.float32(t), np.float32(0))):
        cut = jd.times.truncate(long, float(near))
        assert len(cut) == len(times)
        assert float(cut[0]) == pytest.approx(float(near))
    between = jd.times.truncate(long, 0.99 * t)
    np.testing.assert_allclose(between[0], 0.99 * t, rtol=1e-6)
    np.testing.assert_array_equal(between[1:], long[26:])
    n, denoise = 4000, MODES.denoiser(KARRAS)

    def run(x):
        return jd.integrate(jax.random.key(1), denoise, x, times, sampler=jd.Heun())

    start = jd.fit_start(
        jax.random.key(2),
        starts.gaussian_mixture(3, num_restarts=2, num_iterations=50),
        MODES.sample(jax.random.key(3), 2000),
        KARRAS,
        t,
    )
    truth = MODES.sample(jax.random.key(4), n)
    learned = jd.metrics.energy_distance(run(start.sample(jax.random.key(5), n)), truth)
    plain = jd.metrics.energy_distance(run(jd.initial_noise(jax.random.key(5), denoise, n, t)), truth)
    assert learned.value < 3 * learned.standard_error + 0.004
    assert plain.value > 10 * abs(learned.value)


EVERY = {
    "plain": starts.plain(),
    "isotropic": starts.isotropic(),
    "gaussian": starts.gaussian(),
    "fixed": starts.gaussian(noise="fixed"),
    "mixture": starts.gaussian_mixture(2, num_restarts=1, num_iterations=3),
    "student": starts.student_t_mixture(2, num_restarts=1, num_iterations=3),
    "low_rank": starts.low_rank(1),
    "low_rank, fixed": starts.low_rank(1, noise="fixed"),
    "factors": starts.factor_mixture(2, 1, num_steps=3),
    "factors, fixed": starts.factor_mixture(2, 1, num_steps=3, noise="fixed"),
    "early": starts.early(starts.gaussian(), 0.5),
}


@pytest.mark.parametrize("name", few_of(EVERY, ["gaussian", "mixture"]))
def test_images_have_the_law_of_their_entries(name):
    """Laws of the data's shape, of the same density; they start a sampler as they are."""
    data = jax.random.normal(jax.random.key(0), (60, 4)) * jnp.array([[1.0, 2.0, 3.0, 0.5]]) + 1
    flat, shaped = (
        jd.fit_start(jax.random.key(1), EVERY[name], rows, KARRAS, 0.7)
        for rows in (data, data.reshape(60, 2, 2))
    )
    assert (flat.shape, shaped.shape) == ((4,), (2, 2))
    np.testing.assert_allclose(shaped.log_prob(data.reshape(60, 2, 2)), flat.log_prob(data), rtol=1e-3)
    drawn = shaped.sample(jax.random.key(2), 3)
    np.testing.assert_allclose(
        drawn, flat.sample(jax.random.key(2), 3).reshape(3, 2, 2), rtol=1e-3, atol=1e-3
    )
    times = jnp.array([0.7, 0.3, 0.1])
    x = jd.sample(jax.random.key(3), shaped.denoiser(KARRAS), 3, start=shaped, times=times)
    assert x.shape == (3, 2, 2)


@pytest.mark.parametrize("name", few_of(EVERY, [name for name in EVERY if "fixed" not in name]))
def test_a_second_fit_compiles_nothing(name):
    """Of new data at another time, under a schedule of other parameters; and it is not the same again."""

    def fit(seed):
        data = 1 + seed + jax.random.normal(jax.random.key(seed), (60, 2))
        schedule = jd.VariancePreserving(0.1, jnp.float32(20.0 + seed))
        return jd.fit_start(jax.random.key(seed), EVERY[name], data, schedule, 0.6 + 0.1 * seed)

    first = fit(0)
    laws = []
    assert compilations(lambda: laws.append(fit(1))) == 0
    assert float(laws[0].log_prob(jnp.ones(2))) != float(first.log_prob(jnp.ones(2)))


@pytest.mark.parametrize("name", few_of(EVERY, ["gaussian", "student"]))
def test_fits_may_be_traced(name):
    """In the data and in the time; a time out of range gives no law that could be taken for one."""
    data = jax.random.normal(jax.random.key(0), (60, 2)) * jnp.array([[1.0, 2.0]])

    @jax.jit
    def density(data, t):
        return jd.fit_start(jax.random.key(1), EVERY[name], data, jd.VariancePreserving(), t).log_prob(data)

    law = jd.fit_start(jax.random.key(1), EVERY[name], data, jd.VariancePreserving(), 0.7)
    np.testing.assert_allclose(density(data, 0.7), law.log_prob(data), rtol=1e-3, atol=1e-4)
    assert np.isnan(density(data, 1.3)).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_data_in_half_precision_are_fitted_in_single(dtype):
    data = MODES.sample(jax.random.key(0), 200).astype(dtype)
    for name in ("gaussian", "mixture", "student"):
        law = jd.fit_start(jax.random.key(1), EVERY[name], data, KARRAS, 0.7)
        same = jd.fit_start(jax.random.key(1), EVERY[name], data.astype(jnp.float32), KARRAS, 0.7)
        assert law.sample(jax.random.key(2), 2).dtype == jnp.float32
        np.testing.assert_array_equal(law.log_prob(data), same.log_prob(data))


def test_bad_input():
    data, key = MODES.sample(jax.random.key(0), 20), jax.random.key(1)
    gaussian = starts.gaussian()
    with pytest.raises(TypeError, match="floating-point"):
        jd.fit_start(key, gaussian, jnp.zeros((5, 2), int), KARRAS, 1.0)
    with pytest.raises(ValueError, match="non-finite"):
        jd.fit_start(key, gaussian, data.at[3, 0].set(jnp.nan), KARRAS, 1.0)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        jd.fit_start(key, gaussian, data[:1], KARRAS, 1.0)
    with pytest.raises(ValueError, match="outside of the range of RectifiedFlow"):
        jd.fit_start(key, gaussian, data, jd.RectifiedFlow(), 1.5)
    with pytest.raises(ValueError, match="sigma at t_max"):
        jd.fit_start(key, gaussian, data, KARRAS, 0.0)
    with pytest.raises(ValueError, match=r"t_max must have shape \(\), got \(2,\)"):
        jd.fit_start(key, gaussian, data, KARRAS, jnp.ones(2))
    with pytest.raises(
        TypeError, match=r"schedule must be a schedule such as Karras\(\), got the class Karras; call it"
    ):
        jd.fit_start(key, gaussian, data, jd.Karras, 1.0)
    with pytest.raises(
        TypeError, match=r"family must be a Family such as starts.gaussian\(\), got 'gaussian'"
    ):
        jd.fit_start(key, starts.gaussian, data, KARRAS, 1.0)
    only_density = starts.Family(lambda *_: jnp.zeros(2), lambda d: 0)
    with pytest.raises(TypeError, match=r"early family must be closed under noise, but \w+ has no affine"):
        jd.fit_start(key, starts.early(only_density, 0.5), data, KARRAS, 1.0)
    rows = jnp.zeros((6, 6))
    with (
        pytest.warns(UserWarning, match="27 parameters for 6 rows"),
        pytest.raises(ValueError, match=r"more rows than the 6 entries.*60 would do"),
    ):
        jd.fit_start(key, starts.gaussian(noise="fixed"), rows, KARRAS, 1.0)
    with pytest.raises(ValueError, match="noise must be one of 'dynamic', 'fixed'; got 'fresh'"):
        starts.gaussian_mixture(3, noise="fresh")
    with pytest.raises(ValueError, match="covariance must be one of"):
        starts.gaussian_mixture(3, covariance="round")
    with pytest.raises(ValueError, match="noise_variance must lie in"):
        jd.fit_student_mixture(key, data, 1, noise_variance=-1.0)
    with pytest.warns(UserWarning, match="59 parameters for 20 rows.*30 rows would"):
        jd.fit_start(key, starts.gaussian_mixture(10, num_restarts=1, num_iterations=2), data, KARRAS, 1.0)
    long = jd.times.power_grid(5, t_max=80.0, t_min=0.002, rho=7.0)
    with pytest.raises(ValueError, match=r"from 80 to 0.002; got 90"):
        jd.times.truncate(long, 90.0)
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda times: jd.times.truncate(times, 1.0))(long)
    with pytest.raises(ValueError, match="variance must be positive"):
        jd.times.gaussian_grid(KARRAS, 4, variance=0.0, t_max=2.0, t_min=0.1)


def test_labelled_starts_are_those_of_the_rows_that_have_the_label():
    rng = np.random.default_rng(0)
    labels = np.array([1, 0, 1, 1, 0, 0, 1])
    data = jnp.asarray(rng.normal(size=(7, 2)) + 5 * labels[:, None], jnp.float32)
    laws = starts.fit_labelled_start(
        jax.random.key(0), starts.gaussian(), data, jnp.asarray(labels), KARRAS, 2.0
    )
    for label in (0, 1):
        rows = np.asarray(data, np.float64)[labels == label]
        covariance = np.cov(rows.T, bias=True) + 4.0 * np.eye(2)
        law = laws.law(label)
        np.testing.assert_allclose(law.mean, rows.mean(0), rtol=1e-5)
        basis, values = np.asarray(law.covariance.basis), np.asarray(law.covariance.values)
        np.testing.assert_allclose(basis @ np.diag(values) @ basis.T, covariance, rtol=1e-4, atol=1e-5)
