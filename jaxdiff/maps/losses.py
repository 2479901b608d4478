"""The regression that every target of a flow map goes through, and each method as one loss.

All return one loss for each example, shape (batch,), for `make_train_step`, where the target is of the map
that is trained, or for `bootstrap.make_joint_step`, where it may be of its average:

    def model(params): return make_flow_map(network.apply, params, schedule, shape=(2,))
    def loss(params, key, batch): return maps.mean_flow_loss(key, model(params), batch).mean()
    def loss(params, average, step, key, batch):
        return maps.shortcut_loss(key, model(params), batch, average=model(average)).mean()

| loss                        | target                                       | s              |
|-----------------------------|----------------------------------------------|----------------|
| mean_flow_loss              | `tangent_target`                             | `drawn_pairs`  |
| continuous_consistency_loss | `tangent_target`, sized                      | the first time |
| consistency_loss            | `consistency_target`, r by a ratio of noise  | the first time |
| shortcut_loss               | `composition_target`, of itself              | `drawn_pairs`  |
| progressive_loss            | `composition_target`, of the map before      | a grid's       |

Times of one's own, weights (`weight=prediction.flow.row` with ``prediction=prediction.data`` is x-prediction
with the loss of the velocity, arXiv 2601.22158) and teachers go into the lines that these are made of:

    t, s = maps.drawn_pairs(time_key, flow_map, len(data))
    x, target = maps.tangent_target(noise_key, flow_map, data, t, s)
    loss = maps.map_regression_loss(flow_map, x, target, t, s, weight=prediction.flow.row)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, check_agree
from jaxdiff.denoising.prediction import Row
from jaxdiff.learning import weights
from jaxdiff.maps.compositions import composition_target, consistency_target
from jaxdiff.maps.flow_map import FlowMap, check_map
from jaxdiff.maps.pairs import drawn_pairs, earlier, way
from jaxdiff.maps.tangents import check_training, tangent_target
from jaxdiff.typing import Array, Denoised, Key, Time


def map_regression_loss(
    flow_map: FlowMap, x: Array, target: Denoised, t: Time, s: Time, *, weight: Row | None = None
) -> Array:
    """|| a (target.data - D') + b (target.noise - N') ||^2 for each example, shape (batch,).

    As `regression_loss`, of the averages of a map from t to s, with (a, b) the row of the weight at t; weight
    and errors are those there.

    >>> flow_map = jd.maps.gaussian_map(jd.Gaussian([0.0], 1.0), jd.Karras())
    >>> target = jd.Denoised(jnp.array([[1.0]]), jnp.array([[3.0]]))
    >>> loss = jd.maps.map_regression_loss(flow_map, jnp.array([[4.0]]), target, 1.0, 1.0)
    >>> loss.round(4).tolist()  # (3 - 2)^2
    [1.0]
    """
    check_map("flow_map", flow_map)
    checks.batch("x", x, t)
    if not isinstance(target, Denoised):
        raise TypeError(f"target must be a Denoised(data, noise), got {checks.described(target)}.")
    for name, part in target._asdict().items():
        checks.shape(f"target.{name}", part, x.shape)
    row = flow_map.denoiser.prediction.row if weight is None else weight
    return _map_regression_loss(flow_map, x, target, t, s, weights.as_argument(row))


@compiled
def _map_regression_loss(
    flow_map: FlowMap, x: Array, target: Denoised, t: Time, s: Time, weight: Partial
) -> Array:
    def squared_error(error: Denoised, t: Array) -> Array:
        return jnp.sum(prediction.read(weight, flow_map.schedule, error, t) ** 2)

    averages = flow_map.averages(x, t, s)
    error = jax.tree.map(lambda a, b: single(a) - single(b), target, averages)
    return jax.vmap(squared_error)(error, jnp.broadcast_to(single(t), x.shape[:1]))


def mean_flow_loss(
    key: Key, flow_map: FlowMap, data: Array, *, teacher: Denoiser | None = None, improved: bool = False
) -> Array:
    """MeanFlow, on every schedule (Geng et al. 2025, arXiv 2505.13447); of `tangent_target` the options.

    Half of the rows are denoising; with a teacher, distillation of it. Raises as `tangent_target`.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t[:, None]), jd.Karras(), shape=(1,))
    >>> flow_map = jd.maps.one_step_map(zero)
    >>> loss = jd.maps.mean_flow_loss(jax.random.key(0), flow_map, jnp.zeros((2, 1)))
    >>> loss.round(6).tolist()  # of data that are all zero
    [0.0, 0.0]
    """
    check_training(key, flow_map, data)
    time_key, key = jax.random.split(key)
    t, s = drawn_pairs(time_key, flow_map, len(data))
    x, target = tangent_target(key, flow_map, data, t, s, teacher=teacher, improved=improved)
    return map_regression_loss(flow_map, x, target, t, s)


def continuous_consistency_loss(
    key: Key,
    flow_map: FlowMap,
    data: Array,
    *,
    teacher: Denoiser | None = None,
    warm_up: Array | float = 1.0,
    offset: Array | float = 0.1,
) -> Array:
    """sCM (Lu & Song 2024, arXiv 2410.11081): to the first time only, of residuals brought to one size.

    Distillation with a teacher, training without. warm_up: from 0 to 1 over the first part of the training,
    ``jnp.minimum(1, step / 1000)``. Raises as `tangent_target`.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t[:, None]), jd.Karras(), shape=(1,))
    >>> flow_map = jd.maps.one_step_map(zero)
    >>> loss = jd.maps.continuous_consistency_loss(jax.random.key(0), flow_map, jnp.zeros((2, 1)))
    >>> loss.round(6).tolist()  # of data that are all zero
    [0.0, 0.0]
    """
    check_training(key, flow_map, data)
    time_key, key = jax.random.split(key)
    t, s = _to_the_first_time(time_key, flow_map, len(data))
    x, target = tangent_target(key, flow_map, data, t, s, teacher=teacher, warm_up=warm_up, offset=offset)
    return map_regression_loss(flow_map, x, target, t, s)


def consistency_loss(
    key: Key,
    flow_map: FlowMap,
    data: Array,
    *,
    ratio: Array | float,
    average: FlowMap | None = None,
    teacher: Denoiser | None = None,
) -> Array:
    """Consistency at discrete steps: to the first time, as the map goes from ratio times t's sigma / alpha.

    ratio: in [0, 1): 0 is denoising, near 1 a step is short and the target exact; `halving` is a curriculum,
        that of Geng et al. 2024, arXiv 2406.14548. average: the map that answers there, by default itself.
    Raises as `consistency_target`.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t[:, None]), jd.Karras(), shape=(1,))
    >>> flow_map = jd.maps.one_step_map(zero)
    >>> loss = jd.maps.consistency_loss(jax.random.key(0), flow_map, jnp.zeros((2, 1)), ratio=0.5)
    >>> loss.round(6).tolist()  # of data that are all zero
    [0.0, 0.0]
    """
    check_training(key, flow_map, data)
    checks.within("ratio", ratio, 0.0, 1.0)
    other = _other("average", average, flow_map)
    time_key, key = jax.random.split(key)
    t, s = _to_the_first_time(time_key, flow_map, len(data))
    r = earlier(flow_map.denoiser, t, ratio)
    x, target = consistency_target(key, other, data, t, r, s, teacher=teacher)
    return map_regression_loss(flow_map, x, target, t, s)


def halving(step: Array, every: int, *, least: float = 1 / 256) -> Array:
    """A curriculum of ratios: 1 - ratio is 1 at first, and halved `every` so many steps, down to `least`.

    Raises ValueError for every below 1 and for a least outside [0, 1].

    >>> jd.maps.halving(jnp.array([0, 10, 20]), 10).tolist()
    [0.0, 0.5, 0.75]
    """
    checks.integer("every", every, 1)
    checks.within("least", least, 0.0, 1.0)
    return 1 - jnp.maximum(0.5 ** (jnp.asarray(step) // every), least)


def shortcut_loss(key: Key, flow_map: FlowMap, data: Array, *, average: FlowMap | None = None) -> Array:
    """Shortcut models (Frans et al. 2024, arXiv 2410.12557): a step is two steps of half its size.

    Half of the rows are denoising. The time between is half-way in (sigma / alpha)^(1/7). average: the map
    that makes the two, by default itself. Raises as `composition_target`.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t[:, None]), jd.Karras(), shape=(1,))
    >>> flow_map = jd.maps.one_step_map(zero)
    >>> loss = jd.maps.shortcut_loss(jax.random.key(0), flow_map, jnp.zeros((2, 1)))
    >>> loss.round(6).tolist()  # of data that are all zero
    [0.0, 0.0]
    """
    check_training(key, flow_map, data)
    other = _other("average", average, flow_map)
    time_key, key = jax.random.split(key)
    t, s = drawn_pairs(time_key, flow_map, len(data))
    r = way(flow_map.denoiser, t, s, 2)[1]
    x, target = composition_target(key, other, data, t, r, s)
    return map_regression_loss(flow_map, x, target, t, s)


def progressive_loss(key: Key, flow_map: FlowMap, teacher: FlowMap, data: Array, *, times: Array) -> Array:
    """Progressive distillation: a step of a grid is two of a teacher's. Salimans & Ho 2022, arXiv 2202.00512.

    times: the grid, decreasing, of which each row is given one step; the teacher's time between is half-way
    in (sigma / alpha)^(1/7). teacher: `one_step_map` of a denoiser, and later the map trained before, on a
    grid of twice as many steps. Raises as `composition_target`, and ValueError for times that rise.

    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t[:, None]), jd.Karras(), shape=(1,))
    >>> flow_map = jd.maps.one_step_map(zero)
    >>> data, times = jnp.zeros((2, 1)), jnp.array([4.0, 2.0, 1.0])
    >>> loss = jd.maps.progressive_loss(jax.random.key(0), flow_map, flow_map, data, times=times)
    >>> loss.round(6).tolist()  # of data that are all zero
    [0.0, 0.0]
    """
    check_training(key, flow_map, data)
    other = _other("teacher", teacher, flow_map)
    checks.times(flow_map.schedule, times, increasing=False)
    time_key, key = jax.random.split(key)
    times = jnp.asarray(times, float)
    step = jax.random.randint(time_key, data.shape[:1], 0, len(times) - 1)
    t, s = times[step], times[step + 1]
    x, target = composition_target(key, other, data, t, way(flow_map.denoiser, t, s, 2)[1], s)
    return map_regression_loss(flow_map, x, target, t, s)


def _to_the_first_time(key: Key, flow_map: FlowMap, n: int) -> tuple[Array, Array]:
    t, _ = drawn_pairs(key, flow_map, n, equal=0.0)
    return t, jnp.full_like(t, flow_map.denoiser.working_range[0])


def _other(name: str, other: FlowMap | None, flow_map: FlowMap) -> FlowMap:
    if other is None:
        return flow_map
    check_map(name, other)
    check_agree(name, other.denoiser, "flow_map", flow_map.denoiser)
    return other
