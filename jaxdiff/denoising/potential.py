"""From a scalar network to a predictor that is its gradient, as the score of every law is.

With s = -noise / sigma the score of a law, sigma grad log p_t is minus its noise: the noise of a denoiser is
that of a law only if it is the gradient of a scalar. Every prediction type here is shown x times a number
that depends on t alone, and answers with a combination of noise and x; so a denoiser whose network is the
gradient of what it is shown has a gradient for its noise too, whatever the prediction type and the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.typing import Array, Params, Predictor

Potential: TypeAlias = Callable[..., Any]
"""``potential(params, x, t)``: x of shape (batch, *shape), t of shape (batch,); the answer, (batch,), of each
row comes of its own x alone. A condition comes as it does to a `Predictor`.
"""


def conservative(potential: Potential) -> Predictor:
    """predict(params, x, t) = grad_x potential(params, x, t), for `make_denoiser`.

    Flow and formula (`probability_flow`, `density_formula`) then differ by no rotation: `rotation_curve` is
    zero. The noise levels can still contradict one another: on digits the flow is 1.2 nats below the formula
    where that of the plain network is 1.7 above, and the formula is 1.1 nats higher
    (`experiments.density.conservativity`). Each evaluation costs a pass backwards as well.

        network = ResidualMLP(width=64)
        predict = conservative(lambda params, x, t: jnp.sum(x * network.apply(params, x, t), axis=1))
        denoise = make_denoiser(predict, params, schedule, shape=shape)

    For quantized data see `quantized.potential`. Salimans & Ho 2021, "Should EBMs model the energy or the
    score?". Raises TypeError for what is no function; the denoiser raises ValueError when the potential
    answers in another shape than (batch,).

    >>> predict = jd.conservative(lambda params, x, t: 0.5 * params * jnp.sum(x**2, axis=1))
    >>> predict(3.0, jnp.array([[1.0, 2.0]]), jnp.zeros(1)).tolist()
    [[3.0, 6.0]]
    """
    if hasattr(potential, "apply") or not callable(potential):
        raise TypeError(
            f"potential must be a function of (params, x, t), got {type(potential).__name__}; give a Flax "
            "network's apply."
        )
    return _Gradient(potential)


@pytree
@dataclass(frozen=True, eq=False)
class _Gradient:
    """A `Predictor`."""

    potential: Potential

    def __call__(self, params: Params, x: Array, t: Array, *condition: Any, **conditions: Any) -> Array:
        def total(x: Array) -> Array:
            values = jnp.asarray(self.potential(params, x, t, *condition, **conditions))
            checks.shape("the potential's answer", values, x.shape[:1])
            return values.sum()

        return jax.grad(total)(x)
