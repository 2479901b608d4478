"""Rows that are no map of the flow: what answers with a draw, of noise alone or of a noised point."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.few_step import methods, training
from experiments.few_step.tasks import Task
from experiments.networks import applied
from jaxdiff import inverse
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.noising.schedules import RectifiedFlow
from jaxdiff.typing import Array, Key, Params


def by_energy(
    key: Key, network: nn.Module, params: Params, draw: Callable[[Key], Array], **training_options: Any
) -> tuple[Callable[[Key, int], Array], int]:
    """The network as a generator of noise alone, by the energy distance of its draws: draws, and steps."""
    shape = draw(key).shape[1:]

    def generate(params: Params, key: Key, n: int) -> Array:
        noise = jax.random.normal(key, (n, *shape))
        return noise + applied(network)(params, noise, jnp.zeros(n), s=jnp.zeros(n))

    def loss(params: Params, key: Key, batch: Array) -> Array:
        return methods.energy(generate(params, key, len(batch)), batch)

    fitted, steps = training.descend(key, loss, params, draw, **training_options)
    return lambda key, n: jax.jit(generate, static_argnums=2)(fitted, key, n), steps


def of_posteriors(
    key: Key,
    network: nn.Module,
    task: Task,
    teacher: Denoiser,
    taught: Params,
    draw: Callable[[Key], Array],
    *,
    map_rate: float,
    learning_rate: float,
    budget: float,
) -> tuple[inverse.PosteriorGenerator, int]:
    """A `PosteriorGenerator` at the times of four calls, its fake beside it; vectors only.

    Both networks are the teacher's with x and what else they are shown as one vector, to which they begin
    deaf; the generator adds noise of the posterior standard deviation of N(0, I).
    """
    schedule, d = RectifiedFlow(), task.shape[0]
    t = jnp.zeros(1)
    wide = jax.eval_shape(lambda key: network.init(key, jnp.zeros((1, 2 * d)), t, s=t), key)
    begun = jax.tree.map(_padded, taught, wide)

    def answer(params: Params, x: Array, t: Array, other: Array, s: Array) -> Array:
        return applied(network)(params, jnp.concatenate([x, other], axis=1), t, s=s)[:, :d]

    def generating(params: Params, x: Array, t: Array, noise: Array) -> Array:
        spread = noise / jnp.hypot(1 - t, t)[:, None]  # the velocity is (x - data) / t
        return answer(params, x, t, noise, t) - spread

    def telling(params: Params, x: Array, t: Array, seen: tuple[Array, Array]) -> Array:
        return answer(params, x, t, *seen)

    def model(predict: Any, params: Params) -> Denoiser:
        return make_denoiser(predict, params, schedule, shape=task.shape, prediction=prediction.flow)

    def loss(params: Params, key: Key, batch: Array) -> Array:
        time_key, key = jax.random.split(key)
        generator = inverse.PosteriorGenerator(model(generating, params["map"]))
        t = jax.random.choice(time_key, methods.grid(generator.denoiser, 4)[:-1], (len(batch),))
        own, fake = inverse.posterior_distillation_losses(
            key, generator, teacher, model(telling, params["fake"]), batch, t
        )
        return (own + fake).mean()

    rates = {"map": map_rate * learning_rate, "fake": learning_rate}
    fitted, steps = training.descend(
        key, loss, {"map": begun, "fake": begun}, draw, budget=budget, learning_rate=rates
    )
    return inverse.PosteriorGenerator(model(generating, fitted["map"])), steps


def _padded(leaf: Array, wide: jax.ShapeDtypeStruct) -> Array:
    """With zeros at the ends of its axes, where the wide network has more inputs or outputs."""
    return jnp.pad(leaf, [(0, more - own) for own, more in zip(leaf.shape, wide.shape, strict=True)])
