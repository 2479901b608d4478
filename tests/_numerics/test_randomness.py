import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff._numerics.randomness import noise_like, per_row, signs_like


def test_noise_is_standard_normal_and_follows_its_row():
    many = np.asarray(noise_like(jax.random.key(0), jnp.zeros((400, 5))))
    assert stats.kstest(many.ravel(), stats.norm.cdf).pvalue > 1e-3
    assert len(np.unique(many)) == many.size
    np.testing.assert_array_equal(noise_like(jax.random.key(0), jnp.zeros((3, 5))), many[:3])
    assert noise_like(jax.random.key(0), jnp.zeros((3, 5), jnp.bfloat16)).dtype == jnp.bfloat16


def test_signs_are_signs_and_follow_their_row():
    x = jnp.zeros((8, 100))
    signs = signs_like(jax.random.key(2), x, 3)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4 / np.sqrt(signs.size)
    np.testing.assert_array_equal(signs[:, :2], signs_like(jax.random.key(2), x[:2], 3))


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_a_wrong_number_of_rows_is_refused(n):
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        per_row(jax.random.key(0), n, jax.random.normal)
