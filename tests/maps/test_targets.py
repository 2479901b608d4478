"""Targets against the papers' own formulas, by finite differences, and against exact maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, few_of

import jaxdiff as jd
from jaxdiff import maps
from jaxdiff.denoising import prediction
from jaxdiff.maps.pairs import earlier
from jaxdiff.typing import Denoised

KEY = jax.random.key(0)
LAW = (np.array([0.5, -0.3]), np.array([0.4, 1.5]))
ROWS = 5


def exact(schedule):
    law = jd.Gaussian(jnp.asarray(LAW[0]), jnp.asarray(LAW[1]))
    return maps.gaussian_map(law, schedule), law.denoiser(schedule)


def predict(params, x, t, *, s):
    """A map that is nobody's, smooth in all that it is given."""
    return jnp.tanh(params * x[:, ::-1] + (t - 0.4 * s)[:, None]) * jnp.cos(t * s)[:, None]


def network(schedule, params=1.3, **options):
    return maps.make_flow_map(predict, jnp.asarray(params), schedule, shape=(2,), t_max=0.9, **options)


def drawn(t, n=ROWS):
    return jax.random.normal(KEY, (n, 2)), jnp.linspace(0.3, t, n), jnp.linspace(0.05, 0.3, n)


def slope_by_differences(function, x, v, t, h=1e-5):
    """d/dt of function(x_t, t) along dx = v dt, by central differences of order four."""
    at = lambda k: function(x + k * h * v, t + k * h)  # noqa: E731
    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)


@pytest.mark.parametrize("improved", [False, True])
def test_on_the_straight_path_it_is_mean_flow(improved, float64):
    """u_tgt = v - (t - s) du/dt of the velocity, arXiv 2505.13447, along the data's velocity or its own."""
    flow_map = network(jd.RectifiedFlow())
    data, t, s = drawn(0.85)
    x, target = maps.tangent_target(KEY, flow_map, data, t, s, improved=improved)
    noise = (x - (1 - t)[:, None] * data) / t[:, None]
    v = noise - data

    def u(x, t):
        return (x - flow_map(x, t, s)) / (t - s)[:, None]

    along = v
    if improved:
        own = flow_map.denoiser(x, t)
        along = own.noise - own.data
    wanted = v - (t - s)[:, None] * slope_by_differences(u, x, along, t)
    np.testing.assert_allclose(target.noise - target.data, wanted, rtol=0, atol=1e-8)
    np.testing.assert_allclose((1 - t)[:, None] * target.data + t[:, None] * target.noise, x, atol=1e-12)


@pytest.mark.parametrize("name", few_of(["vp", "ve", "karras", "cosine", "rectified_flow"], ("vp",)))
def test_on_any_schedule_the_residual_is_where_the_map_ends(name, float64):
    """target - average = (-sigma, alpha) / W dPhi/dt, W and v by the schedule's reference."""
    case = CASES[name]
    schedule, span = case.schedule, case.t_max - case.t_min
    flow_map = maps.make_flow_map(
        predict, jnp.asarray(1.3), schedule, shape=(2,), t_min=case.t_min, t_max=case.t_max
    )
    data = jax.random.normal(KEY, (ROWS, 2))
    t = jnp.asarray(case.t_min + span * np.linspace(0.31, 0.77, ROWS))
    s = jnp.asarray(case.t_min + span * np.linspace(0.01, 0.5, ROWS))
    x, target = maps.tangent_target(KEY, flow_map, data, t, s)
    alpha, sigma = (np.array([f(float(v)) for v in t])[:, None] for f in (case.alpha, case.sigma))
    h = 1e-6 * span
    alpha_dot, sigma_dot = (
        np.array([(f(float(v) + h) - f(float(v) - h)) / (2 * h) for v in t])[:, None]
        for f in (case.alpha, case.sigma)
    )
    noise = (x - alpha * data) / sigma
    v = alpha_dot * data + sigma_dot * noise
    residual = slope_by_differences(lambda x, t: flow_map(x, t, s), x, v, t, h=1e-4 * span)
    own = flow_map.averages(x, t, s)
    step = residual / (alpha * sigma_dot - sigma * alpha_dot)
    size = np.abs(step).max()
    np.testing.assert_allclose(target.data - own.data, -sigma * step, rtol=0, atol=3e-6 * sigma.max() * size)
    np.testing.assert_allclose(target.noise - own.noise, alpha * step, rtol=0, atol=3e-6 * size)


