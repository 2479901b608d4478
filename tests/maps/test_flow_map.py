"""Flow maps against closed forms and against SciPy's integration of the probability flow."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import CASES, few_of
from scipy.integrate import solve_ivp

import jaxdiff as jd
from jaxdiff import maps
from jaxdiff.denoising import prediction
from jaxdiff.models import DiffusionTransformer, Mixer, ResidualMLP, UNet

MEANS, WEIGHTS, STDS = np.array([[-1.0, 0.2], [0.8, -0.5]]), np.array([0.3, 0.7]), np.array([0.2, 0.4])


def covariance():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    return turn, np.array([2.0, 0.05])


@pytest.mark.parametrize(
    "name", few_of(["vp", "ve", "karras", "cosine", "rectified_flow"], ("karras", "rectified_flow"))
)
def test_the_map_of_a_gaussian_is_its_flow_along_every_eigenvector(name, float64):
    case = CASES[name]
    turn, variances = covariance()
    mean = np.array([1.0, -0.5])
    law = jd.Gaussian(jnp.asarray(mean), jnp.asarray(turn @ np.diag(variances) @ turn.T))
    flow_map = maps.gaussian_map(law, case.schedule)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((6, 2)) * max(1.0, float(case.sigma(case.t_max))))
    s = np.linspace(case.t_min, case.t_max, 4)[[0, 1, 2, 3, 0, 1]]
    t = np.array([case.t_max] * 4 + [case.t_min, s[1] * (1 + 1e-9)])
    got, averages = jax.jit(lambda x, t, s: (flow_map(x, t, s), flow_map.averages(x, t, s)))(x, t, s)
    for i in range(6):
        along = [
            oracles.gaussian_flow(case, (turn.T @ x[i])[j], t[i], s[i], (turn.T @ mean)[j], variances[j])
            for j in range(2)
        ]
        np.testing.assert_allclose(got[i], turn @ along, rtol=0, atol=1e-11 * np.abs(x).max())
        # Eq. (1), both lines of it; the last two rows are where solving them would divide by about 0.
        for time, end in ((t[i], x[i]), (s[i], turn @ along)):
            mixed = case.alpha(time) * averages.data[i] + case.sigma(time) * averages.noise[i]
            np.testing.assert_allclose(mixed, end, rtol=0, atol=1e-10 * np.abs(x).max())
    np.testing.assert_array_equal(flow_map(x, case.t_max, case.t_max), x)
    for got, wanted in zip(
        flow_map.denoiser(x, case.t_max), law.denoiser(case.schedule)(x, case.t_max), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


def mixture():
    return jd.GaussianMixture(jnp.asarray(WEIGHTS), jnp.asarray(MEANS), jnp.asarray(STDS**2))


def scipy_flow(x, t, s):
    """dx = N d(sigma) under Karras' schedule, N from the mixture's definition."""

    def slope(sigma, x):
        total = STDS**2 + sigma**2
        away = x[None] - MEANS
        logits = np.log(WEIGHTS) - np.log(total) - (away**2).sum(1) / (2 * total)
        share = np.exp(logits - logits.max())
        return sigma * (share / share.sum() / total) @ away

    return solve_ivp(slope, (t, s), x, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]


def test_the_integrated_map_of_a_mixture_is_the_flow(float64):
    flow_map = maps.integrated_map(mixture().denoiser(jd.Karras()), num_steps=96)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((4, 2))) * 3
    t, s = jnp.array([3.0, 3.0, 2.0, 0.5]), jnp.array([0.0, 0.7, 1.999, 0.01])
    got, averages = jax.jit(lambda x, t, s: (flow_map(x, t, s), flow_map.averages(x, t, s)))(x, t, s)
    wanted = np.array([scipy_flow(np.asarray(x[i]), t[i], s[i]) for i in range(4)])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-4)
    np.testing.assert_allclose(got[2], wanted[2], rtol=0, atol=1e-9)  # near, by the trapezoid's rule
    np.testing.assert_allclose(averages.noise[:2], (x - wanted)[:2] / (t - s)[:2, None], rtol=0, atol=5e-4)


def test_averages_of_a_short_way_keep_their_digits():
    """In single precision, where the difference of its ends has next to none: they are those of its beginning."""
    flow_map = maps.integrated_map(mixture().denoiser(jd.Karras()), num_steps=8)
    x = 3 * jnp.asarray(np.random.default_rng(1).standard_normal((64, 2)), jnp.float32)
    got, wanted = flow_map.averages(x, 2.0, 2.0 * (1 - 1e-6)), flow_map.denoiser(x, 2.0)
    np.testing.assert_allclose(got.noise, wanted.noise, rtol=0, atol=1e-3)
    np.testing.assert_allclose(got.data, wanted.data, rtol=0, atol=2e-3)


def two_times(predict):
    return lambda params, x, t, *condition, s: predict(params, x, t, s, *condition)


def test_a_networks_map_is_its_reading_at_the_first_time():
    """EDM's row under Karras' schedule, from Karras et al., table 1; shown t and s as log(sigma) / 4."""
    seen = []

    def predict(params, x, t, s, shift):
        seen.append((x, t, s))
        return params * jnp.tanh(x) * (t - 2 * s)[:, None] + shift

    flow_map = maps.make_flow_map(
        two_times(predict), jnp.float32(0.7), jd.Karras(), shape=(2,), scale=0.5, t_max=5.0
    ).given(jnp.ones((3, 2)))
    x, t, s = jnp.array([[1.0, 2.0], [0.3, -1.0], [4.0, 1.0]]), jnp.array([2.0, 1.0, 5.0]), 0.1
    with jax.disable_jit():
        averages, moved = flow_map.averages(x, t, s), flow_map(x, t, s)
    shown, level, later = seen[0]
    total = np.sqrt(0.25 + np.asarray(t) ** 2)
    np.testing.assert_allclose(shown, x / total[:, None], rtol=1e-6)
    np.testing.assert_allclose(level, np.log(t) / 4, atol=1e-6)
    np.testing.assert_allclose(later, np.full(3, np.log(0.1) / 4), rtol=1e-6)
    output = 0.7 * np.tanh(shown) * (level - 2 * later)[:, None] + 1
    data = (0.25 / total**2)[:, None] * x + (np.asarray(t) * 0.5 / total)[:, None] * output
    noise = (x - data) / t[:, None]
    np.testing.assert_allclose(averages.data, data, rtol=1e-5)
    np.testing.assert_allclose(averages.noise, noise, rtol=1e-5)
    np.testing.assert_allclose(moved, data + 0.1 * noise, rtol=1e-5)
    # At less noise than it knows it is shown the least that it knows, and goes on along D' and N'.
    to_t_min, to_clean = flow_map.averages(x, t, 0.002), flow_map.averages(x, t, 0.0)
    np.testing.assert_array_equal(to_clean.data, to_t_min.data)
    np.testing.assert_allclose(flow_map(x, t, 0.0), to_t_min.data, rtol=1e-6)
    limit = flow_map.denoiser(x, t)
    np.testing.assert_allclose(limit.data, flow_map.averages(x, t, t).data, rtol=1e-6)
    assert np.abs(limit.data - averages.data).max() > 0.1


@pytest.mark.parametrize("schedule", [jd.RectifiedFlow(), jd.Karras()])
def test_an_angle_is_shown_on_the_whole_way_with_a_slope(schedule):
    """In EDM's row and with its scaled x; also where there is no signal, and none of the noise."""
    angle, edm, x = prediction.Angle(0.5), prediction.EDM(0.5), jnp.array([1.0, -2.0])
    for t in (0.0, 0.3, 1.0):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        np.testing.assert_array_equal(angle.row(schedule, t), edm.row(schedule, t))
        (scaled, shown), slope = jax.jvp(lambda t: angle.inputs(schedule, x, t), (t,), (1.0,))
        np.testing.assert_allclose(shown, np.arctan2(sigma, 0.5 * alpha) * 2 / np.pi, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(scaled, edm.inputs(schedule, x, t)[0])
        assert 0.1 < slope[1] < 2


def test_traced_times_that_it_does_not_know_answer_nan():
    flow_map = maps.gaussian_map(jd.Gaussian(jnp.zeros(2), 1.0), jd.VariancePreserving())
    t = jnp.array([0.5, 0.5, 1.2, 0.5, 0.5])
    s = jnp.array([0.1, 0.6, 0.1, -0.1, 0.5])
    got = jax.jit(flow_map)(jnp.ones((5, 2)), t, s)
    np.testing.assert_array_equal(np.isnan(got[:, 0]), [False, True, True, True, False])


def test_its_derivatives_at_equal_times_are_the_flows():
    """The identity is no branch that forgets how x depends on t and s: Phi moves along the velocity."""
    flow_map = maps.gaussian_map(jd.Gaussian(jnp.full(2, 0.3), 0.5), jd.RectifiedFlow())
    x, t = jnp.array([[0.7, -1.0]]), 0.4

    @jax.jit
    def derivatives(x, t):
        limit = flow_map.denoiser(x, t)
        in_x = jax.jacfwd(lambda x: flow_map(x, t, t)[0])(x)[:, 0]
        in_t, in_s = jax.jacfwd(lambda t, s: flow_map(x, t, s), argnums=(0, 1))(t, t)
        return limit.noise - limit.data, in_x, in_t, in_s

    velocity, in_x, in_t, in_s = derivatives(x, t)
    np.testing.assert_allclose(in_s, velocity, rtol=1e-5)
    np.testing.assert_allclose(in_t, -velocity, rtol=1e-5)
    np.testing.assert_allclose(in_x, np.eye(2), rtol=0, atol=1e-6)


NETWORKS = {
    "mlp": (ResidualMLP(16, 1, dropout=0.2), (3,)),
    "mixer": (Mixer(3, 8, 1), (4, 3)),
    "unet": (UNet(8, (1,), 1, (0,)), (4, 4, 1)),
    "transformer": (DiffusionTransformer(2, 16, 1, 2, 2), (4, 4, 1)),
}


@pytest.mark.parametrize("name", few_of(NETWORKS, ("mlp",)))
def test_a_network_takes_a_second_time(name):
    model, shape = NETWORKS[name]
    x = jax.random.normal(jax.random.key(0), (3, *shape))
    t, s = jnp.array([0.3, -1.0, 2.0]), jnp.array([0.3, -2.0, -1.0])
    one, two = jax.jit(
        lambda x, t, s: (model.init(jax.random.key(1), x, t), model.init(jax.random.key(1), x, t, s=s))
    )(x, t, s)
    names = set(two["params"]["conditioning"]) - set(one["params"]["conditioning"])
    assert names == {"step_in", "step_out"}
    # What is of one time is the same numbers, and begins with the same answers.
    kept = dict(two["params"])
    kept["conditioning"] = {k: v for k, v in kept["conditioning"].items() if k not in names}
    oracles.assert_same_bits(one["params"], kept)
    rng = np.random.default_rng(2)
    fill = lambda path, leaf: (  # noqa: E731
        jnp.asarray(rng.standard_normal(leaf.shape) * 0.3, leaf.dtype)
        if path[-1].key == "kernel" and not leaf.any() and path[-2].key != "step_out"
        else leaf
    )
    two = jax.tree.map_with_path(fill, two)
    answer = jax.jit(model.apply)
    np.testing.assert_allclose(answer(two, x, t, s=s), answer(two, x, t), rtol=0, atol=1e-6)
    step = two["params"]["conditioning"]["step_out"]
    step["kernel"] = jnp.asarray(rng.standard_normal(step["kernel"].shape), jnp.float32)
    # It hears how far a step goes, apart from where it begins.
    apart = np.abs(answer(two, x, t, s=s) - answer(two, x, t)).reshape(3, -1).max(1)
    assert apart.min() > 1e-3
    moved = answer(two, x, t + 0.0, s=s - 0.5)
    assert np.abs(moved - answer(two, x, t, s=s)).max() > 1e-3
    # And has a derivative in forward mode while it is trained.
    key = jax.random.key(3)
    train = jax.jit(
        lambda t: jax.jvp(
            lambda t: model.apply(two, x, t, s=s, train=True, rngs={"dropout": key}), (t,), (jnp.ones(3),)
        )[1]
    )
    assert np.abs(train(t)).max() > 1e-3
