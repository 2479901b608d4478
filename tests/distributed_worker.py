"""A training run over several processes of this machine, one of which this is.

python distributed_worker.py directory port number_of_processes own_number devices_of_each [local_directory last]

Process 0 prints the losses. Stopped by SIGTERM to any of them, all save and exit with status 75. With a local
directory, states between the checkpoints are kept there, and each process kills itself when that of the step
last is.
"""

import contextlib
import json
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff._numerics.randomness import noise_like
from jaxdiff.learning.training import EXIT_INTERRUPTED, init_state, interruption, make_train_step, train
from jaxdiff.running.checkpoints import Checkpoints
from jaxdiff.running.emergency import EmergencyCheckpoints
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel

NUM_STEPS = 40
ROWS = np.random.default_rng(0).normal(size=(NUM_STEPS, 16, 3)).astype(np.float32)
OPTIMIZER = optax.adam(1e-2)


def loss(params, key, batch):
    noisy = batch + noise_like(key, batch)
    return jnp.mean((jnp.tanh(noisy @ params["in"]) @ params["out"] - batch) ** 2)


def start():
    params = {"in": jnp.linspace(-1, 1, 24).reshape(3, 8), "out": jnp.linspace(1, -1, 24).reshape(8, 3)}
    return init_state(params, OPTIMIZER, ema_decay=0.9)


def fit(directory, layout, rows, report, local_directory=None, last=None):
    """The state at the run's end, or where a signal has stopped it, from what the directories hold."""
    step = data_parallel(make_train_step(loss, OPTIMIZER, ema_decay=0.9), layout)
    config, like = {"rate": 1e-2}, layout.like(start)
    with interruption() as stop, contextlib.ExitStack() as exits:
        checkpoints = exits.enter_context(Checkpoints(directory, config=config))
        local, restored = None, None
        if local_directory:
            local = exits.enter_context(EmergencyCheckpoints(local_directory, config=config))
            restored = local.restore(like, after=checkpoints.latest_step)
        restored = restored or checkpoints.restore(like)

        def save(state, means):
            if local is None or int(state.step) % 8 == 0:
                checkpoints.save(state, means)
            else:
                local.save(state)
            if int(state.step) == last:
                exits.close()  # which waits until it lies there
                os.kill(os.getpid(), signal.SIGKILL)

        return train(
            layout.place(jax.random.key(0)),
            layout.create(start) if restored is None else restored.state,
            step,
            lambda key, rows: rows,
            num_steps=NUM_STEPS,
            feed=layout.feed(rows),
            steps_per_dispatch=4,
            report=report,
            save=save,
            save_every=4 if local else 8,
            stop=stop,
        )


def main(directory, port, processes, number, devices, local=None, last=0):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, number, heartbeat_timeout_seconds=10)
    share = ROWS.shape[1] // processes

    def rows(step):
        return ROWS[step, number * share : (number + 1) * share]

    def report(step, metrics, rate):
        if number == 0:
            print(json.dumps([step, *map(float, metrics.loss)]), flush=True)
        time.sleep(0.1)

    state = fit(directory, Layout(data_mesh()), rows, report, local, int(last))
    return 0 if int(state.step) == NUM_STEPS else EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:6]), *sys.argv[6:]))
