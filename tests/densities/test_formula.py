import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, Chosen, gaussian_denoiser

from jaxdiff._numerics import low_discrepancy
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.densities import formula
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.formula import TimeDensity, density_formula, log_density_increment, noise_level_curve
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.shaped import Shaped
from jaxdiff.noising.schedules import (
    Karras,
    LinearVariance,
    OrnsteinUhlenbeck,
    RectifiedFlow,
    VariancePreserving,
)
from jaxdiff.typing import Denoised

SCHEDULE = LinearVariance()
KEY = jax.random.key(0)


class Law:
    """A mixture with diagonal covariances: its NumPy log-density, and the library's object."""

    def __init__(self, weights, means, variances):
        self.weights, self.means, self.variances = map(np.asarray, (weights, means, variances))

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        """Of alpha data + sigma noise at x, shape (..., d)."""
        variances = alpha**2 * self.variances + sigma**2
        squares = (x[..., None, :] - alpha * self.means) ** 2 / variances
        parts = np.log(self.weights) - 0.5 * (squares + np.log(2 * np.pi * variances)).sum(-1)
        return np.logaddexp.reduce(parts, axis=-1)

    def sample(self, n, seed=0):
        rng = np.random.default_rng(seed)
        k = rng.choice(len(self.weights), size=n, p=self.weights)
        return self.means[k] + np.sqrt(self.variances[k]) * rng.standard_normal((n, self.means.shape[1]))

    @property
    def exact(self):
        return GaussianMixture(*map(jnp.asarray, (self.weights, self.means, self.variances)))

    @property
    def gaussian(self):
        """With the law's own mean and covariance."""
        mean = self.weights @ self.means
        centred = self.means - mean
        covariance = np.einsum("k,ki,kj->ij", self.weights, centred, centred)
        return Gaussian(jnp.asarray(mean), jnp.asarray(covariance + np.diag(self.weights @ self.variances)))


def mixture(d, least=0.1):
    rng = np.random.default_rng(1)
    return Law([0.5, 0.3, 0.2], rng.standard_normal((3, d)), rng.uniform(least, 0.6, (3, d)))


def gaussian(d):
    rng = np.random.default_rng(2)
    mean, variance = rng.standard_normal((1, d)), rng.uniform(0.1, 0.6, (1, d))
    return Law([0.5, 0.3, 0.2], np.repeat(mean, 3, 0), np.repeat(variance, 3, 0))


@pytree
@dataclasses.dataclass(frozen=True)
class Ranged(Chosen):
    """Works at all times that its denoiser knows."""

    @property
    def working_range(self):
        return jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf)


# --- the identities, by quadrature -------------------------------------------------------------------------


def gauss_hermite(n, d):
    """Points (n^d, d) and weights for means over d standard normals."""
    z, w = np.polynomial.hermite_e.hermegauss(n)
    points = np.stack(np.meshgrid(*[z] * d, indexing="ij"), -1).reshape(-1, d)
    return points, functools.reduce(np.multiply.outer, [w / w.sum()] * d).ravel()


def quadrature(nodes):
    """What stands for `low_discrepancy.mean`: Gauss-Hermite in the noise, 6 x 12 Gauss-Legendre nodes in v."""
    v, w = np.polynomial.legendre.leggauss(12)
    v, w = (np.arange(6)[:, None] + (v + 1) / 2).ravel() / 6, np.tile(w / 12, 6)

    def mean(key, x, integrand, num_evaluations, bytes_per_call):
        noise, weights = map(jnp.asarray, gauss_hermite(nodes, x.shape[1]))

        def at(v):
            # Row by row, so that the time of v is sought once for all rows.
            def one(row, noise):
                return integrand(row[None], noise[None], jnp.zeros(1, int), v[None])[0]

            return jax.vmap(lambda row: jax.vmap(one, (None, 0))(row, noise) @ weights)(jnp.arange(len(x)))

        return w @ jax.lax.map(at, jnp.asarray(v)), jnp.zeros(len(x))

    return mean


