"""Train a diffusion model on every device of every process, and say how good it is.

    python -m experiments.train patches                        # a U-Net on patches of photographs, 30 min
    python -m experiments.train patches --help                 # every option, with its value there
    python -m experiments.train patches --steps 1000 --model.channels 32 --model.dtype bfloat16
    python -m experiments.train cifar10 --data DIR             # from the files in DIR
    python -m experiments.train patches --options FILE         # from JSON, or another run's figures.json
    python -m experiments.train patches --resume               # go on after an interruption, or begin
    python -m experiments.train patches --tensorboard          # then tensorboard --logdir results

    python -m experiments.train patches --objective mean_flow  # a flow map, for samples in one to four calls

    python -m experiments.train patches --engine pmap          # jax.pmap instead of a sharded jax.jit
    python -m experiments.train patches --fully_sharded true   # parameters, averages, optimizer: spread
    srun python -m experiments.train patches --distributed --resume     # Slurm, TPU pods: found by JAX
    python -m experiments.train patches --coordinator HOST:PORT --num-processes 2 --process-id 0

    python -m experiments.train cifar10 --data DIR --compile-for v5e-256    # does it fit? No device is needed
    python -m experiments.train cifar10 --data DIR --fit h100-8             # the largest batch that does

The configs and their reasons are in `experiments.train.configs`. The schedule is EDM's, of which a network in
EDM's parameterization sees nothing. Under the likelihood weight the loss is the mean squared error of the
noise in a pixel's channel, over levels even in log sigma.

Written to --out by process 0: metrics.jsonl, a grid of samples with each checkpoint (samples-<step>.png), the
same for TensorBoard where asked for, the checkpoints; at the end figures.json and figure.png, with the
held-out bits per dimension, the same of the Gaussian, and the Frechet distance of samples to held-out images
beside that of as many training images (see `experiments.train.evaluation`); of a flow map also the distance
of its samples by 1, 2 and 4 calls, while the bits are those of its own denoiser. A run stopped by SIGTERM or
Ctrl-C, in any of its processes, saves and exits with status 75; the same command with --resume goes on, on as
many devices as there are then. A signal is heard from the start of the command to its end (by several
processes together, between the parts of the evaluation); Ctrl-C twice leaves at once, without a save.

A line of metrics.jsonl has beside the loss what the devices do: model_flops a second, mfu, their part of the
peak where it is known, and goodput, the part of the time in which the run made steps, with the seconds in
which it did not: start, restore, compile, which are those until its first step began, feed (it waited for
rows) and save. Programs are kept in --out/compiled for a run that goes on, or where JAX_COMPILATION_CACHE_DIR
says, and the Gaussian in --out/gaussian.npz.

--local DIR, of each host's own disk or its /dev/shm, holds every --local_every steps what the host's devices
hold; --resume goes on from there if all hosts have theirs and it is newer than the last checkpoint in --out.

Where to run it; --out is then a directory that all hosts see, such as gs://... mounted, or a network's disk:

    a GPU machine     pip install 'jax[cuda13]', then python -m experiments.train patches
    TPU pod slice     on every host (gcloud ... tpu-vm ssh --worker=all --command=...):
                      python -m experiments.train cifar10 --data DIR --out DIR --distributed --resume
    queued TPUs       gcloud compute tpus queued-resources create NAME --node-id NAME --spot
                      --accelerator-type v5p-128 --runtime-version v2-alpha-tpuv5
                      --metadata-from-file startup-script=FILE, with the same line in FILE: a slice that was
                      preempted and is there again goes on
    several slices    --node-count 2 in place of --node-id, and the same line on the hosts of both with
                      --slices 2 --fully_sharded true: parameters are spread within a slice, gradients go
                      between them
    large networks    --tensor_parallel 4 --fully_sharded true; first --compile-for v5p-128, or v5e-256x2
    Slurm             #SBATCH --requeue --signal=TERM@300, one task a node; then
                      srun python -m experiments.train cifar10 --data DIR --out DIR --distributed --resume
                      code=$?; [ $code -eq 75 ] && scontrol requeue $SLURM_JOB_ID; exit $code
    Kubernetes        an indexed Job, restartPolicy OnFailure, terminationGracePeriodSeconds 300, a headless
                      service, and --coordinator JOB-0.SERVICE:1234 --num-processes N
                      --process-id $JOB_COMPLETION_INDEX --resume; on GKE's TPUs --distributed --resume
"""