def test_of_one_size_it_is_scm(float64):
    """g of arXiv 2410.11081, of a network F of sigma_d = 1 on its circle, but for its factor cos t."""
    circle = jd.Cosine()  # of angle pi t / 2
    flow_map = network(circle, prediction=prediction.v)
    data, t, _ = drawn(0.85)
    s, half = jnp.zeros(ROWS), np.pi / 2
    cos, sin = np.cos(half * t)[:, None], np.sin(half * t)[:, None]

    def output(x, angle):
        return predict(1.3, x, angle / half, s=jnp.full(ROWS, 1e-3))

    for warm_up in (1.0, 0.0):
        x, target = maps.tangent_target(KEY, flow_map, data, t, s, warm_up=warm_up, offset=0.1)
        noise = (x - cos * data) / sin
        v = cos * noise - sin * data
        f = output(x, half * t)
        slope = slope_by_differences(output, x, v, half * t)
        g = -(cos**2) * (f - v) - warm_up * cos * sin * (x + slope)
        g = g / cos if warm_up else g / cos**2
        step = g / (np.sqrt((g**2).mean(1, keepdims=True)) + 0.1)
        got = cos * target.noise - sin * target.data - f
        np.testing.assert_allclose(got, step, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", few_of(["vp", "ve", "karras", "cosine", "rectified_flow"], ("karras",)))
def test_the_exact_map_is_its_own_target(name, float64):
    """MeanFlow's identity, consistency, two steps for one: to 1e-8 in double precision."""
    case = CASES[name]
    flow_map, teacher = exact(case.schedule)
    level = np.linspace(np.log(case.t_min), np.log(case.t_max), 6) if case.t_min > 0 else None
    grid = np.exp(level) if level is not None else np.linspace(case.t_min, case.t_max, 6)
    t, r, s = (
        jnp.asarray(grid[[3, 4, 4, 2]]),
        jnp.asarray(grid[[2, 3, 1, 2]]),
        jnp.asarray(grid[[0, 1, 0, 2]]),
    )
    data = jax.random.normal(KEY, (4, 2)) + jnp.asarray(LAW[0])[None]

    @jax.jit
    def targets(t, r, s):
        x, tangent = maps.tangent_target(KEY, flow_map, data, t, s, teacher=teacher)
        _, sized = maps.tangent_target(KEY, flow_map, data, t, s, teacher=teacher, offset=0.1)
        _, two = maps.composition_target(KEY, flow_map, data, t, r, s)
        return flow_map.averages(x, t, s), [tangent, sized, two]

    wanted, got = targets(t, r, s)
    rows = [4, 4, 3]  # where s = t two steps say nothing, and the target is that of denoising
    for target, n in zip(got, rows, strict=True):
        for part, average in zip(target, wanted, strict=True):
            scale = np.abs(average).max()
            np.testing.assert_allclose(part[:n], average[:n], rtol=0, atol=1e-8 * max(scale, 1))


def regressed(x, y):
    """Coefficients of y on (1, x) and their standard errors, rows."""
    design = np.stack([np.ones_like(x), x], 1)
    left = np.linalg.inv(design.T @ design)
    fit = left @ design.T @ y
    return fit, np.sqrt(np.diag(left) * ((y - design @ fit) ** 2).mean())


def test_the_mean_of_a_target_of_data_is_the_exact_average():
    """Data and noise in the place of the teacher, plain and improved, of N(0, v) under a straight path."""
    n, v, t, s = 200_000, 0.6, 0.7, 0.2
    law = jd.Gaussian(jnp.zeros(1), v)
    flow_map = maps.gaussian_map(law, jd.RectifiedFlow())
    data = law.sample(jax.random.key(1), n)
    spread = {}
    for improved in (False, True):
        x, target = maps.tangent_target(KEY, flow_map, data, t, s, improved=improved)
        off = np.asarray(target.data - flow_map.averages(x, t, s).data, np.float64)[:, 0]
        fit, error = regressed(np.asarray(x, np.float64)[:, 0], off)
        assert (np.abs(fit) < 4 * error).all()
        spread[improved] = off.std()
    # Improved: the noise of denoising alone. Plain: times the slope of the average as well.
    assert abs(spread[True] / spread[False] - 1) > 0.1
    c = v * 0.3**2 + 0.7**2
    np.testing.assert_allclose(spread[True] ** 2, v * 0.7**2 / c, rtol=0.02)


def test_consistency_by_data_stands_beside_the_flow_and_by_a_teacher_on_it():
    """E[Phi(x_r; r -> s) | x_t] of Gaussians, and Heun's step in the place of data and noise."""
    n, v, t, r, s = 200_000, 0.6, 2.0, 0.5, 0.1
    law = jd.Gaussian(jnp.zeros(1), v)
    flow_map = maps.gaussian_map(law, jd.Karras())
    data = law.sample(jax.random.key(1), n)
    c = lambda t: np.sqrt(v + t**2)  # noqa: E731

    def ended(**options):
        x, target = maps.consistency_target(KEY, flow_map, data, t, r, s, **options)
        return np.asarray(x, np.float64)[:, 0], np.asarray(target.data + s * target.noise, np.float64)[:, 0]

    x, end = ended()
    fit, error = regressed(x, end)
    wanted = c(s) / c(r) * (v + r * t) / c(t) ** 2
    assert abs(fit[1] - wanted) < 4 * error[1]
    assert abs(wanted - c(s) / c(t)) > 0.01
    x, end = ended(teacher=law.denoiser(jd.Karras()))
    slope = lambda x, t: x * t / c(t) ** 2  # noqa: E731
    first = slope(x, t)
    between = x + (r - t) * 0.5 * (first + slope(x + (r - t) * first, r))
    np.testing.assert_allclose(end, c(s) / c(r) * between, rtol=1e-4, atol=1e-4)
    x, target = maps.consistency_target(KEY, flow_map, data[:4], t, 0.0, 0.0)
    np.testing.assert_allclose(target.data, data[:4], rtol=1e-5)


def test_straight_paths_are_where_reflow_ends():
    """Of N(0, v): data = v^(1/2) noise, so that x = (alpha v^(1/2) + sigma) noise, and one step is exact."""
    v, schedule = 0.25, jd.RectifiedFlow()
    law = jd.Gaussian(jnp.zeros(2), v)
    pairs = jax.jit(lambda key: maps.reflow_pairs(key, law.denoiser(schedule), 64))(KEY)
    np.testing.assert_allclose(pairs.data, 0.5 * pairs.noise, atol=1e-3)

    def straight(x, t):
        noise = x / (0.5 * (1 - t) + t)[:, None]
        return Denoised(0.5 * noise, noise)

    denoise = jd.as_denoiser(straight, schedule, shape=(2,), scale=0.5)
    assert maps.reflow_loss(KEY, denoise, pairs).max() < 1e-4
    assert maps.reflow_loss(KEY, law.denoiser(schedule), pairs).mean() > 1e-2
    samples = maps.sample_map(KEY, maps.one_step_map(denoise), 2000)
    np.testing.assert_allclose(samples.std(), 0.5, rtol=0.03)


@pytest.mark.parametrize("schedule", [jd.RectifiedFlow(), pytest.param(jd.Cosine(), marks=pytest.mark.slow)])
def test_pure_noise_is_learnt_from_as_what_is_next_to_it(schedule):
    """At alpha = 0: targets are those of a time just before, and steps are no shorter than elsewhere."""
    flow_map = maps.make_flow_map(predict, jnp.asarray(1.3), schedule, shape=(2,))
    data, s = jax.random.normal(KEY, (3, 2)), jnp.array([0.001, 0.2, 0.6])

    @jax.jit
    def targets(t):
        r = earlier(flow_map.denoiser, jnp.full(3, t), 0.5)
        tangent = maps.tangent_target(KEY, flow_map, data, t, s)[1].data
        return r, tangent, maps.composition_target(KEY, flow_map, data, t, jnp.maximum(r, s), s)[1].data

    for at, before in zip(targets(1.0), targets(1.0 - 2e-6), strict=True):
        np.testing.assert_allclose(at, before, rtol=0, atol=2e-3)
    ratio = schedule.sigma(targets(1.0)[0][0]) / schedule.alpha(targets(1.0)[0][0])
    np.testing.assert_allclose(ratio, 50.0, rtol=1e-3)


def test_a_network_without_forward_mode_is_told_what_else_there_is():
    @jax.custom_vjp
    def halved(x):
        return 0.5 * x

    halved.defvjp(lambda x: (0.5 * x, None), lambda _, g: (0.5 * g,))
    flow_map = maps.make_flow_map(lambda p, x, t, *, s: halved(x), None, jd.Karras(), shape=(2,))
    data = jax.random.normal(KEY, (4, 2))
    with pytest.raises(TypeError, match="a part of it has no rule: attention by cuDNN has none"):
        jax.jit(maps.mean_flow_loss)(KEY, flow_map, data)
    assert np.isfinite(maps.shortcut_loss(KEY, flow_map, data)).all()


def test_data_of_half_precision_are_trained_on_in_single_precision():
    """What is lost is the rounding of x and of the target."""
    flow_map = network(jd.RectifiedFlow())
    data, t, s = drawn(0.85)
    losses = []
    for dtype in (jnp.float32, jnp.bfloat16):
        x, target = maps.tangent_target(KEY, flow_map, data.astype(dtype), t, s)
        assert {x.dtype, target.data.dtype} == {jnp.dtype(dtype)}
        losses.append(maps.map_regression_loss(flow_map, x, target, t, s))
    assert losses[1].dtype == jnp.float32
    assert jnp.isfinite(losses[1]).all()
