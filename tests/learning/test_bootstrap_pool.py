"""Targets with a pool of further rows, eqs. (10) and (11) of `jaxdiff.learning.bootstrap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, assert_same_bits, few_of, gaussian_denoiser
from scipy.optimize import brentq

from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning.bootstrap import bootstrapped_target, half_noise_target
from jaxdiff.learning.bootstrap.pool import share
from jaxdiff.learning.targets import stable_target
from jaxdiff.typing import Denoised

MIXTURE = GaussianMixture(
    jnp.asarray([0.3, 0.7]), jnp.asarray([[1.0, 0.0], [-1.0, 0.5]]), jnp.asarray([0.1, 0.2])
)


def time_of(case, ratio):
    """The time at which sigma / alpha is ratio, from the reference functions."""
    return brentq(lambda t: np.log(case.sigma(t) / case.alpha(t) / ratio), case.t_min, case.t_max, xtol=1e-14)


def posterior(x, own, pool, alpha, sigma):
    """S, the effective number of rows and tr Cov(noise), one datum at a time."""
    answers = []
    for x_i, own_i, a, s in zip(x, own, alpha, sigma, strict=True):
        rows = np.concatenate([own_i[None], pool])
        log_weight = -0.5 * ((x_i - a * rows) ** 2).sum(1) / s**2
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        mean = weight @ rows
        spread = weight @ ((rows - mean) ** 2).sum(1)
        answers.append((mean, 1 / (weight**2).sum(), a**2 / s**2 * spread))
    return (np.asarray(part) for part in zip(*answers, strict=True))


def twice_at(s, x, at):
    """A teacher that answers twice what it sees, at the times s only."""
    seen = jnp.where((at == s).reshape(-1, *[1] * (x.ndim - 1)), 2 * x, 0)
    return Denoised(seen, seen)


@pytest.mark.parametrize(("name", "shape"), [("ou", (3,)), ("ve", (3,)), ("cosine", (2, 2, 1))])
def test_the_target_is_its_equation(name, shape, float64):
    """y - y_plain is made of the posteriors over own datum and pool in NumPy, at two earlier levels."""
    case, rng = CASES[name], np.random.default_rng(0)
    schedule, size = case.schedule, int(np.prod(shape))
    data, pool = rng.standard_normal((6, *shape)), rng.standard_normal((9, *shape))
    t = np.asarray([time_of(case, r) for r in (0.2, 0.5, 0.8, 1.2, 2.0, 6.0)])
    s = np.asarray([[time_of(case, c * r) for r in (0.2, 0.5, 0.8, 1.2, 2.0, 6.0)] for c in (0.5, 0.9)])
    mix = np.asarray([0.0, 0.3, 1.0, 0.9, 0.5, 1.0])
    teacher = gaussian_denoiser(schedule, 0.2, 0.7, shape)
    target = functools.partial(
        bootstrapped_target, jax.random.key(0), data=jnp.asarray(data), t=jnp.asarray(t)
    )
    x, plain = target(teacher, s=jnp.asarray(s), mix=jnp.asarray(mix))
    _, got = target(teacher, s=jnp.asarray(s), mix=jnp.asarray(mix), pool=jnp.asarray(pool))

    flat, others = data.reshape(6, -1), pool.reshape(9, -1)
    alpha, sigma = case.alpha(t), case.sigma(t)
    later, number, unresolved = posterior(np.asarray(x).reshape(6, -1), flat, others, alpha, sigma)
    wanted = 0
    for k in range(2):
        # x_s of each draw: what a teacher saw that answers with what it sees, at that level alone
        seen = as_denoiser(
            functools.partial(twice_at, s[k]),
            schedule,
            shape=shape,
            t_min=schedule.t_min,
            t_max=schedule.t_max,
        )
        x_s = np.asarray(target(seen, s=jnp.asarray(s), mix=1.0)[1].data).reshape(6, -1)
        sooner, *_ = posterior(x_s, flat, others, case.alpha(s[k]), case.sigma(s[k]))
        rho = case.sigma(s[k]) * alpha / (case.alpha(s[k]) * sigma)
        kappa = 1 - rho**2 / (1 + (number - 1) * rho**unresolved)
        assert (np.abs(later - sooner).max(1)[1:] > 1e-3).all()
        assert 0 < kappa.min() < 0.9 < kappa.max() < 1
        shift = (1 - mix)[:, None] * (later - flat) + (mix * kappa)[:, None] * (later - sooner)
        wanted = wanted + shift / 2
    np.testing.assert_allclose(
        np.asarray(got.data - plain.data).reshape(6, size), wanted, rtol=1e-7, atol=1e-9
    )
    made = alpha * np.asarray(got.data).reshape(6, -1).T + sigma * np.asarray(got.noise).reshape(6, -1).T
    np.testing.assert_allclose(made.T, np.asarray(x).reshape(6, -1), rtol=1e-7, atol=1e-9)


FUNCTIONS = (jnp.ones_like, lambda x: x, jnp.sin, lambda x: x**2, lambda x: jnp.cos(3 * x[:, ::-1]))


def z_scores(target, calls=4000, rows=8):
    """Of E[(target - D) h(x)] = 0 for five h, over fresh batches of rows; and the target's variance."""
    schedule = CASES["karras"].schedule
    exact = MIXTURE.denoiser(schedule)

    @jax.jit
    def moments(keys):
        def one(key):
            data_key, key = jax.random.split(key)
            x, y, t = target(key, exact, MIXTURE.sample(data_key, rows))
            residual = y.data - exact(x, t).data
            return jnp.stack([(residual * h(x)).mean() for h in FUNCTIONS]), jnp.mean(residual**2)

        return jax.lax.map(one, keys, batch_size=500)

    products, squares = moments(jax.random.split(jax.random.key(0), calls))
    products = np.asarray(products, np.float64)
    error = products.std(0, ddof=1) / calls**0.5
    return products.mean(0) / error, error, float(squares.mean())


