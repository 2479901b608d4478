import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff._numerics import low_discrepancy


def noise(n, d, num=1, seed=0):
    keys = jax.random.split(jax.random.key(seed), num)
    return np.asarray(jax.jit(jax.vmap(lambda key: low_discrepancy.orthogonal_noise(key, n, d)))(keys))


@pytest.mark.parametrize(("n", "d"), [(7, 3), (4, 9), (6, 1)])
def test_each_d_vectors_are_orthogonal(n, d):
    eps = noise(n, d)[0]
    assert eps.shape == (n, d)
    for first in range(0, n, d):
        q = eps[first : first + d] / np.linalg.norm(eps[first : first + d], axis=1, keepdims=True)
        np.testing.assert_allclose(q @ q.T, np.eye(len(q)), atol=2e-6)


@pytest.mark.parametrize("d", [1, 2, 7, 50, 3072])
def test_the_radii_are_chi(d):
    """The table's inverse distribution function against SciPy's, and its mean square, which is d."""
    cumulative, radius = low_discrepancy._radii(d)
    u = np.linspace(1e-5, 1 - 1e-5, 4001)
    np.testing.assert_allclose(np.interp(u, cumulative, radius), stats.chi(d).ppf(u), atol=3e-5)
    square = np.sum(np.diff(cumulative) * (radius[1:] ** 2 + radius[:-1] ** 2) / 2)
    assert square == pytest.approx(d, abs=1e-5)


@pytest.mark.parametrize(("n", "d"), [(3, 3), (2, 5)])
def test_every_vector_is_standard_normal(n, d):
    """Kolmogorov-Smirnov over many keys, for a first, a last and a skew coordinate; sign as it is used."""
    eps = noise(n, d, num=2000)
    for vector in (0, n - 1):
        signed = np.concatenate([eps[:, vector], -eps[:, vector]])
        for direction in (np.eye(d)[0], np.eye(d)[-1], np.ones(d) / np.sqrt(d)):
            # both signs make the sample symmetric, so its distance is that of half as many |z|
            assert stats.kstest(np.abs(signed[:2000] @ direction), stats.halfnorm.cdf).pvalue > 1e-3


def test_means_of_quadratic_forms_vary_little():
    """Against independent vectors, by eq. (1): at d = 20 the variance of a mean of 20 falls 10 times or more."""
    rng = np.random.default_rng(0)
    b = rng.standard_normal((20, 20))
    b = b + b.T
    means = np.einsum("mnd,de,mne->m", (eps := noise(20, 20, num=500)), b, eps) / 20
    error = means.std() / np.sqrt(500)
    assert abs(means.mean() - np.trace(b)) < 4 * error
    independent = 2 * np.sum(b**2) / 20
    assert means.var() < independent / 10


@pytest.mark.parametrize(("freedom", "error"), [(3, 1e-2), (10 / 3, 1e-2), (5, 2e-3), (7, 2e-3), (100, 1e-4)])
def test_student_factor(freedom, error):
    wanted = stats.t(freedom).ppf(0.975) / stats.norm.ppf(0.975)
    assert low_discrepancy.student_factor(freedom) == pytest.approx(wanted, rel=error)


def test_the_mean_is_unbiased_and_its_error_is_calibrated():
    """A function of all that is drawn, with a known integral; 2,000 intervals of 95 %."""

    def integrand(rows, noise, stratum, v):
        direction = noise / jnp.linalg.norm(noise, axis=1, keepdims=True)
        quartic = 8 * direction[:, 0] ** 4 * noise[:, 1] ** 2
        return x[rows, 0] + jnp.exp(v) * quartic + noise[:, 2]

    x = jnp.arange(20.0)[:, None] * jnp.ones((20, 3))
    # E q_0^4 rho^2 q_1^2 = d E q_0^4 q_1^2 = 3 . 3 / (3 . 5 . 7)
    wanted = np.arange(20) + (np.e - 1) * 8 * 9 / 105
    run = jax.jit(jax.vmap(lambda key: low_discrepancy.mean(key, x, integrand, 400, 2**20)))
    value, error = map(np.asarray, run(jax.random.split(jax.random.key(0), 100)))
    off = value - wanted[None]
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(off.size)
    assert 0.92 < (np.abs(off) < 1.96 * error).mean() < 0.98


