"""A flow map as a value: where the probability flow takes x from a time t to a time s, in one call.

The flow is dx = D d(alpha) + N d(sigma), D and N being what a denoiser answers. A map from t to s is told by
its *averaged estimates* D' and N', the means of D over alpha / sigma and of N over sigma / alpha on the way:

    alpha_t D' + sigma_t N' = x,        Phi(x; t -> s) = alpha_s D' + sigma_s N'                       (1)

since d(x / alpha) = N d(sigma / alpha) and d(x / sigma) = D d(alpha / sigma). As s -> t they are D and N, so
that a flow map holds a denoiser, and a network with one more time and a prediction type of one is a flow map:
at s = 0 a consistency model, in the row of the straight path's velocity MeanFlow (arXiv 2505.13447).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.denoising.prediction import PredictionType
from jaxdiff.typing import Array, Condition, Denoised, Params, Predictor, Schedule, Time

Averages: TypeAlias = Callable[[Denoiser, Array, Array, Array], Denoised]
"""``averages(denoiser, x, t, s)`` of eq. (1): a callable pytree, t and s of shape (batch,)."""


@pytree
@dataclass(frozen=True, eq=False)
class FlowMap:
    """``flow_map(x, t, s) -> x_s``: x of shape (batch, *shape); t and s <= t scalars or of shape (batch,).

    Made by `make_flow_map` of a network, by `gaussian_map` of a law, and by `integrated_map` and
    `one_step_map` of a denoiser. All that is known of the process and the data is at its `denoiser`, itself
    at s = t, which every sampler, density and guidance takes. At s = t it is the identity, bit for bit.

    t is in [t_min, t_max] of the denoiser, and s goes down to the schedule's first time, of no noise; below
    t_min the averaged estimates are those to t_min. Other times are refused where they are known, with a
    ValueError, and answered with NaN where they are traced. Raises TypeError and ValueError as the denoiser.

    >>> flow_map = jd.maps.gaussian_map(jd.Gaussian([0.0], 1.0), jd.Karras())
    >>> flow_map(jnp.array([[5.0]]), 0.75, 0.0).tolist()
    [[4.0]]
    >>> flow_map.denoiser(jnp.array([[2.0]]), 1.0).data.round(4).tolist()
    [[1.0]]
    """

    denoiser: Denoiser
    """Its limit s -> t, a real denoiser; and schedule, shape, scale, t_min, t_max, prediction, condition."""

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.denoiser, "estimate", None), Limit):
            raise TypeError(
                f"a FlowMap is made of the limit of one, got {checks.described(self.denoiser)}; take "
                "make_flow_map of a network, or integrated_map or one_step_map of a denoiser."
            )

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one datum."""
        return self.denoiser.shape

    def __call__(self, x: Array, t: Time, s: Time) -> Array:
        averages = self.averages(x, t, s)
        return _moved(self.schedule, x, averages, *_rows(x, t, s))

    def averages(self, x: Array, t: Time, s: Time) -> Denoised:
        """(D', N') of eq. (1), of x's shape and dtype."""
        denoise = self.denoiser
        checks.batch("x", x, t)
        checks.batch("x", x, s, time="s")
        denoise.check_shape("x", x)
        denoise.check_times("t", t)
        checks.in_range("s", self.schedule, s)
        known = checks.known(t), checks.known(s)
        if known[0] is not None and known[1] is not None and (known[1] > _slack(known[0])).any():
            raise ValueError(
                f"s must not be above t, got t = {known[0]} and s = {known[1]}: a flow map goes to less "
                "noise."
            )
        t, s = _rows(x, t, s)
        low, high = checks.rounded_out(denoise.t_min, denoise.t_max)
        t = jnp.where((t >= low) & (t <= high), t, jnp.nan)
        s = jnp.where((s >= self.schedule.t_min) & (s <= _slack(t)), jnp.clip(s, denoise.t_min, t), jnp.nan)
        answer = denoise.estimate.averages(denoise, x, t, s)  # type: ignore[attr-defined] - a Limit
        return jax.tree.map(lambda part: part.astype(x.dtype), answer)

    def given(self, condition: Condition) -> FlowMap:
        """The same, bound to a condition, as `Denoiser.given`."""
        return FlowMap(self.denoiser.given(condition))


@pytree
@dataclass(frozen=True, eq=False)
class Limit:
    """The estimate of a flow map's denoiser: its averages at s = t."""

    averages: Averages

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        t = jnp.broadcast_to(t, x.shape[:1])
        return self.averages(denoiser, x, t, t)


