"""What the league of solvers is judged on: exact mixtures, heavy tails, guidance, and trained networks.

A task is a denoiser, points at its largest noise, and where its own probability flow takes them, by
`ExponentialRungeKutta(4)` with so many steps that others change it by the doubt that is stated.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments import quickstart
from experiments.density import classifier, classifier_network
from experiments.few_step import methods
from experiments.few_step.study import SETTINGS, Study

SCHEDULE = jd.Karras()
DIGITS = pathlib.Path("results/quickstart-digits")
_STEPS = {  # of what is no law; else 600 and 400
    "digits, a trained network": (80, 60),
    "digits guided by 3, a trained network": (80, 60),
    "patches, a trained network": (60, 45),
}


class Task(NamedTuple):
    """What is solved, from where, and the answer."""

    denoise: jd.Denoiser
    x: jax.Array
    """Points at t_max, of the data's law noised, (rows, *shape)."""
    best: jax.Array
    """Of the flow, at t_min."""
    doubt: float
    """Root mean square change of an entry by other numbers of its steps."""
    t_max: float
    t_min: float
    law: jd.Distribution
    """What x is, before its noise."""


class Posed(NamedTuple):
    """A denoiser, the law whose noised points it is solved from, and the ends."""

    denoise: jd.Denoiser
    law: jd.Distribution
    t_max: float = 20.0
    t_min: float = 0.02


def three(draw: np.random.Generator) -> jd.GaussianMixture:
    """Three modes in the plane."""
    weights = draw.dirichlet(np.full(3, 4.0))
    return jd.GaussianMixture(weights, draw.standard_normal((3, 2)), draw.uniform(0.01, 0.1, 3))


def twenty_five(draw: np.random.Generator) -> jd.GaussianMixture:
    """Narrow modes near a square grid in the plane."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1.5, 1.5, 5)] * 2), -1).reshape(-1, 2)
    weights = draw.dirichlet(np.full(25, 4.0))
    means = grid + 0.05 * draw.standard_normal(grid.shape)
    return jd.GaussianMixture(weights, means, np.full(25, 0.05**2))


def _five(d: int, draw: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Weights, means and variances of five modes in d dimensions."""
    return draw.dirichlet(np.full(5, 4.0)), draw.standard_normal((5, d)), draw.uniform(0.01, 0.5, (5, d))


def many(d: int, draw: np.random.Generator) -> jd.GaussianMixture:
    """Five modes in d dimensions, with a variance of their own for each coordinate."""
    return jd.GaussianMixture(*_five(d, draw))


def tails(d: int, draw: np.random.Generator) -> jd.StudentTMixture:
    """Two t laws of three degrees of freedom; their denoiser is a sum over scales."""
    means = draw.standard_normal((2, d))
    return jd.StudentTMixture(draw.dirichlet(np.full(2, 4.0)), means, draw.uniform(0.02, 0.2, (2, d)), 3.0)


LAWS: dict[str, Callable[[np.random.Generator], jd.Distribution]] = {
    "3 modes, d = 2": three,
    "25 modes, d = 2": twenty_five,
    "5 modes, d = 16": functools.partial(many, 16),
    "5 modes, d = 128": functools.partial(many, 128),
    "heavy tails, d = 16": functools.partial(tails, 16),
}
"""Laws in closed form, of which each seed has its own."""


def _exact(name: str, draw: np.random.Generator, seed: int) -> Posed:
    del seed
    law = LAWS[name](draw)
    return Posed(law.denoiser(SCHEDULE), law)


def _guided(d: int, draw: np.random.Generator, seed: int) -> Posed:
    """One of four classes of five modes each, guided by 3 away from all of them."""
    del seed
    classes = [_five(d, draw) for _ in range(4)]
    weights, means, variances = (np.concatenate(parts) for parts in zip(*classes, strict=True))
    one, all_of_them = jd.GaussianMixture(*classes[0]), jd.GaussianMixture(weights / 4, means, variances)
    of_one, of_all = (law.denoiser(SCHEDULE) for law in (one, all_of_them))
    return Posed(jd.guided(of_one, 3.0, unconditional=of_all), one)


@functools.cache
def _of_digits() -> Posed:
    """The main job's network, as its last checkpoint has it, from the Gaussian of its data."""
    with jax.enable_x64(False):  # in which it was trained
        problem, denoise = quickstart.trained(quickstart.CONFIGS["digits"], str(DIGITS))
    return Posed(denoise, problem.law, problem.t_max)


def _digits(draw: np.random.Generator, seed: int) -> Posed:
    """One network, and one set of programs, for all seeds, which have other starts."""
    del draw, seed
    return _of_digits()


