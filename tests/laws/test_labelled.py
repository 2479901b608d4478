"""A law for each label: each row is denoised as by the law of its label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.shaped import Shaped
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.noising.schedules import Cosine

RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(3, 2, 4))
FACTORS = RNG.normal(size=(3, 4, 4))
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])
TIMES = np.linspace(0.2, 0.8, len(LABELS))

FAMILIES = {
    "gaussian": [Gaussian(m[0], f @ f.T + np.eye(4)) for m, f in zip(MEANS, FACTORS, strict=True)],
    "mixture": [GaussianMixture([0.2, 0.8], m, [0.5, 1.0]) for m in MEANS],
    "student": [StudentTMixture([0.2, 0.8], m, [0.5, 1.0], 3.0) for m in MEANS],
    "empirical": [Empirical(m) for m in MEANS],
    "images": [Shaped(Gaussian(m[0], 0.5), (2, 2)) for m in MEANS],
}


def points(laws):
    return jnp.asarray(np.random.default_rng(1).normal(size=(len(LABELS), *laws[0].shape)), jnp.float32)


@pytest.mark.parametrize("rows", [False, True], ids=["scalar", "rows"])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_row_is_denoised_by_the_law_of_its_label(name, rows):
    laws = FAMILIES[name]
    x, t = points(laws), np.float32(TIMES) if rows else 0.4
    denoise = Labelled(laws).denoiser(Cosine())
    wanted = [law.denoiser(Cosine())(x, t) for law in laws]
    got = denoise.given(LABELS)(x, t)
    under_jit = jax.jit(lambda denoise, labels: denoise.given(labels)(x, t))(denoise, LABELS)
    for answer in (got, under_jit):
        for i, label in enumerate(LABELS):
            for part, other in zip(answer, wanted[label], strict=True):
                np.testing.assert_allclose(part[i], other[i], rtol=1e-5, atol=1e-6)
    for label, other in enumerate(wanted):
        for one in (label, [label]):
            for a, b in zip(denoise.given(np.array(one))(x, t), other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    rows = jnp.array([4, 0])
    some = denoise.given(LABELS).at_rows(rows)(x[rows], t if np.ndim(t) == 0 else t[rows])
    np.testing.assert_allclose(some.data, got.data[rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "images", pytest.param("student", marks=pytest.mark.slow)])
def test_points_of_given_labels_are_drawn_and_told_by_their_own_laws(name):
    laws, key = FAMILIES[name], jax.random.key(3)
    labelled, x = Labelled(laws), points(laws)
    bound = labelled.given(LABELS.tolist())
    assert bound.shape == laws[0].shape
    each = [law.sample(key, len(LABELS)) for law in laws]
    drawn, told = bound.sample(key, len(LABELS)), bound.log_prob(x)
    for i, label in enumerate(LABELS):
        np.testing.assert_allclose(drawn[i], each[label][i], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(told[i], laws[label].log_prob(x)[i], rtol=1e-5)
    np.testing.assert_allclose(labelled.given(1).sample(key, 3), laws[1].sample(key, 3), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="one row for each of the 5"):
        bound.sample(key, 5)
    with pytest.raises(ValueError, match=r"one of 0, \.\.\., 2"):
        labelled.given([0, 3])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_law_of_a_label(name):
    labelled = Labelled(FAMILIES[name])
    assert labelled.num_labels == 3
    assert labelled.shape == FAMILIES[name][0].shape
    for label, law in enumerate(FAMILIES[name]):
        jax.tree.map(np.testing.assert_array_equal, labelled.law(label), law)
    wanted = np.sqrt(np.mean([law.scale**2 for law in FAMILIES[name]]))
    np.testing.assert_allclose(labelled.scale, wanted, rtol=1e-6)


def test_a_label_out_of_range():
    laws = FAMILIES["gaussian"]
    labelled, x = Labelled(laws), points(laws)
    denoise = labelled.denoiser(Cosine())
    for label in (3, -1):
        with pytest.raises(ValueError, match=rf"one of 0, ..., 2, one for each law; got {label}"):
            denoise.given(np.where(np.arange(7) == 3, label, 0))(x, 0.5)
        with pytest.raises(ValueError, match=rf"got {label}"):
            labelled.law(label)
        labels = np.where(np.arange(7) == 3, label, 0)
        got = jax.jit(lambda labels: denoise.given(labels)(x, 0.5))(labels)
        for part in got:
            np.testing.assert_array_equal(
                np.isnan(part), np.broadcast_to((labels == label)[:, None], x.shape)
            )
        assert np.isnan(jax.jit(lambda label: denoise.given(label)(x, 0.5).data)(label)).all()
        assert np.isnan(jax.jit(lambda label: labelled.law(label).mean)(label)).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda law: Labelled([]), ValueError, "at least one law"),
        (lambda law: Labelled([law, Gaussian(np.zeros(4), 1.0)]), ValueError, "law 1, a Gaussian of arrays"),
        (lambda law: Labelled([law, Empirical(MEANS[0])]), ValueError, "law 1, a Empirical"),
        (lambda law: Labelled([law]).denoiser(Cosine())(jnp.zeros((2, 4)), 0.5), ValueError, "needs labels"),
        (
            lambda law: Labelled([law]).denoiser(Cosine()).given(0.0)(jnp.zeros((2, 4)), 0.5),
            TypeError,
            "label must be an array of integers",
        ),
        (
            lambda law: (
                Labelled([law]).denoiser(Cosine()).given(np.zeros((2, 1), int))(jnp.zeros((2, 4)), 0.5)
            ),
            ValueError,
            "labels must be a scalar",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(FAMILIES["gaussian"][0])
