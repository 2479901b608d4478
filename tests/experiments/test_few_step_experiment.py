"""The experiment on few steps: its arithmetic, its tasks and what its rows begin from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.few_step import generators, methods, starts, study, tasks, training
from experiments.few_step.study import SETTINGS, SMALL, Study
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.maps.exact import gaussian_map


def test_the_generator_s_loss_is_the_energy_distance():
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over pairs of different rows, in NumPy."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 2)), rng.standard_normal((7, 2)) + 0.5

    def mean(a, b, same):
        apart = np.linalg.norm(a[:, None] - b[None], axis=-1)
        return apart[~np.eye(len(a), dtype=bool)].mean() if same else apart.mean()

    wanted = 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)
    got, slope = jax.value_and_grad(methods.energy)(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert np.isfinite(slope).all()  # of a row and itself


def test_steps_share_a_budget_by_their_arithmetic():
    """Products of matrices of twice the rows take twice the operations, and half of the steps."""
    params = jnp.ones((64, 64))

    def loss(rows):
        x = jnp.ones((rows, 64))
        return lambda params: jnp.sum((x @ params) ** 2)

    few, many = (training.steps_for(1e9, loss(rows), params) for rows in (512, 256))
    assert many / few == pytest.approx(2, rel=0.05)
    # Forward one product of 2 n d^2, backward one.
    assert few == pytest.approx(1e9 / (2 * 2 * 512 * 64**2), rel=0.1)


def test_a_grid_of_twice_the_calls_holds_that_of_half():
    denoise = gaussian_map(Gaussian(jnp.zeros(2), jnp.ones(2)), study.SCHEDULE).denoiser
    np.testing.assert_allclose(methods.grid(denoise, 4), methods.grid(denoise, 8)[::2], rtol=1e-4)


def test_methods_are_sampled_as_they_are_trained():
    """Maps to the first time only are renoised, and no others: they know nothing else."""
    for name, method in methods.METHODS.items():
        assert (method.renoise == 1.0) == ("sCM" in name or "consistency" in name), name
        assert method.taught == ("distilled" in name), name


def test_parameters_by_name_have_rates_of_their_own():
    params = {"map": jnp.ones(3), "fake": jnp.ones(3)}

    def loss(params, key, batch):
        return sum((leaf**2).sum() for leaf in params.values()) + 0 * batch.sum()

    ended, steps = training.descend(
        jax.random.key(0),
        loss,
        params,
        lambda key: jax.random.normal(key, (1,)),
        budget=200.0,
        learning_rate={"map": 0.0, "fake": 0.1},
    )
    assert steps > 3
    np.testing.assert_array_equal(ended["map"], 1.0)
    assert (ended["fake"] < 0.99).all()


def test_no_digit_that_is_held_back_is_trained_on():
    of, key = tasks.task("digits", 3), jax.random.key(0)
    fresh, held = (np.round(np.asarray(draw(key, 600)), 1) for draw in (of.fresh, of.held))
    assert len(fresh) == 600
    assert len(held) == 597  # each once
    pixels = np.asarray(of.draw(key, 4_000))
    assert abs(pixels.mean()) < 0.05
    assert abs(pixels.std() - 1) < 0.02
    # One level of the 17 is 1 / (17 std), and noise within it moves a row by less than sqrt(64) of them.
    level = 1 / (17 * 0.3)
    near = np.linalg.norm(np.asarray(of.held(key, 50))[:, None] - pixels[None], axis=-1).min()
    assert near > 8 * level / 2
    assert not np.array_equal(held[:5], np.round(np.asarray(tasks.task("digits", 4).held(key, 5)), 1))


SETTING = dataclasses.replace(SETTINGS["modes"], **SMALL)


def test_a_map_beside_a_base_begins_as_it():
    """A network of zeros adds nothing; one that answers adds to the velocity of the base."""
    of, law = Study(SETTING, 0), Gaussian(jnp.array([0.5, -1.0]), jnp.array([0.3, 2.0]))
    base = gaussian_map(law, study.SCHEDULE)
    flow_map = of.make(of.params, base=base)
    x, t, s = jax.random.normal(jax.random.key(1), (5, 2)), jnp.full(5, 0.8), jnp.full(5, 0.3)
    np.testing.assert_allclose(flow_map(x, t, s), base(x, t, s), atol=1e-5)
    np.testing.assert_allclose(flow_map.denoiser(x, t).data, base.denoiser(x, t).data, atol=1e-5)
    params = jax.tree.map(lambda leaf: leaf + 0.1, of.params)
    moved, alone = of.make(params, base=base)(x, t, s), of.make(params)(x, t, s)
    np.testing.assert_allclose(moved - base(x, t, s), alone - x, atol=1e-5)
    short = of.make(params, horizon=0.4)
    np.testing.assert_array_equal(short(x, 0.4, 0.1), of.make(params)(x, 0.4, 0.1))
    with pytest.raises(ValueError, match=r"0\.4"):
        short(x, 0.5, 0.1)


@pytest.mark.slow
def test_posterior_generators_begin_as_their_teacher_with_noise_of_a_posterior():
    """Untrained, a draw is the teacher's estimate and noise of sigma / (alpha^2 + sigma^2)^(1/2)."""
    of = Study(dataclasses.replace(SETTING, learning_rate=1e-12), 0)
    taught = jax.tree.map(lambda leaf: leaf + 0.1, of.params)
    teacher = of.make(taught).denoiser
    generator, steps = generators.of_posteriors(
        jax.random.key(0), of.network, of.task, teacher, taught, of.draw,
        map_rate=1.0, learning_rate=1e-12, budget=1e3,
    )  # fmt: skip
    assert steps == 1
    x, n = jnp.array([[0.4, -1.2]]), 20_000
    draws = np.asarray(generator(jax.random.key(1), jnp.tile(x, (n, 1)), 0.6))
    spread = 0.6 / np.hypot(0.4, 0.6)
    np.testing.assert_allclose(draws.mean(0), teacher(x, 0.6).data[0], atol=5 * spread / n**0.5)
    np.testing.assert_allclose(draws.std(0), spread, rtol=5 / (2 * n) ** 0.5)


@pytest.mark.slow
def test_starts_are_compared(monkeypatch):
    monkeypatch.setattr(study, "CALLS", (2,))
    config = dataclasses.replace(starts.smoke(), methods=())  # of which each is five fits
    figures = starts.run(config)
    rows = {row["name"]: row["energy"]["mean"] for row in figures["rows"]}
    assert set(rows) > {"denoiser, by a solver", "denoiser, by a solver, from the start"}
    # Untrained, the solver's ends are noise or the start's own draws: what it is given is where it begins.
    assert rows["denoiser, by a solver"] != rows["denoiser, by a solver, from the start"]
    assert np.isfinite(list(rows.values())).all()
    assert starts.table(figures).count("\n") == len(figures["rows"])
