"""One cost of path measures is denoising score matching, score entropy, and the simplex's form."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import V, law, transition
from oracles import few_of

import jaxdiff as jd
from jaxdiff import jumps
from jaxdiff.jumps.generators import jump_generator, noise_generator, path_cost, simplex_generator


@pytest.mark.parametrize("name", few_of(["masking", "uniform", "ring"], ("ring",)))
def test_of_jumps_it_is_the_score_entropy(name, float64):
    """Of one token: the bridge's reverse rates, and h the logarithm of the model's p_t over P_0t(data, .)."""
    process, t, data = enumeration.process(name), 0.4, 1
    model = law(3, length=1)
    denoise = jumps.Enumerated(jnp.asarray(model)).denoiser(process)
    own, q = transition(name, 0.0, t)[:V], enumeration.rates(name) / (1 - t)
    for x in range(process.states):
        if own[data, x] == 0:
            continue
        rates = np.where(np.arange(process.states) != x, q[:, x] * own[data] / own[data, x], 0.0)
        with np.errstate(divide="ignore"):
            h = jnp.log(jnp.asarray(model @ own)) - jnp.log(jnp.asarray(own[data]))
        # Where the bridge has no chance the model's jumps cost their rate, the limit of R e^dh.
        never = (own[data] == 0) & (q[:, x] > 0)
        more = (q[:, x] * (model @ own))[never].sum() / (model @ own)[x]
        h = jnp.where(jnp.isfinite(h), h, 0.0)
        got = path_cost(jump_generator(jnp.asarray(rates)), lambda y, h=h: h[y], jnp.asarray(x)) + more
        wanted = jumps.score_entropy(denoise, jnp.asarray([[data]]), jnp.asarray([[x]]), t)[0]
        np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_of_noise_it_is_denoising_score_matching(float64):
    """Weighted for the likelihood: half the fall of log-SNR times the squared error of the noise."""
    schedule, t = jd.VariancePreserving(), jnp.asarray(0.3)
    model = jd.GaussianMixture(
        jnp.array([0.3, 0.7]), jnp.array([[-1.0, 0.0], [1.0, 0.5]]), jnp.array([0.1, 0.2])
    )
    data, noise = jnp.asarray([[0.2, -0.4]]), jnp.asarray([[0.9, 0.3]])
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x = alpha * data + sigma * noise
    at_t = model.perturbed(schedule, t)

    def h(y):
        return at_t.log_prob(y[None])[0] + ((y - alpha * data[0]) ** 2).sum() / (2 * sigma**2)

    drift = jnp.asarray([5.0, -3.0])  # whatever it is
    got = path_cost(noise_generator(drift, jd.sde(schedule, t)[1]), h, x[0])
    error = ((model.denoiser(schedule)(x, t).noise - noise) ** 2).sum()
    np.testing.assert_allclose(got, -0.5 * jax.grad(lambda t: jd.log_snr(schedule, t))(t) * error, rtol=1e-11)


def test_of_shares_it_is_the_squared_slope_in_their_own_metric(float64):
    x, direction = jnp.asarray([0.2, 0.5, 0.3]), jnp.asarray([1.0, -2.0, 0.5])
    got = path_cost(simplex_generator, lambda y: jnp.sin(direction @ y), x)
    slope = np.cos(direction @ x) * np.asarray(direction)
    wanted = 0.5 * slope @ (np.diag(x) - np.outer(x, x)) @ slope
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
