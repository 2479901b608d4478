"""The loss that adds bootstrapping to a training program."""

from __future__ import annotations

import jax

from jaxdiff._numerics import checks
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.learning.bootstrap.target import half_noise_target
from jaxdiff.learning.losses import drawn_times, regression_loss
from jaxdiff.typing import Array, Key


def half_noise_loss(
    key: Key,
    denoise: Denoiser,
    teacher: Denoiser,
    data: Array,
    *,
    mix: Array | float,
    gate: Array | float | Denoiser | None = None,
    field: Denoiser | None = None,
    pool: Array | None = None,
) -> Array:
    """`jaxdiff.learning.denoising_loss` of data with `half_noise_target` as the target; shape (batch,).

    The times, stratified and of EDM's law, and the weight are those of `denoising_loss`, whose gradient this
    one has in the mean where the teacher is exact, with less variance. Of a `make_joint_step` the teacher is
    the model of the average, and mix 0, denoising, until that has learnt something:

        def loss(params, average, step, key, batch):
            mix = 0.9 * (step >= 500)
            return bootstrap.half_noise_loss(key, model(params), model(average), batch, mix=mix).mean()

    Raises as `denoising_loss` and `half_noise_target`, and ValueError for a teacher of another schedule or
    shape.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> data = jnp.array([[-1.0], [1.0]])
    >>> loss = jd.bootstrap.half_noise_loss(jax.random.key(0), law, law, data, mix=1.0, gate=law)
    >>> bool(loss.max() < 1e-6)  # an exact teacher, and the gate that is best for Gaussian data
    True
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    check_denoiser("teacher", teacher)
    check_agree("teacher", teacher, "denoise", denoise)
    checks.batch("data", data)
    checks.finite("data", data)
    denoise.check_shape("data", data)
    denoise.check_scale("data", data)
    time_key, target_key = jax.random.split(key)
    t = drawn_times(time_key, denoise, len(data))
    x, target = half_noise_target(target_key, teacher, data, t, mix=mix, gate=gate, field=field, pool=pool)
    return regression_loss(denoise, x, target, t)