@pytest.mark.parametrize(("d", "nodes"), [(1, 80), pytest.param(2, 40, marks=pytest.mark.slow)])
def test_the_formulas_hold_under_every_schedule(d, nodes, monkeypatch, float64):
    """log p(x), E[log p_t(X_t) | x] and its increments: within 1e-8, 1e-8 and 1e-10 nats.

    For a mixture and for a Gaussian, which is written as one too, so that they are one compiled call.
    """
    laws = mixture(d, least=0.3), gaussian(d)
    monkeypatch.setattr(low_discrepancy, "mean", quadrature(nodes))
    x = np.array([[0.3, -0.5], [1.5, 0.4]])[:, :d]
    cases = [CASES[name] for name in NAMES]
    options = tuple(case.schedule for case in cases)
    ends = np.array([(case.t_min, case.t_max) for case in cases])
    cells = [(i, j) for i in range(2) for j in range(len(cases))]
    known = jax.tree.map(lambda *parts: jnp.stack(parts), *((law.exact, law.gaussian) for law in laws))

    @jax.jit
    def run(which, numbers, ends):
        def one(cell):
            which, number, (t_min, t_max) = cell
            schedule = Ranged(number, options)
            exact, reference = jax.tree.map(lambda part: part[which], known)
            start = exact.perturbed(schedule, t_max)
            # Its working range is then the whole of it.
            denoise = dataclasses.replace(exact.denoiser(schedule), scale=1.0, t_min=t_min, t_max=t_max)
            call = functools.partial(
                density_formula, KEY, x=jnp.asarray(x), start=start, evaluations=Evaluations(20)
            )
            whole = call(denoise=dataclasses.replace(denoise, t_min=0.0)).value
            noised = call(
                denoise=denoise, extrapolate=False, evaluations=Evaluations(20, reference=reference)
            )
            step = log_density_increment(
                KEY, denoise, jnp.asarray(x), t_min, t_max, evaluations=Evaluations(20)
            )
            return whole, noised.value, step.value

        return jax.lax.map(one, (which, numbers, ends))

    which, numbers = np.asarray(cells).T
    whole, noised, step = run(which, numbers, ends[numbers])
    noise, weights = gauss_hermite(nodes, d)
    for i, (j, number) in enumerate(cells):
        law, name, case = laws[j], NAMES[number], cases[number]
        early, late = (
            law.log_prob(alpha * x[:, None] + sigma * noise, alpha, sigma) @ weights
            for alpha, sigma in ((case.alpha(np.float64(t)), case.sigma(np.float64(t))) for t in ends[number])
        )
        np.testing.assert_allclose(noised[i], early, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(step[i], late - early, atol=1e-10, err_msg=name)
        if name != "ve":  # which has no clean time: what it leaves is of order sigma(0)^4 = 1e-8
            np.testing.assert_allclose(whole[i], law.log_prob(x), atol=1e-8, err_msg=name)
        else:
            np.testing.assert_allclose(whole[i], law.log_prob(x), atol=2e-6)


# --- the estimates -----------------------------------------------------------------------------------------


def within(denoise, t_min=None, t_max=None):
    """The denoiser, of a narrower range."""
    t_min, t_max = denoise.t_min if t_min is None else t_min, denoise.t_max if t_max is None else t_max
    return dataclasses.replace(denoise, t_min=t_min, t_max=t_max)


def estimates(law, x, num_keys, denoise=None, *, evaluations, **options):
    """Values and errors over keys, each (num_keys, batch), in one compiled call."""
    denoise = denoise or law.exact.denoiser(SCHEDULE)
    x = jnp.asarray(x, jnp.float32)

    @jax.jit
    def run(keys):
        return jax.lax.map(lambda key: density_formula(key, denoise, x, evaluations, **options), keys)

    value, error = run(jax.random.split(jax.random.key(1), num_keys))
    return np.asarray(value, np.float64), np.asarray(error, np.float64)


def assert_unbiased_and_calibrated(value, error, wanted):
    off = value - wanted[None]
    # Every key is an independent replicate of the mean over rows.
    assert abs(off.mean()) < 4 * off.mean(1).std(ddof=1) / np.sqrt(len(off))
    assert 0.9 < (np.abs(off) < 1.96 * error).mean() < 0.98


@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("reference", ["none", "gaussian"])
def test_estimates_are_unbiased_with_honest_errors(d, reference):
    law = mixture(d)
    x = law.sample(30)
    value, error = estimates(
        law, x, 40, evaluations=Evaluations(420, reference=law.gaussian if reference == "gaussian" else None)
    )
    assert_unbiased_and_calibrated(value, error, law.log_prob(x))


def test_off_the_distribution_too():
    """Points that no sample is near, log-densities of -60 and less, at t from 1e-7 on."""
    law = mixture(10)
    x = law.sample(30) + np.random.default_rng(5).standard_normal((30, 10))
    value, error = estimates(law, x, 40, evaluations=Evaluations(400, reference=law.gaussian))
    assert np.median(law.log_prob(x)) < -20
    assert_unbiased_and_calibrated(value, error, law.log_prob(x))


def test_a_truncated_range_and_a_time_density():
    """A start far from noise, E[log p_tmin(X_tmin) | x] at the other end, and masses that are far from even."""
    law, schedule = mixture(2), OrnsteinUhlenbeck()
    x = law.sample(30)
    t_min, t_max = 0.1, 0.7
    value, error = estimates(
        law,
        x,
        40,
        within(law.exact.denoiser(schedule), t_min, t_max),
        evaluations=Evaluations(400, time_density=TimeDensity(0.5, jnp.asarray([0.3, 2.0, 1.0, 5.0, 1.0]))),
        start=law.exact.perturbed(schedule, t_max),
        extrapolate=False,
    )
    noise, weights = gauss_hermite(40, 2)
    alpha, sigma = np.exp(-t_min), np.sqrt(-np.expm1(-2 * t_min))
    wanted = law.log_prob(alpha * x[:, None] + sigma * noise, alpha, sigma) @ weights
    assert_unbiased_and_calibrated(value, error, wanted)


@pytest.mark.slow
def test_open_ends_are_extrapolated():
    """EDM's range [0.002, 80] and a coarse one, [0.03, 12]: what is left is of second order in both ends."""
    law, schedule = mixture(2), Karras()
    x = law.sample(30)
    narrow = within(law.exact.denoiser(schedule), 0.03, 12.0)
    value, error = estimates(law, x, 40, narrow, evaluations=Evaluations(400, reference=law.gaussian))
    assert_unbiased_and_calibrated(value, error, law.log_prob(x))
    x = x[:8]
    coarse = {
        "denoise": within(law.exact.denoiser(schedule), 0.1, 80.0),
        "evaluations": Evaluations(4000, reference=law.gaussian),
    }
    cut, _ = estimates(law, x, 4, **coarse)
    noised, _ = estimates(law, x, 4, **coarse, extrapolate=False)
    off, off_noised = (np.abs(v.mean(0) - law.log_prob(x)).mean() for v in (cut, noised))
    assert off < 0.25 * off_noised


def test_data_without_a_density():
    """Data on a line in the plane: E[log p_t(X_t) | x] is a Gaussian's, with -log sigma_t of the normal."""
    schedule, t = RectifiedFlow(), 0.02
    angle = np.array([0.6, 0.8])
    law = Gaussian(jnp.zeros(2), Spectrum(jnp.asarray([1.5, 0.0]), jnp.asarray([[0.6, -0.8], [0.8, 0.6]])))
    x = np.linspace(-2, 2, 30)[:, None] * angle
    value, error = estimates(
        None,
        x,
        40,
        within(law.denoiser(schedule), t),
        # 50 bins, falling as 1 / u
        evaluations=Evaluations(400, time_density=TimeDensity(1.0, jnp.log1p(1 / jnp.arange(1.0, 51)))),
        extrapolate=False,
    )
    along, across = (1 - t) ** 2 * 1.5 + t**2, t**2
    square = ((1 - t) ** 2 * (x @ angle) ** 2 + t**2) / along + t**2 / across
    wanted = -0.5 * (square + np.log(along) + np.log(across)) - np.log(2 * np.pi)
    assert_unbiased_and_calibrated(value, error, wanted)


def test_the_law_itself_as_reference_leaves_nothing():
    law = mixture(5)
    x = law.sample(10)
    value, error = estimates(law, x, 2, evaluations=Evaluations(40, reference=law.exact))
    np.testing.assert_allclose(value, np.broadcast_to(law.log_prob(x), (2, 10)), atol=2e-5)
    assert error.max() < 1e-5


def test_increments_add_up_to_their_ends():
    """Over a range that noise does not dominate, against the same by Gauss-Hermite."""
    law, schedule = mixture(2), VariancePreserving()
    x = jnp.asarray(law.sample(30), jnp.float32)
    run = jax.jit(
        jax.vmap(
            lambda key: log_density_increment(
                key, law.exact.denoiser(schedule), x, 0.05, 0.6, evaluations=Evaluations(400)
            )
        )
    )
    value, error = run(jax.random.split(jax.random.key(0), 40))
    noise, weights = gauss_hermite(40, 2)
    early, late = (
        law.log_prob(alpha * np.asarray(x)[:, None] + sigma * noise, alpha, sigma) @ weights
        for alpha, sigma in ((CASES["vp"].alpha(t), CASES["vp"].sigma(t)) for t in (0.05, 0.6))
    )
    assert_unbiased_and_calibrated(np.asarray(value, np.float64), np.asarray(error), late - early)


@pytest.mark.slow
def test_better_references_and_time_densities_pay():
    """Errors of narrow data, std 0.03: the right scale with a reference, and a pilot without, halve them."""
    rng = np.random.default_rng(3)
    law = Law([0.5, 0.5], 0.05 * rng.standard_normal((2, 3)), 0.03**2 * rng.uniform(0.3, 2, (2, 3)))
    x, training = (jnp.asarray(law.sample(n, seed=n), jnp.float32) for n in (20, 24))
    exact, wide = law.exact.denoiser(SCHEDULE), Gaussian(jnp.zeros(3), 1.0)

    @jax.jit
    def errors(keys, masses):
        def run(reference, time_density):
            def one(key):
                return density_formula(
                    key,
                    exact,
                    x,
                    evaluations=Evaluations(320, reference=reference, time_density=time_density),
                ).value

            off = jax.lax.map(one, keys) - law.exact.log_prob(x)[None]
            return jnp.sqrt(jnp.mean(off**2))

        even = TimeDensity(1.0, jnp.ones(50))
        return (
            run(wide, even),
            run(wide, TimeDensity(1.0, masses)),
            run(law.gaussian, even),
            run(law.gaussian, TimeDensity(0.05, jnp.ones(50))),
        )

    pilot = jax.jit(
        functools.partial(
            formula.pilot_time_density,
            denoise=exact,
            x=training,
            evaluations=Evaluations(1600, reference=wide, time_density=TimeDensity(1.0)),
        ),
        static_argnames="num_bins",
    )(jax.random.key(8), num_bins=50)
    assert np.argmax(pilot.masses) < 5
    plain, piloted, gaussian, scaled = map(
        float, errors(jax.random.split(jax.random.key(1), 10), pilot.masses)
    )
    assert piloted < plain / 2
    assert gaussian < plain / 1.2
    assert scaled < gaussian / 2


def test_the_pilot_starves_no_bin():
    """Where denoiser and reference agree the integrand is zero, on the pilot's rows; it may not be on others."""
    exact = Gaussian(jnp.zeros(2), 1.0).denoiser(Karras())

    def wrong_in_the_middle(x, t):
        answer = exact(x, t)
        t = jnp.reshape(t, (-1, 1))
        off = jnp.where((t > 0.5) & (t < 2), jnp.sin(3 * x), 0)
        return Denoised(answer.data - t * off, answer.noise + off)

    denoise = as_denoiser(wrong_in_the_middle, Karras(), shape=(2,))
    x = exact(jax.random.normal(KEY, (8, 2)), 0.1).data
    masses = formula.pilot_time_density(KEY, denoise, x, evaluations=Evaluations(200), num_bins=10).masses
    np.testing.assert_allclose(masses.min(), masses.mean() / 11, rtol=1e-3)
    assert masses.max() > 2 * masses.mean()


def test_the_gradient_is_the_score():
    law = mixture(3)
    x = jnp.asarray(law.sample(12), jnp.float32)
    denoise = law.exact.denoiser(SCHEDULE)

    def total(x, key):
        return density_formula(
            key,
            denoise,
            x,
            evaluations=Evaluations(
                240,
                bytes_per_call=40_000,
            ),
        ).value.sum()

    gradients = np.asarray(
        jax.jit(jax.vmap(jax.grad(total), in_axes=(None, 0)))(x, jax.random.split(jax.random.key(0), 60))
    )
    wanted = jax.vmap(jax.grad(law.exact.log_prob))(x)
    error = gradients.std(0, ddof=1) / np.sqrt(60)
    np.testing.assert_array_less(np.abs(gradients.mean(0) - wanted), 4 * error + 1e-4)
    assert error.mean() < 0.2 * np.abs(wanted).mean()  # or the comparison would say nothing


# --- the curve ---------------------------------------------------------------------------------------------


def test_the_curve_of_a_gaussian():
    """E|r|^2 = d (1 - s)^2 + alpha^2 |x|^2 sigma^2 / Q^2, s = sigma^2 / Q: all levels, and its errors."""
    schedule, times = VariancePreserving(), np.array([0.02, 0.2, 0.5, 0.9])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((20, 3)), jnp.float32)
    denoise = gaussian_denoiser(schedule, 0.0, 0.7, (3,))
    run = jax.jit(jax.vmap(lambda k: noise_level_curve(k, denoise, x, times, evaluations=Evaluations(400))))
    curve = run(jax.random.split(jax.random.key(0), 20))
    alpha, sigma = CASES["vp"].alpha(times), CASES["vp"].sigma(times)
    total = alpha**2 * 0.7 + sigma**2
    mean = sigma * alpha / total * np.linalg.norm(x, axis=1)[:, None]
    wanted = 3 * (1 - sigma**2 / total) ** 2 + mean**2
    np.testing.assert_allclose(curve.log_snr[0], 2 * np.log(alpha / sigma), rtol=1e-4)
    off = np.asarray(curve.squared_error) - wanted[None]
    assert (np.abs(off.mean((0, 1))) < 4 * off.std((0, 1)) / np.sqrt(400)).all()
    assert 0.9 < (np.abs(off) < 1.96 * curve.standard_error).mean() < 0.98


