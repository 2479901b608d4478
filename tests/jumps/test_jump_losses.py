"""Objectives against sums over all sequences and integrals over all times: with exact conditionals, log p."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from enumeration import NAMES, V, joint, law, posterior, sequences, transition
from oracles import few_of

import jaxdiff as jd
from jaxdiff import jumps


def exact(process, p, length):
    return jumps.Enumerated(jnp.asarray(p).reshape((V,) * length)).denoiser(process)


def integrals(name, p, length, t, weights):
    """The integral of E D over nodes t, for each sequence of the data, by all sequences of x_t."""
    process = enumeration.process(name)
    denoise = exact(process, p, length)
    data, x = sequences(V, length), sequences(process.states, length)
    pairs = [np.repeat(data, len(x), axis=0), np.tile(x, (len(data), 1))]
    cost = jax.jit(lambda data, x, t: jumps.score_entropy(denoise, data, x, t))
    total = np.zeros(len(data))
    for node, weight in zip(t, weights, strict=True):
        chances = joint(transition(name, 0.0, node)[:V], length)
        some = chances.reshape(-1) > 0
        # Of others nothing is asked, and where the data could not have become x there is nothing to say.
        costs = np.where(some, cost(*map(jnp.asarray, pairs), node), 0.0).reshape(chances.shape)
        total += weight * (chances * costs).sum(1)
    return total


def test_with_exact_conditionals_the_masked_bound_is_log_p(float64):
    """On each of 3^4 sequences: the integrand is a polynomial in t of degree 3, of which 2 nodes know all."""
    nodes, weights = np.polynomial.legendre.leggauss(2)
    p = law()
    got = integrals("masking", p, 4, (nodes + 1) / 2, weights / 2)
    np.testing.assert_allclose(got, -np.log(p), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["uniform", "ring"])
def test_with_exact_conditionals_the_bound_of_other_jumps_is_log_p(name, float64):
    """By the double exponential rule, which sees the logarithm at the clean end and the powers at the other."""
    y = np.linspace(-3.6, 3.6, 121)
    t = 1 / (1 + np.exp(-np.pi * np.sinh(y)))
    weights = (y[1] - y[0]) * np.pi * np.cosh(y) * t / (1 + np.exp(np.pi * np.sinh(y)))
    inside = (t > 1e-20) & (t < 1 - 1e-14)
    p = law(1, length=2)
    got = integrals(name, p, 2, t[inside], weights[inside])
    np.testing.assert_allclose(got, -np.log(p), rtol=0, atol=1e-12)


def wrong(process, length=2):
    """A denoiser of another law."""
    return exact(process, law(5, length=length), length)


@pytest.mark.parametrize("name", few_of(NAMES, ("masking",)))
def test_estimates_of_the_bound_are_right_and_know_their_error(name):
    """Of exact conditionals log p; of wrong ones less, and the loss has the same mean."""
    process, p = enumeration.process(name), law(1, length=2)
    rows = 400
    data = jnp.tile(jnp.asarray(sequences(V, 2)), (rows, 1))
    got = jumps.log_bound(jax.random.key(0), exact(process, p, 2), data, num_times=8)
    off = (got.value - np.tile(np.log(p), rows)) / got.standard_error.mean()
    assert abs(off.mean()) < 4 / np.sqrt(len(data))
    spread = np.sqrt(np.mean((got.value - np.tile(np.log(p), rows)) ** 2))
    np.testing.assert_allclose(np.sqrt(np.mean(got.standard_error**2)), spread, rtol=0.15)
    loss = jumps.denoising_loss(jax.random.key(1), exact(process, p, 2), data)
    assert abs(loss.mean() + np.log(p).mean()) < 4 * loss.std() / np.sqrt(len(data))
    worse = jumps.log_bound(jax.random.key(0), wrong(process), data, num_times=8)
    assert (worse.value * np.tile(p, rows)).sum() / rows < (p * np.log(p)).sum() - 0.05


@pytest.mark.slow
def test_a_bound_from_t_min_to_t_max_counts_both_ends():
    """For tokens without a law every part is known: the bound is -log V less what is not forgotten."""
    process = jumps.Uniform(V, jumps.Exponential())
    denoise = jumps.make_denoiser(
        lambda params, x, level: jnp.zeros((*x.shape, V)), None, process, shape=(2,), t_min=0.1, t_max=1.0
    )
    got = jumps.log_bound(jax.random.key(0), denoise, jnp.zeros((4000, 2), int), num_times=2).value
    # Nothing is to be learnt, so the path's costs are those of the law of x_t given the data, seen by a token.
    np.testing.assert_allclose(got.mean(), -2 * np.log(V), atol=4 * got.std() / np.sqrt(4000))


def test_the_masked_cost_is_a_weighted_cross_entropy():
    """1 / t under the linear schedule."""
    process = jumps.Masking(V)
    denoise = wrong(process, 3)
    data = jnp.asarray([[0, 1, 2], [2, 2, 0]])
    x = jnp.asarray([[V, 1, V], [V, V, V]])
    t = jnp.asarray([0.3, 0.8])
    np.testing.assert_allclose(
        jumps.score_entropy(denoise, data, x, t), jumps.cross_entropy(denoise, data, x, t) / t, rtol=1e-5
    )


def test_cross_entropy_takes_tokens_or_their_chances():
    process = jumps.Masking(V)
    denoise, x = wrong(process), jnp.asarray([[V, 1], [V, V]])
    data = jnp.asarray([[0, 1], [2, 1]])
    log_probs = np.asarray(denoise(x, 0.5))
    wanted = [-log_probs[0, 0, 0], -log_probs[1, 0, 2] - log_probs[1, 1, 1]]
    np.testing.assert_allclose(jumps.cross_entropy(denoise, data, x, 0.5), wanted, rtol=1e-6)
    soft = jax.nn.one_hot(data, V).at[1, 0].set(jnp.asarray([0.25, 0.25, 0.5]))
    wanted[1] = -(log_probs[1, 0] @ [0.25, 0.25, 0.5]) - log_probs[1, 1, 1]
    np.testing.assert_allclose(jumps.cross_entropy(denoise, soft, x, 0.5), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", few_of(["uniform", "ring"], ("uniform",)))
def test_ratio_matching_is_the_law_of_each_token_given_the_others(name, float64):
    p, t = law(1, length=2), 0.3
    x = sequences(V, 2)
    got = jumps.ratio_matching(exact(enumeration.process(name), p, 2), jnp.asarray(x), t)
    q = (p @ joint(transition(name, 0.0, t), 2)).reshape(V, V)
    wanted = -np.log(q / q.sum(0)) - np.log(q / q.sum(1, keepdims=True))
    np.testing.assert_allclose(got, wanted.reshape(-1), atol=1e-12)


@pytest.mark.parametrize("name", few_of(["masking", "uniform"], ("uniform",)))
def test_a_teacher_at_an_earlier_time_keeps_the_mean_and_takes_variance(name):
    """Against the squared errors by enumeration, of the one-hot target and of the teacher's."""
    process, p, s, t, n = enumeration.process(name), law(1, length=2), 0.2, 0.6, 20_000
    teacher = exact(process, p, 2)
    data = jumps.Enumerated(jnp.asarray(p, jnp.float32).reshape(V, V)).sample(jax.random.key(3), n)
    late, later = posterior(name, p, t, 2), posterior(name, p, s, 2)
    squares = [np.nansum(total * (chances**2).sum((1, 2)).T) for total, chances in (late, later)]
    place = process.states ** np.arange(2)[::-1]
    errors = []
    for mix in (0.0, 1.0):
        x, target = jumps.bootstrapped_target(jax.random.key(0), teacher, data, s, t, mix=mix)
        off = np.asarray(target) - late[1][np.asarray(x) @ place]
        for row in range(process.states**2):
            own = off[np.asarray(x) @ place == row]
            if len(own) > 100:
                known = late[1][row]
                error = np.sqrt(known * (1 - known) / len(own)) + 2 / len(own)
                assert (np.abs(own.mean(0)) < 5 * error).all()
        squared = (off**2).sum((1, 2))
        errors.append((squared.mean(), 4 * squared.std() / np.sqrt(n)))
    np.testing.assert_allclose(errors[0][0], 2 - squares[0], atol=errors[0][1])
    np.testing.assert_allclose(errors[1][0], squares[1] - squares[0], atol=errors[1][1])
    assert errors[1][0] < 0.9 * errors[0][0]


