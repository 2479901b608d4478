"""Flows as start laws: the Gaussian at first, then closer to a law whose density is known."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import compilations

from jaxdiff.laws.fitting import fit_gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.models import PatchFlow, SplineCoupling
from jaxdiff.noising.schedules import Karras, VariancePreserving
from jaxdiff.sampling import flow_fitting
from jaxdiff.sampling.flow_fitting import fit_flow
from jaxdiff.sampling.flows import Flow
from jaxdiff.sampling.whitening import fit_whitening, stretch

MODEL = SplineCoupling(num_layers=2, width=32, num_blocks=1, num_bins=6)
CLASSES = MODEL.clone(num_classes=2)
RNG = np.random.default_rng(0)
T = 0.5
RING = 1.6 * np.stack([np.cos(np.arange(5) * 1.2566), np.sin(np.arange(5) * 1.2566)], 1)
LAW = GaussianMixture(np.full(5, 0.2), RING, np.full((5,), 0.02))
LOG_PROB = jax.jit(Flow.log_prob)
SAMPLE = jax.jit(Flow.sample, static_argnums=2)
FIT = {"num_steps": 400, "batch_size": 256, "learning_rate": 5e-3, "evaluate_every": 100}


def moved(params, scale=0.05):
    return jax.tree.map(lambda p: p + scale * jnp.asarray(RNG.standard_normal(p.shape), p.dtype), params)


@pytest.fixture(scope="module")
def data():
    return LAW.sample(jax.random.key(1), 3000)


@pytest.fixture(scope="module")
def noised():
    """Points of the noised law that no fit has seen, and its exact density there."""
    law = LAW.perturbed(Karras(), T)
    x = law.sample(jax.random.key(2), 20000)
    return x, law.log_prob(x)


def divergence(noised, log_prob):
    """KL(p_T || law), the mean of a log-ratio, and its standard error."""
    x, exact = noised
    ratio = np.asarray(exact - log_prob(x), np.float64)
    return ratio.mean(), ratio.std() / math.sqrt(len(ratio))


@pytest.fixture(scope="module")
def images():
    """Correlated images of 2 x 4 pixels, and a flow of them that is not the Gaussian."""
    root = RNG.standard_normal((8, 8)) / 2 + np.eye(8)
    x = 3 + RNG.standard_normal((500, 8)) @ root
    model = PatchFlow(patch_size=2, width=8, num_blocks=2, num_layers=1, num_heads=2, num_classes=2)
    x = jnp.asarray(x.reshape(-1, 2, 4, 1), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), x[:1], jnp.zeros(1, int))
    return x, Flow(fit_gaussian(x.reshape(-1, 8)), params, model, (2, 4, 1))


def test_before_training_it_is_the_gaussian(images):
    x, flow = images
    flat = flow.gaussian.log_prob(x.reshape(-1, 8))
    np.testing.assert_allclose(LOG_PROB(flow, x), flat, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        LOG_PROB(flow, x[:6].reshape(2, 3, 2, 4, 1)), flat[:6].reshape(2, 3), atol=1e-5
    )
    n = 4000
    drawn = np.asarray(SAMPLE(flow, jax.random.key(3), n)).reshape(n, 8)
    covariance = np.cov(x.reshape(-1, 8).T, bias=True)
    error = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
    assert (np.abs(drawn.mean(0) - x.reshape(-1, 8).mean(0)) < 4 * np.sqrt(np.diag(covariance) / n)).all()
    assert (np.abs(np.cov(drawn.T, bias=True) - covariance) < 4.5 * error).all()


@pytest.mark.parametrize("guided", [False, True])
def test_samples_are_of_the_density(images, guided):
    """E[q / p] = 1 over samples of p, for a q that p covers; and an affine map of x has its Jacobian."""
    x, flow = images
    flow = Flow(flow.gaussian, moved(flow.params), flow.model, flow.shape)
    flow = flow.conditioned(1, guidance=0.7) if guided else flow
    drawn = SAMPLE(flow, jax.random.key(4), 4000)
    log_p = LOG_PROB(flow, drawn)
    narrow = flow.gaussian
    half = fit_gaussian(0.6 * x.reshape(-1, 8) + 0.4 * narrow.mean[None])
    ratio = np.exp(np.asarray(half.log_prob(drawn.reshape(-1, 8)) - log_p, np.float64))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(ratio))
    assert ratio.std() < 10
    assert np.abs(np.asarray(log_p - narrow.log_prob(drawn.reshape(-1, 8)))).mean() > 0.05


def test_a_sample_does_not_depend_on_their_number(images):
    """Across the size above which samples are made in parts."""
    _, flow = images
    flow = Flow(flow.gaussian, moved(flow.params), flow.model, flow.shape)
    few, many = SAMPLE(flow, jax.random.key(5), 3), SAMPLE(flow, jax.random.key(5), 5001)
    assert many.shape == (5001, 2, 4, 1)
    np.testing.assert_allclose(few, many[:3], rtol=0, atol=1e-4)
    assert len(np.unique(np.asarray(many).reshape(5001, 8), axis=0)) == 5001
    in_parts = LOG_PROB(flow, many)
    np.testing.assert_allclose(LOG_PROB(flow, many[-5:]), in_parts[-5:], rtol=0, atol=1e-3)


@pytest.mark.parametrize("noise", [pytest.param("dynamic", marks=pytest.mark.slow), "fixed"])
def test_a_fit_leaves_a_small_part_of_the_gaussian_s_divergence(data, noised, noise):
    reported = []

    def report(step, metrics, rate):
        reported.append((step, metrics.loss.mean()))

    flow = fit_flow(jax.random.key(0), MODEL, data, Karras(), T, noise=noise, report=report, **FIT)
    gaussian, gaussian_error = divergence(noised, flow.gaussian.log_prob)
    rest, error = divergence(noised, lambda x: LOG_PROB(flow, x))
    assert gaussian - 4 * gaussian_error > 0.1
    assert -4 * error < rest < gaussian / 4 - 4 * error, (rest, error, gaussian)
    steps, losses = zip(*reported, strict=True)
    assert steps == tuple(range(50, 401, 50))
    # Minus the gain in nats: what the divergence fell by, up to a batch of 50 x 256 draws and the average.
    assert abs(losses[-1] + gaussian - rest) < 0.05
    if noise == "dynamic":
        part = LAW.perturbed(Karras(), T)
        second = (RING.T @ RING) / 5 + (0.02 + T**2) * np.eye(2)
        fitted = np.asarray(flow.gaussian.covariance.basis * flow.gaussian.covariance.values[None])
        fitted = fitted @ np.asarray(flow.gaussian.covariance.basis).T
        np.testing.assert_allclose(fitted, second, rtol=0, atol=4 * second[0, 0] * math.sqrt(2 / 2700))
        x = SAMPLE(flow, jax.random.key(6), 4000)
        entropy = np.asarray(part.log_prob(noised[0]))
        scores = np.asarray(part.log_prob(x))
        spread = math.sqrt(entropy.var() / len(entropy) + scores.var() / len(scores))
        assert abs(scores.mean() - entropy.mean()) < 4 * spread + 0.05


@pytest.mark.slow
def test_images_are_fitted_too():
    """A mixture of two Gaussians on images of 2 x 2 pixels, by a flow over patches, and again by the same key."""
    means = np.array([[1.0, -1.0, 1.0, 0.0], [-1.0, 1.0, 0.0, 1.0]])
    law = GaussianMixture(np.full(2, 0.5), means, np.full(2, 0.1))
    images = law.sample(jax.random.key(1), 3000).reshape(-1, 2, 2, 1)
    model = PatchFlow(patch_size=1, width=16, num_blocks=2, num_layers=1, num_heads=2)
    few = {**FIT, "num_steps": 300}
    flow, again = (fit_flow(jax.random.key(0), model, images, Karras(), T, **few) for _ in range(2))
    for a, b in zip(jax.tree.leaves(flow), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    noised = law.perturbed(Karras(), T)
    x = noised.sample(jax.random.key(2), 4000)
    seen = x, noised.log_prob(x)
    gaussian, gaussian_error = divergence(seen, flow.gaussian.log_prob)
    rest, error = divergence(seen, lambda x: LOG_PROB(flow, x.reshape(-1, 2, 2, 1)))
    assert gaussian - 4 * gaussian_error > 0.05
    assert -4 * error < rest < 0.75 * gaussian - 4 * error


@pytest.mark.slow
def test_labels_tell_the_classes_apart():
    """Two Gaussians on either side of a line: each class is near its own law, no class near the mixture."""
    schedule, t = VariancePreserving(), 0.4
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    n = 4000
    labels = np.arange(n) % 2
    centers = np.array([[1.5, 0.5], [-1.5, -0.5]])
    data = jnp.asarray(centers[labels] + 0.5 * RNG.standard_normal((n, 2)), jnp.float32)
    flow = fit_flow(jax.random.key(0), CLASSES, data, schedule, t, labels=labels, **FIT)
    variance = alpha**2 * 0.25 + sigma**2
    draws = RNG.standard_normal((8000, 2)) * math.sqrt(variance)

    def log_density(x, center):
        return -((x - alpha * center) ** 2).sum(1) / (2 * variance) - math.log(2 * math.pi * variance)

    for label in (0, 1):
        x = alpha * centers[label] + draws
        own, other, none = (
            np.asarray(LOG_PROB(law, jnp.asarray(x, jnp.float32)), np.float64)
            for law in (flow.conditioned(label), flow.conditioned(1 - label), flow)
        )
        exact = log_density(x, centers[label])
        mixture = np.logaddexp(exact, log_density(x, centers[1 - label])) - math.log(2)
        assert -0.01 < (exact - own).mean() < 0.03
        assert -0.01 < (mixture - none).mean() < 0.06
        assert (own - other).mean() > 0.5
        drawn = np.asarray(SAMPLE(flow.conditioned(label), jax.random.key(7), 2000))
        assert (np.abs(drawn.mean(0) - alpha * centers[label]) < 4 * math.sqrt(variance / 2000) + 0.08).all()


def test_the_best_evaluation_is_kept_and_the_fit_ends_in_time(data, noised):
    """At a rate at which nothing is learnt the Gaussian is what is left, and patience runs out."""
    reported = []
    options = {**FIT, "learning_rate": 30.0, "num_steps": 100_000, "evaluate_every": 20, "patience": 2}

    def report(step, *_):
        reported.append(step)

    small = MODEL.clone(num_layers=1, width=8)
    flow = fit_flow(jax.random.key(0), small, data, Karras(), T, report=report, **options)
    gaussian, error = divergence(noised, flow.gaussian.log_prob)
    rest, _ = divergence(noised, lambda x: LOG_PROB(flow, x))
    assert rest < gaussian + 4 * error
    assert reported[-1] < 400


@pytest.mark.parametrize("noise", ["dynamic", "fixed"])
def test_rows_held_out_are_not_fitted(noise):
    """The rows of a fit and those that judge it, next to no noise, are parts of the data without a common row."""
    data = jnp.asarray(10 * RNG.standard_normal((40, 2)), jnp.float32)
    gaussian, part, test = flow_fitting._prepare(
        jax.random.key(0), data, None, Karras(), 1e-4, 15, noise, None
    )

    def numbers(u):
        x = stretch(gaussian, u, 0.5) + gaussian.mean[None]
        return set(
            np.argmin(((np.asarray(x)[:, None] - np.asarray(data)[None]) ** 2).sum(-1), axis=1).tolist()
        )

    fitted, judging = numbers(part.u), numbers(test.u)
    assert (len(fitted), len(judging)) == (25, 15)
    assert fitted | judging == set(range(40))
    np.testing.assert_allclose(gaussian.mean, data[jnp.asarray(sorted(fitted))].mean(0), rtol=1e-3)


def test_what_is_returned_is_the_best_of_what_was_judged(monkeypatch):
    """The average over steps, not the parameters that go into it; and of these not the last, but the best."""
    programs, judged = flow_fitting._programs, []

    def watched(*arguments):
        of_arguments = programs(*arguments)

        def gain(params, rows):
            judged.append((float(of_arguments.gain(params, rows)), jax.tree.map(jnp.copy, params)))
            return judged[-1][0] if len(judged) != 4 else -1.0

        return of_arguments._replace(gain=gain)

    monkeypatch.setattr(flow_fitting, "_programs", watched)
    small, data = MODEL.clone(num_layers=1, width=8, num_blocks=1), LAW.sample(jax.random.key(1), 300)
    options = {"num_steps": 120, "batch_size": 64, "evaluate_every": 40, "learning_rate": 1e-2}
    flow = fit_flow(jax.random.key(0), small, data, Karras(), T, **options)
    gains = [gain for gain, _ in judged]
    assert len(gains) == 4
    assert 0 == gains[0] < gains[1] < gains[2]
    for a, b in zip(jax.tree.leaves(flow.params), jax.tree.leaves(judged[2][1]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("power", [0.5, -0.5])
def test_powers_of_a_covariance_of_low_rank(power):
    """Against the eigenvalues of the dense matrix, in float64; and a column that has no length changes nothing."""
    x = RNG.standard_normal((400, 12)) @ RNG.standard_normal((12, 12))
    law = fit_whitening(jnp.asarray(x, jnp.float32), 4)
    factors = np.asarray(law.factors[0], np.float64)
    values, basis = np.linalg.eigh(factors @ factors.T + float(law.variances[0, 0]) * np.eye(12))
    wanted = x[:5] @ (basis * values**power) @ basis.T
    np.testing.assert_allclose(stretch(law, jnp.asarray(x[:5], jnp.float32), power), wanted, rtol=2e-4)
    wider = dataclasses.replace(law, factors=jnp.pad(law.factors, ((0, 0), (0, 0), (0, 1))))
    np.testing.assert_allclose(stretch(wider, jnp.asarray(x[:5], jnp.float32), power), wanted, rtol=2e-4)


@pytest.mark.parametrize(("rank", "degrees_of_freedom"), [(3, None), (None, 3.5)])
def test_other_whitening_and_other_bases_have_their_density(images, rank, degrees_of_freedom):
    """E[q / p] = 1 over samples of p, for a q that p covers, and their covariance is that of the law at first."""
    x, flow = images
    gaussian = fit_whitening(x.reshape(-1, 8), rank)
    flow = Flow(gaussian, flow.params, flow.model, flow.shape, degrees_of_freedom=degrees_of_freedom)
    z = SAMPLE(flow, jax.random.key(3), 20_000).reshape(-1, 8)
    if degrees_of_freedom is None:
        np.testing.assert_allclose(LOG_PROB(flow, x), gaussian.log_prob(x.reshape(-1, 8)), rtol=0, atol=1e-5)
    else:
        # SciPy's density of the Student law whose covariance is the Gaussian's.
        covariance = np.asarray(gaussian.covariance.basis, np.float64)
        covariance = covariance * np.asarray(gaussian.covariance.values, np.float64) @ covariance.T
        student = scipy.stats.multivariate_t(
            np.asarray(gaussian.mean, np.float64),
            covariance * (degrees_of_freedom - 2) / degrees_of_freedom,
            degrees_of_freedom,
        )
        np.testing.assert_allclose(LOG_PROB(flow, x), student.logpdf(x.reshape(-1, 8)), rtol=0, atol=3e-4)
        beyond = np.asarray(stretch(gaussian, z - gaussian.mean[None], -0.5))[:, 0]
        unit = (degrees_of_freedom / (degrees_of_freedom - 2)) ** 0.5
        wanted = 2 * scipy.stats.t(degrees_of_freedom).sf(4 * unit)
        assert abs(np.mean(np.abs(beyond) > 4) - wanted) < 4 * math.sqrt(wanted / 20_000)
    moved_flow = dataclasses.replace(flow, params=moved(flow.params))
    drawn = SAMPLE(moved_flow, jax.random.key(4), 4000)
    half = fit_whitening(0.6 * x.reshape(-1, 8) + 0.4 * x.reshape(-1, 8).mean(0)[None], rank)
    ratio = np.exp(np.asarray(half.log_prob(drawn.reshape(-1, 8)) - LOG_PROB(moved_flow, drawn), np.float64))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(ratio))
    assert ratio.std() < 10


@pytest.mark.slow
def test_a_student_base_leaves_less_of_heavy_tails(data):
    """Of a Student t law of three degrees of freedom: less than the Gaussian base, whose tails no spline mends."""
    law = StudentTMixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None], np.full(1, 3.0))
    rows = law.sample(jax.random.key(1), 4000)
    noised = law.perturbed(Karras(), T)
    x = noised.sample(jax.random.key(2), 20_000)
    exact = noised.log_prob(x)
    lost = []
    for nu in (None, 3.2):
        flow = fit_flow(jax.random.key(0), MODEL, rows, Karras(), T, degrees_of_freedom=nu, **FIT)
        lost.append(np.asarray(exact - LOG_PROB(flow, x), np.float64))
    gaussian, student = lost
    gain = gaussian - student
    assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))
    assert student.mean() < 4 * student.std() / math.sqrt(len(student)) + 0.01 < gaussian.mean() / 2


@pytest.mark.slow
def test_second_calls_compile_nothing(images):
    """New parameters, keys and points, sampled and asked for densities; and a second fit, but for its checks."""
    x, flow = images

    def ask(seed):
        law = Flow(flow.gaussian, moved(flow.params, 0.01 * seed), flow.model, flow.shape).conditioned(
            seed % 2
        )
        return law.sample(jax.random.key(seed), 7), law.log_prob(x[seed : seed + 5])

    assert compilations(lambda: ask(1)) > 0
    assert compilations(lambda: ask(2)) == 0
    model = MODEL.clone(num_layers=1, width=8)

    def fit(seed):
        data = LAW.sample(jax.random.key(seed), 100)
        options = {"num_steps": 4, "batch_size": 8, "evaluate_every": 2}
        return fit_flow(jax.random.key(seed), model, data, Karras(), T + 0.1 * seed, **options)

    assert compilations(lambda: fit(1)) > 0
    assert compilations(lambda: fit(2)) == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_single(images, dtype):
    x, flow = images
    log_p = flow.log_prob(x.astype(dtype))
    assert log_p.dtype == jnp.float32
    np.testing.assert_array_equal(log_p, flow.log_prob(x.astype(dtype).astype(jnp.float32)))
    data = LAW.sample(jax.random.key(1), 100).astype(dtype)
    model, few = MODEL.clone(num_layers=1, width=8), {"num_steps": 2, "batch_size": 8, "evaluate_every": 2}
    law = fit_flow(jax.random.key(0), model, data, Karras(), T, **few)
    assert law.sample(jax.random.key(1), 2).dtype == jnp.float32


class _Sum(nn.Module):
    """A model that forgets an axis."""

    @nn.compact
    def __call__(self, x, labels=None):
        return x.sum(1), x.sum(1)


LABELS = np.arange(100) % 2
BAD = RNG.standard_normal((100, 2))
NAN = np.where(np.arange(200).reshape(100, 2) == 7, np.nan, BAD)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((MODEL, BAD[:, 0], Karras(), T), {}, ValueError, r"shape \(n, ...\)"),
        ((MODEL, BAD.astype(int), Karras(), T), {}, TypeError, "data must be an array of floating-point"),
        ((MODEL, BAD, Karras, T), {}, TypeError, "got the class Karras; call it"),
        ((MODEL, NAN, Karras(), T), {}, ValueError, "data has 1 non-finite"),
        ((MODEL, BAD[:60], Karras(), T), {}, ValueError, "6 would be held out .* 100 rows would do"),
        (
            (MODEL, np.zeros((12, 50)), Karras(), T),
            {"noise": "fixed", "held_out": 0.5},
            ValueError,
            "106 rows",
        ),
        ((MODEL, BAD, Karras(), T), {"held_out": 0.8}, ValueError, "held_out must lie in"),
        ((MODEL, BAD, Karras(), T), {"noise": "none"}, ValueError, "noise must be one of 'dynamic', 'fixed'"),
        ((MODEL, BAD, Karras(), -1.0), {}, ValueError, "t_max = -1 is outside of the range"),
        ((MODEL, BAD, Karras(), 0.0), {}, ValueError, "t_max = 0.0, must be positive"),
        ((MODEL, BAD, Karras(), T), {"labels": LABELS}, ValueError, "model without classes"),
        ((CLASSES, BAD, Karras(), T), {}, ValueError, "labels are missing for a model of 2 classes"),
        ((CLASSES, BAD, Karras(), T), {"labels": LABELS[:50]}, ValueError, "labels must have shape"),
        ((CLASSES, BAD, Karras(), T), {"labels": LABELS + 1}, ValueError, r"labels must lie in \[0, 1\]"),
        (
            (CLASSES, BAD, Karras(), T),
            {"labels": LABELS / 2},
            TypeError,
            "labels must be an array of integers",
        ),
        ((MODEL, BAD.reshape(100, 2, 1), Karras(), T), {}, ValueError, "x must have shape"),
        ((_Sum(), BAD, Karras(), T), {}, ValueError, r"must answer \(z, log_det\) of shapes"),
        ((MODEL, BAD, Karras(), T), {"rank": 2}, ValueError, r"rank must lie in \[1, 1\]"),
        ((MODEL, BAD, Karras(), T), {"degrees_of_freedom": 2.0}, ValueError, "must be positive"),
        ((MODEL, BAD, Karras(), T), {"patience": 0}, ValueError, "patience must be an integer of at least 1"),
    ],
)
def test_bad_input_is_refused(arguments, options, error, says):
    with pytest.raises(error, match=says):
        fit_flow(jax.random.key(0), *arguments, **options)


def test_bad_questions_to_a_flow_are_refused(images):
    x, flow = images
    with pytest.raises(ValueError, match=r"x must have shape \(..., 2, 4, 1\), got \(500, 8\)"):
        flow.log_prob(x.reshape(-1, 8))
    with pytest.raises(ValueError, match=r"label must lie in \[0, 2\], got 3"):
        flow.conditioned(3)
    with pytest.raises(TypeError, match="label must be an array of integers"):
        flow.conditioned(0.5)
    with pytest.raises(ValueError, match="model has no classes"):
        Flow(flow.gaussian, None, MODEL, (8,)).conditioned(0)
