import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from oracles import CASES, NAMES, few_of, gaussian_denoiser, gaussian_flow, log_snr_times

from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.guidance.classifier_free import guided
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising import schedules
from jaxdiff.noising.schedules import Karras, RectifiedFlow
from jaxdiff.noising.times import noise_grid, power_grid, to_clean
from jaxdiff.sampling import accelerated, ddim, euler_maruyama, exponential_adams, heun, predictor_corrector
from jaxdiff.sampling.accelerated import AcceleratedDDIM, AcceleratedDDPM
from jaxdiff.sampling.ddim import DDIM, ancestral
from jaxdiff.sampling.driver import initial_noise, integrate, integrate_path, sample
from jaxdiff.sampling.euler_maruyama import EulerMaruyama
from jaxdiff.sampling.exponential_adams import (
    ExponentialAdams,
    deis,
    dpm_solver_pp,
    sde_dpm_solver_pp,
    unipc,
)
from jaxdiff.sampling.exponential_runge_kutta import ExponentialRungeKutta
from jaxdiff.sampling.heun import Heun
from jaxdiff.sampling.predictor_corrector import PredictorCorrector
from jaxdiff.typing import Denoised

MEAN, VARIANCE = 0.4, 0.7
ODE = {
    "ddim": (DDIM(), 1),
    "heun": (Heun(), 2),
    "dpm_solver_pp_1": (dpm_solver_pp(order=1), 1),
    "dpm_solver_pp_2": (dpm_solver_pp(order=2), 2),
    "dpm_solver_pp_3": (dpm_solver_pp(order=3), 3),
    "adams_2": (ExponentialAdams(order=2), 2),
    "adams_4": (ExponentialAdams(order=4), 4),
    "deis_3": (deis(3), 3),
    "unipc_2": (unipc(2), 3),
    "unipc_data_1": (unipc(1, "data"), 2),
    **{f"runge_kutta_{order}": (ExponentialRungeKutta(order), order) for order in (2, 3, 4)},
    "runge_kutta_noise_4": (ExponentialRungeKutta(4, "noise"), 4),
    "accelerated_ddim": (AcceleratedDDIM(), 2),
}
STOCHASTIC = {
    "ddim_eta": DDIM(eta=0.5),
    "ancestral": ancestral(),
    "heun_churn": Heun(churn=0.05),
    "euler_maruyama": EulerMaruyama(),
    "predictor_corrector": PredictorCorrector(),
    "accelerated_ddpm": AcceleratedDDPM(),
    "sde_dpm_solver_pp_2": sde_dpm_solver_pp(2),
    "sa_solver": ExponentialAdams(3, "noise", corrector=True, stochasticity=0.5),
}
MULTISTEP = ("sde_dpm_solver_pp_2", "sa_solver")  # whose steps are not told apart by their x alone
EVERY = {name: sampler for name, (sampler, _) in ODE.items()} | STOCHASTIC
# One of each kind of state, of randomness and of calls.
FEW = ["ddim", "unipc_2", "runge_kutta_3", "ancestral", "heun_churn", "predictor_corrector", "sa_solver"]


def stepper(sampler, denoise):
    """x from grid to grid by single steps of one program, which need no compilation for a grid's length."""
    step = jax.jit(lambda state, t, s: sampler.step(jax.random.key(0), denoise, state, t, s))

    def run(x, times):
        state = sampler.init(x)
        for t, s in itertools.pairwise(times):
            state = step(state, t, s)
        return np.asarray(state.x)

    return run


def each_once(names, methods, *, under, ever, slow=()):
    """Parameters: every method under those schedules, those ever under every schedule, and slow ones likewise."""
    pairs = list(itertools.product(names, methods))
    few = [(name, method) for name, method in pairs if name in under or method in ever]
    more = [(name, method) for name, method in pairs if method in slow and (name, method) not in few]
    return [*few, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in more)]


@pytest.mark.parametrize(
    ("name", "method"),
    each_once(
        NAMES,
        ODE,
        under=["vp"],
        ever=["heun"],
        slow=["ddim", "dpm_solver_pp_3", "unipc_2", "adams_4", "runge_kutta_4"],
    ),
)
def test_order_of_convergence(name, method, float64):
    """The slope of the error against the exact flow of Gaussian data is the named order, on every schedule."""
    case, (sampler, order) = CASES[name], ODE[method]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    run = stepper(sampler, denoise)
    x = jnp.asarray([[1.7], [-0.6]]) * case.sigma(case.t_max)
    exact = gaussian_flow(case, np.asarray(x), case.t_max, case.t_min, MEAN, VARIANCE)
    steps = np.array([60, 120, 240])
    errors = [np.abs(run(x, log_snr_times(case, n)) - exact).max() for n in steps]
    slopes = -np.diff(np.log(errors)) / np.log(2)
    assert slopes[-1] > order - 0.2, (slopes, errors)
    room = 6 if method == "accelerated_ddim" else 1  # its polynomials are in the variance of the noise
    assert errors[-1] < room * (0.1, 3e-3, 3e-4, 3e-5)[order - 1]


