"""What an accelerator's own compiler says of a program: does it fit, what does it compute, move and send.

    where = topology("v5e-8")                                      # no such device is needed
    layout = Layout(data_mesh(where.devices), fully_sharded=True)
    batch = jax.ShapeDtypeStruct((128, 32, 32, 3), jnp.float32, sharding=layout.by_rows)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=layout.replicated)
    traced = jax.jit(data_parallel(step, layout), donate_argnums=1).trace(key, layout.like(init), batch)
    print(program(traced, where))

The compilers run on an ordinary machine: libtpu, of the extra ``tpu-compile``, and the CUDA plugin, of
``gpu-compile``. Set ``JAX_PLATFORMS=cpu`` where they are installed and no such device is. Whatever is said
here is a count, not a measurement: no program takes less time than `Program.bounds`, and how much more it
takes only a device can tell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from jaxdiff._numerics import checks
from jaxdiff.running import work


class Chip(NamedTuple):
    """A device by its maker's figures."""

    flops: float
    """Multiplications and additions in bfloat16 a second."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second between memory and cores."""
    link: float
    """Bytes a second that it can send to its neighbours, one way."""


CHIPS = {
    # https://cloud.google.com/tpu/docs/v4 and so on: HBM; half of the bidirectional interconnect.
    "v4": Chip(275e12, 32e9, 1228e9, 150e9),
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip(918e12, 32e9, 1640e9, 400e9),
    # NVIDIA's data sheets: dense bfloat16; half of NVLink's total.
    "a100": Chip(312e12, 80e9, 2039e9, 300e9),
    "h100": Chip(989e12, 80e9, 3352e9, 450e9),
    "h200": Chip(989e12, 141e9, 4800e9, 450e9),
}
"""Peaks by name. Lower ones, of other models or clocks, make a bound no less true."""

_SAID = {
    "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v6": "v6e",
    "A100": "a100", "H100": "h100", "H200": "h200",
}  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
    """By what jax says of a device, ``jax.devices()[0].device_kind``; None of others, such as a CPU.

    >>> from jaxdiff.running import programs
    >>> programs.chip_of("NVIDIA H100 80GB HBM3").flops
    989000000000000.0
    """
    return next((CHIPS[name] for said, name in _SAID.items() if said in device_kind), None)


_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_SOLID = {4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8)} | {
    256: (4, 8, 8),
    512: (8, 8, 8),
    1024: (8, 8, 16),
    2048: (8, 16, 16),
    4096: (16, 16, 16),
}
_CORES = {"v4": 2, "v5p": 2}  # a slice of these is named after its cores, two to a chip

# What the CUDA compiler asks of a device that is not there: compute capability, cores, memory in bytes.
_CUDA = {
    "a100": (8, 0, 108, 85e9, 167936),
    "h100": (9, 0, 132, 85e9, 233472),
    "h200": (9, 0, 132, 151e9, 233472),
}


class Topology(NamedTuple):
    """Devices of one kind, joined by links, which need not be there."""

    name: str
    chip: Chip
    devices: Sequence[Any]


def topology(name: str) -> Topology:
    """The devices of a slice as its seller names it: "v5e-256", "v5p-128" (of 64 chips), "h100-8".

    Of two such slices, joined by slower links: "v5e-256x2". Raises ValueError for a name that is none,
    ImportError where the compiler is not installed.
    """
    kind, _, size = name.partition("-")
    count, _, slices = size.partition("x")
    if kind not in CHIPS or not count.isdigit() or not (slices or "1").isdigit():
        raise ValueError(
            f"A topology is a device and a number, such as v5e-8, v5p-128 or h100-8, got {name!r}; the "
            f"devices are {', '.join(CHIPS)}."
        )
    chips = int(count) // _CORES.get(kind, 1)
    if kind in _CUDA:
        return Topology(name, CHIPS[kind], _gpus(kind, chips, int(slices or 1)))
    shapes = _SOLID if kind in _CORES else _FLAT
    if chips not in shapes:
        known = ", ".join(f"{kind}-{n * _CORES.get(kind, 1)}" for n in shapes)
        raise ValueError(f"There is no slice {name!r}; there are {known}.")
    # The compiler would look for a machine with such chips, and lock it.
    for variable, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }.items():
        os.environ.setdefault(variable, value)
    shape = "x".join(map(str, shapes[chips]))
    options: dict[str, Any] = {"topology_name": f"{kind}:{shape}"}
    options |= {"num_slices": int(slices)} if slices else {}
    return Topology(name, CHIPS[kind], _described("tpu", "tpu-compile", **options))


