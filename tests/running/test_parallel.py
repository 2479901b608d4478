"""On eight simulated devices everything is as on one: training, samples, likelihoods, checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import assert_same_bits

from jaxdiff._numerics import shards
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities import log_density
from jaxdiff.densities.flow import probability_flow
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.learning.training import init_state, make_train_step, train
from jaxdiff.noising.schedules import Karras
from jaxdiff.noising.times import log_normal, power_grid, stratified
from jaxdiff.running.checkpoints import Checkpoints, restore
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel, row_parallel
from jaxdiff.running.programs import collectives
from jaxdiff.sampling.ddim import ancestral
from jaxdiff.sampling.driver import initial_noise, integrate
from jaxdiff.sampling.heun import Heun
from jaxdiff.theory import score_error

KEY = jax.random.key(0)
SCHEDULE = Karras()
LAW = GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[-1.0, 0.0], [1.0, 0.5]]), jnp.array([0.1, 0.2]))
PARAMS = {
    "in": jnp.linspace(-1, 1, 3 * 64).reshape(3, 64),
    "middle": jax.random.normal(jax.random.key(3), (64, 64)) / 8,
    "out": jax.random.normal(jax.random.key(4), (64, 2)) / 8,
}
OPTIMIZER = optax.adam(1e-2)
STEPS = 10
# The name of a layout: devices, engine, fully sharded.
LAYOUTS = {"pmap": (8, "pmap", False), "jit": (8, "jit", False), "fully sharded": (8, "jit", True)}


def layout(devices, fully_sharded=False):
    return Layout(data_mesh(jax.devices()[:devices]), fully_sharded)


def predict(params, x, t):
    h = jnp.tanh(jnp.concatenate([x, t[:, None]], axis=1) @ params["in"])
    return jnp.tanh(h @ params["middle"]) @ params["out"]


def model(params):
    return make_denoiser(predict, params, SCHEDULE, shape=(2,))


def loss(params, key, data):
    time_key, noise_key = jax.random.split(key)
    t = log_normal(stratified(time_key, len(data)), SCHEDULE).t
    x, target = denoising_target(noise_key, SCHEDULE, data, t)
    return regression_loss(model(params), x, target, t).mean()


def start(optimizer=OPTIMIZER):
    return init_state(PARAMS, optimizer, ema_decay=0.9)


def draw(key):
    return LAW.sample(key, 32)


@functools.cache
def step(devices, engine, fully_sharded, num_microbatches=1):
    plain = make_train_step(loss, OPTIMIZER, ema_decay=0.9, num_microbatches=num_microbatches)
    return data_parallel(plain, layout(devices, fully_sharded), engine=engine)


def run(devices, engine, fully_sharded, state=None, num_steps=STEPS, num_microbatches=1):
    """The last state, and the losses of the steps."""
    where, losses = layout(devices, fully_sharded), []
    state = train(
        KEY, where.create(start) if state is None else state,
        step(devices, engine, fully_sharded, num_microbatches), draw, num_steps=num_steps, steps_per_dispatch=5,
        report=lambda step, metrics, rate: losses.extend(metrics.loss),
    )  # fmt: skip
    return state, np.array(losses)


@pytest.fixture(scope="module")
def on_one():
    """Without a word of devices."""
    losses = []
    state = train(
        KEY, start(), make_train_step(loss, OPTIMIZER, ema_decay=0.9), draw, num_steps=STEPS, steps_per_dispatch=5,
        report=lambda step, metrics, rate: losses.extend(metrics.loss),
    )  # fmt: skip
    return jax.device_get(state), np.array(losses)


def assert_close(one, other, rtol=1e-5):
    """Relative to the size of each array."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(b, a, rtol=0, atol=rtol * np.abs(a).max())


@pytest.mark.parametrize("name", LAYOUTS)
def test_ten_steps_are_those_of_one_device_and_repeat_bit_for_bit(on_one, name):
    state, losses = run(*LAYOUTS[name])
    np.testing.assert_allclose(losses, on_one[1], rtol=1e-5)
    assert_close(on_one[0].params, state.params)
    assert_close(on_one[0].ema_params, state.ema_params)
    again, _ = run(*LAYOUTS[name])
    assert_same_bits(state, again)


