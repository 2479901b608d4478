"""What a run is, by name, and its options as flags.

A config is frozen, made of numbers and names, and holds one Flax module, whose fields are options too: what
`UNet` takes is said in one place. ``--steps 1000 --model.channels 64`` changes it; `flags` says what there
is.
"""

import ast
import dataclasses
import difflib
import inspect
import json
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn

from experiments import runs
from jaxdiff._numerics import checks
from jaxdiff.learning import ema
from jaxdiff.models import DiffusionTransformer, ResidualMLP, UNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run. The schedule is EDM's, sigma = t: a network in its row is not shown it, and serves any other.

    Raises ValueError for numbers out of range.
    """

    dataset: Literal["digits", "patches", "cifar10", "mnist"]
    model: nn.Module
    """bf16 is ``--model.dtype bfloat16``; dropout, rematerialization and attention are fields of it too.

    A config's own bfloat16 is float32 on CPUs, `in_single_precision`, unless the flag says it again.
    """
    shown: Literal["vectors", "images"] = "images"
    """What the model takes: rows of d numbers, or (height, width, channels)."""
    gaussian: Literal["full", "stationary"] = "stationary"
    """The covariance of the Gaussian beside the model; "stationary" depends on differences of places only."""
    reference: bool = True
    """The model learns what that Gaussian leaves over, and is shown the noise that it makes out."""
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    """The noise levels, in units of the data's standard deviation."""
    weight: Literal["likelihood", "edm"] = "likelihood"
    """Levels even in log sigma and errors measured in noise; or EDM's log-normal law of levels and weight."""
    objective: Literal[
        "denoising",
        "mean_flow",
        "improved_mean_flow",
        "shortcut",
        "consistency",
        "continuous_consistency",
        "moment_matching",
    ] = "denoising"
    """A denoiser, or a flow map by a loss of `jaxdiff.maps`, which has times and a weight of its own."""
    curriculum: int = 1000
    """Steps after which consistency halves its own, and in which the continuous one lets in its tangent."""
    bootstrap: float = 0.0
    """How much of the target comes from the average at half the noise, in [0, 1]."""
    bootstrap_after: int = 500
    """Steps before the average is listened to."""
    pool: int = 0
    """Training images, drawn anew at each step, of whose posterior the target is made; 0: none."""

    seed: int = 0
    steps: int
    batch_size: int
    """Of all devices and processes together."""
    num_microbatches: int = 1
    """Parts of a batch that are gone through one after another, in a part of the memory."""
    learning_rate: float
    warm_up: int = 200
    """Steps in which the rate grows from 0."""
    decay_after: int | None = None
    """Steps after which the rate falls as 1 / sqrt(step); none: it stays. Neither needs to know the end."""
    weight_decay: float = 0.0
    """Of matrices, in units of the learning rate."""
    ema_widths: tuple[float, ...] = (0.1, 0.05)
    """Relative widths of the averages kept (`ema.power_function`); the first is sampled and evaluated."""
    flip: bool = False
    """Mirror half of the training images."""

    engine: Literal["jit", "pmap"] = "jit"
    fully_sharded: bool = False
    slices: int = 1
    """Machines of fast links, joined by slow ones: a state is spread within each."""
    tensor_parallel: int = 1
    """Devices that share the heads and hidden units of a row; of a transformer."""
    steps_per_dispatch: int = 20
    """Steps between two lines of the log, and two looks at a signal."""
    save_every: int
    """Steps between two checkpoints, each with a grid of samples."""
    local_every: int = 100
    """Steps between two states in --local."""

    start: Literal["plain", "gaussian", "mixture"] = "plain"
    """The law that sampling starts from at `horizon`, fitted to noised data (`jaxdiff.sampling.starts`)."""
    horizon: float = 80.0
    grid_steps: int = 18
    """Heun's, of the grids of samples: two calls of the model each."""
    sample_steps: int = 32
    num_samples: int = 346
    evaluation_rows: int = 346
    evaluations: int = 64
    """Calls of the model for the log-density of a held-out image."""

    def __post_init__(self) -> None:
        for name in (
            "steps", "batch_size", "num_microbatches", "steps_per_dispatch", "save_every", "grid_steps",
            "sample_steps", "slices", "tensor_parallel", "local_every",
        ):  # fmt: skip
            checks.integer(name, getattr(self, name), 1)
        for name in ("seed", "bootstrap_after", "pool", "warm_up"):
            checks.integer(name, getattr(self, name), 0)
        for name in ("num_samples", "evaluation_rows"):
            checks.integer(name, getattr(self, name), 2)
        if self.decay_after is not None:
            checks.integer("decay_after", self.decay_after, 1)
        checks.integer("evaluations", self.evaluations, 20)
        checks.positive("learning_rate", self.learning_rate)
        checks.positive("sigma_min", self.sigma_min)
        checks.ordered("sigma_min", self.sigma_min, "horizon", self.horizon)
        checks.within("horizon", self.horizon, 0.0, self.sigma_max)
        checks.within("bootstrap", self.bootstrap, 0.0, 1.0)
        checks.within("weight_decay", self.weight_decay, 0.0, float("inf"))
        checks.integer("curriculum", self.curriculum, 1)
        self._check_objective()
        if not self.ema_widths:
            raise ValueError("ema_widths must hold at least one width, got none; 0.1 is usual.")
        for width in self.ema_widths:
            ema.exponent(width)

    @property
    def by_tangent(self) -> bool:
        """Whether the objective takes the network's derivative in forward mode."""
        return self.objective in ("mean_flow", "improved_mean_flow", "continuous_consistency")

    def _check_objective(self) -> None:
        if self.objective == "denoising":
            return
        if self.bootstrap or self.pool:
            raise ValueError(
                f"objective {self.objective} has a target of its own; bootstrap and pool are of denoising."
            )
        kernel = getattr(self.model, "attention", None)
        if self.by_tangent and kernel in ("cudnn", "flash"):
            raise ValueError(
                f"objective {self.objective} needs the network's derivative in forward mode, which attention "
                f"by {kernel} has not; use --model.attention xla, or the objective shortcut, consistency or "
                "moment_matching."
            )


