"""E5: one network over all noise levels, taught by its own average; every recipe that was tried.

Task "mixture": 500 points of four Gaussians on the sphere of radius 2 in ten dimensions, 20 levels t in
[0.02, 3] of the Ornstein-Uhlenbeck process. Task "digits": 1,437 points of ten Gaussians fitted to the
digits of scikit-learn, 64 dimensions, 16 noise standard deviations in [0.05, 10]; the images themselves have
no known score, a law fitted to them has one. Everything but the target is the same for every recipe: the
network, its initialization, the levels and the optimizer. The error at a level is E|score_hat - score|^2 / d
on fresh points, and each ratio is to denoising score matching with the same seed; means over seeds are
geometric.

A target at level t is made by `bootstrapped_target` from the level `jump` places before it.

MEASURED, mixture, 8 seeds (two cores of an AMD EPYC, jax 0.12.0.1, 2026-11-22): the ratio at the worst level,
and over the ten levels of less and of more noise.

    | recipe                  | worst | less noise    | more noise    |
    |-------------------------|-------|---------------|---------------|
    | stable field            | 1.285 | 1.014 +- .006 | 0.763 +- .022 |
    | chain                   | 1.044 | 0.849 +- .009 | 0.919 +- .021 |
    | chain, late             | 1.058 | 0.895 +- .008 | 0.948 +- .027 |
    | chain, mix 0.9          | 1.006 | 0.853 +- .007 | 0.897 +- .020 |
    | jump 2                  | 0.905 | 0.735 +- .007 | 0.840 +- .025 |
    | jump 4                  | 0.911 | 0.693 +- .006 | 0.838 +- .022 |
    | jump 4, 4 draws         | 0.872 | 0.678 +- .006 | 0.817 +- .022 |
    | jump 4, optimal gate    | 0.896 | 0.597 +- .008 | 0.805 +- .026 |
    | jump 4, online mix      | 0.915 | 0.721 +- .006 | 0.848 +- .021 |
    | field, jump 4, mix 0.5  | 0.983 | 0.807 +- .004 | 0.727 +- .022 |
    | field, jump 4           | 0.854 | 0.667 +- .006 | 0.755 +- .025 |
    | field, jump 10          | 0.813 | 0.645 +- .006 | 0.714 +- .020 |

The plain chain is held back by its teacher: each level waits for the one before it, so longer jumps and an
early start help at every level. What is left at high noise is the variance of the target, which no jump
removes without the teacher's own error coming in; the training set's denoiser does, and alone it memorizes
where the noise is small. Together, eq. (9) of `jaxdiff.learning.bootstrap`, they gain at every level.

What came later, on eight seeds that chose nothing (`--parts E5-fresh`, busy cores, jax 0.10.2, 2026-11-29):

    | recipe                       | worst | less noise    | more noise    |
    |------------------------------|-------|---------------|---------------|
    | denoising, 2 times the steps | 1.513 | 1.130 +- .010 | 0.874 +- .015 |
    | jump 7, optimal gate         | 0.937 | 0.571 +- .013 | 0.802 +- .017 |
    | jump 2, Jacobian gate        | 1.517 | 0.745 +- .018 | 1.242 +- .235 |
    | pool, jump 10                | 0.796 | 0.635 +- .007 | 0.698 +- .029 |

More steps of denoising learn the 500 points by heart where the noise is small. A pool of half of the points,
drawn anew at each step, does as well as the field of all of them. The aim of 0.55 at less noise is missed by
0.02. Jumps were chosen on seed 100 (2026-11-28): over less and more noise 0.634 and 0.727 for "jump 4,
optimal gate", 0.619 and 0.772 with jump 7, 0.619 and 0.796 with 10; with the gate of the teacher's Jacobian
0.965 and 1.171 for jump 1, 0.772 and 0.838 for 2, 0.753 and 1.119 for 4. Of an exact teacher that gate leaves
a fraction of the optimal scalar's variance between near levels; here it does not pay, near levels being what
holds the chain back, and the Jacobian that of a network that is still learning.

MEASURED, digits, 8 seeds (as above), over the eight levels of less and of more noise:

    | recipe                  | worst | less noise    | more noise    |
    |-------------------------|-------|---------------|---------------|
    | stable field            | 1.073 | 1.028 +- .002 | 0.964 +- .003 |
    | chain                   | 0.900 | 0.641 +- .004 | 0.839 +- .005 |
    | jump 2                  | 0.853 | 0.688 +- .004 | 0.804 +- .005 |

Every level gains, and the half of more noise by 20 %, short of the mixture's 29 %. 1,437 points in 64
dimensions leave an error of estimation, which the stable field shows by hardly gaining: there is little noise
of training to remove, and what the chain gains it gains by smoothing. On two seeds "field, jump 4" had 0.864,
0.774 and 0.804. With 3,000 steps at learning rate 1e-3 the network is not yet at that point: there "jump 4"
had 1.068, 1.034 and 0.942 (two seeds), the teacher being late at low noise.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bootstrapping import ratios
from experiments.bootstrapping.laws import sphere_law
from experiments.estimates import geometric_mean, show
from experiments.networks import applied
from jaxdiff import data
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.fitting import fit_mixture
from jaxdiff.learning import bootstrap, ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target, stable_target
from jaxdiff.models.embedding import fourier_features
from jaxdiff.noising.schedules import Karras, OrnsteinUhlenbeck
from jaxdiff.theory import score_error
from jaxdiff.typing import Array, Denoised, Key, Params, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Recipe(NamedTuple):
    """How targets are made; the default is denoising score matching."""

    jump: int = 0
    """Levels between s and t; 0 for no bootstrapping."""
    mix: float = 1.0
    draws: int = 1
    """Of x_s, averaged: each costs one more forward pass of the teacher."""
    warm_up: float = 0.1
    """The part of the steps before the teacher is listened to."""
    gate: str = "Rao-Blackwell"
    """Or "optimal": g*, with q_s measured on the batch, or "Jacobian": a product with the teacher's."""
    online: bool = False
    """The mix is a* of the batch, the teacher's disagreement with the network being its bias."""
    field: bool = False
    """Whether the training set's own denoiser takes the noise at t out of the target, eq. (9)."""
    pool: int = 0
    """Points drawn anew at each step, whose posterior is in the target, eq. (10)."""
    steps: float = 1.0
    """Times those of the config, to spend what another recipe costs."""


