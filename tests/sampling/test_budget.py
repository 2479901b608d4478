"""The three errors of a chain against closed forms, quadrature and the simulated chain itself."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compilations

import jaxdiff as jd
from jaxdiff.laws.shaped import Shaped

KARRAS = jd.Karras()
LINE = jd.GaussianMixture(
    jnp.array([0.1, 0.15, 0.2, 0.25, 0.3]), jnp.arange(-2.0, 3.0)[:, None], jnp.full(5, 0.04)
)
# Last nodes .002; E_disc per direction of unit Gaussian data by (1/2) sum(-log a - (1 - a)).
GRIDS = [
    ((80.0, 40, 7.0), 0.657047),
    ((80.0, 20, 7.0), 1.204465),
    ((7.0, 20, 5.0), 0.327919),
    ((7.0, 20, 7.0), 0.364830),
    ((2.0, 20, 7.0), 0.090906),
    ((2.0, 10, 7.0), 0.172400),
]


def grid(t_max, nodes, rho):
    return jd.times.power_grid(nodes - 1, t_max=t_max, t_min=0.002, rho=rho)


@jd.pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    inner: jd.Denoiser
    factor: float

    def __call__(self, _, x, t):
        return jax.tree.map(lambda part: self.factor * part, self.inner(x, t))


def scaled(denoise, factor):
    """A denoiser whose score is wrong by a factor."""
    return dataclasses.replace(denoise, estimate=Scaled(denoise, factor))


def known_until(denoise, t_max, t_min=None):
    """The denoiser where it knows less."""
    return dataclasses.replace(denoise, t_max=t_max, t_min=denoise.t_min if t_min is None else t_min)


def gaussian_steps(variance, times):
    """E_disc of Gaussian data, one direction: the divergences of N(m, a D) from N(m, D), step by step."""
    level = variance + np.asarray(times, np.float64) ** 2
    ratio = level[1:] / level[:-1]
    return 0.5 * np.sum(-np.log(ratio) - (1 - ratio))


def gaussian_divergence(p, q):
    """KL(N(mean, covariance) || N(mean, covariance)) from pairs in float64."""
    (m, S), (n, R) = ((np.asarray(a, np.float64) for a in pair) for pair in (p, q))
    inverse = np.linalg.inv(R)
    return 0.5 * (
        np.trace(inverse @ S)
        - len(m)
        + (n - m) @ inverse @ (n - m)
        + np.linalg.slogdet(R)[1]
        - np.linalg.slogdet(S)[1]
    )


@pytest.mark.parametrize(("case", "printed"), GRIDS)
def test_steps_of_gaussian_data_are_exact(case, printed, float64):
    law, times = jd.Gaussian(jnp.array([3.0]), 1.0), grid(*case)
    budget = jd.kl_budget(
        jax.random.key(0),
        law.denoiser(KARRAS),
        law,
        law.perturbed(KARRAS, times[0]),
        times,
        num_samples=8,
    )
    np.testing.assert_allclose(budget.discretization.value, gaussian_steps(1.0, times), rtol=1e-6)
    np.testing.assert_allclose(budget.discretization.value, printed, atol=6e-7)
    np.testing.assert_allclose(budget.discretization.standard_error, 0, atol=1e-12)


def fisher_information_and_entropy(variances):
    """J and h of the noised LINE at each variance, by quadrature in float64 NumPy."""
    x = np.linspace(-1, 1, 40001)[None] * (4 + 9 * np.sqrt(variances + 0.04)[:, None])
    spread = variances[:, None] + 0.04
    terms = [
        w * np.exp(-((x - m) ** 2) / (2 * spread)) / np.sqrt(2 * np.pi * spread)
        for w, m in zip(np.asarray(LINE.weights, np.float64), range(-2, 3), strict=True)
    ]
    p = sum(terms)
    slope = sum(t * (m - x) / spread for t, m in zip(terms, range(-2, 3), strict=True))
    safe = np.maximum(p, 1e-300)
    dx = x[:, 1] - x[:, 0]
    return np.sum(slope**2 / safe, axis=1) * dx, -np.sum(p * np.log(safe), axis=1) * dx


@pytest.mark.parametrize(
    ("case", "printed"),
    [
        ((80.0, 40, 7.0), 0.695302),
        ((7.0, 20, 5.0), 0.382541),
        ((2.0, 20, 7.0), 0.150673),
        ((2.0, 10, 7.0), 0.273203),
    ],
)
def test_steps_of_a_mixture_against_entropies(case, printed):
    """E_disc = sum of h(v_k) - h(v_{k+1}) - D_k J(v_k) / 2, by quadrature, and the pilot's own estimate."""
    times = grid(*case)
    v = np.asarray(times, np.float64) ** 2
    information, entropy = fisher_information_and_entropy(v)
    exact = entropy[0] - entropy[-1] + 0.5 * np.diff(v) @ information[:-1]
    np.testing.assert_allclose(exact, printed, atol=1e-5)
    denoise = LINE.denoiser(KARRAS)
    budget = jd.kl_budget(
        jax.random.key(0), denoise, LINE, LINE.perturbed(KARRAS, times[0]), times, num_samples=4000
    )
    error = float(budget.discretization.standard_error)
    assert error < 0.01 * exact
    assert abs(float(budget.discretization.value) - exact) < 3 * error
    assert abs(float(budget.initialization.value)) < 1e-5
    np.testing.assert_array_equal(budget.training.value, 0)
    pilot = jd.score_curvature(
        jax.random.key(1),
        denoise,
        LINE.sample(jax.random.key(2), 4000),
        jd.times.log_snr_grid(KARRAS, 63, t_max=80.0, t_min=0.002),
    )
    estimate = jd.discretization_error(pilot, times)
    assert abs(float(estimate) - exact) < 3 * np.sqrt(2) * error + 2e-3 * exact


