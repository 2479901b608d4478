"""Training and sampling on many devices: where arrays lie, and a train step over them.

    layout = Layout(data_mesh())                                       # every device of every process
    state = layout.create(lambda: init_state(params, optimizer, ema_decay=0.999))
    step = data_parallel(make_train_step(loss, optimizer, ema_decay=0.999), layout)
    state = train(layout.place(key), state, step, draw, num_steps=..., feed=layout.feed(rows))
    x = jax.jit(sample, static_argnums=1)(key, sampler, layout.place_rows(x), grid)

The rows of a batch are spread over the devices of the mesh, which jax.jit carries through whatever is
computed from them: samplers, likelihoods and sweeps need nothing but rows that lie so. Where a function looks
rows up by their numbers, as the density formula does, the compiler sends them all to every device: by
`row_parallel` each looks at its own. Parameters, averages
and the optimizer's state are replicated or, ``Layout(mesh, fully_sharded=True)``, spread themselves, each
array along its longest axis; a device then gathers a weight when it needs it (Rajbhandari et al. 2020, arXiv
1910.02054; Xu et al. 2020, arXiv 2004.13336).

Larger machines and networks have up to two axes more, ``data_mesh(slices=2, model=4)``:

    slice    machines of fast links, joined by slow ones: each has some of the rows and a whole state, spread
             within it if it is fully sharded; between slices go gradients only
    data     the devices of a slice
    model    groups of neighbours, which share the products of one row: `DiffusionTransformer` does its heads
             and hidden units by parts (Shoeybi et al. 2019, arXiv 1909.08053), and any array lies along its
             longest axis in such a group, and along the next over the data axis

What is computed does not depend on the layout, but for the order of summation: random numbers are functions
of (key, row), see `jaxdiff._numerics.shards`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiff._numerics import checks
from jaxdiff._numerics.shards import DATA_AXIS, MODEL_AXIS, SLICE_AXIS, row_axes
from jaxdiff.learning.training import DeviceFeed, Metrics, StepFn, TrainState
from jaxdiff.typing import Key

_Tree = TypeVar("_Tree")

_LEAST_SHARDED = 2**12  # entries; below, a gather costs more time than the copies cost memory


def data_mesh(devices: Sequence[Any] | None = None, *, slices: int = 1, model: int = 1) -> Mesh:
    """A mesh of the devices given or of all, those of all processes, over which rows are spread.

    Of one axis, unless there are several slices, or model devices that share the products of one row: see
    above. Slices are those that the devices say they are of, or as many equal parts of the list.

    Raises ValueError for numbers that do not divide the devices, or slices that they are not of.

    >>> jd.data_mesh(jax.devices()[:1]).size
    1
    """
    devices = jax.devices() if devices is None else devices
    if not isinstance(devices, Sequence | np.ndarray):
        raise TypeError(f"devices must be a list such as jax.devices()[:8], got {checks.described(devices)}.")
    checks.integer("slices", slices, 1)
    checks.integer("model", model, 1)
    if len(devices) % (slices * model):
        raise ValueError(
            f"slices * model = {slices} * {model} must divide the {len(devices)} devices; choose others."
        )
    sizes = {SLICE_AXIS: slices, DATA_AXIS: len(devices) // (slices * model), MODEL_AXIS: model}
    axes = {axis: n for axis, n in sizes.items() if n > 1 or axis == DATA_AXIS}
    return Mesh(
        _arranged(devices, sizes).reshape(*axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
    )


def _arranged(devices: Sequence[Any], sizes: dict[str, int]) -> np.ndarray:
    """The devices along slices, data and model, neighbours in the last where there is a choice."""
    slices, data, model = sizes.values()
    found = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and found > 1:
        if found != slices:
            raise ValueError(f"The devices are of {found} slices, got slices = {slices}; say {found}.")
        shapes = (1, data, model), (slices, 1, 1)
        return mesh_utils.create_hybrid_device_mesh(*shapes, devices, allow_split_physical_axes=True)
    if slices == 1 and model > 1 and found == 1:
        return mesh_utils.create_device_mesh((data, model), devices, allow_split_physical_axes=True)
    return np.array(devices)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays lie on the devices of a mesh, `data_mesh`.

    In a run of several processes each calls the same methods with the same values, and `feed` with rows of
    its own. Raises ValueError for a mesh with other axes.

    >>> layout = jd.Layout(jd.data_mesh(jax.devices()[:1]))
    >>> layout.place(jnp.arange(3)).tolist()
    [0, 1, 2]
    """

    mesh: Mesh
    fully_sharded: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.mesh, Mesh):
            raise TypeError(
                f"mesh must be a mesh, got {checks.described(self.mesh)}; make it by data_mesh()."
            )
        known = (SLICE_AXIS, DATA_AXIS, MODEL_AXIS)
        axes = self.mesh.axis_names
        if DATA_AXIS not in axes or axes != tuple(axis for axis in known if axis in axes):
            raise ValueError(
                f"The mesh must have the axis {DATA_AXIS!r}, of {known}, got {axes}; make it by data_mesh."
            )

    @property
    def replicated(self) -> NamedSharding:
        """A copy on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_rows(self) -> NamedSharding:
        """The leading axis over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(row_axes(self.mesh)))

    def shardings(self, tree: Any) -> Any:
        """Where the leaves of a training state lie; a function of their shapes only."""
        return jax.tree.map(self._sharding, tree)

    def like(self, make: Callable[[], _Tree]) -> _Tree:
        """What make() would return, as shapes, dtypes and shardings: what `restore` takes."""
        shapes = jax.eval_shape(make)
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            shapes,
            self.shardings(shapes),
        )

    def create(self, make: Callable[[], _Tree]) -> _Tree:
        """make(), compiled so that each leaf is made where it lies, and never whole on one device."""
        return jax.jit(make, out_shardings=self.shardings(jax.eval_shape(make)))()

    def place(self, tree: _Tree) -> _Tree:
        """Copy arrays, a key too, to every device."""
        return jax.tree.map(lambda leaf: _put(leaf, self.replicated), tree)

    def place_rows(self, tree: _Tree) -> _Tree:
        """Spread the rows of arrays over the devices; raises ValueError if they cannot be spread evenly."""
        self._check_rows(tree, axis=0)
        return jax.tree.map(lambda leaf: _put(leaf, self.by_rows), tree)

    def feed(self, rows: Callable[[int], Any]) -> DeviceFeed:
        """What `train` is fed by, from a feed of `data.feeds`: this process's rows of a step, in NumPy."""
        stacked = NamedSharding(self.mesh, PartitionSpec(None, row_axes(self.mesh)))

        def fed(first: int, last: int) -> Any:
            steps = [rows(step) for step in range(first, last)]
            local = jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
            self._check_rows(local, axis=1)
            return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(stacked, leaf), local)

        return fed

    def _sharding(self, leaf: Any) -> NamedSharding:
        parts: list[str | None] = [None] * len(leaf.shape)
        for axis in (MODEL_AXIS, DATA_AXIS) if self.fully_sharded else (MODEL_AXIS,):
            n = self.mesh.shape.get(axis, 0)
            free = [
                size if n and size % n == 0 and part is None else 0
                for size, part in zip(leaf.shape, parts, strict=True)
            ]
            if leaf.size >= _LEAST_SHARDED and any(free):
                parts[int(np.argmax(free))] = axis
        while parts and parts[-1] is None:
            parts.pop()
        return NamedSharding(self.mesh, PartitionSpec(*parts))

    def _check_rows(self, tree: Any, *, axis: int) -> None:
        mesh = self.mesh.local_mesh if axis else self.mesh
        devices = math.prod(mesh.shape[name] for name in row_axes(mesh))
        for leaf in jax.tree.leaves(tree):
            if np.ndim(leaf) <= axis or np.shape(leaf)[axis] % devices:
                raise ValueError(
                    f"The rows of a batch must be a multiple of the {devices} devices that they are spread "
                    f"over, got an array of shape {np.shape(leaf)[axis:]}; choose another batch size."
                )


