# %% [markdown]
# # Your own network and data
#
# Data: rows of an array. Divide them by their standard deviation, or say it as the denoiser's scale.
# Network: a function of (parameters, x, t) that answers in x's shape. With the default prediction type it
# is shown x at standard deviation 1, and t as a number of order one.

# %%
import itertools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import jaxdiff as jd

NUM_STEPS = 2000
BATCH_SIZE = 256
NUM_SAMPLES = 2500
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

# %%
generator = np.random.default_rng(0)
angle = 3 * np.pi * np.sqrt(generator.uniform(size=5000))
spiral = angle * np.stack([np.cos(angle), np.sin(angle)]) + generator.normal(size=(2, 5000)) / 5
data = jnp.asarray(spiral.T / spiral.std(), jnp.float32)  # (5000, 2)

# %% [markdown]
# In Flax linen:


# %%
class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, t):
        h = jnp.concatenate([x, jnp.sin(x), t[:, None]], axis=1)
        for _ in range(3):
            h = nn.silu(nn.Dense(128)(h))
        return nn.Dense(2)(h)


linen = Linen()
linen_params = jax.jit(linen.init)(jax.random.key(0), data[:1], jnp.zeros(1))

# %% [markdown]
# In Flax nnx, whose modules hold their parameters: two lines divide them.


# %%
class Network(nnx.Module):
    def __init__(self, rngs):
        widths = [5, 128, 128, 128]
        self.layers = nnx.List(nnx.Linear(*pair, rngs=rngs) for pair in itertools.pairwise(widths))
        self.last = nnx.Linear(128, 2, rngs=rngs)

    def __call__(self, x, t):
        h = jnp.concatenate([x, jnp.sin(x), t[:, None]], axis=1)
        for layer in self.layers:
            h = nnx.silu(layer(h))
        return self.last(h)


graph, nnx_params = nnx.split(Network(nnx.Rngs(0)))


def nnx_predict(params, x, t):
    return nnx.merge(graph, params)(x, t)


# %% [markdown]
# Or without a framework: waves of random frequencies, and a linear answer for each noise level.

# %%
frequencies = jax.random.normal(jax.random.key(1), (3, 256)) * jnp.array([[3.0], [3.0], [2.0]])
function_params = {"weights": jnp.zeros((512, 2)), "bias": jnp.zeros(2)}


def function(params, x, t):
    waves = jnp.concatenate([x, t[:, None]], axis=1) @ frequencies
    return jnp.concatenate([jnp.sin(waves), jnp.cos(waves)], axis=1) @ params["weights"] + params["bias"]


# %% [markdown]
# Nothing else depends on which it is.


# %%
def train(predict, params):
    def model(params):
        return jd.make_denoiser(predict, params, jd.Karras(), shape=(2,), scale=1.0)

    def loss(params, key, batch):
        return jd.denoising_loss(key, model(params), batch).mean()

    key, optimizer = jax.random.key(2), optax.adam(3e-3)
    state = jd.init_state(params, optimizer, ema_decay=0.99)
    step = jd.make_train_step(loss, optimizer, ema_decay=0.99)
    state = jd.train(key, state, step, lambda key: jd.data.batch(key, data, BATCH_SIZE), num_steps=NUM_STEPS)
    return model(jd.averaged(state))


networks = {
    "linen": (linen.apply, linen_params),
    "nnx": (nnx_predict, nnx_params),
    "a function": (function, function_params),
}
samples = {name: jd.sample(jax.random.key(3), train(*own), NUM_SAMPLES) for name, own in networks.items()}
for name, x in samples.items():
    print(f"{name:<10}  energy distance {jd.metrics.energy_distance(x, data[:NUM_SAMPLES]).value:.4f}")

# %% [markdown]
# A network that was trained elsewhere, by DDPM's steps 0, ..., 999 and its table of betas, is a denoiser by
# one line; `ancestral` at whole times is DDPM's own sampler. This one knows the noise in N(0, 1/4) exactly.

# %%
betas = jd.linear_betas(1000)
kept = jnp.cumprod(1 - betas)


def eps(params, x, step):
    signal = kept[jnp.round(step).astype(int)].reshape(-1, *[1] * (x.ndim - 1))
    return jnp.sqrt(1 - signal) * x / (signal * params**2 + 1 - signal)


denoise = jd.ddpm_denoiser(eps, jnp.asarray(0.5), betas, shape=(32, 32, 3), scale=0.5)
times = jd.times.to_clean(denoise.schedule, jd.times.whole(jd.times.noise_grid(denoise.schedule, 249)))
images = jd.sample(jax.random.key(0), denoise, 4, times=times, sampler=jd.ancestral())
print(f"DDPM's samples have the standard deviation {images.std():.3f}, the data's is 0.5")

# %%
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for axis, (name, x) in zip(axes, [("your data", data[:NUM_SAMPLES]), *samples.items()], strict=True):
    axis.scatter(*x.T, s=0.7, c=np.hypot(*x.T), cmap="viridis")
    axis.set(title=name, xlim=(-2.8, 2.8), ylim=(-2.8, 2.8), aspect="equal")
    axis.axis("off")
figure.savefig(OUT / "03_your_network_and_data.png", dpi=120)