def _under_karras(network: jd.Denoiser, time: Callable[[jax.Array], jax.Array]) -> jd.Denoiser:
    """The same asked at a sigma, which is sigma / alpha of the network's own schedule at time(sigma)."""

    def answer(x: jax.Array, sigma: jax.Array) -> jd.Denoised:
        t = time(sigma)
        return network(network.schedule.alpha(t) * x, t)

    return jd.as_denoiser(answer, SCHEDULE, shape=network.shape, scale=network.scale)


@functools.cache
def _of_patches() -> Posed:
    """The denoiser of `experiments.few_step` and a Gaussian of its data, trained anew as there."""
    with jax.enable_x64(False):
        study = Study(SETTINGS["patches"], 0)
        params, _ = study.fit(methods.denoising)
        network, law = study.make(params).denoiser, study.task.fit(jax.random.key(0))
    return Posed(_under_karras(network, lambda sigma: sigma / (1 + sigma)), cast(jd.Distribution, law))


def _patches(draw: np.random.Generator, seed: int) -> Posed:
    """As `_digits`."""
    del draw, seed
    return _of_patches()


@functools.cache
def _of_guided_digits() -> Posed:
    """The network of digits and their class of `experiments.conditional`, guided by 3; row i is of class i.

    From the Gaussian of all digits, between the noises that it was trained for.
    """
    config, none = classifier.Config(), classifier_network.CLASSES
    with jax.enable_x64(False):
        pixels, labels, _, _ = classifier.split_digits(config)
        of_classes = classifier.class_gaussians(config, pixels, labels)
        x = jd.data.dequantize(jax.random.key(0), pixels, levels=classifier_network.LEVELS)
        law = jd.Gaussian(x.mean(0), jnp.cov(x.T) + config.covariance_floor * jnp.eye(x.shape[1]))
        laws = jd.Labelled([*(of_classes.law(jnp.asarray(c)) for c in range(none)), law])
        labels = jnp.concatenate([labels, jnp.full(len(labels), none)])
        network = classifier_network.fit(config, jnp.concatenate([pixels, pixels]), labels, laws)

    def answer(x: jax.Array, t: jax.Array) -> jd.Denoised:
        rows = jnp.arange(len(x))
        of_class, of_all = network.given(rows % none), network.given(jnp.full_like(rows, none))
        return jd.guided(of_class, 3.0, unconditional=of_all)(x, t)

    guided = jd.as_denoiser(
        answer, network.schedule, shape=network.shape, scale=network.scale, t_min=network.t_min,
        t_max=network.t_max,
    )  # fmt: skip
    std = classifier_network.STD
    posed = _under_karras(guided, lambda sigma: 2 / jnp.pi * jnp.arctan(sigma / std))
    return Posed(posed, law, 20 * std, 0.02 * std)


def _guided_digits(draw: np.random.Generator, seed: int) -> Posed:
    """As `_digits`."""
    del draw, seed
    return _of_guided_digits()


POSED: dict[str, Callable[[np.random.Generator, int], Posed]] = {
    **{name: functools.partial(_exact, name) for name in LAWS},
    "guided by 3, d = 2": functools.partial(_guided, 2),
    "guided by 3, d = 16": functools.partial(_guided, 16),
    "digits, a trained network": _digits,
    "digits guided by 3, a trained network": _guided_digits,
    "patches, a trained network": _patches,
}
"""Everything that is solved, by name."""


def run(
    denoise: jd.Denoiser,
    x: jax.Array,
    ends: tuple[float, float],
    rho: float,
    sampler: jd.Sampler,
    n: int,
) -> jax.Array:
    """x at the second of the ends, by n steps of the grid of rho from the first.

    What is linear in the answers, and without noise, is run as its arrays: one program for all of these.
    """
    times = jd.times.power_grid(n, t_max=ends[0], t_min=ends[1], rho=rho)
    if isinstance(sampler, jd.DDIM | jd.ExponentialAdams) and not _noisy(sampler):
        sampler = jd.linear_multistep(sampler, SCHEDULE, times)
    return jd.integrate(jax.random.key(0), denoise, x, times, sampler=sampler)


def _noisy(sampler: jd.DDIM | jd.ExponentialAdams) -> bool:
    return bool(sampler.eta if isinstance(sampler, jd.DDIM) else sampler.stochasticity)


def task(name: str, seed: int, rows: int) -> Task:
    """By name."""
    draw = np.random.default_rng([seed, *name.encode()])
    posed = POSED[name](draw, seed)
    x = posed.law.sample(jax.random.key(seed), rows)
    x = x + posed.t_max * draw.standard_normal(x.shape).astype(x.dtype)
    ends, rho, solver = (posed.t_max, posed.t_min), 7.0, jd.ExponentialRungeKutta(4)
    best, less = (run(posed.denoise, x, ends, rho, solver, n) for n in _STEPS.get(name, (600, 400)))
    return Task(posed.denoise, x, best, float(jnp.sqrt(jnp.mean((best - less) ** 2))), *ends, posed.law)
