"""Learning a law from data that are noisy themselves, y = clean + std noise, without ever seeing a clean one.

Noised further to a level sigma / alpha > std, y makes an x_t of the very law that clean data would make, and
regression onto `noisy_data_target` has the clean data's conditional means as its minimizer. At std itself,
where that target has no variance that is finite, Stein's estimate takes its place, `sure_loss`. Below std
nothing is known: a network trained so draws clean data by as much as it generalizes from the levels above,
and the sampler's last step is best taken from sigma / alpha = std to the estimate there. Both together,
SURE-Score, Aali et al. 2023, arXiv 2305.01166:

    def loss(params, key, y):
        time_key, key = jax.random.split(key)
        t = times.log_snr_uniform(times.stratified(time_key, len(y)), schedule, t_min=above, t_max=80.0).t
        x, target = noisy_data_target(key, schedule, y, t, std)
        further = regression_loss(model(params), x, target, t)
        return (further + sure_loss(model(params), y, std) / std**2).mean()
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.randomness import noise_like
from jaxdiff._numerics.rows import to_rows
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.learning.losses import implicit_loss, sliced_loss
from jaxdiff.noising.process import inverse_log_snr, marginals
from jaxdiff.typing import Array, Denoised, Key, Schedule, Time


def noisy_data_target(
    key: Key, schedule: Schedule, data: Array, t: Time, std: Array | float
) -> tuple[Array, Denoised]:
    """x_t, and a target of mean E[clean data and noise | x_t], from data = clean + std noise, (batch, ...).

        x_t = alpha data + r e,    (data - alpha std^2 e / r, sigma e / r),    r^2 = sigma^2 - alpha^2 std^2

    with e normal, row i of it by (key, i): the noise is that of the score, -e / r, of x_t given data. Where
    r falls to 0 the target's variance grows as 1 / r^2, so leave room (a tenth of std, say). std = 0 is
    `denoising_target`. Raises as that does, and ValueError for a negative std and for a known t whose
    sigma / alpha is not above std; where t is traced, the answer is NaN there.

    >>> x, target = jd.noisy_data_target(jax.random.key(0), jd.Karras(), jnp.zeros((1, 2)), 5.0, 3.0)
    >>> bool(jnp.allclose(target.noise, 5 * x / (5**2 - 3**2)))
    True
    """
    checks.key(key)
    checks.schedule(schedule)
    checks.batch("data", data, t)
    checks.finite("data", data)
    checks.in_range("t", schedule, t)
    checks.shape("std", std, ())
    checks.within("std", std, 0.0, float("inf"))
    if checks.known(t) is not None and checks.known(std) is not None:
        alpha, sigma = marginals(schedule, t)
        if not (sigma > alpha * std).all():
            raise ValueError(
                f"t must be noisier than the data are, sigma / alpha above std = {std}, got {sigma / alpha}. "
                "Of what is below these data say nothing; at std itself use sure_loss."
            )
    return _noisy_data_target(key, schedule, jnp.asarray(data), t, std)


@compiled
def _noisy_data_target(
    key: Key, schedule: Schedule, data: Array, t: Time, std: Array | float
) -> tuple[Array, Denoised]:
    e, y = single(noise_like(key, data)), single(data)
    alpha, sigma = (to_rows(v, y) for v in marginals(schedule, t))
    rest = jnp.sqrt(sigma**2 - (alpha * std) ** 2)
    rest = jnp.where(rest > 0, rest, jnp.nan)
    answer = alpha * y + rest * e, Denoised(y - alpha * std**2 * e / rest, sigma * e / rest)
    return jax.tree.map(lambda part: part.astype(data.dtype), answer)


def sure_loss(
    denoise: Denoiser, data: Array, std: Array | float, *, key: Key | None = None, num_probes: int = 1
) -> Array:
    """|D - y|^2 + 2 std^2 div D - d std^2 of data y = clean + std noise, shape (batch,), D at that noise.

    Stein's unbiased estimate of |D - clean|^2: the same minimizer, and the same mean, with no clean datum.
    It is `implicit_loss` in the data's row where sigma / alpha = std. key: the divergence by num_probes
    random signs, as in `sliced_loss`, in the place of d tangents. Raises as those do, and ValueError for a
    std that is not positive or out of the denoiser's range.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> jd.sure_loss(law, jnp.array([[2.0]]), 1.0).tolist()  # (1 - 2)^2 + 2 / 2 - 1
    [1.0]
    """
    check_denoiser("denoise", denoise)
    checks.positive_number("std", std)
    checks.batch("data", data)
    t_min, t_max = denoise.t_min, denoise.working_range[1]
    # Known before they are divided: under jit a quotient is traced, whatever it is of.
    parts = [checks.known(part) for t in (t_min, t_max) for part in marginals(denoise.schedule, t)]
    ends = [float(part) for part in parts if part is not None]
    if len(ends) == len(parts):
        low, high = ends[1] / ends[0], ends[3] / ends[2]
        checks.between("std", std, low, high, "sigma / alpha over the denoiser's working range")
    t = inverse_log_snr(denoise.schedule, -2 * jnp.log(std), t_min=t_min, t_max=t_max)
    x = single(data) * denoise.schedule.alpha(t)
    if key is None:
        return implicit_loss(denoise, x, t, weight=prediction.data.row)
    return sliced_loss(key, denoise, x, t, num_probes=num_probes, weight=prediction.data.row)
