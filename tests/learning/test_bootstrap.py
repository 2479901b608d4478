import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from oracles import CASES, NAMES, Chosen, assert_same_bits, compilations, few_of, gaussian_denoiser
from scipy.optimize import brentq, minimize_scalar

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning import bootstrap
from jaxdiff.learning.bootstrap import bootstrapped_target
from jaxdiff.learning.targets import denoising_target
from jaxdiff.learning.training import init_state
from jaxdiff.noising import process
from jaxdiff.typing import Denoised

MIXTURE = GaussianMixture(
    jnp.asarray([0.3, 0.7]), jnp.asarray([[1.0, 0.0], [-1.0, 0.5]]), jnp.asarray([0.1, 0.2])
)


def all_schedules():
    return tuple(case.schedule for case in CASES.values())


def time_of(case, ratio):
    """The time at which sigma / alpha is ratio, from the reference functions."""
    return brentq(lambda t: np.log(case.sigma(t) / case.alpha(t) / ratio), case.t_min, case.t_max, xtol=1e-14)


def denoiser_of(function, schedule, shape=(2,)):
    """A function (x, t) -> Denoised as a denoiser at all times of the schedule."""
    return as_denoiser(function, schedule, shape=shape, t_min=schedule.t_min, t_max=schedule.t_max)


def reveal(x, s):
    """A teacher that answers with x_s itself: with mix = 1 the target's data are then x_s."""
    return Denoised(x, x)


def reveal_if(revealing, exact, x, s):
    """Such a teacher, or the exact one."""
    return jax.tree.map(lambda x, y: jnp.where(revealing, x, y), Denoised(x, x), exact(x, s))


# --- the variance formulas ---------------------------------------------------------------------------------

DIMENSIONS = (1, 2, 10, 50)
SWEPT = ("ou", "vp", "ve", "rectified_flow")
PAIRS = ((0.05, 0.1), (0.05, 1.0), (0.2, 0.3), (0.3, 1.0), (0.5, 0.7), (0.9, 1.0))  # sigma / alpha at s, t
TARGETS = (
    "denoising",
    "step alone",
    "pure",
    "Rao-Blackwell",
    "partial mix",
    "optimal",
    "optimal, partial mix",
    "other gate",
)
MIXES = (0.0, 0.0, 1.0, 1.0, 0.5, 1.0, 0.5, 0.8)
DRAWS = 2000


@functools.cache
def sweep():
    """Measured and predicted squared residuals, (schedules, pairs, dimensions, targets, draws), in one call.

    A law of fewer than 50 dimensions has zeros beyond its own. V is affine in q_s and q_t, so a prediction
    for each draw is the formula at that draw's |N|^2 / d: the mean of the difference is zero, and its
    standard error is not that of a small difference of large means.
    """
    rng = np.random.default_rng(0)
    means = np.zeros((len(DIMENSIONS), 4, 50))
    for own, d in zip(means, DIMENSIONS, strict=True):
        own[:, :d] = np.sqrt(2 / d) * rng.standard_normal((4, d))
    inside = np.arange(50) < np.asarray(DIMENSIONS)[:, None]
    values = np.broadcast_to(0.05 * inside[:, None], means.shape)
    component = rng.integers(4, size=(len(PAIRS), len(DIMENSIONS), DRAWS))
    data = means[np.arange(len(DIMENSIONS))[:, None], component]
    data = data + np.sqrt(0.05) * inside[:, None] * rng.standard_normal(data.shape)
    times = np.asarray([[[time_of(CASES[n], r) for r in pair] for pair in PAIRS] for n in SWEPT])
    fresh = rng.standard_normal(data.shape)
    options = tuple(CASES[n].schedule for n in SWEPT)
    mixes, revealing = jnp.asarray([*MIXES, 1.0]), jnp.arange(len(MIXES) + 1) == len(MIXES)

    def cell(key, number, times, data, fresh, means, values, inside):
        schedule, (s, t) = Chosen(number, options), times
        exact = GaussianMixture(jnp.full(4, 0.25), means, Spectrum(values)).denoiser(schedule)

        def per_dimension(x):
            return jnp.where(inside[None], x**2, 0).sum(1) / inside.sum()

        rho = bootstrap.noise_correlation(schedule, s, t)
        q = per_dimension(exact(process.perturb(schedule, data, fresh, s), s).noise).mean()
        best = [bootstrap.optimal_gate(rho, q, mix=a) for a in (1.0, 0.5)]
        gates = jnp.stack([rho**2, 0 * rho, 1 + 0 * rho, rho**2, rho**2, *best, 0.4 + 0 * rho, rho**2])

        def target(mix, gate, revealing):  # the last one answers with x_s, which is then the target's data
            teacher = denoiser_of(Partial(reveal_if, revealing, exact), schedule, (50,))
            return bootstrapped_target(key, teacher, data, s, t, mix=mix, gate=gate)

        x_t, y = jax.vmap(target)(mixes, gates, revealing)
        known = exact(x_t[0], t).noise
        q_s, q_t = per_dimension(exact(y.data[-1], s).noise), per_dimension(known)
        predicted = jax.vmap(lambda g, a: bootstrap.target_variance(rho, g, a, q_s, q_t))(gates, mixes)
        return jax.vmap(lambda y: per_dimension(y - known))(y.noise)[:-1], predicted[:-1]

    @jax.jit
    def run(cells):
        over_d = jax.vmap(cell, in_axes=(0, None, None, 0, 0, 0, 0, 0))
        return jax.lax.map(lambda c: over_d(*c, means, values, inside), cells)

    keys = jax.random.split(jax.random.key(0), (len(SWEPT) * len(PAIRS), len(DIMENSIONS)))
    numbers = jnp.repeat(jnp.arange(len(SWEPT)), len(PAIRS))
    data, fresh = (np.tile(x, (len(SWEPT), 1, 1, 1)) for x in (data, fresh))
    arrays = run((keys, numbers, times.reshape(-1, 2), data, fresh))
    return tuple(np.asarray(a, np.float64).reshape(len(SWEPT), len(PAIRS), *a.shape[1:]) for a in arrays)


