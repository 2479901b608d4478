"""Jump processes against matrix exponentials over all sequences of a few tokens."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import ALPHA, BIRTH_DEATH, NAMES, V, joint, law, posterior, rates, sequences, transition
from scipy.stats import binom

from jaxdiff import jumps

SCHEDULES = {"Linear": jumps.Linear(), "Cosine": jumps.Cosine(), "Exponential": jumps.Exponential()}
S, T = 0.3, 0.7


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_chances_to_stay_and_their_rest(name, float64):
    schedule, alpha = SCHEDULES[name], ALPHA[name]
    t = np.linspace(0.0, min(schedule.t_max, 9.0), 11)
    np.testing.assert_allclose([schedule.alpha(u) for u in t], alpha(t), atol=1e-15)
    np.testing.assert_allclose([schedule.sigma(u) for u in t], 1 - alpha(t), atol=1e-15)
    assert np.isnan(schedule.alpha(-0.1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_vanishes_keeps_its_digits_in_single_precision(name):
    schedule = SCHEDULES[name]
    t = np.float32(1e-6)
    slope = np.pi / 2 if name == "Cosine" else 1.0
    np.testing.assert_allclose(schedule.sigma(t), slope * np.float64(t), rtol=1e-5)
    if name != "Exponential":
        late = np.float32(1 - 2.0**-20)
        left = 2.0**-20
        wanted = 2 * np.sin(np.pi * left / 4) ** 2 if name == "Cosine" else left
        np.testing.assert_allclose(schedule.alpha(late), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [*((name, "Linear") for name in NAMES), ("uniform", "Cosine"), ("ring", "Exponential")],
)
def test_laws_and_values_go_through_the_matrix_exponential(name, schedule, float64):
    process, alpha = enumeration.process(name, SCHEDULES[schedule]), ALPHA[schedule]
    eye = jnp.eye(process.states)
    for s, t in ((0.0, 0.2), (S, T), (0.1, 1.0)):
        wanted = transition(name, s, t, alpha)
        np.testing.assert_allclose(process.push(eye, s, t), wanted, atol=1e-13)
        np.testing.assert_allclose(process.pull(eye, s, t), wanted.T, atol=1e-13)
    np.testing.assert_allclose(process.leaving(jnp.arange(process.states)), rates(name), atol=1e-15)
    np.testing.assert_allclose(process.entering(jnp.arange(process.states)), rates(name).T, atol=1e-15)
    np.testing.assert_allclose(process.final_law() @ rates(name), 0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_the_bridge_is_bayes(name, float64):
    process = enumeration.process(name)
    before, after, whole = transition(name, 0.0, S), transition(name, S, T), transition(name, 0.0, T)
    for data in range(V):
        for x in range(process.states):
            got = jumps.bridge(process, jnp.asarray([data]), jnp.asarray([x]), S, T)[0]
            if whole[data, x] == 0:
                assert np.isnan(got).all()
                continue
            np.testing.assert_allclose(got, before[data] * after[:, x] / whole[data, x], atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_reverse_steps_ratios_and_rates_are_those_of_all_sequences(name, float64):
    """From marginal chances of the data alone: every ratio of p_t, and the reverse chain's rates."""
    process, p = enumeration.process(name), law()
    n, length = process.states, 4
    x = sequences(n)
    total, chances = posterior(name, p, T)
    possible = total > 0
    x, chances = x[possible], chances[possible]
    with np.errstate(divide="ignore"):
        log_probs = jnp.log(jnp.asarray(chances))
    ratios = np.asarray(jumps.ratios(process, log_probs, jnp.asarray(x), T))
    reverse = np.asarray(jumps.reverse_rates(process, log_probs, jnp.asarray(x), T))
    step = np.asarray(jumps.reverse_step(process, log_probs, jnp.asarray(x), S, T))
    np.testing.assert_allclose(step.sum(-1), 1, atol=1e-12)
    q, places = rates(name) / (1 - T), n ** np.arange(length)[::-1]  # -alpha'/alpha = 1 / (1 - t)
    for i in range(length):
        for k in range(n):
            moved = x.copy()
            moved[:, i] = k
            wanted = total[moved @ places] / total[possible]
            away = x[:, i] != k
            led = (q[k, x[:, i]] > 0) | ~away  # a data token's ratios say nothing of others under masking
            np.testing.assert_allclose(ratios[led, i, k], wanted[led], rtol=1e-11)
            np.testing.assert_allclose(reverse[away, i, k], (wanted * q[k, x[:, i]])[away], atol=1e-12)
    np.testing.assert_allclose(reverse.sum(-1), 0, atol=1e-12)
    # The step, by the joint law of x_s and x_t over all sequences.
    at_s = p @ joint(transition(name, 0.0, S)[:V])
    together = at_s[:, None] * joint(transition(name, S, T))
    for i in range(length):
        for k in range(n):
            wanted = together[sequences(n)[:, i] == k].sum(0)[possible] / total[possible]
            np.testing.assert_allclose(step[:, i, k], wanted, atol=1e-12)


