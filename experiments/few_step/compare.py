"""One network size, one number of operations, every method: how far are samples of 1, 2 and 4 calls?

A residual network of two times is trained on draws of a law that it cannot be told in closed form, by every
loss of `methods`. All spend the same number of floating-point operations, by the compiler's count of one
gradient: those without a teacher all of it; those with one, half after the half that trained it, from whose
parameters they begin. Beside them the teacher by a solver, at 1 to 40 calls; a network of the same size as a
generator trained by the energy distance; a mixture fitted to the draws, without any call; and new draws of
the law, which say what the judges make of nothing.

Judges: the energy distance without bias and the sliced W_2, in units of the data's standard deviation, and
the accuracy of a classifier, of which 0.5 is none.

The schedule is the straight path, and what the network predicts its velocity, shown x and t as they are.

MEASURED (`python -m experiments.few_step`, 7 minutes a part of one busy core of an AMD EPYC, jax 0.10.2,
2026-11-29), one seed: a thousandth of the energy distance at 1, 2 and 4 calls, and the classifier at 1. Other
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

What the network is shown matters more than the loss: MeanFlow under Karras' schedule, 1,534 steps on law 3,
had .38 at one call where it was shown log(sigma), and .018 where it was shown the angle of
`prediction.Angle`: one seed each, of a script that is not kept, so that no command repeats these two.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.estimates import mean, show
from experiments.few_step import methods, training
from experiments.initialization import laws, shapes
from experiments.networks import applied
from jaxdiff import maps
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.laws import metrics
from jaxdiff.laws.fitting import fit_mixture
from jaxdiff.maps.flow_map import FlowMap, make_flow_map
from jaxdiff.models import ResidualMLP
from jaxdiff.noising.schedules import RectifiedFlow
from jaxdiff.sampling.driver import sample
from jaxdiff.sampling.exponential_adams import unipc
from jaxdiff.typing import Array, Key, Params

LAWS = {"modes": laws.grid_mixture, "rings": shapes.two_rings}
SCHEDULE = RectifiedFlow()
CALLS = (1, 2, 4)
JUDGES = ("energy", "sliced", "classifier")


@dataclasses.dataclass(frozen=True)
class Config:
    """What the part depends on."""

    law: str = "modes"
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...] = tuple(methods.METHODS)
    budget: float = 1.2e11  # operations; of the denoiser's loss some 2,700 steps
    learning_rate: float = 2e-3  # chosen on law 3 and key 7
    map_rate: float = 0.25  # of that, the map's beside a fake denoiser; by reason, not tuned
    width: int = 64
    blocks: int = 3
    batch: int = 128
    num_samples: int = 3_000
    teacher_calls: tuple[int, ...] = (1, 2, 4, 8, 40)
    reflow_pairs: int = 8_192
    components: int = 12  # of the mixture without calls: of 25 modes, and of two rings
    classifier_steps: int = 300


def smoke() -> Config:
    """The same at a size for tests."""
    return Config(
        seeds=(0,),
        methods=("MeanFlow", "sCM, distilled"),
        budget=4e6,
        width=8,
        blocks=1,
        batch=16,
        num_samples=64,
        teacher_calls=(1, 4),
        reflow_pairs=64,
        components=2,
        classifier_steps=2,
    )


def run(config: Config) -> dict[str, Any]:
    """Of every row and number of calls, each judge's mean over seeds."""
    found = [_one(config, seed) for seed in config.seeds]
    rows = [
        {
            "name": name,
            "calls": calls,
            "steps": found[0][name, calls][1],
            **{judge: _over([one[name, calls][0][i] for one in found]) for i, judge in enumerate(JUDGES)},
        }
        for name, calls in found[0]
    ]
    return {"config": dataclasses.asdict(config), "rows": rows}


def _over(values: list[float]) -> dict[str, float]:
    return mean(values) if len(values) > 1 else {"mean": values[0], "standard_error": 0.0}