WEIGHTS, VARIANCES = [0.3, 0.5, 0.2], [0.1, 0.15, 0.2]
MEANS = [[-1.0, 0.2], [1.0, 0.5], [0.1, -1.2]]


def mixture_denoiser(schedule):
    return GaussianMixture(*map(jnp.asarray, (WEIGHTS, MEANS, VARIANCES))).denoiser(schedule)


@pytest.mark.parametrize(
    ("name", "method"), each_once(["vp", "karras", "rectified_flow"], ODE, under=["vp"], ever=[], slow=ODE)
)
def test_order_where_the_flow_is_not_linear(name, method, float64):
    """On a mixture, against SciPy's Runge-Kutta rule of order 8 on the flow's equation in NumPy."""
    case, (sampler, order) = CASES[name], ODE[method]
    means, variances, log_weights = np.array(MEANS), np.array(VARIANCES), np.log(WEIGHTS)

    def velocity(t, flat):
        x, a, b = flat.reshape(-1, 2), case.alpha(t), case.sigma(t)
        total = a**2 * variances + b**2
        offset = x[:, None] - a * means
        logits = log_weights - np.log(total) - (offset**2).sum(2) / (2 * total)
        share = np.exp(logits - scipy.special.logsumexp(logits, axis=1, keepdims=True))
        score = -(share[..., None] * offset / total[:, None]).sum(1)
        return (case.drift_rate(t) * x - 0.5 * case.diffusion(t) ** 2 * score).ravel()

    x = np.random.default_rng(0).standard_normal((8, 2)) * case.sigma(case.t_max)
    ends = (case.t_max, case.t_min)
    exact = scipy.integrate.solve_ivp(velocity, ends, x.ravel(), method="DOP853", rtol=1e-12, atol=1e-13).y[
        :, -1
    ]
    denoise = mixture_denoiser(case.schedule)
    run = functools.partial(integrate, jax.random.key(0), denoise, jnp.asarray(x), sampler=sampler)
    steps = np.array([200, 400])
    errors = [
        np.sqrt(np.mean((run(jnp.asarray(log_snr_times(case, n))).ravel() - exact) ** 2)) for n in steps
    ]
    slope = np.log2(errors[0] / errors[1])
    assert abs(slope - order) < 0.12, (slope, errors)


class Multistep:
    """The multistep family in float64 NumPy: an interpolating polynomial solved for, integrated in sigma / alpha."""

    def __init__(self, order, estimate, corrector, tau):
        self.order, self.estimate, self.corrector, self.tau = order, estimate, corrector, tau

    def move(self, case, t, s, x, nodes, z):
        """One step from (t, x) by the polynomial through nodes, pairs (l, value)."""
        rate, (a, b, c, d) = 1 + self.tau**2, (case.alpha(t), case.sigma(t), case.alpha(s), case.sigma(s))
        start, h = np.log(a / b), np.log(c / d) - np.log(a / b)
        powers = np.vander([(at - start) / h for at, _ in nodes], increasing=True)
        coefficients = np.linalg.solve(powers, np.stack([v.ravel() for _, v in nodes]))

        def moment(k):
            def integrand(ratio):  # over rho = sigma / alpha, where dl = -drho / rho
                u = -np.log(ratio) - start
                if self.estimate == "data":
                    return c * rate * np.exp(-rate * (h - u)) * (u / h) ** k / ratio
                return -d * rate * np.exp(h - u) * (u / h) ** k / ratio

            return scipy.integrate.quad(integrand, d / c, b / a, epsabs=1e-13, epsrel=1e-12)[0]

        integral = sum(moment(k) * coefficients[k] for k in range(len(nodes))).reshape(x.shape)
        if self.estimate == "data":
            return (
                d / b * np.exp(-(self.tau**2) * h) * x
                + integral
                + d * np.sqrt(1 - np.exp(-2 * self.tau**2 * h)) * z
            )
        return c / a * x + integral + d * self.tau * np.sqrt(np.exp(2 * h) - 1) * z

    def run(self, case, denoise, x, times, noises):
        past, before, old = [], None, None
        for k, (t, s, z) in enumerate(zip(times[:-1], times[1:], noises, strict=True)):
            estimate = getattr(denoise(jnp.asarray(x), t), self.estimate)
            past.insert(0, (np.log(case.alpha(t) / case.sigma(t)), np.asarray(estimate)))
            if before is not None and (self.corrector or k < self.order - 1):
                x = self.move(case, *before, past[: self.order + self.corrector], old)
            before, old = (t, s, x), z
            x = self.move(case, t, s, x, past[: self.order], z)
        return x