CONFIGS = {
    # Seconds for a thousand steps: to see the machinery at work. What the digits' levels give is in
    # `experiments.quickstart`, whose 1.83 bits per dimension this does not reach.
    "digits": Config(
        dataset="digits",
        model=ResidualMLP(width=256, num_blocks=2, dropout=0.1),
        shown="vectors",
        gaussian="full",
        steps=4000,
        batch_size=128,
        learning_rate=1e-3,
        weight_decay=0.1,
        save_every=1000,
        evaluation_rows=360,
        num_samples=360,
        evaluations=512,
    ),
    # Half an hour on one core is 60,000 images, three times the set: what decides is how much one look at a
    # patch teaches. Hence the reference, which knows all that is linear before the first step, and a U-Net as
    # small as it can be and still see all of a patch. MEASURED (29 minutes on one shared core of an AMD EPYC,
    # 3,620 steps, jax 0.12.0.1, 2026-11-22): 3.20 +- 0.06 bits per dimension held out, 4.66 of the Gaussian;
    # Frechet distance of samples 15.2, of the Gaussian's 16.0, of training images 14.0: with 346 of each it
    # hardly tells them apart. The error is over patches, which share seven photographs. Sizes and rates were
    # set by reason and by the training loss of the first minutes.
    "patches": Config(
        dataset="patches",
        model=UNet(channels=24, channel_multipliers=(1, 2, 2), blocks_per_level=1),
        steps=4000,
        batch_size=16,
        learning_rate=2e-3,
        decay_after=1000,
        flip=True,
        save_every=1000,
    ),
    # The same by a transformer on patches of 4 x 4 pixels: all its work is in large products, for which
    # accelerators are made.
    "patches-transformer": Config(
        dataset="patches",
        model=DiffusionTransformer(patch_size=4, width=192, num_blocks=6, num_heads=4),
        steps=4000,
        batch_size=16,
        learning_rate=1e-3,
        decay_after=1000,
        flip=True,
        save_every=1000,
    ),
    # For accelerators: 10 million images, EDM's weight, since here samples matter more than bits. Not run
    # where this was written.
    "cifar10": Config(
        dataset="cifar10",
        model=UNet(
            channels=128, channel_multipliers=(1, 2, 2), attention_levels=(1,), dropout=0.1, dtype="bfloat16"
        ),
        reference=False,
        weight="edm",
        steps=100_000,
        batch_size=512,
        learning_rate=1e-3,
        warm_up=2000,
        decay_after=20_000,
        flip=True,
        steps_per_dispatch=50,
        save_every=5000,
        num_samples=10_000,
        evaluation_rows=10_000,
    ),
}


def smoke(config: Config) -> Config:
    """The same run on digits, at a size for tests."""
    return dataclasses.replace(
        config,
        dataset="digits",
        steps=6,
        batch_size=16,
        steps_per_dispatch=3,
        save_every=6,
        grid_steps=2,
        sample_steps=2,
        num_samples=64,
        evaluation_rows=32,
        evaluations=20,
    )


MAY_CHANGE = (
    "steps", "engine", "fully_sharded", "slices", "tensor_parallel", "steps_per_dispatch", "save_every",
    "local_every", "start", "horizon", "grid_steps", "sample_steps", "num_samples", "evaluation_rows",
    "evaluations",
)  # fmt: skip
"""What a run may be resumed with other values of: nothing that is learned depends on it."""


