# %% [markdown]
# # Theory, swept
#
# Schedules, laws and denoisers are pytrees, so a question asked once is asked over levels, seeds and
# schedules by `vmap`, in one compiled call. The question: how wrong is the score of a Gaussian fitted to
# two modes?

# %%
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import jaxdiff as jd

NUM_LEVELS = 40
OUT = pathlib.Path("results/tutorials")
OUT.mkdir(parents=True, exist_ok=True)

truth = jd.GaussianMixture(jnp.array([0.5, 0.5]), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
model = jd.fit_gaussian(truth.sample(jax.random.key(0), 1000))
times, beta_max = jnp.linspace(0.05, 1.0, NUM_LEVELS), jnp.array([5.0, 10.0, 20.0, 40.0])


# %%
def error(key, beta_max):
    schedule = jd.VariancePreserving(0.1, beta_max)
    return jd.score_error(key, model.denoiser(schedule), truth, times).value


sweep = jax.jit(jax.vmap(jax.vmap(error, (0, None)), (None, 0)))
errors = sweep(jax.random.split(jax.random.key(1), 16), beta_max)  # (schedules, seeds, levels)
print(f"{errors.size} score errors in one call, of shape {errors.shape}")

# %% [markdown]
# A fitted model can be swept as well: here over the number of data that it was fitted to, 16 fits a number.

# %%
counts = (10, 30, 100, 300)


def of_fit(key, n):
    fit_key, key = jax.random.split(key)
    denoise = jd.fit_gaussian(truth.sample(fit_key, n)).denoiser(jd.VariancePreserving())
    return jd.score_error(key, denoise, truth, times[NUM_LEVELS // 2 :]).value.mean()


keys = jax.random.split(jax.random.key(2), 16)
by_count = jnp.stack([jax.jit(jax.vmap(of_fit, (0, None)), static_argnums=1)(keys, n) for n in counts])
for n, errors_of_n in zip(counts, by_count, strict=True):
    print(f"fitted to {n:>3} data: score error {errors_of_n.mean():.2g}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for b, of_schedule in zip(beta_max, errors, strict=True):
    axes[0].fill_between(times, of_schedule.min(0), of_schedule.max(0), alpha=0.3)
    axes[0].semilogy(times, of_schedule.mean(0), label=f"beta_max = {b:g}")
axes[0].set(xlabel="t", title="score error of a Gaussian, over 16 seeds")
axes[0].legend()
axes[1].loglog(counts, by_count, ".", color="tab:blue", alpha=0.4)
axes[1].loglog(counts, by_count.mean(1), color="tab:blue")
axes[1].set(xlabel="number of data fitted to", title="score error at late times, 16 fits")
figure.savefig(OUT / "07_theory_sweeps.png", dpi=120)
