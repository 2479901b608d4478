"""A prior learnt from observations alone: noisy, with holes, each by an operator of its own.

By turns data are drawn given each observation, under the prior so far, and the prior is fitted to the draws:
expectation maximization with one draw in the place of each expectation. With exact draws and fits by maximum
likelihood its rounds wander about the law under which the observations are likeliest, as the number of
observations says; what no observation tells of stays as the first prior has it. Rozet et al. 2024 (arXiv
2405.13712), who draw by `mmps` and fit a network.

    def posterior(prior, seen):                                 # of one observation, a pytree
        return inverse.mmps(prior, inverse.linear(lambda x: seen["kept"] * x, (64,)), seen["y"], std)

    def fit(key, data):
        return jd.fit_gaussian(data).denoiser(schedule)         # or a network, trained on data

    prior = inverse.learn_prior(key, first, seen, posterior, fit, num_rounds=20)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from jaxdiff._numerics import checks
from jaxdiff._numerics.randomness import per_row
from jaxdiff.denoising.denoiser import Denoiser, check_denoiser
from jaxdiff.sampling.driver import NUM_STEPS, sample
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Array, Key

Posterior: TypeAlias = Callable[[Denoiser, Any], Denoiser]
"""``posterior(prior, observation)``, of one observation: such as `mmps` makes."""
Fit: TypeAlias = Callable[[Key, Array], Denoiser]
"""``fit(key, data)``, of data (n, *shape)."""


def draw_each(
    key: Key,
    prior: Denoiser,
    observations: Any,
    posterior: Posterior,
    *,
    num_steps: int = NUM_STEPS,
    sampler: Sampler | None = None,
) -> Array:
    """One draw of the data given each observation, (n, *shape), by `sample`; row i by (key, i).

    observations: a pytree whose leaves have a row for each, which posterior is given one by one. Raises
    TypeError for what is no key, denoiser or function, ValueError for no observations and as `sample`.

    >>> law, seen = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jd.inverse.mask(jnp.array([True]))
    >>> posterior = lambda prior, y: jd.inverse.mmps(prior, seen, y, 0.01)
    >>> y = jnp.array([[2.0], [-2.0]])
    >>> jd.inverse.draw_each(jax.random.key(0), law, y, posterior, num_steps=8).round().tolist()
    [[2.0], [-2.0]]
    """
    checks.key(key)
    check_denoiser("prior", prior)
    if not callable(posterior) or isinstance(posterior, Denoiser):
        raise TypeError(
            f"posterior must be a function of a prior and one observation, got {checks.described(posterior)}."
        )
    checks.num_rows(observations)
    return _draw_each(key, prior, observations, sampler, posterior=posterior, num_steps=num_steps)


@functools.partial(jax.jit, static_argnames=("posterior", "num_steps"))
def _draw_each(
    key: Key,
    prior: Denoiser,
    observations: Any,
    sampler: Sampler | None,
    *,
    posterior: Posterior,
    num_steps: int,
) -> Array:
    def draw(key: Key, observation: Any) -> Array:
        return sample(key, posterior(prior, observation), 1, sampler=sampler, num_steps=num_steps)[0]

    keys = per_row(key, checks.num_rows(observations), lambda key: key)
    return jax.vmap(draw)(keys, observations)


def learn_prior(
    key: Key,
    prior: Denoiser,
    observations: Any,
    posterior: Posterior,
    fit: Fit,
    *,
    num_rounds: int,
    num_steps: int = NUM_STEPS,
    sampler: Sampler | None = None,
) -> Denoiser:
    """The prior after num_rounds of `draw_each` and fit; prior is the first guess.

    The first guess matters as in every such search: begin wide, with what the observations' moments say.
    posterior is compiled once if fit answers denoisers of one structure. Raises as `draw_each`, and TypeError
    for a fit that is no function or answers no denoiser.

    >>> first, seen = jd.Gaussian([0.0], 9.0).denoiser(jd.Karras()), jd.inverse.mask(jnp.array([True]))
    >>> posterior = lambda prior, y: jd.inverse.mmps(prior, seen, y, 0.1)
    >>> fit = lambda key, data: jd.fit_gaussian(data, covariance="isotropic").denoiser(jd.Karras())
    >>> y = jnp.linspace(2.0, 4.0, 100)[:, None]
    >>> prior = jd.inverse.learn_prior(jax.random.key(0), first, y, posterior, fit, num_rounds=2, num_steps=8)
    >>> round(float(prior.scale), 1)  # 1 / 3^(1/2)
    0.6
    """
    checks.integer("num_rounds", num_rounds, 1)
    if not callable(fit):
        raise TypeError(f"fit must be a function of a key and data, got {checks.described(fit)}.")
    checks.key(key)
    for own in jax.random.split(key, num_rounds):
        draw_key, fit_key = jax.random.split(own)
        data = draw_each(draw_key, prior, observations, posterior, num_steps=num_steps, sampler=sampler)
        prior = fit(fit_key, data)
        check_denoiser("fit(key, data)", prior)
    return prior