def _gpus(kind: str, number: int, slices: int) -> Sequence[Any]:
    major, minor, cores, memory, shared = _CUDA[kind]
    target = f"""gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32
      shared_memory_per_block: 49152 shared_memory_per_core: {shared} threads_per_core_limit: 2048
      core_count: {cores} fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
      block_dim_limit_z: 65535 memory_bandwidth: {CHIPS[kind].bandwidth:.0f} l2_cache_size: 41943040
      clock_rate_ghz: 1.4 device_memory_size: {memory:.0f} shared_memory_per_block_optin: {shared - 1024}
      cuda_compute_capability {{ major: {major} minor: {minor} }} registers_per_core_limit: 65536
      registers_per_block_limit: 65536 }} platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
      runtime_version {{ major: 13 }} device_description_str: "NVIDIA {kind.upper()}" """
    options = {"target_config": target, "topology": f"{slices}x1x{number}"}
    return _described("cuda", "gpu-compile", topology_name=kind, **options)


def _described(platform: str, extra: str, **options: Any) -> Sequence[Any]:
    try:
        return topologies.get_topology_desc(platform=platform, **options).devices
    except Exception as error:  # of many kinds, as the plugin is missing, is another's, or has no such device
        raise ImportError(
            f"The compiler for {platform.upper()} did not describe {options['topology_name']}: "
            f"{str(error).splitlines()[0]} Install it by pip install 'jaxdiff[{extra}]', and set "
            "JAX_PLATFORMS=cpu where no such device is."
        ) from error


class Collective(NamedTuple):
    """Operations of one kind, as they stand in a program; a loop repeats its own."""

    kind: str
    number: int
    bytes: int
    """Of all results on one device."""
    largest: int
    among: int | None = None
    """How many devices take part in each: those along an axis of the mesh, or along several; None: all."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program on each of its devices. Bytes and floating-point operations are of one device."""

    where: Topology
    seconds: float
    """That compiling took."""
    arguments: int
    """Bytes of what goes in, of which `aliased` are given back as results."""
    outputs: int
    aliased: int
    temporaries: int
    asked: float
    """Of products of matrices and convolutions as the program was given, with all turns of its loops."""
    flops: float
    """By the compiler, for whom the turns of a loop count once; NaN if it does not say, as CUDA's."""
    moved: float
    """Bytes that the compiler counts between operations, part of which stays on the chip; or NaN."""
    collectives: tuple[Collective, ...]

    @property
    def bytes(self) -> int:
        """What a device must hold at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries

    @property
    def fits(self) -> bool:
        """Whether its memory does."""
        return self.bytes <= self.where.chip.memory

    @property
    def sent(self) -> float:
        """Bytes that a device sends to its neighbours, if all go round rings."""

        def share(kind: str, n: int) -> float:
            rings = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1.0}
            return rings.get(kind, (n - 1) / n)

        return sum(share(c.kind, c.among or len(self.where.devices)) * c.bytes for c in self.collectives)

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds that a run takes at least: to compute; to read what goes in and write what comes out, once;
        to send. NaN where it is not known."""
        chip = self.where.chip
        return {
            "compute": max(self.asked, self.flops) / chip.flops,
            "memory": (self.arguments + self.outputs) / chip.bandwidth,
            "links": self.sent / chip.link,
        }

    @property
    def utilization(self) -> float:
        """The part of the peak that a run reaches at most, by `bounds`; of what is asked for."""
        longest = max(self.bounds.values())
        return self.asked / self.where.chip.flops / longest if longest else math.nan

    def __str__(self) -> str:
        chip, (compute, memory, links) = self.where.chip, self.bounds.values()
        lines = [
            f"{self.where.name}: {len(self.where.devices)} devices, compiled in {self.seconds:.0f} s",
            f"  memory     {self.bytes / 1e9:.2f} GB of {chip.memory / 1e9:g}: arguments "
            f"{self.arguments / 1e9:.2f}, temporaries {self.temporaries / 1e9:.2f}"
            + ("" if self.fits else "; IT DOES NOT FIT"),
            f"  counts     {self.asked:.3g} FLOP asked for, {self.flops:.3g} compiled, "
            f"{self.moved / 1e9:.2f} GB between operations, {self.sent / 1e9:.3f} GB sent; nan is "
            "what this compiler does not say",
            f"  at least   {1e3 * compute:.2f} ms of arithmetic, {1e3 * memory:.2f} of memory, "
            f"{1e3 * links:.2f} of links; at most {self.utilization:.0%} of the peak",
        ]
        lines += [
            f"  {c.kind:20} {c.number:4}  {c.bytes / 1e6:.2f} MB, the largest {c.largest / 1e6:.2f}"
            + (f", among {c.among}" if c.among else "")
            for c in self.collectives
        ]
        return "\n".join(lines)


