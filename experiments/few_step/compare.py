"""One network size, one number of operations, every method: how far are samples of 1, 2 and 4 calls?

A network of two times is trained on data that it cannot be told in closed form, see `tasks`, by every loss of
`methods`. All spend the same number of floating-point operations, by the compiler's count of one gradient:
those without a teacher all of it; those with one, half after the half that trained it, from whose parameters
they begin. Beside them the denoiser by a solver, at 1 to 40 calls; a generator of posteriors
(`inverse.PosteriorGenerator`), whose samples are renoised; a network of the same size as a generator trained
by the energy distance; a mixture fitted to the data, without any call; and new draws, or training images,
which say what the judges make of nothing.

Judges: the energy distance without bias and the sliced W_2, in units of the data's standard deviation, and
the accuracy of a classifier, of which 0.5 is none: against new draws, or images held out.

The schedule is the straight path, and what the network predicts its velocity, shown x and t as they are.

MEASURED on digits (`python -m experiments.few_step --parts digits`, one busy core of an AMD EPYC, jax 0.10.2,
2026-11-29; 21 minutes), means over three seeds, each with images of its own held out and a training of its
own: a thousandth of the energy distance, and how often a classifier tells samples from held-out images, with
standard errors of 4 to 20 in a hundred and of .01 to .02.

                                      energy distance       classifier
    calls                              1     2     4         1     2     4
    training images                    9                    .470
    a mixture fitted to the images    10                    .568
    MeanFlow                          60    31    20        .932  .901  .890
    shortcut                          48    37    29        .904  .892  .872
    moment matching                   76    68    65        .975  .963  .965
    sCM, training                     48    42    71        .921  .941  .940
    consistency, training             83    80   118        .936  .938  .935
    sCM, distilled                   591   535   519        .976  .975  .979
    reflow                            38    18    17        .902  .861  .848
    score distillation                59    34    45        .886  .878  .858
    posterior generator              373   251    77        .960  .936  .934
    a generator by energy distance    28                    .941
    denoiser, by a solver            566   376    50        .967  .915  .886
    the same, 8, 16 and 40 calls      99    10     9        .954  .743  .745

The aim, two calls as good as sixteen of the solver, is far: .861 by reflow beside .743. One call of score
distillation is as good as four of the solver (.886), which by this solver is its best below sixteen. What
fails is told by the same table: sCM distilled, which led in the plane, does not train at 759 steps of this
network, and posterior generators want more than 489. And a mixture of twelve Gaussians, without a network or
a call, is nearer than all of it, but for the images themselves.

MEASURED on patches (--parts patches, the same day and core, 48 minutes), three seeds, 433 steps of a small
transformer for the denoiser and fewer for the maps, so that nothing is near the data:

                                      energy distance       classifier
    calls                              1     2     4         1     2     4
    training patches                 0.5                   .527
    a Gaussian of rank 64            2.0                   .658
    MeanFlow                          21   9.6    14        .987  .926  .895
    shortcut                         6.8   6.8   6.2        .839  .826  .800
    moment matching                  4.3   4.4   4.6        .814  .739  .705
    sCM, distilled                    26    13    15        .980  .976  .981
    reflow                           7.0   6.0   5.3        .928  .871  .852
    a generator by energy distance   4.6                    .882
    denoiser, by a solver             12   9.8   5.0        .960  .885  .890
    the same, 8, 16 and 40 calls     5.1   5.0   5.1        .926  .751  .751

with errors of .01 to .04 in the classifier. Here two calls, of moment matching, are as good as sixteen of the
solver, and one is better than its four. The Gaussian without a call is better than all of it.

MEASURED in the plane (--parts modes rings with seed 0 alone, 7 minutes a part of the same core, 2026-11-29),
one seed: a thousandth of the energy distance at 1, 2 and 4 calls, and the classifier at 1. Other
draws move the first by half a thousandth and the second by .013; other seeds of training by more.

                                                 modes  classifier              rings  classifier
    calls                                1     2     4           1      1     2     4           1
    new draws of the law              -0.3                   0.493   -0.5                   0.494
    a mixture fitted to draws          0.9                   0.511    1.5                   0.506
    MeanFlow                          10.2   4.3   7.4       0.601   24.3  22.7  27.0       0.559
    improved MeanFlow                 11.0  12.9  15.5       0.557   59.9   7.7   9.5       0.568
    shortcut                           3.5   3.2   3.1       0.602    6.0   6.3   3.9       0.526
    moment matching                   21.9   9.7   8.6       0.608   12.8   5.3   4.6       0.532
    sCM, training                      8.0   9.2   9.3       0.589    7.4  14.6  20.8       0.496
    consistency, training              5.6   7.4   7.0       0.559   10.0  11.7  18.6       0.532
    MeanFlow, distilled               50.5  22.6   5.4       0.593   28.5  11.6   2.7       0.548
    sCM, distilled                     6.4  17.6  18.3       0.564    5.2   6.9   8.7       0.497
    consistency, distilled            12.9  12.0  14.8       0.605    8.7  19.9  29.2       0.531
    progressive distillation          14.9  14.8  14.7       0.562   11.5  11.4  11.3       0.536
    reflow                             2.3   1.6   1.5       0.541    1.1   0.5   0.5       0.503
    score distillation                 8.5  13.6   8.3       0.567   11.4  18.6  10.8       0.564
    a generator by energy distance     1.4                   0.552    4.4                   0.493
    denoiser, by a solver, 1 call    532.1                   0.949  530.5                   0.981
    denoiser, by a solver, 2 calls   344.8                   0.903  319.4                   0.927
    denoiser, by a solver, 4 calls    14.4                   0.567    3.3                   0.515
    denoiser, by a solver, 8 calls     7.4                   0.524    5.2                   0.522
    denoiser, by a solver, 40 calls    0.4                   0.514   -0.5                   0.503

All of them do at one call what the solver does not at two, and none what it does at 40. What it does at 8 is
reached at one call on both laws by reflow (the 262,144 calls of its pairs are not counted) and, just, by sCM
distilled, on the modes also by shortcut and consistency; by the classifier on the rings alone, by both sCM
and reflow. Score distillation is in the middle after 463 steps. Where maps to the first time are renoised,
more calls are not better. And the controls: the generator, whose loss is this judge, is ahead of all maps on
the modes and of all but reflow on the rings (by sliced W_2, which it is not trained by, .085 and .151 beside
reflow's .071 and .063); so is a mixture of twelve components, without a network or a call. In the plane none
of this pays.
"""

