"""A normalizing flow of vectors by coupling layers of monotone rational-quadratic splines.

A layer keeps one half of the coordinates and moves each of the others along a spline that a network reads
off the kept ones. On [-bound, bound] the spline has K bins, bin k of width w, height h, chord slope s = h / w
and slopes d0, d1 at its ends; outside it is the identity. With p = (x - x_k) / w in [0, 1],

    y - x = (y_k - x_k) + (h - w) p + h p (1 - p) (d0 - s - a p) / e,    a = d0 + d1 - 2 s          (1)
    y'    = s^2 (s + (d1 - s) p^2 + (d0 - s) (1 - p)^2) / e^2,           e = s + a p (1 - p)        (2)

(1) is solved for p by the root of a quadratic. Both are the usual formulas, arranged so that equal bins of
slope one give the identity without rounding: that is what a network whose last layer is zero answers.

Durkan et al. 2019, arXiv 1906.04032, eqs. 4 to 8.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models.flow_conditions import Conditions, check_flow_inputs, guided
from jaxdiff.typing import Array

# What keeps an inverse accurate in float32: limits of the bins, in parts of the mean one, and of the slopes.
_LEAST_BIN = 0.1
_MOST_LOG_SLOPE = 3.0


class SplineCoupling(nn.Module):
    """A bijection of vectors x (batch, d), the identity at initialization.

        z, log_det = model.apply(params, x, labels)             # log_det (batch,), of dz/dx
        x = model.apply(params, z, labels, method="inverse")

    The halves change places between layers, and are dealt anew every second layer so that each coordinate
    comes to move each other. With d = 1 nothing is kept, and the splines are the same for all x.

    With num_classes set, labels are integers in 0, ..., num_classes, the last being "no class". guidance,
    a scalar g, then replaces the parameters c of every spline by c + g (c - u), u those of no class; what
    comes out is a bijection again, with its exact log_det.

    The computation and both answers are in the precision of x, and in float32 at least. Raises ValueError if
    a shape is wrong, if labels are missing or not expected, or if known ones are out of range; TypeError if
    they are not integers.

    >>> model, x = jd.models.SplineCoupling(num_layers=1, width=8, num_blocks=1), jnp.array([[0.5, -2.0]])
    >>> params = jax.jit(model.init)(jax.random.key(0), x)
    >>> z, log_det = jax.jit(model.apply)(params, x)
    >>> z.round(4).tolist(), abs(round(float(log_det[0]), 4))  # before training
    ([[0.5, -2.0]], 0.0)
    """

    num_layers: int = 6
    width: int = 64
    num_blocks: int = 2
    num_bins: int = 8
    bound: float = 5.0
    num_classes: int | None = None

    def setup(self) -> None:
        self.conditions = Conditions(self.width, self.num_classes)
        self.layers = _Layer(self.width, self.num_blocks, self.num_bins, self.bound)

    def __call__(
        self, x: Array, labels: Array | None = None, *, guidance: Array | float | None = None
    ) -> tuple[Array, Array]:
        return self._through_layers(x, labels, guidance, inverse=False)

    def inverse(
        self, z: Array, labels: Array | None = None, *, guidance: Array | float | None = None
    ) -> Array:
        return self._through_layers(z, labels, guidance, inverse=True)[0]

    def _through_layers(
        self, x: Array, labels: Array | None, guidance: Array | float | None, *, inverse: bool
    ) -> tuple[Array, Array]:
        check_flow_inputs(("batch", "d"), self.num_classes, x, labels, guidance)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        conditions = self.conditions(labels, guidance, x.dtype)

        def through(layer: "_Layer", x: Array, order: Array) -> tuple[Array, Array]:
            return layer(x, order, conditions, guidance, inverse)

        # The layers have one shape, so that one is compiled for all.
        scan = nn.scan(
            through,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_layers,
            reverse=inverse,
        )
        x, log_slopes = scan(self.layers, x, jnp.asarray(_orders(self.num_layers, x.shape[1])))
        return x, log_slopes.sum((0, 2))


class _Layer(nn.Module):
    width: int
    num_blocks: int
    num_bins: int
    bound: float

    @nn.compact
    def __call__(
        self,
        x: Array,
        order: Array,
        conditions: tuple[Array | None, ...],
        guidance: Array | float | None,
        inverse: bool,
    ) -> tuple[Array, Array]:
        kept, moved = jnp.split(x[:, order], [len(order) // 2], axis=1)
        num_parameters = 3 * self.num_bins - 1
        network = _Conditioner(moved.shape[1] * num_parameters, self.width, self.num_blocks)
        raw = guided([network(kept, condition) for condition in conditions], guidance)
        moved, log_slopes = _spline(raw.reshape(*moved.shape, num_parameters), moved, self.bound, inverse)
        return jnp.concatenate([kept, moved], axis=1)[:, jnp.argsort(order)], log_slopes


class _Conditioner(nn.Module):
    """A residual network, zero at initialization."""

    num_outputs: int
    width: int
    num_blocks: int

    @nn.compact
    def __call__(self, x: Array, condition: Array | None) -> Array:
        if not x.shape[1]:  # of one coordinate none is kept, and initializers divide by the number of inputs
            x = jnp.zeros((x.shape[0], 1), x.dtype)
        h = nn.Dense(self.width, name="in")(x)
        if condition is not None:
            h += nn.Dense(self.width, use_bias=False, name="condition")(condition)
        for i in range(self.num_blocks):
            along = nn.silu(nn.Dense(self.width, name=f"in_{i}")(nn.silu(h)))
            h += nn.Dense(self.width, name=f"out_{i}")(along)
        zeros = nn.initializers.zeros_init()
        return nn.Dense(self.num_outputs, kernel_init=zeros, name="out")(nn.silu(h))


def _orders(num_layers: int, d: int) -> np.ndarray:
    """The order of the coordinates in each layer, kept ones first, shape (num_layers, d).

    Every second layer deals them to two hands as one deals cards, so that after log2(d) deals any two
    coordinates have been on different sides; the layer after it turns the order around.
    """
    orders = [np.arange(d)]
    for layer in range(1, num_layers):
        dealt = np.concatenate([orders[-2][::2], orders[-2][1::2]]) if layer % 2 == 0 else orders[-1][::-1]
        orders.append(dealt)
    return np.stack(orders)


class _Bin(NamedTuple):
    """Of each x, its own bin."""

    x: Array
    y: Array
    width: Array
    height: Array
    slope_0: Array
    slope_1: Array


def _spline(raw: Array, x: Array, bound: float, inverse: bool) -> tuple[Array, Array]:
    """y and log y', or x and log y' from y; raw (batch, n, 3 K - 1), x (batch, n)."""
    num_bins = (raw.shape[-1] + 1) // 3
    sizes = jax.nn.softmax(raw[..., : 2 * num_bins].reshape(*x.shape, 2, num_bins))
    sizes = 2 * bound * (_LEAST_BIN / num_bins + (1 - _LEAST_BIN) * sizes)
    starts = jnp.pad(jnp.cumsum(sizes[..., :-1], axis=-1), [(0, 0)] * 3 + [(1, 0)]) - bound
    log_slopes = _MOST_LOG_SLOPE * jnp.tanh(raw[..., 2 * num_bins :] / _MOST_LOG_SLOPE)
    slopes = jnp.exp(jnp.pad(log_slopes, [(0, 0)] * 2 + [(1, 1)]))

    clipped = jnp.clip(x, -bound, bound)
    number = jnp.sum(clipped[..., None] >= starts[..., int(inverse), 1:], axis=-1)
    own = jax.nn.one_hot(number, num_bins, dtype=x.dtype)
    columns = (starts[..., 0, :], starts[..., 1, :], sizes[..., 0, :], sizes[..., 1, :])
    each = _Bin(*(jnp.sum(own * c, axis=-1) for c in (*columns, slopes[..., :-1], slopes[..., 1:])))

    chord = each.height / each.width
    a = each.slope_0 + each.slope_1 - 2 * chord
    if inverse:
        rise = clipped - each.y
        b = each.height * each.slope_0 - rise * a
        square = b**2 + 4 * chord * rise * (each.height * (chord - each.slope_0) + rise * a)
        p = 2 * chord * rise / (b + jnp.sqrt(jnp.maximum(square, 0)))
    else:
        p = (clipped - each.x) / each.width
    q = 1 - p
    e = chord + a * p * q
    bend = each.height * p * q * (each.slope_0 - chord - a * p) / e
    shift = (each.y - each.x) + (each.height - each.width) * p + bend
    slope = chord + (each.slope_1 - chord) * p**2 + (each.slope_0 - chord) * q**2
    log_slope = 2 * jnp.log(chord) + jnp.log(slope) - 2 * jnp.log(e)

    inside = jnp.abs(x) < bound
    return x + jnp.where(inside, -shift if inverse else shift, 0), jnp.where(inside, log_slope, 0)
