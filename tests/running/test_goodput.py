"""What the time of a run went to, by a clock that is moved by hand; and the arithmetic that a function asks for."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxdiff.learning.training import init_state, make_train_step, train
from jaxdiff.models import UNet
from jaxdiff.running.goodput import Goodput
from jaxdiff.running.parallel import Layout, data_mesh, row_parallel
from jaxdiff.running.work import flops


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_losses_are_told_apart_and_nothing_is_counted_twice():
    clock = Clock()
    lost = Goodput(began=88.0, clock=clock)  # a process of 12 seconds

    def takes(seconds, answer=None):
        def call(*_):
            clock.now += seconds
            return answer

        return call

    feed, save, stop = lost.feed(takes(3.0, "rows")), lost.save(takes(7.0)), lost.stop(lambda step: False)
    with lost.to("restore"):
        clock.now += 5
    stop(0)
    assert feed(0, 2) == "rows"  # the loop waits for the first rows
    clock.now += 11  # and compiles
    stop(2)
    clock.now += 20  # it has rows, and trains
    stop(4)
    assert lost.values() == {
        "goodput": pytest.approx(20 / 51), "start_seconds": 12, "restore_seconds": 5, "compile_seconds": 11, "feed_seconds": 3,
        "save_seconds": 0,
    }  # fmt: skip
    save(None, {})
    slow = lost.feed(lambda first, last: (stop(4), takes(2.0)()))  # the loop comes while the rows do not
    slow(4, 6)
    clock.now += 2
    stop(6)
    assert lost.values() == {
        "goodput": pytest.approx(22 / 62), "start_seconds": 12, "restore_seconds": 5, "compile_seconds": 11, "feed_seconds": 5,
        "save_seconds": 7,
    }  # fmt: skip


def test_a_run_is_followed_from_its_callbacks():
    lost, seen = Goodput(), []
    step = make_train_step(lambda p, key, batch: (p * batch.mean()) ** 2, optax.sgd(0.1), ema_decay=None)
    state = init_state(jnp.ones(()), optax.sgd(0.1), ema_decay=None)
    train(
        jax.random.key(0), state, step, lambda key, rows: rows, num_steps=4, steps_per_dispatch=2,
        feed=lost.feed(lambda first, last: jnp.ones((last - first, 1))), stop=lost.stop(lambda step: False),
        save=lost.save(lambda state, means: None), report=lambda *_: seen.append(lost.values()),
    )  # fmt: skip
    assert len(seen) == 2
    assert seen[-1]["compile_seconds"] == seen[0]["compile_seconds"] > 0
    assert 0 < seen[-1]["goodput"] < 1


def test_products_are_counted_turn_by_turn():
    a, b = jax.ShapeDtypeStruct((5, 2, 3), jnp.float32), jax.ShapeDtypeStruct((5, 3, 4), jnp.float32)
    assert flops(jnp.matmul, a, b) == 2 * 5 * 2 * 3 * 4
    w = jax.ShapeDtypeStruct((8, 8), jnp.float32)

    def looped(w):
        turn = jax.checkpoint(lambda x, _: (jnp.tanh(x @ w), None))
        return jax.lax.scan(turn, jnp.ones((2, 8)), length=7)[0].sum()

    forward = 7 * 2 * 2 * 8 * 8
    assert flops(looped, w) == forward
    assert flops(jax.grad(looped), w) == 4 * forward  # once more, and two backward
    dear = lambda w: jax.lax.cond(w[0, 0] > 0, lambda w: w @ w, lambda w: w, w)  # noqa: E731
    assert flops(dear, w) == 2 * 8**3


def test_convolutions_are_counted_and_backward_twice():
    model, x, t = UNet(4, (1,), 1), jnp.zeros((2, 8, 8, 3)), jnp.zeros(2)
    params = jax.eval_shape(model.init, jax.random.key(0), x, t)
    conv = lambda n, m, size=3: 2 * 2 * 64 * size**2 * n * m  # noqa: E731
    blocks = 3 * 2 * conv(4, 4) + conv(8, 4) + conv(4, 4) + conv(8, 4, 1)
    dense = 2 * 2 * (32 * 16 + 16 * 16 + 4 * 16 * 8)
    count = flops(model.apply, params, x, t)
    assert count == conv(3, 4) + blocks + conv(4, 3) + dense
    gradient = jax.grad(lambda p, x: model.apply(p, x, t, train=True).sum(), argnums=(0, 1))
    assert 2.9 * count < flops(gradient, params, x) <= 3 * count


def test_what_is_mapped_over_devices_counts_on_all_of_them():
    """By rows or by pmap, 64 of them or 8 on each of eight devices: 2 * 64 * 3 * 4."""
    w, x = jnp.ones((3, 4)), jnp.ones((64, 3))
    rows = row_parallel(lambda key, w, x: x @ w, Layout(data_mesh()))
    mapped = jax.pmap(lambda x: x @ w)
    assert flops(rows, jax.random.key(0), w, x) == flops(jnp.dot, x, w) == 2 * 64 * 3 * 4
    assert flops(mapped, x.reshape(8, 8, 3)) == 2 * 64 * 3 * 4