@pytest.mark.parametrize("tau", [0.0, 0.7])
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("estimate", ["data", "noise"])
@pytest.mark.parametrize("order", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_multistep_rules_are_interpolation(order, estimate, corrector, tau, float64):
    """Six uneven steps on a mixture, the early ones of lower order, to the digits of the quadrature."""
    case, key = CASES["vp"], jax.random.key(5)
    denoise = mixture_denoiser(case.schedule)
    x = jax.random.normal(jax.random.key(0), (7, 2))
    times = np.array([0.9, 0.7, 0.55, 0.3, 0.12, 0.05, 0.01])
    noises = [np.asarray(noise_like(jax.random.fold_in(key, k), x)) for k in range(6)]
    wanted = Multistep(order, estimate, corrector, tau).run(case, denoise, np.asarray(x), times, noises)
    sampler = ExponentialAdams(order, estimate, corrector, tau)
    np.testing.assert_allclose(
        integrate(key, denoise, x, times, sampler=sampler), wanted, rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_the_second_order_of_dpm_solver_pp_is_the_papers(tau, float64):
    """Algorithm 2 of arXiv 2211.01095, 2M, and SDE-DPM-Solver++(2M), eq. (18) there, as they stand."""
    case, key = CASES["vp"], jax.random.key(5)
    denoise, x = mixture_denoiser(case.schedule), jax.random.normal(jax.random.key(0), (7, 2))
    times = np.array([0.9, 0.7, 0.55, 0.3, 0.12, 0.05, 0.01])
    sampler = sde_dpm_solver_pp(2) if tau else dpm_solver_pp(2)
    got = integrate(key, denoise, x, times, sampler=sampler)
    lam = [np.log(case.alpha(t) / case.sigma(t)) for t in times]
    y, before = np.asarray(x), None
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        z, h = np.asarray(noise_like(jax.random.fold_in(key, i), x)), lam[i + 1] - lam[i]
        here = np.asarray(denoise(jnp.asarray(y), t).data)
        r = (lam[i] - lam[i - 1]) / h if i else 1.0
        data = here if before is None else (1 + 1 / (2 * r)) * here - before / (2 * r)
        shrunk = case.sigma(s) / case.sigma(t) * np.exp(-h * tau) * y
        y = shrunk + case.alpha(s) * (1 - np.exp(-h * (1 + tau))) * data
        y, before = y + tau * case.sigma(s) * np.sqrt(1 - np.exp(-2 * h)) * z, here
    np.testing.assert_allclose(got, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [dpm_solver_pp(3), deis(3), unipc(2)])
def test_a_late_start_costs_no_order(sampler, float64):
    """From noise that hides nothing, where a first step of order one would be seen."""
    run = stepper(sampler, mixture_denoiser(Karras()))
    x = jax.random.normal(jax.random.key(1), (8, 2))
    exact = stepper(ExponentialRungeKutta(4), mixture_denoiser(Karras()))(x, np.geomspace(0.4, 0.05, 401))
    errors = [np.abs(run(x, np.geomspace(0.4, 0.05, n + 1)) - exact).max() for n in (60, 120)]
    assert abs(np.log2(errors[0] / errors[1]) - 3) < 0.25, errors


def test_the_first_order_of_every_family_is_ddim(float64):
    case, key = CASES["vp"], jax.random.key(2)
    denoise = mixture_denoiser(case.schedule)
    run = functools.partial(integrate, key, denoise, jnp.ones((5, 2)), power_grid(6, t_max=1.0, t_min=0.01))
    for sampler in (ExponentialAdams(1), ExponentialAdams(1, "noise"), ExponentialRungeKutta(1)):
        np.testing.assert_allclose(run(sampler=sampler), run(sampler=DDIM()), rtol=1e-12)
    np.testing.assert_allclose(run(sampler=sde_dpm_solver_pp(1)), run(sampler=ancestral()), rtol=1e-12)


@pytest.mark.parametrize("tau", [0.5, 1.0])
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("estimate", ["data", "noise"])
@pytest.mark.parametrize("name", few_of(["vp", "ve", "karras"]))
def test_multistep_noise_is_of_second_order_in_law(name, estimate, corrector, tau, monkeypatch, float64):
    """Mean and variance of Gaussian data, by the whole run's exact linear map of the start and of every draw."""
    case, sampler = CASES[name], ExponentialAdams(2, estimate, corrector, tau)
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)

    @jax.jit
    def step(state, t, s, z):
        monkeypatch.setattr(exponential_adams, "noise_like", lambda key, x: z)
        return sampler.step(jax.random.key(0), denoise, state, t, s)

    errors = []
    for n in (40, 80):
        draws = 160  # rows: nothing, the start, and every draw
        state = sampler.init(jnp.zeros((2 + draws, 1)).at[1].set(1.0))
        times = log_snr_times(case, n)
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            state = step(state, t, s, jnp.zeros((2 + draws, 1)).at[2 + k].set(1.0))
        out = np.asarray(state.x)[:, 0]
        factor, stds, ends = out[1] - out[0], out[2:] - out[0], []
        for t in (case.t_max, case.t_min):
            ends.append((case.alpha(t) * MEAN, case.alpha(t) ** 2 * VARIANCE + case.sigma(t) ** 2))
        mean, variance = factor * ends[0][0] + out[0], factor**2 * ends[0][1] + (stds**2).sum()
        errors.append([abs(mean - ends[1][0]), abs(variance - ends[1][1])])
    assert errors[1][1] < 0.32 * errors[0][1], errors  # 1/4 and room
    assert errors[1][0] < 1e-6, errors
    assert errors[0][1] < 0.05, errors


def affine_steps(sampler, denoise, monkeypatch, times):
    """Every step of the grid as x' = factor x + shift + sum_j stds[j] z_j, exactly.

    The draws are replaced by unit vectors: row 1 gets x = 1, row 0 x = 0, row 2 + j has its j-th draw one.
    """
    draws = 4
    calls = iter(range(draws))

    def draw(key, x):
        del key
        return jnp.zeros_like(x).at[2 + next(calls)].set(1.0)

    def step(t, s):
        state = sampler.init(jnp.zeros((2 + draws, 1)).at[1].set(1.0))
        if hasattr(state, "t_max"):
            state = state._replace(t_max=jnp.asarray(times[0]))
        return sampler.step(jax.random.key(0), denoise, state, t, s).x[:, 0]

    for module in (accelerated, ddim, heun, euler_maruyama, predictor_corrector):
        monkeypatch.setattr(module, "noise_like", draw)
    out = np.asarray(jax.jit(jax.vmap(step))(jnp.asarray(times[:-1]), jnp.asarray(times[1:])))
    monkeypatch.undo()
    return out[:, 1] - out[:, 0], out[:, 0], out[:, 2:] - out[:, :1]


def propagate(sampler, denoise, monkeypatch, times, mean, variance):
    """Mean and variance at the last time, from the exact affine law of every step."""
    for factor, shift, stds in zip(*affine_steps(sampler, denoise, monkeypatch, times), strict=True):
        mean, variance = factor * mean + shift, factor**2 * variance + (stds**2).sum()
    return mean, variance


# Final variance on N(0, 1) data from the exact start, last node .002: closed forms of the Gaussian chain,
# as products over the grid, evaluated in float64 NumPy apart from this library. Columns: sigma_max, number of
# nodes, rho, then Euler-Maruyama, DDPM, Euler (DDIM) and Heun.
TABLE = [
    (80.0, 40, 7, 1.287102, 0.766630, 0.876357, 1.016032),
    (80.0, 20, 7, 1.702993, 0.599422, 0.762702, 1.072156),
    (7.0, 20, 5, 1.333204, 0.725591, 0.854808, 1.021697),
    (7.0, 20, 7, 1.372565, 0.716036, 0.846641, 1.026030),
    (2.0, 20, 7, 1.185135, 0.780025, 0.898258, 1.010663),
    (2.0, 10, 7, 1.455222, 0.615560, 0.796993, 1.049292),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]:g}-{row[1]}-{row[2]}")