def _put(leaf: Any, where: NamedSharding) -> Any:
    if where.is_fully_addressable:
        return jax.device_put(leaf, where)
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), where)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])


def data_parallel(step: StepFn, layout: Layout, *, engine: str = "jit") -> StepFn:
    """The same step, each device doing its share of the rows of a batch; not jitted, as the step was not.

    engine "jit" lets the compiler spread the step over the mesh: any step will do. engine "pmap" runs it on
    each device with its own rows under `jax.pmap`, the gradient being averaged by `jax.lax.pmean`: for a step
    of `make_train_step`, or one that averages by `shards.mean`, and a loss that is a mean over rows and draws
    by `jaxdiff._numerics.randomness`. It keeps a copy of the state on each device.

    Raises ValueError for another engine, for pmap with a fully sharded layout or in several processes, and
    for rows that the devices do not divide.

    >>> step = jd.make_train_step(lambda w, key, x: ((w - x) ** 2).mean() / 2, optax.sgd(1.0), ema_decay=None)
    >>> layout = jd.Layout(jd.data_mesh())  # of all devices
    >>> spread = jax.jit(jd.data_parallel(step, layout))
    >>> state = jd.init_state(jnp.array(0.0), optax.sgd(1.0), ema_decay=None)
    >>> state, _ = spread(jax.random.key(0), state, jnp.arange(8.0))
    >>> float(state.params)  # the mean of all rows, as on one device
    3.5
    """
    checks.option("engine", engine, ["jit", "pmap"])
    if not isinstance(layout, Layout):
        raise TypeError(f"layout must be a Layout(data_mesh()), got {checks.described(layout)}.")
    if engine == "pmap" and (layout.fully_sharded or len(layout.mesh.axis_names) > 1):
        raise ValueError(
            "engine='pmap' keeps a copy of the state on each device; engine='jit' can have it fully sharded, "
            "and several axes."
        )
    if engine == "pmap" and jax.process_count() > 1:
        raise ValueError("engine='pmap' is for one process, and this run has several; use engine='jit'.")
    return (_by_jit if engine == "jit" else _by_pmap)(step, layout)