@pytest.mark.parametrize("mix", [0.0, 0.6, 1.0])
def test_a_fresh_pool_of_three_rows_leaves_the_conditional_mean(mix):
    """Where a bias of order one over their number would be seen: the standard errors are below 0.006."""

    def target(key, exact, data):
        pool_key, key = jax.random.split(key)
        pool, t = MIXTURE.sample(pool_key, 3), jnp.geomspace(0.2, 2.0, len(data))
        s = jnp.stack([0.5 * t, 0.8 * t])
        return *bootstrapped_target(key, exact, data, s, t, mix=mix, pool=pool), t

    z, error, _ = z_scores(target)
    assert (np.abs(z) < 4.5).all()
    assert (error < 0.006).all()


def test_a_pool_that_stays_does_not():
    """The bias that the target's docstring warns of is seen by the same test."""

    def target(key, exact, data):
        t = jnp.geomspace(0.2, 2.0, len(data))
        pool = MIXTURE.sample(jax.random.key(5), 3)
        return *bootstrapped_target(key, exact, data, 0.5 * t, t, mix=0.0, pool=pool), t

    z, _, _ = z_scores(target)
    assert np.abs(z).max() > 20


def test_the_stable_target_of_two_candidates_has_the_exact_conditional_mean():
    """A batch of one and a pool of one: no bias, though only one datum is at hand for the mean."""

    def target(key, exact, data):
        pool_key, key = jax.random.split(key)
        return *stable_target(key, exact.schedule, data, 0.7, pool=MIXTURE.sample(pool_key, 1)), 0.7

    z, error, _ = z_scores(target, calls=40_000, rows=1)
    assert (np.abs(z) < 4.5).all()
    assert (error < 0.01).all()


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_the_pool_lowers_the_variance(correlation):
    """Of 64 rows, at four levels together and at any of them, below bootstrapping's, and about the stable field's or less."""
    levels = jnp.asarray([0.1, 0.3, 0.9, 3.0])

    def variances(key, exact, data, pool):
        def at(t):
            options = {"stable": {"s": 0.5 * t, "mix": 0.0, "pool": pool}}
            options["plain"] = {"s": correlation * t, "mix": 1.0}
            options["both"] = {**options["plain"], "pool": pool}
            known = exact(bootstrapped_target(key, exact, data, t, t, mix=0.0)[0], t).data
            return {
                name: jnp.mean((bootstrapped_target(key, exact, data, t=t, **o)[1].data - known) ** 2)
                for name, o in options.items()
            }

        return jax.vmap(at)(levels)

    exact = MIXTURE.denoiser(CASES["karras"].schedule)
    keys = jax.random.split(jax.random.key(1), (3, 40))
    data, pools = (
        jax.vmap(lambda k, n=n: MIXTURE.sample(k, n))(k) for k, n in zip(keys, (100, 64), strict=False)
    )
    got = jax.jit(jax.vmap(lambda *a: variances(a[0], exact, *a[1:])))(keys[2], data, pools)
    got = {name: np.asarray(v.mean(0), np.float64) for name, v in got.items()}
    assert (got["both"] < 1.15 * np.minimum(got["plain"], got["stable"])).all()
    assert (got["both"][1:] < 0.5 * got["plain"][1:]).all()


def test_the_share_has_its_limits():
    """All of the correction where the pool knows both levels; 1 - rho^2 where it knows neither; none at s = t."""
    assert share(0.8, 1e6, 2.0) == pytest.approx(1, abs=1e-5)
    assert share(0.8, 1.0, 2.0) == pytest.approx(1 - 0.8**2)
    assert share(0.5, 9.0, 3.0) == pytest.approx(1 - 0.25 / 2)
    assert share(1.0, 1.0, 2.0) == 0
    assert share(0.0, 5.0, 0.0) == 1