def test_birth_and_death_lead_to_the_next_level():
    np.testing.assert_allclose(jumps.birth_death(*BIRTH_DEATH), rates("birth_death"), atol=1e-6)


def coins(levels, alpha):
    """Ehrenfest's urns: the sum of binomials of the coins that were heads and of the others."""
    n, kept = levels - 1, (1 + alpha) / 2
    pmf = lambda n, p: binom.pmf(np.arange(n + 1), n, p)  # noqa: E731
    return np.stack([np.convolve(pmf(k, kept), pmf(n - k, 1 - kept)) for k in range(levels)])


def test_ordinal_levels_are_coins_tossed_again(float64):
    process = jumps.Rates(jumps.ordinal(6))
    np.testing.assert_allclose(process.transition(0.0, 0.4), coins(6, 0.6), atol=1e-14)
    np.testing.assert_allclose(process.final_law(), binom.pmf(np.arange(6), 5, 0.5), atol=1e-14)
    np.testing.assert_allclose(process.transition(0.0, 1.0), np.tile(process.final_law(), (6, 1)), atol=1e-13)


def test_small_chances_keep_their_digits_in_single_precision():
    """Of far jumps in little time, where a difference of exponentials would have none: 1e-23 here."""
    process = jumps.Rates(jumps.ordinal(8), jumps.Exponential())
    np.testing.assert_allclose(process.transition(0.0, 1e-3), coins(8, np.exp(-1e-3)), rtol=2e-6)
    np.testing.assert_allclose(process.transition(0.0, 3.0), coins(8, np.exp(-3.0)), rtol=1e-5)


def test_noised_data_have_their_law_and_rows_their_own_draws():
    process, t = jumps.Uniform(V), jnp.full(60_000, 0.6)
    data = jnp.tile(jnp.asarray([[0, 2]]), (60_000, 1))
    x = jumps.perturb(jax.random.key(0), process, data, t)
    for i, token in enumerate((0, 2)):
        got = np.bincount(x[:, i], minlength=V) / len(x)
        wanted = transition("uniform", 0.0, 0.6)[token]
        assert (np.abs(got - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / len(x))).all()
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 4 / np.sqrt(len(x))
    few = jumps.perturb(jax.random.key(0), process, data[:5], 0.6)
    np.testing.assert_array_equal(few, x[:5])
    masked = jumps.perturb(jax.random.key(1), jumps.Masking(V), data, 0.25)
    kept = masked != V
    np.testing.assert_array_equal(np.where(kept, masked, 0), np.where(kept, data, 0))
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / kept.size)


def test_draws_keep_their_entropy_in_single_precision():
    """A million draws of 40 tokens of very unequal chances, and none of a token without a chance."""
    weights = np.exp(-np.linspace(0, 16, 40))
    weights[[0, 7, 39]] = 0
    p = weights / weights.sum()
    row = jnp.asarray(weights, jnp.float32)[None, None]
    draw = jax.jit(lambda key: jumps.categorical(key, jnp.tile(row, (100, 1000, 1))))
    x = np.concatenate([draw(jax.random.key(seed)).reshape(-1) for seed in range(10)])
    assert p[x].min() > 0
    surprise = -np.log(p[x])
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    assert abs(surprise.mean() - entropy) < 3 * surprise.std() / np.sqrt(len(x))


def test_a_share_of_all_is_the_last_token_that_has_a_chance():
    from jaxdiff.jumps.draws import looked_up

    probs = jnp.asarray([[0.0, 0.3, 0.0, 0.7, 0.0]] * 3)
    u = jnp.asarray([0.0, 0.3, np.nextafter(np.float32(1), np.float32(0))])
    np.testing.assert_array_equal(looked_up(u, probs), [1, 3, 3])
