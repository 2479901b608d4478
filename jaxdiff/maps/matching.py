"""Maps matched in law: inductive moment matching, without any tangent."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff.learning.targets import denoising_target
from jaxdiff.maps.flow_map import FlowMap, check_map
from jaxdiff.maps.pairs import drawn_pairs, earlier
from jaxdiff.maps.tangents import check_training
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Key


def moment_matching_loss(
    key: Key,
    flow_map: FlowMap,
    data: Array,
    *,
    ratio: Array | float = 0.7,
    group: int = 8,
    average: FlowMap | None = None,
) -> Array:
    """Inductive moment matching (Zhou et al. 2025, arXiv 2503.07565): one law from t and from r; (batch,).

    Rows in succession, `group` of them, share their times s <= r <= t, sigma / alpha of r being ratio times
    that of t, or s where that is later. With y = Phi(x_t; t -> s) and z = Phi(x_r; r -> s), nothing being
    differentiated through z, the mean of the losses over a group is the unbiased squared energy distance of
    the laws of y and z, in units of the standard deviation at s. So any map that takes one marginal to the
    other is where training ends, that of the flow among them. The paper's kernel is exp(-|y - z| / h), to
    which the distance is the limit of large h, and its pairs are all pairs, also of one row: then it is
    consistency that is asked for, and the flow's map is not where it ends.

    average: the map that makes z, by default itself. Raises as `tangent_target`, and ValueError for a ratio
    outside of [0, 1], and a group of fewer than two rows or that does not divide the batch.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t[:, None]), jd.Karras(), shape=(1,))
    >>> flow_map = jd.maps.one_step_map(zero)
    >>> loss = jd.maps.moment_matching_loss(jax.random.key(0), flow_map, jnp.zeros((2, 1)), group=2)
    >>> bool(jnp.allclose(loss, 0.0, atol=1e-5))  # of data that are all zero
    True
    """
    check_training(key, flow_map, data)
    checks.within("ratio", ratio, 0.0, 1.0)
    checks.integer("group", group, 2)
    if len(data) % group:
        raise ValueError(f"group must divide the {len(data)} rows of data, got {group}.")
    if average is not None:
        check_map("average", average)
    return _loss(key, flow_map, jnp.asarray(data), ratio, flow_map if average is None else average, group)


@compiled(static="group")
def _loss(
    key: Key, flow_map: FlowMap, data: Array, ratio: Array | float, average: FlowMap, group: int
) -> Array:
    schedule, scale = flow_map.schedule, flow_map.denoiser.scale
    time_key, key = jax.random.split(key)
    t, s = drawn_pairs(time_key, flow_map, len(data) // group, equal=0.0)
    r = jnp.maximum(s, earlier(flow_map.denoiser, t, ratio))
    t, r, s = (jnp.repeat(time, group) for time in (t, r, s))
    x, drawn = denoising_target(key, schedule, data, t)
    between = jax.vmap(lambda data, noise, r: perturb(schedule, data, noise, r))(*drawn, r)
    std = jax.vmap(lambda s: jnp.hypot(schedule.alpha(s) * scale, schedule.sigma(s)))(s)

    def groups(x: Array) -> Array:
        return (single(x).reshape(len(data), -1) / std[:, None]).reshape(-1, group, data[0].size)

    y = groups(flow_map(x, t, s))
    z = jax.lax.stop_gradient(groups(average(between, r, s)))
    return jax.vmap(_shares)(y, z).reshape(-1)


def _shares(y: Array, z: Array) -> Array:
    """Each row's part in the energy distance of two samples (n, d) whose rows are in pairs: (n,)."""
    n = len(y)

    def distances(a: Array, b: Array) -> Array:
        """Mean distance of each row to the others."""
        square = ((a[:, None] - b[None]) ** 2).sum(2)
        own = jnp.eye(n, dtype=bool)
        return jnp.where(own, 0.0, jnp.sqrt(jnp.where(own, 1.0, square + 1e-12))).sum(1) / (n - 1)

    return 2 * distances(y, z) - distances(y, y) - distances(z, z)
