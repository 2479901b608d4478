import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import few_of

import jaxdiff as jd
from jaxdiff.sampling import learned
from jaxdiff.sampling.learned import Pilot, fit, split
from jaxdiff.typing import Denoised

SCHEDULES = {
    "rectified_flow": jd.RectifiedFlow(),  # begins at alpha = 0
    "ve": jd.VarianceExploding(),  # is clean at -infinity
    "vp": jd.VariancePreserving(),
    "karras": jd.Karras(),
    "zero_terminal_table": jd.from_betas(jnp.append(jnp.linspace(1e-4, 0.02, 999), 1.0)),
}
LAW = jd.GaussianMixture(
    *map(np.asarray, ([0.3, 0.5, 0.2], [[-1.0, 0.2], [1.0, 0.5], [0.1, -1.2]], [0.05, 0.1, 0.02]))
)
KEY = jax.random.key(0)


def root_mean_square(x):
    return float(np.sqrt(np.mean(np.square(x))))


def grid_of(denoise, calls):
    low, high = denoise.working_range
    grid = jd.times.noise_grid(denoise.schedule, calls - 1, t_min=low, t_max=high)
    return jd.times.to_clean(denoise.schedule, grid)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("rectified_flow", jd.unipc(3)),
        ("ve", jd.dpm_solver_pp(3)),
        *(pytest.param(name, jd.unipc(2, "data"), marks=pytest.mark.slow) for name in SCHEDULES),
        *(pytest.param("vp", solver, marks=pytest.mark.slow) for solver in (jd.DDIM(), jd.deis(3))),
    ],
)
def test_the_arrays_of_a_solver_are_the_solver(name, solver, float64):
    # A table in single precision would be read with its rounding, differently by each program.
    schedule = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), SCHEDULES[name])
    denoise = LAW.denoiser(schedule)
    times = grid_of(denoise, 7)
    x = jd.initial_noise(KEY, denoise, 40)
    wanted = jd.integrate(KEY, denoise, x, times, sampler=solver)
    sampler = jd.linear_multistep(solver, denoise.schedule, times)
    got = jd.integrate(KEY, denoise, x, times, sampler=sampler)
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sampler.weights.sum(1), 1.0, atol=1e-8)
    by_name = jd.sample(KEY, denoise, 4, sampler=solver, times=times)
    np.testing.assert_allclose(jd.sample(KEY, denoise, 4, sampler=sampler), by_name, rtol=1e-8, atol=1e-8)