def test_gaussian_chain_has_its_closed_form_variance(row, monkeypatch, float64):
    sigma_max, nodes, rho, *wanted = row
    schedule, times = Karras(), power_grid(nodes - 1, t_max=sigma_max, t_min=0.002, rho=rho)
    denoise = gaussian_denoiser(schedule, 0.0, 1.0)
    for sampler, value in zip((EulerMaruyama(), ancestral(), DDIM(), Heun()), wanted, strict=True):
        _, got = propagate(sampler, denoise, monkeypatch, times, 0.0, 1 + sigma_max**2)
        assert abs(got - value) < 1e-6


def test_start_error_is_damped_as_in_closed_form(monkeypatch, float64):
    """From N(0, 80^2) on data of mean 1: (variance, mean error) of the same closed forms."""
    schedule, times = Karras(), power_grid(39, t_max=80.0, t_min=0.002, rho=7)
    denoise = gaussian_denoiser(schedule, 1.0, 1.0)
    wanted = {ancestral(): (0.766630, -0.000156), Heun(): (1.015873, -0.012599)}
    for sampler, value in wanted.items():
        mean, variance = propagate(sampler, denoise, monkeypatch, times, 0.0, 80.0**2)
        np.testing.assert_allclose((variance, mean - 1), value, atol=1e-6)