def mean_and_error(values, axis=-1):
    return values.mean(axis), values.std(axis, ddof=1) / np.sqrt(values.shape[axis])


@pytest.mark.slow
def test_the_variance_of_every_target_is_that_of_the_formula():
    """768 cells, of which chance puts 0.3 % beyond three standard errors."""
    measured, predicted = sweep()
    mean, error = mean_and_error(measured - predicted)
    z = mean / error
    assert np.abs(z).max() < 4.5
    assert (np.abs(z) > 3).mean() < 0.01
    assert 0.7 < (z**2).mean() < 1.4
    # and the test could have failed: the standard error is a small part of what is measured
    part = np.median(error / measured.mean(-1), axis=(0, 1, 2))
    assert (np.delete(part, TARGETS.index("optimal")) < 0.15).all()


def test_the_optimal_gate_beats_rao_blackwell_beats_denoising_at_every_pair():
    measured, _ = sweep()
    denoising, plain, best = (
        measured[..., TARGETS.index(n), :] for n in ("denoising", "Rao-Blackwell", "optimal")
    )
    for more, less in ((denoising, plain), (plain, best)):
        mean, error = mean_and_error(more - less)
        assert (mean > -3 * error).all()
        assert (mean > 5 * error).mean() > 0.6


# --- closed forms ------------------------------------------------------------------------------------------

BASIS = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
MEAN = np.asarray([0.5, -1.0, 0.2])
VARIANCES = [(0.6, 0.6, 0.6), (0.02, 0.5, 3.0)]  # of Gaussian data along BASIS
RATIOS = [(0.05, 0.06), (0.1, 0.8), (0.5, 0.9), (1.2, 4.0)]
ROWS = 12


class Cell(NamedTuple):
    """A schedule, two times and a Gaussian law, with what the reference functions say of them."""

    number: int
    times: tuple[float, float]
    variances: tuple[float, ...]
    scales: tuple[float, float, float, float]
    mixes: list[float]
    gates: list[np.ndarray]  # matrices; None stands for the default in the library

    @property
    def rho(self):
        a_s, s_s, a_t, s_t = self.scales
        return (s_s / a_s) / (s_t / a_t)

    def noise(self, x, alpha, sigma):
        return (
            sigma
            * (x - alpha * MEAN)
            @ (BASIS / (alpha**2 * np.asarray(self.variances) + sigma**2))
            @ BASIS.T
        )


KINDS = ("step alone", "pure", "optimal", "Rao-Blackwell", "other", "matrix")


@functools.cache
def closed():
    """Targets of every schedule at four pairs of times for two Gaussian laws, and of what they are made."""
    cells = []
    for number, case in enumerate(CASES.values()):
        for pair in RATIOS:
            for variances in VARIANCES:
                s, t = (time_of(case, r) for r in pair)
                scales = (case.alpha(s), case.sigma(s), case.alpha(t), case.sigma(t))
                rho = pair[0] / pair[1]
                explained = scales[1] ** 2 / (scales[0] ** 2 * np.asarray(variances) + scales[1] ** 2)
                # the gates of scalar and matrix, (8) and its sibling, from their own formulas
                best = [rho**2 / (rho**2 + (1 - rho**2) * q) for q in (explained.mean(), explained)]
                scalars = [0.0, 1.0, best[0], rho**2, 0.3]
                gates = [*(g * np.eye(3) for g in scalars), (BASIS * best[1]) @ BASIS.T]
                cells.append(Cell(number, (s, t), variances, scales, [0.0, 1.0, 1.0, 0.4, 0.7, 1.0], gates))
    with jax.enable_x64(True):
        options, data = all_schedules(), jnp.asarray(np.random.default_rng(1).standard_normal((ROWS, 3)))

        @jax.jit
        @jax.vmap
        def run(key, number, times, variances, mixes, gates):
            schedule = Chosen(number, options)
            exact = Gaussian(MEAN, Spectrum(variances, jnp.asarray(BASIS))).denoiser(schedule)

            def target(mix, gate, revealing):
                teacher = denoiser_of(Partial(reveal_if, revealing, exact), schedule, (3,))
                return bootstrapped_target(key, teacher, data, *times, mix=mix, gate=gate)

            x_t, gated = jax.vmap(lambda a, g: target(a, g, False))(mixes, gates)
            plain = jax.vmap(lambda a, r: target(a, None, r)[1])(mixes, jnp.arange(len(KINDS)) == 1)
            jacobian = (
                jnp.asarray(BASIS)
                * (
                    schedule.sigma(times[0]) ** 2
                    / (schedule.alpha(times[0]) ** 2 * variances + schedule.sigma(times[0]) ** 2)
                )[None]
                @ jnp.asarray(BASIS).T
            )
            rho = bootstrap.noise_correlation(schedule, *times)
            denoising = denoising_target(jax.random.split(key)[0], schedule, data, times[1])
            return x_t[0], gated, plain, denoising, rho, bootstrap.matrix_gate(rho, jacobian)

        columns = [jnp.asarray(np.asarray(c)) for c in zip(*cells, strict=True)]
        keys = jax.random.split(jax.random.key(2), len(cells))
        got = jax.tree.map(np.asarray, run(keys, *columns[:3], *columns[4:]))
    return np.asarray(data), [(cell, *jax.tree.map(lambda a, i=i: a[i], got)) for i, cell in enumerate(cells)]


