"""The choice of a horizon against the oracle's, and the dip against its definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxdiff as jd
from jaxdiff.sampling import starts
from jaxdiff.sampling.horizon import dip

KARRAS = jd.Karras()


def least_dip(x):
    """The least D for which a unimodal G with |F_n - G| <= D exists, by linear programming over every mode."""
    x, n = np.unique(x), len(x)
    assert len(x) == n

    def with_mode(m):
        # G at the points left of the mode and up to it (the limit from the left), from it on to the right, D.
        rows, bounds = [], []

        def at_most(coefficients, bound):
            row = np.zeros(n + 2)
            for place, value in coefficients:
                row[place] += value
            rows.append(row)
            bounds.append(bound)

        left, right = list(range(m + 1)), [n, *range(m + 1, n)]
        places = np.append(x, x[m])
        for i in range(n):
            after, before = (n, m) if i == m else (i, i)
            at_most([(after, -1), (n + 1, -1)], -(i + 1) / n)
            at_most([(before, 1), (n + 1, -1)], i / n)
        at_most([(n, 1), (n + 1, -1)], (m + 1) / n)
        at_most([(m, -1), (n + 1, -1)], -m / n)
        at_most([(m, 1), (n, -1)], 0)
        for points, sign in ((left, 1), (right, -1)):
            for i, j in itertools.pairwise(points):
                at_most([(i, 1), (j, -1)], 0)
            for i, j, k in zip(points[:-2], points[1:-1], points[2:], strict=True):
                first, second = 1 / (places[j] - places[i]), 1 / (places[k] - places[j])
                at_most([(j, sign * (first + second)), (i, -sign * first), (k, -sign * second)], 0)
        cost = np.append(np.zeros(n + 1), 1)
        found = linprog(cost, A_ub=np.array(rows), b_ub=bounds, bounds=[(0, 1)] * (n + 2))
        return found.fun if found.status == 0 else np.inf

    return min(map(with_mode, range(n)))


def test_the_dip_is_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = rng.integers(4, 22)
        x = rng.standard_normal(n) + rng.integers(0, 2, n) * rng.choice([0, 3, 6])
        np.testing.assert_allclose(dip(x), least_dip(x), atol=1e-9)


def test_the_dip_of_extreme_cases():
    assert dip(np.arange(10.0)) == pytest.approx(1 / 20)
    assert dip(np.repeat([0.0, 1.0], 50) + 1e-6 * np.arange(100)) == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="x must have shape"):
        dip(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="at least one number"):
        dip(np.zeros(0))


def test_two_modes_are_seen_until_noise_hides_them():
    """Two Gaussians of equal weight, 4 apart, stay bimodal exactly while their standard deviation is below 2."""
    law = jd.GaussianMixture(jnp.full(2, 0.5), jnp.array([[-2.0, 0, 0], [2.0, 0, 0]]), jnp.full(2, 0.25))
    scores = [
        jd.dip_score(jax.random.key(1), law.perturbed(KARRAS, t).sample(jax.random.key(0), 1000))
        for t in (0.1, 1.0, 4.0)
    ]
    assert scores[0] > 20 > scores[1] > 3 > 1 > scores[2]


def random_law(d, heavy):
    """A mixture of three Gaussian or Student t components in d dimensions."""
    rng = np.random.default_rng(d)
    weights = jnp.asarray(rng.dirichlet(np.full(3, 3.0)), jnp.float32)
    means = rng.uniform(0.5, 2) * rng.standard_normal((3, d))
    roots = rng.standard_normal((3, d, d)) / d**0.5
    covariances = 0.5 * roots @ roots.swapaxes(1, 2) + 0.05 * np.eye(d)
    weights, means, covariances = weights / weights.sum(), jnp.asarray(means), jnp.asarray(covariances)
    if heavy:
        return jd.StudentTMixture(weights, means, covariances, 4.0)
    return jd.GaussianMixture(weights, means, covariances)


@pytest.mark.parametrize(("d", "heavy"), [(2, False), (5, True), (50, False)])
def test_the_horizon_is_nearly_the_best_one(d, heavy):
    """Within 20 % of the least divergence that an oracle, who knows the law, finds among the horizons."""
    law = random_law(d, heavy)
    family, horizons = starts.gaussian(), [0.5, 1.0, 2.0, 8.0]
    data, denoise = law.sample(jax.random.key(0), 1000), law.denoiser(KARRAS)
    choice = jd.choose_horizon(
        jax.random.key(1),
        family,
        denoise,
        data,
        KARRAS,
        num_steps=20,
        horizons=horizons,
        t_min=0.05,
        t_end=80.0,
    )
    fresh = law.sample(jax.random.key(2), 1000)

    @jax.jit
    def oracle(start, times):
        budget = jd.kl_budget(jax.random.key(3), denoise, law, KARRAS, start, times)
        first = jd.initialization_error(
            jax.random.key(4), denoise, KARRAS, start, fresh, times[0], t_end=80.0
        )
        return first.value + budget.discretization.value

    pilot = jd.score_curvature(
        jax.random.key(5),
        denoise,
        KARRAS,
        fresh,
        jd.times.log_snr_grid(KARRAS, 31, t_max=8.0, t_min=0.05),
    )
    totals = {}
    for t in horizons:
        start = jd.fit_start(jax.random.key(6), family, data, KARRAS, t)
        totals[t] = float(oracle(start, jd.optimal_grid(pilot, KARRAS, 20, t_max=t, t_min=0.05)))
    assert totals[choice.t_max] < 1.2 * min(totals.values())
    # The wrong end would be much worse, so the choice means something.
    assert max(totals.values()) > 2 * min(totals.values())
    assert choice.times.shape == (21,)
    assert float(choice.times[0]) == pytest.approx(choice.t_max)
    table = str(choice).splitlines()
    assert len(table) == len(horizons) + 2
    marked = [line for line in table if line.endswith("<- shortest within an error of the least")]
    assert marked == [table[1 + horizons.index(choice.t_max)]]


def test_a_family_without_denoiser_is_measured_by_a_reference():
    """The Gaussian family in disguise: its error by way of a mixture is that of the Gaussian itself."""
    law = jd.GaussianMixture(
        jnp.array([0.3, 0.7]), jnp.array([[-1.5, 0.0], [1.0, 0.5]]), jnp.array([0.1, 0.2])
    )

    class OnlyDensity:
        def __init__(self, law):
            self.sample, self.log_prob = law.sample, law.log_prob

    gaussian = starts.gaussian()
    hidden = gaussian._replace(fit=lambda *arguments: OnlyDensity(gaussian.fit(*arguments)))
    mixture = starts.gaussian_mixture(2, num_restarts=2, num_iterations=30)

    def choose(family, **options):
        data = law.sample(jax.random.key(0), 4000)
        return jd.choose_horizon(
            jax.random.key(1),
            family,
            law.denoiser(KARRAS),
            data,
            KARRAS,
            num_steps=10,
            horizons=[0.5, 1.0],
            t_min=0.05,
            t_end=40.0,
            **options,
        )

    for seen, known in zip(
        choose(hidden, reference=mixture).candidates, choose(gaussian).candidates, strict=True
    ):
        error = np.hypot(seen.standard_error, known.standard_error)
        assert error < 0.4 * known.initialization
        assert abs(seen.initialization - known.initialization) < 3 * error
    with pytest.raises(ValueError, match=r"no denoiser.*pass reference="):
        choose(hidden)


def test_bad_input():
    law = jd.Gaussian(jnp.zeros(2), 1.0)
    data = law.sample(jax.random.key(0), 20)

    def choose(data=data, horizons=(1.0,), **options):
        options = {"num_steps": 4, "t_min": 0.1, "t_end": 10.0, **options}
        return jd.choose_horizon(
            jax.random.key(0),
            starts.gaussian(),
            law.denoiser(KARRAS),
            data,
            KARRAS,
            horizons=horizons,
            **options,
        )

    with pytest.raises(
        ValueError, match=r"between t_min = 0.1 and t_end = 10, the times that the denoiser knows"
    ):
        choose(horizons=(1.0, 20.0))
    with pytest.raises(ValueError, match="horizons must lie"):
        choose(horizons=())
    with pytest.raises(ValueError, match="held_out must leave at least 2 rows"):
        choose(held_out=0.01)
    with pytest.raises(ValueError, match="t_min must be below t_end"):
        choose(t_min=20.0)
    with pytest.raises(ValueError, match="data must have shape"):
        choose(data=jnp.zeros((4, 2, 2)))
    with pytest.raises(ValueError, match="non-finite"):
        choose(data=data.at[0, 0].set(jnp.inf))
