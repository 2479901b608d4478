import dataclasses
import json
import math

import numpy as np
import pytest

from experiments import pictures, quickstart
from jaxdiff.learning.training import averaged

CONFIG = quickstart.smoke()


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("digits", "patches")]
)
def run(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    config = dataclasses.replace(CONFIG, dataset=request.param)
    return config, out, quickstart.main(config, out)


def test_it_writes_what_it_says(run):
    config, out, figures = run
    assert json.loads((out / "figures.json").read_text()) == figures
    assert all(np.isfinite(v) for v in figures.values() if isinstance(v, float))
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == config.steps
    bits = -figures["held_out_nats"] / (64 * math.log(2))
    levels = 17 if config.dataset == "digits" else 256
    assert figures["bits_per_dimension"] == pytest.approx(bits + math.log2(levels), abs=1e-5)


def test_resume_finds_the_same_model(run):
    config, out, figures = run
    problem = quickstart.PROBLEMS[config.dataset]()
    network, state = quickstart.fit(config, problem, out, resume=True)
    denoise = quickstart.model(problem, network, averaged(state))
    assert quickstart.evaluate(config, problem, denoise)["held_out_nats"] == figures["held_out_nats"]
    assert state.step == figures["step"] == config.steps


def test_a_finished_run_is_not_written_over(run):
    config, out, _ = run
    with pytest.raises(FileExistsError, match="holds a run, saved at step 20; go on with --resume"):
        quickstart.main(config, out)


def test_another_config_is_refused(run):
    config, out, _ = run
    with pytest.raises(ValueError, match=r"batch_size: got 32, wanted 64"):
        quickstart.main(dataclasses.replace(config, batch_size=64), out, resume=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "cats"], "invalid choice: 'cats'"),
        (["--step_size", "3"], "unrecognized arguments"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--bootstrap", "1.5"], r"--bootstrap must lie in [0, 1], got 1.5"),
        (["--pool", "-1"], "--pool must be at least 0, got -1"),
        (["--out", __file__], "is a file"),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        quickstart.command_line(flags)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_bootstrapped_targets_keep_the_conditional_mean():
    """For the patches' Gaussian with its own denoiser as teacher, E[(target - N) x] = 0, and less is left."""
    import jax
    import jax.numpy as jnp

    problem = quickstart.PROBLEMS["patches"]()
    law, schedule = problem.law, quickstart.SCHEDULE
    problem = problem._replace(encode=lambda key, pixels: law.sample(key, len(pixels)))
    t = jnp.geomspace(0.01, 10.0, 4000)
    teacher = law.denoiser(schedule)
    left = []
    for mix in (0.0, 0.9):
        x, y = quickstart.bootstrapped(problem, jax.random.key(0), teacher, jnp.zeros((4000, 64)), t, mix)
        difference = np.asarray(y.noise - teacher(x, t).noise, np.float64)
        for moment in (difference.mean(1), (difference * np.asarray(x)).mean(1)):
            assert abs(moment.mean()) < 4 * moment.std() / math.sqrt(len(moment))
        left.append((difference**2).mean())
    # at half the noise mmse(t) - mmse(s) is left, and (1 - 0.9)^2 of mmse(s)
    assert left[1] < 0.8 * left[0]


@pytest.mark.slow
@pytest.mark.parametrize("bootstrap", [0.9, 0.0])
def test_the_main_job_trains_on_other_targets(tmp_path, bootstrap):
    config = dataclasses.replace(CONFIG, bootstrap=bootstrap, pool=16, warm_up=5, steps=10)
    quickstart.fit(config, quickstart.PROBLEMS["digits"](), tmp_path)  # which begins where there is nothing
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 10


@pytest.mark.slow
def test_the_histogram_is_the_floor_of_an_untrained_network():
    """Without training the model is the product of the pixels' histograms, whose log-density is known."""
    import jax.numpy as jnp

    from jaxdiff import make_denoiser

    problem = quickstart.PROBLEMS["digits"]()
    config = dataclasses.replace(CONFIG, evaluation_rows=24, evaluation_steps=24, num_probes=8)
    silent = problem.predictor(lambda params, x, t: jnp.zeros((*x.shape[:2], 17)))
    denoise = make_denoiser(
        silent, None, quickstart.SCHEDULE, shape=(64,), scale=problem.scale, prediction=problem.prediction,
        t_min=problem.flow_t_min, t_max=problem.t_max,
    )  # fmt: skip
    got = quickstart.evaluate(config, problem, denoise)
    pixels = np.asarray(problem.test[:24])
    counts = np.stack([(np.asarray(problem.train) == k).sum(0) for k in range(17)], axis=1).astype(float)
    overall = np.maximum(counts.sum(0) / counts.sum(), 3e-3)
    counts += 0.5 * 17 * overall
    log_prior = np.log(17 * counts / counts.sum(1, keepdims=True))
    wanted = np.take_along_axis(log_prior.T, pixels, axis=0).sum(1)
    # the noise at the flow's end blurs the levels' edges, which costs some tenths of a nat
    assert got["held_out_nats"] == pytest.approx(wanted.mean(), abs=1.0)


@pytest.mark.slow
def test_one_denoiser_is_trained_sampled_and_asked_for_densities():
    """Dropout, of a key, is all that is different about the one that is trained."""
    import jax
    import jax.numpy as jnp

    from jaxdiff.models import Mixer

    problem = quickstart.PROBLEMS["patches"]()
    network = Mixer(num_outputs=1, channels=8, num_blocks=1, dropout=0.5)

    @jax.jit
    def start(key):  # with noise, since the network is silent at initialization
        params = network.init(key, jnp.zeros((1, 64, 2)), jnp.zeros(1))
        return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(3), p.shape), params)

    params = start(jax.random.key(0))
    x, t = jnp.ones((3, 64)), jnp.array([0.1, 1.0, 10.0])

    @jax.jit
    def answer(*keys):
        denoise = quickstart.model(problem, network, params, **dict(zip(["dropout"], keys, strict=False)))
        assert (denoise.t_min, denoise.t_max) == (problem.flow_t_min, problem.t_max)
        return denoise(x, t).noise

    np.testing.assert_array_equal(answer(), answer())
    np.testing.assert_array_equal(answer(jax.random.key(1)), answer(jax.random.key(1)))
    for keys in ((), (jax.random.key(2),)):
        assert abs(answer(jax.random.key(1)) - answer(*keys)).max() > 1e-3


