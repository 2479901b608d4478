import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff._numerics import low_discrepancy
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities.classifier import class_logits
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.schedules import Karras, LinearVariance

SCHEDULE = LinearVariance()
CLASSES, D = 5, 3


class Classes:
    """Five mixtures of two Gaussians in R^3: log-densities in NumPy, and the library's objects, stacked."""

    def __init__(self, seed=0, spread=0.8):
        rng = np.random.default_rng(seed)
        centres = spread * rng.standard_normal((CLASSES, 1, D))
        self.means = centres + 0.3 * rng.standard_normal((CLASSES, 2, D))
        self.variances = rng.uniform(0.1, 0.5, (CLASSES, 2, D))

    def log_prob(self, x):
        """(n, CLASSES)."""
        squares = (x[:, None, None] - self.means) ** 2 / self.variances
        parts = -0.5 * (squares + np.log(2 * np.pi * self.variances)).sum(-1)
        return np.logaddexp.reduce(parts, axis=-1) - np.log(2)

    def sample(self, n, seed=1):
        rng = np.random.default_rng(seed)
        c, k = rng.integers(CLASSES, size=n), rng.integers(2, size=n)
        return self.means[c, k] + np.sqrt(self.variances[c, k]) * rng.standard_normal((n, D))

    @property
    def exact(self):
        return labelled(self.means, self.variances)


def labelled(means, variances):
    weights = jnp.full(2, 0.5)
    return Labelled(
        [GaussianMixture(weights, *map(jnp.asarray, part)) for part in zip(means, variances, strict=True)]
    )


LAWS = Classes()
PRIOR = np.log([0.4, 0.3, 0.1, 0.1, 0.1])


def logits_of(key, denoise=None, **options):
    denoise = denoise or dataclasses.replace(LAWS.exact.denoiser(SCHEDULE), scale=1.0)
    return class_logits(key, denoise, **{"num_classes": CLASSES, **options})


def float32(x):
    return jnp.asarray(x, jnp.float32)


def test_logits_are_log_posteriors_by_quadrature(monkeypatch, float64):
    """Of Gaussian classes in one dimension, with a prior: to 1e-8 nats."""
    means, variances = np.array([-0.6, 0.3, 1.0]), np.array([0.2, 0.5, 0.1])
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    v, w = np.polynomial.legendre.leggauss(12)
    v, w = (np.arange(6)[:, None] + (v + 1) / 2).ravel() / 6, np.tile(w / 12, 6)

    def cell_means(key, x, integrand, layout, bytes_per_call):
        """Gauss-Hermite in the noise and Gauss-Legendre in v for what is drawn at random."""
        noise = jnp.tile(nodes, len(v))[:, None]
        rows = jnp.zeros(len(noise), int)
        stratum = jnp.zeros(len(noise), int)
        value = integrand(rows, noise, stratum, jnp.repeat(v, len(nodes))) @ np.outer(w, weights).ravel()
        return jnp.full((1, layout.strata, layout.replicates), value / weights.sum())

    monkeypatch.setattr(low_discrepancy, "cell_means", cell_means)
    x = np.array([-1.0, 0.1, 1.1, 1.5])
    laws = Labelled([Gaussian(jnp.full(1, m), v) for m, v in zip(means, variances, strict=True)])
    result = class_logits(
        jax.random.key(0),
        laws.denoiser(SCHEDULE),
        jnp.asarray(x)[:, None],
        num_classes=3,
        evaluations=Evaluations(20),
        log_prior=PRIOR[:3],
    )
    wanted = PRIOR[:3] - 0.5 * ((x[:, None] - means) ** 2 / variances + np.log(variances))
    np.testing.assert_allclose(result.value, wanted - wanted.max(1, keepdims=True), atol=1e-8)
    assert (wanted.argmax(1) == np.array([0, 1, 2, 1])).all()  # or it would say little


def test_nothing_tells_equal_classes_apart():
    """All see one noise at one level: of two classes of one law the difference is zero point by point."""
    means, variances = LAWS.means[[0, 1, 0]], LAWS.variances[[0, 1, 0]]
    denoise = labelled(means, variances).denoiser(SCHEDULE)
    got = class_logits(
        jax.random.key(0), denoise, float32(means[:, 0]), num_classes=3, evaluations=Evaluations(40)
    )
    np.testing.assert_allclose(got.value[:, 0], got.value[:, 2], atol=1e-5)
    assert np.abs(got.value[:, 1] - got.value[:, 0]).max() > 0.3


