"""Score distillation: its gradient against closed forms of the divergence, and that training ends at the teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import CASES, few_of, interior

import jaxdiff as jd
from jaxdiff import maps
from jaxdiff.denoising import prediction

KEY = jax.random.key(0)
MEAN, VARIANCE = np.array([0.4, -1.0]), np.array([0.3, 1.5])


def teacher(schedule):
    return jd.Gaussian(jnp.asarray(MEAN), jnp.asarray(VARIANCE)).denoiser(schedule)


def made(params, schedule):
    """The law of params["std"] z + params["mean"]."""
    return jd.Gaussian(params["mean"], params["std"] ** 2).denoiser(schedule)


def kl_gradient(alpha, sigma, mean, std):
    """Of KL(N(alpha mean, alpha^2 std^2 + sigma^2) || the teacher's), in mean and std."""
    own, other = alpha**2 * std**2 + sigma**2, alpha**2 * VARIANCE + sigma**2
    return alpha**2 * (mean - MEAN) / other, alpha**2 * std * (1 / other - 1 / own)


@pytest.mark.parametrize("name", few_of(["vp", "karras", "cosine", "rectified_flow"], ("vp",)))
def test_the_gradient_is_that_of_the_divergence_of_noised_laws(name, float64):
    """By Gauss and Hermite's quadrature over the generator's noise and the process', at three times at once."""
    case = CASES[name]
    schedule, times = case.schedule, interior(case)[[1, 3, 5]]
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(6)
    node_weights = node_weights / node_weights.sum()
    grids = [grid.ravel() for grid in np.meshgrid(nodes, nodes, times, indexing="ij")]
    z, noise, t = grids[0][:, None] * np.ones(2), grids[1][:, None] * np.ones(2), jnp.asarray(grids[2])
    share = np.outer(node_weights, node_weights).ravel().repeat(3)
    params = {"mean": jnp.array([-0.2, 0.7]), "std": jnp.array([1.1, 0.4])}
    alpha, sigma = (np.array([f(v) for v in times]) for f in (case.alpha, case.sigma))

    @jax.jit
    def gradients(params):
        def loss(params, weight):
            samples = params["std"][None] * z + params["mean"][None]
            x = jax.vmap(jd.perturb, in_axes=(None, 0, 0, 0))(schedule, samples, jnp.asarray(noise), t)
            rows = maps.score_difference_loss(
                samples, x, teacher(schedule), made(params, schedule), t, weight=weight
            )
            return (share * rows).sum(), rows

        return [
            jax.grad(loss, has_aux=True)(params, row) for row in (prediction.noise.row, prediction.data.row)
        ]

    for (got, rows), size in zip(gradients(params), (alpha / alpha, sigma**2 / alpha**2), strict=True):
        each = [
            kl_gradient(a, s, *map(np.asarray, params.values())) for a, s in zip(alpha, sigma, strict=True)
        ]
        for i, part in enumerate(("mean", "std")):
            wanted = sum(w * gradient[i] for w, gradient in zip(size, each, strict=True))
            np.testing.assert_allclose(got[part], wanted, rtol=1e-7, atol=1e-10)
        # The value: what the two scores are apart, here of one row, in the units of the gradient's weight.
        x = alpha[0] * (params["std"] * z[0] + params["mean"]) + sigma[0] * noise[0]
        own, other = (alpha[0] ** 2 * v + sigma[0] ** 2 for v in (np.asarray(params["std"]) ** 2, VARIANCE))
        apart = sigma[0] * ((x - alpha[0] * params["mean"]) / own - (x - alpha[0] * MEAN) / other)
        np.testing.assert_allclose(rows[0], size[0] * (apart**2).sum(), rtol=1e-7)


def test_no_gradient_goes_to_a_denoiser_and_none_to_samples_of_the_teacher():
    params = {"mean": jnp.zeros(2), "std": jnp.ones(2)}
    samples, schedule = jax.random.normal(KEY, (4, 2)), jd.Karras()

    def loss(params, real, samples):
        # A fake that holds its parameters out of sight.
        fake = jd.as_denoiser(made(params, schedule).__call__, schedule, shape=(2,))
        return maps.score_distillation_loss(KEY, samples, made(real, schedule), fake).sum()

    other = {"mean": jnp.ones(2), "std": jnp.ones(2)}
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    by_fake, by_teacher, by_samples = gradients(params, other, samples)
    assert not any(leaf.any() for leaf in jax.tree.leaves((by_fake, by_teacher)))
    # From the teacher's mean to the fake's, by as much as each level's signal.
    assert (by_samples < 0).all()
    np.testing.assert_array_equal(gradients(params, params, samples)[2], 0.0)


@pytest.mark.slow
def test_a_generator_reaches_the_teacher_s_moments():
    """A generator of four numbers and a fake of four, trained by one step, from elsewhere."""
    schedule = jd.Karras()
    params = {
        name: {"mean": jnp.array([2.0, 1.0]), "log_std": jnp.array([0.3, -0.5])}
        for name in ("generator", "fake")
    }
    rates = {"generator": 0.02, "fake": 0.1}  # or the two go in circles
    optimizer = optax.multi_transform(
        {name: optax.adam(optax.cosine_decay_schedule(rate, 400)) for name, rate in rates.items()},
        {name: name for name in rates},
    )

    def loss(params, key, z):
        own_key, fake_key = jax.random.split(key)
        generator, fake = params["generator"], params["fake"]
        samples = jnp.exp(generator["log_std"])[None] * z + generator["mean"][None]
        fake = jd.Gaussian(fake["mean"], jnp.exp(2 * fake["log_std"])).denoiser(schedule)
        own = maps.score_distillation_loss(own_key, samples, teacher(schedule), fake)
        return (own + jd.denoising_loss(fake_key, fake, jax.lax.stop_gradient(samples))).mean()

    state = jd.train(
        KEY,
        jd.init_state(params, optimizer, ema_decay=0.9),
        jd.make_train_step(loss, optimizer, ema_decay=0.9),
        lambda key: jax.random.normal(key, (256, 2)),
        num_steps=400,
        steps_per_dispatch=400,
    )
    ended = state.params["generator"]
    np.testing.assert_allclose(ended["mean"], MEAN, atol=0.1)
    np.testing.assert_allclose(jnp.exp(ended["log_std"]), VARIANCE**0.5, rtol=0.1)
