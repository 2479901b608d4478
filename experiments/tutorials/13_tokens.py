# %% [markdown]
# # Tokens
#
# Data of integers are noised by jumps: here each pixel of a black and white digit is masked, and the
# network says, for each masked pixel, how likely it was black.

# %%
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import ListedColormap

import jaxdiff as jd

NUM_STEPS = 2000
WIDTH = 256
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

key, split = jax.random.key(0), jd.data.digits()
train, test = (
    jnp.asarray(pixels > 7, jnp.int32) for pixels in (split.train, split.test)
)  # 64 tokens, 0 or 1
process = jd.jumps.Masking(2)  # its third state, 2, is the mask

# %% [markdown]
# A network is any function of parameters, tokens and the share of tokens that are masked. It answers a
# number for each token and value.


# %%
class Network(nn.Module):
    @nn.compact
    def __call__(self, x, level, *, train=False):
        h = jax.nn.one_hot(x, 3).reshape(len(x), -1)
        h = nn.Dense(WIDTH)(jnp.concatenate([h, level[:, None]], axis=1))
        for _ in range(3):
            inner = nn.Dropout(0.2, deterministic=not train)(nn.silu(nn.Dense(WIDTH)(nn.LayerNorm()(h))))
            h = h + nn.Dense(WIDTH)(inner)
        return nn.Dense(128)(h).reshape(-1, 64, 2)


network = Network()


def model(params, **options):
    apply = functools.partial(network.apply, **options)
    return jd.jumps.make_denoiser(apply, params, process, shape=(64,))


def loss(params, key, batch):
    dropout_key, key = jax.random.split(key)
    denoise = model(params, train=True, rngs={"dropout": dropout_key})
    return jd.jumps.denoising_loss(key, denoise, batch).mean()


optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, NUM_STEPS), weight_decay=0.1)
state = jd.init_state(jax.jit(network.init)(key, train[:1], jnp.zeros(1)), optimizer, ema_decay=0.995)
step = jd.make_train_step(loss, optimizer, ema_decay=0.995)
state = jd.train(key, state, step, lambda key: jd.data.batch(key, train, 128), num_steps=NUM_STEPS)
denoise = model(jd.averaged(state))

# %% [markdown]
# A bound of log p of held-out digits, in nats. The control takes pixels to be independent.

# %%
bound = jd.jumps.log_bound(key, denoise, test, num_times=32).value.mean()
black = (train.sum(0) + 0.5) / (len(train) + 1)
independent = jnp.log(jnp.where(test == 1, black, 1 - black)).sum(1).mean()
print(f"log p of a held-out digit at least {bound:.1f} nats, {independent:.1f} of independent pixels")

# %% [markdown]
# Samples, and digits of which only the upper half is given: its pixels are simply not masked, and half of
# all tokens being masked is the time at which the way back begins.

# %%
samples = jd.jumps.sample(key, denoise, 64)
upper = jnp.arange(64) < 32
given = jnp.where(upper, test[:64], 2)
completed = jd.jumps.integrate(key, denoise, given, jd.jumps.grid(process.schedule, 64, t_max=0.5))
right = float((completed == test[:64])[:, ~upper].mean())
common = float(((black > 0.5) == test[:64])[:, ~upper].mean())
print(f"pixels of the lower half as they were {right:.0%}; the commonest value of each {common:.0%}")

# %%
panels = {"held out": test, "samples": samples, "given": given, "completed": completed}
figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
colors = ListedColormap(["white", "black", "lightsteelblue"])
for axis, (name, x) in zip(axes, panels.items(), strict=True):
    tiles = np.pad(x[:64].reshape(8, 8, 8, 8), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0)
    axis.imshow(tiles.swapaxes(1, 2).reshape(72, 72), cmap=colors, vmin=0, vmax=2)
    axis.set_title(name)
    axis.axis("off")
figure.savefig(OUT / "13_tokens.png", dpi=120)