@pytest.mark.parametrize("name", LAYOUTS)
def test_loss_and_gradients_are_those_of_one_device(name):
    # Under gradient descent with rate 1 a step is minus the gradient, whose size Adam would not show.
    devices, engine, fully_sharded = LAYOUTS[name]
    where, rule = layout(devices, fully_sharded), optax.sgd(1.0)
    plain = make_train_step(loss, rule, ema_decay=0.9)
    spread = jax.jit(data_parallel(plain, where, engine=engine))
    batch = draw(jax.random.key(5))
    (one, a), (many, b) = (
        jax.jit(plain)(KEY, start(rule), batch),
        spread(KEY, where.create(lambda: start(rule)), batch),
    )
    before = start(rule).params
    assert_close(
        jax.tree.map(jnp.subtract, before, one.params),
        jax.tree.map(jnp.subtract, before, jax.device_get(many.params)),
    )
    np.testing.assert_allclose([b.loss, b.gradient_norm], [a.loss, a.gradient_norm], rtol=1e-5)


@pytest.mark.slow
def test_microbatches_are_the_same_rows_on_every_device():
    # Each loss draws by the rows of its microbatch, so that the halves must be the same halves.
    _, one = run(8, "jit", False, num_steps=5, num_microbatches=2)
    _, many = run(8, "pmap", False, num_steps=5, num_microbatches=2)
    np.testing.assert_allclose(many, one, rtol=1e-5)


def test_a_fully_sharded_state_takes_an_eighth_of_the_memory():
    def start():
        return init_state({"w": jnp.ones((256, 128)), "b": jnp.ones(128)}, OPTIMIZER, ema_decay=0.9)

    def loss(params, key, batch):
        return jnp.mean((batch @ params["w"] + params["b"][None]) ** 2)

    def bytes_of(where):
        spread = jax.jit(
            data_parallel(make_train_step(loss, OPTIMIZER, ema_decay=0.9), where), donate_argnums=1
        )
        batch = jax.ShapeDtypeStruct((8, 256), jnp.float32, sharding=where.by_rows)
        compiled = spread.lower(KEY, where.like(start), batch).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        batch_bytes = 256 * 4
        return (
            memory.argument_size_in_bytes - batch_bytes,
            memory.output_size_in_bytes,
            memory.alias_size_in_bytes,
        )

    replicated, fully = bytes_of(layout(8)), bytes_of(layout(8, fully_sharded=True))
    assert replicated[0] >= 4 * 4 * 256 * 128  # parameters, their average, and Adam's two moments
    assert fully[0] < replicated[0] / 6
    assert fully[1] < replicated[1] / 6
    assert fully[2] > 0.99 * fully[1]  # and is updated in place


@pytest.mark.parametrize(
    ("first", "then"), [("pmap", "jit"), ("fully sharded", "one"), ("one", "fully sharded")]
)
def test_training_goes_on_in_another_layout(on_one, tmp_path, first, then):
    layouts = LAYOUTS | {"one": (1, "jit", False)}
    state, losses = run(*layouts[first], num_steps=5)
    with Checkpoints(tmp_path, config={}) as checkpoints:
        checkpoints.save(state)
    devices, _, fully_sharded = layouts[then]
    restored = restore(tmp_path, layout(devices, fully_sharded).like(start)).state
    assert_same_bits(state, restored)
    assert restored.params["middle"].sharding.num_devices == devices
    state, more = run(*layouts[then], state=restored)
    np.testing.assert_allclose([*losses, *more], on_one[1], rtol=1e-5)
    assert_close(on_one[0].params, state.params)


def test_rows_fed_by_the_host_are_those_drawn_on_the_device(on_one):
    data_key, _ = jax.random.split(KEY)
    rows = [np.asarray(draw(jax.random.fold_in(data_key, step))) for step in range(STEPS)]
    for name in LAYOUTS:
        devices, engine, fully_sharded = LAYOUTS[name]
        where, losses, asked = layout(devices, fully_sharded), [], []

        def read(step, asked=asked):
            asked.append(step)
            return rows[step]

        train(
            KEY, where.create(start), step(devices, engine, fully_sharded), lambda key, rows: rows,
            num_steps=STEPS, steps_per_dispatch=5, feed=where.feed(read),
            report=lambda step, metrics, rate, losses=losses: losses.extend(metrics.loss),
        )  # fmt: skip
        np.testing.assert_allclose(losses, on_one[1], rtol=1e-5)
        assert asked == list(range(STEPS))


@pytest.mark.parametrize("make", [Heun, ancestral])
def test_samples_depend_neither_on_the_devices_nor_on_the_batch(make):
    grid = power_grid(6, t_max=80.0, t_min=0.1, rho=7)
    draw = jax.jit(lambda key, x: integrate(key, model(PARAMS), x, grid, sampler=make()))
    x = initial_noise(jax.random.key(6), model(PARAMS), 256, 80.0)
    whole = draw(KEY, x)
    # The noise is the same to the bit; products of matrices of another height may round otherwise.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
    close(draw(KEY, x[:64]), whole[:64])
    spread = draw(KEY, layout(8).place_rows(x))
    assert len(spread.sharding.device_set) == 8
    close(spread, whole)


