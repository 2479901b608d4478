"""Samplers' laws by exact propagation through the matrix of each step, and by draws where a step has none."""

import itertools

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import V, joint, law, sequences, transition
from scipy.linalg import solve

from jaxdiff import jumps

LENGTH = 2
P = law(2, length=LENGTH)


def exact(process, p=P):
    return jumps.Enumerated(jnp.asarray(p).reshape((V,) * LENGTH)).denoiser(process)


def matrix(chances, x):
    """A step of independent tokens as a matrix over all sequences, from those of each, (S^L, L, S)."""
    chances = np.asarray(chances, np.float64)
    assert np.abs(chances.sum(-1) - 1).max() < 1e-10
    assert chances.min() > -1e-12
    return np.prod([chances[:, i][:, x[:, i]] for i in range(x.shape[1])], axis=0)


def left_over(name, sampler, steps):
    """The total variation that a sampler leaves on the default grid, by its matrices."""
    process = enumeration.process(name)
    denoise, x = exact(process), sequences(process.states, LENGTH)
    times = jumps.grid(process.schedule, steps)
    start = np.full(V**LENGTH, V**-LENGTH) @ joint(transition(name, 0.0, 1.0)[:V], LENGTH)
    state = start
    parts = CHANCES[sampler]
    for number, (t, s) in enumerate(itertools.pairwise(times)):
        for part in parts if number < steps - 1 else CHANCES["ancestral"]:
            # No one asks about sequences that cannot be.
            chances = np.where(
                state[:, None, None] > 1e-13, part(denoise, jnp.asarray(x), t, s), 1 / process.states
            )
            state = state @ matrix(chances, x)
    clean = state[(x < V).all(1)]
    assert abs(clean.sum() - 1) < 1e-10
    return 0.5 * np.abs(clean - P).sum()


SAMPLERS = {
    "ancestral": jumps.Ancestral(),
    "euler": jumps.Euler(),
    "tau": jumps.TauLeaping(),
}
CHANCES = {name: [jax.jit(s.chances)] for name, s in SAMPLERS.items()}
CHANCES["corrected"] = CHANCES["ancestral"] + 4 * [jax.jit(jumps.Corrected(num_steps=4).correction)]
CHANCES["remasking"] = [
    jax.jit(lambda denoise, x, t, s: jumps.Remasking(4 * (t - s)).chances(denoise, x, t, s))
]


@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        *itertools.product(CHANCES, ["masking"]),
        ("ancestral", "uniform"),
        *(
            pytest.param(name, "ring", marks=pytest.mark.slow)
            for name in ("ancestral", "euler", "tau", "corrected")
        ),
    ],
)
def test_total_variation_falls_as_one_over_steps(sampler, name, float64):
    coarse, fine, finest = (left_over(name, sampler, n) for n in (16, 32, 64))
    assert finest < 0.03
    assert 1.7 < fine / finest < 2.4
    assert 1.5 < coarse / fine < 2.6


def test_corrections_mend_what_steps_leave(float64):
    for name in ("masking", "uniform"):
        assert left_over(name, "corrected", 16) < 0.78 * left_over(name, "ancestral", 16)


def test_corrections_leave_the_law_at_their_time(float64):
    """To second order in their length, since tokens move on their own."""
    process, s, t = enumeration.process("uniform"), jnp.asarray(0.4), jnp.asarray(0.5)
    x = sequences(V, LENGTH)
    at_s = P @ joint(transition("uniform", 0.0, s), LENGTH)
    off = []
    for size in (0.4, 0.2, 0.1):
        chances = jumps.Corrected(num_steps=1, size=size).correction(exact(process), jnp.asarray(x), t, s)
        off.append(np.abs(at_s @ matrix(chances, x) - at_s).sum())
    assert off[0] < 0.01
    np.testing.assert_allclose([off[0] / off[1], off[1] / off[2]], 4, atol=0.4)


@pytest.mark.slow
def test_the_sampler_corrects_as_often_as_it_says():
    """Against the law of its matrices: 3 predictions, 2 of them corrected."""
    process = enumeration.process("masking")
    x = jumps.sample(
        jax.random.key(0), exact(process), 20_000, sampler=jumps.Corrected(num_steps=4), num_steps=3
    )
    with jax.enable_x64(True):
        wanted = left_over("masking", "corrected", 3), left_over("masking", "ancestral", 3)
    got = 0.5 * np.abs(frequencies(x) - P).sum()
    np.testing.assert_allclose(got, wanted[0], atol=0.012)
    assert wanted[1] > wanted[0] + 0.025


def test_remasking_keeps_the_law_of_each_token(float64):
    """Of one token everything is exact: its marginal at s, for every eta."""
    process = jumps.Masking(V)
    p = law(4, length=1)
    denoise = jumps.Enumerated(jnp.asarray(p)).denoiser(process)
    x, s, t = sequences(V + 1, 1), 0.3, 0.6
    at = {u: p @ transition("masking", 0.0, u)[:V] for u in (s, t)}
    for eta in (0.0, 0.5, 1.0):
        chances = jumps.Remasking(eta).chances(denoise, jnp.asarray(x), jnp.asarray(t), jnp.asarray(s))
        np.testing.assert_allclose(at[t] @ matrix(chances, x), at[s], atol=1e-13)
        assert (chances[0, 0, V] > 0) == (eta > 0)


