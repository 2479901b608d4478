"""Networks that count steps, as DDPM's do, under a schedule in continuous time.

A table beta_1, ..., beta_T noises data T times; the noised data after i times are x_t at t = i of
`from_betas`. A network for it is shown the *step*, the number of the last beta that was used, counted from
`first_step`:

    step = t - 1 + first_step,        t = 1, ..., T                                             (1)

so with the usual first_step = 0 the cleanest data that it knows are shown with 0 and pure noise with T - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.denoising import prediction as prediction_types
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.denoising.prediction import PredictionType
from jaxdiff.noising.schedules import from_betas
from jaxdiff.typing import Array, Condition, Params, Predictor, Schedule, Time


@pytree
@dataclass(frozen=True)
class AtSteps:
    """Another prediction type, its network being shown (x, step) of eq. (1)."""

    base: PredictionType
    first_step: int = 0

    def row(self, schedule: Schedule, t: Time) -> tuple[Array, Array]:
        return self.base.row(schedule, t)

    def inputs(self, schedule: Schedule, x: Array, t: Time) -> tuple[Array, Array]:
        del schedule
        return x, jnp.asarray(t, float) - 1 + self.first_step


def ddpm_denoiser(
    predict: Predictor,
    params: Params,
    betas: Array,
    *,
    shape: tuple[int, ...],
    scale: Array | float = 1.0,
    prediction: PredictionType = prediction_types.noise,
    first_step: int = 0,
    null_condition: Condition = None,
) -> Denoiser:
    """The denoiser of a network with a table of betas, shape (T,), for times 1, ..., T and all between them.

    predict: ``predict(params, x, step)``, with a condition if it is bound to one; step (batch,) of eq. (1),
        floats. Between whole times it is asked at steps between whole numbers, which waves of the step take
        well; for a table of embeddings round them inside predict, and sample at whole times only
        (`times.whole`).
    prediction: what it predicts; noise says nothing of the data after a last beta of 1, for which v is made.
    The other options, and the errors, are those of `make_denoiser`, and of `from_betas` for betas.

    >>> eps = lambda params, x, step: params * x
    >>> denoise = jd.ddpm_denoiser(eps, jnp.zeros(()), jd.linear_betas(1000), shape=(2,))
    >>> round(float(denoise(jnp.ones((1, 2)), 500.0).data[0, 0] * denoise.schedule.alpha(500.0)), 4)
    1.0
    """
    checks.integer("first_step", first_step, 0)
    return make_denoiser(
        predict,
        params,
        from_betas(betas),
        shape=shape,
        scale=scale,
        prediction=AtSteps(prediction, first_step),
        null_condition=null_condition,
    )
