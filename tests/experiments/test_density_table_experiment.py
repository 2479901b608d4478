"""The density table: its laws and their entropies, its trainer, its flows and what it reads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import estimates
from experiments.density_table import compare, descent, flows, images, laws, margins, models, tables, toys
from jaxdiff.denoising import quantized
from jaxdiff.laws.gaussian import Gaussian

NOISES = {"checkerboard": 0.4, "eight Gaussians": 1.0, "two moons": 0.4}


@pytest.mark.parametrize("name", laws.LAWS)
def test_the_floor_is_the_mean_over_draws_of_what_the_density_says(name):
    """Draws and density come from different code: a wrong center, weight or edge shows in the mean."""
    law, noise = laws.LAWS[name], NOISES[name]
    floor = laws.entropy(law, noise, spacing=0.5)
    x = laws.sample(law, jax.random.key(0), 4_000, noise)
    mean, error = estimates.over_first(-np.asarray(laws.log_density(law, x, noise)))
    assert abs(mean - floor) < 4 * error


def test_entropies_are_those_that_are_known_where_noise_is_small():
    far = laws.entropy(laws.LAWS["eight Gaussians"], 0.3)
    assert far == pytest.approx(np.log(8 * 2 * np.pi * np.e * 0.3**2), abs=1e-4)
    with pytest.raises(ArithmeticError, match="finer spacing"):
        laws.entropy(laws.LAWS["eight Gaussians"], 0.3, spacing=4.0)


def squares(params, fixed, key, batch):
    """Least at the batch's mean plus what is fixed."""
    return jnp.mean((params - batch - fixed) ** 2)


def test_a_descent_ends_at_the_least_loss_after_its_time():
    rows = jnp.full((10, 1), 3.0)
    rules = descent.Rules(learning_rate=0.1, batch_size=4, ema_decay=0.9, chunk=20)
    fit = descent.Descent(squares, rules)
    fitted = fit(jax.random.key(0), jnp.zeros(()), rows, 0.1, fixed=jnp.float32(1.0))
    assert fitted.params == pytest.approx(4.0, abs=0.05)
    assert fitted.seconds >= 0.1
    assert fitted.steps % 20 == 0
    # A judge that likes the beginning best gets what is near it, though later averages are of less loss.
    seen = []

    def judge(params):
        seen.append(float(params))
        return -len(seen)

    first = fit(jax.random.key(0), jnp.zeros(()), rows, 0.1, fixed=jnp.float32(1.0), judge=judge)
    assert float(first.params) == seen[0]
    assert len(seen) > 1


def test_a_row_of_the_table_is_less_the_truth_and_in_its_unit():
    """The law itself, shown at half its scale, is off the truth by nothing."""
    x = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    exact = Gaussian([0.0, 0.0], 1.0).log_prob(jnp.asarray(x))
    train = jnp.asarray(np.random.default_rng(1).normal(size=(200_000, 2)), jnp.float32) / 2
    rows = compare.Rows(train, train[:0], jnp.asarray(x) / 2, -2 * np.log(2.0), np.asarray(exact))
    ways = {"Gaussian": compare.Way(compare.Law(1, rows=200_000))}
    (row,) = compare.figures(ways, lambda seed: rows, models.identity, seeds=(0, 1), seconds=1.0)
    assert row["below"]["mean"] == pytest.approx(0.0, abs=2e-3)
    assert row["nats"]["mean"] == pytest.approx(float(exact.mean()), abs=2e-3)


def test_patches_lose_their_mean_and_the_entry_that_it_gives_away():
    x = jnp.array([[1.0, 2.0, 6.0]])
    np.testing.assert_allclose(images.without_mean(x), [[-2.0, -1.0]])


def test_normal_margins_have_the_density_of_levels_that_are_dequantized():
    """If entries are independent and as frequent as said, log p is known; the slope is also a difference's."""
    log_frequencies = jnp.log(jnp.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]))
    to_normal = margins.Margins(log_frequencies)
    pixels = jax.random.randint(jax.random.key(0), (50, 2), 0, 3)
    x = (pixels + jax.random.uniform(jax.random.key(1), pixels.shape, minval=0.1, maxval=0.9)) / 3
    y, log_slope = to_normal(x)
    wanted = jnp.take_along_axis(log_frequencies[None], pixels[..., None], 2)[..., 0].sum(1) + 2 * jnp.log(
        3.0
    )
    np.testing.assert_allclose(jax.scipy.stats.norm.logpdf(y).sum(1) + log_slope, wanted, atol=1e-4)
    slopes = jax.vmap(jax.jacfwd(lambda row: to_normal(row[None])[0][0]))(x)
    np.testing.assert_allclose(jnp.linalg.slogdet(slopes)[1], log_slope, atol=1e-4)


