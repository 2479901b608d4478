# %% [markdown]
# # Digits of a wanted class
#
# A condition, any pytree of arrays by row, is an argument of the network and is bound to a denoiser by
# `given`. Classifier-free guidance needs a network that also knows the data without it: in training some
# rows lose their label for one that says "no class".

# %%
import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd

NUM_STEPS = 1500
BATCH_SIZE = 128
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

split, key = jd.data.digits(), jax.random.key(0)
data = (jnp.asarray(split.train, jnp.float32) / 8 - 1, jnp.asarray(split.train_labels))  # pixels in [-1, 1]
network, nobody = jd.models.ResidualMLP(width=256, dropout=0.1, num_classes=10), 10  # the label of no class


# %%
def model(params, **options):
    apply = functools.partial(network.apply, **options)
    return jd.make_denoiser(apply, params, jd.Karras(), shape=(64,), scale=0.75, null_condition=nobody)


def loss(params, key, batch):
    images, labels = batch
    drop_key, dropout_key, key = jax.random.split(key, 3)
    labels = jd.drop_condition(drop_key, labels, nobody, rate=0.1)
    denoise = model(params, train=True, rngs={"dropout": dropout_key}).given(labels)
    return jd.denoising_loss(key, denoise, images).mean()


# %%
params, optimizer = jax.jit(network.init)(key, data[0][:1], jnp.zeros(1), data[1][:1]), optax.adam(1e-3)
state = jd.init_state(params, optimizer, ema_decay=0.995)
step = jd.make_train_step(loss, optimizer, ema_decay=0.995)
state = jd.train(key, state, step, lambda key: jd.data.batch(key, data, BATCH_SIZE), num_steps=NUM_STEPS)
denoise = model(jd.averaged(state))

# %% [markdown]
# A scale of 1 is the network's own answer to the label; more makes digits clearer, and their contrast
# larger than the data's. The judge is the nearest training image: is it of the wanted digit?

# %%
wanted = jnp.arange(200) % 10
images = {scale: jd.sample(key, jd.guided(denoise.given(wanted), scale), 200) for scale in (1.0, 1.5, 4.0)}
for scale, x in images.items():
    nearest = jnp.argmin(((x[:, None] - data[0][None]) ** 2).sum(2), axis=1)
    share = float((data[1][nearest] == wanted).mean())
    print(f"guidance {scale:g}: {share:.1%} of the wanted digit, standard deviation of a pixel {x.std():.3f}")
print(f"the data's standard deviation {data[0].std():.3f}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 4.5), layout="constrained")
for axis, (scale, x) in zip(axes, images.items(), strict=True):
    tiles = np.pad(x[:100].reshape(10, 10, 8, 8), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-1)
    axis.imshow(tiles.swapaxes(1, 2).reshape(90, 90), cmap="gray_r", vmin=-1, vmax=1)
    axis.set_title(f"guidance {scale:g}")
    axis.axis("off")
figure.savefig(OUT / "02_guided_digits.png", dpi=120)
