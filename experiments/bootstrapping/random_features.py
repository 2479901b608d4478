"""E3: the sequential form in closed form, ridge regression onto random Fourier features level by level.

Points of four Gaussians on the sphere of radius 2 (`laws.sphere_law`), few enough that the fit at a level is
all variance: 300 in d = 2 with 200 features, 500 in d = 8 with 300. Fifteen levels t in [0.05, 3] of the
Ornstein-Uhlenbeck process, sigma / alpha growing by 1.34 from one to the next. The model is

    D(x, t) = c_t + B_t' phi(x),      phi of bandwidth sqrt(d), the same at every level,                (1)

and (c_t, B_t) the ridge regression of (1 - a) x_0 + a D(x_s, s) onto it, s the level before: a = 0 is
denoising score matching. Beside it stands the stable target field, whose target is the training points' own
denoiser. Every method is given the same points, features and noisings, and chooses the penalty at every level
by one rule that does not look at the truth: five chains each leave a fifth of the points out, at every level
and hence of every teacher; the penalty, one for all five and of 13 in [1e-6, 1], is that of the least
denoising loss on the points left out; and the estimate is the mean of the five.

The error at a level is E|score_hat - score|^2 / d on fresh points. Its ratio to denoising's is taken seed by
seed and averaged geometrically over seeds.

Denoising alone is given 2 and 8 times as many noisings of each point besides.

MEASURED, 8 seeds that chose nothing (`--parts E3`, one busy core of an AMD EPYC, jax 0.10.2, 2026-11-29,
210 s), geometric means of the ratios; 8 other seeds had .546 and .655 for the mix 0.9, .278 and .339
for the stable field (2026-11-22):

                                   d = 2                              d = 8
                                   t > .2        worst  t > 2         t > .2        worst  t > 2
    mix 0.9                        .551 +- .057  .90    .438 +- .081  .619 +- .016  .90    .549 +- .024
    mix 1                          .577 +- .080  .91    .460 +- .111  .654 +- .022  .91    .579 +- .041
    stable field                   .267 +- .055  .73    .298 +- .070  .257 +- .017  .78    .278 +- .028
    denoising, twice the noisings  .724 +- .048  .86    .777 +- .068  .796 +- .013  .92    .805 +- .039
    denoising, 8 times             .420 +- .042  .66    .433 +- .065  .516 +- .011  .74    .539 +- .026

So with four noisings of each point bootstrapping is worth more than twice as many, and less than eight times;
where noise is cheap, more of it does as well. The seeds of 2026-11-22 compared noisings, bandwidth and the
rule for the penalty by the true error. At mix 0.9 a bandwidth of sqrt(2d) gave 0.630 and 0.644 there, a
single held-out fifth 0.72 to 0.74 in d = 8, and one noising in d = 2, with that rule, 0.74 to 0.90 with
levels above 1. With 32 noisings for all in d = 2 bootstrapping had 0.61 to 0.63, and at t = 0.24 no gain.
"""

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bootstrapping import ratios
from experiments.bootstrapping.laws import sphere_law
from experiments.bootstrapping.ratios import STABLE
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.laws.empirical import Empirical
from jaxdiff.learning import random_features
from jaxdiff.learning.bootstrap import bootstrapped_target, fit_levels
from jaxdiff.learning.random_features import RandomFeatures
from jaxdiff.noising.schedules import OrnsteinUhlenbeck
from jaxdiff.noising.times import log_snr_grid
from jaxdiff.theory import score_error
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE = OrnsteinUhlenbeck()


class Problem(NamedTuple):
    """What is learnt, by how large a model, from how many noisings of each point."""

    d: int
    num_points: int
    num_features: int
    noisings: int


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    problems: tuple[Problem, ...] = (
        Problem(2, 300, 200, 4),
        Problem(8, 500, 300, 4),
    )
    mixes: tuple[float, ...] = (0.9, 1.0)
    more_noisings: tuple[int, ...] = (2, 8)  # times as many, which denoising alone is given besides
    seeds: int = 8
    num_levels: int = 15
    num_folds: int = 5
    test_points: int = 4096


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        problems=(Problem(2, 60, 40, 2),),
        mixes=(0.9,),
        seeds=2,
        num_levels=5,
        num_folds=3,
        test_points=256,
        more_noisings=(4,),
    )


