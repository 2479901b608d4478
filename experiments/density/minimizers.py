"""Minimizers of the diffusion loss under several weights, beside that of the likelihood.

Eq. (2), the data and the family are those of `experiments.density.autoregressive`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising import times
from jaxdiff.noising.process import inverse_log_snr
from jaxdiff.noising.schedules import Cosine, LinearVariance, VariancePreserving
from jaxdiff.typing import Array, Schedule

SCHEDULES: dict[str, Schedule] = {
    "cosine": Cosine(),
    "linear rate (DDPM)": VariancePreserving(),
    "linear variance": LinearVariance(),
}
"""Under which the times of the minimizers are uniform."""


def minimizers() -> list[dict[str, Any]]:
    """(m, s2) of the likelihood, and of (2) for each weight, with the divergence that they leave in nats."""
    thetas, divergences, integral = (np.asarray(value, np.float64) for value in jax.jit(_minimize)())
    rows = []
    for name, (m, s2), value in zip(("likelihood", "formula", *SCHEDULES), thetas, divergences, strict=True):
        row = {"criterion": name, "m": float(m), "s2": float(s2), "divergence": float(value)}
        # Only with formula weights is the value of (2) in nats.
        rows.append(row | {"integral": float(integral) if name == "formula" else None})
    return rows


def _minimize() -> tuple[Array, Array, Array]:
    """Minimizers (5, 2), KL(data || .) at each (5,), and the value of (2) with formula weights at its own."""
    law = GaussianMixture(jnp.full(4, 0.25), jnp.array([[-1.6], [-0.8], [0.8], [1.6]]), jnp.full(4, 0.05))
    schedule, high, low = SCHEDULES["cosine"], 22.0, -10.0  # all but 1e-8 of the integral
    u, x = (jnp.arange(128) + 0.5) / 128, jnp.linspace(-8, 8, 321)[:, None]

    def grid(schedule: Schedule) -> times.TrainingTimes:
        t_min, t_max = (inverse_log_snr(schedule, level, t_min=0.0, t_max=1.0) for level in (high, low))
        return times.log_snr_uniform(u, schedule, t_min=t_min, t_max=t_max)

    weights = jnp.stack([jnp.full_like(u, high - low)] + [grid(s).weight for s in SCHEDULES.values()])
    t, step = grid(schedule).t, x[1, 0] - x[0, 0]
    mass = step * jnp.exp(jax.vmap(lambda t: law.perturbed(schedule, t).log_prob(x))(t))
    exact = jax.vmap(lambda t: law.denoiser(schedule)(x, t).noise)(t)

    def family(theta: Array) -> GaussianMixture:
        m, s2 = theta
        return GaussianMixture(jnp.full(2, 0.5), jnp.stack([m, -m])[:, None], jnp.stack([s2, s2]))

    def divergence(theta: Array) -> Array:
        ratio = law.log_prob(x) - family(theta).log_prob(x)
        return step * jnp.sum(jnp.exp(law.log_prob(x)) * ratio)

    def risk(theta: Array, weight: Array) -> Array:
        error = jax.vmap(lambda t: family(theta).denoiser(schedule)(x, t).noise)(t) - exact
        return 0.5 * jnp.mean(weight * jnp.sum(mass * error[..., 0] ** 2, axis=1))

    def minimize(objective: Callable[[Array], Array]) -> Array:
        def newton(_: int, theta: Array) -> Array:
            return theta - jnp.linalg.solve(jax.hessian(objective)(theta), jax.grad(objective)(theta))

        return jax.lax.fori_loop(0, 8, newton, jnp.array([1.2, 0.2]))

    found = jax.vmap(lambda weight: minimize(lambda theta: risk(theta, weight)))(weights)
    thetas = jnp.concatenate([minimize(divergence)[None], found])
    return thetas, jax.vmap(divergence)(thetas), risk(found[0], weights[0])
