"""The tutorials run, and what they say of their outcome is so.

A tutorial is run whole in a directory of its own, with the constants at its head made smaller.
"""

import ast
import pathlib
import re
import types

import jax
import matplotlib
import numpy as np
import pytest

import jaxdiff as jd
from experiments import tutorials

FOLDER = pathlib.Path(tutorials.__file__).parent
PATHS = sorted(FOLDER.glob("[0-9]*.py"))


def source(number):
    return next(FOLDER.glob(f"{number}_*.py")).read_text()


def with_constants(text, **constants):
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
        assert count == 1, name
    return text


def run(text):
    # rank promotion is the tests' own rule, not one that users live under
    names = {}
    with jax.numpy_rank_promotion("allow"):
        exec(compile(text, "tutorial", "exec"), names)
    return names


@pytest.fixture
def tutorial(tmp_path, monkeypatch):
    """Runs a tutorial, with constants and words changed, and answers its names; it must leave a picture."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)

    def whole(number, *changes, **constants):
        text = with_constants(source(number), **constants)
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        names = run(text)
        matplotlib.pyplot.close("all")
        (picture,) = pathlib.Path("results/tutorials").glob("*.png")
        pixels = matplotlib.image.imread(picture)
        assert picture.name.startswith(number)
        assert pixels[..., :3].std() > 0.02  # something is drawn
        return names

    return whole


def cells(number, *, until, **constants):
    """The names of a tutorial without its picture: its code before a line that holds the words."""
    text = with_constants(source(number), **constants)
    before = text[: text.index(until)]
    return run(re.sub(r"^OUT.*$", "", before, flags=re.M))


def public_names(tree):
    """Chains of attributes that begin with jd."""
    for node in ast.walk(tree):
        chain = []
        while isinstance(node, ast.Attribute):
            chain.append(node.attr)
            node = node.value
        if chain and isinstance(node, ast.Name) and node.id == "jd":
            yield chain[::-1]


def test_the_index_names_each_tutorial_once():
    named = re.findall(r"^    (\d\d_\w+) ", tutorials.__doc__, re.M)
    assert named == [path.stem for path in PATHS]
    assert [path.stem[:2] for path in PATHS] == [f"{i + 1:02}" for i in range(len(PATHS))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_tutorial_uses_public_names(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.startswith("# %% [markdown]\n# # ")
    chains = list(public_names(tree))
    assert chains
    for chain in chains:
        assert chain[0] in jd.__all__, chain
        holder = jd
        for name in chain:
            if not isinstance(holder, types.ModuleType):
                break
            assert not name.startswith("_"), chain
            assert name in getattr(holder, "__all__", dir(holder)), chain
            holder = getattr(holder, name)
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in imported if module.startswith(("jaxdiff", "experiments"))]
    assert f'OUT / "{path.stem}.png"' in text


def test_networks_of_three_kinds_and_of_ddpm():
    """DDPM's network knows N(0, 1/4) exactly, and so do its samples."""
    names = cells("03", until="# %% [markdown]\n# Nothing else")
    x, t = names["data"][:4], jax.numpy.linspace(0.1, 0.9, 4)
    predictors = (names["linen"].apply, names["nnx_predict"], names["function"])
    with jax.numpy_rank_promotion("allow"):
        for predict, kind in zip(predictors, ("linen", "nnx", "function"), strict=True):
            params = names[f"{kind}_params"]
            both = predict(params, x, t)
            assert both.shape == x.shape
            np.testing.assert_allclose(both[1:], predict(params, x[1:], t[1:]), atol=1e-5)
    text = source("03")
    lines = text[text.index("betas = ") : text.index("print(f\"DDPM's")]
    images = run(f"import jax, jax.numpy as jnp, jaxdiff as jd\n{lines}")["images"]
    assert images.shape == (4, 32, 32, 3)
    assert abs(images.std() - 0.5) < 0.02  # of 250 steps, 0.013 is their error
    assert abs(images.mean()) < 0.02


def test_score_errors_in_one_call():
    names = cells("07", until="# %% [markdown]\n# A fitted", NUM_LEVELS=5)
    errors = np.asarray(names["errors"])
    assert errors.shape == (4, 16, 5)
    assert (errors > 0).all()
    assert (errors[..., -1] < errors[..., 0]).all()  # noise makes every law a Gaussian
    one = names["error"](jax.random.split(jax.random.key(1), 16)[2], 10.0)
    np.testing.assert_allclose(errors[1, 2], one, rtol=1e-4)


