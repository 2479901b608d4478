"""How every network hears of the noise level and the class.

    e = W2 silu(W1 waves(t) + b1) + b2 + class_vector[label],    c = silu(e)                    (1)
    film(h, c) = (1 + scale) h + shift,    (scale, shift) = W c + b, one number per channel     (2)
    e <- e + U2 silu(U1 waves(t - s) + d1) + d2,    U2 = d2 = 0 at initialization               (3)

(3) where there is a second time, of a flow map from t to s. It is shown how far it goes: shown as EDM's
log(sigma / alpha) / 4, t - s is a quarter of the log-ratio of the two noises, which alone decides how far a
step is, on every schedule. Parameters of one time, and (3) as it begins, answer as they did without it.

(2) follows a normalization without parameters of its own: Perez et al. 2018, arXiv 1709.07871, as used for
diffusion by Dhariwal & Nichol 2021, arXiv 2105.05233. Label ``num_classes`` is the null class of
classifier-free guidance, Ho & Salimans 2022, arXiv 2207.12598.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.shards import spread
from jaxdiff.typing import Array

# Cycles per unit of t. The slowest wave, of length 16, is monotone over t in [-2.5, 2.5], so no two noise
# levels look alike; the fastest, of length 1/8, is half a nat of log(sigma / alpha) for t a quarter of it.
_TIME_FREQUENCIES = tuple(2.0 ** np.linspace(-4, 3, 16))


class Conditioning(nn.Module):
    """Eqs. (1) and (3): t (batch,), with labels and s (batch,) or None -> c (batch, width).

    In float32 or t's precision. Under a class label outside 0, ..., num_classes that `check_inputs` could not
    know, the answer is NaN.
    """

    width: int
    num_classes: int | None = None

    @nn.compact
    def __call__(self, t: Array, labels: Array | None, s: Array | None = None) -> Array:
        h = fourier_features(t[:, None], _TIME_FREQUENCIES)
        h = nn.silu(spread(nn.Dense(self.width, name="time_in")(h)))
        embedding = spread(nn.Dense(self.width, name="time_out")(h))
        if self.num_classes is not None:
            # As large as the time's own vector at initialization, so that neither drowns the other.
            shape = (self.num_classes + 1, self.width)
            table = self.param("classes", nn.initializers.normal(0.5), shape, jnp.float32)
            embedding += table.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        if s is not None:
            h = fourier_features((t - s)[:, None], _TIME_FREQUENCIES)
            h = nn.silu(spread(nn.Dense(self.width, name="step_in")(h)))
            embedding += nn.Dense(self.width, kernel_init=nn.initializers.zeros_init(), name="step_out")(h)
        return nn.silu(spread(embedding))


class Film(nn.Module):
    """Eq. (2): h (batch, ..., channels) and c (batch, width) -> h's shape."""

    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, h: Array, condition: Array) -> Array:
        scale_shift = spread(nn.Dense(2 * h.shape[-1], dtype=self.dtype, name="scale_shift")(condition))
        scale, shift = jnp.split(jnp.expand_dims(scale_shift, range(1, h.ndim - 1)), 2, axis=-1)
        return (1 + scale) * h + shift


def fourier_features(x: Array, frequencies: Sequence[float]) -> Array:
    """sin(2 pi f x) and cos(2 pi f x) of every coordinate: (..., d) -> (..., 2 d len(frequencies)).

    The angles are computed in float32 at least.
    """
    f = jnp.asarray(frequencies, jnp.promote_types(x.dtype, jnp.float32))
    angles = x[..., None] * jnp.expand_dims(2 * jnp.pi * f, range(x.ndim))
    angles = angles.reshape(*x.shape[:-1], -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def check_inputs(
    axes: tuple[str, ...],
    num_classes: int | None,
    x: Array,
    t: Array,
    labels: Array | None,
    s: Array | None = None,
) -> None:
    """Raise ValueError unless a network can answer for x, t, labels, s; TypeError for labels not integers.

    axes names the axes of x. Where the values of labels are known they must be in 0, ..., num_classes; under
    ``jit`` they are not, and a label out of range answers NaN.
    """
    if x.ndim != len(axes):
        raise ValueError(f"x must have shape ({', '.join(axes)}), got {x.shape}.")
    batch = x.shape[:1]
    for name, time in (("t", t), *(() if s is None else (("s", s),))):
        if jnp.shape(time) != batch:
            raise ValueError(
                f"{name} must hold one noise level per row of x, shape {batch}, got shape {jnp.shape(time)}."
            )
    if num_classes is None:
        if labels is not None:
            raise ValueError("labels were given to a model without classes; build it with num_classes=...")
        return
    if labels is None:
        raise ValueError(
            f"labels are missing for a model of {num_classes} classes; give integers of shape {batch}, "
            f"with {num_classes} where there is no class."
        )
    if jnp.shape(labels) != batch:
        raise ValueError(f"labels must hold one class per row of x, shape {batch}, got {jnp.shape(labels)}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}.")
    values = checks.known(labels)
    if values is not None and (wrong := (values < 0) | (values > num_classes)).any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"labels must lie in 0, ..., {num_classes}, with {num_classes} where there is no class; "
            f"got {values[row]} in row {row}."
        )
