"""A small training run, in this process (imported) or in one of its own (to be stopped or killed).

python training_worker.py directory             trains slowly, saving on SIGTERM; exit status 75 if stopped
python training_worker.py directory --hung      the same as a command, fed by a source that hangs at step 20
python training_worker.py directory --full-disk the same; after the second save the disk is full
python training_worker.py directory --large     saves a state that takes a while to write, twice
python training_worker.py directory --full      saves three times; after the first the disk is full
"""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import signals
from jaxdiff.data import feeds
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
# Of `experiments.train`: a run of seconds on digits.
OPTIONS = {
    "model.width": 16, "model.num_blocks": 1, "evaluation_rows": 16, "evaluations": 20, "num_samples": 32,
    "sample_steps": 2, "grid_steps": 2,
}  # fmt: skip
SMALL = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
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


@contextlib.contextmanager
def spawn(directory, *arguments, script=__file__, module=None):
    """This file, another script or a module as a process: killed at the end, if it has not ended."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "JAX_LOG_COMPILES": "1",
    }
    # On one device, and compiled as here, or bits would differ.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment["XLA_FLAGS"] = " ".join(flags)
    if module:
        command = ["-m", module, *arguments]
        environment["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(directory).with_name("cache"))
    else:
        del environment["JAX_LOG_COMPILES"]
        command = [str(script), str(directory), *arguments]
    process = subprocess.Popen(
        [sys.executable, "-u", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    overdue = threading.Timer(300, process.kill)
    overdue.start()
    with process:
        try:
            yield process
        finally:
            overdue.cancel()
            process.kill()


def wait_for(process, text, stream=None):
    for line in stream or process.stdout:
        if text in line:
            return
    raise AssertionError(f"The worker ended without {text!r}:\n{process.stderr.read()}")


class Hanging:
    """Records that are there at once, but for those after the first 320, of 20 steps."""

    def __init__(self):
        self._read = 0

    def __len__(self):
        return 1000

    def __getitem__(self, i):
        self._read += 1
        if self._read > 321:  # the first is looked at beforehand
            time.sleep(600)
        return np.full(3, i / 1000, np.float32)


def main(directory, save=None, **options):
    def report(step, metrics, steps_per_second):
        print("step", step, flush=True)
        time.sleep(0.2)

    with interruption() as stop, Checkpoints(directory, config=CONFIG) as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(start))
        options = {"num_steps": NUM_STEPS, "steps_per_dispatch": 5, "report": report} | options
        state = train(
            KEY, start() if restored is None else restored.state, STEP, options.pop("draw", draw),
            save=(save or Checkpoints.save).__get__(checkpoints), stop=stop, **options,
        )  # fmt: skip
    return 0 if int(state.step) == NUM_STEPS else EXIT_INTERRUPTED


def main_hung(directory):
    rows = feeds.from_records(Hanging(), 16, seed=0, num_threads=2)

    def feed(first, last):
        return np.stack([rows(step) for step in range(first, last)])

    return main(directory, draw=lambda key, rows: rows, feed=feed)


def main_full_disk(directory):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def save(checkpoints, state, means):
        checkpoints.save(state, means)
        if int(state.step) == 20:
            no_file_may_grow_beyond(100)

    return main(directory, save=save, save_every=10)


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
    no_file_may_grow_beyond(100_000)
    with Checkpoints(directory, config=CONFIG) as checkpoints:
        save(2)
        save(3)


def no_file_may_grow_beyond(size):
    """To what writes it, the same as a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


MODES = {"--large": main_large, "--full": main_full, "--hung": main_hung, "--full-disk": main_full_disk}

if __name__ == "__main__":
    signals.listen()
    sys.exit(MODES.get(sys.argv[-1], main)(sys.argv[1]))
