"""Switched denoisers against runs that change the denoiser by hand, and FLOP against arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoising.network import make_denoiser
from jaxdiff.guidance.classifier_free import guided
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras
from jaxdiff.sampling.ddim import DDIM
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.switching import denoiser_flops, switched

SCHEDULE = Karras()
LAWS = [Gaussian(jnp.full(3, mean), 1.0) for mean in (0.0, 2.0, -1.0)]


def denoisers():
    return [law.denoiser(SCHEDULE) for law in LAWS]


def test_every_stretch_of_a_run_is_its_denoisers():
    """Three laws at two times, one of which is a time of the grid: at it the noisier one answers."""
    x = 20 * jax.random.normal(jax.random.key(0), (5, 3))
    run = functools.partial(integrate, jax.random.key(0), sampler=DDIM())
    first, second, third = denoisers()
    by_hand = run(third, x, jnp.asarray([20.0, 12.0, 8.0, 5.0]))
    by_hand = run(second, by_hand, jnp.asarray([5.0, 2.0, 0.9]))
    by_hand = run(first, by_hand, jnp.asarray([0.9, 0.3]))
    whole = switched([first, second, third], [1.0, 8.0])
    got = run(whole, x, jnp.asarray([20.0, 12.0, 8.0, 5.0, 2.0, 0.9, 0.3]))
    np.testing.assert_allclose(got, by_hand, rtol=1e-6)


def test_rows_of_several_times_have_each_their_own():
    whole, t = switched(denoisers(), [1.0, 8.0]), jnp.asarray([0.5, 1.0, 7.9, 8.0, 30.0])
    x = jax.random.normal(jax.random.key(1), (5, 3))
    got = jax.jit(whole)(x, t)
    for row, which in enumerate([0, 1, 1, 2, 2]):
        wanted = denoisers()[which](x, t)
        np.testing.assert_allclose(got.data[row], wanted.data[row], rtol=1e-6)


def network(width, t_min, t_max, asked):
    """There and back again by (4, width), which says when it runs; of classes 0 and 1, and 2 for none."""

    def predict(params, x, t, label):
        jax.debug.callback(lambda t: asked.append(float(t)), t.mean())
        return x @ params @ params.T + jnp.ones((3, 1))[label] * 0.0

    params = jnp.ones((4, width)) / width
    return make_denoiser(predict, params, SCHEDULE, shape=(4,), t_min=t_min, t_max=t_max, null_condition=2)


def test_only_the_network_of_the_time_runs_and_each_knows_but_its_own_times():
    asked = [], []
    whole = switched([network(8, 0.01, 2.0, asked[0]), network(64, 1.0, 40.0, asked[1])], [1.5])
    assert (whole.t_min, whole.t_max) == (0.01, 40.0)
    x, times = 20 * jnp.ones((2, 4)), jnp.asarray([20.0, 5.0, 1.5, 1.0, 0.1])
    integrate(jax.random.key(0), whole.given(jnp.asarray([0, 1])), x, times, sampler=DDIM())
    jax.effects_barrier()
    assert [len(calls) for calls in asked] == [1, 3]  # and nothing at the last time
    several = whole.given(jnp.asarray([0, 1]))(x, jnp.asarray([0.02, 30.0]))
    assert np.isfinite(several.data).all()


@pytest.mark.parametrize("guidance", [False, True])
def test_flop_is_that_of_the_network_at_each_time(guidance):
    """Two products of (n, 4) with (4, width), twice with guidance, and beside them what grows with n d alone."""
    n, small, large = 16, 100, 2000
    whole = switched([network(small, 0.01, 2.0, []), network(large, 1.0, 40.0, [])], [1.5])
    whole = guided(whole, 3.0) if guidance else whole
    got = denoiser_flops(whole.given(0), jnp.asarray([20.0, 1.5, 1.0, 0.1]), n=n)
    products = np.array([large, large, small, small]) * 2 * 2 * n * 4 * (1 + guidance)
    assert (got >= products).all()
    assert (got < products + 100 * n * 4).all()