@pytest.mark.slow
def test_a_late_start(capsys):
    """Nearer to the law than its fitted start and than no calls at all, from less noise than all of it."""
    names = cells("05", until="# %% [markdown]\n# **Which solver")
    assert "<- the least" in capsys.readouterr().out
    fresh = names["truth"].sample(jax.random.key(3), 2000)
    late, start, no_calls = (
        jd.metrics.energy_distance(names[name], fresh).value for name in ("late", "start_alone", "no_calls")
    )
    assert late < 0.8 * no_calls
    assert late < start / 10
    assert float(names["choice"].times[0]) < 80 / 10


@pytest.mark.slow
def test_first_model(tutorial):
    names = tutorial("01", BATCH_SIZE=128, NUM_SAMPLES=1000, NUM_STEPS=700)
    assert names["distance"] < 0.1  # the moons are 1.7 by 1; N(0, I) is at .5
    assert names["floor"] < names["distance"] + 0.01


@pytest.mark.slow
def test_digits_of_a_wanted_class(tutorial):
    """Judged by the nearest training images: the class is the wanted one for nearly all."""
    from sklearn.neighbors import KNeighborsClassifier

    names = tutorial("02", BATCH_SIZE=64, NUM_STEPS=400)
    images, labels = (np.asarray(part) for part in names["data"])
    judge = KNeighborsClassifier(3).fit(images, labels)
    got = judge.predict(np.asarray(names["images"][1.5]))
    assert (got == np.asarray(names["wanted"])).mean() > 0.9  # by chance .1
    assert names["images"][4.0].std() > names["images"][1.0].std()


@pytest.mark.slow
def test_your_network_and_data(tutorial):
    """Each kind of network learns more of the spiral than its Gaussian knows."""
    names = tutorial("03", BATCH_SIZE=128, NUM_SAMPLES=1000, NUM_STEPS=300)
    data = np.asarray(names["data"])
    gaussian = jd.fit_gaussian(data).sample(jax.random.key(0), 2500)
    control = jd.metrics.energy_distance(gaussian, data).value
    for x in names["samples"].values():
        assert jd.metrics.energy_distance(x, data).value < control / 2


@pytest.mark.slow
def test_likelihoods(tutorial):
    """Near the law's own, which no model surpasses in the mean by more than the draw of points allows."""
    names = tutorial("04", BATCH_SIZE=128, NUM_PIXELS=16, NUM_STEPS=600, NUM_POINTS=150)
    exact, means = names["exact"], names["means"]
    assert 0 < np.mean(exact - names["methods"]["probability flow"].value) < 0.15
    assert 0.89 < names["shares"]["exact denoiser, the law"] <= 1  # of 150, .95 +- .018
    assert -0.3 < means["density formula"] - means["probability flow"] < 0.1
    assert means["lower bound"] < means["probability flow"] + 0.02
    nats = names["gaussian"].log_prob(names["test"][:100]).mean()
    assert abs(names["nats"].mean() - nats) < 0.5
    np.testing.assert_allclose(names["bits"], -nats / (64 * np.log(2)) + np.log2(17), atol=0.02)
    assert "no density" in str(names["caught"][-1].message)


@pytest.mark.slow
def test_late_starts_and_fewer_steps(tutorial):
    names = tutorial(
        "05",
        ("learned=True,", "learned=True, num_samples=512, batch=64,"),
        LEARNING_STEPS=200,
    )
    assert names["tuned"].learned.error < names["tuned"].learned.error_before / 2
    distances = names["distances"]
    assert distances["tuned, 5 calls"] < distances["default, 5 calls"]
    assert distances["late start, 5 calls"] < distances["no calls"]
    assert distances["tuned, 5 calls"] < distances["no calls"] + 0.03