def make_flow_map(
    predict: Predictor,
    params: Params,
    schedule: Schedule,
    *,
    shape: tuple[int, ...],
    scale: Array | float = 1.0,
    prediction: PredictionType | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    null_condition: Condition = None,
) -> FlowMap:
    """The flow map of a network, whose output is the reading of D' and N' in the prediction type's row at t.

    predict: any function ``predict(params, x, t, s=s)``, and ``predict(params, x, t, condition, s=s)`` if the
    map is bound to one: the apply of a network of `jaxdiff.models`, with parameters made with an s. It is
    shown s as it is shown t. For a loss by a tangent let that be of finite slope:
    ``prediction.Angle(scale)``, or on the straight path `prediction.flow`; the default is `prediction.EDM`.
    All else, and the errors, are `make_denoiser`'s: what trains and samples a denoiser so made has the
    network at s = t.

    >>> flow_map = jd.make_flow_map(lambda params, x, t, s: 0 * x, None, jd.Karras(), shape=(1,))
    >>> flow_map(jnp.array([[2.0]]), 1.0, 0.0).tolist()  # what EDM's skip says alone
    [[1.0]]
    """
    denoiser = make_denoiser(
        predict,
        params,
        schedule,
        shape=shape,
        scale=scale,
        prediction=prediction,
        t_min=t_min,
        t_max=t_max,
        null_condition=null_condition,
    )
    return as_flow_map(denoiser, denoiser.estimate)  # type: ignore[arg-type] - which takes an s too


def as_flow_map(denoiser: Denoiser, averages: Averages) -> FlowMap:
    """The flow map of averages that knows what a denoiser does."""
    return FlowMap(dataclasses.replace(denoiser, estimate=Limit(averages)))


@compiled
def on_the_way(schedule: Schedule, x: Array, end: Array, t: Array, s: Array, *, short: Denoised) -> Denoised:
    """(D', N') of a way from x at t to its end at s, both (batch, ...): eq. (1), solved.

    short: what stands for them where sigma / alpha falls by less than two parts in a thousand, and at s = t.
    """

    def one(x: Array, end: Array, short: Denoised, t: Array, s: Array) -> Denoised:
        (a, b), (a_s, b_s) = ((schedule.alpha(v), schedule.sigma(v)) for v in (t, s))
        det = a_s * b - a * b_s
        near = det <= 1e-3 * (a_s * b + a * b_s)
        safe = jnp.where(near, 1.0, det)
        solved = Denoised((b * end - b_s * x) / safe, (a_s * x - a * end) / safe)
        return jax.tree.map(lambda far, short: jnp.where(near, short, far), solved, short)

    return jax.vmap(one)(x, end, short, t, s)


def by_increments(schedule: Schedule, x: Array, by: Denoised, t: Array, s: Array) -> Array:
    """x + D d(alpha) + N d(sigma), from t to s, each (batch,): Euler's rule of the flow."""

    def one(x: Array, by: Denoised, t: Array, s: Array) -> Array:
        forth = schedule.alpha(s) - schedule.alpha(t), schedule.sigma(s) - schedule.sigma(t)
        return x + forth[0] * by.data + forth[1] * by.noise

    return jax.vmap(one)(x, by, t, s).astype(x.dtype)


def check_map(name: str, value: Any) -> None:
    """Raise TypeError unless value is a FlowMap."""
    if not isinstance(value, FlowMap):
        raise TypeError(
            f"{name} must be a FlowMap, got {checks.described(value)}; make_flow_map makes one of a network "
            "with a second time, integrated_map and one_step_map of a denoiser."
        )


@compiled
def _moved(schedule: Schedule, x: Array, averages: Denoised, t: Array, s: Array) -> Array:
    def one(x: Array, data: Array, noise: Array, t: Array, s: Array) -> Array:
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        before = schedule.sigma(t)
        # From x where it is near, which keeps its digits there and is x itself at s = t.
        change = (alpha - schedule.alpha(t)) * data + (sigma - before) * noise
        return jnp.where(2 * sigma >= before, x + change, alpha * data + sigma * noise)

    return jax.vmap(one)(x, *averages, t, s).astype(x.dtype)


def _rows(x: Array, t: Time, s: Time) -> tuple[Array, Array]:
    """Both times, one for each row."""
    t, s = (jnp.broadcast_to(single(time), x.shape[:1]) for time in (t, s))
    return t, s


def _slack(t: Any) -> Any:
    """As far above t as rounding may put an s that is t."""
    return t + 1e-5 * abs(t)