@pytest.mark.parametrize("method", [name for name in STOCHASTIC if name not in MULTISTEP])
@pytest.mark.parametrize("name", few_of(NAMES))
def test_stochastic_samplers_converge_at_order_one(name, method, monkeypatch, float64):
    """Mean and variance, propagated exactly, tend to those of the data's law at t_min like 1 / steps."""
    case = CASES[name]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    times = {n: log_snr_times(case, n) for n in (40, 80)}
    if method == "predictor_corrector":
        # Its Langevin steps have a bias of their own at any number of steps; it falls with their size.
        samplers_by_steps = {n: PredictorCorrector(signal_to_noise=0.16 * (40 / n) ** 0.5) for n in times}
    elif method == "heun_churn":
        samplers_by_steps = {n: Heun(churn=2.0 / n) for n in times}
    else:
        samplers_by_steps = dict.fromkeys(times, STOCHASTIC[method])
    errors = []
    for n, grid in times.items():
        start = (
            case.alpha(case.t_max) * MEAN,
            case.alpha(case.t_max) ** 2 * VARIANCE + case.sigma(case.t_max) ** 2,
        )
        mean, variance = propagate(samplers_by_steps[n], denoise, monkeypatch, grid, *start)
        wanted = case.alpha(case.t_min) ** 2 * VARIANCE + case.sigma(case.t_min) ** 2
        errors.append([abs(mean - case.alpha(case.t_min) * MEAN), abs(variance - wanted)])
    errors = np.array(errors)
    assert (errors[1] < np.maximum(0.62 * errors[0], 1e-9)).all(), errors  # 1/2, and room for higher orders


def test_ancestral_is_the_draw_from_the_bridge(monkeypatch, float64):
    from jaxdiff.noising.process import bridge

    case = CASES["vp"]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    t, s = 0.6, 0.5
    steps = affine_steps(ancestral(), denoise, monkeypatch, np.array([t, s]))
    (factor,), (shift,), (stds,) = steps
    for x in (0.0, 1.0):
        x = jnp.full((1, 1), x)
        mean, std = bridge(case.schedule, denoise(x, t).data, x, s, t)
        np.testing.assert_allclose(factor * x + shift, mean, rtol=1e-9)
        np.testing.assert_allclose(stds.sum(), std, rtol=1e-9)


@pytest.mark.parametrize("method", few_of(EVERY, FEW))
def test_samples_have_the_law_they_should(method):
    """End to end with real noise: mean and variance of 20,000 samples within standard errors of the exact ones."""
    case = CASES["karras"]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE)
    start_key, key = jax.random.split(jax.random.key(1))
    start = MEAN + np.sqrt(VARIANCE + 80.0**2) / 80.0 * initial_noise(start_key, denoise, 20_000, 80.0)
    times = power_grid(300, t_max=80.0, t_min=0.002, rho=7)
    x = np.asarray(integrate(key, denoise, start, times, sampler=EVERY[method]))
    bias = 0.06 * VARIANCE  # 300 steps of an order-one method, or of Langevin steps of the usual size
    assert abs(x.mean() - MEAN) < 4 * np.sqrt(VARIANCE / x.size) + 1e-2
    assert abs(x.var() - VARIANCE) < 4 * VARIANCE * np.sqrt(2 / x.size) + bias


@pytest.mark.parametrize("method", few_of(EVERY, FEW))
def test_a_sample_does_not_depend_on_its_batch(method):
    case = CASES["vp"]
    denoise = gaussian_denoiser(case.schedule, MEAN, VARIANCE, (2,))
    times = power_grid(8, t_max=1.0, t_min=0.01)
    run = functools.partial(sample, jax.random.key(3), denoise, sampler=EVERY[method], times=times)
    many, few = run(256), run(64)
    np.testing.assert_array_equal(few, many[:64])
    assert len(np.unique(np.asarray(many)[:, 0])) == 256


@pytest.mark.parametrize("method", few_of(EVERY, FEW))
def test_a_grid_to_zero_noise_ends_in_the_denoised_estimate(method):
    """The last step returns D(x_t, t): no noise is left in, and nothing is evaluated at sigma = 0."""
    schedule = RectifiedFlow()

    def answer(x, t):
        # NaN where a sampler should not look
        exact = gaussian_denoiser(schedule, MEAN, VARIANCE, (2,))(x, t)
        return jax.tree.map(lambda y: jnp.where(t > 0, y, jnp.nan), exact)

    denoise = as_denoiser(answer, schedule, shape=(2,), t_min=0.0)
    x = jax.random.normal(jax.random.key(4), (5, 2))
    times = jnp.asarray([0.9, 0.5, 0.2, 0.0])
    path = integrate_path(jax.random.key(5), denoise, x, times, sampler=EVERY[method])
    if method != "heun_churn":  # which first noises x up
        np.testing.assert_allclose(path[-1], denoise(path[-2], 0.2).data, rtol=1e-5, atol=1e-6)
    assert np.isfinite(path).all()


def test_every_correction_draws_by_a_key_of_its_own():
    """Where the score is zero k corrections are a walk of k steps: k times the variance of one, not k^2."""
    nothing = as_denoiser(lambda x, t: jax.tree.map(jnp.zeros_like, Denoised(x, x)), Karras(), shape=(500,))
    x, times = 2 * jnp.ones((40, 500)), jnp.asarray([2.0, 1.0])
    variance = {}
    for k in (1, 6):
        sampler = PredictorCorrector(DDIM(), num_corrections=k)
        variance[k] = np.var(integrate(jax.random.key(0), nothing, x, times, sampler=sampler))
    assert variance[1] == pytest.approx(4 * 0.16**2, rel=0.05)
    assert variance[6] / variance[1] == pytest.approx(6, rel=0.05)