@pytest.mark.slow
def test_bootstrapping(tutorial):
    """All three know more than the Gaussian of the data's moments does."""
    names = tutorial("06", NUM_DRAWS=512, NUM_SAMPLES=500, NUM_STEPS=400)
    times, truth = names["times"], names["truth"]
    gaussian = jd.Gaussian(np.zeros(2), 0.51 * np.eye(2)).denoiser(jd.Karras())
    nothing = times**2 * jd.score_error(jax.random.key(1), gaussian, truth, times).value
    for error in names["errors"].values():
        assert error.mean() < nothing.mean() / 1.5


@pytest.mark.slow
def test_theory_sweeps(tutorial):
    """The excess of a fit over the best Gaussian falls as one over the number of data."""
    by_count = np.asarray(tutorial("07", NUM_LEVELS=8)["by_count"]).mean(1)
    excess = by_count[:2] - by_count[-1]
    assert 1.5 < excess[0] / excess[1] < 9  # three times as many data


@pytest.mark.slow
def test_inverse_problems(tutorial):
    """What is kept is kept; in the hole the mean errs about as much as the spread says."""
    names = tutorial("08", NUM_STEPS=30, NUM_IMAGES=3)
    filled, images, kept = (np.asarray(names[name]) for name in ("filled", "images", "kept"))
    assert np.abs(filled - images[:, None])[:, :, kept].mean() < 0.06
    assert 0.5 < names["error"] / names["spread"] < 2
    assert names["error"] < 0.8 * names["blind"]


@pytest.mark.slow
def test_many_devices(tutorial):
    """The interruption is not seen in any bit, and one device has the same losses."""
    names = tutorial(
        "09",
        ('jax.config.update("jax_num_cpu_devices", 8)', ""),
        BATCH_SIZE=64,
        NUM_SAMPLES=2_000,
        NUM_STEPS=100,
    )
    assert names["same"]
    assert len(names["samples"].sharding.device_set) == 8
    assert [rows[-1][0] for rows in names["losses"].values()] == [100, 50, 100]
    step = jd.make_train_step(names["loss"], names["optimizer"], ema_decay=0.99)
    alone = []
    jd.train(
        names["key"],
        jax.jit(names["init"])(),
        step,
        names["draw"],
        num_steps=50,
        report=lambda step, metrics, rate: alone.append(metrics.loss.mean()),
    )
    np.testing.assert_allclose(alone, [loss for _, loss in names["losses"]["stopped"]], rtol=1e-4)


@pytest.mark.slow
def test_exporting(tutorial):
    names = tutorial("10", BATCH_SIZE=64, NUM_SAMPLES=2_000, NUM_STEPS=100)
    np.testing.assert_allclose(names["samples"], names["before"], atol=1e-4)
    np.testing.assert_allclose(names["samples"], names["again"], atol=1e-4)
    assert names["sampler"].header["config"] == {"data": "eight Gaussians", "steps": 100}


@pytest.mark.slow
def test_latents(tutorial):
    names = tutorial("11", BATCH_SIZE=64, NUM_STEPS=600)
    distances = names["distances"]
    assert distances["diffusion"] < distances["one Gaussian"]
    assert names["denoise"].shape == (8,)


@pytest.mark.slow
def test_few_steps(tutorial):
    """A call of the map leaves less than the Gaussian of the data's moments, which needs none."""
    names = tutorial("12", BATCH_SIZE=128, NUM_SAMPLES=1000, NUM_PILOTS=256, NUM_STEPS=500)
    fresh, key = names["fresh"], names["key"]
    gaussian = jd.fit_gaussian(fresh).sample(key, 4000)
    control = jd.metrics.sliced_wasserstein(key, gaussian, fresh, num_projections=100)
    distances = names["distances"]
    assert max(distances[f"map, {calls}"] for calls in (1, 2, 4)) < 0.8 * control
    assert distances["exact denoiser, tuned, 4"] < distances["exact denoiser, untuned, 4"]


@pytest.mark.slow
def test_tokens(tutorial):
    """More than independent pixels know, of held-out digits; what was given is left as it was."""
    names = tutorial("13", WIDTH=128, NUM_STEPS=500)
    assert names["bound"] > names["independent"] + 2
    assert names["right"] > names["common"] + 0.01  # of 2,048 pixels
    given, completed = np.asarray(names["given"]), np.asarray(names["completed"])
    assert (completed[given < 2] == given[given < 2]).all()
    assert set(np.unique(completed)) == {0, 1}
