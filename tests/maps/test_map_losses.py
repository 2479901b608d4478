"""Losses: their gradients by finite differences, where they vanish, and that training ends at the exact map."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import few_of
from scipy.stats import truncnorm

import jaxdiff as jd
from jaxdiff import maps
from jaxdiff.denoising import prediction
from jaxdiff.maps.pairs import way
from jaxdiff.typing import Denoised

KEY, VARIANCE = jax.random.key(0), 0.5
KARRAS, STRAIGHT = jd.Karras(), jd.RectifiedFlow()
CENTRES = np.stack(np.meshgrid(*[np.linspace(-0.6, 0.4, 4)] * 2), -1).reshape(16, 2)
TIMES = jnp.array([5.0, 2.0, 0.3, 0.1])


def law(d=2):
    return jd.Gaussian(jnp.zeros(d), jnp.asarray(VARIANCE))


def predict(params, x, t, *, s):
    """Linear in x, which is enough for N(0, v), by a factor that is a sum of bumps over both times."""
    at = jnp.stack([t, s], 1)[:, None] - CENTRES[None]
    return (jnp.exp(-4 * (at**2).sum(2)) @ params)[:, None] * x


def network(params, schedule=KARRAS):
    return maps.make_flow_map(predict, params, schedule, shape=(2,), scale=0.8, t_min=0.1, t_max=5.0)


PARAMS = 0.1 * jnp.cos(jnp.arange(16.0))

LOSSES = {
    "mean flow": lambda key, m, data, old, share=1.0: maps.mean_flow_loss(key, m, data),
    "improved": lambda key, m, data, old, share=1.0: maps.mean_flow_loss(key, m, data, improved=True),
    "distilled": lambda key, m, data, old, share=1.0: maps.mean_flow_loss(
        key, m, data, teacher=law().denoiser(KARRAS)
    ),
    "continuous": lambda key, m, data, old, share=1.0: maps.continuous_consistency_loss(
        key, m, data, teacher=law().denoiser(KARRAS), warm_up=share
    ),
    "discrete": lambda key, m, data, old, share=1.0: maps.consistency_loss(
        key, m, data, ratio=0.8, average=old
    ),
    "shortcut": lambda key, m, data, old, share=1.0: maps.shortcut_loss(key, m, data, average=old),
    "moments": lambda key, m, data, old, share=1.0: maps.moment_matching_loss(key, m, data, average=old),
    "progressive": lambda key, m, data, old, share=1.0: maps.progressive_loss(
        key, m, maps.one_step_map(law().denoiser(KARRAS)), data, times=TIMES
    ),
}


def test_the_regression_is_the_error_in_a_row(float64):
    flow_map = network(PARAMS)
    x = jax.random.normal(KEY, (3, 2))
    t, s = jnp.array([1.0, 2.0, 0.5]), jnp.array([0.1, 1.0, 0.5])
    averages = flow_map.averages(x, t, s)
    target = Denoised(averages.data + 2.0, averages.noise - 3.0)
    got = maps.map_regression_loss(flow_map, x, target, t, s, weight=prediction.flow.row)
    np.testing.assert_allclose(got, 2 * 9.0, rtol=1e-9)  # 0 data + 1 noise, under Karras' schedule
    got = maps.map_regression_loss(flow_map, x, target, t, s)
    std = np.sqrt(0.64 + np.asarray(t) ** 2)
    np.testing.assert_allclose(got, 2 * (2 * t / (0.8 * std) + 3 * 0.8 / std) ** 2, rtol=1e-9)


@pytest.mark.parametrize("name", few_of(LOSSES, ("progressive",)))
def test_nothing_is_differentiated_through_the_target(name, float64):
    """The gradient where the map is its own target is that where the target is a map of other parameters."""
    data = law().sample(jax.random.key(1), 16)
    loss = LOSSES[name]

    @jax.jit
    def gradients(params):
        own = jax.grad(lambda p: loss(KEY, network(p), data, None).mean())(params)
        fixed = lambda p: loss(KEY, network(p), data, network(params)).mean()  # noqa: E731
        return own, jax.grad(fixed)(params), jax.jacfwd(fixed)(params)

    own, fixed, _ = gradients(PARAMS)
    np.testing.assert_allclose(own, fixed, rtol=1e-9, atol=1e-12)
    if name in ("discrete", "shortcut", "moments", "progressive"):
        fixed_loss = jax.jit(lambda p, old: loss(KEY, network(p), data, network(old)).mean())
        steps = 1e-5 * np.eye(len(PARAMS))
        by_differences = [
            (fixed_loss(PARAMS + h, PARAMS) - fixed_loss(PARAMS - h, PARAMS)) / 2e-5 for h in steps
        ]
        np.testing.assert_allclose(own, by_differences, rtol=1e-5, atol=1e-7 * np.abs(own).max())


@pytest.mark.parametrize("improved", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_gradient_by_a_tangent_is_that_of_a_regression(improved, float64):
    """By finite differences of the regression onto the target as it is before the step."""
    data = law().sample(jax.random.key(1), 16)
    loss = jax.jit(lambda p: maps.mean_flow_loss(KEY, network(p), data, improved=improved).mean())
    time_key, key = jax.random.split(KEY)
    t, s = maps.drawn_pairs(time_key, network(PARAMS), 16)
    x, target = maps.tangent_target(key, network(PARAMS), data, t, s, improved=improved)
    frozen = jax.jit(lambda p: maps.map_regression_loss(network(p), x, target, t, s).mean())
    np.testing.assert_allclose(loss(PARAMS), frozen(PARAMS), rtol=1e-9)
    steps = 1e-5 * np.eye(len(PARAMS))
    wanted = [(frozen(PARAMS + h) - frozen(PARAMS - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(
        jax.grad(loss)(PARAMS), wanted, rtol=1e-5, atol=1e-7 * np.abs(np.asarray(wanted)).max()
    )


ZEROS = {
    "mean flow": lambda m, exact, data: maps.mean_flow_loss(KEY, m, data, teacher=exact.denoiser),
    "continuous": lambda m, exact, data: maps.continuous_consistency_loss(
        KEY, m, data, teacher=exact.denoiser
    ),
    "progressive": lambda m, exact, data: maps.progressive_loss(KEY, m, exact, data, times=TIMES),
    "discrete": lambda m, exact, data: maps.consistency_loss(
        KEY, m, data, ratio=0.98, teacher=exact.denoiser
    ),
}


@pytest.mark.parametrize("name", few_of(ZEROS, ("mean flow",)))
def test_the_exact_map_is_a_zero(name, float64):
    """With the exact teacher of what each is taught by; of discrete consistency but for Heun's error."""
    exact, wrong = (maps.gaussian_map(jd.Gaussian(jnp.zeros(2), jnp.asarray(v)), KARRAS) for v in (0.5, 0.6))
    data = law().sample(jax.random.key(1), 64)
    loss = jax.jit(lambda m: ZEROS[name](m, exact, data))
    assert loss(exact).max() < (1e-9 if name == "discrete" else 1e-16)
    assert loss(wrong).mean() > 1e-7


