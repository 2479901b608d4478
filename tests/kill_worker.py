"""Kills a training run at random moments, and lets the last one come to its end.

python kill_worker.py directory number_of_kills

Prints, for each kill, the newest step that was whole then and whether a save was being written. Children are
forked before JAX's runtime starts, which saves each of them the imports.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

import jaxdiff.learning.training
import jaxdiff.running.checkpoints


def num_steps(kills):
    """Of the run: more than it comes to between the kills."""
    return 20 * max(kills, 10)


def child(directory, pipe, kills):
    import training_worker as worker  # which starts the runtime

    with jaxdiff.running.checkpoints.Checkpoints(directory, config=worker.CONFIG) as checkpoints:
        restored = checkpoints.restore(worker.jax.eval_shape(worker.start))
        jaxdiff.learning.training.train(
            worker.KEY,
            worker.start() if restored is None else restored.state,
            worker.STEP,
            worker.draw,
            num_steps=num_steps(kills),
            steps_per_dispatch=5,
            report=lambda *_: os.write(pipe, b"."),
            save=checkpoints.save,
            save_every=5,
        )


def fork(directory, kills):
    """A run that is under way: its process, and what it reports to."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.close(reader)
            child(directory, writer, kills)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    return process, reader


def main(directory, kills):
    moments = random.Random(0)
    for _ in range(kills):
        process, reader = fork(directory, kills)
        assert os.read(reader, 1), "the run ended before its first report"
        time.sleep(moments.uniform(0, 0.3))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(reader)
        names = [path.name for path in pathlib.Path(directory).iterdir()]
        whole = max((int(name) for name in names if name.isdigit()), default=0)
        print(json.dumps({"step": whole, "saving": any("tmp" in name for name in names)}), flush=True)
    process, _ = fork(directory, kills)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