def test_curvature_is_that_of_gaussian_data():
    law = jd.Gaussian(jnp.zeros(2), jnp.array([0.25, 4.0]))
    times = jd.times.log_snr_grid(KARRAS, 9, t_max=20.0, t_min=0.02)
    pilot = jd.score_curvature(
        jax.random.key(0), law.denoiser(KARRAS), law.sample(jax.random.key(1), 4), times
    )
    v = np.asarray(times[::-1], np.float64)[:, None] ** 2
    np.testing.assert_allclose(pilot.value, np.sum((v / (v + np.array([0.25, 4.0]))) ** 2, axis=1), rtol=1e-4)
    np.testing.assert_allclose(pilot.log_variance, np.log(v[:, 0]), atol=1e-5)


MEAN, VARIANCES = np.array([1.0, -0.5, 0.0]), np.array([0.25, 1.0, 4.0])
STARTS = {  # KL of the noised law to N(0, s^2), N(0, s^2 + 1.75), N(m, s^2 + 1.75) at s = 1, 2, 7
    "plain": [1.987135678, 0.3240423232, 0.01444483448],
    "centred": [0.4818097726, 0.1645962159, 0.01307055452],
    "isotropic": [0.2545370454, 0.05590056369, 0.0007552835837],
}


@pytest.mark.parametrize("name", STARTS)
def test_the_start_of_gaussian_data(name):
    """Closed forms to the printed digits; de Bruijn's form within its error, and the chain's budget too."""
    law = jd.Gaussian(jnp.asarray(MEAN), jnp.asarray(VARIANCES))
    data = law.sample(jax.random.key(0), 8000)
    error = jax.jit(
        lambda start, s: jd.initialization_error(
            jax.random.key(1), known_until(law.denoiser(KARRAS), 80.0), start, data, s
        )
    )
    budget = jax.jit(
        lambda start, s: (
            jd.kl_budget(
                jax.random.key(2),
                law.denoiser(KARRAS),
                law,
                start,
                jnp.stack([s, 0.5 * s]),
                num_samples=8000,
            ).initialization
        )
    )
    for s, printed in zip([1.0, 2.0, 7.0], STARTS[name], strict=True):
        mean = MEAN if name == "isotropic" else np.zeros(3)
        variance = s**2 + (0.0 if name == "plain" else 1.75)
        exact = gaussian_divergence((MEAN, np.diag(VARIANCES + s**2)), (mean, variance * np.eye(3)))
        np.testing.assert_allclose(exact, printed, rtol=1e-8)
        start = jd.Gaussian(jnp.asarray(mean, jnp.float32), variance)
        for estimate, within in ((error(start, s), 0.03), (budget(start, s), 0.7)):
            assert estimate.standard_error < within * exact
            assert abs(float(estimate.value) - exact) < 3 * float(estimate.standard_error)


