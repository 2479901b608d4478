"""Posterior draws by decoupled annealing: no step of a chain is guided, and any observation will do.

At each of falling noises rho, with x_t = alpha z,

    data ~ p(data | z = data + rho noise),    by the prior's reverse process from there,
    data given the observation too,           by a correction, see `jaxdiff.inverse.corrections`,
    z = data + (the next rho) noise           anew,

so that where a correction is exact every z has the law of noised data given the observation. Nothing is kept
from one level to the next but the data: errors of a level are forgotten as noise allows. Zhang et al. 2024
(DAPS), arXiv 2407.01521, whose first line is an approximation by one point of the flow.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.inverse.corrections import Correction
from jaxdiff.inverse.split_gibbs import check_noises, prior_given, time_of
from jaxdiff.sampling.exponential_adams import sde_dpm_solver_pp
from jaxdiff.sampling.sampler import Sampler, check_sampler
from jaxdiff.typing import Array, Key


def daps(
    key: Key,
    denoise: Denoiser,
    correction: Correction,
    n: int,
    *,
    noises: ArrayLike,
    num_steps: int = 8,
    sampler: Sampler | None = None,
) -> Array:
    """n draws of the data given what the correction knows, shape (n, *shape).

    noises: falling, in the data's unit, such as ``jnp.geomspace(20 * scale, 0.05 * scale, 12)``: the first so
        large that nothing of the data is left, for chains begin at N(0, rho^2 I); the last so small that a
        correction errs little. num_steps: of the reverse process at a level, at least 3. sampler: one that
        draws noise, by default `sde_dpm_solver_pp()`.

    Denoiser calls: levels times num_steps, and the correction's. Rows see each other only through a
    correction that makes them. Raises TypeError for what is no key, denoiser or correction, and ValueError
    for noises that do not fall or are beyond the denoiser's working range.

    >>> law, seen = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jd.inverse.mask(jnp.array([True]))
    >>> correct = jd.inverse.linear_gaussian(seen, jnp.array([2.0]), 1.0)
    >>> noises = jnp.array([20.0, 1.0, 0.1])
    >>> data = jd.inverse.daps(jax.random.key(0), law, correct, 4000, noises=noises)
    >>> round(float(data.mean()), 1), round(float(data.var()), 1)  # N(1, 1 / 2)
    (1.0, 0.5)
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    if not callable(correction) or isinstance(correction, Denoiser | type):
        raise TypeError(
            "correction must be one such as inverse.linear_gaussian(operator, y, std), got "
            f"{checks.described(correction)}."
        )
    checks.integer("n", n, 1)
    checks.integer("num_steps", num_steps, 3)
    noises = jnp.asarray(noises, float)
    checks.shape("noises", noises, (None,))
    checks.positive("noises", noises)
    if checks.known(noises) is not None and not (noises[:-1] > noises[1:]).all():
        raise ValueError(f"noises must fall, got {noises}.")
    check_noises(denoise, noises)
    sampler = check_sampler(sde_dpm_solver_pp() if sampler is None else sampler)
    return _daps(key, denoise, correction, noises, sampler, n, num_steps)


@functools.partial(jax.jit, static_argnames=("n", "num_steps"))
def _daps(
    key: Key,
    denoise: Denoiser,
    correction: Correction,
    noises: Array,
    sampler: Sampler,
    n: int,
    num_steps: int,
) -> Array:
    def level(data: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        number, rho = step
        noise_key, own_key, key_of_correction = jax.random.split(jax.random.fold_in(key, number), 3)
        z = data + rho * noise_like(noise_key, data)
        t = time_of(denoise, rho)
        data = prior_given(own_key, denoise, z, rho, num_steps, sampler)
        new = correction(key_of_correction, denoise, denoise.schedule.alpha(t) * z, t, data)
        return new.astype(data.dtype), None

    start = jnp.zeros((n, *denoise.shape))
    return jax.lax.scan(level, start, (jnp.arange(len(noises)), noises))[0]