if __name__ == "__main__":
    from experiments import signals  # before the imports below, which take seconds

    signals.listen()

import argparse
import difflib
import functools
import json
import pathlib
import sys
import time
from collections.abc import Collection
from typing import Any, NoReturn

import jax

from experiments.train import configs
from experiments.train.configs import CONFIGS, Config
from jaxdiff.learning import training


def main(
    config: Config,
    out: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    resume: bool = False,
    profile: pathlib.Path | None = None,
    asked: Collection[str] = (),
    tensorboard: bool = False,
    local: pathlib.Path | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Train, sample and evaluate; returns the figures, which figures.json holds too.

    local and began are those of `trainer.fit`. The model is in the form that suits the platform but for the
    options asked for, by names such as model.dtype (`forms.for_platform`).
    """
    from experiments.train import (  # after jax.distributed.initialize
        evaluation,
        forms,
        problems,
        sinks,
        trainer,
    )

    began = time.monotonic() if began is None else began
    # Unless JAX_COMPILATION_CACHE_DIR says where.
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined] - made as jax starts
        jax.config.update("jax_compilation_cache_dir", str(out.absolute() / "compiled"))
    problem = problems.load(config, data, kept=out / "gaussian.npz")
    platform, given = jax.devices()[0].platform, config
    config = forms.for_platform(given, platform, asked)
    if platform == "cpu" and config != given and jax.process_index() == 0:
        print(
            "training in float32, since bfloat16 is slow on CPUs; --model.dtype bfloat16 keeps it",
            file=sys.stderr,
        )
    run = trainer.prepare(config, problem)
    board = functools.partial(sinks.tensorboard, out / "tensorboard") if tensorboard else None
    state = trainer.fit(run, out, resume=resume, profile=profile, open_sink=board, local=local, began=began)
    if jax.process_index() == 0:
        print("evaluating", file=sys.stderr)
    figures = evaluation.evaluate(run, state, out)
    figures |= {
        "config": configs.as_dict(config),
        "step": int(state.step),
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "total_seconds": time.monotonic() - began,
    }
    if jax.process_index() == 0:
        last = (out / "metrics.jsonl").read_text().splitlines()[-1]
        figures["training_seconds"] = json.loads(last)["elapsed_seconds"]  # of all runs, if it was resumed
        (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


class _Parser(argparse.ArgumentParser):
    """Errors in one line, and near names for unknown ones."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m experiments.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = parser.add_subparsers(dest="config", required=True, metavar=f"{{{','.join(CONFIGS)}}}")
    for name, config in CONFIGS.items():
        prog = f"{parser.prog} {name}"
        own = names.add_parser(name, prog=prog, usage=f"{prog} [--OPTION VALUE ...]", allow_abbrev=False)
        own.add_argument("--out", type=pathlib.Path, help=f"directory (default results/train-{name})")
        own.add_argument("--data", type=pathlib.Path, help="where your files of the data set are")
        own.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if any")
        own.add_argument("--local", type=pathlib.Path, metavar="DIR", help="a disk of each host, see above")
        own.add_argument("--tensorboard", action="store_true", help="curves and samples in --out/tensorboard")
        own.add_argument("--profile", type=pathlib.Path, metavar="DIR", help="write a trace of a dispatch")
        own.add_argument("--compile-for", metavar="TOPOLOGY", help="report of v5e-8, v5p-128, h100-8, ...")
        own.add_argument("--fit", metavar="TOPOLOGY", help="the same at the largest batch that fits")
        own.add_argument("--distributed", action="store_true", help="find the other processes by the cluster")
        own.add_argument("--coordinator", metavar="HOST:PORT", help="or by process 0's address,")
        own.add_argument("--num-processes", type=int, metavar="N", help="their number")
        own.add_argument("--process-id", type=int, metavar="I", help="and the number of this one, from 0")
        own.add_argument("--options", type=pathlib.Path, metavar="FILE", help="JSON, or a run's figures.json")
        meanings, section = configs.meanings(), own.add_argument_group("what is learnt")
        for flag, (read, value) in configs.flags(config).items():
            title = next((configs.SECTIONS[s] for s in configs.SECTIONS if flag.startswith(s)), section.title)
            if title != section.title:
                section = own.add_argument_group(title)
            default = f"default {value if value not in ((), '') else 'none'}"
            text = f"{meanings.get(flag, '')} ({default})".strip().replace("%", "%%")
            section.add_argument(
                f"--{flag}", type=read, default=argparse.SUPPRESS, metavar=read.__name__, help=text
            )
        own.set_defaults(own_parser=own)
    return parser


def _compiled(config: Config, flags: argparse.Namespace, asked: Collection[str]) -> str:
    """The report of --compile-for or --fit."""
    from experiments.train import forms, problems, programs

    config = forms.for_platform(config, "accelerator", asked)
    problem = problems.load(config, flags.data)
    if flags.compile_for:
        return str(programs.compiled_for(config, problem, flags.compile_for))
    rows, program = programs.fitted_to(config, problem, flags.fit)
    return f"--batch_size {rows}\n{program}"


def command_line(arguments: list[str] | None = None, *, began: float | None = None) -> None:
    """Parse the flags, run, and print the figures; bad input ends in one line and status 2."""
    parser = _parser()
    flags, unknown = parser.parse_known_args(arguments)
    own: _Parser = flags.own_parser
    if unknown:
        known = [option for action in own._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=3)
        own.error(f"unknown option {unknown[0]}; {'near it: ' + ', '.join(near) if near else 'see --help'}.")
    several = [flags.coordinator, flags.num_processes, flags.process_id]
    if any(value is not None for value in several):
        if any(value is None for value in several):
            own.error("--coordinator, --num-processes and --process-id go together, or --distributed alone.")
        jax.distributed.initialize(*several)
    elif flags.distributed:
        jax.distributed.initialize()
    if flags.compile_for or flags.fit:
        jax.config.update("jax_platforms", "cpu")  # the devices that it is for are not here
    config = CONFIGS[flags.config]
    given = {name: getattr(flags, name) for name in configs.flags(config) if hasattr(flags, name)}
    out = flags.out or pathlib.Path("results") / f"train-{flags.config}"
    try:
        values = (configs.from_file(config, flags.options) if flags.options else {}) | given
        config = configs.overridden(config, values)
        if flags.compile_for or flags.fit:
            print(_compiled(config, flags, values))
            return
        figures = main(
            config,
            out,
            data=flags.data,
            resume=flags.resume,
            profile=flags.profile,
            tensorboard=flags.tensorboard,
            local=flags.local,
            began=began,
            asked=values,
        )
    except ConnectionError as error:  # another process is gone: all of them are to be started again
        own.exit(training.EXIT_INTERRUPTED, f"{own.prog}: {error}\n")
    except (OSError, ValueError, ImportError, FloatingPointError, MemoryError) as error:
        own.exit(2, f"{own.prog}: {error}\n")
    if jax.process_index() == 0:
        print(
            f"bits per dimension    {figures['bits_per_dimension']:.3f} +- "
            f"{figures['bits_per_dimension_standard_error']:.3f} of held-out images\n"
            f"beside it             {figures['gaussian_bits_per_dimension']:.3f} of the Gaussian\n"
            f"Frechet distance      {figures['frechet_samples']:.2f} of samples, "
            f"{figures['frechet_gaussian']:.2f} of the Gaussian's, "
            f"{figures['frechet_training_images']:.2f} of training images, to held-out images\n"
            + "".join(
                f"of the map's          {value:.2f} by {name.split('_')[1]} calls\n"
                for name, value in figures.items()
                if name.endswith("_calls")
            )
            + f"time                  {figures['training_seconds']:.0f} s of training, "
            f"{figures['total_seconds']:.0f} s of this run in all\n"
            f"written to            {out}/"
        )


if __name__ == "__main__":
    command_line(began=signals.BEGAN)  # pyright: ignore[reportPossiblyUnboundVariable]
