"""Text by characters: the topics of Python's own help, by diffusion and one character after another.

The text is `pydoc_data.topics` of the Python that runs this, in 26 letters and the space. Some topics are
held out whole, and paragraphs that they share with others are taken from the others. On the held-out topics,
in windows that hear nothing of what was before: bounds of log p by masked and by uniform diffusion, and log p
of the same network trained on as many windows one character after another; bits a character, with standard
errors over windows, and differences paired over windows. Controls: counts of the best order on paragraphs
kept back (`grams`), in the same windows; gzip and lzma of the held-out topics after all of the training text.

Samples are judged by what the control by counts, which is no network, gives them: bits a character, less of
them for more likely text. A sampler that repeats itself has less as well, so beside them stand the entropy of
a character given the one before among the samples, which must not fall below the text's, and the share of
words that are in the training text. The held-out text and samples one character after another are judged
beside.

Training is stopped where windows that are kept back are best, of ten times, and the counts' order is chosen
on them. Settings were not compared.

MEASURED with the topics of Python 3.11, 4,000 steps of 32 windows of 64 characters, 24 minutes of one busy
core of an AMD EPYC (2026-11-29), one training each, bits a character: one after another 1.898 +- .028 (of
3,600 steps), counts of 5 characters 1.916 +- .027, lzma 1.712, gzip 2.098, both of which hear all before;
masking at most 2.973 +- .018 and uniform jumps at most 2.905 +- .016, both of all steps. So at one size and
as many steps diffusion is a bit a character above one after another, and a table of counts is far better than
it.

Samples, judged, at 4, 16 and 64 calls: masked ancestral 7.17, 6.34, 6.06, in a random order 7.07, 6.19, 5.89,
by entropy 8.24, 7.33, 5.67; uniform ancestral 7.22, 5.93, 5.49; first hitting, 64 calls, 5.89; errors .05 to
.06. One after another 1.85 +- .04, held-out text 1.89 +- .06. First hitting has no error of steps, so four
bits are the network's; ancestral steps leave .2 to .5 beside them at 16 calls. No sampler has less entropy of
pairs than the text, 3.26 (3.31 by entropy at 64 calls is the least, 3.28 one after another), and of words .20
to .34 are known, of the text's .94.
"""

