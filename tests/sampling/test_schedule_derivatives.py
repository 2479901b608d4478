"""Samples move with the parameters of their schedule: derivatives through the default grid, both of its ends too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

SCHEDULES = {
    "cosine": (jd.Cosine, 0.5),  # no signal at its first time
    "vp": (functools.partial(jd.VariancePreserving, 0.1), 20.0),  # an infinite slope at its last
    "table": (lambda scale: jd.from_betas(scale * jd.linear_betas(40)), 0.9),  # as VP's
    "ve": (functools.partial(jd.VarianceExploding, 0.01), 50.0),  # whose last time is -inf
}
SAMPLERS = {
    "dpm_solver_pp": jd.dpm_solver_pp(2),
    "unipc": jd.unipc(3),
    "runge_kutta": jd.ExponentialRungeKutta(3),
    "ancestral": jd.ancestral(),
    "corrector": jd.PredictorCorrector(),
    "heun": jd.Heun(),
}
CASES = [("cosine", "dpm_solver_pp"), ("vp", "ancestral"), ("ve", "heun")]
SLOW = [("cosine", "unipc"), ("cosine", "runge_kutta"), ("vp", "corrector"), ("table", "ancestral")]


@pytest.mark.parametrize(
    ("name", "method"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_a_derivative_through_the_sampler_is_that_of_differences(name, method, float64):
    make, value = SCHEDULES[name]
    mean, variance = jnp.array([0.4, -1.0]), jnp.array([0.3, 1.5])

    def loss(value):
        denoise = jd.Gaussian(mean, variance).denoiser(make(value))
        x = jd.sample(jax.random.key(0), denoise, 3, num_steps=5, sampler=SAMPLERS[method])
        return jnp.sum(x**2)

    run, step = jax.jit(jax.value_and_grad(loss)), 1e-4 * value
    _, slope = run(value)
    expected = (run(value + step)[0] - run(value - step)[0]) / (2 * step)
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