SCHEDULES = {
    "VariancePreserving": (jd.VariancePreserving(), 0.5, 1.0, 0.05),
    "RectifiedFlow": (jd.RectifiedFlow(), 0.6, 0.999, 0.05),
    "OrnsteinUhlenbeck": (jd.OrnsteinUhlenbeck(), 0.7, 5.0, 0.02),
}


@pytest.mark.slow
def test_every_schedule_is_one_chain_in_other_units():
    """In y = x / alpha and v = sigma^2 / alpha^2 the budget is that of the variance-exploding chain."""
    law = jd.GaussianMixture(
        jnp.array([0.4, 0.6]), jnp.array([[-1.0, 0.0], [0.5, 1.0]]), jnp.array([0.1, 0.3])
    )

    @jax.jit
    def one(schedule, t_max, t_end, t_min):
        start = jd.Gaussian(jnp.zeros(2), schedule.alpha(t_max) ** 2 * 0.8 + schedule.sigma(t_max) ** 2)
        times = jd.times.log_snr_grid(schedule, 10, t_max=t_max, t_min=t_min)
        denoise, data = law.denoiser(schedule), law.sample(jax.random.key(1), 2000)
        wrong = scaled(denoise, 0.9)
        budget = jd.kl_budget(jax.random.key(0), wrong, law, start, times)
        start_error = jd.initialization_error(
            jax.random.key(2), known_until(denoise, t_end), start, data, t_max
        )
        v = jax.vmap(lambda t: schedule.sigma(t) / schedule.alpha(t))(times)
        return budget, start_error, v

    for schedule, t_max, t_end, t_min in SCHEDULES.values():
        budget, start_error, v = one(schedule, t_max, t_end, t_min)
        start = jd.Gaussian(jnp.zeros(2), 0.8 + v[0] ** 2)
        denoise = law.denoiser(KARRAS)
        wrong = scaled(denoise, 0.9)
        same = jax.jit(lambda start, v, wrong=wrong: jd.kl_budget(jax.random.key(0), wrong, law, start, v))(
            start, v
        )
        for ours, theirs in zip(budget, same, strict=True):
            np.testing.assert_allclose(ours.value, theirs.value, rtol=2e-3, atol=2e-4)
        assert abs(float(start_error.value - budget.initialization.value)) < 3 * np.hypot(
            start_error.standard_error, budget.initialization.standard_error
        )


def test_the_three_errors_are_the_divergence_of_the_paths():
    """The chain is simulated backwards in closed form for Gaussian data; its paths' log-ratio has that mean.

    Under the exact reverse process of N(0, 1) data, y_{k+1} | y_k ~ N(a y_k, a D); the chain has
    N(y_k + D s'(y_k), D) with a score that is wrong by a factor. Densities of both are known.
    """
    factor, law = 0.8, jd.Gaussian(jnp.zeros(1), 1.0)
    denoise = law.denoiser(KARRAS)
    wrong = scaled(denoise, factor)
    times, start = grid(2.0, 10, 7.0), jd.Gaussian(jnp.array([0.5]), 6.0)
    budget = jd.kl_budget(jax.random.key(0), wrong, law, start, times, num_samples=20000)
    v = np.asarray(times, np.float64) ** 2
    rng = np.random.default_rng(0)
    y = rng.standard_normal(200_000) * np.sqrt(1 + v[0])

    def log_normal(x, mean, variance):
        return -0.5 * (x - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)

    ratio = log_normal(y, 0, 1 + v[0]) - log_normal(y, 0.5, 6.0)
    for v_k, v_next in itertools.pairwise(v):
        a, step = (1 + v_next) / (1 + v_k), v_k - v_next
        new = a * y + np.sqrt(a * step) * rng.standard_normal(len(y))
        # On the way from y the exact path within a step is a bridge; its end alone tells less than all of it,
        # and for Gaussian data what the step adds is the divergence of N(., a D) from N(., D) in the mean.
        ratio += log_normal(new, a * y, a * step) - log_normal(new, y - step * factor * y / (1 + v_k), step)
        y = new
    error = ratio.std() / np.sqrt(len(ratio))
    assert abs(float(budget.total.value) - ratio.mean()) < 3 * np.hypot(error, budget.total.standard_error)
    assert budget.training.value > 20 * budget.training.standard_error > 0
    # And it bounds the divergence of the ends, which mean and variance of the chain give.
    mean, variance = 0.5, 6.0
    for v_k, v_next in itertools.pairwise(v):
        slope = 1 - (v_k - v_next) * factor / (1 + v_k)
        mean, variance = slope * mean, slope**2 * variance + v_k - v_next
    ends = gaussian_divergence(
        (np.zeros(1), np.eye(1) * (1 + v[-1])), (np.array([mean]), np.array([[variance]]))
    )
    assert 0 < ends < float(budget.total.value)


