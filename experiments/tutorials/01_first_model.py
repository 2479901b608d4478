# %% [markdown]
# # A first model
#
# Points on two half circles, a network that learns to take noise away, and new points made by it.

# %%
import pathlib

import jax
import matplotlib.pyplot as plt
import optax

import jaxdiff as jd

NUM_STEPS = 2000
BATCH_SIZE = 256
NUM_SAMPLES = 4000
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# Data are an array of shape (n, *shape). A network is any function of (parameters, x, t).

# %%
key = jax.random.key(0)
data = jd.data.two_moons(key, 10_000)
network = jd.models.ResidualMLP(width=64)

# %% [markdown]
# A *denoiser* is a network and all that is known of its noise and its data: the schedule, here that of
# Karras et al., the shape of one datum, and the standard deviation of the data over all entries.


# %%
def model(params):
    return jd.make_denoiser(network.apply, params, jd.Karras(), shape=(2,), scale=0.7)


def loss(params, key, batch):
    return jd.denoising_loss(key, model(params), batch).mean()


# %% [markdown]
# Training keeps an average of the parameters, which is better to sample with than the last ones. (Under
# `jit` a network is initialized by one program, and not by a hundred small ones.)

# %%
optimizer = optax.adam(2e-3)
state = jd.init_state(jax.jit(network.init)(key, data[:1], data[:1, 0]), optimizer, ema_decay=0.99)
step = jd.make_train_step(loss, optimizer, ema_decay=0.99)
state = jd.train(key, state, step, lambda key: jd.data.batch(key, data, BATCH_SIZE), num_steps=NUM_STEPS)
denoise = model(jd.averaged(state))

# %% [markdown]
# Samples, and how far they are from data that were not trained on. Two draws of the data are not at 0 from
# each other either: that is the floor.

# %%
samples = jd.sample(key, denoise, NUM_SAMPLES)
fresh, other = jd.data.two_moons(jax.random.key(1), 2 * NUM_SAMPLES).reshape(2, -1, 2)
distance = jd.metrics.sliced_wasserstein(key, samples, fresh, num_projections=100)
floor = jd.metrics.sliced_wasserstein(key, other, fresh, num_projections=100)
print(f"distance of samples from data {distance:.3f}, of other data {floor:.3f}")

# %% [markdown]
# On their way: `integrate_path` keeps all steps.

# %%
times = jd.times.to_clean(denoise.schedule, jd.times.noise_grid(denoise.schedule, 31, t_max=20, scale=0.7))
path = jd.integrate_path(key, denoise, jd.initial_noise(key, denoise, NUM_SAMPLES, 20.0), times)
figure, axes = plt.subplots(1, 5, figsize=(12, 2.6), layout="constrained")
for axis, k in zip(axes, (10, 16, 20, 24, 32), strict=True):
    axis.scatter(*path[k].T, s=0.5, c=path[-1][:, 0], cmap="plasma")
    axis.set(xlim=(-2.5, 3.5), ylim=(-2, 2.5), title=f"noise {float(times[k]):.2g}")
    axis.axis("off")
figure.savefig(OUT / "01_first_model.png", dpi=120)
