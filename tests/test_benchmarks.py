import jax
import jax.numpy as jnp
import pytest
from oracles import gaussian_denoiser

from benchmarks import sampler_overhead
from jaxdiff import Karras, sample
from jaxdiff.times import power_grid


@pytest.mark.parametrize("name", sampler_overhead.SAMPLERS)
def test_the_calls_that_it_divides_by_are_the_calls_made(name):
    factory, per_step, extra = sampler_overhead.SAMPLERS[name]
    schedule, calls = Karras(), []

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(None))
        return gaussian_denoiser(schedule, 0.0, 1.0)(x, t)

    grid = power_grid(5, t_max=80.0, t_min=0.1, rho=7)
    jax.block_until_ready(sample(jax.random.key(0), factory(denoise, schedule), jnp.ones((2, 2)), grid))
    jax.effects_barrier()
    assert len(calls) == 5 * per_step + extra


def test_it_runs_small(capsys):
    results = sampler_overhead.main(batch=4, dimension=2, width=8, num_steps=2, rounds=1)
    assert set(results) == set(sampler_overhead.SAMPLERS)
    assert all(r["ratio"] > 0 for r in results.values())
    assert "heun" in capsys.readouterr().out
