"""Ways to draw data given y = A data + std noise, each given the same compute for a draw.

Compute is in evaluations of the denoiser for one draw, a product with its transposed Jacobian counting two
beside the evaluation: a step of DiffPIR takes 1, of DPS or PiGDM 3, of TMPD 5, of MMPS 3 + 2 for each
conjugate gradient, of guided particles 4, a sweep of split Gibbs its 8 steps, and a level of DAPS its 4 steps
and one for the correction, which for the exact one is 11. Guided denoisers are sampled by the ancestral
chain, whose noise mends what a guess of a score gets wrong (`jaxdiff.inverse.posteriors`). Beside them stand
the simplest things: draws of the prior, and the same drawn again by their likelihoods, without guidance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff import inverse, particles, pytree
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.guidance.tilted import rewarded
from jaxdiff.inverse import Operator
from jaxdiff.sampling.ddim import ancestral
from jaxdiff.sampling.driver import sample
from jaxdiff.typing import Array, Key


class Problem(NamedTuple):
    """A prior and an observation."""

    denoise: Denoiser
    operator: Operator
    y: Array
    std: Array


Draw = Callable[[Key, Problem, int, int, Array], Array]
"""``draw(key, problem, n, compute, setting)``: n draws, (n, *shape)."""


@pytree
@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """log p(y | data) up to a constant, a reward."""

    problem: Problem

    def __call__(self, data: Array) -> Array:
        problem = self.problem
        residual = (problem.operator.apply(data) - problem.y[None]).reshape(len(data), -1)
        return -jnp.sum(residual**2, axis=1) / (2 * problem.std**2)


def _guided(make: Callable[..., Denoiser], cost: int) -> Draw:
    def draw(key: Key, problem: Problem, n: int, compute: int, setting: Array) -> Array:
        steps = max(compute // cost, 3)
        return sample(key, make(problem, setting), n, sampler=ancestral(), num_steps=steps)

    return draw


def _pigdm(problem: Problem, setting: Array) -> Denoiser:
    data_std = setting * problem.denoise.scale
    return inverse.pigdm(problem.denoise, problem.operator, problem.y, problem.std, data_std=data_std)


def _prior(key: Key, problem: Problem, n: int, compute: int, setting: Array) -> Array:
    return sample(key, problem.denoise, n, num_steps=compute)


def _reweighted(key: Key, problem: Problem, n: int, compute: int, setting: Array) -> Array:
    draw_key, key = jax.random.split(key)
    data = _prior(draw_key, problem, n, compute, setting)
    return data[jax.random.categorical(key, LogLikelihood(problem)(data), shape=(n,))]


def _split_gibbs(key: Key, problem: Problem, n: int, compute: int, setting: Array) -> Array:
    sweeps = max(compute // 8, 2)
    # Half of the sweeps fall from where the prior's scale is forgotten, the others stay.
    last = setting * problem.std
    share = jnp.minimum(jnp.arange(sweeps) / max(sweeps // 2, 1), 1.0)
    noises = jnp.exp((1 - share) * jnp.log(5 * problem.denoise.scale) + share * jnp.log(last))
    return inverse.split_gibbs(
        key, problem.denoise, problem.operator, problem.y, problem.std, n, noises=noises, num_steps=8
    )


def _annealed(correction: Callable[[Problem], inverse.Correction], cost: int) -> Draw:
    def draw(key: Key, problem: Problem, n: int, compute: int, setting: Array) -> Array:
        least, most = setting * problem.std, 20 * problem.denoise.scale
        levels = jnp.linspace(0, 1, max(compute // cost, 2))
        noises = jnp.exp((1 - levels) * jnp.log(most) + levels * jnp.log(least))
        return inverse.daps(key, problem.denoise, correction(problem), n, noises=noises, num_steps=4)

    return draw


@pytree
@dataclass(frozen=True, eq=False)
class _Widened:
    """log p(y | x_t) by the mean of the data, noise widened by what isotropic data leave open."""

    problem: Problem

    def __call__(self, x: Array, t: Array, data: Array) -> Array:
        denoise, std = self.problem.denoise, self.problem.std
        alpha, sigma = denoise.schedule.alpha(t), denoise.schedule.sigma(t)
        variance = sigma**2 / (sigma**2 / denoise.scale**2 + alpha**2)
        return LogLikelihood(self.problem)(data) / (1 + variance / std**2)


def _twisted(key: Key, problem: Problem, n: int, compute: int, setting: Array) -> Array:
    run_key, key = jax.random.split(key)
    process = particles.Twisted(problem.denoise, LogLikelihood(problem), _Widened(problem))
    got = particles.run(run_key, process, n, groups=1, num_steps=max(compute // 4, 3))
    return got.x[0][jax.random.categorical(key, got.log_weights[0], shape=(n,))]


@pytree
@dataclass(frozen=True, eq=False)
class _Off:
    """How far data are from the observation, with the other sign."""

    problem: Problem

    def __call__(self, data: Array) -> Array:
        residual = (self.problem.operator.apply(data) - self.problem.y[None]).reshape(len(data), -1)
        return -jnp.sqrt(jnp.sum(residual**2, axis=1) + 1e-12)


METHODS: dict[str, tuple[Draw, tuple[float, ...]]] = {
    "prior": (_prior, (0.0,)),
    "prior, drawn again by likelihood": (_reweighted, (0.0,)),
    "DPS": (
        _guided(lambda p, step: inverse.dps(p.denoise, p.operator, p.y, step=step), 3),
        (0.3, 1.0, 3.0, 10.0),
    ),
    "DPS, any function": (
        _guided(lambda p, step: rewarded(p.denoise, _Off(p), step), 3),
        (0.3, 1.0, 3.0, 10.0),
    ),
    "PiGDM": (_guided(_pigdm, 3), (1.0, 4.0, 16.0)),
    "TMPD": (_guided(lambda p, _: inverse.tmpd(p.denoise, p.operator, p.y, p.std), 5), (0.0,)),
    "MMPS, 1": (
        _guided(lambda p, _: inverse.mmps(p.denoise, p.operator, p.y, p.std, num_iterations=1), 5),
        (0.0,),
    ),
    "MMPS, 4": (
        _guided(lambda p, _: inverse.mmps(p.denoise, p.operator, p.y, p.std, num_iterations=4), 11),
        (0.0,),
    ),
    "DiffPIR": (_guided(lambda p, _: inverse.diffpir(p.denoise, p.operator, p.y, p.std), 1), (0.0,)),
    "DAPS": (
        _annealed(lambda p: inverse.linear_gaussian(p.operator, p.y, p.std, num_iterations=4), 15),
        (0.5, 2.0),
    ),
    "DAPS, Langevin": (_annealed(lambda p: inverse.langevin(LogLikelihood(p)), 5), (0.5, 2.0)),
    "DAPS, ensemble": (
        _annealed(lambda p: inverse.ensemble_kalman(p.operator.apply, p.y, p.std), 5),
        (0.5, 2.0),
    ),
    "split Gibbs": (_split_gibbs, (0.5, 1.0, 2.0)),
    "twisted particles": (_twisted, (0.0,)),
}
"""And settings to choose from: the step of DPS, data_std of PiGDM over the data's own scale, the last rho of
split Gibbs and of DAPS over std."""
LINEAR = tuple(name for name in METHODS if name != "DPS, any function")
"""Those for linear observations."""
NONLINEAR = (
    *("prior", "prior, drawn again by likelihood", "DPS, any function"),
    *("DAPS, Langevin", "DAPS, ensemble", "twisted particles"),
)
"""Those for any."""