def test_a_call_may_be_made_at_another_time():
    """Eq. (1) by hand, where the second call is asked at another noise than that of its point."""
    seen = []

    def answer(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return Denoised(x - t * jnp.sin(x), jnp.sin(x))

    denoise = jd.as_denoiser(answer, jd.Karras(), shape=(1,))
    weights = jnp.asarray([[1.0, 9.0], [-0.5, 1.5]])  # above the diagonal nothing is read
    times, calls = jnp.asarray([3.0, 1.0, 0.0]), jnp.asarray([3.0, 0.7])
    sampler = jd.LinearMultistep(times, calls, weights)
    got = jd.integrate(KEY, denoise, jnp.full((1, 1), 2.0), times, sampler=sampler)
    jax.effects_barrier()
    middle = 2 - 2 * np.sin(2)
    np.testing.assert_allclose(got, middle + 0.5 * np.sin(2) - 1.5 * np.sin(middle), rtol=1e-5)
    np.testing.assert_allclose(sorted(seen), [0.7, 3.0], rtol=1e-6)


def test_new_coefficients_compile_nothing_and_another_grid_has_no_answer():
    traces = []

    def answer(x, t):
        traces.append(None)
        return Denoised(x / (1 + t**2), x * t / (1 + t**2))

    denoise = jd.as_denoiser(answer, jd.Karras(), shape=(2,))
    x = 80 * jnp.ones((3, 2))

    def run(last, times):
        weights = jnp.eye(2).at[1].set(jnp.asarray([1 - last, last]))
        own = jnp.asarray([80.0, 2.0, 0.0])
        sampler = jd.LinearMultistep(own, own[:2], weights)
        return jd.integrate(KEY, denoise, x, jnp.asarray(times), sampler=sampler)

    first, second = run(1.0, [80.0, 2.0, 0.0]), run(1.5, [80.0, 2.0, 0.0])
    assert len(traces) == 1
    assert np.isfinite(first).all()
    assert (first != second).all()
    for other in ([80.0, 1.9, 0.0], [80.0, 2.0, 0.1], [80.0, 2.0, 1.0, 0.0]):
        with pytest.raises(
            ValueError, match=r"has a grid of its own, \[80.0, 2.0, 0.0\], got the times \[80"
        ):
            run(1.0, other)
        assert np.isnan(jax.jit(run)(1.0, jnp.asarray(other))).all()


def test_a_new_strength_of_the_noise_compiles_nothing_and_may_be_mapped():
    traces = []

    def answer(x, t):
        traces.append(None)
        return Denoised(x / (1 + t**2), x * t / (1 + t**2))

    denoise = jd.as_denoiser(answer, jd.Karras(), shape=(2,))
    times, x = jnp.asarray([80.0, 2.0, 0.5, 0.1]), 80 * jnp.ones((3, 2))

    def run(tau):
        return jd.integrate(KEY, denoise, x, times, sampler=jd.ExponentialAdams(2, stochasticity=tau))

    found = [run(jnp.asarray(tau)) for tau in (0.3, 0.9)]  # a plain number is a constant of its program
    assert len(traces) == 1
    assert (found[0] != found[1]).all()
    np.testing.assert_allclose(jax.vmap(run)(jnp.asarray([0.3, 0.9])), jnp.stack(found), rtol=1e-5)


def test_rows_of_a_linear_sampler_do_not_know_of_each_other():
    denoise = LAW.denoiser(jd.Karras())
    sampler = jd.fitted_multistep(denoise, 5)
    x = jd.initial_noise(KEY, denoise, 64)
    run = functools.partial(jd.integrate, KEY, denoise, times=sampler.times, sampler=sampler)
    np.testing.assert_array_equal(run(x)[:16], run(x[:16]))


@pytest.mark.slow
def test_the_fitted_solver_is_chosen_where_it_is_the_best():
    """In the plane at 8 calls it is, by far; not where it has no coefficients, nor from a law with data in it."""
    denoise = LAW.denoiser(jd.Karras())
    choice = jd.tune_sampler(KEY, denoise, 8, num_samples=256)
    own = jd.fitted_multistep(denoise, 8)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), choice.sampler, own)
    assert float(choice.fitted_errors[0]) < 0.75 * choice.errors.min()
    x = jd.initial_noise(jax.random.key(9), denoise, 256)
    exact = jd.integrate(KEY, denoise, x, grid_of(denoise, 300), sampler=jd.ExponentialRungeKutta(4))
    got = jd.integrate(KEY, denoise, x, choice.times, sampler=choice.sampler)
    assert 0.3 < root_mean_square(got - exact) / float(choice.error) < 3
    (best,) = [line for line in str(choice).splitlines() if line.endswith("<- the least")]
    assert best.startswith("fitted, near modes")
    assert f"{choice.fitted_errors[0]:.3g}" in best
    start = LAW.perturbed(jd.Karras(), 1.0)
    for other in (
        jd.tune_sampler(KEY, denoise, 7, num_samples=64),
        jd.tune_sampler(KEY, denoise, 8, num_samples=64, t_max=1.0, start=start),
    ):
        assert np.isinf(other.fitted_errors).all()
        assert np.isfinite(other.error)
        assert "fitted" not in str(other)


@functools.cache
def tuned(name="rectified_flow"):
    denoise = LAW.denoiser(SCHEDULES[name])
    run = functools.partial(jd.tune_sampler, KEY, denoise, 6, num_samples=512, num_steps=400)
    return denoise, run(), run(learned=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", few_of(["rectified_flow", "ve", "zero_terminal_table"], few=["rectified_flow"])
)
def test_a_learned_sampler_halves_the_error_of_the_best_classical_one_on_new_starts(name):
    """Against the exact flow by 300 steps of order 4, which is neither the pilot's long run nor its rule."""
    denoise, classical, learned = tuned(name)
    x = jd.initial_noise(jax.random.key(7), denoise, 512)
    exact = jd.integrate(KEY, denoise, x, grid_of(denoise, 300), sampler=jd.ExponentialRungeKutta(4))
    errors = [
        root_mean_square(jd.integrate(KEY, denoise, x, choice.times, sampler=choice.sampler) - exact)
        for choice in (classical, learned)
    ]
    assert errors[1] < 0.5 * errors[0], errors
    assert 0.3 < errors[0] / float(classical.error) < 3
    assert (np.diff(learned.times) < 0).all()