import dataclasses
import gzip
import lzma
import math
import re
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.discrete import fitting, grams
from experiments.estimates import mean, show
from jaxdiff import jumps
from jaxdiff.typing import Array, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
PROCESSES = {"masking": jumps.Masking(len(ALPHABET)), "uniform": jumps.Uniform(len(ALPHABET))}
SAMPLERS: dict[str, dict[str, jumps.JumpSampler]] = {
    "masking": {
        "ancestral": jumps.Ancestral(),
        "random order": jumps.Confident("random"),
        "by entropy": jumps.Confident("entropy"),
    },
    "uniform": {"ancestral": jumps.Ancestral()},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes; seed is of the topics held out, the draws and the networks."""

    fit: fitting.Fit = dataclasses.field(
        default_factory=lambda: fitting.Fit(
            num_heads=2, dropout=0.1, learning_rate=3e-3, batch_size=32, steps=4000, ema_decay=0.995
        )
    )
    length: int = 64
    share: float = 0.12
    windows: int = 600
    kept_back: int = 256
    num_times: int = 32
    calls: tuple[int, ...] = (4, 8, 16, 32, 64)
    samples: int = 128
    seed: int = 0


def smoke() -> Config:
    """The same in seconds."""
    small = fitting.Fit(width=16, num_blocks=1, num_heads=2, batch_size=8, steps=5)
    return Config(fit=small, length=16, windows=16, kept_back=8, num_times=2, calls=(2,), samples=4)


def corpus(seed: int, share: float) -> tuple[list[str], dict[str, str]]:
    """Paragraphs to train on, each once, and held-out topics by name, at least a share of all characters."""
    names = np.random.default_rng(seed).permutation(sorted(topics)).tolist()
    sizes = np.cumsum([len(topics[name]) for name in names])
    cut = 1 + int(np.searchsorted(sizes, share * sizes[-1]))
    paragraphs = {name: [folded(part) for part in topics[name].split("\n\n")] for name in names}
    held_out = {part for name in names[:cut] for part in paragraphs[name]}
    # What several topics share comes once.
    others = dict.fromkeys(part for name in sorted(names[cut:]) for part in paragraphs[name])
    return [part for part in others if part and part not in held_out], {
        name: folded(topics[name]) for name in names[:cut]
    }


def folded(text: str) -> str:
    """In letters of one case and single spaces."""
    return re.sub("[^a-z]+", " ", text.lower()).strip()


def encoded(text: str) -> np.ndarray:
    """Its characters' numbers in the alphabet."""
    return np.asarray([ALPHABET.index(letter) for letter in text], np.int32)


def decoded(x: Any, mask: str = "") -> str:
    """The text of numbers; mask stands for the one after the last."""
    return "".join((ALPHABET + mask)[number] for number in np.asarray(x))


def compressed(compress: Any, train: str, held_out: str) -> float:
    """Bits a character of the held-out text after the other."""
    size = len(compress(f"{train} {held_out}".encode())) - len(compress(train.encode()))
    return 8 * size / len(held_out)


def run(config: Config) -> dict[str, Any]:
    """Rows of bits a character, rows of what samplers leave, samples, and how one of them came."""
    paragraphs, topics_held_out = corpus(config.seed, config.share)
    train, length, n = " ".join(paragraphs), config.length, len(ALPHABET)
    x = encoded(" ".join(topics_held_out.values()))
    x = x[: len(x) // length * length].reshape(-1, length)
    x = x[np.random.default_rng(config.seed).permutation(len(x))[: config.windows]]
    own, kept_back = np.split(encoded(train), [-config.kept_back * length])
    counts = grams.best(own[None], kept_back[None], range(1, 9), n)
    kept_back = jnp.asarray(kept_back.reshape(-1, length))

    def batch(key: Key) -> Array:
        first = jax.random.randint(key, (config.fit.batch_size,), 0, len(own) - length)
        return jnp.asarray(own)[first[:, None] + jnp.arange(length)[None]]

    after = fitting.autoregressive(config.fit, n, length, batch, config.seed, kept_back=kept_back)
    key = jax.random.key(config.seed + 1)
    found = {"characters alone": grams.counted(own[None], 1, n).log_prob(x).sum(1)}
    found[f"counts of {counts.order}"] = counts.log_prob(x).sum(1)
    found["one after another"] = np.asarray(after(jnp.asarray(x)), np.float64)
    denoisers = {}
    for way, process in PROCESSES.items():
        denoisers[way] = fitting.diffusion(
            config.fit, process, length, batch, config.seed, kept_back=kept_back
        )
        bound = jumps.log_bound(key, denoisers[way], jnp.asarray(x), num_times=config.num_times)
        found[way] = np.asarray(bound.value, np.float64)
    per, last = -1 / (length * math.log(2)), found["one after another"]
    rows = [
        {"way": way, "bits": mean(per * log_p), "above": mean(per * (log_p - last))}
        for way, log_p in found.items()
    ]
    whole = " ".join(topics_held_out.values())
    sizes = {
        "gzip": compressed(gzip.compress, train, whole),
        "lzma": compressed(lambda data: lzma.compress(data, preset=9), train, whole),
    }
    words = set(train.split())
    judged, samples = [], {}

    def judge(process: str, way: str, calls: int | None, x: Any) -> None:
        x = np.asarray(x)
        inner = [word for row in x for word in decoded(row).split(" ")[1:-1] if word]
        judged.append(
            {
                "process": process,
                "way": way,
                "calls": calls,
                "bits": mean(per * counts.log_prob(x).sum(1)),
                "entropy": conditional_entropy(x),
                "words": sum(word in words for word in inner) / max(len(inner), 1),
            }
        )

    judge("none", "held-out text", None, x[: config.samples])
    drawn = after.sample(key, config.samples)
    judge("none", "one after another", length, drawn)
    samples["one after another"] = [decoded(row) for row in drawn[:4]]
    hits = jumps.first_hitting(key, denoisers["masking"], config.samples)
    judge("masking", "first hitting", length, hits)
    samples["masking"] = [decoded(row) for row in hits[:4]]
    for process, samplers in SAMPLERS.items():
        for way, sampler in samplers.items():
            for calls in config.calls:
                drawn = jumps.sample(
                    key, denoisers[process], config.samples, sampler=sampler, num_steps=calls
                )
                judge(process, way, calls, drawn)
    samples["uniform"] = [decoded(row) for row in drawn[:4]]
    path = np.asarray(jumps.draw_paths(key, denoisers["masking"], 1, num_steps=max(config.calls)))[0]
    return {
        "config": dataclasses.asdict(config),
        "characters": {"train": len(train), "held_out": len(whole)},
        "held_out": list(topics_held_out),
        "rows": rows,
        "compressed": sizes,
        "judged": judged,
        "samples": samples,
        "path": [decoded(row, "_") for row in path],
    }


def conditional_entropy(x: np.ndarray) -> float:
    """Bits of a character given the one before, by their counts in rows x."""
    pairs = np.zeros((len(ALPHABET),) * 2)
    np.add.at(pairs, (x[:, :-1].reshape(-1), x[:, 1:].reshape(-1)), 1)
    chances = pairs / np.maximum(pairs.sum(1, keepdims=True), 1)
    logarithms = np.log2(np.where(chances > 0, chances, 1.0))
    return float(-(pairs * logarithms).sum() / pairs.sum())


def table(figures: dict[str, Any]) -> str:
    """Bits a character of held-out topics; what the judge says of samples; some of them."""
    lines = ["way                    bits a character    above one after another"]
    lines += [
        f"{row['way']:18} {show(row['bits'], 3):>20} {show(row['above'], 3):>26}" for row in figures["rows"]
    ]
    lines += [f"{name:18} {bits:11.3f}" for name, bits in figures["compressed"].items()]
    lines += ["", "samples of         by                 calls    bits judged     entropy   words known"]
    lines += [
        f"{row['process']:18} {row['way']:18} {row['calls'] or '-':>5} {show(row['bits'], 3):>18} "
        f"{row['entropy']:8.3f} {row['words']:10.2f}"
        for row in figures["judged"]
    ]
    lines += ["", *(f"{way:18} {text}" for way, texts in figures["samples"].items() for text in texts)]
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Bits of samples by calls; below, a text as it comes, each character of the colour of its time."""
    axes.set_axis_off()
    axes.set_title("Text by characters")
    top = axes.inset_axes((0.1, 0.56, 0.88, 0.44))
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in figures["judged"]:
        if row["calls"] is not None and row["way"] not in ("one after another", "first hitting"):
            name = f"{row['process']}, {row['way']}"
            lines.setdefault(name, []).append((row["calls"], row["bits"]["mean"]))
    for name, points in lines.items():
        top.semilogx(*zip(*points, strict=True), marker=".", label=name)
    for row in figures["judged"]:
        place = {"held-out text": 0.7, "one after another": 0.99}.get(row["way"])
        if place:
            top.axhline(row["bits"]["mean"], color="gray", lw=0.7, ls=":")
            top.annotate(
                row["way"], (place, row["bits"]["mean"]), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize=6, color="gray",
            )  # fmt: skip
    top.set_xticks(figures["config"]["calls"], map(str, figures["config"]["calls"]))
    top.minorticks_off()
    top.set_xlabel("denoiser calls", fontsize=7, labelpad=0)
    top.set_ylabel("bits judged", fontsize=7)
    top.tick_params(labelsize=7)
    top.legend(fontsize=6, frameon=False)
    path = figures["path"]
    shown = np.linspace(0, len(path) - 1, 6).round().astype(int)
    for line, at in enumerate(shown):
        for place, letter in enumerate(path[at]):
            came = next(number for number, text in enumerate(path) if text[place] != "_")
            axes.text(
                (place + 0.5) / len(path[0]), 0.38 - 0.075 * line, "·" if letter == "_" else letter,
                transform=axes.transAxes, family="monospace", fontsize=6.5, ha="center",
                color="lightgray" if letter == "_" else _colour(came / len(path)),
            )  # fmt: skip


def _colour(share: float) -> tuple[float, ...]:
    from matplotlib import colormaps

    return colormaps["plasma"](0.85 * share)
