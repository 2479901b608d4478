"""The model of a config, its loss, and the loop: any devices, any processes, stopped and resumed."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.typing import ArrayLike

from experiments import runs
from experiments.networks import applied
from experiments.optimizers import clipped_adamw
from experiments.pictures import finite, tiles
from experiments.train import configs, figures
from experiments.train.configs import Config
from experiments.train.forms import newest
from experiments.train.objectives import OBJECTIVES, Objective
from experiments.train.problems import Problem, flipped
from experiments.train.reports import accounts, reports
from experiments.train.sinks import Sink
from jaxdiff import data, pytree
from jaxdiff.data import feeds
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.learning import bootstrap, ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target, stable_target
from jaxdiff.learning.training import Metrics, TrainState
from jaxdiff.maps.flow_map import Averages, FlowMap, as_flow_map
from jaxdiff.maps.sampling import sample_map
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras
from jaxdiff.running import work
from jaxdiff.running.checkpoints import Checkpoints
from jaxdiff.running.emergency import EmergencyCheckpoints
from jaxdiff.running.goodput import Goodput
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel
from jaxdiff.sampling import starts
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.heun import Heun
from jaxdiff.typing import Array, Key, Params, StartLaw

SCHEDULE = Karras()

# EDM's row, of x and t as they are: `_Shown` scales them itself, so that what it asks of the reference is the
# same as what the skip does, and is computed once.
_EDM = prediction.Reading("EDM", prediction.EDM().row)


class Learner(NamedTuple):
    """A config's network on images of its problem's shape."""

    config: Config
    shape: tuple[int, ...]

    def init(self, key: Key) -> Params:
        place = (1, *self.shape) if self.config.shown == "images" else (1, int(np.prod(self.shape)))
        features = jnp.zeros((*place[:-1], place[-1] * (1 + self.config.reference)), jnp.float32)
        t = jnp.zeros(1, jnp.float32)
        later = {"s": t} if self.objective else {}
        return self.config.model.init(key, features, t, **later)  # type: ignore[arg-type] - the network's own

    @property
    def objective(self) -> Objective | None:
        """Of a flow map; None for denoising."""
        return None if self.config.objective == "denoising" else OBJECTIVES[self.config.objective]

    def model(self, law: Distribution, params: Params, *, dropout: Key | None = None) -> Denoiser:
        """What is trained, with a key for dropout, and sampled and asked for densities, without.

        Of a flow map its own limit.
        """
        reference = law if self.config.reference else None
        denoise = make_denoiser(
            _Shown(
                applied(self.config.model, dropout),
                reference,
                self.config.shown == "vectors",
                prediction.Angle() if self.config.by_tangent else prediction.EDM(),
            ),
            params,
            SCHEDULE,
            shape=self.shape,
            prediction=_EDM,
            reference=reference,
            t_min=self.config.sigma_min,
            t_max=self.config.sigma_max,
        )
        # Which takes an s too.
        return as_flow_map(denoise, cast(Averages, denoise.estimate)).denoiser if self.objective else denoise

    def loss(
        self,
        law: Distribution,
        params: Params,
        average: Params,
        step: Array,
        key: Key,
        x: Array,
        *,
        pool: Array | None = None,
    ) -> Array:
        """Mean squared error for a pixel's channel, in the units that config.weight says."""
        config = self.config
        time_key, target_key, dropout_key = jax.random.split(key, 3)
        denoise = self.model(law, params, dropout=dropout_key)
        if self.objective:
            student, other = FlowMap(denoise), FlowMap(self.model(law, average))
            return self.objective.loss(config, target_key, student, other, step, x).mean() / x[0].size
        u = times.stratified(time_key, len(x))
        ends = {"t_min": config.sigma_min, "t_max": config.sigma_max}
        if config.weight == "edm":
            t, weight = times.log_normal(u, SCHEDULE, **ends).t, _EDM.row
        else:
            t, weight = times.log_snr_uniform(u, SCHEDULE, **ends).t, prediction.noise.row
        if config.bootstrap:
            mix = config.bootstrap * (step >= config.bootstrap_after)
            teacher = self.model(law, average)
            x_t, target = bootstrap.half_noise_target(
                target_key, teacher, x, t, mix=mix, t_min=config.sigma_min, pool=pool
            )
        elif pool is not None:
            x_t, target = stable_target(target_key, SCHEDULE, x, t, pool=pool)
        else:
            x_t, target = denoising_target(target_key, SCHEDULE, x, t)
        return regression_loss(denoise, x_t, target, t, weight=weight).mean() / x[0].size


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class _Shown:
    """A `Predictor` in EDM's row, whose network is shown the noise that the reference makes out, beside x."""

    network: Callable[..., Any]
    reference: Distribution | None
    as_vectors: bool
    kind: prediction.EDM = dataclasses.field(default_factory=prediction.EDM)

    def __call__(self, params: Params, x: Array, t: Array, s: Array | None = None) -> Array:
        inputs = jax.vmap(lambda x, t: self.kind.inputs(SCHEDULE, x, t))
        scaled, level = inputs(x, t)
        later = {} if s is None else {"s": inputs(x, s)[1]}
        parts = [scaled]
        if self.reference is not None:
            parts.append(self.reference.denoiser(SCHEDULE)(x, t).noise)
        if self.as_vectors:
            parts = [part.reshape(len(x), -1) for part in parts]
        answer = self.network(params, jnp.concatenate(parts, axis=-1), level, **later)
        return jnp.asarray(answer)[..., : parts[0].shape[-1]].reshape(x.shape)


