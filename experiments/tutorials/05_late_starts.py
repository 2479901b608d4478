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

key = jax.random.key(0)
truth = jd.GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[-1.0, 0.0], [1.0, 0.5]]), jnp.array([0.1, 0.2]))
denoise, data = truth.denoiser(jd.Karras()), truth.sample(key, 1000)

# %% [markdown]
# **How late?** A law is fitted at each horizon T, run down nine grids, and its samples compared with a long
# run's. The last column is the control: the fitted law's own draws, with no call at all. If that is as
# good, the network does nothing.

# %%
family = jd.starts.gaussian_mixture(2)
sampler = jd.Heun()  # two calls a step, one in the last: 5 steps are 9 calls
choice = jd.choose_horizon(key, family, denoise, data, sampler=sampler, num_steps=5, horizons=[0.5, 1, 2, 4])
print(choice)
late = jd.sample(key, denoise, 2000, sampler=sampler, start=choice.start, times=choice.times)
no_calls = choice.start.sample(key, 2000) / denoise.schedule.alpha(choice.t_max)

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
    "late start, 9 calls": late,
    "its start, no calls": no_calls,
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
    axis.hist2d(*x.T, bins=80, range=[[-2.5, 2.8], [-2, 2.5]], cmap="magma", vmax=12)
    axis.set_title(f"{name}: {distances[name]:.3f}")
    axis.axis("off")
figure.savefig(OUT / "05_late_starts.png", dpi=120)