TRIED: dict[str, Recipe | None] = {
    "denoising": Recipe(),
    "stable field": None,
    "chain": Recipe(jump=1),
    "chain, late": Recipe(jump=1, warm_up=1 / 3),
    "chain, mix 0.9": Recipe(jump=1, mix=0.9),
    "jump 2": Recipe(jump=2),
    "jump 4": Recipe(jump=4),
    "jump 4, 4 draws": Recipe(jump=4, draws=4),
    "jump 4, optimal gate": Recipe(jump=4, gate="optimal"),
    "jump 4, online mix": Recipe(jump=4, online=True),
    "field, jump 4, mix 0.5": Recipe(jump=4, mix=0.5, field=True),
    "field, jump 4": Recipe(jump=4, field=True),
    "field, jump 10": Recipe(jump=10, field=True),
}

FRESH: dict[str, Recipe | None] = {
    "denoising": Recipe(),
    "denoising, 2 times the steps": Recipe(steps=2.0),
    "jump 7, optimal gate": Recipe(jump=7, gate="optimal"),
    "jump 2, Jacobian gate": Recipe(jump=2, gate="Jacobian"),
    "pool, jump 10": Recipe(jump=10, pool=256),
}

RECIPES = TRIED | FRESH


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on."""

    task: str = "mixture"
    recipes: tuple[str, ...] = tuple(TRIED)
    seeds: int = 8
    first_seed: int = 0
    steps: int = 3000
    learning_rate: float = 2e-3
    width: int = 128
    batch_size: int = 256
    ema_decay: float = 0.995
    test_points: int = 4096


CONFIGS = {
    "mixture": Config(),
    # On seeds that chose nothing.
    "fresh": Config(recipes=tuple(FRESH), first_seed=200),
    # More to learn; with fewer steps denoising has not yet learned it.
    "digits": Config(
        task="digits",
        recipes=("denoising", "stable field", "chain", "jump 2"),
        steps=6000,
        learning_rate=3e-3,
        width=256,
    ),
}


def smoke() -> Config:
    """The same run at a size for tests."""
    return Config(
        recipes=("denoising", "jump 4, online mix", "field, jump 10"),
        seeds=2,
        steps=20,
        batch_size=40,
        test_points=64,
    )


class Task(NamedTuple):
    """A law to learn, and at which noise levels."""

    law: Distribution
    schedule: Schedule
    levels: Array
    num_points: int
    data_std: float


def mixture() -> Task:
    """The task of the sequential networks in one network."""
    return Task(
        law=sphere_law(jax.random.key(99), 10),
        schedule=OrnsteinUhlenbeck(),
        levels=jnp.geomspace(0.02, 3.0, 20),
        num_points=500,
        data_std=0.67,
    )


def digits() -> Task:
    """Ten Gaussians of full covariance fitted to the digits, standardized as a whole."""
    pixels = jnp.asarray(data.digits().train, jnp.int32)
    x = data.dequantize(jax.random.key(0), pixels, levels=17)
    x = (x - x.mean()) / x.std()
    return Task(
        law=fit_mixture(jax.random.key(0), x, 10, covariance="full", floor=0.02),
        schedule=Karras(),
        levels=jnp.geomspace(0.05, 10.0, 16),
        num_points=len(x),
        data_std=1.0,
    )


TASKS: dict[str, Callable[[], Task]] = {"mixture": mixture, "digits": digits}


class MLP(nn.Module):
    """Three layers of SiLU units, shown sines of the noise level; zero at initialization."""

    width: int

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        waves = fourier_features(t[:, None], tuple(2.0 ** np.linspace(-3, 2, 8)))
        h = jnp.concatenate([x, waves], axis=-1)
        for _ in range(3):
            h = nn.silu(nn.Dense(self.width)(h))
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros_init())(h)


Target = tuple[Array, Denoised]


def make_target(
    recipe: Recipe | None, config: Config, task: Task, points: Array
) -> Callable[[Key, Denoiser, Denoiser, Array, Array, Array], Target]:
    """``target(key, student, teacher, step, x_0, level)`` of a recipe; a level is an index of task.levels."""
    schedule, levels = task.schedule, task.levels
    field = Empirical(points).denoiser(schedule)

    def stable(
        key: Key, student: Denoiser, teacher: Denoiser, step: Array, x_0: Array, level: Array
    ) -> Target:
        return stable_target(key, schedule, x_0, levels[level], pool=points)

    def plain(
        key: Key, student: Denoiser, teacher: Denoiser, step: Array, x_0: Array, level: Array
    ) -> Target:
        return denoising_target(key, schedule, x_0, levels[level])

    if recipe is None:
        return stable
    if not recipe.jump:
        return plain

    def target(
        key: Key, student: Denoiser, teacher: Denoiser, step: Array, x_0: Array, level: Array
    ) -> Target:
        key, probe_key = jax.random.split(key)
        t = levels[level]
        # At the first level nothing is bootstrapped, and any earlier time serves.
        s = jnp.where(level > 0, levels[jnp.maximum(level - recipe.jump, 0)], 0.5 * t)
        mix, gate = jnp.where(level > 0, recipe.mix, 0.0), None
        mix *= step >= recipe.warm_up * config.steps
        x_s, exact = denoising_target(probe_key, schedule, x_0, s)
        if recipe.online:
            known = teacher(x_s, s).noise
            variance, squared_bias = (
                _of_level(jnp.mean((other - known) ** 2, axis=1), level, len(levels))
                for other in (exact.noise, student(x_s, s).noise)
            )
            # A network of this size and these steps averages some twenty draws for each of its degrees.
            mix *= bootstrap.optimal_mix(variance, squared_bias, 0.05)
        if recipe.gate == "optimal":
            explained = _of_level(jnp.mean(teacher(x_s, s).noise ** 2, axis=1), level, len(levels))
            explained = jnp.minimum(explained, 1.0)  # as the exact one is
            rho = jax.vmap(functools.partial(bootstrap.noise_correlation, schedule))(s, t)
            gate = jnp.where(level > 0, bootstrap.optimal_gate(rho, explained, mix=mix), rho**2)
        elif recipe.gate == "Jacobian":
            gate = teacher
        return bootstrap.bootstrapped_target(
            key,
            teacher,
            x_0,
            jnp.broadcast_to(s, (recipe.draws, *s.shape)),
            t,
            mix=mix,
            gate=gate,
            field=field if recipe.field else None,
            pool=data.batch(jax.random.fold_in(probe_key, 1), points, recipe.pool) if recipe.pool else None,
        )

    return target


def _of_level(values: Array, level: Array, num_levels: int) -> Array:
    """Each row's mean of values over the rows of its level."""
    sums, counts = (jnp.zeros(num_levels).at[level].add(v) for v in (values, jnp.ones_like(values)))
    return (sums / jnp.maximum(counts, 1))[level]


