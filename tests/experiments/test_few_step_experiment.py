"""The experiment on few steps: its arithmetic and its judges; `smoke` runs all of it in minutes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.few_step import compare, methods, training
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
    flow_map = gaussian_map(Gaussian(jnp.zeros(2), jnp.ones(2)), compare.SCHEDULE)
    np.testing.assert_allclose(methods.grid(flow_map, 4), methods.grid(flow_map, 8)[::2], rtol=1e-4)


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