def test_the_local_dimension():
    """Two pieces in five dimensions, of dimensions 1 and 3: each point knows its own."""
    values = np.zeros((2, 5))
    values[0, :1], values[1, 1:4] = 1.0, 1.0
    law = GaussianMixture(
        jnp.asarray([0.5, 0.5]), jnp.zeros((2, 5)).at[1].set(3.0), Spectrum(jnp.asarray(values))
    )
    x = np.zeros((2, 5))
    x[0, 0], x[1] = 0.7, [3, 3.5, 2.0, 3.3, 3]
    curve = noise_level_curve(
        jax.random.key(0),
        law.denoiser(SCHEDULE),
        jnp.asarray(x, jnp.float32),
        jnp.asarray([0.5, 1e-4]),
        evaluations=Evaluations(3200),
    )
    error = np.asarray(curve.standard_error)[:, 1]
    assert (np.abs(np.asarray(curve.local_dimension) - [1, 3]) < 4 * error).all()
    assert error.max() < 0.1


# --- the call ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_calls_and_shapes_do_not_matter():
    """One row alone, other chunks, and images: the same numbers. One trace of the denoiser."""
    law = mixture(4)
    x = jnp.asarray(law.sample(5), jnp.float32)
    exact, traces = law.exact.denoiser(SCHEDULE), []
    images = Shaped(law.exact, (2, 2)).denoiser(SCHEDULE)

    def count(x, t):
        traces.append(x.shape)
        return exact(x, t)

    counting = as_denoiser(count, SCHEDULE, shape=(4,), scale=exact.scale)

    def run(x, denoise, rows=2**28):
        return density_formula(
            jax.random.key(3),
            denoise,
            x,
            evaluations=Evaluations(
                90,
                bytes_per_call=rows,
            ),
        )

    whole, first = run(x, counting), len(traces)
    run(x + 1, counting)
    assert len(traces) == first
    for other in (run(x, exact, 1), run(x, exact, 40_000), run(x.reshape(5, 2, 2), images)):
        np.testing.assert_allclose(other.value, whole.value, rtol=1e-5)
        np.testing.assert_allclose(other.standard_error, whole.standard_error, rtol=1e-3)
    np.testing.assert_allclose(run(x[:2], exact).value, whole.value[:2], rtol=1e-5)