def errors(config: Config, task: Task, recipe: Recipe | None) -> Array:
    """E|score_hat - score|^2 / d after training, shape (seeds, levels); one compiled call."""
    config = dataclasses.replace(config, steps=round(config.steps * (recipe.steps if recipe else 1)))
    network = MLP(config.width)
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    decay = ema.warm_up(config.ema_decay)

    def denoiser(params: Params) -> Denoiser:
        return make_denoiser(
            applied(network), params, task.schedule, shape=task.law.shape, scale=task.data_std
        )

    def one(seed: Array) -> Array:
        points_key, init_key, key = jax.random.split(jax.random.fold_in(jax.random.key(7), seed), 3)
        points = task.law.sample(points_key, task.num_points)
        target = make_target(recipe, config, task, points)

        def loss(params: Params, teacher: Params, step: Array, key: Key, batch: tuple[Array, Array]) -> Array:
            x_0, level = batch
            x, y = target(key, denoiser(jax.lax.stop_gradient(params)), denoiser(teacher), step, x_0, level)
            return regression_loss(denoiser(params), x, y, task.levels[level]).mean()

        step = bootstrap.make_joint_step(loss, optimizer, ema_decay=decay)

        def body(state: training.TrainState, number: Array) -> tuple[training.TrainState, None]:
            which, where = jax.random.split(jax.random.fold_in(points_key, number))
            rows = jax.random.randint(which, (config.batch_size,), 0, task.num_points)
            strata = (jnp.arange(config.batch_size) + jax.random.uniform(where)) / config.batch_size
            level = jnp.floor(strata * len(task.levels)).astype(int)
            return step(key, state, (points[rows], level))[0], None

        params = network.init(init_key, points[:2], jnp.ones(2))
        state = training.init_state(params, optimizer, ema_decay=decay)
        state, _ = jax.lax.scan(body, state, jnp.arange(config.steps))
        fresh = jax.random.fold_in(jax.random.key(8), seed)
        trained = denoiser(training.averaged(state))
        error = score_error(fresh, trained, task.law, task.levels, num_samples=config.test_points)
        return error.value / points.shape[1]

    # One seed after another: batched products of matrices this small are no faster on a CPU.
    return jax.jit(functools.partial(jax.lax.map, one))(config.first_seed + jnp.arange(config.seeds))