def test_where_the_pool_would_be_memorized_it_has_no_part():
    """At a small noise its rows are far: the bits of the target without it, also at sigma = 0."""
    schedule, data = CASES["karras"].schedule, 10 * jnp.eye(4)
    teacher, pool = gaussian_denoiser(schedule, 0.0, 3.0, (4,)), -10 * jnp.eye(4)
    for s, t, mix in ((0.1, 0.2, 0.8), (0.0, 0.0, 0.0)):
        target = functools.partial(bootstrapped_target, jax.random.key(9), teacher, data, s, t, mix=mix)
        assert_same_bits(target(pool=pool), target())
    _, far = bootstrapped_target(jax.random.key(9), teacher, data, 30.0, 60.0, mix=1.0, pool=pool)
    _, plain = bootstrapped_target(jax.random.key(9), teacher, data, 30.0, 60.0, mix=1.0)
    assert np.abs(np.asarray(far.data - plain.data)).max() > 1


@pytest.mark.parametrize("name", few_of(NAMES))
def test_targets_are_finite_at_every_time(name):
    case = CASES[name]
    schedule = case.schedule
    low = schedule.t_min if np.isfinite(schedule.t_min) else -3.0
    t_min = float(np.float32(time_of(case, 0.1)))
    t = jnp.asarray(np.r_[np.linspace(low, t_min, 5), np.linspace(t_min, case.t_max, 20)], jnp.float32)
    data, pool = (MIXTURE.sample(jax.random.key(k), n) for k, n in ((1, len(t)), (2, 7)))
    teacher = as_denoiser(
        lambda x, s: Denoised(0.1 * x, jnp.sin(x)), schedule, shape=(2,), t_min=t_min, t_max=case.t_max
    )
    x, y = half_noise_target(jax.random.key(3), teacher, data, t, mix=0.9, t_min=t_min, pool=pool)
    assert all(np.isfinite(part).all() for part in (x, *y))
    # a row depends on its own draw and on the pool
    few = half_noise_target(jax.random.key(3), teacher, data[:3], t[:3], mix=0.9, t_min=t_min, pool=pool)
    np.testing.assert_allclose(few[1].data, y.data[:3], rtol=1e-5, atol=1e-5)


def test_images_of_half_precision():
    schedule, t = CASES["cosine"].schedule, jnp.linspace(0.2, 0.9, 6)
    images, pool = (jax.random.normal(jax.random.key(k), (n, 2, 2, 3)) for k, n in ((7, 6), (8, 20)))
    teacher = gaussian_denoiser(schedule, 0.1, 0.7, (2, 2, 3))
    half = [a.astype(jnp.bfloat16) for a in (images, pool)]
    run = functools.partial(half_noise_target, jax.random.key(9), teacher, half[0], t, mix=0.8)
    (x, y), (_, plain) = run(pool=half[1]), run()
    assert x.dtype == y.data.dtype == y.noise.dtype == jnp.bfloat16
    x, data, noise = (np.asarray(part, np.float64) for part in (x, *y))
    alpha, sigma = (
        np.asarray(f(np.asarray(t))).reshape(-1, 1, 1, 1)
        for f in (CASES["cosine"].alpha, CASES["cosine"].sigma)
    )
    assert np.abs(alpha * data + sigma * noise - x).max() < 0.06  # a few roundings of 2^-9 of numbers up to 4
    assert np.abs(data - np.asarray(plain.data, np.float64)).max() > 0.3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pool": jnp.ones((4, 3))}, ValueError, r"pool must hold rows of shape \(2,\), got \(3,\)"),
        ({"pool": jnp.zeros((0, 2))}, ValueError, "pool"),
        ({"pool": jnp.ones((4, 2)).at[1, 0].set(jnp.nan)}, ValueError, r"pool has 1 non-finite"),
        ({"pool": jnp.ones((4, 2), jnp.int32)}, TypeError, "pool must be an array of floating-point numbers"),
        (
            {"pool": jnp.ones((4, 2)), "field": gaussian_denoiser(CASES["vp"].schedule, 0.0, 1.0, (2,))},
            ValueError,
            "field and pool do the same in two ways, got both; give one of them",
        ),
    ],
)
def test_bad_pools(changes, error, message):
    teacher = gaussian_denoiser(CASES["vp"].schedule, 0.0, 1.0, (2,))
    with pytest.raises(error, match=message):
        bootstrapped_target(jax.random.key(0), teacher, jnp.ones((4, 2)), 0.2, 0.5, mix=0.5, **changes)