import dataclasses
import functools
from typing import Any

import jax

from experiments.few_step import generators, methods, study, training
from experiments.few_step.study import CALLS, SETTINGS, SMALL, Setting, Study
from jaxdiff import inverse, maps
from jaxdiff.typing import Array, Key, Params

table, draw = study.table, study.draw
OWN = ("progressive distillation", "reflow", "score distillation", "posterior generator")
"""Rows that are more than a loss."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    setting: Setting = SETTINGS["modes"]
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = (*methods.METHODS, *OWN)
    teacher_calls: tuple[int, ...] = (1, 2, 4, 8, 16, 40)
    reflow_pairs: int = 8_192


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        setting=dataclasses.replace(SETTINGS["modes"], **SMALL),
        seeds=(0,),
        methods=("sCM, distilled", *OWN),
        teacher_calls=(1, 4),
        reflow_pairs=64,
    )


def run(config: Config) -> dict[str, Any]:
    """Of every row and number of calls, each judge's mean over seeds."""
    rows = study.over_seeds(functools.partial(_one, config), config.seeds)
    return {"config": dataclasses.asdict(config), "rows": rows}


def _one(config: Config, seed: int) -> Study:
    of = Study(config.setting, seed)
    n, options = of.setting.num_samples, {"learning_rate": of.setting.learning_rate}
    of.judge(
        "a law fitted to the data", 0, of.task.fit(of.fit_key).sample(of.fit_key, n).reshape(n, *of.shape)
    )
    taught, _ = of.fit(methods.denoising, share=0.5)
    whole, steps = of.fit(methods.denoising)
    of.judge_solved("denoiser, by a solver", of.make(whole).denoiser, steps, config.teacher_calls)
    own = dict(zip(OWN, (_progressive, _reflowed, _distilled_by_scores, _of_posteriors), strict=True))
    for name in config.methods:
        if name in own:
            own[name](config, of, taught)
            continue
        method = methods.METHODS[name]
        begun, share = (taught, 0.5) if method.taught else (of.params, 1.0)
        ended, steps = of.fit(method.loss, begun, share, teacher=of.make(taught).denoiser)
        of.judge_map(name, of.make(ended), steps, renoise=method.renoise)
    generate, steps = generators.by_energy(
        of.sample_key, of.network, of.params, of.draw, budget=of.setting.budget, **options
    )
    of.judge("a generator by energy distance", 1, generate(of.sample_key, n), steps)
    return of