def _one(config: Config, seed: int) -> dict[tuple[str, int], tuple[tuple[float, ...], int]]:
    """Judgements, and steps of training, by row and calls."""
    law = LAWS[config.law](seed)
    network = ResidualMLP(width=config.width, num_blocks=config.blocks)
    init_key, fit_key, sample_key, judge_key, data_key = jax.random.split(jax.random.key(seed), 5)
    x, t = jnp.zeros((1, 2)), jnp.zeros(1)
    params = jax.jit(lambda key: network.init(key, x, t, s=t))(init_key)

    def make(params: Params) -> FlowMap:
        return make_flow_map(applied(network), params, SCHEDULE, shape=(2,), prediction=prediction.flow)

    def draw(key: Key) -> Array:
        return law.sample(key, config.batch)

    fresh, reference = (law.sample(key, config.num_samples) for key in jax.random.split(data_key))
    judged: dict[tuple[str, int], tuple[tuple[float, ...], int]] = {}

    def judge(name: str, calls: int, samples: Array, steps: int = 0) -> None:
        judged[name, calls] = _judge(config, judge_key, samples, reference), steps

    def fit(loss: methods.Loss, params: Params, share: float, teacher: Denoiser, data: Any = draw) -> Any:
        return training.fit(
            fit_key,
            loss,
            make,
            params,
            teacher,
            data,
            budget=share * config.budget,
            learning_rate=config.learning_rate,
        )

    judge("new draws of the law", 0, fresh)
    judge("a mixture fitted to draws", 0, _mixture(config, law, fit_key))
    nobody = make(params).denoiser
    taught, steps = fit(methods.denoising, params, 0.5, nobody)
    teacher, n = make(taught).denoiser, config.num_samples
    whole, all_steps = fit(methods.denoising, params, 1.0, nobody)
    for calls in config.teacher_calls:
        judge("denoiser, by a solver", calls, _solved(sample_key, make(whole).denoiser, n, calls), all_steps)
    for name in config.methods:
        method = methods.METHODS[name]
        begun, share = (taught, 0.5) if method.taught else (params, 1.0)
        ended, steps = fit(method.loss, begun, share, teacher)
        for calls in CALLS:
            samples = maps.sample_map(sample_key, make(ended), n, num_calls=calls, renoise=method.renoise)
            judge(name, calls, samples, steps)
    _progressive(config, fit, make, taught, judge, sample_key)
    _reflowed(config, fit, make, taught, judge, sample_key)
    _distilled_by_scores(config, make, taught, draw, judge, sample_key)
    _generated(config, network, params, draw, judge, sample_key)
    return judged


def _judge(config: Config, key: Key, samples: Array, reference: Array) -> tuple[float, ...]:
    classifier = metrics.classifier_two_sample_test(
        key, samples, reference, width=64, num_steps=config.classifier_steps
    )
    return (
        float(metrics.energy_distance(samples, reference).value),
        float(metrics.sliced_wasserstein(key, samples, reference, num_projections=64)),
        float(classifier.value),
    )


def _mixture(config: Config, law: Distribution, key: Key) -> Array:
    data = law.sample(key, 10_000 if config.num_samples > 1000 else 100)
    fitted = fit_mixture(key, data, config.components, num_restarts=1)
    return fitted.sample(key, config.num_samples)


def _solved(key: Key, denoise: Denoiser, n: int, calls: int) -> Array:
    """By one DDIM step, or UniPC of the order that few calls bear, on the grid of the maps."""
    grid = methods.grid(maps.one_step_map(denoise), calls).at[-1].set(0.0)
    return sample(key, denoise, n, times=grid, sampler=unipc(1 if calls == 1 else 2 if calls < 8 else 3))


def _progressive(config: Config, fit: Any, make: Any, taught: Params, judge: Any, key: Key) -> None:
    """Stages of 8, 4, 2 and 1 calls of equal shares, each taught by the one before."""
    params, before = taught, maps.one_step_map(make(taught).denoiser)
    for calls in (8, *CALLS[::-1]):
        loss = functools.partial(methods.progressive, calls=calls, before=before)
        params, steps = fit(loss, params, 0.125, make(taught).denoiser)
        before = make(params)
        if calls in CALLS:
            times = methods.grid(before, calls)
            judge("progressive distillation", calls, _composed(key, before, config, times), steps)


