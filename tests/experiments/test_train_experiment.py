import contextlib
import dataclasses
import functools
import json
import math
import os
import signal
import sys
import time
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same_bits

from experiments.train import __main__ as program
from experiments.train import configs, evaluation, forms, problems, sinks, trainer
from experiments.train.configs import CONFIGS, smoke
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.shaped import Shaped
from jaxdiff.learning import training
from jaxdiff.models import DiffusionTransformer, ResidualMLP, UNet, scanned_blocks, separate_blocks
from jaxdiff.running.checkpoints import Checkpoints
from jaxdiff.running.parallel import Layout, data_mesh

CONFIG = dataclasses.replace(
    smoke(CONFIGS["digits"]),
    model=ResidualMLP(width=16, num_blocks=1, dropout=0.1),
    flip=True,
    start="gaussian",
    horizon=5.0,
)


class Writer:
    """What a sink asks of TensorBoard, kept."""

    def __init__(self, directory, **options):
        self.opened, self.curves, self.images = (directory, options), [], []
        Writer.last = self

    def add_scalar(self, name, value, step):
        self.curves.append((step, name, value))

    def add_image(self, name, image, step, *, dataformats):
        self.images.append((step, name, image, dataformats))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True


@pytest.fixture(scope="module", params=[pytest.param("run", marks=pytest.mark.slow)])
def finished(tmp_path_factory):
    """A whole run on one device: what it is made of, its directory, its figures and the state at its end."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "data_mesh", lambda _, **axes: data_mesh(jax.devices()[:1], **axes))
        patch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
        figures = program.main(CONFIG, out, profile=out / "trace", tensorboard=True)
        run = trainer.prepare(CONFIG, problems.load(CONFIG, None))
    return run, out, figures, jax.device_get(trainer.fit(run, out, resume=True))


def test_it_writes_what_it_says(finished):
    _, out, figures, _ = finished
    assert json.loads((out / "figures.json").read_text()) == json.loads(json.dumps(figures))
    assert all(np.isfinite(v) for v in figures.values() if isinstance(v, float))
    assert figures["step"] == CONFIG.steps
    assert figures["config"]["model"] == configs.as_dict(CONFIG)["model"]
    assert figures["config"]["model"]["name"] == "ResidualMLP"
    for name in ("figure.png", "samples-00000006.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [3, 6]
    assert 0 < log[-1]["goodput"] < 1
    assert log[-1]["compile_seconds"] > 0
    assert log[-1]["model_flops"] > 0
    assert list((out / "trace").rglob("*.xplane.pb"))
    assert Writer.last.opened[0] == str(out / "tensorboard")
    assert Writer.last.curves == [
        (line["step"], name, value) for line in log for name, value in line.items() if name != "step"
    ]
    assert Writer.last.closed
    ((step, name, image, order),) = Writer.last.images
    assert (step, name, order) == (6, "samples", "HWC")
    assert image.shape == (80, 80, 1)  # eight by eight digits with a frame


def test_tensorboard_reads_what_is_written(tmp_path):
    """Steps after the one that a run is gone on with from are the new run's."""
    pytest.importorskip("tensorboardX")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with sinks.tensorboard(tmp_path, 0) as sink:
        for step in (10, 20, 30):
            sink(step, {"loss": step / 10})
        sink(20, {"samples": np.full((4, 6, 1), 0.5)})
    time.sleep(1.1)  # files are read in the order of their seconds
    with sinks.tensorboard(tmp_path, 20) as sink:
        sink(30, {"loss": 7.0})
    read = events.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(10, 1), (20, 2), (30, 7)]
    assert [(event.step, event.height, event.width) for event in read.Images("samples")] == [(20, 4, 6)]


