"""Targets by the tangent of a map along the flow: MeanFlow and continuous consistency, on every schedule.

Along the flow, dx = v dt with v = alpha' D + sigma' N, an exact map goes on ending where it ends:

    R = d/dt Phi(x_t; t -> s) = 0                                                                      (1)

By eq. (1) of `jaxdiff.maps.flow_map`, which holds for any network, and its derivative along the flow,

    R = W q + C,     C = (alpha_s - alpha_t) dD'/dt + (sigma_s - sigma_t) dN'/dt                       (2)
    W = alpha sigma' - sigma alpha',     D - D' = -sigma_t q,     N - N' = alpha_t q

so that averages go with the estimates at t by one number a coordinate, and R = 0 reads

    D' = D - (sigma_t / W) C,        N' = N + (alpha_t / W) C                                          (3)

which has no division by t - s, and is that D' = D and N' = N at s = t. On the straight path W = 1, and (3)
read in the row of the velocity is MeanFlow's identity, u = v - (t - s) du/dt. At s = 0 it is consistency in
continuous time. The right of (3), with the tangents of the map that is trained, is the target; since it is
linear in (D, N), the data and the noise that made x_t may stand for them.

sCM (arXiv 2410.11081) keeps the same residual and changes its size: the part C is let in by a warm-up r, and
the residual, in units of the network's output, is divided by its root mean square and a little more,

    target - output = e / (rms(e) + offset),        e = (alpha b - sigma a) (q + r C / W)              (4)

with (a, b) the row of the prediction type. Its r multiplies the same part but for a factor of q, which is
cos t there and 1 here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.denoising.prediction import determinant
from jaxdiff.learning.targets import denoising_target
from jaxdiff.maps.flow_map import FlowMap, check_map
from jaxdiff.noising.process import with_derivative
from jaxdiff.typing import Array, Denoised, Key, Time


def tangent_target(
    key: Key,
    flow_map: FlowMap,
    data: Array,
    t: Time,
    s: Time,
    *,
    teacher: Denoiser | None = None,
    improved: bool = False,
    warm_up: Array | float = 1.0,
    offset: Array | float | None = None,
) -> tuple[Array, Denoised]:
    """x_t and the target of eq. (3) for the averages from t to s, of data's shape (batch, ...).

    Nothing is differentiated through it, and alpha' and sigma' must be finite at t: at the end of
    `LinearVariance`, where alpha = 0 with an infinite slope, it is NaN; give such a map a t_max before. Its
    conditional mean given x_t is the average itself where the map is exact, or the target where the teacher
    is. The cost is one product in forward mode; a network that has no rule for it, such as one with attention
    by cuDNN, is a TypeError.

    teacher: the denoiser whose estimates stand for the data and the noise; the target then has no variance.
    improved: the tangent is taken along the map's own velocity at t, or the teacher's, and not along that of
        the data and the noise drawn: the noise in the target is then that of denoising alone, at the price of
        one call more. Geng et al. 2025, arXiv 2512.02012.
    warm_up: r of eq. (4) in [0, 1]; 0 is denoising. Without an offset it scales C in (3).
    offset: that of eq. (4), 0.1 in sCM; none for (3) as it is. The mean of a ratio is not the ratio of means,
        so that without a teacher the exact map is no longer quite where training ends.

    Raises TypeError for what is no key, map or teacher and for integer data, ValueError for NaN, for times
    out of range or in the wrong order and for a teacher of another schedule or shape.

    >>> flow_map = jd.maps.gaussian_map(jd.Gaussian([0.0], 1.0), jd.Karras())
    >>> x, target = jd.maps.tangent_target(
    ...     jax.random.key(0), flow_map, jnp.ones((1, 1)), 2.0, 0.5, teacher=flow_map.denoiser
    ... )
    >>> bool(jnp.allclose(target.data, flow_map.averages(x, 2.0, 0.5).data, atol=1e-6))  # the exact map's own
    True
    """
    check_training(key, flow_map, data, t, s)
    if teacher is not None:
        check_denoiser("teacher", teacher)
        check_agree("teacher", teacher, "flow_map", flow_map.denoiser)
    checks.within("warm_up", warm_up, 0.0, 1.0)
    checks.shape("warm_up", warm_up, ())
    if offset is not None:
        checks.positive_number("offset", offset)
    return _tangent_target(
        key, flow_map, jnp.asarray(data), t, s, teacher, warm_up, offset, improved=improved
    )


@compiled(static="improved")
def _tangent_target(
    key: Key,
    flow_map: FlowMap,
    data: Array,
    t: Time,
    s: Time,
    teacher: Denoiser | None,
    warm_up: Array | float,
    offset: Array | float | None,
    *,
    improved: bool,
) -> tuple[Array, Denoised]:
    schedule, prediction = flow_map.schedule, flow_map.denoiser.prediction
    t, s = (jnp.broadcast_to(single(time), data.shape[:1]) for time in (t, s))
    x, drawn = denoising_target(key, schedule, data, t)
    known = drawn if teacher is None else teacher(x, t)
    along = known if teacher is not None or not improved else flow_map.denoiser(x, t)

    def velocity(along: Denoised, t: Array) -> Array:
        _, (alpha_dot, sigma_dot) = with_derivative(schedule, t)
        return alpha_dot * along.data + sigma_dot * along.noise

    v = jax.vmap(velocity)(along, t).astype(x.dtype)
    averages, slopes = forward(lambda x, t: flow_map.averages(x, t, s), (x, t), (v, jnp.ones_like(t)))

    def target(known: Denoised, own: Denoised, slope: Denoised, t: Array, s: Array) -> Denoised:
        (alpha, sigma), (alpha_dot, sigma_dot) = with_derivative(schedule, t)
        wronskian = alpha * sigma_dot - sigma * alpha_dot
        change = (schedule.alpha(s) - alpha) * slope.data + (schedule.sigma(s) - sigma) * slope.noise
        change = warm_up * change / wronskian
        if offset is None:
            return Denoised(known.data - sigma * change, known.noise + alpha * change)
        q = (alpha_dot * (known.data - own.data) + sigma_dot * (known.noise - own.noise)) / wronskian
        size = jnp.abs(determinant(prediction.row, schedule, t))
        q = q + change
        q = q / (size * jnp.sqrt(jnp.mean(q**2)) + offset)
        return Denoised(own.data - sigma * q, own.noise + alpha * q)

    answer = jax.vmap(target)(known, averages, slopes, t, s)
    return x, jax.lax.stop_gradient(jax.tree.map(lambda part: part.astype(x.dtype), answer))


def forward(function: Callable[..., Any], primals: Any, tangents: Any) -> tuple[Any, Any]:
    """`jax.jvp`, with an error that says what to do where a network has no rule for it."""
    # Traced first: jax itself would say so only as the whole program is compiled, far from here.
    traced, shapes = jax.make_jaxpr(lambda p, v: jax.jvp(function, p, v), return_shape=True)(
        primals, tangents
    )
    if "custom_lin" in _primitives(traced.jaxpr):
        raise TypeError(
            "this target needs the network's derivative in forward mode, for which a part of it has no rule: "
            "attention by cuDNN has none, nor by flash, nor any function of jax.custom_vjp. Use "
            "attention='xla', or a loss without a tangent: consistency_loss, shortcut_loss or "
            "moment_matching_loss."
        )
    answer = eval_jaxpr(traced.jaxpr, traced.consts, *jax.tree.leaves((primals, tangents)))
    return jax.tree.unflatten(jax.tree.structure(shapes), answer)


def _primitives(jaxpr: Any) -> set[str]:
    """Names of all operations, also inside of loops and calls."""
    names = {equation.primitive.name for equation in jaxpr.eqns}
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                names |= _primitives(inner)
    return names


def check_training(
    key: Key, flow_map: FlowMap, data: Array, t: Time | None = None, s: Time | None = None
) -> None:
    """Raise TypeError or ValueError unless a map can be trained on data, at t and s if they are given."""
    checks.key(key)
    check_map("flow_map", flow_map)
    for name, time in (("t", t), ("s", s)):
        checks.batch("data", data, 0.0 if time is None else time, time=name)
    checks.finite("data", data)
    denoise = flow_map.denoiser
    denoise.check_shape("data", data)
    denoise.check_scale("data", data)
    if t is not None:
        denoise.check_times("t", t)
    if s is not None:
        checks.in_range("s", flow_map.schedule, s)