def as_dict(config: Config) -> dict[str, Any]:
    """The config as JSON can hold it, with the model's name beside its fields."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    model = {name: value for name, (_, value) in _options_of_model(config).items()}
    return values | {"model": {"name": type(config.model).__name__, **model}}


def identity(config: Config) -> dict[str, Any]:
    """The part of `as_dict` that a checkpoint must agree with."""
    values = as_dict(config)
    if "scan" in values["model"]:
        values["model"]["scan"] = False  # a state of either form goes on in the other
    # As it was called in the checkpoints of before it had names.
    if (remat := values["model"].get("remat")) in ("none", "blocks"):
        values["model"]["remat"] = remat == "blocks"
    return runs.identity({name: value for name, value in values.items() if name not in MAY_CHANGE})


def flags(config: Config) -> dict[str, tuple[Callable[[str], Any], Any]]:
    """By name, ``steps`` or ``model.channels``: how its text is read, and its value in the config."""
    own = {f.name: (f.type, getattr(config, f.name)) for f in dataclasses.fields(config) if f.name != "model"}
    model = {f"model.{name}": option for name, option in _options_of_model(config).items()}
    return {name: (_reader(kind), value) for name, (kind, value) in (own | model).items()}


SECTIONS = {
    "dataset": "what is learnt",
    "seed": "training",
    "engine": "devices and checkpoints",
    "start": "samples and evaluation",
    "model.": "the model",
}
"""Groups of options in the help, by the name that each begins with."""


def meanings() -> dict[str, str]:
    """What is said of each field of a `Config` below it, by name."""
    (body,) = ast.parse(inspect.getsource(Config)).body
    said, name = {}, ""
    for node in typing.cast(ast.ClassDef, body).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            said[name] = " ".join(str(node.value.value).split())
    return said


def from_file(config: Config, path: pathlib.Path) -> dict[str, Any]:
    """Values under the names of `flags` from a JSON file: {"steps": 1000, "model.channels": 32}.

    Or from a run's figures.json, whose config they then are. Raises ValueError for what is no such object,
    for a name that is no option, and for a value that is none of its option's.
    """
    try:
        given = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON, an object of options: {error}.") from error
    if isinstance(given, dict) and isinstance(given.get("config"), dict):
        given = given["config"]
    if not isinstance(given, dict):
        raise ValueError(f"{path} must hold an object of options, got {type(given).__name__}.")
    model = given.pop("model", {})
    if name := model.pop("name", None):
        runs_here = type(config.model).__name__
        if name != runs_here:
            raise ValueError(f"{path} is of a {name}, and this config of a {runs_here}; name that config.")
    given |= {f"model.{name}": value for name, value in model.items()}
    known, values = flags(config), {}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ValueError(f"{path} has the unknown option {name}; near it: {', '.join(near) or 'none'}.")
        try:
            values[name] = known[name][0](_as_text(value))
        except (KeyError, ValueError) as error:
            kind = known[name][0].__name__
            raise ValueError(f"{path} has {name} = {value!r}, which is no {kind}.") from error
    return values


def _as_text(value: Any) -> str:
    """As the command line would have it."""
    if isinstance(value, list):
        return ",".join(map(_as_text, value))
    return "none" if value is None else str(value)


def overridden(config: Config, values: dict[str, Any]) -> Config:
    """The config with other values under the names of `flags`."""
    prefix = "model."
    model = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    own = {name: value for name, value in values.items() if not name.startswith(prefix)}
    return dataclasses.replace(config, model=config.model.clone(**model), **own)


def in_single_precision(config: Config) -> Config:
    """The config, with float32 where its model has bfloat16, which takes CPUs ten to twenty times as long."""
    dtype = getattr(config.model, "dtype", None)
    if dtype is None or jnp.dtype(dtype) != jnp.bfloat16:
        return config
    return dataclasses.replace(config, model=config.model.clone(dtype="float32"))


def _options_of_model(config: Config) -> dict[str, tuple[Any, Any]]:
    fields = [f for f in dataclasses.fields(config.model) if f.name not in ("parent", "name")]
    return {f.name: (f.type, getattr(config.model, f.name)) for f in fields}


def _reader(kind: Any) -> Callable[[str], Any]:
    """A function of the text of a flag; its name is what argparse calls the type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in (int, float, str):
        return kind
    if kind is bool:
        return _named("bool", lambda text: {"true": True, "false": False}[text.lower()])
    if origin is Literal:
        return _named(
            f"choice of {', '.join(inner)}", lambda text: dict(zip(inner, inner, strict=True))[text]
        )
    if origin is tuple:
        of_one = _reader(inner[0])
        return _named(
            f"{of_one.__name__},{of_one.__name__},...",
            lambda text: tuple(of_one(part) for part in text.split(",") if part),
        )
    if origin in (types.UnionType, typing.Union) and type(None) in inner:
        others = [one for one in inner if one is not type(None)]
        # What else has several types in a model is a dtype.
        of_one = (
            _reader(others[0]) if len(others) == 1 else _named("dtype", lambda text: jnp.dtype(text).name)
        )
        return _named(
            f"{of_one.__name__} or none", lambda text: None if text.lower() == "none" else of_one(text)
        )
    raise TypeError(f"Options of type {kind} cannot be read from the command line.")


def _named(name: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    def named(text: str) -> Any:
        try:
            return read(text)
        except (KeyError, TypeError) as error:
            raise ValueError(name) from error

    named.__name__ = name
    return named
