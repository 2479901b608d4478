"""Tokens under the trainer's devices and checkpoints, and samplers' rows in any batch and on any devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import assert_same_bits, few_of

import jaxdiff as jd
from jaxdiff import jumps
from jaxdiff.running.checkpoints import Checkpoints, restore

V, LENGTH, STEPS = 3, 6, 8
KEY = jax.random.key(0)
LAW = jumps.markov_chain([0.5, 0.3, 0.2], [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]], LENGTH)
NETWORK = jd.models.TokenTransformer(V, V + 1, width=8, num_blocks=1, num_heads=2, dropout=0.2)
OPTIMIZER = optax.adam(1e-2)
STEPS_OF_JUMPS = jumps.Ancestral(), jumps.Euler(), jumps.TauLeaping(), jumps.Corrected()
SAMPLERS = {
    "masking, draws of its own": (jumps.Confident("random"), jumps.Resampled(LAW.log_prob, 3)),
    "masking": (
        *STEPS_OF_JUMPS,
        jumps.Remasking(),
        *(jumps.Confident(order) for order in ("probability", "margin", "entropy")),
    ),
    "uniform": STEPS_OF_JUMPS,
}


def start():
    params = NETWORK.init(jax.random.key(1), jnp.zeros((1, LENGTH), int), jnp.zeros(1))
    return jd.init_state(params, OPTIMIZER, ema_decay=0.9)


def loss(params, key, batch):
    dropout, key = jax.random.split(key)
    predict = functools.partial(NETWORK.apply, train=True, rngs={"dropout": dropout})
    denoise = jumps.make_denoiser(predict, params, jumps.Masking(V), shape=(LENGTH,))
    return jumps.denoising_loss(key, denoise, batch).mean()


def draw(key):
    return LAW.sample(key, 16)


PLAIN = jd.make_train_step(loss, OPTIMIZER, ema_decay=0.9)


def run(step, state, num_steps=STEPS):
    """The last state, and the losses of its steps."""
    losses = []
    report = lambda step, metrics, rate: losses.extend(metrics.loss)  # noqa: E731
    state = jd.train(KEY, state, step, draw, num_steps=num_steps, steps_per_dispatch=4, report=report)
    return jax.device_get(state), losses


@pytest.mark.slow
@pytest.mark.parametrize("fully_sharded", [False, True])
def test_training_on_eight_devices_is_that_of_one_and_goes_on_bit_for_bit(fully_sharded, tmp_path):
    layout = jd.Layout(jd.data_mesh(), fully_sharded)
    step = jd.data_parallel(PLAIN, layout)
    one, losses = run(PLAIN, start())
    many, spread = run(step, layout.create(start))
    assert losses[-1] != losses[0]
    np.testing.assert_allclose(spread, losses, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(one.ema_params), jax.tree.leaves(many.ema_params), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-3 * np.abs(a).max())
    half, _ = run(step, layout.create(start), STEPS // 2)
    with Checkpoints(tmp_path, config={}) as checkpoints:
        checkpoints.save(half)
    rest, _ = run(step, restore(tmp_path, layout.like(start)).state)
    assert_same_bits(rest, many)


@pytest.mark.parametrize("kind", few_of(list(SAMPLERS), ("masking, draws of its own",)))
def test_rows_of_every_sampler_are_their_own_in_any_batch_and_on_any_devices(kind):
    """Tokens that are half known, a step on: what row i becomes depends on (key, i) and itself."""
    process = (jumps.Uniform if kind == "uniform" else jumps.Masking)(V)
    denoise, t, s = LAW.denoiser(process), jnp.asarray(0.6), jnp.asarray(0.3)
    x = jumps.perturb(jax.random.key(2), process, LAW.sample(jax.random.key(3), 64), t)
    step = jax.jit(lambda key, x: [sampler.step(key, denoise, x, t, s) for sampler in SAMPLERS[kind]])
    whole = step(KEY, x)
    spread = step(KEY, jax.device_put(x, jd.Layout(jd.data_mesh()).by_rows))
    for sampler, all_rows, few, on_eight in zip(SAMPLERS[kind], whole, step(KEY, x[:5]), spread, strict=True):
        assert len(on_eight.sharding.device_set) == 8, sampler
        np.testing.assert_array_equal(few, all_rows[:5], err_msg=str(sampler))
        np.testing.assert_array_equal(on_eight, all_rows, err_msg=str(sampler))
        assert (np.asarray(all_rows) != np.asarray(x)).any(1).mean() > 0.3, sampler


def test_one_program_samples_of_all_parameters_settings_and_times():
    traced = []

    def predict(params, x, level):
        traced.append(None)
        return jnp.broadcast_to(params, (*x.shape, V))

    def drawn(logit, eta, last):
        denoise = jumps.make_denoiser(predict, jnp.asarray([logit, 0.0, 0.0]), jumps.Masking(V), shape=(2,))
        sampler, times = jumps.Remasking(jnp.asarray(eta)), jnp.asarray([1.0, last, 0.0])
        return jumps.sample(KEY, denoise, 50, sampler=sampler, times=times)

    first = drawn(0.0, 0.1, 0.5)
    count = len(traced)
    assert count > 0
    other = drawn(9.0, 0.3, 0.2)
    assert len(traced) == count
    assert (other == 0).mean() > 0.9 > 0.6 > (first == 0).mean()