def row_parallel(function: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """function(key, tree, rows) -> rows, each device doing its own and hearing nothing of the others'.

    For what answers a row by the row, its number and the key, as densities do: the same numbers as without,
    up to rounding. tree, a denoiser say, is on every device; rows and answers are pytrees of arrays (batch,
    ...). Not jitted, as the function was not. Raises ValueError for rows that the devices do not divide.

    >>> layout = jd.Layout(jd.data_mesh())  # of all devices
    >>> law = jd.Gaussian([0.0, 0.0], 1.0)
    >>> log_p = jax.jit(jd.row_parallel(lambda key, law, x: law.log_prob(x), layout))
    >>> [round(float(value), 3) for value in log_p(jax.random.key(0), law, jnp.zeros((8, 2)))][:2]
    [-1.838, -1.838]
    """
    if not isinstance(layout, Layout):
        raise TypeError(f"layout must be a Layout(data_mesh()), got {checks.described(layout)}.")
    whole, rows = layout.replicated.spec, layout.by_rows.spec

    def spread(key: Key, tree: Any, x: Any) -> Any:
        layout._check_rows(x, axis=0)
        on_each = jax.shard_map(
            function, mesh=layout.mesh, in_specs=(whole, whole, rows), out_specs=rows, check_vma=False
        )
        return on_each(key, tree, x)

    return spread


def _by_jit(step: StepFn, layout: Layout) -> StepFn:
    constrain = jax.lax.with_sharding_constraint

    def spread(key: Key, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        layout._check_rows(batch, axis=0)
        # Networks ask for it, by shards.spread.
        with jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh):
            state, metrics = step(key, state, constrain(batch, layout.by_rows))
        # Said of what comes out too: left to itself the compiler may choose another layout, and compile anew.
        return constrain(state, layout.shardings(state)), constrain(metrics, layout.replicated)

    return spread


def _by_pmap(step: StepFn, layout: Layout) -> StepFn:
    devices = layout.mesh.size
    mapped = jax.pmap(
        step,
        axis_name=DATA_AXIS,
        in_axes=(None, None, 0),
        out_axes=None,  # type: ignore[arg-type] - it says that the answer is the same on all
        devices=layout.mesh.devices.ravel().tolist(),
    )

    def spread(key: Key, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        layout._check_rows(batch, axis=0)
        shares = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch)
        return mapped(key, state, shares)

    return spread