def test_samples_that_are_not_finite_are_refused():
    import jax.numpy as jnp

    from jaxdiff import as_denoiser
    from jaxdiff.typing import Denoised

    problem = quickstart.PROBLEMS["digits"]()

    def broken(x, t):
        return Denoised(x.at[3, 5].set(jnp.nan), jnp.zeros_like(x))

    denoise = as_denoiser(broken, quickstart.SCHEDULE, shape=(64,), scale=problem.scale, t_min=3e-4)
    with pytest.raises(FloatingPointError, match="1 of 16 samples of the average at step 20 are not finite"):
        quickstart.draw_samples(CONFIG, problem, denoise)
    with pytest.raises(FloatingPointError, match="1 of 16 samples to be compared are not finite"):
        quickstart.compare(CONFIG, problem, jnp.zeros((16, 64)).at[2, 3].set(jnp.nan))
    with pytest.raises(FloatingPointError, match="2 of 3 values"):
        pictures.finite("values", np.array([0.0, np.inf, np.nan]))
    np.testing.assert_array_equal(pictures.finite("values", np.ones((1, 2))), np.ones((1, 2)))


def test_tiles_are_framed_and_in_whole_rows():
    images = np.arange(1.0, 6.0)[:, None, None, None] * np.ones((5, 2, 3, 1))
    got = pictures.tiles(images, 2, line=0.0)
    assert got.shape == (2 * 4, 2 * 5)  # the fifth would begin a third row
    for number, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], 1):
        tile = got[4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        np.testing.assert_array_equal(tile[1:-1, 1:-1], number)
        assert tile.sum() == 6 * number
    assert pictures.tiles(np.ones((1, 2, 2, 3)), 8).shape == (4, 4, 3)
