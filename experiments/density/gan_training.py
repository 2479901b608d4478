"""Generative adversarial networks whose generator pays a score regularizer, for `experiments.density.gan`."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.learning.score_regularizer import score_regularizer
from jaxdiff.models.embedding import fourier_features
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras
from jaxdiff.typing import Array, Key, Params

SCHEDULE = Karras()


@dataclasses.dataclass(frozen=True)
class Gan:
    """Networks and their training, in two equal halves: without the regularizer, then with."""

    t_min: float  # the range of the regularizer's times: from about half of the modes' width to pure noise
    t_max: float
    clip: float  # of the regularizer's gradient at one draw: a few over the modes' width
    draws: int  # of time and noise, for each sample
    num_samples: int
    steps: int  # of each half
    batch_size: int
    width: int
    penalty: float  # of the critic's squared slope at data and at samples
    waves: tuple[float, ...] = ()  # frequencies of the generator's input features
    critic_waves: tuple[float, ...] = ()
    depth: int = 2
    learning_rate: float = 3e-3
    ema_decay: float = 0.99
    seeds: tuple[int, ...] = (0, 1, 2)
    strengths: tuple[float, ...] = (0.0, 0.05, 0.1)


class Problem(NamedTuple):
    """Data, and what was known of them before the GAN."""

    draw: Callable[[Key, int], Array]
    start: Gaussian
    """The generator's latent law, of the data's mean and covariance."""
    denoise: Denoiser


class State(NamedTuple):
    """Of one GAN in training."""

    generator: Params
    critic: Params
    average: Params
    optimizers: tuple[optax.OptState, optax.OptState]


def train(config: Gan, problem: Problem, name: str) -> dict[float, Array]:
    """Samples of the averaged generators, (seeds, num_samples, d), by strength.

    The generator moves points y of the start law by a network, G(y) = y + s f(y / s). The losses are
    relativistic, with the critic's slope penalized at data and samples (Huang et al. 2024, arXiv 2501.05441).
    """
    mean = problem.start.mean
    d, scale = len(mean), jnp.sqrt(problem.start.covariance.values.mean())
    networks = _mlp(config, d), _mlp(config, 1)
    rate = optax.linear_schedule(config.learning_rate, 0.0, config.steps, transition_begin=config.steps)
    optimizer = optax.adam(rate, b1=0.0, b2=0.99)
    # The times of all steps, of which each step's samples take one each in a new order.
    num_levels = config.draws * config.batch_size
    levels = times.log_snr_uniform(
        (jnp.arange(num_levels) + 0.5) / num_levels,
        SCHEDULE,
        t_min=config.t_min,
        t_max=config.t_max,
    )

    def features(x: Array, waves: tuple[float, ...]) -> Array:
        x = (x - mean[None]) / scale
        return jnp.concatenate([x, fourier_features(x, waves)], axis=-1)

    def generate(params: Params, y: Array) -> Array:
        return y + scale * jnp.asarray(networks[0].apply(params, features(y, config.waves)))

    def critic(params: Params, x: Array) -> Array:
        return jnp.asarray(networks[1].apply(params, features(x, config.critic_waves)))[:, 0]

    def slope(params: Params, x: Array) -> tuple[Array, Array]:
        value, pull = jax.vjp(lambda x: critic(params, x), x)
        return value, scale**2 * jnp.sum(pull(jnp.ones_like(value))[0] ** 2, axis=1)

    def critic_loss(params: Params, real: Array, fake: Array) -> Array:
        (of_real, real_slope), (of_fake, fake_slope) = slope(params, real), slope(params, fake)
        penalty = 0.5 * config.penalty * (real_slope + fake_slope)
        return jnp.mean(jax.nn.softplus(of_fake - of_real) + penalty)

    def generator_loss(
        params: Params, critic_params: Params, y: Array, real: Array, key: Key, strength: Array
    ) -> Array:
        order_key, key = jax.random.split(key)
        fake = generate(params, y)
        deficit = critic(critic_params, real) - critic(critic_params, fake)
        t, weight = jax.tree.map(lambda x: jax.random.permutation(order_key, x), levels)

        def regularizer(x: Array) -> Array:
            x = jnp.repeat(x, config.draws, axis=0)
            value = weight * score_regularizer(key, problem.denoise, x, t)
            return jnp.sum(value) / config.draws

        # Between two modes the gradient of one draw is ten times its mean and more.
        pull = jax.grad(regularizer)(jax.lax.stop_gradient(fake))
        norm = jnp.linalg.norm(pull, axis=1, keepdims=True)
        pull = pull * jnp.minimum(1, config.clip / (norm + 1e-6))
        return jnp.mean(jax.nn.softplus(deficit) + strength * jnp.sum(pull * fake, axis=1))

    def init(key: Key) -> State:
        params = [
            network.init(key, features(mean[None], waves))
            for network, waves, key in zip(
                networks, (config.waves, config.critic_waves), jax.random.split(key), strict=True
            )
        ]
        return State(params[0], params[1], params[0], (optimizer.init(params[0]), optimizer.init(params[1])))

    def step(key: Key, strength: Array, number: Array, state: State) -> State:
        data_key, start_key, key = jax.random.split(jax.random.fold_in(key, number), 3)
        real = problem.draw(data_key, config.batch_size)
        y = problem.start.sample(start_key, config.batch_size)
        fake = jax.lax.stop_gradient(generate(state.generator, y))
        gradients = (
            jax.grad(generator_loss)(state.generator, state.critic, y, real, key, strength),
            jax.grad(critic_loss)(state.critic, real, fake),
        )
        moved, optimizers = [], []
        for gradient, params, optimizer_state in zip(gradients, state[:2], state.optimizers, strict=True):
            update, optimizer_state = optimizer.update(gradient, optimizer_state)
            moved.append(optax.apply_updates(params, update))
            optimizers.append(optimizer_state)
        average = optax.incremental_update(moved[0], state.average, 1 - config.ema_decay)
        return State(moved[0], moved[1], average, (optimizers[0], optimizers[1]))

    @jax.jit
    def half(keys: Array, states: State, strength: Array, first: Array) -> State:
        def one(key_and_state: tuple[Key, State]) -> State:
            key, state = key_and_state
            return jax.lax.fori_loop(
                first, first + config.steps, functools.partial(step, key, strength), state
            )

        return jax.lax.map(one, (keys, states))

    @jax.jit
    def sample(states: State) -> Array:
        y = problem.start.sample(jax.random.key(0), config.num_samples)
        return jax.lax.map(lambda params: generate(params, y), states.average)

    keys = jax.vmap(jax.random.key)(jnp.asarray(config.seeds))
    trunk = half(keys, jax.jit(jax.vmap(init))(keys), jnp.asarray(0.0), jnp.asarray(0))
    samples = {}
    for strength in config.strengths:
        print(f"{name}: strength {strength}", file=sys.stderr)
        samples[strength] = sample(half(keys, trunk, jnp.asarray(strength), jnp.asarray(config.steps)))
    return samples


def _mlp(config: Gan, num_outputs: int) -> nn.Sequential:
    hidden = [layer for _ in range(config.depth) for layer in (nn.Dense(config.width), nn.silu)]
    return nn.Sequential([*hidden, nn.Dense(num_outputs)])