def test_the_points_are_where_they_should_be():
    """Each cell sees its own stratum, every pairs-th part of it once a sign, and one row of x."""
    seen = []

    def integrand(rows, noise, stratum, v):
        jax.debug.callback(lambda *a: seen.append([np.asarray(part) for part in a]), rows, stratum, v)
        return rows * 100.0 + stratum

    x = jnp.arange(3.0)[:, None]
    cells = low_discrepancy.cell_means(jax.random.key(0), x, integrand, low_discrepancy.Layout(4, 2, 5), 1)
    jax.effects_barrier()
    wanted = 100 * np.arange(3)[:, None, None] + np.arange(4)[None, :, None]
    np.testing.assert_allclose(cells, np.broadcast_to(wanted, (3, 4, 2)))
    assert len(seen) == 24
    for rows, stratum, v in seen:
        assert rows.shape == (10,)
        np.testing.assert_array_equal(np.floor(v * 4), stratum)
        parts = np.floor(v.reshape(1, 10) * 20) % 5
        assert all(sorted(part) == sorted(2 * list(range(5))) for part in parts)
        # The first and the second, and the third and the fourth, lie as far from the two ends of the two.
        within = (v.reshape(2, 5) * 20) % 1
        np.testing.assert_allclose(within[:, [0, 2]] + within[:, [1, 3]], 1, atol=1e-4)


@pytest.mark.parametrize(
    ("number", "d", "wanted"),
    [
        (20, 3, (2, 5, 1)),
        (256, 50, (2, 5, 12)),
        (1024, 50, (2, 5, 50)),
        (1024, 784, (2, 5, 51)),
        (1024, 2, (2, 16, 16)),
        (1400, 50, (2, 7, 50)),
    ],
)
def test_every_stratum_has_five_cells_or_more(number, d, wanted):
    """So that the error has four degrees of freedom also where one stratum has all of the variance."""
    layout = low_discrepancy.layout_of(number, d)
    assert layout == wanted
    assert 0.8 * number < layout.points <= number


def test_the_error_of_one_stratum_that_has_all_the_variance():
    """2,000 intervals of 95 % by two strata, of which the second is known."""

    def integrand(rows, noise, stratum, v):
        return jnp.where(stratum == 0, jnp.abs(noise[:, 0]) + 1 - (2 / np.pi) ** 0.5, 1.0)

    x = jnp.zeros((20, 3))
    run = jax.jit(jax.vmap(lambda key: low_discrepancy.mean(key, x, integrand, 200, 2**20)))
    value, error = run(jax.random.split(jax.random.key(0), 100))
    # By theory .938: P(|t| < 2.571) at four degrees of freedom.
    assert 0.92 < np.mean(np.abs(value - 1) < 1.96 * error) < 0.96


def test_coupled_places_and_radii_take_out_what_is_linear():
    """In v, and in the squared radius with a weight that goes with v: a tenth of the error of one by one."""
    x = jnp.zeros((200, 20))
    layout, key = low_discrepancy.Layout(1, 2, 20), jax.random.key(0)

    def std(integrand):
        return low_discrepancy.cell_means(key, x, integrand, layout, 2**28).std()

    place = std(lambda rows, noise, stratum, v: v)
    radius = std(lambda rows, noise, stratum, v: v * (jnp.sum(noise**2, axis=1) - 20))
    assert place < 0.1 / np.sqrt(12 * 20**3)
    assert radius < 0.25 * np.sqrt(2 * 20 / 20 / 3)


def test_what_is_odd_in_the_noise_has_no_error():
    """Each vector comes with both signs, so an odd function is zero in the mean of every cell."""
    x = jnp.zeros((2, 3))
    odd = lambda rows, noise, stratum, v: v * (noise[:, 0] + noise[:, 1] ** 3)  # noqa: E731
    cells = low_discrepancy.cell_means(jax.random.key(0), x, odd, low_discrepancy.Layout(2, 2, 6), 10_000)
    np.testing.assert_allclose(cells, 0, atol=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match="num_evaluations must be an integer of at least 20"):
        low_discrepancy.mean(jax.random.key(0), jnp.zeros((2, 2)), lambda *a: a[3], 19, 100)
    with pytest.raises(ValueError, match="d must be an integer of at least 1"):
        low_discrepancy.orthogonal_noise(jax.random.key(0), 3, 0)