def test_moments_are_matched_by_the_exact_map_and_by_no_other():
    """The mean loss and its derivative in a factor of the map's ends, over 4,000 groups."""
    n, group = 16_000, 4

    def scaled(factor):
        exact = maps.gaussian_map(law(1), STRAIGHT).averages

        def predict(params, x, t, *, s):
            return params * exact(x, t, s).noise

        return maps.make_flow_map(
            predict,
            factor,
            STRAIGHT,
            shape=(1,),
            scale=VARIANCE**0.5,
            prediction=prediction.noise,
            t_max=0.95,
        )

    data = law(1).sample(jax.random.key(1), n)
    fixed = scaled(jnp.float32(1.0))

    @jax.jit
    def shares(factor):
        def loss(f):
            rows = maps.moment_matching_loss(KEY, scaled(f), data, ratio=0.6, group=group, average=fixed)
            return rows.reshape(-1, group).mean(1)

        return jax.jvp(loss, (factor,), (jnp.ones(()),))

    loss, slope = (np.asarray(v, np.float64) for v in shares(jnp.float32(1.0)))
    error = lambda v: v.std() / len(v) ** 0.5  # noqa: E731
    assert abs(loss.mean()) < 4 * error(loss)
    assert abs(slope.mean()) < 4 * error(slope)
    loss, slope = (np.asarray(v, np.float64) for v in shares(jnp.float32(0.8)))
    assert loss.mean() > 4 * error(loss)
    assert slope.mean() < -4 * error(slope)


