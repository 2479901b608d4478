# %% [markdown]
# # Inverse problems
#
# A denoiser of the data's law, an operator and an observation make a denoiser of the posterior, which is
# sampled as any other. Here digits with a hole; what fills it is not one answer but many.

# %%
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxdiff as jd

NUM_STEPS = 100
NUM_IMAGES = 5
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

key, split = jax.random.key(0), jd.data.digits()
train, test = (
    jd.data.dequantize(key, jnp.asarray(pixels), levels=17).reshape(-1, 8, 8)
    for pixels in (split.train, split.test)
)

# %% [markdown]
# The prior: a mixture of ten Gaussians fitted to digits, which is a denoiser in closed form. A trained
# network's takes its place.

# %%
law = jd.fit_mixture(key, train, 10, num_restarts=1, num_iterations=50, floor=1e-3)
prior = law.denoiser(jd.Karras())

# %% [markdown]
# The operator keeps what lies outside of the hole; `jd.inverse.linear` takes any linear function. Pixels
# are seen through noise of standard deviation 0.05.

# %%
kept = np.ones((8, 8), bool)
kept[2:7, 2:6] = False
operator = jd.inverse.mask(kept)
images = test[:NUM_IMAGES]
seen = operator.apply(images)
seen = seen + 0.05 * jax.random.normal(key, seen.shape)


def fill(key, y):
    posterior = jd.inverse.mmps(prior, operator, y, 0.05)
    return jd.sample(key, posterior, 64, num_steps=NUM_STEPS)


filled = jnp.stack([fill(jax.random.fold_in(key, i), y) for i, y in enumerate(seen)])  # (images, 64, 8, 8)

# %% [markdown]
# If the posterior is right, its mean errs by as much as it says: by its own spread. Beside it the error of
# the mean digit, which has seen nothing.

# %%
error = jnp.sqrt(jnp.mean((filled.mean(1) - images)[:, ~kept] ** 2))
spread = jnp.sqrt(jnp.mean(filled.var(1)[:, ~kept]))
blind = jnp.sqrt(jnp.mean((train.mean(0) - images)[:, ~kept] ** 2))
print(
    f"error in the hole {error:.3f}, the posterior's spread {spread:.3f}, error of the mean digit {blind:.3f}"
)

# %%
masked = np.where(kept, images, np.nan)
rows = [images, masked, *filled[:, :5].swapaxes(0, 1), filled.std(1)]
names = ["truth", "seen", *["a draw"] * 5, "spread"]
figure, axes = plt.subplots(NUM_IMAGES, len(rows), figsize=(9, 1.15 * NUM_IMAGES), layout="constrained")
for i in range(NUM_IMAGES):
    for axis, name, row in zip(axes[i], names, rows, strict=True):
        style = {"cmap": "magma", "vmax": 0.4} if name == "spread" else {"cmap": "gray_r", "vmax": 1}
        axis.set_facecolor("lightsteelblue")
        axis.imshow(row[i], vmin=0, **style)
        axis.set(xticks=[], yticks=[])
        if i == 0:
            axis.set_title(name, fontsize=9)
figure.savefig(OUT / "08_inverse_problems.png", dpi=120)