def line_score(y, v):
    """The score of LINE noised to variance v, in float64 NumPy; y any shape, v broadcasting with it."""
    means, weights = np.arange(-2.0, 3), np.asarray(LINE.weights, np.float64)
    away = y[..., None] - means
    spread = np.asarray(v)[..., None] + 0.04
    logits = np.log(weights) - away**2 / (2 * spread)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return np.sum(shares / shares.sum(-1, keepdims=True) * -away / spread, axis=-1)


def test_the_budget_of_a_mixture_is_that_of_its_paths():
    """Girsanov's integral along simulated Brownian paths; and it bounds the divergence at the end of the chain.

    The end's density goes through the chain's own kernels on a grid of the line.
    """
    factor, times = 0.9, grid(2.0, 8, 7.0)
    start = jd.Gaussian(jnp.array([0.3]), 6.0)
    budget = jd.kl_budget(
        jax.random.key(0), scaled(LINE.denoiser(KARRAS), factor), LINE, start, times, num_samples=8000
    )
    v = np.asarray(times, np.float64)[::-1] ** 2
    rng = np.random.default_rng(0)
    n, inner = 4000, 40
    weights = np.asarray(LINE.weights, np.float64)
    data = rng.choice(np.arange(-2.0, 3), n, p=weights / weights.sum()) + 0.2 * rng.standard_normal(n)
    y, integral = data + np.sqrt(v[0]) * rng.standard_normal(n), np.zeros(n)
    for low, high in itertools.pairwise(v):
        fine = np.geomspace(low, high, inner + 1)
        steps = np.diff(fine)
        path = y + np.concatenate(
            [np.zeros((1, n)), np.cumsum(np.sqrt(steps)[:, None] * rng.standard_normal((inner, n)), 0)]
        )
        gap = (line_score(path, fine[:, None]) - factor * line_score(path[-1], high)[None]) ** 2
        integral += 0.5 * np.sum(steps[:, None] * 0.5 * (gap[1:] + gap[:-1]), axis=0)
        y = path[-1]
    paths = integral.mean()
    steps_only = budget.training.value + budget.discretization.value
    error = np.hypot(
        integral.std() / n**0.5,
        np.hypot(budget.training.standard_error, budget.discretization.standard_error),
    )
    assert error < 0.05 * paths
    assert abs(float(steps_only) - paths) < 3 * error + 0.01 * paths  # the trapezoids of 40 steps

    x = np.linspace(-14, 14, 4001)
    density = np.exp(-((x - 0.3) ** 2) / 12) / np.sqrt(12 * np.pi)
    for high, low in zip(v[:0:-1], v[-2::-1], strict=True):
        mean, step = x + (high - low) * factor * line_score(x, high), high - low
        kernel = np.exp(-((x[:, None] - mean[None]) ** 2) / (2 * step)) / np.sqrt(2 * np.pi * step)
        density = kernel @ density * (x[1] - x[0])
    spread = 0.04 + v[0]
    truth = sum(
        w * np.exp(-((x - m) ** 2) / (2 * spread)) / np.sqrt(2 * np.pi * spread)
        for w, m in zip(weights, range(-2, 3), strict=True)
    )
    seen = truth > 1e-12
    ends = np.sum((truth * np.log(np.where(seen, truth, 1) / np.where(seen, density, 1)))[seen]) * (
        x[1] - x[0]
    )
    assert 0.01 < ends < float(budget.total.value)