def _progressive(config: Config, of: Study, taught: Params) -> None:
    """Stages of 8, 4, 2 and 1 calls of equal shares, each taught by the one before."""
    del config
    params, before = taught, maps.one_step_map(of.make(taught).denoiser)
    for calls in (8, *CALLS[::-1]):
        loss = functools.partial(methods.progressive, calls=calls, before=before)
        params, steps = of.fit(loss, params, 0.125)
        before = of.make(params)
        if calls in CALLS:
            n = of.setting.num_samples
            samples = maps.sample_map(of.sample_key, before, n, num_calls=calls, renoise=0.0)
            of.judge("progressive distillation", calls, samples, steps)


def _reflowed(config: Config, of: Study, taught: Params) -> None:
    """The pairs' 32 calls each are left out of the budget."""
    pairs = jax.jit(maps.reflow_pairs, static_argnums=2)(
        of.sample_key, of.make(taught).denoiser, config.reflow_pairs
    )

    def draw(key: Key) -> Any:
        rows = jax.random.randint(key, (of.setting.batch,), 0, config.reflow_pairs)
        return jax.tree.map(lambda leaf: leaf[rows], pairs)

    params, steps = of.fit(methods.reflow, taught, 0.5, data=draw)
    of.judge_map("reflow", maps.one_step_map(of.make(params).denoiser), steps)


def _distilled_by_scores(config: Config, of: Study, taught: Params) -> None:
    """The map and the fake denoiser both begin as the teacher; the map is the slower of the two."""
    del config
    teacher, setting = of.make(taught).denoiser, of.setting

    def loss(params: Params, key: Key, data: Array) -> Array:
        student, fake = of.make(params["map"]), of.make(params["fake"]).denoiser
        return methods.score_distillation(key, student, fake, teacher, data).mean()

    rates = {"map": setting.map_rate * setting.learning_rate, "fake": setting.learning_rate}
    fitted, steps = training.descend(
        of.sample_key,
        loss,
        {"map": taught, "fake": taught},
        of.draw,
        budget=0.5 * setting.budget,
        learning_rate=rates,
    )
    of.judge_map("score distillation", of.make(fitted["map"]), steps, renoise=1.0)


def _of_posteriors(config: Config, of: Study, taught: Params) -> None:
    """Of vectors: how a network of images could begin as the teacher is another question."""
    del config
    setting = of.setting
    generator, steps = generators.of_posteriors(
        of.sample_key,
        of.network,
        of.task,
        of.make(taught).denoiser,
        taught,
        of.draw,
        map_rate=setting.map_rate,
        learning_rate=setting.learning_rate,
        budget=0.5 * setting.budget,
    )
    for calls in CALLS:
        n = setting.num_samples
        samples = inverse.sample_generator(of.sample_key, generator, n, num_calls=calls)
        of.judge("posterior generator", calls, samples, steps)