def test_references_of_images():
    """One with a covariance of its own, and a start, against the same by vectors."""
    law, schedule = mixture(4), OrnsteinUhlenbeck()
    x = jnp.asarray(law.sample(5), jnp.float32)
    flat, start = within(law.exact.denoiser(schedule), 0.01, 2.0), law.exact.perturbed(schedule, 2.0)
    shaped = within(Shaped(law.exact, (4, 1, 1)).denoiser(schedule), 0.01, 2.0)
    run = functools.partial(density_formula, KEY, extrapolate=False)
    wanted = run(flat, x, evaluations=Evaluations(40, reference=law.gaussian), start=start)
    got = run(
        shaped,
        x.reshape(5, 4, 1, 1),
        evaluations=Evaluations(40, reference=Shaped(law.gaussian, (4, 1, 1))),
        start=Shaped(start, (4, 1, 1)),
    )
    np.testing.assert_allclose(got.value, wanted.value, rtol=1e-4)


def test_the_unit_of_the_data_does_not_matter():
    """Data a hundred times smaller and larger under Karras: the same errors, with the defaults."""
    law, errors = mixture(3), {}
    for unit in (0.01, 1.0, 100.0):
        scaled = Law(law.weights, unit * law.means, unit**2 * law.variances)
        x = scaled.sample(30)
        value, error = estimates(scaled, x, 20, scaled.exact.denoiser(Karras()), evaluations=Evaluations(420))
        assert_unbiased_and_calibrated(value, error, scaled.log_prob(x))
        errors[unit] = np.sqrt(np.mean((value - scaled.log_prob(x)) ** 2))
    np.testing.assert_allclose(list(errors.values()), errors[1.0], rtol=0.01)