@pytest.fixture(scope="module")
def repeated():
    """Logits of 24 rows under 16 keys, (16, 24, CLASSES), plain and by a race; and what the latter cost."""
    x, counted = LAWS.sample(24), []

    def count(x, label):
        counted.append(x.size // D)
        return x

    def counting(x, t, labels):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        label = jnp.broadcast_to(labels[:, None], x.shape)  # of which there is to be one for each class
        x = jax.pure_callback(count, shape, x, label, vmap_method="broadcast_all")
        return LAWS.exact.denoiser(SCHEDULE).given(labels[0])(x, t)  # all rows of a call have one

    def over_keys(run):
        return jax.jit(
            lambda *arguments: jax.lax.map(
                lambda key: run(key, *arguments), jax.random.split(jax.random.key(1), 16)
            )
        )

    @over_keys
    def with_references(key, means, variances):
        references = labelled(means, variances)
        return logits_of(
            key, x=float32(x), log_prior=float32(PRIOR), evaluations=Evaluations(160), references=references
        )

    @over_keys
    def raced(key):
        return logits_of(
            key,
            as_denoiser(counting, SCHEDULE, shape=(D,)),
            x=float32(x),
            log_prior=float32(PRIOR),
            evaluations=Evaluations(320),
            margin=3.0,
            first_round=80,
        )

    means, variances = float32(LAWS.means), float32(LAWS.variances)
    results = {
        "plain": with_references(jnp.zeros_like(means), jnp.ones_like(variances)),  # one for all
        "near": with_references(means, 1.2 * variances),
        "own": with_references(means, variances),
        "race": raced(),
    }
    jax.block_until_ready(results)
    return x, results, sum(counted) / (16 * len(x))


@pytest.mark.parametrize("name", ["plain", "near", "race"])
def test_ratios_are_unbiased_with_honest_errors(repeated, name):
    """Against Bayes' rule in NumPy. Ratios of classes that are eliminated are of fewer evaluations."""
    x, results, _ = repeated
    value, error = (np.asarray(part, np.float64) for part in results[name][:2])
    wanted = LAWS.log_prob(x) + PRIOR
    winner = value.argmax(2)[..., None]
    best = np.broadcast_to(wanted.argmax(1)[None, :, None], winner.shape)
    assert (np.take_along_axis(value, winner, 2) == 0).all()
    assert (np.take_along_axis(error, winner, 2) == 0).all()
    exact = wanted - np.take_along_axis(np.broadcast_to(wanted, value.shape), winner, 2)
    covered = np.abs(value - exact) < 1.96 * error
    assert 0.88 < covered[error > 0].mean() < 0.985
    assert (winner == best).mean() > 0.9
    if name != "race":  # where the winner is the luckier one
        off = value - np.take_along_axis(value, best, 2) - (wanted - wanted.max(1, keepdims=True))
        mean = off.mean((1, 2))  # keys are independent
        assert abs(mean.mean()) < 3 * mean.std(ddof=1) / len(mean) ** 0.5


def test_a_race_spends_where_it_matters(repeated):
    """Of the two likeliest it knows as much as of 320 evaluations each, where they are close, for far fewer."""
    x, results, cost = repeated
    race = results["race"]
    spent = np.asarray(race.num_evaluations)
    # Rows of a call that is not full are asked again and again: eight calls a class and round at the most.
    assert spent.mean() <= cost < 1.5 * spent.mean()
    assert spent.min() == CLASSES * 80
    assert spent.mean() < 0.6 * CLASSES * 320
    ahead = np.diff(np.sort(LAWS.log_prob(x) + PRIOR)[:, -2:])[:, 0]
    close = ahead < np.quantile(ahead, 0.25)
    assert spent[:, close].mean() > 1.3 * spent[:, ~close].mean()
    # Who is not behind by the margin has gone to the end, with another; all others have left.
    running = (np.asarray(race.value) >= -3 * np.asarray(race.standard_error)).sum(2)
    assert (running > 1).any()
    assert (spent[running > 1] >= 320 * running[running > 1]).mean() > 0.95
    assert (spent[running == 1] < CLASSES * 320).mean() > 0.95


@pytest.mark.slow
def test_a_wide_margin_drops_nobody_and_a_race_of_one_round_is_none():
    x = float32(LAWS.sample(6))
    everything = logits_of(jax.random.key(0), x=x, evaluations=Evaluations(60), margin=1e6)
    assert (np.asarray(everything.num_evaluations) == CLASSES * 60).all()
    plain = logits_of(jax.random.key(0), x=x, evaluations=Evaluations(20))
    one = logits_of(jax.random.key(0), x=x, evaluations=Evaluations(20), margin=3.0)
    for got, wanted in zip(one, plain, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_class_that_is_out_stays_out():
    """Of equal classes none is behind, so all of them run to the end; a hopeless one is seen once."""
    means = np.asarray(LAWS.means[[0, 0, 0]])
    means[2] += 6
    denoise = labelled(means, LAWS.variances[[0, 0, 0]]).denoiser(SCHEDULE)
    got = class_logits(
        jax.random.key(0), denoise, float32(means[0]), num_classes=3, evaluations=Evaluations(80), margin=2.0
    )
    assert (np.asarray(got.num_evaluations) == 2 * 80 + 20).all()
    assert np.abs(got.value[:, :2]).max() < 1e-5
    assert got.value[:, 2].max() < -20


def test_references_take_out_what_they_know(repeated):
    """The laws as their own references leave nothing; laws that are a fifth too wide leave a fraction."""
    x, results, _ = repeated
    wanted = LAWS.log_prob(x) + PRIOR
    value, error, _ = results["own"]
    np.testing.assert_allclose(
        value, np.broadcast_to(wanted - wanted.max(1, keepdims=True), value.shape), atol=1e-4
    )
    assert error.max() < 1e-5
    plain, near = (jnp.mean(results[name].standard_error ** 2) for name in ("plain", "near"))
    assert near < 0.2 * plain


class Means(nn.Module):
    """A network with labels that is exact for N(mean of the class, I) under Karras' schedule."""

    @nn.compact
    def __call__(self, x, t, labels):
        mean = self.param("mean", nn.initializers.normal(1.0), (CLASSES, D))[labels]
        return (x + t[:, None] ** 2 * mean) / (1 + t[:, None] ** 2)


def test_a_network_with_labels():
    """Flax through make_denoiser. Classes that are alike differ by nothing at all, and rows are on their own."""
    network, schedule = Means(), Karras()
    params = network.init(jax.random.key(0), jnp.zeros((1, D)), jnp.zeros(1), jnp.zeros(1, int))
    params["params"]["mean"] = params["params"]["mean"].at[3].set(params["params"]["mean"][1])

    denoise = make_denoiser(network.apply, params, schedule, shape=(D,), prediction=prediction.data)

    def run(x):
        options = {"num_classes": CLASSES, "evaluations": Evaluations(100, bytes_per_call=100_000)}
        return class_logits(jax.random.key(0), denoise, x, **options)

    x = np.random.default_rng(0).standard_normal((6, D))
    value, error = (np.asarray(part) for part in run(float32(x))[:2])
    mean = np.asarray(params["params"]["mean"], np.float64)
    wanted = -0.5 * ((x[:, None] - mean) ** 2).sum(2)
    off = value - (wanted - np.take_along_axis(wanted, value.argmax(1)[:, None], 1))
    assert (np.abs(off) < 0.05).all()
    assert error.max() < 0.05 < np.abs(wanted - wanted.max(1, keepdims=True)).mean()
    assert (value[:, 1] == value[:, 3]).all()
    assert (error[:, 1] == error[:, 3]).all()
    x[[1, 3]] += 1
    np.testing.assert_array_equal(np.asarray(run(float32(x)).value)[::2], value[::2])


GOOD = {"x": np.zeros((3, D), np.float32), "evaluations": Evaluations(20)}
BAD = {
    "integers": ({"x": np.zeros((3, D), int)}, TypeError, "x must be an array of floating-point"),
    "nan": ({"x": np.full((3, D), np.nan, np.float32)}, ValueError, "x has 9 non-finite"),
    "few": (
        {"evaluations": Evaluations(19)},
        ValueError,
        "evaluations.number must be an integer of at least 20",
    ),
    "one class": ({"num_classes": 1}, ValueError, "num_classes must be an integer of at least 2"),
    "reference of all": (
        {"evaluations": Evaluations(reference=Gaussian(jnp.zeros(D), 1.0))},
        ValueError,
        "evaluations.reference has no use",
    ),
    "margin": ({"margin": 0.0}, ValueError, "margin must be"),
    "first": (
        {"margin": 3.0, "first_round": 10},
        ValueError,
        "first_round must be an integer of at least 20",
    ),
    "prior": ({"log_prior": jnp.zeros(4)}, ValueError, r"log_prior must have shape \(5,\)"),
    "impossible": ({"log_prior": jnp.log(jnp.arange(5.0))}, ValueError, "log_prior has 1 non-finite"),
    "references": (
        {"references": Labelled([Gaussian(jnp.zeros(2), 1.0)] * CLASSES)},
        ValueError,
        r"references.law\(0\) must be a law of points of shape \(3,\)",
    ),
    "data left": (
        {"denoise": dataclasses.replace(LAWS.exact.denoiser(SCHEDULE), t_max=0.9)},
        ValueError,
        "t_max = 0.9",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    options, error, words = BAD[case]
    with pytest.raises(error, match=words):
        logits_of(jax.random.key(0), **{**GOOD, **options})