def errors(config: Config, problem: Problem, levels: Array, mixes: Array, *, field: bool = False) -> Array:
    """E|score_hat - score|^2 / d for every mix, shape (seeds, mixes, levels); one compiled call.

    field: whether the training points' denoiser takes the noise at t out of the target, which for the mix 0
    is the stable target field.
    """
    law = sphere_law(jax.random.key(99), problem.d)
    folds, penalties = jnp.arange(config.num_folds), jnp.geomspace(1e-6, 1.0, 13)
    # One set of features; coefficients for each fold, each penalty, each level.
    many = RandomFeatures(frequencies=None, coefficients=0, intercept=0)  # type: ignore[arg-type] - vmap's axes

    def denoiser(model: RandomFeatures) -> Denoiser:
        return make_denoiser(
            random_features.predict,
            model,
            SCHEDULE,
            shape=law.shape,
            scale=law.scale,
            prediction=prediction.data,
        )

    def one(key: Key, mix: Array) -> Array:
        points_key, features_key, fit_key, fresh_key = jax.random.split(key, 4)
        points = law.sample(points_key, problem.num_points)
        data = jnp.repeat(points, problem.noisings, axis=0)
        size = problem.num_points // config.num_folds
        fold_of = jnp.repeat(jnp.arange(problem.num_points) // size, problem.noisings)

        def fit(key: Key, models: RandomFeatures, s: Array, t: Array, mix: Array) -> RandomFeatures:
            def of_fold(model: RandomFeatures, fold: Array) -> tuple[Array, RandomFeatures]:
                training = (fold_of != fold).astype(float)
                others = jnp.roll(points, -size * fold, axis=0)[size:]
                known = Empirical(others).denoiser(SCHEDULE) if field else None
                x, target = bootstrapped_target(key, denoiser(model), data, s, t, mix=mix, field=known)

                def candidate(penalty: Array) -> tuple[Array, RandomFeatures]:
                    fitted = random_features.fit(
                        model, denoiser, x, target, t, penalty=penalty, weights=training
                    )
                    squares = jnp.mean((denoiser(fitted)(x, t).data - data) ** 2, axis=1)
                    return jnp.mean(squares * (1 - training)), fitted

                return jax.vmap(candidate, out_axes=(0, many))(penalties)

            losses, fitted = jax.vmap(of_fold, in_axes=(many, 0), out_axes=(0, many))(models, folds)
            best = jnp.argmin(losses.mean(0))
            return RandomFeatures(fitted.frequencies, fitted.coefficients[:, best], fitted.intercept[:, best])

        model = random_features.init(features_key, problem.d, problem.num_features, bandwidth=problem.d**0.5)
        start = jax.vmap(lambda _: model, out_axes=many)(folds)
        models = fit_levels(fit_key, fit, start, levels, mix=mix)

        def error(level: tuple[RandomFeatures, Array]) -> Array:
            models, t = level
            model = RandomFeatures(models.frequencies, models.coefficients.mean(0), models.intercept.mean(0))
            squared = score_error(fresh_key, denoiser(model), law, t[None], num_samples=config.test_points)
            return squared.value[0] / problem.d

        return jax.lax.map(error, (models, levels))

    keys = ratios.keys("E3", config.seeds)
    # The mixes together, since they share features, Gram matrices and factors; the seeds in turn.
    return jax.jit(functools.partial(jax.lax.map, lambda key: jax.vmap(functools.partial(one, key))(mixes)))(
        keys
    )


def run(config: Config) -> dict[str, Any]:
    """Every method on every problem."""
    levels = log_snr_grid(SCHEDULE, config.num_levels - 1, t_max=3.0, t_min=0.05)[::-1]
    many = [f"denoising, {k} times the noisings" for k in config.more_noisings]
    methods = (ratios.DENOISING, *(f"mix {mix:g}" for mix in config.mixes), STABLE, *many)
    problems = []
    for problem in config.problems:
        began = time.monotonic()
        found = [errors(config, problem, levels, jnp.array([0.0, *config.mixes]))]
        found.append(errors(config, problem, levels, jnp.zeros(1), field=True))
        for k in config.more_noisings:
            richer = problem._replace(noisings=k * problem.noisings)
            found.append(errors(config, richer, levels, jnp.zeros(1)))
        error = np.asarray(jnp.concatenate(found, axis=1), np.float64)
        problems.append(
            {
                "name": f"d = {problem.d}, {problem.noisings} noisings",
                "rows": ratios.compare(methods, error, ranges(np.asarray(levels, np.float64))),
                "seconds": time.monotonic() - began,
            }
        )
    return {
        "config": dataclasses.asdict(config),
        "levels": np.asarray(levels, np.float64).tolist(),
        "problems": problems,
    }


def ranges(levels: np.ndarray) -> dict[str, np.ndarray]:
    """Where bootstrapping is judged, for `ratios.compare`: at small t it has little to begin from."""
    return {f"t > {start:g}": levels > start for start in (0.2, 2.0)}


def table(figures: dict[str, Any]) -> str:
    """Errors of denoising and every method's ratio to it, level by level."""
    return "\n\n".join(
        ratios.table(problem["name"], figures["levels"], problem["rows"]) for problem in figures["problems"]
    )


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Error ratios against t for the mix 0.9 and the stable field, with bands of two standard errors."""
    for problem in figures["problems"]:
        rows = [row for row in problem["rows"] if row["method"] in ("mix 0.9", STABLE)]
        ratios.draw(axes, figures["levels"], rows, label=", " + problem["name"])
    axes.set_title("random features, level by level")
