# %% [markdown]
# # Late starts and fewer steps
#
# Sampling costs one call of the network a step. Two ways to need few: begin late, from a law fitted to
# noised data, and choose solver and grid for the number of calls. Both are tried by the denoiser itself:
# your own trained one or, here, an exact one, so that all errors are the sampler's.

# %%
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import jaxdiff as jd

CALLS = 5
LEARNING_STEPS = 2000
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

key, arc = jax.random.key(0), jnp.linspace(0, jnp.pi, 30)
outer, inner = (
    jnp.stack([jnp.cos(arc), jnp.sin(arc)], axis=1),
    jnp.stack([1 - jnp.cos(arc), 0.5 - jnp.sin(arc)], axis=1),
)
truth = jd.GaussianMixture(jnp.ones(60) / 60, jnp.concatenate([outer, inner]), jnp.full(60, 0.005))
denoise, data = truth.denoiser(jd.Karras()), truth.sample(key, 1000)

# %% [markdown]
# **How late?** A law is fitted at each horizon T, run down nine grids, and its samples compared with a long
# run's. The last column is the fitted law's own draws, noise and all, with no call.

# %%
family = jd.starts.gaussian_mixture(4, num_restarts=4)
sampler = jd.Heun()  # two calls a step, one in the last: 3 steps are 5 calls
choice = jd.choose_horizon(key, family, denoise, data, sampler=sampler, num_steps=3, horizons=[0.25, 0.5, 1])
print(choice)
late = jd.sample(key, denoise, 2000, sampler=sampler, start=choice.start, times=choice.times)
start_alone = choice.start.sample(key, 2000)

# %% [markdown]
# The control is the same family fitted to the data as they are. It makes no call; where it is as good as
# the samples, the network does nothing.

# %%
no_calls = jd.fit_mixture(key, data, 4).sample(key, 2000)

# %% [markdown]
# **Which solver, which grid?** All are tried, the best is learned further, and what it leaves is judged on
# draws that did not choose.

# %%
tuned = jd.tune_sampler(key, denoise, CALLS, learned=True, num_steps=LEARNING_STEPS)
print(tuned)
few = jd.sample(key, denoise, 2000, sampler=tuned.sampler)
default = jd.sample(key, denoise, 2000, num_steps=CALLS)

# %%
fresh = truth.sample(jax.random.key(1), 2000)
runs = {
    "default, 5 calls": default,
    "tuned, 5 calls": few,
    "late start, 5 calls": late,
    "no calls": no_calls,
}
distances = {
    name: float(jd.metrics.sliced_wasserstein(key, x, fresh, num_projections=100)) for name, x in runs.items()
}
distances["other data"] = float(
    jd.metrics.sliced_wasserstein(key, truth.sample(jax.random.key(2), 2000), fresh, num_projections=100)
)
for name, value in distances.items():
    print(f"{name:<20} {value:.3f}")

# %%
figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained")
for axis, (name, x) in zip(axes, runs.items(), strict=True):
    axis.hist2d(*x.T, bins=80, range=[[-1.5, 2.5], [-1.1, 1.6]], cmap="magma", vmax=12)
    axis.set_title(f"{name}: {distances[name]:.3f}")
    axis.axis("off")
figure.savefig(OUT / "05_late_starts.png", dpi=120)