def test_tensorboard_that_is_not_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr(program, "main", lambda config, out, **_: sinks.tensorboard(out, 0).__enter__())
    with pytest.raises(SystemExit) as ended:
        program.command_line(["digits", "--tensorboard", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "--tensorboard needs tensorboardX; pip install '.[tensorboard]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stopped_run_exits_saved_and_goes_on_with_other_devices(finished, tmp_path, monkeypatch, capsys):
    run, _, _, end = finished
    pmapped = run._replace(
        config=dataclasses.replace(run.config, engine="pmap"), layout=Layout(data_mesh(jax.devices()[:2]))
    )
    with monkeypatch.context() as patch:
        patch.setattr(training, "interruption", lambda: contextlib.nullcontext(lambda step: step == 3))
        with pytest.raises(SystemExit) as stopped:
            trainer.fit(pmapped, tmp_path, resume=True)  # which begins where there is nothing
    assert stopped.value.code == 75
    assert "Stopped at step 3; go on with --resume" in capsys.readouterr().err
    assert not (tmp_path / "samples-00000003.png").exists()  # who stops a run waits for its end
    state = jax.device_get(trainer.fit(run, tmp_path, resume=True))
    assert state.step == 6
    for one, other in zip(jax.tree.leaves(end.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_a_run_goes_on_from_a_state_between_two_checkpoints(finished, tmp_path, monkeypatch):
    """On this host's own disk, after 3 steps; no checkpoint could be written."""
    run, _, _, expected = finished
    run = run._replace(config=dataclasses.replace(run.config, local_every=3))
    out, local = tmp_path / "out", tmp_path / "local"
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError("no room")

        patch.setattr(trainer.Checkpoints, "save", full)
        with pytest.raises(OSError, match="no room"):
            trainer.fit(run, out, local=local)
    began = time.monotonic() - 100
    state = trainer.fit(run, out, resume=True, local=local, began=began)
    assert_same_bits(jax.device_get(state), expected)
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log][-1:] == [6]
    assert log[-1]["start_seconds"] >= 100
    assert log[-1]["restore_seconds"] < 100


def test_a_signal_in_the_last_save_is_heard_when_it_is_whole(finished, tmp_path, monkeypatch, capsys):
    run, _, _, end = finished
    monkeypatch.setattr(
        trainer.figures, "draw_grid", lambda images, path: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(SystemExit) as stopped:
        trainer.fit(run, tmp_path)
    assert stopped.value.code == 75
    assert "Stopped at step 6; go on with --resume" in capsys.readouterr().err
    assert_same_bits(jax.device_get(trainer.fit(run, tmp_path, resume=True)), end)


def test_more_steps_are_the_same_run_and_another_batch_is_not(finished):
    run, out, _, _ = finished
    for change, message in (
        ({"batch_size": 32}, "batch_size: got 16, wanted 32"),
        ({"model": run.config.model.clone(width=32)}, r"model.width: got 16, wanted 32"),
    ):
        other = run._replace(config=dataclasses.replace(run.config, **change))
        with pytest.raises(ValueError, match=message):
            trainer.fit(other, out, resume=True)
    longer = dataclasses.replace(run.config, steps=9, engine="pmap", save_every=1)
    assert configs.identity(longer) == configs.identity(run.config)
    with jax.enable_x64(True):
        assert configs.identity(longer)["x64"]
    shorter = run._replace(config=dataclasses.replace(run.config, steps=5))
    with pytest.raises(ValueError, match="num_steps=5 counts from the run's beginning, and 6 steps are done"):
        trainer.fit(shorter, out, resume=True)
    with pytest.raises(FileExistsError, match="holds a run, saved at step 6; go on with --resume"):
        trainer.fit(run, out)


def test_the_average_is_listened_to_when_it_knows_something(finished):
    run, _, _, end = finished
    config = dataclasses.replace(run.config, bootstrap=0.9, bootstrap_after=3)
    other = jax.tree.map(lambda p: p + 0.3, end.params)
    x = run.problem.law.sample(jax.random.key(0), 16)
    loss = jax.jit(run.learner._replace(config=config).loss)
    taught = [
        [loss(run.problem.law, end.params, average, jnp.int32(step), jax.random.key(1), x) for step in (2, 3)]
        for average in (end.params, other)
    ]
    assert taught[0][0] == taught[1][0]
    assert abs(taught[0][1] - taught[1][1]) > 1e-3 * taught[0][1]


def test_a_pool_joins_the_target(finished):
    """With further rows of the law less of the noise is left; where a teacher leaves little, something else."""
    run, _, _, end = finished
    x, pool = (run.problem.law.sample(jax.random.key(k), n) for k, n in ((0, 16), (1, 64)))
    for bootstrap, gain in ((0.0, 0.01), (0.9, -0.01)):
        config = dataclasses.replace(run.config, bootstrap=bootstrap, bootstrap_after=0)
        loss = functools.partial(run.learner._replace(config=config).loss, run.problem.law, end.params)
        given = (end.params, jnp.int32(3), jax.random.key(1), x)
        with_pool, without = loss(*given, pool=pool), loss(*given)
        assert with_pool != without
        assert with_pool < (1 - gain) * without


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["jit", "pmap"])
def test_a_run_with_a_pool(finished, tmp_path, engine):
    run = finished[0]
    config = dataclasses.replace(run.config, pool=8, bootstrap=0.9, bootstrap_after=0, engine=engine)
    state = trainer.fit(run._replace(config=config), tmp_path)
    assert state.step == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


def test_an_untrained_model_has_the_bits_of_its_gaussian(finished):
    """Its network answers zero, so that only the density formula and its scales are seen."""
    run, _, _, _ = finished
    params = run.layout.create(lambda: run.learner.init(jax.random.key(0)))
    got = evaluation.log_densities(run, params)
    wanted = evaluation.gaussian_log_densities(run.problem, 32)
    # Noise sigma_min, a twentieth of the dequantization's, blurs the data a little.
    np.testing.assert_allclose(got, wanted, atol=1.0)
    assert abs((got - wanted).mean()) < 0.1


def test_frechet_features_tell_noise_from_images(finished):
    problem = finished[0].problem
    train = (problem.train[:300] / problem.levels - problem.mean) / problem.std
    noise = np.random.default_rng(0).normal(size=train.shape)
    of_real, of_noise = (evaluation.frechet_distances(problem, x) for x in (train, noise))
    assert of_real["frechet_samples"] < 2 * of_real["frechet_training_images"]
    assert of_noise["frechet_samples"] > 10 * of_real["frechet_samples"]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_s_model_takes_its_data(name):
    shape = (8, 8, 1) if CONFIGS[name].dataset == "digits" else (32, 32, 3)
    size, config = math.prod(shape), CONFIGS[name]
    learner = trainer.Learner(config, shape)
    law = Shaped(Gaussian(jnp.zeros(size), Spectrum(jnp.ones(size), jnp.eye(size))), shape)

    def denoised(key):
        params = learner.init(key)
        return learner.model(law, params, dropout=key)(jnp.ones((2, *shape)), jnp.ones(2))

    assert jax.eval_shape(denoised, jax.random.key(0)).data.shape == (2, *shape)


def test_a_stationary_covariance_is_the_mean_over_equal_differences():
    images = np.random.default_rng(0).normal(size=(50, 3, 4, 2)).cumsum(1).cumsum(2)
    both = np.concatenate([images, images[:, :, ::-1]])
    wanted = np.zeros((3, 4, 2, 3, 4, 2))
    for dy in range(-2, 3):
        for dx in range(-3, 4):
            places = [
                (y, x, y + dy, x + dx)
                for y in range(3) for x in range(4)
                if 0 <= y + dy < 3 and 0 <= x + dx < 4
            ]  # fmt: skip
            products = [np.einsum("nc,nd->ncd", both[:, y, x], both[:, v, u]) for y, x, v, u in places]
            for y, x, v, u in places:
                wanted[y, x, :, v, u, :] = np.mean(products, axis=(0, 1))
    got = problems._stationary_covariance(images)
    np.testing.assert_allclose(got, wanted.reshape(24, 24), atol=1e-10)


def test_the_gaussian_of_a_run_is_kept_and_read_if_it_is_of_these_pixels(tmp_path, monkeypatch):
    file = tmp_path / "out" / "gaussian.npz"
    first = problems.load(CONFIG, None, kept=file)
    [there] = file.parent.iterdir()
    assert there == file
    real, made = np.linalg.eigh, []
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: made.append(matrix) or real(matrix))

    def same(other):
        return all(jax.tree.leaves(jax.tree.map(np.array_equal, first.law, other.law)))

    assert same(problems.load(CONFIG, None, kept=file))
    assert not made
    other = dataclasses.replace(CONFIG, gaussian="stationary" if CONFIG.gaussian == "full" else "full")
    assert not same(problems.load(other, None, kept=file))
    assert len(made) == 1
    for damage in (lambda content: content[: len(content) // 2], lambda content: b""):
        file.write_bytes(damage(file.read_bytes()))
        assert same(problems.load(CONFIG, None, kept=file))
    assert len(made) == 3
    assert same(problems.load(CONFIG, None, kept=file))
    assert len(made) == 3


def test_the_network_learns_what_the_reference_leaves_over(finished):
    """An untrained one is silent; where the gain of one pixel's own output is 1, it adds in EDM's row."""
    run, _, _, _ = finished
    law, shape = run.problem.law, run.problem.shape
    x, t = 3 * law.sample(jax.random.key(0), 6), jnp.geomspace(0.002, 80.0, 6)
    params = jax.jit(run.learner.init)(jax.random.key(0))
    silent, own = run.learner.model(law, params)(x, t), law.denoiser(trainer.SCHEDULE)(x, t)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), silent, own)
    seen = []

    def shown(params, features, level):
        seen.append((features, level))
        return jnp.ones((len(features), 64))

    got = trainer._Shown(shown, law, as_vectors=True)(None, x, t)
    assert got.shape == x.shape
    (features, level), scale = seen[0], np.sqrt(1 + np.asarray(t) ** 2)
    np.testing.assert_allclose(level, np.log(t) / 4, atol=1e-6)
    rows = x.reshape(6, -1) / scale[:, None]
    wanted = np.concatenate([rows, own.noise.reshape(6, -1)], axis=1)
    np.testing.assert_allclose(features, wanted, rtol=1e-5, atol=1e-5)
    without = trainer._Shown(lambda params, features, level: features, None, as_vectors=False)(None, x, t)
    np.testing.assert_allclose(without, rows.reshape(6, *shape), rtol=1e-5)


def test_samples_that_are_not_finite_are_refused(finished):
    run, _, _, end = finished
    broken = jax.tree.map(lambda p: p.at[...].set(jnp.nan), jax.tree.map(jnp.asarray, end.params))
    with pytest.raises(
        FloatingPointError, match=r"\d+ of \d+ samples of the average at step 6 are not finite"
    ):
        run.sample(run.layout.place(broken), jax.random.key(0), 8, 2, of=trainer.average_of(end))
    samples = np.zeros((8, *run.problem.shape))
    samples[5, 2] = np.nan
    with pytest.raises(FloatingPointError, match="1 of 8 samples to be compared are not finite"):
        evaluation.frechet_distances(run.problem, samples)


@pytest.mark.parametrize(("platform", "keep", "wanted"), [
    ("cpu", False, "float32"), ("cpu", True, "bfloat16"), ("gpu", False, "bfloat16"),
])  # fmt: skip
def test_bfloat16_is_for_accelerators_unless_it_is_asked_for(
    platform, keep, wanted, monkeypatch, tmp_path, capsys
):
    class PreparedError(Exception):
        pass

    def prepare(config, problem):
        raise PreparedError(config)

    monkeypatch.setattr(trainer, "prepare", prepare)
    monkeypatch.setattr(problems, "load", lambda config, data, **kept: None)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(platform=platform)])
    with pytest.raises(PreparedError) as prepared:
        program.main(CONFIGS["cifar10"], tmp_path, asked=["model.dtype"] if keep else [])
    model = CONFIGS["cifar10"].model.clone(dtype=wanted)
    assert prepared.value.args[0] == dataclasses.replace(CONFIGS["cifar10"], model=model)
    said = capsys.readouterr().err
    assert said.count("\n") == (wanted == "float32")
    assert ("training in float32" in said) == (wanted == "float32")
    assert configs.in_single_precision(CONFIGS["patches"]) == CONFIGS["patches"]