def _reflowed(config: Config, fit: Any, make: Any, taught: Params, judge: Any, key: Key) -> None:
    """The pairs' 32 calls each are left out of the budget."""
    pairs = jax.jit(maps.reflow_pairs, static_argnums=2)(key, make(taught).denoiser, config.reflow_pairs)

    def draw(key: Key) -> Any:
        rows = jax.random.randint(key, (config.batch,), 0, config.reflow_pairs)
        return jax.tree.map(lambda leaf: leaf[rows], pairs)

    params, steps = fit(methods.reflow, taught, 0.5, make(taught).denoiser, draw)
    flow_map = maps.one_step_map(make(params).denoiser)
    for calls in CALLS:
        times = methods.grid(flow_map, calls)
        judge("reflow", calls, _composed(key, flow_map, config, times), steps)


def _composed(key: Key, flow_map: FlowMap, config: Config, times: Array) -> Array:
    return maps.sample_map(key, flow_map, config.num_samples, times=times, renoise=0.0)


def _distilled_by_scores(config: Config, make: Any, taught: Params, draw: Any, judge: Any, key: Key) -> None:
    """The map and the fake denoiser both begin as the teacher; the map is the slower of the two."""
    teacher = make(taught).denoiser

    def loss(params: Params, key: Key, data: Array) -> Array:
        student, fake = make(params["map"]), make(params["fake"]).denoiser
        return methods.score_distillation(key, student, fake, teacher, data).mean()

    rates = {"map": config.map_rate * config.learning_rate, "fake": config.learning_rate}
    fitted, steps = training.descend(
        key, loss, {"map": taught, "fake": taught}, draw, budget=0.5 * config.budget, learning_rate=rates
    )
    for calls in CALLS:
        samples = maps.sample_map(key, make(fitted["map"]), config.num_samples, num_calls=calls)
        judge("score distillation", calls, samples, steps)


def _generated(config: Config, network: ResidualMLP, params: Params, draw: Any, judge: Any, key: Key) -> None:
    """The network as a generator, of noise alone."""

    def generate(params: Params, key: Key, n: int) -> Array:
        noise = jax.random.normal(key, (n, 2))
        return noise + applied(network)(params, noise, jnp.zeros(n), s=jnp.zeros(n))

    def loss(params: Params, key: Key, batch: Array) -> Array:
        return methods.energy(generate(params, key, len(batch)), batch)

    fitted, steps = training.descend(
        key, loss, params, draw, budget=config.budget, learning_rate=config.learning_rate
    )
    samples = jax.jit(generate, static_argnums=2)(fitted, key, config.num_samples)
    judge("a generator by energy distance", 1, samples, steps)


def table(figures: dict[str, Any]) -> str:
    """A row for each method and number of calls."""
    lines = [f"{'':32} calls   steps {'energy distance':>20} {'sliced W_2':>18} {'classifier':>18}"]
    one = len(figures["config"]["seeds"]) == 1  # whose standard error is unknown
    for row in figures["rows"]:
        parts = [
            f"{row[judge]['mean']:.{digits}f}" if one else show(row[judge], digits)
            for judge, digits in zip(JUDGES, (4, 3, 3), strict=True)
        ]
        name, calls, steps = row["name"], row["calls"], row["steps"] or "-"
        lines.append(f"{name:32} {calls:5d} {steps:>7} {parts[0]:>20} {parts[1]:>18} {parts[2]:>18}")
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: Any) -> None:
    """Sliced W_2 by calls, a line for each method, and what has none or one as a level."""
    rows = figures["rows"]
    lines = 0
    for name in dict.fromkeys(row["name"] for row in rows):
        own = sorted((row["calls"], row["sliced"]["mean"]) for row in rows if row["name"] == name)
        if len(own) == 1:
            axes.axhline(own[0][1], linestyle=":", color="gray")
            axes.text(40, own[0][1], name, ha="right", va="bottom", fontsize=6, color="gray")
            continue
        style = "--" if name.startswith("denoiser") else ("-", "-.")[lines // 10]
        axes.plot(*zip(*own, strict=True), style, color=f"C{lines % 10}", marker=".", label=name)
        lines += 1
    axes.set(xscale="log", yscale="log", xlabel="calls", ylabel="sliced W_2", title=figures["config"]["law"])
    axes.set_xticks([1, 2, 4, 8, 40], labels=["1", "2", "4", "8", "40"])
    axes.minorticks_off()
    axes.set_yticks([0.05, 0.1, 0.2, 0.5], labels=["0.05", "0.1", "0.2", "0.5"])
    axes.legend(fontsize=5)
