"""Generative adversarial networks whose generator pays a score regularizer, for `experiments.density.gan`.

The losses are those of `regularized_generator`: the discriminator, sigmoid of the critic f, maximizes
E_data log sigmoid(f) + E_G log sigmoid(-f), the generator minimizes E_G [log sigmoid(-f) + l R], R the
`score_regularizer` in its likelihood weight. The critic's slope is penalized at data (R1; Mescheder et al.
2018, arXiv 1801.04406), and at samples where that is asked: the penalty vanishes at the optimum without R.
"""

import dataclasses
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
    """Networks and their training, in two halves of equal length: without the regularizer, then with."""

    t_min: float  # the range of the regularizer's times: from about half of the modes' width to pure noise
    t_max: float
    clip: float  # of the regularizer's gradient at one draw, over every gradient of log p there is
    draws: int  # of time and noise, for each sample
    num_samples: int
    steps: int  # of each half
    batch_size: int
    width: int
    penalty: float  # of the critic's squared slope at data
    fake_penalty: float = 0.0  # at samples
    critic_steps: int = 1  # for each of the generator
    waves: tuple[float, ...] = ()  # frequencies of the generator's input features
    critic_waves: tuple[float, ...] = ()
    depth: int = 2
    learning_rate: float = 3e-3
    ema_decay: float = 0.99
    seeds: tuple[int, ...] = (0, 1, 2)


class Variant(NamedTuple):
    """Of the second half: the regularizer's strength, and where its t_min starts."""

    strength: float | Array
    t_start: float | Array


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


def train(config: Gan, problem: Problem, variants: list[Variant]) -> Array:
    """Samples of the averaged generators, (variants, seeds, num_samples, d); seeds share their first half.

    The generator moves points y of the start law by a network, G(y) = y + s f(y / s). In the second half the
    learning rate falls to zero and t_min, geometrically in its first two thirds, from t_start.
    """
    mean = problem.start.mean
    d, scale = len(mean), jnp.sqrt(problem.start.covariance.values.mean())
    networks = _mlp(config, d), _mlp(config, 1)

    def optimizer(updates: int) -> optax.GradientTransformation:
        rate = optax.linear_schedule(config.learning_rate, 0.0, updates, transition_begin=updates)
        return optax.adam(rate, b1=0.0, b2=0.99)

    optimizers = optimizer(config.steps), optimizer(config.steps * config.critic_steps)
    num_levels = config.draws * config.batch_size

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
        penalty = 0.5 * (config.penalty * real_slope + config.fake_penalty * fake_slope)
        return jnp.mean(jax.nn.softplus(-of_real) + jax.nn.softplus(of_fake) + penalty)

    def pull_of_regularizer(key: Key, fake: Array, t_min: Array) -> Array:
        """Its gradient at samples; each takes levels of its own from strata of log-SNR."""
        order_key, key = jax.random.split(key)
        u = jax.random.permutation(order_key, (jnp.arange(num_levels) + 0.5) / num_levels)
        t, weight = times.log_snr_uniform(u, SCHEDULE, t_min=t_min, t_max=config.t_max)

        def regularizer(x: Array) -> Array:
            x = jnp.repeat(x, config.draws, axis=0)
            return jnp.sum(weight * score_regularizer(key, problem.denoise, x, t)) / config.draws

        pull = jax.grad(regularizer)(jax.lax.stop_gradient(fake))
        norm = jnp.linalg.norm(pull, axis=1, keepdims=True)
        return pull * jnp.minimum(1, config.clip / (norm + 1e-6))

    def generator_loss(
        params: Params, critic_params: Params, y: Array, pay: Callable[[Array], Array]
    ) -> Array:
        fake = generate(params, y)
        return jnp.mean(jax.nn.log_sigmoid(-critic(critic_params, fake)) + pay(fake))

    def init(key: Key) -> State:
        params = [
            network.init(key, features(mean[None], waves))
            for network, waves, key in zip(
                networks, (config.waves, config.critic_waves), jax.random.split(key), strict=True
            )
        ]
        states = [optimizer.init(own) for optimizer, own in zip(optimizers, params, strict=True)]
        return State(params[0], params[1], params[0], (states[0], states[1]))

    def step(key: Key, variant: Variant | None, number: Array, state: State) -> State:
        start_key, pull_key, key = jax.random.split(jax.random.fold_in(key, number), 3)

        def critic_step(i: int, carry: tuple[Params, optax.OptState]) -> tuple[Params, optax.OptState]:
            params, optimizer_state = carry
            data_key, start_key = jax.random.split(jax.random.fold_in(key, i))
            fake = generate(state.generator, problem.start.sample(start_key, config.batch_size))
            gradient = jax.grad(critic_loss)(params, problem.draw(data_key, config.batch_size), fake)
            update, optimizer_state = optimizers[1].update(gradient, optimizer_state)
            return optax.apply_updates(params, update), optimizer_state

        def pay(fake: Array) -> Array:
            """Its gradient at samples is that of the regularizer."""
            if variant is None:
                return jnp.zeros(len(fake))
            left = jnp.maximum(0.0, 1 - 1.5 * number / config.steps)
            t_min = config.t_min * (variant.t_start / config.t_min) ** left
            return variant.strength * jnp.sum(pull_of_regularizer(pull_key, fake, t_min) * fake, axis=1)

        critic_params, critic_state = jax.lax.fori_loop(
            0, config.critic_steps, critic_step, (state.critic, state.optimizers[1])
        )
        y = problem.start.sample(start_key, config.batch_size)
        gradient = jax.grad(generator_loss)(state.generator, critic_params, y, pay)
        update, generator_state = optimizers[0].update(gradient, state.optimizers[0])
        generator = optax.apply_updates(state.generator, update)
        average = optax.incremental_update(generator, state.average, 1 - config.ema_decay)
        return State(generator, critic_params, average, (generator_state, critic_state))

    def half(key: Key, state: State, variant: Variant | None) -> State:
        return jax.lax.fori_loop(0, config.steps, lambda i, state: step(key, variant, i, state), state)

    def every(seed: Array, variants: Variant) -> Array:
        keys = jax.random.split(jax.random.key(seed), 3)
        trunk = half(keys[0], init(keys[1]), None)
        y = problem.start.sample(jax.random.key(0), config.num_samples)
        return jax.vmap(lambda variant: generate(half(keys[2], trunk, variant).average, y))(variants)

    columns = Variant(*(jnp.asarray(column) for column in zip(*variants, strict=True)))
    return jax.jit(jax.vmap(every, in_axes=(0, None), out_axes=1))(jnp.asarray(config.seeds), columns)


def _mlp(config: Gan, num_outputs: int) -> nn.Sequential:
    hidden = [layer for _ in range(config.depth) for layer in (nn.Dense(config.width), nn.silu)]
    return nn.Sequential([*hidden, nn.Dense(num_outputs)])