def test_the_analytic_step_of_ratios_is_the_ancestral_one(float64):
    """Tweedie's: the ratios taken back through P_st by its inverse, times the chance of the step."""
    process, s, t = enumeration.process("ring"), jnp.asarray(0.3), jnp.asarray(0.5)
    x = jnp.asarray(sequences(V, LENGTH))
    denoise = exact(process)
    r = np.asarray(jumps.ratios(process, denoise(x, t), x, t))
    p = transition("ring", s, t)
    wanted = solve(p.T, r.reshape(-1, V).T).T.reshape(r.shape) * p.T[np.asarray(x)]
    np.testing.assert_allclose(jumps.Ancestral().chances(denoise, x, t, s), wanted, atol=1e-12)


def frequencies(x, n=V):
    places = n ** np.arange(x.shape[1])[::-1]
    return np.bincount(np.asarray(x) @ places, minlength=n ** x.shape[1]) / len(x)


def chi_squared(x, p):
    return len(x) * ((frequencies(x) - p) ** 2 / p).sum()


MOST = 8 + 4 * 4
"""Of a chi squared of 8 degrees of freedom: four standard deviations above its mean."""


def test_first_hitting_has_the_exact_law():
    n = 20_000
    denoise = exact(jumps.Masking(V, jumps.Cosine()))
    x = jumps.first_hitting(jax.random.key(0), denoise, n)
    assert chi_squared(x, P) < MOST
    np.testing.assert_array_equal(jumps.first_hitting(jax.random.key(0), denoise, 3), x[:3])


def test_a_random_order_one_by_one_has_the_exact_law_and_any_number_at_once_has_not():
    denoise = exact(jumps.Masking(V))
    draw = lambda order, steps: jumps.sample(  # noqa: E731
        jax.random.key(0), denoise, 20_000, sampler=jumps.Confident(order), num_steps=steps
    )
    # The last step is ancestral, and shows the last token.
    assert chi_squared(draw("random", 2), P) < MOST
    assert chi_squared(draw("random", 1), P) > 10 * MOST


def test_samples_have_the_law_of_the_steps_matrices():
    """The driver, with its start and its last step: 4 steps, whose law is known to be wrong by much."""
    process = enumeration.process("uniform")
    x = jumps.sample(jax.random.key(0), exact(process), 20_000, num_steps=4)
    wrong = 0.5 * np.abs(frequencies(x) - P).sum()
    with jax.enable_x64(True):
        wanted = left_over("uniform", "ancestral", 4)
    np.testing.assert_allclose(wrong, wanted, atol=0.012)
    np.testing.assert_array_equal(jumps.sample(jax.random.key(0), exact(process), 3, num_steps=4), x[:3])


def table(*rows):
    """A denoiser of masked tokens whose others are the rows, whatever x is."""
    predict = lambda params, x, level: jnp.broadcast_to(jnp.log(params), (*x.shape, V))  # noqa: E731
    return jumps.make_denoiser(predict, jnp.asarray(rows), jumps.Masking(V), shape=(len(rows),))


@pytest.mark.parametrize(("order", "first"), [("probability", 1), ("margin", 2), ("entropy", 0)])
def test_the_most_confident_token_is_shown_first(order, first):
    """Each row is best by one of the three; every token of a row that is drawn by chance is as likely."""
    rows = {"probability": [1.0, 0.0, 0.0], "margin": [0.7, 0.15, 0.15], "entropy": [0.5, 0.5, 0.0]}
    probs = [[1 / 3] * 3] * 3
    probs[first] = rows[order]
    x = jnp.full((50, 3), V)
    got = jumps.Confident(order).step(
        jax.random.key(0), table(*probs), x, jnp.asarray(1.0), jnp.asarray(2 / 3)
    )
    assert ((np.asarray(got) != V) == (np.arange(3)[None] == first)).all()


def test_margins_and_entropies_are_of_different_tokens():
    """.5, .5, 0 is of less entropy than .6, .2, .2, and of no margin."""
    denoise, x = table([0.5, 0.5, 0.0], [0.6, 0.2, 0.2]), jnp.full((50, 2), V)
    for order, first in (("entropy", 0), ("margin", 1)):
        got = jumps.Confident(order).step(jax.random.key(0), denoise, x, jnp.asarray(1.0), jnp.asarray(0.5))
        assert ((np.asarray(got) != V) == (np.arange(2)[None] == first)).all()


def test_what_is_seen_stays_and_is_heard():
    """A prompt under masking: the other token has its law given the first."""
    prompt = jnp.tile(jnp.asarray([[2, V]]), (20_000, 1))
    x = jumps.integrate(jax.random.key(0), exact(jumps.Masking(V)), prompt, jnp.asarray([0.5, 0.25, 0.0]))
    assert (x[:, 0] == 2).all()
    wanted = P.reshape(V, V)[2] / P.reshape(V, V)[2].sum()
    np.testing.assert_allclose(frequencies(x[:, 1:]), wanted, atol=4 * 0.5 / np.sqrt(20_000))


def test_hits_come_at_their_times_in_any_order():
    """Two tokens, the second of which a denoiser tells apart by when it is shown and whether it is the first.

    The largest of two uniform shares is above t with chance 1 - t^2; which token has it is tossed.
    """

    def predict(params, x, level):
        late = (level > 0.5)[:, None] & (x == V).all(1, keepdims=True)
        told = jnp.where(late, 0, jnp.where((x == V).all(1, keepdims=True), 1, 2))
        return jnp.log(jax.nn.one_hot(jnp.broadcast_to(told, x.shape), V))

    n = 20_000
    denoise = jumps.make_denoiser(predict, None, jumps.Masking(V), shape=(2,))
    x = np.asarray(jumps.first_hitting(jax.random.key(0), denoise, n))
    first = x.min(1)
    assert ((x == 2).sum(1) == 1).all()
    assert abs((first == 0).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / n)
    assert abs((x[:, 0] == 2).mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
