# %% [markdown]
# # Diffusion of latents
#
# An autoencoder makes a digit's 64 pixels eight numbers, and diffusion is of these. The autoencoder is not
# the library's: anything with an encoder and a decoder serves.

# %%
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd

NUM_STEPS = 3000
SIZE = 8
BATCH_SIZE = 128
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

key, split = jax.random.key(0), jd.data.digits()
train, test = (jnp.asarray(pixels, jnp.float32) / 8 - 1 for pixels in (split.train, split.test))

# %% [markdown]
# Noise in the latents, of a tenth of their standard deviation, makes the decoder smooth: latents that are
# sampled a little wrong are still decoded well.


# %%
class Autoencoder(nn.Module):
    def setup(self):
        self.encoder = nn.Sequential([nn.Dense(256), nn.silu, nn.Dense(SIZE), nn.LayerNorm(use_scale=False)])
        self.decoder = nn.Sequential([nn.Dense(256), nn.silu, nn.Dense(256), nn.silu, nn.Dense(64)])

    def __call__(self, images, key):
        latents = self.encode(images)
        return self.decode(latents + 0.1 * jax.random.normal(key, latents.shape))

    def encode(self, images):
        return self.encoder(images)

    def decode(self, latents):
        return jnp.tanh(self.decoder(latents))


autoencoder, optimizer = Autoencoder(), optax.adamw(optax.cosine_decay_schedule(2e-3, NUM_STEPS))


def reconstruction(params, key, images):
    return jnp.mean((autoencoder.apply(params, images, key) - images) ** 2)


# %% [markdown]
# The same loop trains it: nothing in `train` knows of diffusion.


# %%
def fit(params, loss, data):
    state = jd.init_state(params, optimizer, ema_decay=0.995)
    step = jd.make_train_step(loss, optimizer, ema_decay=0.995)
    state = jd.train(key, state, step, lambda key: jd.data.batch(key, data, BATCH_SIZE), num_steps=NUM_STEPS)
    return jd.averaged(state)


weights = fit(jax.jit(autoencoder.init)(key, train[:1], key), reconstruction, train)
latents = autoencoder.apply(weights, train, method="encode")
again = autoencoder.apply(weights, autoencoder.apply(weights, test, method="encode"), method="decode")
print(f"held-out digits, squared error of a pixel: {jnp.mean((again - test) ** 2):.4f}", end=" ")
print(f"after {SIZE} numbers, {jnp.mean((train.mean(0) - test) ** 2):.4f} of the mean digit")

# %%
network, scale = jd.models.ResidualMLP(width=128), float(latents.std())


def model(params):
    return jd.make_denoiser(network.apply, params, jd.Karras(), shape=(SIZE,), scale=scale)


def loss(params, key, batch):
    return jd.denoising_loss(key, model(params), batch).mean()


denoise = model(fit(jax.jit(network.init)(key, latents[:1], jnp.zeros(1)), loss, latents))

# %% [markdown]
# The control: latents of one Gaussian, which needs no diffusion. Both are judged in pixels, against
# held-out digits; training digits are the floor.

# %%
drawn = {"diffusion": jd.sample(key, denoise, 360), "one Gaussian": jd.fit_gaussian(latents).sample(key, 360)}
images = {name: autoencoder.apply(weights, z, method="decode") for name, z in drawn.items()}
distances = {name: float(jd.metrics.energy_distance(x, test).value) for name, x in images.items()}
distances["training digits"] = float(jd.metrics.energy_distance(train[:360], test).value)
for name, value in distances.items():
    print(f"energy distance of {name:<16} {value:.4f}")

# %%
panels = {"held out": test, "after eight numbers": again, **images}
figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
for axis, (name, x) in zip(axes, panels.items(), strict=True):
    tiles = np.pad(x[:64].reshape(8, 8, 8, 8), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-1)
    axis.imshow(tiles.swapaxes(1, 2).reshape(72, 72), cmap="gray_r", vmin=-1, vmax=1)
    axis.set_title(name)
    axis.axis("off")
figure.savefig(OUT / "11_latents.png", dpi=120)