def test_blocks_are_in_one_loop_on_accelerators_unless_it_is_asked_for():
    config, unet = CONFIGS["patches-transformer"], CONFIGS["patches"]
    assert forms.for_platform(config, "tpu", ["steps"]).model == config.model.clone(scan=True)
    assert (
        forms.for_platform(config, "tpu", ["model.scan"]) == forms.for_platform(config, "cpu", []) == config
    )
    assert forms.for_platform(unet, "gpu", []) == unet


@pytest.mark.slow
def test_a_run_goes_on_with_its_blocks_in_the_other_form(tmp_path):
    """Three steps of six in a loop, or apart, come to what all six do."""
    model = DiffusionTransformer(patch_size=4, width=16, num_blocks=2, num_heads=2)
    apart = dataclasses.replace(smoke(CONFIGS["digits"]), model=model, shown="images", save_every=3)
    problem = problems.load(apart, None)
    loop = dataclasses.replace(apart, model=model.clone(scan=True))

    def state(config, out, **options):
        return jax.device_get(trainer.fit(trainer.prepare(config, problem), tmp_path / out, **options))

    whole = state(apart, "whole")
    state(dataclasses.replace(apart, steps=3), "parts")
    got = state(loop, "parts", resume=True)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(scanned_blocks(whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    back = trainer.prepare(apart, problem)
    with Checkpoints(tmp_path / "parts" / "checkpoints", config=configs.identity(apart)) as checkpoints:
        again = forms.newest(apart, back.layout, trainer.functions(back)[0], checkpoints, None)
    assert_same_bits(jax.device_get(again), separate_blocks(got))


def test_flips_are_keyed_by_row():
    images = jnp.arange(64.0).reshape(16, 2, 2, 1)
    got = problems.flipped(jax.random.key(0), images)
    np.testing.assert_array_equal(problems.flipped(jax.random.key(0), images[:5]), got[:5])
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert 2 < mirrored.sum() < 14
    np.testing.assert_array_equal(got[~mirrored], images[~mirrored])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["cats"], "invalid choice: 'cats'"),
        (["patches", "--step", "3"], "unknown option --step; near it: --steps"),
        (["patches", "--model.chanels=3"], "unknown option --model.chanels=3; near it: --model.channels"),
        (["patches", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (
            ["patches", "--weight", "flat"],
            "argument --weight: invalid choice of likelihood, edm value: 'flat'",
        ),
        (["patches", "--model.dtype", "float17"], "argument --model.dtype: invalid dtype or none value"),
        (["patches", "--flip", "maybe"], "invalid bool value: 'maybe'"),
        (["patches", "--steps", "0"], "steps must be an integer of at least 1, got 0"),
        (["patches", "--ema_widths", "0.5"], "width must lie in (0, 12^(-1/2) = 0.2887], got 0.5"),
        (["patches", "--process-id", "1"], "--coordinator, --num-processes and --process-id go together"),
        (["cifar10"], "The data set cifar10 is read from your files; give --data DIR"),
        (
            ["digits", "--objective", "mean_flow", "--pool", "8"],
            "mean_flow has a target of its own; bootstrap and",
        ),
        (
            ["patches-transformer", "--objective", "mean_flow", "--model.attention", "cudnn"],
            "which attention by cudnn has not; use --model.attention xla",
        ),
        (["digits", "--objective", "flow"], "invalid choice of denoising, mean_flow"),
        (["digits", "--curriculum", "0"], "curriculum must be an integer of at least 1"),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        program.command_line(flags)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_flags_override_the_config(monkeypatch, tmp_path, capsys):
    seen = []

    def main(config, out, **options):
        seen.append((config, out, options))
        return dict.fromkeys(FIGURES, 1.0)

    monkeypatch.setattr(program, "main", main)
    flags = "--steps 7 --model.channels 8 --model.channel_multipliers 1,2 --model.dtype bfloat16 --flip false"
    program.command_line(
        ["patches", *flags.split(), "--decay_after", "none", "--out", str(tmp_path), "--resume"]
    )
    config, out, options = seen[0]
    model = UNet(channels=8, channel_multipliers=(1, 2), blocks_per_level=1, dtype="bfloat16")
    wanted = dataclasses.replace(CONFIGS["patches"], steps=7, model=model, flip=False, decay_after=None)
    assert (config, out) == (wanted, tmp_path)
    assert options == {
        "local": None,
        "began": None,
        "data": None,
        "resume": True,
        "profile": None,
        "asked": mock.ANY,
        "tensorboard": False,
    }
    program.command_line(["cifar10", "--model.channels", "32"])
    assert list(seen[1][2]["asked"]) == ["model.channels"]


def test_options_come_from_a_file_and_flags_win(monkeypatch, tmp_path):
    """From a plain object, and from the figures of a run, which give its config again."""
    seen = []
    monkeypatch.setattr(
        program, "main", lambda config, *_, **__: seen.append(config) or dict.fromkeys(FIGURES, 1.0)
    )
    file, out = tmp_path / "options.json", ["--out", str(tmp_path)]
    file.write_text(
        json.dumps({"steps": 9, "flip": False, "model.channel_multipliers": [1, 2], "decay_after": None})
    )
    program.command_line(["patches", "--options", str(file), "--steps", "7", *out])
    model = CONFIGS["patches"].model.clone(channel_multipliers=(1, 2))
    wanted = dataclasses.replace(CONFIGS["patches"], steps=7, flip=False, decay_after=None, model=model)
    assert seen[0] == wanted
    file.write_text(json.dumps({"config": configs.as_dict(wanted), "bits_per_dimension": 3.0}))
    program.command_line(["patches", "--options", str(file), *out])
    assert seen[1] == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must hold an object of options, got list"),
        ("{", "must be JSON, an object of options"),
        ('{"step": 1}', "has the unknown option step; near it: steps"),
        ('{"steps": "many"}', "has steps = 'many', which is no int"),
        ('{"config": {"model": {"name": "ResidualMLP"}}}', "is of a ResidualMLP, and this config of a UNet"),
    ],
)
def test_a_bad_file_of_options_ends_in_one_line(text, message, tmp_path, capsys):
    (tmp_path / "options.json").write_text(text)
    with pytest.raises(SystemExit) as exit_:
        program.command_line(["patches", "--options", str(tmp_path / "options.json")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_help_says_what_an_option_means(capsys):
    with pytest.raises(SystemExit):
        program.command_line(["patches", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "Training images, drawn anew at each step, of whose posterior the target is made; 0: none. (default 0)"
        in said
    )
    order = [said.index(f"{title}: --") for title in configs.SECTIONS.values()]
    assert len(set(order)) == len(configs.SECTIONS)


FIGURES = (
    "bits_per_dimension", "bits_per_dimension_standard_error", "gaussian_bits_per_dimension", "frechet_samples", "frechet_gaussian",
    "frechet_training_images", "training_seconds", "total_seconds",
)  # fmt: skip
