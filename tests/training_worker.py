"""A small training run, in this process (imported) or in one of its own (to be stopped or killed).

python training_worker.py directory             trains slowly, saving on SIGTERM; exit status 75 if stopped
python training_worker.py directory --large     saves a state that takes a while to write, twice
python training_worker.py directory --full      saves three times; after the first the disk is full
"""

import pathlib
import resource
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.learning.training import (
    EXIT_INTERRUPTED,
    TrainState,
    init_state,
    interruption,
    make_train_step,
    train,
)
from jaxdiff.running.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent
KEY = jax.random.key(0)
NUM_STEPS = 60
CONFIG = {"model": {"width": 8, "depth": 2}, "rate": 1e-2}
OPTIMIZER = optax.adam(CONFIG["rate"])
PARAMS = {"in": jnp.linspace(-1, 1, 24).reshape(3, 8), "out": jnp.linspace(1, -1, 24).reshape(8, 3)}


def loss(params, key, batch):
    noisy = batch + jax.random.uniform(key, batch.shape)
    return jnp.mean((jnp.tanh(noisy @ params["in"]) @ params["out"] - batch) ** 2)


def draw(key):
    return jax.random.uniform(key, (16, 3))


STEP = make_train_step(loss, OPTIMIZER, ema_decay=0.9)


def start():
    return init_state(PARAMS, OPTIMIZER, ema_decay=0.9)


def large(step):
    """Nine million numbers that do not compress."""
    noise = np.random.default_rng(step).random((3000, 3000), np.float32)
    return TrainState(jnp.int32(step), jnp.asarray(noise), None, ())


def main(directory):
    def report(step, metrics, steps_per_second):
        print("step", step, flush=True)
        time.sleep(0.2)

    with interruption() as stop, Checkpoints(directory, config=CONFIG) as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(start))
        state = train(
            KEY, start() if restored is None else restored.state, STEP, draw,
            num_steps=NUM_STEPS, steps_per_dispatch=5, report=report, save=checkpoints.save, stop=stop,
        )  # fmt: skip
    return 0 if int(state.step) == NUM_STEPS else EXIT_INTERRUPTED


def main_large(directory):
    with Checkpoints(directory, config=CONFIG) as checkpoints:
        checkpoints.save(large(1))
    print("saved 1", flush=True)
    with Checkpoints(directory, config=CONFIG) as checkpoints:
        state = jax.block_until_ready(large(2))
        print("saving 2", flush=True)
        checkpoints.save(state)
    return 0


def main_full(directory):
    def save(step):
        checkpoints.save(large(step))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Checkpoints(directory, config=CONFIG) as checkpoints:
        save(1)
    # No file may grow beyond this: to what writes it is the same as a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with Checkpoints(directory, config=CONFIG) as checkpoints:
        save(2)
        save(3)


MODES = {"--large": main_large, "--full": main_full}

if __name__ == "__main__":
    sys.exit(MODES.get(sys.argv[-1], main)(sys.argv[1]))
