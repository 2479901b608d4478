# %% [markdown]
# # Samples in one to four calls
#
# A *flow map* goes from any noise to any less noise in one call of a network that is told both times. It
# learns from data alone: a step is to be what two steps of half its size are, by the average of the
# network, and the shortest steps are denoising.

# %%
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import jaxdiff as jd

NUM_STEPS = 3000
BATCH_SIZE = 256
NUM_SAMPLES = 4000
NUM_PILOTS = 1024
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

key = jax.random.key(0)
angle = 2 * jnp.pi * jnp.arange(8) / 8
truth = jd.GaussianMixture(
    jnp.ones(8) / 8, jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1), jnp.full(8, 0.01)
)

# %% [markdown]
# Any network of `jaxdiff.models` takes the second time as s.

# %%
network = jd.models.ResidualMLP(width=96)
params = jax.jit(network.init)(key, jnp.zeros((1, 2)), jnp.zeros(1), s=jnp.zeros(1))


def flow_map(params):
    return jd.make_flow_map(network.apply, params, jd.Karras(), shape=(2,), scale=0.7)


def loss(params, average, step, key, batch):
    return jd.maps.shortcut_loss(key, flow_map(params), batch, average=flow_map(average)).mean()


optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, NUM_STEPS))
state = jd.init_state(params, optimizer, ema_decay=0.99)
step = jd.bootstrap.make_joint_step(loss, optimizer, ema_decay=0.99)
state = jd.train(key, state, step, lambda key: truth.sample(key, BATCH_SIZE), num_steps=NUM_STEPS)
learned = flow_map(jd.averaged(state))

# %% [markdown]
# The control has what no training gives: the exact denoiser, and the best solver and grid for four calls.
# The distance hardly sees how sharp the modes are: look at the picture too.

# %%
exact = truth.denoiser(jd.Karras())
tuned = jd.tune_sampler(key, exact, 4, num_samples=NUM_PILOTS)

# %%
fresh, other = truth.sample(jax.random.key(1), NUM_SAMPLES), truth.sample(jax.random.key(2), NUM_SAMPLES)
runs = {f"map, {k}": jd.sample_map(key, learned, NUM_SAMPLES, num_calls=k) for k in (1, 2, 4)}
runs |= {
    "exact denoiser, tuned, 4": jd.sample(key, exact, NUM_SAMPLES, sampler=tuned.sampler),
    "exact denoiser, untuned, 4": jd.sample(key, exact, NUM_SAMPLES, num_steps=4),
}
distances = {
    name: float(jd.metrics.sliced_wasserstein(key, x, fresh, num_projections=100)) for name, x in runs.items()
}
distances["other data"] = float(jd.metrics.sliced_wasserstein(key, other, fresh, num_projections=100))
for name, value in distances.items():
    print(f"{name:<26} {value:.3f}")

# %%
figure, axes = plt.subplots(1, 5, figsize=(13, 3), layout="constrained")
for axis, (name, x) in zip(axes, runs.items(), strict=True):
    axis.hist2d(*x.T, bins=90, range=[[-1.4, 1.4]] * 2, cmap="magma", vmax=12)
    axis.set_title(f"{name}: {distances[name]:.3f}", fontsize=9)
    axis.set_aspect("equal")
    axis.axis("off")
figure.savefig(OUT / "12_few_steps.png", dpi=120)
