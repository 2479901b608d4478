# %% [markdown]
# # A sampler as one file
#
# A trained sampler becomes one file that runs for any number of samples, on CPU, CUDA and TPU, where
# neither the model's code nor jaxdiff is: to load it takes `jaxdiff/sampling/serving.py` and jax. Needs the
# extra "export".

# %%
import functools
import json
import pathlib
import zipfile

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd

NUM_STEPS = 2000
BATCH_SIZE = 256
NUM_SAMPLES = 20_000
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

key = jax.random.key(0)
data, network, optimizer = (
    jd.data.eight_gaussians(key, NUM_SAMPLES) / 2,
    jd.models.ResidualMLP(width=64),
    optax.adam(2e-3),
)
scale = float(data.std())


def model(params):
    return jd.make_denoiser(network.apply, params, jd.Karras(), shape=(2,), scale=scale)


def loss(params, key, batch):
    return jd.denoising_loss(key, model(params), batch).mean()


state = jd.init_state(jax.jit(network.init)(key, data[:1], data[:1, 0]), optimizer, ema_decay=0.99)
step = jd.make_train_step(loss, optimizer, ema_decay=0.99)
state = jd.train(key, state, step, lambda key: jd.data.batch(key, data, BATCH_SIZE), num_steps=NUM_STEPS)


# %% [markdown]
# What is exported is draw(key, n). The denoiser is given as an argument of a `Partial`, so that its arrays
# are kept beside the program, and not in it.


# %%
def draw(denoise, key, n):
    return jd.sample(key, denoise, n, num_steps=20)


path = OUT / "10_exporting.sampler"
own = jax.tree_util.Partial(draw, model(jd.averaged(state)))
jd.export_sampler(path, own, config={"data": "eight Gaussians", "steps": NUM_STEPS})

# %% [markdown]
# The file is a zip archive that any tool can look into.

# %%
with zipfile.ZipFile(path) as archive:
    header = json.loads(archive.read("header.json"))
print(
    f"{path.stat().st_size / 1e3:.0f} kB of jax {header['jax']} for {header['platforms']}: {header['config']}"
)

# %%
sampler = jd.load_sampler(path)
samples = sampler(jax.random.key(1), NUM_SAMPLES)
before = jax.jit(functools.partial(own), static_argnums=1)(jax.random.key(1), NUM_SAMPLES)
print(f"largest difference from the sampler before it was exported: {np.abs(samples - before).max():.1g}")

# %% [markdown]
# The parameters alone go to a safetensors file, which holds no code and which every framework reads. The
# other way `jd.models` takes published weights of diffusers, DiT and EDM: its docstring has the lines.

# %%
parameters = OUT / "10_exporting.safetensors"
jd.save_safetensors(parameters, jd.averaged(state))
restored = jd.load_safetensors(parameters).nested()
again = jd.sample(jax.random.key(1), model(restored), NUM_SAMPLES, num_steps=20)
print(f"{len(jd.load_safetensors(parameters))} arrays; by them {np.abs(samples - again).max():.1g} apart")

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
for axis, (name, x) in zip(axes, {"data": data, "by the file": samples}.items(), strict=True):
    axis.hist2d(*np.asarray(x).T, bins=120, range=[[-3, 3]] * 2, cmap="magma")
    axis.set(title=name, aspect="equal")
    axis.axis("off")
figure.savefig(OUT / "10_exporting.png", dpi=120)