def program(traced: Any, where: Topology) -> Program:
    """Compile what ``jax.jit(function).trace(...)`` answers, its arguments lying on where's devices.

    Raises MemoryError, in the compiler's words, where it refuses a program that does not fit.
    """
    began = time.perf_counter()
    try:
        with _not_kept():
            compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise MemoryError(f"The program does not fit {where.name}: {said}") from error
    seconds = time.perf_counter() - began
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Program(
        where=where,
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        asked=work.flops_of(traced.jaxpr) / len(where.devices),
        flops=cost.get("flops", math.nan),
        moved=cost.get("bytes accessed", math.nan),
        collectives=collectives(compiled.as_text()),
    )


@contextlib.contextmanager
def _not_kept() -> Iterator[None]:
    """No program is put into the compilation cache, from where one for other devices cannot be read."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    try:
        yield
    finally:
        jax.config.update(name, before)


_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(
    rf"= (?P<type>\(.*?\)|\S+) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\((?P<rest>.*)"
)
_ARRAY = re.compile(r"\b([a-z]+\d*)[a-z0-9]*\[([\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=\d+")
_GROUPS = re.compile(  # of three spellings: [groups,size], {{first},...}, mesh['axis'=size,...] {'axis',...}
    r"replica_groups=(?:\[\d+,(?P<size>\d+)\]|\{\{(?P<first>[\d,]+)\}"
    r"|mesh\[(?P<axes>[^\]]*)\][^{]*\{(?P<taken>[^}]*)\})"
)


def collectives(text: str) -> tuple[Collective, ...]:
    """The collectives in a compiled program's text, by kind and by how many devices take part.

    One that is spread over several computations stands there as often, under the number of its channel.
    """
    found: dict[tuple[str, int], list[int]] = {}
    seen = set()
    for match in _OPERATION.finditer(text):
        kind, arrays, channel = match["kind"], _ARRAY.findall(match["type"]), _CHANNEL.search(match["rest"])
        once = (kind, channel[0] if channel else match.start(), *arrays)
        if once in seen:
            continue
        seen.add(once)
        if match["start"] and kind in ("all-gather", "collective-permute", "reduce-scatter"):
            arrays = [array for array in arrays if array != ("u32", "")]  # flags of the permutation
            arrays = arrays[len(arrays) // 2 :]  # what goes in stands before what comes out
        found.setdefault((kind, _among(match["rest"])), []).append(sum(_bytes(*array) for array in arrays))
    return tuple(
        Collective(kind, len(b), sum(b), max(b), n or None) for (kind, n), b in sorted(found.items())
    )


def _among(rest: str) -> int:
    """The size of an operation's groups of devices, 0 where it does not say."""
    groups = _GROUPS.search(rest)
    if groups is None:
        return 0
    if groups["axes"] is None:
        return int(groups["size"] or groups["first"].count(",") + 1)
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups["axes"]))
    taken = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", groups["taken"])  # or a part of an axis, by its size
    return math.prod(int(part or sizes[axis]) for axis, part in taken)


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype) or 8)
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8


def largest(needed: Callable[[int], float], room: float, *, unit: int = 1, limit: int = 2**20) -> int:
    """The largest multiple of unit, up to limit, that needs no more than room, to within a sixteenth of it.

    0 if none does. needed of n, which may be infinite, grows with n, and costs a compilation perhaps: where
    it is a line from some n on about five are asked for. Raises ValueError unless 1 <= unit <= limit.
    """
    checks.integer("unit", unit, 1)
    checks.integer("limit", limit, unit)
    low, high, n = 0, limit // unit + 1, 1
    asked: list[tuple[int, float]] = []
    while high - low > max(1, low // 16):
        found = needed(n * unit)
        low, high = (n, high) if found <= room else (low, n)
        asked = sorted([*asked, (n, found)], key=lambda point: abs(point[1] - room))
        # The line through the two that came nearest to room, if it says anything.
        (a, at_a), (b, at_b) = asked[0], asked[min(1, len(asked) - 1)]
        slope = (at_b - at_a) / (b - a) if a != b else math.nan
        guess = a + (room - at_a) / slope if 0 < slope < math.inf else math.inf
        if guess >= high and high <= limit // unit:
            guess = (low + high) // 2
        n = max(low + max(1, low // 16), int(min(guess, high - 1, 16 * max(low, 1))))
    return low * unit
