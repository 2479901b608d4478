"""Particles spread over eight simulated devices are those of one, resampled ones too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import particles
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras
from jaxdiff.running.parallel import data_mesh


@pytest.mark.slow
def test_rows_do_not_depend_on_the_devices():
    denoise = Gaussian(jnp.asarray([0.3, -0.2]), jnp.asarray([1.0, 0.5])).denoiser(Karras())
    process = particles.Twisted(denoise, lambda data: -2 * (data[:, 0] - 0.5) ** 2, guide=False)

    def run():
        return particles.run(jax.random.key(0), process, 16, groups=8, num_steps=5, threshold=1.0)

    one = run()
    with jax.set_mesh(data_mesh(jax.devices())):
        many = run()
    assert many.x.addressable_shards[0].data.shape[0] == one.x.shape[0] // 8
    np.testing.assert_allclose(many.x, one.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many.log_evidences, one.log_evidences, rtol=1e-4, atol=1e-5)
