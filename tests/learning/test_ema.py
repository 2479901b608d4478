"""Averages: their profiles, by summation; and any of them from a few, against the average itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.learning import ema
from jaxdiff.learning.training import averaged, init_state, make_train_step, train
from jaxdiff.running.checkpoints import Checkpoints, restore

PATH = np.cumsum(np.random.default_rng(0).normal(size=(2000, 3)), axis=0)  # of parameters: p_1, p_2, ...


def average(width, last=None):
    """By eq. (2): weights (j / k)^(gamma + 1) - ((j - 1) / k)^(gamma + 1)."""
    path = PATH[:last]
    ends = (np.arange(len(path) + 1) / len(path)) ** (ema.exponent(width) + 1)
    return np.diff(ends) @ path


def test_the_power_function_has_the_profile_it_says(float64):
    decay = ema.power_function(0.1)

    def update(mean, step):
        return ema.updated(mean, jnp.asarray(PATH)[step], decay(step)), None

    # What it starts from is forgotten at once.
    mean, _ = jax.lax.scan(update, jnp.full(3, 1e6), jnp.arange(len(PATH)))
    np.testing.assert_allclose(mean, average(0.1), rtol=1e-9)


@pytest.mark.parametrize("width", [0.02, 0.1, 0.25, 12**-0.5])
def test_the_width_is_the_standard_deviation_of_the_profile(width):
    u = (np.arange(400_000) + 0.5) / 400_000
    density = u ** ema.exponent(width)
    density /= density.sum()
    mean = density @ u
    assert np.sqrt(density @ (u - mean) ** 2) == pytest.approx(width, rel=1e-5)


def kept():
    steps = [step for step in range(250, 2001, 250) for _ in range(2)]
    widths = [0.05, 0.10] * 8
    return (
        steps,
        widths,
        [jnp.asarray(average(w, s), jnp.float32) for s, w in zip(steps, widths, strict=True)],
    )


@pytest.mark.parametrize(("step", "width"), [(2000, 0.15), (2000, 0.07), (1500, 0.12), (2000, 0.05)])
def test_an_average_that_was_not_kept_comes_from_those_that_were(step, width):
    steps, widths, averages = kept()
    weights = ema.reconstruction_weights(steps, widths, step=step, width=width)
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    got = ema.combine(weights, averages)
    # In units of what the averages differ by among each other.
    spread = np.linalg.norm(average(0.05) - average(0.15))
    assert np.linalg.norm(got - average(width, step)) < 0.03 * spread
    # The profiles' distance, by summation, is what the weights make least: no others of sum one do better.
    cells = np.array([profile(s, w) for s, w in zip(steps, widths, strict=True)])
    best = np.sum((weights @ cells - profile(step, width)) ** 2)
    for change in np.random.default_rng(1).normal(size=(20, len(weights))) * 1e-2:
        change -= change.mean()
        assert np.sum(((weights + change) @ cells - profile(step, width)) ** 2) > best


def profile(step, width):
    ends = np.minimum(np.arange(len(PATH) + 1) / step, 1) ** (ema.exponent(width) + 1)
    return np.diff(ends)


def test_averages_of_a_run_are_kept_and_combined(tmp_path):
    """Two averages are trained with, kept four times, read alone, and give a third, which is tracked too."""
    optimizer, widths = optax.sgd(0.3), {"short": 0.05, "long": 0.10, "wanted": 0.14}

    def loss(params, key, batch):
        return jnp.sum((params["w"] - jax.random.normal(key, (4,))) ** 2)

    decays = {name: ema.power_function(width) for name, width in widths.items()}
    state = init_state({"w": jnp.zeros(4)}, optimizer, ema_decay=decays)
    with Checkpoints(tmp_path, config={}, keep_latest=1, keep_best=0, keep_every=100) as checkpoints:
        state = train(
            jax.random.key(0), state, make_train_step(loss, optimizer, ema_decay=decays), lambda key: (),
            num_steps=400, save=checkpoints.save, save_every=50,
        )  # fmt: skip
    kept = list(range(100, 401, 100))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == kept
    like = {"ema_params": {name: {"w": jnp.zeros(4)} for name in widths}}
    averages = {step: restore(tmp_path, like, step=step, part=True).state["ema_params"] for step in kept}
    read = {(step, name): averages[step][name] for step in kept for name in ("short", "long")}
    weights = ema.reconstruction_weights(
        [step for step, _ in read], [widths[name] for _, name in read], step=400, width=0.14
    )
    got = ema.combine(weights, iter(read.values()))["w"]
    wanted, short = state.ema_params["wanted"]["w"], state.ema_params["short"]["w"]
    assert np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(short - wanted)
    with pytest.raises(ValueError, match="several averages"):
        averaged(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ema.power_function(0.3), r"width must lie in \(0, 12\^\(-1/2\) = 0.2887\], got 0.3"),
        (lambda: ema.exponent(0.0), "got 0.0"),
        (lambda: ema.reconstruction_weights([1, 2], [0.1], step=2, width=0.1), "got 2 and 1"),
        (lambda: ema.reconstruction_weights([], [], step=2, width=0.1), "at least one"),
        (
            lambda: ema.reconstruction_weights([0], [0.1], step=2, width=0.1),
            "step must be an integer of at least 1",
        ),
        (lambda: ema.combine([0.5, 0.5], [jnp.ones(2)]), "shorter"),
        (lambda: ema.combine([], []), "no averages"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
