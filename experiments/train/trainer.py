"""The model of a config, its loss, and the loop: any devices, any processes, stopped and resumed."""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from experiments.quickstart import half_noise_target
from experiments.train import configs, figures
from experiments.train.configs import Config
from experiments.train.problems import Problem, Reference, flipped
from jaxdiff.data import feeds
from jaxdiff.denoising import parameterizations
from jaxdiff.denoising.denoisers import make_denoiser
from jaxdiff.denoising.parameterizations import Parameterization
from jaxdiff.learning import ema, training
from jaxdiff.learning.losses import regression_loss
from jaxdiff.learning.targets import denoising_target
from jaxdiff.learning.training import Metrics, TrainState
from jaxdiff.noising import times
from jaxdiff.noising.schedules import Karras
from jaxdiff.running.checkpoints import Checkpoints
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel
from jaxdiff.running.progress import Progress
from jaxdiff.sampling import samplers, starts
from jaxdiff.typing import Array, Denoiser, Key, Params, Predictor

SCHEDULE = Karras()

# EDM's row, of x and t as they are: `Learner` scales them itself, so that the reference is asked once.
_EDM = Parameterization(parameterizations.edm().row)


class Learner(NamedTuple):
    """A config's network on its problem's rows."""

    config: Config
    shape: tuple[int, ...]

    def init(self, key: Key) -> Params:
        features = jnp.zeros((1, *self._shown), jnp.float32)
        return self.config.model.init(key, features, jnp.zeros(1, jnp.float32))

    def predictor(self, reference: Reference, **options: Any) -> Predictor:
        """In EDM's row; options go to the network."""

        def predict(params: Params, x: Array, t: Array) -> Array:
            inputs = jax.vmap(lambda x, t: parameterizations.edm().inputs(SCHEDULE, x, t))
            scaled, level = inputs(x, t)
            parts = [scaled]
            if self.config.reference:
                parts.append(reference.denoiser(SCHEDULE)(x, t).noise)
            rows = [part.reshape(-1, *self._place) for part in parts]
            answer = self.config.model.apply(params, jnp.concatenate(rows, axis=-1), level, **options)
            return jnp.asarray(answer)[..., : self._place[-1]].reshape(x.shape)

        return predict

    def denoiser(self, params: Params, reference: Reference) -> Denoiser:
        """Without dropout."""
        return self._denoiser(self.predictor(reference), params, reference)

    def loss(
        self, reference: Reference, params: Params, average: Params, step: Array, key: Key, x: Array
    ) -> Array:
        """Mean squared error for a pixel's channel, in the units that config.weight says."""
        config = self.config
        time_key, target_key, dropout_key = jax.random.split(key, 3)
        u = times.stratified(time_key, len(x))
        if config.weight == "edm":
            t, weight = times.log_normal(u).t, _EDM.row
        else:
            t = times.log_snr_uniform(u, SCHEDULE, t_min=config.sigma_min, t_max=config.sigma_max).t
            weight = parameterizations.noise.row
        if config.bootstrap:
            mix = config.bootstrap * (step >= config.bootstrap_after)
            teacher = self.denoiser(average, reference)
            x_t, target = half_noise_target(
                target_key, teacher, SCHEDULE, x, t, mix=mix, t_min=config.sigma_min
            )
        else:
            x_t, target = denoising_target(target_key, SCHEDULE, x, t)
        losses = regression_loss(
            self.predictor(reference, train=True, rngs={"dropout": dropout_key}),
            params,
            SCHEDULE,
            x_t,
            target,
            t,
            parameterization=_EDM,
            reference=reference if config.reference else None,
            weight=weight,
        )
        return losses.mean() / x[0].size

    @property
    def _place(self) -> tuple[int, ...]:
        return self.shape if self.config.shown == "images" else (int(np.prod(self.shape)),)

    @property
    def _shown(self) -> tuple[int, ...]:
        return (*self._place[:-1], self._place[-1] * (1 + self.config.reference))

    def _denoiser(self, predict: Predictor, params: Params, reference: Reference) -> Denoiser:
        return make_denoiser(
            predict,
            params,
            SCHEDULE,
            parameterization=_EDM,
            reference=reference if self.config.reference else None,
        )


class Run(NamedTuple):
    """What a training run is made of, the same in every process."""

    config: Config
    problem: Problem
    learner: Learner
    layout: Layout
    start: Any
    """The law that sampling begins from, at config.horizon."""

    @property
    def reference(self) -> Reference:
        return Reference(self.problem.law)

    def sample(self, params: Params, key: Key, n: int, num_steps: int) -> np.ndarray:
        """n rows by Heun's method from the start law, to the denoiser's estimate; on all devices."""
        place = self.layout.place
        draw = _sampler(self.config, self.learner, self.layout, n, num_steps)
        return np.asarray(draw(params, place(self.reference), place(self.start), place(key)))[:n]