def test_pairs_of_times():
    """In order; equal, from the last time, to the first time, in their shares; even in log-noise before."""
    flow_map = network(PARAMS)
    t, s = maps.drawn_pairs(KEY, flow_map, 4000, equal=0.3, ends=0.2)
    assert (t >= s).all()
    low, high = 0.1, 5.0
    same = np.asarray(t == s)
    np.testing.assert_allclose(same.mean(), 0.3, atol=0.03)
    np.testing.assert_allclose((t == np.float32(high))[~same].mean(), 0.2, atol=0.03)
    np.testing.assert_allclose((s == np.float32(low))[~same].mean(), 0.2, atol=0.03)
    level = (np.log(np.asarray(t, np.float64)[same] / 0.8) + 0.4) / 1.6
    ends = (np.log(np.array([low, high]) / 0.8) + 0.4) / 1.6
    wanted = truncnorm(*ends)
    np.testing.assert_allclose([level.mean(), level.std()], [wanted.mean(), wanted.std()], atol=0.05)
    inner = ~same & (np.asarray(t) < high * 0.999) & (np.asarray(s) > low * 1.001)
    # The two of a pair are independent before they are put in order.
    ordered = np.abs(np.log(t) - np.log(s))[inner].mean() / 1.6
    one, other = wanted.rvs((2, 100_000), random_state=0)
    np.testing.assert_allclose(ordered, np.abs(one - other).mean(), rtol=0.06)


def test_the_way_between_is_even_in_a_root_of_the_noise():
    denoise = law().denoiser(STRAIGHT)
    t, s = jnp.array([0.8, 1.0]), jnp.array([0.2, 0.0])
    grid = np.asarray(way(denoise, t, s, 4), np.float64)
    roots = (grid / (1 - np.minimum(grid, 1 - 1e-9))) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots[:, 0]), np.diff(roots[:, 0])[0], rtol=1e-3)
    np.testing.assert_allclose(grid[[0, -1]].T, [[0.8, 0.2], [1.0, 0.0]], rtol=1e-6)
    # From pure noise on: a hundred standard deviations of it.
    even = np.linspace((100 * 0.5**0.5) ** (1 / 7), 0, 5)[1:-1]
    np.testing.assert_allclose(roots[1:-1, 1], even, rtol=1e-3)


def test_the_curriculum_halves():
    got = maps.halving(jnp.array([0, 9, 10, 25, 1000]), 10, least=0.1)
    np.testing.assert_allclose(got, [0.0, 0.0, 0.5, 0.75, 0.9], rtol=1e-6)


ENDS = {name: [(5.0, 0.1)] for name in ("continuous", "discrete")}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "progressive"])
def test_training_ends_at_the_exact_map(name):
    """Of N(0, v), each method by the library's own joint step: the end of each way, over the exact one."""
    # The residuals of the continuous one do not become smaller by themselves.
    rate, steps = (0.02, 1600) if name == "continuous" else (0.1, 800)
    ways = jnp.asarray(ENDS.get(name, [(5.0, 0.1), (5.0, 1.0), (1.0, 0.1)]))
    exact, optimizer = maps.gaussian_map(law(), KARRAS), optax.adam(optax.cosine_decay_schedule(rate, steps))

    def loss(params, average, step, key, batch):
        share = jnp.minimum(1.0, step / (steps // 2))
        return LOSSES[name](key, network(params), batch, network(average), share).mean()

    @jax.jit
    def errors(params):
        x = jnp.ones((len(ways), 2))
        return network(params)(x, *ways.T)[:, 0] / exact(x, *ways.T)[:, 0] - 1

    step = jd.bootstrap.make_joint_step(loss, optimizer, ema_decay=0.95)
    state = jd.init_state(jnp.zeros(16), optimizer, ema_decay=0.95)
    began = errors(state.params)
    draw = lambda key: law().sample(key, 256)  # noqa: E731
    state = jd.train(jax.random.key(3), state, step, draw, num_steps=steps, steps_per_dispatch=800)
    ended = errors(jd.averaged(state))
    assert jnp.abs(began).max() > 0.5
    assert jnp.abs(ended).max() < 0.1
