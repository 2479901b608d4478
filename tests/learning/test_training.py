"""The training step against closed forms, and the loop against itself cut in every way."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import assert_same_bits

from jaxdiff.learning import training
from jaxdiff.learning.ema import warm_up
from jaxdiff.learning.training import averaged, init_state, make_train_step, train

KEY = jax.random.key(0)
ADAM = optax.adam(1e-2)
PARAMS = {
    "in": jax.random.normal(jax.random.key(1), (3, 8)),
    "out": jax.random.normal(jax.random.key(2), (8, 3)) / 3,
}


def noisy_loss(params, key, batch):
    """A small network that denoises: it uses the parameters, the key and the batch."""
    noisy = batch + jax.random.uniform(key, batch.shape)  # quicker to compile than normal noise
    return jnp.mean((jnp.tanh(noisy @ params["in"]) @ params["out"] - batch) ** 2)


def draw(key):
    return jax.random.uniform(key, (16, 3))


STEP = make_train_step(noisy_loss, ADAM, ema_decay=0.99)


def start():
    return init_state(PARAMS, ADAM, ema_decay=0.99)


@pytest.fixture(scope="module")
def uninterrupted():
    return jax.device_get(train(KEY, start(), STEP, draw, num_steps=100))


# The step


def quadratic(params, key, batch):
    """Curvatures h: the gradient is h (p - batch)."""
    h = jnp.asarray([1.0, 2.0, 0.5], params.dtype)
    return 0.5 * jnp.sum(h * (params - batch) ** 2)


def quadratic_path(decay, steps=9, rate=0.3):
    """Parameters and their average under SGD, through the library, for each step from 0."""
    optimizer = optax.sgd(rate)
    step = jax.jit(make_train_step(quadratic, optimizer, ema_decay=decay))
    state = init_state(jnp.asarray([1.0, -2.0, 3.0]), optimizer, ema_decay=decay)
    states, norms = [state], []
    for _ in range(steps):
        state, metrics = step(KEY, state, jnp.ones(3))
        states.append(state)
        norms.append(metrics.gradient_norm)
    return jax.device_get(states), np.asarray(norms)


@pytest.mark.usefixtures("float64")
def test_sgd_on_a_quadratic_is_the_closed_form():
    states, norms = quadratic_path(None)
    h, p0 = np.array([1.0, 2.0, 0.5]), np.array([1.0, -2.0, 3.0])
    expected = np.array([1 + (1 - 0.3 * h) ** k * (p0 - 1) for k in range(10)])
    np.testing.assert_allclose([s.params for s in states], expected, rtol=1e-14)
    np.testing.assert_allclose(norms, np.sqrt(((h * (expected[:-1] - 1)) ** 2).sum(1)), rtol=1e-14)
    assert [int(s.step) for s in states] == list(range(10))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("decay", "decays"),
    [
        (0.0, np.zeros(9)),
        (0.9, np.full(9, 0.9)),
        (warm_up(0.3), np.minimum(0.3, (1 + np.r_[:9]) / (10 + np.r_[:9]))),
    ],
)
def test_average_is_the_weighted_sum_of_the_path(decay, decays):
    states, _ = quadratic_path(decay)
    path = np.array([s.params for s in states])
    # e_n = prod_{k<n} d_k p_0 + sum_k (1 - d_k) prod_{k<j<n} d_j p_{k+1}
    weights = np.r_[np.prod(decays), [(1 - decays[k]) * np.prod(decays[k + 1 :]) for k in range(9)]]
    np.testing.assert_allclose(states[-1].ema_params, weights @ path, rtol=1e-7)  # float32 ratio of warm-up
    np.testing.assert_array_equal(averaged(states[-1]), states[-1].ema_params)


def test_warm_up_grows_from_a_tenth_to_the_decay():
    decays = np.asarray(jax.vmap(warm_up(0.999))(jnp.asarray([0, 8, 89, 10**6])))
    np.testing.assert_allclose(decays, [0.1, 0.5, 90 / 99, 0.999], rtol=1e-6)


def test_no_average_holds_no_second_copy():
    optimizer = optax.sgd(0.1)
    state = init_state(PARAMS, optimizer, ema_decay=None)
    state, _ = jax.jit(make_train_step(noisy_loss, optimizer, ema_decay=None))(KEY, state, draw(KEY))
    assert sum(x.size for x in jax.tree.leaves(state)) == sum(x.size for x in jax.tree.leaves(PARAMS)) + 1
    assert averaged(state) is state.params


def test_average_keeps_the_dtype_of_the_parameters():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float32), PARAMS)
        decay = warm_up(0.9)
        state = train(
            KEY,
            init_state(params, ADAM, ema_decay=decay),
            make_train_step(lambda p, k, b: noisy_loss(p, k, b.astype(jnp.float32)), ADAM, ema_decay=decay),
            draw,
            num_steps=2,
        )
        assert {x.dtype for x in jax.tree.leaves(state.ema_params)} == {jnp.dtype("float32")}


def test_two_steps_differ_in_noise_and_one_step_repeats():
    step = jax.jit(
        make_train_step(lambda p, k, b: jnp.sum(p * jax.random.normal(k, p.shape)), ADAM, ema_decay=None)
    )
    state = init_state(jnp.ones(3), ADAM, ema_decay=None)
    again, same = step(KEY, state, None)[1], step(KEY, state, None)[1]
    later = step(KEY, state._replace(step=jnp.int32(1)), None)[1]
    assert again.loss == same.loss
    assert again.loss != later.loss


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r"ema_decay must lie in \[0, 1\), got"):
        make_train_step(noisy_loss, ADAM, ema_decay=decay)
    with pytest.raises(ValueError, match=r"ema_decay must lie in \[0, 1\), got"):
        warm_up(decay)


@pytest.mark.parametrize(("made", "stepped"), [(None, 0.9), (0.9, None)])
def test_state_and_step_must_agree_on_the_average(made, stepped):
    step = make_train_step(noisy_loss, ADAM, ema_decay=stepped)
    with pytest.raises(ValueError, match="give init_state and make_train_step the same ema_decay"):
        step(KEY, init_state(PARAMS, ADAM, ema_decay=made), draw(KEY))


def test_microbatches_give_the_gradient_of_the_batch():
    def loss(params, key, batch):
        return jnp.mean((batch @ params["in"] - 1) ** 2)

    batch, params = draw(KEY), {"in": PARAMS["in"]}
    states = []
    for m in (1, 2, 8):
        step = make_train_step(loss, optax.sgd(1.0), ema_decay=None, num_microbatches=m)
        state, metrics = step(KEY, init_state(params, optax.sgd(1.0), ema_decay=None), batch)
        states.append((state.params, metrics))
    for other in states[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), other, states[0])


def test_microbatches_draw_by_their_own_keys():
    batch, m = draw(KEY), 4
    step = make_train_step(noisy_loss, optax.sgd(1.0), ema_decay=None, num_microbatches=m)
    state, metrics = step(KEY, init_state(PARAMS, optax.sgd(1.0), ema_decay=None), batch)
    step_key = jax.random.fold_in(KEY, 0)
    losses, gradients = zip(
        *(
            jax.value_and_grad(noisy_loss)(PARAMS, jax.random.fold_in(step_key, j), batch[j::m])
            for j in range(m)
        ),
        strict=True,
    )
    np.testing.assert_allclose(metrics.loss, np.mean(losses), rtol=1e-6)
    mean = jax.tree.map(lambda *parts: np.mean(parts, axis=0), *gradients)
    jax.tree.map(lambda p, q, g: np.testing.assert_allclose(q - p, -g, atol=1e-6), PARAMS, state.params, mean)


def test_microbatches_must_divide_the_batch():
    step = make_train_step(noisy_loss, ADAM, ema_decay=None, num_microbatches=5)
    with pytest.raises(ValueError, match=r"num_microbatches=5 must divide the \d+ rows"):
        step(KEY, init_state(PARAMS, ADAM, ema_decay=None), draw(KEY))


def test_several_averages_are_those_of_a_run_each():
    decays = {"short": 0.5, "long": warm_up(0.99)}

    def end(ema_decay):
        step = make_train_step(noisy_loss, ADAM, ema_decay=ema_decay)
        return train(KEY, init_state(PARAMS, ADAM, ema_decay=ema_decay), step, draw, num_steps=5)

    both = end(decays)
    for name, decay in decays.items():
        assert_same_bits(both.ema_params[name], end(decay).ema_params)
    with pytest.raises(ValueError, match="several averages"):
        averaged(both)


# The loop


@pytest.mark.parametrize("size", [1, 7, 100])
def test_dispatch_size_does_not_change_a_bit(uninterrupted, size):
    assert_same_bits(train(KEY, start(), STEP, draw, num_steps=100, steps_per_dispatch=size), uninterrupted)


@pytest.mark.parametrize("cut", [1, 50, 63])
def test_a_run_in_two_parts_does_not_change_a_bit(uninterrupted, cut):
    state = train(KEY, start(), STEP, draw, num_steps=cut)
    assert int(state.step) == cut
    assert_same_bits(train(KEY, state, STEP, draw, num_steps=100), uninterrupted)


def test_the_loop_is_the_step_repeated():
    """Against a plain Python loop in which every draw is made by hand."""
    data_key, step_key = jax.random.split(KEY)
    step, state = jax.jit(STEP), start()
    for k in range(20):
        state, _ = step(step_key, state, draw(jax.random.fold_in(data_key, k)))
    got = train(KEY, start(), STEP, draw, num_steps=20, steps_per_dispatch=6)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_a_run_that_goes_on_dispatches_as_if_it_had_not_stopped():
    """Up to multiples of the length, wherever it begins: so that all of its runs report and save at one rhythm."""
    reported = []
    state = train(KEY, start(), STEP, draw, num_steps=7, steps_per_dispatch=10)
    train(
        KEY, state, STEP, draw, num_steps=23, steps_per_dispatch=10,
        report=lambda step, metrics, rate: reported.append((step, len(metrics.loss))),
    )  # fmt: skip
    assert reported == [(10, 3), (20, 10), (23, 3)]


def test_nothing_to_do_leaves_the_state_alone():
    state = start()._replace(step=jnp.int32(9))
    assert train(KEY, state, STEP, draw, num_steps=9, save=lambda *_: pytest.fail("saved")) is state


def test_one_trace_and_one_more_for_the_remainder():
    traces = []

    def counted(params, key, batch):
        traces.append(1)
        return noisy_loss(params, key, batch)

    step = make_train_step(counted, ADAM, ema_decay=0.99)
    state = train(KEY, start(), step, draw, num_steps=40, steps_per_dispatch=10)
    assert len(traces) == 1
    state = train(KEY, state, step, draw, num_steps=63, steps_per_dispatch=10)
    assert len(traces) == 2
    train(KEY, start(), step, draw, num_steps=63, steps_per_dispatch=10)
    assert len(traces) == 2


def test_data_of_a_partial_is_an_argument_and_of_a_closure_is_not():
    data = jax.random.normal(jax.random.key(5), (50, 3))

    def pick(data, key):
        return data[jax.random.randint(key, (16,), 0, len(data))]

    partial = jax.tree_util.Partial(pick, data)
    states = [
        train(KEY, start(), STEP, batch_fn, num_steps=3)
        for batch_fn in (partial, lambda key: pick(data, key))
    ]
    assert_same_bits(*states)
    assert [x.shape for x in jax.tree.leaves(training._as_pytree(partial))] == [(50, 3)]
    assert jax.tree.leaves(training._as_pytree(draw)) == []


def test_the_callers_parameters_survive_donation():
    state = start()
    train(KEY, state, STEP, draw, num_steps=2)
    assert not any(x.is_deleted() for x in jax.tree.leaves(PARAMS))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_reports_come_one_dispatch_late_and_in_order(monkeypatch):
    events = []
    dispatch = training._dispatch

    def logged(*args, length):
        events.append(f"dispatch {int(length)}")
        return dispatch(*args, length=length)

    monkeypatch.setattr(training, "_dispatch", logged)
    losses = []

    def report(step, metrics, steps_per_second):
        events.append(f"report {step}")
        assert metrics.loss.shape == metrics.gradient_norm.shape
        assert isinstance(metrics.loss, np.ndarray)
        assert steps_per_second > 0
        losses.extend(metrics.loss)

    train(
        KEY, start(), STEP, draw, num_steps=17, steps_per_dispatch=5, report=report,
        save=lambda state, means: events.append(f"save {int(state.step)}"), save_every=9,
    )  # fmt: skip
    assert events == [
        "dispatch 5", "dispatch 5", "report 5", "report 10", "save 10",
        "dispatch 5", "dispatch 2", "report 15", "report 17", "save 17",
    ]  # fmt: skip
    assert len(losses) == 17


def test_means_given_to_save_are_those_of_its_dispatch():
    reported, saved = [], []
    train(
        KEY, start(), STEP, draw, num_steps=10, steps_per_dispatch=5,
        report=lambda step, metrics, rate: reported.append(metrics),
        save=lambda state, means: saved.append(means),
    )  # fmt: skip
    assert len(saved) == 1
    np.testing.assert_allclose(saved[0]["loss"], np.mean(reported[-1].loss), rtol=1e-6)
    np.testing.assert_allclose(saved[0]["gradient_norm"], np.mean(reported[-1].gradient_norm), rtol=1e-6)


@pytest.mark.parametrize(
    ("blow_up", "message"),
    [
        (lambda p, at: jnp.where(at, jnp.nan, 1.0), "Step 13 has loss nan"),
        (lambda p, at: jnp.where(at, jnp.inf, 1.0), "Step 13 has loss inf"),
        # log 0 where it is not selected: the loss is finite, its gradient is not
        (lambda p, at: jnp.where(at, jnp.where(p["in"][0, 0] > 1e9, jnp.log(0 * p["in"][0, 0]), 1.0), 1.0),
         "Step 0 has loss .* and gradient norm nan"),
    ],
)  # fmt: skip
def test_a_non_finite_step_is_named_and_not_saved(blow_up, message):
    def loss(params, key, batch):
        return noisy_loss(params, key, batch["x"]) * blow_up(params, batch["bad"])

    # The batch of step 13 is known by its key, which depends on (key, step) only.
    bad = jax.random.key_data(jax.random.fold_in(jax.random.split(KEY)[0], 13))

    def batch_fn(key):
        return {"x": draw(key), "bad": jnp.all(jax.random.key_data(key) == bad)}

    saved, reported = [], []
    with pytest.raises(FloatingPointError, match=message):
        train(
            KEY, start(), make_train_step(loss, ADAM, ema_decay=0.99), batch_fn,
            num_steps=40, steps_per_dispatch=5,
            report=lambda step, metrics, rate: reported.append(step),
            save=lambda state, means: saved.append(jax.device_get(state)), save_every=5,
        )  # fmt: skip
    expected = [] if "Step 0" in message else [5, 10]
    assert [int(s.step) for s in saved] == reported == expected
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved))


def test_parameters_that_overflow_in_the_last_step_are_not_saved():
    optimizer = optax.scale_by_schedule(lambda count: jnp.where(count == 4, jnp.inf, -1e-3))
    step = make_train_step(noisy_loss, optimizer, ema_decay=None)
    with pytest.raises(FloatingPointError, match="parameters are not finite after step 4"):
        train(
            KEY, init_state(PARAMS, optimizer, ema_decay=None), step, draw, num_steps=5,
            save=lambda *_: pytest.fail("saved"),
        )  # fmt: skip


def test_stop_ends_the_dispatch_saves_and_returns(uninterrupted):
    answers = iter([False, False, True])
    saved = []
    state = train(
        KEY, start(), STEP, draw, num_steps=100, steps_per_dispatch=10, stop=lambda step: next(answers),
        save=lambda state, means: saved.append(int(state.step)),
    )  # fmt: skip
    assert int(state.step) == 20
    assert saved == [20]
    assert_same_bits(train(KEY, state, STEP, draw, num_steps=100), uninterrupted)


def test_rows_of_a_feed_reach_their_steps_and_are_read_ahead(uninterrupted):
    data_key, _ = jax.random.split(KEY)
    rows = [draw(jax.random.fold_in(data_key, step)) for step in range(100)]
    asked = []

    def feed(first, last):
        asked.append((first, last))
        return jnp.stack(rows[first:last])

    def run(state, num_steps):
        return train(
            KEY, state, STEP, lambda key, rows: rows, feed=feed, num_steps=num_steps, steps_per_dispatch=30
        )

    state = run(run(start(), 45), 100)
    assert_same_bits(state, uninterrupted)
    assert asked == [(0, 30), (30, 45), (45, 60), (60, 90), (90, 100)]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError("the disk is gone"), OSError, "the disk is gone"),
        (
            StopIteration(),
            ValueError,
            "The feed has ended: it has no rows of steps 20 to 24. Repeat its data",
        ),
    ],
)
def test_a_feed_that_fails_ends_the_run_and_what_was_done_is_saved(error, raised, message):
    def feed(first, last):
        if first == 20:
            raise error
        return jnp.stack([draw(KEY)] * (last - first))

    saved = []
    with pytest.raises(raised, match=message):
        train(
            KEY, start(), STEP, lambda key, rows: rows, feed=feed, num_steps=25, steps_per_dispatch=10,
            save=lambda state, means: saved.append(int(state.step)),
        )  # fmt: skip
    assert saved == [20]


@pytest.mark.parametrize("hangs_at", [0, 20])
def test_a_feed_that_hangs_does_not_hold_a_stop(hangs_at):
    asked, saved = [], []

    def feed(first, last):
        if first == hangs_at:
            time.sleep(600)
        return jnp.stack([draw(KEY)] * (last - first))

    def stop(step):
        asked.append(step)
        return asked.count(hangs_at) == 3  # the first is asked in any case

    state = train(
        KEY, start(), STEP, lambda key, rows: rows, feed=feed, num_steps=25, steps_per_dispatch=10,
        save=lambda state, means: saved.append(int(state.step)), stop=stop,
    )  # fmt: skip
    assert int(state.step) == hangs_at
    assert saved == [20] * (hangs_at > 0)


def test_a_run_does_not_go_back():
    state = start()._replace(step=jnp.int32(7))
    with pytest.raises(ValueError, match="num_steps=6 counts from the run's beginning, and 7 steps are done"):
        train(KEY, state, STEP, draw, num_steps=6)
    assert int(train(KEY, state, STEP, draw, num_steps=7, save=lambda *_: pytest.fail("saved")).step) == 7


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: what a shell starts in the background ignores it from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_question_and_handlers_return(number, interruptible):
    before = signal.getsignal(number)
    with training.interruption() as stop:
        assert not stop(0)
        os.kill(os.getpid(), number)
        assert stop(1)
        os.kill(os.getpid(), signal.SIGTERM)  # which waits for the save, as often as it comes
        if number == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop(2)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": -1}, "num_steps must be an integer of at least 0, got -1"),
        ({"num_steps": 10.0}, "num_steps must be an integer"),
        ({"num_steps": 10, "steps_per_dispatch": 0}, "steps_per_dispatch must be an integer of at least 1"),
        ({"num_steps": 10, "save_every": 0, "save": print}, "save_every must be an integer of at least 1"),
        ({"num_steps": 10, "save_every": 5}, "save_every=5 needs save"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        train(KEY, start(), STEP, draw, **options)


def test_a_state_that_was_given_away_is_named():
    state = start()
    after = train(KEY, state, STEP, draw, num_steps=2)
    with pytest.raises(ValueError, match="was given to train before, which donates it; use the one returned"):
        train(KEY, state, STEP, draw, num_steps=4)
    with pytest.raises(ValueError, match="was given to train before"):
        averaged(state)
    assert int(train(KEY, after, STEP, draw, num_steps=4).step) == 4


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: train(0, start(), STEP, draw, num_steps=1),
            TypeError,
            "key must be a key such as .* got int",
        ),
        (
            lambda: train(jax.random.split(KEY, 2), start(), STEP, draw, num_steps=1),
            ValueError,
            r"key must have shape \(\), got \(2,\)",
        ),
        (
            lambda: train(KEY, PARAMS, STEP, draw, num_steps=1),
            TypeError,
            "state must be a TrainState, got dict; init_state",
        ),
        (lambda: STEP(3, start(), draw(KEY)), TypeError, "key must be a key such as"),
        (lambda: STEP(KEY, PARAMS, draw(KEY)), TypeError, "state must be a TrainState, got dict"),
        (lambda: averaged(PARAMS), TypeError, "state must be a TrainState, got dict"),
        (lambda: init_state(start(), ADAM, ema_decay=None), TypeError, "got a TrainState; give its params"),
        (
            lambda: STEP(KEY, start(), draw(KEY)[:0]),
            ValueError,
            r"A batch must have at least one row, got arrays of shape \[\(0, 3\)\]",
        ),
        (
            lambda: train(KEY, start(), STEP, lambda key: draw(key)[:0], num_steps=1),
            ValueError,
            "A batch must have at least one row",
        ),
        (
            lambda: step_of(lambda p, k, b: b.sum(1)),
            ValueError,
            r"loss_fn must answer a scalar, got shape \(16,\); take its .mean",
        ),
        (
            lambda: step_of(lambda p, k, b: (b.mean(), {"a": 1.0})),
            ValueError,
            "loss_fn must answer a scalar, got shape",
        ),
        (lambda: step_of(lambda p, k, b: None), ValueError, "loss_fn must answer a scalar, got shape None"),
    ],
)
def test_mistakes_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


def step_of(loss):
    return make_train_step(loss, ADAM, ema_decay=0.99)(KEY, start(), draw(KEY))


def test_a_batch_may_hold_what_has_no_rows():
    """Scalars and nothing at all are left alone."""
    step = make_train_step(lambda p, k, b: jnp.sum(p**2) * b["scale"], ADAM, ema_decay=None)
    state = init_state(jnp.ones(2), ADAM, ema_decay=None)
    assert step(KEY, state, {"scale": 2.0, "mask": None})[1].loss == 4
