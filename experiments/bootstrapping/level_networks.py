"""E4: the sequential form with networks, one for each level, each warm-started from the level before.

500 points of four Gaussians on the sphere of radius 2 in ten dimensions (`laws.sphere_law`), twelve levels t
in [0.05, 3] of the Ornstein-Uhlenbeck process, in geometric progression. At a level an MLP of two layers of
96 SiLU units is trained for 600 steps of Adam (1,800 at the first) on

    (1 - a) x_0 + a D(x_s, s),       s the level before, D its averaged network, frozen,               (1)

read in EDM's row. Everything else is the same for every method and, seed by seed, of the same random numbers:
points, batches, noise, initialization, warm start, optimizer, average. a = 0 is denoising score matching, and
the stable target field is the training points' own denoiser as the target, in which no noise is left.

The error at a level is E|score_hat - score|^2 / d on fresh points. Its ratio to denoising's is taken seed by
seed and averaged geometrically over seeds.

Beside them stands denoising with 4/3 of the steps, which is what a bootstrapped step costs, and with twice
the batch, which costs more. Noise is new at every step, so denoising has many noisings of each point.

MEASURED, 4 seeds (`--parts E4`, one busy core of an AMD EPYC, jax 0.10.2, 2026-11-28, 15 min), geometric
means of the ratios, and in brackets those of the 8 seeds that chose the mix (2026-11-22):

    |                             | t > 0.2             | worst there | t > 2               |
    |-----------------------------|---------------------|-------------|---------------------|
    | mix 0.9                     | .804 +- .043 (.814) | .89         | .736 +- .096 (.718) |
    | denoising, 4/3 of the steps | .915 +- .036        | 1.02        | .905 +- .089        |
    | denoising, twice the batch  | .860 +- .024        | .91         | .909 +- .059        |
    | stable field                | .574 +- .065 (.590) | .74         | .697 +- .133 (.674) |
    | stable field, mix 0.9       | 1.03 +- .06         | 1.09        | 1.05 +- .20         |

Bootstrapping is ahead of denoising at its compute, and of twice the batch. The stable field, which sees all
the points for each target, beats it; a teacher added to the field takes its gain away, since then the noise
of x_0 given x_s is left, however late t is.
"""

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bootstrapping import ratios
from experiments.bootstrapping.laws import sphere_law
from experiments.bootstrapping.random_features import ranges
from jaxdiff import data
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.empirical import Empirical
from jaxdiff.learning import training
from jaxdiff.learning.bootstrap import bootstrapped_target, fit_levels
from jaxdiff.learning.losses import regression_loss
from jaxdiff.noising.schedules import OrnsteinUhlenbeck
from jaxdiff.theory import score_error
from jaxdiff.typing import Array, Key, Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = OrnsteinUhlenbeck()


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    mixes: tuple[float, ...] = (0.9,)  # the better of 0.9 and 1 on other seeds
    field_mixes: tuple[float, ...] = (0.0, 0.9)  # with the training points' denoiser in the target
    more_steps: float = 4 / 3  # a bootstrapped step takes 1.20 to 1.31 times a denoising one
    seeds: int = 4
    d: int = 10
    num_points: int = 500
    num_levels: int = 12
    width: int = 96
    steps: int = 600
    first_steps: float = 3.0  # times as many at the first level, which starts from nothing
    batch_size: int = 256
    learning_rate: float = 2e-3
    ema_decay: float = 0.98
    test_points: int = 4096


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        field_mixes=(0.0,),
        seeds=2,
        num_points=50,
        num_levels=4,
        width=16,
        steps=20,
        batch_size=32,
        test_points=256,
    )