@functools.cache  # one compiled function for all grids of samples
def _sampler(
    config: Config, learner: Learner, layout: Layout, n: int, num_steps: int
) -> Callable[..., Array]:
    rows = layout.mesh.size * -(-n // layout.mesh.size)

    def draw(params: Params, reference: Reference, start: Any, key: Key) -> Array:
        start_key, key = jax.random.split(key)
        x = jax.lax.with_sharding_constraint(start.sample(start_key, rows), layout.by_rows)
        grid = times.power_grid(num_steps, t_max=config.horizon, t_min=config.sigma_min, rho=7)
        heun = samplers.heun(learner.denoiser(params, reference), SCHEDULE)
        return samplers.sample(key, heun, x, jnp.append(grid, 0.0))

    return jax.jit(draw, out_shardings=layout.replicated)


def prepare(config: Config, problem: Problem) -> Run:
    """A run on all devices of all processes."""
    layout = Layout(data_mesh(), fully_sharded=config.fully_sharded)
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

    decayed = optax.adamw(
        rate,
        b2=0.99,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(1.0), decayed)


def first_average(state: TrainState) -> Params:
    """The average that is sampled, evaluated and listened to."""
    assert state.ema_params is not None
    return state.ema_params[0]


def fit(
    run: Run, out: pathlib.Path, *, resume: bool = False, profile: pathlib.Path | None = None
) -> TrainState:
    """The state after config.steps steps, from the newest checkpoint in out if resume says so.

    Process 0 writes metrics.jsonl, grids of samples and, to profile, a trace of a dispatch. A signal ends the
    run here: all is saved, and the exit status is 75.
    """
    config, layout = run.config, run.layout
    main = jax.process_index() == 0
    init_key, key = (jax.random.fold_in(jax.random.key(config.seed), i) for i in range(2))
    rule, decays = optimizer(config), tuple(map(ema.power_function, config.ema_widths))

    def init() -> TrainState:
        return training.init_state(run.learner.init(init_key), rule, ema_decay=decays)

    def step(reference: Reference, key: Key, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        def plain(key: Key, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
            average = first_average(state)

            def loss(params: Params, key: Key, batch: Any) -> Array:
                return run.learner.loss(reference, params, average, state.step, key, batch)

            make = training.make_train_step
            return make(loss, rule, ema_decay=decays, num_microbatches=config.num_microbatches)(
                key, state, batch
            )

        return data_parallel(plain, layout, engine=config.engine)(key, state, batch)

    def draw(key: Key, pixels: Array) -> Array:
        flip_key, encode_key = jax.random.split(key)
        images = flipped(flip_key, pixels) if config.flip else pixels
        return run.problem.encode(encode_key, images)

    rows = feeds.from_arrays(run.problem.train, config.batch_size, seed=config.seed)
    with Checkpoints(out / "checkpoints", config=configs.identity(config)) as checkpoints:
        if not resume and checkpoints.latest_step is not None:
            raise FileExistsError(
                f"{out} holds a run, saved at step {checkpoints.latest_step}; go on with --resume, or give "
                "another directory by --out."
            )
        restored = checkpoints.restore(layout.like(init)) if resume else None
        state = layout.create(init) if restored is None else restored.state

        def save(state: TrainState, means: dict[str, float]) -> None:
            checkpoints.save(state, means)
            # Drawn by all processes together, since the parameters may be spread over them.
            x = run.sample(first_average(state), jax.random.key(2), 64, config.grid_steps)
            if main:
                figures.draw_grid(run.problem.images(x), out / f"samples-{int(state.step):08d}.png")

        with training.interruption() as stop, _reports(config, out, int(state.step), main, profile) as report:
            state = training.train(
                layout.place(key),
                state,
                # The reference is an argument of the compiled loop, being too large for a constant.
                jax.tree_util.Partial(step, layout.place(run.reference)),
                draw,
                num_steps=config.steps,
                feed=layout.feed(rows),
                steps_per_dispatch=config.steps_per_dispatch,
                report=report,
                save=save,
                save_every=config.save_every,
                stop=stop,
            )
    if int(state.step) < config.steps:
        if main:
            print(f"Stopped and saved at step {int(state.step)}; go on with --resume.", file=sys.stderr)
        raise SystemExit(training.EXIT_INTERRUPTED)
    return state


@contextmanager
def _reports(
    config: Config, out: pathlib.Path, first_step: int, main: bool, profile: pathlib.Path | None
) -> Iterator[training.Report | None]:
    """What process 0 says and writes of each dispatch; the others say nothing."""
    if not main:
        yield None
        return
    seen = 0

    def trace() -> None:
        """The dispatch after the first report, when everything is compiled."""
        nonlocal seen
        seen += 1
        if profile and seen == 1:
            jax.profiler.start_trace(profile)
        if profile and seen == 2:
            jax.profiler.stop_trace()

    with Progress(config.steps, first_step=first_step, log=out / "metrics.jsonl") as progress:

        def report(step: int, metrics: Metrics, rate: float) -> None:
            progress(step, metrics, rate)
            trace()

        try:
            yield report
        finally:
            if seen == 1:
                trace()
