"""Several models as one: parts that do not see each other, and couplings in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import inverse
from jaxdiff.guidance import projections
from jaxdiff.guidance.joint import joint
from jaxdiff.guidance.projected import projected
from jaxdiff.guidance.tilted import rewarded
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras, VariancePreserving
from jaxdiff.sampling.driver import sample

RNG = np.random.default_rng(4)
MEANS = RNG.standard_normal((2, 2))
ROOTS = RNG.standard_normal((2, 2, 2))
COVARIANCES = ROOTS @ ROOTS.transpose(0, 2, 1) + 0.2 * np.eye(2)


def parts(schedule):
    return [
        Gaussian(jnp.asarray(m), jnp.asarray(c)).denoiser(schedule)
        for m, c in zip(MEANS, COVARIANCES, strict=True)
    ]


def test_each_part_is_its_own(float64):
    one, other = parts(VariancePreserving())
    x, t = jnp.asarray(RNG.standard_normal((3, 2, 2))), jnp.asarray([0.2, 0.5, 0.8])
    both = joint([one, other])
    np.testing.assert_array_equal(both(x, t).data[:, 0], one(x[:, 0], t).data)
    np.testing.assert_array_equal(both(x, t).noise[:, 1], other(x[:, 1], t).noise)
    np.testing.assert_allclose(both.scale, np.sqrt(np.trace(COVARIANCES, axis1=1, axis2=2).sum() / 4))


@pytest.mark.slow
def test_two_gaussians_are_coupled_exactly(float64):
    """p q e^(-|x - y|^2 / (2 tau^2)): in NumPy by adding precisions, here as an observation of no difference."""
    tau, schedule, t = 0.4, VariancePreserving(), 0.4
    coupled = inverse.mmps(
        joint(parts(schedule)), inverse.linear(lambda x: x[0] - x[1], (2, 2)), jnp.zeros(2), tau
    )
    precision = np.zeros((4, 4))
    for i, covariance in enumerate(COVARIANCES):
        precision[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = np.linalg.inv(covariance)
    apart = np.hstack([np.eye(2), -np.eye(2)])
    tied = precision + apart.T @ apart / tau**2
    mean, covariance = np.linalg.solve(tied, precision @ MEANS.reshape(-1)), np.linalg.inv(tied)
    wanted = Gaussian(jnp.asarray(mean), jnp.asarray(covariance)).denoiser(schedule)
    x = jnp.asarray(RNG.standard_normal((3, 2, 2)))
    np.testing.assert_allclose(
        coupled(x, t).data.reshape(3, 4), wanted(x.reshape(3, 4), t).data, rtol=1e-7, atol=1e-9
    )


@pytest.mark.slow
def test_coupled_and_constrained():
    """A cost of the distance draws two models together, and projected samples are in their set, all of them."""
    both = joint(parts(Karras()))

    def cost(data):
        return ((data[:, 0] - data[:, 1]) ** 2).sum(1)

    coupled = projected(rewarded(both, lambda data: -2 * cost(data)), projections.box(-0.5, 0.8))
    free, tied = (sample(jax.random.key(0), d, 500, num_steps=16) for d in (both, coupled))
    assert ((tied >= -0.5) & (tied <= np.float32(0.8))).all()
    assert float(cost(tied).mean()) < 0.2 * float(cost(free).mean())