def errors(config: Config, keys: Array, mixes: Array, steps: Array, *, field: bool = False) -> Array:
    """E|score_hat - score|^2 / d for every mix, shape (seeds, mixes, levels); one compiled call.

    steps: at a level, for every mix. field: whether the training points' denoiser takes the noise at t out of
    the target, which for the mix 0 is the stable target field.
    """
    network = nn.Sequential(
        [nn.Dense(config.width), nn.silu, nn.Dense(config.width), nn.silu, nn.Dense(config.d)]
    )
    law, levels = sphere_law(jax.random.key(99), config.d), _levels(config)
    scale = (0.05 + 4 / config.d) ** 0.5  # of the law's parent: means uniform on the sphere

    def predict(params: Params, x: Array, t: Array) -> Array:
        return network.apply(params, x)  # type: ignore[return-value] - flax says a tuple may come back

    def denoiser(params: Params) -> Denoiser:
        return make_denoiser(predict, params, SCHEDULE, shape=law.shape, scale=scale)

    def one(key: Key, method: tuple[Array, Array]) -> Array:
        mix, steps = method
        points_key, init_key, fit_key, fresh_key = jax.random.split(key, 4)
        points = law.sample(points_key, config.num_points)
        known = Empirical(points).denoiser(SCHEDULE) if field else None

        def fit(key: Key, params: Params, s: Array, t: Array, mix: Array) -> Params:
            teacher = denoiser(params)
            stretch = jnp.where(s < t, 1.0, config.first_steps)
            num_steps = jnp.round(stretch * steps).astype(int)

            def rate(count: Array) -> Array:
                share = jnp.minimum(count / (stretch * steps), 1.0)
                return 0.5 * config.learning_rate * (1 + jnp.cos(jnp.pi * share))

            optimizer = optax.adam(rate)  # type: ignore[arg-type] - a traced one
            batch_key, step_key = jax.random.split(key)

            def loss(params: Params, key: Key, batch: Array) -> Array:
                x, target = bootstrapped_target(key, teacher, batch, s, t, mix=mix, field=known)
                return regression_loss(denoiser(params), x, target, t).mean()

            step = training.make_train_step(loss, optimizer, ema_decay=config.ema_decay)

            def body(number: Array, state: training.TrainState) -> training.TrainState:
                batch = data.batch(jax.random.fold_in(batch_key, number), points, config.batch_size)
                return step(step_key, state, batch)[0]

            state = training.init_state(params, optimizer, ema_decay=config.ema_decay)
            return training.averaged(jax.lax.fori_loop(0, num_steps, body, state))

        params = network.init(init_key, points[:1])
        networks = fit_levels(fit_key, fit, params, levels, mix=mix)

        def error(level: tuple[Params, Array]) -> Array:
            params, t = level
            squared = score_error(fresh_key, denoiser(params), law, t[None], num_samples=config.test_points)
            return squared.value[0] / config.d

        return jax.lax.map(error, (networks, levels))

    # One after another: side by side they took half as long again on a CPU, their products being small.
    methods = mixes, steps
    return jax.jit(lambda: jax.lax.map(lambda key: jax.lax.map(functools.partial(one, key), methods), keys))()


def run(config: Config) -> dict[str, Any]:
    """Train by every method."""
    began = time.monotonic()
    keys = ratios.keys("E4", config.seeds)
    methods = [ratios.DENOISING, *(f"mix {mix:g}" for mix in config.mixes)]
    methods += [f"{ratios.STABLE}, mix {mix:g}" if mix else ratios.STABLE for mix in config.field_mixes]
    methods += [ratios.MORE_STEPS, ratios.TWICE_THE_BATCH]
    larger = dataclasses.replace(config, batch_size=2 * config.batch_size)
    mixes, fields = jnp.array([0.0, *config.mixes, 0.0]), jnp.array(config.field_mixes)
    steps = jnp.full(len(mixes), config.steps).at[-1].set(round(config.more_steps * config.steps))
    own = errors(config, keys, mixes, steps)
    field = errors(config, keys, fields, jnp.full(len(fields), config.steps), field=True)
    found = [own[:, :-1], field, own[:, -1:], errors(larger, keys, mixes[:1], steps[:1])]
    error = np.asarray(jnp.concatenate(found, axis=1), np.float64)
    levels = np.asarray(_levels(config), np.float64)
    return {
        "config": dataclasses.asdict(config),
        "levels": levels.tolist(),
        "rows": ratios.compare(methods, error, ranges(levels)),
        "seconds": time.monotonic() - began,
    }


def _levels(config: Config) -> Array:
    return jnp.geomspace(0.05, 3.0, config.num_levels)


def table(figures: dict[str, Any]) -> str:
    """Errors of denoising and every method's ratio to it, level by level."""
    return ratios.table(f"networks, d = {figures['config']['d']}", figures["levels"], figures["rows"])


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Error ratios against t, with bands of two standard errors."""
    ratios.draw(axes, figures["levels"], figures["rows"][1:])
    axes.set_title("networks, level by level")
