"""Posterior draws by alternating between observation and prior, which a noise of rho holds together.

With y = A data + std noise, pairs (x, z) of density p(x) N(z; x, rho^2) N(y; A z, std^2) are drawn by turns:

    z | x, y     = x' + rho^2 A' (std^2 + rho^2 A A')^-1 (y' - A x'),                               (1)
    x' = x + rho e_1,   y' = y + std e_2,         Gaussian, exactly, by conjugate gradients
    x | z        is p(data | data + rho noise = z), by the reverse process from where sigma / alpha = rho, or
                 by one call of a generator of just this law

and x has the law p(x) N(y; A x, std^2 + rho^2 A A'), which is the posterior's as rho falls. Vono, Dobigeon &
Chainais 2019; with diffusion priors Wu et al. 2024 (PnP-DM), arXiv 2405.18782, whose rho is annealed as here.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.inverse.operators import Operator
from jaxdiff.inverse.posterior_generator import PosteriorGenerator, check_generator
from jaxdiff.inverse.posteriors import check_observation, solve
from jaxdiff.noising import times
from jaxdiff.noising.process import inverse_log_snr, marginals
from jaxdiff.sampling.driver import integrate_given
from jaxdiff.sampling.exponential_adams import sde_dpm_solver_pp
from jaxdiff.sampling.sampler import Sampler, check_sampler
from jaxdiff.typing import Array, Key, Time


def split_gibbs(
    key: Key,
    denoise: Denoiser,
    operator: Operator,
    y: Array,
    std: Array | float,
    n: int,
    *,
    noises: ArrayLike,
    num_steps: int = 8,
    sampler: Sampler | None = None,
    num_iterations: int = 8,
    generator: PosteriorGenerator | None = None,
) -> Array:
    """n draws of the data given y = operator(data) + std noise, shape (n, *shape); draw i by (key, i) only.

    noises: rho of each sweep in the data's unit, such as ``jnp.geomspace(5 * scale, std, 20)``: the first so
        large that the chain forgets where it began, the last ones say what law is drawn: the bias falls as
        rho^2, and so does the speed at which the chain forgets.
    num_steps: of the prior's reverse process in a sweep, at least 3, by a sampler that draws noise (one that
        follows the flow would answer one point for each z), by default `sde_dpm_solver_pp()`.
    num_iterations: of conjugate gradients; as many as there are numbers in y are exact.
    generator: in the place of the reverse process, of which a sweep is then one call.

    Denoiser calls: the number of noises times num_steps. Chains begin at draws of N(0, scale^2 I). Raises as
    `mmps`, and ValueError for noises that are not positive or beyond the denoiser's working range.
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    check_observation(denoise, operator, y, std)
    checks.integer("n", n, 1)
    checks.integer("num_steps", num_steps, 3)
    checks.integer("num_iterations", num_iterations, 1)
    noises = jnp.asarray(noises, float)
    checks.shape("noises", noises, (None,))
    checks.positive("noises", noises)
    check_noises(denoise, noises)
    if generator is not None:
        check_generator("generator", generator)
        check_agree("generator", generator.denoiser, "denoise", denoise)
        check_noises(generator.denoiser, noises)
    sampler = check_sampler(sde_dpm_solver_pp() if sampler is None else sampler)
    return _split_gibbs(
        key, denoise, operator, y, std, noises, sampler, generator, n, num_steps, num_iterations
    )


@functools.partial(jax.jit, static_argnames=("n", "num_steps", "num_iterations"))
def _split_gibbs(
    key: Key,
    denoise: Denoiser,
    operator: Operator,
    y: Array,
    std: Array | float,
    noises: Array,
    sampler: Sampler,
    generator: PosteriorGenerator | None,
    n: int,
    num_steps: int,
    num_iterations: int,
) -> Array:
    def sweep(x: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        number, rho = step
        data_key, noise_key, own_key = jax.random.split(jax.random.fold_in(key, number), 3)
        near = x + rho * noise_like(data_key, x)
        seen = jnp.broadcast_to(jnp.asarray(y, x.dtype)[None], (n, *operator.observed))
        seen += std * noise_like(noise_key, seen)

        def product(v: Array) -> Array:
            return std**2 * v + rho**2 * operator.apply(operator.adjoint(v))

        weighed = solve(product, seen - operator.apply(near), num_iterations, std**2)
        z = near + rho**2 * operator.adjoint(weighed)
        if generator is not None:
            t = time_of(denoise, rho)
            return generator(own_key, denoise.schedule.alpha(t) * z, t), None
        return prior_given(own_key, denoise, z, rho, num_steps, sampler), None

    start = denoise.scale * noise_like(jax.random.fold_in(key, len(noises)), jnp.zeros((n, *denoise.shape)))
    return jax.lax.scan(sweep, start, (jnp.arange(len(noises)), noises))[0]


def prior_given(key: Key, denoise: Denoiser, z: Array, rho: Array, num_steps: int, sampler: Sampler) -> Array:
    """Draws of p(data | data + rho noise = z) by the reverse process from where sigma / alpha = rho."""
    schedule, t = denoise.schedule, time_of(denoise, rho)
    # Even in log-SNR, to a hundredth of rho and then to none.
    grid = times.log_snr_grid(schedule, num_steps - 1, t_max=t, t_min=time_of(denoise, 0.01 * rho, t))
    grid = times.to_clean(schedule, grid)
    return integrate_given(key, denoise, sampler, schedule.alpha(t) * z, grid)


def time_of(denoise: Denoiser, ratio: Array, t_max: Time | None = None) -> Array:
    """Where sigma / alpha is a ratio, of times up to t_max, by default the working range's last."""
    t_max = denoise.working_range[1] if t_max is None else t_max
    return inverse_log_snr(denoise.schedule, -2 * jnp.log(ratio), t_min=denoise.t_min, t_max=t_max)


def check_noises(denoise: Denoiser, noises: Array) -> None:
    """Raise ValueError where known noises are sigma / alpha of no time of the working range."""
    known = checks.known(noises)
    if known is None:
        return

    def ratio(t: float) -> float:
        alpha, sigma = (float(v) for v in marginals(denoise.schedule, t))
        return sigma / alpha if alpha > 0 else float("inf")

    low, high = ratio(denoise.t_min), ratio(float(denoise.working_range[1]))
    checks.between("noises", noises, low, high, "sigma / alpha over the denoiser's working range")
