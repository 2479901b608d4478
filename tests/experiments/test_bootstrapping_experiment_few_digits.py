"""E8 of the bootstrapping experiment: its few images, what they know, and the targets made of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bootstrapping import few_digits as part
from experiments.bootstrapping import ratios
from experiments.image_problems import PROBLEMS

PROBLEM = PROBLEMS["digits"]()
FEW = part.task(PROBLEM, jax.random.key(0), 30, 60)


def test_images_are_drawn_without_replacement_and_repeated():
    pixels = np.asarray(FEW.pixels)
    assert (pixels[:30] == pixels[30:]).all()
    train = {row.tobytes() for row in np.asarray(PROBLEM.train)}
    own = {row.tobytes() for row in pixels}
    assert len(own) == 30
    assert own <= train
    other = part.task(PROBLEM, jax.random.key(1), 30, 60)
    assert not (np.asarray(other.pixels) == pixels).all()


def test_the_field_is_the_posterior_mean_over_the_images():
    """Against float64 sums over the thirty, each a Gaussian of the uniform's variance around its center."""
    t = jnp.array([0.1, 0.3, 2.0])
    x = (FEW.pixels[:3] + 0.5) / 17 + 0.3 * jax.random.normal(jax.random.key(1), (3, 64))
    got = FEW.field(17)(x, t)
    centers, variance = (np.asarray(FEW.pixels[:30], np.float64) + 0.5) / 17, 1 / (12 * 17**2)
    for i, (row, sigma) in enumerate(zip(np.asarray(x, np.float64), np.asarray(t, np.float64), strict=True)):
        total = variance + sigma**2
        log_weights = -0.5 * ((row - centers) ** 2).sum(1) / total
        weights = np.exp(log_weights - log_weights.max())
        means = centers + variance / total * (row - centers)
        wanted = weights @ means / weights.sum()
        np.testing.assert_allclose(got.data[i], wanted, atol=2e-4)
        np.testing.assert_allclose(got.noise[i], (row - wanted) / sigma, atol=2e-3)


@pytest.mark.parametrize(("mix", "field"), [(1.0, 0.0), (0.0, 1.0), (0.9, 1.0)])
def test_targets_keep_the_conditional_mean_and_lose_variance(mix, field):
    """With the field, which is exact for these images, as the teacher; at levels where they are confused."""
    n = 3000
    pixels = jnp.tile(FEW.pixels[:30], (n // 30, 1))
    t = jnp.exp(jnp.linspace(np.log(0.4), np.log(4.0), n))[jax.random.permutation(jax.random.key(2), n)]
    exact = FEW.field(17)

    @jax.jit
    def draw(mix, field):
        x, y = part.target(PROBLEM, jax.random.key(3), FEW, exact, pixels, t, mix, field)
        return x, y.noise - exact(x, t).noise

    x, residual = (np.asarray(a, np.float64) for a in draw(mix, field))
    _, plain = draw(0.0, 0.0)
    # What every entry shares varies between rows, not within them.
    for moment in (residual.mean(1), (residual * x).mean(1)):
        assert abs(moment.mean()) < 4 * moment.std() / n**0.5 + 1e-4
    assert (residual**2).mean() < 0.8 * (np.asarray(plain) ** 2).mean()
    if mix == 0:
        np.testing.assert_allclose(residual, 0, atol=2e-3)


def test_below_two_levels_the_target_is_denoisings():
    """Whatever the teacher says there: it is NaN."""
    t = jnp.array([0.02, 0.09])
    nothing = part.as_denoiser(
        lambda x, t: part.Denoised(jnp.nan * x, jnp.nan * x), part.SCHEDULE, shape=(64,)
    )
    _, y = part.target(
        PROBLEM, jax.random.key(0), FEW, nothing, FEW.pixels[:2], t, jnp.asarray(0.9), jnp.ones(())
    )
    own = PROBLEM.target(jax.random.split(jax.random.key(0), 3)[0], FEW.pixels[:2], t)[1]
    np.testing.assert_array_equal(y.noise, own.noise)


def test_methods_differ_in_what_they_say():
    config = part.Config(steps=100)
    found = {name: tuple(map(float, how)) for name, how in part.methods(config, 3.0).items()}
    assert next(iter(found)) == ratios.DENOISING
    assert found == {
        ratios.DENOISING: (0.0, 0.0, 3.0, 100.0),
        part.BOOTSTRAPPED: (pytest.approx(config.mix), 0.0, 3.0, 100.0),
        ratios.STABLE: (0.0, 1.0, 3.0, 100.0),
        part.BOTH: (pytest.approx(config.mix), 1.0, 3.0, 100.0),
        ratios.MORE_STEPS: (0.0, 0.0, 3.0, 150.0),
    }


@pytest.mark.slow
def test_it_runs_small(axes):
    """After twelve steps every method's own nats are its own, and denoising's gain over itself is none."""
    figures = json.loads(json.dumps(part.run(part.smoke()), allow_nan=False))
    rows = figures["rows"]
    assert len(rows) == 10
    assert rows[0]["gain"] == {"mean": 0.0, "standard_error": 0.0}
    assert len({row["nats"]["mean"] for row in rows}) == 10
    assert figures["cost"] > 0
    assert "a step with teacher and field" in part.table(figures)
    part.draw(figures, axes)
    assert len(axes.get_legend().get_texts()) == 4