def test_targets_are_their_equations_under_every_schedule():
    """Eqs. (4) and (6) in NumPy, from x_s and x_t alone; x_t is made up of both estimates."""
    data, cells = closed()
    for cell, x_t, gated, plain, denoising, rho, gate in cells:
        (a_s, s_s, a_t, s_t), x_s = cell.scales, plain.data[1]
        assert rho == pytest.approx(cell.rho, rel=1e-9)
        np.testing.assert_allclose(gate, cell.gates[-1], rtol=1e-7, atol=1e-9)
        n_s, n_t = (x_s - a_s * data) / s_s, (x_t - a_t * data) / s_t
        known = cell.noise(x_s, a_s, s_s)
        for i, (mix, gate) in enumerate(zip(cell.mixes, cell.gates, strict=True)):
            m = n_s + mix * (known - n_s)
            wanted = (n_t - rho * n_s) @ (np.eye(3) - gate) / (1 - rho**2) + m @ gate / rho
            np.testing.assert_allclose(gated.noise[i], wanted, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(
                a_t * gated.data[i] + s_t * gated.noise[i], x_t, rtol=1e-8, atol=1e-8 * s_t
            )
            if i == 1:
                continue
            wanted = (1 - mix) * data + mix * (x_s - s_s * known) / a_s
            np.testing.assert_allclose(plain.data[i], wanted, rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(
                a_t * plain.data[i] + s_t * plain.noise[i], x_t, rtol=1e-8, atol=1e-8 * s_t
            )
        # without mixing it is the denoising target of the first half of the key
        for got, wanted in zip((x_t, plain.data[0], plain.noise[0]), jax.tree.leaves(denoising), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
        both = KINDS.index("Rao-Blackwell")
        np.testing.assert_allclose(gated.noise[both], plain.noise[both], rtol=1e-8, atol=1e-9)


def test_for_gaussian_data_the_variance_is_exact():
    """Along the eigenvectors the residual is linear in (data, n_s, n_t), whose covariance is known.

    The optimal gate leaves none of it where the data are isotropic, the matrix gate wherever they are Gaussian.
    """
    data, cells = closed()
    for cell, x_t, gated, plain, _, rho, _ in cells:
        (a_s, s_s, a_t, s_t), x_s = cell.scales, plain.data[1]
        inputs = np.stack([data - MEAN, (x_s - a_s * data) / s_s, (x_t - a_t * data) / s_t]) @ BASIS
        q_s, q_t = (
            (s**2 / (a**2 * np.asarray(cell.variances) + s**2)).mean() for a, s in ((a_s, s_s), (a_t, s_t))
        )
        residual = (gated.noise - cell.noise(x_t, a_t, s_t)[None]) @ BASIS
        variance = np.zeros(len(KINDS))
        for j, own in enumerate(cell.variances):
            weights, left, *_ = np.linalg.lstsq(inputs[:, :, j].T, residual[:, :, j].T)
            assert (left < 1e-12).all()
            covariance = np.asarray([[own, 0, 0], [0, 1, rho], [0, rho, 1]])
            variance += np.einsum("ik,ij,jk->k", weights, covariance, weights) / 3
        for kind, mix, gate, wanted in zip(KINDS, cell.mixes, cell.gates, variance, strict=True):
            if kind == "matrix":
                assert wanted < 1e-14
                continue
            got = float(bootstrap.target_variance(rho, gate[0, 0], mix, q_s, q_t))
            assert got == pytest.approx(
                wanted, rel=1e-5, abs=1e-5 / (1 - rho**2)
            )  # of float32 and what cancels
            if kind == "optimal":
                assert (wanted < 1e-14) == (cell.variances == VARIANCES[0])


# --- unbiasedness ------------------------------------------------------------------------------------------


def test_every_target_has_the_exact_conditional_mean():
    """E[(y - N(x_t)) h(x_t)] = 0 for five h, with a time for each row, and three earlier levels at once."""
    n, case = 20_000, CASES["cosine"]
    rng = np.random.default_rng(6)
    ratio = np.exp(rng.uniform(np.log(0.3), np.log(2.0), 8))
    t = np.asarray([time_of(case, r) for r in ratio])
    s = np.asarray([[time_of(case, c * r) for r in ratio] for c in (0.3, 0.6, 0.9)])
    of = rng.integers(8, size=n)
    schedule, options = case.schedule, [(0.0, 0.0), (1.0, 1.0), (1.0, 0.3), (0.5, 0.7)]
    exact = MIXTURE.denoiser(schedule)
    functions = (jnp.ones_like, lambda x: x, jnp.sin, lambda x: x**2, lambda x: jnp.cos(3 * x[:, ::-1]))

    @jax.jit
    def moments(key, s, t):
        data_key, key = jax.random.split(key)
        data = MIXTURE.sample(data_key, n)

        def one(key, mix, gate):
            x, y = bootstrapped_target(key, exact, data, s, t, mix=mix, gate=gate)
            products = jnp.stack([(y.noise - exact(x, t).noise) * h(x) for h in functions])
            return products.mean(1), products.std(1, ddof=1) / n**0.5

        mixes, gates = (jnp.asarray(o) for o in zip(*options, strict=True))
        return jax.lax.map(lambda o: one(*o), (jax.random.split(key, len(options)), mixes, gates))

    mean, error = moments(jax.random.key(7), jnp.asarray(s[:, of]), jnp.asarray(t[of]))
    assert mean.shape == (4, 5, 2)
    assert (np.abs(mean) < 4.5 * error).all()
    assert (error < 0.03).all()


@pytest.mark.slow
def test_a_time_for_each_row_is_that_time_alone():
    """Also of mix and gate; row i depends on its own draw only. And the field adds S(x_t) - x_0, eq. (9)."""
    schedule = CASES["ou"].schedule
    data, t = MIXTURE.sample(jax.random.key(10), 5), jnp.linspace(0.2, 2.0, 5)
    s, mix, gate = t[None] * jnp.asarray([[0.5], [0.8]]), jnp.linspace(0.0, 1.0, 5), jnp.linspace(0.2, 0.9, 5)
    matrices = gate[:, None, None] * jnp.eye(2)[None]
    teacher, field = MIXTURE.denoiser(schedule), gaussian_denoiser(schedule, 0.3, 2.0, (2,))
    target = functools.partial(bootstrapped_target, jax.random.key(11), teacher, data)
    rows = jax.jit(lambda: target(s, t, mix=mix, gate=gate))()
    alone = jax.jit(jax.vmap(lambda s, t, a, g: target(s, t, mix=a, gate=g), in_axes=(1, 0, 0, 0)))(
        s, t, mix, gate
    )
    x, with_field = jax.jit(lambda: target(s, t, mix=mix, gate=matrices, field=field))()
    for got, wanted in zip(jax.tree.leaves(rows), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, np.asarray(wanted)[np.arange(5), np.arange(5)], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(with_field.data, rows[1].data + field(x, t).data - data, rtol=1e-4, atol=1e-5)
    alpha, sigma = CASES["ou"].alpha(np.asarray(t))[:, None], CASES["ou"].sigma(np.asarray(t))[:, None]
    np.testing.assert_allclose(alpha * with_field.data + sigma * with_field.noise, x, rtol=1e-4, atol=1e-5)


# --- the bridge --------------------------------------------------------------------------------------------


def test_earlier_states_have_the_moments_of_the_bridge():
    """Three levels at once: each x_s given (data, x_t) is N(mean, std^2), independent of the others."""
    n, schedule, t = 40_000, CASES["rectified_flow"].schedule, 0.7
    levels = jnp.asarray([0.2, 0.55, 0.69])
    data = MIXTURE.sample(jax.random.key(14), n)

    @jax.jit
    def standardized(level):
        def reveal_one(level, x, s):
            return jax.tree.map(lambda x: jnp.where(s == level, 3 * x, 0), Denoised(x, x))

        teacher = denoiser_of(Partial(reveal_one, level), schedule)
        x_t, y = bootstrapped_target(jax.random.key(15), teacher, data, levels, t, mix=1.0)
        mean, std = process.bridge(schedule, data, x_t, level, t)
        return (y.data - mean) / std, (x_t - schedule.alpha(t) * data) / schedule.sigma(t)

    z, noise = jax.lax.map(standardized, levels)
    z = np.concatenate([z, noise[:1], (np.asarray(data) - np.asarray(data).mean(0))[None]]).reshape(5, -1)
    assert (np.abs(z[:3].mean(1)) < 4 / np.sqrt(2 * n)).all()
    correlation = z[:3] @ z.T / (2 * n)
    assert (np.abs(np.diag(correlation) - 1) < 4 / np.sqrt(n)).all()
    bound = 4 * z.std(1) / np.sqrt(2 * n)
    assert (
        np.abs(correlation - np.diag(np.diag(correlation))[:, [0, 1, 2, 0, 0]] * [1, 1, 1, 0, 0])
        < bound[None]
    ).all()


def test_averaging_draws_of_the_bridge_lowers_the_variance_as_one_over_n():
    """V_n = V_inf + (V_1 - V_inf) / n: of three n, two give the third."""
    rows, schedule, s, t = 20_000, CASES["ou"].schedule, 0.3, 0.5
    exact, key = MIXTURE.denoiser(schedule), jax.random.key(16)

    @jax.jit
    def residuals(key):
        data_key, *keys = jax.random.split(key, 4)
        data = MIXTURE.sample(data_key, rows)

        def squared(key, n):
            x, y = bootstrapped_target(key, exact, data, jnp.full(n, s), t, mix=1.0)
            return ((y.noise - exact(x, t).noise) ** 2).sum(1)

        return [squared(key, n) for key, n in zip(keys, (1, 2, 6), strict=True)]

    one, two, six = (mean_and_error(np.asarray(r, np.float64)) for r in residuals(key))
    last = 2 * two[0] - one[0]
    error = np.hypot(np.hypot(six[1], 5 / 3 * two[1]), 2 / 3 * one[1])
    assert abs(six[0] - (last + (one[0] - last) / 6)) < 4 * error
    assert one[0] - six[0] > 10 * error


# --- ends, gradients, precision ----------------------------------------------------------------------------


def test_nothing_is_differentiated_through_the_teacher():
    schedule, data = CASES["vp"].schedule, MIXTURE.sample(jax.random.key(17), 4)

    def total(theta, data):
        teacher = Partial(lambda theta, x, s: Denoised(theta * x, jnp.sin(theta * x)), theta)
        teacher = denoiser_of(teacher, schedule)
        x, y = bootstrapped_target(jax.random.key(18), teacher, data, 0.2, 0.5, mix=0.5, gate=0.4)
        return y.noise.sum() + y.data.sum() + x.sum()

    through_teacher, through_data = jax.jit(jax.grad(total, (0, 1)))(1.3, data)
    assert through_teacher == 0
    assert (np.abs(through_data) > 0).all()


def test_nothing_is_differentiated_through_the_field():
    schedule, data = CASES["vp"].schedule, MIXTURE.sample(jax.random.key(17), 4)
    teacher = gaussian_denoiser(schedule, 0.1, 0.7, (2,))

    def total(theta):
        field = Partial(lambda theta, x, t: Denoised(theta * x, jnp.sin(theta * x)), theta)
        _, y = bootstrapped_target(
            jax.random.key(18), teacher, data, 0.2, 0.5, mix=0.5, field=denoiser_of(field, schedule)
        )
        return y.noise.sum() + y.data.sum()

    value, slope = jax.jit(jax.value_and_grad(total))(1.3)
    assert slope == 0
    assert abs(value - total(1.4)) > 1e-2


def test_an_end_of_the_schedule_gives_finite_targets():
    """Where alpha_t = 0, rho = 0: the data are mixed, the noise is x_t. Without mixing s may be t, there as well."""
    data = MIXTURE.sample(jax.random.key(19), 6)
    options = tuple(CASES[n].schedule for n in ("rectified_flow", "cosine", "karras"))
    assert options[0].alpha(1.0) == options[1].alpha(1.0) == options[2].sigma(0.0) == 0
    cells = [
        (0, 0.4, 1.0, 0.5),
        (1, 0.4, 1.0, 0.5),
        (0, 1.0, 1.0, 0.0),
        (1, 1.0, 1.0, 0.0),
        (2, 0.0, 0.0, 0.0),
        (1, 0.5, 0.5, 0.0),
    ]

    def target(number, s, t, mix):
        schedule = Chosen(number, options)
        teacher = denoiser_of(lambda x, s: Denoised(0.1 * x, jnp.sin(x)), schedule)
        s, t = jnp.full((2, 6), s), jnp.full(6, t)
        return bootstrapped_target(jax.random.key(20), teacher, data, s, t, mix=mix)

    x, y = jax.jit(jax.vmap(target))(*(jnp.asarray(c) for c in zip(*cells, strict=True)))
    assert all(np.isfinite(a).all() for a in (x, *y))
    np.testing.assert_allclose(y.noise[:2], x[:2], atol=1e-6)
    assert np.abs(y.data[:2] - data[None]).min() > 1e-3
    np.testing.assert_array_equal(y.data[2:], np.broadcast_to(data, (4, 6, 2)))


@pytest.mark.slow
def test_times_close_together_keep_their_digits():
    """In float32 the step's own noise, at a step of 1e-4, is right to a part in 1e3: its variance is 1 / v."""
    schedule, data = CASES["karras"].schedule, MIXTURE.sample(jax.random.key(23), 50_000)
    teacher = denoiser_of(reveal, schedule)
    step = functools.partial(bootstrapped_target, jax.random.key(24), teacher, data)
    _, y = jax.jit(lambda s, t: step(s, t, mix=0.0, gate=0.0))(1.0, 1.0001)
    wanted = 1 / (1 - (1 / np.float64(np.float32(1.0001))) ** 2)
    assert np.asarray(y.noise, np.float64).var() == pytest.approx(wanted, rel=4 * np.sqrt(2 / 100_000))


# --- gates, mixes, times -----------------------------------------------------------------------------------


def test_the_optimal_gate_and_mix_are_minima():
    rng = np.random.default_rng(25)
    for rho, q_s, mix, freedom, bias in rng.uniform(0.05, 0.95, (20, 5)):
        found = minimize_scalar(
            lambda g, a=mix, r=rho, q=q_s: (
                (1 - g) ** 2 / (1 - r**2) + g**2 * ((1 - a) ** 2 + (1 - (1 - a) ** 2) * q) / r**2
            )
        )
        assert float(bootstrap.optimal_gate(rho, q_s, mix=mix)) == pytest.approx(found.x, abs=1e-5)
        gates = jnp.linspace(-0.5, 1.5, 2001)
        values = jax.vmap(lambda g, r=rho, q=q_s, a=mix: bootstrap.target_variance(r, g, a, q, 0.0))(gates)
        assert float(gates[values.argmin()]) == pytest.approx(found.x, abs=1.1e-3)
        found = minimize_scalar(lambda a, f=freedom, q=q_s, b=bias: f * (1 - a) ** 2 * (1 - q) + a**2 * b)
        assert float(bootstrap.optimal_mix(1 - q_s, bias, freedom)) == pytest.approx(found.x, abs=1e-5)
    assert bootstrap.optimal_mix(0.5, 0.0, 0.1) == 1
    # Where the later noise tells nothing of the earlier, and where there is nothing to trade.
    assert bootstrap.optimal_gate(0.0, 0.0) == bootstrap.optimal_gate(0.0, 0.5) == 0
    assert bootstrap.optimal_gate(0.3, 0.0) == 1
    assert bootstrap.optimal_mix(0.0, 0.0, 0.1) == 0
    assert np.isnan(bootstrap.optimal_gate(jnp.nan, 0.5))
    np.testing.assert_array_equal(bootstrap.matrix_gate(0.0, jnp.zeros((2, 2))), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"jacobian must have shape \(3, 3\), got \(2, 3\)"):
        bootstrap.matrix_gate(0.5, jnp.zeros((2, 3)))


@pytest.mark.parametrize("name", few_of(NAMES))
def test_the_earlier_time_has_the_correlation_asked_for(name, float64):
    case = CASES[name]
    schedule, t_min = case.schedule, time_of(case, 0.05)
    t = jnp.asarray([time_of(case, r) for r in (0.3, 0.5, 2.0)])
    s = jax.vmap(lambda t: bootstrap.earlier_time(schedule, t, 0.4, t_min=t_min))(t)
    s, t = np.asarray(s), np.asarray(t)
    rho = case.sigma(s) / case.alpha(s) * case.alpha(t) / case.sigma(t)
    np.testing.assert_allclose(rho, 0.4, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(lambda s, t: bootstrap.noise_correlation(schedule, s, t))(s, t), 0.4, rtol=1e-6
    )
    assert bootstrap.earlier_time(schedule, t[0], 0.01, t_min=t_min) == pytest.approx(t_min, rel=1e-9)


@pytest.mark.parametrize("name", few_of(NAMES))
def test_the_earlier_time_is_never_the_later_one(name):
    """For times over and beyond both ends of what is asked, alone, in a batch and traced."""
    case = CASES[name]
    schedule = case.schedule
    low = schedule.t_min if np.isfinite(schedule.t_min) else -3.0
    t_min = float(np.float32(time_of(case, 0.1)))
    t = np.sort(np.r_[np.linspace(low, t_min, 5), np.linspace(t_min, case.t_max, 40), case.t_max]).astype(
        np.float32
    )
    s = bootstrap.earlier_time(schedule, t, 0.5, t_min=t_min)
    assert s.shape == t.shape
    assert (s <= t).all()  # also: none is NaN
    np.testing.assert_array_equal(s[t <= t_min], t[t <= t_min])
    assert (s[t > t_min] >= t_min).all()
    inside = (t > t_min) & (np.asarray(jax.vmap(schedule.alpha)(t)) > 0)
    assert inside.sum() > 30
    assert (s[inside] < t[inside]).all()
    assert bootstrap.earlier_time(schedule, t[-9], 0.5, t_min=t_min) == s[-9]
    traced = jax.jit(lambda schedule, t: bootstrap.earlier_time(schedule, t, 0.5, t_min=t_min))(schedule, t)
    np.testing.assert_array_equal(traced, s)
    grid = bootstrap.earlier_time(schedule, t[:6].reshape(2, 3), 0.5, t_min=t_min)
    np.testing.assert_array_equal(grid, s[:6].reshape(2, 3))


# --- half the noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", few_of(NAMES))
def test_half_noise_targets_are_finite_at_every_time(name):
    """From no noise to no signal, with a teacher that knows no time before its own first one."""
    case = CASES[name]
    schedule = case.schedule
    low = schedule.t_min if np.isfinite(schedule.t_min) else -3.0
    t_min = float(np.float32(time_of(case, 0.1)))
    t = jnp.asarray(np.r_[np.linspace(low, t_min, 7), np.linspace(t_min, case.t_max, 41)], jnp.float32)
    data = MIXTURE.sample(jax.random.key(1), len(t))
    key, function = jax.random.key(2), lambda x, s: Denoised(0.1 * x, jnp.sin(x) + 0 * s[:, None])
    teacher = as_denoiser(function, schedule, shape=(2,), t_min=t_min, t_max=case.t_max)
    _, exact = denoising_target(jax.random.split(key)[0], schedule, data, t)
    for run in (bootstrap.half_noise_target, jax.jit(bootstrap.half_noise_target)):
        for mix in (0.0, 0.9, 1.0):
            x, y = run(key, teacher, data, t, mix=mix, t_min=t_min)
            assert all(np.isfinite(part).all() for part in (x, *y))
            np.testing.assert_array_equal(y.data[:7], exact.data[:7])
            np.testing.assert_array_equal(y.noise[:7], exact.noise[:7])
            moved = np.abs(np.asarray(y.data - exact.data)).max(1)
            assert (moved[10:-1] > 1e-4).all() == bool(mix)


def test_the_half_noise_target_is_the_bootstrapped_one_with_a_mix_that_falls():
    """sigma_s / sigma_t is 1/2, or t_min / t below 2 t_min; the mix falls as 1 - rho^2, to zero at t_min."""
    schedule, t = CASES["karras"].schedule, jnp.asarray([0.05, 0.1, 0.12, 0.15, 0.2, 1.0, 20.0])
    data, teacher = MIXTURE.sample(jax.random.key(3), 7), MIXTURE.denoiser(schedule)
    got = bootstrap.half_noise_target(jax.random.key(4), teacher, data, t, mix=0.8, t_min=0.1)
    s = np.minimum(np.maximum(np.asarray(t) / 2, 0.1), t)
    mix = 0.8 * np.minimum((1 - (s / np.asarray(t, np.float64)) ** 2) / 0.75, 1)
    wanted = bootstrapped_target(
        jax.random.key(4), teacher, data, jnp.asarray(s), t, mix=jnp.asarray(mix, jnp.float32)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        mix, 0.8 * np.r_[0, 0, (1 - 1 / 1.44) / 0.75, (1 - 1 / 2.25) / 0.75, 1, 1, 1], rtol=1e-5
    )
    # by default from the working range of the teacher's data
    first = teacher.working_range[0]
    default = bootstrap.half_noise_target(jax.random.key(4), teacher, data, t, mix=0.8)
    assert_same_bits(
        default, bootstrap.half_noise_target(jax.random.key(4), teacher, data, t, mix=0.8, t_min=first)
    )


def test_mixing_at_one_time_is_nan_where_it_is_traced():
    """And so is a later s, also where nothing is mixed; with no mixing s = t is the denoising target."""
    teacher, data = MIXTURE.denoiser(CASES["vp"].schedule), MIXTURE.sample(jax.random.key(5), 3)
    s, mix = jnp.asarray([0.5, 0.5, 0.6]), jnp.asarray([0.5, 0.0, 0.0])

    def target(s, mix):
        return bootstrapped_target(jax.random.key(6), teacher, data, s, jnp.full(3, 0.5), mix=mix)

    x, y = jax.jit(target)(s, mix)
    assert np.isfinite(x).all()
    for part in y:
        np.testing.assert_array_equal(np.isnan(part).all(1), [True, False, True])
    np.testing.assert_array_equal(y.data[1], data[1])


# --- data of every kind ------------------------------------------------------------------------------------


def test_images_of_half_precision():
    """bfloat16 images with a field: in their dtype, and those of float32 to its digits."""
    schedule, n = CASES["cosine"].schedule, 6
    t = jnp.linspace(0.2, 0.9, n)
    images = jax.random.normal(jax.random.key(7), (n, 2, 2, 3))
    teacher, field = (gaussian_denoiser(schedule, m, v, (2, 2, 3)) for m, v in ((0.1, 0.7), (0.0, 1.1)))

    def target(images):
        return bootstrapped_target(
            jax.random.key(8), teacher, images, 0.6 * t, t, mix=0.8, gate=jnp.full(n, 0.4), field=field
        )

    x, y = target(images.astype(jnp.bfloat16))
    assert x.dtype == y.data.dtype == y.noise.dtype == jnp.bfloat16
    assert x.shape == y.data.shape == y.noise.shape == images.shape
    alpha, sigma = (np.asarray(jax.vmap(f)(t)).reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
    made = alpha * y.data.astype(jnp.float32) + sigma * y.noise.astype(jnp.float32)
    # the mixed data are a few roundings of 2^-9 of numbers up to 4 away
    assert np.abs(np.asarray(made - x.astype(jnp.float32))).max() < 0.06
    x, y = target(images)
    np.testing.assert_allclose(alpha * y.data + sigma * y.noise, x, rtol=1e-4, atol=1e-5)
    asked = []
    teacher = denoiser_of(lambda x, s: asked.append(x.dtype) or Denoised(x, x), schedule, (2, 2, 3))
    bootstrapped_target(jax.random.key(8), teacher, images.astype(jnp.bfloat16), 0.6 * t, t, mix=0.8)
    assert asked == [jnp.bfloat16]
    with pytest.raises(ValueError, match="matrices go with data"):
        bootstrapped_target(jax.random.key(8), teacher, images, 0.1, 0.5, mix=0.8, gate=jnp.eye(12))


def test_a_field_of_the_data_leaves_the_variance_of_the_earlier_level():
    """With S the denoiser of the data themselves and mix 1, eq. (9) at small noise is the teacher alone."""
    schedule, data = CASES["karras"].schedule, 10 * jnp.eye(4)
    teacher, field = gaussian_denoiser(schedule, 0.0, 3.0, (4,)), Empirical(data).denoiser(schedule)
    _, plain = bootstrapped_target(jax.random.key(9), teacher, data, 0.1, 0.3, mix=1.0)
    _, fielded = bootstrapped_target(jax.random.key(9), teacher, data, 0.1, 0.3, mix=1.0, field=field)
    np.testing.assert_allclose(fielded.data, plain.data, atol=1e-5)  # S is x_0 there
    _, fielded = bootstrapped_target(jax.random.key(9), teacher, data, 0.1, 60.0, mix=1.0, field=field)
    assert np.abs(np.asarray(fielded.data - plain.data)).max() > 1


def test_a_second_call_compiles_nothing():
    """New keys, parameters, data and times; of a network as the teacher."""
    schedule = CASES["vp"].schedule

    def predict(params, x, t):
        return params * x

    def call(seed):
        teacher = make_denoiser(predict, jnp.float32(seed), schedule, shape=(2,))
        data = jax.random.normal(jax.random.key(seed), (5, 2))
        t = jnp.full(5, 0.5) + 0.01 * seed
        bootstrapped_target(jax.random.key(seed), teacher, data, 0.5 * t, t, mix=0.1 * seed, field=teacher)
        bootstrap.half_noise_target(jax.random.key(seed), teacher, data, t, mix=0.5)
        bootstrap.fit_levels(
            jax.random.key(seed), fit, jnp.zeros(2) + seed, t[:1] + jnp.arange(2) / 8, mix=0.5
        )

    def fit(key, params, s, t, mix):
        return params + s

    call(1)
    assert compilations(lambda: call(2)) == 0


# --- level by level ----------------------------------------------------------------------------------------


def test_levels_are_fitted_one_after_the_other(float64):
    """Exact fits of D = c x for data N(0, v), against a loop; and from the exact first level all are exact."""
    schedule, levels, variance = CASES["vp"].schedule, np.asarray([0.05, 0.1, 0.3, 0.6, 0.9]), 0.6
    alpha, sigma = CASES["vp"].alpha(levels), CASES["vp"].sigma(levels)

    def fit(key, gain, s, t, mix, noise=0.0):
        a_s, a_t = schedule.alpha(s), schedule.alpha(t)
        passed = gain * a_t / a_s * (a_s**2 * variance + schedule.sigma(s) ** 2)  # E[gain x_s x_t]
        product = (1 - mix) * a_t * variance + mix * passed
        return product / (a_t**2 * variance + schedule.sigma(t) ** 2) + noise * jax.random.normal(key)

    exact = alpha * variance / (alpha**2 * variance + sigma**2)
    got = bootstrap.fit_levels(jax.random.key(26), fit, jnp.asarray(7.0), jnp.asarray(levels), mix=0.8)
    np.testing.assert_allclose(got, exact, rtol=1e-12)  # the 7 is not looked at: the first has no mixing

    # with noise in every fit: each level's own key, and the mix of its own level
    mixes, keys = np.asarray([0.9, 0.9, 0.5, 0.0, 1.0]), jax.random.split(jax.random.key(27), 3)
    noisy = functools.partial(fit, noise=0.3)
    swept = jax.jit(
        jax.vmap(
            lambda key, start: bootstrap.fit_levels(
                key, noisy, start, jnp.asarray(levels), mix=jnp.asarray(mixes)
            )
        )
    )(keys, jnp.arange(3.0))
    assert swept.shape == (3, 5)
    noise = jax.vmap(lambda key: jax.vmap(jax.random.normal)(jax.random.split(key, 5)))(keys)
    for row, own in zip(np.asarray(swept), np.asarray(noise), strict=True):
        gain = np.nan
        for k in range(5):
            target = variance * alpha[k]
            if k:
                total = alpha[k - 1] ** 2 * variance + sigma[k - 1] ** 2
                target = (1 - mixes[k]) * target + mixes[k] * gain * alpha[k] / alpha[k - 1] * total
            gain = target / (alpha[k] ** 2 * variance + sigma[k] ** 2) + 0.3 * own[k]
            assert row[k] == pytest.approx(gain, rel=1e-10)


def test_the_first_level_is_its_own_teacher_and_is_compiled_once():
    seen, levels = [], jnp.asarray([0.1, 0.2, 0.5])

    def fit(key, params, s, t, mix):
        seen.append(None)
        return {"s": s, "t": t, "mix": mix, "before": params["t"]}

    start = {"s": jnp.zeros(()), "t": -jnp.ones(()), "mix": jnp.zeros(()), "before": jnp.zeros(())}
    got = bootstrap.fit_levels(jax.random.key(0), fit, start, levels, mix=0.7)
    np.testing.assert_allclose(got["s"], [0.1, 0.1, 0.2])
    np.testing.assert_allclose(got["t"], levels)
    np.testing.assert_allclose(got["mix"], [0.0, 0.7, 0.7], rtol=1e-6)
    np.testing.assert_allclose(got["before"], [-1, 0.1, 0.2])
    assert len(seen) == 1


# --- the joint form ----------------------------------------------------------------------------------------


def joint(loss, **options):
    optimizer = optax.sgd(0.5)
    step = bootstrap.make_joint_step(loss, optimizer, **options)
    state = init_state(jnp.asarray([1.0, -2.0]), optimizer, ema_decay=options["ema_decay"])
    for _ in range(3):
        state, metrics = step(jax.random.key(0), state, jnp.arange(8.0).reshape(4, 2))
    return state, metrics


def test_the_joint_step_is_taught_by_the_average_before_it():
    """p <- p - 1/2 (p - 2 e - k) with e the average before, against the recursion in NumPy."""

    def loss(params, teacher, step, key, batch):
        return 0.5 * jnp.sum((params - 2 * teacher - step) ** 2)

    decays = {"short": 0.5, "long": 0.9}
    for name, options in {
        "short": {"ema_decay": 0.5},
        "none": {"ema_decay": None},
        "long": {"ema_decay": decays, "teacher": lambda state: state.ema_params["long"]},
    }.items():
        params = average = np.asarray([1.0, -2.0])
        for k in range(3):
            params = params - 0.5 * (params - 2 * average - k)
            d = {"none": 0.0, **decays}[name]
            average = d * average + (1 - d) * params
        state, _ = joint(loss, **options)
        np.testing.assert_allclose(state.params, params, rtol=1e-6)
    with pytest.raises(ValueError, match="several averages"):
        joint(loss, ema_decay=decays)


def test_the_joint_step_in_microbatches_is_that_of_the_batch():
    seen = []

    def loss(params, teacher, step, key, batch):
        seen.append(batch.shape)
        return jnp.mean((batch * params[None] - teacher[None]) ** 2) / 100

    whole, parts = (joint(loss, ema_decay=0.5, num_microbatches=m) for m in (1, 2))
    assert set(seen) == {(4, 2), (2, 2)}
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"data": jnp.ones((4, 2), jnp.int32)},
            TypeError,
            "data must be an array of floating-point numbers, got int32",
        ),
        (
            {"data": jnp.ones((4, 2)).at[1, 0].set(jnp.nan)},
            ValueError,
            r"data has 1 non-finite .* index \(1, 0\)",
        ),
        ({"data": jnp.ones(())}, ValueError, r"data must have shape \(batch, ...\)"),
        ({"t": jnp.full(3, 0.5)}, ValueError, r"t must be a scalar or have shape \(4,\).*got \(3,\)"),
        ({"s": 0.6}, ValueError, r"s must not be above t, got s = 0\.6.*t = 0\.5.*earlier time first"),
        (
            {"s": jnp.asarray([[0.1] * 4, [0.9] * 4]), "t": jnp.full(4, 0.5)},
            ValueError,
            "s must not be above t",
        ),
        ({"s": jnp.full((2, 3), 0.1)}, ValueError, r"s must have the shape of t, \(\).*got \(2, 3\)"),
        ({"s": 0.1, "t": jnp.full(4, 0.5)}, ValueError, r"s must have the shape of t, \(4,\).*got \(\)"),
        ({"s": jnp.zeros(0)}, ValueError, "s must"),
        ({"s": -0.1}, ValueError, r"s = -0\.1 is outside of the range of RectifiedFlow"),
        ({"s": 0.01}, ValueError, r"s = 0\.01 is outside of the times that this denoiser"),
        ({"s": jnp.asarray([0.01, 0.3])}, ValueError, r"s\[0\] = 0\.01 is outside of the times"),
        ({"t": 1.5}, ValueError, r"t = 1\.5 is outside of the range of RectifiedFlow"),
        ({"t": jnp.nan}, ValueError, "t = nan is outside of the range"),
        ({"s": 0.5}, ValueError, r"mix must be 0 where s = t.*got mix = 0\.5 and s = 0\.5"),
        (
            {"s": jnp.full(4, 0.5), "t": jnp.full(4, 0.5), "mix": jnp.asarray([0.0, 0.1, 0.0, 0.0])},
            ValueError,
            "mix must be 0 where s = t",
        ),
        ({"mix": jnp.full(3, 0.5)}, ValueError, r"mix must be a scalar or have shape \(4,\), got \(3,\)"),
        ({"mix": jnp.full((4, 1), 0.5)}, ValueError, r"mix must be a scalar or .* got \(4, 1\)"),
        (
            {"gate": jnp.ones(2)},
            ValueError,
            r"gate must have one of the shapes \(\), \(4,\), \(2, 2\).*got \(2,\)",
        ),
        ({"gate": jnp.ones((4, 2))}, ValueError, r"gate must have one of the shapes.*got \(4, 2\)"),
        ({"gate": jnp.ones((4, 3, 3))}, ValueError, r"gate must have one of the shapes.*got \(4, 3, 3\)"),
        ({"gate": jnp.asarray([0.1, jnp.nan, 0.1, 0.1])}, ValueError, "gate has 1 non-finite of 4 values"),
        ({"data": jnp.ones((4, 3))}, ValueError, r"data must have shape \(batch, 2\).*got \(4, 3\)"),
        ({"key": 0}, TypeError, r"key must be a key such as jax.random.key\(0\), got int"),
        ({"teacher": reveal}, TypeError, "teacher must be a Denoiser, got function.*as_denoiser"),
        ({"field": reveal}, TypeError, "field must be a Denoiser"),
        (
            {"field": gaussian_denoiser(CASES["vp"].schedule, 0.0, 1.0, (2,))},
            ValueError,
            r"field must have the schedule of the teacher, RectifiedFlow\(\); got VariancePreserving",
        ),
        (
            {"field": gaussian_denoiser(CASES["rectified_flow"].schedule, 0.0, 1.0, (3,))},
            ValueError,
            r"field must have the shape of the teacher, \(2,\); got \(3,\)",
        ),
        (
            {"field": as_denoiser(reveal, CASES["rectified_flow"].schedule, shape=(2,), t_min=0.6)},
            ValueError,
            r"t = 0\.5 is outside of the times that this denoiser",
        ),
        ({"mix": 1.2}, ValueError, r"mix must lie in \[0, 1\], got 1\.2"),
        ({"mix": jnp.asarray([0.1, -0.1, 0.0, 0.0])}, ValueError, r"mix must lie in \[0, 1\]"),
        ({"mix": jnp.nan}, ValueError, r"mix must lie in \[0, 1\]"),
    ],
)
def test_bad_targets(changes, error, message):
    teacher = as_denoiser(reveal, CASES["rectified_flow"].schedule, shape=(2,), t_min=0.05)
    given = {
        "key": jax.random.key(0),
        "teacher": teacher,
        "data": jnp.ones((4, 2)),
        "s": 0.2,
        "t": 0.5,
        "mix": 0.5,
    }
    with pytest.raises(error, match=message):
        bootstrapped_target(**{**given, **changes})


@pytest.mark.parametrize(
    ("levels", "mix", "message"),
    [
        ([0.3, 0.2, 0.5], 0.5, "levels must increase strictly.*sort them"),
        ([0.2, 0.2], 0.5, "levels must increase strictly"),
        ([0.2, jnp.nan], 0.5, "levels must increase strictly"),
        (0.2, 0.5, r"levels must have shape \(any,\), got \(\)"),
        ([0.2, 0.3], 1.5, r"mix must lie in \[0, 1\], got 1\.5"),
        ([0.2, 0.3], jnp.zeros(3), r"mix must be a scalar or have shape \(2,\), got \(3,\)"),
    ],
)
def test_bad_levels(levels, mix, message):
    with pytest.raises(ValueError, match=message):
        bootstrap.fit_levels(jax.random.key(0), lambda *a: a[1], jnp.ones(()), jnp.asarray(levels), mix=mix)


def test_a_correlation_above_one_is_refused():
    with pytest.raises(ValueError, match=r"correlation must lie in \[0, 1\], got 1\.5"):
        bootstrap.earlier_time(CASES["vp"].schedule, 0.5, 1.5, t_min=0.01)