@pytest.mark.slow
def test_it_is_one_call_over_horizons_and_numbers_of_steps():
    """A grid padded by its last time costs what the shorter one does."""
    denoise, key = LINE.denoiser(KARRAS), jax.random.key(0)
    grids = [grid(2.0, 10, 7.0), grid(7.0, 6, 5.0)]
    padded = jnp.stack([grids[0], jnp.append(grids[1], jnp.full(4, 0.002))])

    def one(times):
        return jd.kl_budget(key, denoise, LINE, jd.Gaussian(jnp.zeros(1), times[0] ** 2), times).total.value

    swept = jax.jit(jax.vmap(one))(padded)
    np.testing.assert_allclose(swept, [one(times) for times in grids], rtol=1e-4)


@pytest.mark.parametrize(("num_steps", "within"), [(5, 1.05), (20, 1.02)])
def test_the_best_grid_of_a_mixture(num_steps, within):
    """Close to the least of all grids on 300 levels, found by dynamic programming."""
    pilot = jd.score_curvature(
        jax.random.key(1),
        LINE.denoiser(KARRAS),
        LINE.sample(jax.random.key(2), 2000),
        jd.times.log_snr_grid(KARRAS, 63, t_max=7.0, t_min=0.002),
    )
    times = jd.optimal_grid(pilot, num_steps, t_max=7.0, t_min=0.002)
    ours = float(jd.discretization_error(pilot, times))
    fine = np.linspace(*np.log([0.002**2, 49.0]), 2991)
    c = np.interp(fine, np.asarray(pilot.log_variance), np.asarray(pilot.value))

    def integral(f):
        return np.concatenate([[0], np.cumsum(0.5 * (f[1:] + f[:-1]))])[::10] * (fine[1] - fine[0])

    a, b, v = integral(c), integral(c * np.exp(-fine)), np.exp(fine[::10])
    cost = 0.5 * (a[:, None] - a[None] - v[None] * (b[:, None] - b[None]))
    cost[np.tril_indices(300)[::-1]] = np.inf
    best = np.where(np.arange(300) == 299, 0, np.inf)
    for _ in range(num_steps):
        best = np.min(best[:, None] + cost, axis=0)
    assert 0.995 * best[0] < ours < within * best[0]
    assert ours < 0.9 * float(jd.discretization_error(pilot, grid(7.0, num_steps + 1, 7.0)))


