# %% [markdown]
# # Likelihoods and what they mean
#
# log p(x), in nats, is how likely the model finds x. Here the truth is known, a mixture of three Gaussians,
# so that each method can be seen to be right.

# %%
import pathlib
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import jaxdiff as jd

NUM_STEPS = 3000
NUM_POINTS = 300
BATCH_SIZE = 256
NUM_PIXELS = 48
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

key = jax.random.key(0)
truth = jd.GaussianMixture(
    jnp.array([0.4, 0.3, 0.3]),
    jnp.array([[-1.2, 0.0], [1.0, 0.8], [0.6, -1.0]]),
    jnp.array([0.15, 0.08, 0.2]),
)
network = jd.models.ResidualMLP(width=64)


def model(params):
    return jd.make_denoiser(network.apply, params, jd.Karras(), shape=(2,), scale=1.0)


def loss(params, key, batch):
    return jd.denoising_loss(key, model(params), batch).mean()


optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, NUM_STEPS))
state = jd.init_state(jax.jit(network.init)(key, jnp.zeros((1, 2)), jnp.zeros(1)), optimizer, ema_decay=0.995)
step = jd.make_train_step(loss, optimizer, ema_decay=0.995)
state = jd.train(key, state, step, lambda key: truth.sample(key, BATCH_SIZE), num_steps=NUM_STEPS)
denoise = model(jd.averaged(state))

# %% [markdown]
# Three methods. The *probability flow* follows each point to the noise: exact up to its steps, and the
# dearer the more dimensions there are. The *density formula* is an integral over noise levels by random
# draws: unbiased, of the same cost in any dimension, with a standard error. The *evidence lower bound* is
# below log p in the mean. `log_density` takes the first for d <= 16 and the second beyond.

# %%
x = truth.sample(jax.random.key(1), NUM_POINTS)
times = jnp.geomspace(0.002, 80, 100)
methods = {
    "probability flow": jd.probability_flow(key, denoise, x),
    "density formula": jd.density_formula(key, denoise, x),
    "lower bound": jd.elbo(key, denoise, x, times, num_paths=4),
}
exact = truth.log_prob(x)
means = {name: float(answer.value.mean()) for name, answer in methods.items()}
print(f"the law itself    {exact.mean():.3f} nats")
for name, answer in methods.items():
    print(f"{name:<17} {means[name]:.3f}, one point's standard error {answer.standard_error.mean():.3f}")

# %% [markdown]
# A standard error says what the method's own draws leave open, for one point. Of the exact denoiser, value
# +- 1.96 standard errors holds the truth in 95 % of cases. A network errs besides, of which no standard
# error is told: its scores are those of no law, and the methods part. Differences between them show it.

# %%
of_law = jd.density_formula(key, truth.denoiser(jd.Karras()), x)
inside = {
    "exact denoiser, the law": (of_law, exact),
    "network, its flow": (methods["density formula"], methods["probability flow"].value),
}
shares = {
    name: float((jnp.abs(answer.value - wanted) < 1.96 * answer.standard_error).mean())
    for name, (answer, wanted) in inside.items()
}
print("share of points within 1.96 standard errors:", shares)
print(f"and the mean over {len(x)} points is known to {float(exact.std()) / len(x) ** 0.5:.3f} nats only")

# %% [markdown]
# **Pixels** are integers and have no density. Spread each over its level by `dequantize`; then nats are
# bits per dimension, the length of a code for the integers. The model here is one Gaussian, fitted to
# digits.

# %%
split = jd.data.digits()
train, test = (
    jd.data.dequantize(key, jnp.asarray(pixels), levels=17) for pixels in (split.train, split.test)
)
gaussian = jd.fit_gaussian(train)
nats = jd.log_density(key, gaussian.denoiser(jd.Karras()), test[:100]).value
bits = jd.data.bits_per_dimension(nats.mean(), 64, levels=17)
print(f"digits by a Gaussian: {nats.mean():.1f} nats, {bits:.3f} bits per dimension; closed form", end=" ")
print(f"{gaussian.log_prob(test[:100]).mean():.1f}; uniform pixels {jnp.log2(17):.3f} bits")

# %% [markdown]
# **Data on a curve** have no density in the plane: the finer one looks, the larger it is. That is noticed,
# and the answer is of the data as the first noise leaves them.

# %%
angle = jnp.linspace(0, 2 * jnp.pi, 400, endpoint=False)
circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jd.log_density(key, jd.Empirical(circle).denoiser(jd.Karras()), circle[:50])
print(caught[-1].message)

# %%
axis_points = jnp.linspace(-2.5, 2.5, NUM_PIXELS)
plane = jnp.stack(jnp.meshgrid(axis_points, axis_points), axis=-1).reshape(-1, 2)
maps = {"the law": truth.log_prob(plane), "the model": jd.probability_flow(key, denoise, plane).value}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained")
for axis, (name, value) in zip(axes, maps.items(), strict=False):
    shown = axis.imshow(
        value.reshape(NUM_PIXELS, NUM_PIXELS), origin="lower", extent=(-2.5, 2.5) * 2, vmin=-12, cmap="magma"
    )
    axis.set_title(f"log p by {name}, nats")
    figure.colorbar(shown, ax=axis)
axes[2].errorbar(exact[:80], of_law.value[:80], of_law.standard_error[:80], fmt=".", linewidth=1)
axes[2].plot([-7, 0], [-7, 0], color="gray")
axes[2].set(xlabel="log p of the law", title="by the formula, with standard errors")
figure.savefig(OUT / "04_likelihoods.png", dpi=120)
