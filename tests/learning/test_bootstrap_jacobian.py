"""Targets whose gate is one Jacobian product, eqs. (12) and (13) of `jaxdiff.learning.bootstrap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from oracles import CASES, assert_same_bits, gaussian_denoiser

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning import bootstrap
from jaxdiff.learning.bootstrap import bootstrapped_target
from jaxdiff.noising.process import inverse_log_snr
from jaxdiff.typing import Denoised

FEW = ("ou", "ve", "cosine", "rectified_flow")
BASIS = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]


def mixture(dtype=None, d=5):
    """Four modes on the sphere of radius 2."""
    means = np.random.default_rng(0).standard_normal((4, d))
    means *= 2 / np.linalg.norm(means, axis=1, keepdims=True)
    return GaussianMixture(jnp.full(4, 0.25, dtype), jnp.asarray(means, dtype), jnp.full(4, 0.05, dtype))


def times_of(schedule, *ratios):
    """The times at which sigma / alpha is each of the ratios."""
    ends = {"t_min": schedule.working_range[0], "t_max": schedule.working_range[1]}
    return [float(inverse_log_snr(schedule, -2 * np.log(ratio), **ends)) for ratio in ratios]


@pytest.mark.parametrize("name", FEW)
def test_for_gaussian_data_nothing_is_left(name, float64):
    """The target is E[noise | x_t] itself, for any covariance, and with the matrix gate so it is."""
    schedule, variances = CASES[name].schedule, jnp.asarray([0.02, 0.5, 3.0])
    law = Gaussian(jnp.asarray([0.5, -1.0, 0.2]), Spectrum(variances, jnp.asarray(BASIS)))
    exact, data = law.denoiser(schedule), law.sample(jax.random.key(0), 8)
    for pair in ((0.1, 0.8), (0.5, 0.55), (1.2, 4.0)):
        s, t = times_of(schedule, *pair)
        target = functools.partial(bootstrapped_target, jax.random.key(1), exact, data, s, t, mix=1.0)
        x, y = target(gate=exact)
        np.testing.assert_allclose(y.noise, exact(x, t).noise, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(y.data, exact(x, t).data, rtol=1e-7, atol=1e-7)
        known = schedule.sigma(s) ** 2 / (schedule.alpha(s) ** 2 * variances + schedule.sigma(s) ** 2)
        rho = bootstrap.noise_correlation(schedule, s, t)
        best = bootstrap.matrix_gate(rho, jnp.asarray((BASIS * np.asarray(known)) @ BASIS.T))
        np.testing.assert_allclose(y.noise, target(gate=best)[1].noise, rtol=1e-6, atol=1e-6)
        assert np.abs(np.asarray(y.noise - target()[1].noise)).max() > 1e-3


@pytest.mark.parametrize("name", FEW)
def test_the_gate_is_that_of_the_hessian(name, float64):
    """(13) as a matrix for each row, from the Hessian of the mixture's log-density; with two draws of x_s."""
    case, law = CASES[name], mixture(float)
    schedule, data = case.schedule, law.sample(jax.random.key(0), 6)
    exact = law.denoiser(schedule)
    *earlier, t = times_of(schedule, 0.2, 0.45, 0.5)
    mix = jnp.asarray([0.0, 0.3, 0.5, 0.8, 0.9, 1.0])
    for s in earlier:
        both = jnp.full((2, 6), s)
        target = functools.partial(
            bootstrapped_target, jax.random.key(1), exact, data, both, jnp.full(6, t), mix=mix
        )
        x, y = target(gate=exact)
        hessian = jax.vmap(jax.hessian(law.perturbed(schedule, t).log_prob))(x)
        c = np.eye(5) + case.sigma(t) ** 2 * np.asarray(hessian)
        assert np.linalg.eigvalsh(c).max() > 0.9
        square = (case.sigma(s) * case.alpha(t) / (case.alpha(s) * case.sigma(t))) ** 2
        part = 1 - (1 - np.asarray(mix)) ** 2
        weight = square * (1 - square) * part / (1 - (1 - square) * part)
        wanted = target(gate=jnp.asarray(square * np.eye(5) + weight[:, None, None] * c))[1]
        np.testing.assert_allclose(y.noise, wanted.noise, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(y.data, wanted.data, rtol=1e-7, atol=1e-8)
        plain = target()[1].noise
        np.testing.assert_allclose(y.noise[0], plain[0], rtol=1e-12)
        assert (np.abs(np.asarray(y.noise - plain)).max(1)[1:] > 1e-3).all()


@pytest.mark.slow
def test_any_denoiser_leaves_the_conditional_mean():
    """E[(y - N) h(x_t)] = 0 for five h, whatever is differentiated: a wrong law, or none at all."""
    n, schedule = 20_000, CASES["karras"].schedule
    law = mixture()
    exact = law.denoiser(schedule)
    wrong = as_denoiser(lambda x, t: Denoised(jnp.sin(2 * x), x), schedule, shape=(5,))
    functions = (jnp.ones_like, lambda x: x, jnp.sin, lambda x: x**2, lambda x: jnp.cos(3 * x[:, ::-1]))
    t = jnp.geomspace(0.1, 2.0, 8)[jnp.arange(n) % 8]
    s = jnp.asarray([[0.5], [0.8]]) * t[None]

    @jax.jit
    def moments(key, gate, mix):
        data_key, key = jax.random.split(key)
        x, y = bootstrapped_target(key, exact, law.sample(data_key, n), s, t, mix=mix, gate=gate)
        products = jnp.stack([(y.noise - exact(x, t).noise) * h(x) for h in functions])
        return products.mean(1), products.std(1, ddof=1) / n**0.5

    for seed, (gate, mix) in enumerate([(exact, 1.0), (exact, 0.6), (wrong, 1.0), (wrong, 0.6)]):
        mean, error = moments(jax.random.key(seed), gate, mix)
        assert (np.abs(mean) < 4.5 * error).all()
        assert (error < 0.06).all()


def variances(pairs, draws=4000):
    """Of the targets with the Rao-Blackwell, the best scalar and the Jacobian's gate, for each pair (s, t)."""
    law, schedule = mixture(d=10), CASES["ou"].schedule
    exact = law.denoiser(schedule)

    @jax.jit
    @jax.vmap
    def of(pair):
        s, t = pair
        data = law.sample(jax.random.key(0), draws)
        rho = bootstrap.noise_correlation(schedule, s, t)
        noise = jax.random.normal(jax.random.key(1), data.shape)
        explained = jnp.mean(exact(schedule.alpha(s) * data + schedule.sigma(s) * noise, s).noise ** 2)
        gates = (None, bootstrap.optimal_gate(rho, explained), exact)
        target = functools.partial(bootstrapped_target, jax.random.key(2), exact, data, s, t, mix=1.0)
        residuals = [y.noise - exact(x, t).noise for x, y in (target(gate=gate) for gate in gates)]
        return jnp.stack([jnp.mean(residual**2) for residual in residuals])

    return np.asarray(of(jnp.asarray(pairs)), np.float64).T


@pytest.mark.slow
def test_it_halves_the_variance_of_the_best_scalar_gate():
    """At s / t from 0.7 to 0.9, in ten dimensions, from where the modes begin to run together on."""
    plain, scalar, curved = variances(
        [(0.27, 0.3), (0.35, 0.5), (0.45, 0.5), (0.5, 0.6), (0.7, 1.0), (0.9, 1.0), (1.05, 1.5)]
    )
    assert (scalar < plain).all()
    assert (curved < 0.5 * scalar).all()
    assert (curved[3:] < 0.25 * scalar[3:]).all()


def test_ends_are_those_of_the_target_without_it():
    """At s = t, without mixing, and where alpha_t = 0: the bits of the Rao-Blackwell target, all finite."""
    schedule, data = CASES["rectified_flow"].schedule, jax.random.normal(jax.random.key(0), (4, 2))
    teacher = gaussian_denoiser(schedule, 0.1, 0.7, (2,))
    for s, t, mix in ((0.4, 1.0, 1.0), (0.5, 0.5, 0.0), (0.3, 0.6, 0.0)):
        target = functools.partial(bootstrapped_target, jax.random.key(1), teacher, data, s, t, mix=mix)
        assert all(np.isfinite(part).all() for part in target(gate=teacher)[1])
        assert_same_bits(target(gate=teacher), target())


def test_nothing_is_differentiated_through_it():
    schedule, data = CASES["vp"].schedule, jax.random.normal(jax.random.key(0), (4, 2))
    teacher = gaussian_denoiser(schedule, 0.1, 0.7, (2,))

    def total(theta):
        gate = Partial(lambda theta, x, t: Denoised(jnp.sin(theta * x), x), theta)
        gate = as_denoiser(gate, schedule, shape=(2,))
        _, y = bootstrapped_target(jax.random.key(1), teacher, data, 0.2, 0.5, mix=0.5, gate=gate)
        return y.noise.sum() + y.data.sum()

    value, slope = jax.jit(jax.value_and_grad(total))(1.3)
    assert slope == 0
    assert abs(value - total(1.4)) > 1e-3


def test_images_of_half_precision():
    schedule, t = CASES["cosine"].schedule, jnp.linspace(0.2, 0.9, 6)
    images = jax.random.normal(jax.random.key(7), (6, 2, 2, 3)).astype(jnp.bfloat16)
    teacher = gaussian_denoiser(schedule, 0.1, 0.7, (2, 2, 3))
    run = functools.partial(bootstrap.half_noise_target, jax.random.key(9), teacher, images, t, mix=1.0)
    x, y = run(gate=teacher)
    assert x.dtype == y.data.dtype == y.noise.dtype == jnp.bfloat16
    left, plain = (
        np.abs(np.asarray(target.data.astype(float) - teacher(x, t).data.astype(float))).max()
        for target in (y, run()[1])
    )
    assert left < 0.1 < 0.5 < plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": gaussian_denoiser(CASES["ou"].schedule, 0.0, 1.0, (2,))}, "gate must have the schedule of"),
        ({"gate": gaussian_denoiser(CASES["vp"].schedule, 0.0, 1.0, (3,))}, "gate must have the shape of"),
        (
            {"gate": as_denoiser(lambda x, t: Denoised(x, x), CASES["vp"].schedule, shape=(2,), t_min=0.6)},
            r"t = 0\.5 is outside of the times that this denoiser",
        ),
        ({"gate": 0.5, "pool": jnp.ones((4, 2))}, "gate and pool take out the same noise, got both"),
    ],
)
def test_bad_gates(changes, message):
    teacher = gaussian_denoiser(CASES["vp"].schedule, 0.0, 1.0, (2,))
    with pytest.raises(ValueError, match=message):
        bootstrapped_target(jax.random.key(0), teacher, jnp.ones((4, 2)), 0.2, 0.5, mix=0.5, **changes)
