# %% [markdown]
# # Many devices, stopped and resumed
#
# Eight devices, which the CPU plays here: leave out the first cell where there are real ones. The rows of a
# batch are spread over them; step k draws from (key, k) alone, so what is computed depends neither on where
# it ran nor on where it was stopped.

# %%
import os

os.environ.setdefault(
    "NPROC", "16"
)  # threads, of which eight simulated devices need more than two cores have

import jax

jax.config.update("jax_num_cpu_devices", 8)

# %%
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd

NUM_STEPS = 1000
BATCH_SIZE = 256
NUM_SAMPLES = 20_000
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

key = jax.random.key(0)
data, network, optimizer = (
    jd.data.checkerboard(key, NUM_SAMPLES) / 2.3,
    jd.models.ResidualMLP(width=64),
    optax.adam(2e-3),
)


def model(params):
    return jd.make_denoiser(network.apply, params, jd.Karras(), shape=(2,), scale=1.0)


def loss(params, key, batch):
    return jd.denoising_loss(key, model(params), batch).mean()


def draw(key):
    return jd.data.batch(key, data, BATCH_SIZE)


# %% [markdown]
# A layout says where arrays lie. `fully_sharded=True` would spread the parameters too.

# %%
layout = jd.Layout(jd.data_mesh())


def init():
    return jd.init_state(network.init(key, data[:1], data[:1, 0]), optimizer, ema_decay=0.99)


step = jd.data_parallel(jd.make_train_step(loss, optimizer, ema_decay=0.99), layout)

# %% [markdown]
# A run in one go, and one that is stopped on its way. On SIGTERM it would be stopped by `with
# jd.interruption() as stop`; `python -m experiments.train` has all of that.

# %%
losses = {"in one go": [], "stopped": [], "resumed": []}


def run(name, state, stop=None, save=None):
    def report(step, metrics, steps_per_second):
        losses[name].append((step, float(metrics.loss.mean())))

    return jd.train(
        layout.place(key), state, step, draw, num_steps=NUM_STEPS, report=report, stop=stop, save=save
    )


whole = run("in one go", layout.create(init))

with tempfile.TemporaryDirectory() as directory:
    with jd.Checkpoints(directory, config={"width": 64}) as checkpoints:
        run("stopped", layout.create(init), lambda step: step >= NUM_STEPS // 2, checkpoints.save)
    # Another process would begin here, on as many devices or on others.
    with jd.Checkpoints(directory, config={"width": 64}) as checkpoints:
        restored = checkpoints.restore(layout.like(init))
        print(f"restored at step {int(restored.state.step)}")
        resumed = run("resumed", restored.state, save=checkpoints.save)

# %%
pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True)
same = all(np.array_equal(a, b) for a, b in pairs)
print(f"on {len(resumed.step.sharding.device_set)} devices; the same bits: {same}")

# %% [markdown]
# A sampler needs nothing but rows that lie on many devices, if the batch is large.

# %%
denoise = model(jd.averaged(resumed))
times = jd.times.to_clean(denoise.schedule, jd.times.noise_grid(denoise.schedule, 31, t_max=80.0))
x = layout.place_rows(jd.initial_noise(key, denoise, NUM_SAMPLES, 80.0))
samples = jd.integrate(layout.place(key), layout.place(denoise), x, times)
print("devices of the samples:", len(samples.sharding.device_set))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=[3, 2], layout="constrained")
for (name, rows), width in zip(losses.items(), (6, 2, 2), strict=True):
    axes[0].plot(*np.array(rows).T, linewidth=width, alpha=0.5 if width > 2 else 1, label=name)
axes[0].set(xlabel="step", title="loss, on eight devices")
axes[0].legend()
axes[1].hist2d(*np.asarray(samples).T, bins=100, range=[[-2, 2]] * 2, cmap="magma")
axes[1].set(title="samples of the resumed run", aspect="equal")
axes[1].axis("off")
figure.savefig(OUT / "09_many_devices.png", dpi=120)