GOOD = {"x": np.zeros((3, 2), np.float32), "evaluations": Evaluations(20)}
BAD = {
    "integers": ({"x": np.zeros((3, 2), int)}, TypeError, "x must be an array of floating-point"),
    "nan": ({"x": np.full((3, 2), np.nan, np.float32)}, ValueError, "x has 6 non-finite"),
    "shape": ({"x": np.zeros((3, 3), np.float32)}, ValueError, r"x must have shape \(batch, 2\)"),
    "key": ({"key": 0}, TypeError, "key must be a key"),
    "function": ({"denoise": lambda x, t: x}, TypeError, "denoise must be a Denoiser"),
    "few": (
        {"evaluations": Evaluations(19)},
        ValueError,
        "evaluations.number must be an integer of at least 20",
    ),
    "reference": ({"evaluations": Evaluations(reference=Gaussian(jnp.zeros(3), 1.0))}, ValueError, "shape"),
    "singular": ({"evaluations": Evaluations(reference=Gaussian(jnp.zeros(2), 0.0))}, ValueError, "positive"),
    "points": (
        {"evaluations": Evaluations(reference=Empirical(jnp.zeros((4, 2))))},
        ValueError,
        "no density",
    ),
    "start": ({"start": Gaussian(jnp.zeros(3), 1.0)}, ValueError, "shape"),
    "data left": (
        {"denoise": within(gaussian_denoiser(SCHEDULE, 0.0, 1.0, (2,)), t_max=0.9)},
        ValueError,
        r"log-SNR at t_max = 0.9 of LinearVariance.* is -2.2 .* wanted less than -4",
    ),
    "data hidden": (
        {"denoise": within(gaussian_denoiser(SCHEDULE, 0.0, 1.0, (2,)), t_min=0.05)},
        ValueError,
        r"log-SNR at t_min = 0.05 of LinearVariance.* is 2.94 .* wanted more than 4",
    ),
    "masses": (
        {"evaluations": Evaluations(time_density=TimeDensity(1.0, (1.0, 0.0)))},
        ValueError,
        "masses must be positive",
    ),
    "scale": (
        {"evaluations": Evaluations(time_density=TimeDensity(0.0))},
        ValueError,
        "scale must be positive",
    ),
    "bytes": (
        {"evaluations": Evaluations(bytes_per_call=0)},
        ValueError,
        "bytes_per_call must be an integer",
    ),
    "number": ({"evaluations": 420}, TypeError, r"Evaluations, got int: write Evaluations\(420\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    options, error, message = BAD[case]
    options = {"key": KEY, "denoise": gaussian_denoiser(SCHEDULE, 0.0, 1.0, (2,)), **GOOD, **options}
    with pytest.raises(error, match=message):
        density_formula(options.pop("key"), options.pop("denoise"), options.pop("x"), **options)


def test_what_noise_hides_is_nan_where_it_is_traced_and_no_matter_without_extrapolation():
    def value(t_min, **options):
        denoise = within(gaussian_denoiser(SCHEDULE, 0.0, 1.0, (2,)), t_min=t_min)
        return density_formula(KEY, denoise, GOOD["x"], evaluations=Evaluations(1000), **options)

    assert np.isnan(jax.jit(value)(0.05).value).all()
    assert np.isfinite(jax.jit(value)(0.01).value).all()
    # N(0, I) noised is N(0, I), and the mean of its log-density at noise of variance .05 around 0 is this.
    at_t_min = value(0.05, extrapolate=False)
    assert np.all(np.abs(at_t_min.value + np.log(2 * np.pi) + 0.05) < 4 * at_t_min.standard_error)
    assert np.all(at_t_min.standard_error < 0.01)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ((0.5, 0.2), "s must be below t"),
        ((-0.1, 0.2), "s = -0.1 is outside"),
        ((0.1, 1.5), "t = 1.5 is outside"),
        ((np.zeros(3), 0.2), "s must have shape"),
    ],
)
def test_bad_times_of_an_increment(times, words):
    denoise = gaussian_denoiser(SCHEDULE, 0.0, 1.0, (2,))
    with pytest.raises(ValueError, match=words):
        log_density_increment(KEY, denoise, GOOD["x"], *times, evaluations=Evaluations(20))