def test_the_steps_of_a_table_s_grid():
    rows = np.array([[1.0, 0.25, 30.0], [2.0, 0.5, 50.0], [7.0, 0.75, 10.0]])
    np.testing.assert_allclose(tables._steps(rows), [1.0, 0.01, 10.0])
    wine = tables.shipped("wine", 0)
    assert wine.train.shape[1] == 13
    assert len(wine.train) + len(wine.valid) + len(wine.test) == 178
    np.testing.assert_allclose(wine.train.mean(0), 0, atol=1e-5)
    # Held-out rows are standardized by the others' moments, which are not theirs.
    assert abs(wine.test.mean(0)).max() > 0.05


def test_miniboone_s_file_is_split_as_its_archive_says(tmp_path):
    data = np.random.default_rng(0).normal(size=(200, 43))
    np.save(tmp_path / "data.npy", data)
    table = tables.miniboone(tmp_path / "data.npy")
    assert [len(part) for part in table[:3]] == [162, 18, 20]
    both = np.concatenate([table.train, table.valid])
    np.testing.assert_allclose(both.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(both.std(0), 1, atol=1e-5)
    np.testing.assert_allclose(table.test, (data[180:] - data[:180].mean(0)) / data[:180].std(0), atol=1e-5)
    with pytest.raises(FileNotFoundError, match=tables.VARIABLE):
        tables.miniboone(tmp_path / "none.npy")
    np.save(tmp_path / "narrow.npy", data[:, :3])
    with pytest.raises(ValueError, match="43 numbers"):
        tables.miniboone(tmp_path / "narrow.npy")


def test_flows_are_left_out_with_a_word(monkeypatch, capsys):
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    assert list(toys.ways(toys.smoke())) == ["denoiser", "denoiser over 4 Gaussians", "mixture of 4"]
    assert "FlowJAX is not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_the_head_of_the_flows_begins_at_the_histogram_of_each_entry():
    """With weights of zero in its last layer it is that law exactly, whatever the entries before."""
    pytest.importorskip("flowjax")
    pixels = jax.random.randint(jax.random.key(0), (50, 4), 0, 3)
    log_prior = quantized.log_histogram(pixels, levels=3)
    x = (pixels + 0.3) / 3
    wanted = jnp.take_along_axis(log_prior[None], pixels[..., None], 2)[..., 0].sum(1) + 4 * jnp.log(3.0)
    settings = flows.Settings(layers=1, width=8, depth=1, knots=4)
    for kind in flows.KINDS:
        with jax.numpy_rank_promotion("allow"):  # which FlowJAX makes use of
            head = flows._head(kind, jax.random.key(1), 4, settings, log_prior)

        def silent(leaf):
            return leaf * (leaf.ndim < 2) if isinstance(leaf, jax.Array) else leaf

        head = [jax.tree.map(silent, layer) for layer in head]

        def through(row, head=head):
            total = 0.0
            for layer in head:
                row, log_det = layer.transform_and_log_det(row)
                total += log_det
            return jax.scipy.stats.norm.logpdf(row).sum() + total

        with jax.numpy_rank_promotion("allow"):
            got = jax.vmap(through)(x)
        np.testing.assert_allclose(got, wanted, atol=2e-3, err_msg=kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "config"),
    [
        (toys, toys.smoke()),
        (tables, tables.smoke()),
        (images, dataclasses.replace(images.smoke(), heads=False)),
    ],
    ids=("toys", "tables", "images"),
)
def test_parts_run_small(part, config, monkeypatch):
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv(tables.VARIABLE, raising=False)
    monkeypatch.setattr(models, "_GRID", 4)
    figures = part.run(config)
    blocks = figures["noises"] if part is toys else [{"rows": rows} for rows in figures["blocks"].values()]
    for row in (row for block in blocks for row in block["rows"]):
        assert np.isfinite(row["nats"]["mean"])
        assert row["method"] in part.table(figures)
