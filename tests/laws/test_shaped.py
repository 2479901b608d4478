"""A law of images is its law of vectors, entry for entry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff._numerics import checks
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.shaped import Shaped
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.noising.schedules import Cosine

SHAPE, D = (2, 3, 1), 6
RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(2, D))
FACTOR = RNG.normal(size=(D, D))
X = np.float32(RNG.normal(size=(5, *SHAPE)))

LAWS = {
    "gaussian": lambda: Gaussian(MEANS[0], FACTOR @ FACTOR.T + np.eye(D)),
    "mixture": lambda: GaussianMixture([0.3, 0.7], MEANS, [0.5, 1.5]),
    "student": lambda: StudentTMixture([0.3, 0.7], MEANS, np.ones((2, D)), 3.0),
    "empirical": lambda: Empirical(MEANS),
}


@pytest.mark.parametrize("name", LAWS)
def test_it_is_the_law_of_vectors(name):
    law, key = LAWS[name](), jax.random.key(0)
    shaped = Shaped(law, SHAPE)
    assert shaped.shape == SHAPE
    assert shaped.scale == law.scale
    np.testing.assert_array_equal(shaped.sample(key, 4), law.sample(key, 4).reshape(4, *SHAPE))
    for noised, flat in (
        (shaped.affine(0.5, 2.0), law.affine(0.5, 2.0)),
        (shaped.perturbed(Cosine(), 0.3), law.perturbed(Cosine(), 0.3)),
    ):
        assert noised.shape == SHAPE
        checks.law("start", noised, X)
        np.testing.assert_allclose(noised.log_prob(X), flat.log_prob(X.reshape(5, D)), rtol=1e-6)
        np.testing.assert_allclose(
            noised.log_prob(X[:4].reshape(2, 2, *SHAPE)).ravel(), noised.log_prob(X)[:4]
        )
        np.testing.assert_allclose(noised.log_prob(X[0]), noised.log_prob(X)[0], rtol=1e-6)


@pytest.mark.parametrize("t", [0.4, np.float32(np.linspace(0.1, 0.9, 5))], ids=["scalar", "rows"])
@pytest.mark.parametrize("name", LAWS)
def test_its_denoiser_is_that_of_vectors(name, t):
    law = LAWS[name]()
    denoise, flat = Shaped(law, SHAPE).denoiser(Cosine()), law.denoiser(Cosine())
    assert denoise.shape == SHAPE
    assert (denoise.t_min, denoise.t_max, denoise.scale) == (flat.t_min, flat.t_max, flat.scale)
    got = jax.jit(lambda denoise, x, t: denoise(x, t))(denoise, X, t)
    for one, other in zip(got, flat(X.reshape(5, D), t), strict=True):
        assert one.shape == X.shape
        np.testing.assert_allclose(one.reshape(5, D), other, rtol=1e-5, atol=1e-6)
    low = denoise(jnp.asarray(X, jnp.bfloat16), t)
    assert low.data.dtype == low.noise.dtype == jnp.bfloat16


def test_it_is_a_pytree_of_its_law():
    shaped = Shaped(LAWS["gaussian"](), SHAPE)
    stack = jax.vmap(lambda c: Shaped(Gaussian(c * MEANS[0], 1.0), SHAPE))(jnp.arange(1.0, 3.0))
    assert stack.shape == shaped.shape == SHAPE
    scores = jax.vmap(lambda law: law.log_prob(X))(stack)
    np.testing.assert_allclose(scores[1], Gaussian(2 * MEANS[0], 1.0).log_prob(X.reshape(5, D)), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda law: Shaped(law, (2, 2)), r"vectors of 4 numbers .* shape \(2, 2\), got .* shape \(6,\)"),
        (lambda law: Shaped(Shaped(law, (2, 3)), (3, 2)), r"vectors of 6 numbers .* got .* \(2, 3\)"),
        (
            lambda law: Shaped(law, (2, 3)).log_prob(np.zeros((4, 6))),
            r"x must have shape \(\.\.\., 2, 3\), got",
        ),
        (lambda law: Shaped(law, (2, 3)).log_prob(np.zeros(3)), r"x must have shape \(\.\.\., 2, 3\), got"),
        (lambda law: Shaped(law, (2, 3)).denoiser(Cosine())(jnp.zeros((4, 6)), 0.5), r"x must have shape"),
    ],
)
def test_sizes_that_disagree(call, message):
    with pytest.raises(ValueError, match=message):
        call(LAWS["gaussian"]())