def run(config: Config) -> dict[str, Any]:
    """Train every recipe, one after another; a line is printed as each is done."""
    task = TASKS[config.task]()
    rows, base = [], None
    for recipe in config.recipes:
        began = time.monotonic()
        error = np.asarray(errors(config, task, RECIPES[recipe]), np.float64)
        base = error if base is None else base
        rows.append({"recipe": recipe, **summary(error, base), "seconds": time.monotonic() - began})
        print(_line(rows[-1]), file=sys.stderr, flush=True)
    return {"config": dataclasses.asdict(config), "levels": np.asarray(task.levels).tolist(), "rows": rows}


def summary(error: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """Ratios of error to base, both of shape (seeds, levels): by level, and over each half of the levels."""
    log_ratio = np.log(error / base)
    half = error.shape[1] // 2
    low, high = (geometric_mean(part.mean(1)) for part in (log_ratio[:, :half], log_ratio[:, half:]))
    levels = [geometric_mean(column) for column in log_ratio.T]
    return {
        "error": error.mean(0).tolist(),
        "ratio": [level["mean"] for level in levels],
        "ratio_standard_error": [level["standard_error"] for level in levels],
        "worst_level": max(level["mean"] for level in levels),
        "low_noise_half": low,
        "high_noise_half": high,
    }


def table(figures: dict[str, Any]) -> str:
    """A line a recipe."""
    heading = f"{'ratios to denoising':26}worst level   low-noise half     high-noise half"
    return "\n".join([heading, *map(_line, figures["rows"])])


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['recipe']:26}{row['worst_level']:8.3f}      "
        f"{show(row['low_noise_half'], 3)}     {show(row['high_noise_half'], 3)}"
    )


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Error ratios against the level, with bands of two standard errors."""
    ratios.draw(axes, figures["levels"], figures["rows"], name="recipe")
    axes.set_title(f"E5: one network, {figures['config']['task']}")
    axes.legend(fontsize=6)