class Run(NamedTuple):
    """What a training run is made of, the same in every process."""

    config: Config
    problem: Problem
    learner: Learner
    layout: Layout
    start: StartLaw
    """The law that sampling begins from, at config.horizon."""

    def sample(
        self, params: Params, key: Key, n: int, num_steps: int, *, of: str, calls: int = 0
    ) -> np.ndarray:
        """n images x by Heun's method from the start law, to the denoiser's estimate; on all devices.

        Or by so many calls of the flow map. Raises FloatingPointError where one is not finite, naming whose
        samples they are by of.
        """
        place = self.layout.place
        draw = _sampler(self.config, self.learner, self.layout, n, num_steps, calls)
        samples = draw(params, place(self.problem.law), place(self.start), place(key))
        return finite(f"samples of {of}", samples)[:n]


@functools.cache  # one compiled function for all grids of samples
def _sampler(
    config: Config, learner: Learner, layout: Layout, n: int, num_steps: int, calls: int
) -> Callable[..., Array]:
    rows = layout.mesh.size * -(-n // layout.mesh.size)

    def draw(params: Params, law: Distribution, start: StartLaw, key: Key) -> Array:
        if calls and learner.objective:
            flow_map, renoise = FlowMap(learner.model(law, params)), learner.objective.renoise
            grid = times.noise_grid(SCHEDULE, calls, t_max=config.horizon, t_min=config.sigma_min)
            grid = times.to_clean(SCHEDULE, grid[:-1])
            return sample_map(key, flow_map, rows, times=grid, start=start, renoise=renoise)
        start_key, key = jax.random.split(key)
        x = jax.lax.with_sharding_constraint(start.sample(start_key, rows), layout.by_rows)
        grid = times.power_grid(num_steps, t_max=config.horizon, t_min=config.sigma_min, rho=7)
        grid = times.to_clean(SCHEDULE, grid)
        return integrate(key, learner.model(law, params), x, grid, sampler=Heun())

    return jax.jit(draw, out_shardings=layout.replicated)


def prepare(config: Config, problem: Problem, devices: Sequence[Any] | None = None) -> Run:
    """A run on all devices of all processes, or on these."""
    mesh = data_mesh(devices, slices=config.slices, model=config.tensor_parallel)
    layout = Layout(mesh, fully_sharded=config.fully_sharded)
    families = {
        "plain": starts.plain(),
        "gaussian": starts.gaussian(),
        "mixture": starts.gaussian_mixture(12),
    }
    key = jax.random.key(config.seed)
    # The plain start looks at the data's dimension only.
    pixels = problem.train[: 2 if config.start == "plain" else None]
    rows = jax.jit(problem.encode)(key, jnp.asarray(pixels))
    start = starts.fit_start(key, families[config.start], rows, SCHEDULE, config.horizon)
    return Run(config, problem, Learner(config, problem.shape), layout, start)


def optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with clipped gradients; the rate grows, stays, and falls as 1 / sqrt(step) from decay_after."""

    def rate(step: ArrayLike) -> Array:
        step = jnp.asarray(step)
        grown = jnp.minimum(1.0, (step + 1) / max(1, config.warm_up))
        fallen = 1.0 if config.decay_after is None else jnp.maximum(1.0, step / config.decay_after) ** -0.5
        return config.learning_rate * grown * fallen

    return clipped_adamw(rate, config.weight_decay)


def first_average(state: TrainState) -> Params:
    """The average that is sampled, evaluated and listened to."""
    assert state.ema_params is not None
    return state.ema_params[0]


def average_of(state: TrainState) -> str:
    """It in words."""
    return f"the average at step {int(state.step)}"


def functions(
    run: Run,
) -> tuple[
    Callable[[], TrainState], Callable[..., tuple[TrainState, Metrics]], Callable[[Key, Array], Array]
]:
    """What training is made of: the first state; a step, of the law and of the pixels that pools are drawn
    from besides a step's own arguments; and a batch of rows of pixels.
    """
    config = run.config
    init_key, pools_key = (jax.random.fold_in(jax.random.key(config.seed), i) for i in (0, 2))
    rule, decays = optimizer(config), tuple(map(ema.power_function, config.ema_widths))

    def init() -> TrainState:
        return training.init_state(run.learner.init(init_key), rule, ema_decay=decays)

    def step(
        law: Distribution, pixels: Array | None, key: Key, state: TrainState, batch: Any
    ) -> tuple[TrainState, Metrics]:
        rows_key, pool_key = jax.random.split(jax.random.fold_in(pools_key, state.step))
        pool = None if pixels is None else draw(pool_key, data.batch(rows_key, pixels, config.pool))
        joint = bootstrap.make_joint_step(
            functools.partial(run.learner.loss, law, pool=pool),
            rule,
            ema_decay=decays,
            num_microbatches=config.num_microbatches,
            teacher=first_average,
        )
        return data_parallel(joint, run.layout, engine=config.engine)(key, state, batch)

    def draw(key: Key, pixels: Array) -> Array:
        flip_key, encode_key = jax.random.split(key)
        images = flipped(flip_key, pixels) if config.flip else pixels
        return run.problem.encode(encode_key, images)

    return init, step, draw


def step_flops(run: Run) -> int:
    """Of one step in products and convolutions, by what the model is and not how it is computed."""
    plain = {"remat": "none", "attention": None}
    options = {name: value for name, value in plain.items() if hasattr(run.config.model, name)}
    config = dataclasses.replace(run.config, model=run.config.model.clone(**options), engine="jit")
    run = run._replace(config=config, learner=run.learner._replace(config=config))
    init, step, draw = functions(run)
    images, key = run.problem.train, jax.random.key(0)

    def whole(state: TrainState, rows: Array) -> Any:
        pixels = jnp.asarray(images) if config.pool else None
        return step(run.problem.law, pixels, key, state, draw(key, rows))

    rows = jax.ShapeDtypeStruct((config.batch_size, *images.shape[1:]), images.dtype)
    return work.flops(whole, jax.eval_shape(init), rows)


def fit(
    run: Run,
    out: pathlib.Path,
    *,
    resume: bool = False,
    profile: pathlib.Path | None = None,
    open_sink: Callable[[int], AbstractContextManager[Sink]] | None = None,
    local: pathlib.Path | None = None,
    began: float | None = None,
) -> TrainState:
    """The state after config.steps steps, from the newest checkpoint in out if resume says so.

    local is a directory on each host's own disk for states between two checkpoints, which a resumed run goes
    on from where all processes have theirs (`jaxdiff.running.emergency`). began is when the process started,
    by ``time.monotonic()``, for the account of its time.

    Process 0 writes metrics.jsonl, grids of samples and, to profile, a trace of a dispatch; curves and grids
    go to open_sink(first_step) as well. A signal ends the run here, saved but without a grid, and the exit
    status is 75.
    """
    config, layout = run.config, run.layout
    main = jax.process_index() == 0
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    init, step, draw = functions(run)
    pixels = run.problem.train if config.pool else None
    rows = feeds.from_arrays(run.problem.train, config.batch_size, seed=config.seed)
    identity = configs.identity(config)
    with (
        training.interruption() as stop,
        Checkpoints(out / "checkpoints", config=identity) as checkpoints,
        EmergencyCheckpoints(local, config=identity | {"out": str(out.absolute())})
        if local
        else nullcontext() as emergency,
    ):
        if not resume:
            runs.check_new(checkpoints, out)
        lost = Goodput(began=began)
        with lost.to("restore"):
            found = newest(config, layout, init, checkpoints, emergency) if resume else None
            state = layout.create(init) if found is None else found

        stopped, saved = False, int(state.step)

        def asked(step: int) -> bool:
            nonlocal stopped
            stopped = stop(step)
            return stopped

        def save(state: TrainState, means: dict[str, float]) -> None:
            nonlocal saved
            step = int(state.step)
            due = step // config.save_every > saved // config.save_every
            if emergency and not (due or stopped or step == config.steps):
                emergency.save(state)
                return
            saved = step
            checkpoints.save(state, means)
            if stopped:
                return  # who sends a signal waits for the end, and not for long
            # Drawn by all processes together, since the parameters may be spread over them.
            of = average_of(state)
            x = run.sample(first_average(state), jax.random.key(2), 64, config.grid_steps, of=of)
            if main:
                images = run.problem.images(x)
                figures.draw_grid(images, out / f"samples-{int(state.step):08d}.png")
                if sink:
                    sink(int(state.step), {"samples": np.atleast_3d(tiles(images, 8))})

        also = accounts(lost, functools.partial(step_flops, run))
        with (
            open_sink(int(state.step)) if open_sink and main else nullcontext() as sink,
            reports(config, out, int(state.step), profile, [sink] if sink else [], also) as report,
        ):
            state = training.train(
                layout.place(key),
                state,
                # The law and the images are arguments of the compiled loop, being too large for constants.
                jax.tree_util.Partial(step, *layout.place((run.problem.law, pixels))),
                draw,
                num_steps=config.steps,
                feed=lost.feed(layout.feed(rows)),
                steps_per_dispatch=config.steps_per_dispatch,
                report=report,
                save=lost.save(save),
                save_every=min(config.save_every, config.local_every) if local else config.save_every,
                stop=lost.stop(asked),
            )
    runs.leave_if_stopped(state, config.steps, stop)
    return state


def leave_together(state: TrainState, point: int) -> None:
    """End all of several processes at this point 1, 2, ... after training, if one of them was told to end."""
    after = int(state.step) + 1 + point  # `fit` has asked for the step and for the one after it
    if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(after):
        raise SystemExit(training.EXIT_INTERRUPTED)
