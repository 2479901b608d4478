"""What samplers leave with exact conditionals: a language of pairs, by the number of denoiser calls.

The total variation between the law of two neighbouring characters in samples and the true one, and the bits a
character that the true law gives to the samples above its entropy: a sampler that is bold has less, below
zero, one that errs more. The denoiser is exact, so that all of it is the sampler's. Controls: as many draws
of the law itself, whose total variation is what is left by chance, and the characters of each draw from
independent laws. `Corrected` makes three calls a step; `first_hitting` one for each token, whatever the grid.

MEASURED, one busy core of an AMD EPYC (2026-11-29), total variation at 6, 12 and 24 calls; by chance .0115,
characters alone .435: masked ancestral .069, .034, .021 (Euler's steps are the same under this schedule),
tau-leaping .073, .036, .020; corrected, at 7, 13, 25, .091, .051, .028; remasking .069, .039, .023; uniform
ancestral .085, .038, .019, Euler .094, .041, .020, tau-leaping .108, .054, .025, corrected .154, .084, .040.
As many tokens at a time as the schedule says, in a random order, .050, .016, .010, and first hitting, 16
calls, .010: both are best. By margin .098, .041, .009 and by entropy .219, .090, .010: with exact
conditionals an order loses until tokens come one by one. By the probability of the token drawn .541, .594,
.621, the more calls the worse, at .69 bits a character below the entropy: it takes what is likely, and is
another law.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.discrete import languages
from experiments.estimates import mean, show
from jaxdiff import jumps
from jaxdiff.typing import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORDERS = "probability", "margin", "entropy", "random"
SAMPLERS: dict[str, dict[str, tuple[jumps.JumpSampler, int]]] = {
    "masking": {
        "ancestral": (jumps.Ancestral(), 1),
        "Euler": (jumps.Euler(), 1),
        "tau-leaping": (jumps.TauLeaping(), 1),
        "corrected": (jumps.Corrected(), 3),
        "remasking .1": (jumps.Remasking(0.1), 1),
        **{f"confident, {order}": (jumps.Confident(order), 1) for order in ORDERS},
    },
    "uniform": {
        "ancestral": (jumps.Ancestral(), 1),
        "Euler": (jumps.Euler(), 1),
        "tau-leaping": (jumps.TauLeaping(), 1),
        "corrected": (jumps.Corrected(), 3),
    },
}
"""With the denoiser calls of a step."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes; the language is that of the part on languages."""

    calls: tuple[int, ...] = (6, 12, 24)
    samples: int = 4000
    language: languages.Config = dataclasses.field(default_factory=languages.Config)
    seed: int = 1


def smoke() -> Config:
    """The same in seconds."""
    return Config(calls=(3,), samples=50, language=languages.smoke())


def run(config: Config) -> dict[str, Any]:
    """Rows of what is left, by the way and the calls."""
    law = languages.laws(config.language)["pairs"]
    key, length = jax.random.key(config.seed), law.length
    pairs = np.asarray(law.initial)[:, None] * np.asarray(law.transition)
    entropy = -np.asarray(law.log_prob(law.sample(jax.random.key(config.seed + 1), 100_000))).mean()
    rows = []

    def row(process: str, way: str, calls: int | None, x: Array) -> None:
        pairs_of_x = np.asarray(x)[:, :-1] * len(pairs) + np.asarray(x)[:, 1:]
        got = np.bincount(pairs_of_x.reshape(-1), minlength=pairs.size) / pairs_of_x.size
        # A pair that the law has not has no logarithm: it costs what the least likely one costs, and more.
        log_p = np.maximum(np.asarray(law.log_prob(x), np.float64), -30.0 * length)
        rows.append(
            {
                "process": process,
                "way": way,
                "calls": calls,
                "total_variation": 0.5 * float(np.abs(got - pairs.reshape(-1)).sum()),
                "bits_above": mean((-log_p - entropy) / (length * math.log(2))),
            }
        )

    row("none", "the law itself", None, law.sample(key, config.samples))
    alone = jnp.broadcast_to(law.initial, (config.samples, length, len(pairs)))
    row("none", "characters alone", None, jumps.categorical(key, alone))
    masked = law.denoiser(jumps.Masking(len(pairs)))
    row("masking", "first hitting", length, jumps.first_hitting(key, masked, config.samples))
    for kind, samplers in SAMPLERS.items():
        denoise = law.denoiser(languages.PROCESSES[kind](len(pairs)))
        for way, (sampler, per_step) in samplers.items():
            for calls in config.calls:
                # The last step is one call with every sampler.
                steps = max(1, round((calls - 1) / per_step) + 1)
                x = jumps.sample(key, denoise, config.samples, sampler=sampler, num_steps=steps)
                row(kind, way, per_step * (steps - 1) + 1, x)
    bits = float(entropy / (length * math.log(2)))
    return {"config": dataclasses.asdict(config), "entropy": bits, "rows": rows}


def table(figures: dict[str, Any]) -> str:
    """What each way leaves."""
    lines = [f"{'process':9} {'way':24} calls   variation of pairs   bits a character above the entropy"]
    lines += [
        f"{row['process']:9} {row['way']:24} {row['calls'] or '-':>5} {row['total_variation']:18.4f} "
        f"{show(row['bits_above'], 4):>32}"
        for row in figures["rows"]
    ]
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Total variation against calls, each line named at its end."""
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in figures["rows"]:
        if row["calls"] is not None:
            lines.setdefault((row["process"], row["way"]), []).append((row["calls"], row["total_variation"]))
    same = {("masking", "Euler"), ("uniform", "Euler")}  # as ancestral, under this schedule or nearly so
    lines = {name: points for name, points in lines.items() if name not in same}
    ends = sorted(lines, key=lambda name: lines[name][-1][1])
    height = -math.inf
    for name in ends:
        points = lines[name]
        color = "C1" if name[0] == "uniform" else "C2" if "confident" in name[1] else "C0"
        axes.loglog(*zip(*points, strict=True), marker=".", color=color, lw=1.2, alpha=0.8)
        # Names one below another where lines end together.
        height = max(math.log(points[-1][1]), height + 0.22)
        said = name[1].replace("confident,", "by").replace("by random", "random order")
        axes.annotate(
            f"{said}, {name[0]}", points[-1], (30, math.exp(height)), textcoords="data", fontsize=6.5,
            va="center", color=color, arrowprops={"arrowstyle": "-", "color": color, "lw": 0.4, "alpha": 0.5},
        )  # fmt: skip
    floor = figures["rows"][0]["total_variation"]
    axes.axhline(floor, color="gray", lw=0.8, ls=":")
    axes.text(figures["config"]["calls"][0], 0.93 * floor, "by chance", fontsize=6.5, color="gray", va="top")
    calls = figures["config"]["calls"]
    axes.set_xlim(0.9 * min(calls), 100)
    axes.set_xticks(calls, map(str, calls))
    axes.minorticks_off()
    axes.set(xlabel="denoiser calls", ylabel="total variation of pairs", title="Samplers, exact conditionals")