def test_likelihoods_and_sweeps_are_spread_like_their_rows():
    where, grid = layout(8), power_grid(6, t_max=80.0, t_min=0.1, rho=7)[::-1]
    x, denoise = draw(KEY), model(PARAMS)
    flow = jax.jit(lambda x: probability_flow(KEY, denoise, x, grid, num_probes=2).value)
    spread = flow(where.place_rows(x))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, flow(x), rtol=1e-5)

    @jax.jit
    def sweep(times):
        return jax.vmap(lambda t: score_error(KEY, denoise, LAW, t[None]).value[0])(times)

    times = jnp.linspace(0.5, 5.0, 8)
    spread = sweep(where.place_rows(times))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, sweep(times), rtol=1e-5)


def test_the_check_of_log_densities_is_spread_like_their_rows():
    """Each device looks at its own: by row numbers all of them looked at all, and sent each other the noised rows."""
    where, x, denoise = layout(8), LAW.sample(KEY, 200), model(PARAMS)
    check = jax.jit(lambda x: log_density._missing_directions(KEY, denoise, x))
    alone, spread = check(x), check.lower(where.place_rows(x)).compile()
    assert max((c.largest for c in collectives(spread.as_text())), default=0) <= 4 * len(alone)
    np.testing.assert_allclose(spread(where.place_rows(x)), alone, rtol=1e-4, atol=1e-4)
    assert len(alone) == 64


@pytest.mark.parametrize(
    ("num_evaluations", "axes"), [(80, {}), (20, {}), (20, {"slices": 2, "model": 2})],
    ids=["flow, 8", "formula, 8", "formula, 2 x 2 x 2"],
)  # fmt: skip
def test_densities_of_rows_on_their_own_devices_are_those_of_all_and_nothing_is_sent(num_evaluations, axes):
    where = Layout(data_mesh(**axes))
    x = LAW.sample(KEY, 64)

    def log_p(key, params, x):
        return log_density.log_density(key, model(params), x, num_evaluations=num_evaluations)

    alone = jax.jit(log_p)(KEY, PARAMS, x)
    given = where.place(KEY), where.place(PARAMS), where.place_rows(x)
    spread = jax.jit(row_parallel(log_p, where)).lower(*given).compile()
    answer = spread(*given)
    assert len(answer.value.sharding.device_set) == 8
    assert max((c.largest for c in collectives(spread.as_text())), default=0) <= 8
    for got, wanted in zip(answer, alone, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=1e-4)
    with pytest.raises(ValueError, match="multiple of the"):
        row_parallel(log_p, where)(KEY, PARAMS, x[:7])


def test_rows_are_counted_over_the_whole_batch_on_each_device():
    def local(x):
        return shards.row_numbers(len(x)), shards.mean(x.sum()), jnp.int32(shards.count())

    rows, mean, count = jax.pmap(local, axis_name=shards.DATA_AXIS)(jnp.arange(16.0).reshape(8, 2))
    np.testing.assert_array_equal(rows, np.arange(16).reshape(8, 2))
    np.testing.assert_array_equal(mean, np.full(8, 15.0))
    assert (count == 8).all()
    several = row_parallel(
        lambda key, tree, x: shards.row_numbers(len(x)), Layout(data_mesh(slices=2, model=2))
    )
    np.testing.assert_array_equal(several(KEY, (), jnp.zeros(12)), np.arange(12))
    np.testing.assert_array_equal(shards.row_numbers(3), np.arange(3))
    assert shards.count() == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: data_parallel(step(8, "jit", False), layout(8), engine="xmap"),
            "engine must be one of 'jit', 'pmap'",
        ),
        (
            lambda: data_parallel(step(8, "jit", False), layout(8, fully_sharded=True), engine="pmap"),
            "engine='jit' can have it fully sharded",
        ),
        (lambda: Layout(jax.make_mesh((8,), ("x",))), r"have the axis 'data', .* got \('x',\)"),
        (lambda: Layout(jax.make_mesh((4, 2), ("model", "data"))), r"got \('model', 'data'\); make it by"),
        (lambda: data_mesh(jax.devices(), slices=3), r"slices \* model = 3 \* 1 must divide the 8 devices"),
        (lambda: layout(8).place_rows(jnp.ones((12, 2))), r"multiple of the 8 devices .* shape \(12, 2\)"),
        (lambda: layout(8).feed(lambda step: np.ones(3))(0, 1), r"multiple of the 8 devices .* shape \(3,\)"),
        (lambda: step(8, "pmap", False)(KEY, start(), jnp.ones((12, 2))), "choose another batch size"),
        (lambda: step(8, "jit", False)(KEY, start(), jnp.ones((12, 2))), "choose another batch size"),
    ],
)
def test_bad_layouts_and_batches_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