def test_the_choice_is_the_least_of_all_that_was_tried():
    denoise, classical, learned = tuned()
    assert np.isfinite(classical.errors).all()
    x = jd.initial_noise(jax.random.key(8), denoise, 512)
    exact = jd.integrate(KEY, denoise, x, grid_of(denoise, 300), sampler=jd.ExponentialRungeKutta(4))
    usual = jd.integrate(KEY, denoise, x, grid_of(denoise, 6), sampler=jd.unipc(3))
    chosen = jd.integrate(KEY, denoise, x, classical.times, sampler=classical.sampler)
    assert root_mean_square(chosen - exact) < root_mean_square(usual - exact)
    assert learned.learned is not None
    assert learned.learned.error_before == pytest.approx(float(classical.error), rel=1e-4)
    lines = str(learned).splitlines()
    (best,) = [line for line in lines if line.endswith("<- the least")]
    assert f"{min(classical.errors.min(), classical.fitted_errors.min()):.3g}" in best
    assert "6 calls" in lines[-1]
    assert f"learned from there {float(learned.error):.3g}" in lines[-1]


def test_what_is_returned_is_never_worse_than_what_it_began_with():
    """Steps of a size that ruins everything, and targets that teach nonsense: the solver comes back as it was."""
    denoise, classical, learned = tuned()
    x = jd.initial_noise(KEY, denoise, 512)
    target = jd.integrate(KEY, denoise, x, grid_of(denoise, 100), sampler=jd.unipc())
    fitted, _ = split(512)
    nonsense = Pilot(x, target.at[fitted].set(3.0))
    for pilot, rate in ((Pilot(x, target), 1e3), (nonsense, 0.02)):
        got = fit(KEY, denoise, classical.sampler, pilot, 256, 400, rate)
        assert got.error == got.error_before
        jax.tree.map(np.testing.assert_array_equal, got.sampler, classical.sampler)
    assert learned.error < classical.error


def test_rows_held_out_are_not_fitted():
    fitted, held_out = map(np.asarray, split(40))
    assert len(held_out) == learned.HELD_OUT * 40
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, held_out])), np.arange(40))


@pytest.mark.slow
def test_draws_of_another_law_begin_at_its_time_and_end_in_noise(float64):
    """A late start down to sigma = 1/2, where the flow of Gaussian data is known."""
    law = jd.Gaussian(jnp.full(2, 0.3), 0.5)
    denoise = law.denoiser(jd.Karras())
    start = law.perturbed(jd.Karras(), 3.0)
    choice = jd.tune_sampler(KEY, denoise, 4, t_max=3.0, t_min=0.5, start=start, num_samples=64)
    x = start.sample(jax.random.key(3), 64)
    exact = 0.3 + (x - 0.3) * np.sqrt((0.5 + 0.25) / (0.5 + 9.0))
    got = jd.integrate(KEY, denoise, x, choice.times, sampler=choice.sampler)
    assert root_mean_square(got - exact) < 3 * float(choice.error)
    np.testing.assert_allclose(choice.times[jnp.asarray([0, -1])], [3.0, 0.5])


@pytest.mark.slow
def test_conditions_bound_by_row_go_with_their_rows_and_new_parameters_compile_nothing():
    traces = []

    def predict(params, x, t, condition):  # the noise of N(condition, params)
        traces.append(None)
        sigma = t[:, None]
        return (x - condition[:, None]) * sigma / (params + sigma**2)

    labels = jnp.linspace(-30.0, 30.0, 64)

    def run(variance):
        denoise = jd.make_denoiser(
            predict, jnp.asarray(variance), jd.Karras(), shape=(1,), prediction=jd.prediction.noise
        ).given(labels)
        sampler = jd.linear_multistep(jd.unipc(2), jd.Karras(), grid_of(denoise, 5))
        return jd.learn_sampler(KEY, denoise, sampler, num_samples=64, num_steps=40)

    first = run(1.0)
    count = len(traces)
    assert float(first.error) <= float(first.error_before) < 0.3  # of another row's mean it would be above 1
    assert run(2.0).error != first.error
    assert len(traces) == count