def test_path_begins_at_the_start_and_ends_at_the_sample():
    denoise = gaussian_denoiser(Karras(), MEAN, VARIANCE, (2,))
    x, times = 80 * jax.random.normal(jax.random.key(0), (4, 2)), power_grid(5, t_max=80.0, t_min=0.1, rho=7)
    path = integrate_path(jax.random.key(1), denoise, x, times, sampler=ancestral())
    assert path.shape == (6, 4, 2)
    np.testing.assert_array_equal(path[0], x)
    np.testing.assert_array_equal(
        path[-1], integrate(jax.random.key(1), denoise, x, times, sampler=ancestral())
    )


def test_churn_stays_inside_the_grid_and_its_range():
    seen = []

    def answer(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return gaussian_denoiser(Karras(), MEAN, VARIANCE)(x, t)

    denoise = as_denoiser(answer, Karras(), shape=(1,))
    times = jnp.asarray([2.0, 1.6, 1.4, 1.0])
    integrate(
        jax.random.key(0), denoise, jnp.ones((1, 1)), times, sampler=Heun(churn=0.3, churn_range=(0.0, 1.5))
    )
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen, reverse=True), [2.0, 1.82, 1.6, 1.6, 1.4, 1.0], rtol=1e-6)


@pytest.mark.parametrize("method", few_of(EVERY, FEW))
def test_one_trace_for_eager_calls_with_new_keys_parameters_and_grids(method):
    traces = []

    def predict(params, x, t):
        traces.append(None)
        return params * x

    def run(key, params, t_max):
        times = power_grid(6, t_max=t_max, t_min=0.1, rho=3)
        denoise = make_denoiser(predict, jnp.asarray(params), Karras(), shape=(2,))
        return integrate(key, denoise, t_max * jnp.ones((3, 2)), times, sampler=EVERY[method])

    first = run(jax.random.key(0), 0.5, 80.0)
    num_traces = len(traces)
    assert num_traces <= 4  # one for each call that a step writes down, whatever the number of steps
    assert (run(jax.random.key(1), 0.4, 40.0) != first).all()
    assert len(traces) == num_traces


def test_memory_is_constant_in_the_steps():
    denoise = gaussian_denoiser(Karras(), MEAN, VARIANCE, (10,))

    def temporaries(function, num_steps):
        x, times = jnp.zeros((1000, 10)), power_grid(num_steps, t_max=80.0, t_min=0.1, rho=7)
        run = jax.jit(lambda x, times: function(jax.random.key(0), denoise, x, times, sampler=Heun()))
        return run.lower(x, times).compile().memory_analysis().temp_size_in_bytes

    bytes_per_sample = 1000 * 10 * 4
    assert temporaries(integrate, 1000) - temporaries(integrate, 10) < bytes_per_sample
    assert temporaries(integrate_path, 1000) > 500 * bytes_per_sample  # the measure does see a path


def test_samplers_map_over_the_schedule_and_their_own_settings(float64):
    """Schedules, and so whole sampling runs, are vmapped over their own parameters; eta and churn are traced."""
    x, times = jnp.ones((2, 1)), power_grid(10, t_max=1.0, t_min=0.05)

    def run(beta_max, eta):
        denoise = gaussian_denoiser(schedules.VariancePreserving(0.1, beta_max), MEAN, VARIANCE)
        return [
            integrate(jax.random.key(0), denoise, x, times, sampler=sampler)
            for sampler in (DDIM(eta), Heun(churn=eta / 10), ExponentialAdams(stochasticity=eta))
        ]

    rates, etas = jnp.asarray([5.0, 20.0]), jnp.asarray([0.0, 0.7])
    mapped = jax.vmap(run)(rates, etas)
    for i in range(2):
        for got, wanted in zip(mapped, run(float(rates[i]), float(etas[i])), strict=True):
            np.testing.assert_allclose(got[i], wanted, rtol=1e-11)


SCHEDULES = {
    "vp": schedules.VariancePreserving(),
    "sub_vp": schedules.SubVariancePreserving(),
    "ve": schedules.VarianceExploding(),
    "karras": Karras(),
    "cosine": schedules.Cosine(),
    "cosine_shifted": schedules.Cosine(0.5),
    "rectified_flow": RectifiedFlow(),
    "ou": schedules.OrnsteinUhlenbeck(),
    "linear_variance": schedules.LinearVariance(),
    "ddpm_table": schedules.from_betas(np.linspace(1e-4, 0.02, 1000)),
    "zero_terminal_table": schedules.from_betas(np.append(np.linspace(1e-4, 0.02, 999), 1.0)),
}
TYPES = {
    "data": prediction.data,
    "noise": prediction.noise,
    "score": prediction.score,
    "v": prediction.v,
    "flow": prediction.flow,
    "edm": prediction.EDM(),
}