def test_traced_times_that_are_refused_make_nan():
    denoise = gaussian_denoiser(SCHEDULE, 0.0, 1.0, (2,))
    increment = jax.jit(
        lambda s, t: log_density_increment(KEY, denoise, GOOD["x"], s, t, evaluations=Evaluations(20))
    )
    assert np.isfinite(increment(0.1, 0.5).value).all()
    assert np.isnan(increment(0.5, 0.1).value).all()
    curve = jax.jit(
        lambda times: noise_level_curve(KEY, denoise, GOOD["x"], times, evaluations=Evaluations(32))
    )
    np.testing.assert_array_equal(
        np.isnan(curve(jnp.asarray([0.0, 0.5])).squared_error), np.array([[True, False]] * 3)
    )


def test_bad_input_of_the_curve():
    call = functools.partial(noise_level_curve, KEY, gaussian_denoiser(SCHEDULE, 0.0, 1.0, (2,)), GOOD["x"])
    with pytest.raises(ValueError, match="sigma at each of times must be positive"):
        call(jnp.asarray([0.0, 0.5]), Evaluations(100))
    with pytest.raises(ValueError, match=r"evaluations\.number must be an integer of at least 32"):
        call(jnp.asarray([0.1, 0.5]), Evaluations(31))
    with pytest.raises(ValueError, match=r"times\[1\] = 1.5 is outside"):
        call(jnp.asarray([0.1, 1.5]), Evaluations(100))
    with pytest.raises(ValueError, match=r"evaluations\.reference has no use in this call"):
        call(jnp.asarray([0.1, 0.5]), Evaluations(100, reference=Gaussian(jnp.zeros(2), 1.0)))
