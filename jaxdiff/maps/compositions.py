"""Targets by another way to the same end: consistency at discrete steps, shortcuts, progressive distillation.

A map from t to s is taught where a map from a time r between them ends,

    target: Phi(x_r; r -> s),        x_r on the flow through x_t                                       (1)

as averages (`on_the_way`), since the two make one way. With x_r of the same data and noise as x_t the error
of standing beside the flow is of second order in t - r, and the target's mean is exact in the limit r -> t.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.learning.targets import denoising_target
from jaxdiff.maps.exact import one_step_map
from jaxdiff.maps.flow_map import FlowMap, by_increments, check_map, on_the_way
from jaxdiff.maps.tangents import check_training
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Denoised, Key, Time


def consistency_target(
    key: Key,
    flow_map: FlowMap,
    data: Array,
    t: Time,
    r: Time,
    s: Time,
    *,
    teacher: Denoiser | None = None,
) -> tuple[Array, Denoised]:
    """x_t and where flow_map takes x_r, s <= r <= t, as averages from t to s; shape (batch, ...).

    flow_map: whose end is the target, the one that is trained or an average of it; nothing is differentiated
        through it.
    teacher: a denoiser, by a step of Heun's rule of which x_r is made of x_t (consistency distillation); by
        default x_r is of the data and noise that made x_t (consistency training). Song et al. 2023, arXiv
        2303.01469, Song & Dhariwal 2023, arXiv 2310.14189.

    At r = s the target is x_s itself, which is the data where s is the time of no noise. Raises as
    `tangent_target`.

    >>> flow_map = jd.maps.gaussian_map(jd.Gaussian([0.0], 1.0), jd.Karras())
    >>> x, target = jd.maps.consistency_target(jax.random.key(0), flow_map, jnp.ones((1, 1)), 2.0, 0.0, 0.0)
    >>> target.data.tolist()  # where the way begins at its end
    [[1.0]]
    """
    check_training(key, flow_map, data, t, s)
    checks.batch("data", data, r, time="r")
    flow_map.denoiser.check_times("r", r)
    if teacher is not None:
        check_denoiser("teacher", teacher)
        check_agree("teacher", teacher, "flow_map", flow_map.denoiser)
    return _consistency_target(key, flow_map, jnp.asarray(data), t, r, s, teacher)


@compiled
def _consistency_target(
    key: Key, flow_map: FlowMap, data: Array, t: Time, r: Time, s: Time, teacher: Denoiser | None
) -> tuple[Array, Denoised]:
    schedule = flow_map.schedule
    t, r, s = (jnp.broadcast_to(single(time), data.shape[:1]) for time in (t, r, s))
    x, drawn = denoising_target(key, schedule, data, t)
    if teacher is None:
        known = drawn
        between = jax.vmap(lambda data, noise, r: perturb(schedule, data, noise, r))(*drawn, r)
    else:
        known = teacher(x, t)
        step = one_step_map(teacher)
        there = teacher(step(x, t, r), r)
        mean = jax.tree.map(lambda a, b: 0.5 * (a + b), known, there)
        between = by_increments(schedule, x, mean, t, r)
    end = flow_map(between, r, s)
    return x, jax.lax.stop_gradient(on_the_way(schedule, x, end, t, s, short=known))


def composition_target(
    key: Key, teacher: FlowMap, data: Array, t: Time, r: Time, s: Time
) -> tuple[Array, Denoised]:
    """x_t and where the teacher takes it by way of r, s <= r <= t, as averages from t to s; (batch, ...).

    teacher: the map itself, or its average: shortcut models (Frans et al. 2024, arXiv 2410.12557), with
        denoising at s = t; or the map that did twice the number of steps, `one_step_map` of a denoiser at
        first: progressive distillation (Salimans & Ho 2022, arXiv 2202.00512). Nothing is differentiated
        through it.

    Where s = t, or nearly, the target is that of denoising. Raises as `tangent_target`.

    >>> flow_map = jd.maps.gaussian_map(jd.Gaussian([0.0], 1.0), jd.Karras())
    >>> x, target = jd.maps.composition_target(jax.random.key(0), flow_map, jnp.ones((1, 1)), 2.0, 1.0, 0.0)
    >>> bool(jnp.allclose(target.data, flow_map(x, 2.0, 0.0), atol=1e-6))  # two steps of the flow are one
    True
    """
    check_map("teacher", teacher)
    check_training(key, teacher, data, t, s)
    checks.batch("data", data, r, time="r")
    teacher.denoiser.check_times("r", r)
    return _composition_target(key, teacher, jnp.asarray(data), t, r, s)


@compiled
def _composition_target(
    key: Key, teacher: FlowMap, data: Array, t: Time, r: Time, s: Time
) -> tuple[Array, Denoised]:
    t, r, s = (jnp.broadcast_to(single(time), data.shape[:1]) for time in (t, r, s))
    x, drawn = denoising_target(key, teacher.schedule, data, t)
    end = teacher(teacher(x, t, r), r, s)
    return x, jax.lax.stop_gradient(on_the_way(teacher.schedule, x, end, t, s, short=drawn))