@pytree
@dataclasses.dataclass(frozen=True)
class AnyType:
    """One of the prediction types by its number, so that all of them are one compiled program."""

    number: jax.Array

    def row(self, schedule, t):
        a, b = zip(*(chosen.row(schedule, t) for chosen in TYPES.values()), strict=True)
        return jnp.stack(a)[self.number], jnp.stack(b)[self.number]

    def inputs(self, schedule, x, t):
        return x, t


@pytest.mark.parametrize(
    ("name", "method"),
    each_once(
        SCHEDULES,
        EVERY,
        under=["rectified_flow"],
        ever=["dpm_solver_pp_2"],
        slow=["heun_churn", "predictor_corrector", "sa_solver"],
    ),
)
def test_every_sampler_is_finite_or_refused_with_every_prediction_type(name, method):
    """On the default grid in float32, eager and under jit: numbers, or one clear error; never a NaN in silence.

    The network is the exact one of N(0, I), so the samples also have its standard deviation, roughly.
    """
    schedule, sampler = SCHEDULES[name], EVERY[method]
    exact = Gaussian(jnp.zeros(2), 1.0).denoiser(schedule)

    def predict(number, x, t):
        return jax.vmap(lambda e, t: prediction.read(AnyType(number).row, schedule, e, t))(exact(x, t), t)

    def network(kind):
        number = jnp.asarray(list(TYPES).index(kind))
        made = make_denoiser(predict, number, schedule, shape=(2,), prediction=TYPES[kind])
        return dataclasses.replace(made, prediction=AnyType(number))

    run = functools.partial(sample, jax.random.key(0), n=256, sampler=sampler, num_steps=20)
    no_signal = float(schedule.alpha(schedule.working_range[1])) == 0
    for kind in TYPES:
        determinant = float(prediction.determinant(TYPES[kind].row, schedule, schedule.working_range[1]))
        if determinant == 0 or not np.isfinite(determinant):
            assert no_signal
            assert kind in ("noise", "score", "flow")
            with pytest.raises(ValueError, match="says nothing of the data at t_max"):
                network(kind)
        elif no_signal and getattr(sampler, "needs_signal", False):
            with pytest.raises(ValueError, match="alpha = 0 and the drift is infinite"):
                run(network(kind))
            if jax.tree.leaves(schedule):  # which are traced there
                assert not np.isfinite(jax.jit(run)(network(kind))).any()
            else:
                with pytest.raises(ValueError, match="alpha = 0 and the drift is infinite"):
                    jax.jit(run)(network(kind))
        else:
            x = run(network(kind))
            assert np.isfinite(x).all(), kind
            assert 0.5 < x.std() < 1.6, (kind, x.std())
    if method in ("dpm_solver_pp_2", "heun_churn"):
        np.testing.assert_allclose(jax.jit(run)(network("edm")), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", few_of(SCHEDULES))
def test_three_lines_to_a_sample(name):
    """Nothing said but the denoiser and the number: mean and standard deviation of the data, in any unit."""
    for mean, std in ((0.4, 1.0), (0.0, 50.0)):
        if std != 1.0 and SCHEDULES[name].t_max <= 1000:
            continue  # their noise ends: refused below
        law = Gaussian(jnp.full(3, mean), std**2)
        x = np.asarray(sample(jax.random.key(7), law.denoiser(SCHEDULES[name]), 4000))
        assert abs(x.mean() - mean) < 4 * std / np.sqrt(x.size) + 0.02 * std
        assert abs(x.std() / std - 1) < 4 / np.sqrt(2 * x.size) + 0.02
        fewer = sample(jax.random.key(7), law.denoiser(SCHEDULES[name]), 10)
        np.testing.assert_allclose(fewer, x[:10], rtol=1e-4, atol=1e-4 * std)


def test_what_sample_takes_by_default_can_be_given(float64):
    """Its sampler, its grid and its start, by their definitions."""
    denoise = Gaussian(jnp.full(3, 0.4), 0.7).denoiser(Karras())
    key = jax.random.key(3)
    by_default = sample(key, denoise, 8, num_steps=9)
    t_min, t_max = denoise.working_range
    np.testing.assert_allclose([t_min, t_max], np.sqrt(0.7) * np.array([0.002, 80]), rtol=1e-6)
    grid = to_clean(Karras(), noise_grid(Karras(), 8, t_min=t_min, t_max=t_max, scale=denoise.scale))
    np.testing.assert_array_equal(by_default, sample(key, denoise, 8, sampler=dpm_solver_pp(), times=grid))
    start_key, run_key = jax.random.split(key)
    start = initial_noise(start_key, denoise, 8, t_max)
    by_hand = integrate(run_key, denoise, start, grid, sampler=dpm_solver_pp())
    np.testing.assert_allclose(by_default, by_hand, rtol=1e-12)
    law = Gaussian(jnp.zeros(3), t_max**2)
    from_law = sample(key, denoise, 8, times=grid, start=law)
    np.testing.assert_allclose(
        from_law, integrate(run_key, denoise, law.sample(start_key, 8), grid), rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("method", few_of(EVERY, FEW))
def test_low_precision_is_kept(method, dtype):
    """x in 16 bits stays so, with times and scales in float32: the samples are those of float32, to rounding."""
    denoise = gaussian_denoiser(Karras(), MEAN, VARIANCE, (2,))
    times = to_clean(Karras(), noise_grid(Karras(), 30, t_max=20.0))
    start = 20 * jax.random.normal(jax.random.key(1), (512, 2), dtype)
    low = integrate(jax.random.key(0), denoise, start, times, sampler=EVERY[method])
    assert low.dtype == dtype
    mean, std = float(low.astype(jnp.float32).mean()), float(low.astype(jnp.float32).std())
    assert abs(mean - MEAN) < 0.15
    assert abs(std - np.sqrt(VARIANCE)) < 0.15


@pytest.mark.parametrize("method", few_of(EVERY, ("runge_kutta_3",)))
def test_single_precision_is_kept_where_doubles_are_on(method, float64):
    """A network of float32 in a program of float64: its samples are those of float32."""
    denoise = gaussian_denoiser(Karras(), MEAN, VARIANCE, (2,))
    times = to_clean(Karras(), noise_grid(Karras(), 6, t_max=20.0))
    start = 20 * jax.random.normal(jax.random.key(1), (4, 2), jnp.float32)
    got = integrate(jax.random.key(0), denoise, start, times, sampler=EVERY[method])
    assert got.dtype == jnp.float32
    assert np.isfinite(got).all()


@pytest.mark.slow
def test_mismatches_are_refused_or_not_a_number():
    """What used to sample something plausible: each is an error where it is known, and NaN where it is not."""
    key = jax.random.key(0)
    law = Gaussian(jnp.zeros(2), 1.0)
    vp, karras = law.denoiser(schedules.VariancePreserving()), law.denoiser(Karras())
    network = make_denoiser(lambda params, x, t: 0 * x, None, Karras(), shape=(2,))

    def run(denoise, times):
        return sample(key, denoise, 64, times=times, sampler=DDIM())

    grid = power_grid(40, t_max=80.0, t_min=1e-3)
    for denoise, words in (
        (vp, "outside of the range of Variance"),
        (network, r"times\[40\] = 0.001 is outside of"),
    ):
        with pytest.raises(ValueError, match=words):
            run(denoise, grid)
        with pytest.raises(ValueError, match=words):
            jax.jit(lambda denoise: run(denoise, grid))(denoise)
        assert np.isnan(jax.jit(run)(denoise, grid)).any()
    # A start of unit scale at sigma 80, and noise that does not dominate the data.
    with pytest.raises(ValueError, match=r"root mean square 1.0.* at t = 80 .* noise alone has 80"):
        sample(key, karras, 640, times=grid, start=law)
    wide = dataclasses.replace(network, scale=100.0)
    with pytest.raises(
        ValueError, match=r"log-SNR at t_max = 80 .* is 0.446 at the data's scale, wanted less than -4"
    ):
        sample(key, wide, 4)
    assert np.isnan(
        jax.jit(lambda scale: sample(key, dataclasses.replace(network, scale=scale), 4))(100.0)
    ).all()
    with pytest.raises(ValueError, match="root mean square"):
        sample(key, karras, 4, start=law)
    assert np.isnan(jax.jit(lambda key: sample(key, karras, 640, start=law))(key)).all()
    # Noise that hides the data to the end, and settings of several values, which would go along the wrong axis.
    small = dataclasses.replace(network, scale=1e-3)
    with pytest.raises(
        ValueError, match=r"t_min = 0.002 .* has noise of standard deviation 0.002, and with the data"
    ):
        sample(key, small, 4)
    with pytest.raises(ValueError, match=r"eta must have shape \(\), got \(2,\)"):
        sample(key, karras, 4, sampler=DDIM(jnp.asarray([0.0, 1.0])))
    with pytest.raises(ValueError, match=r"beta_max must have shape \(\), got \(2,\)"):
        schedules.VariancePreserving(0.1, jnp.asarray([5.0, 20.0])).alpha(0.5)
    with pytest.raises(ValueError, match=r"scale must have shape \(\), got \(2,\)"):
        make_denoiser(lambda params, x, t: 0 * x, None, Karras(), shape=(2,), scale=jnp.ones(2))
    with pytest.raises(ValueError, match=r"scale must have shape \(\), got \(2,\)"):
        guided(network, jnp.ones(2), unconditional=network)
    # Times that do not decrease, where only the device knows.
    assert np.isnan(jax.jit(run)(karras, jnp.asarray([2.0, 80.0, 1.0]))).any()
