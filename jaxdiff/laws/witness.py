"""Guidance towards a set of examples: a reward that is larger where they are and the model's samples are not.

The function that tells two laws apart best, among those of the kernel's norm 1, is up to a factor

    w(y) = mean_j k(y, reference_j) - mean_j k(y, generated_j),        k = exp(-|y - y'|^2 / 2 h^2),   (1)

with mean w(reference) - mean w(generated) = MMD^2 (Gretton et al. 2012, section 2.3), and a step of samples
along its gradient lowers it. Guidance by MMD (arXiv 2601.08379) takes the gradient at each step within the
batch that is drawn; here the model is drawn from once, before, so that no sample sees its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.guidance.tilted import Reward
from jaxdiff.laws.metrics import median_distance
from jaxdiff.typing import Array


def witness(reference: Array, generated: Array, *, bandwidth: Array | float | None = None) -> Reward:
    """Eq. (1), a reward of data (batch, *shape), to be given to `rewarded` or `jaxdiff.particles.Rewarded`.

    reference: examples of the wanted law, some tens of them, (n, *shape); generated: samples of the model
    without guidance, (m, *shape). bandwidth: h, by default the median distance between points of the two
    together, as of `metrics.mmd`. Its values are between -1 and 1: a scale of `rewarded` is in nats.

    Raises ValueError for sets of different shapes or that are not finite, and for a bandwidth that is not
    positive.

    >>> here, there = jnp.array([[1.0], [1.0]]), jnp.array([[-1.0], [-1.0]])
    >>> reward = jd.witness(here, there, bandwidth=0.5)
    >>> [round(float(v), 4) for v in reward(jnp.array([[1.0], [0.0], [-1.0]]))]  # 1 - e^-8
    [0.9997, 0.0, -0.9997]
    """
    for name, points in (("reference", reference), ("generated", generated)):
        checks.batch(name, points)
        checks.finite(name, points)
    checks.shape("generated", generated, (None, *jnp.shape(reference)[1:]))
    reference, generated = single(jnp.asarray(reference)), single(jnp.asarray(generated))
    if bandwidth is None:
        bandwidth = median_distance(*(points.reshape(len(points), -1) for points in (reference, generated)))
        checks.positive("The default bandwidth, the median distance between points,", bandwidth)
    checks.positive_number("bandwidth", bandwidth)
    checks.shape("bandwidth", bandwidth, ())
    return _Witness(reference, generated, jnp.asarray(bandwidth, float))


@pytree
@dataclass(frozen=True, eq=False)
class _Witness:
    reference: Array
    generated: Array
    bandwidth: Array

    def __call__(self, data: Array) -> Array:
        checks.shape("data", data, (None, *self.reference.shape[1:]))
        return jax.vmap(lambda y: self._near(y, self.reference) - self._near(y, self.generated))(single(data))

    def _near(self, y: Array, points: Array) -> Array:
        squared = jnp.sum((points - y[None]) ** 2, axis=tuple(range(1, points.ndim)))
        return jnp.mean(jnp.exp(-squared / (2 * self.bandwidth**2)))