def test_the_best_grid_of_gaussian_data():
    """Equal ratios of variance + v, whose error is d K (L / K - 1 + e^(-L / K)) / 2; no other grid has less."""
    law, ends = jd.Gaussian(jnp.zeros(3), 0.5), {"t_max": 7.0, "t_min": 0.002}
    times = jd.times.gaussian_grid(KARRAS, 12, variance=0.5, **ends)
    level = 0.5 + np.asarray(times, np.float64) ** 2
    np.testing.assert_allclose(np.diff(np.log(level)), np.log(level[-1] / level[0]) / 12, rtol=1e-3)
    per_step = np.log(level[0] / level[-1]) / 12
    least = 3 * gaussian_steps(0.5, times)
    np.testing.assert_allclose(least, 1.5 * 12 * (per_step - 1 + np.exp(-per_step)), rtol=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(20):
        inner = np.sort(np.asarray(times[1:-1]) * np.exp(0.05 * rng.standard_normal(11)))[::-1]
        assert 3 * gaussian_steps(0.5, [7.0, *inner, 0.002]) > least
    pilot = jd.score_curvature(
        jax.random.key(0),
        law.denoiser(KARRAS),
        law.sample(jax.random.key(1), 4),
        jd.times.log_snr_grid(KARRAS, 127, **ends),
    )
    found = jd.optimal_grid(pilot, 12, **ends)
    np.testing.assert_allclose(3 * gaussian_steps(0.5, found), least, rtol=1e-4)


def test_traced_times_out_of_reach_answer_nan():
    """What is refused where it is known is never a plausible number where it is not."""
    law, times, key = jd.Gaussian(jnp.zeros(2), 1.0), grid(2.0, 5, 7.0), jax.random.key(0)
    denoise, data = known_until(law.denoiser(KARRAS), 8.0), law.sample(key, 10)
    pilot = jd.score_curvature(key, denoise, data, times)
    budget = jax.jit(lambda times: jd.kl_budget(key, denoise, law, law, times).discretization.value)
    steps = jax.jit(lambda times: jd.discretization_error(pilot, times))
    curvature = jax.jit(lambda times: jd.score_curvature(key, denoise, data, times).log_variance)
    start = jax.jit(lambda t: jd.initialization_error(key, denoise, law, data, t).value)
    best = jax.jit(lambda t: jd.optimal_grid(pilot, 4, t_max=t, t_min=0.002))
    for question in (budget, steps, curvature):
        assert np.isfinite(question(times)).all()
        for wrong in (times[::-1], times.at[-1].set(0.0)):
            assert np.isnan(question(wrong)).all(), wrong
    assert np.isnan(steps(grid(3.0, 5, 7.0)))
    assert np.isfinite(start(7.9))
    assert np.isnan(start(9.0))
    assert np.isfinite(best(2.0)).all()
    assert np.isnan(best(3.0)).all()


def test_the_default_pilot_covers_the_working_range():
    """Also where alpha vanishes at its end, beyond which no log-SNR is; and it serves every later call."""
    law, key = jd.Gaussian(jnp.zeros(2), 4.0), jax.random.key(0)
    data = law.sample(key, 10)
    pilot = jd.score_curvature(key, law.denoiser(KARRAS), data)
    np.testing.assert_allclose(pilot.log_variance[jnp.array([0, -1])], 2 * np.log([0.004, 160.0]), atol=1e-3)
    np.testing.assert_allclose(np.diff(pilot.log_variance), 2 * np.log(160 / 0.004) / 63, rtol=1e-2)
    flow = jd.score_curvature(key, law.denoiser(jd.RectifiedFlow()), data)
    np.testing.assert_allclose(flow.log_variance[-1], 2 * np.log(2000.0), atol=2e-2)
    times = jd.optimal_grid(flow, 5, t_max=0.9, t_min=0.01)
    v = (np.asarray(times, np.float64) / (1 - np.asarray(times, np.float64))) ** 2
    np.testing.assert_allclose(np.diff(np.log(4 + v)), np.log((4 + v[-1]) / (4 + v[0])) / 5, rtol=0.03)


@pytest.mark.slow
def test_images_cost_what_their_entries_do():
    """The same draws as of vectors, so the same numbers: laws, data and starts of shape (2, 3)."""
    law = jd.GaussianMixture(jnp.array([0.4, 0.6]), jnp.arange(12.0).reshape(2, 6) / 6, jnp.array([0.1, 0.3]))
    start, times, key = jd.Gaussian(jnp.ones(6), 5.0), grid(2.0, 5, 7.0), jax.random.key(0)

    def answers(law, start, data):
        denoise = scaled(law.denoiser(KARRAS), 0.9)
        return (
            jd.kl_budget(key, denoise, law, start, times, num_samples=50),
            jd.score_curvature(key, denoise, data, times)[1:],
            jd.initialization_error(key, denoise, start, data, 2.0),
        )

    data = law.sample(jax.random.key(1), 50)
    flat = answers(law, start, data)
    shaped = answers(Shaped(law, (2, 3)), Shaped(start, (2, 3)), data.reshape(50, 2, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), flat, shaped)


def test_half_precision_data_are_answered_in_single():
    law, key = jd.Gaussian(jnp.zeros(2), 1.0), jax.random.key(0)
    data = law.sample(key, 100)
    times = grid(2.0, 5, 7.0)
    for dtype in (jnp.bfloat16, jnp.float16):
        pilot = jd.score_curvature(key, law.denoiser(KARRAS), data.astype(dtype), times)
        assert pilot.value.dtype == jnp.float32
        v = np.asarray(times[::-1], np.float64) ** 2
        np.testing.assert_allclose(pilot.value, 2 * (v / (v + 1)) ** 2, rtol=0.02)
        start = jd.initialization_error(
            key, law.denoiser(KARRAS), jd.Gaussian(jnp.zeros(2), 3.0), data.astype(dtype), 1.0
        )
        assert start.value.dtype == jnp.float32
        exact = jd.initialization_error(key, law.denoiser(KARRAS), jd.Gaussian(jnp.zeros(2), 3.0), data, 1.0)
        np.testing.assert_allclose(start.value, exact.value, rtol=0.02)


def test_second_calls_compile_nothing():
    """New keys, laws, data and times of the same shapes."""

    def ask(seed):
        law, key = jd.Gaussian(jnp.full(2, 0.1 * seed), 1.0 + seed), jax.random.key(seed)
        denoise, data, times = law.denoiser(KARRAS), law.sample(key, 10), grid(2.0 + seed, 5, 7.0)
        pilot = jd.score_curvature(key, denoise, data)
        return (
            jd.kl_budget(key, denoise, law, law.perturbed(KARRAS, 2.0), times, num_samples=10),
            jd.initialization_error(key, denoise, law, data, 2.0 + seed),
            jd.discretization_error(pilot, times[:4]),
            jd.optimal_grid(pilot, 5, t_max=2.0 + seed, t_min=0.1),
        )

    assert compilations(lambda: ask(0)) > 5
    assert compilations(lambda: ask(1)) == 0


def test_bad_input():
    law, times, key = jd.Gaussian(jnp.zeros(2), 1.0), grid(2.0, 5, 7.0), jax.random.key(0)
    denoise, other = law.denoiser(KARRAS), jd.Gaussian(jnp.zeros(3), 4.0)
    with pytest.raises(ValueError, match=r"start must be a law of points of shape \(2,\).*got one of \(3,\)"):
        jd.kl_budget(key, denoise, law, other, times)
    with pytest.raises(ValueError, match=r"distribution must be a law of points of shape \(2,\)"):
        jd.kl_budget(key, denoise, other, law, times)
    with pytest.raises(ValueError, match=r"strictly decreasing|high to low"):
        jd.kl_budget(key, denoise, law, law, times[::-1])
    with pytest.raises(ValueError, match="non-finite"):
        jd.kl_budget(key, denoise, law, law, jnp.append(times, 0.0))
    with pytest.raises(ValueError, match="outside of the times that this denoiser"):
        jd.kl_budget(key, known_until(denoise, 1.0), law, law, times)
    with pytest.raises(TypeError, match="denoise must be a Denoiser, got function"):
        jd.kl_budget(key, lambda x, t: x, law, law, times)
    data = law.sample(key, 10)
    with pytest.raises(ValueError, match="t_max = 9 is outside of"):
        jd.initialization_error(key, known_until(denoise, 8.0), law, data, 9.0)
    with pytest.raises(ValueError, match=r"t_max = 90 is outside of the working range.* to 80"):
        jd.initialization_error(key, denoise, law, data, 90.0)
    with pytest.raises(ValueError, match="log-SNR at t_max has 1 non-finite"):
        jd.initialization_error(key, denoise, law, data, 0.0)
    with pytest.raises(ValueError, match="start must be a law"):
        jd.initialization_error(key, denoise, other, data, 2.0)
    with pytest.raises(ValueError, match=r"data must have shape \(n, 2\), as the denoiser's; got \(10, 1\)"):
        jd.initialization_error(key, denoise, law, data[:, :1], 2.0)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        jd.score_curvature(key, denoise, data[:1], times)
    with pytest.raises(TypeError, match="floating-point"):
        jd.score_curvature(key, denoise, jnp.zeros((5, 2), int), times)
    pilot = jd.score_curvature(key, denoise, data, times)
    with pytest.raises(ValueError, match=r"pilot run.*run score_curvature on a wider range"):
        jd.discretization_error(pilot, grid(3.0, 5, 7.0))
    with pytest.raises(ValueError, match="pilot run"):
        jd.optimal_grid(pilot, 4, t_max=3.0, t_min=0.002)
    with pytest.raises(ValueError, match="t_min must be below t_max"):
        jd.optimal_grid(pilot, 4, t_max=0.1, t_min=0.2)
    with pytest.raises(ValueError, match=r"non-finite"):
        jd.score_curvature(key, denoise, data.at[0, 0].set(jnp.nan), times)