def test_times_are_uniform_in_the_share_that_has_jumped(float64):
    u = jnp.linspace(0.01, 0.99, 9)
    t, weight = jumps.share_uniform(u, jumps.Cosine(), t_min=0.1, t_max=0.8)
    low, high = np.sin(np.pi / 2 * np.asarray([0.1, 0.8]))
    np.testing.assert_allclose(np.sin(np.pi / 2 * t), low + (high - low) * u, atol=1e-12)
    np.testing.assert_allclose(weight, (high - low) / (np.pi / 2 * np.cos(np.pi / 2 * t)), rtol=1e-10)
    times = jumps.grid(jumps.Exponential(), 4)
    np.testing.assert_allclose(1 - np.exp(-times), np.linspace(1 - np.exp(-12), 0, 5), atol=1e-12)


@pytest.mark.parametrize("name", few_of(["masking", "uniform"], ("masking",)))
def test_the_trainer_learns_a_law_by_it(name):
    """Two independent tokens, whose logits are the parameters."""
    chances = np.asarray([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]])
    rng = np.random.default_rng(0)
    data = jnp.asarray(np.stack([rng.choice(V, 4000, p=row) for row in chances], axis=1))
    process = enumeration.process(name)

    def predict(params, x, level):
        return jnp.broadcast_to(params, (*x.shape, V))

    def loss(params, key, batch):
        return jumps.denoising_loss(
            key, jumps.make_denoiser(predict, params, process, shape=(2,)), batch
        ).mean()

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))
    state = jd.init_state(jnp.zeros((2, V)), optimizer, ema_decay=None)
    step = jd.make_train_step(loss, optimizer, ema_decay=None)
    state = jd.train(jax.random.key(0), state, step, lambda key: jd.data.batch(key, data, 256), num_steps=300)
    frequencies = np.stack([np.bincount(column, minlength=V) for column in np.asarray(data).T]) / len(data)
    np.testing.assert_allclose(jax.nn.softmax(state.params), frequencies, atol=0.03)
